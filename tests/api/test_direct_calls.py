"""Direct calls over HTTP: one event, run once, its answer recorded."""

from __future__ import annotations

import concurrent.futures
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from http_client import Caller
from shared import wait_until

import mltrigger as mt
from mltrigger.api.access import Tokens


def double(x: int) -> int:
    return 2 * x


INVOKE = "/v1/models/double/invoke"


@pytest.fixture
def plain_bus(file: Path) -> Iterator[mt.EventBus]:
    with mt.connect(f"sqlite:///{file}") as bus:
        yield bus


@pytest.fixture
def caller(plain_bus: mt.EventBus) -> Iterator[Caller]:
    with mt.serve(plain_bus) as server, Caller(server.url, server.token) as caller:
        yield caller


def test_call_is_answered_and_recorded_as_a_direct_event(
    api: Caller, served_bus: mt.EventBus
) -> None:
    answer = api.post(INVOKE, json=21)

    assert answer.status_code == 200
    assert (answer.json()["output"], answer.json()["version"]) == (42, "1.0.0")
    row = served_bus.invocations().iloc[0]
    assert (row["role"], row["subscription"], row["outcome"], row["attempt"]) == (
        "direct",
        "double:latest",
        "succeeded",
        1,
    )
    assert row["event_id"] == answer.json()["id"]
    assert served_bus.audit()["balanced"].all()


def test_version_alias_and_latest_are_followed(api: Caller, served_bus: mt.EventBus) -> None:
    served_bus.register(lambda x: 3 * x, name="double", version="2.0.0")
    served_bus.alias("double", "champion", "1.0.0")

    def ask(version: str) -> Any:
        answer = api.post(f"/v1/models/double/versions/{version}/invoke", json=1)
        return answer.json().get("output", answer.status_code)

    assert [ask(v) for v in ("1.0.0", "2.0.0", "1", "latest", "champion")] == [2, 3, 2, 3, 2]
    served_bus.alias("double", "champion", "2.0.0")
    assert ask("champion") == 3
    assert api.post(INVOKE, json=1).json()["output"] == 3
    assert ask("9.0.0") == ask("nobody") == 404


def test_id_that_is_sent_again_has_the_recorded_answer(
    plain_bus: mt.EventBus, caller: Caller
) -> None:
    calls: list[int] = []

    def counts(x: int) -> int:
        calls.append(x)
        return len(calls)

    plain_bus.register(counts, name="counts", version="1.0.0")

    def ask(x: int, key: str) -> Any:
        return caller.post("/v1/models/counts/invoke", json=x, headers={"Idempotency-Key": key})

    assert [ask(5, "a").json()["output"], ask(5, "a").json()["output"]] == [1, 1]
    assert ask(5, "b").json()["output"] == 2
    other = ask(6, "a")
    assert (other.status_code, other.json()["reason"]) == (409, "id_taken")
    assert calls == [5, 5]


def test_failure_is_the_answer_and_is_not_tried_again(api: Caller, served_bus: mt.EventBus) -> None:
    first = api.post("/v1/models/fails/invoke", json=1, headers={"Idempotency-Key": "k"})
    again = api.post("/v1/models/fails/invoke", json=1, headers={"Idempotency-Key": "k"})

    assert first.status_code == again.status_code == 502
    assert first.json() == again.json()
    assert first.json()["reason"] == "model_error"
    assert first.json()["detail"] == "ValueError: cannot read 1"
    assert "traceback" not in first.text.lower()
    assert served_bus.invocations()["outcome"].tolist() == ["dead"]
    assert served_bus.audit()["balanced"].all()
    sub = served_bus.subscription("fails:latest")
    assert len(sub.dead_letters()) == 1
    with pytest.raises(mt.InvalidEvent, match="call the model again"):
        sub.redrive()


def test_input_that_the_schema_refuses_is_the_callers_fault(
    plain_bus: mt.EventBus, caller: Caller
) -> None:
    schema = {"type": "object", "properties": {"x": {"type": "number"}}, "required": ["x"]}
    model = mt.model("strict", version="1.0.0", input_schema=schema)(lambda row: row["x"])
    plain_bus.register(model)

    assert caller.post("/v1/models/strict/invoke", json={"x": 1}).json()["output"] == 1
    answer = caller.post("/v1/models/strict/invoke", json={"y": 1})
    assert (answer.status_code, answer.json()["reason"]) == (422, "invalid_input")


@pytest.mark.parametrize(
    ("raised", "status", "reason"),
    [
        (mt.Reject("no text on it"), 422, "rejected"),
        (mt.Retry(7.0, "not now"), 503, None),
        (mt.ModelFailure("busy", throttled=True, delay_s=3.0), 503, None),
    ],
)
def test_signals_of_a_model_become_statuses(
    raised: Exception, status: int, reason: str | None, plain_bus: mt.EventBus, caller: Caller
) -> None:
    def signals(_: Any) -> None:
        raise raised

    plain_bus.register(signals, name="signals", version="1.0.0")
    answer = caller.post("/v1/models/signals/invoke", json=1)

    assert answer.status_code == status, answer.text
    assert reason is None or answer.json()["reason"] == reason
    assert plain_bus.audit()["balanced"].all()


def test_call_that_takes_too_long_is_answered_in_time(
    plain_bus: mt.EventBus, caller: Caller, gate: Any
) -> None:
    def waits(_: Any) -> str:
        gate.wait()
        return "late"

    plain_bus.subscribe("slow", waits, name="waits", version="1.0.0", timeout_s=1.5, listen=False)
    began_s = time.monotonic()
    answer = caller.post("/v1/models/waits/invoke", json=1)

    assert (answer.status_code, answer.json()["reason"]) == (504, "timeout")
    assert time.monotonic() - began_s < 10
    gate.open()
    other = caller.post("/v1/models/waits/invoke", json=2)
    assert other.json()["output"] == "late"


def test_limits_of_the_models_subscription_hold(
    plain_bus: mt.EventBus, caller: Caller, gate: Any
) -> None:
    def waits(_: Any) -> str:
        gate.wait()
        return "done"

    plain_bus.subscribe("t", waits, name="waits", version="1.0.0", max_concurrency=1, listen=False)
    with concurrent.futures.ThreadPoolExecutor(1) as pool:
        url, token = caller.url, caller.headers["Authorization"].split()[1]
        first = pool.submit(
            lambda: Caller(url, token).post("/v1/models/waits/invoke", json=1).status_code
        )
        wait_until(lambda: (plain_bus.invocations()["outcome"] == "running").any())
        second = caller.post("/v1/models/waits/invoke", json=2)
        gate.open()
        assert first.result() == 200

    assert (second.status_code, second.json()["reason"]) == (429, "too_many_calls")
    assert "retry-after" in second.headers
    assert len(plain_bus.events()) == 1  # nothing of the refused one is recorded


def test_rate_of_the_models_subscription_holds(plain_bus: mt.EventBus, caller: Caller) -> None:
    plain_bus.subscribe(
        "t", lambda x: x, name="echo", version="1.0.0", max_rate_per_s=1, listen=False
    )
    statuses = [caller.post("/v1/models/echo/invoke", json=n).status_code for n in range(3)]

    assert statuses[0] == 200
    assert 429 in statuses


def test_paused_model_refuses_calls(api: Caller) -> None:
    api.post(INVOKE, json=1)
    api.post("/v1/subscriptions/double:latest/pause").raise_for_status()
    answer = api.post(INVOKE, json=1)
    assert (answer.status_code, answer.json()["reason"]) == (503, "paused")

    api.post("/v1/subscriptions/double:latest/resume").raise_for_status()
    assert api.post(INVOKE, json=1).status_code == 200


def test_call_that_did_not_run_runs_when_it_is_sent_again(
    plain_bus: mt.EventBus, caller: Caller
) -> None:
    full = True

    def throttles(x: int) -> int:
        if full:
            raise mt.ModelFailure("full", throttled=True)
        return x

    plain_bus.register(throttles, name="throttles", version="1.0.0")

    def ask() -> Any:
        return caller.post("/v1/models/throttles/invoke", json=1, headers={"Idempotency-Key": "k"})

    assert ask().status_code == 503
    full = False
    assert wait_until(lambda: (a := ask()).status_code == 200 and a.json()["output"] == 1)
    assert plain_bus.audit()["balanced"].all()


def test_nobody_publishes_where_calls_are_kept(
    api: Caller, served_bus: mt.EventBus, server: mt.Server
) -> None:
    called = api.post(INVOKE, json=1).json()
    answer = api.post("/v1/topics/double:latest/events", json=1)

    assert answer.status_code == 404
    with pytest.raises(mt.NotFound):
        served_bus.publish("double:latest", 1)
    with pytest.raises(mt.InvalidName):
        served_bus.subscribe("double:latest", double, name="listens")
    assert served_bus.audit()["balanced"].all()
    token = Tokens(served_bus.registry).create("caller", ["invoke:double"])
    own = Caller(server.url, token).get(f"/v1/events/{called['id']}")
    assert own.json()["events"][0]["subscriptions"][0]["output"] == 2


def test_cloudevents_and_files_are_taken(plain_bus: mt.EventBus, caller: Caller) -> None:
    got: list[Any] = []

    def keeps(event: mt.Event) -> str:
        got.append((event.id, event.type, event.data))
        return "kept"

    plain_bus.register(keeps, name="keeps", version="1.0.0")
    path = "/v1/models/keeps/invoke"
    event = {"specversion": "1.0", "id": "e", "source": "s", "type": "t", "data": [1]}
    caller.post(path, json=event, headers={"Content-Type": "application/cloudevents+json"})
    caller.post(
        path, data=b"\x89PNG", headers={"Content-Type": "image/png", "Idempotency-Key": "i"}
    )
    batch = caller.post(
        path, json=[event, event], headers={"Content-Type": "application/cloudevents-batch+json"}
    )
    later = {**event, "id": "l", "notbefore": "2099-01-01T00:00:00Z"}
    wait = caller.post(path, json=later, headers={"Content-Type": "application/cloudevents+json"})

    assert got == [("e", "t", [1]), ("i", "mltrigger.event", b"\x89PNG")]
    assert (batch.status_code, wait.status_code) == (400, 400)


def test_model_of_another_process_is_not_here(plain_bus: mt.EventBus, tmp_path: Path) -> None:
    (tmp_path / "other.py").write_text(
        "import mltrigger as mt, sys\n"
        "bus = mt.connect(sys.argv[1])\n"
        "bus.register(lambda x: x, name='elsewhere', version='1.0.0')\n"
        "bus.close()\n"
    )
    file = plain_bus.log.home
    subprocess.run([sys.executable, str(tmp_path / "other.py"), f"sqlite:///{file}"], check=True)
    with mt.serve(plain_bus) as server, Caller(server.url, server.token) as caller:
        answer = caller.post("/v1/models/elsewhere/invoke", json=1)

    assert answer.status_code in (404, 503), answer.text
    assert "elsewhere" in answer.json()["detail"]
    assert len(plain_bus.events()) == 0


def test_concurrent_calls_are_each_answered_and_balance(
    plain_bus: mt.EventBus, caller: Caller
) -> None:
    plain_bus.register(lambda x: x + 1, name="next", version="1.0.0")
    url, token = caller.url, caller.headers["Authorization"].split()[1]

    def ask(n: int) -> tuple[int, Any]:
        with Caller(url, token) as own:
            answer = own.post(
                "/v1/models/next/invoke", json=n, headers={"Idempotency-Key": str(n % 50)}
            )
            return answer.status_code, answer.json().get("output")

    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        found = list(pool.map(ask, [n % 50 for n in range(150)]))

    assert found == [(200, n % 50 + 1) for n in range(150)]
    assert len(plain_bus.invocations()) == 50
    assert plain_bus.audit()["balanced"].all()


def test_recorded_answer_needs_no_room_of_the_model(
    plain_bus: mt.EventBus, caller: Caller, gate: Any
) -> None:
    def waits(x: int) -> int:
        if x == 2:
            gate.wait()
        return x

    plain_bus.register(waits, name="waits", version="1.0.0")
    path, url = "/v1/models/waits/invoke", caller.url
    token = caller.headers["Authorization"].split()[1]

    def ask(x: int, key: str) -> Any:
        with Caller(url, token) as own:
            return own.post(path, json=x, headers={"Idempotency-Key": key}).json().get("output")

    assert ask(1, "one") == 1
    with concurrent.futures.ThreadPoolExecutor(40) as pool:
        same = [pool.submit(ask, 2, "two") for _ in range(40)]
        wait_until(lambda: (plain_bus.invocations()["outcome"] == "running").any())
        assert ask(1, "one") == 1
        gate.open()
        assert [each.result() for each in same] == [2] * 40
    caller.post("/v1/subscriptions/waits:latest/pause").raise_for_status()
    assert ask(1, "one") == 1
    assert len(plain_bus.invocations()) == 2


def test_call_that_was_unsubscribed_under_way_does_not_run_again(
    plain_bus: mt.EventBus, caller: Caller, gate: Any
) -> None:
    calls: list[int] = []

    def waits(x: int) -> int:
        calls.append(x)
        gate.wait()
        return x

    plain_bus.register(waits, name="waits", version="1.0.0")
    url, token = caller.url, caller.headers["Authorization"].split()[1]

    def ask() -> Any:
        with Caller(url, token) as own:
            headers = {"Idempotency-Key": "k"}
            return own.post("/v1/models/waits/invoke", json=1, headers=headers)

    with concurrent.futures.ThreadPoolExecutor(1) as pool:
        first = pool.submit(ask)
        wait_until(lambda: calls)
        plain_bus.unsubscribe("waits:latest")
        gate.open()
        assert first.result().json()["reason"] == "unsubscribed"

    assert ask().json()["reason"] == "unsubscribed"
    assert calls == [1]
    assert plain_bus.audit()["balanced"].all()


def test_outcomes_of_calls_are_a_source(api: Caller, served_bus: mt.EventBus) -> None:
    api.post(INVOKE, json=1).raise_for_status()
    got: list[Any] = []
    served_bus.subscribe("outcomes://double:latest", got.append, name="watches", start="earliest")
    api.post(INVOKE, json=2).raise_for_status()
    wait_until(lambda: len(got) == 2)

    assert sorted(each["output"] for each in got) == [2, 4]
    with pytest.raises(mt.MltriggerError, match="double:latest"):
        served_bus.subscribe("outcomes://double:latst", print, name="wrong")


def test_call_that_the_end_of_the_server_cuts_off_is_dead_and_does_not_run_again(
    plain_bus: mt.EventBus, caller: Caller, gate: Any, file: Path
) -> None:
    plain_bus.register(lambda x: gate.wait(), name="waits", version="1.0.0")
    url, token = caller.url, caller.headers["Authorization"].split()[1]
    with concurrent.futures.ThreadPoolExecutor(1) as pool:
        call = pool.submit(lambda: Caller(url, token).post("/v1/models/waits/invoke", json=1))
        wait_until(lambda: (plain_bus.invocations()["outcome"] == "running").any())
        plain_bus.close(drain_s=0.1)
        answer = call.result()
    gate.open()

    assert (answer.status_code, answer.json()["reason"]) == (502, "interrupted")
    with mt.connect(f"sqlite:///{file}") as bus:
        (row,) = bus.invocations().to_dict("records")
        assert (row["outcome"], row["reason"]) == ("dead", "interrupted")
        assert bus.audit()["balanced"].all()


def test_callers_do_not_read_each_others_answers(
    api: Caller, served_bus: mt.EventBus, server: mt.Server
) -> None:
    tokens = Tokens(served_bus.registry)
    callers = [Caller(server.url, tokens.create(name, ["invoke:double"])) for name in ("a", "b")]
    answers = [
        caller.post(INVOKE, json=n, headers={"Idempotency-Key": "1"}).json()["output"]
        for n, caller in enumerate(callers, 1)
    ]

    assert answers == [2, 4]  # an id belongs to its sender
    for caller in callers:
        assert caller.get("/v1/subscriptions/double:latest/outcomes").status_code == 403
        assert caller.get("/v1/subscriptions").json() == {"subscriptions": []}


KILLED = """
import os, sys, time
import mltrigger as mt
def kills(x):
    open(sys.argv[2], "a").write("x")
    time.sleep(60)
bus = mt.connect(sys.argv[1])
bus.subscribe("t", kills, name="kills", version="1.0.0", timeout_s=1.0, lease_s=2.0, listen=False)
server = mt.serve(bus)
print(server.url, server.token, flush=True)
time.sleep(600)
"""


def test_call_whose_server_was_killed_ends_once_and_never_runs_again(
    file: Path, tmp_path: Path
) -> None:
    began = tmp_path / "began"
    child = subprocess.Popen(
        [sys.executable, "-c", KILLED, f"sqlite:///{file}", str(began)],
        stdout=subprocess.PIPE,
        text=True,
    )
    assert child.stdout is not None
    url, token = child.stdout.readline().split()
    failed = threading.Event()

    def ask() -> None:
        try:
            Caller(url, token).post(
                "/v1/models/kills/invoke", json=1, headers={"Idempotency-Key": "k"}
            )
        except Exception:
            failed.set()

    thread = threading.Thread(target=ask)
    thread.start()
    wait_until(lambda: began.exists() and began.read_text() == "x")
    os.kill(child.pid, signal.SIGKILL)
    child.wait()
    thread.join()

    assert failed.is_set()
    with mt.connect(f"sqlite:///{file}") as bus, mt.serve(bus):  # nobody needs to call again
        wait_until(lambda: "dead" in bus.invocations("kills:latest")["outcome"].tolist())
        (row,) = bus.invocations("kills:latest").to_dict("records")
        assert (row["outcome"], row["reason"], row["role"]) == ("dead", "worker_died", "direct")
        assert bus.audit()["balanced"].all()
    assert began.read_text() == "x"
