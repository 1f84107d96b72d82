"""The Open Inference Protocol: what events become on the wire, what answers mean, and what happens
when the server changes its mind.
"""

from __future__ import annotations

import contextlib
import json
import math
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from decimal import Decimal
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from model_servers import ModelServer, Request
from oip_server import OipServer, Refused, Served, iris

import mltrigger as mt
from mltrigger.errors import InvalidModel, ModelFailure, NotFound
from mltrigger.testing import SimulatedClock
from mltrigger.versions.address import Address
from mltrigger.versions.scheme import HOLD_S, Description, Endpoint, Setting, scheme_of
from mltrigger.versions.schemes.http.answers import Answer
from mltrigger.versions.schemes.oip.answers import outputs
from mltrigger.versions.schemes.oip.datatypes import DATATYPES
from mltrigger.versions.schemes.oip.tensors import Layout, Tensor

SETOSA, VIRGINICA = [5.1, 3.5, 1.4, 0.2], [7.2, 3.0, 5.8, 1.6]


def tensor(name: str, datatype: str = "FP64", *shape: int, **parameters: str) -> dict[str, Any]:
    return {
        "name": name,
        "datatype": datatype,
        "shape": list(shape or (-1,)),
        **({"parameters": parameters} if parameters else {}),
    }


def echo(*inputs: dict[str, Any], name: str = "echo", version: str = "1") -> Served:
    """A model whose outputs are its inputs."""
    return Served(name, dict, list(inputs), list(inputs), version)


def total(arrays: dict[str, np.ndarray]) -> dict[str, Any]:
    """The sums of the rows; a row that begins with 13 breaks the model, as 500 does not say which."""
    if (arrays["x"][:, 0] == 13).any():
        raise ZeroDivisionError("13")
    return {"sum": arrays["x"].sum(axis=1)}


def sums(version: str = "1", columns: int = 2) -> Served:
    return Served("sums", total, [tensor("x", "FP64", -1, columns)], [tensor("sum")], version)


@pytest.fixture
def server() -> Iterator[OipServer]:
    with OipServer() as server:
        yield server


def described(text: str, **options: Any) -> Description:
    address = Address.of(text, options)
    return scheme_of(address).describe(address)


@contextlib.contextmanager
def opened(server: OipServer, model: Served | str, **options: Any) -> Iterator[Endpoint]:
    if isinstance(model, Served):
        server.models.append(model)
        model = model.name
    address = Address.of(f"oip+{server.url}/v2/models/{model}", options)
    scheme_of(address).describe(address)
    with contextlib.closing(scheme_of(address).open(address, Setting(10.0, 4))) as endpoint:
        yield endpoint


def call(server: OipServer, model: Served | str, *data: Any, **options: Any) -> list[Any]:
    with opened(server, model, **options) as endpoint:
        return list(endpoint.call([mt.Event(each) for each in data]))


def failed(
    server: OipServer, model: Served | str, *data: Any, **options: Any
) -> list[ModelFailure]:
    with pytest.raises(ModelFailure) as caught:
        call(server, model, *data, **options)
    return [caught.value]


def answered_with(value: Any, count: int | None) -> list[dict[str, Any]]:
    return outputs(Answer(200, {}, json.dumps(value).encode(), "POST http://host/infer"), count)


def refusal(answer: Any) -> str:
    """Return what the failure of one event says; it must be that event's own and final."""
    assert isinstance(answer, ModelFailure), answer
    assert (answer.reason, answer.permanent, answer.whole) == ("invalid_input", True, False)
    return str(answer)


# -- the address -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("path", "name", "version"),
    [
        ("/v2/models/ocr", "ocr", None),
        ("/v2/models/ocr/", "ocr", None),
        ("/v2/models/ocr/versions/2", "ocr", "2.0.0"),
        ("/v2/models/ocr/versions/1.4.2", "ocr", "1.4.2"),
        ("/v2/models/ocr/versions/1.4.2-rc.1", "ocr", "1.4.2-rc.1"),
        ("/v2/models/ocr/versions/v1.4.2", "ocr", "1.4.2"),
        ("/v2/models/ocr/versions/blue", "ocr", None),
        ("/seldon/team/ocr/v2/models/ocr-b", "ocr-b", None),
        ("/v2/models/predict", "predict", None),
        ("/v2/models/doc%20type", "doc-type", None),
    ],
)
def test_the_address_says_what_the_model_is_called_and_which_version_it_is(
    path: str, name: str, version: str | None
) -> None:
    found = described(f"oip+http://host:8080{path}")

    assert (found.name, found.version, found.input_schema) == (name, version, None)


@pytest.mark.parametrize(
    ("text", "advice"),
    [
        ("oip+http://host/v2/models/ocr/infer", "write oip+http://host/v2/models/ocr"),
        (
            "oip+http://host/v2/models/ocr/versions/2/ready",
            "write oip+http://host/v2/models/ocr/versions/2",
        ),
        ("oip+http://host/v1/models/ocr", "/v2/models/NAME"),
        ("oip+http://host", "/v2/models/NAME"),
        ("oip+http://host/v2/models/ocr?x=1", "write oip+http"),
        ("oip+http://user:secret@host/v2/models/ocr", "environment variable"),
    ],
)
def test_an_address_that_cannot_be_right_is_refused_with_one_that_is(
    text: str, advice: str
) -> None:
    with pytest.raises(InvalidModel) as caught:
        described(text)

    assert advice in str(caught.value)
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize(
    ("options", "problem"),
    [
        ({"columns": []}, "columns must be a list of names"),
        ({"columns": ["a", 1]}, "columns must be a list of names"),
        ({"columns": ["a", "a"]}, "names a field twice"),
        ({"outputs": [""]}, "outputs must be a list of names"),
        ({"content_type": "csv"}, "one of pd, np"),
        ({"missing": "zero"}, "one of refuse, null"),
        ({"inputs": []}, "name them"),
        ({"inputs": [{"name": "x", "datatype": "FP31", "shape": [-1]}]}, "'FP31'"),
        ({"inputs": [{"name": "x", "datatype": "BF16", "shape": [-1]}]}, "'BF16'"),
        ({"inputs": [tensor("x", "FP64", -1, 3)], "columns": ["a", "b"]}, "columns names 2 fields"),
        ({"inputs": [tensor("x"), tensor("y")], "columns": ["a", "b"]}, "one input"),
        ({"batched": "no"}, "bool"),
    ],
)
def test_an_option_that_makes_no_sense_is_refused_when_the_model_is_described(
    options: dict[str, Any], problem: str
) -> None:
    with pytest.raises(InvalidModel, match=problem):
        described("oip+http://host/v2/models/ocr", **options)


def test_a_mistyped_option_lists_the_near_ones() -> None:
    with pytest.raises(NotFound, match="'columns'"):
        described("oip+http://host/v2/models/ocr", colums=["a"])


# -- from data to tensors --------------------------------------------------------------------------


def test_a_record_gives_one_tensor_for_each_input_and_a_batch_is_one_call(
    server: OipServer,
) -> None:
    model = echo(
        tensor("age", "INT64"), tensor("name", "BYTES", -1, 1), tensor("box", "FP32", -1, 2, 2)
    )
    ann = {"age": 41, "name": "Ann", "box": [[1, 2], [3, 4]], "not": "asked for"}
    bob = {"age": 7, "name": "Bob", "box": [[0.5, 0], [0, 0]]}

    answers = call(server, model, ann, bob)

    assert answers == [{"age": 41, "name": "Ann", "box": [[1.0, 2.0], [3.0, 4.0]]}, bob]
    (body,) = server.bodies()
    assert body["inputs"] == [
        {"name": "age", "shape": [2], "datatype": "INT64", "data": [41, 7]},
        {"name": "name", "shape": [2, 1], "datatype": "BYTES", "data": ["Ann", "Bob"]},
        {
            "name": "box",
            "shape": [2, 2, 2],
            "datatype": "FP32",
            "data": [1.0, 2.0, 3.0, 4.0, 0.5, 0.0, 0.0, 0.0],
        },
    ]


@pytest.mark.parametrize(
    "data",
    [
        [1, 2],
        (1, 2),
        np.array([1, 2]),
        {"x": [1, 2]},
        {"x": np.array([1.0, 2.0])},
        {"x": [np.int64(1), 2]},
    ],
)
def test_a_model_with_one_input_of_rows_takes_the_row(server: OipServer, data: Any) -> None:
    assert call(server, sums(), data) == [{"sum": 3.0}]


def test_columns_say_in_which_order_the_fields_of_a_record_make_up_a_row(server: OipServer) -> None:
    model = Served(
        "first",
        lambda arrays: {"first": arrays["x"][:, 0]},
        [tensor("x", "FP64", -1, 2)],
        [tensor("first")],
    )

    assert call(server, model, {"b": 2, "c": 3, "a": 1}, columns=["a", "b"]) == [{"first": 1.0}]


def test_a_record_that_could_be_a_row_is_refused_with_the_way_to_say_how(server: OipServer) -> None:
    message = refusal(call(server, sums(), {"a": 1, "b": 2})[0])

    assert "columns=[…]" in message
    assert "a, b" in message
    assert server.bodies() == []


@pytest.mark.parametrize("columns", [["a", "b", "c"], ["a"]])
def test_columns_that_do_not_fit_the_model_are_refused_before_the_first_event(
    server: OipServer, columns: list[str]
) -> None:
    with (
        opened(server, sums(), columns=columns) as endpoint,
        pytest.raises(ModelFailure, match=r"option columns names .* FP64\[-1, 2\]") as e,
    ):
        endpoint.warm_up()

    assert (e.value.reason, e.value.permanent, e.value.whole) == ("model_unavailable", False, True)


def test_a_model_of_scalars_takes_a_scalar(server: OipServer) -> None:
    assert call(server, echo(tensor("text", "BYTES")), "hello", {"text": "you"}) == [
        {"text": "hello"},
        {"text": "you"},
    ]


def test_a_model_of_several_inputs_takes_only_records(server: OipServer) -> None:
    answer = call(server, echo(tensor("a"), tensor("b")), [1, 2])[0]

    assert "a: FP64[-1], b: FP64[-1]" in refusal(answer)


def test_bytes_are_sent_where_the_content_type_of_a_tensor_is_base64_and_come_back_as_bytes(
    server: OipServer,
) -> None:
    page = tensor("page", "BYTES", -1, content_type="base64")
    server.models.append(echo(page))

    with opened(server, "echo") as endpoint:
        (answer,) = endpoint.call([mt.Event(b"\x89PNG", datacontenttype="image/png")])

    assert server.bodies()[0]["inputs"][0] == {**page, "shape": [1], "data": ["iVBORw=="]}
    assert answer == {"page": "iVBORw=="}  # this server does not say what its outputs are
    answered = answered_with(
        {"outputs": [{**page, "shape": [2], "data": ["iVBORw==", "no base64"]}]}, 2
    )
    assert answered == [{"page": b"\x89PNG"}, {"page": "no base64"}]


FITS = [
    ("BOOL", True, True),
    ("UINT8", 255, 255),
    ("UINT64", 2**64 - 1, 2**64 - 1),
    ("INT8", -128, -128),
    ("INT64", -(2**63), -(2**63)),
    ("INT32", 3.0, 3),
    ("INT16", Decimal("7"), 7),
    ("FP16", 65504, 65504.0),
    ("FP32", 1, 1.0),
    ("FP64", Decimal("0.5"), 0.5),
    ("FP64", 10**300, 1e300),
    ("BYTES", "ü", "ü"),
    ("BYTES", "", ""),
]
DOES_NOT_FIT = [
    ("BOOL", 1),
    ("BOOL", "true"),
    ("BOOL", None),
    ("UINT8", 300),
    ("UINT8", -1),
    ("UINT64", 2**64),
    ("INT8", 128),
    ("INT64", 2**63),
    ("INT64", 1.5),
    ("INT64", True),
    ("INT64", "1"),
    ("INT64", None),
    ("INT32", math.inf),
    ("INT32", math.nan),
    ("FP16", 65505),
    ("FP32", 3.5e38),
    ("FP32", "x"),
    ("FP32", None),
    ("FP32", False),
    ("FP32", {"a": 1}),
    ("FP64", math.nan),
    ("FP64", -math.inf),
    ("FP64", 10**400),
    ("FP64", Decimal("sNaN")),
    ("BYTES", 7),
    ("BYTES", b"raw"),
    ("BYTES", "\ud800"),
    ("BYTES", None),
]


@pytest.mark.parametrize(("datatype", "value", "sent"), FITS)
def test_a_value_that_fits_its_datatype_is_sent_exactly(
    datatype: str, value: Any, sent: Any
) -> None:
    layout = Layout((Tensor("x", datatype, (-1, 2)),))

    ((_, values),) = layout.parts([value, value])

    assert values == [sent, sent]
    assert {type(value) for value in values} == {type(sent)}


@pytest.mark.parametrize(("datatype", "value"), DOES_NOT_FIT)
def test_a_value_that_does_not_fit_its_datatype_is_named(datatype: str, value: Any) -> None:
    """In a record by its field, in a row by its place, in a row of columns by its column."""
    good = {"BOOL": True, "BYTES": "x"}.get(datatype, 1)
    record, row = Layout((Tensor("age", datatype, (-1,)),)), (Tensor("x", datatype, (-1, 2)),)

    for layout, data, field in [
        (record, {"age": value}, "'age'"),
        (Layout(row), [good, value], "'x'[1]"),
        (Layout(row, ("a", "b")), {"a": good, "b": value}, "'b'"),
    ]:
        with pytest.raises(ModelFailure) as caught:
            layout.parts(data)
        assert f"input {field}: " in refusal(caught.value)
        assert f"does not fit {datatype}" in str(caught.value)


def test_every_datatype_reaches_the_model_and_comes_back(server: OipServer) -> None:
    model = echo(*(tensor(datatype.lower(), datatype) for datatype in DATATYPES))
    event = {
        datatype.lower(): {"BOOL": False, "BYTES": "text"}.get(datatype, 100)
        for datatype in DATATYPES
    }

    assert call(server, model, event, event) == [event, event]


@pytest.mark.parametrize(
    ("data", "problem"),
    [
        ([1], r"the shape is [1], and the model takes [2]"),
        ([[1, 2]], r"the shape is [1, 2], and the model takes [2]"),
        ([[1], [2, 3]], "different lengths"),
        ([[1, 2], 3], "different lengths"),
        (5, r"the shape is [], and the model takes [2]"),
        ({}, "no field 'x'"),
        (None, r"the shape is []"),
    ],
)
def test_data_of_another_shape_are_refused(server: OipServer, data: Any, problem: str) -> None:
    assert problem in refusal(call(server, sums(), data)[0])


def test_one_bad_event_fails_alone_before_anything_is_sent(server: OipServer) -> None:
    good, bad, missing, last = call(server, sums(), [1, 2], ["x", 2], {"y": [1, 2]}, [3, 4])

    assert (good, last) == ({"sum": 3.0}, {"sum": 7.0})
    assert "'x'[0]: x does not fit FP64" in refusal(bad)
    assert "the event has y" in refusal(missing)
    assert [body["inputs"][0]["shape"] for body in server.bodies()] == [[2, 2]]


def test_a_batch_of_bad_events_asks_nobody(server: OipServer) -> None:
    assert [refusal(answer)[:9] for answer in call(server, sums(), "a", "b")] == ["input 'x'"] * 2
    assert server.bodies() == []


def test_what_is_missing_is_sent_as_null_when_the_user_says_so(server: OipServer) -> None:
    model = echo(tensor("x", "FP64", -1, 3), tensor("n", "INT64"))

    good, bad = call(
        server,
        model,
        {"x": [1.5, None, math.nan], "n": 1},
        {"x": [1, 2, 3], "n": None},
        missing="null",
    )

    assert server.bodies()[0]["inputs"][0]["data"] == [1.5, None, None]
    assert good["x"][0] == 1.5
    assert all(math.isnan(value) for value in good["x"][1:])
    assert "'n': None does not fit INT64" in refusal(bad)
    assert "missing='null'" in refusal(call(server, "echo", {"x": [None, 2, 3], "n": 1})[0])


# -- batches ---------------------------------------------------------------------------------------


def test_events_of_different_shapes_are_different_calls_and_keep_their_order(
    server: OipServer,
) -> None:
    model = Served(
        "length",
        lambda arrays: {"n": np.full(len(arrays["x"]), arrays["x"].shape[1])},
        [tensor("x", "FP64", -1, -1)],
        [],
    )

    assert call(server, model, [1], [1, 2], [5], []) == [{"n": 1}, {"n": 2}, {"n": 1}, {"n": 0}]
    assert [body["inputs"][0]["shape"] for body in server.bodies()] == [[2, 1], [1, 2], [1, 0]]


@pytest.mark.parametrize("shapes", [((3,), (3,)), ((-1,), (3,))])
def test_a_model_whose_first_dimensions_do_not_count_events_is_called_once_for_each(
    server: OipServer, shapes: Any
) -> None:
    model = echo(*(tensor(name, "INT64", *shape) for name, shape in zip("ab", shapes, strict=True)))
    event = {"a": [1, 2, 3], "b": [4, 5, 6]}
    with opened(server, model) as endpoint:
        endpoint.warm_up()
        assert not endpoint.batches

        answers = endpoint.call([mt.Event(event), mt.Event({"a": [1, 2, 3]}), mt.Event(event)])

    assert (answers[0], answers[2]) == (event, event)
    assert "'b' is missing" in refusal(answers[1])
    assert len(server.bodies()) == 2


def test_batched_false_says_that_a_free_first_dimension_does_not_count_events(
    server: OipServer,
) -> None:
    model = Served(
        "mean",
        lambda arrays: {"mean": arrays["x"].mean()},
        [tensor("x")],
        [tensor("mean", "FP64", 1)],
    )

    assert call(server, model, [1, 2, 3], [5], batched=False) == [{"mean": 2.0}, {"mean": 5.0}]


def test_one_event_that_breaks_its_call_does_not_stop_the_calls_of_others(
    server: OipServer,
) -> None:
    fixed = Served("sums", total, [tensor("x", "FP64", 1, 2)], [tensor("sum")])

    first, broken, last = call(server, fixed, [[1, 1]], [[13, 1]], [[2, 2]])

    assert (first, last) == ({"sum": 2.0}, {"sum": 4.0})
    assert (broken.reason, broken.permanent, broken.kind) == ("model_http_error", False, "HTTP 500")


def test_when_the_server_fails_between_calls_what_was_answered_is_kept_and_the_rest_is_not_asked(
    server: OipServer,
) -> None:
    fixed = Served("sums", total, [tensor("x", "FP64", 1, 2)], [tensor("sum")])

    def predict(arrays: dict[str, np.ndarray]) -> Any:
        fixed.ready = False
        return total(arrays)

    fixed.predict = predict

    first, *others = call(server, fixed, [[1, 1]], [[2, 2]], [[3, 3]])

    assert first == {"sum": 2.0}
    assert [(other.reason, other.kind, other.whole) for other in others] == [
        ("model_http_error", "HTTP 503", True)
    ] * 2
    assert len(server.bodies()) == 2


def test_an_event_that_breaks_the_model_is_found_in_its_batch(server: OipServer) -> None:
    """Servers answer 500 without a word about whose fault it is."""
    server.models.append(sums())
    with mt.connect("memory://", clock=SimulatedClock()) as bus:
        bus.subscribe("rows", f"oip+{server.url}/v2/models/sums", batch_size=8, max_attempts=1)
        bus.fire("rows", [[1, 1], [13, 0], [2, 2], [3, 3]], progress=False)

        frame = bus.invocations()
        assert sorted(frame.loc[frame.outcome == "succeeded", "output"]) == [
            '{"sum":2.0}',
            '{"sum":4.0}',
            '{"sum":6.0}',
        ]
        (dead,) = bus.invocations().query("outcome == 'dead'").itertuples()
        assert dead.reason == "model_http_error"
        assert "ZeroDivisionError: 13" in dead.error


# -- answers ---------------------------------------------------------------------------------------


def test_an_output_of_one_element_is_a_scalar_and_others_are_nested() -> None:
    answer = {
        "outputs": [
            {**tensor("a", "INT64", 2), "data": [1, 2]},
            {**tensor("b", "INT64", 2, 1), "data": [[1], [2]]},
            {**tensor("c", "INT64", 2, 2), "data": [1, 2, 3, 4]},
            {**tensor("d", "INT64", 2, 2, 1), "data": [[[1], [2]], [[3], [4]]]},
            {**tensor("e", "FP32", 2, 0), "data": []},
        ]
    }

    assert answered_with(answer, 2) == [
        {"a": 1, "b": 1, "c": [1, 2], "d": [[1], [2]], "e": []},
        {"a": 2, "b": 2, "c": [3, 4], "d": [[3], [4]], "e": []},
    ]
    assert answered_with(
        {"outputs": [{**tensor("a", "INT64", 2, 2), "data": [1, 2, 3, 4]}]}, None
    ) == [{"a": [[1, 2], [3, 4]]}]


def test_null_in_an_output_of_floating_point_numbers_is_nan(server: OipServer) -> None:
    model = Served(
        "holes",
        lambda arrays: {"y": np.where(arrays["x"] > 0, arrays["x"], np.nan)},
        [tensor("x")],
        [tensor("y")],
    )

    one, nothing = call(server, model, 1, -1)

    assert one == {"y": 1.0}
    assert math.isnan(nothing["y"])


@pytest.mark.parametrize(
    ("datatype", "value"),
    [
        ("FP32", {"v": 1}),
        ("FP32", "0.5"),
        ("FP64", True),
        ("FP32", 1e39),
        ("FP16", 70000),
        ("BOOL", None),
        ("BOOL", 1),
        ("BOOL", "true"),
        ("UINT8", -1),
        ("UINT8", 256),
        ("INT32", "7"),
        ("INT32", 1.5),
        ("INT64", None),
        ("INT64", math.nan),
        ("INT64", True),
        ("INT64", 2**63),
        ("BYTES", None),
        ("BYTES", 7),
        ("BYTES", {"b": 1}),
    ],
)
def test_a_value_that_is_not_of_its_datatype_is_a_failure(datatype: str, value: Any) -> None:
    with pytest.raises(ModelFailure, match=f"output 'y', which is {datatype}") as caught:
        answered_with({"outputs": [{**tensor("y", datatype, 2), "data": [value, value]}]}, 2)

    assert (caught.value.reason, caught.value.permanent) == ("bad_model_response", False)


@pytest.mark.parametrize(
    ("datatype", "value", "read"),
    [
        ("FP32", 3.4028235e38, 3.4028235e38),
        ("FP64", math.inf, math.inf),
        ("FP16", 1, 1),
        ("INT64", 3.0, 3),
        ("UINT64", 2**63, 2**63),
        ("BOOL", False, False),
        ("BYTES", "ä", "ä"),
    ],
)
def test_a_value_of_its_datatype_is_the_answer(datatype: str, value: Any, read: Any) -> None:
    (row,) = answered_with({"outputs": [{**tensor("y", datatype, 1), "data": [value]}]}, 1)

    assert (row["y"], type(row["y"])) == (read, type(read))


def test_an_output_that_the_metadata_name_must_be_in_the_answer(server: OipServer) -> None:
    model = Served(
        "half", lambda arrays: {"y": arrays["x"]}, [tensor("x")], [tensor("y"), tensor("z")]
    )

    (failure,) = failed(server, model, 1)
    assert (failure.reason, "without output 'z'" in str(failure)) == ("bad_model_response", True)
    assert call(server, "half", 1, outputs=["y"]) == [{"y": 1.0}]


def test_an_output_of_another_kind_than_its_metadata_say_is_a_failure(server: OipServer) -> None:
    model = Served(
        "words",
        lambda arrays: {"y": np.array(["a"] * len(arrays["x"]), object)},
        [tensor("x")],
        [tensor("y")],
    )

    (failure,) = failed(server, model, 1)
    assert (failure.reason, "as BYTES; its metadata say FP64" in str(failure)) == (
        "bad_model_response",
        True,
    )


def test_an_answer_without_data_is_no_success_and_says_which_output(
    server: OipServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Through a subscription: the row has the reason, and no output."""
    server.models.append(sums())
    told = server.answer
    empty = {"model_name": "sums", "outputs": [{"name": "sum", "datatype": "FP64", "shape": [1]}]}
    monkeypatch.setattr(
        server,
        "answer",
        lambda method, path, raw: (200, empty) if method == "POST" else told(method, path, raw),
    )
    with mt.connect("memory://") as bus:
        sub = bus.subscribe("rows", f"oip+{server.url}/v2/models/sums", max_attempts=1)
        bus.publish("rows", [1, 2])
        bus.wait(timeout_s=20, progress=False)
        (row,) = sub.invocations().to_dict("records")

    assert (row["outcome"], row["reason"]) == ("dead", "bad_model_response")
    assert "output 'sum' without data" in row["error"]


def test_only_the_outputs_that_were_asked_for_come_back(server: OipServer) -> None:
    model = echo(tensor("a"), tensor("b"))

    assert call(server, model, {"a": 1, "b": 2}, outputs=["b"]) == [{"b": 2.0}]
    with pytest.raises(ModelFailure, match="unexpected output 'c'") as caught:
        call(server, "echo", {"a": 1, "b": 2}, outputs=["c"])
    assert (caught.value.reason, caught.value.permanent) == ("model_rejected", True)


@pytest.mark.parametrize(
    ("answer", "problem", "reason"),
    [
        ({"error": "out of cheese"}, "out of cheese", "model_http_error"),
        ({"outputs": [], "error": {"message": "x"}}, "without outputs", "bad_model_response"),
        *[
            (answer, problem, "bad_model_response")
            for answer, problem in [
                ([1, 2], r"without outputs: \[1, 2\]"),
                ({"outputs": "none"}, "without outputs"),
                ({"outputs": []}, "without outputs"),
                ({"outputs": [7]}, "no output"),
                (
                    {"outputs": [{"name": "y", "datatype": "INT64", "shape": [2]}]},
                    "output 'y' without data",
                ),
                (
                    {"outputs": [{**tensor("y", "INT64", 2), "data": None}]},
                    "output 'y' without data",
                ),
                (
                    {"outputs": [{**tensor("y", "INT64", 2), "data": [1]}]},
                    r"with 1 values in output 'y' of the shape \[2\]",
                ),
                (
                    {"outputs": [{**tensor("y", "INT64", 2, 2), "data": [[1, 2, 3, 4]]}]},
                    r"with 4 values in output 'y' of the shape",
                ),
                (
                    {"outputs": [{**tensor("y", "INT64", 2, 2), "data": [[1, 2, 3], [4]]}]},
                    "different lengths",
                ),
                (
                    {"outputs": [{**tensor("y", "INT64", 3), "data": [1, 2, 3]}]},
                    r"shape \[3\] for 2 events",
                ),
                ({"outputs": [{**tensor("y", "INT64", -1), "data": [1]}]}, r"shape \[-1\]"),
                (
                    {"outputs": [{**tensor("y", "INT64", 2), "data": [1, 2]}] * 2},
                    "output 'y' twice",
                ),
            ]
        ],
    ],
)
def test_an_answer_that_is_none_is_an_error_although_its_status_is_200(
    answer: Any, problem: str, reason: str
) -> None:
    with pytest.raises(ModelFailure, match=problem) as caught:
        answered_with(answer, 2)

    assert caught.value.reason == reason


# -- the request -----------------------------------------------------------------------------------


def test_the_event_names_its_request_when_it_is_alone_in_it(server: OipServer) -> None:
    """But not beyond ASCII: MLServer answers 500 to such an id."""
    with opened(server, sums()) as endpoint:
        endpoint.call([mt.Event([1, 2], id="page-1")])
        endpoint.call([mt.Event([1, 2], id="page-1"), mt.Event([1, 2], id="page-2")])
        endpoint.call([mt.Event([1, 2], id="Straße-1")])

    assert [body.get("id") for body in server.bodies()] == ["page-1", None, None]


def test_the_content_type_of_mlserver_is_asked_for(server: OipServer) -> None:
    kinds = tensor("kind", "BYTES", -1, content_type="str")

    call(server, echo(kinds, tensor("size")), {"kind": "a", "size": 1}, content_type="pd")

    body = server.bodies()[0]
    assert body["parameters"] == {"content_type": "pd"}
    assert [each.get("parameters") for each in body["inputs"]] == [{"content_type": "str"}, None]


def test_a_version_in_the_address_is_the_one_that_is_asked(server: OipServer) -> None:
    server.models += [
        Served("v", lambda arrays, n=n: {"n": arrays["x"] * 0 + n}, [tensor("x")], [], str(n))
        for n in (1, 2)
    ]

    assert call(server, "v/versions/1", 0) == [{"n": 1.0}]
    assert call(server, "v", 0) == [{"n": 2.0}]


def test_headers_come_from_the_environment(
    server: OipServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    with opened(server, sums(), headers={"Authorization": "env:NOT_THERE"}) as endpoint:
        with pytest.raises(ModelFailure, match="NOT_THERE"):
            endpoint.warm_up()
        monkeypatch.setenv("NOT_THERE", "Bearer x")
        endpoint.warm_up()


# -- metadata --------------------------------------------------------------------------------------


def test_the_server_is_asked_once_what_its_model_takes(server: OipServer) -> None:
    with opened(server, sums()) as endpoint:
        endpoint.warm_up()
        endpoint.call([mt.Event([1, 2])])
        endpoint.call([mt.Event([1, 2])])

    assert [path for method, path, _ in server.requests if method == "GET"] == ["/v2/models/sums"]


def test_a_server_that_does_not_tell_is_told_by_the_user(server: OipServer) -> None:
    """MLServer lists no inputs unless the model's settings do."""
    silent = sums()
    server.models.append(silent)
    honest, silent.inputs = silent.inputs, []
    with opened(server, "sums") as endpoint, pytest.raises(ModelFailure, match="inputs=") as caught:
        endpoint.warm_up()
    assert (caught.value.reason, caught.value.whole) == ("model_unavailable", True)
    silent.inputs = honest
    server.requests.clear()

    assert call(server, "sums", [1, 2], inputs=honest) == [{"sum": 3.0}]
    assert [method for method, _, _ in server.requests] == ["POST"]


@pytest.mark.parametrize("model", ["nope", "sums/versions/9"])
def test_a_model_that_is_not_there_is_no_events_doing(server: OipServer, model: str) -> None:
    server.models.append(sums())
    with (
        opened(server, model) as endpoint,
        pytest.raises(ModelFailure, match="not found") as caught,
    ):
        endpoint.call([mt.Event([1, 2])])

    failure = caught.value
    assert (failure.reason, failure.permanent, failure.throttled, failure.whole) == (
        "model_unavailable",
        False,
        True,
        True,
    )
    assert failure.delay_s == HOLD_S


@pytest.mark.parametrize(
    ("metadata", "answer"),
    [
        ({"inputs": [tensor("x")]}, {"error": "no KEY"}),
        ({"inputs": [tensor("x")]}, {"outputs": ["KEY"]}),
        ({"inputs": [tensor("x")]}, {"outputs": [{**tensor("KEY", "FP64", 3), "data": [1]}]}),
        ({"inputs": [tensor("x")]}, {"outputs": [{**tensor("KEY", "FP64", 1), "data": [1, 2]}]}),
        ({"inputs": [{"name": "KEY"}]}, {}),
    ],
)
def test_a_server_that_sends_our_key_back_does_not_bring_it_into_the_error(
    metadata: Any, answer: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLT_KEY", "verysecret4711")

    def tell(request: Request) -> Any:
        value = metadata if request.method == "GET" else answer
        return json.loads(json.dumps(value).replace("KEY", request.header("x-api-key") or ""))

    with ModelServer(tell) as server:
        address = Address.of(
            f"oip+{server.url}/v2/models/m", {"headers": {"X-Api-Key": "env:MLT_KEY"}}
        )
        with (
            contextlib.closing(scheme_of(address).open(address, Setting(10.0))) as endpoint,
            pytest.raises(ModelFailure) as caught,
        ):
            endpoint.call([mt.Event(1)])

    assert "***" in f"{caught.value} {caught.value.detail}"
    assert "4711" not in f"{caught.value} {caught.value.detail}"


def test_a_server_that_is_gone_is_an_outage(server: OipServer) -> None:
    with opened(server, sums()) as endpoint:
        endpoint.warm_up()
        server.close()
        with pytest.raises(ModelFailure) as caught:
            endpoint.call([mt.Event([1, 2]), mt.Event([3, 4])])

    assert (caught.value.reason, caught.value.throttled, caught.value.whole) == (
        "model_unavailable",
        True,
        True,
    )


def test_a_model_that_is_not_ready_is_tried_again(server: OipServer) -> None:
    model = sums()
    with opened(server, model) as endpoint:
        model.ready = False
        with pytest.raises(ModelFailure, match="not ready") as caught:
            endpoint.call([mt.Event([1, 2])])
        assert not caught.value.permanent
        model.ready = True
        assert endpoint.call([mt.Event([1, 2])]) == [{"sum": 3.0}]


@pytest.mark.parametrize("data", [[1, 2, 3], [1, 2]])
def test_a_model_that_takes_other_tensors_now_is_asked_what_it_takes(
    server: OipServer, data: list[int]
) -> None:
    """Found out by what the event has, or by what the server refuses."""
    with opened(server, sums(columns=2)) as endpoint:
        endpoint.warm_up()
        server.models[:] = [sums(columns=3)]

        (answer,) = endpoint.call([mt.Event(data)])

        if len(data) == 3:
            assert answer == {"sum": 6.0}
        else:
            assert "the model takes [3]" in refusal(answer)
        assert endpoint.call([mt.Event([1, 1, 1])]) == [{"sum": 3.0}]


def test_a_server_that_refuses_is_not_asked_for_metadata_each_time(server: OipServer) -> None:
    def refuse(_: Any) -> Any:
        raise Refused(422, "I do not like it")

    with opened(server, Served("shy", refuse, [tensor("x")], [])) as endpoint:
        for _ in range(3):
            with pytest.raises(ModelFailure, match="I do not like it") as caught:
                endpoint.call([mt.Event(1)])
            assert (caught.value.reason, caught.value.permanent, caught.value.whole) == (
                "model_rejected",
                True,
                False,
            )
            refusal(endpoint.call([mt.Event("x")])[0])

    assert [method for method, _, _ in server.requests] == ["GET", "POST", "GET", "POST", "POST"]


@pytest.mark.parametrize("metadata", [{}, [], {"inputs": {}}, {"inputs": [{"name": "x"}]}])
def test_metadata_that_are_none_make_the_model_unavailable(
    server: OipServer, metadata: Any
) -> None:
    class Strange(Served):
        metadata = property(
            lambda _: metadata if isinstance(metadata, dict) else {"inputs": metadata}
        )

    with (
        opened(server, Strange("strange", dict, [], [])) as endpoint,
        pytest.raises(ModelFailure) as caught,
    ):
        endpoint.warm_up()

    assert (caught.value.reason, caught.value.whole) == ("model_unavailable", True)


def test_an_endpoint_is_used_from_many_threads(server: OipServer) -> None:
    with opened(server, sums()) as endpoint, ThreadPoolExecutor(8) as threads:
        answers = list(
            threads.map(lambda number: endpoint.call([mt.Event([number, 0])]), range(20, 100))
        )

    assert answers == [[{"sum": float(number)}] for number in range(20, 100)]
    assert sum(method == "GET" for method, _, _ in server.requests) == 1


# -- through the bus -------------------------------------------------------------------------------


def test_a_scikit_learn_model_behind_the_protocol_is_a_model_like_any_other(
    server: OipServer,
) -> None:
    server.models.append(iris())
    with mt.connect("memory://", clock=SimulatedClock()) as bus:
        model = mt.model(
            f"oip+{server.url}/v2/models/iris/versions/1", columns=["sl", "sw", "pl", "pw"]
        )
        flowers = [
            dict(zip(("sl", "sw", "pl", "pw"), row, strict=True)) for row in (SETOSA, VIRGINICA)
        ]
        bus.subscribe("flowers", model, batch_size=4)

        run = bus.fire(
            "flowers", [*flowers, {"sl": 1, "sw": "wide", "pl": 1, "pw": 1}], progress=False
        )

        frame = bus.invocations().set_index("event_id")
        setosa, virginica, bad = (frame.loc[receipt.event_id] for receipt in run.receipts)
        assert [int(np.argmax(json.loads(row["output"])["y"])) for row in (setosa, virginica)] == [
            0,
            2,
        ]
        assert (bad["outcome"], bad["reason"], bad["attempt"]) == ("dead", "invalid_input", 1)
        assert "'sw': wide does not fit FP64" in bad["error"]
        assert set(frame["version"]) == {"1.0.0"}


def test_the_little_server_runs_in_a_process_of_its_own(tmp_path: Path) -> None:
    (tmp_path / "models.py").write_text(
        "from oip_server import Served\n"
        "x, y = ({'name': name, 'datatype': 'INT64', 'shape': [-1]} for name in 'xy')\n"
        "twice = Served('twice', lambda arrays: {'y': arrays['x'] * 2}, [x], [y])\n"
    )
    program = [
        sys.executable,
        str(Path(__file__).parents[2] / "helpers" / "oip_server.py"),
        f"{tmp_path / 'models.py'}:twice",
    ]
    with subprocess.Popen(program, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        try:
            address = Address.of(f"oip+{process.stdout.readline().strip()}/v2/models/twice", {})
            with contextlib.closing(scheme_of(address).open(address, Setting())) as endpoint:
                assert endpoint.call([mt.Event(21), mt.Event(4)]) == [{"y": 42}, {"y": 8}]
        finally:
            process.terminate()
