"""Facts about a callable before its first call: whether it takes one argument, and which."""

from __future__ import annotations

import collections.abc
import functools
import inspect
import types
import typing
from typing import Any

from mltrigger.errors import InvalidModel
from mltrigger.event.event import Event


def check_signature(function: Any, name: str) -> None:
    """Check that *function* takes one argument, and returns an answer, no generator.

    Raises
    ------
    InvalidModel
        At registration, not at the first event.
    """
    inner = underlying(function)
    if inspect.isgeneratorfunction(inner) or inspect.isasyncgenfunction(inner):
        raise InvalidModel(
            f"model {name!r} is a generator function; return list(…) instead of yielding"
        )
    try:
        inspect.signature(function).bind(object())
    except TypeError as error:
        raise InvalidModel(
            f"model {name!r} must take one argument, the event's data: {error}"
        ) from error
    except ValueError:  # some builtins have no signature
        return


def is_async(function: Any) -> bool:
    """Whether calling *function* gives something to await."""
    return inspect.iscoroutinefunction(underlying(function))


def of_class(kind: type, method: str) -> Any:
    """Return *method* of a future instance: without ``self``."""
    function = getattr(kind, method)
    return (
        functools.partial(function, None)
        if inspect.isfunction(inspect.getattr_static(kind, method))
        else function
    )


def underlying(target: Any) -> Any:
    """Return the function that a call of *target* ends in."""
    while isinstance(target, functools.partial):
        target = target.func
    return (
        target if inspect.isroutine(target) or isinstance(target, type) else type(target).__call__
    )


def first_hint(target: Any) -> Any:
    """Return the type hint of the first argument of a call, ``None`` without a known one."""
    try:
        first = next(iter(inspect.signature(target).parameters.values()))
    except (TypeError, ValueError, StopIteration):
        return None
    function = inspect.unwrap(underlying(target))
    hint: Any = getattr(function, "__annotations__", {}).get(first.name, first.annotation)
    if hint is inspect.Parameter.empty:
        return None
    # Looked up alone: another annotation may have a name that does not exist here.
    alone = types.SimpleNamespace(
        __annotations__={"x": hint}, __globals__=getattr(function, "__globals__", {})
    )
    try:
        return typing.get_type_hints(alone)["x"]
    except Exception:
        return Event if isinstance(hint, str) and hint.rpartition(".")[2] == "Event" else None


def wants_event(target: Any) -> bool:
    """Whether the first argument of a call is annotated as Event, or as a sequence of them."""
    hint = first_hint(target)
    if typing.get_origin(hint) in (typing.Union, types.UnionType) and Event in typing.get_args(
        hint
    ):
        return True  # there is always one
    sequence = typing.get_origin(hint) in (list, collections.abc.Sequence, collections.abc.Iterable)
    return hint is Event or (sequence and typing.get_args(hint)[:1] in ((Event,), ("Event",)))
