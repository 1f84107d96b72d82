"""Dead letters: choose, try without settling, send again, put away."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple

from mltrigger.brokers.base import Broker, Sending, SubscriptionSpec
from mltrigger.capture import captured
from mltrigger.clock import Clock
from mltrigger.errors import InvalidEvent, NotFound
from mltrigger.events import Event, decode_data, encode_data
from mltrigger.models.invoke import Invoker, Result
from mltrigger.models.version import ModelVersion
from mltrigger.store.log import DeadLetter, Log

MAX_DATA_BYTES = 16 * 1024 * 1024
Prepare = Callable[[Event], Event]
UNCHANGED: Any = object()
"""Stands for the data that the event has."""


class Trial(NamedTuple):
    """What a model made of an event in a dry run; nothing was recorded and nothing settled."""

    event_id: str
    subject: str | None
    version: ModelVersion
    result: Result
    model_ms: float
    stdout: str | None


def choose(log: Log, spec: SubscriptionSpec, events: Any) -> list[DeadLetter]:
    """Return the dead letters that *events* names: an id, several, a frame with a column ``event_id``; ``None`` means all.

    Raises
    ------
    NotFound
        When an id is not among the dead letters; lists the near ones.
    """
    letters = log.dead_letters(spec.id)
    if events is None:
        return letters
    wanted = _wanted(events)
    chosen: list[DeadLetter] = []
    for id_, source in wanted:
        found = [d for d in letters if d.event_id == id_ and source in (None, d.source)]
        if not found:
            raise NotFound.of(f"dead letter of {spec.name!r}", id_, [d.event_id for d in letters])
        chosen += found
    return chosen


def try_out(
    log: Log, letters: Sequence[DeadLetter], version: ModelVersion, invoker: Invoker, prepare: Prepare, clock: Clock, data: Any
) -> list[Trial]:
    """Call the model with each of *letters* in this thread, without recording or settling anything."""
    trials = []
    for letter in letters:
        known = log.archived(letter.seq).event
        event = prepare(_with_data(known, decode_data(letter.data, letter.media_type) if data is UNCHANGED else data))
        started_us = clock.now_us()
        with captured() as printed:
            result = invoker.one(event)
        trials.append(Trial(event.id, event.subject, version, result, (clock.now_us() - started_us) / 1000, printed.take()))
    return trials


def redrive(broker: Broker, spec: SubscriptionSpec, letters: Sequence[DeadLetter], data: Any, rate_per_s: float | None) -> int:
    """Send *letters* to their subscription again, with other *data* when there is one of them; return how many were sent."""
    if rate_per_s is not None and not rate_per_s > 0:
        raise InvalidEvent(f"rate_per_s must be above 0, got {rate_per_s!r}")
    if data is UNCHANGED:
        return len(broker.send(spec, [d.seq for d in letters], sending=Sending(rate_per_s)))
    if len(letters) != 1:
        raise InvalidEvent(f"data= corrects one event, and {len(letters)} were chosen: name its event_id")
    raw, media_type = encode_data(Event(data), MAX_DATA_BYTES)
    return len(broker.send(spec, [letters[0].seq], sending=Sending(rate_per_s, raw, media_type)))


def _wanted(events: Any) -> list[tuple[str, str | None]]:
    if isinstance(events, str):
        return [(events, None)]
    if hasattr(events, "columns"):
        if "event_id" not in events.columns:
            raise InvalidEvent("a frame of events needs a column event_id, as sub.dead_letters() has it")
        sources: Iterable[Any] = events["source"] if "source" in events.columns else [None] * len(events)
        return list(zip(events["event_id"], sources, strict=True))
    return [(str(id_), None) for id_ in events]


def _with_data(event: Event, data: Any) -> Event:
    return Event(
        data=data, type=event.type, source=event.source, id=event.id, time=event.time, subject=event.subject, dataschema=event.dataschema,
        datacontenttype=event.datacontenttype, extensions=event.extensions,
    )  # fmt: skip
