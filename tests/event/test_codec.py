"""JSON in and out: what comes back, what is refused, and with which words."""

from __future__ import annotations

import collections
import dataclasses
import datetime as dt
import decimal
import enum
import gc
import json
import math
import pathlib
import types
import uuid
import warnings
from collections.abc import Iterator
from typing import Any

import numpy as np
import pandas as pd
import pydantic
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from slow import examples

from mltrigger.errors import InvalidEvent, NotEncodable
from mltrigger.event import codec

EXAMPLES = settings(max_examples=examples(40))
SCALARS = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(max_size=10)
)
# A key that begins with $ may be a tag; those have their own tests.
KEYS = st.text(max_size=8).filter(lambda key: not key.startswith("$"))
VALUES = st.recursive(
    SCALARS,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(KEYS, inner, max_size=4),
    max_leaves=10,
)
TAGGED = st.recursive(
    st.floats() | st.binary(max_size=20) | st.decimals(allow_nan=False) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(KEYS, inner, max_size=4),
    max_leaves=8,
)


class Colour(enum.Enum):
    RED = "red"


class Level(enum.IntEnum):
    HIGH = 3


class Tone(enum.StrEnum):
    WARM = "warm"


@dataclasses.dataclass
class Box:
    label: str
    corners: tuple[int, int]
    extra: Any = None


class Page(pydantic.BaseModel):
    number: int
    seen: dt.date


def nested(levels: int, inner: Any = None) -> Any:
    """Return *levels* lists, one in the other."""
    value = [] if inner is None else [inner]
    for _ in range(levels - 1):
        value = [value]
    return value


def refuse_constant(literal: str) -> None:
    raise AssertionError(f"{literal} is not JSON")


# -- round trips -----------------------------------------------------------------------------------


@given(VALUES)
@EXAMPLES
def test_plain_json_values_come_back_equal(value: Any) -> None:
    text = codec.dumps(value)

    assert codec.loads(text) == value
    assert codec.loads(text.encode()) == value
    assert json.loads(text.encode(), parse_constant=refuse_constant) == value, (
        "another reader sees something else"
    )


@given(TAGGED)
@EXAMPLES
def test_numbers_and_bytes_that_json_does_not_know_come_back_by_their_tags(value: Any) -> None:
    text = codec.dumps(value)

    json.loads(text, parse_constant=refuse_constant)
    assert repr(codec.loads(text)) == repr(value)


@given(VALUES | TAGGED)
@EXAMPLES
def test_the_fast_reader_of_our_own_text_agrees_with_the_strict_one(value: Any) -> None:
    text = codec.dumps(value)

    assert repr(codec.loads_own(text.encode())) == repr(codec.loads(text))


@pytest.mark.parametrize(
    ("value", "tag"),
    [
        (math.nan, {"$numberDouble": "NaN"}),
        (math.inf, {"$numberDouble": "Infinity"}),
        (-math.inf, {"$numberDouble": "-Infinity"}),
        (decimal.Decimal("1.10"), {"$numberDecimal": "1.10"}),
        (b"\x00\xff", {"$binary": {"base64": "AP8=", "subType": "00"}}),
        (bytearray(b"a"), {"$binary": {"base64": "YQ==", "subType": "00"}}),
        (memoryview(b"a"), {"$binary": {"base64": "YQ==", "subType": "00"}}),
    ],
)
def test_what_json_cannot_say_is_tagged_as_extended_json(value: Any, tag: dict[str, Any]) -> None:
    assert json.loads(codec.dumps(value)) == tag


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (Colour.RED, "red"),
        ([Level.HIGH, Tone.WARM], [3, "warm"]),
        ([Level.HIGH, math.inf], [3, math.inf]),
        ((1, (2, 3)), [1, [2, 3]]),
        ({3, 1, 2}, [1, 2, 3]),
        (frozenset({"b", "a"}), ["a", "b"]),
        (types.MappingProxyType({"a": (1,)}), {"a": [1]}),
        (dt.datetime(2026, 11, 23, 9, 30, tzinfo=dt.UTC), "2026-11-23T09:30:00+00:00"),
        (dt.date(2026, 11, 23), "2026-11-23"),
        (dt.time(9, 30), "09:30:00"),
        (dt.timedelta(seconds=1.5), 1.5),
        (uuid.UUID(int=1), "00000000-0000-0000-0000-000000000001"),
        (pathlib.PurePosixPath("scans/a.png"), "scans/a.png"),
        (
            Box("a", (1, 2), Box("b", (3, 4))),
            {
                "label": "a",
                "corners": [1, 2],
                "extra": {"label": "b", "corners": [3, 4], "extra": None},
            },
        ),
        (Page(number=1, seen=dt.date(2026, 1, 2)), {"number": 1, "seen": "2026-01-02"}),
        ({1: "a", Tone.WARM: "b"}, {"1": "a", "warm": "b"}),
    ],
)
def test_python_values_with_a_natural_json_form_lose_only_their_type(
    value: Any, expected: Any
) -> None:
    assert codec.loads(codec.dumps(value)) == expected


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (np.float32(1.5), 1.5),
        (np.float64(1.5), 1.5),
        (np.int64(2**62), 2**62),
        (np.uint8(255), 255),
        (np.bool_(True), True),
        (np.str_("a"), "a"),
        (np.bytes_(b"a"), b"a"),
        (np.array(7), 7),
        (np.array([[1, 2], [3, 4]]), [[1, 2], [3, 4]]),
        (np.array([1.0, np.inf]), [1.0, math.inf]),
        (np.array([], dtype=float), []),
        (np.array([("a", 1)], dtype=[("name", "U1"), ("n", int)]), [{"name": "a", "n": 1}]),
        (
            np.array([("a", (1, 2))], dtype=[("name", "U1"), ("at", [("x", int), ("y", int)])])[0],
            {"name": "a", "at": {"x": 1, "y": 2}},
        ),
        (np.datetime64("2026-11-23T09:30:00"), "2026-11-23T09:30:00"),
        (np.datetime64("NaT"), None),
        ({np.int64(3): [np.float32(0.5)]}, {"3": [0.5]}),
    ],
)
def test_numpy_values_become_plain_ones(value: Any, expected: Any) -> None:
    assert codec.loads(codec.dumps(value)) == expected


@pytest.mark.parametrize("value", [np.float32("nan"), np.float64("nan"), np.array([np.nan])])
def test_a_numpy_nan_is_still_a_nan(value: Any) -> None:
    found = codec.loads(codec.dumps(value))

    assert math.isnan(found[0] if isinstance(found, list) else found)


@pytest.mark.parametrize("unit", ["D", "s", "us", "ns"])
def test_instants_of_an_array_are_iso_8601_text_whatever_their_unit(unit: str) -> None:
    found = codec.loads(codec.dumps(np.array(["2026-11-23", "NaT"], dtype=f"datetime64[{unit}]")))

    assert isinstance(found[0], str), f"the instant became {found[0]!r}"
    assert dt.datetime.fromisoformat(found[0]) == dt.datetime(2026, 11, 23)
    assert found[1] is None


def test_a_long_double_is_a_number() -> None:
    assert codec.loads(codec.dumps({"score": np.longdouble("1.5")})) == {"score": 1.5}


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (pd.NA, None),
        (pd.NaT, None),
        (pd.Timestamp("2026-11-23", tz="UTC"), "2026-11-23T00:00:00+00:00"),
        (pd.Timedelta("1s"), 1.0),
        (pd.Series([1, 2], index=["a", "b"]), {"a": 1, "b": 2}),
        (pd.DataFrame({"a": ["x", "y"], "b": [1, 2]}).iloc[1], {"a": "y", "b": 2}),
        (pd.Series([1, 2], index=[7, 8]), [1, 2]),
        (pd.Series([1, 2], index=pd.to_datetime(["2026-11-23", "2026-11-24"])), [1, 2]),
        (pd.Series([True, pd.NA], dtype="boolean"), [True, None]),
        (pd.Series([1, None], dtype="Int64"), [1, None]),
        (pd.Series(pd.to_datetime(["2026-11-23", None])), ["2026-11-23T00:00:00", None]),
        (pd.Index(["a", "b"]), ["a", "b"]),
        (pd.Categorical(["a", "b"]), ["a", "b"]),
        (pd.array([1, None], dtype="Int64"), [1, None]),
        (pd.Period("2026-11"), "2026-11"),
        (pd.DataFrame({"n": [1, 2], "t": ["x", "y"]}), [{"n": 1, "t": "x"}, {"n": 2, "t": "y"}]),
        (pd.DataFrame({"n": []}), []),
        ({"frame": pd.DataFrame({0: [1.5]})}, {"frame": [{"0": 1.5}]}),
        (
            pd.DataFrame({"v": [4, 2]}, index=pd.Index([7, 8], name="k")),
            [{"k": 7, "v": 4}, {"k": 8, "v": 2}],
        ),
        (
            pd.DataFrame({"v": [4, 2]}, index=["min", "max"]),
            [{"index": "min", "v": 4}, {"index": "max", "v": 2}],
        ),
        (pd.DataFrame({"v": [4, 2]}, index=[7, 3]), [{"v": 4}, {"v": 2}]),
        (
            pd.DataFrame({"k": ["x", "y"], "n": [1, 2]}).groupby(["k", "n"]).size(),
            [{"k": "x", "n": 1, "value": 1}, {"k": "y", "n": 2, "value": 1}],
        ),
    ],
)
def test_pandas_values_become_records_and_lists_with_null_for_what_is_missing(
    value: Any, expected: Any
) -> None:
    assert codec.loads(codec.dumps(value)) == expected


def test_the_order_of_a_set_does_not_depend_on_its_hashes() -> None:
    words = [f"word {i}" for i in range(50)]

    assert codec.loads(codec.dumps(set(words))) == sorted(words)


def test_text_about_brackets_and_escapes_is_only_text() -> None:
    value = ["[{" * 500, "\\ud800", '"$numberDouble"', "\u2028\x00", "Zürich 😀"]

    assert codec.loads(codec.dumps(value)) == value


# -- tags ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "value",
    [
        {"$numberDouble": "1.5"},
        {"$numberDouble": ["NaN"]},
        {"$numberDouble": "NaN", "unit": "ms"},
        {"$numberDecimal": "about 3"},
        {"$numberDecimal": 3},
        {"$binary": 1},
        {"$binary": {"base64": 1}},
        {"$binary": {"base64": "not base64!"}},
        {"$binary": {"base64": "é"}},
        {"$binary": {"base64": "eA==", "subType": "05"}},
        {"$binary": {"base64": "eA==", "subType": "00", "name": "x"}},
        {"$numberLong": "1"},
        {"$date": "2026-11-23"},
        {"$": None},
    ],
)
def test_what_only_looks_like_a_tag_stays_as_it_is(value: dict[str, Any]) -> None:
    assert codec.loads(json.dumps(value)) == value
    assert codec.loads(codec.dumps({"deep": [value]})) == {"deep": [value]}


# -- what cannot be encoded ------------------------------------------------------------------------


def letters() -> Iterator[str]:
    yield "a"


@pytest.mark.parametrize(
    ("value", "says"),
    [
        (lambda: 0, "function"),
        (print, "builtin_function_or_method"),
        (Box, "type"),
        (1j, "complex"),
        (letters(), "generator"),
        (object(), "object"),
    ],
)
def test_a_value_without_a_json_form_is_named_by_its_path(value: Any, says: str) -> None:
    with pytest.raises(NotEncodable, match=r"^\$\.pages\[1\]\.model: ") as caught:
        codec.dumps({"pages": [0, {"model": value}]})

    assert says in str(caught.value)
    assert "0x" not in str(caught.value)


def test_a_part_of_a_dataclass_without_a_json_form_is_named_by_its_path() -> None:
    with pytest.raises(NotEncodable, match=r"^\$\[0\]\.extra\[0\]: "):
        codec.dumps([Box("a", (1, 2), extra=[object()])])


def test_a_coroutine_is_refused_and_closed_so_that_python_does_not_warn_of_it() -> None:
    async def answer() -> int:
        return 1

    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        with pytest.raises(NotEncodable, match=r"^\$\.answer: a coroutine"):
            codec.dumps({"answer": answer()})
        gc.collect()

    assert [str(w.message) for w in caught] == []


def test_a_value_that_contains_itself_is_refused() -> None:
    mapping: dict[str, Any] = {}
    mapping["self"] = [mapping]

    with pytest.raises(NotEncodable, match=r"^\$\.self\[0\]\.self.*contains itself"):
        codec.dumps(mapping)


@pytest.mark.parametrize("levels", [1, 99, 100])
def test_a_hundred_levels_go_out_and_come_back(levels: int) -> None:
    assert codec.loads(codec.dumps(nested(levels))) == nested(levels)
    assert codec.loads(codec.dumps(nested(levels, inner="x"))) == nested(levels, inner="x")


@pytest.mark.parametrize("levels", [101, 900, 50_000])
def test_more_than_a_hundred_levels_are_refused_in_both_directions(levels: int) -> None:
    with pytest.raises(NotEncodable, match="nested deeper than 100 levels"):
        codec.dumps(nested(levels))
    with pytest.raises(InvalidEvent, match="nested deeper than 100 levels"):
        codec.loads("[" * levels + "]" * levels)


@pytest.mark.parametrize("key", [(1, 2), b"a", Colour.RED, frozenset()])
def test_a_key_without_a_text_form_is_named_by_its_path(key: Any) -> None:
    with pytest.raises(NotEncodable, match=r"^\$\.counts: a key of type"):
        codec.dumps({"counts": {key: 1}})


@pytest.mark.parametrize("key", [1, np.int64(1), True, None, 1.5])
def test_a_key_means_the_same_beside_plain_and_beside_tagged_values(key: Any) -> None:
    def keys(neighbour: Any) -> Any:
        try:
            return list(json.loads(codec.dumps({key: neighbour})))
        except NotEncodable as error:
            return str(error)

    assert keys(1) == keys(math.nan)


@pytest.mark.parametrize(
    ("value", "path"),
    [
        ("\ud800", r"\$"),
        ({"pages": [{"text": "a\udfffb"}]}, r"\$\.pages\[0\]\.text"),
        ([Box("\ud800", (1, 2))], r"\$\[0\]\.label"),
        ({"words": pd.Series(["a", "\ud800"], dtype=object)}, r"\$\.words\[1\]"),
    ],
    ids=["alone", "in a list", "in a dataclass", "in a series"],
)
def test_a_lone_surrogate_is_refused_with_its_path(value: Any, path: str) -> None:
    with pytest.raises(NotEncodable, match=rf"^{path}: .*surrogate"):
        codec.dumps(value)


@pytest.mark.parametrize(
    "value",
    [{"\ud800": 1}, types.MappingProxyType({"\ud800": 1}), {"\ud800"}],
    ids=["dict", "mapping", "set"],
)
def test_a_lone_surrogate_hides_neither_in_keys_nor_in_sets(value: Any) -> None:
    with pytest.raises(NotEncodable, match="surrogate"):
        codec.dumps(value)


@pytest.mark.parametrize(
    "value",
    [10**5000, [{"n": 10**5000}], [10**5000, math.nan]],
    ids=["alone", "deep", "beside a NaN"],
)
def test_an_integer_beyond_what_python_writes_is_not_encodable(value: Any) -> None:
    with pytest.raises(NotEncodable):
        codec.dumps(value)


# -- objects that defend themselves ----------------------------------------------------------------


class BadRepr:
    def __repr__(self) -> str:
        raise GeneratorExit("repr")


class BadProperty:
    @property
    def model_dump(self) -> Any:
        raise RuntimeError("property")


class BadList(list[Any]):
    def __iter__(self) -> Iterator[Any]:
        raise RuntimeError("iter")


class BadMapping(dict[str, Any]):
    def items(self) -> Any:
        raise RuntimeError("items")


class BadDump(pydantic.BaseModel):
    def model_dump(self, **_: Any) -> Any:
        raise RuntimeError("dump")


@dataclasses.dataclass
class BadField:
    name: str = "a"

    def __getattribute__(self, name: str) -> Any:
        if name == "name":
            raise RuntimeError("field")
        return object.__getattribute__(self, name)


def test_an_object_whose_repr_raises_is_refused_by_its_type_name() -> None:
    with pytest.raises(NotEncodable, match=r"^\$\[0\]: .*'BadRepr'"):
        codec.dumps([BadRepr()])


@pytest.mark.parametrize(
    "value", [BadProperty(), BadList([object()]), BadMapping(a=object()), BadDump(), BadField()]
)
def test_an_object_that_raises_while_it_is_read_is_not_encodable(value: Any) -> None:
    with pytest.raises(NotEncodable):
        codec.dumps({"answer": value})


# -- strict reading (BI-…: the catalogue of bad inputs) --------------------------------------------


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        pytest.param("  \n\t ", "malformed_json", id="BI-002 whitespace only"),
        pytest.param("", "malformed_json", id="nothing at all"),
        pytest.param("hello", "malformed_json", id="BI-005 plain text"),
        pytest.param('{"a": 1} {"b": 2}', "malformed_json", id="two documents"),
        pytest.param('{"a": 1,}', "malformed_json", id="trailing comma"),
        pytest.param("{'a': 1}", "malformed_json", id="single quotes"),
        pytest.param('"a\nb"', "malformed_json", id="raw control character"),
        pytest.param("01", "malformed_json", id="leading zero"),
        pytest.param('{"x": NaN}', "non_finite_number", id="BI-007 NaN"),
        pytest.param("[Infinity]", "non_finite_number", id="BI-007 Infinity"),
        pytest.param("-Infinity", "non_finite_number", id="BI-007 -Infinity"),
        pytest.param('{"x": 1e999}', "number_out_of_range", id="BI-008 overflow"),
        pytest.param("-1e999", "number_out_of_range", id="BI-008 negative overflow"),
        pytest.param("1" * 5000, "number_out_of_range", id="BI-010 5,000 digits"),
        pytest.param("[" * 100_000 + "]" * 100_000, "nesting_too_deep", id="BI-011 100,000 levels"),
        pytest.param(
            '{"a":' * 100_000 + "1" + "}" * 100_000, "nesting_too_deep", id="BI-011 100,000 objects"
        ),
        pytest.param("[" * 900 + "]" * 900, "nesting_too_deep", id="BI-012 900 levels"),
        pytest.param('"\\ud800"', "invalid_unicode", id="BI-014 lone surrogate"),
        pytest.param('{"\\udc00": 1}', "invalid_unicode", id="BI-014 lone surrogate in a key"),
        pytest.param('["\ud800"]', "invalid_unicode", id="BI-014 lone surrogate, not escaped"),
    ],
)
def test_text_that_is_not_strict_json_is_refused_with_a_reason_code(text: str, reason: str) -> None:
    with pytest.raises(InvalidEvent) as caught:
        codec.loads(text)

    assert caught.value.reason == reason
    assert len(str(caught.value)) < 300


@pytest.mark.parametrize("encoding", ["utf-16", "utf-32", "utf-16-be", "latin-1"])
def test_other_encodings_than_utf_8_are_refused(encoding: str) -> None:
    """BI-017."""
    with pytest.raises(InvalidEvent) as caught:
        codec.loads('{"name":"é"}'.encode(encoding))

    assert caught.value.reason == "unsupported_encoding"


@pytest.mark.parametrize(
    "number",
    [2**63, 2**64, -(2**64), int("1" * 4300)],
    ids=["2**63", "2**64", "-2**64", "4,300 digits"],
)
def test_a_huge_integer_stays_exact(number: int) -> None:
    """BI-009."""
    assert codec.loads(str(number)) == number
    assert codec.loads(codec.dumps(number)) == number


def test_a_surrogate_pair_is_one_character() -> None:
    assert codec.loads('"\\ud83d\\ude00"') == "😀"


# -- names -----------------------------------------------------------------------------------------

Car = collections.namedtuple("Car", ["make", "year"])


@pytest.mark.parametrize(
    "around",
    [lambda car: car, lambda car: [car], lambda car: {"car": car}, lambda car: (1, {"n": [car]})],
)
def test_a_named_tuple_is_an_object_wherever_it_stands(around: Any) -> None:
    assert codec.loads(codec.dumps(around(Car("Volvo", 1987)))) == json.loads(
        json.dumps(around({"make": "Volvo", "year": 1987}))
    )


@pytest.mark.parametrize(
    "value",
    [
        {2026: "plan", "2026": "actual"},
        {True: "yes", "true": "no"},
        {None: 0, "null": 1},
        [{"deep": [{1: "a", "1": "b", "x": {}}]}],
        {"a": {"b": {1.5: 0, "1.5": 1}}, "c": {}},
        pd.DataFrame([[1, 2]], columns=["a", "a"]),
        pd.DataFrame([[1, 2]], columns=[0, "0"]),
        pd.Series([1, 2], index=["a", "a"]),
    ],
)
def test_names_that_become_the_same_text_are_refused(value: Any) -> None:
    with pytest.raises(
        NotEncodable,
        match=r"^\$\S*: (two keys that become the same text|the name '\w' stands for two values)",
    ):
        codec.dumps(value)
