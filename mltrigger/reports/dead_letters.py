"""Dead letters: choose them, try them out, send them again."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from mltrigger.broker import MAX_EVENT_BYTES, Broker, Sending, SubscriptionSpec
from mltrigger.clock import Clock
from mltrigger.delivery.effects import RecordedEffects
from mltrigger.errors import InvalidEvent, NotFound
from mltrigger.event.data import decode_data, encode_data
from mltrigger.event.event import Event
from mltrigger.event.making import with_data
from mltrigger.reports.choosing import EndedWhere, where_of
from mltrigger.reports.naming import named_each, unknown
from mltrigger.reports.progress import reached
from mltrigger.store.log import DeadKey, Log
from mltrigger.versions.running.capture import captured
from mltrigger.versions.running.current import Place, Running, during
from mltrigger.versions.running.invoke import Caller, Result
from mltrigger.versions.running.measures import measured
from mltrigger.versions.version import ModelVersion

_BATCH = 1_000
"""Events that are sent again in one commit. Others can write in between."""
LETTER_FILTERS = tuple(EndedWhere.__annotations__)
"""The names of ``where`` for dead letters."""
UNCHANGED: Any = object()
"""Stands for the own data of an event."""


class Trial(NamedTuple):
    """The answer of a model in a dry run. Nothing was recorded or settled."""

    event_id: str
    source: str
    subject: str | None
    version: ModelVersion
    result: Result
    model_ms: float
    stdout: str | None


def choose(
    log: Log, spec: SubscriptionSpec, events: Any, source: str | None = None
) -> list[DeadKey]:
    """Return the dead letters that *events* names, all for None, or all of *source*.

    It is one event or several, each as :func:`mltrigger.reports.naming.named` takes it, or a frame
    with a column ``event_id``.

    Raises
    ------
    NotFound
        When an id is not among the dead letters. The error lists similar ids.
    AmbiguousEvent
        When several sources have the id.
    """
    keys = log.dead_keys(spec.id)
    if events is None:
        return [key for key in keys if source in (None, key.source)]
    by_id: dict[str, list[DeadKey]] = {}
    for key in keys:
        by_id.setdefault(key.event_id, []).append(key)
    chosen: list[DeadKey] = []
    for wanted in named_each(events, source):
        there = by_id.get(wanted.event_id, ())
        found = wanted.among(there)
        if there and not found:
            raise unknown(wanted, (), [key.source for key in there])
        if not found:
            raise NotFound.of(f"dead letter of {spec.name!r}", wanted.event_id, by_id)
        chosen += found
    return chosen


def choose_any(log: Log, spec: SubscriptionSpec, events: Any, source: str | None) -> list[DeadKey]:
    """Return the events that *events* names, dead or not. All dead letters for None.

    Raises
    ------
    NotFound
        When the topic has no such event.
    AmbiguousEvent
        When several sources have the id.
    """
    if events is None:
        return choose(log, spec, None, source)
    chosen = []
    for key in named_each(events, source):
        there = [each for each in log.find(key.event_id) if each.topic == spec.topic]
        found = key.among(there)
        if not found:
            raise unknown(key, log.near(key.event_id), [each.source for each in there])
        chosen += [DeadKey(each.seq, each.id, each.source) for each in found[-1:]]
    return chosen


def events_of(
    log: Log, spec: SubscriptionSpec, keys: Sequence[DeadKey], data: Any
) -> Iterator[Event]:
    """Yield events with the data that the model would get, or with *data*."""
    for key in keys:
        event, raw, media_type = log.archived(key.seq)
        again = log.resent(spec.id, key.seq)
        if again is not None and again.data is not None:
            raw, media_type = again.data, again.media_type
        yield with_data(event, decode_data(raw, media_type) if data is UNCHANGED else data)


def rehearsal(
    log: Log, spec: SubscriptionSpec, keys: Sequence[DeadKey]
) -> Callable[[Event], Running]:
    """Return how to describe a dry call to the model: its effects are those of the record."""
    place = Place(spec.name, spec.topic, log.home)
    seqs = {(key.event_id, key.source): key.seq for key in keys}
    effects = RecordedEffects(log.effects, spec.id, seqs)
    return lambda event: Running(place, (event,), effects=effects)


def try_out(
    events: Iterable[Event],
    version: ModelVersion,
    invoker: Caller,
    clock: Clock,
    under_way: Callable[[Event], Running],
) -> list[Trial]:
    """Call the model with each of *events* in this thread. Nothing is recorded or settled."""
    trials = []
    for event in events:
        started_us = clock.now_us()
        with captured() as printed, during(running := under_way(event)):
            (result,) = measured(running, [event], [invoker.one(event)])
        trials.append(
            Trial(
                event.id,
                event.source,
                event.subject,
                version,
                result,
                (clock.now_us() - started_us) / 1000,
                printed.take(),
            )
        )
    return trials


def redrive(
    broker: Broker,
    spec: SubscriptionSpec,
    keys: Sequence[DeadKey],
    data: Any,
    rate_per_s: float | None,
) -> int:
    """Send dead letters to their subscription again. Return how many were sent.

    Other *data* needs exactly one of them.
    """
    if data is UNCHANGED:
        seqs = [key.seq for key in keys]
        parts = (seqs[first : first + _BATCH] for first in range(0, len(seqs), _BATCH))
        return redrive_parts(broker, spec, parts, rate_per_s)
    _check_redrive(spec, rate_per_s)
    if len(keys) != 1:
        raise InvalidEvent(
            f"data= corrects one event, and {len(keys)} were chosen: name its event_id"
        )
    raw, media_type = encode_data(Event(data), MAX_EVENT_BYTES)
    return len(
        broker.send(
            spec, [keys[0].seq], sending=Sending(rate_per_s, data=raw, media_type=media_type)
        )
    )


def redrive_parts(
    broker: Broker,
    spec: SubscriptionSpec,
    parts: Iterable[Sequence[int]],
    rate_per_s: float | None,
) -> int:
    """Send dead letters again, a commit a part. Return how many were sent."""
    _check_redrive(spec, rate_per_s)
    sent = 0
    for seqs in parts:
        delay_s = sent / rate_per_s if rate_per_s else 0.0
        sent += len(broker.send(spec, seqs, sending=Sending(rate_per_s, delay_s=delay_s)))
        reached(sent)
    return sent


def discard_parts(
    broker: Broker, spec: SubscriptionSpec, parts: Iterable[Sequence[int]], reason: str
) -> int:
    """Put dead letters away, a commit a part. Return how many were there."""
    away = 0
    for seqs in parts:
        away += len(broker.discard(spec, seqs, reason))
        reached(away)
    return away


def matching_parts(
    log: Log, spec: SubscriptionSpec, events: Any, source: str | None, where: Mapping[str, Any]
) -> Iterator[list[int]]:
    """Return the events of the dead letters that match, in parts. They are read as they are used.

    Raises
    ------
    InvalidEvent
        When events are named, too.
    """
    if events is not None or source is not None:
        raise InvalidEvent("where= chooses all that match: leave events and source out")
    wanted, up_to = where_of(log, spec, where, LETTER_FILTERS)
    return log.dead_seqs(spec.id, wanted, up_to, _BATCH)


def _check_redrive(spec: SubscriptionSpec, rate_per_s: float | None) -> None:
    if spec.role == "direct":
        raise InvalidEvent(
            f"{spec.name!r} keeps direct calls, whose callers have their answer: call the model"
            " again; dry_run() tries it without a record"
        )
    if rate_per_s is not None and not rate_per_s > 0:
        raise InvalidEvent(f"rate_per_s must be above 0, got {rate_per_s!r}")
