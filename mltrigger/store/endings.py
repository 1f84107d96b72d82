"""Endings: the final outcomes of one subscription, in the order in which they were recorded."""

from __future__ import annotations

from mltrigger.broker import Ending, Endings, Mark
from mltrigger.store.archive import SOURCE, TYPE
from mltrigger.store.attempts import AFTER, BY_LOTS, FINAL, INVOKED, NEWEST, settled_since
from mltrigger.store.damage import ERRORS, damaged
from mltrigger.store.keys import time_of, trace_of
from mltrigger.store.transaction import Reader, Row, Store

_SPAN = 50_000
"""The attempts of all subscriptions that one look goes through."""
_MARK = f"SELECT id, seq, subscription_id, attempt, outcome, settled_us FROM {BY_LOTS} AS i"
_UP_TO = f"""
{_MARK} WHERE lot_id <= :row AND id <= :row ORDER BY lot_id DESC, place DESC LIMIT 1
"""
_END = "SELECT min(id) FROM lot WHERE id > :after"
_ANSWERS = f"""
FROM {BY_LOTS} i
JOIN event e ON e.seq = i.seq
WHERE {AFTER} AND i.id <= :until AND i.subscription_id = :s AND {FINAL}
  AND i.role NOT IN ('shadow', 'replay') AND {INVOKED}
"""
_READ = f"""
SELECT i.id, i.seq, event_id(e.id), {SOURCE}, {TYPE}, e.published_us, e.lag_us, e.time, e.subject,
  (SELECT name FROM topic WHERE id = e.topic_id), e.traceparent, e.id, e.extensions,
  (SELECT name FROM model_version WHERE id = i.model_version_id),
  (SELECT version FROM model_version WHERE id = i.model_version_id),
  i.outcome, i.reason, i.attempt, e.published_us, i.received_us, i.started_us, i.finished_us,
  i.settled_us, i.output, i.error_type, i.error
{_ANSWERS} ORDER BY i.lot_id, i.place LIMIT :most
"""
_NUMBER = "SELECT id FROM subscription WHERE name = :name"


class StoredEndings:
    """The endings of all subscriptions of one store.

    Attempts get rising numbers, and one transaction writes at a time. So no ending appears behind
    one that was read, but for the case that :meth:`_after` is about.
    """

    def __init__(self, store: Store) -> None:
        self._store = store

    def newest(self) -> Mark:
        """Return the place of the newest attempt, the beginning if there is none."""
        with self._store.snapshot() as reader:
            return _up_to(reader, _newest(reader))

    def read(self, subscription: str, after: Mark, most: int, until: int | None = None) -> Endings:
        """Return the next endings of *subscription* after *after*, at most *most*.

        Those after number *until* are left out.
        """
        with self._store.snapshot() as reader:
            newest = _newest(reader)
            last = newest if until is None else min(newest, until)
            begin = _after(reader, after)
            ((next_,),) = reader.query(_END, {"after": begin})
            end = last if next_ is None else min(last, next_ + _SPAN)
            of = {"s": _number(reader, subscription), "row": begin, "until": end, "most": most}
            found = list(map(_ending, reader.query(_READ, of)))
            end = found[-1].number if len(found) == most else end
            read_to = _up_to(reader, end)
        if read_to.number <= begin:
            read_to = after._replace(number=end)
        return Endings(found, read_to, more=end < last and bool(found or end > begin))

    def count(self, subscription: str, after: Mark, until: int | None = None) -> int:
        """Return how many endings of *subscription* come after *after*, up to *until*."""
        with self._store.snapshot() as reader:
            newest = _newest(reader)
            of = {
                "s": _number(reader, subscription),
                "row": _after(reader, after),
                "until": newest if until is None else min(newest, until),
            }
            ((n,),) = reader.query(f"SELECT count(*) {_ANSWERS}", of)
        return int(n)


def _after(reader: Reader, mark: Mark) -> int:
    """Return the number after which the unread endings are.

    The attempt of *mark* may be gone: it was pruned, or it was abandoned and got its answer late.
    The store may be an older copy, which gives its number again. So the search begins a little
    before its time.
    """
    now = _up_to(reader, mark.number)
    if mark.number == 0 or (
        now[:4] == mark[:4] and (now.outcome == mark.outcome or mark.outcome != "abandoned")
    ):
        return mark.number
    return settled_since(reader, mark.settled_us) - 1


def _newest(reader: Reader) -> int:
    ((newest,),) = reader.query(NEWEST, {})
    return int(newest)


def _up_to(reader: Reader, row: int) -> Mark:
    """Return the place of the newest attempt up to *row*, the beginning if there is none."""
    rows = reader.query(_UP_TO, {"row": row})
    return Mark(*rows[0]) if rows else Mark()


def _number(reader: Reader, subscription: str) -> int | None:
    return next((n for (n,) in reader.query(_NUMBER, {"name": subscription})), None)


def _ending(row: Row) -> Ending:
    """Return the ending of a row of _READ."""
    number, seq, id_, source, type_, published_us, lag_us, time, subject, topic, trace, *rest = row
    key, extensions, *others = rest
    try:
        said, trace = time_of(published_us, lag_us, time).isoformat(), trace or trace_of(key)
    except ERRORS as error:
        raise damaged("event", seq, error) from error
    return Ending(number, seq, id_, source, type_, said, subject, topic, trace, extensions, *others)
