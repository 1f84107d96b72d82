"""Answers: receipts, states and outcomes as JSON."""

from __future__ import annotations

import json
import urllib.parse
from collections.abc import Callable
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from mltrigger.store.outcomes import FINAL

if TYPE_CHECKING:
    from mltrigger.broker import Receipt, SubscriptionSpec
    from mltrigger.bus import EventBus

MOST_ROWS = 1_000
"""The most outcomes of one page."""
MOST_CHARACTERS = 4_000_000
"""The most characters of the outputs of one page, but for a page with one outcome."""
_COLUMNS = (
    "row",
    "event_id",
    "source",
    "type",
    "subject",
    "subscription",
    "model",
    "version",
    "role",
    "attempt",
    "outcome",
    "reason",
    "published_at",
    "settled_at",
    "model_ms",
    "total_ms",
    "output",
    "error_type",
    "error",
)
_TIMES = ("published_at", "settled_at")
_OF_READERS = ("output", "error_type", "error")
"""The parts of a state that only a reader of the subscription gets."""


def receipt(given: Receipt, topic: str) -> dict[str, Any]:
    """Return a receipt, with the address of the event's state."""
    return {
        "id": given.event_id,
        "topic": topic,
        "duplicate": given.duplicate,
        "subscriptions": list(given.subscriptions),
        "status": _status(given.event_id),
    }


def states(bus: EventBus, seq: int, may_read: Callable[[str], bool]) -> list[dict[str, Any]]:
    """Return the state of an event in every subscription, with the answer where there is one.

    Answers and errors are only for subscriptions that the caller *may_read*.
    """
    open_ = bus.log.following.open_for(seq)
    rows = bus.log.invocations(_COLUMNS, seqs=(seq, seq), running=False)
    found: dict[str, dict[str, Any]] = {}
    for each in map(outcome, rows):
        name = each["subscription"]
        if each["outcome"] in FINAL or name not in found:
            found[name] = {**each, "state": each["outcome"]}
    for name, state in open_.items():
        found[name] = {**found.get(name, {"subscription": name}), "state": state}
    return [
        {
            key: value
            for key, value in each.items()
            if key != "cursor" and (may_read(name) or key not in _OF_READERS)
        }
        for name, each in sorted(found.items())
    ]


def page(
    bus: EventBus, spec: SubscriptionSpec, after: int, limit: int
) -> tuple[list[dict[str, Any]], int]:
    """Return the next outcomes of a subscription after the cursor *after*, oldest first.

    And the cursor to go on from.
    """
    rows, last = bus.log.following.ended_after(_COLUMNS, spec.id, after, limit, MOST_CHARACTERS)
    return list(map(outcome, rows)), last


def outcome(row: tuple[Any, ...]) -> dict[str, Any]:
    """Return an attempt as JSON has it: the output as a value, times in RFC 3339."""
    given = dict(zip(_COLUMNS, row, strict=True))
    given = {"cursor": given.pop("row"), **given}
    for name in _TIMES:
        if given[name] is not None:
            given[name] = datetime.fromtimestamp(given[name] / 1e6, UTC).isoformat()
    if given["output"] is not None:
        given["output"] = json.loads(given["output"])
    return given


def _status(event_id: str) -> str:
    """Return the address of an event's state. Clients drop dots that stand alone in a path."""
    place = "?id=" if event_id in (".", "..") else "/"
    return f"/v1/events{place}{quoted(event_id)}"


def quoted(text: str) -> str:
    """Return *text* as one segment of a path."""
    return urllib.parse.quote(text, safe="")
