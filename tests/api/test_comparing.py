"""Comparisons and corrections over HTTP."""

from __future__ import annotations

from typing import Any

import pytest
from http_client import Caller

import mltrigger as mt
from mltrigger.api.access import Tokens

ONE = "/v1/subscriptions/pages"
SHIP = {"old": "1.0.0", "new": "2.0.0", "slow_at_most": 0.99}
EVENTS = 400


def answers(version: str, added: float) -> mt.Model:
    """A version that adds a number to each page."""
    return mt.model("reader", version=version)(lambda page: {"page": page + added})


@pytest.fixture
def sub(served_bus: mt.EventBus) -> mt.Subscription:
    """A subscription with answers of one version, and a replay of another one."""
    sub = served_bus.subscribe("books", answers("1.0.0", 0), name="pages", emit="texts")
    served_bus.register(answers("2.0.0", 0.001))
    served_bus.fire("books", range(EVENTS), progress=False)
    sub.replay("2.0.0", wait=True)
    return sub


def test_verdict_of_a_comparison_promotes(api: Caller, sub: mt.Subscription) -> None:
    held = api.get(f"{ONE}/compare", params=SHIP).json()
    assert held["verdict"]["word"] in ("HOLD", "WORSE")
    assert held["counts"]["pairs"] == EVENTS

    shipped = api.get(f"{ONE}/compare", params={**SHIP, "tolerance": 0.01}).json()
    assert shipped["summary"].startswith("SHIP: reader:1.0.0 -> reader:2.0.0")
    part = {**SHIP, "tolerance": 0.01, "field": "page"}
    assert api.get(f"{ONE}/compare", params=part).json()["verdict"]["word"] == "SHIP"

    wanted = {"version": "2.0.0", "verdict": shipped["verdict"]}
    assert api.post(f"{ONE}/promote", json=wanted).json()["verdict"] == "SHIP"


@pytest.mark.parametrize(
    ("params", "status", "said"),
    [
        ({}, 400, "say ?old=1.0.0&new=1.1.0"),
        ({**SHIP, "agree": 1}, 400, "no member 'agree'"),
        ({**SHIP, "within": "much"}, 400, "within must be a number"),
        ({**SHIP, "confidence": "nan"}, 400, "confidence must be a finite number"),
        ({**SHIP, "confidence": 2}, 400, "confidence"),
        ({**SHIP, "tolerance": 1, "similar": 1}, 400, "say one of tolerance and similar"),
        ({**SHIP, "by": "tpye"}, 404, "did you mean 'type'?"),
        ({**SHIP, "new": "9.0.0"}, 404, "did you mean"),
        ({**SHIP, "new": "os:getcwd"}, 404, "no "),
    ],
)
def test_wrong_question_is_refused(
    params: dict[str, Any], status: int, said: str, api: Caller, sub: mt.Subscription
) -> None:
    answer = api.get(f"{ONE}/compare", params=params)

    assert answer.status_code == status, answer.text
    assert said in answer.json()["detail"]


def test_nothing_to_compare_is_a_conflict(
    api: Caller, sub: mt.Subscription, served_bus: mt.EventBus
) -> None:
    served_bus.register(answers("3.0.0", 1))

    answer = api.get(f"{ONE}/compare", params={**SHIP, "new": "3.0.0"})

    assert (answer.status_code, answer.json()["reason"]) == (409, "nothing_to_compare")


def test_correction_is_started_gone_on_with_and_listed_as_a_lane(
    server: mt.Server, sub: mt.Subscription, served_bus: mt.EventBus
) -> None:
    caller = Caller(server.url, Tokens(served_bus.registry).create("nightly", ["administer"]))
    assert caller.post(f"{ONE}/correct", json={"binding": 0}).status_code == 409  # it answers still
    sub.promote("2.0.0")

    wanted = {"binding": 0, "limit": 5, "why": "bad scans"}
    begun = caller.post(f"{ONE}/correct", json=wanted).json()
    sub.correct(0).wait(30)

    assert begun["answers"] == EVENTS
    (lane,) = [
        lane for lane in caller.get(f"{ONE}/lanes").json()["lanes"] if lane["role"] == "correction"
    ]
    assert (lane["by"], lane["why"], lane["done"]) == ("nightly", "bad scans", 5)
    assert sub.correct(0).progress().corrected == 5


@pytest.mark.parametrize(
    ("body", "status", "said"),
    [
        ({}, 400, 'send {"binding": 3}'),
        ({"binding": "0"}, 400, "binding must be a whole number"),
        ({"binding": 0, "limits": 1}, 400, "did you mean 'limit'?"),
        ({"binding": 0, "limit": 0}, 400, "at least 1"),
        ({"binding": 9}, 404, "the history has 0 to 1"),
    ],
)
def test_wrong_correction_is_refused(
    body: dict[str, Any], status: int, said: str, api: Caller, sub: mt.Subscription
) -> None:
    sub.promote("2.0.0")

    answer = api.post(f"{ONE}/correct", json=body)

    assert answer.status_code == status, answer.text
    assert said in answer.json()["detail"]
    assert sub.correct(0).state == "not started"


def test_reader_compares_and_only_an_administrator_corrects(
    server: mt.Server, sub: mt.Subscription, served_bus: mt.EventBus
) -> None:
    tokens = Tokens(served_bus.registry)
    reader = Caller(server.url, tokens.create("reader", ["read:pages"]))
    other = Caller(server.url, tokens.create("other", ["read:ocr"]))

    assert reader.get(f"{ONE}/compare", params=SHIP).status_code == 200
    assert other.get(f"{ONE}/compare", params=SHIP).status_code == 403
    assert reader.post(f"{ONE}/correct", json={"binding": 0}).status_code == 403
