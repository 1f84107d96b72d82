"""What a subscription needs on AWS: names, what SNS filters, and topics, queues and notifications
that are made, found and removed.
"""

from __future__ import annotations

import contextlib
import dataclasses
import fnmatch
import itertools
import json
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from botocore.awsrequest import AWSResponse
from emulators import ACCOUNT, REGION, Emulator
from hypothesis import given, settings
from hypothesis import strategies as st
from slow import examples

import mltrigger as mt
from mltrigger.aws import naming
from mltrigger.aws.admin.plan import Change, merged
from mltrigger.aws.admin.pushdown import push
from mltrigger.aws.admin.resources import Place, Resources
from mltrigger.aws.clients import Clients
from mltrigger.aws.faults import AwsError
from mltrigger.aws.naming import Arn, S3Source, aws_kind
from mltrigger.aws.transport import wire
from mltrigger.broker import SubscriptionSpec
from mltrigger.errors import InvalidName, NameTaken, NotFound
from mltrigger.event.data import encode_data
from mltrigger.event.event import attributes_of
from mltrigger.filters import FilterPolicy, from_message_attributes
from mltrigger.policy import DeliveryPolicy

QUEUE_ARN = f"arn:aws:sqs:{REGION}:{ACCOUNT}:orders"
TOPIC_ARN = f"arn:aws:sns:{REGION}:{ACCOUNT}:orders"


@pytest.fixture(scope="session")
def clients(aws_server: Emulator) -> Clients:
    # making them takes longer than most of these tests
    return Clients(aws_server.session(), REGION, aws_server.url)


_numbers = itertools.count(1)


class Aws:
    """One account of the emulator, clients to look at it from outside, and a bus with a prefix that
    no other test has.
    """

    def __init__(self, emulator: Emulator, clients: Clients) -> None:
        self.emulator, self.clients = emulator, clients
        self.prefix = f"res{next(_numbers)}"
        self.pauses: list[float] = []
        self.resources = self.bus()

    def bus(
        self,
        prefix: str | None = None,
        pause: Callable[[float], None] | None = None,
        offloads: bool = False,
    ) -> Resources:
        return Resources(
            self.clients,
            prefix or self.prefix,
            offloads=offloads,
            pause=pause or self.pauses.append,
        )

    def bucket(self, name: str = "scans") -> str:
        name = f"{name}-{self.prefix}"
        self.clients.s3.create_bucket(
            Bucket=name, CreateBucketConfiguration={"LocationConstraint": REGION}
        )
        return name

    def notifications(self, bucket: str) -> dict[str, Any]:
        found = self.clients.s3.get_bucket_notification_configuration(Bucket=bucket)
        return {name: value for name, value in found.items() if name != "ResponseMetadata"}

    def notify(self, bucket: str, **configuration: Any) -> None:
        self.clients.s3.put_bucket_notification_configuration(
            Bucket=bucket, NotificationConfiguration=configuration
        )

    def attributes(self, url: str) -> dict[str, str]:
        found: dict[str, str] = self.clients.sqs.get_queue_attributes(
            QueueUrl=url, AttributeNames=["All"]
        )["Attributes"]
        return found

    def policy(self, url: str) -> dict[str, Any]:
        document: dict[str, Any] = json.loads(self.attributes(url)["Policy"])
        return document

    def subscription(self, topic_arn: str, queue_arn: str) -> dict[str, str]:
        found = self.clients.sns.list_subscriptions_by_topic(TopicArn=topic_arn)["Subscriptions"]
        (arn,) = [each["SubscriptionArn"] for each in found if each["Endpoint"] == queue_arn]
        attributes: dict[str, str] = self.clients.sns.get_subscription_attributes(
            SubscriptionArn=arn
        )["Attributes"]
        return attributes

    def received(self, url: str) -> list[dict[str, Any]]:
        found = self.clients.sqs.receive_message(
            QueueUrl=url, MaxNumberOfMessages=10, WaitTimeSeconds=0, MessageAttributeNames=["All"]
        )
        messages: list[dict[str, Any]] = found.get("Messages", [])
        return messages

    def publish(self, topic_arn: str, event: mt.Event) -> None:
        raw, media_type = encode_data(event, 1 << 20)
        message = wire.to_message(event, raw, media_type, fifo=False, limit=262_144)
        self.clients.sns.publish(
            TopicArn=topic_arn, Message=message.body, MessageAttributes=message.attributes
        )

    def names(self) -> list[str]:
        """Return everything there is of this bus."""
        queues = self.clients.sqs.list_queues(QueueNamePrefix=self.prefix + "-").get(
            "QueueUrls", []
        )
        pages = self.clients.sns.get_paginator("list_topics").paginate()
        topics = [each["TopicArn"] for page in pages for each in page["Topics"]]
        return sorted(
            [
                *(url.rpartition("/")[2] for url in queues),
                *(arn for arn in topics if f":{self.prefix}-" in arn),
            ]
        )


@pytest.fixture
def aws(emulator: Emulator, clients: Clients) -> Aws:
    return Aws(emulator, clients)


def spec(
    name: str = "reader",
    topic: str = "documents",
    filter_: dict[str, Any] | None = None,
    **policy: Any,
) -> SubscriptionSpec:
    parsed = FilterPolicy.parse(filter_) if filter_ is not None else None
    return SubscriptionSpec(name, topic, "ocr:latest", DeliveryPolicy(**policy), filter=parsed)


def s3_spec(source: str, name: str = "reader") -> SubscriptionSpec:
    return spec(name, S3Source.parse(source).topic_name)


def actions(plan: list[Change]) -> set[str]:
    return {change.action for change in plan}


@contextlib.contextmanager
def hooked(client: Any, event: str, call: Callable[..., Any]) -> Iterator[None]:
    """Have botocore call *call* at *event* of a client until the block ends."""
    client.meta.events.register(event, call)
    try:
        yield
    finally:
        client.meta.events.unregister(event, call)


@contextlib.contextmanager
def refused(
    client: Any, *operations: str, code: str = "AccessDenied", times: int = 10**6
) -> Iterator[None]:
    """Answer these operations, the first *times* calls, as AWS does who may not, without asking the
    emulator.
    """
    service = client.meta.service_model.service_name
    left = [times]

    def answer(request: Any, event_name: str, **_: Any) -> AWSResponse | None:
        if event_name.rpartition(".")[2] not in operations or not left[0]:
            return None
        left[0] -= 1
        if service == "sqs":
            body, kind = (
                json.dumps({"__type": f"com.amazonaws.sqs#{code}", "message": "no"}),
                "application/x-amz-json-1.0",
            )
        else:
            body, kind = (
                f"<ErrorResponse><Error><Code>{code}</Code><Message>no</Message></Error></ErrorResponse>",
                "text/xml",
            )
        return AWSResponse(request.url, 403, {"Content-Type": kind}, Raw(body.encode()))

    with hooked(client, f"before-send.{service}", answer):
        yield


class Raw:
    def __init__(self, body: bytes) -> None:
        self.body = body

    def stream(self, **_: Any) -> Iterator[bytes]:
        yield self.body

    def read(self, *_: Any) -> bytes:
        return self.body


# -- names -----------------------------------------------------------------------------------------


def test_an_arn_is_put_together_as_it_was_taken_apart():
    for text in (
        QUEUE_ARN,
        f"arn:aws-cn:sns:cn-north-1:{ACCOUNT}:orders.fifo",
        "arn:aws:s3:::bucket/a:b",
    ):
        assert str(Arn.parse(text)) == text
    assert Arn.parse(QUEUE_ARN + ".fifo").fifo


@pytest.mark.parametrize(
    "text",
    [
        "",
        "arn",
        "arn:aws:sqs",
        "arn:aws:sqs:eu-west-1:1234:q",
        f"arn:aws:sqs::{ACCOUNT}:q",
        f"arn:aws:sqs:{REGION}::q",
        QUEUE_ARN + "/x",
        f"arn:aws:sqs:{REGION}:{ACCOUNT}:" + "q" * 81,
        QUEUE_ARN + "\n",
        f"arn:aws:sns:{REGION}:{ACCOUNT}:a.b",
    ],
)
def test_what_is_no_arn_is_refused(text: str):
    with pytest.raises(InvalidName):
        Arn.parse(text)


@pytest.mark.parametrize(
    ("source", "kind"),
    [
        ("documents", None),
        ("file:///scans/*.png", None),
        ("https://example.com/123456789012/orders", None),
        ("http://127.0.0.1:4566/orders", None),
        ("http://127.0.0.1:4566/1234/orders", None),
        (f"arn:aws:lambda:{REGION}:{ACCOUNT}:function:f", None),
        ("s3://scans/*.png", "s3"),
        (QUEUE_ARN, "sqs"),
        (f"arn:aws-us-gov:sqs:us-gov-west-1:{ACCOUNT}:orders", "sqs"),
        (TOPIC_ARN, "sns"),
        (f"https://sqs.{REGION}.amazonaws.com/{ACCOUNT}/orders", "sqs"),
        (f"https://sqs.cn-north-1.amazonaws.com.cn/{ACCOUNT}/orders", "sqs"),
        (f"https://{REGION}.queue.amazonaws.com/{ACCOUNT}/orders.fifo", "sqs"),
        (f"http://127.0.0.1:4566/{ACCOUNT}/orders", "sqs"),
        (f"http://sqs.{REGION}.localhost:4566/{ACCOUNT}/orders", "sqs"),
    ],
)
def test_a_source_says_which_service_it_belongs_to(source: str, kind: str | None):
    assert aws_kind(source) == kind


@pytest.mark.parametrize(
    ("url", "arn"),
    [
        (f"https://sqs.{REGION}.amazonaws.com/{ACCOUNT}/orders", QUEUE_ARN),
        (f"https://{REGION}.queue.amazonaws.com/{ACCOUNT}/orders", QUEUE_ARN),
        (
            f"https://queue.amazonaws.com/{ACCOUNT}/orders",
            f"arn:aws:sqs:us-east-1:{ACCOUNT}:orders",
        ),
        (
            f"https://sqs.cn-north-1.amazonaws.com.cn/{ACCOUNT}/orders",
            f"arn:aws-cn:sqs:cn-north-1:{ACCOUNT}:orders",
        ),
        (f"http://127.0.0.1:4566/{ACCOUNT}/orders", f"arn:aws:sqs:us-west-2:{ACCOUNT}:orders"),
        (f"http://sqs.{REGION}.localhost:4566/{ACCOUNT}/orders", QUEUE_ARN),
        (f"http://localhost:4566/queue/{REGION}/{ACCOUNT}/orders", QUEUE_ARN),
    ],
)
def test_a_queue_has_one_arn_however_its_url_is_written(url: str, arn: str):
    assert str(naming.queue_arn(url, "us-west-2")) == naming.source_url(url, "us-west-2") == arn
    assert aws_kind(naming.queue_url(Arn.parse(arn))) == "sqs"


def test_names_are_prefix_topic_and_subscription():
    assert naming.topic_name("acme", "documents") == "acme-documents"
    assert naming.queue_name("acme", "documents", "reader") == "acme-documents-reader"
    assert naming.dead_name("acme", "documents", "reader") == "acme-documents-reader-dead"


def test_fifo_stays_at_the_very_end():
    assert naming.topic_name("acme", "orders.fifo") == "acme-orders.fifo"
    assert naming.dead_name("acme", "orders.fifo", "reader") == "acme-orders-reader-dead.fifo"
    assert naming.dead_name("acme", "o" * 80 + ".fifo", "reader").endswith("-dead.fifo")


_part = st.text("abcXYZ019_-", min_size=1, max_size=80)


@given(
    st.tuples(_part, _part, st.sampled_from(["", ".fifo"])),
    st.tuples(_part, _part, st.sampled_from(["", ".fifo"])),
)
def test_long_names_fit_and_different_ones_stay_different(
    one: tuple[str, str, str], other: tuple[str, str, str]
):
    def made(parts: tuple[str, str, str]) -> tuple[str, str]:
        topic, subscription, fifo = parts
        return naming.queue_name("p" * 40, topic + fifo, subscription), naming.dead_name(
            "p" * 40, topic + fifo, subscription
        )

    for name in made(one):
        assert len(name) <= 80
        assert naming.check_aws_name("queue", name) == name
    # "a-b" with "c" and "a" with "b-c" are told apart by their tags; what was cut off, by the hash.
    if len("-".join(("p" * 40, *one[:2]))) > 70 and one != other:
        assert made(one)[0] != made(other)[0]


@pytest.mark.parametrize(
    ("url", "prefix", "suffix"),
    [
        ("s3://scans", "", ""),
        ("s3://scans/", "", ""),
        ("s3://scans/in/", "in/", ""),
        ("s3://scans/in/*.png", "in/", ".png"),
        ("s3://scans/in/page-?.png", "in/page-", ".png"),
        ("s3://scans/in/[ab]*/x.tar.gz", "in/", "/x.tar.gz"),
        ("s3://scans/in/a.png", "in/a.png", ""),
        ("s3://scans/in[1/*", "in", ""),
        ("s3://scans/my scans/*.png", "my", ".png"),
        ("s3://scans/größe/*-größe.png", "gr", "e.png"),
        ("s3://scans/*a b.png", "", "b.png"),
    ],
)
def test_prefix_and_suffix_are_what_s3_can_filter_by(url: str, prefix: str, suffix: str):
    source = S3Source.parse(url)
    assert (source.prefix, source.suffix) == (prefix, suffix)
    assert S3Source.parse(source.url) == source


@settings(max_examples=examples(60))
@given(st.text("ab*?[]!-/. ö", max_size=12), st.text("ab-/. ö*[", min_size=1, max_size=12))
def test_whatever_matches_a_pattern_passes_what_s3_filters_by(pattern: str, key: str):
    source = S3Source.parse(f"s3://scans/{pattern}")
    matches = fnmatch.fnmatchcase(key, source.pattern)
    assert source.matches(key) == matches
    assert not matches or (key.startswith(source.prefix) and key.endswith(source.suffix))


def test_a_star_stands_for_slashes_too():
    source = S3Source.parse("s3://scans/in/*.png")
    assert source.matches("in/2026/11/a.png")
    assert not source.matches("out/in/a.png")
    assert not source.matches("in/a.PNG")


@pytest.mark.parametrize(
    "bucket",
    [
        "",
        "ab",
        "A-bucket",
        "a" * 64,
        "-scans",
        "scans-",
        "a..b",
        "192.168.0.1",
        "xn--scans",
        "scans-s3alias",
        "scans--x-s3",
        "sc_ans",
    ],
)
def test_what_no_bucket_can_be_called_is_refused(bucket: str):
    with pytest.raises(InvalidName, match="bucket name"):
        S3Source.parse(f"s3://{bucket}/*.png")


def test_a_pattern_longer_than_any_key_is_refused():
    with pytest.raises(InvalidName, match="1026 bytes"):
        S3Source.parse("s3://scans/" + "ö" * 513)


def test_no_two_sources_share_a_topic_name():
    sources = [
        "s3://scans/a/*.png",
        "s3://scans/a-/*.png",
        "s3://scans/a/?.png",
        "s3://scans-a/*.png",
        QUEUE_ARN,
        TOPIC_ARN,
        TOPIC_ARN + ".fifo",
    ]
    names = {naming.source_topic_name(source, REGION) for source in sources}
    assert len(names) == len(sources)
    assert all(len(name) <= 80 and naming.check_aws_name("topic", name) for name in names)
    assert naming.source_topic_name("s3://scans/a/*.png", REGION).startswith("scans-a-png-")


# -- what SNS filters ------------------------------------------------------------------------------


def pushed(policy: dict[str, Any], scope: Any = "MessageAttributes", offloads: bool = False) -> Any:
    found = push(FilterPolicy.parse(policy, scope), own=True, offloads=offloads)
    return json.loads(found.policy) if found.policy else None


OTHERS = {"ce-specversion": [{"exists": False}]}
MORE = {"ce-more": [{"exists": True}]}


def test_attributes_are_asked_for_by_their_names_on_the_wire():
    assert pushed({"type": ["scan.created"]}) == {"$or": [{"ce-type": ["scan.created"]}, OTHERS]}
    assert push(FilterPolicy.parse({"type": ["scan.created"]}), own=True, offloads=True).whole


def test_extensions_may_be_in_more_than_one_place():
    assert pushed({"kind": ["invoice"]}) == {"$or": [{"ce-kind": ["invoice"]}, MORE, OTHERS]}


@pytest.mark.parametrize(
    "condition",
    [
        True,
        None,
        "",
        'say "x"',
        "a\\b",
        1.000001,
        {"equals-ignore-case": "x"},
        {"wildcard": "a*"},
        {"cidr": "10.0.0.0/8"},
        {"anything-but": {"suffix": "x"}},
        {"anything-but": {"prefix": ["a", "b"]}},
        {"prefix": 'a"'},
    ],
)
def test_what_sns_might_understand_otherwise_is_left_to_the_listener(condition: Any):
    assert pushed({"kind": [condition], "type": ["a"]}) == {"$or": [{"ce-type": ["a"]}, OTHERS]}
    assert pushed({"kind": [condition]}) is None


def test_the_time_and_the_media_type_are_spelled_differently_on_the_wire():
    assert pushed({"time": [{"prefix": "2026"}]}) is None
    assert pushed({"datacontenttype": [{"exists": False}]}) is None


def test_a_policy_on_the_body_is_pushed_as_it_is_unless_bodies_may_lie_in_s3():
    policy = {"customer": {"age": [{"numeric": [">", 18]}]}, "kind": ["invoice", True]}
    assert pushed(policy, "MessageBody") == policy
    assert pushed(policy, "MessageBody", offloads=True) is None


@pytest.mark.parametrize(
    ("policy", "left"),
    [
        (
            {"lines": {"kind": ["fee"], "voided_by": [{"exists": False}]}},
            {"lines": {"kind": ["fee"]}},
        ),
        ({"lines": {"voided_by": ["ann", {"exists": False}]}}, None),
        ({"lines.voided_by": [{"exists": False}], "kind": ["a"]}, {"kind": ["a"]}),
        ({"a": {"b": {"c": [{"exists": False}]}}, "kind": ["a"]}, {"kind": ["a"]}),
        ({"voided_by": [{"exists": False}]}, {"voided_by": [{"exists": False}]}),
        ({"a": {"b": [{"exists": True}]}}, {"a": {"b": [{"exists": True}]}}),
        ({"kind": [{"anything-but": "a"}]}, None),
        ({"kind": ["b"], "a": {"b": [{"anything-but": {"prefix": "x"}}]}}, {"kind": ["b"]}),
    ],
)
def test_what_sns_may_judge_otherwise_where_arrays_stand_is_left_to_the_listener(
    policy: dict[str, Any], left: Any
):
    assert pushed(policy, "MessageBody") == left
    assert push(FilterPolicy.parse(policy, "MessageBody"), own=True, offloads=False).whole == (
        left == policy
    )


def test_nothing_is_pushed_for_messages_that_are_not_in_our_format():
    assert push(FilterPolicy.parse({"type": ["a"]}), own=False, offloads=False) == (
        None,
        "MessageAttributes",
        False,
    )
    assert push(None, own=False, offloads=True).whole


_word = st.sampled_from(["a", "b", "ab", "ba", "", 'a"b', "ü"])
_condition = st.one_of(
    _word,
    st.integers(-2, 2),
    st.booleans(),
    st.none(),
    st.builds(lambda v: {"exists": v}, st.booleans()),
    st.builds(
        lambda o, w: {o: w or "a"},
        st.sampled_from(["prefix", "suffix", "equals-ignore-case", "wildcard", "anything-but"]),
        _word,
    ),
    st.builds(lambda v: {"anything-but": v}, st.lists(st.integers(-2, 2), min_size=1, max_size=2)),
    st.builds(lambda w: {"anything-but": {"prefix": w or "a"}}, _word),
    st.builds(
        lambda o, n: {"numeric": [o, n]}, st.sampled_from(["=", "<", ">="]), st.integers(-2, 2)
    ),
)
_name = st.sampled_from(
    [
        "type",
        "subject",
        "source",
        "kind",
        "size",
        "more",
        "urgent",
        "e1",
        "e9",
        "e12",
        "dataschema",
        "datacontenttype",
    ]
)
_flat = st.dictionaries(_name, st.lists(_condition, min_size=1, max_size=2), min_size=1, max_size=3)
_policy = st.one_of(
    _flat,
    st.builds(
        lambda branches, rest: {"$or": branches, **rest},
        st.lists(_flat, min_size=2, max_size=2),
        _flat,
    ),
)
_extensions = st.dictionaries(
    st.sampled_from(["kind", "size", "more", "urgent", *(f"e{n}" for n in range(14))]),
    st.one_of(_word, st.integers(-2, 2), st.booleans()),
)


@settings(max_examples=examples(60))
@given(
    _policy,
    _extensions,
    st.sampled_from(["a", "b", "ab"]),
    st.sampled_from([None, "a", "ba"]),
    st.sampled_from([b"a", {"a": 1}]),
)
def test_sns_never_keeps_out_what_passes_the_filter(
    policy: Any, extensions: Any, type_: str, subject: str | None, data: Any
):
    try:
        filter_ = FilterPolicy.parse(policy)
    except ValueError:
        return
    event = mt.Event(data, type=type_, source="a", subject=subject, extensions=extensions)
    found = push(filter_, own=True, offloads=False)
    message = wire.to_message(event, *encode_data(event, 1 << 20), fifo=False, limit=262_144)
    sns = found.policy is None or FilterPolicy.parse(found.policy).matches_attributes(
        from_message_attributes(message.attributes)
    )
    wanted = filter_.matches_attributes(attributes_of(event))
    assert sns or not wanted
    if found.whole:
        assert sns == wanted


# -- making ----------------------------------------------------------------------------------------


def test_a_subscription_gets_topic_queue_and_dead_letter_queue(aws: Aws):
    place = aws.resources.ensure(spec(lease_s=90, max_attempts=7))

    assert (
        place.queue_arn
        == f"arn:aws:sqs:{REGION}:{aws.clients.account}:{aws.prefix}-documents-reader"
    )
    assert place.topic_arn == f"arn:aws:sns:{REGION}:{aws.clients.account}:{aws.prefix}-documents"
    assert (place.fifo, place.filtered, place.owned) == (False, True, True)
    queue = aws.attributes(place.queue_url)
    assert queue["VisibilityTimeout"] == "90"
    assert queue["MessageRetentionPeriod"] == str(10 * 86_400)
    assert queue["MaximumMessageSize"] == "1048576"
    assert queue["ReceiveMessageWaitTimeSeconds"] == "20"
    assert queue["SqsManagedSseEnabled"] == "true"
    assert json.loads(queue["RedrivePolicy"]) == {
        "deadLetterTargetArn": place.dead_arn,
        "maxReceiveCount": 507,
    }
    assert place.dead_url is not None
    assert aws.attributes(place.dead_url)["MessageRetentionPeriod"] == str(14 * 86_400)
    for url in (place.queue_url, place.dead_url):
        tags = aws.clients.sqs.list_queue_tags(QueueUrl=url)["Tags"]
        assert tags == {"mltrigger:bus": aws.prefix, "mltrigger:subscription": "reader"}


def test_only_its_queue_may_hand_on_to_a_dead_letter_queue(aws: Aws):
    asked: list[dict[str, Any]] = []
    # What is sent: the emulator takes the attribute, and does not show it.
    with hooked(
        aws.clients.sqs,
        "provide-client-params.sqs.CreateQueue",
        lambda params, **_: asked.append(params),
    ):
        place = aws.resources.ensure(spec())

    dead = next(each["Attributes"] for each in asked if each["QueueName"].endswith("-dead"))
    assert json.loads(dead["RedriveAllowPolicy"]) == {
        "redrivePermission": "byQueue",
        "sourceQueueArns": [place.queue_arn],
    }


def test_only_the_topic_may_send_and_nobody_without_tls(aws: Aws):
    place = aws.resources.ensure(spec())

    allow, deny = aws.policy(place.queue_url)["Statement"]
    assert (allow["Effect"], allow["Principal"], allow["Action"]) == (
        "Allow",
        {"Service": "sns.amazonaws.com"},
        "sqs:SendMessage",
    )
    assert allow["Condition"] == {
        "ArnEquals": {"aws:SourceArn": place.topic_arn},
        "StringEquals": {"aws:SourceAccount": aws.clients.account},
    }
    assert (deny["Effect"], deny["Condition"]) == (
        "Deny",
        {"Bool": {"aws:SecureTransport": "false"}},
    )
    assert place.dead_url is not None
    assert [each["Effect"] for each in aws.policy(place.dead_url)["Statement"]] == ["Deny"]


def test_what_is_published_comes_raw_into_every_queue_of_the_topic(aws: Aws):
    reader, archiver = aws.resources.ensure(spec("reader")), aws.resources.ensure(spec("archiver"))
    assert reader.topic_arn == archiver.topic_arn is not None

    aws.publish(str(reader.topic_arn), mt.Event({"page": 1}, type="scan", source="a"))

    for place in (reader, archiver):
        (message,) = aws.received(place.queue_url)
        assert json.loads(message["Body"]) == {"page": 1}
        assert message["MessageAttributes"]["ce-type"]["StringValue"] == "scan"


@pytest.mark.parametrize(
    ("lease", "visibility"),
    [({"lease_s": 0.2}, "30"), ({"lease_s": 30.5}, "31"), ({"timeout_s": 43_200.0}, "43200")],
)
def test_the_visibility_timeout_is_the_lease_within_what_sqs_takes(
    aws: Aws, lease: dict[str, float], visibility: str
):
    assert (
        aws.attributes(aws.resources.ensure(spec(**lease)).queue_url)["VisibilityTimeout"]
        == visibility
    )


def test_the_net_for_killing_events_ends_where_sqs_ends(aws: Aws):
    place = aws.resources.ensure(spec(max_attempts=1000))
    assert json.loads(aws.attributes(place.queue_url)["RedrivePolicy"])["maxReceiveCount"] == 1000


def test_a_fifo_topic_has_fifo_queues_with_throughput_per_group(aws: Aws):
    place = aws.resources.ensure(spec(topic="orders.fifo"))

    assert place.fifo
    assert place.queue_arn.endswith(f":{aws.prefix}-orders-reader.fifo")
    assert place.dead_url is not None
    for url in (place.queue_url, place.dead_url):
        found = aws.attributes(url)
        assert (found["FifoQueue"], found["ContentBasedDeduplication"]) == ("true", "false")
        assert (found["DeduplicationScope"], found["FifoThroughputLimit"]) == (
            "messageGroup",
            "perMessageGroupId",
        )
    topic = aws.clients.sns.get_topic_attributes(TopicArn=place.topic_arn)["Attributes"]
    assert topic["FifoTopic"] == "true"
    assert actions(aws.resources.plan(spec(topic="orders.fifo"))) == {"keep"}


def test_making_it_again_changes_nothing(aws: Aws):
    first = aws.resources.ensure(spec(filter_={"type": ["a"]}))
    assert aws.bus().ensure(spec(filter_={"type": ["a"]})) == first
    assert actions(aws.resources.plan(spec(filter_={"type": ["a"]}))) == {"keep"}


def test_two_processes_that_make_it_at_once_end_well(aws: Aws):
    together = threading.Barrier(4)

    def make(lease_s: float) -> Place:
        bus = aws.bus()
        together.wait(timeout=10)
        return bus.ensure(spec(lease_s=lease_s))

    with ThreadPoolExecutor(4) as pool:
        places = list(pool.map(make, [60, 60, 90, 90]))

    assert len(set(places)) == 1
    assert len(aws.names()) == 3
    assert (
        len(
            aws.clients.sns.list_subscriptions_by_topic(TopicArn=places[0].topic_arn)[
                "Subscriptions"
            ]
        )
        == 1
    )


def test_a_queue_that_appears_between_looking_and_making_is_taken_if_it_is_ours(aws: Aws):
    aws.resources.ensure(spec(lease_s=60))  # the other process
    with refused(
        aws.clients.sqs, "GetQueueUrl", code="AWS.SimpleQueueService.NonExistentQueue", times=2
    ):
        place = aws.resources.ensure(spec(lease_s=90))
    assert aws.attributes(place.queue_url)["VisibilityTimeout"] == "90"


def test_a_name_that_was_deleted_just_now_says_when_to_repeat(aws: Aws):
    with (
        refused(aws.clients.sqs, "CreateQueue", code="AWS.SimpleQueueService.QueueDeletedRecently"),
        pytest.raises(AwsError, match="repeat the call in 60 seconds"),
    ):
        aws.resources.ensure(spec())


def test_what_was_interrupted_goes_on(aws: Aws):
    with (
        refused(aws.clients.sns, "Subscribe"),
        pytest.raises(AwsError, match="allow sns:Subscribe"),
    ):
        aws.resources.ensure(spec())
    assert actions(aws.resources.plan(spec())) == {"keep", "create"}
    aws.resources.ensure(spec())
    assert actions(aws.resources.plan(spec())) == {"keep"}


# -- what others have ------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["documents-reader", "documents-reader-dead"])
def test_a_queue_that_is_not_tagged_as_ours_is_refused_before_anything_is_made(aws: Aws, name: str):
    aws.clients.sqs.create_queue(
        QueueName=f"{aws.prefix}-{name}", Attributes={"VisibilityTimeout": "7"}
    )
    before = aws.names()
    for call in (aws.resources.ensure, aws.resources.plan):
        with pytest.raises(NameTaken, match="mltrigger:bus"):
            call(spec())
    assert aws.names() == before


def test_a_topic_that_is_not_tagged_as_ours_is_refused(aws: Aws):
    aws.clients.sns.create_topic(Name=f"{aws.prefix}-documents")
    with pytest.raises(NameTaken, match="topic"):
        aws.resources.ensure(spec())
    with pytest.raises(NameTaken, match="topic"):
        aws.resources.ensure_topic("documents")


def test_names_that_coincide_are_told_apart_by_their_tags(aws: Aws):
    aws.resources.ensure(spec("b-c", "a"))
    with pytest.raises(NameTaken, match="'b-c'"):
        aws.resources.ensure(spec("c", "a-b"))
    aws.resources.ensure(spec("reader"))
    with pytest.raises(NameTaken, match="'reader'"):
        aws.resources.ensure(spec("reader-dead"))
    with pytest.raises(NameTaken, match=f"bus '{aws.prefix}'"):
        aws.bus(f"{aws.prefix}-a").ensure(spec("c", "b"))


def test_statements_and_tags_of_others_are_kept(aws: Aws):
    place = aws.resources.ensure(spec())
    policy = aws.policy(place.queue_url)
    theirs = {
        "Sid": "Audit",
        "Effect": "Allow",
        "Principal": {"AWS": ACCOUNT},
        "Action": "sqs:GetQueueUrl",
        "Resource": place.queue_arn,
    }
    policy["Statement"] = [theirs, {**policy["Statement"][0], "Action": "sqs:*"}]
    aws.clients.sqs.set_queue_attributes(
        QueueUrl=place.queue_url, Attributes={"Policy": json.dumps(policy)}
    )
    aws.clients.sqs.tag_queue(QueueUrl=place.queue_url, Tags={"cost": "7"})

    (change,) = [change for change in aws.resources.plan(spec()) if change.action != "keep"]
    aws.resources.ensure(spec())

    assert (change.action, change.kind, change.setting) == ("change", "queue", "Policy")
    assert [each["Sid"] for each in aws.policy(place.queue_url)["Statement"]] == [
        "Audit",
        "MltriggerSource",
        "MltriggerTlsOnly",
    ]
    assert aws.policy(place.queue_url)["Statement"][1]["Action"] == "sqs:SendMessage"
    assert aws.clients.sqs.list_queue_tags(QueueUrl=place.queue_url)["Tags"]["cost"] == "7"
    assert actions(aws.resources.plan(spec())) == {"keep"}


def test_a_policy_that_means_the_same_is_not_written_again():
    ours = {
        "Version": "2012-10-17",
        "Statement": [
            {"Sid": "A", "Effect": "Deny", "Principal": "*", "Action": "sqs:*", "Resource": "q"}
        ],
    }
    said = json.dumps(
        {
            "Version": "2008-10-17",
            "Id": "x",
            "Statement": [
                {**ours["Statement"][0], "Principal": {"AWS": ["*"]}, "Action": ["sqs:*"]}
            ],
        }
    )
    assert merged(said, ours) == said
    assert json.loads(merged("", ours)) == ours
    assert json.loads(merged('{"Version": "2008-10-17", "Statement": {"Effect": "Allow"}}', ours))[
        "Statement"
    ][0] == {"Effect": "Allow"}


def test_a_key_and_a_longer_retention_that_somebody_set_are_kept(aws: Aws):
    place = aws.resources.ensure(spec())
    theirs = {
        "KmsMasterKeyId": "alias/theirs",
        "MessageRetentionPeriod": str(12 * 86_400),
        "SqsManagedSseEnabled": "false",
    }
    aws.clients.sqs.set_queue_attributes(QueueUrl=place.queue_url, Attributes=theirs)

    assert actions(aws.resources.plan(spec())) == {"keep"}


# -- plan ------------------------------------------------------------------------------------------


def test_a_plan_shows_what_will_be_made_and_makes_nothing(aws: Aws):
    plan = aws.resources.plan(spec(filter_={"type": ["a"]}))

    assert actions(plan) == {"create"}
    assert [(change.kind, change.name) for change in plan if change.setting is None] == [
        ("topic", f"{aws.prefix}-documents"),
        ("dead-letter queue", f"{aws.prefix}-documents-reader-dead"),
        ("queue", f"{aws.prefix}-documents-reader"),
        ("subscription", f"{aws.prefix}-documents-reader"),
    ]
    assert ("queue", "VisibilityTimeout", "120") in [
        (change.kind, change.setting, change.wanted) for change in plan
    ]
    assert aws.names() == []


def test_a_plan_shows_each_setting_that_will_change(aws: Aws):
    aws.resources.ensure(spec(lease_s=60))
    changed = [
        change for change in aws.resources.plan(spec(lease_s=90)) if change.action == "change"
    ]
    assert changed == [
        Change("change", "queue", f"{aws.prefix}-documents-reader", "VisibilityTimeout", "60", "90")
    ]


def test_a_plan_asks_and_never_tells(aws: Aws):
    place = aws.resources.ensure(spec())
    told: list[str] = []

    def note(event_name: str, **_: Any) -> None:
        told.append(event_name.rpartition(".")[2])

    with hooked(aws.clients.sqs, "before-send", note), hooked(aws.clients.sns, "before-send", note):
        aws.resources.plan(spec(lease_s=77))
    assert told
    assert all(name.startswith(("Get", "List")) for name in told)
    assert aws.attributes(place.queue_url)["VisibilityTimeout"] == "120"


# -- filters on SNS --------------------------------------------------------------------------------


def test_sns_delivers_what_passes_and_what_it_cannot_judge(aws: Aws):
    place = aws.resources.ensure(spec(filter_={"kind": ["invoice"], "type": [{"prefix": "scan"}]}))
    assert not place.filtered

    for kind, type_ in (("invoice", "scan.new"), ("letter", "scan.new"), ("invoice", "other")):
        aws.publish(
            str(place.topic_arn),
            mt.Event({"n": kind + type_}, type=type_, source="a", extensions={"kind": kind}),
        )
    aws.publish(
        str(place.topic_arn),
        mt.Event(
            {"n": "more"}, type="scan", source="a", extensions={"kind": "invoice", "urgent": True}
        ),
    )
    foreign = {"kind": {"DataType": "String", "StringValue": "invoice"}}
    aws.clients.sns.publish(
        TopicArn=place.topic_arn, Message='{"n": "foreign"}', MessageAttributes=foreign
    )

    assert sorted(
        json.loads(message["Body"])["n"] for message in aws.received(place.queue_url)
    ) == ["foreign", "invoicescan.new", "more"]


def test_a_filter_is_changed_and_taken_away(aws: Aws):
    place = aws.resources.ensure(spec(filter_={"type": ["a"]}))
    assert place.filtered

    body = dataclasses.replace(
        spec(), filter=FilterPolicy.parse({"a": {"b": ["x"]}}, "MessageBody")
    )
    aws.resources.ensure(body)
    found = aws.subscription(str(place.topic_arn), place.queue_arn)
    assert (found["FilterPolicyScope"], json.loads(found["FilterPolicy"])) == (
        "MessageBody",
        {"a": {"b": ["x"]}},
    )
    assert actions(aws.resources.plan(body)) == {"keep"}

    aws.resources.ensure(spec(filter_={"type": ["b"]}))
    found = aws.subscription(str(place.topic_arn), place.queue_arn)
    assert (found["FilterPolicyScope"], "ce-type" in found["FilterPolicy"]) == (
        "MessageAttributes",
        True,
    )

    aws.resources.ensure(spec())
    assert (
        json.loads(
            aws.subscription(str(place.topic_arn), place.queue_arn).get("FilterPolicy", "{}")
        )
        == {}
    )
    aws.publish(str(place.topic_arn), mt.Event({}, type="z", source="a"))
    assert len(aws.received(place.queue_url)) == 1


# -- S3 --------------------------------------------------------------------------------------------


def test_an_object_is_announced_to_every_subscription_of_the_source(aws: Aws):
    bucket = aws.bucket()
    source = f"s3://{bucket}/in/*.png"
    first, second = (
        aws.resources.ensure(s3_spec(source, "ocr"), source),
        aws.resources.ensure(s3_spec(source, "archiver"), source),
    )
    assert first.topic_arn == second.topic_arn
    for url in (first.queue_url, second.queue_url):
        aws.clients.sqs.purge_queue(QueueUrl=url)

    for key in ("in/a.png", "in/b.txt", "out/c.png"):
        aws.clients.s3.put_object(Bucket=bucket, Key=key, Body=b"x")

    for place in (first, second):
        messages = [json.loads(message["Body"]) for message in aws.received(place.queue_url)]
        assert [
            record["s3"]["object"]["key"] for body in messages for record in body.get("Records", [])
        ] == ["in%2Fa.png"]


def test_only_the_bucket_may_publish_to_its_topic(aws: Aws):
    bucket = aws.bucket()
    source = f"s3://{bucket}/*.png"
    arn = aws.resources.ensure_topic(S3Source.parse(source).topic_name, source)

    policy = json.loads(aws.clients.sns.get_topic_attributes(TopicArn=arn)["Attributes"]["Policy"])
    by_sid = {each["Sid"]: each for each in policy["Statement"]}
    assert by_sid["MltriggerSource"]["Condition"] == {
        "ArnEquals": {"aws:SourceArn": f"arn:aws:s3:::{bucket}"},
        "StringEquals": {"aws:SourceAccount": aws.clients.account},
    }
    assert len(by_sid) == 3  # SNS's own statement for the account is still there


def test_notifications_of_others_are_kept(aws: Aws):
    bucket = aws.bucket()
    queue = aws.clients.sqs.create_queue(QueueName=f"theirs-{aws.prefix}")["QueueUrl"]
    arn = aws.attributes(queue)["QueueArn"]
    theirs = {"Id": "theirs", "QueueArn": arn, "Events": ["s3:ObjectRemoved:*"]}
    other = {
        **theirs,
        "Id": "text",
        "Events": ["s3:ObjectCreated:*"],
        "Filter": {"Key": {"FilterRules": [{"Name": "suffix", "Value": ".txt"}]}},
    }
    aws.notify(bucket, QueueConfigurations=[theirs, other])
    before = aws.notifications(bucket)
    source = f"s3://{bucket}/*.png"

    aws.resources.ensure(s3_spec(source), source)
    after = aws.notifications(bucket)
    aws.resources.delete(s3_spec(source), source, last=True)

    assert after["QueueConfigurations"] == before["QueueConfigurations"]
    assert len(after["TopicConfigurations"]) == 1
    assert aws.notifications(bucket) == before


def test_a_bucket_that_tells_eventbridge_still_does(aws: Aws):
    bucket = aws.bucket()
    source = f"s3://{bucket}/*.png"
    written: list[dict[str, Any]] = []

    # the emulator forgets this part of the configuration
    def remembered(parsed: dict[str, Any], **_: Any) -> None:
        parsed["EventBridgeConfiguration"] = {}

    def note(params: dict[str, Any], **_: Any) -> None:
        written.append(params)

    with (
        hooked(aws.clients.s3, "after-call.s3.GetBucketNotificationConfiguration", remembered),
        hooked(aws.clients.s3, "provide-client-params.s3.PutBucketNotificationConfiguration", note),
    ):
        aws.resources.ensure(s3_spec(source), source)
    assert [each["NotificationConfiguration"]["EventBridgeConfiguration"] for each in written] == [
        {}
    ]


def test_making_a_source_again_changes_nothing(aws: Aws):
    bucket = aws.bucket()
    source = f"s3://{bucket}/in/*.png"
    aws.resources.ensure(s3_spec(source), source)
    before, pauses = aws.notifications(bucket), len(aws.pauses)
    aws.resources.ensure(s3_spec(source), source)
    assert actions(aws.resources.plan(s3_spec(source), source)) == {"keep"}
    assert aws.notifications(bucket) == before
    assert len(aws.pauses) == pauses


def test_an_overlapping_notification_of_somebody_else_is_named(aws: Aws):
    bucket = aws.bucket()
    topic = aws.clients.sns.create_topic(Name=f"theirs-{aws.prefix}")["TopicArn"]
    rules = {"Key": {"FilterRules": [{"Name": "prefix", "Value": "in/2026/"}]}}
    aws.notify(
        bucket,
        TopicConfigurations=[
            {"Id": "theirs", "TopicArn": topic, "Events": ["s3:ObjectCreated:Put"], "Filter": rules}
        ],
    )
    source = f"s3://{bucket}/in/*.png"

    for call in (aws.resources.plan, aws.resources.ensure):
        with pytest.raises(
            NameTaken,
            match=rf"'in/2026/\*' to '{topic}' already \(entry 'theirs'\).*subscribe to that topic",
        ):
            call(s3_spec(source), source)
    assert aws.names() == []


def test_two_patterns_of_one_bucket_live_beside_each_other(aws: Aws):
    bucket = aws.bucket()
    sources = [f"s3://{bucket}/in/*.png", f"s3://{bucket}/in/*.jpg", f"s3://{bucket}/out/*.png"]
    for source in sources:
        aws.resources.ensure(s3_spec(source), source)
    assert len(aws.notifications(bucket)["TopicConfigurations"]) == 3
    with pytest.raises(NameTaken):
        aws.resources.ensure(s3_spec(f"s3://{bucket}/in/*"), f"s3://{bucket}/in/*")


def test_whoever_writes_over_our_entry_makes_us_write_it_again(aws: Aws):
    bucket = aws.bucket()
    source = f"s3://{bucket}/in/*.png"
    queue = aws.attributes(
        aws.clients.sqs.create_queue(QueueName=f"theirs-{aws.prefix}")["QueueUrl"]
    )["QueueArn"]
    calls: list[float] = []

    def meanwhile(seconds: float) -> None:
        calls.append(seconds)
        if len(calls) == 1:  # they had read before we wrote
            aws.notify(
                bucket,
                QueueConfigurations=[
                    {"Id": "theirs", "QueueArn": queue, "Events": ["s3:ObjectRemoved:*"]}
                ],
            )

    aws.bus(pause=meanwhile).ensure(s3_spec(source), source)

    found = aws.notifications(bucket)
    assert (len(found["TopicConfigurations"]), len(found["QueueConfigurations"])) == (1, 1)


def test_what_others_write_while_we_read_is_not_lost(aws: Aws):
    bucket = aws.bucket()
    source = f"s3://{bucket}/in/*.png"
    queue = aws.attributes(
        aws.clients.sqs.create_queue(QueueName=f"theirs-{aws.prefix}")["QueueUrl"]
    )["QueueArn"]
    asked: list[int] = []

    def meanwhile(**_: Any) -> None:
        asked.append(1)
        # the first look was the plan's; we are about to write what we have read
        if len(asked) == 2:
            aws.notify(
                bucket,
                QueueConfigurations=[
                    {"Id": "theirs", "QueueArn": queue, "Events": ["s3:ObjectRemoved:*"]}
                ],
            )

    with hooked(aws.clients.s3, "after-call.s3.GetBucketNotificationConfiguration", meanwhile):
        aws.resources.ensure(s3_spec(source), source)

    found = aws.notifications(bucket)
    assert (len(found["TopicConfigurations"]), len(found["QueueConfigurations"])) == (1, 1)


def test_a_bucket_that_is_not_there_is_said_so_before_anything_is_made(aws: Aws):
    source = f"s3://nothing-{aws.prefix}/*.png"
    with pytest.raises(NotFound, match="no bucket"):
        aws.resources.ensure(s3_spec(source), source)
    assert aws.names() == []


def test_s3_announces_nothing_to_fifo_topics(aws: Aws):
    with pytest.raises(InvalidName, match="FIFO"):
        aws.resources.ensure(spec(topic="scans.fifo"), "s3://scans/*.png")


# -- somebody else's queues and topics -------------------------------------------------------------


def test_somebody_elses_topic_feeds_a_queue_of_ours(aws: Aws):
    topic = aws.clients.sns.create_topic(Name=f"theirs-{aws.prefix}")["TopicArn"]
    given_ = spec(topic="theirs", filter_={"type": ["a"]})

    place = aws.resources.ensure(given_, topic)
    aws.clients.sns.publish(TopicArn=topic, Message='{"n": 1}')

    assert (place.topic_arn, place.filtered, place.owned) == (topic, False, True)
    assert [message["Body"] for message in aws.received(place.queue_url)] == ['{"n": 1}']
    assert actions(aws.resources.plan(given_, topic)) == {"keep"}
    aws.resources.delete(given_, topic, last=True)
    assert aws.names() == []
    assert aws.clients.sns.get_topic_attributes(TopicArn=topic)


def test_a_foreign_fifo_topic_feeds_a_fifo_queue(aws: Aws):
    topic = aws.clients.sns.create_topic(
        Name=f"theirs-{aws.prefix}.fifo", Attributes={"FifoTopic": "true"}
    )["TopicArn"]
    place = aws.resources.ensure(spec(topic="theirs"), topic)
    assert place.fifo
    assert place.queue_url.endswith("-theirs-reader.fifo")


def test_a_foreign_topic_may_forbid_to_list_its_subscriptions(aws: Aws):
    topic = aws.clients.sns.create_topic(Name=f"theirs-{aws.prefix}")["TopicArn"]
    with refused(aws.clients.sns, "ListSubscriptionsByTopic", code="AuthorizationError"):
        aws.resources.ensure(spec(topic="theirs"), topic)
        assert actions(aws.resources.plan(spec(topic="theirs"), topic)) == {"keep"}


def test_a_topic_or_queue_that_is_not_there_is_not_found(aws: Aws):
    for source in (TOPIC_ARN + aws.prefix, QUEUE_ARN + aws.prefix):
        with pytest.raises(NotFound):
            aws.resources.ensure(spec(), source)
    assert aws.names() == []


def test_nothing_of_a_foreign_queue_is_changed(aws: Aws):
    url = aws.clients.sqs.create_queue(QueueName=f"theirs-{aws.prefix}")["QueueUrl"]
    arn = aws.attributes(url)["QueueArn"]
    before = aws.attributes(url)
    told: list[str] = []

    def note(event_name: str, **_: Any) -> None:
        told.append(event_name.rpartition(".")[2])

    for source in (url, arn):
        with hooked(aws.clients.sqs, "before-send", note):
            place = aws.resources.ensure(spec(), source)
            assert aws.resources.find(spec(), source) == place
            assert actions(aws.resources.plan(spec(), source)) == {"keep"}
            aws.resources.remove(spec(), source)
            assert aws.resources.delete(spec(), source, last=True) == []
        assert place == Place(url, arn, None, None, None, fifo=False, filtered=False, owned=False)
    assert set(told) <= {"GetQueueUrl"}
    assert aws.attributes(url) == before


class ElsewhereClients:
    """Clients of AWS itself, of which nothing may be asked."""

    region, account, partition, endpoint = REGION, ACCOUNT, "aws", False


@pytest.mark.parametrize(
    "source", [f"arn:aws:sqs:us-east-1:{ACCOUNT}:orders", f"arn:aws:sns:us-east-1:{ACCOUNT}:orders"]
)
def test_what_is_in_another_region_says_where_to_connect(source: str):
    with pytest.raises(InvalidName, match="aws://us-east-1/acme"):
        Resources(ElsewhereClients(), "acme").ensure(spec(), source)


def test_a_foreign_queue_on_aws_needs_no_call_at_all():
    place = Resources(ElsewhereClients(), "acme").find(
        spec(), QUEUE_ARN.replace(ACCOUNT, "210987654321")
    )
    assert place.queue_url == f"https://sqs.{REGION}.amazonaws.com/210987654321/orders"


@pytest.mark.parametrize(
    "source",
    ["http://example.com/x", "s3:/x", "arn:aws:kinesis:eu-west-1:123456789012:stream/x", ""],
)
def test_what_is_no_source_is_refused(aws: Aws, source: str):
    with pytest.raises(InvalidName):
        aws.resources.ensure(spec(), source)


# -- finding ---------------------------------------------------------------------------------------


def test_finding_returns_what_was_made_and_makes_nothing(aws: Aws):
    with pytest.raises(NotFound):
        aws.resources.find(spec())
    assert aws.names() == []
    assert aws.bus().ensure(spec()) == aws.resources.find(spec())


def test_what_is_not_there_is_named_with_what_is_near(aws: Aws):
    aws.resources.ensure(spec())
    with pytest.raises(NotFound, match=f"did you mean '{aws.prefix}-documents-reader'"):
        aws.resources.find(spec("raeder"))
    with pytest.raises(NotFound, match="'documents'"):
        aws.resources.find_topic("document")
    assert aws.resources.find_topic("documents") == aws.resources.topic_arn("documents")


def test_a_listener_that_may_not_read_tags_or_list_finds_its_queue(aws: Aws):
    place = aws.resources.ensure(spec(filter_={"type": ["a"]}))
    sqs, sns = aws.clients.sqs, aws.clients.sns
    with (
        refused(sqs, "ListQueueTags", "ListQueues"),
        refused(sns, "GetTopicAttributes", "ListSubscriptionsByTopic"),
    ):
        assert aws.resources.find(spec(filter_={"type": ["a"]})) == place._replace(filtered=False)
        with pytest.raises(NotFound):
            aws.resources.find(spec("raeder"))
        assert aws.resources.find_topic("documents") == place.topic_arn


def test_a_permission_that_is_missing_is_named(aws: Aws):
    place = aws.resources.ensure(spec())
    four = ["ReceiveMessage", "DeleteMessage", "ChangeMessageVisibility", "GetQueueAttributes"]
    assert aws.resources.preflight(place.queue_url) == []
    for operation in four:
        with refused(aws.clients.sqs, operation):
            (missing,) = aws.resources.preflight(place.queue_url)
        assert missing.action == f"sqs:{operation}"
        assert f"allow sqs:{operation}" in missing.message


def test_looking_for_permissions_touches_no_message(aws: Aws):
    place = aws.resources.ensure(spec())
    aws.clients.sqs.send_message(QueueUrl=place.queue_url, MessageBody="{}")
    aws.resources.preflight(place.queue_url)
    found = aws.clients.sqs.receive_message(
        QueueUrl=place.queue_url, MessageSystemAttributeNames=["ApproximateReceiveCount"]
    )
    assert [message["Attributes"]["ApproximateReceiveCount"] for message in found["Messages"]] == [
        "1"
    ]


def test_looking_at_a_queue_that_is_not_there_says_so(aws: Aws):
    with pytest.raises(NotFound, match="no queue"):
        aws.resources.preflight(f"{aws.emulator.url}/{ACCOUNT}/nothing-{aws.prefix}")


# -- taking away -----------------------------------------------------------------------------------


def test_removing_ends_the_delivery_and_keeps_the_queue(aws: Aws):
    place = aws.resources.ensure(spec())
    aws.resources.remove(spec())
    aws.resources.remove(spec())
    aws.publish(str(place.topic_arn), mt.Event({}, type="a", source="a"))
    assert aws.received(place.queue_url) == []
    assert len(aws.names()) == 3


def test_deleting_removes_what_was_made_and_nothing_else(aws: Aws):
    aws.resources.ensure(spec("reader"))
    other = aws.resources.ensure(spec("archiver"))

    gone = aws.resources.delete(spec("reader"), last=True)

    # the topic still feeds the other one
    assert [change.kind for change in gone] == ["subscription", "queue", "dead-letter queue"]
    assert aws.resources.find(spec("archiver")) == other
    assert aws.resources.delete(spec("reader")) == []
    assert [change.kind for change in aws.resources.delete(spec("archiver"), last=True)][
        -1
    ] == "topic"
    assert aws.names() == []


def test_without_last_the_topic_stays(aws: Aws):
    aws.resources.ensure(spec())
    aws.resources.delete(spec())
    assert aws.names() == [f"arn:aws:sns:{REGION}:{aws.clients.account}:{aws.prefix}-documents"]


def test_what_is_not_tagged_as_ours_is_not_deleted(aws: Aws):
    place = aws.resources.ensure(spec())
    assert place.dead_url is not None
    aws.clients.sqs.untag_queue(QueueUrl=place.dead_url, TagKeys=["mltrigger:bus"])
    aws.clients.sns.untag_resource(ResourceArn=place.topic_arn, TagKeys=["mltrigger:bus"])
    aws.resources.delete(spec(), last=True)
    assert aws.names() == [place.topic_arn, f"{aws.prefix}-documents-reader-dead"]


def test_a_source_whose_bucket_has_gone_can_be_deleted(aws: Aws):
    bucket = aws.bucket()
    source = f"s3://{bucket}/*.png"
    aws.resources.ensure(s3_spec(source), source)
    aws.clients.s3.delete_bucket(Bucket=bucket)
    aws.resources.delete(s3_spec(source), source, last=True)
    assert aws.names() == []


@pytest.mark.parametrize("prefix", ["", "a b", "a.b", "x" * 41, "ö"])
def test_a_prefix_that_no_name_can_begin_with_is_refused(prefix: str):
    with pytest.raises(InvalidName, match="prefix"):
        Resources(ElsewhereClients(), prefix)
