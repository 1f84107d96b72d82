"""The place of a broker: from a URL to hosts, path and options. No secret is in it."""

from __future__ import annotations

import os
import re
import urllib.parse
from collections.abc import Collection, Iterator
from typing import NamedTuple

from mltrigger.errors import InvalidName, NotFound
from mltrigger.text import short


class Kind(NamedTuple):
    """The terms of one broker.

    ``port`` and ``tls_port`` are the usual ones. ``thing`` is the word for the path. ``group`` is
    the option with the name under which the broker remembers a reader, empty if there is none.
    """

    port: int
    tls_port: int
    thing: str
    example: str
    group: str
    reading: frozenset[str]
    sending: frozenset[str]


KINDS = {
    "kafka": Kind(
        *(9092, 9093, "topic", "kafka://broker:9092/orders?group=ml", "group"),
        *(frozenset({"group", "sasl"}), frozenset({"sasl"})),
    ),
    "rabbitmq": Kind(
        *(5672, 5671, "queue", "rabbitmq://broker/orders", ""),
        *(frozenset({"vhost"}), frozenset({"vhost", "exchange"})),
    ),
    "nats": Kind(
        *(4222, 4222, "subject", "nats://broker/orders.new?durable=ml", "durable"),
        *(frozenset({"durable", "stream"}), frozenset({"stream"})),
    ),
    "redis": Kind(
        *(6379, 6379, "stream", "redis://broker/orders?group=ml", "group"),
        *(frozenset({"group", "db"}), frozenset({"db", "maxlen"})),
    ),
    "mqtt": Kind(
        *(1883, 8883, "topic filter", "mqtt://broker/sensors/+/temperature", "client"),
        *(frozenset({"client"}), frozenset()),
    ),
}
"""The brokers, and the options of their URLs."""
FORMS = ("json", "text", "bytes")
"""The form of a message without an envelope or a media type."""
SASL = ("plain", "scram-sha-256", "scram-sha-512")
_TLS = {"rediss": "redis", "mqtts": "mqtt"}
SCHEMES = (*KINDS, *_TLS)
"""The schemes of the URLs."""
_ENV = re.compile(r"env:[A-Za-z_][A-Za-z0-9_]*")
_NAME = re.compile(r"[A-Za-z0-9_-]{1,100}")
_SECRETS = frozenset({"password", "passwd", "pwd", "token", "secret", "user", "username"})


class BrokerPlace(NamedTuple):
    """One topic, queue, subject or stream of a broker.

    ``hosts`` are host and port of each server, with commas. ``variable`` is the environment
    variable with the password, empty without one. ``options`` are those of the URL, in order.
    """

    kind: str
    hosts: str
    path: str
    user: str = ""
    variable: str = ""
    options: tuple[tuple[str, str], ...] = ()

    @property
    def url(self) -> str:
        """The canonical URL, for the registry. It names the variable of a secret."""
        query = urllib.parse.urlencode(self.options, safe="/:,")
        secret = f":env:{self.variable}" if self.variable else ""
        user = f"{urllib.parse.quote(self.user, safe='')}{secret}@" if self.user or secret else ""
        path = urllib.parse.quote(self.path, safe="/+#*>$:=,~!@")
        return f"{self.kind}://{user}{self.hosts}/{path}{'?' * bool(query)}{query}"

    @property
    def shown(self) -> str:
        """A short form for people, and the source of the events: without user and options."""
        path = urllib.parse.quote(self.path, safe="/+#*>$:=,~!@")
        return f"{self.kind}://{self.hosts}/{path}"

    def option(self, name: str, default: str = "") -> str:
        """Return the option *name* of the URL."""
        return dict(self.options).get(name, default)

    @property
    def tls(self) -> bool:
        """Whether the connection is encrypted."""
        return self.option("tls") == "true"

    def secret(self) -> str:
        """Return the password, read from the environment now.

        Raises
        ------
        InvalidName
            When the variable is not set.
        """
        if not self.variable:
            return ""
        if self.variable not in os.environ:
            raise InvalidName(
                f"{self.shown} takes its password from the environment variable"
                f" {self.variable}, which is not set here: set it where this process starts"
            )
        return os.environ[self.variable]

    def without_secret(self, text: str) -> str:
        """Return *text* with ``***`` for the password."""
        secret = os.environ.get(self.variable, "") if self.variable else ""
        return text.replace(secret, "***") if secret else text

    def slug(self) -> str:
        """Return the path as a name."""
        return re.sub(r"[^A-Za-z0-9_-]+", "-", self.path).strip("-")[:60] or self.kind


def place_of(url: str, *, sending: bool = False) -> BrokerPlace:
    """Return the place that *url* names. Look at nothing.

    Raises
    ------
    InvalidName
        When it names no topic, has a password, or an option is wrong.
    """
    scheme, _, rest = url.partition("://")
    given = scheme.lower()
    kind = _TLS.get(given, given)
    known = KINDS[kind]
    # by hand: '#' is a wildcard of MQTT here, and a password may have any character
    before, _, query = rest.partition("?")
    where, _, path = before.partition("/")
    _refuse_secret(where, path, query, given)
    options = dict(_options(query, known.sending if sending else known.reading, kind, sending))
    if given in _TLS:
        options["tls"] = "true"
    user, _, hosts = where.rpartition("@")
    name, _, variable = user.partition(":")
    path = urllib.parse.unquote(path)
    # a port that is none may be a password without its host
    shown = short(f"{given}://{re.sub(r':[^,0-9][^,]*', '', hosts)}/{path}", 100)
    if not path.strip("/") or not path.isprintable() or " " in path:
        raise InvalidName(
            f"{shown!r} names no {known.thing}; it is written {known.example}"
            if not path.strip("/")
            else f"{shown!r}: a {known.thing} has no blanks and no control characters"
        )
    if sending and kind == "mqtt" and set(path) & set("+#"):
        raise InvalidName(
            f"{shown!r} has a wildcard: outputs are sent to one topic, without + and #"
        )
    port = known.tls_port if options.get("tls") == "true" else known.port
    return BrokerPlace(
        kind,
        ",".join(_host(host, port, shown, known) for host in hosts.split(",")),
        path,
        urllib.parse.unquote(name),
        variable.removeprefix("env:"),
        tuple(sorted(options.items())),
    )


def _host(text: str, port: int, shown: str, known: Kind) -> str:
    try:
        parts = urllib.parse.urlsplit(f"//{text}")
        host, given = parts.hostname or "", parts.port
    except ValueError:
        host, given = "", None
    if not host:
        raise InvalidName(
            f"{shown!r} has no host, or a port that is no number; it is written {known.example}"
        )
    return f"{f'[{host}]' if ':' in host else host}:{given or port}"


def _options(
    query: str, own: Collection[str], kind: str, sending: bool
) -> Iterator[tuple[str, str]]:
    known = sorted({*own, "tls", "ca", *(() if sending else ("data",))})
    choices = {"tls": ("true", "false"), "data": FORMS, "sasl": SASL}
    for name, value in urllib.parse.parse_qsl(query, keep_blank_values=True):
        if name not in known:
            raise InvalidName(str(NotFound.of(f"option of {kind}://", name, known)))
        if name in choices and value not in choices[name]:
            raise InvalidName(str(NotFound.of(name, value, choices[name])))
        if name == KINDS[kind].group and not _NAME.fullmatch(value):
            raise InvalidName(
                f"{name} {short(value)!r} must be 1 to 100 letters, digits, '-' or '_'"
            )
        if name in ("db", "maxlen") and not (value.isascii() and value.isdecimal()):
            raise InvalidName(f"{name} {short(value)!r} must be a whole number")
        if not (name == "tls" and value == "false"):
            yield name, value


def _refuse_secret(where: str, path: str, query: str, scheme: str) -> None:
    """Raise InvalidName when there may be a password, in any spelling."""
    user, at, hosts = where.rpartition("@")
    _, colon, password = user.partition(":")
    names = {part.partition("=")[0].lower() for part in query.split("&")}
    plain = not at or not colon or _ENV.fullmatch(password)
    if plain and not names & _SECRETS and "@" not in f"{path}{query}":
        return
    shown = short(f"{scheme}://{hosts.rpartition('@')[2]}", 60)
    raise InvalidName(
        f"{shown}/… has a password, or an @ that is not written %40: nothing secret is kept. Write"
        f" {scheme}://user:env:NAME@host/… for the variable NAME of the environment of each"
        " process that delivers"
    )
