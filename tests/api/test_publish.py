"""Publishing over HTTP: the forms of CloudEvents, receipts, repeats, and what is refused."""

from __future__ import annotations

import base64
import concurrent.futures
import json
import threading
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from http_client import Caller
from shared import Gate, wait_until

import mltrigger as mt
from mltrigger.api.access import Tokens

EVENTS = "/v1/topics/documents/events"
CASES = json.loads((Path(__file__).parents[1] / "data" / "bad_inputs.json").read_text())["cases"]
STRUCTURED = {"Content-Type": "application/cloudevents+json"}
BATCH = {"Content-Type": "application/cloudevents-batch+json"}
EVENT: dict[str, Any] = {
    "specversion": "1.0",
    "id": "a-1",
    "source": "/scanner/7",
    "type": "page.scanned",
    "subject": "page 1",
    "time": "2026-05-01T10:00:00Z",
    "data": {"page": 1},
}


def test_plain_json_is_an_event_and_the_receipt_says_where_it_goes(
    api: Caller, served_bus: mt.EventBus
) -> None:
    answer = api.post(EVENTS, json={"page": 1})

    receipt = answer.json()
    assert answer.status_code == 202
    assert receipt["subscriptions"] == ["ocr"]
    assert answer.headers["location"] == receipt["status"] == f"/v1/events/{receipt['id']}"
    (row,) = served_bus.events().to_dict("records")
    assert (row["event_id"], row["topic"]) == (receipt["id"], "documents")


def test_status_has_the_state_and_the_answer_of_every_subscription(
    api: Caller, served_bus: mt.EventBus
) -> None:
    served_bus.subscribe("documents", lambda page: "later", name="second", listen=False)
    answer = api.post(EVENTS, json={"page": 1}, headers={"Prefer": "wait=1"})
    receipt = answer.json()

    (event,) = api.get(receipt["status"]).json()["events"]

    states = {each["subscription"]: each for each in event["subscriptions"]}
    assert states["second"]["state"] == "waiting"
    assert states["ocr"]["state"] == "succeeded"
    assert states["ocr"]["output"] == {"read": {"page": 1}}


@pytest.mark.parametrize(
    ("headers", "body"),
    [
        (STRUCTURED, json.dumps(EVENT)),
        (
            {
                "ce-specversion": "1.0",
                "ce-id": "a-1",
                "ce-source": "/scanner/7",
                "ce-type": "page.scanned",
                "ce-subject": "page%201",
                "ce-time": "2026-05-01T10:00:00Z",
                "Content-Type": "application/json; charset=utf-8",
            },
            '{"page": 1}',
        ),
    ],
    ids=["structured", "binary"],
)
def test_each_form_of_a_cloudevent_is_the_same_event(
    headers: dict[str, str], body: str, api: Caller, served_bus: mt.EventBus
) -> None:
    api.post(EVENTS, data=body, headers=headers).raise_for_status()

    (row,) = served_bus.events().to_dict("records")
    assert (row["event_id"], row["source"], row["type"], row["subject"]) == (
        "a-1",
        "/scanner/7",
        "page.scanned",
        "page 1",
    )
    answer = api.get("/v1/events/a-1").json()
    assert answer["events"][0]["source"] == "/scanner/7"


def test_batch_is_published_in_one_piece_or_not_at_all(
    api: Caller, served_bus: mt.EventBus
) -> None:
    events = [{**EVENT, "id": f"b-{n}"} for n in range(3)]
    good = api.post(EVENTS, json=events, headers=BATCH)
    bad = api.post(EVENTS, json=[{**EVENT, "id": "c-1"}, {"id": "c-2"}], headers=BATCH)

    assert good.status_code == 202
    assert [each["id"] for each in good.json()["receipts"]] == ["b-0", "b-1", "b-2"]
    assert (bad.status_code, bad.json()["reason"]) == (400, "not_cloudevent")
    assert sorted(served_bus.events()["event_id"]) == ["b-0", "b-1", "b-2"]
    assert api.post(EVENTS, json=[], headers=BATCH).json() == {"receipts": []}
    path = "/v1/topics/documents/batch"
    again = api.post(path, json=events, headers={**BATCH, "Prefer": "wait=10"})
    assert [each["outcomes"][0]["state"] for each in again.json()["receipts"]] == ["succeeded"] * 3
    assert api.post(path, json=events).status_code == 415


def test_binary_data_arrive_as_bytes(api: Caller, served_bus: mt.EventBus) -> None:
    got: list[Any] = []
    served_bus.subscribe("images", got.append, name="looks")
    headers = {
        "ce-specversion": "1.0",
        "ce-id": "i",
        "ce-source": "s",
        "ce-type": "t",
        "Content-Type": "image/png",
        "Prefer": "wait=10",
    }
    path = "/v1/topics/images/events"
    api.post(path, data=b"\x89PNG\xff", headers=headers).raise_for_status()
    structured = {**EVENT, "data_base64": base64.b64encode(b"\x00\xff").decode()}
    del structured["data"]
    structured["datacontenttype"] = "image/png"
    api.post(path, json=structured, headers={**STRUCTURED, "Prefer": "wait=10"}).raise_for_status()

    assert got == [b"\x89PNG\xff", b"\x00\xff"]


@pytest.mark.parametrize("key", ["header", "id"])
def test_repeat_is_the_same_receipt_and_runs_once(
    key: str, api: Caller, served_bus: mt.EventBus
) -> None:
    def send() -> dict[str, Any]:
        if key == "header":
            answer = api.post(EVENTS, json={"page": 1}, headers={"Idempotency-Key": "order-7"})
        else:
            answer = api.post(EVENTS, json={**EVENT, "id": "order-7"}, headers=STRUCTURED)
        answer.raise_for_status()
        receipt: dict[str, Any] = answer.json()
        return receipt

    first, second = send(), send()

    assert (first.pop("duplicate"), second.pop("duplicate")) == (False, True)
    assert first == second
    served_bus.wait(progress=False)
    assert len(served_bus.invocations()) == 1


def test_prefer_wait_answers_with_the_outcomes(api: Caller) -> None:
    answer = api.post(EVENTS, json={"page": 1}, headers={"Prefer": "respond-async, wait=10"})

    assert answer.status_code == 200
    assert answer.headers["preference-applied"] == "wait=10"
    (outcome,) = answer.json()["outcomes"]
    assert (outcome["state"], outcome["output"]) == ("succeeded", {"read": {"page": 1}})


def test_prefer_wait_ends_at_its_time_with_what_is_there(
    api: Caller, served_bus: mt.EventBus
) -> None:
    served_bus.subscribe("documents", lambda page: 1, name="nobody", listen=False)

    answer = api.post(EVENTS, json={"page": 1}, headers={"Prefer": "wait=0.3"})

    assert answer.status_code == 202
    states = {each["subscription"]: each["state"] for each in answer.json()["outcomes"]}
    assert states["nobody"] == "waiting"


def test_event_that_waits_may_be_cancelled(api: Caller, served_bus: mt.EventBus) -> None:
    later = (datetime.now(UTC) + timedelta(days=40)).isoformat()
    event = {**EVENT, "notbefore": later}
    api.post(EVENTS, json=event, headers=STRUCTURED).raise_for_status()

    assert api.get("/v1/events/a-1").json()["events"][0]["subscriptions"][0]["state"] == "waiting"
    assert api.post("/v1/events/a-1/cancel").json() == {"begun": []}
    (state,) = api.get("/v1/events/a-1").json()["events"][0]["subscriptions"]
    assert (state["state"], state["reason"]) == ("skipped", "cancelled")


def test_trace_goes_through(api: Caller, served_bus: mt.EventBus) -> None:
    trace = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
    api.post(EVENTS, json=1, headers={"traceparent": trace}).raise_for_status()

    assert served_bus.events()["trace_id"].tolist() == ["0af7651916cd43dd8448eb211c80319c"]


def test_many_callers_share_commits_and_each_has_its_own_receipt(
    api: Caller, served_bus: mt.EventBus, server: mt.Server
) -> None:
    def send(number: int) -> tuple[int, str]:
        with Caller(server.url, server.token) as caller:
            bad = number % 10 == 0
            answer = caller.post(
                "/v1/topics/nowhere/events" if bad else EVENTS,
                json=number,
                headers={"Idempotency-Key": f"n-{number}"},
            )
            return answer.status_code, answer.json().get("id", "")

    with concurrent.futures.ThreadPoolExecutor(16) as pool:
        found = list(pool.map(send, range(100)))

    assert [f for n, f in enumerate(found) if n % 10] == [
        (202, f"n-{n}") for n in range(100) if n % 10
    ]
    assert {status for status, _ in found[::10]} == {404}
    assert len(served_bus.events()) == 90


def bad(case: str) -> list[Any]:
    """Return the requests of one case of the catalogue."""
    return {
        "BI-011": [({"Content-Type": "application/json"}, "[" * 100_000 + "]" * 100_000, 400)],
        "BI-017": [
            ({"Content-Type": "application/json"}, '{"a": 1}'.encode(code), 415)
            for code in ("utf-16", "utf-32", "utf-16-le")
        ],
        "BI-048": [
            ({"ce-type": "t", "ce-source": "s", "Content-Type": "application/json"}, "1", 400)
        ],
        "BI-052": [
            (
                {**STRUCTURED},
                json.dumps({**EVENT, "big": 2**31}),
                400,
            )
        ],
    }[case]


@pytest.mark.parametrize("case", ["BI-011", "BI-017", "BI-048", "BI-052"])
def test_hostile_bodies_of_the_catalogue_are_refused_and_nothing_is_stored(
    case: str, api: Caller, served_bus: mt.EventBus
) -> None:
    (wanted,) = [each for each in CASES if each["id"] == case]
    for headers, body, status in bad(case):
        answer = api.post(EVENTS, data=body, headers=headers)

        assert answer.status_code == status, answer.text
        assert answer.headers["content-type"] == "application/problem+json"
        assert answer.json()["reason"] == wanted["reason_code"]
    assert len(served_bus.events()) == 0
    assert api.post(EVENTS, json="good", headers={"Prefer": "wait=10"}).status_code == 200


def test_charset_that_is_named_is_read(api: Caller) -> None:
    headers = {"Content-Type": "application/json; charset=utf-16", "Prefer": "wait=10"}
    answer = api.post(EVENTS, data='{"a": "€"}'.encode("utf-16"), headers=headers)

    assert answer.json()["outcomes"][0]["output"] == {"read": {"a": "€"}}


def test_percent_encoded_headers_are_decoded(api: Caller, served_bus: mt.EventBus) -> None:
    headers = {
        "ce-specversion": "1.0",
        "ce-id": "x",
        "ce-source": "s",
        "ce-type": "t",
        "ce-subject": "Euro%20%E2%82%AC%20%F0%9F%98%80",
        "Content-Type": "application/json",
    }
    api.post(EVENTS, data="1", headers=headers).raise_for_status()
    refused = api.post(EVENTS, data="1", headers={**headers, "ce-subject": "%FF"})

    assert served_bus.events()["subject"].tolist() == ["Euro € 😀"]
    assert refused.status_code == 400


MISSING = [
    {key: value for key, value in EVENT.items() if key != name}
    for name in ("specversion", "id", "source", "type")
]
WRONG: list[Any] = [
    {**EVENT, "specversion": "0.3"},
    {**EVENT, "id": ""},
    {**EVENT, "id": 7},
    {**EVENT, "time": "yesterday"},
    {**EVENT, "time": "2026-05-01T10:00Z"},
    {**EVENT, "Upper": "x"},
    {**EVENT, "nested": {"a": 1}},
    {**EVENT, "data_base64": "AA=="},
    {**EVENT, "datacontenttype": "xyz"},
    [],
    "text",
    None,
]


@pytest.mark.parametrize("number", range(len(MISSING) + len(WRONG)))
def test_no_cloudevent_is_refused_with_its_reason(
    number: int, api: Caller, served_bus: mt.EventBus
) -> None:
    event = [*MISSING, *WRONG][number]
    answer = api.post(EVENTS, data=json.dumps(event), headers=STRUCTURED)

    assert (answer.status_code, answer.json()["reason"]) == (400, "not_cloudevent"), answer.text
    assert len(served_bus.events()) == 0


@pytest.mark.parametrize(
    ("headers", "status", "reason"),
    [
        ({"Content-Type": "text/plain"}, 415, "unsupported_media_type"),
        ({"Content-Type": "application/x-www-form-urlencoded"}, 415, "unsupported_media_type"),
        ({"Content-Type": "application/cloudevents+avro"}, 415, "unsupported_media_type"),
        ({"Content-Type": ""}, 415, "unsupported_media_type"),
        (
            {"Content-Type": "application/json", "Content-Encoding": "gzip"},
            415,
            "unsupported_media_type",
        ),
        ({"Content-Type": "application/json; charset=klingon"}, 415, "unsupported_encoding"),
    ],
)
def test_other_media_types_are_refused(
    headers: dict[str, str], status: int, reason: str, api: Caller
) -> None:
    answer = api.post(EVENTS, data=b"{}", headers=headers)

    assert (answer.status_code, answer.json()["reason"]) == (status, reason)


def test_unknown_topic_lists_the_near_ones(api: Caller) -> None:
    answer = api.post("/v1/topics/document/events", json=1)

    assert answer.status_code == 404
    assert "'documents'" in answer.json()["detail"]


def test_ids_that_need_quoting_have_a_status(api: Caller) -> None:
    for name in ("a b", "ä/ö", "50%", "x?y#z", "..", "a%2Fb"):
        receipt = api.post(EVENTS, json={**EVENT, "id": name}, headers=STRUCTURED).json()
        assert api.get(receipt["status"]).json()["id"] == name


def test_ids_of_two_sources_are_told_apart(api: Caller) -> None:
    for source in ("one", "two"):
        api.post(EVENTS, json={**EVENT, "source": source}, headers=STRUCTURED)

    found = api.get("/v1/events/a-1").json()["events"]
    assert [each["source"] for each in found] == ["one", "two"]


def test_repeat_with_other_data_is_refused_and_prints_nothing(
    api: Caller, served_bus: mt.EventBus, capfd: pytest.CaptureFixture[str]
) -> None:
    key = {"Idempotency-Key": "k"}
    first, second = (api.post(EVENTS, json=page, headers=key) for page in (1, 2))
    batch = [{**EVENT, "data": n} for n in (1, 2)]
    receipts = api.post(EVENTS, json=batch, headers=BATCH).json()["receipts"]

    assert (first.status_code, second.status_code) == (202, 409)
    assert second.json()["reason"] == "id_taken"
    assert [each.get("differs", False) for each in receipts] == [False, True]
    assert len(served_bus.events()) == 2
    assert capfd.readouterr() == ("", "")


def test_id_belongs_to_its_sender(server: mt.Server, served_bus: mt.EventBus) -> None:
    tokens = Tokens(served_bus.registry)
    for name in ("anna", "ben"):
        with Caller(server.url, tokens.create(name, ["publish", "read"])) as caller:
            headers = {"Idempotency-Key": "1", "Prefer": "wait=10"}
            answer = caller.post(EVENTS, json={"who": name}, headers=headers).json()
            assert answer["duplicate"] is False
            assert answer["outcomes"][0]["output"] == {"read": {"who": name}}


def test_many_may_wait_and_others_are_served(
    server: mt.Server, api: Caller, served_bus: mt.EventBus, gate: Gate
) -> None:
    def waits(_: Any) -> None:
        gate.wait()

    served_bus.subscribe("slow", waits, name="waits", batch_size=None)

    def wait(number: int) -> int:
        with Caller(server.url, server.token) as caller:
            answer = caller.post(
                "/v1/topics/slow/events", json=number, headers={"Prefer": "wait=3"}
            )
            return int(answer.status_code)

    with concurrent.futures.ThreadPoolExecutor(80) as pool:
        waiting = [pool.submit(wait, number) for number in range(80)]
        wait_until(lambda: len(served_bus.events("slow")) == 80)
        other = api.post(EVENTS, json=1, headers={"Prefer": "wait=10"})
        found = [each.result() for each in waiting]
        gate.open()

    assert other.status_code == 200
    assert found == [202] * 80


def test_large_bodies_block_nobody(api: Caller, server: mt.Server) -> None:
    body = json.dumps([{}] * 1_500_000)
    done = threading.Event()
    slowest = [0.0]

    def look() -> None:
        with Caller(server.url) as caller:
            while not done.is_set():
                began_s = time.monotonic()
                caller.get("/v1/health")
                slowest[0] = max(slowest[0], time.monotonic() - began_s)

    thread = threading.Thread(target=look)
    thread.start()
    began_s = time.monotonic()
    answer = api.post(EVENTS, data=body, headers={"Content-Type": "application/json"}, timeout=240)
    took_s = time.monotonic() - began_s
    done.set()
    thread.join()

    assert answer.status_code == 202
    assert slowest[0] < took_s / 2
    batch = json.dumps([{}] * 10_001)
    assert api.post(EVENTS, data=batch, headers=BATCH).status_code == 413
