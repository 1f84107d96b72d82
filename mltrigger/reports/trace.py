"""The trace of an event: all that it caused, through all models."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from mltrigger.delivery.circles import OUTCOMES_OF
from mltrigger.event.event import DEFAULT_SOURCE, Event, derived_id
from mltrigger.event.ids import outcome_id
from mltrigger.reports import frames
from mltrigger.reports.views import cause_of, extensions_of
from mltrigger.store.finding import Found
from mltrigger.store.log import Log

if TYPE_CHECKING:
    import pandas as pd

    from mltrigger.store.transaction import Row

_ATTEMPT = (
    "subscription",
    "model",
    "version",
    "attempt",
    "outcome",
    "queue_ms",
    "model_ms",
    "total_ms",
    "output",
)


def trace(log: Log, found: list[Found], bus: str | None = None) -> pd.DataFrame:
    """Return all that one event caused, from its first cause down, one row an attempt.

    *found* is the event in each of its topics. *bus* is the id of the bus, if outcomes are
    followed there.
    """
    rows: list[Row] = []
    seen: set[int] = set()
    # an event that only names its cause was not made by it: it is shown on its own
    for node in [*_roots(log, found), *found]:
        waiting = [(node, 0)]
        while waiting:
            node, hop = waiting.pop()
            if node.seq not in seen:
                seen.add(node.seq)
                attempts = log.invocations(_ATTEMPT, seqs=(node.seq, node.seq))
                rows += _rows(log, node, hop, attempts)
                names = dict.fromkeys(subscription for subscription, *_ in attempts)
                made = _emitted(log, node, names) + _outcomes(log, node, attempts, bus)
                waiting += [(child, hop + 1) for child in reversed(made)]
    return frames.carded(frames.frame(rows, frames.TRACE), "trace")


def _roots(log: Log, found: list[Found]) -> list[Found]:
    """Return the first causes of *found*, as far as the archive knows. Circles end the search."""
    seen = {node.seq for node in found}
    asked: set[str] = set()
    while True:
        causes = {cause for node in found if (cause := _cause(node))} - asked
        asked |= causes
        above = {
            node.seq: node
            for cause in sorted(causes)
            for node in log.find(cause)
            if node.seq not in seen
        }
        if not above:
            return found
        seen |= above.keys()
        found = list(above.values())


def _rows(log: Log, node: Found, hop: int, attempts: list[Row]) -> list[Row]:
    subject = log.subject(node.seq)
    return [
        (hop, node.topic, subject, *attempt, node.published_us, node.id, _cause(node))
        for attempt in attempts or [(None,) * len(_ATTEMPT)]
    ]


def _emitted(log: Log, node: Found, names: Iterable[str]) -> list[Found]:
    """Return the events that subscriptions emitted for *node*.

    The id of such an event follows from its cause and the subscription, so no index is needed.
    """
    cause = Event(id=node.id, source=node.source)
    return [
        child
        for name in names
        for child in log.find(derived_id(cause, name))
        if child.source == f"{DEFAULT_SOURCE}/{name}"
    ]


def _outcomes(log: Log, node: Found, attempts: Iterable[Row], bus: str | None) -> list[Found]:
    """Return the events that are outcomes of *node*. Their ids follow from its attempts."""
    if bus is None:
        return []
    return [
        child
        for name, _, _, attempt, *_ in attempts
        for child in log.find(outcome_id(bus, name, (node.source, node.id), node.seq, attempt))
        if child.source == f"{OUTCOMES_OF}{name}"
    ]


def _cause(node: Found) -> str | None:
    return cause_of(extensions_of(node.extensions))
