"""The SQL that a table of SQLite gets: its outbox, its triggers."""

from __future__ import annotations

import json
from typing import NamedTuple

from mltrigger.sources.table.database import LIMIT
from mltrigger.sources.table.place import TablePlace
from mltrigger.sources.table.quoting import ident, literal

FEEDS = """CREATE TABLE IF NOT EXISTS mltrigger_feeds (
  outbox TEXT PRIMARY KEY, relation TEXT NOT NULL, bus TEXT, epoch TEXT NOT NULL,
  rows INTEGER NOT NULL, taken INTEGER NOT NULL DEFAULT 0, remade REAL
)"""


class Shape(NamedTuple):
    """The table as it is now: its name, its columns, and those of the primary key."""

    table: str
    columns: list[str]
    key: list[str]


class SqliteSql:
    """The SQL of one table.

    Parameters
    ----------
    place : TablePlace
        The table, and the changes and columns that are events.
    """

    def __init__(self, place: TablePlace) -> None:
        self.place = place
        self.outbox = ident(place.outbox)

    def all(self, shape: Shape) -> list[str]:
        """Return the SQL that makes everything."""
        return [FEEDS, self.outbox_sql(shape), self.claim(shape), *self.triggers(shape)]

    def removal(self) -> list[str]:
        """Return the SQL that removes exactly that."""
        return [
            *(f"DROP TRIGGER IF EXISTS {ident(self.trigger(on))}" for on in self.place.on),
            f"DROP TABLE IF EXISTS {self.outbox}",
            f"DELETE FROM mltrigger_feeds WHERE outbox = {literal(self.place.outbox)}",
        ]

    def captured(self, shape: Shape) -> list[str]:
        """Return the columns that the trigger copies: the fields, and always the key."""
        fields = self.place.fields or shape.columns
        return list(dict.fromkeys([*shape.key, *(f for f in fields if f in shape.columns)]))

    def outbox_sql(self, shape: Shape) -> str:
        """Return the SQL of the outbox. Its columns have numbers: those of the table may change."""
        values = ", ".join(f"v{n}" for n in range(len(self.captured(shape))))
        # AUTOINCREMENT: the number of a deleted row must not come again
        return (
            f"CREATE TABLE IF NOT EXISTS {self.outbox} (\n"
            "  id INTEGER PRIMARY KEY AUTOINCREMENT, change TEXT NOT NULL,\n"
            "  at REAL NOT NULL DEFAULT (julianday('now')), last INTEGER NOT NULL,"
            f" names TEXT NOT NULL,\n  {values}\n)"
        )

    def claim(self, shape: Shape) -> str:
        """Return the SQL that notes the outbox, with a random text and the number of old rows."""
        return (
            "INSERT INTO mltrigger_feeds (outbox, relation, epoch, rows)\n"
            f"  SELECT {literal(self.place.outbox)}, {literal(self.place.relation)},"
            f" lower(hex(randomblob(6))), count(*) FROM {ident(shape.table)}"
        )

    def trigger(self, on: str) -> str:
        """Return the name of a trigger."""
        return f"{self.place.outbox}_{on}"

    def triggers(self, shape: Shape) -> list[str]:
        """Return the SQL of the triggers, one for each kind of change."""
        return [self._trigger(on, shape) for on in self.place.on]

    def _trigger(self, on: str, shape: Shape) -> str:
        columns, row = self.captured(shape), "OLD" if on == "delete" else "NEW"
        values = ", ".join(f"v{n}" for n in range(len(columns)))
        copied = ", ".join(f"{row}.{ident(column)}" for column in columns)
        names = literal(json.dumps(columns, ensure_ascii=False))
        first, newest = (
            f"(SELECT min(id) FROM {self.outbox})",
            f"(SELECT max(id) FROM {self.outbox})",
        )
        waits = f"coalesce({newest} - {first}, 0)"  # two looks at the ends of an index
        old, new = (", ".join(f"{r}.{ident(c)}" for c in columns) for r in ("OLD", "NEW"))
        when = f"WHEN ({old}) IS NOT ({new})\n" if on == "update" else ""
        return (
            f"CREATE TRIGGER {ident(self.trigger(on))} AFTER {on.upper()} ON {ident(shape.table)}\n"
            f"{when}BEGIN\n"
            f"  INSERT INTO {self.outbox} (change, last, names, {values})\n"
            f"  SELECT '{on}', {waits} >= {LIMIT - 2}, {names}, {copied}\n"
            f"  WHERE {waits} < {LIMIT - 1};\n"
            "END"
        )
