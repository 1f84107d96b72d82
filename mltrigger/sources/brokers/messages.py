"""Messages of brokers as events, and events as messages: CloudEvents where both sides know them."""

from __future__ import annotations

import base64
import dataclasses
import hashlib
import json
import re
from collections.abc import Mapping
from typing import Any, NamedTuple

from mltrigger.broker import MAX_EVENT_BYTES
from mltrigger.errors import InvalidEvent, MltriggerError
from mltrigger.event import codec
from mltrigger.event.checks import MESSAGE_ATTRIBUTES, RESERVED
from mltrigger.event.data import encode_data, is_json
from mltrigger.event.envelopes import (
    MESSAGE_TYPE,
    UNREADABLE,
    UNREADABLE_TYPE,
    UNREADABLE_WHY,
    Arrival,
    Ignored,
    Item,
    Unreadable,
    plain,
    understand,
)
from mltrigger.event.envelopes.arrival import as_subject, read_attributes, with_raw
from mltrigger.event.envelopes.cloudevents import BATCH, ENCODING, STRUCTURED, binary, context
from mltrigger.event.event import Event
from mltrigger.text import short

REDELIVERED = "redelivered"
"""The extension of a message that came before, where the broker has no ids."""
_WHY = 300
_CHAIN = re.compile(r"(?:ce[-_]|cloudevents[:_])hops", re.IGNORECASE)


class Message(NamedTuple):
    """One message as a broker handed it out.

    ``id`` names it in its topic, and stays when it comes again, if the broker can. ``key`` and
    ``subject`` become ``partitionkey`` and ``subject``. ``token`` acknowledges it.
    """

    body: bytes
    headers: Mapping[str, str | bytes]
    id: str
    token: Any
    key: str | None = None
    subject: str | None = None
    sent_us: int | None = None
    content_type: str | None = None
    redelivered: bool = False


class Outgoing(NamedTuple):
    """One event as a broker takes it: in CloudEvents' binary mode, without a prefix of headers."""

    body: bytes
    content_type: str
    attributes: dict[str, str]
    event: Event

    @property
    def id(self) -> str:
        """The id for brokers that know repeats: of the event and its source."""
        return hashlib.sha256(f"{self.event.source}\n{self.event.id}".encode()).hexdigest()[:32]

    @property
    def key(self) -> str | None:
        """The key of the message: the ``partitionkey`` of the event."""
        key = self.event.extensions.get("partitionkey")
        return None if key is None else str(key)

    def headers(self, prefix: str) -> dict[str, str]:
        """Return the attributes under their *prefix*, and the trace under its own name."""
        named = {f"{prefix}{name}": value for name, value in self.attributes.items()}
        trace = self.event.traceparent
        return {**named, "traceparent": trace} if trace else named


def outgoing(event: Event) -> Outgoing:
    """Return *event* ready to be sent. Raises MltriggerError if its data cannot be."""
    body, media_type = encode_data(event, 1 << 60)
    named: dict[str, object] = {
        "specversion": "1.0",
        "id": event.id,
        "source": event.source,
        "type": event.type,
        "time": event.time.isoformat().replace("+00:00", "Z"),
        "subject": event.subject,
        "dataschema": event.dataschema,
        **event.extensions,
    }
    attributes = {
        name: str(value).lower() if isinstance(value, bool) else str(value)
        for name, value in named.items()
        if value is not None
    }
    return Outgoing(body, media_type or "application/json", attributes, event)


def events_of(message: Message, source: str, form: str) -> list[Event]:
    """Return the events of a message, at least one. Bad content never raises.

    A message that no event can be is an event with its raw bytes. It becomes a dead letter.
    """
    message = message._replace(id=_printable(message.id))
    try:
        items = _items(message, source, form)
    except MltriggerError as error:
        reason = getattr(error, "reason", None) or "invalid_event"
        items = [Unreadable(reason, str(error), message.id, message.body)]
    return [_kept(item, source, message) for item in items]


def unreadable(reason: str, why: str, id: str, raw: bytes, source: str) -> Event:  # noqa: A002
    """Return the event that keeps the *raw* bytes of a message that no event can be."""
    return Event(
        raw[:MAX_EVENT_BYTES],
        id=id,
        source=source,
        type=UNREADABLE_TYPE,
        datacontenttype="application/octet-stream",
        extensions={UNREADABLE: reason, UNREADABLE_WHY: short(why, _WHY)},
    )


def _items(message: Message, source: str, form: str) -> list[Item]:
    declared = message.content_type
    arrival = Arrival(
        "", _attributes(message), message.id, source, message.sent_us, message.key or None
    )
    found = context(read_attributes(arrival.attributes))
    if found is not None:
        kind = declared or ("application/json" if "datacontenttype" not in found else None)
        return [binary(*_of_cloudevent(found, kind, arrival, message))]
    if not message.body:
        return [plain(None, arrival)]
    if _bare(declared) in (STRUCTURED, BATCH):
        return understand(arrival._replace(body=_text(message.body)), unwrap=0)
    if form == "bytes" or (declared is not None and not is_json(declared) and form == "json"):
        return [plain(message.body, arrival, declared or "application/octet-stream")]
    text = _text(message.body)
    return understand(arrival._replace(body=text), text=form == "text", unwrap=0)


def _of_cloudevent(
    found: Any, kind: str | None, arrival: Arrival, message: Message
) -> tuple[Any, str | None, Arrival]:
    """Return the arguments of :func:`binary`. Bytes that are no JSON travel as base64."""
    declared = kind or found["datacontenttype"].text
    if is_json(declared):
        text = _text(message.body) if message.body else "null"
        return found, kind, arrival._replace(body=text)
    encoding = read_attributes({ENCODING: {"DataType": "String", "StringValue": "base64"}})
    body = base64.b64encode(message.body).decode()
    return {**found, **encoding}, kind, arrival._replace(body=body)


def _attributes(message: Message) -> dict[str, dict[str, Any]]:
    """Return the headers as message attributes."""
    named = dict(message.headers)
    if message.content_type is not None:
        named["content-type"] = message.content_type
    found = {name: _attribute(value) for name, value in named.items()}
    for name, value in found.items():  # headers are text, and this is a number everywhere else
        if _CHAIN.fullmatch(name) and str(value.get("StringValue", "")).isdecimal():
            found[name] = {**value, "DataType": "Number"}
    return found


def _attribute(value: str | bytes) -> dict[str, Any]:
    if isinstance(value, bytes):
        try:
            value = value.decode()
        except UnicodeDecodeError:
            return {"DataType": "Binary", "BinaryValue": value}
    return {"DataType": "String", "StringValue": value}


def _kept(item: Item, source: str, message: Message) -> Event:
    if isinstance(item, Unreadable):
        raw = item.raw if item.part is None else item.part
        return unreadable(item.reason, item.message, item.id, raw, source)
    try:
        if isinstance(item, Ignored):  # an empty envelope: its type says so, a filter keeps it out
            item = Event(codec.loads(item.raw), id=item.id, source=source, type=item.type)
        item = _completed(item, message)
        raw, media_type = encode_data(item, MAX_EVENT_BYTES)
        return with_raw(item, raw) if is_json(media_type) else item  # encoded once
    except MltriggerError as error:
        reason = getattr(error, "reason", None) or "invalid_event"
        return unreadable(reason, str(error), message.id, message.body, source)


def _completed(event: Event, message: Message) -> Event:
    """Return *event* with everything that the message says beside it."""
    more: dict[str, str | bool | int] = {}
    subject = event.subject
    if event.type == MESSAGE_TYPE:
        own = message.subject or message.key
        subject = subject or (as_subject(own) if own else None)
        if _is_lossy(message.headers):
            named = {n: _attribute(v).get("StringValue") for n, v in message.headers.items()}
            more[MESSAGE_ATTRIBUTES] = json.dumps(
                {name: text for name, text in named.items() if text is not None}
            )
    if message.redelivered:
        more[REDELIVERED] = True
    trace = message.headers.get("traceparent")
    if trace is not None and event.traceparent is None:
        more["traceparent"] = trace.decode("latin-1") if isinstance(trace, bytes) else trace
    if not more and subject == event.subject:
        return event
    try:
        return dataclasses.replace(event, subject=subject, extensions={**event.extensions, **more})
    except InvalidEvent:
        more.pop("traceparent", None)  # it is none
        return dataclasses.replace(event, subject=subject, extensions={**event.extensions, **more})


def _is_lossy(headers: Mapping[str, str | bytes]) -> bool:
    """Whether some header is no extension under its own name."""
    return any(
        not (name.isascii() and name.isalnum() and name == name.lower()) or name in RESERVED
        for name in headers
    )


def _text(body: bytes) -> str:
    try:
        return body.decode()
    except UnicodeDecodeError as error:
        raise InvalidEvent(
            "the body is not UTF-8: let the message say its media type (content-type), or add"
            " ?data=bytes to the source's URL",
            "invalid_unicode",
        ) from error


def _bare(media_type: str | None) -> str:
    return (media_type or "").partition(";")[0].strip().lower()


def _printable(id_: str) -> str:
    """Return an id that an event can have. Another one is hashed."""
    if 0 < len(id_) <= 1000 and id_.isprintable() and id_.strip():
        return id_
    return f"sha256:{hashlib.sha256(id_.encode('utf-8', 'surrogatepass')).hexdigest()[:32]}"
