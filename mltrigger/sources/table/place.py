"""The place of a table: from a URL to database, table, changes and columns."""

from __future__ import annotations

import hashlib
import re
import urllib.parse
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from mltrigger.errors import InvalidName, NotFound
from mltrigger.text import short

CHANGES = ("insert", "update", "delete")
"""The changes of a row that can be events."""
DEFAULT_FEED = "mltrigger"
_WRITTEN = (
    "a table is written table+sqlite:///app.db#documents, or"
    " table+postgresql://app@host/app#public.documents"
)
_FEED = re.compile(r"[a-z][a-z0-9_]{0,19}")


class TablePlace(NamedTuple):
    """One table, and the changes and columns of it that are events.

    ``database`` is the path of a file or the URL of a server, without a password. ``schema`` is
    empty for SQLite. ``fields`` is empty for all columns. ``feed`` tells two buses apart that take
    the rows of one table.
    """

    kind: str
    database: str
    schema: str
    table: str
    on: tuple[str, ...] = ("insert",)
    fields: tuple[str, ...] = ()
    feed: str = DEFAULT_FEED

    @property
    def url(self) -> str:
        """The canonical URL, for the registry."""
        options = {
            "on": "" if self.on == ("insert",) else ",".join(self.on),
            "fields": ",".join(urllib.parse.quote(field, safe="") for field in self.fields),
            "feed": "" if self.feed == DEFAULT_FEED else self.feed,
        }
        query = "&".join(f"{name}={value}" for name, value in options.items() if value)
        at = self.database if self.kind == "postgresql" else f"sqlite:///{_quoted(self.database)}"
        return f"table+{at}{'?' * bool(query)}{query}#{_quoted(self.relation)}"

    @property
    def relation(self) -> str:
        """The table with its schema, as people write it."""
        return f"{self.schema}.{self.table}" if self.schema else self.table

    @property
    def base(self) -> str:
        """The name of the database: of the file, or on the server."""
        path = urllib.parse.urlsplit(self.database).path if "://" in self.database else ""
        return path.strip("/") or Path(self.database).name

    @property
    def shown(self) -> str:
        """A short form for people: the database and the table."""
        return f"{self.base}#{self.relation}"

    @property
    def outbox(self) -> str:
        """The name of the things that are made there. It depends on the options."""
        options = repr((self.relation, self.on, self.fields, self.feed))
        name = re.sub(r"[^a-z0-9]+", "_", self.relation.lower()).strip("_")[:30] or "table"
        return f"mltrigger_{name}_{hashlib.sha256(options.encode()).hexdigest()[:6]}"


def place_of(url: str) -> TablePlace:
    """Return the place that *url* names. Look at nothing.

    Raises
    ------
    InvalidName
        When it names no table, has a password, or an option is wrong.
    """
    _check_secret(url)
    parts = urllib.parse.urlsplit(url)
    kind = parts.scheme.removeprefix("table+")
    relation = urllib.parse.unquote(parts.fragment)
    if not relation or "\x00" in urllib.parse.unquote(url):
        raise InvalidName(f"source {_safe(url)} names no table; {_WRITTEN}")
    options = _options(parts.query, url)
    if kind == "sqlite":
        database, schema, table = _file(parts, url), "", relation
    else:
        schema, _, table = relation.rpartition(".")
        schema = schema or "public"
        database = _server(parts, options, url)
    return with_options(TablePlace(kind, database, schema, table), options)


def with_options(place: TablePlace, options: Mapping[str, Any]) -> TablePlace:
    """Return *place* with other changes, columns, or feed.

    Raises
    ------
    InvalidName
        When an option is wrong.
    """
    if (on := options.get("on")) is not None:
        wanted = _names("on", on)
        for change in wanted:
            if change not in CHANGES:
                raise InvalidName(str(NotFound.of("change in on=", change, CHANGES)))
        if not wanted:
            raise InvalidName("on= names no change: 'insert', 'update', 'delete', or several")
        place = place._replace(on=tuple(change for change in CHANGES if change in wanted))
    if (fields := options.get("fields")) is not None:
        named = tuple(dict.fromkeys(_names("fields", fields)))
        if not named:
            raise InvalidName("fields= names no column; leave it out for all columns")
        place = place._replace(fields=named)
    if (feed := options.get("feed")) is not None:
        if not _FEED.fullmatch(feed):
            raise InvalidName(
                f"feed {short(feed)!r} must be 1 to 20 lower-case letters, digits or '_'"
            )
        place = place._replace(feed=feed)
    return place


def topic_names(place: TablePlace) -> list[str]:
    """Return names for the topic: that of the table, then with more before it."""
    parts = [Path(place.base).stem, place.schema, place.table]
    own = [re.sub(r"[^A-Za-z0-9_-]+", "-", part).strip("-") for part in parts if part]
    own = [part for part in own if part] or ["table"]
    return [name[:80] for name in ("-".join(own[n:]) for n in reversed(range(len(own))))]


def _names(option: str, given: object) -> list[str]:
    listed = given.split(",") if isinstance(given, str) else given
    if not isinstance(listed, Sequence) or not all(isinstance(each, str) for each in listed):
        raise InvalidName(f"{option}= takes names, such as {option}=['id', 'path']")
    return [each.strip() for each in listed if each.strip()]


def _options(query: str, url: str) -> dict[str, Any]:
    options: dict[str, Any] = {}
    for name, value in urllib.parse.parse_qsl(query, keep_blank_values=True):
        if name in options:
            raise InvalidName(f"source {_safe(url)} has {name}= twice")
        options[name] = value
    if "fields" in options:  # quoted twice: a name may have a comma
        raw = dict(part.partition("=")[::2] for part in query.split("&"))["fields"]
        options["fields"] = [urllib.parse.unquote(field) for field in raw.split(",")]
    return options


def _file(parts: urllib.parse.SplitResult, url: str) -> str:
    known = {"on", "fields", "feed"}
    _refuse_unknown(_options(parts.query, url), known, url)
    if parts.netloc not in ("", "localhost") or not parts.path.strip("/"):
        raise InvalidName(
            f"source {_safe(url)} must be table+sqlite:///file.db#table; four slashes begin an"
            " absolute path"
        )
    return str(Path(urllib.parse.unquote(parts.path[1:])).resolve())


def _server(parts: urllib.parse.SplitResult, options: Mapping[str, Any], url: str) -> str:
    known = {"on", "fields", "feed"}
    ours = {"sslmode", "sslrootcert", "sslcert", "sslkey", "connect_timeout", "service"}
    _refuse_unknown(options, known | ours, url)
    kept = {name: value for name, value in options.items() if name in ours}
    query = f"?{urllib.parse.urlencode(kept)}" if kept else ""
    try:
        _ = parts.port
    except ValueError:
        raise InvalidName(f"source {_safe(url)} has a port that is no number; {_WRITTEN}") from None
    return f"postgresql://{parts.netloc}{parts.path}{query}"


def _refuse_unknown(options: Mapping[str, Any], known: set[str], url: str) -> None:
    for name in options:
        if name in ("password", "sslpassword", "passfile"):
            raise InvalidName(
                f"source {_safe(url)} has {name}=: nothing secret is kept. Use ~/.pgpass,"
                " PGPASSWORD or a service"
            )
        if name not in known:
            raise InvalidName(str(NotFound.of("option of a table's URL", name, known)))


def _check_secret(url: str) -> None:
    """Raise InvalidName when there may be a password before the last ``@``, in any spelling."""
    scheme, _, rest = url.partition("://")
    user, at, _ = rest.rpartition("@")
    if scheme.endswith("sqlite") or not at:
        return
    name, colon, password = user.partition(":")
    if (colon and not re.fullmatch(r"env:[A-Za-z_][A-Za-z0-9_]*", password)) or set(name) & set(
        "/?#"
    ):
        raise InvalidName(
            f"source {_safe(url)} has a password, or an @ that is not written %40: nothing"
            " secret is kept. Write user:env:NAME@host for the variable NAME, or use ~/.pgpass,"
            " PGPASSWORD or a service"
        )


def _safe(url: str) -> str:
    """Return *url* for a message, without everything before the last ``@``, and the query."""
    scheme, _, rest = url.partition("://")
    shown = rest if scheme.endswith("sqlite") else rest.rpartition("@")[2]
    path, hash_, table = shown.partition("#")
    return repr(short(f"{scheme}://{path.partition('?')[0]}{hash_}{table}", 100))


def _quoted(text: str) -> str:
    return urllib.parse.quote(text, safe="/.")
