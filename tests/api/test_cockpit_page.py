"""The cockpit over HTTP: its page, state and questions, and all that is refused."""

from __future__ import annotations

import itertools
import json
import time
from collections.abc import Iterator
from typing import Any

import pytest
from http_client import Caller, Sent
from shared import is_settled, wait_until

import mltrigger as mt
from mltrigger.api import seats
from mltrigger.api.access import Tokens
from mltrigger.notebook.cockpit import hosted

EVENTS, ASKS = "/v1/cockpit/events", "/v1/cockpit/asks"
HOSTILE = "</script><img src=x onerror=window.hit=1>"


@pytest.fixture
def server(served_bus: mt.EventBus) -> Iterator[mt.Server]:
    sub = served_bus.subscription("ocr")
    for text in ("one", HOSTILE):
        served_bus.publish("documents", {"text": text}, subject=text)
    wait_until(lambda: is_settled(sub))
    with mt.serve(served_bus, cockpit=hosted.cockpit()) as server:
        yield server


class Page:
    """An open page: its stream, and its questions."""

    def __init__(self, caller: Caller, seat: str = "") -> None:
        self._caller = caller
        self.stream = caller.follow(f"{EVENTS}?seat={seat}")
        self.seat = next(self.stream).data

    def until(self, name: str) -> Any:
        return next(sent for sent in self.stream if sent.event == name).data

    def ask(self, what: Any, **args: Any) -> Any:
        return self._caller.post(
            ASKS, json={"seat": self.seat, "id": 7, "what": what, "args": args}
        ).json()

    def act(self, action: str, go: bool = True, **args: Any) -> Any:
        return self.ask("act", action=action, args=args, go=go)


@pytest.fixture
def page(api: Caller) -> Page:
    return Page(api)


def reader(server: mt.Server, bus: mt.EventBus, *scopes: str) -> Caller:
    return Caller(server.url, Tokens(bus.registry).create("reader", scopes))


def browser(server: mt.Server, read_only: bool = False) -> Caller:
    """A client that has the cookie of a new address, and no token."""
    caller = Caller(server.url)
    address = server.cockpit_url(read_only).removeprefix(server.url)
    assert caller.get(address).status_code == 200
    return caller


# -- looking and steering --------------------------------------------------------------------------


def test_stream_begins_with_the_state_and_tells_each_change(
    page: Page, served_bus: mt.EventBus
) -> None:
    first = page.until("state")
    page.ask("choose", subscription="ocr")
    chosen = page.until("state")
    served_bus.publish("documents", {"text": "three"})
    later = next(s.data for s in page.stream if s.event == "state" and done(s) == 3)

    assert first["counts"]["succeeded"] == 2 and first["read_only"] is False
    assert first["chosen"] is None and chosen["chosen"] == "ocr"
    assert later["log"]["rows"] == 3


def done(sent: Sent) -> int:
    return int(sent.data["counts"].get("succeeded", 0))


def test_actions_are_done_and_show_their_code(page: Page, served_bus: mt.EventBus) -> None:
    page.ask("choose", subscription="ocr")
    prepared = page.act("pause", go=False)
    assert served_bus.subscription("ocr").state != "paused"
    did = page.act("pause")

    assert (did["type"], did["id"], did["value"]["done"]) == ("answer", 7, True)
    assert prepared["value"]["code"] == 'sub = bus.subscription("ocr")\nsub.pause()'
    assert served_bus.subscription("ocr").state == "paused"
    states = (sent.data for sent in page.stream if sent.event == "state")
    assert next(s for s in states if s["picture"]["subscriptions"][0]["state"] == "paused")


def test_hostile_texts_stay_json(page: Page, api: Caller) -> None:
    rows = page.ask("rows", filter={}, before=None, limit=10)["value"]["rows"]

    assert any(HOSTILE in row["event"] for row in rows)
    answer = api.post(ASKS, json={"seat": page.seat, "id": 1, "what": HOSTILE})
    assert answer.headers["content-type"] == "application/json"
    assert answer.headers["x-content-type-options"] == "nosniff"
    assert HOSTILE not in api.get("/v1/cockpit").text


@pytest.mark.parametrize("what", ["rows", "row", "act", "compare", "choose", "nothing", None, []])
def test_nonsense_gets_a_sentence(page: Page, api: Caller, what: Any) -> None:
    for args in (None, 3, "x", [], {"filter": 3}, {"subscription": HOSTILE}, {"go": 3}):
        answer = api.post(ASKS, json={"seat": page.seat, "id": 1, "what": what, "args": args})

        assert answer.status_code == 200
        assert {"value", "error"} & set(answer.json())
        assert "Traceback" not in answer.text


@pytest.mark.parametrize(
    ("body", "status"),
    [
        (b"{", 400),
        (b"[]", 400),
        (b"[" * 100_000, 400),
        (b'{"seat": 3, "id": 1}', 404),
        (b'{"id": true}', 404),
        (b'{"seat": "%s", "id": "x"}', 400),
        (b'{"seat": "%s", "id": 1, "args": "' + b"x" * 1_100_000 + b'"}', 413),
    ],
    ids=["half", "list", "deep", "no seat", "none", "no number", "large"],
)
def test_malformed_question_is_refused(page: Page, api: Caller, body: bytes, status: int) -> None:
    body = body.replace(b"%s", page.seat.encode())
    answer = api.post(ASKS, data=body, headers={"Content-Type": "application/json"})

    assert (answer.status_code, answer.json()["status"]) == (status, status)


def test_page_that_comes_back_finds_its_choice_and_its_recording(api: Caller, page: Page) -> None:
    page.ask("choose", subscription="ocr")
    page.ask("record", on=True)
    page.act("pause")
    again = Page(api, page.seat)

    assert again.seat == page.seat
    assert again.until("state")["chosen"] == "ocr"
    assert "sub.pause()" in again.ask("recorded")["value"]["code"]
    assert all(sent.event in ("state", "alive") for sent in page.stream)  # the older one has ended


def test_nothing_is_looked_at_without_a_page(
    api: Caller, served_bus: mt.EventBus, monkeypatch: pytest.MonkeyPatch
) -> None:
    looks: list[float] = []
    look = hosted.Hosted.look

    def counted(self: hosted.Hosted) -> bool:
        looks.append(time.monotonic())
        return look(self)

    monkeypatch.setattr(hosted.Hosted, "look", counted)
    page = Page(api)
    page.until("alive")
    with_page = len(looks)
    page.stream.close()  # type: ignore[attr-defined]
    gaps = [b - a for a, b in itertools.pairwise(looks)]
    wait_until(lambda: time.monotonic() - looks[-1] > 1.5)  # the bell rings each second

    assert 2 <= with_page <= 20
    assert min(gaps) >= 0.1


# -- who may ---------------------------------------------------------------------------------------


def test_token_that_may_only_read_gets_the_read_only_form(
    server: mt.Server, served_bus: mt.EventBus
) -> None:
    with reader(server, served_bus, "read:*") as caller:
        page = Page(caller)
        assert page.until("state")["read_only"] is True
        assert page.ask("rows", filter={}, before=None, limit=10)["value"]["count"] == 2
        page.ask("choose", subscription="ocr")
        assert page.act("pause", go=False)["value"]["done"] is False
        refused = page.act("pause")

    assert (refused["status"], refused["reason"]) == (403, "not_permitted")
    assert served_bus.subscription("ocr").state != "paused"


@pytest.mark.parametrize("scope", ["read:ocr", "publish:*", "invoke:*"])
def test_other_scopes_see_nothing(scope: str, server: mt.Server, served_bus: mt.EventBus) -> None:
    with reader(server, served_bus, scope) as caller:
        assert caller.get(EVENTS).status_code == 403
        assert caller.post(ASKS, json={}).status_code == 403
        assert "lacks the scope read:*" in caller.get("/v1/cockpit").text


def test_without_a_token_there_is_only_the_page_to_sign_in(server: mt.Server) -> None:
    with Caller(server.url) as caller:
        assert caller.get(EVENTS).status_code == 401
        assert caller.post(ASKS, json={}).status_code == 401
        assert 'type="password"' in caller.get("/v1/cockpit").text
        assert 'id="cockpit"' not in caller.get("/v1/cockpit?ticket=x").text


def test_page_is_no_use_to_another_token(
    page: Page, server: mt.Server, served_bus: mt.EventBus
) -> None:
    with reader(server, served_bus, "administer") as caller:
        answer = caller.post(ASKS, json={"seat": page.seat, "id": 1, "what": "recorded"})
        assert (answer.status_code, answer.json()["reason"]) == (404, "no_seat")
        assert Page(caller, page.seat).seat != page.seat


def test_revoked_token_loses_its_page(server: mt.Server, served_bus: mt.EventBus) -> None:
    with reader(server, served_bus, "administer") as caller:
        page = Page(caller)
        Tokens(served_bus.registry).revoke("reader")
        assert all(sent.event in ("state", "alive") for sent in page.stream)  # and it ends
        assert caller.get(EVENTS).status_code == 401


def test_address_opens_once_and_leaves_a_cookie_that_no_script_reads(server: mt.Server) -> None:
    address = server.cockpit_url().removeprefix(server.url)
    with Caller(server.url) as caller, Caller(server.url) as late:
        assert caller.head(address).cookies.get_dict() == {}
        opened = caller.get(address)
        (cookie,) = opened.headers["set-cookie"].split(", ", 0)
        assert {"HttpOnly", "SameSite=strict"} <= set(cookie.split("; "))
        assert 'id="cockpit"' in opened.text and "<script>" not in opened.text
        assert caller.get(EVENTS, stream=True).status_code == 200
        assert 'id="cockpit"' not in late.get(address).text
    policy = opened.headers["content-security-policy"]
    assert "default-src 'none'; script-src 'self'" in policy and "unsafe" not in policy


def test_address_to_look_at_only_refuses_actions(
    server: mt.Server, served_bus: mt.EventBus
) -> None:
    with browser(server, read_only=True) as caller:
        caller.headers["Origin"] = server.url
        page = Page(caller)
        page.ask("choose", subscription="ocr")

        assert page.until("state")["read_only"] is True
        assert page.act("pause")["status"] == 403


@pytest.mark.parametrize("origin", [None, "https://evil.example", "http://127.0.0.1:1", "null"])
def test_cookie_asks_only_from_the_page_itself(
    origin: str | None, server: mt.Server, served_bus: mt.EventBus
) -> None:
    with browser(server) as caller:
        page = Page(caller)
        body = {"seat": page.seat, "id": 1, "what": "act", "args": {}}
        headers = {} if origin is None else {"Origin": origin}
        answer = caller.post(ASKS, json=body, headers=headers)
        assert (answer.status_code, answer.json()["reason"]) == (403, "bad_origin")
        own = caller.post(ASKS, json=body, headers={"Origin": server.url})
        assert own.status_code == 200


def test_forms_and_origins_of_the_rest_of_the_api_may_not_ask(served_bus: mt.EventBus) -> None:
    friend = "https://app.example.org"
    with (
        mt.serve(served_bus, cockpit=hosted.cockpit(), origins=[friend]) as server,
        Caller(server.url, server.token) as caller,
    ):
        assert caller.get("/v1/subscriptions", headers={"Origin": friend}).status_code == 200
        assert caller.get(EVENTS, headers={"Origin": friend}).status_code == 403
        assert caller.post(ASKS, json={}, headers={"Origin": friend}).status_code == 403
        form = {"Content-Type": "text/plain", "Origin": server.url}
        assert caller.post(ASKS, data=json.dumps({"id": 1}), headers=form).status_code == 415
        assert caller.get("/v1/cockpit", headers={"Host": "evil.example"}).status_code == 403


def test_too_many_pages_are_refused(
    api: Caller, page: Page, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(seats, "MOST_OF_ONE", 2)
    second = Page(api)
    answer = api.get(EVENTS)
    assert (answer.status_code, answer.json()["reason"]) == (503, "too_many_pages")

    second.stream.close()  # type: ignore[attr-defined]
    third = wait_until(lambda: _opened(api))
    assert third.seat not in (page.seat, second.seat)
    assert api.post(ASKS, json={"seat": second.seat, "id": 1}).status_code == 404


def _opened(api: Caller) -> Page | None:
    try:
        return Page(api)
    except AssertionError:
        return None


def test_stopped_server_ends_its_pages(page: Page, server: mt.Server) -> None:
    page.until("state")
    began_s = time.monotonic()
    server.stop()

    assert time.monotonic() - began_s < 5
    assert all(sent.event in ("state", "alive") for sent in page.stream)


def test_server_without_a_cockpit_has_no_such_page(served_bus: mt.EventBus) -> None:
    with mt.serve(served_bus) as server, Caller(server.url, server.token) as caller:
        assert caller.get("/v1/cockpit").status_code == 404
        with pytest.raises(mt.MltriggerError, match="no cockpit"):
            server.cockpit_url()


def test_the_stream_says_how_far_a_long_action_is(
    page: Page, served_bus: mt.EventBus, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mltrigger.reports.dead_letters._BATCH", 1)
    monkeypatch.setattr("mltrigger.notebook.cockpit.answering._TELL_S", 0.0)
    reject = mt.model("reject", version="1.0.0")(rejecting)
    sub = served_bus.subscribe("pages", reject, name="reject")
    for n in range(3):
        served_bus.publish("pages", n)
    wait_until(lambda: is_settled(sub))
    args = {"filter": {"subscription": "reject", "outcome": "dead"}, "reason": "a test"}
    did = page.act("bulk_discard", **args)

    assert did["value"]["done"]
    assert page.until("progress") == {"id": 7, "done": 3}


def rejecting(_: Any) -> Any:
    raise mt.Reject("no page")
