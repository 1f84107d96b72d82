"""Who may call: tokens with scopes, sessions and tickets of browsers, hosts and origins."""

from __future__ import annotations

import http.client
import logging
import sqlite3
import urllib.parse
from typing import Any

import pytest
from http_client import Caller

import mltrigger as mt
from mltrigger.api.access import Sessions, Tokens
from mltrigger.cli import main

OUTCOMES = "/v1/subscriptions/ocr/outcomes"
REQUESTS = {
    "publish": ("POST", "/v1/topics/documents/events"),
    "read": ("GET", OUTCOMES),
    "letters": ("GET", "/v1/subscriptions/ocr/dead-letters"),
    "depth": ("GET", "/v1/subscriptions/ocr/depth"),
    "invoke": ("POST", "/v1/models/double/invoke"),
    "infer": ("GET", "/v2/models/double"),
    "pause": ("POST", "/v1/subscriptions/ocr/pause"),
    "redrive": ("POST", "/v1/subscriptions/ocr/redrive"),
    "cancel": ("POST", "/v1/events/k/cancel?source=mltrigger"),
}


def statuses(caller: Caller) -> dict[str, int]:
    caller.post("/v1/topics/documents/events", json=1, headers={"Idempotency-Key": "k"})
    found = {}
    for name, (method, path) in REQUESTS.items():
        body = {"redrive": {}, "label": {"event": "k", "truth": 1}}.get(name, 1)
        more = {"json": body} if method == "POST" and name not in ("pause", "cancel") else {}
        found[name] = caller.request(method, path, **more).status_code
    return found


@pytest.mark.parametrize(
    ("scopes", "allowed"),
    [
        (["publish:documents"], {"publish"}),
        (["publish"], {"publish"}),
        (["publish:others", "read:others", "invoke:others"], set()),
        (["read:ocr"], {"read", "letters", "depth"}),
        (["invoke:double"], {"invoke", "infer"}),
        (["administer"], set(REQUESTS)),
    ],
)
def test_token_may_do_what_its_scopes_say(
    scopes: list[str], allowed: set[str], server: mt.Server, served_bus: mt.EventBus
) -> None:
    served_bus.publish("documents", 1, id="k")
    token = Tokens(served_bus.registry).create("mine", scopes)
    found = statuses(Caller(server.url, token))

    assert {name for name, status in found.items() if status < 400} == allowed
    assert {found[name] for name in REQUESTS.keys() - allowed} <= {403}


@pytest.mark.parametrize("token", [None, "", "mlt_wrong", "Bearer", "é", "a" * 5000])
def test_without_a_token_nothing_is_there(token: str | None, server: mt.Server) -> None:
    headers = {} if token is None else {"Authorization": f"Bearer {token}".encode()}
    with Caller(server.url) as caller:
        for method, path in REQUESTS.values():
            answer = caller.request(method, path, headers=headers, json=1)
            assert answer.status_code in (401, 429), (path, answer.text)
        answer = caller.get("/v1/events/k", headers=headers)
        assert answer.status_code in (401, 429)
    assert Caller(server.url).get("/v1/health").status_code == 200


def test_wrong_tokens_are_slowed_down_and_right_ones_are_not(
    server: mt.Server, api: Caller
) -> None:
    wrong = Caller(server.url, "mlt_guess")
    found = [wrong.get("/v1/subscriptions").status_code for _ in range(30)]

    assert found[0] == 401
    assert found[-1] == 429
    assert api.get("/v1/subscriptions").status_code == 200


def test_rate_of_a_token_is_limited(served_bus: mt.EventBus) -> None:
    with mt.serve(served_bus, rate_per_s=2) as server:
        caller = Caller(server.url, server.token)
        answers = [caller.get("/v1/subscriptions") for _ in range(8)]

    assert answers[0].status_code == 200
    assert answers[-1].status_code == 429
    assert int(answers[-1].headers["retry-after"]) >= 1


def test_revoked_token_is_refused_and_its_stream_ends(
    server: mt.Server, served_bus: mt.EventBus
) -> None:
    tokens = Tokens(served_bus.registry)
    caller = Caller(server.url, tokens.create("mine", ["read:ocr"]))
    served_bus.fire("documents", [1], progress=False)
    stream = caller.follow(OUTCOMES)
    next(stream)
    tokens.revoke("mine")

    for n in range(200):  # the next outcome after a second ends it
        served_bus.publish("documents", n)
        served_bus.wait(progress=False)
        if caller.get(OUTCOMES).status_code == 401:
            served_bus.fire("documents", [1], progress=False)
            break
    assert len(list(stream)) <= 200
    with pytest.raises(mt.NotFound):
        tokens.revoke("mine")


def test_store_keeps_hashes_and_no_log_line_has_a_token(
    server: mt.Server,
    api: Caller,
    served_bus: mt.EventBus,
    caplog: pytest.LogCaptureFixture,
    capfd: pytest.CaptureFixture[str],
) -> None:
    caplog.set_level(logging.DEBUG)
    token = Tokens(served_bus.registry).create("mine", ["administer"])
    Caller(server.url, token).get("/v1/subscriptions")
    ticket = api.post("/v1/tickets", json={"path": OUTCOMES}).json()
    api.get(f"{ticket['url']}&x=1")

    dump = "\n".join(sqlite3.connect(served_bus.log.home).iterdump())
    ours = "".join(r.getMessage() for r in caplog.records if not r.name.startswith("urllib3"))
    said = ours + "".join(capfd.readouterr()) + repr(server) + server._repr_html_()
    for secret in (token, server.token, ticket["ticket"]):
        assert secret not in dump
        assert secret not in said


def test_browser_exchanges_its_token_for_a_cookie_or_a_ticket(
    server: mt.Server, api: Caller, served_bus: mt.EventBus
) -> None:
    served_bus.fire("documents", [1], progress=False)
    began = api.post("/v1/session")
    cookie = began.headers["set-cookie"]
    assert began.status_code == 204
    assert "HttpOnly" in cookie
    assert "SameSite=strict" in cookie
    assert server.token not in cookie

    browser = Caller(server.url)
    browser.cookies.update(began.cookies)
    assert next(browser.follow(OUTCOMES)).data["outcome"] == "succeeded"
    assert browser.post("/v1/session").status_code == 401  # it cannot prolong itself
    assert browser.delete("/v1/session").status_code == 204
    assert browser.get(OUTCOMES).status_code == 401

    ticket = api.post("/v1/tickets", json={"path": OUTCOMES}).json()
    other = Caller(server.url)
    elsewhere = ticket["url"].replace("ocr", "double")
    stream = other.get(elsewhere, headers={"Accept": "text/event-stream"})
    assert stream.status_code == 401  # and it is used up
    ticket = api.post("/v1/tickets", json={"path": OUTCOMES}).json()
    page = other.get(ticket["url"])
    assert page.status_code == 401  # a ticket opens a stream, no page
    assert next(other.follow(ticket["url"])).data["outcome"] == "succeeded"
    used = other.get(ticket["url"], headers={"Accept": "text/event-stream"})
    assert used.status_code == 401


def test_sessions_and_tickets_end_in_time() -> None:
    now_s = 0.0
    sessions = Sessions(lambda: now_s)
    session, ticket = sessions.begin("t"), sessions.ticket("t", "/p")
    now_s = 59.0
    assert sessions.token(session) == "t"
    assert sessions.redeem(ticket, "/p") == "t"
    ticket = sessions.ticket("t", "/p")
    now_s = 120.0
    assert sessions.redeem(ticket, "/p") is None
    now_s = 9 * 3600.0
    assert sessions.token(session) is None


@pytest.mark.parametrize("host", ["evil.example", "127.0.0.1.evil.example", "localhost:x", "[::1"])
def test_foreign_hosts_are_refused_before_any_route(host: str, server: mt.Server) -> None:
    with Caller(server.url, server.token) as caller:
        answer = caller.post(REQUESTS["publish"][1], json=1, headers={"Host": host})

    assert (answer.status_code, answer.json()["reason"]) == (403, "bad_host")


def test_simple_request_of_another_page_is_refused(
    api: Caller, server: mt.Server, served_bus: mt.EventBus
) -> None:
    """BI-134: DNS rebinding, and a form or script of another page."""
    path = REQUESTS["publish"][1]
    for headers, status, reason in (
        ({"Host": "evil.example", "Authorization": ""}, 403, "bad_host"),
        ({"Origin": "https://evil.example"}, 403, "bad_origin"),
        ({"Origin": "null"}, 403, "bad_origin"),
        ({"Content-Type": "text/plain"}, 415, "unsupported_media_type"),
    ):
        answer = api.post(path, data="{}", headers=headers)
        assert (answer.status_code, answer.json()["reason"]) == (status, reason)
        assert "access-control-allow-origin" not in answer.headers
    assert len(served_bus.events()) == 0
    own = api.post(path, json=1, headers={"Origin": server.url})
    assert own.status_code == 202


def test_named_origins_and_hosts_may_call(served_bus: mt.EventBus) -> None:
    with mt.serve(
        served_bus, hosts=["api.example.org"], origins=["https://app.example.org"]
    ) as server:
        caller = Caller(server.url, server.token)
        headers = {"Origin": "https://app.example.org", "Host": "api.example.org"}
        answer = caller.post(REQUESTS["publish"][1], json=1, headers=headers)
        assert answer.status_code == 202
        assert answer.headers["access-control-allow-origin"] == "https://app.example.org"
        asks = {**headers, "Access-Control-Request-Method": "POST"}
        asks["Access-Control-Request-Headers"] = "authorization,content-type"
        preflight = Caller(server.url).options(REQUESTS["publish"][1], headers=asks)
        assert preflight.status_code == 200
        foreign = {**asks, "Origin": "https://evil.example"}
        assert (
            Caller(server.url).options(REQUESTS["publish"][1], headers=foreign).status_code == 403
        )


def test_server_that_is_open_to_others_needs_names(served_bus: mt.EventBus) -> None:
    with pytest.raises(mt.InvalidName, match="hosts="):
        mt.serve(served_bus, host="0.0.0.0")


def test_port_that_is_taken_is_named(server: mt.Server, served_bus: mt.EventBus) -> None:
    port = urllib.parse.urlsplit(server.url).port or 0
    with pytest.raises(mt.MltriggerError, match=f"port {port}"):
        mt.serve(served_bus, port=port)


def test_events_of_others_are_hidden(server: mt.Server, served_bus: mt.EventBus) -> None:
    served_bus.fire("documents", [mt.Event(1, id="secret")], progress=False)
    tokens = Tokens(served_bus.registry)
    other = Caller(server.url, tokens.create("a", ["publish:others", "read:others"]))
    publisher = Caller(server.url, tokens.create("b", ["publish:documents"]))
    reader = Caller(server.url, tokens.create("c", ["read:ocr"]))

    assert other.get("/v1/events/secret").status_code == 404
    assert other.get("/v1/subscriptions").json() == {"subscriptions": []}
    assert other.get("/v1/models").json() == {"models": []}
    (seen,) = publisher.get("/v1/events/secret").json()["events"][0]["subscriptions"]
    assert seen["state"] == "succeeded"
    assert "output" not in seen
    (seen,) = reader.get("/v1/events/secret").json()["events"][0]["subscriptions"]
    assert seen["output"] == {"read": 1}


def test_tokens_are_made_listed_and_revoked_on_the_command_line(
    served_bus: mt.EventBus, capsys: pytest.CaptureFixture[str]
) -> None:
    url = f"sqlite:///{served_bus.log.home}"

    def run(*words: str) -> tuple[int, str, str]:
        status = main(["token", *words, "--url", url])
        return status, *capsys.readouterr()

    status, token, _ = run("create", "scanner", "--scope", "publish:documents")
    assert (status, token[:4]) == (0, "mlt_")
    assert run("create", "scanner", "--scope", "publish")[0] == 1
    status, listed, _ = run("list")
    assert listed.startswith("scanner  publish:documents  made ")
    assert token.strip() not in listed
    with mt.serve(served_bus) as server:
        caller = Caller(server.url, token.strip())
        assert caller.post(REQUESTS["publish"][1], json=1).status_code == 202
    assert run("revoke", "scanner")[0] == 0
    status, _, error = run("revoke", "scaner")
    assert (status, "no token" in error) == (1, True)
    assert run("create", "x", "--scope", "publsh:documents")[2].count("'publish'") == 1


def test_headers_have_a_limit(server: mt.Server) -> None:
    connection = http.client.HTTPConnection(urllib.parse.urlsplit(server.url).netloc)
    connection.request("GET", "/v1/health", headers={"X": "a" * 100_000})
    try:
        status: Any = connection.getresponse().status
    except (ConnectionError, http.client.BadStatusLine):
        status = "closed"

    assert status in (400, 431, "closed")
    with Caller(server.url, server.token) as caller:
        answer = caller.get("/v1/health", headers={"X": "a" * 33_000})
        assert (answer.status_code, answer.json()["reason"]) == (431, "too_large")
        assert caller.get(f"/v1/health?{'a' * 33_000}").status_code == 431
    assert Caller(server.url).get("/v1/health").status_code == 200


def test_new_token_may_be_used_at_once_and_a_rotated_one_ends_its_streams(
    server: mt.Server, api: Caller, served_bus: mt.EventBus
) -> None:
    tokens = Tokens(served_bus.registry)
    api.get("/v1/subscriptions")
    for n in range(5):
        caller = Caller(server.url, tokens.create(f"new-{n}", ["read:ocr"]))
        assert caller.get(OUTCOMES).status_code == 200
    served_bus.fire("documents", [1], progress=False)
    stream = caller.follow(OUTCOMES)
    next(stream)
    tokens.revoke("new-4")
    tokens.create("new-4", ["read:ocr"])

    assert len(list(stream)) == 0


def test_tickets_take_paths_as_clients_write_them(api: Caller, served_bus: mt.EventBus) -> None:
    api.post("/v1/models/double/invoke", json=1).raise_for_status()
    for path in (
        "/v1/subscriptions/double%3Alatest/outcomes",
        "/v1/subscriptions/double:latest/outcomes?after=0",
    ):
        url = api.post("/v1/tickets", json={"path": path}).json()["url"]
        assert next(Caller(api.url).follow(url)).data["output"] == 2


def test_client_cannot_name_its_address(server: mt.Server) -> None:
    wrong = Caller(server.url, "mlt_guess")
    found = [
        wrong.get("/v1/subscriptions", headers={"X-Forwarded-For": f"10.0.0.{n}"}).status_code
        for n in range(30)
    ]
    assert 429 in found


def test_narrow_token_learns_no_names(server: mt.Server, served_bus: mt.EventBus) -> None:
    scopes = ["publish:nothere", "invoke:nothere", "read:nothere"]
    caller = Caller(server.url, Tokens(served_bus.registry).create("narrow", scopes))
    for answer in (
        caller.post("/v1/topics/nothere/events", json=1),
        caller.post("/v1/models/nothere/invoke", json=1),
        caller.get("/v1/subscriptions/nothere/outcomes"),
        caller.get("/v2/models/nothere"),
    ):
        assert answer.status_code == 404
        assert not any(name in answer.text for name in ("documents", "double", "ocr"))


def test_first_refusal_is_readable(server: mt.Server) -> None:
    detail = Caller(server.url).get("/v1/subscriptions").json()["detail"]

    assert detail.startswith("send a token: Authorization: Bearer mlt_")


def test_defect_is_a_problem_too_and_says_nothing(
    api: Caller, served_bus: mt.EventBus, monkeypatch: pytest.MonkeyPatch
) -> None:
    def breaks(_: str) -> None:
        raise ZeroDivisionError("secret detail")

    monkeypatch.setattr(served_bus.log, "find", breaks)
    answer = api.get("/v1/events/x")

    assert (answer.status_code, answer.json()["reason"]) == (500, "internal_error")
    assert "secret" not in answer.text


def test_sessions_of_two_servers_do_not_displace_each_other(served_bus: mt.EventBus) -> None:
    with mt.serve(served_bus) as one, mt.serve(served_bus) as two:
        browser = Caller("")
        for server in (one, two):
            began = browser.post(
                f"{server.url}/v1/session", headers={"Authorization": f"Bearer {server.token}"}
            )
            assert began.status_code == 204
        for server in (one, two):
            assert browser.get(f"{server.url}{OUTCOMES}").status_code == 200


def test_wrong_words_on_the_command_line_are_named(
    served_bus: mt.EventBus, capsys: pytest.CaptureFixture[str]
) -> None:
    url = f"sqlite:///{served_bus.log.home}"
    assert main(["serve", "--url", url, "--port", "80000"]) == 1
    assert "0 to 65535" in capsys.readouterr().err
    assert main(["serve", "--url", url, "--host", "0.0.0.0"]) == 1
    assert "--allow-host" in capsys.readouterr().err
    assert main(["token", "create", "x", "--scope", "publish:doc*", "--url", url]) == 1
    assert "one topic" in capsys.readouterr().err


def test_address_without_a_path_leads_to_the_documents(api: Caller) -> None:
    assert api.get("/").url.endswith("/v1/docs")
