"""The fast JSON of events says what the strict one says, in value and in refusal."""

from __future__ import annotations

import collections
import dataclasses
import datetime as dt
import enum
import json
import math
import uuid
from typing import Any

import numpy as np
import orjson
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from slow import examples

from mltrigger.errors import InvalidEvent, NotEncodable
from mltrigger.event import codec
from mltrigger.event.values import STRICT, plain

EXAMPLES = settings(max_examples=examples(100))


class Text(str):
    __slots__ = ()


class Number(float):
    def __float__(self) -> float:
        return math.nan


class Mapping(dict[Any, Any]):
    pass


class Row(list[Any]):
    pass


class Colour(enum.Enum):
    RED = "red"
    NONE = math.nan


class Level(enum.IntEnum):
    HIGH = 3


Pair = collections.namedtuple("Pair", ["left", "right"])


@dataclasses.dataclass
class Box:
    label: Any


def deep(levels: int) -> Any:
    value: Any = None
    for level in range(levels):
        value = [value] if level % 2 else {"a": value}
    return value


KEYS = st.text(max_size=4) | st.sampled_from(
    ["a", "b", "null", "$binary", "$numberDouble", Text("a"), Colour.RED, 1, True, None, 1.5, "\udc00"]
)  # fmt: skip
SCALARS = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.integers(2**63 - 2, 2**64 + 2)
    | st.integers(-(2**63) - 2, -(2**63) + 2)
    | st.floats()
    | st.text(max_size=8)
    | st.text(st.characters(), max_size=3)
    | st.just(5000).map(lambda digits: 10**digits)  # it has no repr
    | st.binary(max_size=4)
    | st.decimals()
    | st.datetimes()
    | st.uuids()
    | st.sampled_from([math.nan, math.inf, -0.0, 5e-324, 1e16, 1e-5, 1.7e308, "null", "[{\u2028\x7f\x00"])
    | st.sampled_from([2**200, "\ud800", Text("t"), Number(1.5), Colour.RED, Colour.NONE, Level.HIGH])
    | st.sampled_from([Box(math.nan), Box(None), Pair(1, None), orjson.Fragment(b'"x"'), orjson.Fragment(b"\xff")])
    | st.sampled_from([object(), len, 1j, dt.date(2026, 1, 2), uuid.UUID(int=3), np.float64("nan"), np.int64(3)])
    | st.sampled_from([{3, 1}, frozenset(), deep(99), deep(100), deep(101), deep(254), deep(300), np.array([1.0])])
)  # fmt: skip
HOSTILE = st.recursive(
    SCALARS,
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.lists(inner, max_size=3).map(tuple)
        | st.lists(inner, max_size=3).map(Row)
        | st.dictionaries(KEYS, inner, max_size=4)
        | st.dictionaries(KEYS, inner, max_size=2).map(Mapping)
        | st.tuples(inner, inner).map(Pair._make)
        | inner.map(Box)
    ),
    max_leaves=12,
)


def outcome(call: Any) -> str:
    """Return the value of *call* or its refusal, as text."""
    try:
        return repr(call())
    except (NotEncodable, InvalidEvent) as error:
        return f"{type(error).__name__} {error}"
    except Exception as error:
        return type(error).__name__


def strictly(value: Any) -> bytes:
    """Return the JSON of *value* as Python's own encoder writes it."""
    try:
        return STRICT(plain(value, "$", 0, False)).encode()
    except NotEncodable:
        raise
    except RecursionError as error:
        raise NotEncodable("$: a value whose conversion never ends") from error
    except Exception as error:
        raise NotEncodable(f"$: reading the value failed with {type(error).__name__}") from error


@given(HOSTILE)
@example({"a": None, "b": [math.nan]})
@example([None, math.inf, "null"])
@example({"a": orjson.Fragment(b"]")})
@example([[[]] * 300])
@example([deep(99), *[[]] * 300])
@example([[deep(99)], *[[]] * 300])
@EXAMPLES
def test_what_is_written_fast_is_what_is_written_strictly(value: Any) -> None:
    expected = outcome(lambda: json.loads(strictly(value)))

    assert outcome(lambda: json.loads(codec.encode(value))) == expected
    assert outcome(lambda: json.loads(codec.dumps(value))) == expected


@given(HOSTILE)
@EXAMPLES
def test_what_was_written_is_read_fast_as_it_is_read_strictly(value: Any) -> None:
    try:
        raw = codec.encode(value)
    except NotEncodable:
        return

    assert repr(codec.loads_own(raw)) == repr(codec.loads(raw))
    assert repr(codec.loads_untagged(raw)) == repr(json.loads(raw))


NUMBERS = st.from_regex(r"-?(0|[1-9][0-9]{0,40})(\.[0-9]{1,40})?([eE][+-]?[0-9]{1,4})?", fullmatch=True)  # fmt: skip
PIECES = st.sampled_from(
    [
        *('"a"', '"a":', "{", "}", "[", "]", ",", ":", " ", "\n", "null", "true", "false", "NaN"),
        *("-Infinity", "1e999", "-0", "01", ".5", "1.", '"\\u0041"', '"\\ud83d\\ude00"', '"\\ud800"'),
        *('"\\u0024numberDouble"', '"$numberDouble":"NaN"', '"\t"', '"é\u2028"', "\ufeff", "'", "//"),
    ]
)  # fmt: skip
TEXTS = st.lists(PIECES | NUMBERS, max_size=8).map("".join) | HOSTILE.map(
    lambda value: (
        json.dumps(value, default=repr, skipkeys=True)
        if outcome(lambda: json.dumps(value, default=repr, skipkeys=True)) != "ValueError"
        else "1"
    )
)


@given(TEXTS)
@example('{"a":1,"a":2}')
@example("1" * 4300)
@example("[" + "9" * 400 + "]")
@example("0e999")
@example("9007199254740993.0")
@example("0.1000000000000000055511151231257827021181583404541015625")
@EXAMPLES
def test_text_of_others_that_was_accepted_is_read_fast_as_it_is_read_strictly(text: str) -> None:
    raw = text.encode(errors="surrogatepass")
    try:
        expected = codec.loads(raw)
    except InvalidEvent:
        return  # it never comes to the fast reader
    stripped = codec.unmarked(raw).strip()

    assert repr(codec.loads_own(stripped)) == repr(expected)
    assert repr(codec.loads_own(raw)) == repr(expected)
    assert repr(codec.loads_untagged(stripped)) == repr(json.loads(stripped))


@given(st.lists(TEXTS, max_size=4))
@example(["[1", "2]"])
@example(["1,2", ""])
@example(["1", '{"$numberDouble": "NaN"}', "\ufeff2"])
@example([r'{"\u0024numberDecimal": "1.0"}', "[" * 101 + "]" * 101, "1e999"])
@example(['["' + "[" * 200 + '"]', "[" * 100 + "]" * 100, "[]"])
@EXAMPLES
def test_many_texts_are_read_as_each_of_them_by_itself(texts: list[str]) -> None:
    expected = outcome(lambda: [codec.loads(text) for text in texts])

    assert outcome(lambda: codec.loads_each(texts)) == expected


@given(st.floats(allow_nan=False, allow_infinity=False))
@EXAMPLES
def test_a_float_comes_back_to_the_last_bit(number: float) -> None:
    assert codec.loads_own(codec.encode(number)).hex() == number.hex()
    assert codec.loads_own(repr(number).encode()).hex() == number.hex()


@pytest.mark.parametrize("raw", [b"NaN", b"[1e999]", b"\xff", b"{", b'"\\ud800"', b"1" * 5000])
def test_the_fast_reader_refuses_as_the_strict_one(raw: bytes) -> None:
    assert outcome(lambda: codec.loads_own(raw)) == outcome(lambda: codec.loads(raw))


def test_ready_made_json_of_the_library_is_refused_wherever_it_stands() -> None:
    for value in (
        orjson.Fragment(b"{}"),
        [orjson.Fragment(b"{}")],
        {"a": (orjson.Fragment(b"1"),)},
    ):
        with pytest.raises(NotEncodable, match="Fragment"):
            codec.encode(value)
