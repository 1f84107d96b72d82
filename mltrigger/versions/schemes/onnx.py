"""``onnx:path.onnx``: a model file, run in this process by ONNX Runtime. Its extra is ``onnx``.

What the model takes is read off the file, and events become its tensors exactly as those of a
server of the Open Inference Protocol do (:mod:`mltrigger.versions.schemes.oip.tensors`): an event's
data is an object with a field for each input, or, for a model with one input, its value. When the
first dimension of every input is free it counts the events, and a batch is one call; else each
event is a call of its own. The output of an event is an object, output name -> value; a value of
one element is a scalar.

The version is the content: the SHA-256 of the file; with weights in files beside it, of the sums of
all. Weights elsewhere are refused, and no library of custom operators is ever loaded. Once loaded,
a model does not change with its files.
"""

from __future__ import annotations

import difflib
import hashlib
import importlib
import math
import os
import re
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Any

from mltrigger.errors import InvalidModel, MltriggerError, ModelFailure, NotFound, how_to_install
from mltrigger.event.event import Event
from mltrigger.text import short
from mltrigger.versions.address import Address
from mltrigger.versions.scheme import Description, Endpoint, Scheme, Setting
from mltrigger.versions.schemes.oip.tensors import Layout, Part, Tensor

_OPTIONS: dict[str, type | tuple[type, ...]] = {
    "columns": list,
    "outputs": list,
    "missing": str,
    "batched": bool,
    "intra_op_num_threads": int,
    "providers": list,
}
_MISSING = ("refuse", "null")
# https://onnxruntime.ai/docs/api/python/api_summary.html#onnxruntime.NodeArg -> datatype of the
# protocol, dtype of numpy
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
# StringStringEntryProto {key: "location", value: …} of TensorProto.external_data, as protobuf
# writes it:
# https://github.com/onnx/onnx/blob/main/docs/ExternalData.md
_LOCATION = re.compile(rb"\n\x08location\x12([\x80-\xff]?[\x00-\x7f])")
_LFS = b"version https://git-lfs"


class Onnx(Scheme):
    """``onnx:PATH``, relative to the working directory of the process that runs it.

    Options
    -------
    columns : list of str
        For one input of the shape ``[-1, n]``: the fields of a record that make up its row, in
        their order.
    outputs : list of str
        The outputs to compute; by default all.
    missing : str
        ``refuse`` (default), or ``null``: None and NaN in inputs of floating-point numbers are what
        is missing, NaN for the model.
    batched : bool
        ``False`` for a model whose first dimension does not count events, although it is free.
    intra_op_num_threads : int
        Threads that one call uses. Default: one for each core; in several processes
        (``isolation="process"`` with ``max_concurrency``, an executor) they share the cores.
    providers : list of str
        Where it runs, the first that can: ``["CUDAExecutionProvider", "CPUExecutionProvider"]``.
        Default: the CPU.
    """

    def describe(self, address: Address) -> Description:
        """Check that the file is there, and hash it."""
        path = _path(address)
        _options(address)
        return Description(
            _name(path), content=_fingerprint(path), about=f"ONNX file {path.name}"[:200]
        )

    def open(self, address: Address, setting: Setting) -> Endpoint:
        """Return an endpoint; the file is read when it is warmed up."""
        options = _options(address)
        if setting.processes > 1:
            options.setdefault("intra_op_num_threads", max(1, _cores() // setting.processes))
        return OnnxEndpoint(_path(address), options)


class OnnxEndpoint(Endpoint):
    """One session of the runtime, which takes calls from several threads.

    A call that runs cannot be stopped: ``isolation="process"`` can.
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
            When it is no model, or one that events cannot be handed to, or the runtime is not
            installed.
        """
        self.batches = self._known().layout.batches

    def call(self, events: Sequence[Event]) -> Sequence[Any]:
        """Return the outputs of each event; events whose tensors have other shapes go into other
        runs.
        """
        loaded = self._known()
        answers = [loaded.parts(event) for event in events]
        for numbers in _alike(answers, loaded.layout.batches):
            try:
                outputs: Sequence[Any] = loaded.run([answers[n] for n in numbers])
            except ModelFailure as failure:
                outputs = [
                    failure if len(numbers) == 1 or failure.whole else loaded.alone(answers[n])
                    for n in numbers
                ]
            for number, output in zip(numbers, outputs, strict=True):
                answers[number] = output
        return answers

    def close(self) -> None:
        """Let go of the model. Idempotent."""
        self._loaded = None

    def _known(self) -> _Loaded:
        if (loaded := self._loaded) is None:
            with self._guard:
                loaded = self._loaded = self._loaded or _Loaded(
                    _session(self._path, self._options), self._path.name, self._options
                )
        return loaded


class _Loaded:
    """A model, and how events become its tensors."""

    def __init__(self, session: Any, name: str, options: Mapping[str, Any]) -> None:
        self._session = session
        given, made = session.get_inputs(), [output.name for output in session.get_outputs()]
        for wanted in options.get("outputs", ()):
            if wanted not in made:
                raise NotFound.of(f"output of {name}:", wanted, made)
        self._outputs: list[str] = options.get("outputs", made)
        self._dtypes = [_TYPES[_element(one, name)][1] for one in given]
        tensors = tuple(
            Tensor(one.name, _TYPES[_element(one, name)][0], _shape(one)) for one in given
        )
        columns = tuple(options["columns"]) if "columns" in options else None
        self.layout = Layout(
            tensors, columns, options.get("batched", True), options.get("missing") == "null"
        )

    def parts(self, event: Event) -> Any:
        """Return the tensors of *event*, or why it has none."""
        try:
            return self.layout.parts(event.data)
        except ModelFailure as failure:
            return failure

    def alone(self, parts: tuple[Part, ...]) -> Any:
        """Return the outputs of one event, or why it has none."""
        try:
            return self.run([parts])[0]
        except ModelFailure as failure:
            return failure

    def run(self, events: Sequence[tuple[Part, ...]]) -> list[dict[str, Any]]:
        """Return the outputs of *events*, whose tensors have equal shapes."""
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
    """Return what output *name* says of each of *count* events, or of the only one."""
    if count is None:
        return [_plain(value)]
    if not hasattr(value, "__len__") or getattr(value, "shape", (1,)) == () or len(value) != count:
        raise ModelFailure(
            f"output {name!r} has"
            f" {'the shape ' + str(list(value.shape)) if hasattr(value, 'shape') else 'another length'}"
            f" for {count} events; when the first dimension does not count events, say so:"
            " batched=False",
            reason="bad_batch_result",
            permanent=True,
            whole=True,
        )
    if hasattr(value, "tolist"):
        return (
            [_unwrapped(row) for row in value.tolist()] if value.size == count else value.tolist()
        )
    return [_plain(row) for row in value]


def _plain(value: Any) -> Any:
    """Return *value* with Python's own types: an array of one element is a scalar; a map (of
    ZipMap) is an object, a sequence a list.
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


def _alike(parts: Sequence[Any], batches: bool) -> list[list[int]]:
    """Return the numbers of the events that go into one run: those whose tensors have the same
    shapes. What failed is in none.
    """
    groups: dict[Any, list[int]] = {}
    for number, part in enumerate(parts):
        if not isinstance(part, ModelFailure):
            groups.setdefault(tuple(shape for shape, _ in part) if batches else number, []).append(
                number
            )
    return list(groups.values())


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
    """Return how many cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _session(path: Path, options: Mapping[str, Any]) -> Any:
    try:
        onnxruntime = importlib.import_module("onnxruntime")
    except ImportError as error:
        raise InvalidModel(f"onnx: models need ONNX Runtime: {how_to_install('onnx')}") from error
    setting = onnxruntime.SessionOptions()
    setting.log_severity_level = 4  # what it would print is in its exceptions
    setting.intra_op_num_threads = options.get("intra_op_num_threads", 0)
    providers = options.get("providers", ["CPUExecutionProvider"])
    for provider in providers:
        if provider not in onnxruntime.get_available_providers():
            raise NotFound.of(
                "provider of this ONNX Runtime", provider, onnxruntime.get_available_providers()
            )
    try:
        raw = path.read_bytes()
        weights = {name: path.parent.joinpath(name).read_bytes() for name in _locations(raw, path)}
        _hand_over(weights, setting, path)
        session = onnxruntime.InferenceSession(raw, setting, providers=providers)
        del weights  # not before: the runtime copies them while it makes the session
        return session  # noqa: TRY300 - the failure of any step is that of all
    except MltriggerError:
        raise
    except Exception as error:  # the runtime's own classes have no base of their own
        raise InvalidModel(
            f"{path.name} is no model that ONNX Runtime {onnxruntime.__version__} can load:"
            f" {str(error)[:500]}"
        ) from error


def _hand_over(weights: Mapping[str, bytes], setting: Any, path: Path) -> None:
    """Give the runtime the content of the files beside the model; by itself it would map them, and
    be killed when one is written anew.
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


def _fingerprint(path: Path) -> str:
    """Return the SHA-256 of the file; with weights in files beside it, of the sums of all."""
    try:
        raw = path.read_bytes()
        model = hashlib.sha256(raw).hexdigest()
        sums = [f"{name}\0{_sum(path.parent / name)}" for name in _locations(raw, path)]
    except OSError as error:
        raise InvalidModel(f"{path.name} cannot be read: {error.strerror}") from error
    return hashlib.sha256("\0".join([model, *sums]).encode()).hexdigest() if sums else model


def _sum(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _locations(raw: bytes, path: Path) -> list[str]:
    """Return the names of the files beside the model in which it keeps weights; raise InvalidModel
    when one is not there, or elsewhere.
    """
    found: set[str] = set()
    for match in _LOCATION.finditer(raw):
        size = match[1][0] if len(match[1]) == 1 else match[1][0] & 0x7F | match[1][1] << 7
        found.add(raw[match.end() : match.end() + size].decode("utf-8", "backslashreplace"))
    for name in found:
        inside = PurePosixPath(name)
        if inside.is_absolute() or ".." in inside.parts or "\\" in name:
            raise InvalidModel(
                f"{path.name} keeps weights in {short(name)!r}, which is not in its folder; only"
                " files there are read"
            )
        if not path.parent.joinpath(name).is_file():
            raise InvalidModel(
                f"{path.name} keeps weights in {short(name)!r}, which is not beside it; both files"
                " belong together"
            )
    return sorted(found)


def _path(address: Address) -> Path:
    path = Path(address.rest)
    if path.is_file():
        with path.open("rb") as file:
            if file.read(len(_LFS)) == _LFS:
                raise InvalidModel(
                    f"{path.name} is a pointer of Git LFS, not the model: git lfs pull"
                )
        return path
    if path.is_dir():
        raise InvalidModel(
            f"{path.name!r} is a folder; name the file in it: onnx:{path.name}/model.onnx"
        )
    shown = path.name if path.is_absolute() else str(path)
    near = difflib.get_close_matches(
        path.name, [other.name for other in path.parent.glob("*.onnx")], n=3
    )
    hint = f"; did you mean {' or '.join(map(repr, near))} there?" if near else ""
    raise InvalidModel(
        f"there is no file {shown[:200]!r} (looked for from the working directory){hint}"
    )


def _options(address: Address) -> dict[str, Any]:
    options = address.checked(**_OPTIONS)
    if options.get("missing", "refuse") not in _MISSING:
        raise NotFound.of("way of missing", options["missing"], _MISSING)
    for name in ("columns", "outputs", "providers"):
        if name in options and not (
            options[name] and all(isinstance(each, str) and each for each in options[name])
        ):
            raise InvalidModel(
                f"model {short(address.text, 200)!r}: option {name} must be a list of names, got"
                f" {short(options[name])}"
            )
    if options.get("intra_op_num_threads", 0) < 0:
        raise InvalidModel(
            f"option intra_op_num_threads must be a count, got {options['intra_op_num_threads']}"
        )
    return options


def _name(path: Path) -> str:
    return re.sub(r"[^A-Za-z0-9_.-]+", "-", path.stem)[:80].strip("-._") or "onnx"
