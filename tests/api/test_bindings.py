"""Versions over HTTP: bindings, promote, canary, rollback."""

from __future__ import annotations

import json
import sys
from typing import Any

import pytest
from http_client import Caller

import mltrigger as mt
from mltrigger.api.access import Tokens
from mltrigger.rollout.verdict import Draft, Rule, Verdict

ONE = "/v1/subscriptions/pages"
CHANGES = ("promote", "canary", "rollback")


def answers(version: str) -> mt.Model:
    """A version that answers with its number."""
    return mt.model("reader", version=version)(lambda page: version)


def verdict(passed: bool, new: str = "reader:2.0.0") -> dict[str, Any]:
    """A verdict with one rule, as JSON has it."""
    rule = Rule("agreement", passed, 0.9, (0.8, 0.95), None, "90 of 100 pairs agree")
    found = Verdict.of([Draft(rule)], ("reader:1.0.0", new), 100)
    return dict(json.loads(found.to_json()))


@pytest.fixture
def sub(served_bus: mt.EventBus) -> mt.Subscription:
    sub = served_bus.subscribe("books", answers("1.0.0"), name="pages")
    served_bus.register(answers("2.0.0"))
    return sub


def test_bindings_are_those_of_the_history(
    api: Caller, sub: mt.Subscription, served_bus: mt.EventBus
) -> None:
    served_bus.fire("books", [1, 2], progress=False)
    sub.promote("2.0.0", why="better scans")

    first, second = api.get(f"{ONE}/bindings").json()["bindings"]

    assert (first["kind"], first["version"], first["answered"]) == ("bind", "reader:1.0.0", 2)
    assert (second["kind"], second["why"]) == ("promote", "better scans")
    assert second["at"] == sub.history()[1].at.isoformat()


def test_promote_lets_the_version_answer_and_the_ledger_has_the_name_of_the_token(
    server: mt.Server, sub: mt.Subscription, served_bus: mt.EventBus
) -> None:
    token = Tokens(served_bus.registry).create("release-train", ["administer"])
    answer = Caller(server.url, token).post(
        f"{ONE}/promote", json={"version": "2.0.0", "backlog": "old", "why": "better"}
    )

    assert answer.status_code == 200
    assert (answer.json()["version"], answer.json()["by"]) == ("reader:2.0.0", "release-train")
    fired = served_bus.fire("books", [1], progress=False)
    assert list(fired.results()["output"]) == ["2.0.0"]


def test_canary_is_promoted_or_rolled_back(api: Caller, sub: mt.Subscription) -> None:
    wanted = {
        "version": "reader:2.0.0",
        "steps": [0.1, 0.5],
        "guard": {"errors": 2, "p95": None},
        "min_events": 5,
        "min_s": 0,
        "then": "promote",
    }
    begun = api.post(f"{ONE}/canary", json=wanted).json()
    assert (begun["kind"], begun["canary"], begun["share"]) == ("canary", "reader:2.0.0", 0.1)

    back = api.post(f"{ONE}/rollback", json={"why": "too slow"}).json()
    assert (back["version"], back["canary"], back["why"]) == ("reader:1.0.0", None, "too slow")

    assert api.post(f"{ONE}/canary", json=wanted).status_code == 200
    assert api.post(f"{ONE}/promote").json()["version"] == "reader:2.0.0"
    assert api.post(f"{ONE}/rollback", json={"to": "1.0.0"}).json()["version"] == "reader:1.0.0"
    assert api.post(f"{ONE}/rollback", json={"to": 4}).json()["version"] == "reader:2.0.0"


def test_verdict_decides_and_a_refusal_has_its_rules(api: Caller, sub: mt.Subscription) -> None:
    held = {"version": "2.0.0", "verdict": verdict(passed=False)}
    answer = api.post(f"{ONE}/promote", json=held)

    assert (answer.status_code, answer.json()["reason"]) == (409, "not_shipped")
    assert answer.json()["verdict"]["rules"][0]["text"] == "90 of 100 pairs agree"
    assert len(sub.history()) == 1

    forced = api.post(f"{ONE}/promote", json={**held, "force": "the old one is on fire"}).json()
    assert (forced["verdict"], forced["why"]) == ("HOLD", "forced: the old one is on fire")


@pytest.mark.parametrize(
    ("action", "body", "said"),
    [
        ("promote", {"verison": "2.0.0"}, "no member 'verison'; did you mean 'version'?"),
        ("promote", {"version": 2}, "version must be a text"),
        ("promote", {"version": "2.0.0", "backlog": "neu"}, "backlog must be 'new' or 'old'"),
        ("promote", {"version": "2.0.0", "force": ""}, "force must be a text"),
        ("promote", {"version": "2.0.0", "why": "\ud800"}, "printable"),
        ("promote", {"version": "2.0.0", "verdict": {"word": "SHIP"}}, "no member 'rules'"),
        ("promote", {"version": "2.0.0", "verdict": verdict(True, "reader:9.0.0")}, "is about"),
        ("promote", {"version": "2.0.0", "by": "somebody"}, "no member 'by'"),
        ("canary", {}, 'send {"version": "1.1.0"}'),
        ("canary", {"version": "2.0.0", "steps": []}, "steps must be a list"),
        ("canary", {"version": "2.0.0", "steps": [True]}, "each of steps must be a number"),
        ("canary", {"version": "2.0.0", "steps": [0.5, 0.1]}, "each step is larger"),
        ("canary", {"version": "2.0.0", "min_events": 1.5}, "min_events must be a whole number"),
        ("canary", {"version": "2.0.0", "guard": {"eror": 1}}, "did you mean 'errors'?"),
        ("canary", {"version": "2.0.0", "guard": {"errors": "2"}}, "errors must be"),
        ("canary", {"version": "2.0.0", "guard": {"measures": {"x": "up"}}}, "'higher' or"),
        ("rollback", {"to": 1.5}, "to must be a whole number or a text"),
        ("rollback", {"to": None}, "to must be a whole number or a text"),
    ],
)
def test_wrong_body_is_refused_and_changes_nothing(
    action: str, body: dict[str, Any], said: str, api: Caller, sub: mt.Subscription
) -> None:
    answer = api.post(f"{ONE}/{action}", json=body)

    assert answer.status_code == 400, answer.text
    assert said in answer.json()["detail"]
    assert len(sub.history()) == 1


def test_not_a_finite_number_is_refused(api: Caller, sub: mt.Subscription) -> None:
    body = b'{"version": "2.0.0", "min_s": NaN}'
    answer = api.post(f"{ONE}/canary", data=body, headers={"Content-Type": "application/json"})

    assert (answer.status_code, answer.json()["detail"]) == (400, "min_s must be a finite number")


@pytest.mark.parametrize("version", ["imported_by_nobody:model", "http://127.0.0.1:1/model"])
def test_request_imports_no_code_and_names_no_address(
    version: str, api: Caller, sub: mt.Subscription, tmp_path: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "imported_by_nobody.py").write_text("model = abs")
    monkeypatch.syspath_prepend(tmp_path)

    for action, member in (("promote", "version"), ("canary", "version"), ("rollback", "to")):
        answer = api.post(f"{ONE}/{action}", json={member: version})
        assert answer.status_code in (400, 404), answer.text
    assert "imported_by_nobody" not in sys.modules
    assert len(sub.history()) == 1


def test_unknown_version_or_subscription_is_refused_with_the_near_ones(
    api: Caller, sub: mt.Subscription
) -> None:
    answer = api.post(f"{ONE}/promote", json={"version": "2.0.1"})
    assert answer.status_code == 404
    assert "did you mean 'reader:2.0.0'" in answer.json()["detail"]
    for path in (f"{ONE[:-1]}/promote", "/v1/subscriptions/nothere/bindings"):
        answer = api.post(path, json={}) if path.endswith("promote") else api.get(path)
        assert answer.status_code == 404
    assert api.post(f"{ONE}/rollback").status_code == 404  # there is no earlier version


def test_reader_sees_the_bindings_and_only_an_administrator_changes_them(
    server: mt.Server, sub: mt.Subscription, served_bus: mt.EventBus
) -> None:
    tokens = Tokens(served_bus.registry)
    reader = Caller(server.url, tokens.create("reader", ["read:pages", "publish", "invoke"]))
    other = Caller(server.url, tokens.create("other", ["read:ocr"]))

    assert reader.get(f"{ONE}/bindings").status_code == 200
    assert other.get(f"{ONE}/bindings").status_code == 403
    assert Caller(server.url).get(f"{ONE}/bindings").status_code == 401
    for action in CHANGES:
        assert reader.post(f"{ONE}/{action}", json={"version": "2.0.0"}).status_code == 403
        assert Caller(server.url).post(f"{ONE}/{action}", json={}).status_code == 401
    assert len(sub.history()) == 1


def test_subscription_of_direct_calls_has_no_bindings_to_change(
    api: Caller, sub: mt.Subscription
) -> None:
    assert api.post("/v1/models/double/invoke", json=1).status_code == 200
    direct = "/v1/subscriptions/double:latest"

    assert api.get(f"{direct}/bindings").status_code < 500
    for action in CHANGES:
        answer = api.post(
            f"{direct}/{action}", json={"version": "1.0.0"} if action != "rollback" else {}
        )
        assert 400 <= answer.status_code < 500, answer.text


def test_replay_is_opened_listed_and_found_again(
    server: mt.Server, sub: mt.Subscription, served_bus: mt.EventBus
) -> None:
    served_bus.fire("books", [1, 2, 3], progress=False)
    token = Tokens(served_bus.registry).create("release-train", ["administer"])
    caller = Caller(server.url, token)
    wanted = {"role": "replay", "version": "2.0.0", "limit": 2, "why": "a look"}

    opened = caller.post(f"{ONE}/lanes", json=wanted).json()
    sub.lanes()[-1].wait()

    listed = caller.get(f"{ONE}/lanes").json()["lanes"]
    assert [lane["role"] for lane in listed] == ["live", "replay"]
    assert listed[1]["lane"] == opened["lane"]
    assert (listed[1]["state"], listed[1]["done"], listed[1]["total"]) == ("done", 2, 2)
    assert (opened["by"], opened["why"]) == ("release-train", "a look")


def test_shadow_and_canary_are_lanes_and_a_shadow_is_stopped(
    api: Caller, sub: mt.Subscription
) -> None:
    wanted = {"role": "shadow", "version": "2.0.0", "share": 0.5, "max_rate_per_s": 100}
    name = api.post(f"{ONE}/lanes", json=wanted).json()["lane"]
    api.post(f"{ONE}/canary", json={"version": "2.0.0"})

    listed = api.get(f"{ONE}/lanes").json()["lanes"]
    assert [lane["role"] for lane in listed] == ["live", "canary", "shadow"]

    assert api.delete(f"{ONE}/lanes/{name}").json()["state"] == "stopped"
    assert api.delete(f"{ONE}/lanes/nothere").status_code == 404
    assert api.delete(f"{ONE}/lanes/pages").status_code == 404  # the live lane
    assert api.get(f"{ONE}/lanes").json()["lanes"][2]["state"] == "stopped"


@pytest.mark.parametrize(
    ("body", "said"),
    [
        ({"version": "2.0.0"}, 'send {"role": "shadow"'),
        ({"role": "live", "version": "2.0.0"}, "role must be 'shadow' or 'replay'"),
        ({"role": "shadow", "version": "2.0.0", "limit": 5}, "limit is for a replay only"),
        ({"role": "replay", "version": "2.0.0", "share": 0.5}, "share is for a shadow only"),
        ({"role": "shadow", "version": "2.0.0", "share": 2}, "write a share above 0"),
        ({"role": "replay", "version": "2.0.0", "since": "yesterday"}, "since"),
        ({"role": "replay", "version": "2.0.0", "limit": 0}, "at least 1"),
        ({"role": "shadow", "version": "2.0.0", "shares": 1}, "did you mean 'share'?"),
        ({"role": "shadow", "version": "2.0.0", "concurrency": 0}, "concurrency"),
    ],
)
def test_wrong_lane_is_refused_and_none_is_opened(
    body: dict[str, Any], said: str, api: Caller, sub: mt.Subscription
) -> None:
    answer = api.post(f"{ONE}/lanes", json=body)

    assert answer.status_code == 400, answer.text
    assert said in answer.json()["detail"]
    assert len(sub.lanes()) == 1


def test_reader_sees_lanes_and_only_an_administrator_opens_or_stops_them(
    server: mt.Server, sub: mt.Subscription, served_bus: mt.EventBus
) -> None:
    token = Tokens(served_bus.registry).create("reader", ["read:pages"])
    reader = Caller(server.url, token)

    assert reader.get(f"{ONE}/lanes").status_code == 200
    wanted = {"role": "shadow", "version": "2.0.0"}
    assert reader.post(f"{ONE}/lanes", json=wanted).status_code == 403
    assert reader.delete(f"{ONE}/lanes/pages").status_code == 403
    assert len(sub.lanes()) == 1
