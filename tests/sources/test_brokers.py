"""Brokers of others as sources and as targets of outputs: one contract, each on a real server."""

from __future__ import annotations

import asyncio
import itertools
import json
import os
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from brokers import SERVERS, TRACE, Kafka, Redis, Server
from shared import wait_until

import mltrigger as mt

PROGRAMS = {"redis": "redis-server", "rabbitmq": "rabbitmq-server", "mqtt": "mosquitto"}


def on(*kinds: str, slow: Sequence[str] = ()) -> list[Any]:
    """Return the parameters of tests on some brokers. Those on one share a server.

    *slow* ones run with ``--slow`` only.
    """
    return [
        pytest.param(
            kind,
            marks=[
                pytest.mark.xdist_group(f"broker-{kind}"),
                *([pytest.mark.needs(PROGRAMS[kind])] if kind in PROGRAMS else []),
                *([pytest.mark.slow] if kind in slow else []),
            ],
        )
        for kind in kinds
    ]


KINDS = on(*SERVERS)
# The server for Kafka needs 18 s until a group is joined again.
LESS_ON_KAFKA = pytest.mark.parametrize("server", on(*SERVERS, slow=("kafka",)), indirect=True)
KNOWS_REPEATS = ("nats", "redis", "rabbitmq", "kafka")
"""A message that comes again has the same id there: RabbitMQ's if the publisher gave one."""
_names = itertools.count(1)


@pytest.fixture(scope="module")
def servers() -> Iterator[Callable[[str], Server]]:
    """Starts each server when the first test needs it."""
    running: dict[str, Server] = {}

    def server(kind: str) -> Server:
        if kind not in running:
            running[kind] = SERVERS[kind]()
        return running[kind]

    yield server
    for each in running.values():
        each.stop()


@pytest.fixture(params=KINDS)
def server(request: pytest.FixtureRequest, servers: Callable[[str], Server]) -> Server:
    return servers(request.param)


@pytest.fixture
def name(server: Server) -> str:
    """A topic, queue or stream of its own."""
    return made(server)


def made(server: Server) -> str:
    name = f"orders{next(_names)}"
    server.make(name)
    return name


@pytest.fixture
def bus(file: Path) -> Iterator[mt.EventBus]:
    with mt.connect(f"sqlite:///{file}") as bus:
        yield bus


def whole(event: mt.Event) -> list[Any]:
    """Return all of an event, as a model sees it."""
    return [
        *(event.id, event.source, event.type, event.subject, event.datacontenttype),
        event.data if isinstance(event.data, (dict, list, str)) else repr(event.data),
        dict(event.extensions),
    ]


def outputs(sub: mt.Subscription, n: int) -> list[Any]:
    """Return the outputs of *sub*, once there are *n*."""
    wait_until(lambda: len(sub.results()) >= n)
    return list(sub.results()["output"])


def numbers(*values: int) -> list[bytes]:
    return [json.dumps({"n": value}).encode() for value in values]


# -- messages as events ----------------------------------------------------------------------------


def test_a_message_is_an_event_with_its_headers_its_trace_and_its_key(
    server: Server, name: str, bus: mt.EventBus
) -> None:
    sub = bus.subscribe(server.url(name), whole, name="ocr")
    server.send(
        name,
        b'{"n": 1}',
        headers={"kind": "invoice", "X-Shop": "berlin", "traceparent": TRACE},
        key="k7",
    )
    ((_, source, type_, subject, media_type, data, extensions),) = outputs(sub, 1)

    assert (source, type_, media_type, data) == (
        server.url(name),
        "mltrigger.message",
        None,
        {"n": 1},
    )
    assert subject == {"kafka": "k7", "redis": None}.get(server.kind, name)
    assert extensions.get("partitionkey") == ("k7" if server.kind == "kafka" else None)
    assert extensions["kind"] == "invoice" and extensions["xshop"] == "berlin"
    assert json.loads(extensions["messageattributes"])["X-Shop"] == "berlin"
    assert extensions["traceparent"] == TRACE
    assert list(bus.invocations()["trace_id"]) == [TRACE.split("-")[1]]


@LESS_ON_KAFKA
def test_a_cloudevent_keeps_its_id_and_comes_once(
    server: Server, name: str, bus: mt.EventBus
) -> None:
    sub = bus.subscribe(server.url(name), whole, name="ocr")
    prefix = {"kafka": "ce_", "rabbitmq": "cloudEvents_", "mqtt": ""}.get(server.kind, "ce-")
    attributes = {"specversion": "1.0", "id": "a-1", "source": "shop/7", "type": "order.paid"}
    binary = {f"{prefix}{key}": value for key, value in attributes.items()}
    structured = json.dumps({**attributes, "id": "a-2", "data": {"n": 2}}).encode()
    server.send(name, b'{"n": 1}', b'{"n": 1}', headers=binary, content_type="application/json")
    server.send(name, structured, content_type="application/cloudevents+json")
    server.send(
        name, b"\xff\xd8", headers={**binary, f"{prefix}id": "a-3"}, content_type="image/jpeg"
    )
    server.send(name, b'{"n": "last"}')
    found = outputs(sub, 4)

    paid = [event[:3] for event in found if event[2] == "order.paid"]
    assert sorted(paid) == [[id_, "shop/7", "order.paid"] for id_ in ("a-1", "a-2", "a-3")]
    by_id = {event[0]: event for event in found}
    assert by_id["a-1"][5] == {"n": 1} and by_id["a-2"][5] == {"n": 2}
    assert by_id["a-3"][4:6] == ["image/jpeg", repr(b"\xff\xd8")]
    assert len(found) == 4


def test_messages_are_recorded_in_their_order(server: Server, name: str, bus: mt.EventBus) -> None:
    bus.subscribe(server.url(name), lambda data: data["n"], name="ocr")
    # Kafka keeps the order of a partition: that of a key
    server.send(name, *numbers(*range(100)), key="one" if server.kind == "kafka" else None)
    wait_until(lambda: len(bus.events()) == 100)

    assert [json.loads(data)["n"] for data in bus.events()["data"]] == list(range(100))


def test_poison_is_a_dead_letter_with_its_bytes_and_comes_no_more(
    server: Server, name: str, bus: mt.EventBus
) -> None:
    called: list[Any] = []
    sub = bus.subscribe(server.url(name), called.append, name="ocr")
    server.send(name, b"\xff\xfe{", b"{broken", b'{"n": 1}')
    wait_until(lambda: len(sub.results()) == 3)
    letters = sub.dead_letters()

    assert called == [{"n": 1}]
    assert set(letters["reason"]) == {"invalid_unicode", "malformed_json"}
    assert set(letters["raw"]) == {b"\xff\xfe{", b"{broken"}
    assert bus.wait(30, progress=False)
    assert bus.topics()["behind"].dropna().tolist() in ([0], [])
    # the same bytes end the same way; other data are an event like any other
    broken = letters[letters["raw"] == b"{broken"]
    assert sub.redrive(broken) == 1
    wait_until(lambda: len(sub.dead_letters()) == 2 and sub.depth().open == 0)
    assert called == [{"n": 1}]


def test_the_form_of_a_message_without_a_media_type_can_be_said(
    server: Server, name: str, bus: mt.EventBus
) -> None:
    as_text = bus.subscribe(server.url(name, "data=text"), whole, name="text")
    server.send(name, b"hello", b'{"n": 1}', b"")
    assert sorted(str(event[5]) for event in outputs(as_text, 3)) == ["None", "hello", '{"n": 1}']
    as_text.unsubscribe(delete=True)  # a queue of RabbitMQ is shared

    as_bytes = bus.subscribe(server.url(name, "data=bytes"), whole, name="bytes")
    server.send(name, b"\xff\x00", content_type="image/x-raw")
    # The test's broker may tell a newcomer of an older message first.
    wait_until(lambda: "image/x-raw" in str(as_bytes.results()["output"].tolist()))
    event = next(each for each in outputs(as_bytes, 1) if each[4] == "image/x-raw")
    assert event[5] == repr(b"\xff\x00")


@LESS_ON_KAFKA
def test_two_buses_do_not_take_messages_from_each_other(
    server: Server, name: str, tmp_path: Path
) -> None:
    with (
        mt.connect(f"sqlite:///{tmp_path}/one.db") as one,
        mt.connect(f"sqlite:///{tmp_path}/two.db") as two,
    ):
        for bus in (one, two):
            bus.subscribe(server.url(name), lambda data: data, name="ocr")
        server.send(name, *numbers(*range(20)))
        counts = [lambda bus=bus: len(bus.events()) for bus in (one, two)]

        if server.kind == "rabbitmq":  # readers of a queue share it
            wait_until(lambda: sum(count() for count in counts) == 20)
        else:
            wait_until(lambda: [count() for count in counts] == [20, 20])


# -- kills, restarts, outages ----------------------------------------------------------------------


def child(*arguments: str) -> subprocess.Popen[bytes]:
    """Return a process that dies at the moment that its first argument names."""
    here = Path(__file__).parents[1] / "helpers"
    paths = os.pathsep.join([str(here), str(here.parents[1]), os.environ.get("PYTHONPATH", "")])
    return subprocess.Popen(
        [sys.executable, str(here / "broker_child.py"), *arguments],
        env={**os.environ, "PYTHONPATH": paths},
    )


@pytest.mark.slow(every=2)
def test_killed_between_record_and_acknowledge_nothing_is_lost(
    server: Server, name: str, file: Path
) -> None:
    reader = child("acknowledge", f"sqlite:///{file}", server.url(name))
    with mt.connect(f"sqlite:///{file}") as bus:
        wait_until(lambda: "connected" in list(bus.topics()["state"]))
        for n in range(10):
            server.send(name, *numbers(n), key=f"m{n}")
        assert reader.wait(timeout=60) == -9
        recorded = len(bus.events())
        assert recorded > 0

        sub = bus.subscribe(server.url(name), "broker_child:seen", name="seen", timeout_s=1)
        wait_until(lambda: set(sub.results()["output"].map(int)) == set(range(10)))
        wait_until(lambda: state(bus, sub.topic) == "connected")
        assert bus.wait(60, progress=False)
        # MQTT has no ids: what was not acknowledged is recorded again
        again = 0 if server.kind in KNOWS_REPEATS else recorded
        assert len(bus.events()) == 10 + again


@pytest.mark.slow(every=2)
def test_paused_nothing_is_taken_and_a_restart_loses_nothing(
    server: Server, name: str, bus: mt.EventBus, tmp_path: Path
) -> None:
    (tmp_path / "scans").mkdir()
    bus.subscribe(f"{tmp_path}/scans/*.txt", lambda event: 1, name="files", settle_s=0.05)
    sub = bus.subscribe(server.url(name), lambda data: data["n"], name="ocr")
    server.send(name, *numbers(0), key="a")
    assert outputs(sub, 1) == [0]
    sub.pause()
    wait_until(lambda: paused(bus, sub))
    server.send(name, *numbers(1, 2), key="b" if server.kind == "kafka" else None)
    assert len(bus.events()) == 1  # nothing is taken while it is paused
    server.kill()
    try:
        sub.resume()
        wait_until(lambda: state(bus, sub.topic) == "waiting")
        (tmp_path / "scans" / "page.txt").write_text("page")
        wait_until(lambda: len(bus.subscription("files").results()) == 1)
        advice = bus.doctor()
        assert advice["finding"].str.contains("waits since").any()
    finally:
        server.start()
    server.send(name, *numbers(3), key="c")

    assert sorted(outputs(sub, 4)) == [0, 1, 2, 3]
    wait_until(lambda: state(bus, sub.topic) == "connected")


def state(bus: mt.EventBus, topic: str) -> str:
    topics = bus.topics().set_index("topic")
    return str(topics["state"][topic])


def paused(bus: mt.EventBus, sub: mt.Subscription) -> bool:
    """Whether nothing is taken for *sub* any more: its reader has ended."""
    reading = any(each.name == f"mltrigger-{sub.topic}" for each in threading.enumerate())
    return not reading and sub.state == "paused"


@LESS_ON_KAFKA
def test_another_process_takes_over(server: Server, name: str, file: Path) -> None:
    with mt.connect(f"sqlite:///{file}") as second:
        with mt.connect(f"sqlite:///{file}") as first:
            one = first.subscribe(server.url(name), "broker_child:seen", name="seen")
            wait_until(lambda: state(first, one.topic) == "connected")
            second.subscription("seen").start()
            server.send(name, *numbers(0), key="a")
            outputs(one, 1)
        server.send(name, *numbers(1), key="b")

        assert sorted(outputs(second.subscription("seen"), 2)) == [0, 1]
        assert len(second.events()) == 2


@LESS_ON_KAFKA
def test_unsubscribing_with_delete_lets_the_broker_forget(
    server: Server, name: str, bus: mt.EventBus
) -> None:
    url = server.url(name)
    sub = bus.subscribe(url, lambda data: data["n"], name="ocr")
    server.send(name, *numbers(0), key="a")
    outputs(sub, 1)
    sub.unsubscribe(delete=True)
    if server.kind != "rabbitmq":  # a queue keeps messages, whoever reads
        server.send(name, *numbers(1), key="b")
    sub = bus.subscribe(url, lambda data: data["n"], name="ocr")
    server.send(name, *numbers(2), key="c")
    wait_until(lambda: 2 in list(sub.results()["output"]))

    # Tansu says the end of a partition one message too early: then 1 comes as well
    assert set(sub.results()["output"]) <= ({0, 1, 2} if server.kind == "kafka" else {0, 2})


# -- outputs ---------------------------------------------------------------------------------------


def test_an_output_is_sent_as_a_cloudevent_under_its_own_id(
    server: Server, name: str, bus: mt.EventBus
) -> None:
    sub = bus.subscribe("documents", lambda data: {"n": data}, name="ocr", emit=server.url(name))
    event = mt.Event(1, extensions={"traceparent": TRACE, "partitionkey": "k7"})
    bus.publish("documents", event)
    (got,) = server.read(name, 1)
    assert bus.wait(30, progress=False)
    emitted = bus.events(topic=bus.registry.subscription("ocr").emit).iloc[0]
    prefix = {"kafka": "ce_", "rabbitmq": "cloudEvents_", "mqtt": ""}.get(server.kind, "ce-")

    assert json.loads(got.body) == {"n": 1}
    assert got.headers[f"{prefix}id"] == emitted["event_id"]
    assert got.headers[f"{prefix}source"] == "mltrigger/ocr"
    assert got.headers["content-type"] == "application/json"
    assert got.headers["traceparent"].split("-")[1] == TRACE.split("-")[1]
    assert got.key == ("k7" if server.kind == "kafka" else None)
    assert list(sub.invocations()["outcome"]) == ["succeeded"]


def test_killed_between_commit_and_send_no_output_is_lost(
    server: Server, name: str, file: Path
) -> None:
    process = child("send", f"sqlite:///{file}", "documents", server.url(name))
    assert process.wait(timeout=60) == -9
    with mt.connect(f"sqlite:///{file}") as bus:
        emitted = bus.registry.subscription("seen").emit
        assert len(bus.events(topic=emitted)) == 1
        sender = bus.subscription(emitted)
        bus.subscribe(
            "documents", "broker_child:seen", name="seen", emit=server.url(name), timeout_s=1
        )
        (got,) = server.read(name, 1)
        wait_until(lambda: sender.depth().open == 0)

    assert json.loads(got.body) == 1


def test_a_broker_that_is_away_spends_no_attempt(
    server: Server, name: str, bus: mt.EventBus
) -> None:
    server.kill()
    try:
        sub = bus.subscribe("documents", lambda data: data, name="ocr", emit=server.url(name))
        bus.publish_batch("documents", [1, 2, 3])
        sender = bus.subscription(bus.registry.subscription("ocr").emit)
        wait_until(lambda: len(sub.results()) == 3)
        wait_until(lambda: sender.state.startswith("waiting for"))
        assert "127.0.0.1" in sender.state
    finally:
        server.start()
    got = server.read(name, 3)
    assert bus.wait(60, progress=False)

    assert sorted(json.loads(each.body) for each in got) == [1, 2, 3]
    assert set(sub.invocations()["outcome"]) == {"succeeded"}
    assert not len(sender.dead_letters()) and set(sender.results()["outcome"]) == {"succeeded"}


@pytest.mark.parametrize("server", on("nats", "kafka"), indirect=True)
def test_a_message_that_the_broker_refuses_is_a_dead_letter(
    server: Server, name: str, bus: mt.EventBus
) -> None:
    bus.subscribe("documents", lambda data: "x" * data, name="ocr", emit=server.url(name))
    sender = bus.subscription(bus.registry.subscription("ocr").emit)
    bus.publish_batch("documents", [2_000_000, 3])
    (got,) = server.read(name, 1)
    wait_until(lambda: len(sender.dead_letters()) == 1 and sender.depth().open == 0)

    assert json.loads(got.body) == "xxx"
    assert sender.dead_letters()["reason"].tolist() == ["refused"]
    assert sender.redrive(sender.dead_letters()) == 1
    wait_until(lambda: sender.dead_letters()["redriven"].tolist() == [1])


REDIS = pytest.mark.parametrize("server", on("redis"), indirect=True)


@REDIS
def test_outlets_are_shared_found_again_and_end_with_the_last_that_emits(
    server: Server, name: str, bus: mt.EventBus
) -> None:
    to = server.url(name)
    bus.topic(f"to-redis-{name}")  # somebody has the name
    for model in ("one", "two", "one"):
        bus.subscribe("documents", lambda data: data, name=model, emit=to)
    outlet = bus.registry.subscription("one").emit
    assert outlet == bus.registry.subscription("two").emit == f"to-redis-{name}-2"
    assert set(bus.subscriptions()["subscription"]) == {"one", "two", outlet}

    bus.subscribe("documents", lambda data: data, name="two", emit="results")  # elsewhere now
    run = bus.fire("documents", [1], progress=False)
    assert len(run.results()) == 2
    assert [json.loads(each.body) for each in server.read(name, 1)] == [1]
    bus.unsubscribe("two", delete=True)
    assert outlet in set(bus.subscriptions()["subscription"])
    assert bus.wait(30, progress=False)
    bus.unsubscribe("one", delete=True)
    assert not len(bus.subscriptions())

    bus.subscribe("documents", lambda data: data, name="one", emit=to)
    bus.fire("documents", [2], progress=False)
    assert json.loads(server.read(name, 2)[1].body) == 2


@REDIS
def test_an_outlet_that_is_unsubscribed_says_whose_outputs_stay(
    server: Server, name: str, bus: mt.EventBus
) -> None:
    bus.subscribe("documents", lambda data: data, name="ocr", emit=server.url(name))
    with pytest.warns(UserWarning, match="outputs of ocr are sent no more"):
        bus.unsubscribe(f"to-redis-{name}")


@REDIS
def test_another_process_sends_what_this_one_left(server: Server, name: str, file: Path) -> None:
    with mt.connect(f"sqlite:///{file}") as bus:
        bus.subscribe(
            "documents", "broker_child:seen", name="seen", emit=server.url(name), listen=False
        )
        bus.publish("documents", {"n": 7})
        assert len(bus._engine) == 0
    here = Path(__file__).parents[1] / "helpers"
    paths = os.pathsep.join([str(here), str(here.parents[1]), os.environ.get("PYTHONPATH", "")])
    subprocess.run(
        [sys.executable, "-m", "mltrigger", "worker", "--until-idle", "--url", f"sqlite:///{file}"],
        env={**os.environ, "PYTHONPATH": paths},
        check=True,
        timeout=120,
    )
    assert json.loads(server.read(name, 1)[0].body) == 7


@REDIS
def test_a_broker_is_a_model_and_a_circle_through_it_ends(
    server: Server, name: str, bus: mt.EventBus
) -> None:
    bus.subscribe("documents", server.url(name), name="copy")
    ocr = bus.subscribe(server.url(name), lambda data: data, name="ocr", emit=server.url(name))
    bus.publish("documents", {"n": 1})
    wait_until(lambda: "recursion_limit" in set(ocr.dead_letters()["reason"]))

    assert bus.wait(30, progress=False)
    assert len(ocr.results()) == 17


# -- terms of each broker --------------------------------------------------------------------------


@pytest.mark.parametrize("server", on("kafka"), indirect=True)
def test_another_member_of_the_group_takes_partitions_and_gives_them_back(
    server: Kafka, name: str, bus: mt.EventBus
) -> None:
    sub = bus.subscribe(server.url(name, "group=ml"), lambda data: data["n"], name="ocr")
    for n in range(10):
        server.send(name, *numbers(n), key=f"k{n}")
    outputs(sub, 10)

    async def beside() -> list[int]:
        import aiokafka

        other = aiokafka.AIOKafkaConsumer(
            name,
            bootstrap_servers=f"127.0.0.1:{server.port}",
            group_id="ml",
            enable_auto_commit=False,
            session_timeout_ms=6000,
        )
        await other.start()
        while len(other.assignment()) != 1:  # one of the two
            await other.getmany(timeout_ms=100)
        for n in range(10, 30):
            await asyncio.to_thread(server.send, name, *numbers(n), key=f"k{n}")
        taken = set()
        while not taken:
            for records in (await other.getmany(timeout_ms=500)).values():
                taken |= {json.loads(record.value)["n"] for record in records}
        await other.stop()  # without a commit: its messages are read again
        return sorted(taken)

    taken = asyncio.run(beside())
    assert taken
    wait_until(lambda: set(sub.results()["output"]) == set(range(30)))
    assert len(bus.events()) == 30


@REDIS
def test_an_entry_without_a_body_is_an_object_of_its_fields(
    server: Redis, name: str, bus: mt.EventBus
) -> None:
    sub = bus.subscribe(server.url(name), whole, name="ocr")

    async def add() -> None:
        async with server.client() as client:
            await client.xadd(name, {"path": "a.png", "pages": "3"})

    asyncio.run(add())

    assert outputs(sub, 1)[0][5] == {"path": "a.png", "pages": "3"}


@pytest.mark.parametrize("server", on("mqtt"), indirect=True)
def test_a_wildcard_tells_the_topic_in_the_subject(server: Server, bus: mt.EventBus) -> None:
    sub = bus.subscribe(server.url("sensors/+/temperature"), whole, name="ocr")
    server.send("sensors/+/temperature", b"21.5", key="hall")
    (event,) = outputs(sub, 1)

    assert sub.topic == "sensors-temperature"
    assert event[3] == "sensors/hall/temperature"
    assert event[5] == "21.5"


@pytest.mark.parametrize("server", on("rabbitmq"), indirect=True)
def test_what_does_not_exist_is_said(server: Server, bus: mt.EventBus) -> None:
    with pytest.raises(mt.InvalidName, match=r"no queue 'nowhere'.*declare it first"):
        bus.subscribe(server.url("nowhere"), lambda data: data, name="ocr")
    assert not len(bus.subscriptions())


# -- URLs and secrets ------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", on("redis"))
def test_no_secret_is_anywhere(
    kind: str, file: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    class Locked(Redis):
        password = "s3cr3t/+:word"

    server = Locked()
    monkeypatch.setenv("SHOP_PASSWORD", server.password)
    try:
        url = f"redis://default:env:SHOP_PASSWORD@127.0.0.1:{server.port}/orders"
        with mt.connect(f"sqlite:///{file}") as bus:
            sub = bus.subscribe(url, lambda data: data["n"], name="ocr", emit=f"{url}2")
            server.send("orders", *numbers(1))
            assert outputs(sub, 1) == [1]
            assert [json.loads(each.body) for each in server.read("orders2", 1)] == [1]
            monkeypatch.setenv("SHOP_PASSWORD", "wr0ng/word")
            server.kill()
            wait_until(lambda: state(bus, "orders") == "waiting")
            server.start()
            wait_until(lambda: "invalid" in bus.topics().set_index("topic")["detail"]["orders"])
            shown = [
                bus.doctor().to_string(),
                repr(bus),
                repr(sub),
                bus.topics().to_string(),
                sub.state,
                caplog.text,
            ]
            shown += [bus.models().to_string(), bus.subscriptions().to_string()]
            shown.append(bus.invocations().to_string())
        kept = b"".join(each.read_bytes() for each in file.parent.iterdir() if each.is_file())
    finally:
        server.stop()

    for secret in ("s3cr3t", "wr0ng"):
        assert secret.encode() not in kept
        assert not any(secret in text for text in shown)
    assert b"env:SHOP_PASSWORD" in kept


@pytest.mark.parametrize(
    "url",
    [
        "kafka://app:s3cr3t@broker/orders",
        "rabbitmq://:s3cr3t@broker/orders",
        "nats://broker/orders?password=s3cr3t",
        "nats://broker/orders?token=s3cr3t",
        "redis://app:s3/cr3t@broker/orders",
        "mqtt://app:s3?cr3t@broker/orders",
        "mqtt://app:s3#cr3t@broker/orders",
        "kafka://app:env:X:s3cr3t@broker/orders",
    ],
)
def test_a_password_in_a_url_is_refused_with_the_ways_out(url: str) -> None:
    with mt.connect("memory://") as bus:
        for arguments in ((url, len), ("documents", url)):
            with pytest.raises((mt.InvalidName, mt.InvalidModel)) as refusal:
                bus.subscribe(*arguments, name="ocr")
            assert "cr3t" not in str(refusal.value)
        with pytest.raises((mt.InvalidName, mt.InvalidModel)) as refusal:
            bus.subscribe("documents", len, name="ocr", emit=url)
        assert "cr3t" not in str(refusal.value)
        assert not len(bus.subscriptions()) and not len(bus.topics())


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("kafka://broker", "names no topic; it is written kafka://broker:9092/orders"),
        ("kafka://broker/orders?gruop=ml", "did you mean 'group'"),
        ("kafka:///orders", "has no host"),
        ("kafka://broker:nine/orders", "a port that is no number"),
        ("nats://broker/orders?durable=a.b", "must be 1 to 100 letters"),
        ("redis://broker/orders?db=one", "must be a whole number"),
        ("redis://broker/orders?data=xml", "no data 'xml'"),
        ("mqtt://broker/a%20b", "has no blanks"),
        ("rabbitmq://broker/orders?group=ml", "no option of rabbitmq:// 'group'"),
    ],
)
def test_a_wrong_url_is_refused(url: str, message: str) -> None:
    with mt.connect("memory://") as bus, pytest.raises(mt.InvalidName) as refusal:
        bus.subscribe(url, len, name="ocr")
    assert message in str(refusal.value)


def test_outputs_go_to_no_wildcard() -> None:
    with mt.connect("memory://") as bus, pytest.raises(mt.InvalidModel, match="wildcard"):
        bus.subscribe("documents", len, name="ocr", emit="mqtt://broker/sensors/#")


def test_a_password_that_is_not_set_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("SHOP_PASSWORD", raising=False)
    with mt.connect("memory://") as bus, pytest.raises(mt.InvalidName, match="SHOP_PASSWORD"):
        bus.subscribe("kafka://app:env:SHOP_PASSWORD@broker/orders", len, name="ocr")


def test_a_broker_that_is_away_is_said_at_once_and_nothing_is_kept() -> None:
    with mt.connect("memory://") as bus:
        with pytest.raises(mt.StoreError, match=r"127\.0\.0\.1"):
            bus.subscribe("nats://127.0.0.1:1/orders", len, name="ocr")
        assert not len(bus.subscriptions())


@LESS_ON_KAFKA
def test_a_backlog_is_read_in_its_order_after_a_pause(
    server: Server, name: str, bus: mt.EventBus
) -> None:
    sub = bus.subscribe(server.url(name), lambda data: data["n"], name="ocr")
    sub.pause()
    wait_until(lambda: paused(bus, sub))
    one = "one" if server.kind == "kafka" else None
    server.send(name, *numbers(*range(700)), key=one)
    sub.resume()
    wait_until(lambda: len(bus.events()) >= 700)

    assert [json.loads(data)["n"] for data in bus.events()["data"]] == list(range(700))
