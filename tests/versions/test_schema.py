"""Schemas: what fits, what is refused and in which words, and what the type hints of a model say."""

from __future__ import annotations

import dataclasses
import datetime as dt
import functools
import http.server
import json
import math
import subprocess
import sys
import threading
import typing
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from decimal import Decimal
from typing import Annotated, Any, Literal, NewType, NotRequired, TypedDict

import jsonschema
import numpy as np
import pandas as pd
import pydantic
import pytest
import typing_extensions
from hypothesis import given, settings
from hypothesis import strategies as st
from slow import examples

import mltrigger as mt
from mltrigger.errors import InvalidModel, ModelFailure
from mltrigger.event import codec
from mltrigger.event.event import Event
from mltrigger.versions.schema.mismatch import MAX_DATA
from mltrigger.versions.schema.schema import Schema, inferred, schema_of


class Page(pydantic.BaseModel):
    number: int
    text: str | None = None


class Priced(pydantic.BaseModel):
    page: Page
    price: float = 0.0
    tags: list[str] = []
    choice: int | str | None = None
    when: dt.date | None = None
    kind: Literal["invoice", "letter"] = "letter"

    @pydantic.field_validator("price")
    @classmethod
    def positive(cls, price: float) -> float:
        if price < 0:
            raise ValueError(f"must be positive, not {price}")
        return price


@dataclasses.dataclass
class Scan:
    number: int
    taken_at: dt.datetime | None = None
    size: tuple[float, ...] = ()


class Row(TypedDict):
    number: int
    taken_at: NotRequired[dt.datetime]


class Table(TypedDict):
    rows: list[Row]


class Node(pydantic.BaseModel):
    value: int
    children: list[Node] = []


DOCUMENT = {
    "type": "object",
    "properties": {
        "items": {"type": "array", "items": {"$ref": "#/$defs/Item"}},
        "page": {"anyOf": [{"type": "integer"}, {"type": "null"}]},
        "kind": {"enum": ["invoice", "letter"]},
        "code": {"pattern": "^[A-Z]"},
    },
    "required": ["items", "page"],
    "additionalProperties": False,
    "$defs": {
        "Item": {
            "type": "object",
            "properties": {"price": {"type": "number", "minimum": 0}},
            "required": ["price"],
        }
    },
}
RECURSIVE = {
    "$ref": "#/$defs/N",
    "$defs": {
        "N": {
            "properties": {
                "value": {"type": "integer"},
                "children": {"items": {"$ref": "#/$defs/N"}},
            }
        }
    },
}


def refused(schema: Schema, value: Any) -> str:
    with pytest.raises(ModelFailure) as caught:
        schema.accept(value)
    assert (caught.value.reason, caught.value.permanent, caught.value.kind) == (
        "invalid_input",
        True,
        "InvalidInput",
    )
    return str(caught.value)


def refused_output(schema: Schema, value: Any) -> str:
    with pytest.raises(ModelFailure) as caught:
        schema.accept_output(value)
    assert (caught.value.reason, caught.value.permanent, caught.value.kind) == (
        "invalid_output",
        True,
        "InvalidOutput",
    )
    return str(caught.value)


def nested(depth: int) -> dict[str, Any]:
    value: dict[str, Any] = {"value": 1}
    for _ in range(depth):
        value = {"value": 1, "children": [value]}
    return value


# -- what fits -------------------------------------------------------------------------------------


def test_a_pydantic_model_makes_its_object_as_it_is_configured_itself() -> None:
    class Strict(pydantic.BaseModel, strict=True):
        number: int

    assert schema_of(Page).accept({"number": "4"}) == Page(number=4)
    assert refused(schema_of(Strict), {"number": "4"}) == "number: expected integer, got '4'"


def test_a_dataclass_makes_its_object_and_reads_what_json_cannot_say_from_text() -> None:
    scan = schema_of(Scan).accept(
        {"number": 3, "taken_at": "2026-01-02T03:04:05", "size": [1, 2.5], "more": 1}
    )

    assert scan == Scan(3, dt.datetime(2026, 1, 2, 3, 4, 5), (1.0, 2.5))


@pytest.mark.parametrize("kind", [Scan, Row])
@pytest.mark.parametrize(
    ("value", "shown"), [("4", "'4'"), (True, "true"), (None, "null"), (1.5, "1.5")]
)
def test_the_fields_of_a_dataclass_or_typed_dict_are_what_they_say(
    kind: type, value: Any, shown: str
) -> None:
    message = refused(schema_of(kind), {"number": value})

    assert (
        message.startswith("number: expected ")
        and "integer" in message
        and message.endswith(f", got {shown}")
    )


def test_a_typed_dict_keeps_the_fields_that_it_does_not_name() -> None:
    row = schema_of(Table).accept(
        {"rows": [{"number": 1, "taken_at": "2026-01-02T03:04:05", "x": 1}], "y": 2}
    )

    assert row == {
        "rows": [{"number": 1, "taken_at": dt.datetime(2026, 1, 2, 3, 4, 5), "x": 1}],
        "y": 2,
    }


def test_the_typed_dict_of_typing_knows_its_optional_fields_on_every_python() -> None:
    class Partial(TypedDict, total=False):
        page: int

    class Whole(Partial):
        text: str

    class Extension(typing_extensions.TypedDict):
        page: int
        text: typing_extensions.NotRequired[str]

    assert (
        schema_of(Row).json["required"]
        == schema_of(Table).json["$defs"]["Row"]["required"]
        == ["number"]
    )
    assert (schema_of(Whole).summary, schema_of(Extension).summary) == (
        "page?: integer, text: string",
        "page: integer, text?: string",
    )


def test_a_typed_dict_that_forbids_more_fields_is_heard() -> None:
    class Closed(typing_extensions.TypedDict):
        __pydantic_config__ = pydantic.ConfigDict(extra="forbid")  # type: ignore[misc]
        page: int

    assert refused(schema_of(Closed), {"page": 1, "more": 2}) == "more: not allowed"


@pytest.mark.parametrize(
    "value",
    [
        {"items": [{"price": 1}, {"price": 2.5}], "page": None},
        {"items": [], "page": 1, "kind": "letter"},
    ],
)
def test_a_json_schema_hands_on_the_value_itself(value: Any) -> None:
    assert schema_of(DOCUMENT).accept(value) is value


def test_an_older_dialect_is_followed_when_the_schema_names_it() -> None:
    tuples = {"$schema": "http://json-schema.org/draft-07/schema#", "items": [{"type": "integer"}]}

    assert refused(schema_of(tuples), ["x"]) == "$[0]: expected integer, got 'x'"


def test_a_constraint_of_an_annotated_type_is_followed() -> None:
    assert (
        refused(schema_of(list[Annotated[int, pydantic.Field(gt=3)]]), [3])
        == "[0]: expected greater than 3, got 3"
    )


def test_formats_are_notes_not_rules() -> None:
    assert schema_of({"type": "string", "format": "date"}).accept("yesterday") == "yesterday"


def test_a_schema_is_not_changed_through_what_it_was_made_of() -> None:
    given_ = {"type": "integer"}
    schema = schema_of(given_)
    given_["type"] = "string"

    assert schema.accept(1) == 1
    assert schema_of(schema) is schema


@pytest.mark.parametrize(
    "kind", [Page, Scan, Row, Priced, Node, dict[str, float], list[Page], DOCUMENT]
)
def test_every_schema_has_a_document_in_json(kind: Any) -> None:
    assert (
        schema_of(json.loads(json.dumps(schema_of(kind).json))).summary == schema_of(kind).summary
    )


def test_the_document_of_a_class_and_the_class_refuse_the_same_values() -> None:
    document = schema_of(schema_of(Scan).json)
    for value in ({"number": "x"}, {"number": True}, {}, [], 5, None, {"number": 1, "size": ["x"]}):
        refused(schema_of(Scan), value)
        refused(document, value)


# -- in which words --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kind", "value", "message"),
    [
        (Priced, {"page": {"number": "x"}}, "page.number: expected integer, got 'x'"),
        (Priced, {}, "page: missing"),
        (Priced, {"page": {}}, "page.number: missing"),
        (Priced, [1], "data: expected object, got an array of 1"),
        (Priced, None, "data: expected object, got null"),
        (Priced, {"page": {"number": 1}, "tags": ["a", 2]}, "tags[1]: expected string, got 2"),
        (
            Priced,
            {"page": {"number": 1}, "choice": [1]},
            "choice: expected integer or string, got an array of 1",
        ),
        (
            Priced,
            {"page": {"number": 1}, "kind": "card"},
            "kind: expected 'invoice' or 'letter', got 'card'",
        ),
        (
            Priced,
            {"page": {"number": 1}, "price": -1},
            "price: refused: must be positive, not -1.0",
        ),
        (
            Priced,
            {"page": {"number": 1}, "when": "x, y"},
            "when: expected a valid date or datetime, got 'x, y'",
        ),
        (Page, {"number": b"x"}, "number: expected integer, got bytes"),
        (list[float], [1, "x"], "[1]: expected number, got 'x'"),
        (
            DOCUMENT,
            {"items": [{"price": 1}] * 3 + [{"price": "x"}], "page": 1},
            "$.items[3].price: expected number, got 'x'",
        ),
        (
            DOCUMENT,
            {"items": [{"price": -1}], "page": 1},
            "$.items[0].price: expected at least 0, got -1",
        ),
        (DOCUMENT, {"items": [], "page": "x"}, "$.page: expected integer or null, got 'x'"),
        (
            DOCUMENT,
            {"items": [], "page": 1, "kind": "card"},
            "$.kind: expected 'invoice' or 'letter', got 'card'",
        ),
        (
            DOCUMENT,
            {"items": [], "page": 1, "code": "x"},
            "$.code: expected text that matches '^[A-Z]', got 'x'",
        ),
        (DOCUMENT, {"items": [], "page": 1, "more": 1}, "$.more: not allowed"),
        (DOCUMENT, {}, "$.items: missing; $.page: missing"),
        (DOCUMENT, b"raw", "$: expected object, got bytes"),
        (
            {"anyOf": [{"type": "object", "required": ["a"]}, {"type": "integer"}]},
            {},
            "$.a: missing",
        ),
        (
            {"anyOf": [{"type": "object", "required": ["a"]}, {"type": "integer"}]},
            "x",
            "$: expected object or integer, got 'x'",
        ),
        ({"properties": {"a": False}}, {"a": 1}, "$.a: not allowed"),
        ({"uniqueItems": True}, [1, 1], "$: expected items that all differ"),
        ({"not": {}}, 1, "$: does not fit 'not' of the schema, got 1"),
        ({"dependentRequired": {"a": ["b"]}}, {"a": 1}, "$.b: missing"),
        ({"maxLength": 2}, "abc", "$: expected at most 2 characters, got 'abc'"),
    ],
)
def test_what_does_not_fit_is_named_with_its_place(kind: Any, value: Any, message: str) -> None:
    assert refused(schema_of(kind), value) == message


def test_a_number_that_is_too_long_to_be_shown_is_told_by_its_length() -> None:
    assert (
        refused(schema_of({"const": None}), 10**5000)
        == "$: expected null, got an integer of 5,001 digits"
    )


def test_the_first_three_of_many_mismatches_are_named() -> None:
    expected = (
        "[0]: expected number, got 'a'; [1]: expected number, got 'b'; [2]: expected number, got"
        " 'c'; and more"
    )

    assert refused(schema_of(list[float]), list("abcd")) == expected
    assert refused(schema_of({"items": {"type": "number"}}), list("abcd")) == expected.replace(
        "[", "$["
    )


def test_of_a_union_the_branch_that_got_further_is_named() -> None:
    assert (
        refused(schema_of(dict[str, float] | list[float]), {"a": 1, "b": True})
        == "b: expected number, got true"
    )


def test_the_words_of_a_users_validator_are_cut() -> None:
    class Quoting(pydantic.BaseModel):
        text: str

        @pydantic.field_validator("text")
        @classmethod
        def never(cls, text: str) -> str:
            raise ValueError(text)

    message = refused(schema_of(Quoting), {"text": "q" * 1000})

    assert message.count("q") == MAX_DATA


@pytest.mark.parametrize(
    "kind",
    [
        Priced,
        Row,
        dict[str, int],
        list[dict[str, int]],
        DOCUMENT,
        {"type": "object", "additionalProperties": {"type": "integer"}},
    ],
)
@pytest.mark.parametrize(
    "value",
    [
        "q" * 1000,
        {"q" * 1000: "q" * 1000, "qq" * 500: "q"},
        [{"q" * 500 + str(i): "q" * 500} for i in range(9)],
    ],
)
def test_a_message_repeats_at_most_100_characters_of_the_data(kind: Any, value: Any) -> None:
    message = refused(schema_of(kind), value).replace("required", "")

    assert message.count("q") <= MAX_DATA and len(message) < 500


json_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(max_size=300)
    | st.binary(max_size=3)
    | st.just(Decimal("1.5")),
    lambda inner: (
        st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=200), inner, max_size=4)
    ),
    max_leaves=12,
)


@functools.cache
def all_schemas() -> list[Schema]:
    return [
        schema_of(kind)
        for kind in (
            Priced,
            Scan,
            Row,
            list[float] | None,
            DOCUMENT,
            {"multipleOf": 0.1, "minimum": 3},
        )
    ]


@pytest.mark.parametrize("number", range(6))
@given(value=json_values)
def test_whatever_comes_either_fits_or_is_refused_in_a_few_words(number: int, value: Any) -> None:
    try:
        all_schemas()[number].accept(value)
    except ModelFailure as failure:
        assert failure.permanent and 0 < len(str(failure)) < 800


@pytest.mark.parametrize("kind", [Node, RECURSIVE, list[Any]])
def test_data_that_is_nested_without_end_is_refused_not_a_crash(kind: Any) -> None:
    assert (
        "nest" in (message := refused(schema_of(kind), nested(20_000)))
        or "depth" in message
        or "array" in message
    )


def test_a_legal_depth_is_no_problem() -> None:
    deep = nested(codec.MAX_DEPTH // 2 - 1)

    assert schema_of(Node).accept(deep).value == 1
    assert schema_of(RECURSIVE).accept(deep) is deep


@pytest.mark.parametrize("limit", [{"multipleOf": 0.1}, {"type": "integer"}, {"maximum": 1e300}])
@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_what_is_no_finite_number_fits_no_limit(limit: Any, value: float) -> None:
    assert refused(schema_of(limit), value).endswith(f", got {value}")


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_what_is_no_finite_number_is_a_number_and_nothing_else(value: float) -> None:
    assert schema_of({"items": {"type": ["number", "null"]}}).accept([value]) == [value]
    assert (
        refused(schema_of({"items": {"type": ["string", "null"]}}), [value])
        == f"$[0]: expected null or string, got {value}"
    )


@pytest.mark.parametrize("kinds", ["object", ["string", "null"], "array", ["boolean", "number"]])
def test_bytes_are_of_no_type_of_json(kinds: Any) -> None:
    assert refused(schema_of({"type": kinds}), b"x").endswith(", got bytes")
    assert schema_of({"properties": {"a": {"type": kinds}}}).accept({"b": b"x"}) == {"b": b"x"}


@pytest.mark.parametrize("value", [{1: 2}, {"\ud800": 1}])
def test_what_the_library_stumbles_over_is_refused(value: Any) -> None:
    assert "cannot be checked" in refused(schema_of({"required": ["b"]}), value)


plain_schemas = st.recursive(
    st.sampled_from(
        [
            {"type": kind}
            for kind in ("integer", "number", "string", "boolean", "null", "object", "array")
        ]
        + [{}, True, False]
    )
    | st.sampled_from(
        [
            {"type": ["integer", "null"]},
            {"minLength": 2},
            {"enum": [1]},
            {"type": "string", "maxLength": 1},
        ]
    ),
    lambda inner: st.one_of(
        st.fixed_dictionaries({"items": inner}, optional={"type": st.just("array")}),
        st.fixed_dictionaries({"anyOf": st.lists(inner, min_size=1, max_size=3)}),
        st.fixed_dictionaries(
            {"properties": st.dictionaries(st.sampled_from("abc"), inner, max_size=3)},
            optional={
                "type": st.just("object"),
                "required": st.lists(st.sampled_from("abc"), unique=True),
                "additionalProperties": inner,
            },
        ),
    ),
    max_leaves=6,
)
plain_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-3, 3)
    | st.sampled_from([0.0, 1.5, math.nan, "", "xy", b"x", Decimal(1)]),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from("abcd"), inner, max_size=3)
    ),
    max_leaves=6,
)


@settings(max_examples=examples(100))
@given(document=plain_schemas, value=plain_values)
def test_what_fits_is_what_the_reference_implementation_accepts(document: Any, value: Any) -> None:
    if isinstance(document, bool):
        document = {"items": document}
    try:
        schema_of(document).accept(value)
        fits = True
    except ModelFailure:
        fits = False

    assert fits == jsonschema.Draft202012Validator(document).is_valid(value)


# -- what is no schema -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("nonsense", "hint"),
    [
        (5, "not 5"),
        ("Page", "not 'Page'"),
        (None, "not None"),
        (True, "not True"),
        (set, "<class 'set'>"),
        (np.ndarray, "ndarray"),
        (Page(number=1), "an object of Page; hand over the class"),
        (Event, "Event"),
        ({"type": "intger"}, "$.type: expected "),
        ({"properties": {"page": {"type": "intger"}}}, "$.properties.page.type: expected "),
        ({"properties": []}, "$.properties: expected object, got an array of 0"),
        ({"pattern": "("}, "$.pattern: expected a valid regex, got '('"),
        (
            {"page": "integer"},
            "'page' is a keyword of JSON Schema; write fields as in {'properties'",
        ),
        ({"page": int}, "JSON form"),
        ({"minimum": math.nan}, "JSON form"),
        ({"$schema": "https://example.org/mine"}, "leave it out for Draft 2020-12"),
        ({"$ref": "#"}, "refers to itself without end"),
        ({"$ref": "#/$defs/Item"}, "put it below $defs"),
        ({"properties": {"a": {"$ref": "other.json"}}}, "'other.json' is not in the document"),
    ],
)
def test_what_is_no_schema_is_refused_when_it_is_handed_over(nonsense: Any, hint: str) -> None:
    with pytest.raises(InvalidModel) as caught:
        schema_of(nonsense)

    assert hint in str(caught.value)


def test_a_class_with_a_field_that_cannot_be_checked_is_refused_with_a_reason() -> None:
    @dataclasses.dataclass
    class Strange:
        lock: threading.Lock

    @dataclasses.dataclass
    class Unknown:
        page: Nowhere  # type: ignore[name-defined] # noqa: F821

    class UnknownRow(TypedDict):
        page: Nowhere  # type: ignore[name-defined] # noqa: F821

    for kind in (Strange, Unknown, UnknownRow):
        with pytest.raises(InvalidModel, match=f"schema {kind.__name__}: "):
            schema_of(kind)


@pytest.fixture
def elsewhere() -> Iterator[tuple[str, list[str]]]:
    """A server with a schema, and the paths that it was asked for."""
    asked: list[str] = []

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked.append(self.path)
            self.send_response(200)
            self.end_headers()
            self.wfile.write(b'{"type": "integer"}')

        def log_message(self, *_: Any) -> None:
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}/item.json", asked
        server.shutdown()


@pytest.mark.parametrize("keyword", ["$ref", "$dynamicRef", "$schema"])
def test_nothing_is_ever_fetched(elsewhere: tuple[str, list[str]], keyword: str) -> None:
    address, asked = elsewhere

    with pytest.raises(InvalidModel):
        schema_of(
            {
                "properties": {"a": {"$ref": "#/$defs/x"}},
                "$defs": {"x": {keyword: address}},
                keyword: address,
            }
        )
    assert asked == []


def test_json_schemas_own_document_can_be_referred_to() -> None:
    schema = schema_of(
        {"properties": {"schema": {"$ref": "https://json-schema.org/draft/2020-12/schema"}}}
    )

    assert "$.schema.type" in refused(schema, {"schema": {"type": "intger"}})


@pytest.mark.parametrize(
    ("library", "kind"),
    [("pydantic", Scan), ("pydantic", list[float]), ("jsonschema_rs", {"type": "integer"})],
)
def test_a_missing_library_is_named_with_how_to_install_it(
    monkeypatch: pytest.MonkeyPatch, library: str, kind: Any
) -> None:
    monkeypatch.setitem(sys.modules, library, None)

    with pytest.raises(
        InvalidModel,
        match=rf"needs {library.replace('_', '-')}: in a checkout of mltrigger, pip install -e '.\[schema\]'",
    ):
        schema_of(kind)


def test_without_pydantic_type_hints_say_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pydantic", None)

    def model(scan: Scan) -> Scan:
        return scan

    assert inferred(model, batch=False) == (None, None)


def test_importing_loads_neither_library() -> None:
    look = (
        "import sys, mltrigger.versions.schema.schema; print(sorted({'pydantic', 'jsonschema_rs',"
        " 'pydantic_core'} & set(sys.modules)))"
    )

    assert (
        subprocess.run(
            [sys.executable, "-c", look], check=True, capture_output=True, text=True
        ).stdout.strip()
        == "[]"
    )


# -- outputs ---------------------------------------------------------------------------------------


def test_an_object_of_the_class_is_taken_as_it_is() -> None:
    page = Page.model_construct(number="not checked again")

    assert schema_of(Page).accept_output(page) is page
    assert schema_of(Page | None).accept_output(page) is page
    assert schema_of(Page | None).accept_output(None) is None


@pytest.mark.parametrize(
    ("kind", "output"),
    [
        (Scan, {"number": np.int64(3), "taken_at": dt.datetime(2026, 1, 2)}),
        ({"properties": {"score": {"type": "number"}}}, {"score": np.float32(0.5)}),
        ({"properties": {"score": {"type": "number"}}}, {"score": math.nan}),
        ({"type": "array", "items": {"type": "object"}}, pd.DataFrame({"a": [1, 2]})),
        ({"type": "integer"}, np.int64(3)),
        ({"type": "string"}, dt.datetime(2026, 1, 2)),
        (float, np.float64(3)),
    ],
)
def test_an_output_is_checked_in_its_json_form_and_handed_on_as_it_is(
    kind: Any, output: Any
) -> None:
    assert schema_of(kind).accept_output(output) is output


@pytest.mark.parametrize(
    ("kind", "output", "message"),
    [
        (Scan, {"number": "3"}, "number: expected integer, got '3'"),
        (Scan, [], "output: expected object, got an array of 0"),
        (
            {"properties": {"score": {"type": "number"}}},
            {"score": None},
            "$.score: expected number, got null",
        ),
        (
            {"type": "string"},
            print,
            (
                "the output has no JSON form to check: $: a value of type"
                " 'builtin_function_or_method' has no JSON form"
            ),
        ),
    ],
)
def test_an_output_that_does_not_fit_is_refused(kind: Any, output: Any, message: str) -> None:
    assert refused_output(schema_of(kind), output).startswith(message)


# -- short texts -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kind", "text"),
    [
        (
            {
                "properties": {"page": {"type": "integer"}, "text": {"type": "string"}},
                "required": ["page"],
            },
            "page: integer, text?: string",
        ),
        (Page, "number: integer, text?: string or null"),
        (Node, "value: integer, children?: array of Node"),
        (list[float], "array of number"),
        (dict[str, Any], "object"),
        ({"type": ["integer", "null"]}, "integer or null"),
        (
            {"properties": {"a": {"enum": ["x", 1, None]}, "b": {"const": "k"}, "c": True}},
            'a?: "x" or 1 or null, b?: "k", c?: anything',
        ),
        ({}, "anything"),
    ],
)
def test_a_schema_says_in_a_few_words_what_it_wants(kind: Any, text: str) -> None:
    assert schema_of(kind).summary == text
    assert repr(schema_of(kind)) == f"Schema({text!r})"


def test_a_long_schema_is_cut() -> None:
    wide = {"properties": {f"field{i}": {"type": "number"} for i in range(100)}}

    assert len(schema_of(wide).summary) == 200


# -- type hints ------------------------------------------------------------------------------------


def hinted(hint: Any, gives: Any = None) -> Callable[[Any], Any]:
    def model(data: Any) -> Any:
        return data

    model.__annotations__ = {"data": hint, **({"return": gives} if gives is not None else {})}
    return model


@pytest.mark.parametrize(
    ("hint", "fits", "not_"),
    [
        (str, ["x"], [1, None]),
        (int, [1], [True, "1", 1.5]),
        (float, [1, 1.5, math.nan], [True, "1"]),
        (bool, [True], [1, "true"]),
        (int | None, [1, None], ["x"]),
        (typing.Optional[int], [1, None], ["x"]),  # noqa: UP045
        (dict, [{}, {"a": [1]}], [[], "x"]),
        (Mapping, [{"a": 1}], [[]]),
        (Mapping[str, float], [{"a": 1}], [{"a": "1"}]),
        (dict[str, Any], [{"a": None}], [3]),
        (list, [[], [1, "x"]], [{}, "x"]),
        (list[object], [[1, "x"]], [{}]),
        (Sequence[float], [[1, 2.5]], [["x"]]),
        (Literal["a", "b"], ["a"], ["c"]),
        (Annotated[int, "pages"], [4], ["3"]),
        (NewType("Cents", int), [4], ["4"]),
        (list[Page], [], [[{"number": "x"}]]),
        ("Page | None", [None], [[]]),
    ],
)
def test_a_hint_of_json_values_is_as_strict_as_json_and_no_stricter_than_python(
    hint: Any, fits: list[Any], not_: list[Any]
) -> None:
    schema, _ = inferred(hinted(hint), batch=False)

    assert schema is not None
    for value in fits:
        assert schema.accept(value) is value
    for value in not_:
        refused(schema, value)


@pytest.mark.parametrize(
    "hint",
    [
        Any,
        object,
        Event,
        "Event",
        "Nowhere",
        bytes,
        set,
        tuple,
        np.ndarray,
        pd.DataFrame,
        dict[int, str],
        Sequence,
        Sequence[str],
        Iterable,
        Iterable[float],
        list[np.ndarray],
        int | np.ndarray,
        Event | Page,
        dt.datetime,
        np.array([1, 2]),
        5,
        Callable[[int], int],
        threading.Lock,
    ],
    ids=str,
)
def test_other_hints_say_nothing(hint: Any) -> None:
    assert inferred(hinted(hint, hint), batch=False) == (None, None)


def test_without_hints_there_is_no_schema() -> None:
    assert (
        inferred(hinted(Any), batch=False)
        == inferred(lambda data: data, batch=False)
        == inferred(len, batch=False)
        == (None, None)
    )


def test_a_default_of_none_allows_null() -> None:
    def model(text: str = None) -> None:  # type: ignore[assignment]  # noqa: RUF013
        """As people write it."""

    schema, _ = inferred(model, batch=False)
    assert schema is not None and schema.summary == "string or null"


@pytest.mark.parametrize(
    ("gives", "summary"),
    [
        (Page, "number: integer, text?: string or null"),
        (Page | None, "Page or null"),
        (Row, "number: integer, taken_at?: string"),
    ],
)
def test_a_return_hint_counts_when_it_is_a_class_with_fields(gives: Any, summary: str) -> None:
    _, schema = inferred(hinted(Any, gives), batch=False)

    assert schema is not None and schema.summary == summary


@pytest.mark.parametrize(
    "gives", [float, str, dict, dict[str, float], list[Page], type(None), Page | int, Event]
)
def test_other_return_hints_say_nothing(gives: Any) -> None:
    assert inferred(hinted(Any, gives), batch=False) == (None, None)


@pytest.mark.parametrize("many", [list, Sequence, Iterable])
def test_a_batch_model_has_the_schema_of_one_item(many: Any) -> None:
    takes, gives = inferred(hinted(many[Page], many[Scan]), batch=True)

    assert takes is not None and takes.accept({"number": 1}) == Page(number=1)
    assert gives is not None and gives.accept({"number": 1}) == Scan(1)
    assert (
        inferred(hinted(list[Event], list[Event]), batch=True)
        == inferred(hinted(Page, Page), batch=True)
        == (None, None)
    )


class Model:
    def __call__(self, page: Page) -> Scan:
        return Scan(page.number)

    def method(self, page: Page) -> Scan:
        return self(page)


async def asynchronous(page: Page) -> Scan:
    return Scan(page.number)


def positional(scale: float, page: Page) -> Scan:
    return Scan(page.number)


@pytest.mark.parametrize(
    "function",
    [Model(), Model().method, asynchronous, functools.partial(positional, 2.0)],
    ids=["object", "method", "coroutine", "partial"],
)
def test_hints_are_found_on_whatever_can_be_called(function: Any) -> None:
    takes, gives = inferred(function, batch=False)

    assert takes is not None and takes.accept({"number": 3}) == Page(number=3)
    assert gives is not None and gives.accept({"number": 3}) == Scan(3)


# -- through a bus ---------------------------------------------------------------------------------


def test_a_record_that_does_not_fit_is_dead_at_once_and_names_the_field(
    memory_bus: mt.EventBus,
) -> None:
    @mt.model("reader", version="1.0.0")
    def reader(page: Page) -> Scan:
        return Scan(page.number) if page.number else {"number": "none"}  # type: ignore[return-value]

    sub = memory_bus.subscribe("documents", reader)
    memory_bus.fire("documents", [{"number": 1}, {"number": "x"}, {"number": 0}], progress=False)

    rows = (
        sub.invocations(columns=["outcome", "reason", "error", "attempt"])
        .astype(object)
        .where(lambda frame: frame.notna(), None)
    )
    assert rows.to_numpy().tolist() == [
        ["succeeded", None, None, 1],
        ["dead", "invalid_input", "number: expected integer, got 'x'", 1],
        ["dead", "invalid_output", "number: expected integer, got 'none'", 1],
    ]


def test_in_a_batch_only_the_record_that_does_not_fit_is_dead(memory_bus: mt.EventBus) -> None:
    @mt.model("scores", version="1.0.0", batch=True)
    def scores(rows: list[dict[str, float]]) -> list[float]:
        return [row["x"] for row in rows]

    sub = memory_bus.subscribe("rows", scores)
    memory_bus.fire("rows", [{"x": 1}, {"x": "1"}, {"x": 2}], progress=False)

    assert [float(output) for output in sub.invocations(columns=["output"])["output"].dropna()] == [
        1,
        2,
    ]
    assert list(sub.invocations(columns=["error"])["error"].dropna()) == [
        "x: expected number, got '1'"
    ]


@pytest.fixture
def memory_bus() -> Iterator[mt.EventBus]:
    with mt.connect("memory://") as bus:
        yield bus
