"""Reading over HTTP: outcomes as pages and streams, dead letters, and what may be changed."""

from __future__ import annotations

import socket
import threading
import time
import urllib.parse
from typing import Any

import pytest
from http_client import Caller, Sent
from shared import wait_until

import mltrigger as mt
from mltrigger.api.access import Tokens

OUTCOMES = "/v1/subscriptions/ocr/outcomes"


def fire(bus: mt.EventBus, *pages: Any) -> None:
    run = bus.fire("documents", list(pages), progress=False)
    assert run.open == 0


def test_outcomes_come_in_pages_that_lose_and_repeat_nothing(
    api: Caller, served_bus: mt.EventBus
) -> None:
    fire(served_bus, *range(7))
    path, seen = f"{OUTCOMES}?limit=3", []
    for _ in range(4):
        page = api.get(path).json()
        seen += [row["output"]["read"] for row in page["outcomes"]]
        path = page["next"]
    assert sorted(seen) == list(range(7))

    fire(served_bus, "new")
    assert [row["output"]["read"] for row in api.get(path).json()["outcomes"]] == ["new"]


@pytest.mark.parametrize("query", ["limit=0", "limit=1001", "limit=x", "after=-1", "after=1e3"])
def test_wrong_pages_are_refused(query: str, api: Caller) -> None:
    answer = api.get(f"{OUTCOMES}?{query}")

    assert (answer.status_code, answer.json()["reason"]) == (400, "bad_request")


def take(api: Caller, count: int, **more: Any) -> list[Sent]:
    found = []
    for each in api.follow(OUTCOMES, **more):
        found.append(each)
        if len(found) == count:
            return found
    return found


def test_stream_has_old_and_new_outcomes_and_goes_on_after_a_break(
    api: Caller, served_bus: mt.EventBus
) -> None:
    fire(served_bus, 0, 1)
    first = take(api, 2)
    thread = threading.Thread(target=fire, args=(served_bus, 2, 3))
    thread.start()
    more = take(api, 2, headers={"Last-Event-ID": first[-1].id})
    thread.join()

    assert [each.event for each in [*first, *more]] == ["outcome"] * 4
    assert sorted(each.data["output"]["read"] for each in first) == [0, 1]
    assert sorted(each.data["output"]["read"] for each in more) == [2, 3]
    assert int(more[0].id or 0) > int(first[-1].id or 0)


def test_stream_ends_with_its_server(served_bus: mt.EventBus) -> None:
    found: list[int] = []
    with mt.serve(served_bus) as server:
        caller = Caller(server.url, server.token)
        stream = caller.follow(OUTCOMES)
        fire(served_bus, 1)
        next(stream)
        reader = threading.Thread(target=lambda: found.append(len(list(stream))))
        reader.start()
    reader.join(5)

    assert found == [0]


def test_open_streams_have_a_limit(served_bus: mt.EventBus) -> None:
    fire(served_bus, 1)
    with mt.serve(served_bus, streams=1) as server, Caller(server.url, server.token) as caller:
        stream = caller.follow(OUTCOMES)
        next(stream)
        with Caller(server.url, server.token) as other:
            answer = other.get(OUTCOMES, headers={"Accept": "text/event-stream"})
            assert (answer.status_code, answer.json()["reason"]) == (503, "too_many_streams")
            assert "retry-after" in answer.headers
            assert other.get(OUTCOMES).status_code == 200


def test_depth_counts_what_waits_and_what_is_delayed(api: Caller, served_bus: mt.EventBus) -> None:
    served_bus.subscribe("documents", lambda page: page, name="idle", listen=False)
    served_bus.publish("documents", 1)
    served_bus.publish("documents", 2, delay_s=3600)

    depth = api.get("/v1/subscriptions/idle/depth").json()

    assert depth.pop("oldest_s") >= 0
    assert depth == {"backlog": 1, "visible": 1, "delayed": 1, "in_flight": 0, "dead": 0}
    assert api.get("/v1/subscriptions/nobody/depth").status_code == 404


def test_dead_letters_are_read_redriven_and_discarded(api: Caller, served_bus: mt.EventBus) -> None:
    broken = True

    def sometimes(page: Any) -> Any:
        if broken:
            raise ValueError("broken")
        return page

    sub = served_bus.subscribe("documents", sometimes, name="sometimes", max_attempts=1)
    fire(served_bus, 1, 2)
    letters = api.get("/v1/subscriptions/sometimes/dead-letters").json()["dead_letters"]
    assert [(each["reason"], each["error"]) for each in letters] == [("model_error", "broken")] * 2

    broken = False
    one, two = (each["id"] for each in letters)
    assert api.post("/v1/subscriptions/sometimes/redrive", json={"events": [one]}).json() == {
        "events": 1
    }
    given = {"events": [two], "reason": "a test page"}
    assert api.post("/v1/subscriptions/sometimes/discard", json=given).json() == {"events": 1}
    assert served_bus.wait(progress=False)
    assert sub.invocations()["outcome"].tolist() == ["failed", "dead", "succeeded"]
    assert api.get("/v1/subscriptions/sometimes/dead-letters").json() == {"dead_letters": []}


def test_id_of_two_sources_needs_the_source(api: Caller, served_bus: mt.EventBus) -> None:
    served_bus.subscribe("documents", lambda page: 1 / 0, name="never", max_attempts=1)
    events = [mt.Event(1, id="k", source=source) for source in ("a", "b")]
    served_bus.fire("documents", events, progress=False)
    never, given = "/v1/subscriptions/never", {"events": ["k"], "reason": "a test page"}

    for path, body in (
        ("/v1/events/k/cancel", None),
        (f"{never}/redrive", {"events": ["k"]}),
        (f"{never}/discard", given),
    ):
        answer = api.post(path, json=body) if body else api.post(path)
        assert (answer.status_code, answer.json()["reason"]) == (409, "ambiguous_event"), path
        assert "'a', 'b'" in answer.json()["detail"]

    assert "never" in api.post("/v1/events/k/cancel?source=a").json()["begun"]
    assert api.post("/v1/events/k/cancel?source=c").status_code == 404
    assert api.post(f"{never}/discard", json={**given, "source": "b"}).json() == {"events": 1}
    (left,) = api.get(f"{never}/dead-letters").json()["dead_letters"]
    assert left["source"] == "a"
    assert [each["source"] for each in api.get("/v1/events/k").json()["events"]] == ["a", "b"]
    assert [e["source"] for e in api.get("/v1/events/k?source=b").json()["events"]] == ["b"]


@pytest.mark.parametrize(
    ("action", "body"),
    [
        ("discard", {}),
        ("discard", {"events": ["x"]}),
        ("discard", {"events": "x", "reason": "y"}),
        ("redrive", {"events": [1]}),
        ("redrive", {"events": ["x"], "source": 1}),
        ("redrive", [1]),
    ],
)
def test_wrong_orders_are_refused(action: str, body: Any, api: Caller) -> None:
    answer = api.post(f"/v1/subscriptions/ocr/{action}", json=body)

    assert answer.status_code == 400, answer.text


def test_unknown_dead_letter_is_named(api: Caller) -> None:
    answer = api.post("/v1/subscriptions/ocr/redrive", json={"events": ["nix"]})

    assert answer.status_code == 404
    assert "nix" in answer.json()["detail"]


def test_pause_and_resume_hold_everywhere(api: Caller, served_bus: mt.EventBus) -> None:
    assert api.post("/v1/subscriptions/ocr/pause").json() == {"paused": True}
    api.post("/v1/topics/documents/events", json=1, headers={"Idempotency-Key": "k"})
    (state,) = api.get("/v1/events/k").json()["events"][0]["subscriptions"]
    assert state["state"] == "waiting"
    (listed,) = api.get("/v1/subscriptions").json()["subscriptions"]
    assert (listed["name"], listed["paused"]) == ("ocr", True)

    assert api.post("/v1/subscriptions/ocr/resume").json() == {"paused": False}
    assert served_bus.wait(progress=False)


def test_labels_are_kept_with_the_name_of_their_token(api: Caller, served_bus: mt.EventBus) -> None:
    one = {"event": "e-1", "truth": {"total": 7}, "at": "2026-11-30T12:00Z"}
    many = [{"event": "e-2", "truth": False, "by": "ann", "source": "scanner"}]

    assert api.post("/v1/labels", json=one).json() == {"labels": 1}
    assert api.post("/v1/labels", json={"labels": many}).json() == {"labels": 1}

    found = served_bus.labels()
    assert found["truth"].tolist() == ['{"total":7}', "false"]
    assert found["by"].tolist() == ["serve", "ann"]


@pytest.mark.parametrize(
    "body",
    [
        {},
        {"event": "e-1"},
        {"event": 1, "truth": 1},
        {"event": "e-1", "truth": 1, "at": "noon"},
        {"event": "e-1", "truth": 1, "at": "2026-11-30T12:00"},
        {"event": "e-1", "truth": 1, "by": 7},
        {"labels": 7},
        {"labels": [7]},
    ],
)
def test_bad_labels_are_refused(body: Any, api: Caller, served_bus: mt.EventBus) -> None:
    assert api.post("/v1/labels", json=body).status_code == 400
    assert len(served_bus.labels()) == 0


def test_unknown_subscription_lists_the_near_ones(api: Caller) -> None:
    answer = api.get("/v1/subscriptions/ocrr/outcomes")

    assert answer.status_code == 404
    assert "'ocr'" in answer.json()["detail"]


def test_no_get_changes_anything(api: Caller, served_bus: mt.EventBus) -> None:
    for action in ("redrive", "discard", "pause", "resume"):
        assert api.get(f"/v1/subscriptions/ocr/{action}").status_code == 405
    for path in ("/v1/topics/documents/events", "/v1/models/double/invoke", "/v1/session"):
        assert api.get(path).status_code == 405
    assert len(served_bus.events()) == 0


def test_cursor_goes_on_after_the_newest_outcomes_were_pruned(
    api: Caller, served_bus: mt.EventBus, server: mt.Server
) -> None:
    fire(served_bus, *range(5))
    cursor = api.get(OUTCOMES).json()["cursor"]
    with Caller(server.url, server.token) as other:
        stream = other.follow(OUTCOMES, headers={"Last-Event-ID": str(cursor)})
        served_bus.topic("nobody")
        served_bus.publish("nobody", 1)
        served_bus.retain(max_events=1)
        served_bus.prune()
        assert len(served_bus.invocations()) == 0
        fire(served_bus, *range(5, 10))

        assert sorted(next(stream).data["output"]["read"] for _ in range(5)) == list(range(5, 10))
    page = api.get(f"{OUTCOMES}?after={cursor}").json()
    assert sorted(row["output"]["read"] for row in page["outcomes"]) == list(range(5, 10))


def test_page_of_large_outcomes_is_cut_and_loses_none(api: Caller, served_bus: mt.EventBus) -> None:
    fire(served_bus, *["x" * 900_000] * 7)
    path, sizes = OUTCOMES, []
    while True:
        page = api.get(path).json()
        if not page["outcomes"]:
            break
        sizes.append(len(page["outcomes"]))
        path = page["next"]

    assert sum(sizes) == 7
    assert max(sizes) < 7


def test_head_of_a_stream_ends(api: Caller) -> None:
    for _ in range(3):
        answer = api.head(OUTCOMES, headers={"Accept": "text/event-stream"}, timeout=5)
        assert answer.status_code == 200


def test_one_token_does_not_take_all_streams(served_bus: mt.EventBus) -> None:
    fire(served_bus, 1)
    token = Tokens(served_bus.registry).create("greedy", ["read:ocr"])
    with mt.serve(served_bus, streams=8) as server:
        kept = [Caller(server.url, token).follow(OUTCOMES) for _ in range(2)]
        for stream in kept:
            next(stream)
        with Caller(server.url, token) as third:
            answer = third.get(OUTCOMES, headers={"Accept": "text/event-stream"})
            assert (answer.status_code, answer.json()["reason"]) == (503, "too_many_streams")
        with Caller(server.url, server.token) as other:
            assert next(other.follow(OUTCOMES)).data["outcome"] == "succeeded"


def test_reader_that_takes_nothing_is_cut_off_and_keeps_no_server(
    served_bus: mt.EventBus,
) -> None:
    fire(served_bus, *["x" * 900_000] * 30)
    with mt.serve(served_bus, body_s=0.5) as server:
        where = urllib.parse.urlsplit(server.url)
        with socket.create_connection((where.hostname, where.port), 10) as silent:
            silent.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            lines = [
                f"GET {OUTCOMES} HTTP/1.1",
                f"Host: {where.netloc}",
                f"Authorization: Bearer {server.token}",
                "Accept: text/event-stream",
            ]
            silent.sendall("\r\n".join([*lines, "", ""]).encode())
            wait_until(lambda: len(server._uvicorn.server_state.connections) == 1)
            wait_until(lambda: len(server._uvicorn.server_state.connections) == 0)
        began_s = time.monotonic()
    assert time.monotonic() - began_s < 5
