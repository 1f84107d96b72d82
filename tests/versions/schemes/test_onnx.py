"""ONNX files as models: what an event may be, what comes out, and which files belong to a version.

The files are made here.
"""

from __future__ import annotations

import hashlib
import pickle
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

import mltrigger as mt
from mltrigger.errors import InvalidModel, ModelFailure, NotFound, VersionConflict
from mltrigger.versions.address import Address
from mltrigger.versions.scheme import Description, Endpoint, Setting, scheme_of

Value = tuple[str, int, Sequence[int | str | None]]


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working directory of a test."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


def model_of(
    nodes: Any,
    inputs: Sequence[Value],
    outputs: Sequence[Value | Any],
    constants: dict[str, Any] | None = None,
) -> Any:
    given = [helper.make_tensor_value_info(*value) for value in inputs]
    made = [
        helper.make_tensor_value_info(*value) if isinstance(value, tuple) else value
        for value in outputs
    ]
    fixed = [
        onnx.numpy_helper.from_array(np.asarray(value), name)
        for name, value in (constants or {}).items()
    ]
    graph = helper.make_graph(list(nodes), "graph", given, made, fixed)
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid("ai.onnx.ml", 3)]
    return helper.make_model(graph, opset_imports=opsets, ir_version=8)


def linear(first: int | str | None = "N") -> Any:
    """Return a model of two inputs a row: y = x0 + 10 x1."""
    node = helper.make_node("MatMul", ["x", "w"], ["y"])
    weights = {"w": np.array([[1], [10]], np.float32)}
    return model_of(
        [node],
        [("x", TensorProto.FLOAT, [first, 2])],
        [("y", TensorProto.FLOAT, [first, 1])],
        weights,
    )


def identity(element: int, shape: Sequence[int | str | None] = ("N",)) -> Any:
    return model_of(
        [helper.make_node("Identity", ["x"], ["y"])],
        [("x", element, shape)],
        [("y", element, shape)],
    )


def saved(model: Any, name: str = "score.onnx") -> str:
    Path(name).write_bytes(model.SerializeToString())
    return f"onnx:{name}"


def opened(text: str, **options: Any) -> Endpoint:
    address = Address.of(text, options)
    endpoint = scheme_of(address).open(address, Setting())
    endpoint.warm_up()
    return endpoint


def described(text: str, **options: Any) -> Description:
    address = Address.of(text, options)
    return scheme_of(address).describe(address)


def ask(endpoint: Endpoint, *data: Any) -> list[Any]:
    return list(endpoint.call([mt.Event(d) for d in data]))


# -- what goes in, and what comes out --------------------------------------------------------------


def test_a_batch_is_one_run_and_every_event_gets_its_row() -> None:
    endpoint = opened(saved(linear()))

    assert endpoint.batches
    assert ask(endpoint, {"x": [1, 2]}, [3, 4.5], {"x": [0, 0]}) == [
        {"y": 21.0},
        {"y": 48.0},
        {"y": 0.0},
    ]


def test_records_become_rows_by_the_names_of_their_columns() -> None:
    endpoint = opened(saved(linear()), columns=["age", "income"])

    assert ask(endpoint, {"income": 4, "age": 3, "name": "unused"}) == [{"y": 43.0}]
    (failure,) = ask(endpoint, {"age": 3})
    assert "input 'income' is missing" in str(failure)


def test_a_record_has_a_field_for_each_input() -> None:
    node = helper.make_node("Concat", ["age", "income"], ["row"], axis=1)
    inputs: list[Value] = [
        ("age", TensorProto.FLOAT, [None, 1]),
        ("income", TensorProto.FLOAT, [None, 1]),
    ]
    endpoint = opened(saved(model_of([node], inputs, [("row", TensorProto.FLOAT, [None, 2])])))

    assert ask(endpoint, {"age": 3, "income": 4}, {"age": 5, "income": 6}) == [
        {"row": [3.0, 4.0]},
        {"row": [5.0, 6.0]},
    ]


def test_a_model_for_one_row_is_called_once_an_event() -> None:
    endpoint = opened(saved(linear(1)))

    assert not endpoint.batches
    assert ask(endpoint, [[1, 2]], [[3, 4]]) == [{"y": 21.0}, {"y": 43.0}]


def test_events_of_different_lengths_go_into_different_runs() -> None:
    node = helper.make_node("ReduceSum", ["x", "axes"], ["y"], keepdims=0)
    model = model_of(
        [node],
        [("x", TensorProto.FLOAT, ["N", "length"])],
        [("y", TensorProto.FLOAT, ["N"])],
        {"axes": np.array([1], np.int64)},
    )

    assert [o["y"] for o in ask(opened(saved(model)), [1, 2], [1, 2, 3], [4, 5], [7])] == [
        3.0,
        6.0,
        9.0,
        7.0,
    ]


def test_probabilities_of_a_classifier_come_by_their_label() -> None:
    classifier = helper.make_node(
        "LinearClassifier",
        ["x"],
        ["label", "scores"],
        domain="ai.onnx.ml",
        coefficients=[1.0, 0.0, 0.0, 1.0],
        intercepts=[0.0, 0.0],
        classlabels_ints=[7, 9],
        post_transform="SOFTMAX",
    )
    named = helper.make_node(
        "ZipMap", ["scores"], ["probabilities"], domain="ai.onnx.ml", classlabels_int64s=[7, 9]
    )
    maps = helper.make_sequence_type_proto(
        helper.make_map_type_proto(
            TensorProto.INT64, helper.make_tensor_type_proto(TensorProto.FLOAT, [])
        )
    )
    outputs = [("label", TensorProto.INT64, [None]), helper.make_value_info("probabilities", maps)]
    endpoint = opened(
        saved(model_of([classifier, named], [("x", TensorProto.FLOAT, [None, 2])], outputs))
    )

    one, two = ask(endpoint, [50, 0], [0, 0])

    assert (one["label"], one["probabilities"][7]) == (7, 1.0)
    assert two["probabilities"] == {7: 0.5, 9: 0.5}


@pytest.mark.parametrize(
    ("element", "value"),
    [
        (TensorProto.FLOAT, 1.5),
        (TensorProto.DOUBLE, 0.1),
        (TensorProto.FLOAT16, 0.5),
        (TensorProto.INT64, 2**62),
        (TensorProto.INT8, -128),
        (TensorProto.UINT8, 255),
        (TensorProto.BOOL, True),
        (TensorProto.STRING, "ä"),
    ],
)
def test_every_type_of_element_passes(element: int, value: Any) -> None:
    (alone,) = ask(opened(saved(identity(element))), value)
    (several,) = ask(opened(saved(identity(element, ["N", 2]))), [value, value])

    assert (alone, several) == ({"y": value}, {"y": [value, value]})
    assert type(alone["y"]) is type(value)


@pytest.mark.parametrize(
    ("element", "value", "message"),
    [
        (TensorProto.INT64, 1.5, "1.5 does not fit INT64"),
        (TensorProto.UINT8, 256, r"256 does not fit UINT8 \(0 to 255\)"),
        (TensorProto.FLOAT, "1", "1 does not fit FP32"),
        (TensorProto.FLOAT, 1e300, "does not fit FP32"),
        (TensorProto.FLOAT, None, "None does not fit FP32.*missing='null'"),
        (TensorProto.FLOAT, float("nan"), "nan does not fit FP32"),
        (TensorProto.FLOAT, True, "True does not fit FP32"),
        (TensorProto.BOOL, 1, "1 does not fit BOOL"),
        (TensorProto.STRING, 1, "1 does not fit BYTES"),
        (TensorProto.FLOAT, {"z": 1}, "input 'x' is missing"),
        (TensorProto.FLOAT, [1, 2], "the shape is"),
    ],
)
def test_data_that_do_not_fit_are_dead_and_their_neighbours_answered(
    element: int, value: Any, message: str
) -> None:
    fine = {TensorProto.BOOL: True, TensorProto.STRING: "a"}.get(element, 1)

    first, refused, last = ask(opened(saved(identity(element))), fine, value, fine)

    assert first == last == {"y": fine}
    assert isinstance(refused, ModelFailure)
    assert (refused.reason, refused.permanent) == ("invalid_input", True)
    with pytest.raises(ModelFailure, match=message):
        raise refused


def test_what_is_missing_is_nan_when_that_was_agreed_on() -> None:
    one, two = ask(opened(saved(identity(TensorProto.FLOAT)), missing="null"), None, float("nan"))

    assert np.isnan([one["y"], two["y"]]).all()


def test_infinities_and_nan_of_a_model_are_kept() -> None:
    model = model_of(
        [helper.make_node("Log", ["x"], ["y"])],
        [("x", TensorProto.FLOAT, ["N"])],
        [("y", TensorProto.FLOAT, ["N"])],
    )

    assert str(ask(opened(saved(model)), 0, -1, 1)) == "[{'y': -inf}, {'y': nan}, {'y': 0.0}]"


def test_only_the_outputs_that_were_asked_for_are_computed() -> None:
    nodes = [helper.make_node("Neg", ["x"], ["minus"]), helper.make_node("Abs", ["x"], ["size"])]
    outputs: list[Value] = [("minus", TensorProto.FLOAT, ["N"]), ("size", TensorProto.FLOAT, ["N"])]
    text = saved(model_of(nodes, [("x", TensorProto.FLOAT, ["N"])], outputs))

    assert ask(opened(text), -2) == [{"minus": 2.0, "size": 2.0}]
    assert ask(opened(text, outputs=["size"]), -2) == [{"size": 2.0}]
    with pytest.raises(NotFound, match=r"no output of score\.onnx: 'sizes'; did you mean 'size'"):
        opened(text, outputs=["sizes"])


def test_only_the_event_that_the_model_refuses_fails() -> None:
    node = helper.make_node("Gather", ["table", "x"], ["y"])
    model = model_of(
        [node],
        [("x", TensorProto.INT64, ["N"])],
        [("y", TensorProto.FLOAT, ["N"])],
        {"table": np.array([5, 6], np.float32)},
    )

    first, failure, last = ask(opened(saved(model)), 0, 7, 1)

    assert (first, last) == ({"y": 5.0}, {"y": 6.0})
    assert isinstance(failure, ModelFailure)
    assert str(failure).startswith("ONNX Runtime: ")
    assert "bounds" in str(failure)


def test_a_model_whose_rows_are_not_events_says_what_to_do() -> None:
    node = helper.make_node("ReduceSum", ["x"], ["y"], keepdims=1)
    text = saved(
        model_of([node], [("x", TensorProto.FLOAT, ["N", 2])], [("y", TensorProto.FLOAT, [1, 1])])
    )

    with pytest.raises(
        ModelFailure, match=r"output 'y' has the shape \[1, 1\] for 2 events.*batched=False"
    ) as raised:
        raise ask(opened(text), [1, 2], [3, 4])[0]
    assert raised.value.permanent
    assert ask(opened(text, batched=False), [[1, 2], [3, 4]], [[1, 1]]) == [{"y": 10.0}, {"y": 2.0}]


@pytest.mark.parametrize(
    ("processes", "given", "threads"),
    [(1, {}, 0), (1000, {}, 1), (1000, {"intra_op_num_threads": 2}, 2)],
)
def test_processes_on_one_machine_share_its_cores(
    processes: int, given: dict[str, Any], threads: int
) -> None:
    address = Address.of(saved(linear()), given)
    endpoint = scheme_of(address).open(address, Setting(processes=processes))
    endpoint.warm_up()

    assert endpoint._known()._session.get_session_options().intra_op_num_threads == threads  # type: ignore[attr-defined]


def test_four_threads_share_one_session() -> None:
    endpoint = opened(saved(linear()), intra_op_num_threads=1)
    with ThreadPoolExecutor(4) as threads:
        answers = list(threads.map(lambda n: ask(endpoint, [n, n]), range(100)))

    assert answers == [[{"y": 11.0 * n}] for n in range(100)]


# -- what is a model -------------------------------------------------------------------------------


def test_the_version_is_the_sum_of_the_file() -> None:
    text = saved(linear(), "my model.onnx")
    found = described(text)

    assert (found.name, found.content) == (
        "my-model",
        hashlib.sha256(Path("my model.onnx").read_bytes()).hexdigest(),
    )
    saved(linear(1), "my model.onnx")
    assert described(text).content != found.content


def test_weights_in_files_beside_the_model_belong_to_it() -> None:
    Path("sub").mkdir()
    onnx.save(
        linear(),
        "sub/score.onnx",
        save_as_external_data=True,
        location="score.onnx.data",
        size_threshold=0,
    )
    found = described("onnx:sub/score.onnx")

    assert ask(opened("onnx:sub/score.onnx"), [1, 2]) == [{"y": 21.0}]
    weights = Path("sub/score.onnx.data")
    weights.write_bytes(np.array([2, 10], np.float32).tobytes())
    assert described("onnx:sub/score.onnx").content != found.content
    assert ask(opened("onnx:sub/score.onnx"), [1, 2]) == [{"y": 22.0}]
    weights.rename("score.onnx.data")  # in the working directory, where the runtime would look
    with pytest.raises(InvalidModel, match=r"'score\.onnx\.data', which is not beside it"):
        described("onnx:sub/score.onnx")
    with pytest.raises(InvalidModel, match="which is not beside it"):
        opened("onnx:sub/score.onnx")


@pytest.mark.parametrize("beside", [False, True])
def test_a_model_that_runs_does_not_change_with_its_files(beside: bool) -> None:
    onnx.save(
        linear(),
        "score.onnx",
        save_as_external_data=beside,
        location="score.onnx.data",
        size_threshold=0,
    )
    endpoint = opened("onnx:score.onnx")
    for file in Path().glob("score.onnx*"):
        file.write_bytes(b"")

    assert ask(endpoint, [1, 2]) == [{"y": 21.0}]


@pytest.mark.parametrize("location", ["../secret.bin", "/etc/hostname", "a/../../b"])
def test_weights_elsewhere_are_refused(location: str) -> None:
    model = linear()
    tensor = model.graph.initializer[0]
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value=location)

    with pytest.raises(InvalidModel, match="which is not in its folder"):
        described(saved(model))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("onnx:scor.onnx", "no file 'scor.onnx' .*did you mean 'score.onnx'"),
        ("onnx:/nowhere/else/x.onnx", "no file 'x.onnx'"),
        ("onnx:sub", "is a folder; name the file in it"),
        ("onnx:pointer.onnx", "git lfs pull"),
    ],
)
def test_what_is_no_file_is_refused_when_the_model_is_described(text: str, message: str) -> None:
    saved(linear())
    Path("sub").mkdir()
    Path("pointer.onnx").write_text("version https://git-lfs.github.com/spec/v1\n")

    with pytest.raises(InvalidModel, match=message):
        described(text)


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"column": ["a"]}, NotFound, "did you mean 'columns'"),
        ({"columns": "a"}, InvalidModel, "must be list"),
        ({"columns": [1]}, InvalidModel, "list of names"),
        ({"missing": "nan"}, NotFound, "'null', 'refuse'"),
        ({"intra_op_num_threads": -1}, InvalidModel, "must be a count"),
    ],
)
def test_a_wrong_option_is_refused_when_the_model_is_described(
    options: dict[str, Any], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        described(saved(linear()), **options)


def test_garbage_is_no_model() -> None:
    Path("score.onnx").write_bytes(b"\x08\x08garbage" * 100)

    with pytest.raises(
        InvalidModel, match=r"score.onnx is no model that ONNX Runtime [\d.]+ can load: .*"
    ):
        opened("onnx:score.onnx")


def test_columns_that_do_not_make_a_row_are_refused_when_it_is_loaded() -> None:
    with pytest.raises(InvalidModel, match=r"columns names 3 fields.*x: FP32\[-1, 2\]"):
        opened(saved(linear()), columns=["a", "b", "c"])


def test_an_input_that_is_no_tensor_is_refused() -> None:
    sequence = helper.make_tensor_sequence_value_info("x", TensorProto.FLOAT, None)
    node = helper.make_node("SequenceLength", ["x"], ["y"])
    graph = helper.make_graph(
        [node], "graph", [sequence], [helper.make_tensor_value_info("y", TensorProto.INT64, [])]
    )

    with pytest.raises(
        InvalidModel, match=r"input 'x' is a seq\(tensor\(float\)\), for which events have no form"
    ):
        opened(
            saved(
                helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
            )
        )


def test_operators_of_other_libraries_are_refused() -> None:
    node = helper.make_node("Anything", ["x"], ["y"], domain="com.example")
    model = model_of([node], [("x", TensorProto.FLOAT, ["N"])], [("y", TensorProto.FLOAT, ["N"])])
    model.opset_import.append(helper.make_opsetid("com.example", 1))

    with pytest.raises(InvalidModel, match=r"com\.example"):
        opened(saved(model))


def test_a_provider_that_is_not_there_lists_those_that_are() -> None:
    with pytest.raises(NotFound, match="CPUExecutionProvider"):
        opened(saved(linear()), providers=["CPUExecutionProvide"])


def test_an_address_travels_to_another_process() -> None:
    address = Address.of(saved(linear()), {"columns": ["a", "b"]})

    assert pickle.loads(pickle.dumps(address)) == address


# -- through a bus ---------------------------------------------------------------------------------

in_memory = pytest.mark.parametrize("url", ["memory"], indirect=True)


@in_memory
@pytest.mark.parametrize("isolation", ["thread", "process"])
def test_outputs_are_columns(bus: mt.EventBus, isolation: str) -> None:
    sub = bus.subscribe(
        "rows", mt.model(saved(linear()), version="1.0.0", columns=["a", "b"]), isolation=isolation
    )

    frame = bus.fire("rows", [{"a": n, "b": 1} for n in range(4)]).results()

    assert sorted(frame["y"]) == [10.0, 11.0, 12.0, 13.0]
    assert set(frame["model"]) == {"score"}
    sub.stop()


@in_memory
def test_a_row_that_does_not_fit_is_a_dead_letter_that_names_the_field(bus: mt.EventBus) -> None:
    sub = bus.subscribe("rows", mt.model(saved(linear()), columns=["age", "income"]))

    frame = bus.fire("rows", [{"age": 1, "income": 2}, {"age": "old", "income": 2}]).results()

    assert list(frame["outcome"]) == ["succeeded", "dead"]
    letter = sub.dead_letters().iloc[0]
    assert (letter["reason"], letter["error"]) == (
        "invalid_input",
        "input 'age': old does not fit FP32 (a finite number up to 3.40282e+38)",
    )


@in_memory
def test_another_file_under_the_same_version_is_refused(bus: mt.EventBus) -> None:
    bus.register(mt.model(saved(linear()), version="1.0.0"))

    with pytest.raises(VersionConflict):
        bus.register(mt.model(saved(linear(1)), version="1.0.0"))
