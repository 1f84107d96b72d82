"""Model: what a user hands over, described, before anything exists."""

from __future__ import annotations

import collections.abc
import dataclasses
import functools
import importlib
import inspect
import sys
import types
import typing
from collections.abc import Callable
from typing import Any, overload

from mltrigger.errors import InvalidModel
from mltrigger.events import Event
from mltrigger.models.digest import digest_of
from mltrigger.models.version import BUILD, Kind, ModelVersion, check_version
from mltrigger.names import check_model_name


@dataclasses.dataclass(frozen=True, slots=True, repr=False)
class Model:
    """A callable or a predictor with a name and, once released, a version. It can still be called like what it wraps.

    Parameters
    ----------
    target
        A callable, or an object with the method named *method*.
    name : str
        The model's name; versions are counted under it.
    version : str, optional
        A semantic version. Without one the model is a build, ``0.0.0+<hash of its source>``.
    batch : bool
        Whether a callable takes a list and returns a list of the same length, an exception in the place of what failed.
    method : str
        The method of a predictor to call with a batch.
    """

    target: Any
    name: str
    version: str | None = None
    batch: bool = False
    method: str = "predict"

    def __post_init__(self) -> None:
        check_model_name(self.name)
        if self.version is not None:
            check_version(self.version)
        if not callable(function := getattr(self.target, self.method) if self.kind == "predictor" else self.target):
            raise InvalidModel(f"model {self.name!r}: its {self.method} is not a method; hand over an object with predict()")
        _check_signature(function, f"{self.name}.{self.method}" if self.kind == "predictor" else self.name)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Call the model directly, without an event."""
        function = getattr(self.target, self.method) if self.kind == "predictor" else self.target
        return function(*args, **kwargs)

    def __repr__(self) -> str:
        batch = ", batch=True" if self.batch else ""
        return f"Model('{self.name}:{self.version or 'build'}'{batch})"

    @property
    def kind(self) -> Kind:
        """How the target is called."""
        if not callable(self.target) or (hasattr(self.target, self.method) and not inspect.isroutine(self.target)):
            return "predictor"
        return "batch" if self.batch else "callable"

    @property
    def wants_event(self) -> bool:
        """Whether the callable's argument is annotated as Event (or a list of them)."""
        return self.kind != "predictor" and _wants_event(self.target)

    def describe(self) -> ModelVersion:
        """Return the version that the registry keeps; reads the source to find its digest."""
        digest = digest_of(self.target)
        first_line = (inspect.getdoc(self.target) or "").partition("\n")[0] if self.kind != "predictor" else ""
        return ModelVersion(
            name=self.name,
            version=self.version or f"{BUILD}+{digest}",
            kind=self.kind,
            digest=digest,
            import_path=import_path(self.target),
            description=first_line[:200] or None,
        )


@overload
def model(
    target: str | None = None, *, name: str | None = None, version: str | None = None, batch: bool = False, method: str = "predict"
) -> Callable[[Any], Model]: ...


@overload
def model(target: Any, *, name: str | None = None, version: str | None = None, batch: bool = False, method: str = "predict") -> Model: ...


def model(
    target: Any = None,
    *,
    name: str | None = None,
    version: str | None = None,
    batch: bool = False,
    method: str = "predict",
) -> Any:
    """Describe a model: as a decorator, ``@mt.model("ocr", version="1.0.0")``, or as a call, ``mt.model(pipeline, name="doc-type")``.

    Nothing is registered and no file is opened; ``mt.subscribe`` and ``mt.register`` do that.

    Parameters
    ----------
    target
        The name (as a decorator), or the callable or predictor itself.
    name, version, batch, method
        See :class:`Model`.

    Returns
    -------
    Model, or a decorator that returns one
    """
    if target is None or isinstance(target, str):
        return lambda function: as_model(function, name=target or name, version=version, batch=batch or None, method=method)
    return as_model(target, name=name, version=version, batch=batch or None, method=method)


def as_model(target: Any, **described: Any) -> Model:
    """Return *target* as a Model; *described* are the fields that the user gave, and win."""
    given = {name: value for name, value in described.items() if value is not None}
    if isinstance(target, Model):
        return dataclasses.replace(target, **given)
    if isinstance(target, type):
        raise InvalidModel(f"{target.__name__} is a class; hand over an instance of it")
    if not callable(target) and not hasattr(target, given.get("method", "predict")):
        raise InvalidModel(f"{type(target).__name__} cannot serve as a model: hand over a callable or an object with predict()")
    if "name" not in given:
        given["name"] = default_name(target)
    return Model(target=target, **given)


def default_name(target: Any) -> str:
    """Return the name of a model that was given none: the function's name, or the class of the object."""
    if isinstance(target, functools.partial):
        return default_name(target.func)
    name = getattr(target, "__name__", type(target).__name__)
    if name == "<lambda>":
        raise InvalidModel("a lambda has no name: give one with mt.model(function, name='…') or write a def")
    return str(name)


def import_path(target: Any) -> str | None:
    """Return ``package.module:attribute`` when another process would find the very same object there, else ``None``."""
    module, name = getattr(target, "__module__", None), getattr(target, "__qualname__", None)
    if not module or not name or module == "__main__" or "<" in name:
        return None
    found: Any = sys.modules.get(module)
    for part in name.split("."):
        found = getattr(found, part, None)
    same = found is target or (isinstance(found, Model) and found.target is target)
    return f"{module}:{name}" if same else None


def load(path: str) -> Model:
    """Return the model at *path*, ``package.module:attribute``: imported by its registered name, never by an event's."""
    module, _, name = path.partition(":")
    found: Any = importlib.import_module(module)
    for part in name.split("."):
        found = getattr(found, part)
    return as_model(found)


def _check_signature(target: Any, name: str) -> None:
    function = _underlying(target)
    if inspect.iscoroutinefunction(function) or inspect.isasyncgenfunction(function):
        raise InvalidModel(f"model {name!r} is async; hand over a plain function (call asyncio.run inside it)")
    if inspect.isgeneratorfunction(function):
        raise InvalidModel(f"model {name!r} is a generator function; return list(…) instead of yielding")
    try:
        inspect.signature(target).bind(object())
    except TypeError as error:
        raise InvalidModel(f"model {name!r} must take one argument, the event's data: {error}") from error
    except ValueError:  # some builtins have no signature to look at
        return


def _underlying(target: Any) -> Any:
    """Return the function that a call of *target* ends in."""
    while isinstance(target, functools.partial):
        target = target.func
    return target if inspect.isroutine(target) or isinstance(target, type) else type(target).__call__


def _wants_event(target: Any) -> bool:
    """Whether the first argument that a call fills is annotated as Event, or as a sequence of them."""
    try:
        first = next(iter(inspect.signature(target).parameters.values()))
    except (TypeError, ValueError, StopIteration):
        return False
    function = inspect.unwrap(_underlying(target))
    hint: Any = getattr(function, "__annotations__", {}).get(first.name, first.annotation)
    # Looked up alone: another annotation of the same function may name what does not exist here.
    alone = types.SimpleNamespace(__annotations__={"x": hint}, __globals__=getattr(function, "__globals__", {}))
    try:
        hint = typing.get_type_hints(alone)["x"]
    except Exception:
        hint = Event if isinstance(hint, str) and hint.rpartition(".")[2] == "Event" else None
    sequence = typing.get_origin(hint) in (list, collections.abc.Sequence, collections.abc.Iterable)
    return hint is Event or (sequence and typing.get_args(hint)[:1] in ((Event,), ("Event",)))
