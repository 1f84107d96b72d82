"""The SQL that a table of PostgreSQL gets: its outbox, its function, its triggers."""

from __future__ import annotations

from typing import NamedTuple

from mltrigger.sources.table.database import LIMIT
from mltrigger.sources.table.place import TablePlace
from mltrigger.sources.table.quoting import ident, literal

_LARGEST = 200_000_000
"""The bytes of a row that becomes JSON. Its text may take five times as much, up to 1 GB."""
CHECK_EVERY = 1024
"""The trigger counts the waiting rows after so many."""
FEEDS = """CREATE TABLE IF NOT EXISTS mltrigger.feeds (
  outbox text PRIMARY KEY, relation oid NOT NULL, bus text, epoch text NOT NULL,
  rows bigint NOT NULL, taken bigint NOT NULL DEFAULT 0, remade timestamptz
)"""
SETTINGS = {
    "bytea_output": "hex",
    "extra_float_digits": "1",
    "IntervalStyle": "iso_8601",
    "TimeZone": "UTC",
}
"""Settings of a session that change how values are written. These hold for every event."""


class Shape(NamedTuple):
    """The table as it is now: its number and name, its columns, and those of the primary key.

    ``columns`` and ``key`` have the number and the name of their types. ``owner`` is its role.
    """

    relation: int
    name: str
    shown: str
    columns: dict[str, int]
    key: dict[str, str]
    owner: str


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
        self.full = f"mltrigger.{ident(f'{place.outbox}_full')}"

    def all(self, shape: Shape) -> list[str]:
        """Return the SQL that makes everything."""
        return [
            "CREATE SCHEMA IF NOT EXISTS mltrigger",
            FEEDS,
            self.outbox_sql(),
            self.full_sql(),
            self.claim(shape),
            self.function(shape),
            *(self.trigger_sql(on, shape) for on in self.place.on),
        ]

    def removal(self) -> list[str]:
        """Return the SQL that removes exactly that."""
        return [
            f"DROP FUNCTION IF EXISTS {self.outbox}() CASCADE",
            f"DROP TABLE IF EXISTS {self.outbox}",
            f"DROP SEQUENCE IF EXISTS {self.full}",
            f"DELETE FROM mltrigger.feeds WHERE outbox = {self.feed}",
        ]

    def grants(self, shape: Shape, role: str) -> list[str]:
        """Return the SQL of the least privileges of the *role* that reads."""
        return [
            f"GRANT USAGE ON SCHEMA mltrigger TO {ident(role)}",
            f"GRANT SELECT, UPDATE ON mltrigger.feeds TO {ident(role)}",
            f"GRANT SELECT, DELETE ON {self.outbox} TO {ident(role)}",
            f"GRANT SELECT, UPDATE ON SEQUENCE {self.full} TO {ident(role)}",
            f"GRANT SELECT ON {shape.name} TO {ident(role)}",
        ]

    def outbox_sql(self) -> str:
        """Return the SQL of the outbox."""
        return (
            f"CREATE TABLE IF NOT EXISTS {self.outbox} (\n"
            "  id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, change text NOT NULL,\n"
            "  at timestamptz NOT NULL DEFAULT clock_timestamp(), row json\n)"
            " WITH (autovacuum_vacuum_scale_factor = 0,"
            " autovacuum_vacuum_threshold = 1000, autovacuum_vacuum_cost_delay = 0)"
        )

    def full_sql(self) -> str:
        """Return the SQL of a sequence that says whether the outbox is full.

        A table would not do. A transaction with an old snapshot does not see it change. Two
        serializable ones would be in each other's way.
        """
        return f"CREATE SEQUENCE IF NOT EXISTS {self.full}"

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
        # The bytes, or the texts: some types cannot be compared, and an update would fail.
        changed = " OR ".join(
            f"OLD.{ident(name)}::text IS DISTINCT FROM NEW.{ident(name)}::text"
            for name in self.place.fields
            if name in shape.columns
        )
        when = f"\n  WHEN ({changed or 'OLD *<> NEW'})" if on == "update" else ""
        return (
            f"CREATE TRIGGER {ident(self.trigger(on))} AFTER {on.upper()} ON {shape.name}\n"
            f"  FOR EACH ROW{when} EXECUTE FUNCTION {self.outbox}()"
        )

    def function(self, shape: Shape) -> str:
        """Return the SQL of the function that the triggers call."""
        settings = "".join(f" SET {name} = {value!r}" for name, value in SETTINGS.items())
        body, tag = self.body(shape), "$mltrigger$"
        while tag in body:
            tag = f"{tag[:-1]}_$"
        return (
            f"CREATE OR REPLACE FUNCTION {self.outbox}() RETURNS trigger\n"
            "LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp"
            f"{settings} AS {tag}{body}{tag}"
        )

    def body(self, shape: Shape) -> str:
        """Return the function's text.

        JSON is made of the whole row, so that a column may go, and as text: ``jsonb``, and a look
        into JSON, refuse values that ``json`` takes.
        """
        keys = ", ".join(f"{literal(name)}, NEW.{ident(name)}" for name in shape.key)
        return (
            "\nDECLARE\n  n bigint;\n  whole json;\nBEGIN\n"
            f"  IF pg_sequence_last_value({literal(self.full)}::regclass) IS NOT NULL THEN\n"
            "    RETURN NULL;\n  END IF;\n"
            "  IF TG_OP = 'DELETE' THEN\n    whole := row_to_json(OLD);\n"
            f"  ELSIF pg_column_size(NEW) > {_LARGEST} THEN\n"
            f"    whole := json_build_object({keys});\n"
            "  ELSE\n    whole := row_to_json(NEW);\n  END IF;\n"
            f"  INSERT INTO {self.outbox} (change, row)\n"
            "    VALUES (lower(TG_OP), whole) RETURNING id INTO n;\n"
            f"  IF n % {CHECK_EVERY} = 0 AND n - (SELECT min(id) FROM {self.outbox}) >= {LIMIT}\n"
            f"      AND (SELECT count(*) FROM {self.outbox}) >= {LIMIT} THEN\n"
            f"    PERFORM setval({literal(self.full)}::regclass, 1, true);\n"
            "  END IF;\n  RETURN NULL;\nEND\n"
        )
