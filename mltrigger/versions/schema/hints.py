"""Type hints with a JSON form: classes with fields, and the types of JSON's own values."""

from __future__ import annotations

import dataclasses
import functools
import importlib
import inspect
import operator
import sys
import types
import typing
from collections.abc import Callable, Collection, Iterable, Mapping, MutableMapping, Sequence
from typing import Any

from mltrigger.errors import InvalidModel
from mltrigger.event.event import Event
from mltrigger.versions.schema.signature import underlying

PLAIN = (str, int, float, bool, type(None))
_LISTS = (list, Sequence, Iterable, Collection)
"""Types that a batch may be annotated with."""
_DICTS = (dict, Mapping, MutableMapping)


@dataclasses.dataclass(frozen=True, slots=True)
class Hint:
    """A type that pydantic can check.

    ``strict``: it contains a dataclass or TypedDict, so no text becomes a number. ``own``: it
    contains a class, so the model gets pydantic's object. ``extra``: the rule for unnamed fields of
    a TypedDict. ``classes``: objects of these classes fit as they are.
    """

    type: Any
    strict: bool = False
    own: bool = False
    extra: str | None = None
    classes: tuple[Any, ...] = ()

    @classmethod
    def of(cls, hint: Any, classes_only: bool = False) -> Hint | None:
        """Return *hint* for pydantic, ``None`` when it has no JSON form.

        Raises
        ------
        InvalidModel
            For a TypedDict with an unknown name.
        """
        if hint is None or hint is Any or hint is object:
            return None
        found = _parts(hint)
        choices = [part for part in _choices(hint) if part is not type(None)]
        if found is None or (classes_only and not (choices and all(map(is_class, choices)))):
            return None
        made, kinds = found
        typed = "typed" in kinds and not hasattr(hint, "__pydantic_config__")
        classes = tuple(part for part in choices if is_class(part) in ("pydantic", "dataclass"))
        return cls(
            made,
            bool(kinds & {"typed", "dataclass"}),
            bool(kinds),
            "allow" if typed else None,
            classes,
        )


def _parts(hint: Any) -> tuple[Any, set[str]] | None:
    """Return *hint* for pydantic, and its kinds of classes. ``None`` if a part has no JSON form."""
    origin, given = typing.get_origin(hint), typing.get_args(hint)
    bare, first = hint if origin is None else origin, given[0] if given else Any
    if _is_any(hint, (Any, object, *PLAIN)) or origin is typing.Literal:
        return (Any if hint is object else hint), set()
    # a text is a sequence of texts, too
    if bare is list or (bare is Sequence and not _is_any(first, (Any, object, str))):
        return _around(lambda item: types.GenericAlias(list, (item,)), first)
    if _is_any(bare, _DICTS) and _is_any(first, (Any, str)):
        return _around(
            lambda item: types.GenericAlias(dict, (str, item)), given[1] if given else Any
        )
    if kind := is_class(hint):
        return (_portable(hint) if kind == "typed" else hint), {kind}
    if origin is typing.Annotated:
        return _around(lambda inner: typing.Annotated[(inner, *given[1:])], first)
    if isinstance(hint, typing.NewType):
        return _parts(hint.__supertype__)
    if origin in (typing.Union, types.UnionType):
        found = [inner for part in given if (inner := _parts(part)) is not None]
        if len(found) == len(given):
            return functools.reduce(operator.or_, [made for made, _ in found]), {
                kind for _, kinds in found for kind in kinds
            }
    return None


def _around(make: Callable[[Any], Any], part: Any) -> tuple[Any, set[str]] | None:
    """Return the result of *make* for *part*, if that is a type of JSON values itself."""
    inner = _parts(part)
    return inner and (make(inner[0]), inner[1])


def _is_any(hint: Any, known: Sequence[Any]) -> bool:
    # a hint may be anything, even an object without equality
    return any(hint is one for one in known)


def _choices(hint: Any) -> tuple[Any, ...]:
    """Return the members of a union, or the hint itself."""
    return (
        typing.get_args(hint)
        if typing.get_origin(hint) in (typing.Union, types.UnionType)
        else (hint,)
    )


def is_class(hint: Any) -> str:
    """Return ``pydantic``, ``dataclass`` or ``typed`` for such a class. Event is none."""
    if not isinstance(hint, type) or issubclass(hint, Event):
        return ""
    if type(hint).__name__ == "_TypedDictMeta" or typing.is_typeddict(hint):
        return "typed"
    if hasattr(hint, "__pydantic_core_schema__") or "__pydantic_validator__" in vars(hint):
        return "pydantic"
    # pydantic is loaded, or nothing can be one of its models
    pydantic = sys.modules.get("pydantic")
    if pydantic is not None and issubclass(hint, pydantic.BaseModel):
        return "pydantic"
    return "dataclass" if dataclasses.is_dataclass(hint) else ""


def _portable(typed: Any) -> Any:
    """Return a TypedDict that pydantic takes.

    Before Python 3.12, that of ``typing`` does not tell its required fields.
    """
    if sys.version_info >= (3, 12) or type(typed).__module__ != "typing":
        return typed
    try:
        extensions = importlib.import_module("typing_extensions")
        hints = typing.get_type_hints(typed, include_extras=True)
    except Exception as error:
        raise InvalidModel(f"schema {typed.__name__}: {error}") from error
    fields = {}
    for name, hint in hints.items():
        marked = typing.get_origin(hint) in (typing.Required, typing.NotRequired)
        needed = (
            typing.get_origin(hint) is typing.Required
            if marked
            else name in typed.__required_keys__
        )
        inner = typing.get_args(hint)[0] if marked else hint
        found = _parts(inner)
        fields[name] = (extensions.Required if needed else extensions.NotRequired)[
            inner if found is None else found[0]
        ]
    made = extensions.TypedDict(typed.__name__, fields)
    if hasattr(typed, "__pydantic_config__"):
        made.__pydantic_config__ = typed.__pydantic_config__
    made.__doc__ = typed.__doc__
    return made


def item_of(hint: Any) -> Any:
    """Return the type of the items of a batch, according to *hint*."""
    given = typing.get_args(hint)
    return given[0] if typing.get_origin(hint) in _LISTS and len(given) == 1 else None


def defaults_to_none(function: Any) -> bool:
    """Whether the first argument of *function* defaults to ``None``, which then fits any hint."""
    try:
        return next(iter(inspect.signature(function).parameters.values())).default is None
    except (TypeError, ValueError, StopIteration):
        return False


def return_hint(function: Any) -> Any:
    """Return the type hint of *function*'s result, ``None`` without a known one."""
    inner = inspect.unwrap(underlying(function))
    hint = getattr(inner, "__annotations__", {}).get("return")
    if hint is None:  # there is no hint, or nothing to look at
        return None
    alone = types.SimpleNamespace(
        __annotations__={"x": hint}, __globals__=getattr(inner, "__globals__", {})
    )
    try:
        return typing.get_type_hints(alone)["x"]
    except Exception:
        return None
