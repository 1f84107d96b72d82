"""Loopback: addresses of this machine itself, which are never asked through a proxy."""

from __future__ import annotations

import ipaddress
import os
import socket
import urllib.parse
import urllib.request


def is_loopback(host: str) -> bool:
    """Whether *host* is this machine, such as ``localhost``, ``127.0.0.0/8`` or ``::1``.

    Names below ``localhost`` are too (RFC 6761, 6.3). So are ``0.0.0.0`` and ``::``: a connection
    to them goes to this machine. No name is looked up.
    """
    name = host.strip("[]").rstrip(".").lower()
    if name == "localhost" or name.endswith(".localhost"):
        return True
    try:
        address = ipaddress.ip_address(name.partition("%")[0])
    except ValueError:
        return _is_short_loopback(name)
    mapped = getattr(address, "ipv4_mapped", None)
    return (mapped or address).is_loopback or address.is_unspecified


def is_loopback_url(url: str) -> bool:
    """Whether the host of *url* is this machine."""
    try:
        return is_loopback(urllib.parse.urlsplit(url).hostname or "")
    except ValueError:
        return False


def bypass_proxies(url: str) -> None:
    """Add the host of *url* to ``no_proxy`` in the environment, if it is this machine.

    This is for libraries that have no setting of their own.
    """
    host = urllib.parse.urlsplit(url).hostname or ""
    if is_loopback_url(url) and urllib.request.getproxies_environment():
        known = os.environ.get("no_proxy") or os.environ.get("NO_PROXY") or ""
        if host not in known.split(","):
            os.environ["no_proxy"] = f"{known},{host}" if known else host


def _is_short_loopback(name: str) -> bool:
    """Whether *name* is a loopback address in the short form of the C library: ``127.1``."""
    try:
        return name[:1].isdigit() and socket.inet_aton(name)[0] == 127
    except OSError:
        return False
