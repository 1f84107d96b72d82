"""Retention: events and what was logged of them, by age and by count.

What is open or dead never goes by itself.
"""

from __future__ import annotations

import dataclasses
import itertools
import math
from typing import NamedTuple

from mltrigger.clock import Clock
from mltrigger.errors import InvalidPolicy
from mltrigger.store.damage import damaged
from mltrigger.store.transaction import Row, Store, Transaction
from mltrigger.text import card_of

_BATCH = 2_000
"""Events looked at in one transaction: others write in between."""

_OLDEST = "SELECT seq, published_us FROM event WHERE seq > :after ORDER BY seq LIMIT :n"
_HELD = """
SELECT seq FROM waiting WHERE seq BETWEEN :low AND :high UNION SELECT seq FROM lease WHERE seq BETWEEN :low AND :high
UNION SELECT seq FROM dead_letter WHERE seq BETWEEN :low AND :high AND discarded_us IS NULL
UNION SELECT seq FROM unsent WHERE seq BETWEEN :low AND :high
"""
_NEWEST = "SELECT coalesce(max(seq), 0) FROM event"
_COUNT = "SELECT count(*) FROM event"
"""Apart from the above, SQLite counts the entries of an index without looking at them."""
_OLDEST_BUT = "SELECT seq FROM event ORDER BY seq LIMIT 1 OFFSET :n"
_TABLES = ("resent", "repeat", "dead_letter", "event")


@dataclasses.dataclass(frozen=True, slots=True)
class Retention:
    """How long events and their invocations are kept; what is open or a dead letter stays until
    somebody ends it.

    Parameters
    ----------
    max_age_s : float, optional
        Seconds since publication; older events may go. Default: no limit.
    max_events : int, optional
        The newest so many events stay, over all topics. Default: no limit.
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
    """What a prune deleted, and how many events were old enough but are open or dead."""

    events: int
    invocations: int
    held: int

    def _repr_html_(self) -> str:
        return card_of("Pruned", self)


def prune(store: Store, clock: Clock, retention: Retention) -> Pruned:
    """Delete what *retention* lets go, oldest first, in small transactions; killed at any point it
    leaves whole events.
    """
    events = invocations = held = after = 0
    limit = _limit_of(store, retention, clock.now_us())
    for _ in itertools.count():
        with store.transaction(durable=False) as transaction:
            low, seqs, kept, more = _look(transaction, limit, after)
            # numbers of ours; one pass a table, whose keys may not begin with them
            among = ", ".join(map(str, seqs))
            for table in _TABLES:
                transaction.execute(f"DELETE FROM {table} WHERE seq IN ({among})", {})
            invocations += transaction.execute(f"DELETE FROM invocation WHERE seq IN ({among})", {})
            events, held, after = events + len(seqs), held + kept, low
            if not more:
                transaction.execute(
                    "DELETE FROM descent WHERE counted_us < (SELECT published_us FROM event ORDER"
                    " BY seq LIMIT 1)",
                    {},
                )
        if not more:
            break
    return Pruned(events, invocations, held)


class _Limit(NamedTuple):
    """What may go: events up to ``surplus``, and those published before ``before_us``; never
    ``newest``.
    """

    newest: int
    surplus: int
    before_us: int


def _limit_of(store: Store, retention: Retention, now_us: int) -> _Limit:
    """Find the limit once, without the write lock: its cost grows with what goes, not with what
    stays.
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
    """Return the last seq looked at, those that may go, how many are held, and whether there may be
    more.
    """
    rows = transaction.query(_OLDEST, {"after": after, "n": _BATCH})
    # The archive is in the order of publication: all that follow are younger. The newest stays: the
    # next one takes the number after it.
    old = [
        seq
        for seq, _ in itertools.takewhile(
            lambda row: row[0] < limit.newest and _is_old(row, limit), rows
        )
    ]
    if not old:
        return after, [], 0, False
    held = {seq for (seq,) in transaction.query(_HELD, {"low": old[0], "high": old[-1]})}
    return (
        old[-1],
        [seq for seq in old if seq not in held],
        len(held.intersection(old)),
        len(old) == _BATCH,
    )


def _is_old(row: Row, limit: _Limit) -> bool:
    seq, published_us = row
    try:
        return bool(published_us < limit.before_us or seq <= limit.surplus)
    except TypeError as error:
        raise damaged("event", seq, error) from error
