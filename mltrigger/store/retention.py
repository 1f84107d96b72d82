"""Retention: delete old events with their records, by age and by count.

Open events and dead letters are never deleted.
"""

from __future__ import annotations

import dataclasses
import itertools
import math
from typing import NamedTuple

from mltrigger.clock import Clock
from mltrigger.errors import InvalidPolicy
from mltrigger.store.damage import damaged
from mltrigger.store.transaction import Store, Transaction
from mltrigger.text import card_of

_BATCH = 2_000
"""The events of one transaction. Others can write between two of them."""

_OLDEST = "SELECT seq, published_us FROM event WHERE seq > :after ORDER BY seq LIMIT :n"
_HELD = """
SELECT seq FROM waiting WHERE seq BETWEEN :low AND :high
UNION SELECT seq FROM lease WHERE seq BETWEEN :low AND :high
UNION SELECT seq FROM dead_letter WHERE seq BETWEEN :low AND :high AND discarded_us IS NULL
UNION SELECT seq FROM unsent WHERE seq BETWEEN :low AND :high
"""
_NEWEST = "SELECT coalesce(max(seq), 0) FROM event"
_COUNT = "SELECT count(*) FROM event"
"""A statement of its own: SQLite then counts an index without reading its entries."""
_OLDEST_BUT = "SELECT seq FROM event ORDER BY seq LIMIT 1 OFFSET :n"
_FORGET_DESCENT = """
DELETE FROM descent WHERE counted_us < (SELECT published_us FROM event ORDER BY seq LIMIT 1)
"""
_TABLES = ("resent", "repeat", "dead_letter", "event")


@dataclasses.dataclass(frozen=True, slots=True)
class Retention:
    """How long events and their invocations are kept.

    Open events and dead letters stay until somebody ends them.

    Parameters
    ----------
    max_age_s : float, optional
        Seconds since publication. Older events may be deleted. Default: no limit.
    max_events : int, optional
        The number of newest events to keep, over all topics. Default: no limit.
    """

    max_age_s: float | None = None
    max_events: int | None = None

    def __post_init__(self) -> None:
        for name, whole in (("max_age_s", False), ("max_events", True)):
            value = getattr(self, name)
            kinds = int if whole else (int, float)
            if value is not None and (
                isinstance(value, bool) or not isinstance(value, kinds) or not 1 <= value < math.inf
            ):
                raise InvalidPolicy(
                    f"retention {name} must be a {'whole ' if whole else ''}number of at least 1 or"
                    f" left out, got {value!r}"
                )

    def _repr_html_(self) -> str:
        return card_of("Retention", self, {"max_age_s": " s"})


class Pruned(NamedTuple):
    """The counts of deleted events and invocations, and of old events that are open or dead."""

    events: int
    invocations: int
    held: int

    def _repr_html_(self) -> str:
        return card_of("Pruned", self)


def prune(store: Store, clock: Clock, retention: Retention) -> Pruned:
    """Delete the events beyond *retention*, oldest first, in small transactions.

    A kill at any point leaves only whole events. The space is given back by and by.
    """
    events = invocations = held = after = 0
    limit = _limit_of(store, retention, clock.now_us())
    for _ in itertools.count():
        with store.transaction(durable=False) as transaction:
            after, seqs, kept, more = _look(transaction, limit, after)
            # One pass over each table: its key may not begin with seq.
            among = ", ".join(map(str, seqs))
            for table in _TABLES:
                transaction.execute(f"DELETE FROM {table} WHERE seq IN ({among})", {})
            invocations += transaction.execute(f"DELETE FROM invocation WHERE seq IN ({among})", {})
            events, held = events + len(seqs), held + kept
            if not more:
                transaction.execute(_FORGET_DESCENT, {})
        if not more:
            break
    store.tidy()
    return Pruned(events, invocations, held)


class _Limit(NamedTuple):
    """The events to delete: up to ``surplus``, or published before ``before_us``.

    ``newest`` always stays.
    """

    newest: int
    surplus: int
    before_us: int


def _limit_of(store: Store, retention: Retention, now_us: int) -> _Limit:
    """Find the limit once, without the write lock.

    The cost grows with the number of deleted events, not of kept ones.
    """
    before_us = now_us - int(retention.max_age_s * 1e6) if retention.max_age_s is not None else 0
    surplus = 0
    with store.snapshot() as reader:
        ((newest,),) = reader.query(_NEWEST, {})
        if retention.max_events is not None:
            ((count,),) = reader.query(_COUNT, {})
            if count > retention.max_events:
                ((surplus,),) = reader.query(_OLDEST_BUT, {"n": count - retention.max_events - 1})
    return _Limit(newest, surplus, before_us)


def _look(transaction: Transaction, limit: _Limit, after: int) -> tuple[int, list[int], int, bool]:
    """Return the last seq looked at, the seqs to delete, the number held, and whether to go on."""
    rows = transaction.query(_OLDEST, {"after": after, "n": _BATCH})
    # The archive is in the order of publication, so all later events are younger. The newest event
    # stays, because the next one takes the number after it.
    old = []
    for seq, published_us in rows:
        if not _is_old(seq, published_us, limit):
            break
        old.append(seq)
    if not old:
        return after, [], 0, False
    held = {seq for (seq,) in transaction.query(_HELD, {"low": old[0], "high": old[-1]})}
    return (
        old[-1],
        [seq for seq in old if seq not in held],
        len(held.intersection(old)),
        len(old) == _BATCH,
    )


def _is_old(seq: int, published_us: int, limit: _Limit) -> bool:
    try:
        is_beyond = published_us < limit.before_us or seq <= limit.surplus
    except TypeError as error:
        raise damaged("event", seq, error) from error
    return is_beyond and seq < limit.newest
