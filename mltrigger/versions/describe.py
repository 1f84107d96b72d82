"""Model: what a user hands over, described, before anything exists."""

from __future__ import annotations

import contextvars
import dataclasses
import functools
import hashlib
import importlib
import inspect
import json
import os
import re
import sys
import threading
from collections.abc import Callable, Mapping, Sequence
from typing import Any, overload

from mltrigger.errors import InvalidModel, NotFound
from mltrigger.event.event import Event
from mltrigger.names import check_model_name
from mltrigger.versions import columns
from mltrigger.versions.address import Address
from mltrigger.versions.code.captured import fingerprint_of
from mltrigger.versions.code.weights import Weights, checked, sums_of
from mltrigger.versions.schema import schema as schemas
from mltrigger.versions.schema.signature import check_signature, is_async, of_class, wants_event
from mltrigger.versions.scheme import Description, Setting, is_address, scheme_of
from mltrigger.versions.version import BUILD, ModelVersion, check_version

_IMPORT_PATH = re.compile(r"[^\W\d]\w*(\.[^\W\d]\w*)*:[^\W\d]\w*(\.[^\W\d]\w*)*")
_LAMBDA = "<lambda>"
_METHODS = ("predict", "predict_proba", "transform")
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
"""An argument that was not given, where ``None`` is a mistake: a function that forgot its return."""


class Once:
    """Makes the object of a class once in a process, and warms it up; whoever comes meanwhile
    waits.
    """

    def __init__(self) -> None:
        self._guard = threading.Lock()
        self._made: list[Any] = []

    def get(self, target: Any, check: Callable[[], None]) -> Any:
        """Return *target*, or its one instance when it is a class, after *check* and its
        ``warm_up()``.
        """
        with self._guard:
            if not self._made:
                check()
                made = target() if isinstance(target, type) else target
                if (
                    callable(warm_up := getattr(made, "warm_up", None))
                    and not inspect.isroutine(made)
                    and _needs_nothing(warm_up)
                ):
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
        whose objects are one of these (made once in each process that calls it, when it begins to
        listen), or an :class:`~mltrigger.versions.address.Address`. An object's ``warm_up()``, if
        it has one, is called once before its first event.
    name : str
        The model's name; versions are counted under it.
    version : str, optional
        A semantic version. Without one the model is a build, ``0.0.0+<hash of its source>``.
    batch : bool
        Whether a callable takes a list and returns a list of the same length, an exception in the
        place of what failed.
    method : str
        The method of a predictor to call with a batch.
    input_schema, output_schema
        What an event's data and an output must look like: a pydantic model, a dataclass, a
        TypedDict or a JSON Schema. What does not is dead at once, and the dead letter names the
        field. Default: what the type hints say.
    columns : sequence of str, optional
        The fields of a record that a predictor takes, in their order, where it was fitted without
        names; of a model that takes texts, the field that has the text. Default: what the model
        itself knows, else the fields of *input_schema*.
    files : list of str, optional
        Files and folders whose content belongs to the version, such as weights that the target
        reads. Another content is another version, and is not called as this one. Relative names are
        looked for from the working directory of the process that calls the model.
    path : str, optional
        ``package.module:attribute``, where other processes find the target; by default it is looked
        for.
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
    """The files as the version has them, once it is registered."""
    context: contextvars.Context | None = dataclasses.field(default=None, compare=False)
    """The context of the cell that handed the model over, once it is registered."""
    _once: Once = dataclasses.field(default_factory=Once, compare=False)

    def __post_init__(self) -> None:
        check_model_name(self.name)
        if not isinstance(self.batch, bool):
            raise InvalidModel(f"model {self.name!r}: batch={self.batch!r}: write True or False")
        if self.version is not None:
            check_version(self.version)
        if self.columns is not None:
            object.__setattr__(
                self, "columns", columns.checked(self.columns, self.target, self.name)
            )
            if self.kind != "predictor":
                raise InvalidModel(
                    f"model {self.name!r}: columns= is for objects with predict(); a function gets"
                    " the data as it is"
                )
        object.__setattr__(self, "files", checked(self.files, self.name))
        if isinstance(self.target, Address):
            return
        if isinstance(self.target, type):
            _check_class(self.target, self.name)
        if is_async(getattr(self.target, "warm_up", None)):
            raise InvalidModel(
                f"model {self.name!r}: its warm_up is async; a coroutine prepares what it needs in"
                " its first call"
            )
        if not callable(function := self.function):
            raise InvalidModel(
                f"model {self.name!r}: its {self.method} is not a method; hand over an object with"
                " predict()"
            )
        if self._predicts and is_async(function):
            raise InvalidModel(
                f"model {self.name!r}: its {self.method} is async; give the class an async"
                " __call__() instead"
            )
        check_signature(
            function, f"{self.name}.{self.method}" if self.kind == "predictor" else self.name
        )

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Call the model directly, without a bus; a model at an address takes the data, or a whole
        event.
        """
        if isinstance(self.target, Address):
            return self._asked(*args, **kwargs)
        target = self.loaded()
        return (getattr(target, self.method) if self.kind == "predictor" else target)(
            *args, **kwargs
        )

    def __repr__(self) -> str:
        batch = ", batch=True" if self.batch else ""
        return f"Model('{self.name}:{self.version or 'build'}'{batch})"

    @property
    def kind(self) -> str:
        """How the target is called: ``callable``, ``batch``, ``predictor``, ``async``, or the
        scheme of its address.
        """
        if isinstance(self.target, Address):
            return self.target.scheme
        if self._predicts:
            return "predictor"
        if is_async(self.function):
            return "async"
        return "batch" if self.batch else "callable"

    @property
    def batches(self) -> bool:
        """Whether a call takes a list; what an address takes, only its endpoint can tell."""
        return self.kind in ("batch", "predictor") or (self.batch and self.kind == "async")

    @property
    def function(self) -> Any:
        """What is called, to be looked at; of a class, a method of an object that need not exist
        yet.
        """
        if isinstance(self.target, type):
            return of_class(self.target, self.method if self._predicts else "__call__")
        return getattr(self.target, self.method) if self._predicts else self.target

    @property
    def _predicts(self) -> bool:
        if isinstance(self.target, type):
            return hasattr(self.target, self.method)
        return not callable(self.target) or (
            hasattr(self.target, self.method) and not inspect.isroutine(self.target)
        )

    @property
    def is_function(self) -> bool:
        """Whether the target is a function, which may read its files at every call."""
        return inspect.isroutine(self.target) or isinstance(self.target, functools.partial)

    @property
    def wants_event(self) -> bool:
        """Whether the callable's argument is annotated as Event (or a list of them)."""
        return (
            not isinstance(self.target, Address)
            and self.kind != "predictor"
            and wants_event(self.function)
        )

    @property
    def import_path(self) -> str | None:
        """``package.module:attribute`` when another process would find the same target there, else
        ``None``.
        """
        return self.path or import_path(self.target)

    def ordered(self) -> tuple[str, ...] | None:
        """Return the columns in the order that was said: given, else that of the input schema's
        fields.
        """
        if self.columns is not None or self.kind != "predictor" or self.input_schema is None:
            return self.columns
        schema = self.schemas()[0]
        return None if schema is None else columns.of_schema(schema.json)

    def loaded(self) -> Any:
        """Return the object to call: of a class the one instance of this process, made and warmed
        up by the first who asks.
        """
        return self._once.get(self.target, self._check_weights)

    def of_version(
        self, version: ModelVersion, context: contextvars.Context | None = None
    ) -> Model:
        """Return the model as *version* is called: with the files that were registered, in
        *context*.
        """
        return dataclasses.replace(
            self, weights=Weights(version.files) if version.files else None, context=context
        )

    def schemas(self) -> tuple[schemas.Schema | None, schemas.Schema | None]:
        """Return the schemas of input and output: given, else read off the type hints."""
        hinted: tuple[schemas.Schema | None, schemas.Schema | None] = (None, None)
        if not isinstance(self.target, Address) and self.kind != "predictor":
            hinted = schemas.inferred(self.function, self.batch)
        given = (self.input_schema, self.output_schema)
        return tuple(
            schemas.schema_of(own) if own is not None else hint
            for own, hint in zip(given, hinted, strict=True)
        )  # type: ignore[return-value]

    def describe(self) -> ModelVersion:
        """Return the version that the registry keeps; reads the source, or the file, to find its
        digest.
        """
        takes, gives = (
            None if schema is None else json.dumps(schema.json, sort_keys=True)
            for schema in self.schemas()
        )
        if isinstance(self.target, Address):
            return dataclasses.replace(
                _described(self, self.target), input_schema=takes, output_schema=gives
            )
        found = fingerprint_of(self.target)
        called_by: dict[str, Any] = {
            name: value
            for name, value in (("batch", self.batch), ("method", self.method))
            if value not in (False, "predict")
        }
        if self.input_schema is not None or self.output_schema is not None:
            called_by["schemas"] = hashlib.sha256(f"{takes}{gives}".encode()).hexdigest()[:12]
        if (ordered := self.ordered()) is not None and (
            self.columns is not None or columns.wants_order(self.target)
        ):
            called_by["columns"] = list(ordered)
        files = {f"file {name}": digest for name, digest in sums_of(self.files, self.name).items()}
        digest = found.digest
        if files:
            called_by["files"] = list(self.files)
            digest = hashlib.sha256(
                json.dumps([digest, files], sort_keys=True).encode()
            ).hexdigest()[:12]
        build = _build(digest, json.dumps(called_by, sort_keys=True))
        options = json.dumps(
            {**called_by, "parts": {"code": found.code, **found.around, **files}}, sort_keys=True
        )
        first_line = (
            (inspect.getdoc(self.target) or "").partition("\n")[0]
            if self.kind != "predictor"
            else ""
        )
        return ModelVersion(
            name=self.name,
            version=self.version or f"{BUILD}+{build}",
            kind=self.kind,
            digest=digest,
            import_path=self.import_path,
            description=first_line[:200] or None,
            options=options,
            input_schema=takes,
            output_schema=gives,
        )

    def _check_weights(self) -> None:
        if self.weights is not None:
            self.weights.check(self.name)

    def _asked(self, data: Any) -> Any:
        event = data if isinstance(data, Event) else Event(data)
        scheme = scheme_of(self.target)
        endpoint = scheme.open(scheme.pin(self.target), Setting())
        try:
            (output,) = endpoint.call([event])
        finally:
            endpoint.close()
        if isinstance(output, BaseException):
            raise output
        return output


def _build(digest: str, options: str) -> str:
    """Return the build of code with *digest* that is called as *options* say."""
    return (
        digest if options == "{}" else hashlib.sha256((digest + options).encode()).hexdigest()[:12]
    )


def _described(model: Model, address: Address) -> ModelVersion:
    found = scheme_of(address).describe(address)
    digest = address.digest(found.content)
    return ModelVersion(
        name=model.name,
        version=model.version or f"{BUILD}+{digest}",
        kind=model.kind,
        digest=digest,
        description=found.about,
        address=address.text,
        options=address.given,
    )


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
    """Describe a model: as a decorator, ``@mt.model("ocr", version="1.0.0")``, or as a call,
    ``mt.model(pipeline, name="doc-type")``.

    Nothing is registered and no file or connection is opened; ``mt.subscribe`` and ``mt.register``
    do that.

    Parameters
    ----------
    target
        The name (as a decorator), or the callable, predictor or class itself; or where it is:
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
    """Return *target* as a Model; *described* are the fields that the user gave, and win; for an
    address, its options too.
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
    if "method" not in given and (not callable(target) or isinstance(target, type)):
        given["method"] = next(
            (method for method in _METHODS if hasattr(target, method)), "predict"
        )
    if (
        not hasattr(target, "predict")
        and "method" not in given
        and columns.is_a(target, "torch", "Module")
    ):
        given["method"] = "__call__"
    if not callable(target) and not hasattr(target, given.get("method", "predict")):
        raise InvalidModel(
            f"{type(target).__name__} cannot serve as a model: hand over a callable or an object"
            " with predict(), or where one is: 'package.module:attribute', or an address such as"
            " 'oip+http://host/v2/models/ocr'"
        )
    if "name" not in given:
        given["name"] = default_name(target)
    return Model(target=target, **given)


def names_model(text: str) -> bool:
    """Whether *text* is an address or an import path, rather than a selector of something
    registered.
    """
    return is_address(text) or (
        _IMPORT_PATH.fullmatch(text) is not None and text.rpartition(":")[2] != "latest"
    )


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


def _imported(path: str, name: str | None) -> Any:
    if not _IMPORT_PATH.fullmatch(path):
        raise NotFound(
            f"no model {path[:200]!r}: write 'package.module:attribute', or an address such as"
            " 'http://host/score', 'oip+http://host/v2/models/ocr', 'command:./score',"
            " 'onnx:model.onnx', 'models:/churn@champion'"
        )
    try:
        return load(path, name)
    except (ImportError, AttributeError) as error:
        raise NotFound(f"no model {path!r}: {error}") from error
    except (Exception, SystemExit) as error:  # whatever a module does while it is imported
        raise InvalidModel(
            f"no model {path!r}: importing it failed with {type(error).__name__}: {error}"
        ) from error


def default_name(target: Any) -> str:
    """Return the name of a model that was given none: the function's name, or the class of the
    object.
    """
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


def import_path(target: Any) -> str | None:
    """Return ``package.module:attribute`` when another process would find the very same object
    there, else ``None``.
    """
    module, name = getattr(target, "__module__", None), getattr(target, "__qualname__", None)
    if not module or not name or module == "__main__" or "<" in name:
        return None
    found: Any = sys.modules.get(module)
    for part in name.split("."):
        found = getattr(found, part, None)
    same = found is target or (isinstance(found, Model) and found.target is target)
    return f"{module}:{name}" if same else None


def load(path: str, name: str | None = None) -> Model:
    """Return the model at *path*, ``package.module:attribute``, under the *name* that it was given,
    if it was.

    It is imported by its registered name, never by an event's.
    """
    module, _, attribute = path.partition(":")
    found: Any = importlib.import_module(module)
    for part in (parts := attribute.split(".")):
        found = getattr(found, part)
    return dataclasses.replace(
        as_model(found, name=name or (parts[-1] if is_nameless(found) else None)), path=path
    )


def _check_class(kind: type, name: str) -> None:
    if not any("__call__" in vars(base) for base in kind.__mro__) and not any(
        hasattr(kind, method) for method in _METHODS
    ):
        raise InvalidModel(
            f"model {name!r}: objects of {kind.__name__} cannot be called; give the class a"
            " predict() or a __call__()"
        )
    try:
        inspect.signature(kind).bind()
    except TypeError as error:
        raise InvalidModel(
            f"model {name!r}: {kind.__name__} cannot be made without arguments ({error}); hand over"
            " an instance of it"
        ) from error
    except ValueError:
        return


def _needs_nothing(method: Any) -> bool:
    try:
        inspect.signature(method).bind()
    except (TypeError, ValueError):
        return False
    return True
