"""Partitions of the tables that grow: old rows leave by dropping tables, not by deleting rows.

Events, outcomes and details of the same numbers go together. Lots have numbers of their own. The
next numbers come from sequences: they have no dead versions, whatever snapshot somebody holds.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import psycopg

if TYPE_CHECKING:
    from mltrigger.store.postgresql.sessions import Session

SIZE = 1 << 18
"""The numbers of one partition."""
KEYS = {"event": "seq", "outcome": "seq", "detail": "seq", "lot": "id"}
"""The tables, and the columns that they are divided by."""
OF_EVENTS = ("event", "outcome", "detail")
"""The tables that are divided by the numbers of events."""
_FEW = 5_000
"""So many younger events of a partition are always written again."""
_PATIENCE = "200ms"
"""How long a drop waits for readers. New readers wait for it meanwhile."""

# The caller may write rows, but own no table. A snapshot keeps no table from a drop, so those who
# look at one moment lock the version of the schema.
CREATE = """
CREATE SEQUENCE event_seq MINVALUE 0 START 0;

CREATE SEQUENCE lot_seq;

CREATE FUNCTION newest_event() RETURNS bigint LANGUAGE sql STABLE AS $$
  SELECT last_value FROM event_seq $$;

CREATE FUNCTION make_partition(tables text[], number bigint) RETURNS void
  LANGUAGE plpgsql SECURITY DEFINER SET search_path = {schema}, pg_temp AS $$
DECLARE
  parent text;
BEGIN
  FOREACH parent IN ARRAY tables LOOP
    CONTINUE WHEN to_regclass(parent || '_' || number) IS NOT NULL;
    EXECUTE format('CREATE TABLE %I (LIKE %I INCLUDING ALL)', parent || '_' || number, parent);
    IF parent = 'event' THEN
      EXECUTE format('CREATE UNIQUE INDEX %I ON %I (id, source_id, topic_id)',
        'event_identity_' || number, 'event_' || number);
    END IF;
    EXECUTE format('ALTER TABLE %I ATTACH PARTITION %I FOR VALUES FROM (%s) TO (%s)',
      parent, parent || '_' || number, number * {size}, (number + 1) * {size});
  END LOOP;
END $$;

CREATE FUNCTION shed_partition(tables text[], number bigint, kept bigint[], last bigint)
  RETURNS bigint[]
  LANGUAGE plpgsql SECURITY DEFINER SET search_path = {schema}, pg_temp
  SET lock_timeout = {patience} AS $$
DECLARE
  parent text;
  part text;
  number_of text;
  n bigint;
  stayed bigint;
  gone bigint[] := '{{}}';
BEGIN
  LOCK TABLE schema_version IN ACCESS EXCLUSIVE MODE;
  FOREACH parent IN ARRAY tables LOOP
    part := parent || '_' || number;
    number_of := CASE parent WHEN 'lot' THEN 'id' ELSE 'seq' END;
    EXECUTE format('SELECT count(*), count(*) FILTER (WHERE %1$I = ANY ($1) OR %1$I > $2)'
      ' FROM %2$I', number_of, part) INTO n, stayed USING kept, last;
    IF cardinality(kept) = 0 AND last >= (number + 1) * {size} - 1 THEN
      EXECUTE format('DROP TABLE %I', part);
    ELSIF stayed < n THEN
      EXECUTE format('CREATE TEMPORARY TABLE kept_rows AS SELECT * FROM %2$I'
        ' WHERE %1$I = ANY ($1) OR %1$I > $2', number_of, part) USING kept, last;
      EXECUTE format('TRUNCATE %I', part);
      EXECUTE format('INSERT INTO %I SELECT * FROM kept_rows', part);
      DROP TABLE kept_rows;
    END IF;
    gone := gone || (n - stayed);
  END LOOP;
  RETURN gone;
EXCEPTION WHEN lock_not_available THEN
  RETURN NULL;
END $$
"""
_THERE = """
SELECT substr(c.relname, %s)::bigint AS number FROM pg_inherits i
JOIN pg_class c ON c.oid = i.inhrelid WHERE i.inhparent = %s::regclass ORDER BY 1
"""
_SPAN = """
SELECT (SELECT id FROM event WHERE seq >= %(low)s AND seq < %(high)s ORDER BY id LIMIT 1),
  (SELECT id FROM event WHERE seq >= %(low)s AND seq < %(high)s ORDER BY id DESC LIMIT 1)
"""
_KNOWN = """
SELECT id, source_id, topic_id FROM event WHERE seq >= %s AND seq < %s AND id = ANY(%b::bytea[])
"""


def create(schema: str) -> str:
    """Return the script that makes the sequences and functions."""
    return CREATE.format(schema=f'"{schema}"', size=SIZE, patience=f"'{_PATIENCE}'")


class Partitions:
    """The partitions that this process knows of. The writers' lock is held wherever it is asked."""

    def __init__(self) -> None:
        self._made: dict[str, int] = {}
        """The newest partition that was seen, of events and of lots."""
        self._listed = 0
        """The partition of events that is written to."""
        self._spans: dict[int, tuple[bytes, bytes] | None] = {}
        """The first and the last id of partitions that get no more events."""

    def ensure(self, session: Session, table: str, first: int, last: int) -> None:
        """Make the partitions of *table* for the numbers from *first* to *last*.

        The next one is made when half of the last one is used.
        """
        newest, made = (last + SIZE // 2) // SIZE, self._made.get(table, -1)
        if newest > made:
            tables = ["lot"] if table == "lot" else [*OF_EVENTS]
            for number in range(max(made + 1, first // SIZE), newest + 1):
                session.execute("SELECT make_partition(%s::text[], %s)", [tables, number])
            self._made[table] = newest

    def known(
        self, session: Session, span: tuple[int, int], keys: Sequence[tuple[bytes, int, int]]
    ) -> set[tuple[bytes, int, int]]:
        """Return those of *keys* that events in partitions before the last one of *span* have.

        Only partitions with such ids are searched. Ids of new events are newer than all of them.
        """
        first, current = span[0] // SIZE, span[1] // SIZE
        if current != self._listed or first != current:
            numbers = [n for n in there(session, "event") if n < current]
            self._spans = {n: self._spans.get(n) for n in numbers}
            self._listed = current
        if not self._spans:
            return set()
        ids, found = sorted({key for key, _, _ in keys}), set[tuple[bytes, int, int]]()
        for number, known in self._spans.items():
            low = number * SIZE
            of = known if number < first and known else _span(session, low)
            if number < first:
                self._spans[number] = of
            if of is None or ids[-1] < of[0] or ids[0] > of[1]:
                continue
            near = [key for key in ids if of[0] <= key <= of[1]]
            if near:
                with psycopg.Cursor(session) as cursor:
                    found.update(cursor.execute(_KNOWN, [low, low + SIZE, near]).fetchall())
        return found


def there(session: Session, table: str) -> list[int]:
    """Return the numbers of the partitions of *table*."""
    rows = session.execute(_THERE, [len(table) + 2, table]).fetchall()
    return [number for (number,) in rows]


def _span(session: Session, low: int) -> tuple[bytes, bytes] | None:
    """Return the first and the last id of a partition, ``None`` if it is empty."""
    row = session.execute(_SPAN, {"low": low, "high": low + SIZE}).fetchone()
    return None if row is None or row[0] is None else (row[0], row[1])


def old_lots(session: Session, last: int) -> list[tuple[int, int]]:
    """Return the numbers of those partitions of lots that have none of an event after *last*."""
    sql = "SELECT NOT EXISTS (SELECT 1 FROM lot WHERE id >= %s AND id < %s AND high > %s)"
    found = []
    for number in there(session, "lot")[:-1]:  # not the one that is written to
        low, end = number * SIZE, (number + 1) * SIZE
        row = session.execute(sql, [low, end, last]).fetchone()
        found += [(low, end - 1)] if row and row[0] else []
    return found


def shed(session: Session, table: str, low: int, high: int, kept: Sequence[int]) -> dict[str, int]:
    """Empty a partition from *low* to *high*, but for the rows *kept*. Drop it if none is left.

    Return how many rows of each table are gone: none if a reader is in the way.
    """
    tables = ["lot"] if table == "lot" else [*OF_EVENTS]
    sql = "SELECT shed_partition(%s::text[], %s, %s::bigint[], %s)"
    row = session.execute(sql, [tables, low // SIZE, list(kept), high]).fetchone()
    gone = row[0] if row is not None and row[0] is not None else [0] * len(tables)
    return dict(zip(tables, gone, strict=True))


def old_events(session: Session, last: int) -> list[tuple[int, int]]:
    """Return the numbers up to *last* by partition, those that can be emptied with little to keep.

    Of a partition that begins with old events the younger ones are written again, if they are few.
    """
    row = session.execute("SELECT newest_event()").fetchone()
    newest = row[0] if row else 0
    found = []
    for number in there(session, "event"):
        low, end = number * SIZE, (number + 1) * SIZE - 1
        younger = min(newest, end) - last
        if younger <= 0 or (low < last and younger <= max(_FEW, (last - low) // 3)):
            found.append((low, min(end, last)))
    return found
