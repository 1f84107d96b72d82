"""Filter policies: what SNS takes is what mltrigger takes, and what mltrigger hands on to SNS is
taken and means the same.
"""

from __future__ import annotations

import json
from typing import Any

import pytest
import rig
from rig import Live

import mltrigger as mt
from mltrigger.aws.admin.pushdown import push
from mltrigger.filters import FilterPolicy
from mltrigger.filters.policy import Scope

Policy = dict[str, Any]
BOTH: tuple[Scope, ...] = ("MessageAttributes", "MessageBody")

TAKEN: dict[str, Policy] = {
    "exact": {"kind": ["invoice", "letter"]},
    "number": {"pages": [3, 2.5, -1]},
    "true and null": {"kind": [True, False, None]},
    "prefix": {"kind": [{"prefix": "inv"}]},
    "suffix": {"kind": [{"suffix": "ice"}]},
    "anything-but": {"kind": [{"anything-but": ["a", "b"]}]},
    "anything-but one": {"kind": [{"anything-but": "a"}]},
    "anything-but numbers": {"pages": [{"anything-but": [1, 2]}]},
    "anything-but prefix": {"kind": [{"anything-but": {"prefix": "x"}}]},
    "equals-ignore-case": {"kind": [{"equals-ignore-case": "INVOICE"}]},
    "numeric =": {"pages": [{"numeric": ["=", 3]}]},
    "numeric range": {"pages": [{"numeric": [">", 0, "<=", 5.5]}]},
    "cidr": {"address": [{"cidr": "10.0.0.0/24"}]},
    "exists": {"kind": [{"exists": True}], "other": [{"exists": False}]},
    "$or": {"$or": [{"kind": ["a"]}, {"pages": [{"numeric": [">", 1]}]}]},
    "five keys": {f"k{n}": ["a"] for n in range(5)},
    "150 combinations": {"a": [str(n) for n in range(15)], "b": [str(n) for n in range(10)]},
    "largest numbers": {"pages": [{"numeric": [">=", -1_000_000_000, "<=", 1_000_000_000]}]},
    "five decimals": {"pages": [1.00001]},
}
UNKNOWN: dict[str, Policy] = {
    "wildcard": {"kind": [{"wildcard": "a*b"}]},
    "anything-but suffix": {"kind": [{"anything-but": {"suffix": "x"}}]},
    "anything-but wildcard": {"kind": [{"anything-but": {"wildcard": "a*"}}]},
    "anything-but equals-ignore-case": {"kind": [{"anything-but": {"equals-ignore-case": "a"}}]},
    "anything-but prefixes": {"kind": [{"anything-but": {"prefix": ["a", "b"]}}]},
    "cidr of IPv6": {"address": [{"cidr": "2001:db8::/32"}]},
    "six decimals": {"pages": [1.000001]},
    "beyond 1e9": {"pages": [1_000_000_001]},
}
"""What the documentation of SNS does not say, or says differently in two places. We take it and do
not push it, but for the last two.
"""
REFUSED: dict[str, Policy] = {
    "six keys": {f"k{n}": ["a"] for n in range(6)},
    "151 combinations": {"a": [str(n) for n in range(151)]},
    "empty list": {"kind": []},
    "no list": {"kind": "a"},
    "no such operator": {"kind": [{"contains": "a"}]},
    "two operators": {"kind": [{"prefix": "a", "suffix": "b"}]},
    "prefix of a number": {"kind": [{"prefix": 1}]},
    "numeric of text": {"pages": [{"numeric": ["=", "1"]}]},
    "numeric of one part": {"pages": [{"numeric": [">"]}]},
    "numeric the wrong way round": {"pages": [{"numeric": [">", 5, "<", 1]}]},
    "exists of text": {"kind": [{"exists": "yes"}]},
    "anything-but of both kinds": {"kind": [{"anything-but": ["a", 1]}]},
    "cidr of no address": {"address": [{"cidr": "here"}]},
}


@pytest.fixture(scope="module")
def subscription(live: Live) -> str:
    """A subscription whose filter the checks set."""
    queue, topic = live.queue(), live.topic()
    made = live.clients.sns.subscribe(
        TopicArn=topic, Protocol="sqs", Endpoint=live.arn(queue), ReturnSubscriptionArn=True
    )
    return str(made["SubscriptionArn"])


def said(live: Live, subscription: str, policy: str, scope: Scope) -> str | None:
    """Return what SNS says to a policy, ``None`` when it takes it."""

    def set_(name: str, value: str) -> None:
        live.bare("sns").set_subscription_attributes(
            SubscriptionArn=subscription, AttributeName=name, AttributeValue=value
        )

    set_("FilterPolicy", "{}")
    set_("FilterPolicyScope", scope)
    return rig.refusal(lambda: set_("FilterPolicy", policy))


@pytest.mark.parametrize("scope", BOTH)
@pytest.mark.parametrize("case", TAKEN)
def test_what_mltrigger_takes_sns_takes(
    live: Live, subscription: str, case: str, scope: Scope
) -> None:
    FilterPolicy.parse(TAKEN[case], scope)

    with rig.only_aws("it refuses a policy that SNS takes"):
        assert said(live, subscription, json.dumps(TAKEN[case]), scope) is None


@pytest.mark.parametrize("scope", BOTH)
@pytest.mark.parametrize("case", REFUSED)
def test_what_mltrigger_refuses_sns_refuses(
    live: Live, subscription: str, case: str, scope: Scope
) -> None:
    with pytest.raises(mt.InvalidFilter):
        FilterPolicy.parse(REFUSED[case], scope)

    with rig.only_aws("it takes a policy that SNS refuses"):
        assert said(live, subscription, json.dumps(REFUSED[case]), scope) is not None


@pytest.mark.parametrize("scope", BOTH)
@pytest.mark.parametrize("case", UNKNOWN)
def test_what_the_documentation_does_not_say_is_seen(
    live: Live, subscription: str, case: str, scope: Scope
) -> None:
    """Noted, not judged: it is what may be pushed one day."""
    FilterPolicy.parse(UNKNOWN[case], scope)

    live.sees(
        f"filter {case}, {scope}: SNS says"
        f" {said(live, subscription, json.dumps(UNKNOWN[case]), scope) or 'yes'}"
    )


@pytest.mark.parametrize("scope", BOTH)
def test_which_filters_are_handed_on_to_sns_is_told(live: Live, scope: Scope) -> None:
    every = {**TAKEN, **UNKNOWN}
    handed_on = [
        case
        for case in every
        if push(FilterPolicy.parse(every[case], scope), own=True, offloads=False).policy
    ]

    live.sees(
        f"filters on the {scope} that SNS applies: {', '.join(handed_on)}; by the listener alone: "
        f"{', '.join(case for case in every if case not in handed_on)}"
    )
    assert {"exact", "prefix", "suffix", "numeric range", "exists"} <= set(handed_on)


@pytest.mark.parametrize("scope", BOTH)
@pytest.mark.parametrize("case", [*TAKEN, *UNKNOWN])
def test_what_is_handed_on_to_sns_is_taken(
    live: Live, subscription: str, case: str, scope: Scope
) -> None:
    pushed = push(FilterPolicy.parse({**TAKEN, **UNKNOWN}[case], scope), own=True, offloads=False)

    if pushed.policy is not None:
        with rig.only_aws("it refuses a policy that SNS takes"):
            assert said(live, subscription, pushed.policy, pushed.scope) is None


EVENTS: list[tuple[Any, dict[str, Any]]] = [
    ({"kind": "invoice", "pages": 3}, {"kind": "invoice", "pages": 3}),
    ({"kind": "letter", "pages": 1}, {"kind": "letter", "pages": 1}),
    ({"kind": "Invoice"}, {"kind": "Invoice"}),
    ({"kind": "", "pages": 2.5}, {"pages": 7, "urgent": True}),
    ({}, {}),
    ({"kind": None, "address": "10.0.0.7"}, {"address": "10.0.0.7", "empty": ""}),
    ({"kind": "x" * 30}, {f"e{n}": n for n in range(12)} | {"kind": "invoice"}),
]


@pytest.mark.parametrize("scope", BOTH)
@pytest.mark.parametrize("case", [c for c in TAKEN if c not in ("true and null",)])
def test_no_event_that_matches_is_lost_and_none_that_does_not_is_delivered(
    live: Live, case: str, scope: Scope
) -> None:
    """SNS applies what was pushed, the listener all of it: together it is what the filter says."""
    policy = FilterPolicy.parse(TAKEN[case], scope)
    with live.bus() as bus:
        sub = bus.subscribe(
            "documents",
            mt.model(len, name="reader", version="1.0.0"),
            filter=TAKEN[case],
            filter_scope="attributes" if scope == "MessageAttributes" else "body",
        )
        receipts = bus.publish_batch(
            "documents", [mt.Event(data, extensions=extensions) for data, extensions in EVENTS]
        )
        bus.wait(5 if live.emulator else rig.PATIENCE_S, progress=False)
        delivered = set(sub.invocations()["event_id"])
        balance = bus.audit()

    missed = [
        EVENTS[n] for n, r in enumerate(receipts) if r.subscriptions and r.event_id not in delivered
    ]
    surplus = [
        EVENTS[n] for n, r in enumerate(receipts) if not r.subscriptions and r.event_id in delivered
    ]
    assert surplus == [], policy
    assert balance["balanced"].all()
    with rig.only_aws("it keeps out what the policy lets pass"):
        assert missed == [], policy
