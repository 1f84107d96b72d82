"""Event: what one may be, how it travels as a CloudEvent, and how one causes another."""

from __future__ import annotations

import copy
import dataclasses
import io
import json
import pickle
import re
import uuid
from datetime import UTC, date, datetime, timedelta, timezone
from typing import Any

import pandas as pd
import pytest
from cloudevents.core.formats.json import JSONFormat

from mltrigger.errors import EventTooLarge, InvalidEvent, NotEncodable, StoreError
from mltrigger.event import codec, making
from mltrigger.event import data as data_of
from mltrigger.event import event as events
from mltrigger.event.event import Event

NOON = datetime(2026, 11, 23, 12, tzinfo=UTC)
TRACE = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
MINIMAL = {"specversion": "1.0", "id": "1", "source": "scanner", "type": "page.scanned"}


def structured(**members: Any) -> str:
    """Return a CloudEvent as JSON text; a member given as ``...`` is left out."""
    return json.dumps(
        {name: value for name, value in {**MINIMAL, **members}.items() if value is not ...}
    )


# -- making one ------------------------------------------------------------------------------------


def test_data_alone_is_enough() -> None:
    before = datetime.now(UTC)
    event = Event({"page": 1})

    assert event.data == {"page": 1}
    assert (event.type, event.source, event.subject) == ("mltrigger.event", "mltrigger", None)
    assert before <= event.time <= datetime.now(UTC)
    assert uuid.UUID(event.id).version == 7


def test_all_problems_are_reported_at_once() -> None:
    with pytest.raises(InvalidEvent) as caught:
        Event(
            1,
            id="",
            source=" ",
            type=5,  # type: ignore[arg-type]
            subject="",
            datacontenttype="xyz",
            dataschema="",
            time="noon",  # type: ignore[arg-type]
            extensions={"Bad-Name": "x", "ratio": 1.5},  # type: ignore[dict-item]
        )

    text = str(caught.value)
    for part in (
        "id ",
        "source ",
        "type ",
        "subject ",
        "datacontenttype ",
        "dataschema ",
        "time ",
        "'Bad-Name'",
        "extension ratio ",
    ):
        assert part.strip("'") in text, f"{part} is missing in: {text}"
    assert isinstance(caught.value, ValueError)


@pytest.mark.parametrize("name", ["id", "source", "type"])
@pytest.mark.parametrize("value", ["", "  ", "a\nb", "x" * 1025, 5, b"a", "\u202ea"])
def test_a_required_attribute_is_short_printable_text(name: str, value: Any) -> None:
    with pytest.raises(InvalidEvent, match=f"invalid event: {name} must"):
        Event(1, **{name: value})


@pytest.mark.parametrize("name", ["id", "source", "type"])
def test_a_required_attribute_may_have_1024_characters(name: str) -> None:
    assert len(getattr(Event(1, **{name: "é" * 1024}), name)) == 1024


@pytest.mark.parametrize("name", ["subject", "datacontenttype", "dataschema"])
@pytest.mark.parametrize("value", ["", 5, b"a"])
def test_an_optional_attribute_is_text_or_left_out(name: str, value: Any) -> None:
    with pytest.raises(InvalidEvent, match=f"{name} must be a non-empty str or left out"):
        Event(1, **{name: value})


@pytest.mark.parametrize(
    "value",
    [
        '"words"',
        "true",
        "null",
        "[]",
        '{"kind"',
        "",
        "kind",
        True,
        5,
        '{"a": NaN}',
        '{"a": 1e999}',
        '{"a": ' + "[" * 101 + "]" * 101 + "}",
        '{"a": "\\ud800"}',
    ],
)
def test_the_attributes_of_a_publisher_are_the_text_of_a_json_object(value: Any) -> None:
    with pytest.raises(InvalidEvent, match="messageattributes must be the text of a JSON object"):
        Event(1, extensions={"messageattributes": value})


def test_the_attributes_of_a_publisher_may_hold_any_json_value() -> None:
    event = Event(
        1,
        extensions={
            "messageattributes": '{"Kind": "a", "n": 7, "list": ["x", null, true], "id": "theirs"}'
        },
    )

    seen = events.attributes_of(event)

    assert (seen["Kind"], seen["n"], seen["list"], seen["id"]) == (
        "a",
        7,
        ["x", None, True],
        "theirs",
    )
    assert "messageattributes" not in seen


@pytest.mark.parametrize("value", [True, 7])
def test_the_cause_of_an_event_is_named_by_its_id(value: Any) -> None:
    with pytest.raises(InvalidEvent, match="causationid must be the id of an event"):
        Event(1, extensions={"causationid": value})


def test_a_naive_time_is_refused_with_the_remedy() -> None:
    with pytest.raises(InvalidEvent, match=r"naive.*tzinfo=UTC"):
        Event(1, time=datetime(2026, 11, 23))


@pytest.mark.parametrize(
    "value",
    [date(2026, 11, 23), "2026-11-23T09:30:00Z", 0, pd.NaT],
    ids=["date", "text", "number", "NaT"],
)
def test_a_time_is_a_datetime(value: Any) -> None:
    with pytest.raises(InvalidEvent, match="time"):
        Event(1, time=value)


def test_a_pandas_timestamp_with_a_zone_is_a_time() -> None:
    assert Event(1, time=pd.Timestamp(NOON)).time == NOON


@pytest.mark.parametrize(
    "media_type", ["xyz", "/json", "text/", "text /plain", "text/plain\n", "a/b/c"]
)
def test_a_media_type_has_two_parts(media_type: str) -> None:
    with pytest.raises(InvalidEvent, match="is not a media type"):
        Event(b"", datacontenttype=media_type)


@pytest.mark.parametrize(
    "name",
    [
        "",
        "Upper",
        "with-hyphen",
        "with_underscore",
        "with.dot",
        "é",
        "x" * 61,
        "id",
        "data",
        "specversion",
        5,
    ],
)
def test_an_extension_has_a_lower_case_name_that_is_not_taken(name: Any) -> None:
    with pytest.raises(InvalidEvent, match="extension name"):
        Event(1, extensions={name: "x"})


@pytest.mark.parametrize("value", [1.5, None, b"a", [1], 2**31, -(2**31) - 1, {}])
def test_an_extension_is_text_a_truth_value_or_a_32_bit_integer(value: Any) -> None:
    """BI-052 among them."""
    with pytest.raises(InvalidEvent, match="extension scan must be a str, bool or 32-bit int"):
        Event(1, extensions={"scan": value})


def test_extensions_at_their_limits_are_kept() -> None:
    extensions = {
        "a" * 60: "x",
        "low": -(2**31),
        "high": 2**31 - 1,
        "flag": False,
        "text": "",
        "9": "digit",
    }

    assert Event(1, extensions=extensions).extensions == extensions


@pytest.mark.parametrize("extensions", [[], None, "", [("a", "b")], 5], ids=repr)
def test_extensions_are_a_mapping(extensions: Any) -> None:
    with pytest.raises(InvalidEvent, match="extensions must be a mapping"):
        Event(1, extensions=extensions)


@pytest.mark.parametrize(
    "value",
    [
        "",
        "garbage",
        1,
        TRACE.upper(),
        TRACE[:-1],
        TRACE + "-extra",
        f"00-{'0' * 32}-b7ad6b7169203331-01",
        f"00-0af7651916cd43dd8448eb211c80319c-{'0' * 16}-01",
    ],
)
def test_a_traceparent_is_a_w3c_trace_context(value: Any) -> None:
    with pytest.raises(InvalidEvent, match="not a W3C trace context"):
        Event(1, extensions={"traceparent": value})


@pytest.mark.parametrize("value", [-1, True, "1"])
def test_hops_are_a_count(value: Any) -> None:
    with pytest.raises(InvalidEvent, match="hops must be a count"):
        Event(1, extensions={"hops": value})


@pytest.mark.parametrize(
    "attributes",
    [
        {"id": "\ud800"},
        {"source": "a\udfff"},
        {"type": "\ud800"},
        {"subject": "\ud800"},
        {"dataschema": "\ud800"},
        {"datacontenttype": "text/plain; charset=\ud800"},
        {"extensions": {"scan": "\ud800"}},
    ],
    ids=lambda attributes: next(iter(attributes)),
)
def test_a_lone_surrogate_is_refused_in_every_attribute(attributes: dict[str, Any]) -> None:
    with pytest.raises(InvalidEvent):
        Event(b"", **attributes)


def test_an_event_never_changes() -> None:
    event = Event(1)

    with pytest.raises(dataclasses.FrozenInstanceError):
        event.type = "other"  # type: ignore[misc]


def test_a_copy_with_another_attribute_is_checked_again() -> None:
    event = Event(1, subject="a")

    assert dataclasses.replace(event, subject="b").id == event.id
    with pytest.raises(InvalidEvent):
        dataclasses.replace(event, subject="")


def test_an_event_equals_another_with_the_same_attributes() -> None:
    assert Event(1, id="1", time=NOON) == Event(1, id="1", time=NOON)
    assert Event(1, id="1", time=NOON) != Event(1, id="1", time=NOON, source="other")


@pytest.mark.parametrize(
    "data",
    [{"page": 1}, object(), [object()], b"\x00"],
    ids=["mapping", "object", "objects", "bytes"],
)
def test_the_repr_is_one_line_that_is_the_same_every_time(data: Any) -> None:
    event = Event(data, subject="scan 1.png")

    assert re.fullmatch(r"Event\('mltrigger\.event', subject='scan 1\.png', data=.*\)", repr(event))
    assert event.id not in repr(event)
    assert "0x" not in repr(event)


def test_neither_repr_nor_card_runs_what_an_event_brings() -> None:
    event = Event("<img src=x onerror=alert(1)>", subject="<b>\x1b[2J\u202e", type="<i>")

    assert "<img" not in event._repr_html_()
    assert "<b>" not in event._repr_html_()
    assert "<i>" not in event._repr_html_()
    assert "\x1b" not in repr(event)
    assert "\u202e" not in repr(event) + event._repr_html_()


def test_an_event_of_a_plain_topic_has_nothing_to_open() -> None:
    with pytest.raises(InvalidEvent, match="announces no object") as caught:
        Event(1).open()

    assert caught.value.reason == "nothing_to_open"


# -- identity and cause ----------------------------------------------------------------------------


def test_the_id_of_an_output_is_a_function_of_its_cause_and_its_subscription() -> None:
    cause = Event(1, id="1", source="scanner")

    assert events.derived_id(cause, "reader") == events.derived_id(
        Event(2, id="1", source="scanner"), "reader"
    )
    others = [
        (Event(1, id="2", source="scanner"), "reader"),
        (Event(1, id="1", source="other"), "reader"),
        (cause, "checker"),
    ]
    assert events.derived_id(cause, "reader") not in {events.derived_id(*other) for other in others}


def test_the_id_of_an_output_is_the_same_in_every_process() -> None:
    assert (
        events.derived_id(Event(1, id="1", source="scanner"), "reader")
        == "1d837a003b009a1de4578898d51171ab"
    )


def test_an_output_names_its_cause_and_travels_in_its_trace() -> None:
    cause = Event(1, subject="scan 1.png", extensions={"traceparent": TRACE, "hops": 2})
    output = cause.emitted({"text": "a"}, by="reader", type="mltrigger.output")

    assert output.extensions["causationid"] == cause.id
    assert (output.hops, output.subject, output.source) == (3, "scan 1.png", "mltrigger/reader")
    assert output.traceparent is not None
    assert output.traceparent[:36] == TRACE[:36]
    assert output.traceparent != TRACE
    assert output.id == cause.emitted("other", by="reader", type="mltrigger.output").id


def test_an_output_of_an_untraced_event_has_no_trace() -> None:
    assert Event(1).emitted(2, by="reader", type="t").traceparent is None


def test_as_event_keeps_an_event_and_wraps_anything_else() -> None:
    event = Event(1)

    assert making.as_event(event) is event
    assert making.as_event({"id": "not an id"}).data == {"id": "not an id"}


# -- CloudEvents JSON ------------------------------------------------------------------------------

EVERYTHING = Event(
    {"text": "Zürich", "score": float("inf"), "page": 1},
    id="A-1",
    source="https://example.com/scanner?x=1#a",
    type="page.scanned",
    time=NOON,
    subject="scan 1.png",
    datacontenttype="application/json; charset=utf-8",
    dataschema="https://example.com/schema",
    extensions={"traceparent": TRACE, "hops": 3, "urgent": True, "tenant": "blue"},
)


@pytest.mark.parametrize(
    "event",
    [
        EVERYTHING,
        Event(None, time=NOON),
        Event(0, time=NOON),
        Event(False, time=NOON),
        Event("", time=NOON),
        Event([1, None, {"a": []}], time=NOON),
        Event(b"\x00\xff", time=NOON),
        Event(b"", time=NOON, datacontenttype="image/png"),
        Event({"raw": b"\x00", "score": float("-inf")}, time=NOON),
        Event(
            1,
            time=datetime(
                2026, 11, 23, 9, 30, 0, 123456, timezone(timedelta(hours=-5, minutes=-30))
            ),
        ),
    ],
    ids=[
        "everything",
        "None",
        "0",
        "False",
        "empty text",
        "list",
        "bytes",
        "no bytes",
        "tagged parts",
        "offset",
    ],
)
def test_an_event_survives_its_json_form(event: Event) -> None:
    assert Event.from_json(event.to_json()) == event
    assert Event.from_json(event.to_json().encode()) == event


def test_the_sdk_reads_what_we_write() -> None:
    read = JSONFormat().read(None, EVERYTHING.to_json())

    assert (read.get_id(), read.get_source(), read.get_type()) == (
        "A-1",
        "https://example.com/scanner?x=1#a",
        "page.scanned",
    )
    assert (read.get_time(), read.get_subject(), read.get_specversion()) == (
        NOON,
        "scan 1.png",
        "1.0",
    )
    assert (
        read.get_extension("traceparent"),
        read.get_extension("hops"),
        read.get_extension("urgent"),
    ) == (TRACE, 3, True)
    assert read.get_data() == {"text": "Zürich", "score": {"$numberDouble": "Infinity"}, "page": 1}


def test_the_sdk_reads_our_bytes() -> None:
    assert JSONFormat().read(None, Event(b"\x00\xff").to_json()).get_data() == b"\x00\xff"


def test_we_read_what_the_sdk_writes() -> None:
    text = JSONFormat().write(EVERYTHING.to_cloudevent())

    assert Event.from_json(text) == EVERYTHING


def test_writing_an_event_changes_neither_it_nor_what_it_was_made_of() -> None:
    extensions = {"tenant": "blue"}
    event = Event({"a": 1}, extensions=extensions)
    event.to_json()

    assert extensions == {"tenant": "blue"}
    assert event.extensions == {"tenant": "blue"}


@pytest.mark.parametrize(
    ("text", "says"),
    [
        pytest.param(structured(specversion=...), "specversion", id="no specversion"),
        pytest.param(structured(id=...), "id is missing", id="no id"),
        pytest.param(structured(type=...), "type is missing", id="no type"),
        pytest.param(structured(source=...), "source is missing", id="no source"),
        pytest.param(structured(time="after lunch"), "RFC 3339", id="time is words"),
        pytest.param(structured(time="2026-11-23T09:30Z"), "RFC 3339", id="time without seconds"),
        pytest.param(structured(time="2026-11-23T09:30:00Q"), "RFC 3339", id="zone is a letter"),
        pytest.param(
            structured(time="2026-11-23T09:30:00+24:30"), "time", id="offset beyond a day"
        ),
        pytest.param(
            structured(time="2026-11-23T09:30:00+ab:00"), "RFC 3339", id="offset is letters"
        ),
        pytest.param(
            structured(time="2026-11-23T09:30:00+02"), "RFC 3339", id="offset without minutes"
        ),
        pytest.param(structured(id=""), "id must", id="empty id"),
        pytest.param(structured(type=""), "type must", id="empty type"),
        pytest.param(structured(source=""), "source must", id="empty source"),
        pytest.param(structured(specversion=""), "specversion", id="empty specversion"),
        pytest.param(structured(specversion="0.3"), "specversion", id="older specversion"),
        pytest.param(structured(specversion="2.0"), "specversion", id="newer specversion"),
        pytest.param(structured(specversion=1.0), "specversion", id="specversion is a number"),
        pytest.param(
            structured(datacontenttype="json"), "media type", id="content type without a slash"
        ),
        pytest.param(structured(datacontenttype=""), "datacontenttype", id="empty content type"),
        pytest.param(structured(dataschema=""), "dataschema", id="empty schema"),
        pytest.param(structured(subject=""), "subject", id="empty subject"),
        pytest.param(structured(id=25), "id must be text", id="id is a number"),
        pytest.param(structured(id={"a": "b"}), "id must be text", id="id is an object"),
        pytest.param(structured(source=["a"]), "source must be text", id="source is a list"),
        pytest.param(structured(time=1790000000), "time must be text", id="time is a number"),
        pytest.param(structured(MyTenant="a"), "MyTenant", id="capitals in an extension"),
        pytest.param(structured(**{"my.tenant": "a"}), "my.tenant", id="a dot in an extension"),
        pytest.param(structured(ratio=1.5), "ratio", id="an extension with a fraction"),
        pytest.param(structured(list=[1]), "list", id="an extension that is a list"),
        pytest.param(structured(big=2**31), "big", id="BI-052 an extension beyond 32 bits"),
        pytest.param(
            structured(data="a", data_base64="YQ=="), "exclude each other", id="data twice"
        ),
        pytest.param(structured(data_base64="not base64!"), "base64", id="not base64"),
        pytest.param(structured(data_base64=5), "base64", id="base64 is a number"),
        pytest.param("[]", "object", id="a list"),
        pytest.param('"text"', "object", id="a text"),
        pytest.param("null", "object", id="null"),
    ],
)
def test_what_is_not_a_cloudevent_is_refused(text: str, says: str) -> None:
    """BI-047: the SDK accepts five of these, and makes up a missing id."""
    with pytest.raises(InvalidEvent, match=re.escape(says)) as caught:
        Event.from_json(text)

    assert caught.value.reason == "not_cloudevent"


def test_all_problems_of_a_cloudevent_are_reported_at_once() -> None:
    with pytest.raises(InvalidEvent) as caught:
        Event.from_json(structured(specversion=..., id=..., source=5, data=1, data_base64="YQ=="))

    for part in ("specversion", "id is missing", "source must be text", "exclude each other"):
        assert part in str(caught.value)


@pytest.mark.parametrize(
    ("text", "reason"), [("{", "malformed_json"), ('{"id": NaN}', "non_finite_number")]
)
def test_text_that_is_not_json_keeps_its_own_reason(text: str, reason: str) -> None:
    with pytest.raises(InvalidEvent) as caught:
        Event.from_json(text)

    assert caught.value.reason == reason


@pytest.mark.parametrize(
    "name", ["datacontenttype", "dataschema", "subject", "time", "data", "data_base64", "tenant"]
)
def test_an_optional_member_that_is_null_is_one_that_is_left_out(name: str) -> None:
    """CloudEvents JSON format 1.0.2, section 2: null MUST be treated as unset."""
    event = Event.from_json(structured(**{name: None}))

    assert (event.id, event.data, event.subject, event.extensions) == ("1", None, None, {})


@pytest.mark.parametrize("name", ["id", "source", "type", "specversion"])
def test_a_required_member_that_is_null_is_missing(name: str) -> None:
    with pytest.raises(InvalidEvent, match=name):
        Event.from_json(structured(**{name: None}))


@pytest.mark.parametrize(
    "source", ["#fragment", "/relative/path", "urn:uuid:1", "https://example.com"]
)
def test_a_source_is_any_uri_reference(source: str) -> None:
    assert Event.from_json(structured(source=source)).source == source


def test_text_data_of_a_text_media_type_is_read() -> None:
    assert (
        Event.from_json(structured(datacontenttype="text/plain", data="Simple text")).data
        == "Simple text"
    )


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("2999-01-01T00:00:00Z", datetime(2999, 1, 1, tzinfo=UTC)),
        ("0001-01-01T00:00:00+14:00", datetime(1, 1, 1, tzinfo=timezone(timedelta(hours=14)))),
        (
            "9999-12-31T23:59:59.999999-14:00",
            datetime(9999, 12, 31, 23, 59, 59, 999999, timezone(timedelta(hours=-14))),
        ),
        ("2016-12-31T23:59:60Z", datetime(2016, 12, 31, 23, 59, 59, 999999, UTC)),
        ("2016-12-31T23:59:60.5Z", datetime(2016, 12, 31, 23, 59, 59, 999999, UTC)),
        ("2026-11-23t12:00:00z", NOON),
        ("2026-11-23T12:00:00-00:00", NOON),
        ("2026-11-23T12:00:00.000000000Z", NOON),
        (
            "2026-11-23T13:00:00+01:00",
            datetime(2026, 11, 23, 13, tzinfo=timezone(timedelta(hours=1))),
        ),
    ],
)
def test_rfc_3339_is_read_to_its_extremes(text: str, expected: datetime) -> None:
    """BI-056."""
    event = Event.from_json(structured(time=text))

    assert event.time == expected
    assert event.time.utcoffset() == expected.utcoffset()
    assert Event.from_json(event.to_json()) == event


@pytest.mark.parametrize(
    "text",
    [
        "2026-02-30T00:00:00Z",
        "0000-01-01T00:00:00Z",
        "2026-11-23T24:30:00Z",
        "2026-11-23 09:30:00Z",
        "",
        "２026-11-23T09:30:00Z",
    ],
)
def test_an_instant_that_does_not_exist_is_refused(text: str) -> None:
    with pytest.raises(InvalidEvent, match="time"):
        Event.from_json(structured(time=text))


# -- data as bytes ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "data", [{"a": [1, None]}, "text", None, 0, float("inf"), {"raw": b"\x00"}]
)
def test_data_is_kept_as_json_and_comes_back(data: Any) -> None:
    raw, media_type = data_of.encode_data(Event(data), 1000)

    assert media_type is None
    assert data_of.decode_data(raw, media_type) == data


@pytest.mark.parametrize("data", [b"\x00\xff", bytearray(b"a"), b""])
def test_bytes_are_kept_as_they_are(data: bytes) -> None:
    raw, media_type = data_of.encode_data(Event(data), 1000)

    assert (raw, media_type) == (bytes(data), "application/octet-stream")
    assert data_of.decode_data(raw, media_type) == data


def test_bytes_keep_their_media_type() -> None:
    assert data_of.encode_data(Event(b"a", datacontenttype="image/png"), 10) == (b"a", "image/png")


@pytest.mark.parametrize(
    "media_type", ["application/json", "application/vnd.scan+json; charset=utf-8", "text/json"]
)
def test_bytes_of_json_come_back_as_their_value(media_type: str) -> None:
    raw, kept = data_of.encode_data(Event(b'{"a": 1}', datacontenttype=media_type), 100)

    assert data_of.decode_data(raw, kept) == {"a": 1}


@pytest.mark.parametrize(
    ("raw", "reason"),
    [
        (b"  \n", "malformed_json"),
        (b"hello", "malformed_json"),
        (b'{"a": 1}\n{"a": 2}', "malformed_json"),
        (b'{"x": NaN}', "non_finite_number"),
        (b'{"x": 1e999}', "number_out_of_range"),
        (b"", "empty_body"),
        (b"\xef\xbb\xbf\xef\xbb\xbf{}", "malformed_json"),
        (b"1" * 5000, "number_out_of_range"),
        (b"[" * 100_000 + b"]" * 100_000, "nesting_too_deep"),
        (b'"\\ud800"', "invalid_unicode"),
        ("{}".encode("utf-16"), "unsupported_encoding"),
    ],
    ids=[
        "whitespace",
        "text",
        "two documents",
        "NaN",
        "overflow",
        "nothing",
        "two marks",
        "5,000 digits",
        "100,000 levels",
        "surrogate",
        "utf-16",
    ],
)
def test_bytes_that_say_they_are_json_and_are_not_are_refused_before_they_are_kept(
    raw: bytes, reason: str
) -> None:
    with pytest.raises(InvalidEvent) as caught:
        data_of.encode_data(Event(raw, datacontenttype="application/json"), 1_000_000)

    assert caught.value.reason == reason


@pytest.mark.parametrize(
    "media_type", ["application/x-ndjson", "application/jsonl", "text/x-json-lines"]
)
def test_lines_of_json_are_bytes_and_not_one_document(media_type: str) -> None:
    raw, kept = data_of.encode_data(Event(b'{"a": 1}\n{"a": 2}', datacontenttype=media_type), 100)

    assert data_of.decode_data(raw, kept) == b'{"a": 1}\n{"a": 2}'


def test_the_limit_counts_bytes_and_not_characters() -> None:
    """BI-022, for the embedded broker."""
    assert len(data_of.encode_data(Event("é" * 49), 100)[0]) == 100
    with pytest.raises(
        EventTooLarge, match=r"data has 102 bytes; max_event_bytes is 100"
    ) as caught:
        data_of.encode_data(Event("é" * 50), 100)

    assert caught.value.reason == "too_large"


def test_bytes_above_the_limit_are_refused() -> None:
    assert data_of.encode_data(Event(b"x" * 100), 100)[0] == b"x" * 100
    with pytest.raises(EventTooLarge, match="101 bytes"):
        data_of.encode_data(Event(b"x" * 101), 100)


def test_data_without_a_json_form_is_refused_with_its_path() -> None:
    with pytest.raises(NotEncodable, match=r"\$\.model"):
        data_of.encode_data(Event({"model": print}), 100)


def test_text_of_another_media_type_must_be_given_as_bytes() -> None:
    with pytest.raises(InvalidEvent, match="must be given as bytes"):
        data_of.encode_data(Event({"a": 1}, datacontenttype="image/png"), 100)


# -- an event of a store ---------------------------------------------------------------------------


def stored(raw: bytes | None, media_type: str | None = None) -> Event:
    """Return an event as a store restores it."""
    return making.restored(
        raw, "page.scanned", "/here", "1", NOON, None, media_type, None, {"traceparent": TRACE}
    )


def made(data: Any, media_type: str | None = None) -> Event:
    """Return the same event, made by a user."""
    return Event(
        data,
        type="page.scanned",
        source="/here",
        id="1",
        time=NOON,
        datacontenttype=media_type,
        extensions={"traceparent": TRACE},
    )


@pytest.fixture
def decoded(monkeypatch: pytest.MonkeyPatch) -> list[bytes]:
    """The JSON that was decoded."""
    found: list[bytes] = []
    loads = codec.loads_own
    monkeypatch.setattr(codec, "loads_own", lambda raw: (found.append(raw), loads(raw))[1])
    return found


def test_stored_data_are_decoded_once_when_somebody_asks(decoded: list[bytes]) -> None:
    event = stored(b'{"a":[1]}')
    copies = [
        making.traced(event),
        making.with_opener(event, lambda: io.BytesIO(b"content")),
        making.with_data(event, 2),
    ]
    assert (event.type, event.hops, event.traceparent, decoded) == ("page.scanned", 0, TRACE, [])

    assert event.data == {"a": [1]}
    assert event.data is event.data
    assert decoded == [b'{"a":[1]}']
    assert [copy.data for copy in copies] == [{"a": [1]}, {"a": [1]}, 2]


@pytest.mark.parametrize(
    ("raw", "media_type", "data"),
    [
        (b'{"a":[1]}', None, {"a": [1]}),
        (b'{"a":[1]}', "application/json", {"a": [1]}),
        (b"null", "application/x+json", None),
        (b'{"a":[1]}', "text/plain", b'{"a":[1]}'),
        (b'{"$binary":{"base64":"AA==","subType":"00"}}', None, b"\0"),
        (None, None, None),
    ],
)
@pytest.mark.parametrize(
    "used",
    [
        lambda event: event,
        copy.copy,
        copy.deepcopy,
        lambda event: pickle.loads(pickle.dumps(event)),
        lambda event: dataclasses.replace(event, type="page.scanned"),
        lambda event: making.with_data(event, event.data),
        making.as_delivered,
    ],
)
def test_a_stored_event_is_used_as_one_that_was_made(
    raw: bytes | None, media_type: str | None, data: Any, used: Any
) -> None:
    event = used(stored(raw, media_type))

    assert (event, repr(event)) == (made(data, media_type), repr(made(data, media_type)))
    assert data_of.encode_data(event, 100) == data_of.encode_data(made(data, media_type), 100)
    assert used(event).data == data
    with pytest.raises(dataclasses.FrozenInstanceError):
        event.data = 3
    with pytest.raises(AttributeError, match="no attribute 'dat'") as caught:
        _ = event.dat
    assert (caught.value.name, caught.value.obj) == ("dat", event)


def test_an_event_as_it_was_delivered_does_not_have_what_a_model_changed() -> None:
    event = stored(b'{"a":[1]}')
    event.data["a"].append(2)

    assert making.as_delivered(event).data == {"a": [1]}
    assert event.data == {"a": [1, 2]}


DAMAGED = [b"{", b"", b"1 2", b'{"a":1}}', b"[1,]", b"tru", b"\xff", b'"\xff"', b'{"a":"\xc3"}']


@pytest.mark.parametrize("raw", DAMAGED)
def test_damaged_data_are_found_before_they_are_decoded(raw: bytes) -> None:
    with pytest.raises(InvalidEvent):
        data_of.check_data(raw, None)
    assert data_of.check_data(raw, "text/plain") is raw


def test_damaged_data_that_nobody_checked_are_no_fault_of_the_reader() -> None:
    with pytest.raises(StoreError, match="the store is damaged: the data of event '1'"):
        _ = stored(b'"\xff"').data


@pytest.mark.parametrize("raw", ["text", 5, None])
def test_data_of_another_type_are_damaged(raw: Any) -> None:
    for media_type in (None, "text/plain"):
        with pytest.raises(TypeError, match="bytes expected"):
            data_of.check_data(raw, media_type)


@pytest.mark.parametrize(
    "data",
    [{"a": "ü", "b": [1, 2.5, None, True, 2**70]}, float("nan"), b"\0", "", "\0\u2028😀", {}],
)
def test_sound_data_pass_the_check(data: Any) -> None:
    raw, media_type = data_of.encode_data(Event(data), 1000)

    assert data_of.check_data(raw, media_type) is raw
