"""What arrives from a queue: which envelope it is in, and which events are in it.

The shapes are those of AWS' documentation: "Event message structure" (S3), "Parsing Amazon SNS
message formats", "AWS service event metadata" (EventBridge), "Using Lambda with Amazon SQS", and of
the CloudEvents specification; names, ids and accounts are made up. The cases of ``bad_inputs.json``
that are about receiving are here under their ids; the expected reason code is read from there.
"""

from __future__ import annotations

import base64
import json
import time
import warnings
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import pytest
from emulators import ACCOUNT, REGION, Emulator, moto_server
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st
from slow import examples

from mltrigger.aws.transport.wire import to_message
from mltrigger.errors import MltriggerError
from mltrigger.event import codec
from mltrigger.event.data import decode_data, encode_data, is_json
from mltrigger.event.envelopes import (
    EVENTBRIDGE_KEYS,
    Arrival,
    Ignored,
    Item,
    Unreadable,
    message_attributes,
    understand,
    unwrapped,
)
from mltrigger.event.event import Event, attributes_of
from mltrigger.filters import FilterPolicy, from_message_attributes

CASES: dict[str, dict[str, Any]] = {
    case["id"]: case
    for case in json.loads(
        (Path(__file__).parents[1] / "data" / "bad_inputs.json").read_text("utf-8")
    )["cases"]
}
MAX = 8 * 1024 * 1024
QUEUE = "arn:aws:sqs:eu-west-1:123456789012:scans"
TOPIC = "arn:aws:sns:eu-west-1:123456789012:uploads"
SENT = datetime(2026, 11, 23, 9, 30, 0, 250_000, tzinfo=UTC)
SENT_US = 1_795_426_200_250_000
TRACE = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
TEST_EVENT = {
    "Service": "Amazon S3",
    "Event": "s3:TestEvent",
    "Time": "2026-11-23T09:30:00.000Z",
    "Bucket": "scans",
    "RequestId": "0F2A",
    "HostId": "k/Z+=",
}


def arrival(body: Any, attributes: dict[str, Any] | None = None, **other: Any) -> Arrival:
    """Return what SQS hands over; a *body* that is no text becomes JSON."""
    text = body if isinstance(body, str) else json.dumps(body)
    return Arrival(
        text,
        attributes or {},
        other.pop("message_id", "m-1"),
        QUEUE,
        other.pop("sent_us", SENT_US),
        **other,
    )


def string(value: str) -> dict[str, Any]:
    return {"DataType": "String", "StringValue": value}


def number(value: str) -> dict[str, Any]:
    return {"DataType": "Number", "StringValue": value}


def context(prefix: str = "ce-", **attributes: str | None) -> dict[str, Any]:
    """Return the attributes of a message in binary mode; None leaves one out."""
    given = {
        "specversion": "1.0",
        "id": "e-1",
        "source": "/scanner/3",
        "type": "page.scanned",
        **attributes,
    }
    return {f"{prefix}{name}": string(value) for name, value in given.items() if value is not None}


def wrapped(
    message: Any, attributes: dict[str, Any] | None = None, **changes: Any
) -> dict[str, Any]:
    """Return a notification as SNS writes it; a change to None leaves a member out."""
    members = {
        "Type": "Notification",
        "MessageId": "9b1c2f6e-7f0b-5d5e-a6c0-40a1b8b3a111",
        "TopicArn": TOPIC,
        "Message": message if isinstance(message, str) else json.dumps(message),
        "Timestamp": "2026-11-23T09:29:59.800Z",
        "SignatureVersion": "1",
        "Signature": "c2lnbmF0dXJl",
        "SigningCertURL": "https://sns.eu-west-1.amazonaws.com/SimpleNotificationService-0.pem",
        "UnsubscribeURL": "https://sns.eu-west-1.amazonaws.com/?Action=Unsubscribe",
        "MessageAttributes": attributes,
        **changes,
    }
    return {name: value for name, value in members.items() if value is not None}


def record(
    key: Any = "in/page+1.png", name: Any = "ObjectCreated:Put", **changes: Any
) -> dict[str, Any]:
    """Return a record of a notification of S3; changes whose names begin with ``object_`` are to
    its object.
    """
    thing = {
        "key": key,
        "size": 1024,
        "eTag": "d41d8cd98f00b204e9800998ecf8427e",
        "sequencer": "0055AED6DCD90281E5",
    }
    thing |= {
        field.removeprefix("object_"): changes.pop(field)
        for field in list(changes)
        if field.startswith("object_")
    }
    return {
        "eventVersion": "2.1",
        "eventSource": "aws:s3",
        "awsRegion": "eu-west-1",
        "eventTime": "2026-11-23T09:29:58.123Z",
        "eventName": name,
        "userIdentity": {"principalId": "AWS:AIDAEXAMPLE"},
        "requestParameters": {"sourceIPAddress": "192.0.2.3"},
        "responseElements": {
            "x-amz-request-id": "C3D13FE58DE4C810",
            "x-amz-id-2": "FMyUVURIY8/IgAtTv8xRjskZQpcIZ9KG4V5Wp6S7S/JRWeUWerMUE",
        },
        "s3": {
            "s3SchemaVersion": "1.0",
            "configurationId": "mltrigger",
            "bucket": {
                "name": "scans",
                "ownerIdentity": {"principalId": "A3NL1KOZZKExample"},
                "arn": "arn:aws:s3:::scans",
            },
            "object": {field: value for field, value in thing.items() if value is not None},
        },
        **changes,
    }


def s3(*records: Any) -> dict[str, Any]:
    return {"Records": list(records)}


def bridged(detail_type: str = "Object Created", **changes: Any) -> dict[str, Any]:
    """Return an event of EventBridge, by default of S3."""
    return {
        "version": "0",
        "id": "17793124-05d4-b198-2fde-7ededc63b103",
        "detail-type": detail_type,
        "source": "aws.s3",
        "account": "123456789012",
        "time": "2026-11-23T09:29:58Z",
        "region": "eu-west-1",
        "resources": ["arn:aws:s3:::scans"],
        "detail": {
            "version": "0",
            "bucket": {"name": "scans"},
            "object": {
                "key": "in/page 1.png",
                "size": 1024,
                "etag": "d41d8cd98f00b204e9800998ecf8427e",
                "sequencer": "0055aed6dcd90281e5",
            },
            "request-id": "C3D13FE58DE4C810",
            "requester": "123456789012",
            "source-ip-address": "192.0.2.3",
            "reason": "PutObject",
        },
        **changes,
    }


def items(
    body: Any,
    attributes: dict[str, Any] | None = None,
    *,
    text: bool = False,
    unwrap: int = 1,
    **other: Any,
) -> list[Item]:
    return understand(arrival(body, attributes, **other), text=text, unwrap=unwrap)


def event(body: Any, attributes: dict[str, Any] | None = None, **other: Any) -> Event:
    """Return the one event of a message."""
    (found,) = items(body, attributes, **other)
    assert isinstance(found, Event), found
    encode_data(found, MAX)  # the log can keep it
    return found


def unreadable(body: Any, attributes: dict[str, Any] | None = None, **other: Any) -> Unreadable:
    """Return why a message holds nothing; its raw bytes must be there."""
    (found,) = items(body, attributes, **other)
    assert isinstance(found, Unreadable), found
    assert found.raw == arrival(body).body.encode("utf-8", "surrogatepass")
    assert found.id
    assert 0 < len(found.message) < 700
    return found


def ignored(body: Any, attributes: dict[str, Any] | None = None, **other: Any) -> str:
    (found,) = items(body, attributes, **other)
    assert isinstance(found, Ignored), found
    assert found.raw == arrival(body).body.encode()
    return found.reason


# -- no envelope -----------------------------------------------------------------------------------


@pytest.mark.parametrize("data", [{"page": 1}, [1, 2], "text", 17, 1.5, True, None, {}, []])
def test_plain_json_is_the_data_of_an_event_with_the_id_of_the_message(data: Any) -> None:
    found = event(json.dumps(data))

    assert found.data == data
    assert (found.id, found.source, found.type, found.time) == (
        "m-1",
        QUEUE,
        "mltrigger.message",
        SENT,
    )
    assert (found.subject, found.datacontenttype, dict(found.extensions)) == (None, None, {})


@pytest.mark.parametrize(
    "body",
    [
        '{"price": 1.10, "n": 1e2}',
        "\n [1,\t2] ",
        '"\\u00e9"',
        "-0",
        '{"$binary":{"base64":"AAE=","subType":"00"}}',
    ],
)
def test_the_log_keeps_json_as_it_came(body: str) -> None:
    declared = {**context(), "content-type": string("application/json")}
    for found, media_type in (
        (event(body), None),
        (event(body, context()), None),
        (event(body, declared), "application/json"),
    ):
        raw, kept_type = encode_data(found, MAX)

        assert (raw, kept_type) == (body.lstrip().encode(), media_type)
        assert decode_data(raw, kept_type) == found.data


def test_a_message_read_twice_is_the_same_event() -> None:
    for body in (
        {"a": 1},
        s3(record()),
        bridged(),
        wrapped("1"),
        json.loads(Event(1, id="e").to_json()),
    ):
        assert event(body) == event(body)


def test_text_is_delivered_as_it_is_where_it_was_declared() -> None:
    for body in ("hello", "  \n\t ", "17", '{"a": 1}', "{", '"x"', "[NaN]"):
        assert event(body, text=True).data == body


def test_text_in_an_envelope_is_unwrapped() -> None:
    assert event(wrapped("hello"), text=True).data == "hello"
    assert event(s3(record()), text=True).type == "com.amazonaws.s3.ObjectCreated.Put"
    assert event(json.loads(Event({"a": 1}, id="e").to_json()), text=True).data == {"a": 1}
    assert event('{"a": 1}', context(), text=True).data == {"a": 1}
    assert ignored(TEST_EVENT, text=True) == "s3_test_event"


def test_text_without_a_utf8_form_is_a_dead_letter() -> None:
    assert unreadable("a\ud800", text=True).reason == "invalid_unicode"
    assert (
        unreadable("a\ud800", {**context(), "content-type": string("text/plain")}).reason
        == "invalid_unicode"
    )


def test_without_a_time_of_sending_the_event_is_of_now() -> None:
    before = datetime.now(UTC)
    assert before <= event({}, sent_us=None).time <= datetime.now(UTC)
    assert before <= event({}, sent_us=10**30).time <= datetime.now(UTC)


def test_a_message_group_is_the_partition_key_of_an_event_that_brings_none() -> None:
    for body in (
        {"a": 1},
        s3(record()),
        bridged(),
        wrapped("1"),
        bridged("Tick", source="acme"),
        json.loads(Event(1, id="e").to_json()),
    ):
        assert event(body, group="customer-1").extensions["partitionkey"] == "customer-1"
    assert event("1", context(), group="customer-1").extensions["partitionkey"] == "customer-1"

    assert (
        event("1", context(partitionkey="own"), group="customer-1").extensions["partitionkey"]
        == "own"
    )
    assert event(
        {"specversion": "1.0", "id": "1", "source": "s", "type": "t", "partitionkey": None},
        group="g",
    ).extensions == {"partitionkey": "g"}


# -- attributes of plain messages ------------------------------------------------------------------


def test_attributes_become_extensions_where_name_and_value_fit() -> None:
    found = event(
        {},
        {
            "tenant": string("acme"),
            "Event_Type": string("created"),
            "count": number("17"),
            "beyond": number("2147483648"),
            "ratio": number("0.5"),
            "list": {"DataType": "String.Array", "StringValue": '["a","b"]'},
            "custom": {"DataType": "Number.long", "StringValue": "-3"},
            "ä": string("no letter of theirs"),
        },
    )

    assert found.extensions == {
        "tenant": "acme",
        "eventtype": "created",
        "count": 17,
        "beyond": "2147483648",
        "ratio": "0.5",
        "list": '["a","b"]',
        "custom": -3,
    }


def test_attributes_with_a_meaning_of_their_own_are_not_taken_for_it() -> None:
    names = [
        "id",
        "source",
        "type",
        "time",
        "subject",
        "data",
        "specversion",
        "hops",
        "causationid",
        "Content-Type",
    ]
    found = event(
        {},
        {name: string("x") for name in names}
        | {"ExtendedPayloadSize": number("9"), "traceparent": string("none")},
    )

    assert (found.id, found.source, found.type, found.datacontenttype) == (
        "m-1",
        QUEUE,
        "mltrigger.message",
        None,
    )
    assert found.extensions == {"contenttype": "x"}
    assert event({}, {"traceparent": string(TRACE), "tenant": string("a")}).extensions == {
        "traceparent": TRACE,
        "tenant": "a",
    }


def test_of_attributes_with_the_same_name_the_exact_one_counts() -> None:
    for names in (["tenant", "Tenant", "ten-ant"], ["ten-ant", "Tenant", "tenant"]):
        assert event({}, {name: string(name) for name in names}).extensions == {"tenant": "tenant"}


PNG = {"DataType": "Binary.png", "BinaryValue": b"\x89PNG\xff"}


@pytest.mark.parametrize(
    "attribute",
    [
        PNG,
        {
            "dataType": "Binary.png",
            "binaryValue": "iVBOR/8=",
            "stringListValues": [],
            "binaryListValues": [],
        },
        {"Type": "Binary.png", "Value": "iVBOR/8="},
    ],
)
def test_bytes_in_attributes_are_kept_as_base64_and_as_bytes(attribute: dict[str, Any]) -> None:
    """BI-033."""
    found = arrival({}, {"thumbnail": attribute})

    (one,) = understand(found)
    assert isinstance(one, Event)
    assert one.extensions == {"thumbnail": "iVBOR/8="}
    assert message_attributes(found) == {
        "thumbnail": {"DataType": "Binary.png", "BinaryValue": b"\x89PNG\xff"}
    }


def test_attributes_that_are_no_attributes_are_left_out() -> None:
    odd: dict[str, Any] = {
        "a": "text",
        "b": {"DataType": "String"},
        "c": {},
        "d": {"DataType": "Binary"},
        "e": None,
    }
    odd["f"] = {"DataType": "Binary", "BinaryValue": "not base64"}
    assert event({}, odd).extensions == {"f": base64.b64encode(b"not base64").decode()}


def test_filters_see_the_attributes_under_the_names_that_the_publisher_gave() -> None:
    attributes = {
        "eventType": string("created"),
        "type": string("invoice"),
        "price": number("1.5"),
        "tags": {"DataType": "String.Array", "StringValue": '["a","b"]'},
        "ExtendedPayloadSize": number("3"),
    }
    lambda_spelling = {
        n: {"dataType": a["DataType"], "stringValue": a["StringValue"]}
        for n, a in attributes.items()
    }
    in_notification = {
        n: {"Type": a["DataType"], "Value": a["StringValue"]} for n, a in attributes.items()
    }
    policy = FilterPolicy.parse(
        {
            "eventType": ["created"],
            "type": ["invoice"],
            "price": [{"numeric": ["<", 2]}],
            "tags": ["b"],
        }
    )

    for found in (
        arrival({}, attributes),
        arrival({}, lambda_spelling),
        unwrapped(arrival(wrapped("{}", in_notification))),
    ):
        (one,) = understand(found)
        assert isinstance(one, Event)
        seen = {**attributes_of(one), **from_message_attributes(message_attributes(found))}
        assert policy.matches_attributes(seen)
        assert "ExtendedPayloadSize" not in seen


# -- CloudEvents, binary mode ----------------------------------------------------------------------


@pytest.mark.parametrize("prefix", ["ce-", "ce_", "cloudEvents:", "cloudEvents_", "CE-"])
def test_attributes_with_a_prefix_make_a_cloudevent(prefix: str) -> None:
    attributes = context(
        prefix,
        time="2026-11-23T10:00:00+01:00",
        subject="Euro%20€ 😀",
        dataschema="urn:x",
        tenant="a",
    )
    found = event(
        {"page": 1},
        {
            **attributes,
            f"{prefix}count": number("-7"),
            "content-type": string("application/json"),
            "x": string("y"),
        },
    )

    assert found == Event(
        {"page": 1},
        id="e-1",
        source="/scanner/3",
        type="page.scanned",
        time=datetime(2026, 11, 23, 9, tzinfo=UTC),
        subject="Euro%20€ 😀",
        dataschema="urn:x",
        datacontenttype="application/json",
        extensions={"tenant": "a", "count": -7},
    )


def test_a_cloudevent_without_time_is_of_when_it_was_sent() -> None:
    assert event("1", context()).time == SENT
    assert event({"specversion": "1.0", "id": "1", "source": "s", "type": "t"}).time == SENT


def test_attributes_travel_in_a_notification_as_well() -> None:
    attributes = {
        name: {"Type": a["DataType"], "Value": a["StringValue"]}
        for name, a in context(subject="s").items()
    }
    found = event(wrapped({"page": 1}, attributes))

    assert (found.id, found.source, found.subject, found.data) == (
        "e-1",
        "/scanner/3",
        "s",
        {"page": 1},
    )
    assert found.time == datetime(2026, 11, 23, 9, 29, 59, 800_000, tzinfo=UTC)


@pytest.mark.parametrize(
    ("media_type", "body", "data"),
    [
        ("text/plain", "grün", "grün".encode()),
        ("application/xml", "<a/>", b"<a/>"),
        ("application/json; charset=utf-8", "[1]", [1]),
        ("application/geo+json", '{"a":1}', {"a": 1}),
        ("application/cloudevents+json", '{"a":1}', {"a": 1}),
        (None, '"x"', "x"),
    ],
)
def test_the_media_type_decides_what_the_data_are(
    media_type: str | None, body: str, data: Any
) -> None:
    attributes = context() | ({} if media_type is None else {"Content-Type": string(media_type)})
    found = event(body, attributes)

    assert (found.data, found.datacontenttype) == (data, media_type)
    assert decode_data(*encode_data(found, MAX)) == data


def test_base64_is_decoded_where_it_is_declared() -> None:
    attributes = {**context(datacontentencoding="base64"), "content-type": string("image/png")}

    assert event("iVBOR/8=", attributes).data == b"\x89PNG\xff"
    assert event("iVBO\nR/8=\n", attributes).data == b"\x89PNG\xff"
    assert event("\n", attributes).data == b""
    assert event("e30=", {**attributes, "content-type": string("application/json")}).data == {}
    assert unreadable("?", attributes).reason == "not_cloudevent"
    assert event("{}", context(datacontentencoding="gzip")).extensions == {
        "datacontentencoding": "gzip"
    }


def test_bytes_tagged_in_declared_json_can_be_kept() -> None:
    body = '{"$binary":{"base64":"AAE=","subType":"00"}}'
    found = event(body, {**context(), "content-type": string("application/json")})

    assert found.data == b"\x00\x01"
    assert encode_data(found, MAX) == (body.encode(), "application/json")


def test_more_attributes_come_in_one() -> None:
    more = {
        "urgent": True,
        "note": "",
        "n": 3,
        "more": "x",
        "dataschema": "urn:x",
        "datacontentencoding": "y",
        "tenant": "not this",
    }
    found = event("1", context(more=json.dumps(more), tenant="this"))

    assert found.dataschema == "urn:x"
    assert found.extensions == {
        "urgent": True,
        "note": "",
        "n": 3,
        "more": "x",
        "datacontentencoding": "y",
        "tenant": "this",
    }


@pytest.mark.parametrize(
    "text",
    ["to come", "{", "[]", '{"a": {}}', '{"a": 1.5}', '{"A": 1}', '{"id": "other"}', '{"a": null}'],
)
def test_more_of_somebody_else_is_an_extension_like_any_other(text: str) -> None:
    assert event("1", context(more=text)).extensions == {"more": text}


@pytest.mark.parametrize(
    "attributes",
    [
        context(id=None),
        context(source=None),
        context(type=None),
        context(specversion=None, id=None),
        context(specversion="0.3"),
        context(time="lunchtime"),
        context(time="2026-01-01T00:00Z"),
        context(data="x"),
        context(under_score="x"),
        context() | {"ce-": string("x")},
        context() | {"ce-number": number("1.5")},
        context() | {"content-type": string("xyz")},
        context(traceparent="x"),
        context(hops="x"),
        context(id=" "),
        context(source="a\nb"),
    ],
)
def test_a_message_that_says_it_is_a_cloudevent_and_is_none_is_a_dead_letter(
    attributes: dict[str, Any],
) -> None:
    assert unreadable("{}", attributes).reason == "not_cloudevent"


def test_one_attribute_with_the_prefix_makes_no_cloudevent() -> None:
    assert event({}, {"ce_type": string("x")}).extensions == {"cetype": "x"}


# -- CloudEvents, structured mode ------------------------------------------------------------------

SINGLE = {"specversion": "1.0", "id": "e-1", "source": "/scanner/3", "type": "page.scanned"}


@pytest.mark.parametrize(
    "attributes", [{}, {"content-type": string("application/cloudevents+json; charset=utf-8")}]
)
def test_structured_mode(attributes: dict[str, Any]) -> None:
    found = event(
        {
            **SINGLE,
            "time": "2026-11-23T09:00:00Z",
            "subject": "s",
            "tenant": "a",
            "data": {"page": 1},
        },
        attributes,
    )

    assert found == Event(
        {"page": 1},
        id="e-1",
        source="/scanner/3",
        type="page.scanned",
        time=datetime(2026, 11, 23, 9, tzinfo=UTC),
        subject="s",
        extensions={"tenant": "a"},
    )


@pytest.mark.parametrize(
    ("members", "data"),
    [
        ({"data": 1}, 1),
        ({}, None),
        ({"data": "text"}, "text"),
        ({"data": None}, None),
        ({"data_base64": "AAE="}, b"\x00\x01"),
        ({"data_base64": "AAE=", "datacontenttype": "image/png"}, b"\x00\x01"),
        ({"data_base64": "eyJhIjoxfQ==", "datacontenttype": "application/json"}, {"a": 1}),
        ({"data": {"a": 1}, "datacontenttype": "application/json"}, {"a": 1}),
        ({"data": "grün", "datacontenttype": "text/plain"}, "grün".encode()),
        ({"data": "<a/>", "datacontenttype": "application/xml"}, b"<a/>"),
        ({"datacontenttype": "text/plain"}, b""),
    ],
)
def test_data_of_structured_mode_are_as_the_other_brokers_deliver_them(
    members: dict[str, Any], data: Any
) -> None:
    found = event({**SINGLE, **members})

    assert found.data == data
    assert decode_data(*encode_data(found, MAX)) == data


@pytest.mark.parametrize(
    ("members", "reason"),
    [
        ({"data": {"a": 1}, "datacontenttype": "text/plain"}, "not_cloudevent"),
        ({"data_base64": "?"}, "not_cloudevent"),
        ({"data_base64": "ew==", "datacontenttype": "application/json"}, "malformed_json"),
        ({"data_base64": "/w==", "datacontenttype": "application/json"}, "unsupported_encoding"),
    ],
)
def test_data_that_are_not_what_they_say_are_a_dead_letter(
    members: dict[str, Any], reason: str
) -> None:
    assert unreadable({**SINGLE, **members}).reason == reason


@pytest.mark.parametrize(
    "attributes", [{}, {"content-type": string("application/cloudevents-batch+json")}]
)
def test_each_event_of_a_batch_stands_for_itself(attributes: dict[str, Any]) -> None:
    body = [{**SINGLE, "data": 1}, {**SINGLE, "id": ""}, {**SINGLE, "id": "e-3", "data": 3}]
    first, second, third = items(body, attributes)

    assert isinstance(first, Event)
    assert isinstance(third, Event)
    assert [(e.id, e.data) for e in (first, third)] == [("e-1", 1), ("e-3", 3)]
    assert isinstance(second, Unreadable)
    assert (second.reason, second.id, second.raw) == (
        "not_cloudevent",
        "m-1#2",
        json.dumps(body).encode(),
    )


def test_a_declared_batch_must_be_one() -> None:
    declared = {"content-type": string("application/cloudevents-batch+json")}

    assert ignored([], declared) == "empty_batch"
    assert unreadable(SINGLE, declared).reason == "not_cloudevent"
    assert unreadable([1], declared).reason == "not_cloudevent"
    assert unreadable("[1", declared, text=True).reason == "malformed_json"


@pytest.mark.parametrize(
    "data",
    [
        {"specversion": "1.0"},
        {"id": 1, "source": 2, "type": 3},
        [],
        [SINGLE, {"a": 1}],
        [[SINGLE]],
        {"specversion": "2", "id": 1},
    ],
)
def test_what_only_resembles_a_cloudevent_is_data(data: Any) -> None:
    assert event(data).data == data


# -- our own wire format ---------------------------------------------------------------------------

TEXTS = st.text(
    st.sampled_from('aZ9 é€\x00\x1b\t\r\n\x85\u2028\ufffe\uffff\U0010ffff"\\{}'), max_size=8
)
JSON = st.recursive(
    st.one_of(
        st.none(),
        st.booleans(),
        st.integers(-(2**70), 2**70),
        st.floats(),
        TEXTS,
        st.binary(max_size=5),
        st.decimals(allow_nan=False),
    ),
    lambda inner: st.one_of(st.lists(inner, max_size=4), st.dictionaries(TEXTS, inner, max_size=4)),
    max_leaves=10,
)
NAMES = st.one_of(
    st.from_regex(r"[a-z0-9]{1,12}", fullmatch=True),
    st.sampled_from(["more", "datacontentencoding", "partitionkey", "hops", "dataref"]),
)
MEDIA_TYPES = st.sampled_from(
    [
        None,
        "application/json",
        "application/cloudevents+json",
        "a/b+json",
        "text/plain",
        "text/csv; charset=latin-1",
        "image/png",
    ]
)


@st.composite
def events_of_any_kind(draw: st.DrawFn) -> Event:
    printable = st.text(st.characters(exclude_categories=["C", "Z"]), min_size=1, max_size=20)
    zone = timezone(timedelta(minutes=draw(st.integers(-1_439, 1_439))))
    try:
        return Event(
            draw(
                st.one_of(JSON, st.binary(max_size=20), st.sampled_from([b"{}", b'{"a" : 1.10}\n']))
            ),
            id=draw(printable),
            source=draw(printable),
            type=draw(printable),
            time=draw(st.datetimes(timezones=st.just(zone))),
            subject=draw(st.none() | TEXTS),
            dataschema=draw(st.none() | TEXTS),
            datacontenttype=draw(MEDIA_TYPES),
            extensions=draw(
                st.dictionaries(
                    NAMES,
                    st.one_of(TEXTS, st.booleans(), st.integers(-(2**31), 2**31 - 1)),
                    max_size=12,
                )
            ),
        )
    except MltriggerError:
        assume(False)
        raise


@settings(
    max_examples=examples(40),
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much],
)
@given(events_of_any_kind(), st.sampled_from(["SQS", "Lambda", "SNS"]))
def test_what_is_published_is_what_arrives(published: Event, way: str) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # keys that stand twice
        try:
            raw, media_type = encode_data(published, MAX)
            message = to_message(published, raw, media_type, False, None)
        except MltriggerError:
            return

    if way == "SQS":
        found = arrival(message.body, message.attributes, sent_us=None)
    elif way == "Lambda":
        attributes = {
            n: {"dataType": a["DataType"], "stringValue": a["StringValue"]}
            for n, a in message.attributes.items()
        }
        found = arrival(message.body, attributes, sent_us=None)
    else:
        attributes = {
            n: {"Type": a["DataType"], "Value": a["StringValue"]}
            for n, a in message.attributes.items()
        }
        found = arrival(wrapped(message.body, attributes))
    (received,) = understand(found)

    assert isinstance(received, Event), received
    assert attributes_of(received) == {
        **attributes_of(published),
        "time": received.time.isoformat(),
    } | ({"datacontenttype": media_type} if media_type else {})
    assert received.time == published.time
    assert {name: type(value) for name, value in received.extensions.items()} == {
        n: type(v) for n, v in published.extensions.items()
    }
    kept, kept_type = encode_data(received, MAX)
    data = codec.loads(raw) if is_json(media_type) else raw
    assert repr(decode_data(kept, kept_type)) == repr(received.data) == repr(data)


# -- SNS -------------------------------------------------------------------------------------------


def test_a_notification_is_unwrapped() -> None:
    """BI-073."""
    found = event(
        wrapped({"page": 1}, {"tenant": {"Type": "String", "Value": "acme"}}, Subject="new page")
    )

    assert found.data == {"page": 1}
    assert (found.id, found.source, found.subject) == (
        "9b1c2f6e-7f0b-5d5e-a6c0-40a1b8b3a111",
        TOPIC,
        "new page",
    )
    assert (found.type, found.extensions) == ("mltrigger.message", {"tenant": "acme"})
    assert found.time == datetime(2026, 11, 23, 9, 29, 59, 800_000, tzinfo=UTC)


def test_a_notification_of_a_fifo_topic_is_unwrapped() -> None:
    body = wrapped(
        "1",
        TopicArn=f"{TOPIC}.fifo",
        SequenceNumber="10000000000000004000",
        SignatureVersion=None,
        Signature=None,
    )
    found = event(body, group="g")

    assert (found.data, found.source, found.extensions) == (
        1,
        f"{TOPIC}.fifo",
        {"partitionkey": "g"},
    )


@pytest.mark.parametrize("partition", ["aws", "aws-cn", "aws-us-gov", "aws-iso-b"])
def test_topics_of_every_partition_are_known(partition: str) -> None:
    assert event(wrapped("1", TopicArn=f"arn:{partition}:sns:cn-north-1:123456789012:t")).data == 1


@pytest.mark.parametrize(
    "data",
    [
        {"Type": "Notification", "Message": "{}"},
        wrapped("{}", TopicArn=None),
        wrapped("{}", MessageId=None),
        wrapped("{}", MessageId=""),
        wrapped("{}", Timestamp=None),
        wrapped("{}", Timestamp="today"),
        wrapped("{}", Type="Note"),
        wrapped("{}", TopicArn="arn:aws:sns:eu-west-1:1:t"),
        wrapped("{}", TopicArn="arn:aws:sqs:eu-west-1:123456789012:t"),
        wrapped("{}", TopicArn=f"{TOPIC}\n"),
        wrapped("{}", Type="SubscriptionConfirmation"),
        [wrapped("{}")],
        '"TopicArn"',
        {"Records": [], "page": 1},
        {"Records": {}},
        {"records": []},
        [],
    ],
)
def test_data_that_look_like_an_envelope_are_data(data: Any) -> None:
    """BI-075."""
    body = data if isinstance(data, str) else json.dumps(data)
    found = event(body)

    assert (found.data, found.id, found.source) == (json.loads(body), "m-1", QUEUE)


@pytest.mark.parametrize("message", [None, {"a": 1}, [], 5, True], ids=repr)
def test_an_envelope_of_sns_whose_message_is_no_text_is_unreadable(message: Any) -> None:
    body = wrapped("{}", Message=message)

    assert unreadable(body).reason == unreadable(body, text=True).reason == "malformed_envelope"
    assert unreadable(wrapped(body), unwrap=2).reason == "malformed_envelope"
    assert event(body, unwrap=0).data == body


def test_a_notification_without_records_is_ignored() -> None:
    for body in (
        '{"Records": []}',
        '{ "Records" : [ ] }\n',
        '\ufeff{"Records": []}',
        wrapped('{"Records": []}'),
    ):
        assert ignored(body) == "no_records"


def test_an_empty_body_is_called_empty() -> None:
    for body in ("", "\ufeff", wrapped("")):
        assert unreadable(body).reason == "empty_body"
    assert event("", text=True).data == ""


@pytest.mark.parametrize("number", ["1e400", "-1e400", "[1e999]", "1" * 5000])
def test_a_number_beyond_every_float_is_out_of_range(number: str) -> None:
    found = unreadable(number)

    assert found.reason == "number_out_of_range"
    assert "not a JSON number" not in found.message


# -- a byte order mark -----------------------------------------------------------------------------

MARK = "\ufeff"
MARKED = {"order": 4321}


@pytest.mark.parametrize(
    ("body", "attributes"),
    [
        (f"{MARK}{json.dumps(MARKED)}", {}),
        (f"{MARK}\r\n {json.dumps(MARKED)}\r\n", {}),
        (wrapped(f"{MARK}{json.dumps(MARKED)}"), {}),
        (MARK + json.dumps(wrapped(MARKED)), {}),
        (MARK + json.dumps(wrapped(MARK + json.dumps(MARKED))), {}),
        (f"{MARK}{json.dumps(MARKED)}", context()),
        (
            MARK
            + json.dumps(
                {"specversion": "1.0", "id": "1", "source": "s", "type": "t", "data": MARKED}
            ),
            {},
        ),
    ],
    ids=[
        "bare",
        "with blanks",
        "in SNS",
        "before SNS",
        "both",
        "CloudEvents, binary",
        "CloudEvents, structured",
    ],
)
def test_one_byte_order_mark_is_no_part_of_the_data(body: str, attributes: dict[str, Any]) -> None:
    found = event(body, attributes)

    assert found.data == MARKED
    kept, media_type = encode_data(found, MAX)
    assert json.loads(kept) == MARKED == decode_data(kept, media_type)
    assert not kept.startswith(b"\xef\xbb\xbf")


def test_a_second_byte_order_mark_is_no_json() -> None:
    assert unreadable(f"{MARK}{MARK}{{}}").reason == "malformed_json"


def test_text_keeps_its_byte_order_mark() -> None:
    assert event(f"{MARK}page", text=True).data == f"{MARK}page"


def test_notifications_with_a_byte_order_mark_are_read() -> None:
    assert ignored(MARK + json.dumps(TEST_EVENT)) == "s3_test_event"
    assert event(MARK + json.dumps(s3(record("a.png")))).data["key"] == "a.png"


def test_as_many_envelopes_are_taken_off_as_were_declared() -> None:
    """BI-076."""
    inner = wrapped({"page": 1}, MessageId="inner")
    body = wrapped(inner, MessageId="outer")

    assert (event(body).id, event(body).data) == ("outer", inner)
    assert (event(body, unwrap=2).id, event(body, unwrap=2).data) == ("inner", {"page": 1})
    assert event(body, unwrap=3) == event(body, unwrap=2)
    assert (event(body, unwrap=0).id, event(body, unwrap=0).data) == ("m-1", body)


@pytest.mark.parametrize("kind", ["SubscriptionConfirmation", "UnsubscribeConfirmation"])
def test_a_confirmation_is_ignored_and_nothing_is_fetched(kind: str) -> None:
    body = wrapped(
        "You have chosen …",
        Type=kind,
        Token="2336412f37",
        SubscribeURL="http://169.254.169.254/",
        UnsubscribeURL=None,
    )

    assert ignored(body) == "sns_confirmation"
    assert ignored(wrapped(body), unwrap=2, text=True)
    assert event(body, unwrap=0).data == body


def test_a_dead_letter_of_a_notification_keeps_the_whole_body() -> None:
    found = unreadable(wrapped("hello"))

    assert (found.reason, found.id) == ("malformed_json", "9b1c2f6e-7f0b-5d5e-a6c0-40a1b8b3a111")


def test_a_subject_that_no_transport_takes_is_escaped() -> None:
    assert event(wrapped("1", Subject="a\nb\u202e")).subject == r"a\nb\u202e"
    assert event(wrapped("1", Subject="")).subject is None


def test_a_message_in_no_envelope_is_unwrapped_to_itself() -> None:
    for body in ("{}", "hello", "TopicArn", '{"TopicArn"'):
        assert unwrapped(arrival(body)) == arrival(body)
    own = arrival(wrapped("1"), context())
    assert unwrapped(own) == own


# -- S3 --------------------------------------------------------------------------------------------


def test_a_notification_of_s3_is_an_event_of_its_object() -> None:
    found = event(s3(record(object_versionId="096fKKXTRTtl3on89fVO.nfljtsv6qko")))

    assert found.data == {
        "bucket": "scans",
        "key": "in/page 1.png",
        "size": 1024,
        "etag": "d41d8cd98f00b204e9800998ecf8427e",
        "version_id": "096fKKXTRTtl3on89fVO.nfljtsv6qko",
        "sequencer": "0055AED6DCD90281E5",
        "event_name": "ObjectCreated:Put",
        "event_time": "2026-11-23T09:29:58.123Z",
        "region": "eu-west-1",
        "details": None,
    }
    assert (found.source, found.type, found.subject) == (
        "arn:aws:s3:::scans",
        "com.amazonaws.s3.ObjectCreated.Put",
        "in/page 1.png",
    )
    assert found.time == datetime(2026, 11, 23, 9, 29, 58, 123_000, tzinfo=UTC)
    assert found.extensions == {"sequencer": "000000000000000055AED6DCD90281E5".zfill(32)}


def test_the_same_change_has_the_same_id_whichever_way_it_is_told() -> None:
    ways = [
        s3(record()),
        wrapped(s3(record()), Subject="Amazon S3 Notification"),
        bridged(),
        wrapped(bridged()),
        s3(record(), record()),
    ]
    found = [one for way in ways for one in items(way, message_id=f"m-{len(json.dumps(way))}")]

    assert (
        len(
            {(one.source, one.id, one.type, one.subject) for one in found if isinstance(one, Event)}
        )
        == 1
    )
    assert len(found) == 6


@pytest.mark.parametrize(
    "other",
    [
        record("in/page+2.png"),
        record(name="ObjectCreated:Copy"),
        record(object_sequencer="0055AED6DCD90281E6"),
        record(object_versionId="v2"),
        record(s3={**record()["s3"], "bucket": {"name": "other"}}),
    ],
)
def test_another_change_has_another_id(other: dict[str, Any]) -> None:
    assert event(s3(other)).id != event(s3(record())).id


def test_changes_without_a_sequencer_are_told_apart_by_their_time() -> None:
    tagged = record(name="ObjectTagging:Put", object_sequencer=None, object_versionId="v1")
    later = {**tagged, "eventTime": "2026-11-23T09:30:58.123Z"}

    assert event(s3(tagged)).id == event(s3(tagged), message_id="m-2").id != event(s3(later)).id
    assert "sequencer" not in event(s3(tagged)).extensions


def test_one_bad_record_does_not_spoil_its_neighbours() -> None:
    bad = [record("%FF"), record(eventVersion="3.0"), {"eventSource": "aws:sqs"}, "text", None]
    body = s3(record("a"), *bad, record("b"))
    found = items(body)

    assert [one.data["key"] for one in found if isinstance(one, Event)] == ["a", "b"]
    refused = [one for one in found if isinstance(one, Unreadable)]
    assert [one.reason for one in refused] == [
        "invalid_key_encoding",
        "unsupported_event_version",
    ] + ["invalid_s3_record"] * 3
    assert [one.id for one in refused] == ["m-1#2", "m-1#3", "m-1#4", "m-1#5", "m-1#6"]
    assert {one.raw for one in refused} == {json.dumps(body).encode()}


@pytest.mark.parametrize(
    "bad",
    [
        record(None),
        record(""),
        record(7),
        record(name=None),
        record(name=""),
        record(name="a\nb"),
        record(s3={}),
        record(s3={"bucket": {"name": "b"}}),
        record(s3={"bucket": {}, "object": {"key": "k"}}),
        record(s3={"bucket": {"name": 7}, "object": {"key": "k"}}),
        record(s3={"bucket": {"name": "b\x1b"}, "object": {"key": "k"}}),
    ],
)
def test_a_record_that_does_not_name_bucket_object_and_change_is_a_dead_letter(
    bad: dict[str, Any],
) -> None:
    found = unreadable(s3(bad))

    assert (found.reason, found.id) == ("invalid_s3_record", "m-1")


@pytest.mark.parametrize(
    "data",
    [
        {"Records": "x"},
        s3({"eventSource": "aws:ses", "ses": {}}),
        s3({"s3": {}}),
        {"Event": "s3:TestEvent"},
    ],
)
def test_records_of_somebody_else_are_data(data: Any) -> None:
    assert event(data).data == data


@pytest.mark.parametrize(
    ("region", "arn", "source"),
    [
        ("eu-west-1", None, "arn:aws:s3:::scans"),
        ("cn-north-1", None, "arn:aws-cn:s3:::scans"),
        ("us-gov-west-1", None, "arn:aws-us-gov:s3:::scans"),
        ("us-isob-east-1", None, "arn:aws-iso-b:s3:::scans"),
        ("us-iso-east-1", None, "arn:aws-iso:s3:::scans"),
        ("", None, "arn:aws:s3:::scans"),
        (None, "arn:aws-cn:s3:::scans", "arn:aws-cn:s3:::scans"),
        ("eu-west-1", "arn:aws:s3:::somebody-elses", "arn:aws:s3:::scans"),
    ],
)
def test_the_source_is_the_bucket_in_its_partition(
    region: str | None, arn: str | None, source: str
) -> None:
    bucket = {"name": "scans"} | ({} if arn is None else {"arn": arn})
    assert (
        event(s3(record(awsRegion=region, s3={**record()["s3"], "bucket": bucket}))).source
        == source
    )


def test_a_service_that_speaks_like_s3_is_understood() -> None:
    """MinIO names itself, prefixes the event, and leaves fields empty."""
    body = {
        "EventName": "s3:ObjectCreated:Put",
        "Key": "scans/a",
        **s3(
            record(
                "in%2Fa",
                "s3:ObjectCreated:Put",
                eventVersion="2.0",
                eventSource="minio:s3",
                awsRegion="",
                object_sequencer="",
                eventTime="",
            )
        ),
    }
    found = event(body)

    assert (found.data["key"], found.data["event_name"], found.data["sequencer"]) == (
        "in/a",
        "ObjectCreated:Put",
        None,
    )
    assert (found.type, found.time) == ("com.amazonaws.s3.ObjectCreated.Put", SENT)


def test_what_an_event_tells_besides_is_kept() -> None:
    extra = {
        "restoreEventData": {
            "lifecycleRestorationExpiryTime": "2026-12-01T00:00:00.000Z",
            "lifecycleRestoreStorageClass": "GLACIER",
        }
    }
    assert event(s3(record(name="ObjectRestore:Completed", glacierEventData=extra))).data[
        "details"
    ] == {"glacierEventData": extra}


# -- EventBridge -----------------------------------------------------------------------------------


def test_an_event_of_eventbridge_keeps_its_identity() -> None:
    found = event(
        bridged(
            "EC2 Instance State-change Notification",
            source="aws.ec2",
            resources=["arn:a", "arn:b"],
            detail={"state": "stopped"},
        )
    )

    assert found == Event(
        {"state": "stopped"},
        id="17793124-05d4-b198-2fde-7ededc63b103",
        source="aws.ec2",
        type="EC2 Instance State-change Notification",
        subject="arn:a",
        time=datetime(2026, 11, 23, 9, 29, 58, tzinfo=UTC),
        extensions={
            "account": "123456789012",
            "region": "eu-west-1",
            "resources": '["arn:a", "arn:b"]',
        },
    )


def test_a_schedule_sends_its_detail_as_text() -> None:
    found = event(
        {
            **bridged("Scheduled Event", source="aws.scheduler", detail="{}", resources=[]),
            "replay-name": "again",
        }
    )

    assert (found.data, found.subject, found.extensions["replayname"]) == ("{}", None, "again")


@pytest.mark.parametrize("name", sorted(EVENTBRIDGE_KEYS))
def test_without_one_of_its_members_it_is_data(name: str) -> None:
    data = {member: value for member, value in bridged().items() if member != name}
    assert event(data).data == data


@pytest.mark.parametrize(
    "change", [{"version": 0}, {"version": "x"}, {"resources": {}}, {"id": 1}, {"time": None}]
)
def test_with_members_of_another_type_it_is_data(change: dict[str, Any]) -> None:
    assert event(bridged(**change)).data == bridged(**change)


@pytest.mark.parametrize("change", [{"id": ""}, {"source": ""}, {"detail-type": "a\nb"}])
def test_an_event_of_eventbridge_that_has_no_identity_is_a_dead_letter(
    change: dict[str, Any],
) -> None:
    assert unreadable(bridged(**{"source": "acme", **change})).reason == "invalid_event"


@pytest.mark.parametrize(
    ("detail_type", "detail", "name"),
    [
        ("Object Created", {"reason": "PutObject"}, "ObjectCreated:Put"),
        (
            "Object Created",
            {"reason": "CompleteMultipartUpload"},
            "ObjectCreated:CompleteMultipartUpload",
        ),
        ("Object Created", {"reason": "new"}, "ObjectCreated"),
        (
            "Object Deleted",
            {"reason": "DeleteObject", "deletion-type": "Permanently Deleted"},
            "ObjectRemoved:Delete",
        ),
        (
            "Object Deleted",
            {"reason": "DeleteObject", "deletion-type": "Delete Marker Created"},
            "ObjectRemoved:DeleteMarkerCreated",
        ),
        (
            "Object Deleted",
            {"reason": "Lifecycle Expiration", "deletion-type": "Permanently Deleted"},
            "LifecycleExpiration:Delete",
        ),
        ("Object Tags Added", {}, "ObjectTagging:Put"),
        (
            "Object Storage Class Changed",
            {"destination-storage-class": "GLACIER"},
            "LifecycleTransition",
        ),
    ],
)
def test_s3_by_eventbridge_is_named_like_s3_by_notification(
    detail_type: str, detail: dict[str, Any], name: str
) -> None:
    thing = {"key": "a%20b+c", "sequencer": "1A"}
    found = event(
        bridged(
            detail_type,
            detail={"version": "0", "bucket": {"name": "scans"}, "object": thing, **detail},
        )
    )

    assert (found.data["event_name"], found.type) == (
        name,
        f"com.amazonaws.s3.{name.replace(':', '.')}",
    )
    assert (found.data["key"], found.data["size"], found.data["details"]) == (
        "a%20b+c",
        None,
        detail or None,
    )
    assert found.source == "arn:aws:s3:::scans"


def test_calls_of_s3_recorded_by_cloudtrail_are_events_of_eventbridge() -> None:
    assert (
        event(bridged("AWS API Call via CloudTrail", detail={"eventName": "PutObject"})).source
        == "aws.s3"
    )


def test_a_later_major_version_of_s3_by_eventbridge_is_a_dead_letter() -> None:
    detail = {**bridged()["detail"], "event-version": "2.0"}
    assert unreadable(bridged(detail=detail)).reason == "unsupported_event_version"


# -- the extended client ---------------------------------------------------------------------------

POINTER = [
    "software.amazon.payloadoffloading.PayloadS3Pointer",
    {"s3BucketName": "b", "s3Key": "k"},
]


def test_a_body_that_was_left_in_s3_is_not_taken_for_data() -> None:
    size = {"ExtendedPayloadSize": number("300000")}

    assert unreadable(POINTER, size).reason == "payload_in_s3"
    assert (
        unreadable(POINTER, {"SQSLargePayloadSize": number("300000")}, text=True).reason
        == "payload_in_s3"
    )
    assert event(POINTER).data == POINTER
    assert event({"fetched": True}, size).extensions == {}


# -- the catalogue ---------------------------------------------------------------------------------


def dies(*bodies: Any) -> Callable[[dict[str, Any]], None]:
    def check(case: dict[str, Any]) -> None:
        for body in bodies:
            assert unreadable(body).reason == case["reason_code"], body
            assert unreadable(wrapped(body)).reason == case["reason_code"]

    return check


def dies_with(attributes: dict[str, Any], body: str = "{}") -> Callable[[dict[str, Any]], None]:
    def check(case: dict[str, Any]) -> None:
        assert unreadable(body, attributes).reason == case["reason_code"]

    return check


def arrives(*pairs: tuple[Any, Any]) -> Callable[[dict[str, Any]], None]:
    def check(case: dict[str, Any]) -> None:
        for body, data in pairs:
            assert event(body).data == data
            assert event(wrapped(body)).data == data

    return check


def keyed(*pairs: tuple[Any, str]) -> Callable[[dict[str, Any]], None]:
    """Records, and the key that the event must have; the log, SNS and the next publish must be able
    to take the event.
    """

    def check(case: dict[str, Any]) -> None:
        for given_record, key in pairs:
            found = event(s3(given_record))
            assert found.data["key"] == key
            assert found.subject is not None
            to_message(found, *encode_data(found, MAX), False, None)

    return check


def text_where_json_is_due(case: dict[str, Any]) -> None:
    assert unreadable("hello").reason == case["reason_code"]
    assert event("hello", text=True).data == "hello"


def twice_in_one_object(case: dict[str, Any]) -> None:
    with pytest.warns(UserWarning, match="'a' twice in one object"):
        assert event('{"a":1,"a":2}').data == {"a": 2}


def of_invalid_structure(case: dict[str, Any]) -> None:
    declared = {"content-type": string("application/cloudevents+json")}
    changes: list[dict[str, Any]] = [
        {"specversion": None},
        {"specversion": ""},
        {"specversion": "0.9"},
        {"id": None},
        {"id": ""},
        {"id": 25},
        {"id": {"a": "b"}},
        {"type": None},
        {"type": ""},
        {"source": None},
        {"source": ""},
        {"subject": ""},
        {"dataschema": ""},
        {"datacontenttype": ""},
        {"datacontenttype": "xyz"},
        {"time": "lunchtime"},
        {"time": "2018-04-05T18:31Z"},
        {"time": "2018-04-05T18:31:00X"},
        {"time": "2018-04-05T18:31:00+25:00"},
        {"time": "2018-04-05T18:31:00+xx:00"},
        {"time": "2018-04-05T18:31:00+05"},
        {"MyExtension": "bad"},
        {"my.extension": "bad"},
        {"ext": 1.5},
        {"data": "text", "data_base64": "AA=="},
    ]
    assert len(changes) == 25
    for change in changes:
        body = {name: value for name, value in {**SINGLE, **change}.items() if value is not None}
        assert unreadable(body, declared).reason == case["reason_code"], change
        if "specversion" in body:
            assert unreadable(body).reason == case["reason_code"], change


def percent_in_an_attribute(case: dict[str, Any]) -> None:
    """A rule of HTTP headers, which take ASCII only; here it would change what was published."""
    assert event("1", context(subject="Euro%20%E2%82%AC")).subject == "Euro%20%E2%82%AC"
    assert event("1", context(subject="Euro € 😀")).subject == "Euro € 😀"


def beyond_32_bits(case: dict[str, Any]) -> None:
    dies({**SINGLE, "n": 2**31})(case)
    dies_with(context() | {"ce-n": number(str(2**31))})(case)
    assert event("1", context() | {"ce-n": number(str(2**31 - 1))}).extensions == {"n": 2**31 - 1}


def same_id(case: dict[str, Any]) -> None:
    found = [
        event({**SINGLE, "source": source, "data": data})
        for source, data in (("a", 1), ("b", 1), ("a", 2))
    ]
    assert [(e.id, e.source, e.data) for e in found] == [
        ("e-1", "a", 1),
        ("e-1", "b", 1),
        ("e-1", "a", 2),
    ]


def strange_times(case: dict[str, Any]) -> None:
    for text, instant in (
        ("2999-01-01T00:00:00Z", datetime(2999, 1, 1, tzinfo=UTC)),
        ("0001-01-01T00:00:00+14:00", datetime(1, 1, 1, tzinfo=timezone(timedelta(hours=14)))),
        ("2016-12-31T23:59:60Z", datetime(2016, 12, 31, 23, 59, 59, 999_999, tzinfo=UTC)),
    ):
        assert (
            event({**SINGLE, "time": text}).time == event("1", context(time=text)).time == instant
        )
        assert event(wrapped("1", Timestamp=text)).data == 1
        assert event(s3(record(eventTime=text))).time == event(bridged(time=text)).time == instant


def event_on_set_up(case: dict[str, Any]) -> None:
    assert (
        ignored(TEST_EVENT)
        == ignored(wrapped(TEST_EVENT, Subject="Amazon S3 Notification"))
        == case["reason_code"]
    )


def decoded_by_lambda(case: dict[str, Any]) -> None:
    right, wrong = (
        record("a%2Bb+c", object_urlDecodedKey="a+b c"),
        record("a%2Bb+c", object_urlDecodedKey="../etc/passwd"),
    )
    assert event(s3(right)).data["key"] == event(s3(wrong)).data["key"] == "a+b c"


def removed(case: dict[str, Any]) -> None:
    found = event(
        s3(
            record(
                name="ObjectRemoved:Delete",
                object_size=None,
                object_eTag=None,
                newInVersion9={"a": 1},
                object_new=1,
            )
        )
    )
    assert (found.data["size"], found.data["etag"]) == (None, None)
    assert found.type == "com.amazonaws.s3.ObjectRemoved.Delete"


def out_of_order(case: dict[str, Any]) -> None:
    in_order = ["0F", "10", "0055AED6DCD90281E5", "0055aed6dcd90281e6", "0100000000000000000"]
    keys = [
        event(s3(record(object_sequencer=sequencer))).extensions["sequencer"]
        for sequencer in in_order
    ]
    assert keys == sorted(keys, key=str)
    assert len(set(keys)) == len(keys)
    for unfit in ("xyz", "F" * 33, "0x1"):
        found = event(s3(record(object_sequencer=unfit)))
        assert "sequencer" not in found.extensions
        assert found.data["sequencer"] == unfit


APPLIED: dict[str, Callable[[dict[str, Any]], None]] = {
    "BI-002": dies("  \n\t "),
    "BI-005": text_where_json_is_due,
    "BI-007": dies('{"x": NaN}', "Infinity", "[-Infinity]"),
    "BI-008": dies('{"x": 1e999}'),
    "BI-009": arrives((str(2**64), 2**64), ("1" * 4300, int("1" * 4300))),
    "BI-010": dies("1" * 5000),
    "BI-011": dies("[" * 100_000 + "]" * 100_000),
    "BI-012": dies("[" * 900 + "]" * 900, "[" * 101 + "]" * 101),
    "BI-013": twice_in_one_object,
    "BI-014": dies('"\\ud800"', '{"\\udfff": 1}'),
    "BI-017": dies_with(
        context(datacontentencoding="base64", datacontenttype="application/json"),
        base64.b64encode("{}".encode("utf-16")).decode(),
    ),
    "BI-033": lambda case: test_bytes_in_attributes_are_kept_as_base64_and_as_bytes(PNG),
    "BI-047": of_invalid_structure,
    "BI-048": dies_with(context(specversion=None, id=None)),
    "BI-049": percent_in_an_attribute,
    "BI-052": beyond_32_bits,
    "BI-054": same_id,
    "BI-055": same_id,
    "BI-056": strange_times,
    "BI-057": event_on_set_up,
    "BI-059": keyed(
        (record("a%2520b"), "a%20b"),
        (record("a%252Bb"), "a%2Bb"),
        (record("%25"), "%"),
        (record("100%"), "100%"),
    ),
    "BI-060": dies(*(s3(record(key)) for key in ("%FF%FE.png", "a%C3", "%ED%A0%80"))),
    "BI-061": decoded_by_lambda,
    "BI-062": keyed(
        (record("..%2F..%2Fetc%2Fpasswd"), "../../etc/passwd"),
        (record("%2Fetc%2Fpasswd"), "/etc/passwd"),
        (record("a%00b"), "a\x00b"),
        (record("C:%5Cx"), "C:\\x"),
    ),
    "BI-063": keyed(
        (record("a%E2%80%AEgnp.exe"), "a\u202egnp.exe"),
        (record("a%0Ab"), "a\nb"),
        (record("%1B%5B2J"), "\x1b[2J"),
        (record("%EF%BF%BE"), "\ufffe"),
        (record("%E3%80%80a%C2%A0"), "\u3000a\u00a0"),
    ),
    "BI-066": dies(
        *(s3(record(eventVersion=version)) for version in ("3.0", "1.9", "20.1", "", None, 2, 2.1))
    ),
    "BI-067": removed,
    "BI-069": lambda case: check_equal(
        event(s3(record(object_versionId="v1", object_eTag='"e"'))).data, version_id="v1", etag="e"
    ),
    "BI-070": out_of_order,
    "BI-073": lambda case: test_a_notification_is_unwrapped(),
    "BI-075": lambda case: test_data_that_look_like_an_envelope_are_data(
        {"Type": "Notification", "Message": "{}"}
    ),
    "BI-076": lambda case: test_as_many_envelopes_are_taken_off_as_were_declared(),
}

_PUBLISH = "publishing: tests/aws/test_aws_wire.py"
ELSEWHERE: dict[str, str] = {
    **dict.fromkeys(
        [
            "BI-019",
            "BI-020",
            "BI-022",
            "BI-023",
            "BI-030",
            "BI-031",
            "BI-034",
            "BI-035",
            "BI-036",
            "BI-081",
        ],
        _PUBLISH,
    ),
    "BI-025": "the embedded broker",
    "BI-068": "reading the object: the listener",
    "BI-071": "reading the object: the model",
    "BI-072": "what a model writes",
    "BI-079": "webhooks of SNS, which nothing here receives",
    "BI-080": "webhooks of SNS, which nothing here receives",
}
GROUPS = {"body", "attributes", "cloudevents", "s3", "sns_wrapping"}


def check_equal(data: dict[str, Any], **fields: Any) -> None:
    assert {name: data[name] for name in fields} == fields


def test_every_case_that_may_arrive_is_applied_here() -> None:
    assert sorted([*APPLIED, *ELSEWHERE]) == sorted(
        id_ for id_, case in CASES.items() if case["group"] in GROUPS
    )


@pytest.mark.parametrize("id", APPLIED)
def test_bad_input_is_read_as_the_catalogue_says(id: str) -> None:  # noqa: A002 - the catalogue's word
    APPLIED[id](CASES[id])


# -- whatever comes --------------------------------------------------------------------------------

ANY_TEXT = st.one_of(st.text(max_size=20), TEXTS)
ENVELOPES = [
    SINGLE,
    [SINGLE, SINGLE],
    s3(record()),
    s3(record(), record("b")),
    bridged(),
    bridged("Tick", source="acme"),
    TEST_EVENT,
    POINTER,
    wrapped("1"),
    wrapped(s3(record())),
    wrapped(SINGLE),
    {"a": [1, {"b": None}]},
    {"data_base64": "AAE=", **SINGLE},
]


def places(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Yield the path of every part of a JSON value."""
    yield path
    if isinstance(value, dict):
        for name in value:
            yield from places(value[name], (*path, name))
    elif isinstance(value, list):
        for number_, part in enumerate(value):
            yield from places(part, (*path, number_))


def changed(value: Any, path: tuple[Any, ...], new: Any) -> Any:
    if not path:
        return new
    if isinstance(value, dict):
        return {
            name: changed(part, path[1:], new) if name == path[0] else part
            for name, part in value.items()
        }
    return [
        changed(part, path[1:], new) if number_ == path[0] else part
        for number_, part in enumerate(value)
    ]


@st.composite
def bodies(draw: st.DrawFn) -> str:
    """Draw text, or an envelope of which one part is something else."""
    if draw(st.integers(0, 4)) == 0:
        return draw(ANY_TEXT)
    envelope = draw(st.sampled_from(ENVELOPES))
    plain = draw(
        st.one_of(
            st.none(),
            st.booleans(),
            st.integers(),
            ANY_TEXT,
            st.lists(ANY_TEXT, max_size=2),
            st.just({}),
            st.floats(),
        )
    )
    body = json.dumps(changed(envelope, draw(st.sampled_from(list(places(envelope)))), plain))
    return json.dumps(wrapped(body)) if draw(st.booleans()) else body


ATTRIBUTES = st.dictionaries(
    st.one_of(
        st.sampled_from(
            [
                *context(more="{}", time="x", n="1"),
                "content-type",
                "ce-datacontentencoding",
                "ExtendedPayloadSize",
                "a",
            ]
        ),
        ANY_TEXT,
    ),
    st.fixed_dictionaries(
        {"DataType": st.sampled_from(["String", "Number", "Binary", "String.Array", "Number.int"])},
        optional={
            "StringValue": st.one_of(
                ANY_TEXT,
                st.sampled_from(
                    [
                        "1.0",
                        "e-1",
                        "base64",
                        "application/json",
                        "text/plain",
                        "application/cloudevents+json",
                    ]
                ),
            ),
            "BinaryValue": st.binary(max_size=4),
        },
    ),
    max_size=9,
)


@settings(max_examples=examples(60), suppress_health_check=[HealthCheck.too_slow])
@given(
    bodies(),
    st.one_of(st.just({}), ATTRIBUTES, ATTRIBUTES.map(lambda some: {**context(), **some})),
    st.booleans(),
    st.integers(0, 2),
)
def test_whatever_arrives_becomes_items_that_can_be_kept(
    body: str, attributes: dict[str, Any], text: bool, unwrap: int
) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        found = understand(arrival(body, attributes, group="g"), text=text, unwrap=unwrap)
        again = understand(arrival(body, attributes, group="g"), text=text, unwrap=unwrap)

    assert found
    assert repr(found) == repr(again)
    for one, same in zip(found, again, strict=True):
        if isinstance(one, Event):
            assert isinstance(same, Event)
            assert (one.source, one.id, one.time) == (same.source, same.id, same.time)
            assert one.extensions["partitionkey"]
            raw, media_type = encode_data(one, MAX)
            assert repr(decode_data(raw, media_type)) == repr(one.data)
        else:
            assert one.raw == body.encode("utf-8", "surrogatepass")
            assert one.reason
            assert one.id
    message_attributes(unwrapped(arrival(body, attributes), unwrap))


def test_reading_takes_time_in_proportion_to_the_message() -> None:
    body = json.dumps(s3(*[record(f"a{n}") for n in range(2000)]))
    began = time.perf_counter()
    found = items(wrapped(body))

    assert len({one.id for one in found if isinstance(one, Event)}) == 2000
    assert time.perf_counter() - began < 15


# -- what a server really sends --------------------------------------------------------------------


@pytest.fixture(scope="module")
def server() -> Iterator[Emulator]:
    with moto_server() as emulator:
        yield emulator


def received(sqs: Any, queue: str) -> list[Arrival]:
    """Take all messages of a queue as a listener does."""
    found = []
    while got := sqs.receive_message(
        QueueUrl=queue,
        MaxNumberOfMessages=10,
        MessageAttributeNames=["All"],
        MessageSystemAttributeNames=["All"],
    ).get("Messages"):
        for one in got:
            system = one["Attributes"]
            attributes = one.get("MessageAttributes", {})
            sent_us = int(system["SentTimestamp"]) * 1000
            found.append(
                Arrival(
                    one["Body"],
                    attributes,
                    one["MessageId"],
                    QUEUE,
                    sent_us,
                    system.get("MessageGroupId"),
                )
            )
            sqs.delete_message(QueueUrl=queue, ReceiptHandle=one["ReceiptHandle"])
    return found


def arn(name: str) -> str:
    return f"arn:aws:sqs:{REGION}:{ACCOUNT}:{name}"


def test_a_bucket_tells_of_its_objects_directly_and_by_a_topic(server: Emulator) -> None:
    clients: list[Any] = [server.client(service) for service in ("s3", "sqs", "sns")]
    bucket, sqs, sns = clients
    queues = [
        sqs.create_queue(QueueName=f"bucket-{way}")["QueueUrl"] for way in ("direct", "by-topic")
    ]
    topic = sns.create_topic(Name="bucket")["TopicArn"]
    sns.subscribe(TopicArn=topic, Protocol="sqs", Endpoint=arn("bucket-by-topic"))
    key = "in/Größe 100% +1\u202e.png"

    for name, configuration in (
        (
            "scans-direct",
            {
                "QueueConfigurations": [
                    {"QueueArn": arn("bucket-direct"), "Events": ["s3:ObjectCreated:*"]}
                ]
            },
        ),
        (
            "scans-by-topic",
            {"TopicConfigurations": [{"TopicArn": topic, "Events": ["s3:ObjectCreated:*"]}]},
        ),
    ):
        bucket.create_bucket(Bucket=name, CreateBucketConfiguration={"LocationConstraint": REGION})
        bucket.put_bucket_notification_configuration(
            Bucket=name, NotificationConfiguration=configuration
        )
        bucket.put_object(Bucket=name, Key=key, Body=b"page")

    for queue, name in zip(queues, ("scans-direct", "scans-by-topic"), strict=True):
        test, *others = [one for message in received(sqs, queue) for one in understand(message)]
        assert isinstance(test, Ignored)
        assert test.reason == "s3_test_event"
        (put,) = others
        assert isinstance(put, Event), put
        assert (put.data["bucket"], put.data["key"], put.data["size"]) == (name, key, 4)
        assert (put.source, put.type) == (
            f"arn:aws:s3:::{name}",
            "com.amazonaws.s3.ObjectCreated.Put",
        )
        assert put.subject == r"in/Größe 100% +1\u202e.png"


@pytest.mark.parametrize("raw", ["true", "false"])
def test_a_topic_delivers_the_same_raw_and_wrapped(server: Emulator, raw: str) -> None:
    sns: Any = server.client("sns")
    sqs: Any = server.client("sqs")
    topic, queue = (
        sns.create_topic(Name=f"t-{raw}")["TopicArn"],
        sqs.create_queue(QueueName=f"q-{raw}")["QueueUrl"],
    )
    sns.subscribe(
        TopicArn=topic,
        Protocol="sqs",
        Endpoint=arn(f"q-{raw}"),
        Attributes={"RawMessageDelivery": raw},
    )
    published = Event(
        {"page": 1, "odd": "\x00\ufffe"},
        subject="a b",
        extensions={"urgent": True, "n": 3, "tenant": "é"},
    )
    message = to_message(published, *encode_data(published, MAX), False, None)

    sns.publish(TopicArn=topic, Message=message.body, MessageAttributes=message.attributes)
    attributes = {"N": number("3"), "tenant": string("acme")}
    if raw == "false":  # moto cannot deliver bytes in raw messages: it answers the receive with 500
        attributes["B"] = {"DataType": "Binary", "BinaryValue": b"\xff\x00"}
    sns.publish(TopicArn=topic, Message="[1]", MessageAttributes=attributes)

    own, foreign = [one for arrived in received(sqs, queue) for one in understand(arrived)]
    assert own == published
    assert isinstance(foreign, Event), foreign
    assert (foreign.data, foreign.type) == ([1], "mltrigger.message")
    assert foreign.extensions == {"n": 3, "tenant": "acme"} | (
        {"b": "/wA="} if "B" in attributes else {}
    )
    assert foreign.source == (QUEUE if raw == "true" else topic)
