"""What is sent to SNS and SQS: the limits of AWS, checked before sending, and events as messages.

The cases of ``bad_inputs.json`` that are about publishing on AWS are here under their ids; the
expected reason code is read from there.
"""

from __future__ import annotations

import base64
import enum
import itertools
import json
import re
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import pytest
from emulators import ACCOUNT, REGION, Emulator, moto_server
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st
from slow import examples

from mltrigger.aws import limits
from mltrigger.aws.transport import wire
from mltrigger.aws.transport.wire import (
    Message,
    batches,
    entries,
    pointer,
    read_pointer,
    to_message,
)
from mltrigger.errors import EventTooLarge, InvalidEvent, InvalidName, MltriggerError
from mltrigger.event import codec
from mltrigger.event.checks import parse_time
from mltrigger.event.data import decode_data, encode_data
from mltrigger.event.event import Event, attributes_of

CASES: dict[str, dict[str, Any]] = {
    case["id"]: case
    for case in json.loads(
        (Path(__file__).parents[1] / "data" / "bad_inputs.json").read_text("utf-8")
    )["cases"]
}
SNS, SQS = limits.SNS_MESSAGE.high, limits.SQS_MESSAGE.high
MAX = 8 * 1024 * 1024
NOON = datetime(2026, 11, 23, 12, tzinfo=UTC)
BEYOND = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\ud800-\udfff\ufffe\uffff]")
"""What XML 1.0 calls no character, written down a second time."""


def sent(event: Event, *, fifo: bool = False, limit: int | None = SQS) -> Message:
    return to_message(event, *encode_data(event, MAX), fifo, limit)


def refused(reason: str, action: Callable[..., object], *given: Any, **named: Any) -> str:
    """Run *action*, which must refuse with *reason* (or with the reason code of the case of that
    id); return what it says.
    """
    with pytest.raises(InvalidEvent) as caught:
        action(*given, **named)
    assert caught.value.reason == CASES.get(reason, {}).get("reason_code", reason)
    assert len(str(caught.value)) < 600
    return str(caught.value)


def text(message: Message, name: str) -> str | None:
    return message.attributes[name]["StringValue"] if name in message.attributes else None


def received(message: Message) -> Event:
    """Return the event of a message as any reader of CloudEvents would find it, written without the
    code that is tested.
    """
    plain: dict[str, Any] = {}
    for name, attribute in message.attributes.items():
        value = attribute["StringValue"]
        plain[name.removeprefix("ce-")] = int(value) if attribute["DataType"] == "Number" else value
    media_type, encoding = plain.pop("content-type", None), plain.pop("datacontentencoding", None)
    # last: an extension may be called like one of the above
    plain |= json.loads(plain.pop("more", "{}"))
    raw = (
        base64.b64decode(message.body.strip(), validate=True) if encoding else message.body.encode()
    )
    assert plain.pop("specversion") == "1.0"
    own = {
        name: plain.pop(name)
        for name in ("id", "source", "type", "subject", "dataschema")
        if name in plain
    }
    return Event(
        decode_data(raw, media_type),
        time=parse_time(plain.pop("time")),
        datacontenttype=media_type,
        extensions=plain,
        **own,
    )


# -- characters ------------------------------------------------------------------------------------


@pytest.mark.parametrize("data", ["a\x00b", "a\x1bb", "a\ufffeb"])
def test_text_with_a_character_that_sqs_refuses_is_refused_with_its_offset(data: str) -> None:
    """BI-019."""
    said = refused("BI-019", sent, Event(data, datacontenttype="text/plain"))

    assert f"data has U+{ord(data[1]):04X} at offset 1 of {data!r}" in said
    assert limits.CHARACTERS in said


@pytest.mark.parametrize(
    "data",
    ["a\x00b", "a\x1bb", "a\ufffeb", "\uffff", "\x7f\x85\u2028\U0010ffff", {"\ufffe": ["\uffff"]}],
)
def test_json_says_every_character_with_those_that_sqs_takes(data: Any) -> None:
    message = sent(Event(data))

    assert not BEYOND.search(message.body)
    assert json.loads(message.body) == data


def test_json_that_came_as_bytes_is_escaped_as_well() -> None:
    raw = '{"a": "x\ufffey"}'.encode()

    message = sent(Event(raw, datacontenttype="application/ld+json"))

    assert message.body == '{"a": "x\\ufffey"}'


def test_every_character_is_taken_or_refused_as_the_specification_says() -> None:
    for code in [
        *range(0x300),
        *range(0xD7F0, 0xE010),
        *range(0xFFF0, 0x10010),
        0x10FFFE,
        0x10FFFF,
    ]:
        assert bool(limits.FORBIDDEN.match(chr(code))) == bool(BEYOND.match(chr(code))), hex(code)


@pytest.mark.parametrize(
    "event",
    [
        Event(1, subject="scan\x00.png"),
        Event(1, dataschema="urn:\x1b"),
        Event(1, extensions={"note": "a\ufffe"}),
        Event(1, extensions={"more": "a\x00"}),
    ],
)
def test_an_attribute_with_a_character_that_sqs_refuses_is_refused(event: Event) -> None:
    said = refused("invalid_character", sent, event)

    assert re.search(
        r"(ce-subject|ce-dataschema|extension note|extension more).* has U\+[0-9A-F]{4} at"
        r" offset \d+",
        said,
    )


def test_an_error_shows_little_of_the_value_and_no_secret() -> None:
    said = refused(
        "invalid_character",
        sent,
        Event("password=hunter2-hunter2 \x00" + "x" * 5000, datacontenttype="text/plain"),
    )

    assert "hunter2" not in said
    assert "offset 25" in said


def test_bytes_that_are_no_text_go_as_base64_whatever_they_hold() -> None:
    message = sent(Event(b"\x00\x1b\xff", datacontenttype="image/png"))

    assert (
        message.body,
        text(message, "ce-datacontentencoding"),
        text(message, "content-type"),
    ) == ("ABv/", "base64", "image/png")


@pytest.mark.parametrize(
    ("data", "media_type", "body"),
    [
        ("grün", "text/plain", "grün"),
        ("a,b\r\n1,2", "text/csv; charset=UTF-8", "a,b\r\n1,2"),
        ("grün".encode("latin-1"), "text/plain", "Z3L8bg=="),
        ("grün".encode("latin-1"), "text/plain; charset=latin-1", "Z3L8bg=="),
        ("ab".encode("utf-16-le"), 'text/plain; charset="utf-16le"', "YQBiAA=="),
        (b'{"a":1}\n{"a":2}\n', "application/jsonl", "eyJhIjoxfQp7ImEiOjJ9Cg=="),
        (b"plain", None, "cGxhaW4="),
    ],
)
def test_text_goes_as_text_only_where_the_same_bytes_come_back(
    data: str | bytes, media_type: str | None, body: str
) -> None:
    message = sent(Event(data, datacontenttype=media_type))

    assert message.body == body
    assert received(message).data == (data if isinstance(data, bytes) else data.encode())


@pytest.mark.parametrize(
    ("data", "media_type"), [(b"", None), (b"", "image/png"), ("", "text/plain")]
)
def test_no_data_is_not_an_empty_body(data: str | bytes, media_type: str | None) -> None:
    message = sent(Event(data, datacontenttype=media_type))

    assert (message.body, text(message, "ce-datacontentencoding")) == ("\n", "base64")
    assert received(message).data == b""


def test_an_empty_body_is_refused() -> None:
    refused("invalid_structure", to_message, Event(1), b"", None, False, SQS)


def test_json_in_another_encoding_than_utf_8_is_refused() -> None:
    refused("unsupported_encoding", to_message, Event(1), b'"\xff"', None, False, SQS)


# -- sizes -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("limit", [SNS, SQS])
def test_a_message_exactly_at_the_limit_is_sent_and_one_byte_more_is_not(limit: int) -> None:
    """BI-020: the attributes count."""
    beside = sent(Event("", id="1", time=NOON)).size
    full = "x" * (limit - beside)

    assert sent(Event(full, id="1", time=NOON), limit=limit).size == limit
    said = refused("too_large", sent, Event(full + "x", id="1", time=NOON), limit=limit)
    assert f"{limit + 1:,} bytes" in said
    assert f"the limit is {limit:,}" in said


def test_size_is_counted_in_bytes_not_in_characters() -> None:
    """BI-022."""
    with pytest.raises(EventTooLarge):
        sent(Event("é" * 131_073), limit=SNS)

    refused("BI-022", sent, Event("é" * 131_073), limit=SNS)
    assert limits.text_bytes("é" * 131_073) == 262_146


def test_the_size_is_that_of_body_names_types_and_values() -> None:
    message = Message(
        "é",
        {
            "n": {"DataType": "String", "StringValue": "ü€"},
            "num": {"DataType": "Number", "StringValue": "1234567"},
        },
    )

    assert message.size == 2 + (1 + 6 + 5) + (3 + 6 + 7)


def test_a_large_message_is_made_for_the_caller_who_stores_its_body() -> None:
    assert sent(Event("x" * 2 * SQS), limit=None).size > 2 * SQS


# -- attributes ------------------------------------------------------------------------------------


def test_an_event_travels_in_the_attributes_of_cloudevents() -> None:
    event = Event(
        {"page": 1},
        id="7",
        source="scanner/4",
        type="page.scanned",
        time=NOON,
        subject="a b.png",
        dataschema="urn:page",
        datacontenttype="application/json",
        extensions={"tenant": "acme", "hops": 2},
    )

    message = sent(event)

    assert message.body == '{"page":1}'
    assert message.attributes == {
        "ce-specversion": {"DataType": "String", "StringValue": "1.0"},
        "ce-id": {"DataType": "String", "StringValue": "7"},
        "ce-source": {"DataType": "String", "StringValue": "scanner/4"},
        "ce-type": {"DataType": "String", "StringValue": "page.scanned"},
        "ce-time": {"DataType": "String", "StringValue": "2026-11-23T12:00:00+00:00"},
        "ce-subject": {"DataType": "String", "StringValue": "a b.png"},
        "content-type": {"DataType": "String", "StringValue": "application/json"},
        "ce-dataschema": {"DataType": "String", "StringValue": "urn:page"},
        "ce-tenant": {"DataType": "String", "StringValue": "acme"},
        "ce-hops": {"DataType": "Number", "StringValue": "2"},
    }
    assert received(message) == event


def test_json_without_a_media_type_names_none() -> None:
    assert "content-type" not in sent(Event({"page": 1})).attributes


def test_truth_values_and_empty_texts_travel_together() -> None:
    event = Event(1, extensions={"urgent": True, "note": "", "tenant": "acme"})

    message = sent(event)

    assert text(message, "ce-more") == '{"urgent":true,"note":""}'
    assert text(message, "ce-tenant") == "acme"
    assert received(message) == event


def test_there_are_never_more_than_ten_attributes_and_the_last_extensions_go_together() -> None:
    event = Event(1, subject="s", dataschema="urn:s", extensions={f"x{n}": n for n in range(5)})

    message = sent(event)

    assert len(message.attributes) == 10
    assert [name for name in message.attributes if name.startswith("ce-x")] == ["ce-x0", "ce-x1"]
    assert text(message, "ce-dataschema") == "urn:s"
    assert received(message) == event


def test_ten_attributes_need_no_eleventh_place() -> None:
    message = sent(Event(1, extensions={f"x{n}": "v" for n in range(5)}))

    assert (len(message.attributes), text(message, "ce-more")) == (10, None)


@pytest.mark.parametrize("name", ["more", "datacontentencoding"])
def test_an_extension_that_is_called_like_an_attribute_of_ours_is_not_taken_for_it(
    name: str,
) -> None:
    event = Event({"page": 1}, extensions={name: "base64"})

    message = sent(event)

    assert json.loads(str(text(message, "ce-more"))) == {name: "base64"}
    assert json.loads(message.body) == {"page": 1}


def test_enumerations_are_sent_as_their_values() -> None:
    class Level(enum.IntEnum):
        HIGH = 3

    class Kind(str, enum.Enum):  # noqa: UP042 - unlike a StrEnum, it is formatted as its name
        PAGE = "page"

    message = sent(
        Event(1, extensions={"level": Level.HIGH, "kind": Kind.PAGE, "partitionkey": Kind.PAGE}),
        fifo=True,
    )

    assert (text(message, "ce-level"), f"{text(message, 'ce-kind')}", f"{message.group}") == (
        "3",
        "page",
        "page",
    )


@pytest.mark.parametrize(
    ("when", "wire_time"),
    [
        (
            datetime(2026, 11, 23, 12, 0, 0, 5, tzinfo=timezone(timedelta(hours=1))),
            "2026-11-23T12:00:00.000005+01:00",
        ),
        (
            datetime(1890, 1, 1, tzinfo=timezone(timedelta(minutes=53, seconds=28))),
            "1889-12-31T23:06:32+00:00",
        ),
    ],
)
def test_a_time_is_sent_as_rfc_3339(when: datetime, wire_time: str) -> None:
    message = sent(Event(1, time=when))

    assert text(message, "ce-time") == wire_time
    assert received(message).time == when


def test_a_time_that_rfc_3339_cannot_say_is_refused() -> None:
    when = datetime.min.replace(tzinfo=timezone(timedelta(seconds=1)))

    refused("invalid_attribute", sent, Event(1, time=when))


# -- FIFO ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("extensions", [{}, {"partitionkey": ""}])
def test_an_event_without_a_group_is_refused_on_fifo(extensions: dict[str, Any]) -> None:
    """BI-034."""
    said = refused("BI-034", sent, Event(1, extensions=extensions), fifo=True)

    assert "partitionkey" in said


def test_the_partition_key_is_the_group_and_source_and_id_are_the_deduplication_id() -> None:
    event = Event(1, id="7", source="scanner", extensions={"partitionkey": "customer-17"})

    message = sent(event, fifo=True)

    assert message.group == "customer-17"
    assert (
        message.deduplication == "36f308b79aaada2db1c13eed64133e8c82cee83d9a1f641c9408fc12188b7ecb"
    )
    assert (
        sent(
            Event("other", id="7", source="scanner", extensions={"partitionkey": "x"}), fifo=True
        ).deduplication
        == message.deduplication
    )
    assert received(message) == event


def test_a_number_may_be_the_partition_key() -> None:
    assert sent(Event(1, extensions={"partitionkey": 17}), fifo=True).group == "17"


def test_without_fifo_there_is_neither_group_nor_deduplication() -> None:
    message = sent(Event(1, extensions={"partitionkey": "not checked: ü"}))

    assert (message.group, message.deduplication) == (None, None)


@pytest.mark.parametrize(
    ("key", "reason"),
    [
        ("x" * 129, "invalid_attribute"),
        ("a b", "invalid_character"),
        ("ü", "invalid_character"),
        ("a\n", "invalid_character"),
    ],
)
def test_a_group_that_aws_refuses_is_refused(key: str, reason: str) -> None:
    said = refused(reason, sent, Event(1, extensions={"partitionkey": key}), fifo=True)

    assert "MessageGroupId" in said


def test_every_punctuation_mark_may_stand_in_a_group() -> None:
    every = "!\"#$%&'()*+,-./:;<=>?@[\\]^_`{|}~aZ0"

    assert sent(Event(1, extensions={"partitionkey": every}), fifo=True).group == every


# -- names -----------------------------------------------------------------------------------------


def test_every_limit_has_its_source() -> None:
    known = [value for value in vars(limits).values() if isinstance(value, limits.Limit)]

    assert len(known) > 8
    assert all(
        limit.source.startswith("https://docs.aws.amazon.com/") and limit.low <= limit.high
        for limit in known
    )


@pytest.mark.parametrize(
    "name",
    [
        "",
        "a b",
        "a.b",
        ".fifo",
        "a.fifo.fifo",
        "a.FIFO",
        "é",
        "a" * 81,
        "a" * 76 + ".fifo",
        "a\n",
        None,
    ],
)
def test_a_queue_name_that_sqs_refuses_is_refused(name: Any) -> None:
    with pytest.raises(InvalidName, match="queue name"):
        limits.check_queue_name(name)


def test_names_of_topics_may_be_longer_than_those_of_queues() -> None:
    assert [limits.check_queue_name(name) for name in ("a", "a" * 80, "a" * 75 + ".fifo")]
    assert [limits.check_topic_name(name) for name in ("a" * 256, "a" * 251 + ".fifo")]
    with pytest.raises(InvalidName, match=r"topic name .* \(257 characters\)"):
        limits.check_topic_name("a" * 257)


@pytest.mark.parametrize(
    "name",
    [
        "ab",
        "a" * 64,
        "Abc",
        "a_b",
        "-ab",
        "ab-",
        "a..b",
        ".ab",
        "192.168.5.4",
        "xn--a",
        "sthree-a",
        "amzn-s3-demo-a",
        "a-s3alias",
        "a--ol-s3",
        "a.mrap",
        "a--x-s3",
        "a--table-s3",
        "abc\n",
    ],
)
def test_a_bucket_name_that_s3_refuses_is_refused(name: str) -> None:
    with pytest.raises(InvalidName):
        limits.check_bucket_name(name)


@pytest.mark.parametrize(
    "name", ["abc", "a" * 63, "a.b-c.9", "1.2.3", "192.168.5.4.5", "300.a.1.2"]
)
def test_other_bucket_names_are_taken(name: str) -> None:
    assert limits.check_bucket_name(name) == name


def test_a_key_is_at_most_1024_bytes_of_utf_8() -> None:
    assert limits.check_key("é" * 512)
    for key in ("", "é" * 513, "a\ud800"):
        with pytest.raises(InvalidName):
            limits.check_key(key)


# -- pointers --------------------------------------------------------------------------------------

BODY = '["software.amazon.payloadoffloading.PayloadS3Pointer",{"s3BucketName":"acme","s3Key":"k"}]'
LEGACY = '["com.amazon.sqs.javamessaging.MessageS3Pointer",{"s3BucketName":"acme","s3Key":"k"}]'
SIZE = {"ExtendedPayloadSize": {"DataType": "Number", "StringValue": "300000"}}
LEGACY_SIZE = {"SQSLargePayloadSize": {"DataType": "Number", "StringValue": "300000"}}


def test_a_pointer_is_what_the_extended_clients_of_aws_write() -> None:
    message = sent(Event("é" * 200_000, extensions={"partitionkey": "a"}), fifo=True, limit=None)

    small = pointer(message, "acme", "k", limit=SNS)

    assert small.body == BODY
    assert small.attributes == {
        **message.attributes,
        "ExtendedPayloadSize": {"DataType": "Number", "StringValue": "400002"},
    }
    assert (small.group, small.deduplication) == (message.group, message.deduplication)
    assert read_pointer(small.body, small.attributes) == ("acme", "k")


@pytest.mark.parametrize("count", range(12))
@pytest.mark.parametrize("urgent", [{}, {"urgent": True}])
def test_a_pointer_has_at_most_ten_attributes_and_loses_none(
    count: int, urgent: dict[str, bool]
) -> None:
    extensions = {**{f"x{n}": n for n in range(count)}, **urgent}
    event = Event(
        b"\x00" * 9,
        subject="s",
        dataschema="urn:s",
        datacontenttype="image/png",
        extensions=extensions,
    )
    message = sent(event)

    small = pointer(message, "acme", "k")
    assert len(small.attributes) <= 10
    del small.attributes["ExtendedPayloadSize"]

    assert received(small._replace(body=message.body)) == event
    assert received(message) == event  # the message itself is as it was


def test_a_message_whose_attributes_alone_are_too_large_has_no_pointer() -> None:
    message = sent(Event(1, subject="s" * SNS), limit=None)

    with pytest.raises(EventTooLarge, match="without its data"):
        pointer(message, "acme", "k", limit=SNS)


@pytest.mark.parametrize(
    ("bucket", "key"), [("", "k"), ("a b", "k"), ("acme/", "k"), ("acme", ""), ("acme", "x" * 1025)]
)
def test_a_pointer_to_nowhere_is_refused(bucket: str, key: str) -> None:
    with pytest.raises(InvalidName):
        pointer(sent(Event(1)), bucket, key)


@pytest.mark.parametrize("body", [BODY, LEGACY, BODY.replace(",", ", ").replace(":", ": ")])
@pytest.mark.parametrize(
    "attributes",
    [
        SIZE,
        LEGACY_SIZE,
        {"ExtendedPayloadSize": {"dataType": "Number", "stringValue": "300000"}},
        {"ExtendedPayloadSize": {"Type": "Number", "Value": "300000"}},
    ],
)
def test_pointers_of_every_client_are_read(body: str, attributes: dict[str, Any]) -> None:
    assert read_pointer(body, attributes) == ("acme", "k")


@pytest.mark.parametrize(
    ("body", "attributes"),
    [
        (BODY, {}),
        (BODY, {"ExtendedPayloadSize": {"DataType": "String", "StringValue": "300000"}}),
        (BODY, {"ExtendedPayloadSize": {"DataType": "Number", "StringValue": "-1"}}),
        (BODY, {"ExtendedPayloadSize": {"DataType": "Number"}}),
        ("hello", SIZE),
        ("[" * 100_000, SIZE),
        ('{"s3BucketName":"acme","s3Key":"k"}', SIZE),
        (BODY.replace("software", "com"), SIZE),
        (BODY.replace('"s3Key":"k"', '"s3Key":"k","x":1'), SIZE),
        (BODY.replace('"s3Key":"k"', '"s3Key":1'), SIZE),
        (BODY.replace('"s3Key":"k"', '"s3Key":""'), SIZE),
        (BODY.replace('"acme"', '"http://169.254.169.254/?"'), SIZE),
        (BODY.replace("]", ",1]"), SIZE),
        ('[["a"],{"s3BucketName":"acme","s3Key":"k"}]', SIZE),
    ],
)
def test_what_only_looks_like_a_pointer_is_none(body: str, attributes: dict[str, Any]) -> None:
    assert read_pointer(body, attributes) is None


# -- calls -----------------------------------------------------------------------------------------


def test_a_batch_over_the_limit_of_a_call_is_split_and_nothing_is_lost() -> None:
    """BI-023: 10 x 120 KiB."""
    messages = [sent(Event("x" * 120 * 1024)) for _ in range(10)]

    assert batches(messages, SNS) == [[0, 1], [2, 3], [4, 5], [6, 7], [8, 9]]
    assert batches(messages, SQS) == [list(range(8)), [8, 9]]


def test_a_call_carries_ten_messages() -> None:
    assert [len(group) for group in batches([sent(Event(n)) for n in range(23)], SNS)] == [
        10,
        10,
        3,
    ]
    assert batches([], SNS) == []


def test_a_call_may_be_exactly_full() -> None:
    assert batches([Message("x" * 4, {}), Message("x" * 6, {}), Message("x", {})], 10) == [
        [0, 1],
        [2],
    ]


def test_no_call_carries_two_of_one_ordered_group() -> None:
    """One entry may be refused alone: what is behind it must not have gone with the same call."""
    assert batches([Message("x", {}, group) for group in "abacca"], 100) == [[0, 1], [2, 3], [4, 5]]


def test_a_message_that_no_call_can_carry_is_named() -> None:
    with pytest.raises(EventTooLarge, match="message 1 has 11 bytes"):
        batches([Message("x", {}), Message("x" * 11, {})], 10)


@given(st.lists(st.integers(1, 12), max_size=60), st.integers(12, 40))
def test_batches_keep_every_message_in_order_within_the_limits(
    sizes: list[int], limit: int
) -> None:
    messages = [Message("x" * size, {}) for size in sizes]

    groups = batches(messages, limit)

    assert [index for group in groups for index in group] == list(range(len(sizes)))
    assert all(
        0 < len(group) <= 10 and sum(sizes[index] for index in group) <= limit for group in groups
    )
    assert all(
        len(one) == 10 or sum(sizes[i] for i in one) + sizes[next_[0]] > limit
        for one, next_ in itertools.pairwise(groups)
    )


@pytest.mark.parametrize(("service", "body"), [("sns", "Message"), ("sqs", "MessageBody")])
def test_the_id_of_an_entry_leads_back_to_its_message(service: Any, body: str) -> None:
    messages = [
        sent(Event(n, id=str(n), source="s", extensions={"partitionkey": "g"}), fifo=True)
        for n in range(4)
    ]

    made = entries(messages, service, [1, 3])

    assert made == [
        {
            "Id": str(n),
            body: str(n),
            "MessageAttributes": messages[n].attributes,
            "MessageGroupId": "g",
            "MessageDeduplicationId": wire.deduplication_id("s", str(n)),
        }
        for n in (1, 3)
    ]
    assert [entry["Id"] for entry in entries(messages, service)] == ["0", "1", "2", "3"]
    assert set(entries([sent(Event(1))], service)[0]) == {"Id", body, "MessageAttributes"}


# -- every event -----------------------------------------------------------------------------------

ANY_TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
ODD_TEXT = st.text(st.sampled_from('a\x00\x1b\t\r\n\ufffe\uffff\U0010ffff"\\\u2028é€'), max_size=6)
TEXTS = st.one_of(ANY_TEXT, ODD_TEXT)
JSON = st.recursive(
    st.one_of(
        st.none(),
        st.booleans(),
        st.integers(-(2**60), 2**60),
        st.floats(),
        TEXTS,
        st.binary(max_size=5),
    ),
    lambda inner: st.one_of(st.lists(inner, max_size=4), st.dictionaries(TEXTS, inner, max_size=4)),
    max_leaves=10,
)
CLEAN = st.text(st.characters(exclude_categories=["C"]), max_size=20)
EXTENSION_NAMES = st.one_of(
    st.from_regex(r"[a-z0-9]{1,20}", fullmatch=True),
    st.sampled_from(["more", "datacontentencoding"]),
)
MEDIA_TYPES = st.sampled_from(
    [
        None,
        "application/json",
        "text/plain",
        "text/csv; charset=latin-1",
        "image/png",
        "application/jsonl",
        "text/json",
        "a/b+json",
    ]
)


@st.composite
def events_of_any_kind(draw: st.DrawFn) -> Event:
    # or nearly all events would be refused for one of their texts
    texts = draw(st.sampled_from([CLEAN, CLEAN, TEXTS]))
    optional = st.one_of(st.none(), texts)
    names = st.one_of(
        st.none(), st.text(st.characters(exclude_categories=["C", "Z"]), min_size=1, max_size=30)
    )
    fields = {
        name: value for name in ("id", "source", "type") if (value := draw(names)) is not None
    }
    extensions = draw(
        st.dictionaries(
            EXTENSION_NAMES,
            st.one_of(texts, st.booleans(), st.integers(-(2**31), 2**31 - 1)),
            max_size=14,
        )
    )
    if draw(st.booleans()):
        extensions["partitionkey"] = draw(st.one_of(st.just("customer-17"), texts))
    zone = timezone(timedelta(seconds=draw(st.integers(-86_399, 86_399))))
    try:
        return Event(
            draw(st.one_of(JSON, TEXTS, st.binary(max_size=30))),
            time=draw(st.datetimes(timezones=st.just(zone))),
            subject=draw(optional),
            dataschema=draw(optional),
            datacontenttype=draw(MEDIA_TYPES),
            extensions=extensions,
            **fields,
        )
    except InvalidEvent:
        assume(False)
        raise


@settings(
    max_examples=examples(40),
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much],
)
@given(events_of_any_kind(), st.booleans(), st.sampled_from([600, SNS]))
def test_every_event_is_sent_within_all_limits_or_refused_with_a_typed_error(
    event: Event, fifo: bool, limit: int
) -> None:
    try:
        raw, media_type = encode_data(event, MAX)
    except MltriggerError:
        return
    try:
        message = to_message(event, raw, media_type, fifo, limit)
    except InvalidEvent as error:
        assert error.reason in {
            "invalid_character",
            "too_large",
            "invalid_attribute",
            "missing_group_id",
        }
        assert (error.reason == "too_large") == isinstance(error, EventTooLarge)
        return

    assert message.body
    assert message.size <= limit
    assert len(message.attributes) <= 10
    assert (message.group is not None) == (message.deduplication is not None) == fifo
    assert not BEYOND.search(message.body)
    for name, attribute in message.attributes.items():
        assert re.fullmatch(r"[a-z0-9-]{1,63}", name)
        assert attribute["StringValue"]
        assert not BEYOND.search(attribute["StringValue"])
    back = received(message)
    seen = {
        name: value
        for name, value in attributes_of(event).items()
        if name not in ("time", "datacontenttype")
    }
    assert {
        name: value
        for name, value in attributes_of(back).items()
        if name not in ("time", "datacontenttype")
    } == seen
    assert (back.time, back.datacontenttype) == (event.time, media_type)
    assert codec.dumps(back.data) == codec.dumps(decode_data(raw, media_type))


# -- a server --------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def server() -> Iterator[Emulator]:
    with moto_server() as emulator:
        yield emulator


@pytest.fixture
def place(server: Emulator, request: pytest.FixtureRequest) -> tuple[Any, Any, str, str]:
    """Return clients, and a topic with a queue behind it."""
    sns: Any = server.client("sns")
    sqs: Any = server.client("sqs")
    name = re.sub(r"[^A-Za-z0-9_-]+", "-", request.node.name)[:80].strip("-")
    topic = sns.create_topic(Name=limits.check_topic_name(name))["TopicArn"]
    queue = sqs.create_queue(QueueName=limits.check_queue_name(name))["QueueUrl"]
    sns.subscribe(
        TopicArn=topic,
        Protocol="sqs",
        Endpoint=f"arn:aws:sqs:{REGION}:{ACCOUNT}:{name}",
        Attributes={"RawMessageDelivery": "true"},
    )
    return sns, sqs, topic, queue


def drained(sqs: Any, queue: str) -> list[Message]:
    found: list[Message] = []
    while got := sqs.receive_message(
        QueueUrl=queue, MaxNumberOfMessages=10, MessageAttributeNames=["All"]
    ).get("Messages"):
        found += [Message(one["Body"], one.get("MessageAttributes", {})) for one in got]
        sqs.delete_message_batch(
            QueueUrl=queue,
            Entries=[
                {"Id": str(n), "ReceiptHandle": one["ReceiptHandle"]} for n, one in enumerate(got)
            ],
        )
    return found


SAMPLES = [
    Event({"page": 1, "odd": "\x00\ufffe\uffff"}, subject="a b.png"),
    Event(b"\x00\xff", datacontenttype="image/png", extensions={f"x{n}": n for n in range(9)}),
    Event("grün\r\n\t", datacontenttype="text/plain"),
    Event(b""),
    Event(1, extensions={"urgent": True, "note": "", "tenant": "é"}),
]


@pytest.mark.parametrize("service", ["sns", "sqs"])
def test_what_is_sent_comes_back_over_http(place: tuple[Any, Any, str, str], service: Any) -> None:
    sns, sqs, topic, queue = place
    messages = [sent(event) for event in SAMPLES]

    made = entries(messages, service)
    if service == "sns":
        result = sns.publish_batch(TopicArn=topic, PublishBatchRequestEntries=made)
    else:
        result = sqs.send_message_batch(QueueUrl=queue, Entries=made)

    assert {int(entry["Id"]) for entry in result["Successful"]} == set(range(len(messages)))
    back = {event.id: event for event in map(received, drained(sqs, queue))}
    assert back == {
        event.id: received(message) for event, message in zip(SAMPLES, messages, strict=True)
    }


def test_a_full_message_passes_the_server(place: tuple[Any, Any, str, str]) -> None:
    """BI-020."""
    sns, sqs, topic, queue = place
    full = [
        sent(Event("x" * (limit - sent(Event("", id="1")).size), id="1"), limit=limit)
        for limit in (SNS, SQS)
    ]

    sns.publish(TopicArn=topic, Message=full[0].body, MessageAttributes=full[0].attributes)
    sqs.send_message(QueueUrl=queue, MessageBody=full[1].body, MessageAttributes=full[1].attributes)

    assert sorted(message.size for message in drained(sqs, queue)) == [SNS, SQS]


def test_calls_of_a_split_batch_pass_the_server(place: tuple[Any, Any, str, str]) -> None:
    """BI-023."""
    sns, sqs, topic, queue = place
    messages = [sent(Event("x" * 120 * 1024, id=str(n))) for n in range(10)]

    done = [
        int(entry["Id"])
        for group in batches(messages, SNS)
        for entry in sns.publish_batch(
            TopicArn=topic, PublishBatchRequestEntries=entries(messages, "sns", group)
        )["Successful"]
    ]

    assert done == list(range(10))
    assert sorted(int(str(text(message, "ce-id"))) for message in drained(sqs, queue)) == list(
        range(10)
    )
