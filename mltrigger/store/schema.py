"""The schema of the store: made in an empty file, checked in another, brought forward if older."""

from __future__ import annotations

import sqlite3

from mltrigger.errors import StoreError
from mltrigger.store.tables import CREATE, VERSION

OLDEST = 9
"""The oldest version that is brought forward. An older file is refused."""


def create(connection: sqlite3.Connection) -> None:
    """Make the schema in an empty database, inside the caller's transaction.

    Raises
    ------
    StoreError
        When the database is not empty and does not hold this version of the schema.
    """
    found = check(connection)
    if found is None:
        for statement in CREATE.split(";\n\n"):
            connection.execute(statement.strip())
    elif found < VERSION:
        _bring_forward(connection, found)


_NEW = {
    10: (
        ("binding", "label", "effect"),
        (
            "subscription ADD COLUMN parent_id INTEGER",
            "subscription ADD COLUMN lane TEXT",
            "cursor ADD COLUMN last_seq INTEGER",
            "lease ADD COLUMN binding INTEGER NOT NULL DEFAULT 0",
            "lot ADD COLUMN binding INTEGER NOT NULL DEFAULT 0",
            "detail ADD COLUMN measures TEXT",
        ),
    ),
    11: (("keyed", "turn", "pace"), ("lease ADD COLUMN by_key TEXT",)),
}
"""The tables and columns of each version that the one before did not have."""
_NEW_INDEXES = {
    10: ("CREATE INDEX subscription_parent",),
    12: ("CREATE INDEX outcome_exception",),
}
"""The indexes of old tables that the version before did not have."""
_FIRST_BINDINGS = """
INSERT INTO binding (subscription_id, number, kind, from_seq, selector, made_us, made_by)
SELECT id, 0, 'bind', 0, selector, created_us, '' FROM subscription
"""


def _bring_forward(connection: sqlite3.Connection, found: int) -> None:
    """Change the tables of version *found* into those of this one, in the caller's transaction.

    Version 9 has no bindings. Each subscription gets the present one as its first. Views are made
    anew.
    """
    views = [n for (n,) in connection.execute("SELECT name FROM sqlite_master WHERE type = 'view'")]
    for view in views:
        connection.execute(f'DROP VIEW "{view}"')
    new = [of for version, of in _NEW.items() if version > found]
    for column in (column for _, columns in new for column in columns):
        connection.execute(f"ALTER TABLE {column}")
    tables = [table for tables, _ in new for table in tables]
    indexes = [index for version, of in _NEW_INDEXES.items() if version > found for index in of]
    starts = ["CREATE VIEW", *indexes]
    for statement in map(str.strip, CREATE.split(";\n\n")):
        is_new = any(f"TABLE {t} (" in statement or f" ON {t} (" in statement for t in tables)
        if is_new or statement.startswith(tuple(starts)):
            connection.execute(statement)
    if found == OLDEST:
        connection.execute(_FIRST_BINDINGS)
    connection.execute("UPDATE schema_version SET version = ?", (VERSION,))


def check(connection: sqlite3.Connection) -> int | None:
    """Return the schema version, or ``None`` for an empty database.

    Raises
    ------
    StoreError
        When the database belongs to another program, is damaged, or has another schema version.
    """
    found = _found_version(connection)
    if found is not None and found > VERSION:
        raise StoreError(
            f"the store has schema version {found}, this release knows up to {VERSION}: upgrade"
            " mltrigger; nothing was changed"
        )
    if found is not None and found < OLDEST:
        raise StoreError(
            f"the store has schema version {found}, this release reads versions {OLDEST} to"
            f" {VERSION}: a build of mltrigger before its first release wrote it. Read it with that"
            " build, and name a new file here; nothing was changed"
        )
    return found


def _found_version(connection: sqlite3.Connection) -> int | None:
    rows = connection.execute(
        "SELECT name FROM sqlite_master WHERE type = 'table' AND substr(name, 1, 7) <> 'sqlite_'"
    )
    names = {name for (name,) in rows}
    if not names:
        return None
    if "schema_version" not in names:
        raise StoreError(
            "the database holds other tables and no mltrigger schema: name another file; nothing"
            " was changed"
        )
    found = [version for (version,) in connection.execute("SELECT version FROM schema_version")]
    if len(found) != 1 or not isinstance(found[0], int) or found[0] < 1:
        raise StoreError(
            "the store is damaged: its table schema_version must hold one row, a whole number from"
            f" 1 on, and holds {found!r:.100}; open a backup instead, or put that right; nothing"
            " was changed"
        )
    return found[0]
