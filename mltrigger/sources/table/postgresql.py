"""A table of PostgreSQL: a trigger writes each changed row as JSON into an outbox.

It does the least there is, since its failure would be that of the user's insert. It notifies
nobody: NOTIFY takes a lock over all commits, and PREPARE TRANSACTION refuses it. JSON is made of
the whole row, so that a column may go or change its type.
"""

from __future__ import annotations

import base64
import contextlib
import threading
import time
import urllib.parse
from collections.abc import Iterator, Sequence
from typing import Any

from mltrigger.broker import Finding
from mltrigger.errors import StoreError
from mltrigger.sources.table import checks
from mltrigger.sources.table.database import (
    BATCH_BYTES,
    BATCH_ROWS,
    Change,
    Chunk,
    Database,
    Key,
    Taken,
    Waiting,
)
from mltrigger.sources.table.place import TablePlace
from mltrigger.sources.table.postgresql_server import Server
from mltrigger.sources.table.postgresql_setup import Setup
from mltrigger.sources.table.postgresql_sql import PostgresSql, Shape
from mltrigger.sources.table.postgresql_values import exact, loads
from mltrigger.sources.table.quoting import ident, literal
from mltrigger.sources.table.values import key_text

_POLL_S, _IDLE_POLL_S, _ACTIVE_S = 0.05, 0.25, 10.0
"""How often to look: for a while after a change, and later."""
_COUNT_S = 2
"""How long counting the rows of a table may take."""
_UNREADABLE = object()
"""A value that has no JSON form: the column is left out, and named."""
_BYTEA = 17
"""The type number of ``bytea`` (https://www.postgresql.org/docs/current/catalog-pg-type.html)."""
_COLUMNS = """
SELECT attname, atttypid FROM pg_attribute
WHERE attrelid = %s AND attnum > 0 AND NOT attisdropped ORDER BY attnum
"""
_KEY = """
SELECT a.attname, format_type(a.atttypid, a.atttypmod)
FROM pg_index i
CROSS JOIN LATERAL unnest(i.indkey::int2[]) WITH ORDINALITY AS k (attnum, place)
JOIN pg_attribute a ON a.attrelid = i.indrelid AND a.attnum = k.attnum
WHERE i.indrelid = %s AND i.indisprimary AND k.place <= i.indnkeyatts ORDER BY k.place
"""
_TABLES = """
SELECT CASE n.nspname WHEN 'public' THEN '' ELSE n.nspname || '.' END || c.relname
FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
WHERE c.relkind IN ('r', 'p') AND n.nspname NOT IN ('pg_catalog', 'information_schema', 'mltrigger')
LIMIT 200
"""
_MADE = """
SELECT to_regclass(%(outbox)s) IS NOT NULL
  AND (SELECT count(*) = %(n)s FROM pg_trigger
    WHERE tgrelid = %(relation)s AND tgname = ANY (%(triggers)s) AND tgenabled <> 'D')
  AND (SELECT count(*) = 1 FROM pg_proc p JOIN pg_namespace n ON n.oid = p.pronamespace
    WHERE n.nspname = 'mltrigger' AND p.proname = %(name)s AND p.prosrc = %(body)s)
"""


class PostgresTable(Database):
    """A table of a PostgreSQL server."""

    def __init__(self, place: TablePlace) -> None:
        super().__init__(place)
        self._sql = PostgresSql(place)
        self._server = Server(place)
        self._setup = Setup(place, self._sql, self._server)
        self._seen: Shape | None = None
        self._changed_s = time.monotonic()

    # -- make and remove ---------------------------------------------------------------------------

    def statements(self) -> list[str]:
        """Return the SQL that makes everything."""
        return self._sql.all(self._shape())

    def removal(self) -> list[str]:
        """Return the SQL that removes exactly that."""
        return self._sql.removal()

    def grants(self, role: str | None = None) -> list[str]:
        """Return the SQL of the least privileges of the role that reads."""
        user = urllib.parse.unquote(urllib.parse.urlsplit(self.place.database).username or "relay")
        return self._sql.grants(self._shape(), role or user.partition(":")[0])

    def owner(self) -> str:
        """Return the owner of the table. The trigger's function has the rights of its maker."""
        return self._shape().owner

    def check(self) -> None:
        """Raise InvalidName unless table and columns exist."""
        checks.columns(self.place, list(self._shape().columns))

    def installed(self) -> bool:
        """Whether the triggers are there as :meth:`statements` makes them."""
        shape = self._shape()
        parameters = {
            "outbox": self._sql.outbox,
            "n": len(self.place.on),
            "relation": shape.relation,
            "triggers": [self._sql.trigger(on) for on in self.place.on],
            "name": self.place.outbox,
            "body": self._sql.body(shape),
        }
        return bool(self._server.query(_MADE, parameters)[0][0])

    def attach(self, owner: str) -> str:
        """Make everything that is missing in one transaction. Return the epoch of the outbox."""
        self._seen = None
        try:
            with self._server.transaction():
                return self._attach(owner)
        finally:
            self._seen = None

    def _attach(self, owner: str) -> str:
        made = bool(self._server.query("SELECT to_regclass('mltrigger.feeds') IS NOT NULL")[0][0])
        known = self._feed() if made else None
        if known is not None and known[0] not in (None, owner):
            raise Taken
        whole = known is not None and self.installed()
        if not whole:
            if known is None:
                self.check()
            self._setup.make(self._looked_at, again=known is not None)
            self._seen = None
        if known is None or known[0] != owner:
            self._server.query(
                "UPDATE mltrigger.feeds SET bus = %s WHERE outbox = %s RETURNING 1",
                (owner, self.place.outbox),
            )
        return str((self._feed() or ("", ""))[1])

    def remove(self) -> None:
        """Remove everything that :meth:`attach` made."""
        self._setup.remove()

    # -- read --------------------------------------------------------------------------------------

    def read(self) -> list[Change]:
        """Return the next committed changes, by their number."""
        rows = self._server.query(
            "SELECT id, change, at, row::text, found FROM (SELECT *, count(*) OVER () AS found,"
            " sum(pg_column_size(row)) OVER (ORDER BY id) - pg_column_size(row) AS before FROM"
            f" (SELECT * FROM {self._sql.outbox} ORDER BY id LIMIT {BATCH_ROWS}) AS o) AS s"
            f" WHERE before < {BATCH_BYTES} ORDER BY id"
        )
        if rows:
            self._changed_s = time.monotonic()
        found = rows[0][-1] if rows else 0
        self.more = found == BATCH_ROWS or found > len(rows)
        return [self._change(*row[:-1]) for row in rows]

    def _change(self, number: int, change: str, at: Any, text: str) -> Change:
        row = self._parsed(text)
        if not self._shape().columns.keys() >= row.keys():
            self._seen = None  # it has columns that were not there
        shape = self._shape()
        key = self._key(text, row, shape) if shape.key else None
        return Change(number, change, round(at.timestamp() * 1e6), key, self._data(row, shape))

    def _key(self, text: str, row: dict[str, Any], shape: Shape) -> str:
        """Return the text of the primary key of *row*. Numbers are as they are written."""
        if any(isinstance(row.get(name), float) for name in shape.key):
            with contextlib.suppress(RecursionError, ValueError):
                row = exact(text)
        return key_text([row.get(name) for name in shape.key])

    def _parsed(self, text: str) -> dict[str, Any]:
        """Return a row. An unreadable column gets a value without a JSON form."""
        try:
            row: dict[str, Any] = loads(text)
        except (RecursionError, ValueError):
            row = dict.fromkeys(self._shape().columns, _UNREADABLE)
            sql = "SELECT key, value::text FROM json_each(%s::json)"
            with contextlib.suppress(StoreError):
                for name, value in self._server.query(sql, (text,)):
                    with contextlib.suppress(RecursionError, ValueError):
                        row[name] = loads(value)
        return row

    def _data(self, row: dict[str, Any], shape: Shape) -> dict[str, Any]:
        """Return the fields of *row*. Bytes are hexadecimal there, and base64 in an event."""
        is_cut = not row.keys() - shape.key.keys()  # too large: it has only the key
        named = self.place.fields or (shape.columns if is_cut else row)
        data = {name: row.get(name, _UNREADABLE) for name in named}
        for name, value in data.items():
            if shape.columns.get(name) == _BYTEA and isinstance(value, str):
                data[name] = base64.b64encode(bytes.fromhex(value[2:])).decode()
        return data

    def delete(self, changes: Sequence[Change]) -> None:
        """Delete these rows of the outbox, and count them as taken."""
        # Exactly these: a smaller number may be committed later.
        self._server.query(
            f"WITH gone AS (DELETE FROM {self._sql.outbox} WHERE id = ANY (%s)"
            " RETURNING change) UPDATE mltrigger.feeds SET"
            " taken = taken + (SELECT count(*) FROM gone WHERE change = 'insert')"
            " WHERE outbox = %s RETURNING 1",
            ([change.id for change in changes], self.place.outbox),
        )

    def tidy(self, at_end: bool = False) -> None:
        """Let the trigger write again, once the outbox is empty."""
        if not at_end and self._is_full():
            self._server.query(f"SELECT setval({literal(self._sql.full)}, 1, false)")

    def _is_full(self) -> bool:
        sql = f"SELECT pg_sequence_last_value({literal(self._sql.full)}::regclass) IS NOT NULL"
        return bool(self._server.query(sql)[0][0])

    def keys(self) -> list[str]:
        """Return the primary key's columns."""
        return list(self._shape().key)

    def chunk(self, after: Key | None) -> tuple[Chunk, set[str]]:
        """Return the next rows of the table by primary key, and the keys inserted in the outbox."""
        shape = self._shape()
        key = ", ".join(ident(column).replace("%", "%%") for column in shape.key)
        texts = ", ".join(f"{ident(column)}::text" for column in shape.key)
        beyond = ""
        if after is not None:
            given = ", ".join(f"%s::{kind}" for kind in shape.key.values())
            beyond = f"WHERE ({key}) > ({given})"
        with self._server.transaction():
            self._server.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ, READ ONLY")
            rows = self._server.query(
                f"SELECT row_to_json(t)::text, ARRAY[{texts}]::text[]".replace("%", "%%")
                + f" FROM {shape.name} AS t".replace("%", "%%")
                + f" {beyond} ORDER BY {key} LIMIT {BATCH_ROWS}",
                tuple(after or ()),
            )
            fresh = self._server.query(
                f"SELECT row::text FROM {self._sql.outbox} WHERE change = 'insert'"
            )
        old = [(text, self._parsed(text)) for text, _ in rows]
        new = [(text, self._parsed(text)) for (text,) in fresh]
        found = [(self._key(text, row, shape), self._data(row, shape)) for text, row in old]
        inserted = {self._key(text, row, shape) for text, row in new}
        return Chunk(found, rows[-1][1] if rows else after), inserted

    def rows(self) -> int:
        """Return about how many rows the table has."""
        shape = self._shape()
        ((n,),) = self._server.query(
            "SELECT reltuples FROM pg_class WHERE oid = %s", (shape.relation,)
        )
        if n <= 100_000:
            ((n,),) = self._server.query(f"SELECT count(*) FROM {shape.name}")
        return int(n)

    def waiting(self) -> Waiting:
        """Return the number and age of the rows in the outbox."""
        outbox = self._sql.outbox
        ((n, oldest),) = self._server.query(
            f"SELECT (SELECT count(*) FROM {outbox}), (SELECT extract(epoch FROM"
            f" clock_timestamp() - at) FROM {outbox} ORDER BY id LIMIT 1)"
        )
        return Waiting(int(n), None if oldest is None else max(0.0, float(oldest)), self._is_full())

    def wait(self, stopped: threading.Event) -> None:
        """Wait until something is in the outbox, or for a second."""
        until_s = time.monotonic() + 1.0
        while not stopped.is_set() and time.monotonic() < until_s:
            sql = f"SELECT EXISTS (SELECT FROM {self._sql.outbox})"
            if self._server.query(sql)[0][0]:
                return
            active = time.monotonic() - self._changed_s < _ACTIVE_S
            stopped.wait(_POLL_S if active else _IDLE_POLL_S)

    def findings(self, about: str) -> Iterator[Finding]:
        """Yield findings about the trigger and rows that are no events."""
        shape = self._shape()
        if shape.shown != self.place.relation:
            yield checks.renamed(about, self.place, shape.shown)
        if not self._server.query("SELECT to_regclass('mltrigger.feeds') IS NOT NULL")[0][0]:
            yield checks.no_trigger(about, self.place)
            return
        yield from checks.gone(about, self.place, list(shape.columns))
        if not self.installed():
            yield checks.no_trigger(about, self.place)
        missing, remade_s = self._counted(shape)
        if remade_s is not None:
            yield checks.remade(about, self.place, float(remade_s))
        if missing > 0 and "insert" in self.place.on:
            why = "session_replication_role = replica fires no trigger"
            yield checks.missing(about, self.place, missing, why)
        yield from checks.outbox(about, self.place, self.waiting())

    def _counted(self, shape: Shape) -> tuple[int, float | None]:
        """Return how many rows have no event, and how long ago the trigger was made again.

        0 and ``None`` for a table that takes too long to count.
        """
        try:
            with self._server.transaction():
                self._server.execute(f"SET LOCAL statement_timeout = '{_COUNT_S}s'")
                rows = self._server.query(
                    f"SELECT (SELECT count(*) FROM {shape.name}) - rows - taken - (SELECT count(*)"
                    f" FROM {self._sql.outbox} WHERE change = 'insert'),"
                    " extract(epoch FROM now() - remade) FROM mltrigger.feeds"
                    f" WHERE outbox = {self._sql.feed}"
                )
        except Exception as error:
            if not self._server.is_timeout(error):
                raise
            return 0, None
        return rows[0] if rows else (0, None)

    def close(self) -> None:
        """Close the connection."""
        self._seen = None
        self._server.close()

    # -- the table as it is ------------------------------------------------------------------------

    def _shape(self) -> Shape:
        """Return the table as it is now. A renamed one is found by its number."""
        if self._seen is None:
            self._seen = self._looked_at()
        return self._seen

    def _looked_at(self) -> Shape:
        named = f"{ident(self.place.schema)}.{ident(self.place.table)}"
        ((relation,),) = self._server.query("SELECT to_regclass(%s)::oid::bigint", (named,))
        if relation is None:
            relation = self._renamed()
        rows = self._server.query(
            "SELECT n.nspname, c.relname, c.relkind, pg_get_userbyid(c.relowner) FROM pg_class c"
            " JOIN pg_namespace n ON n.oid = c.relnamespace WHERE c.oid = %s",
            (relation,),
        )
        if not rows or rows[0][2] not in ("r", "p", b"r", b"p"):
            known = [name for (name,) in self._server.query(_TABLES)]
            raise checks.no_table(self.place, known, is_view=bool(rows))
        schema, table, _, owner = rows[0]
        columns = dict(self._server.query(_COLUMNS, (relation,)))
        key = dict(self._server.query(_KEY, (relation,)))
        name = f"{ident(schema)}.{ident(table)}"
        return Shape(int(relation), name, f"{schema}.{table}", columns, key, owner)

    def _renamed(self) -> int | None:
        if not self._server.query("SELECT to_regclass('mltrigger.feeds') IS NOT NULL")[0][0]:
            return None
        rows = self._server.query(
            "SELECT relation::bigint FROM mltrigger.feeds WHERE outbox = %s", (self.place.outbox,)
        )
        return int(rows[0][0]) if rows else None

    def _feed(self) -> tuple[Any, ...] | None:
        """Return the bus and the epoch of the feed. ``None`` when it was not made."""
        rows = self._server.query(
            "SELECT bus, epoch FROM mltrigger.feeds WHERE outbox = %s", (self.place.outbox,)
        )
        return rows[0] if rows else None
