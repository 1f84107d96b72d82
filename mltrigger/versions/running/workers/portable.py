"""Models that can be sent to another process, and the reason when one cannot."""

from __future__ import annotations

import collections
import contextlib
import dataclasses
import functools
import inspect
import sys
import tempfile
import types
from collections.abc import Callable, Iterator, Mapping
from typing import Any, BinaryIO, ClassVar

from mltrigger.errors import InvalidModel
from mltrigger.versions.describe import Model
from mltrigger.versions.running.workers.parcel import contents, path_there


def check_portable(model: Model, import_path: str | None) -> None:
    """Check that *model* can be called in a process of its own.

    It is imported from its *import_path*, or else sent with cloudpickle.

    Raises
    ------
    InvalidModel
        If a part cannot be pickled, with its name and an alternative. Also on Windows, where
        processes cannot be killed as a group.
    """
    if sys.platform == "win32":
        raise InvalidModel("isolation='process' needs Linux or macOS; use isolation='thread'")
    if not sys.executable:
        raise InvalidModel(
            "isolation='process' needs a Python to start, and this one is embedded; use"
            " isolation='thread'"
        )
    check_sendable(model, import_path)


def check_sendable(model: Model, import_path: str | None) -> None:
    """Check that *model* can be imported from its *import_path* elsewhere, or else pickled.

    Raises
    ------
    InvalidModel
        If a part cannot be pickled, with its name and an alternative.
    """
    if path_there(model, import_path) is None:
        _dump(model, _Nowhere())


def packed(model: Model) -> BinaryIO:
    """Return an open file without a name that holds the pickled *model*.

    Raises
    ------
    InvalidModel
        See :func:`check_sendable`.
    """
    with contextlib.ExitStack() as stack:
        # no name: nobody else can write into it
        file = stack.enter_context(tempfile.TemporaryFile())
        _dump(model, file)
        file.flush()
        stack.pop_all()
    return file


def _dump(model: Model, file: Any) -> None:
    try:
        _pickle(contents(model), file)
    except OSError:  # a full disk says nothing about the model
        raise
    except Exception as error:
        culprit = _culprit(model.target)
        raise InvalidModel(
            f"model {model.name!r} cannot be sent to another process: {culprit}{error}. Make that"
            " inside of the function, move the model into a module that can be imported, or let it"
            " run here: isolation='thread', no executor"
        ) from error


def _culprit(target: Any) -> str:
    for name, value in _parts(target):
        try:
            _pickle(value, _Nowhere())
        except Exception:
            return f"{name!r} is a {type(value).__qualname__}; "
    return ""


def _parts(target: Any) -> Iterator[tuple[str, Any]]:
    """Yield the parts that travel with *target*, by name.

    These are variables of a function, arguments of a partial, attributes of an object.
    """
    if isinstance(target, functools.partial):
        yield from [(f"argument {number}", value) for number, value in enumerate(target.args)]
        yield from target.keywords.items()
        yield from _parts(target.func)
    elif inspect.isfunction(target):
        used = inspect.getclosurevars(target)
        yield from {**used.nonlocals, **used.globals}.items()
    else:
        state = getattr(getattr(target, "__self__", target), "__dict__", {})
        yield from state.items() if isinstance(state, Mapping) else ()


def _pickle(value: Any, file: Any) -> None:
    import cloudpickle

    class Pickler(cloudpickle.Pickler):  # type: ignore[misc]
        # dataclasses.MISSING means "no default" only as that very object. A copy of it, in a
        # dataclass of a notebook, would be a default.
        dispatch_table: ClassVar[Any] = collections.ChainMap(
            {type(dataclasses.MISSING): lambda _: "MISSING", types.CodeType: _reduced},
            cloudpickle.Pickler.dispatch_table,
        )

    Pickler(file).dump(value)


def _reduced(code: types.CodeType) -> tuple[Any, ...]:
    """Return the pickled form of *code* with its file name.

    cloudpickle leaves that out since 3.1.3, and a traceback needs it.
    """
    import cloudpickle

    make, arguments = cloudpickle.Pickler.dispatch_table[types.CodeType](code)
    return _in_file, (make, arguments, code.co_filename)


def _in_file(
    make: Callable[..., types.CodeType], arguments: tuple[Any, ...], file: str
) -> types.CodeType:
    return make(*arguments).replace(co_filename=file)


class _Nowhere:
    """A file that keeps nothing: a check needs no memory."""

    def write(self, data: Any) -> int:
        return len(data)
