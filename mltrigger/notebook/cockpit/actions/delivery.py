"""Actions on delivery: pause, resume, and fire an event."""

from __future__ import annotations

from typing import Any

from mltrigger.broker import MAX_EVENT_BYTES, SubscriptionSpec
from mltrigger.errors import InvalidEvent, NotFound
from mltrigger.event.data import decode_data, encode_data, is_json
from mltrigger.event.event import DEFAULT_SOURCE, DEFAULT_TYPE, Event
from mltrigger.event.making import as_event
from mltrigger.names import is_topic
from mltrigger.notebook.cockpit.actions.base import MT, SUB, Desk, Prepared, one
from mltrigger.notebook.cockpit.code import MOST_DATA_CHARACTERS, Call, Script, Step, call
from mltrigger.notebook.cockpit.detail import payload
from mltrigger.notebook.cockpit.given import Given

_OUR_EXTENSIONS = ("traceparent", "tracestate", "causationid", "hops", "redrive", "notbefore")
"""The extensions that a new event gets by itself."""


def pause(desk: Desk, given: Given) -> Prepared:
    """Prepare to stop delivery in all processes."""
    spec = desk.spec(given)
    return Prepared(
        desk.on(spec, one(call(SUB, "pause"))),
        f"Stops delivery of {spec.name} in all processes. Events wait.",
        told=lambda _: f"{spec.name} is paused. Events wait, running calls may end.",
    )


def resume(desk: Desk, given: Given) -> Prepared:
    """Prepare to go on with delivery."""
    spec = desk.spec(given)
    return Prepared(
        desk.on(spec, one(call(SUB, "resume"))),
        f"Goes on with delivery of {spec.name}.",
        told=lambda _: f"{spec.name} goes on.",
    )


def fire(desk: Desk, given: Given) -> Prepared:
    """Prepare to publish an event: the given data, the sample, or the newest event once more."""
    spec = desk.spec(given)
    if not is_topic(spec.topic):
        raise InvalidEvent(f"{spec.name} keeps direct calls: call the model to add one")
    event, which = _sample(desk, given, spec)
    script = Script((_publishing(desk, spec, event),))
    if len(code := script.code()) > MOST_DATA_CHARACTERS:
        raise InvalidEvent(
            f"the event has too much data for a line of code ({len(code):,} characters): fire it"
            " in a cell"
        )
    return Prepared(
        script,
        f"Publishes {which} on {spec.topic}.",
        1,
        told=lambda receipt: f"Published on {spec.topic}: event {receipt.event_id}.",
    )


def _sample(desk: Desk, given: Given, spec: SubscriptionSpec) -> tuple[Event, str]:
    if "seq" in given:
        return _again(desk, given, spec)
    if "json" in given:
        return Event(given.json("json")), "the data"
    if "data" in given:
        return Event(given.raw("data")), "the data"
    if desk.sample is not None:
        return as_event(desk.sample), "the sample"
    rows = desk.bus.log.events(spec.topic, limit=1)
    if not rows:
        raise NotFound(
            f"topic {spec.topic!r} has no event to repeat; sub.dashboard(sample) gives one"
        )
    _, _, type_, _, subject, _, _, _, media_type, raw, _ = rows[0]
    repeated = Event(
        decode_data(raw, media_type), type=type_, subject=subject, datacontenttype=media_type
    )
    return repeated, "the data of the newest event once more"


def _again(desk: Desk, given: Given, spec: SubscriptionSpec) -> tuple[Event, str]:
    """Return a new event like one of the log, perhaps with edited data."""
    seq = given.whole("seq")
    event_id, _, raw, media_type = payload(desk.bus, spec, seq)
    like = desk.bus.log.archived(seq).event
    which = f"the payload of event {event_id} as a new event"
    if "json" in given:
        data, which = given.json("json"), "the edited payload as a new event"
        media_type = media_type if is_json(media_type) else None
    elif isinstance(text := given.raw("data"), str):
        data, which = text.encode(), "the edited payload as a new event"
    else:
        data = decode_data(raw, media_type)
    new = Event(
        data,
        type=like.type,
        subject=like.subject,
        datacontenttype=media_type,
        dataschema=like.dataschema,
        extensions=like.extensions,
    )
    return new, which


def _publishing(desk: Desk, spec: SubscriptionSpec, event: Event) -> Step:
    raw, media_type = encode_data(event, MAX_EVENT_BYTES)
    data: Any = decode_data(raw, media_type)
    attributes = _attributes(event, media_type)
    content = Call(MT, "Event", (data,), attributes) if attributes else data
    return one(call(desk.root, "publish", spec.topic, content))


def _attributes(event: Event, media_type: str | None) -> tuple[tuple[str, Any], ...]:
    """Return the attributes of an event that a new one would not have by itself."""
    extensions = {k: v for k, v in event.extensions.items() if k not in _OUR_EXTENSIONS}
    found: tuple[tuple[str, Any, Any], ...] = (
        ("type", event.type, DEFAULT_TYPE),
        ("source", event.source, DEFAULT_SOURCE),
        ("subject", event.subject, None),
        ("datacontenttype", media_type, None),
        ("dataschema", event.dataschema, None),
        ("extensions", extensions, {}),
    )
    return tuple((name, value) for name, value, usual in found if value != usual)
