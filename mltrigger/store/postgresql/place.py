"""From a URL to a store in PostgreSQL. All words but ``schema`` are libpq's."""

from __future__ import annotations

import re
import urllib.parse

from mltrigger.errors import StoreError, how_to_install
from mltrigger.store.postgresql import SCHEMA
from mltrigger.store.transaction import Store
from mltrigger.store.wake import Wakeup

_SCHEMA = re.compile(r"[a-z_][a-z0-9_]{0,62}").fullmatch


def store_of(url: str) -> tuple[Store, Wakeup]:
    """Open the store at ``postgresql://user@host/database?schema=name``, and its wakeup.

    Raises
    ------
    StoreError
        When the server does not answer, or the URL names no schema.
    """
    conninfo, schema = parts_of(url)
    try:
        import psycopg
    except ImportError as error:
        raise StoreError(
            "a bus on PostgreSQL needs psycopg, which is not installed:"
            f" {how_to_install('postgres')}"
        ) from error
    from mltrigger.store.postgresql.store import PostgresStore
    from mltrigger.store.postgresql.wake import PostgresWakeup

    try:
        store = PostgresStore(conninfo, schema)
    except psycopg.ProgrammingError as error:
        # from None: the words of libpq may hold a part of the password
        raise StoreError(f"that URL is not one of libpq ({_first(error, url)}); {_FORM}") from None
    return store, PostgresWakeup(store.sessions)


_BUSES = """
SELECT n.nspname FROM pg_namespace n JOIN pg_class c ON c.relnamespace = n.oid
WHERE c.relname IN ('schema_version', 'model_version', 'event')
GROUP BY n.nspname HAVING count(*) = 3 ORDER BY n.nspname
"""


def check_there(url: str) -> None:
    """Raise StoreError if the schema has no bus. A server that refuses is left to the caller."""
    conninfo, schema = parts_of(url)
    try:
        import psycopg
    except ImportError:
        return
    try:
        with psycopg.connect(conninfo, connect_timeout=10, autocommit=True) as session:
            there = [name for (name,) in session.execute(_BUSES)]
    except psycopg.Error:
        return
    if schema not in there:
        raise StoreError.of(
            "bus in the schema",
            schema,
            there,
            "name one with ?schema=; mt.connect(url) in Python makes a new one",
        )


_FORM = "write postgresql://user@host:5432/database?schema=name, and leave the password to .pgpass"


def parts_of(url: str) -> tuple[str, str]:
    """Return the part of *url* for libpq, and the schema."""
    before, _, query = url.partition("?")
    _check_user(before, query)
    words = [word.partition("=") for word in query.split("&") if word]
    schema = next((urllib.parse.unquote(v) for name, _, v in words if name == "schema"), SCHEMA)
    if not _SCHEMA(schema):
        raise StoreError(
            f"{schema!r:.60} is no name of a schema: use small letters, digits and _, at most 63"
        )
    rest = "&".join("".join(word) for word in words if word[0] != "schema")
    return before + (f"?{rest}" if rest else ""), schema


def _check_user(before: str, query: str) -> None:
    """Refuse a password with signs that end it. What follows would be shown as a host."""
    user = before.partition("://")[2].rpartition("@")[0]
    cut = any("@" in word and "=" not in word for word in query.split("&"))
    if cut or any(sign in user for sign in "/@ "):
        raise StoreError(
            "the user or password in that URL has one of / ? @ or a space: write %2F, %3F, %40 or"
            " %20, or leave the password to .pgpass"
        )


def _first(error: Exception, url: str) -> str:
    """Return the first line of *error*, without all that may be a part of a password."""
    names = {word.partition("=")[0] for word in url.partition("?")[2].split("&")}
    line = (str(error).splitlines() or ["unreadable"])[0]
    return re.sub(r'"([^"]*)"', lambda quoted: quoted[0] if quoted[1] in names else '"…"', line)
