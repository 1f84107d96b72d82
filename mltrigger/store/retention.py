"""Retention: events and what was logged of them, by age and by count. What is open or dead never goes by itself."""

from __future__ import annotations

import dataclasses
import itertools
import math
from collections.abc import Iterator
from typing import NamedTuple

from mltrigger.clock import Clock
from mltrigger.errors import InvalidPolicy
from mltrigger.render import card_of
from mltrigger.store.transaction import Store, Transaction

_BATCH = 2_000
"""Events looked at in one transaction: others write in between."""

_OLDEST = "SELECT seq, published_us FROM event WHERE seq > :after ORDER BY seq LIMIT :n"
_HELD = """
SELECT seq FROM waiting WHERE seq BETWEEN :low AND :high UNION SELECT seq FROM lease WHERE seq BETWEEN :low AND :high
UNION SELECT seq FROM dead_letter WHERE seq BETWEEN :low AND :high AND discarded_us IS NULL
UNION SELECT seq FROM unsent WHERE seq BETWEEN :low AND :high
"""
# The newest event stays in any case: the next one takes the number after it.
_SURPLUS = "SELECT seq FROM event ORDER BY seq DESC LIMIT 1 OFFSET :n"
_TABLES = ("resent", "repeat", "dead_letter", "event")


@dataclasses.dataclass(frozen=True, slots=True)
class Retention:
    """How long events and their invocations are kept; what is open or a dead letter stays until somebody ends it.

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
            if value is not None and (isinstance(value, bool) or not isinstance(value, kinds) or not 1 <= value < math.inf):
                raise InvalidPolicy(
                    f"retention {name} must be a {'whole ' if whole else ''}number of at least 1 or left out, got {value!r}"
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
    """Delete what *retention* lets go, oldest first, in small transactions; killed at any point it leaves whole events."""
    events = invocations = held = after = 0
    for _ in itertools.count():
        with store.transaction(durable=False) as transaction:
            low, seqs, kept, more = _look(transaction, retention, clock.now_us(), after)
            among = ", ".join(map(str, seqs))  # numbers of ours; one pass a table, whose keys may not begin with them
            for table in _TABLES:
                transaction.execute(f"DELETE FROM {table} WHERE seq IN ({among})", {})
            invocations += transaction.execute(f"DELETE FROM invocation WHERE seq IN ({among})", {})
            events, held, after = events + len(seqs), held + kept, low
        if not more:
            break
    return Pruned(events, invocations, held)


def _look(transaction: Transaction, retention: Retention, now_us: int, after: int) -> tuple[int, list[int], int, bool]:
    """Return the last seq looked at, those that may go, how many are held, and whether there may be more."""
    rows = transaction.query(_OLDEST, {"after": after, "n": _BATCH})
    old = list(_old(transaction, retention, now_us, [(seq, published_us) for seq, published_us in rows]))
    if not old:
        return after, [], 0, False
    held = {seq for (seq,) in transaction.query(_HELD, {"low": old[0], "high": old[-1]})}
    return old[-1], [seq for seq in old if seq not in held], len(held.intersection(old)), len(old) == _BATCH


def _old(transaction: Transaction, retention: Retention, now_us: int, rows: list[tuple[int, int]]) -> Iterator[int]:
    newest = transaction.query(_SURPLUS, {"n": 0})
    surplus = transaction.query(_SURPLUS, {"n": retention.max_events}) if retention.max_events is not None else []
    before_us = now_us - int(retention.max_age_s * 1e6) if retention.max_age_s is not None else 0
    for seq, published_us in rows:
        if seq == newest[0][0] or not (published_us < before_us or (surplus and seq <= surplus[0][0])):
            return  # the archive is in the order of publication: all that follow are younger
        yield seq
