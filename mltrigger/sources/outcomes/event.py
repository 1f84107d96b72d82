"""The event of an outcome: its id, its place in the lineage, its data."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import Any

from mltrigger.broker import MAX_EVENT_BYTES, Ending
from mltrigger.delivery.circles import OUTCOME_TYPE, OUTCOMES_OF
from mltrigger.event import codec, event
from mltrigger.event.event import Event
from mltrigger.event.ids import child_span, outcome_id
from mltrigger.event.making import restored

LEFT_OUT = "leftout"
"""The extension that names members whose values were too large for an event."""
_SPARE_BYTES = 64 * 1024


def hops_of(ending: Ending) -> int:
    """Return how many events caused one another before the event of *ending*."""
    return event.hops_of(_extensions(ending))


def event_of(ending: Ending, subscription: str, bus: str, fits: bool = True) -> Event:
    """Return the event of the outcome *ending* of *subscription*.

    Its id depends on the outcome alone, so a repeat is recognised. A dead letter that was sent
    again has a second outcome, of a later attempt: that is another event. *bus* tells the ids of
    several buses apart. *fits* says whether the broker can take the output.
    """
    cause = _cause(ending)
    of = ending.source, ending.event_id
    carried = {
        name: cause.extensions[name] for name in ("partitionkey",) if name in cause.extensions
    }
    raw, left_out = _data(ending, subscription, fits)
    return Event(
        _encoded=raw,
        id=outcome_id(bus, subscription, of, ending.seq, ending.attempt),
        type=f"{OUTCOME_TYPE}{ending.outcome}",
        source=f"{OUTCOMES_OF}{subscription}",
        subject=cause.subject,
        time=_at(ending.settled_us),
        extensions={
            "traceparent": child_span(ending.traceparent),
            **carried,
            **cause.led_to(),
            **left_out,
        },
    )


def _cause(ending: Ending) -> Event:
    return restored(
        None,
        ending.type,
        ending.source,
        ending.event_id,
        datetime.fromisoformat(ending.time),
        ending.subject,
        None,
        None,
        _extensions(ending),
    )


def _extensions(ending: Ending) -> dict[str, Any]:
    return json.loads(ending.extensions) if ending.extensions else {}


def _data(ending: Ending, subscription: str, fits: bool) -> tuple[bytes, dict[str, str]]:
    """Return the data as JSON, and the extension that names a member that was left out.

    Its members have the names of the columns of ``sub.invocations()``. The output is the text that
    the log has, as it is.
    """
    facts = {
        "event_id": ending.event_id,
        "source": ending.source,
        "type": ending.type,
        "subject": ending.subject,
        "topic": ending.topic,
        "subscription": subscription,
        "model": ending.model,
        "version": ending.version,
        "outcome": ending.outcome,
        "reason": ending.reason,
        "attempt": ending.attempt,
        "published_at": _text(ending.published_us),
        "received_at": _text(ending.received_us),
        "started_at": _text(ending.started_us),
        "finished_at": _text(ending.finished_us),
        "settled_at": _text(ending.settled_us),
        "error_type": ending.error_type,
        "error": ending.error,
    }
    head = codec.encode(facts).removesuffix(b"}")
    output = (ending.output or "null").encode()
    fits = fits and len(head) + len(output) + _SPARE_BYTES <= MAX_EVENT_BYTES
    raw = head + b',"output":' + (output if fits else b"null") + b"}"
    return raw, {} if fits else {LEFT_OUT: "output"}


def _text(time_us: int | None) -> str | None:
    return None if time_us is None else _at(time_us).isoformat(timespec="microseconds")


def _at(time_us: int) -> datetime:
    return datetime.fromtimestamp(time_us / 1e6, UTC)
