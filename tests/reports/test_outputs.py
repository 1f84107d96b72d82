"""Outputs become columns all at once, and are the same as those of each output alone."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from decimal import Decimal
from typing import Any

import pandas as pd
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from pandas.testing import assert_frame_equal

from mltrigger.errors import InvalidEvent
from mltrigger.event import codec
from mltrigger.reports import frames, outputs
from mltrigger.text import harmless_value

EXAMPLES = settings(max_examples=300, deadline=None)
SCHEMA = frames.ENDED
ALONE = st.one_of(
    st.none(),
    st.booleans(),
    st.integers() | st.sampled_from([2**53 + 1, 2**63 - 1, 2**63, 2**64, -(2**63) - 1, 10**30]),
    st.floats(),
    st.text()
    | st.sampled_from(["", "\x1b[31m", "\u202e", "\x1e", "a\x1fb", "$", "2020-01-01", "null"]),
    st.binary(max_size=3),
    st.decimals(allow_nan=False, allow_infinity=False),
)
KEYS = st.sampled_from(["n", "é", "output", "error", "output_error", "\x1b", "\\u001b", "$n", ""])
VALUES = st.recursive(
    ALONE, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(KEYS, inner, max_size=3)
)
SOME = st.none() | VALUES.map(codec.dumps)
"""Outputs as they are stored. Some events have none."""
ALIKE = st.sampled_from([st.integers(), st.floats(), st.text(), st.booleans()]).flatmap(
    lambda one: st.lists(one.map(codec.dumps) | st.none(), max_size=6)
)


def each_alone(given_: list[str | None], schema: Mapping[str, Any]) -> dict[str, Any]:
    """Return the columns of outputs that are read one by one."""
    read = [_alone(output, schema) for output in given_]
    keys = list(dict.fromkeys(key for output in read for key in output)) or ["output"]
    return {key: frames.values([output.get(key) for output in read]) for key in keys}


def _alone(output: str | None, schema: Mapping[str, Any]) -> dict[str, Any]:
    if output is None:
        return {}
    value = codec.loads(output)
    if "\\" in output or not output.isprintable():
        value = harmless_value(value)
    if not isinstance(value, dict):
        return {"output": value}
    return {f"output_{key}" if key in schema else key: v for key, v in value.items()}


def framed(columns: dict[str, Any], n: int) -> pd.DataFrame:
    return frames.beside(pd.DataFrame(index=range(n)), columns)


@pytest.mark.parametrize(
    "storage", ["python", pytest.param("pyarrow", marks=pytest.mark.needs("pyarrow"))]
)
@given(given_=st.lists(SOME, max_size=6) | ALIKE)
@example(given_=['{"error":1,"output_error":2}', '{"output_error":3,"error":4}'])
@example(given_=['{"a":1}', "null", None, "[1,{}]", '{"output":5}'])
@example(given_=["{}", None, "{}"])
@example(given_=[None, None])
@example(given_=['{"a":"x\\ny"}', '{"a":"\\u202e"}', '"plain"'])
@example(given_=["1", None, "9223372036854775807"])
@example(given_=['{"$numberDouble":"NaN"}', "1.5", '{"$binary":{"base64":"AAE=","subType":"00"}}'])
@EXAMPLES
def test_outputs_become_the_columns_of_each_alone(storage: str, given_: list[str | None]) -> None:
    with pd.option_context("mode.string_storage", storage):
        found = framed(outputs.columns(given_, SCHEMA), len(given_))
        expected = framed(each_alone(given_, SCHEMA), len(given_))

    assert list(found) == list(expected)
    assert_frame_equal(found, expected)
    assert repr(found.to_dict("list")) == repr(expected.to_dict("list"))


def test_values_that_json_does_not_know_come_back() -> None:
    values: list[Any] = [math.inf, b"\x00", Decimal("1.10"), 10**30, 1]

    (column,) = outputs.columns([codec.dumps(value) for value in values], SCHEMA).values()

    assert column == values


def test_a_damaged_output_is_refused() -> None:
    for damaged in ("NaN", "[1", "", "1 2", json.dumps("\ud800"), "[" * 101 + "]" * 101):
        with pytest.raises(InvalidEvent):
            outputs.columns(["1", damaged, "2]"], SCHEMA)
