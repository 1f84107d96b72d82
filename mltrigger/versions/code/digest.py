"""A digest of code: equal when a cell runs again, also elsewhere, and different after an edit."""

from __future__ import annotations

import copyreg
import dataclasses
import functools
import hashlib
import inspect
import random
import site
import sys
import sysconfig
import tokenize
import types
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from mltrigger.versions.code import source

_LIBRARIES = tuple(
    {sysconfig.get_path(name) for name in ("stdlib", "purelib", "platlib")}
    | set(site.getsitepackages())
)
# Parts of the state of fitted scikit-learn objects that were not learnt: a release, an
# address, timings, and search trees that count their calls. The data of a tree stands beside
# it.
_SKIPPED_STATE = frozenset(
    {"_sklearn_version", "_stop_words_id", "cv_results_", "refit_time_", "_tree"}
)
# Libraries whose objects are values. Others may be connections, clients and caches: their state
# changes with use.
_VALUES = frozenset(
    {
        "builtins",
        "collections",
        "datetime",
        "decimal",
        "enum",
        "fractions",
        "ipaddress",
        "numpy",
        "pandas",
        "pathlib",
        "polars",
        "pyarrow",
        "re",
        "scipy",
        "sklearn",
        "types",
        "uuid",
        "zoneinfo",
    }
)
_LEARNT = frozenset(
    {("torch", "Module"), ("torch", "Tensor"), ("xgboost", "Booster"), ("lightgbm", "Booster")}
)
"""Classes of other libraries whose objects are learnt, by library and name."""
_SCALARS = (bool, int, float, complex, str, bytes)
_MOST_PARTS = 50_000
_LONG = 1000
_CONTAINERS = (list, tuple, dict, set, frozenset)
_FUNCTIONS = (
    types.FunctionType,
    types.MethodType,
    types.BuiltinFunctionType,
    type,
    functools.partial,
    types.CodeType,
)


class TooLarge(Exception):  # internal signal
    """A value has more parts than are looked at."""


class Digests:
    """Makes digests of values from their structure: no addresses, no hash order.

    Parameters
    ----------
    captured : bool
        Whether values around functions count. Then objects of other libraries count by their class
        alone, and very large containers raise :class:`TooLarge`.
    """

    def __init__(self, captured: bool = False) -> None:
        self._captured = captured
        self._left = _MOST_PARTS
        self.functions: list[types.FunctionType] = []
        """The functions of the user that were met."""
        self.classes: list[type] = []
        """The classes of the user that were met."""

    def of(self, value: Any, seen: dict[int, int] | None = None) -> bytes:
        """Return the digest of any value. *seen* are the objects that contain it."""
        seen = {} if seen is None else seen
        if id(value) in seen:
            return hashed("again", str(seen[id(value)]))
        if value is None or isinstance(value, _SCALARS):
            return hashed(type(value).__qualname__, _shown(value))
        self._count()
        seen = {**seen, id(value): len(seen)}
        if not isinstance(value, (types.FunctionType, type)) and hasattr(value, "__wrapped__"):
            value = inspect.unwrap(value)  # functools.cache and its like
        if isinstance(value, _FUNCTIONS):
            return self._code(value, seen)
        if isinstance(value, types.ModuleType):
            return hashed("module", value.__name__)
        if (array := _array(value)) is not None:
            return hashed("array", array.dtype.str, str(array.shape), array.tobytes())
        if _is_learnt(type(value), "Tensor") and (array := _of_tensor(value)) is not None:
            return hashed("tensor", str(value.dtype), str(tuple(value.shape)), array)
        return self._container(value, seen)

    def _count(self) -> None:
        self._left -= 1
        if self._captured and self._left < 0:
            raise TooLarge

    def _container(self, value: Any, seen: dict[int, int]) -> bytes:
        if self._captured and type(value) not in _CONTAINERS and not has_value(value):
            return hashed("name", name_of(type(value)))
        if self._captured and (text := _plain(value)) is not None:
            return hashed(name_of(type(value)), text)
        if isinstance(value, Mapping):
            pairs = sorted(
                (self.of(k, seen), self.of(v, seen))
                for k, v in value.items()
                if k not in _SKIPPED_STATE
            )
            return hashed(name_of(type(value)), *(part for pair in pairs for part in pair))
        if isinstance(value, (list, tuple)):
            return hashed(name_of(type(value)), *(self.of(v, seen) for v in value))
        if isinstance(value, (set, frozenset)):
            return hashed("set", *sorted(self.of(v, seen) for v in value))
        return self._object(value, seen)

    def _object(self, value: Any, seen: dict[int, int]) -> bytes:
        """Return the digest of an object: its class, and the state that a copy would have."""
        kind = self.of(type(value), seen)
        # an array of objects
        if getattr(value, "dtype", None) is not None and hasattr(value, "tolist"):
            return hashed("objects", kind, self.of(value.tolist(), seen))
        if _is_learnt(type(value), "Module"):  # its training mode changes with use
            return hashed(
                "module",
                kind,
                self.of(
                    {name: part for name, part in vars(value).items() if name != "training"}, seen
                ),
            )
        try:
            reducer = copyreg.dispatch_table.get(type(value))  # of regular expressions
            reduced = reducer(value) if reducer is not None else value.__reduce_ex__(4)
        except Exception:
            # locks, sessions, sockets: an object without a copy has no comparable state
            return kind
        if isinstance(reduced, str):
            return hashed("global", reduced)
        _, arguments, *rest = reduced
        plain = [
            (
                list(part)
                if isinstance(part, Iterable) and not isinstance(part, (str, bytes, Mapping))
                else part
            )
            for part in rest[:3]
        ]
        own = self.of([a for a in arguments if a is not type(value)], seen)
        return hashed("object", kind, own, *(self.of(p, seen) for p in plain))

    def _code(self, value: Any, seen: dict[int, int]) -> bytes:
        if isinstance(value, functools.partial):
            return hashed(
                "partial",
                *(self.of(part, seen) for part in (value.func, value.args, value.keywords)),
            )
        if isinstance(value, types.MethodType):
            return hashed("method", self.of(value.__func__, seen), self.of(value.__self__, seen))
        if isinstance(value, types.BuiltinFunctionType) and _belongs_to_a_value(value):
            return hashed("method", name_of(value), self.of(value.__self__, seen))
        if isinstance(value, types.FunctionType):
            return self._function(value, seen)
        if isinstance(value, types.CodeType):
            return hashed(
                "code",
                value.co_code,
                str(value.co_names),
                *(self.of(c, seen) for c in value.co_consts),
            )
        if isinstance(value, type) and not is_of_a_library(value):
            self.classes.append(value)
            own = {
                name: self.of(_unwrapped(v), seen)
                for name, v in vars(value).items()
                if not name.startswith("__") or callable(v)
            }
            bases = [self.of(base, seen) for base in value.__bases__]
            return hashed(
                "class",
                name_of(value),
                *bases,
                *(part for name in sorted(own) for part in (name, own[name])),
            )
        return hashed("name", name_of(value))

    def _function(self, function: types.FunctionType, seen: dict[int, int]) -> bytes:
        if not function.__code__.co_filename.startswith(_LIBRARIES):
            self.functions.append(function)
        # A decorator's closed-over values are code as well.
        inner = [self.of(value, seen) for _, value in closed_over(function) if is_code(value)]
        try:
            return hashed("source", "\x00".join(source.tokens_of(function)), *inner)
        except (OSError, TypeError, SyntaxError, tokenize.TokenError):
            # typed at a prompt, or made by exec
            defaults = (
                function.__defaults__,
                function.__kwdefaults__,
                inspect.getfullargspec(function)[:5:4],
            )
            return hashed(
                "function", self.of(function.__code__, seen), self.of(defaults, seen), *inner
            )


def closed_over(function: types.FunctionType) -> Iterator[tuple[str, Any]]:
    """Yield the names and values that *function* closed over. An empty cell has no value yet."""
    for name, cell in zip(function.__code__.co_freevars, function.__closure__ or (), strict=True):
        try:
            yield name, cell.cell_contents
        except ValueError:
            continue


def is_code(value: Any) -> bool:
    """Whether *value* is a function, a method or a partial."""
    return isinstance(value, (types.FunctionType, types.MethodType, functools.partial))


def has_value(value: Any) -> bool:
    """Whether the state of *value* counts: data, a fitted object, an object of a user's class."""
    kind = type(value)
    if (
        isinstance(value, (Iterator, random.Random))
        or kind.__name__ in ("Generator", "RandomState")
        or kind.__module__ == "itertools"
    ):
        return False  # it moves on with use
    # a bus, a subscription, a run
    if kind.__module__.startswith("mltrigger.") and not kind.__module__.startswith(
        "mltrigger.demo"
    ):
        return dataclasses.is_dataclass(kind) and bool(kind.__dataclass_params__.frozen)  # type: ignore[attr-defined]
    if kind.__module__.partition(".")[0] in _VALUES or (
        hasattr(kind, "get_params") and hasattr(kind, "fit")
    ):
        return True
    if _is_learnt(kind):
        return True
    return not is_of_a_library(kind)


def _belongs_to_a_value(method: types.BuiltinFunctionType) -> bool:
    """Whether *method* belongs to an object whose state counts, such as a dict's ``get``."""
    owner = method.__self__
    return not isinstance(owner, (types.ModuleType, type, types.NoneType)) and has_value(owner)


def _is_learnt(kind: type, name: str | None = None) -> bool:
    """Whether objects of *kind* are learnt. *name* asks for one class and its subclasses."""
    return any(
        (base.__module__.partition(".")[0], base.__name__) in _LEARNT
        and name in (None, base.__name__)
        for base in kind.__mro__
    )


def _of_tensor(tensor: Any) -> bytes | None:
    """Return the bytes of a tensor of torch, ``None`` without any, as for a sparse one."""
    try:
        whole = tensor.detach().cpu().contiguous().reshape(-1)
        return bytes(whole.view(sys.modules["torch"].uint8).numpy().tobytes())
    except Exception:
        return None


def is_of_a_library(value: type) -> bool:
    """Whether *value* comes from an installed package or from Python itself."""
    module = sys.modules.get(value.__module__)
    if getattr(module, value.__qualname__.partition(".")[0], None) is None:
        return False  # made by a cell, with any name of a module
    file = getattr(module, "__file__", None)
    return file.startswith(_LIBRARIES) if file is not None else value.__module__ != "__main__"


def _array(value: Any) -> Any:
    np = sys.modules.get("numpy")
    if np is None or not isinstance(value, (np.ndarray, np.generic)) or value.dtype.hasobject:
        return None
    return np.ascontiguousarray(value)


def _plain(value: Any) -> str | None:
    """Return the text of a long container of texts and numbers, ``None`` for others.

    That is faster than a digest of each part.
    """
    if type(value) not in _CONTAINERS or len(value) < _LONG:
        return None
    parts = [*value, *value.values()] if isinstance(value, dict) else value
    if not set(map(type, parts)) <= {type(None), *_SCALARS}:
        return None
    shown = map(_shown, value.items() if isinstance(value, dict) else value)
    return "\n".join(shown if isinstance(value, (list, tuple)) else sorted(shown))


def _shown(value: Any) -> str:
    try:
        return repr(value)
    except ValueError:  # too many digits to be shown
        return hex(value)


def _unwrapped(member: Any) -> Any:
    if isinstance(member, (staticmethod, classmethod)):
        return member.__func__
    return [member.fget, member.fset, member.fdel] if isinstance(member, property) else member


def name_of(value: Any) -> str:
    """Return the full name of a class or function."""
    return f"{getattr(value, '__module__', '')}.{getattr(value, '__qualname__', '')}"


def hashed(*parts: str | bytes) -> bytes:
    """Return the SHA-256 of *parts*, each with its length."""
    whole = hashlib.sha256()
    for part in parts:
        raw = part.encode("utf-8", "surrogatepass") if isinstance(part, str) else part
        whole.update(len(raw).to_bytes(8, "big"))
        whole.update(raw)
    return whole.digest()
