"""From a handed-over object, import path or address to a Model."""

from __future__ import annotations

import dataclasses
import functools
import importlib
import os
from collections.abc import Callable, Mapping, Sequence
from typing import Any, overload

from mltrigger.errors import InvalidModel, NotFound
from mltrigger.versions import columns
from mltrigger.versions.address import Address
from mltrigger.versions.kinds import METHODS
from mltrigger.versions.model import Model, import_path
from mltrigger.versions.scheme import Description, is_address, scheme_of
from mltrigger.versions.selector import is_import_path

__all__ = [
    "LEFT_OUT",
    "Model",
    "as_model",
    "default_name",
    "import_path",
    "is_nameless",
    "load",
    "model",
]

_LAMBDA = "<lambda>"
_FIELDS = (
    "name",
    "version",
    "batch",
    "method",
    "input_schema",
    "output_schema",
    "columns",
    "files",
    "path",
)


class _LeftOut:
    def __repr__(self) -> str:
        return "<left out>"


LEFT_OUT: Any = _LeftOut()
"""A missing argument. ``None`` would be a mistake: a function that forgot its return."""


@overload
def model(
    target: str = ...,
    *,
    name: str | None = None,
    version: str | None = None,
    batch: bool | None = None,
    method: str | None = None,
    input_schema: Any = None,
    output_schema: Any = None,
    files: Sequence[str | os.PathLike[str]] = ...,
    columns: Sequence[str] | None = None,
) -> Callable[[Any], Model]: ...


@overload
def model(
    target: Any, *, name: str | None = None, version: str | None = None, **described: Any
) -> Model: ...


def model(
    target: Any = LEFT_OUT, *, name: str | None = None, version: str | None = None, **described: Any
) -> Any:
    """Describe a model: ``@mt.model("ocr", version="1.0.0")``, or ``mt.model(pipeline)``.

    Nothing is registered, and no file or connection is opened. ``mt.subscribe`` and
    ``mt.register`` do that.

    Parameters
    ----------
    target
        As a decorator: the name. Else the callable, predictor or class itself, its import path
        ``"package.module:attribute"``, or an address such as ``"oip+http://host/v2/models/ocr"``.
    name, version, batch, method, input_schema, output_schema, columns, files
        See :class:`Model`.
    **described
        Further options, for an address, are those of its scheme.

    Returns
    -------
    Model, or a decorator that returns one
    """
    if target is LEFT_OUT or (isinstance(target, str) and ":" not in target):
        named = name if target is LEFT_OUT else target or name
        return lambda function: as_model(function, name=named, version=version, **described)
    return as_model(target, name=name, version=version, **described)


def as_model(target: Any, **described: Any) -> Model:
    """Return *target* as a Model.

    *described* are the fields that the user gave. For an address they include its options.
    """
    given = {name: value for name, value in described.items() if value is not None}
    if target is None:
        raise InvalidModel("the model is None: did the function that makes it forget its return?")
    if isinstance(target, str) and is_address(target):
        return _at_address(target, given)
    if given.get("batch") is False:
        del given["batch"]
    if isinstance(target, str):
        target, given = _imported(target, given.get("name")), {"path": target, **given}
    for name in given:
        if name not in _FIELDS:
            raise NotFound.of("setting of a model", name, _FIELDS)
    if isinstance(target, Model):
        return dataclasses.replace(target, **given)
    if "method" not in given and (method := _method_of(target)) is not None:
        given["method"] = method
    if not callable(target) and not hasattr(target, given.get("method", "predict")):
        raise InvalidModel(
            f"{type(target).__name__} cannot serve as a model: hand over a callable or an object"
            " with predict(), or where one is: 'package.module:attribute', or an address such as"
            " 'oip+http://host/v2/models/ocr'"
        )
    if "name" not in given:
        given["name"] = default_name(target)
    return Model(target=target, **given)


def _method_of(target: Any) -> str | None:
    """Return the method to call when the user names none, ``None`` for the default."""
    if isinstance(target, type) or not callable(target):
        return next((method for method in METHODS if hasattr(target, method)), "predict")
    if not hasattr(target, "predict") and columns.is_a(target, "torch", "Module"):
        return "__call__"
    return None


def _at_address(text: str, given: Mapping[str, Any]) -> Model:
    own = {
        name: value
        for name, value in given.items()
        if name in ("name", "version", "input_schema", "output_schema")
    }
    address = Address.of(text, {name: value for name, value in given.items() if name not in own})
    found: Description = scheme_of(address).describe(address)
    if found.alias is not None and "version" in own:
        raise InvalidModel(
            f"{text!r} follows an alias, which means another version tomorrow: leave the"
            " version out"
        )
    own.setdefault("name", found.name)
    own.setdefault("version", found.version)
    own.setdefault("input_schema", found.input_schema)
    own.setdefault("output_schema", found.output_schema)
    return Model(target=address, **own)


def _imported(path: str, name: str | None) -> Model:
    if not is_import_path(path):
        raise NotFound(
            f"no model {path[:200]!r}: write 'package.module:attribute', or an address such as"
            " 'http://host/score', 'oip+http://host/v2/models/ocr', 'command:./score',"
            " 'onnx:model.onnx', 'models:/churn@champion'"
        )
    try:
        return load(path, name)
    except (ImportError, AttributeError) as error:
        raise NotFound(f"no model {path!r}: {error}") from error
    except (Exception, SystemExit) as error:  # a module may do anything while it is imported
        raise InvalidModel(
            f"no model {path!r}: importing it failed with {type(error).__name__}: {error}"
        ) from error


def load(path: str, name: str | None = None) -> Model:
    """Return the model at *path*, ``package.module:attribute``, called *name* if it is given.

    The path is a registered one, never an event's.
    """
    module, _, attribute = path.partition(":")
    found: Any = importlib.import_module(module)
    for part in (parts := attribute.split(".")):
        found = getattr(found, part)
    return dataclasses.replace(
        as_model(found, name=name or (parts[-1] if is_nameless(found) else None)), path=path
    )


def default_name(target: Any) -> str:
    """Return the default name of a model: that of the function, or of the object's class."""
    if (name := _own_name(target)) == _LAMBDA:
        raise InvalidModel(
            "a lambda has no name: give one with name='…', to mt.model, mt.register or"
            " mt.subscribe, or write a def"
        )
    return name


def is_nameless(target: Any) -> bool:
    """Whether *target* is a lambda, which has no name of its own."""
    return not isinstance(target, (Model, str)) and _own_name(target) == _LAMBDA


def _own_name(target: Any) -> str:
    if isinstance(target, functools.partial):
        return _own_name(target.func)
    return str(getattr(target, "__name__", type(target).__name__))
