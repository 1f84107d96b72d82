"""A small server of the Open Inference Protocol v2, for tests, notebooks and benchmarks.

It puts a fitted model or a function behind real HTTP. Its metadata tell the inputs of its models.
Other inputs are refused with 400 and ``{"error": "…"}``::

    with OipServer(of_sklearn("iris", LogisticRegression().fit(X, y))) as server:
        requests.post(server.url + "/v2/models/iris/infer", json=…)

It listens on loopback only.
https://github.com/kserve/open-inference-protocol/blob/main/specification/protocol/inference_rest.md
"""

from __future__ import annotations

import contextlib
import dataclasses
import http.server
import json
import re
import socket
import threading
import urllib.parse
from collections import deque
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

Arrays = dict[str, np.ndarray]

DTYPES: dict[str, Any] = {
    "BOOL": np.bool_,
    "UINT8": np.uint8,
    "UINT16": np.uint16,
    "UINT32": np.uint32,
    "UINT64": np.uint64,
    "INT8": np.int8,
    "INT16": np.int16,
    "INT32": np.int32,
    "INT64": np.int64,
    "FP16": np.float16,
    "FP32": np.float32,
    "FP64": np.float64,
    "BYTES": object,
}
MAX_BODY = 64 * 1024 * 1024
_MODEL = re.compile(r"/v2/models/([^/]+)(?:/versions/([^/]+))?(?:/(ready|infer))?")


class Refused(Exception):
    """The answer to a bad request. A model may raise it as well."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


@dataclasses.dataclass
class Served:
    """One version of a model: a function from arrays to arrays by name.

    *inputs* and *outputs* are its metadata in the form of the protocol.
    """

    name: str
    predict: Callable[[Arrays], Mapping[str, Any]]
    inputs: list[dict[str, Any]]
    outputs: list[dict[str, Any]]
    version: str = "1"
    ready: bool = True

    @property
    def metadata(self) -> dict[str, Any]:
        """The metadata for clients."""
        return {"platform": "python", "inputs": self.inputs, "outputs": self.outputs}


def of_sklearn(name: str, model: Any, version: str = "1", method: str = "predict") -> Served:
    """Serve a fitted estimator, with one input ``x`` and its answer as ``y``.

    ``x`` has as many columns as it was fitted with.
    """
    columns = int(model.n_features_in_)
    y = np.asarray(getattr(model, method)(np.zeros((1, columns))))
    answer = {"name": "y", "datatype": _datatype(y), "shape": [-1, *y.shape[1:]]}
    takes = {"name": "x", "datatype": "FP64", "shape": [-1, columns]}
    return Served(
        name, lambda arrays: {"y": getattr(model, method)(arrays["x"])}, [takes], [answer], version
    )


class OipServer:
    """Serves *models* on loopback, each request in a thread, until it is closed.

    ``models`` can be changed at any time. With *keep*, ``requests`` has the method, the path and
    the body of each request, oldest first.
    """

    def __init__(self, *models: Served, port: int = 0, keep: bool = True) -> None:
        self.models = list(models)
        self.requests: deque[tuple[str, str, Any]] = deque(maxlen=None if keep else 0)
        self._server = _Server(("127.0.0.1", port), _Handler)
        self._server.oip = self
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}"
        self._thread = threading.Thread(
            target=self._server.serve_forever, args=(0.02,), daemon=True
        )
        self._thread.start()

    def __enter__(self) -> OipServer:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def wait(self) -> None:
        """Serve until it is closed."""
        self._thread.join()

    def close(self) -> None:
        """Stop, and cut open connections. Idempotent."""
        self._server.shutdown()
        self._server.server_close()
        self._server.cut()

    def bodies(self) -> list[Any]:
        """Return the JSON of all calls of models so far."""
        return [body for method, _, body in self.requests if method == "POST"]

    def answer(self, method: str, path: str, raw: bytes) -> tuple[int, Any]:
        """Return the status and the JSON of the answer to a request."""
        try:
            body = json.loads(raw) if raw else None
        except ValueError as error:
            self.requests.append((method, path, raw))
            return 400, {"error": f"the body is not JSON: {error}"}
        self.requests.append((method, path, body))
        try:
            return 200, self._found(method, path, body)
        except Refused as refused:
            return refused.status, {"error": str(refused)}
        except Exception as error:  # a model that fails
            return 500, {"error": f"{type(error).__name__}: {error}"}

    def _found(self, method: str, path: str, body: Any) -> Any:
        parts = _MODEL.fullmatch(path)
        if (method == "POST") != (parts is not None and parts[3] == "infer"):
            raise Refused(405, f"{method} is not for {path}")
        if path == "/v2":
            return {"name": "oip_server", "version": "1", "extensions": []}
        if path in ("/v2/health/live", "/v2/health/ready"):
            return {path.rpartition("/")[2]: True}
        if parts is None:
            raise Refused(404, f"nothing is at {path}")
        model = self._model(urllib.parse.unquote(parts[1]), parts[2])
        if parts[3] is None:
            return {"name": model.name, "versions": self._versions(model.name), **model.metadata}
        if not model.ready:
            raise Refused(
                400 if parts[3] == "ready" else 503,
                f"model {model.name} version {model.version} is not ready",
            )
        if parts[3] == "ready":
            return {"name": model.name, "ready": True}
        return infer(model, body)

    def _versions(self, name: str) -> list[str]:
        return [model.version for model in self.models if model.name == name]

    def _model(self, name: str, version: str | None) -> Served:
        """Return the model. Without a version it is the last one added."""
        found = [
            model
            for model in self.models
            if model.name == name and version in (None, model.version)
        ]
        if not found:
            what = f"{name} with version {version}" if version else name
            raise Refused(404, f"Model {what} not found; versions: {self._versions(name)}")
        return found[-1]


def infer(model: Served, body: Any) -> dict[str, Any]:
    """Return the answer of *model* to the JSON of an inference request."""
    if not isinstance(body, dict) or not isinstance(body.get("inputs"), list):
        raise Refused(400, "a request is an object with inputs")
    given = {tensor.get("name"): tensor for tensor in body["inputs"] if isinstance(tensor, dict)}
    for unknown in given.keys() - {known["name"] for known in model.inputs}:
        raise Refused(400, f"unexpected input {unknown!r}")
    arrays = {}
    for known in model.inputs:
        if known["name"] not in given:
            raise Refused(400, f"expected {len(model.inputs)} inputs; {known['name']!r} is missing")
        arrays[known["name"]] = array_of(given[known["name"]], known)
    answers = {name: np.asarray(value) for name, value in model.predict(arrays).items()}
    wanted = [
        output.get("name") for output in body.get("outputs") or [{"name": name} for name in answers]
    ]
    for name in wanted:
        if name not in answers:
            raise Refused(400, f"unexpected output {name!r}; there is {', '.join(answers)}")
    echo = {"id": body["id"]} if "id" in body else {}
    outputs = [_output(name, answers[name]) for name in wanted]
    return {"model_name": model.name, "model_version": model.version, **echo, "outputs": outputs}


def array_of(tensor: Mapping[str, Any], known: Mapping[str, Any]) -> np.ndarray:
    """Return the array of a request's tensor, or refuse it when the metadata differ."""
    name, datatype = known["name"], tensor.get("datatype")
    shape: Any = tensor.get("shape")
    if datatype != known["datatype"]:
        raise Refused(400, f"input {name!r} is {known['datatype']}, got {datatype!r}")
    fits = isinstance(shape, list) and len(shape) == len(known["shape"])
    if not fits or any(
        wanted not in (-1, length) for wanted, length in zip(known["shape"], shape, strict=True)
    ):
        raise Refused(400, f"input {name!r} has the shape {known['shape']}, got {shape}")
    values = _flat(tensor.get("data"))
    if len(values) != int(np.prod(shape)):
        raise Refused(400, f"input {name!r} has {len(values)} values for the shape {shape}")
    if not all(_is(datatype, value) for value in values):
        raise Refused(400, f"input {name!r} holds a value that is no {datatype}")
    try:
        return np.array(values, dtype=DTYPES[datatype]).reshape(shape)
    except (OverflowError, ValueError) as error:
        raise Refused(400, f"input {name!r}: {error}") from error


def _is(datatype: str, value: Any) -> bool:
    if datatype.startswith("FP"):
        return value is None or type(value) in (int, float)
    return type(value) is {"BOOL": bool, "BYTES": str}.get(datatype, int)


def _flat(value: Any) -> list[Any]:
    return [inner for one in value for inner in _flat(one)] if isinstance(value, list) else [value]


def _datatype(array: np.ndarray) -> str:
    return next(
        (name for name, dtype in DTYPES.items() if dtype is not object and array.dtype == dtype),
        "BYTES",
    )


def _output(name: str, array: np.ndarray) -> dict[str, Any]:
    """Return a tensor of the answer. NaN is null, since JSON has none."""
    datatype = _datatype(array)
    values = array.ravel().tolist()
    if datatype == "BYTES":
        values = [value.decode() if isinstance(value, bytes) else str(value) for value in values]
    elif datatype.startswith("FP"):
        values = [value if np.isfinite(value) else None for value in values]
    return {"name": name, "datatype": datatype, "shape": list(array.shape), "data": values}


class _Server(http.server.ThreadingHTTPServer):
    daemon_threads = True
    block_on_close = False
    request_queue_size = 128
    oip: OipServer

    def get_request(self) -> tuple[socket.socket, Any]:
        connection, address = super().get_request()
        self._connections = [*getattr(self, "_connections", []), connection]
        return connection, address

    def cut(self) -> None:
        for connection in getattr(self, "_connections", []):
            with contextlib.suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)


class _Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    server: _Server

    def do_GET(self) -> None:
        self._answer(b"")

    def do_POST(self) -> None:
        length = self.headers.get("Content-Length", "")
        if not length.isdecimal() or int(length) > MAX_BODY:
            self.close_connection = True
            self._send(
                411 if not length else 413,
                {"error": f"a body needs a Content-Length of at most {MAX_BODY}"},
            )
            return
        self._answer(self.rfile.read(int(length)))

    def log_message(self, *_: Any) -> None:
        pass

    def _answer(self, raw: bytes) -> None:
        self._send(*self.server.oip.answer(self.command, self.path.partition("?")[0], raw))

    def _send(self, status: int, value: Any) -> None:
        body = json.dumps(value, allow_nan=False).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)
