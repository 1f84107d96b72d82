"""Models of an MLflow registry: a real one, in files; what its versions, aliases and signatures
mean here.
"""

from __future__ import annotations

import contextlib
import datetime as dt
import json
import math
import os
import socket
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from model_servers import ModelServer, Proxy, Reply
from shared import wait_until

import mltrigger as mt
from mltrigger.errors import InvalidModel, ModelFailure, NotFound
from mltrigger.testing import SimulatedClock
from mltrigger.versions.address import Address
from mltrigger.versions.scheme import Description, Endpoint, Setting, scheme_of
from mltrigger.versions.schemes.mlflow import registry as mlflow_registry
from mltrigger.versions.schemes.mlflow.scheme import MlflowRegistry
from mltrigger.versions.schemes.mlflow.signature import Signature, outputs

pytestmark = pytest.mark.filterwarnings(
    "ignore::UserWarning", "ignore::FutureWarning", "ignore::DeprecationWarning"
)

CHURN = pd.DataFrame({"age": [20.0, 30.0, 60.0, 70.0], "visits": [9, 8, 1, 0]})


class Registry:
    """A registry in the files of a folder, and a way to put models into it."""

    def __init__(self, folder: Path) -> None:
        import mlflow

        self.folder, self.uri = folder, f"file://{folder / 'store'}"
        self.client = mlflow.MlflowClient(tracking_uri=self.uri, registry_uri=self.uri)
        self._saved = 0

    def put(self, name: str, save: Callable[[str], Any]) -> str:
        """Register what *save* puts at a path as the next version of model *name*; return the
        version.
        """
        from mlflow.exceptions import MlflowException

        self._saved += 1
        path = self.folder / f"{name}-{self._saved}"
        save(str(path))
        with contextlib.suppress(MlflowException):
            self.client.create_registered_model(name)
        return str(self.client.create_model_version(name, source=f"file://{path}").version)

    def put_python(self, name: str, model: Any, **saved: Any) -> str:
        import mlflow.pyfunc

        return self.put(
            name,
            lambda path: mlflow.pyfunc.save_model(
                path, python_model=model, pip_requirements=[], **saved
            ),
        )


@pytest.fixture(scope="module")
def registry(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Registry]:
    """The registry that MLflow's own variables name."""
    folder = tmp_path_factory.mktemp("mlflow")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")  # a database takes 8 seconds to make
        patch.setenv("MLFLOW_DISABLE_TELEMETRY", "true")
        patch.setenv("MLFLOW_TRACKING_URI", f"file://{folder / 'store'}")
        patch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
        patch.delenv("MLFLOW_REGISTRY_URI", raising=False)
        registry = Registry(folder)
        registry.put("churn", lambda path: save_classifier(path, CHURN, [0, 0, 1, 1]))
        registry.put("churn", lambda path: save_classifier(path, CHURN, [1, 1, 0, 0]))
        registry.client.set_registered_model_alias("churn", "champion", "1")
        yield registry


def save_classifier(path: str, rows: Any, answers: list[int], **saved: Any) -> None:
    import mlflow.sklearn
    from mlflow.models import infer_signature
    from sklearn.linear_model import LogisticRegression

    model = LogisticRegression().fit(rows, answers)
    signature = infer_signature(rows, pd.DataFrame({"churns": model.predict(rows)}))
    given = {
        "signature": signature,
        "serialization_format": "cloudpickle",
        "pip_requirements": [],
        **saved,
    }
    mlflow.sklearn.save_model(model, path, **given)


def described(text: str, **options: Any) -> Description:
    address = Address.of(text, options)
    return scheme_of(address).describe(address)


@contextlib.contextmanager
def opened(text: str, **options: Any) -> Iterator[Endpoint]:
    address = Address.of(text, options)
    with contextlib.closing(scheme_of(address).open(address, Setting(30.0))) as endpoint:
        endpoint.warm_up()
        yield endpoint


def call(text: str, *data: Any, **options: Any) -> list[Any]:
    with opened(text, **options) as endpoint:
        return list(endpoint.call([mt.Event(each) for each in data]))


def refusal(answer: Any) -> str:
    """Return what the failure of one event says; it must be that event's own and final."""
    assert isinstance(answer, ModelFailure), answer
    assert (answer.reason, answer.permanent, answer.whole) == ("invalid_input", True, False)
    return str(answer)


# -- the address -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "name", "version", "alias"),
    [
        ("models:/churn/3", "churn", "3.0.0", None),
        ("models:/churn@champion", "churn", None, "champion"),
        ("models:/churn/latest", "churn", None, "latest"),
        ("models:/churn@latest", "churn", None, "latest"),
        ("models:/main.ml.churn/12", "main.ml.churn", "12.0.0", None),
        ("models:/Churn of 2026/1", "Churn-of-2026", "1.0.0", None),
    ],
)
def test_the_address_says_name_version_and_alias_without_a_server(
    text: str, name: str, version: str | None, alias: str | None
) -> None:
    found = described(text, tracking_uri="http://nobody.invalid")

    assert (found.name, found.version, found.alias) == (name, version, alias)


@pytest.mark.parametrize(
    ("text", "advice"),
    [
        ("models:/churn", "models:/churn/3"),
        ("models:/churn/", "models:/churn@champion"),
        ("models:/churn/0", "models:/churn/3"),
        ("models:/churn/03", "models:/churn/3"),
        ("models:/churn/3/MLmodel", "models:/churn/3"),
        ("models:/churn/Production", "models:/churn@production"),
        ("models:/churn@", "models:/churn@champion"),
        ("models://profile@databricks/churn/3", "registry_uri"),
        ("models:/churn?x=1/3", "models:/"),
    ],
)
def test_an_address_that_cannot_be_right_is_refused_with_one_that_is(
    text: str, advice: str
) -> None:
    with pytest.raises(InvalidModel) as caught:
        described(text)

    assert advice in str(caught.value)


@pytest.mark.parametrize(
    "uri",
    ["http://me:secret@host", "postgresql://me:secret@host/db", "http://host?password=secret"],
)
@pytest.mark.parametrize("option", ["tracking_uri", "registry_uri"])
def test_credentials_are_named_by_mlflows_variables_and_never_stored(option: str, uri: str) -> None:
    with pytest.raises(InvalidModel, match="MLFLOW_TRACKING_PASSWORD") as caught:
        described("models:/churn/3", **{option: uri})

    assert "secret" not in str(caught.value)


def test_a_mistyped_option_lists_the_near_ones() -> None:
    with pytest.raises(NotFound, match="'tracking_uri'"):
        described("models:/churn/3", tracking_url="http://host")


def test_without_mlflow_the_model_is_refused_with_the_way_to_install_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(sys.modules, "mlflow", None)

    with pytest.raises(InvalidModel, match=r"pip install -e '.\[mlflow\]'"):
        described("models:/churn/3")


# -- versions and aliases --------------------------------------------------------------------------


def test_an_alias_is_pinned_to_the_version_it_means_now(registry: Registry) -> None:
    scheme, address = MlflowRegistry(), Address.of("models:/churn@champion", {"params": {}})

    assert scheme.pin(address) == Address.of("models:/churn/1", {"params": {}})
    registry.client.set_registered_model_alias("churn", "champion", "2")
    assert scheme.pin(address) == Address.of("models:/churn/2", {"params": {}})
    registry.client.set_registered_model_alias("churn", "champion", "1")


@pytest.mark.parametrize(
    "text", ["models:/churn/latest", "models:/churn@latest", "models:/churn/LATEST"]
)
def test_latest_is_the_highest_version(registry: Registry, text: str) -> None:
    assert MlflowRegistry().pin(Address(text)) == Address("models:/churn/2")


def test_latest_of_a_model_without_versions_is_nothing(registry: Registry) -> None:
    registry.client.create_registered_model("empty")

    with pytest.raises(NotFound, match="no version that is ready"):
        MlflowRegistry().pin(Address("models:/empty/latest"))


@pytest.mark.parametrize(
    ("text", "near"),
    [
        ("models:/churn@champoin", "'churn@champion'"),
        ("models:/chrun@champion", "'churn'"),
        ("models:/chrun/latest", "'churn'"),
    ],
)
def test_a_wrong_name_or_alias_lists_the_near_ones(
    registry: Registry, text: str, near: str
) -> None:
    with pytest.raises(NotFound, match=near):
        MlflowRegistry().pin(Address(text))


@pytest.mark.parametrize("text", ["models:/churn/99", "models:/nothing/1"])
def test_a_version_that_is_not_there_is_found_out_when_the_model_is_registered_or_loaded(
    registry: Registry, text: str
) -> None:
    with pytest.raises(NotFound, match=text):
        MlflowRegistry().schemas(Address(text))
    with pytest.raises(NotFound, match=text), opened(text):
        pass


def test_the_registry_is_where_the_options_say(registry: Registry, tmp_path: Path) -> None:
    """And the variables of the process stay what they are, so that two registries can be used at
    once.
    """
    other = Registry(tmp_path)
    other.put("churn", lambda path: save_classifier(path, CHURN, [1, 1, 0, 0]))
    other.client.set_registered_model_alias("churn", "champion", "1")
    young = {"age": 20, "visits": 9}

    for options in ({"tracking_uri": other.uri}, {"registry_uri": other.uri}):
        assert call("models:/churn@champion", young, **options) == [{"churns": 1}]
    assert call("models:/churn@champion", young) == [{"churns": 0}]


def test_no_proxy_stands_before_a_registry_on_this_machine(
    registry: Registry, monkeypatch: pytest.MonkeyPatch
) -> None:
    with (
        Proxy() as proxy,
        ModelServer(
            Reply(404, {"error_code": "RESOURCE_DOES_NOT_EXIST", "message": "none here"})
        ) as server,
    ):
        monkeypatch.setenv("NO_PROXY", "intranet.example")
        monkeypatch.setenv("HTTP_PROXY", proxy.url)
        monkeypatch.setenv("http_proxy", proxy.url)
        monkeypatch.setenv("no_proxy", "")
        with pytest.raises(ModelFailure):
            MlflowRegistry().pin(Address.of("models:/churn@champion", {"tracking_uri": server.url}))

        assert server.requests
        assert proxy.asked == []
        assert os.environ["no_proxy"] == "intranet.example,127.0.0.1"


def test_a_registry_that_refuses_connections_is_an_outage(registry: Registry) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        uri = f"http://127.0.0.1:{taken.getsockname()[1]}"
        with pytest.raises(ModelFailure) as caught:
            MlflowRegistry().pin(Address.of("models:/churn@champion", {"tracking_uri": uri}))
        with pytest.raises(ModelFailure), opened("models:/churn/3", tracking_uri=uri):
            pass

    assert (caught.value.reason, caught.value.permanent, caught.value.whole) == (
        "model_unavailable",
        False,
        True,
    )


def test_a_registry_that_says_nothing_is_not_waited_for_as_long_as_mlflow_would(
    registry: Registry, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(mlflow_registry, "ANSWER_S", 0.2)
    with (
        socket.create_server(("127.0.0.1", 0)) as silent,
        pytest.raises(ModelFailure, match=r"within 0\.2 s") as caught,
    ):
        MlflowRegistry().pin(
            Address.of(
                "models:/churn@champion",
                {"tracking_uri": f"http://127.0.0.1:{silent.getsockname()[1]}"},
            )
        )

    assert caught.value.reason == "model_unavailable"


def test_a_registry_that_sends_our_token_back_does_not_bring_it_into_the_error(
    registry: Registry, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_TOKEN", "verysecret4711")
    with (
        ModelServer(
            lambda r: Reply(
                400, {"error_code": "BAD_REQUEST", "message": f"no {r.header('authorization')}"}
            )
        ) as server,
        pytest.raises(ModelFailure, match=r"no Bearer \*\*\*") as caught,
    ):
        MlflowRegistry().pin(Address.of("models:/churn@champion", {"tracking_uri": server.url}))

    assert "4711" not in str(caught.value)


@pytest.mark.parametrize("params", [{"password": "hunter4711"}, {"more": {"apiKey": "hunter4711"}}])
def test_a_secret_among_the_params_is_refused(params: dict[str, Any]) -> None:
    with pytest.raises(
        InvalidModel, match=r"option params holds a password, a key or a token"
    ) as caught:
        described("models:/churn/3", params=params)

    assert "4711" not in str(caught.value)


# -- calls -----------------------------------------------------------------------------------------


def test_a_batch_of_records_is_one_data_frame_whose_columns_are_converted_as_the_signature_says(
    registry: Registry,
) -> None:
    """MLflow itself refuses 20 for a double, as soon as a batch has no 20.5 beside it."""
    answers = call(
        "models:/churn/1",
        {"age": 20, "visits": 9},
        {"visits": 0.0, "age": 70.5, "name": "left out"},
    )

    assert answers == [{"churns": 0}, {"churns": 1}]


@pytest.mark.parametrize(
    ("data", "problem"),
    [
        ({"age": 20}, "column 'visits' is missing; the event has age"),
        ({"age": "old", "visits": 1}, "column 'age': old does not fit double"),
        ({"age": 20, "visits": 1.5}, "column 'visits': 1.5 does not fit long"),
        ({"age": None, "visits": 1}, "column 'age': None does not fit double"),
        ({"age": 20, "visits": 2**63}, "does not fit long"),
        ([20, 9], "a record with the columns age, visits"),
        (7, "a record with the columns age, visits"),
    ],
)
def test_one_bad_event_fails_alone_with_its_column(
    registry: Registry, data: Any, problem: str
) -> None:
    good, bad, last = call(
        "models:/churn/1", {"age": 20, "visits": 9}, data, {"age": 70, "visits": 0}
    )

    assert (good, last) == ({"churns": 0}, {"churns": 1})
    assert problem in refusal(bad)


def test_what_the_model_refuses_to_take_is_the_fault_of_its_event(registry: Registry) -> None:
    """LogisticRegression takes no NaN; the batch is split, and only this one fails.

    It is no MLflow refusal: it is tried again.
    """
    with opened("models:/churn/1") as endpoint, pytest.raises(ValueError, match="NaN"):
        endpoint.call([mt.Event({"age": math.nan, "visits": 1})])


@pytest.fixture(scope="module")
def types(registry: Registry) -> str:
    """A model with a column of each type, which tells what it gets."""
    import mlflow.pyfunc
    from mlflow.models import infer_signature

    class Types(mlflow.pyfunc.PythonModel):  # type: ignore[misc]
        def predict(self, context: Any, model_input: Any, params: Any = None) -> Any:
            told = {
                name: [type(value).__name__, str(value)]
                for name, value in model_input.iloc[0].items()
            }
            return [
                json.dumps(
                    {
                        **told,
                        "dtypes": [str(dtype) for dtype in model_input.dtypes],
                        "params": params,
                    }
                )
            ] * len(model_input)

    example = pd.DataFrame(
        {
            "i": pd.Series([1], dtype="int32"),
            "f": pd.Series([1], dtype="float32"),
            "s": ["x"],
            "b": [True],
            "x": [b"raw"],
            "t": pd.to_datetime(["2026-01-01"]),
            "o": [{"k": "v"}],
            "r": [[1, 2]],
            "n": [math.nan],
        }
    )
    registry.put_python(
        "types", Types(), signature=infer_signature(example, ["x"], params={"scale": 1.0})
    )
    return "models:/types/1"


def test_every_type_of_column_reaches_the_model(types: str) -> None:
    event = {
        "i": 7,
        "f": 1,
        "s": "ü",
        "b": True,
        "x": "cmF3",
        "t": "2026-11-23T10:00:00+01:00",
        "o": {"k": "w"},
        "r": [3],
    }

    (answer,) = call(types, event, params={"scale": 2.0})
    direct, bad = call(
        types,
        {**event, "x": b"raw", "t": dt.date(2026, 1, 2)},
        {**event, "t": "yesterday"},
    )

    told = json.loads(answer)
    assert told.pop("dtypes") == [
        "int32",
        "float32",
        "str",
        "bool",
        "object",
        "datetime64[ns]",
        "object",
        "object",
        "float64",
    ]
    assert told.pop("params") == {"scale": 2.0}
    assert {name: text for name, (_, text) in told.items()} == {
        "i": "7",
        "f": "1.0",
        "s": "ü",
        "b": "True",
        "x": "b'raw'",
        "t": "2026-11-23 09:00:00",
        "o": "{'k': 'w'}",
        "r": "[3]",
        "n": "nan",
    }
    assert json.loads(direct)["t"][1] == "2026-01-02 00:00:00"
    assert "column 't': yesterday does not fit datetime" in refusal(bad)


def test_what_mlflow_refuses_is_the_fault_of_its_event_and_does_not_repeat_the_data(
    types: str,
) -> None:
    event = {
        "i": 1,
        "f": 1,
        "s": "secret",
        "b": True,
        "x": "",
        "t": "2026-01-01",
        "o": {"k": 1},
        "r": [],
    }

    failure = refused(types, event)

    assert (failure.reason, failure.permanent, failure.whole) == ("invalid_input", True, False)
    assert "secret" not in str(failure)
    assert len(str(failure)) > 20


def refused(text: str, data: Any) -> ModelFailure:
    with opened(text) as endpoint, pytest.raises(ModelFailure) as caught:
        endpoint.call([mt.Event(data)])
    return caught.value


def test_a_model_of_tensors_gets_arrays_that_are_stacked(registry: Registry) -> None:
    rows = CHURN.to_numpy()
    registry.put(
        "tensors",
        lambda path: save_classifier(
            path, rows, [0, 0, 1, 1], pyfunc_predict_fn="predict_proba", signature=tensors(rows)
        ),
    )

    first, bad, gap, last = call("models:/tensors/1", [20, 9], [20, "x"], [1, 2, 3], [70, 0])

    assert first[0] > 0.5 > last[0]
    assert len(first) == 2
    assert "[1]: x does not fit FP64" in refusal(bad)
    assert "the shape is [3], and the model takes [2]" in refusal(gap)


def tensors(rows: Any) -> Any:
    from mlflow.models import infer_signature

    return infer_signature(rows, np.zeros((4, 2)))


@pytest.fixture(scope="module")
def plain(registry: Registry) -> str:
    """A model without a signature."""
    import mlflow.pyfunc

    class Plain(mlflow.pyfunc.PythonModel):  # type: ignore[misc]
        def predict(self, context: Any, model_input: Any, params: Any = None) -> Any:
            return [type(model_input).__name__] * len(model_input)

    registry.put_python("plain", Plain())
    return "models:/plain/1"


def test_a_model_without_a_signature_gets_a_data_frame_of_records_and_a_list_of_anything_else(
    plain: str,
) -> None:
    assert call(plain, {"a": 1}, {"a": 2}) == ["DataFrame"] * 2
    assert call(plain, [1, 2], "x") == ["list"] * 2


def test_an_optional_integer_may_be_left_out_alone_and_in_company_and_null_names_the_cure(
    registry: Registry,
) -> None:
    import mlflow.pyfunc
    from mlflow.models import ModelSignature
    from mlflow.types import ColSpec, Schema

    class Shape(mlflow.pyfunc.PythonModel):  # type: ignore[misc]
        def predict(self, context: Any, model_input: Any, params: Any = None) -> Any:
            return [
                f"{name}: {dtype}" for name, dtype in [[*model_input.dtypes.items()][-1]]
            ] * len(model_input)

    columns = [
        ColSpec("double", "age"),
        ColSpec("boolean", "member", required=False),
        ColSpec("long", "visits", required=False),
    ]
    registry.put_python("visits", Shape(), signature=ModelSignature(Schema(columns)))
    events: list[Any] = [
        {"age": 61.0},
        {"visits": 2**53 + 1, "age": 3},
        {"age": 1, "member": True},
        {"age": 5.0, "visits": 7},
    ]

    together = call("models:/visits/1", *events)

    assert together == [call("models:/visits/1", event)[0] for event in events]
    assert together == ["member: object", "visits: int64", "member: bool", "visits: int64"]
    null = call("models:/visits/1", {"age": 1.0, "visits": None})[0]
    assert (
        "column 'visits': MLflow has no null of the type long; leave the field out, or log the"
        " model with the type double" in refusal(null)
    )
    assert MlflowRegistry().schemas(Address("models:/visits/1"))[0]["properties"]["visits"] == {
        "type": "integer"
    }  # type: ignore[index]


def test_a_model_without_a_signature_gives_each_event_what_it_gets_alone(
    registry: Registry,
) -> None:
    import mlflow.pyfunc

    class Positions(mlflow.pyfunc.PythonModel):  # type: ignore[misc]
        def predict(self, context: Any, model_input: Any, params: Any = None) -> Any:
            return [
                f"{list(map(str, model_input.dtypes))} {row}"
                for row in model_input.to_numpy(object).tolist()
            ]

    registry.put_python("positions", Positions())
    events = [{"a": 2**53 + 1, "b": 1}, {"b": 1, "a": 0.5}, {"b": None, "a": 7}]

    assert call("models:/positions/1", *events, columns=["a", "b"]) == [
        "['int64', 'int64'] [9007199254740993, 1]",
        "['float64', 'int64'] [0.5, 1]",
        "['int64', 'object'] [7, None]",
    ]
    for unknown in call("models:/positions/1", *events):
        assert "]), or log it with a signature" in refusal(unknown)


def test_a_model_with_type_hints_gets_a_list_and_checks_it_itself(registry: Registry) -> None:
    import mlflow.pyfunc

    class Lengths(mlflow.pyfunc.PythonModel):  # type: ignore[misc]
        def predict(self, model_input: list[str]) -> list[int]:
            return [len(text) for text in model_input]

    registry.put_python("lengths", Lengths())

    assert call("models:/lengths/1", "a", "bcd") == [1, 3]
    assert refused("models:/lengths/1", 7).reason == "invalid_input"
    assert MlflowRegistry().schemas(Address("models:/lengths/1"))[0] == {"type": "string"}


def test_files_of_this_machine_are_used_where_they_are(
    registry: Registry, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))

    with opened("models:/churn/1"):
        assert list(tmp_path.rglob("MLmodel")) == []

    assert list(tmp_path.iterdir()) == []
    assert list(registry.folder.glob("churn-1/MLmodel"))


def test_a_model_that_needs_what_is_not_installed_says_so_when_it_is_loaded(
    registry: Registry,
) -> None:
    def save(path: str) -> None:
        save_classifier(path, CHURN, [0, 0, 1, 1])
        described = Path(path) / "MLmodel"
        described.write_text(
            described.read_text().replace(
                "loader_module: mlflow.sklearn", "loader_module: nothing_like_it"
            )
        )

    registry.put("foreign", save)

    with pytest.raises(ModuleNotFoundError, match="nothing_like_it"), opened("models:/foreign/1"):
        pass


# -- signatures ------------------------------------------------------------------------------------


def test_the_signature_is_the_schema_of_the_model_without_loading_it(registry: Registry) -> None:
    takes, gives = MlflowRegistry().schemas(Address("models:/churn@champion"))

    assert takes == {
        "type": "object",
        "properties": {"age": {"type": "number"}, "visits": {"type": "integer"}},
        "required": ["age", "visits"],
    }
    assert gives == {
        "type": "object",
        "properties": {"churns": {"type": ["integer", "null"]}},
        "required": ["churns"],
    }


def test_a_model_without_a_signature_has_no_schema(plain: str) -> None:
    assert MlflowRegistry().schemas(Address(plain)) == (None, None)


@pytest.mark.parametrize(
    ("column", "schema"),
    [
        ({"type": "double", "required": True}, {"type": "number"}),
        ({"type": "double", "required": False}, {"type": ["number", "null"]}),
        ({"type": "datetime"}, {"type": "string"}),
        ({"type": "binary"}, {}),
        ({"type": "any"}, {}),
        (
            {"type": "array", "items": {"type": "string"}},
            {"type": "array", "items": {"type": "string"}},
        ),
        (
            {"type": "map", "values": {"type": "long"}},
            {"type": "object", "additionalProperties": {"type": "integer"}},
        ),
        (
            {
                "type": "object",
                "properties": {
                    "a": {"type": "long", "required": True},
                    "b": {"type": "string", "required": False},
                },
            },
            {
                "type": "object",
                "properties": {"a": {"type": "integer"}, "b": {"type": ["string", "null"]}},
                "required": ["a"],
            },
        ),
        ({"type": "tensor", "tensor-spec": {"dtype": "int64", "shape": [-1]}}, {"type": "integer"}),
        (
            {"type": "tensor", "tensor-spec": {"dtype": "str", "shape": [-1, 2, -1]}},
            {
                "type": "array",
                "items": {"type": "array", "items": {"type": "string"}},
                "minItems": 2,
                "maxItems": 2,
            },
        ),
    ],
)
def test_every_type_of_a_signature_has_a_json_schema(
    column: dict[str, Any], schema: dict[str, Any]
) -> None:
    assert Signature.of(
        {"signature": {"inputs": json.dumps([column]), "outputs": None}}
    ).schemas() == (schema, None)


def test_columns_without_names_are_a_row() -> None:
    columns = json.dumps(
        [
            {"type": "long", "name": 0, "required": True},
            {"type": "string", "name": 1, "required": True},
        ]
    )
    signature = Signature.of({"signature": {"inputs": columns}})

    assert signature.schemas()[0] == {
        "type": "array",
        "prefixItems": [{"type": "integer"}, {"type": "string"}],
        "minItems": 2,
        "maxItems": 2,
    }
    frame = signature.frame([signature.rows([1, "a"]), signature.rows({"0": 2, "1": "b"})])
    assert frame.to_dict("list") == {0: [1, 2], 1: ["a", "b"]}


def test_a_tensor_that_no_json_carries_is_left_to_mlflow() -> None:
    spec = {"type": "tensor", "tensor-spec": {"dtype": "complex128", "shape": [-1]}}

    assert Signature.of({"signature": {"inputs": json.dumps([spec])}}) == Signature()


def test_a_tensor_that_does_not_count_events_is_one_call_each() -> None:
    spec = {"type": "tensor", "tensor-spec": {"dtype": "float32", "shape": [2, 2]}}
    signature = Signature.of({"signature": {"inputs": json.dumps([spec])}})

    assert not signature.batches
    assert signature.frame([signature.rows([[1, 2], [3, None]])]).shape == (2, 2)


TABLE = Signature.of(
    {
        "signature": {
            "outputs": json.dumps([{"type": "long", "name": "a"}, {"type": "long", "name": "b"}])
        }
    }
)
ONE = Signature.of({"signature": {"outputs": json.dumps([{"type": "long", "name": "a"}])}})
VALUE = Signature.of({"signature": {"outputs": json.dumps([{"type": "long"}])}})


@pytest.mark.parametrize(
    ("signature", "answer", "expected"),
    [
        (
            Signature(),
            pd.DataFrame({"a": [1, 2], "b": [3, 4]}),
            [{"a": 1, "b": 3}, {"a": 2, "b": 4}],
        ),
        (Signature(), pd.Series([1, 2], name="y"), [1, 2]),
        (Signature(), np.array([[1, 2], [3, 4]]), [[1, 2], [3, 4]]),
        (
            Signature(),
            {"a": np.array([1, 2]), "b": np.array([[3], [4]])},
            [{"a": 1, "b": [3]}, {"a": 2, "b": [4]}],
        ),
        (Signature(), (5, 6), [5, 6]),
        (TABLE, np.array([[1, 2], [3, 4]]), [{"a": 1, "b": 2}, {"a": 3, "b": 4}]),
        (TABLE, [{"a": 1}, {"a": 2}], [{"a": 1}, {"a": 2}]),
        (ONE, np.array([1, 2]), [{"a": 1}, {"a": 2}]),
        (ONE, pd.Series([1, 2]), [{"a": 1}, {"a": 2}]),
        (ONE, pd.DataFrame({"c": [1, 2]}), [{"c": 1}, {"c": 2}]),
        (VALUE, pd.DataFrame({0: [1, 2]}), [1, 2]),
        (VALUE, np.array([1, 2]), [1, 2]),
    ],
)
def test_an_answer_becomes_one_output_an_event_in_the_form_of_the_signature(
    signature: Signature, answer: Any, expected: Any
) -> None:
    assert outputs(signature, answer, 2) == expected


@pytest.mark.parametrize("answer", ["text", {"answer": 7}, 3.5, None])
def test_a_model_that_answers_one_event_without_a_list_has_answered(answer: Any) -> None:
    assert outputs(Signature(), answer, 1) == [answer]


@pytest.mark.parametrize("answer", [[1], [1, 2, 3], "ab", {"a": [1, 2]}, None, np.array(5)])
def test_an_answer_that_is_not_one_an_event_is_an_error_and_the_batch_is_not_split(
    answer: Any,
) -> None:
    with pytest.raises(ModelFailure, match="2 events went in") as caught:
        outputs(Signature(), answer, 2)

    assert (caught.value.reason, caught.value.permanent, caught.value.whole) == (
        "bad_batch_result",
        True,
        True,
    )


# -- through the bus -------------------------------------------------------------------------------


def test_an_alias_is_followed_and_the_version_that_ran_is_recorded(registry: Registry) -> None:
    clock = SimulatedClock()
    customers = [{"age": 20, "visits": 9}, {"age": 70, "visits": 0}]
    with mt.connect("memory://", clock=clock) as bus:
        bus.subscribe("customers", "models:/churn@champion", batch_size=8)
        bus.fire("customers", customers, progress=False)
        registry.client.set_registered_model_alias("churn", "champion", "2")
        clock.advance(s=5)
        run = bus.fire("customers", [*customers, {"age": "old", "visits": 1}], progress=False)
        registry.client.set_registered_model_alias("churn", "champion", "1")

        frame = bus.invocations()
        ran = (
            frame[frame.outcome == "succeeded"]
            .groupby("version", observed=True)["output"]
            .apply(sorted)
            .to_dict()
        )
        assert ran == {
            "1.0.0": ['{"churns":0}', '{"churns":1}'],
            "2.0.0": ['{"churns":0}', '{"churns":1}'],
        }
        bad = frame.set_index("event_id").loc[run.receipts[2].event_id]
        assert (bad["outcome"], bad["reason"], bad["attempt"]) == ("dead", "invalid_input", 1)
        assert "age" in bad["error"]


@pytest.mark.parametrize("moves", [True, False])
def test_a_promote_moves_the_alias_of_the_registry_on_request(
    moves: bool, registry: Registry
) -> None:
    with mt.connect("memory://", clock=SimulatedClock()) as bus:
        sub = bus.subscribe("customers", "models:/churn@champion", batch_size=8)
        newer = bus.register("models:/churn/2")
        try:
            sub.promote(newer, move_alias=moves)
            bus.fire("customers", [{"age": 20, "visits": 9}], progress=False)
            meant = registry.client.get_model_version_by_alias("churn", "champion").version
        finally:
            registry.client.set_registered_model_alias("churn", "champion", "1")

        assert int(meant) == (2 if moves else 1)
        assert sub.selector == ("churn@champion" if moves else "churn:2.0.0")
        assert sub.history()[-1].version == "churn:2.0.0"
        assert list(bus.invocations()["version"]) == ["2.0.0"]


def test_the_alias_of_the_registry_means_no_version_of_another_kind(registry: Registry) -> None:
    with mt.connect("memory://", clock=SimulatedClock()) as bus:
        sub = bus.subscribe("customers", "models:/churn@champion", batch_size=8)
        own = mt.model("churn", version="3.0.0")(lambda customer: 1)

        with pytest.raises(mt.InvalidModel, match=r"cannot mean churn:3\.0\.0"):
            sub.promote(own, move_alias=True)

        assert len(sub.history()) == 1


def test_a_signature_of_another_library_version_is_read_as_far_as_it_goes() -> None:
    """Unknown types are anything, and unknown keys are left alone."""
    strange = {"type": "sparkml_vector", "name": "v", "required": True, "new": 1}
    signature = Signature.of(
        {"signature": {"inputs": json.dumps([strange]), "futures": "…"}, "else": 1}
    )

    assert signature.schemas()[0] == {"type": "object", "properties": {"v": {}}, "required": ["v"]}
    assert signature.rows({"v": [1]}) == [[1]]


def test_numpy_values_in_an_event_are_values() -> None:
    columns = json.dumps([{"type": "long", "name": "n"}, {"type": "double", "name": "x"}])

    assert Signature.of({"signature": {"inputs": columns}}).rows(
        {"n": np.int64(3), "x": np.float32(0.5)}
    ) == [3, 0.5]


# -- the scoring server ----------------------------------------------------------------------------


@contextlib.contextmanager
def scoring(path: Path) -> Iterator[str]:
    """Run MLflow's own scoring server for the model at *path*; yields its address."""
    import mlflow.pyfunc
    import uvicorn
    from mlflow.pyfunc import scoring_server

    server = uvicorn.Server(
        uvicorn.Config(scoring_server.init(mlflow.pyfunc.load_model(str(path))), log_level="error")
    )
    with socket.create_server(("127.0.0.1", 0)) as listening:
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]}, daemon=True)
        thread.start()
        try:
            yield f"mlflow+http://127.0.0.1:{listening.getsockname()[1]}"
        finally:
            server.should_exit = True
            thread.join(20)


def test_a_time_with_a_zone_is_one_for_the_scoring_server_too(tmp_path: Path) -> None:
    import mlflow.pyfunc
    from mlflow.models import ModelSignature
    from mlflow.types import ColSpec, Schema

    class Hours(mlflow.pyfunc.PythonModel):  # type: ignore[misc, name-defined]
        def predict(self, context: Any, model_input: Any, params: Any = None) -> Any:
            return [
                f"{when:%d %H:%M} {note}"
                for when, note in zip(model_input["at"], model_input["note"], strict=True)
            ]

    columns = [ColSpec("datetime", "at"), ColSpec("string", "note")]
    mlflow.pyfunc.save_model(
        tmp_path / "hours",
        python_model=Hours(),
        signature=ModelSignature(Schema(columns), Schema([ColSpec("string")])),
    )
    zone = "2026-11-28T09:30:00+02:00"
    with scoring(tmp_path / "hours") as url, opened(url) as endpoint:
        wait_until(
            lambda: (
                endpoint.call([mt.Event({"at": "2026-11-28T00:00:00", "note": "x"})])[0]
                == "28 00:00 x"
            )
        )
        answers = endpoint.call(
            [
                mt.Event({"at": zone, "note": zone}),
                mt.Event({"at": "2026-11-27T12:00:00", "note": "y"}),
            ]
        )
        (refused,) = endpoint.call([mt.Event({"at": "soon", "note": "x"})])

    assert list(answers) == [f"28 07:30 {zone}", "27 12:00 y"]
    assert (refused.reason, "soon" in str(refused)) == ("model_rejected", True)
