"""Model: the description of something that a user hands over to be called with events."""

from __future__ import annotations

import contextvars
import dataclasses
import functools
import inspect
import json
import sys
import threading
from collections.abc import Callable
from typing import Any

from mltrigger.errors import InvalidModel
from mltrigger.names import check_model_name
from mltrigger.versions import columns
from mltrigger.versions.code.weights import Weights, checked
from mltrigger.versions.kinds import Kind, kind_of
from mltrigger.versions.schema import schema as schemas
from mltrigger.versions.version import ModelVersion, check_version


class Once:
    """Makes the object of a class once in a process, and warms it up.

    Other threads wait meanwhile.
    """

    def __init__(self) -> None:
        self._guard = threading.Lock()
        self._made: list[Any] = []

    def get(self, target: Any, check: Callable[[], None]) -> Any:
        """Return *target*, or the one object of the class *target*.

        The first call runs *check*, makes the object and calls its ``warm_up()``.
        """
        with self._guard:
            if not self._made:
                check()
                made = target() if isinstance(target, type) else target
                warm_up = getattr(made, "warm_up", None)
                if callable(warm_up) and not inspect.isroutine(made) and _needs_nothing(warm_up):
                    warm_up()
                self._made.append(made)
            return self._made[0]


@dataclasses.dataclass(frozen=True, slots=True, repr=False)
class Model:
    """Something that can be called with events, with a name and, once released, a version.

    It can still be called directly.

    Parameters
    ----------
    target
        A callable, an ``async def`` function, an object with the method named *method*, a class
        of such objects, or an :class:`~mltrigger.versions.address.Address`. The object of a class
        is made once in each process, before its first event. So is an object's ``warm_up()``
        called, if it has one.
    name : str
        The model's name. Versions are counted under it.
    version : str, optional
        A semantic version. Without one the model is a build, ``0.0.0+<hash of its source>``.
    batch : bool
        Whether a callable takes a list. It then returns a list of the same length, with an
        exception in the place of each failure.
    method : str
        The method of a predictor to call with a batch.
    input_schema, output_schema
        The form of an event's data and of an output: a pydantic model, a dataclass, a TypedDict or
        a JSON Schema. Data that do not fit are dead at once, and the dead letter names the field.
        Default: the type hints.
    columns : sequence of str, optional
        The fields of a record that a predictor takes, in order, if it was fitted without names.
        For a model that takes texts: the field with the text. Default: the model's own names, else
        the fields of *input_schema*.
    files : list of str, optional
        Files and folders whose content belongs to the version, such as weights. Other content is
        another version. Relative names start at the working directory of the process that calls
        the model.
    path : str, optional
        ``package.module:attribute``, where other processes find the target. Default: looked up.
    """

    target: Any
    name: str
    version: str | None = None
    batch: bool = False
    method: str = "predict"
    input_schema: Any = None
    output_schema: Any = None
    columns: tuple[str, ...] | None = None
    files: tuple[str, ...] = ()
    path: str | None = dataclasses.field(default=None, compare=False)
    weights: Weights | None = dataclasses.field(default=None, compare=False)
    """The files of the version, once it is registered."""
    context: contextvars.Context | None = dataclasses.field(default=None, compare=False)
    """The context of the cell that handed the model over, once it is registered."""
    _once: Once = dataclasses.field(default_factory=Once, compare=False)
    _kind: Kind = dataclasses.field(init=False, compare=False)

    def __post_init__(self) -> None:
        check_model_name(self.name)
        if not isinstance(self.batch, bool):
            raise InvalidModel(f"model {self.name!r}: batch={self.batch!r}: write True or False")
        if self.version is not None:
            check_version(self.version)
        object.__setattr__(self, "_kind", kind_of(self.target, self.method, self.batch))
        if self.columns is not None:
            names = columns.checked(self.columns, self.target, self.name)
            object.__setattr__(self, "columns", names)
            if not self._kind.takes_columns:
                raise InvalidModel(
                    f"model {self.name!r}: columns= is for objects with predict(); a function gets"
                    " the data as it is"
                )
        object.__setattr__(self, "files", checked(self.files, self.name))
        self._kind.check(self.name)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Call the model directly, without a bus.

        A model at an address takes the data, or a whole event.
        """
        return self._kind.call(self, *args, **kwargs)

    def __repr__(self) -> str:
        batch = ", batch=True" if self.batch else ""
        return f"Model('{self.name}:{self.version or 'build'}'{batch})"

    @property
    def kind(self) -> str:
        """``callable``, ``batch``, ``predictor``, ``async``, or the scheme of the address."""
        return self._kind.name

    @property
    def batches(self) -> bool:
        """Whether a call takes a list. Of an address, only the endpoint knows."""
        return self._kind.batches

    @property
    def function(self) -> Any:
        """The callable to inspect. For a class, no object of it is made."""
        return self._kind.function

    @property
    def is_function(self) -> bool:
        """Whether the target is a function, which may read its files at every call."""
        return inspect.isroutine(self.target) or isinstance(self.target, functools.partial)

    @property
    def wants_event(self) -> bool:
        """Whether the callable's argument is annotated as Event, or as a list of them."""
        return self._kind.wants_event

    @property
    def import_path(self) -> str | None:
        """``package.module:attribute`` if another process finds the same target there."""
        return self.path or import_path(self.target)

    def ordered(self) -> tuple[str, ...] | None:
        """Return the columns in order: as given, else the fields of the input schema."""
        if self.columns is not None or not self._kind.takes_columns or self.input_schema is None:
            return self.columns
        schema = self.schemas()[0]
        return None if schema is None else columns.of_schema(schema.json)

    def loaded(self) -> Any:
        """Return the object to call.

        The object of a class is made and warmed up by the first call, once in a process.
        """
        return self._once.get(self.target, self._check_weights)

    def of_version(
        self, version: ModelVersion, context: contextvars.Context | None = None
    ) -> Model:
        """Return the model for calls of *version*, with its registered files, in *context*."""
        return dataclasses.replace(
            self, weights=Weights(version.files) if version.files else None, context=context
        )

    def schemas(self) -> tuple[schemas.Schema | None, schemas.Schema | None]:
        """Return the schemas of input and output: as given, else from the type hints."""
        takes, gives = self._kind.hinted()
        if self.input_schema is not None:
            takes = schemas.schema_of(self.input_schema)
        if self.output_schema is not None:
            gives = schemas.schema_of(self.output_schema)
        return takes, gives

    def describe(self) -> ModelVersion:
        """Return the version that the registry keeps.

        Reads the source, or the file, to find its digest.
        """
        takes, gives = (
            None if schema is None else json.dumps(schema.json, sort_keys=True)
            for schema in self.schemas()
        )
        return self._kind.describe(self, takes, gives)

    def _check_weights(self) -> None:
        if self.weights is not None:
            self.weights.check(self.name)


def sharing(model: Model, other: Model) -> Model:
    """Return *model* with the object that *other*, of the same class, has made."""
    return dataclasses.replace(model, _once=other._once)


def import_path(target: Any) -> str | None:
    """Return ``package.module:attribute`` of *target*.

    ``None`` when another process would not find the very same object there.
    """
    module, name = getattr(target, "__module__", None), getattr(target, "__qualname__", None)
    if not module or not name or module == "__main__" or "<" in name:
        return None
    found: Any = sys.modules.get(module)
    for part in name.split("."):
        found = getattr(found, part, None)
    same = found is target or (isinstance(found, Model) and found.target is target)
    return f"{module}:{name}" if same else None


def _needs_nothing(method: Any) -> bool:
    try:
        inspect.signature(method).bind()
    except (TypeError, ValueError):
        return False
    return True
