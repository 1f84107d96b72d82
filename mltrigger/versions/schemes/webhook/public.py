"""Public addresses: the only ones that a webhook goes to, unless the owner allows another by name.

A partner's address must not make this machine ask its own network: a database, a router, the
metadata service of a cloud. So the name is resolved here, every address is checked, and the
connection goes to a checked one. An answer of the name server that changes later changes nothing.
"""

from __future__ import annotations

import ipaddress
import socket
import time
from collections.abc import Callable, Sequence
from typing import Any

from mltrigger.text import short
from mltrigger.versions.schemes.failures import unavailable

Resolve = Callable[..., Sequence[tuple[Any, ...]]]
"""As ``socket.getaddrinfo``."""
_GLOBAL_UNICAST = ipaddress.IPv6Network("2000::/3")
_NAT64 = ipaddress.IPv6Network("64:ff9b::/96")
"""An address of IPv4 in its last 32 bits, for networks without IPv4 (RFC 6052)."""
_REFUSED: tuple[ipaddress.IPv4Network | ipaddress.IPv6Network, ...] = (
    ipaddress.IPv4Network("0.0.0.0/8"),
    ipaddress.IPv4Network("100.64.0.0/10"),  # shared by customers of a provider (RFC 6598)
    ipaddress.IPv4Network("192.0.0.0/24"),  # protocol assignments (RFC 6890)
    ipaddress.IPv4Network("192.88.99.0/24"),  # 6to4 relays, deprecated (RFC 7526)
    ipaddress.IPv4Network("168.63.129.16/32"),  # the host of a virtual machine on Azure
    ipaddress.IPv6Network("2001::/23"),  # protocol assignments, Teredo among them (RFC 2928)
    ipaddress.IPv6Network("2001:db8::/32"),
    ipaddress.IPv6Network("2002::/16"),  # 6to4 leads to any address of IPv4 (RFC 3056)
    ipaddress.IPv6Network("3fff::/20"),  # documentation (RFC 9637)
)
"""Beside those that the standard library knows. It learned some of them in later releases."""


def is_public(text: str) -> bool:
    """Whether the IP address *text* belongs to the public internet, for one receiver.

    Addresses of IPv6 that hold one of IPv4 are judged by that one.
    """
    try:
        address = ipaddress.ip_address(text)
    except ValueError:
        return False  # with a zone, such as fe80::1%eth0, or no address at all
    if isinstance(address, ipaddress.IPv6Address):
        if address.scope_id is not None:
            return False
        inner = address.ipv4_mapped
        if address in _NAT64:
            inner = ipaddress.IPv4Address(int(address) & 0xFFFFFFFF)
        if inner is not None:
            return is_public(str(inner))
        if address not in _GLOBAL_UNICAST:
            return False
    return (
        address.is_global
        and not (address.is_multicast or address.is_reserved or address.is_unspecified)
        and not (address.is_private or address.is_loopback or address.is_link_local)
        and not any(address in network for network in _REFUSED)
    )


class Dial:
    """Connects to a host by name, without a proxy, to a public address only.

    Parameters
    ----------
    allowed : bool
        Whether the owner allows this host by name. Then its address may be any.
    resolve : callable
        Resolves names, as ``socket.getaddrinfo``.
    """

    def __init__(self, allowed: bool, resolve: Resolve = socket.getaddrinfo) -> None:
        self._allowed, self._resolve = allowed, resolve

    def __call__(self, host: str, port: int, timeout_s: float | None) -> socket.socket:
        """Return a connection to *host*.

        Raises
        ------
        ModelFailure
            When one of its addresses is not public. No attempt is spent: names are repaired, and
            another event would go there as well.
        OSError
            When the name is unknown, or no address answers within *timeout_s* seconds.
        """
        due = None if timeout_s is None else time.monotonic() + timeout_s
        found = list(dict.fromkeys(self._resolve(host, port, 0, socket.SOCK_STREAM)))
        places = [(family, protocol, place) for family, _, protocol, _, place in found]
        self._check(host, port, [str(place[0]) for *_, place in places])
        failed: OSError = OSError(f"no address for {short(host)}")
        for n, (family, protocol, place) in enumerate(places):
            left_s = None if due is None else (due - time.monotonic()) / (len(places) - n)
            if left_s is not None and left_s <= 0:
                raise TimeoutError("the time to connect has passed")
            try:
                return _connected(family, protocol, place, left_s)
            except OSError as error:
                failed = error
        raise failed

    def _check(self, host: str, port: int, addresses: Sequence[str]) -> None:
        refused = [address for address in addresses if not is_public(address)]
        if refused and not self._allowed:
            raise unavailable(
                f"{short(host)} is at {short(refused[0])}, which is no public address, and a"
                f" webhook goes to no other: if that is meant, register it with"
                f" allow=['{short(host)}:{port}']",
                "AddressRefused",
            )


def _connected(
    family: int, protocol: int, place: tuple[Any, ...], timeout_s: float | None
) -> socket.socket:
    connection = socket.socket(family, socket.SOCK_STREAM, protocol)
    try:
        connection.settimeout(timeout_s)
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        connection.connect(place)
    except BaseException:
        connection.close()
        raise
    return connection
