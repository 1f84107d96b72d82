"""The schema in PostgreSQL: the tables of :mod:`mltrigger.store.tables`, made by one role.

An advisory lock keeps two processes from making it at once.
"""

from __future__ import annotations

import functools
import re
from typing import TYPE_CHECKING, Any

from mltrigger.errors import StoreError
from mltrigger.store import tables
from mltrigger.store.postgresql import functions, lives, partitions, versions

if TYPE_CHECKING:
    import psycopg

TYPES = {
    "INTEGER": "bigint",
    "BLOB": "bytea",
    "REAL": "double precision",
    "TEXT": 'text COLLATE "C"',
}
NUMBERED = ("topic", "name", "model_version", "subscription", "label", "revision", "worker")
"""The tables whose rows get their numbers from PostgreSQL."""
_HOT = ("ready", "lease", "awaited", "setting", "worker", "listener", "mark", *versions.TABLES)
"""Small tables whose rows change all the time. They are tidied by the number of their rows."""
_TIDY = (
    "fillfactor = 50, autovacuum_vacuum_threshold = 500, autovacuum_vacuum_scale_factor = 0,"
    " autovacuum_analyze_threshold = 5000, autovacuum_analyze_scale_factor = 0,"
    " autovacuum_vacuum_cost_delay = 0"
)
# Marks say which commits of a process have arrived.
_OWN = """
CREATE TABLE mark (
  token uuid NOT NULL,
  number bigint NOT NULL,
  made_at timestamptz NOT NULL DEFAULT now(),
  PRIMARY KEY (token, number)
)
"""
LOCK = "SELECT pg_advisory_xact_lock(hashtextextended(%s, 0))"
"""Keeps a second process from making or changing the schema."""
WRITERS_KEY = "SELECT hashtextextended('mltrigger ' || %s, 0)"
"""The number of the lock that every writer holds."""
STANDING = f"""
SELECT ({WRITERS_KEY}), NOT has_column_privilege(format('%%I.event', %s::text), 'data', 'SELECT'),
  NOT has_table_privilege(format('%%I.subscription', %s::text), 'UPDATE')
"""
"""The same, and whether this user may not read the data of events, or may only read."""
_ENCODING = (
    "SELECT pg_encoding_to_char(encoding) FROM pg_database WHERE datname = current_database()"
)
_SCHEMA = "SELECT 1 FROM pg_namespace WHERE nspname = %s"
_FOUND = """
SELECT (SELECT count(*) FROM pg_namespace WHERE nspname = %(schema)s),
  to_regclass(format('%%I.schema_version', %(schema)s::text))::text,
  (SELECT count(*) FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
    WHERE n.nspname = %(schema)s AND c.relkind IN ('r', 'p'))
"""


def create(connection: psycopg.Connection[Any], schema: str) -> None:
    """Make the schema in a database that does not have it, or check the one that is there.

    Raises
    ------
    StoreError
        When the schema belongs to another program, or another release has made it.
    """
    version = made(connection, schema)
    if version != tables.VERSION:
        raise refused(version)


def made(connection: psycopg.Connection[Any], schema: str) -> int:
    """Return the version of the schema. Make it first in a database that does not have it."""
    version = found(connection, schema)
    if version is not None:
        return version
    with connection.transaction():
        # whoever comes second finds it made
        connection.execute(LOCK, [schema])
        if (version := found(connection, schema)) is None:
            _make(connection, schema)
    return tables.VERSION if version is None else version


def check_encoding(connection: psycopg.Connection[Any]) -> None:
    """Raise StoreError if the database cannot hold every text."""
    ((encoding,),) = connection.execute(_ENCODING).fetchall()
    if encoding != "UTF8":
        raise StoreError(
            f"the database has the encoding {encoding}, which cannot hold every text: make another"
            " one with CREATE DATABASE … ENCODING 'UTF8' TEMPLATE template0; nothing was changed"
        )


def found(connection: psycopg.Connection[Any], schema: str) -> int | None:
    """Return the version of the schema, ``None`` if there is none.

    Raises
    ------
    StoreError
        When the schema belongs to another program, or is damaged.
    """
    row = connection.execute(_FOUND, {"schema": schema}).fetchone()
    assert row is not None  # noqa: S101 - aggregates
    _, version_table, tables_there = row
    if version_table is None:
        if tables_there:
            raise StoreError(
                f"the schema {schema!r} of that database holds other tables and no mltrigger"
                " schema: name another one with ?schema=; nothing was changed"
            )
        return None
    rows = [version for (version,) in connection.execute(f"SELECT version FROM {version_table}")]
    if len(rows) != 1:
        raise StoreError(
            f"the store is damaged: its table schema_version must hold one row, and holds"
            f" {rows!r:.100}; restore a backup, or put that right; nothing was changed"
        )
    return int(rows[0])


def refused(version: int) -> StoreError:
    """Return the error about a schema of another *version* than this release has."""
    if version < 0:
        return StoreError(
            "a move into this store is under way: wait until `mltrigger move` is done, or call it"
            " again with the same URLs if it was interrupted; nothing was changed"
        )
    if version > tables.VERSION:
        return StoreError(
            f"the store has schema version {version}, this release knows up to {tables.VERSION}:"
            " upgrade mltrigger; nothing was changed"
        )
    return StoreError(
        f"the store has schema version {version}, this release needs {tables.VERSION}: its"
        " owner calls `mltrigger postgres upgrade`; nothing was changed"
    )


def _make(connection: psycopg.Connection[Any], schema: str) -> None:
    is_there = connection.execute(_SCHEMA, [schema]).fetchall()
    connection.execute(
        ";\n".join(
            [  # to make one that is there needs a right that its owner may not have
                *([] if is_there else [f'CREATE SCHEMA "{schema}"']),
                f'SET LOCAL search_path TO "{schema}"',
                *(_versioned(statement, schema) for statement in statements()),
                *_parts(functions.CREATE),
                *_parts(_OWN),
                *_parts(lives.create(schema)),
                *_parts(partitions.create(schema)),
                *(f"ALTER TABLE {table} SET ({_TIDY})" for table in _HOT),
            ]
        )
    )


def _versioned(statement: str, schema: str) -> str:
    made = re.match(r"CREATE TABLE (\w+) ", statement)
    return (versions.create(made[1], schema) if made else None) or statement


def _parts(script: str) -> list[str]:
    return [part.strip() for part in script.split(";\n\n")]


def statements() -> list[str]:
    """Return the statements that make the tables, in the words of PostgreSQL."""
    return [_worded(part) for part in _parts(tables.CREATE)]


def _worded(statement: str) -> str:
    statement = re.sub(r"--[^\n]*", "", statement)
    statement = statement.replace(" WITHOUT ROWID", "")
    statement = re.sub(r" REFERENCES \w+ \(\w+\)", "", statement)
    made = re.match(r"CREATE TABLE (\w+) ", statement)
    if made:
        statement = re.sub(r",\s*CONSTRAINT event_identity UNIQUE \([^)]*\)", "", statement)
        for before, after in TYPES.items():
            statement = re.sub(rf"\b{before}\b", after, statement)
        if made[1] in NUMBERED:
            statement = statement.replace(
                "id bigint NOT NULL", "id bigint GENERATED BY DEFAULT AS IDENTITY NOT NULL", 1
            )
        if (key := partitions.KEYS.get(made[1])) is not None:
            statement = f"{statement.rstrip()} PARTITION BY RANGE ({key})"
    return re.sub(r"ON event \(topic_id\)", "ON event (topic_id, seq)", statement)


def table_names() -> list[str]:
    """Return the names of the tables that SQLite has, too."""
    return [made[1] for part in statements() if (made := re.match(r"\s*CREATE TABLE (\w+)", part))]


@functools.cache
def columns(table: str) -> dict[str, str]:
    """Return the type of each column of *table*."""
    for statement in statements():
        if made := re.match(rf"\s*CREATE TABLE {table} \((.*)\)", statement, re.DOTALL):
            found = re.findall(r"^\s*(\w+) (bigint|bytea|double precision|text)\b", made[1], re.M)
            return dict(found)
    raise KeyError(table)
