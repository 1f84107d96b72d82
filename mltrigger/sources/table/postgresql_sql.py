"""The SQL that a table of PostgreSQL gets: its outbox, its function, its triggers."""

from __future__ import annotations

from typing import NamedTuple

from mltrigger.sources.table.database import LIMIT
from mltrigger.sources.table.place import TablePlace

CHECK_EVERY = 1024
"""The trigger counts the waiting rows after so many."""
FEEDS = """CREATE TABLE IF NOT EXISTS mltrigger.feeds (
  outbox text PRIMARY KEY, relation oid NOT NULL, bus text, epoch text NOT NULL,
  rows bigint NOT NULL, taken bigint NOT NULL DEFAULT 0, is_full boolean NOT NULL DEFAULT false,
  remade timestamptz
)"""


class Shape(NamedTuple):
    """The table as it is now: its number and name, its columns, and those of the primary key.

    ``columns`` and ``key`` have the number and the name of their types.
    """

    relation: int
    name: str
    shown: str
    columns: dict[str, int]
    key: dict[str, str]


class PostgresSql:
    """The SQL of one table.

    Parameters
    ----------
    place : TablePlace
        The table, and the changes and columns that are events.
    """

    def __init__(self, place: TablePlace) -> None:
        self.place = place
        self.outbox = f"mltrigger.{ident(place.outbox)}"
        self.feed = literal(place.outbox)

    def all(self, shape: Shape) -> list[str]:
        """Return the SQL that makes everything."""
        return [
            "CREATE SCHEMA IF NOT EXISTS mltrigger",
            FEEDS,
            self.outbox_sql(),
            self.claim(shape),
            self.function(shape),
            *(self.trigger_sql(on, shape) for on in self.place.on),
        ]

    def removal(self) -> list[str]:
        """Return the SQL that removes exactly that."""
        return [
            f"DROP FUNCTION IF EXISTS {self.outbox}() CASCADE",
            f"DROP TABLE IF EXISTS {self.outbox}",
            f"DELETE FROM mltrigger.feeds WHERE outbox = {self.feed}",
        ]

    def grants(self, shape: Shape, role: str) -> list[str]:
        """Return the SQL of the least privileges of the *role* that reads."""
        return [
            f"GRANT USAGE ON SCHEMA mltrigger TO {ident(role)}",
            f"GRANT SELECT, UPDATE ON mltrigger.feeds TO {ident(role)}",
            f"GRANT SELECT, DELETE ON {self.outbox} TO {ident(role)}",
            f"GRANT SELECT ON {shape.name} TO {ident(role)}",
        ]

    def outbox_sql(self) -> str:
        """Return the SQL of the outbox."""
        return (
            f"CREATE TABLE IF NOT EXISTS {self.outbox} (\n"
            "  id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, change text NOT NULL,\n"
            "  at timestamptz NOT NULL DEFAULT clock_timestamp(), last boolean NOT NULL DEFAULT"
            " false, row jsonb\n) WITH (autovacuum_vacuum_scale_factor = 0,"
            " autovacuum_vacuum_threshold = 1000, autovacuum_vacuum_cost_delay = 0)"
        )

    def claim(self, shape: Shape) -> str:
        """Return the SQL that notes the outbox, with a random text and the number of old rows."""
        return (
            "INSERT INTO mltrigger.feeds (outbox, relation, epoch, rows)\n"
            f"  SELECT {self.feed}, {literal(shape.name)}::regclass,"
            f" substr(md5(random()::text || clock_timestamp()), 1, 12), count(*) FROM {shape.name}"
        )

    def trigger(self, on: str) -> str:
        """Return the name of a trigger."""
        return f"{self.place.outbox}_{on}"

    def trigger_sql(self, on: str, shape: Shape) -> str:
        """Return the SQL of the trigger for one kind of change."""
        # compares the bytes: some types cannot be compared otherwise, and an update would fail
        when = "\n  WHEN (OLD *<> NEW)" if on == "update" else ""
        return (
            f"CREATE TRIGGER {ident(self.trigger(on))} AFTER {on.upper()} ON {shape.name}\n"
            f"  FOR EACH ROW{when} EXECUTE FUNCTION {self.outbox}()"
        )

    def function(self, shape: Shape) -> str:
        """Return the SQL of the function that the triggers call."""
        return (
            f"CREATE OR REPLACE FUNCTION {self.outbox}() RETURNS trigger\n"
            "LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS"
            f" $mltrigger${self.body(shape)}$mltrigger$"
        )

    def body(self, shape: Shape) -> str:
        """Return the function's text."""
        outbox, feed = self.outbox, self.feed
        unchanged = ""
        if self.place.fields and "update" in self.place.on:
            unchanged = (
                f"  IF TG_OP = 'UPDATE' AND {self._part('to_jsonb(OLD)', shape)}"
                f" = {self._part('whole', shape)} THEN\n    RETURN NULL;\n  END IF;\n"
            )
        return (
            "\nDECLARE\n"
            "  whole jsonb := to_jsonb(CASE TG_OP WHEN 'DELETE' THEN OLD ELSE NEW END);\n"
            "  n bigint;\nBEGIN\n"
            f"{unchanged}"
            f"  INSERT INTO {outbox} (change, row)\n"
            f"    SELECT lower(TG_OP), {self._part('whole', shape)} FROM mltrigger.feeds\n"
            f"    WHERE outbox = {feed} AND NOT is_full RETURNING id INTO n;\n"
            f"  IF n % {CHECK_EVERY} = 0 AND n - (SELECT min(id) FROM {outbox}) >= {LIMIT}\n"
            f"      AND (SELECT count(*) FROM {outbox}) >= {LIMIT} THEN\n"
            f"    UPDATE mltrigger.feeds SET is_full = true WHERE outbox = {feed};\n"
            f"    UPDATE {outbox} SET last = true WHERE id = n;\n"
            "  END IF;\n  RETURN NULL;\nEND\n"
        )

    def _part(self, whole: str, shape: Shape) -> str:
        """Return the SQL of the captured columns: all, or the fields and the key.

        They are taken by name from JSON: a column that goes must not make an insert fail.
        """
        if not self.place.fields:
            return whole
        named = list(dict.fromkeys([*shape.key, *self.place.fields]))
        pairs = [f"{literal(name)}, {whole}->{literal(name)}" for name in named]
        parts = [pairs[n : n + 50] for n in range(0, len(pairs), 50)]  # 100 arguments a call
        return "(" + " || ".join(f"jsonb_build_object({', '.join(part)})" for part in parts) + ")"


def ident(text_: str) -> str:
    """Return the name of a table or column, quoted."""
    return '"' + text_.replace('"', '""') + '"'


def literal(text_: str) -> str:
    """Return a text as SQL has it."""
    return "'" + text_.replace("'", "''") + "'"
