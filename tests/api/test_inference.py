"""The Open Inference Protocol, with the client of Triton as it comes and with plain requests."""

from __future__ import annotations

import json
import struct
import urllib.parse
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tritonclient.http as triton
from http_client import Caller

import mltrigger as mt

INFER = "/v2/models/echo/infer"


@pytest.fixture
def plain_bus(file: Path) -> Iterator[mt.EventBus]:
    with mt.connect(f"sqlite:///{file}") as bus:
        bus.register(lambda x: x, name="echo", version="1.0.0")
        yield bus


@pytest.fixture
def server(plain_bus: mt.EventBus) -> Iterator[mt.Server]:
    with mt.serve(plain_bus) as server:
        yield server


@pytest.fixture
def client(server: mt.Server) -> Iterator[triton.InferenceServerClient]:
    client = triton.InferenceServerClient(urllib.parse.urlsplit(server.url).netloc)
    yield client
    client.close()


@pytest.fixture
def bearer(server: mt.Server) -> dict[str, str]:
    """The header of a request. The client of Triton adds to it, so each request gets a copy."""
    return {"Authorization": f"Bearer {server.token}"}


def given(name: str, values: np.ndarray, datatype: str, **more: Any) -> triton.InferInput:
    tensor = triton.InferInput(name, list(values.shape), datatype)
    tensor.set_data_from_numpy(values, **more)
    return tensor


def test_triton_client_at_its_defaults_gets_a_batch(
    plain_bus: mt.EventBus, client: Any, bearer: dict[str, str]
) -> None:
    from sklearn.linear_model import LogisticRegression

    rows = np.random.default_rng(0).normal(size=(64, 4))
    fitted = LogisticRegression().fit(rows, rows[:, 0] > 0)
    plain_bus.register(mt.model("iris", version="1.0.0")(fitted))

    answer = client.infer("iris", [given("x", rows, "FP64")], headers=dict(bearer))

    found = answer.as_numpy(answer.get_response()["outputs"][0]["name"])
    assert found.astype(bool).tolist() == fitted.predict(rows).tolist()
    done = plain_bus.invocations()
    assert (done["outcome"] == "succeeded").all()
    assert len(done) == 64
    assert done["batch_size"].max() > 1
    assert plain_bus.audit()["balanced"].all()


@pytest.mark.parametrize("binary", [True, False])
@pytest.mark.parametrize("shape", [(3,), (3, 1)])
def test_triton_client_sends_and_gets_strings(
    binary: bool, shape: tuple[int, ...], client: Any, bearer: dict[str, str]
) -> None:
    texts = np.array(["page 1", "", "€ 😀"], dtype=object).reshape(shape)
    wanted = [triton.InferRequestedOutput("output", binary_data=binary)]

    answer = client.infer(
        "echo",
        [given("text", texts, "BYTES", binary_data=binary)],
        outputs=wanted,
        headers=dict(bearer),
        request_id="r-1",
    )

    texts_back = [t.decode() if isinstance(t, bytes) else t for t in answer.as_numpy("output")]
    assert texts_back == ["page 1", "", "€ 😀"]
    assert answer.get_response()["id"] == "r-1"


@pytest.mark.parametrize(
    ("dtype", "datatype"),
    [
        ("bool", "BOOL"),
        ("uint8", "UINT8"),
        ("int64", "INT64"),
        ("float16", "FP16"),
        ("float32", "FP32"),
        ("float64", "FP64"),
    ],
)
def test_each_datatype_arrives_exactly(
    dtype: str, datatype: str, client: Any, bearer: dict[str, str]
) -> None:
    values = np.array([[0, 1], [1, 0]], dtype)
    for binary in (True, False):
        if datatype == "FP16" and not binary:
            continue  # the client refuses it as JSON
        tensor = given("x", values, datatype, binary_data=binary)
        found = client.infer("echo", [tensor], headers=dict(bearer)).as_numpy("output")
        assert found.tolist() == values.tolist()


def test_several_inputs_are_the_fields_of_an_object(
    plain_bus: mt.EventBus, client: Any, bearer: dict[str, str]
) -> None:
    plain_bus.register(
        lambda row: {"sum": row["a"] + row["b"], "name": row["c"]}, name="adds", version="1.0.0"
    )
    inputs = [
        given("a", np.array([1, 2]), "INT64"),
        given("b", np.array([[0.5], [0.25]]), "FP64"),
        given("c", np.array(["x", "y"], dtype=object), "BYTES"),
    ]

    answer = client.infer("adds", inputs, headers=dict(bearer))

    assert answer.as_numpy("sum").tolist() == [1.5, 2.25]
    assert answer.as_numpy("name").tolist() == [b"x", b"y"]


def test_health_metadata_and_versions(
    plain_bus: mt.EventBus, client: Any, bearer: dict[str, str]
) -> None:
    schema = {
        "type": "object",
        "properties": {"age": {"type": "integer"}, "job": {"type": "string"}},
    }
    model = mt.model("typed", version="1.0.0", input_schema=schema)(lambda row: row["age"])
    plain_bus.register(model)
    plain_bus.register(lambda x: 2, name="echo", version="2.0.0")
    plain_bus.alias("echo", "champion", "1.0.0")

    assert client.is_server_live()
    assert client.is_server_ready()
    assert client.is_model_ready("echo", headers=dict(bearer))
    assert client.is_model_ready("echo", "1.0.0", headers=dict(bearer))
    assert not client.is_model_ready("nobody", headers=dict(bearer))
    assert client.get_server_metadata(headers=dict(bearer))["extensions"] == ["binary_tensor_data"]
    found = client.get_model_metadata("echo", headers=dict(bearer))
    assert found["versions"] == ["1.0.0", "2.0.0"]
    assert client.get_model_metadata("typed", headers=dict(bearer))["inputs"] == [
        {"name": "age", "datatype": "INT64", "shape": [-1]},
        {"name": "job", "datatype": "BYTES", "shape": [-1]},
    ]
    one = [given("x", np.array([7]), "INT64")]
    for version, value in (("1.0.0", 7), ("2.0.0", 2), ("champion", 7), ("", 2)):
        answer = client.infer("echo", one, model_version=version, headers=dict(bearer))
        assert answer.as_numpy("output").tolist() == [value]


def test_own_scheme_of_addresses_calls_it(
    plain_bus: mt.EventBus, server: mt.Server, monkeypatch: pytest.MonkeyPatch, file: Path
) -> None:
    schema = {"type": "object", "properties": {"x": {"type": "number"}}}
    plain_bus.register(
        mt.model("half", version="1.0.0", input_schema=schema)(lambda row: row["x"] / 2)
    )
    monkeypatch.setenv("HALF_TOKEN", f"Bearer {server.token}")
    with mt.connect("memory://") as other:
        address = f"oip+{server.url}/v2/models/half"
        remote = mt.model("remote", version="1.0.0", headers={"Authorization": "env:HALF_TOKEN"})
        other.subscribe("numbers", remote(address))
        run = other.fire("numbers", [{"x": 1}, {"x": 3}], progress=False)

        assert run.results()["outcome"].tolist() == ["succeeded"] * 2


def body(**more: Any) -> dict[str, Any]:
    tensor = {"name": "x", "shape": [2], "datatype": "INT64", "data": [1, 2]}
    return {"inputs": [{**tensor, **more}]}


@pytest.mark.parametrize(
    "wrong",
    [
        {},
        [],
        {"inputs": []},
        {"inputs": ["x"]},
        body(name=""),
        body(datatype="INT65"),
        body(datatype="BF16"),
        body(shape=[3]),
        body(shape=[]),
        body(shape=[-1]),
        body(shape=[2**40, 2**40]),
        body(shape=["2"]),
        body(shape=[1] * 50),
        body(data=[1, "2"]),
        body(data=[1, None]),
        body(data=[1.5, 2]),
        body(data=[True, 2]),
        body(data=[[1], 2]),
        body(data={"a": 1}),
        body(shape=[0], data=[]),
        body(shape=[20_000_000, 0], data=[]),
        body(shape=[1, 0], data=[[]]),
        body(datatype="UINT8", data=[1, -1]),
        body(datatype="UINT8", data=[1, 256]),
        body(data=[False, 2]),
        body(data=None, parameters={"shared_memory_region": "r", "shared_memory_byte_size": 8}),
        body(parameters={"binary_data_size": 99}),
        body(parameters={"binary_data_size": -1}),
        {"inputs": [*body()["inputs"], *body()["inputs"]]},
        {
            "inputs": [
                *body()["inputs"],
                {**body(shape=[3], data=[1, 2, 3])["inputs"][0], "name": "y"},
            ]
        },
        {**body(), "outputs": [{"name": "nobody"}]},
        {**body(), "outputs": "output"},
    ],
)
def test_wrong_requests_are_refused_in_the_form_of_the_protocol(
    wrong: Any, server: mt.Server, plain_bus: mt.EventBus
) -> None:
    with Caller(server.url, server.token) as caller:
        answer = caller.post(INFER, json=wrong)
        assert 400 <= answer.status_code < 500, answer.text
        assert isinstance(answer.json()["error"], str)
        assert caller.post(INFER, json=body()).status_code == 200


@pytest.mark.parametrize(
    ("length", "raw"),
    [
        ("x", b"{}"),
        ("99", b"{}"),
        ("-1", b"{}"),
        ("2", b"{}rest"),
        (
            None,
            json.dumps(
                body(datatype="BYTES", data=None, parameters={"binary_data_size": 6})
            ).encode()
            + struct.pack("<I", 50)
            + b"ab",
        ),
    ],
)
def test_wrong_binary_data_are_refused(length: str | None, raw: bytes, server: mt.Server) -> None:
    headers = {"Content-Type": "application/octet-stream"}
    headers["Inference-Header-Content-Length"] = str(len(raw) - 6) if length is None else length
    with Caller(server.url, server.token) as caller:
        answer = caller.post(INFER, data=raw, headers=headers)

    assert answer.status_code == 400, answer.text


def test_too_many_rows_are_refused(server: mt.Server, plain_bus: mt.EventBus) -> None:
    with Caller(server.url, server.token) as caller:
        answer = caller.post(INFER, json=body(shape=[1001], data=[1] * 1001))

    assert answer.status_code == 413
    assert len(plain_bus.events()) == 0


def test_id_of_a_request_is_the_same_call_only_with_the_same_data(
    plain_bus: mt.EventBus, server: mt.Server
) -> None:
    calls: list[int] = []

    def counts(x: int) -> int:
        calls.append(x)
        return len(calls)

    plain_bus.register(counts, name="counts", version="1.0.0")
    with Caller(server.url, server.token) as caller:

        def ask(*values: int) -> list[int]:
            given = {"id": "1", **body(shape=[len(values)], data=list(values))}
            answer = caller.post("/v2/models/counts/infer", json=given)
            found: list[int] = answer.json()["outputs"][0]["data"]
            return found

        assert ask(5, 6) == ask(5, 6) == [1, 2]
        assert ask(7) == [3]
    assert calls == [5, 6, 7]


def test_row_that_fails_fails_the_call_and_is_recorded(
    plain_bus: mt.EventBus, server: mt.Server
) -> None:
    def odd(x: int) -> int:
        if x % 2 == 0:
            raise mt.Reject(f"{x} is even")
        return x

    plain_bus.register(odd, name="odd", version="1.0.0")
    with Caller(server.url, server.token) as caller:
        answer = caller.post("/v2/models/odd/infer", json=body(shape=[3], data=[1, 2, 3]))

    assert answer.status_code == 422
    assert "2 is even" in answer.json()["error"]
    assert plain_bus.invocations()["outcome"].tolist() == ["succeeded", "dead", "succeeded"]


@pytest.mark.parametrize(
    ("values", "datatype", "data"),
    [
        ([1, 2.5, None], "FP64", [1, 2.5, None]),
        ([True, False], "BOOL", [True, False]),
        ([[1, 2], [3, 4]], "INT64", [1, 2, 3, 4]),
        ([[1], [2, 3]], "BYTES", ["[1]", "[2,3]"]),
        ([None, None], "BYTES", ["null", "null"]),
        ([1, "a"], "BYTES", ["1", '"a"']),
        ([2**70, 1], "BYTES", [str(2**70), "1"]),
        ([2**60, 0.5], "BYTES", [str(2**60), "0.5"]),
        ([1, None], "BYTES", ["1", "null"]),
        ([{"a": 1}, {"b": 2}], "BYTES", ['{"a":1}', '{"b":2}']),
    ],
)
def test_outputs_have_a_datatype_that_holds_them(
    values: list[Any], datatype: str, data: list[Any], plain_bus: mt.EventBus, server: mt.Server
) -> None:
    plain_bus.register(lambda n: values[n], name="gives", version="1.0.0")
    with Caller(server.url, server.token) as caller:
        rows = list(range(len(values)))
        answer = caller.post("/v2/models/gives/infer", json=body(shape=[len(rows)], data=rows))

    (output,) = answer.json()["outputs"]
    assert (output["datatype"], output["data"]) == (datatype, data)


def test_nan_and_bytes_keep_their_datatype(
    plain_bus: mt.EventBus, client: Any, bearer: dict[str, str], server: mt.Server
) -> None:
    plain_bus.register(lambda n: [0.5, float("nan"), float("inf")][n], name="odd", version="1.0.0")
    plain_bus.register(lambda n: b"\x89PNG\xff", name="draws", version="1.0.0")
    rows = [given("x", np.array([0, 1, 2]), "INT64")]

    found = client.infer("odd", rows, headers=dict(bearer)).as_numpy("output")
    assert (found[0], np.isnan(found[1]), found[2]) == (0.5, True, np.inf)
    image = client.infer("draws", [given("x", np.array([0]), "INT64")], headers=dict(bearer))
    assert image.as_numpy("output").tolist() == [b"\x89PNG\xff"]
    with Caller(server.url, server.token) as caller:
        wanted = body(shape=[3], data=[0, 1, 2])
        (output,) = caller.post("/v2/models/odd/infer", json=wanted).json()["outputs"]
        assert (output["datatype"], output["data"]) == ("FP64", [0.5, None, None])
        (output,) = caller.post("/v2/models/draws/infer", json=body()).json()["outputs"]
        assert output["parameters"] == {"content_type": "base64"}
        assert output["data"] == ["iVBOR/8="] * 2


def test_refusals_have_the_form_of_the_protocol_everywhere(
    server: mt.Server, client: Any, bearer: dict[str, str]
) -> None:
    with Caller(server.url, server.token) as caller:
        for answer in (
            caller.get("/v2/models/echo/config"),
            caller.get("/v2/models/nobody"),
            caller.get(INFER),
            caller.post(INFER, data=b"x", headers={"Content-Encoding": "gzip"}),
            Caller(server.url).get("/v2/models/echo"),
        ):
            assert 400 <= answer.status_code < 500
            assert isinstance(answer.json()["error"], str)
    with pytest.raises(triton.InferenceServerException, match="content-encoding"):
        client.infer(
            "echo",
            [given("x", np.array([1]), "INT64")],
            headers=dict(bearer),
            request_compression_algorithm="gzip",
        )


def test_server_of_a_closed_bus_is_not_ready(plain_bus: mt.EventBus, client: Any) -> None:
    assert client.is_server_ready()
    plain_bus.close()
    assert not client.is_server_ready()
