"""``onnx:path.onnx``: a model file, run in this process by ONNX Runtime. The extra is ``onnx``.

The inputs of the model are read from the file. Events become tensors exactly as for a server of the
Open Inference Protocol (:mod:`mltrigger.versions.schemes.oip.tensors`). An event's data is an
object with a field for each input. For a model with one input it may be the value. If the first
dimension of every input is free, it counts the events, and a batch is one call. Otherwise each
event is a call of its own. The output of an event is an object, output name -> value. A value of
one element is a scalar.

The version is the content: the SHA-256 of the file. With weights in files beside it, it is the
SHA-256 of all sums. Weights elsewhere are refused, and no library of custom operators is ever
loaded. A loaded model does not change with its files.
"""

from __future__ import annotations

import importlib
import math
import os
import re
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from mltrigger.errors import InvalidModel, MltriggerError, ModelFailure, NotFound, how_to_install
from mltrigger.event.event import Event
from mltrigger.text import short
from mltrigger.versions.address import Address
from mltrigger.versions.scheme import Description, Endpoint, Scheme, Setting
from mltrigger.versions.schemes.failures import attempt
from mltrigger.versions.schemes.oip.tensors import Layout, Part, Tensor
from mltrigger.versions.schemes.onnx.files import fingerprint, path_of, weights_of
from mltrigger.versions.schemes.options import check_names, model_name

_OPTIONS: dict[str, type | tuple[type, ...]] = {
    "columns": list,
    "outputs": list,
    "missing": str,
    "batched": bool,
    "intra_op_num_threads": int,
    "providers": list,
}
_MISSING = ("refuse", "null")
# https://onnxruntime.ai/docs/api/python/api_summary.html#onnxruntime.NodeArg
_TYPES = {
    "bool": ("BOOL", "bool"),
    "string": ("BYTES", "object"),
    "float16": ("FP16", "float16"),
    "float": ("FP32", "float32"),
    "double": ("FP64", "float64"),
    **{
        f"{sign}int{bits}": (f"{sign}int{bits}".upper(), f"{sign}int{bits}")
        for sign in ("", "u")
        for bits in (8, 16, 32, 64)
    },
}
"""Type of the runtime -> datatype of the protocol, dtype of numpy."""


class Onnx(Scheme):
    """``onnx:PATH``, relative to the working directory of the process that runs it.

    Options
    -------
    columns : list of str
        For one input of the shape ``[-1, n]``: the fields of a record that make up its row, in
        their order.
    outputs : list of str
        The outputs to compute. Default: all.
    missing : str
        ``refuse`` (default), or ``null``: None and NaN in inputs of floating-point numbers are
        missing values, and become NaN.
    batched : bool
        ``False`` for a model whose first dimension does not count events, although it is free.
    intra_op_num_threads : int
        Threads of one call. Default: one for each core. Several processes share the cores
        (``isolation="process"`` with ``max_concurrency``, an executor).
    providers : list of str
        The hardware, in order of preference: ``["CUDAExecutionProvider", "CPUExecutionProvider"]``.
        Default: the CPU.
    """

    def describe(self, address: Address) -> Description:
        """Check that the file is there, and hash it."""
        path = path_of(address)
        _options(address)
        about = f"ONNX file {path.name}"[:200]
        return Description(model_name(path.stem, "onnx"), content=fingerprint(path), about=about)

    def open(self, address: Address, setting: Setting) -> Endpoint:
        """Return an endpoint. The file is read by ``warm_up``."""
        options = _options(address)
        if setting.processes > 1:
            options.setdefault("intra_op_num_threads", max(1, _cores() // setting.processes))
        return OnnxEndpoint(path_of(address), options)


class OnnxEndpoint(Endpoint):
    """One session of the runtime, which takes calls from several threads.

    A running call cannot be stopped. With ``isolation="process"`` it can.
    """

    batches = True

    def __init__(self, path: Path, options: Mapping[str, Any]) -> None:
        self._path, self._options = path, options
        self._guard = threading.Lock()
        self._loaded: _Loaded | None = None

    def warm_up(self) -> None:
        """Load the model.

        Raises
        ------
        InvalidModel, NotFound
            When it is no model, its inputs cannot come from events, or the runtime is missing.
        """
        self.batches = self._known().layout.batches

    def call(self, events: Sequence[Event]) -> Sequence[Any]:
        """Return the outputs of each event. Events with tensors of other shapes run apart."""
        loaded = self._known()
        answers = [attempt(loaded.layout.parts, event.data) for event in events]
        for numbers in loaded.layout.groups(answers):
            outputs = loaded.tried([answers[n] for n in numbers])
            for number, output in zip(numbers, outputs, strict=True):
                answers[number] = output
        return answers

    def close(self) -> None:
        """Release the model. Idempotent."""
        self._loaded = None

    def _known(self) -> _Loaded:
        if (loaded := self._loaded) is None:
            with self._guard:
                loaded = self._loaded = self._loaded or _Loaded(
                    _opened(self._path, self._options), self._path.name, self._options
                )
        return loaded


class _Loaded:
    """A loaded model, and the way from tensors to its outputs."""

    def __init__(self, session: Any, name: str, options: Mapping[str, Any]) -> None:
        self._session = session
        given, made = session.get_inputs(), [output.name for output in session.get_outputs()]
        for wanted in options.get("outputs", ()):
            if wanted not in made:
                raise NotFound.of(f"output of {name}:", wanted, made)
        self._outputs: list[str] = options.get("outputs", made)
        types = [_TYPES[_element(one, name)] for one in given]
        self._dtypes = [dtype for _, dtype in types]
        tensors = tuple(
            Tensor(one.name, datatype, _shape(one))
            for one, (datatype, _) in zip(given, types, strict=True)
        )
        columns = tuple(options["columns"]) if "columns" in options else None
        nulls = options.get("missing") == "null"
        self.layout = Layout(tensors, columns, options.get("batched", True), nulls)

    def tried(self, events: Sequence[tuple[Part, ...]]) -> Sequence[Any]:
        """Return the outputs of *events*, with a failure in the place of each bad event.

        Their tensors have equal shapes.
        """
        try:
            return self._run(events)
        except ModelFailure as failure:
            if len(events) == 1 or failure.whole:
                return [failure] * len(events)
        return [self.tried([event])[0] for event in events]

    def _run(self, events: Sequence[tuple[Part, ...]]) -> list[dict[str, Any]]:
        count = len(events) if self.layout.batches else None
        try:
            made = self._session.run(self._outputs, self._feed(events))
        except Exception as error:  # the runtime's own classes have no base of their own
            refused = type(error).__name__ == "InvalidArgument"
            raise ModelFailure(
                f"ONNX Runtime: {error}",
                reason="invalid_input" if refused else "model_error",
                permanent=refused,
                kind=type(error).__name__,
            ) from error
        found: list[dict[str, Any]] = [{} for _ in events]
        for name, value in zip(self._outputs, made, strict=True):
            for event, row in zip(found, _rows(name, value, count), strict=True):
                event[name] = row
        return found

    def _feed(self, events: Sequence[tuple[Part, ...]]) -> dict[str, Any]:
        import numpy as np

        feed = {}
        for number, (tensor, dtype) in enumerate(
            zip(self.layout.inputs, self._dtypes, strict=True)
        ):
            shape: tuple[int, ...] = events[0][number][0]
            values = [value for event in events for value in event[number][1]]
            if tensor.is_float:
                values = [math.nan if value is None else value for value in values]
            feed[tensor.name] = np.array(values, dtype).reshape(
                (len(events), *shape) if self.layout.batches else shape
            )
        return feed


def _rows(name: str, value: Any, count: int | None) -> list[Any]:
    """Return output *name* for each of *count* events, or for the only one."""
    if count is None:
        return [_plain(value)]
    if not hasattr(value, "__len__") or getattr(value, "shape", (1,)) == () or len(value) != count:
        shape = f"the shape {list(value.shape)}" if hasattr(value, "shape") else "another length"
        raise ModelFailure(
            f"output {name!r} has {shape} for {count} events; when the first dimension does not"
            " count events, say so: batched=False",
            reason="bad_batch_result",
            permanent=True,
            whole=True,
        )
    if hasattr(value, "tolist"):
        rows: list[Any] = value.tolist()
        return [_unwrapped(row) for row in rows] if value.size == count else rows
    return [_plain(row) for row in value]


def _plain(value: Any) -> Any:
    """Return *value* in Python's own types.

    An array of one element becomes a scalar, a map (of ZipMap) an object, a sequence a list.
    """
    if hasattr(value, "tolist"):
        return _unwrapped(value.tolist()) if value.size == 1 else value.tolist()
    if isinstance(value, Mapping):
        return {key: _plain(item) for key, item in value.items()}
    return [_plain(item) for item in value] if isinstance(value, (list, tuple)) else value


def _unwrapped(value: Any) -> Any:
    while isinstance(value, list):
        (value,) = value
    return value


def _element(given: Any, name: str) -> str:
    """Return the type of the elements of an input."""
    found = re.fullmatch(r"tensor\((\w+)\)", given.type)
    if found is None or found[1] not in _TYPES:
        raise InvalidModel(
            f"{name}: input {given.name!r} is a {given.type}, for which events have no form;"
            f" tensors of {', '.join(_TYPES)}"
        )
    return found[1]


def _shape(given: Any) -> tuple[int, ...]:
    return tuple(
        length if isinstance(length, int) and length >= 0 else -1 for length in given.shape
    )


def _cores() -> int:
    """Return the number of cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _opened(path: Path, options: Mapping[str, Any]) -> Any:
    """Return a session for the model in the file *path*."""
    try:
        onnxruntime = importlib.import_module("onnxruntime")
    except ImportError as error:
        raise InvalidModel(f"onnx: models need ONNX Runtime: {how_to_install('onnx')}") from error
    setting = onnxruntime.SessionOptions()
    setting.log_severity_level = 4  # its exceptions tell the same
    setting.intra_op_num_threads = options.get("intra_op_num_threads", 0)
    providers = options.get("providers", ["CPUExecutionProvider"])
    for provider in providers:
        if provider not in onnxruntime.get_available_providers():
            raise NotFound.of(
                "provider of this ONNX Runtime", provider, onnxruntime.get_available_providers()
            )
    try:
        raw = path.read_bytes()
        weights = {name: (path.parent / name).read_bytes() for name in weights_of(raw, path)}
        _hand_over(weights, setting, path)
        session = onnxruntime.InferenceSession(raw, setting, providers=providers)
        del weights  # not before: the runtime copies them when it makes the session
        return session  # noqa: TRY300 - each step may fail
    except MltriggerError:
        raise
    except Exception as error:  # the runtime's own classes have no base of their own
        raise InvalidModel(
            f"{path.name} is no model that ONNX Runtime {onnxruntime.__version__} can load:"
            f" {str(error)[:500]}"
        ) from error


def _hand_over(weights: Mapping[str, bytes], setting: Any, path: Path) -> None:
    """Give the runtime the content of the files beside the model.

    By itself it maps them, and is killed when one is written again.
    """
    if weights and not hasattr(setting, "add_external_initializers_from_files_in_memory"):
        raise InvalidModel(
            f"{path.name} keeps weights in files beside it: install a newer onnxruntime, or save it"
            " as one file"
        )
    if weights:
        setting.add_external_initializers_from_files_in_memory(
            [*weights], [*weights.values()], [len(raw) for raw in weights.values()]
        )


def _options(address: Address) -> dict[str, Any]:
    options = address.checked(**_OPTIONS)
    if options.get("missing", "refuse") not in _MISSING:
        raise NotFound.of("way of missing", options["missing"], _MISSING)
    check_names(short(address.text, 200), options, "columns", "outputs", "providers")
    if options.get("intra_op_num_threads", 0) < 0:
        raise InvalidModel(
            f"option intra_op_num_threads must be a count, got {options['intra_op_num_threads']}"
        )
    return options
