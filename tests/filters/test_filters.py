"""Filter policies: the operators of SNS in both scopes, what is refused, and why an event did not
pass.

The rules come from the SNS developer guide (filter policy constraints; string and numeric value
matching; attribute key matching; AND/OR logic), and where it is silent from
github.com/aws/event-ruler. The corners were checked against the tests of localstack that ran on
AWS.
"""

from __future__ import annotations

import json
import time
from decimal import Decimal
from typing import Any, get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mltrigger.errors import InvalidFilter, MltriggerError
from mltrigger.event.codec import MAX_DEPTH
from mltrigger.filters import (
    MAX_COMBINATIONS,
    MAX_KEYS,
    MAX_POLICY_BYTES,
    Clause,
    FilterPolicy,
    Scope,
    from_message_attributes,
)

SCOPES: tuple[Scope, ...] = get_args(Scope)
NOTHING = object()


def passes(policy: Any, event: Any, scope: Scope = "MessageBody") -> bool:
    parsed = FilterPolicy.parse(policy, scope)
    return (
        parsed.matches_body(event) if scope == "MessageBody" else parsed.matches_attributes(event)
    )


def decided_by(clauses: list[Clause]) -> bool:
    return all(clause.ok for clause in clauses if "$or[" not in clause.path)


# -- the operators, one value, both scopes ---------------------------------------------------------

OPERATORS: list[tuple[list[Any], Any, bool]] = [
    # exact strings
    (["rugby", "tennis"], "rugby", True),
    (["rugby", "tennis"], "tennis", True),
    (["rugby", "tennis"], "baseball", False),
    (["rugby"], "Rugby", False),
    (["rugby"], "rugby ", False),
    (["rugby"], NOTHING, False),
    (["rugby"], None, False),
    (["rugby", "tennis"], ["rugby", "tennis"], True),
    (["rugby", "tennis"], ["baseball", "tennis"], True),
    (["rugby", "tennis"], ["baseball"], False),
    (["rugby"], [["baseball", ["rugby"]]], True),
    (["rugby"], [], False),
    ([""], "", True),
    ([""], NOTHING, False),
    (["é"], "é", True),
    (["e\u0301"], "é", False),
    # numbers, true, false, null
    ([300], 300, True),
    ([300], 300.0, True),
    ([300], 3.0e2, True),
    ([3e2], 300, True),
    ([300], Decimal("300.00"), True),
    ([300], 301, False),
    ([300], "300", False),
    (["300"], 300, False),
    ([0.1], 0.1, True),
    ([301.5], 3.015e2, True),
    ([123.45678], 123.45678, True),
    ([123.45678], 123.45679, False),
    ([100.123456789], 100.1234567, True),
    ([-0.0], 0, True),
    ([1000000000.00001], 1000000000, False),
    ([0], 1e-40, True),
    ([-1e-40], 0.0, True),
    ([1e300], 1e300, True),
    ([1], True, False),
    ([0], False, False),
    ([True], 1, False),
    ([True], True, True),
    ([True], False, False),
    ([True], "true", False),
    ([False], False, True),
    ([False], NOTHING, False),
    (["true"], True, False),
    ([True], [True], True),
    ([None], None, True),
    ([None], NOTHING, False),
    ([None], "null", False),
    ([None], [], False),
    ([None], [None], True),
    ([None], False, False),
    ([300], float("nan"), False),
    ([300], float("inf"), False),
    # prefix, suffix
    ([{"prefix": "bas"}], "baseball", True),
    ([{"prefix": "bas"}], "bas", True),
    ([{"prefix": "bas"}], "Baseball", False),
    ([{"prefix": "bas"}], "ba", False),
    ([{"prefix": "bas"}], ["rugby", "baseball"], True),
    ([{"prefix": "bas"}], ["rugby"], False),
    ([{"prefix": "1"}], 100, False),
    ([{"prefix": "n"}], None, False),
    ([{"prefix": "t"}], True, False),
    ([{"prefix": ""}], "anything", True),
    ([{"prefix": ""}], NOTHING, False),
    ([{"suffix": "ball"}], "baseball", True),
    ([{"suffix": "ball"}], "ballgame", False),
    ([{"suffix": "ball"}], ["rugby", "football"], True),
    ([{"suffix": "0"}], 100, False),
    # equals-ignore-case
    ([{"equals-ignore-case": "tennis"}], "TENNIS", True),
    ([{"equals-ignore-case": "TENNIS"}], "Tennis", True),
    ([{"equals-ignore-case": "XY"}], "xy", True),
    ([{"equals-ignore-case": "tennis"}], "tennis!", False),
    ([{"equals-ignore-case": "ÉTÉ"}], "été", True),
    ([{"equals-ignore-case": "tennis"}], ["rugby", "TenniS"], True),
    ([{"equals-ignore-case": "1"}], 1, False),
    ([{"equals-ignore-case": "a.b\n"}], "A.B\n", True),
    ([{"equals-ignore-case": "a.b"}], "axb", False),
    ([{"equals-ignore-case": "straße"}], "STRAßE", True),
    ([{"equals-ignore-case": "straße"}], "strasse", False),
    ([{"equals-ignore-case": "strasse"}], "straße", False),
    ([{"equals-ignore-case": "ﬁ"}], "fi", False),
    ([{"equals-ignore-case": "\U00010400"}], "\U00010428", False),
    # wildcard
    ([{"wildcard": "*ball"}], "baseball", True),
    ([{"wildcard": "base*"}], "baseball", True),
    ([{"wildcard": "b*b*l"}], "baseball", True),
    ([{"wildcard": "b*x*l"}], "baseball", False),
    ([{"wildcard": "*"}], "", True),
    ([{"wildcard": "*"}], 5, False),
    ([{"wildcard": "*"}], NOTHING, False),
    ([{"wildcard": "ab*ba"}], "aba", False),
    ([{"wildcard": "ab*ba"}], "abba", True),
    ([{"wildcard": "a*b"}], "a\nb", True),
    ([{"wildcard": "no-star"}], "no-star", True),
    ([{"wildcard": "no-star"}], "no-stars", False),
    ([{"wildcard": "a.c*"}], "abc", False),
    ([{"wildcard": "a?c"}], "abc", False),
    ([{"wildcard": "a\\*c"}], "a*c", True),
    ([{"wildcard": "a\\*c"}], "abc", False),
    ([{"wildcard": "a\\\\*c"}], "a\\bc", True),
    ([{"wildcard": "*\\**"}], "2 * 2", True),
    ([{"wildcard": "*aab*ab*"}], "aaabab", True),
    ([{"wildcard": "*ab*ab"}], "ab", False),
    ([{"wildcard": "*.png"}], ["a.jpg", "b.png"], True),
    # anything-but
    ([{"anything-but": "rugby"}], "rugby", False),
    ([{"anything-but": "rugby"}], "tennis", True),
    ([{"anything-but": "rugby"}], NOTHING, False),
    ([{"anything-but": ["rugby", "tennis"]}], "tennis", False),
    ([{"anything-but": ["rugby", "tennis"]}], "baseball", True),
    ([{"anything-but": ["rugby", "tennis"]}], ["rugby", "baseball"], True),
    ([{"anything-but": ["rugby", "tennis"]}], ["rugby", "tennis"], False),
    ([{"anything-but": ["rugby"]}], ["rugby"], False),
    ([{"anything-but": ["rugby"]}], [], False),
    ([{"anything-but": ["rugby"]}], None, True),
    ([{"anything-but": ["rugby"]}], 5, True),
    ([{"anything-but": 100}], 100, False),
    ([{"anything-but": 100}], 100.0, False),
    ([{"anything-but": [100, 500]}], 101, True),
    ([{"anything-but": [100, 500]}], 100.1, True),
    ([{"anything-but": [100, 500]}], 500, False),
    ([{"anything-but": [100, 500]}], [100, 50], True),
    ([{"anything-but": [100, 500]}], [100, 500], False),
    ([{"anything-but": [100]}], "100", True),
    ([{"anything-but": {"prefix": "order-"}}], "data-entry", True),
    ([{"anything-but": {"prefix": "order-"}}], "order_number", True),
    ([{"anything-but": {"prefix": "order-"}}], "order-cancelled", False),
    ([{"anything-but": {"prefix": "order-"}}], NOTHING, False),
    ([{"anything-but": {"prefix": ["order-", "data-"]}}], "data-entry", False),
    ([{"anything-but": {"prefix": ["order-", "data-"]}}], "entry", True),
    ([{"anything-but": {"suffix": ".png"}}], "scan.png", False),
    ([{"anything-but": {"suffix": ".png"}}], "scan.tif", True),
    ([{"anything-but": {"suffix": [".png", ".tif"]}}], "scan.tif", False),
    ([{"anything-but": {"wildcard": "*/lib/*"}}], "/usr/lib/x", False),
    ([{"anything-but": {"wildcard": "*/lib/*"}}], "/usr/bin/x", True),
    ([{"anything-but": {"wildcard": ["*/lib/*", "*/bin/*"]}}], "/usr/bin/x", False),
    ([{"anything-but": {"equals-ignore-case": "Rugby"}}], "RUGBY", False),
    ([{"anything-but": {"equals-ignore-case": "Rugby"}}], "tennis", True),
    ([{"anything-but": {"equals-ignore-case": ["Rugby", "Tennis"]}}], "TENNIS", False),
    ([{"anything-but": "a"}, {"anything-but": "b"}], "b", True),
    ([{"anything-but": "rugby"}, {"exists": False}], NOTHING, True),
    ([{"anything-but": "rugby"}, {"exists": False}], "rugby", False),
    # numeric
    ([{"numeric": ["=", 301.5]}], 301.5, True),
    ([{"numeric": ["=", 301.5]}], 3.015e2, True),
    ([{"numeric": ["=", 300]}], 301, False),
    ([{"numeric": ["=", 300]}], "300", False),
    ([{"numeric": ["=", 300]}], "test", False),
    ([{"numeric": ["=", 1]}], True, False),
    ([{"numeric": ["=", 0]}], None, False),
    ([{"numeric": ["=", 0]}], NOTHING, False),
    ([{"numeric": [">", 300]}], 301, True),
    ([{"numeric": [">", 300]}], 300, False),
    ([{"numeric": ["<", 300]}], 299.99999, True),
    ([{"numeric": ["<", 300]}], 300, False),
    ([{"numeric": [">=", 300]}], 300, True),
    ([{"numeric": [">=", 300]}], 299.99999, False),
    ([{"numeric": ["<=", 300]}], 300, True),
    ([{"numeric": ["<=", 300]}], 300.00001, False),
    ([{"numeric": [">", 0, "<=", 150]}], 122, True),
    ([{"numeric": [">", 0, "<=", 150]}], 150, True),
    ([{"numeric": [">", 0, "<=", 150]}], 200, False),
    ([{"numeric": [">", 0, "<=", 150]}], -1, False),
    ([{"numeric": [">", 0, "<=", 150]}], [200, 5], True),
    ([{"numeric": [">", 0, "<=", 150]}], [200, -5], False),
    ([{"numeric": ["<", 0]}, {"numeric": [">", 100]}], 101, True),
    ([{"numeric": ["<", 0]}, {"numeric": [">", 100]}], 50, False),
    ([{"numeric": ["<", 0.3]}], 0.1 + 0.2, False),
    ([{"numeric": ["=", 9007199254740993]}], 9007199254740992, False),
    # cidr
    ([{"cidr": "10.0.0.0/24"}], "10.0.0.255", True),
    ([{"cidr": "10.0.0.0/24"}], "10.0.1.255", False),
    ([{"cidr": "10.0.0.0/24"}], "10.0.0.256", False),
    ([{"cidr": "10.0.0.0/24"}], "10.0.0", False),
    ([{"cidr": "10.0.0.0/24"}], "::1", False),
    ([{"cidr": "10.0.0.0/24"}], 167772161, False),
    ([{"cidr": "10.0.0.77/24"}], "10.0.0.1", True),
    ([{"cidr": "0.0.0.0/0"}], "8.8.8.8", True),
    ([{"cidr": "10.0.0.6/31"}], "10.0.0.7", True),
    ([{"cidr": "10.0.0.6/31"}], "10.0.0.8", False),
    ([{"cidr": "2001:db8::/32"}], "2001:0db8:1234::1", True),
    ([{"cidr": "2001:db8::/32"}], "2001:db9::1", False),
    ([{"cidr": "::/127"}], "0:0:0:0:0:0:0:1", True),
    ([{"cidr": "10.0.0.0/24"}], ["11.0.0.1", "10.0.0.1"], True),
    # exists
    ([{"exists": True}], "fans", True),
    ([{"exists": True}], 0, True),
    ([{"exists": True}], False, True),
    ([{"exists": True}], ["a"], True),
    ([{"exists": True}], NOTHING, False),
    ([{"exists": True}], None, False),
    ([{"exists": True}], "", False),
    ([{"exists": True}], [], False),
    ([{"exists": False}], NOTHING, True),
    ([{"exists": False}], "fans", False),
    ([{"exists": False}], None, False),
    ([{"exists": False}], [], True),
    ([{"exists": False}, "x"], NOTHING, True),
    ([{"exists": False}, "x"], "x", True),
    ([{"exists": False}, "x"], "y", False),
    ([{"exists": True}, {"exists": False}], NOTHING, True),
    # one of several
    (["test1", {"prefix": "typ"}, {"numeric": [">", 5]}], "type1", True),
    (["test1", {"prefix": "typ"}, {"numeric": [">", 5]}], 6, True),
    (["test1", {"prefix": "typ"}, {"numeric": [">", 5]}], "test3", False),
    (["test1", "test2", {"prefix": "som"}], ["anything", "something"], True),
]


def label(value: Any) -> str:
    return (
        "nothing"
        if value is NOTHING
        else json.dumps(value, default=str).replace("[", "").replace("]", "")
    )


@pytest.mark.parametrize(
    ("conditions", "value", "expected"),
    OPERATORS,
    ids=[f"{label(c)} on {label(v)}" for c, v, _ in OPERATORS],
)
def test_an_operator_means_what_sns_says_in_both_scopes(
    conditions: list[Any], value: Any, expected: bool
) -> None:
    event = {"other": 1} | ({} if value is NOTHING else {"field": value})
    for scope in SCOPES:
        (clause,) = FilterPolicy.parse({"field": conditions}, scope).explain(event, event)

        assert passes({"field": conditions}, event, scope) is expected
        assert (clause.ok, clause.path) == (
            expected,
            "$.field" if scope == "MessageBody" else "field",
        )


# -- whole bodies ----------------------------------------------------------------------------------

AUTO = {
    "Records": {
        "s3": {"object": {"key": [{"prefix": "auto-"}]}},
        "eventName": [{"prefix": "ObjectCreated:"}],
    }
}
TWO = {"d": {"a": [{"exists": True}], "b": [{"exists": True}]}}
METRICS = {
    "$or": [{"metric": ["cpu", "latency"]}, {"namespace": ["ec2", "es"]}],
    "detail": {"scope": ["service"], "$or": [{"source": ["watch"]}, {"type": ["alarm"]}]},
}
ANNA = {"employees": [{"first": "John", "last": "Doe"}, {"first": "Anna", "last": "Smith"}]}
BODIES: dict[str, tuple[Any, Any, bool]] = {
    "no filter": ({}, {}, True),
    "no filter, no object": ({}, "text", True),
    "text": ({"a": [{"exists": False}]}, "text", False),
    "number": ({"a": [{"exists": False}]}, 5, False),
    "null": ({"a": [{"exists": False}]}, None, False),
    "array at the top": ({"a": [1]}, [{"a": 1}], False),
    "empty object, absence asked": ({"a": [{"exists": False}]}, {}, True),
    "and": ({"a": [1], "b": [2]}, {"a": 1, "b": 2}, True),
    "and, one wrong": ({"a": [1], "b": [2]}, {"a": 1, "b": 3}, False),
    "and, one missing": ({"a": [1], "b": [2]}, {"a": 1}, False),
    "nested": ({"a": {"b": {"c": ["x"]}}}, {"a": {"b": {"c": "x"}}}, True),
    "nested, a value on the way": ({"a": {"b": ["x"]}}, {"a": "x"}, False),
    "nested, values on the way": ({"a": {"b": ["x"]}}, {"a": ["x", "b"]}, False),
    "nested, array": ({"a": {"b": ["x"]}}, {"a": [{"b": "y"}, {"b": "x"}]}, True),
    "nested, array of arrays": (
        {"a": {"b": ["x"]}},
        {"a": [[[{"b": "y"}], {"b": ["z", "x"]}]]},
        True,
    ),
    "absence under a value": ({"a": {"b": [{"exists": False}]}}, {"a": "x"}, True),
    "absence under nothing": ({"a": {"b": [{"exists": False}]}}, {"z": 1}, True),
    "absence under null": ({"a": {"b": [{"exists": False}]}}, {"a": None}, True),
    "presence under nothing": ({"a": {"b": [{"exists": True}]}}, {"a": {}}, False),
    "presence of an object": ({"a": [{"exists": True}]}, {"a": {"b": 1}}, False),
    "absence of an object": ({"a": [{"exists": False}]}, {"a": {"b": 1}}, True),
    "presence of an empty object": ({"a": [{"exists": True}]}, {"a": {}}, False),
    "presence in an array of objects": ({"a": [{"exists": True}]}, {"a": [{"b": 1}]}, False),
    "presence beside objects": ({"a": [{"exists": True}]}, {"a": [{"b": 1}, 5]}, True),
    "dotted policy, nested body": ({"a.b": ["x"]}, {"a": {"b": "x"}}, True),
    "dotted policy, dotted body": ({"a.b": ["x"]}, {"a.b": "x"}, True),
    "nested policy, dotted body": ({"a": {"b": ["x"]}}, {"a.b": "x"}, True),
    "dotted in the middle": ({"a.b.c": ["x"]}, {"a": {"b.c": "x"}}, True),
    "dotted at the start": ({"a.b.c": ["x"]}, {"a.b": {"c": "x"}}, True),
    "dotted, other value": ({"a.b.c": ["x"]}, {"a": {"b": {"c": "y"}}}, False),
    "dotted both ways": ({"a.b": ["x"]}, {"a": {"b": "y"}, "a.b": "x"}, True),
    "dotted both ways, absence": ({"a.b": [{"exists": False}]}, {"a": {}, "a.b": "x"}, False),
    "the same field twice": (
        {"a.b": [{"prefix": "x"}], "a": {"b": [{"suffix": "z"}]}},
        {"a": {"b": "xyz"}},
        True,
    ),
    "the same field twice, one wrong": (
        {"a.b": [{"prefix": "x"}], "a": {"b": [{"suffix": "z"}]}},
        {"a": {"b": "xy"}},
        False,
    ),
    "an empty key": ({"": ["x"], "a": {"": [1]}}, {"": "x", "a": {"": 1}}, True),
    "same element": (TWO, {"d": [{"a": 1, "b": 2}]}, True),
    "split": (TWO, {"d": [{"a": 1}, {"b": 2}]}, False),
    "last element": (TWO, {"d": [{"a": 1}, {"b": 2}, {"a": 3, "b": 4}]}, True),
    "five, the last whole": (TWO, {"d": [{"a": n} for n in range(4)] + [{"a": 5, "b": 6}]}, True),
    "whole value in elements": (TWO, {"d": {"a": [1, 2], "b": 3}}, True),
    "empty array": (TWO, {"d": []}, False),
    "employees": ({"employees": {"first": ["Anna"]}}, ANNA, True),
    "employees, one person": ({"employees": {"first": ["Anna"], "last": ["Smith"]}}, ANNA, True),
    "employees, two persons": ({"employees": {"first": ["Anna"], "last": ["Doe"]}}, ANNA, False),
    "dotted, two persons": ({"employees.first": ["Anna"], "employees.last": ["Doe"]}, ANNA, False),
    "inner same": (
        {"u": {"t": {"k": ["c"], "v": ["b"]}}},
        {"u": [{"t": [{"k": "c", "v": "b"}]}]},
        True,
    ),
    "inner split": (
        {"u": {"t": {"k": ["c"], "v": ["b"]}}},
        {"u": [{"t": [{"k": "c"}, {"v": "b"}]}]},
        False,
    ),
    "outer split": (
        {"d": {"n": ["x"], "i": {"x": ["1"]}}},
        {"d": [{"n": "x"}, {"i": {"x": "1"}}]},
        False,
    ),
    "outer same": (
        {"d": {"n": ["x"], "i": {"x": ["1"]}}},
        {"d": [{"n": "x", "i": {"x": "1"}}]},
        True,
    ),
    "two arrays are free": (
        {"a": {"x": [1]}, "b": {"y": [2]}},
        {"a": [{"x": 1}, {"x": 2}], "b": [{"y": 1}, {"y": 2}]},
        True,
    ),
    "array and value": (
        {"u": {"n": [{"exists": True}]}, "v": ["1"]},
        {"u": [{"n": "x"}], "v": "1"},
        True,
    ),
    "absent in the same element, present in another": (
        {"d": {"a": [1], "b": [{"exists": False}]}},
        {"d": [{"a": 1}, {"b": 2}]},
        False,
    ),
    "present in an element before": (
        {"d": {"a": [1], "b": [{"exists": False}]}},
        {"d": [{"b": 2}, {"a": 1}]},
        False,
    ),
    "absent everywhere": (
        {"d": {"a": [1], "b": [{"exists": False}]}},
        {"d": [{"a": 2, "c": 2}, {"a": 1}]},
        True,
    ),
    "absent, or a value in the same element": (
        {"d": {"a": [1], "b": [2, {"exists": False}]}},
        {"d": [{"a": 2}, {"a": 1, "b": 2}]},
        True,
    ),
    "absent, or a value, which is in another": (
        {"d": {"a": [1], "b": [2, {"exists": False}]}},
        {"d": [{"a": 1}, {"b": 2}]},
        False,
    ),
    "absent but for an empty array": (
        {"d": {"a": [1], "b": [{"exists": False}]}},
        {"d": [{"a": 1}, {"b": [{}, []]}]},
        True,
    ),
    "absent in arrays of arrays": (
        {"d": {"a": [1], "b": [{"exists": False}]}},
        {"d": [[{"a": 1}], [[{"b": None}]]]},
        False,
    ),
    "present in the same element": (
        {"d": {"a": [1], "b": [{"exists": False}]}},
        {"d": [{"a": 1, "b": 2}]},
        False,
    ),
    "absent in one element only": (
        {"d": {"b": [{"exists": False}]}},
        {"d": [{"b": 1}, {"c": 2}]},
        False,
    ),
    "absent in one element, other value": (
        {"d": {"b": [{"exists": False}, "x"]}},
        {"d": [{"b": "y"}, {"c": 2}]},
        False,
    ),
    "anything-but in another element": (
        {"u": {"s": [{"anything-but": "banned"}]}},
        {"u": [{"s": "banned"}, {"s": "active"}]},
        True,
    ),
    "numeric with a neighbour": (
        {"i": {"p": [{"numeric": ["<", 9]}], "n": ["g"]}},
        {"i": [{"n": "w", "p": 5}, {"n": "g", "p": 9}]},
        False,
    ),
    "or in an element": (
        {"d": {"a": [1], "$or": [{"b": [2]}, {"c": [3]}]}},
        {"d": [{"a": 1, "c": 3}]},
        True,
    ),
    "or across elements": (
        {"d": {"a": [1], "$or": [{"b": [2]}, {"c": [3]}]}},
        {"d": [{"a": 1}, {"c": 3}]},
        False,
    ),
    "or outside, same array": (
        {"d": {"a": [1]}, "$or": [{"d": {"b": [2]}}, {"d": {"c": [3]}}]},
        {"d": [{"a": 1}, {"b": 2}]},
        False,
    ),
    "s3, two records": (
        AUTO,
        {
            "Records": [
                {"eventName": "ObjectCreated:Put", "s3": {"object": [[{"key": "auto-1.xml"}]]}},
                {"eventName": "ObjectRemoved:Delete", "s3": {"object": {"key": "home-1.xml"}}},
            ]
        },
        True,
    ),
    "s3, removed": (
        AUTO,
        {
            "Records": [
                {"eventName": "ObjectRemoved:Delete", "s3": {"object": {"key": "auto-1.xml"}}}
            ]
        },
        False,
    ),
    "s3, another key": (
        AUTO,
        {"Records": [{"eventName": "ObjectCreated:Put", "s3": {"object": {"key": "home-1.xml"}}}]},
        False,
    ),
    "metrics, first and first": (
        METRICS,
        {"metric": "cpu", "detail": {"scope": "service", "source": "watch"}},
        True,
    ),
    "metrics, second and second": (
        METRICS,
        {"namespace": "es", "detail": {"scope": "service", "type": "alarm"}},
        True,
    ),
    "metrics, wrong scope": (
        METRICS,
        {"metric": "cpu", "detail": {"scope": "watch", "type": "alarm"}},
        False,
    ),
    "metrics, wrong type": (
        METRICS,
        {"metric": "cpu", "detail": {"scope": "service", "type": "cpu"}},
        False,
    ),
    "metrics, no scope": (METRICS, {"metric": "cpu", "detail": {"type": "alarm"}}, False),
    "metrics, no inner branch": (METRICS, {"metric": "cpu", "detail": {"scope": "service"}}, False),
    "metrics, no outer branch": (
        METRICS,
        {"metric": "ec2", "detail": {"scope": "service", "type": "alarm"}},
        False,
    ),
    "metrics, at the wrong level": (
        METRICS,
        {"metric": "cpu", "scope": "service", "source": "watch"},
        False,
    ),
}


@pytest.mark.parametrize(("policy", "body", "expected"), BODIES.values(), ids=BODIES)
def test_a_body_passes_or_not(policy: Any, body: Any, expected: bool) -> None:
    assert passes(policy, body) is expected
    assert decided_by(FilterPolicy.parse(policy, "MessageBody").explain({}, body)) is expected


# -- message attributes as AWS writes them ---------------------------------------------------------

SPORTS = {"sport": {"Type": "String.Array", "Value": '["soccer", "rugby", "hockey"]'}}
NESTED_OR = {
    "f1": ["v1"],
    "$or": [{"f2": ["v2", "v3"]}, {"f3": ["v4"], "$or": [{"f4": ["v5", "v6"]}, {"f5": ["v7"]}]}],
}


def strings(**values: str) -> dict[str, dict[str, str]]:
    return {name: {"Type": "String", "Value": value} for name, value in values.items()}


ATTRIBUTES: dict[str, tuple[Any, dict[str, Any], bool]] = {
    "no filter, no attributes": ({}, {}, True),
    "no filter": ({}, strings(a="x"), True),
    "no attributes": ({"a": ["x"]}, {}, False),
    "absence needs another attribute": ({"a": [{"exists": False}]}, {}, False),
    "absence": ({"a": [{"exists": False}]}, strings(b="x"), True),
    "absence beside binary only": (
        {"a": [{"exists": False}]},
        {"b": {"DataType": "Binary", "BinaryValue": b"x"}},
        False,
    ),
    "binary is ignored": (
        {"a": [{"exists": True}]},
        {"a": {"Type": "Binary", "Value": "eA=="}, **strings(b="x")},
        False,
    ),
    "array": ({"sport": ["rugby", "chess"]}, SPORTS, True),
    "array, none": ({"sport": ["volleyball", "chess"]}, SPORTS, False),
    "array, prefix": ({"sport": [{"prefix": "soc"}]}, SPORTS, True),
    "array, anything-but": ({"sport": [{"anything-but": ["soccer", "rugby"]}]}, SPORTS, True),
    "array of bools": ({"a": [True]}, {"a": {"Type": "String.Array", "Value": "[true]"}}, True),
    "array with null": (
        {"a": [None]},
        {"a": {"Type": "String.Array", "Value": '["x", null]'}},
        True,
    ),
    "array of numbers": (
        {"a": [100, 500]},
        {"a": {"Type": "String.Array", "Value": "[100, 50]"}},
        True,
    ),
    "array of numbers, numeric": (
        {"a": [{"numeric": [">", 99]}]},
        {"a": {"Type": "String.Array", "Value": "[100, 50]"}},
        True,
    ),
    "Number.Array": (
        {"a": [{"anything-but": [100, 500]}]},
        {"a": {"Type": "Number.Array", "Value": "[100, 50]"}},
        True,
    ),
    "array of one value": ({"a": [100]}, {"a": {"Type": "String.Array", "Value": "100"}}, True),
    "array that is not JSON": (
        {"a": ["x"]},
        {"a": {"Type": "String.Array", "Value": "['x']"}},
        False,
    ),
    "array that is text": (
        {"a": [100]},
        {"a": {"Type": "String.Array", "Value": "one hundred"}},
        False,
    ),
    "empty array": (
        {"a": [{"exists": True}]},
        {"a": {"Type": "String.Array", "Value": "[]"}},
        False,
    ),
    "array given as a list": (
        {"a": ["x"]},
        {"a": {"Type": "String.Array", "Value": ["x", "y"]}},
        True,
    ),
    "number": (
        {"a": [{"numeric": [">", 0, "<=", 100]}]},
        {"a": {"DataType": "Number", "StringValue": "99"}},
        True,
    ),
    "number, too large": (
        {"a": [{"numeric": [">", 0, "<=", 100]}]},
        {"a": {"DataType": "Number", "StringValue": "111"}},
        False,
    ),
    "number with exponent": ({"a": [301.5]}, {"a": {"Type": "Number", "Value": "3.015e2"}}, True),
    "number given as one": ({"a": [301.5]}, {"a": {"Type": "Number", "Value": 301.5}}, True),
    "number that is none": (
        {"a": [{"numeric": [">", 0]}]},
        {"a": {"Type": "Number", "Value": "many"}},
        False,
    ),
    "number, infinite": (
        {"a": [{"numeric": [">", 0]}]},
        {"a": {"Type": "Number", "Value": "1e999"}},
        False,
    ),
    "number, nan": (
        {"a": [{"anything-but": [1]}]},
        {"a": {"Type": "Number", "Value": "nan"}},
        True,
    ),
    "number against its text": ({"a": ["99"]}, {"a": {"Type": "Number", "Value": "99"}}, False),
    "string of digits": ({"a": ["99"]}, strings(a="99"), True),
    "string of digits, numeric": ({"a": [{"numeric": ["=", 99]}]}, strings(a="99"), False),
    "string that is an array": ({"a": ["x"]}, strings(a='["x"]'), False),
    "dotted name": ({"a.b": ["x"]}, strings(**{"a.b": "x"}), True),
    "null or anything but, absent": ({"a": [None, {"anything-but": "x"}]}, strings(b="y"), False),
    "and": (
        {"a": [{"numeric": ["=", 3]}], "b": [{"prefix": "typ"}]},
        {"a": {"Type": "Number", "Value": 3}, **strings(b="type1")},
        True,
    ),
    "and, one missing": (
        {"a": [{"numeric": ["=", 3]}], "b": [{"prefix": "typ"}]},
        strings(b="type1"),
        False,
    ),
    "or, second": (
        {"f1": ["v1"], "$or": [{"f2": ["v2"]}, {"f3": ["v3"]}]},
        strings(f1="v1", f3="v3"),
        True,
    ),
    "or, sibling wrong": (
        {"f1": ["v1"], "$or": [{"f2": ["v2"]}, {"f3": ["v3"]}]},
        strings(f1="v2", f3="v3"),
        False,
    ),
    "or, none": (
        {"f1": ["v1"], "$or": [{"f2": ["v2"]}, {"f3": ["v3"]}]},
        strings(f1="v1", f2="v3"),
        False,
    ),
    "or in or, outer": (NESTED_OR, strings(f1="v1", f2="v2"), True),
    "or in or, inner": (NESTED_OR, strings(f1="v1", f3="v4", f4="v6"), True),
    "or in or, inner alone": (NESTED_OR, strings(f1="v1", f4="v6"), False),
    "$or as a name": ({"$or": [{"prefix": "a"}, {"prefix": "b"}]}, strings(**{"$or": "bee"}), True),
    "$or as a name of one": ({"$or": ["a", {"prefix": "b"}]}, strings(x="a"), False),
}


@pytest.mark.parametrize(("policy", "attributes", "expected"), ATTRIBUTES.values(), ids=ATTRIBUTES)
def test_attributes_pass_or_not(policy: Any, attributes: dict[str, Any], expected: bool) -> None:
    plain = from_message_attributes(attributes)

    assert passes(policy, plain, "MessageAttributes") is expected
    assert decided_by(FilterPolicy.parse(policy).explain(plain, None)) is expected


def test_message_attributes_become_plain_values() -> None:
    given = {
        "s": {"Type": "String", "Value": "12"},
        "n": {"DataType": "Number", "StringValue": "12"},
        "f": {"DataType": "Number", "StringValue": "-1.5e1"},
        "a": {"Type": "String.Array", "Value": '["x", 1, true, null]'},
        "b": {"Type": "Binary", "Value": "eA=="},
        "o": {"Type": "String.Array", "Value": '{"x": 1}'},
        "deep": {"Type": "String.Array", "Value": "[" * 100_000},
        "long": {"Type": "Number", "Value": "1" * 5000},
    }
    plain = from_message_attributes(given)

    assert plain.pop("deep") == "[" * 100_000
    assert plain.pop("long") == float("inf")
    assert plain == {"s": "12", "n": 12, "f": -15.0, "a": ["x", 1, True, None], "o": '{"x": 1}'}


# -- what is refused -------------------------------------------------------------------------------

REFUSED: dict[str, tuple[Any, str]] = {
    "not JSON": ("{", "not JSON"),
    "empty text": ("", "not JSON"),
    "NaN": ('{"a": [NaN]}', "NaN is no number"),
    "an exponent beyond all": ('{"a": [1e99999999999999999999]}', "not JSON"),
    "a key twice": ('{"a": ["x"], "a": ["y"]}', "a stands twice"),
    "half a surrogate": ('{"a": ["\\ud800"]}', "surrogate"),
    "half a surrogate as it is": ('{"a": ["\ud800"]}', "surrogate"),
    "nested without end": ('{"a":' * 50_000, "nested deeper"),
    "a list": ("[]", "takes an object"),
    "null": ("null", "takes an object"),
    "None": (None, "takes an object"),
    "a string": ({"a": "x"}, r'a: takes a list of conditions, got "x"; write \["x"\]'),
    "a number": ({"a": 5}, "takes a list"),
    "an empty list": ({"a": []}, "a: an empty list"),
    "a list in a list": ({"a": [["x"]]}, r"a\[0\]: a condition is"),
    "bytes": ({"a": [b"x"]}, "a condition is"),
    "nan": ({"a": [float("nan")]}, "a condition is"),
    "a key that is no string": ({5: ["x"]}, "a key is a string"),
    "unknown operator": ({"a": [{"regex": "x"}]}, r"a\[0\]: no operator 'regex'; known"),
    "near operator": ({"a": [{"prefx": "x"}]}, "did you mean 'prefix'"),
    "operator that is no string": ({"a": [{5: "x"}]}, "no operator '5'"),
    "two operators": ({"a": [{"suffix": "x", "prefix": "y"}]}, "one operator an object, got 2"),
    "no operator": ({"a": [{}]}, "one operator an object, got 0"),
    "case-insensitive prefix": (
        {"a": [{"prefix": {"equals-ignore-case": "x"}}]},
        "prefix takes a string",
    ),
    **{
        f"{name} of {label(bad)}": ({"a": [{name: bad}]}, f"{name} takes")
        for name in ("prefix", "suffix", "equals-ignore-case", "cidr")
        for bad in (100, None, [], ["x", "y"])
    },
    "wildcard of a number": ({"a": [{"wildcard": 5}]}, "wildcard takes a string"),
    "wildcard, two stars": ({"a": [{"wildcard": "a**b"}]}, r"two '\*' in a row"),
    "wildcard, escape of a letter": ({"a": [{"wildcard": "a\\b"}]}, "backslash"),
    "wildcard, escape of nothing": ({"a": [{"wildcard": "a\\"}]}, "backslash"),
    "exists null": ({"a": [{"exists": None}]}, "exists takes true or false"),
    "exists text": ({"a": [{"exists": "no"}]}, "exists takes true or false"),
    "cidr, no address": ({"a": [{"cidr": "10.0.0/24"}]}, "cidr takes"),
    "cidr, too many bits": ({"a": [{"cidr": "10.0.0.0/33"}]}, "cidr takes"),
    "cidr, no bits": ({"a": [{"cidr": "10.0.0.1"}]}, "one address is written as a string"),
    "cidr, one address": ({"a": [{"cidr": "10.0.0.1/32"}]}, "one address is written as a string"),
    "cidr, one address of IPv6": (
        {"a": [{"cidr": "::1/128"}]},
        "one address is written as a string",
    ),
    "cidr, a mask": ({"a": [{"cidr": "10.0.0.0/255.255.255.0"}]}, "cidr takes"),
    "anything-but null": ({"a": [{"anything-but": None}]}, "anything-but takes"),
    "anything-but true": ({"a": [{"anything-but": True}]}, "anything-but takes"),
    "anything-but nothing": ({"a": [{"anything-but": []}]}, "anything-but takes"),
    "anything-but of two kinds": ({"a": [{"anything-but": ["x", 1]}]}, "anything-but takes"),
    "anything-but exists": ({"a": [{"anything-but": {"exists": False}}]}, "no operator 'exists'"),
    "anything-but unknown": ({"a": [{"anything-but": {"sufix": "x"}}]}, "did you mean 'suffix'"),
    "anything-but prefix false": (
        {"a": [{"anything-but": {"prefix": False}}]},
        "anything-but with prefix takes",
    ),
    "anything-but prefix empty": (
        {"a": [{"anything-but": {"prefix": ""}}]},
        "anything-but with prefix takes",
    ),
    "anything-but prefix of none": (
        {"a": [{"anything-but": {"suffix": []}}]},
        "anything-but with suffix takes",
    ),
    "anything-but two": ({"a": [{"anything-but": {"prefix": "x", "suffix": "y"}}]}, "one operator"),
    "numeric, no list": ({"a": [{"numeric": 5}]}, "numeric takes"),
    "numeric, empty": ({"a": [{"numeric": []}]}, "numeric takes"),
    "numeric, one": ({"a": [{"numeric": [">="]}]}, "numeric takes"),
    "numeric, three": ({"a": [{"numeric": [">", 20, "<="]}]}, "numeric takes"),
    "numeric, six": ({"a": [{"numeric": [">", 20, "<", 30, "<", 50]}]}, "numeric takes"),
    "numeric, turned round": ({"a": [{"numeric": [1, "<="]}]}, "numeric takes"),
    "numeric, unknown": ({"a": [{"numeric": ["!=", 1]}]}, "numeric knows"),
    "numeric, text": ({"a": [{"numeric": ["=", "000"]}]}, "numeric compares with numbers"),
    "numeric, bool": ({"a": [{"numeric": ["=", True]}]}, "numeric compares with numbers"),
    "numeric, range downwards": ({"a": [{"numeric": ["<", 100, ">", 10]}]}, "a numeric range"),
    "numeric, two lower ends": ({"a": [{"numeric": [">=", 1, ">", 2]}]}, "a numeric range"),
    "numeric, two equals": ({"a": [{"numeric": ["=", 1, "=", 2]}]}, "a numeric range"),
    "numeric, empty range": ({"a": [{"numeric": [">", 3, "<", 1]}]}, "a numeric range"),
    "numeric, range of a point": ({"a": [{"numeric": [">=", 3, "<=", 3]}]}, "a numeric range"),
    "six keys": ({f"k{n}": ["x"] for n in range(MAX_KEYS + 1)}, "6 keys, at most 5"),
    "151 values": ({"a": [str(n) for n in range(MAX_COMBINATIONS + 1)]}, "151 combinations"),
    "8 x 8 x 8": ({key: [str(n) for n in range(8)] for key in "abc"}, "512 combinations"),
    "152 over $or": (
        {
            "s": list("1234"),
            "$or": [
                {"m": list("123456")},
                {"t": list("1234"), "$or": [{"i": list("1234")}, {"p": list("1234")}]},
            ],
        },
        "152 combinations",
    ),
    "too large": (json.dumps({"a": ["x" * MAX_POLICY_BYTES]}), "bytes, at most"),
    "too large as a mapping": ({"a": ["x" * MAX_POLICY_BYTES]}, "bytes, at most"),
    "$or of one": ({"$or": [{"a": ["x"]}]}, r"\$or\[0\]: no operator 'a'"),
    "$or of none": ({"$or": []}, "an empty list"),
    "$or with an empty branch": ({"$or": [{"a": ["x"]}, {}]}, r"\$or\[1\]: an empty object"),
    "$or of reserved names": (
        {"$or": [{"numeric": 123}, {"prefix": "abc"}]},
        r"\$or\[0\]: numeric takes",
    ),
}


@pytest.mark.parametrize(("policy", "message"), REFUSED.values(), ids=REFUSED)
def test_a_policy_that_sns_refuses_is_refused_in_both_scopes(policy: Any, message: str) -> None:
    """BI-037, BI-039, BI-041, BI-042."""
    for scope in SCOPES:
        with pytest.raises(InvalidFilter, match=message) as caught:
            FilterPolicy.parse(policy, scope)
        assert caught.value.reason == "bad_filter_policy"
        assert isinstance(caught.value, MltriggerError) and isinstance(caught.value, ValueError)


@pytest.mark.parametrize(
    "policy", [{"a": {"b": ["c"]}}, {"$or": [{"a": ["x"]}, {"b": {"c": ["x"]}}]}]
)
def test_attributes_take_no_nested_policy(policy: Any) -> None:
    """BI-040."""
    with pytest.raises(
        InvalidFilter, match='attributes are flat, a nested policy needs the scope "MessageBody"'
    ):
        FilterPolicy.parse(policy)
    assert FilterPolicy.parse(policy, "MessageBody").scope == "MessageBody"


@pytest.mark.parametrize(
    ("policy", "message"),
    [
        ({"a": {}}, r"\$\.a: an empty object"),
        ({"a": {"suffix": "x"}}, r"\$\.a\.suffix: takes a list"),
        (
            {"a": {"b": {"c": list("1234")}}, "d": {"e": list("123")}, "f": list("123")},
            "216 combinations",
        ),
        (
            {"d": {"s": list("12"), "$or": [{"x": ["1"]}, {"y": list("123")}]}, "e": list("12345")},
            "160 combinations",
        ),
        ({"a" + ".b" * MAX_DEPTH: ["x"]}, "nested deeper than 100 levels"),
    ],
)
def test_a_nested_policy_that_sns_refuses_is_refused(policy: Any, message: str) -> None:
    with pytest.raises(InvalidFilter, match=message):
        FilterPolicy.parse(policy, "MessageBody")


def test_a_policy_at_the_limits_is_taken() -> None:
    most = {
        "s": list("123"),
        "$or": [
            {"m": list("123456")},
            {"t": list("1234"), "$or": [{"i": list("1234")}, {"p": list("1234567")}]},
        ],
    }

    assert FilterPolicy.parse(most).matches_attributes({"s": "1", "t": "4", "p": "7"})
    assert FilterPolicy.parse({f"k{n}": ["x"] for n in range(MAX_KEYS)}).warnings == ()
    # nested keys do not count
    assert FilterPolicy.parse({"a": {key: [1] for key in "bcdefgh"}}, "MessageBody").warnings == ()


def test_every_problem_is_listed_with_its_path() -> None:
    policy = {"a": [{"prefix": 1}, "x"], "b": {"c": "x", "d": [{"exits": True}]}}
    with pytest.raises(InvalidFilter) as caught:
        FilterPolicy.parse(policy, "MessageBody")
    problems = str(caught.value).removeprefix("invalid filter policy: ")

    assert "$.a[0]: prefix takes a string, got 1" in problems
    assert "$.b.c: takes a list" in problems
    assert "$.b.d[0]: no operator 'exits'; did you mean 'exists'?" in problems


def test_a_mapping_that_contains_itself_is_refused() -> None:
    endless: dict[str, Any] = {}
    endless["a"] = endless
    circular: dict[str, Any] = {"$or": [{"a": [1]}]}
    circular["$or"].append(circular)

    wide: dict[str, Any] = {}
    wide |= {"a": wide, "b": wide}

    for policy in (endless, circular, {"a": [endless]}, wide):
        with pytest.raises(InvalidFilter):
            FilterPolicy.parse(policy, "MessageBody")


def test_a_scope_is_one_of_two() -> None:
    with pytest.raises(
        InvalidFilter, match="the scope is one of MessageAttributes, MessageBody, got body"
    ):
        FilterPolicy.parse({}, "body")  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("conditions", "warnings"),
    [
        ([10**9, -(10**9), 0.12345, 1e9], []),
        (
            [{"numeric": [">", 10_000_000_000]}],
            ["a[0]: SNS takes numbers from -1e9 to 1e9, got 10000000000"],
        ),
        (
            [{"anything-but": [1, -1_000_000_000.5]}],
            ["a[0]: SNS takes numbers from -1e9 to 1e9, got -1000000000.5"],
        ),
        (["x", 0.123456], ["a[1]: SNS compares 5 decimals, got 0.123456"]),
        ([1e-40], ["a[0]: SNS compares 5 decimals, got 1E-40"]),
    ],
)
def test_a_number_that_sns_does_not_promise_is_a_warning(
    conditions: list[Any], warnings: list[str]
) -> None:
    """BI-044."""
    assert list(FilterPolicy.parse({"a": conditions}).warnings) == warnings


def test_a_number_beyond_the_promise_is_compared_nevertheless() -> None:
    assert passes({"a": [{"numeric": [">", 10**10]}]}, {"a": 10**10 + 1})
    assert not passes({"a": [{"numeric": [">", 10**10]}]}, {"a": 10**10})
    assert passes('{"a": [1e400]}', {"a": 10**400})


# -- text and equality -----------------------------------------------------------------------------


def test_the_text_of_equal_policies_is_the_same() -> None:
    one = FilterPolicy.parse('{"b": [300, {"numeric": [">", 0.10]}], "a": ["é"]}')
    other = FilterPolicy.parse({"a": ("é",), "b": [3e2, {"numeric": [">", 0.1]}]})

    assert one.to_json() == other.to_json() == '{"a":["é"],"b":[300,{"numeric":[">",0.1]}]}'
    assert one == other and hash(one) == hash(other)
    assert one != FilterPolicy.parse(one.to_json(), "MessageBody")


def test_a_policy_does_not_change_with_the_mapping_it_came_from() -> None:
    given = {"a": ["x", {"anything-but": ["y"]}]}
    policy = FilterPolicy.parse(given)
    given["a"].clear()

    assert policy.matches_attributes({"a": "z"})
    assert policy.to_json() == '{"a":["x",{"anything-but":["y"]}]}'


# -- why -------------------------------------------------------------------------------------------


def test_an_explanation_has_a_clause_for_each_field() -> None:
    policy = FilterPolicy.parse(
        {"customer": {"age": [{"numeric": [">", 5]}], "tags": ["vip"]}, "gone": ["x"]},
        "MessageBody",
    )

    assert policy.explain({}, {"customer": {"age": 3, "tags": ["new", "vip"]}}) == [
        Clause("$.customer.age", '[{"numeric":[">",5]}]', "3", ok=False),
        Clause("$.customer.tags", '["vip"]', "['new', 'vip']", ok=True),
        Clause("$.gone", '["x"]', "nothing", ok=False),
    ]


def test_an_explanation_shows_every_branch_of_an_or() -> None:
    policy = FilterPolicy.parse(
        {"kind": ["a"], "$or": [{"name": ["x"]}, {"age": [{"numeric": ["<", 9]}]}]}
    )

    assert policy.explain({"kind": "a", "age": 5}, None) == [
        Clause("kind", '["a"]', '"a"', ok=True),
        Clause("$or", '[{"name":["x"]},{"age":[{"numeric":["<",9]}]}]', "branch 1 holds", ok=True),
        Clause("$or[0].name", '["x"]', "nothing", ok=False),
        Clause("$or[1].age", '[{"numeric":["<",9]}]', "5", ok=True),
    ]


def test_an_explanation_says_when_fields_hold_in_different_elements() -> None:
    clauses = FilterPolicy.parse(TWO, "MessageBody").explain({}, {"d": [{"a": 1}, {"b": 2}]})

    assert [(clause.path, clause.ok) for clause in clauses] == [
        ("$.d.a", True),
        ("$.d.b", True),
        ("$", False),
    ]
    assert clauses[-1].condition == "all in the same element of an array"


def test_an_explanation_says_when_there_is_nothing_to_look_at() -> None:
    body = FilterPolicy.parse({"a": [{"exists": False}]}, "MessageBody").explain({"b": 1}, "hello")
    attributes = FilterPolicy.parse({"a": [{"exists": False}]}).explain({}, {"b": 1})

    assert body[0] == Clause("$", "a JSON object", "hello", ok=False)
    assert attributes[0] == Clause("$", "at least one attribute", "nothing", ok=False)


def test_what_was_found_is_shortened() -> None:
    (clause,) = FilterPolicy.parse({"a": ["x"]}).explain({"a": "y" * 10_000}, None)

    assert len(clause.found) <= 60 and clause.found.endswith("…")


# -- time and depth --------------------------------------------------------------------------------


class Counted(str):
    """A string that counts what a search in it walks over."""

    walked = 0

    def find(self, literal: str, start: int = 0, end: int = 0) -> int:  # type: ignore[override]
        place = super().find(literal, start, end)
        Counted.walked += (end if place < 0 else place + len(literal)) - start
        return place


@pytest.mark.parametrize(
    "pattern", ["*a" * 50 + "*b*", "*ab" * 50 + "*", "*aaaa" * 30 + "*c*b", "a*" * 50 + "b"]
)
def test_a_wildcard_walks_over_its_value_once(pattern: str) -> None:
    value, Counted.walked = Counted("a" * 100_000), 0
    started = time.perf_counter()

    assert not passes({"a": [{"wildcard": pattern}]}, {"a": value})
    assert Counted.walked <= len(value)
    assert time.perf_counter() - started < 10


class Looked(dict[str, Any]):
    """An object that counts how often it is asked for a key."""

    looks = 0

    def __contains__(self, key: object) -> bool:
        Looked.looks += 1
        return super().__contains__(key)


def looks(size: int) -> int:
    Looked.looks = 0
    policy = {"d": {"a": [1], "b": [2], "c.x": [{"exists": False}]}, "d.e": [{"exists": False}]}
    assert not passes(policy, {"d": [Looked(a=1, c=Looked(y=1)) for _ in range(size)]})
    return Looked.looks


def test_matching_takes_time_in_proportion_to_the_event() -> None:
    assert looks(2000) == 2 * looks(1000) == 20 * looks(100)


def test_nesting_without_end_does_not_match_and_does_not_raise() -> None:
    nested: Any = {"a": "x"}
    for _ in range(100_000):
        nested = [nested]
    policy = FilterPolicy.parse({"b": {"a": ["x"]}}, "MessageBody")

    assert not policy.matches_body({"b": nested})
    assert not decided_by(policy.explain({}, {"b": nested}))
    while isinstance(nested, list):  # freed from the outside, or the interpreter would recurse
        nested = nested.pop()


def test_the_deepest_body_that_is_an_event_is_looked_into() -> None:
    path = ".".join("a" * (MAX_DEPTH - 1))
    body: Any = "x"
    for _ in range(MAX_DEPTH - 1):
        body = {"a": body}

    assert passes({path: ["x"]}, body)


# -- properties ------------------------------------------------------------------------------------

scalars = (
    st.none()
    | st.booleans()
    | st.integers(-3, 3)
    | st.floats(-2, 2, width=16)
    | st.sampled_from(["", "a", "ab", "B", "10.0.0.1"])
)
names = st.sampled_from(["a", "b", "a.b", "c"])
json_values = st.recursive(
    scalars | st.text(max_size=4) | st.floats() | st.integers(),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(names | st.text(max_size=3), inner, max_size=3)
    ),
    max_leaves=12,
)
conditions = st.lists(
    scalars
    | st.sampled_from(
        [
            {"prefix": "a"},
            {"suffix": "b"},
            {"equals-ignore-case": "b"},
            {"wildcard": "a*"},
            {"anything-but": "a"},
            {"anything-but": [1, 2]},
            {"anything-but": {"prefix": "a"}},
            {"numeric": [">", 0, "<=", 2]},
            {"cidr": "10.0.0.0/8"},
            {"exists": True},
            {"exists": False},
        ]
    ),
    min_size=1,
    max_size=2,
)
flat = st.dictionaries(names, conditions, min_size=1, max_size=2)
flat_policies = flat | st.builds(
    lambda policy, branches: policy | {"$or": branches},
    flat,
    st.lists(flat, min_size=2, max_size=2),
)
bodies = st.dictionaries(
    names,
    st.recursive(
        scalars,
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(names, inner, max_size=3),
        max_leaves=8,
    ),
    max_size=3,
)
nested_policies = flat_policies | st.dictionaries(names, flat_policies, min_size=1, max_size=2)


@given(policy=nested_policies, body=bodies | json_values)
def test_an_explanation_of_a_body_agrees_with_the_match(policy: Any, body: Any) -> None:
    try:
        parsed = FilterPolicy.parse(policy, "MessageBody")
    except InvalidFilter as error:
        assert "combinations" in str(error)
        return
    assert decided_by(parsed.explain({}, body)) is parsed.matches_body(body)
    assert FilterPolicy.parse(parsed.to_json(), "MessageBody") == parsed


@given(
    policy=flat_policies,
    attributes=st.dictionaries(names, scalars | st.lists(scalars, max_size=3), max_size=3),
)
def test_an_explanation_of_attributes_agrees_with_the_match(policy: Any, attributes: Any) -> None:
    parsed = FilterPolicy.parse(policy)

    assert decided_by(parsed.explain(attributes, None)) is parsed.matches_attributes(attributes)
    assert FilterPolicy.parse(parsed.to_json()) == parsed


@given(policy=json_values)
def test_any_json_is_a_policy_or_an_invalid_filter(policy: Any) -> None:
    for given_as in (policy, json.dumps(policy)):
        for scope in SCOPES:
            try:
                parsed = FilterPolicy.parse(given_as, scope)
            except InvalidFilter:
                continue
            assert FilterPolicy.parse(parsed.to_json(), scope) == parsed


@given(pattern=st.text("ab*", max_size=6), value=st.text("ab*", max_size=8))
def test_a_wildcard_is_the_regular_expression_of_it(pattern: str, value: str) -> None:
    import re

    while "**" in pattern:
        pattern = pattern.replace("**", "*")
    expected = re.fullmatch(".*".join(map(re.escape, pattern.split("*"))), value) is not None

    assert passes({"a": [{"wildcard": pattern}]}, {"a": value}) is expected


def together(policy: dict[str, Any], body: dict[str, Any]) -> bool:
    """Try every choice of one element an array: what the rule on arrays says, at any price.

    For policies that ask for presence only.
    """
    return any(
        all(any(test(value) for value in leaves.get(path, [])) for path, test in policy.items())
        for leaves in choices(body)
    )


def choices(value: Any, path: str = "") -> list[dict[str, list[Any]]]:
    if isinstance(value, list):
        return [leaves for element in value for leaves in choices(element, path)] or [{}]
    if not isinstance(value, dict):
        return [{path: [value]}]
    merged: list[dict[str, list[Any]]] = [{}]
    for key, inner in value.items():
        merged = [
            left | right for left in merged for right in choices(inner, f"{path}.{key}".lstrip("."))
        ]
    return merged


plain_bodies = st.dictionaries(
    st.sampled_from("abc"),
    st.recursive(
        st.integers(0, 1),
        lambda inner: (
            st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from("abc"), inner, max_size=2)
        ),
        max_leaves=8,
    ),
    max_size=3,
)


@given(
    policy=st.dictionaries(
        st.sampled_from(["a.a", "a.b", "a.c", "b.a", "b.a.c", "b.b"]),
        st.integers(0, 1),
        min_size=1,
        max_size=3,
    ),
    body=plain_bodies,
)
def test_arrays_are_matched_as_by_trying_every_element(policy: dict[str, int], body: Any) -> None:
    expected = together(
        {path: (lambda found, wanted=wanted: found == wanted) for path, wanted in policy.items()},
        body,
    )  # type: ignore[misc]

    assert passes({path: [wanted] for path, wanted in policy.items()}, body) is expected


# -- against the matcher of moto, where that one is right ------------------------------------------

# Left out: what facts A.10 lists as wrong (equals-ignore-case, anything-but with a suffix, cidr,
# wildcard, $or on a body), anything-but on arrays (moto wants no element of it excluded, the guide
# one that is not), and operators on values of another type, where it raises.
SHARED: list[tuple[list[Any], list[Any]]] = [
    (["x", "y"], ["x", "y", "z", "", ["x", "z"], ["z"], []]),
    ([1, 2.5], [1, 1.0, 2.5, 3, [3, 1], [3]]),
    ([{"prefix": "ab"}, "z"], ["abc", "a", "z", ""]),
    ([{"suffix": "bc"}], ["abc", "bc", "c"]),
    ([{"anything-but": "x"}], ["x", "y"]),
    ([{"anything-but": ["x", "y"]}], ["x", "y", "z"]),
    ([{"anything-but": [1, 2]}], [1, 2, 3, 2.5]),
    ([{"anything-but": {"prefix": "ab"}}], ["abc", "b"]),
    ([{"numeric": [">", 1, "<=", 5]}], [1, 1.5, 5, 6]),
    ([{"numeric": ["=", 2]}, {"numeric": ["<", 0]}], [2, -1, 1]),
    ([{"exists": True}], ["x", 5, ["x"], NOTHING]),
    ([{"exists": False}], ["x", 5, ["x"], NOTHING]),
    (["x"], [NOTHING]),
    ([{"prefix": "x"}, {"numeric": ["=", 1]}], [NOTHING]),
]


def as_message_attribute(value: Any) -> dict[str, Any]:
    if isinstance(value, list):
        return {"Type": "String.Array", "Value": json.dumps(value)}
    return {"Type": "String" if isinstance(value, str) else "Number", "Value": value}


@pytest.mark.parametrize(
    ("conditions", "values"), SHARED, ids=[label(conditions) for conditions, _ in SHARED]
)
def test_moto_says_the_same_where_it_is_right(conditions: list[Any], values: list[Any]) -> None:
    from moto.sns.utils import FilterPolicyMatcher

    policy = {"field": conditions}
    for value in values:
        body = {"other": "z"} | ({} if value is NOTHING else {"field": value})
        attributes = {name: as_message_attribute(value) for name, value in body.items()}
        theirs = [
            FilterPolicyMatcher(policy, scope).matches(attributes, json.dumps(body))
            for scope in SCOPES
        ]

        assert [
            passes(policy, from_message_attributes(attributes), "MessageAttributes"),
            passes(policy, body),
        ] == theirs
