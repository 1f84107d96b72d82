"""What editors and errors show of the public calls: every setting by name, and no frames of ours above an error of ours."""

from __future__ import annotations

import dataclasses
import functools
import inspect
from collections.abc import Callable
from types import FunctionType
from typing import TYPE_CHECKING, Any, TypeVar, cast

from mltrigger.errors import MltriggerError
from mltrigger.policy import DeliveryPolicy, Settings

if TYPE_CHECKING:
    from collections.abc import Mapping

    from mltrigger.models.placement import Executing

F = TypeVar("F", bound=Callable[..., Any])
C = TypeVar("C", bound=type)


class Subscribing(Settings, total=False):
    """The keyword arguments of ``subscribe``, for type checkers and editors; ``EventBus.subscribe`` describes them."""

    name: str | None
    version: str | None
    batch: bool | str | None
    executor: Executing | None
    emit: str | None
    filter: Mapping[str, Any] | str | None
    filter_scope: str
    start: str | None
    listen: bool


def settings_named(function: F) -> F:
    """Show each setting of a policy in the signature of *function*, which takes them as ``**policy``."""
    shown = inspect.signature(function)
    parameters = [p for p in shown.parameters.values() if p.kind is not p.VAR_KEYWORD]
    keyword = inspect.Parameter.KEYWORD_ONLY
    settings = dataclasses.fields(DeliveryPolicy)
    parameters += [inspect.Parameter(field.name, keyword, default=field.default, annotation=field.type) for field in settings]
    function.__signature__ = shown.replace(parameters=parameters)  # type: ignore[attr-defined]
    return function


def brief(function: F) -> F:
    """Let errors of this package come out of *function* without its inner frames: the message says it all.

    Other exceptions keep their traceback, and so does the cause of an error.
    """

    @functools.wraps(function)
    def called(*args: Any, **kwargs: Any) -> Any:
        __tracebackhide__ = True  # IPython and pytest leave this frame out
        try:
            return function(*args, **kwargs)
        except MltriggerError as error:
            raise error.with_traceback(None)  # noqa: B904 - the same error, not another one

    return cast(F, called)


def brief_errors(cls: C) -> C:
    """Make every public method of *cls* :func:`brief`."""
    for name, method in list(vars(cls).items()):
        if isinstance(method, FunctionType) and not name.startswith("_"):
            setattr(cls, name, brief(method))
    return cls
