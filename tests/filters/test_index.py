"""FilterIndex answers as each policy by itself, and looks at few of them."""

from __future__ import annotations

import dataclasses
import gc
import time
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from slow import examples

from mltrigger.errors import InvalidFilter
from mltrigger.filters import FilterIndex, FilterPolicy


@dataclasses.dataclass
class Seen:
    attributes: dict[str, Any] = dataclasses.field(default_factory=dict)
    body: Any = None


class Unread:
    """An event whose parts nobody may ask for."""

    @property
    def attributes(self) -> dict[str, Any]:
        raise AssertionError("nobody filters by attributes")

    @property
    def body(self) -> Any:
        raise AssertionError("nobody filters by the body")


def one_by_one(policies: list[FilterPolicy | None], seen: Seen) -> list[int]:
    return [
        place
        for place, policy in enumerate(policies)
        if policy is None
        or (
            policy.matches_attributes(seen.attributes)
            if policy.scope == "MessageAttributes"
            else policy.matches_body(seen.body)
        )
    ]


# Numbers that are equal, or that AWS takes for equal, and values that Python takes for equal to them.
numbers = st.sampled_from(
    [0, 1, 1.0, True, False, 0.0, -0.0, 2, Decimal("1.0"), 1e2, 100, 0.1234561, 0.1234569, 10**30, 1e30, 2**80, 1e300]
)  # fmt: skip
scalars = (
    st.none() | numbers | st.sampled_from(["", "a", "ab", "B", "b", "1", "null", "10.0.0.1", "é"])
)
names = st.sampled_from(["a", "b", "c", "a.b", "b.c", "a.b.c"])
operators = st.sampled_from(
    [
        {"prefix": "a"},
        {"suffix": "b"},
        {"equals-ignore-case": "b"},
        {"wildcard": "a*"},
        {"anything-but": "a"},
        {"anything-but": [1, 2]},
        {"anything-but": {"prefix": "a"}},
        {"numeric": [">", 0, "<=", 2]},
        {"numeric": ["=", 1]},
        {"cidr": "10.0.0.0/8"},
        {"exists": True},
        {"exists": False},
    ]
)
conditions = st.lists(scalars, min_size=1, max_size=3) | st.lists(
    scalars | operators, min_size=1, max_size=2
)
flat = st.dictionaries(names, conditions, min_size=1, max_size=2)
with_or = flat | st.builds(
    lambda policy, branches: policy | {"$or": branches},
    flat | st.just({}),
    st.lists(flat, min_size=2, max_size=3),
)
nested = with_or | st.dictionaries(names, with_or, min_size=1, max_size=2)


def parsed(policy: Any, scope: Any) -> FilterPolicy | None:
    try:
        return None if policy is None else FilterPolicy.parse(policy, scope)
    except InvalidFilter as error:
        assert "combinations" in str(error)
        return None


policies = st.lists(
    st.builds(parsed, st.none() | st.just({}) | with_or, st.just("MessageAttributes"))
    | st.builds(parsed, st.none() | st.just({}) | nested, st.just("MessageBody")),
    max_size=6,
)
values = st.recursive(
    scalars,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(names, inner, max_size=3),
    max_leaves=8,
)
bodies = st.dictionaries(names, values, max_size=3) | values
seen = st.builds(
    Seen, st.dictionaries(names, scalars | st.lists(scalars, max_size=3), max_size=3), bodies
)


def body_policies(*given: Any) -> list[FilterPolicy | None]:
    return [FilterPolicy.parse(policy, "MessageBody") for policy in given]


@given(policies=policies, seen=seen)
@example(body_policies({"a": [1]}, {"a": [True]}, {"a": [1.0]}), Seen(body={"a": True}))
@example(body_policies({"a": [1]}, {"a": [True]}, {"a": [1.0]}), Seen(body={"a": [[1.0]]}))
@example(body_policies({"a": {"b": ["x"]}}, {"a.b": ["x"]}), Seen(body={"a": [{"b": "x"}]}))
@example(body_policies({"a": {"b": ["x"]}}, {"a.b": ["x"]}), Seen(body={"a.b": ["y", "x"]}))
@example(body_policies({"a": [None, 0.1234561]}), Seen(body={"a": 0.1234569}))
@example(body_policies({"a": [10**30]}, {"a": [2**80]}), Seen(body={"a": 1e30}))
@settings(max_examples=examples(100))
def test_the_index_answers_as_each_policy_by_itself(
    policies: list[FilterPolicy | None], seen: Seen
) -> None:
    index = FilterIndex(policies)

    assert index.matching(seen) == one_by_one(policies, seen)
    assert index.matching(seen) == one_by_one(policies, seen), "an answer changed the index"


@given(policies=policies, seen=seen, keys=st.lists(names, min_size=1, max_size=3, unique=True))
@settings(max_examples=examples(50))
def test_the_index_finds_the_policies_that_an_event_was_made_for(
    policies: list[FilterPolicy | None], seen: Seen, keys: list[str]
) -> None:
    """Few random events pass. Here each has the fields of the last policy."""
    made = FilterPolicy.parse({key: ["here", 7] for key in keys}, "MessageBody")
    body = {**(seen.body if isinstance(seen.body, dict) else {}), **dict.fromkeys(keys, 7.0)}
    seen = Seen(seen.attributes, body)

    found = FilterIndex([*policies, made]).matching(seen)
    assert found == one_by_one([*policies, made], seen)
    assert found[-1:] == [len(policies)]


def test_nothing_of_an_event_is_read_that_no_policy_asks_for() -> None:
    assert FilterIndex([]).matching(Unread()) == []
    assert FilterIndex([None, None]).matching(Unread()) == [0, 1]


@pytest.mark.parametrize("scope", ["MessageAttributes", "MessageBody"])
def test_only_the_part_that_a_policy_asks_for_is_read(scope: Any) -> None:
    class Half(Unread):
        if scope == "MessageBody":
            body = {"a": "x"}
        else:
            attributes = {"a": "x"}

    index = FilterIndex([FilterPolicy.parse({"a": ["x"]}, scope), None])

    assert index.matching(Half()) == [0, 1]


def test_a_policy_of_one_value_is_not_evaluated(monkeypatch: pytest.MonkeyPatch) -> None:
    index = FilterIndex([FilterPolicy.parse({"a": ["x", "y"]}, "MessageBody")])
    monkeypatch.delattr(FilterPolicy, "matches_body")

    assert index.matching(Seen(body={"a": "y", "b": 1})) == [0]
    assert index.matching(Seen(body={"a": "z"})) == []


@pytest.mark.parametrize("scope", ["MessageAttributes", "MessageBody"])
def test_sixteen_times_the_filters_do_not_cost_twice_the_time(scope: Any) -> None:
    """Each event passes one of them, and all of them share the value of another field."""

    def spent_s(count: int) -> float:
        events = [{"kind": f"k{n % count}", "zone": "eu", "n": n} for n in range(300)]
        index = FilterIndex(
            [
                FilterPolicy.parse({"zone": ["eu"], "kind": [f"k{n}"]}, scope)
                for n in range(count)
            ]
        )  # fmt: skip
        seen = [Seen(event, event) for event in events]
        began_s = time.thread_time()
        assert [index.matching(each) for each in seen] == [[n % count] for n in range(300)]
        return time.thread_time() - began_s

    gc.disable()  # a pass over all that other tests left would count for one of them
    try:
        pairs = [(spent_s(64), spent_s(1024)) for _ in range(5)]
    finally:
        gc.enable()

    assert min(large for _, large in pairs) < 2 * min(small for small, _ in pairs)
