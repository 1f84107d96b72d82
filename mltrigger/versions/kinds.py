"""The kinds of models: how each kind of target is checked, described and called.

:func:`kind_of` asks them in the order of ``KINDS``. The first that fits a target is its kind.
"""

from __future__ import annotations

import abc
import dataclasses
import hashlib
import inspect
import json
from typing import TYPE_CHECKING, Any

from mltrigger.errors import InvalidModel
from mltrigger.event.event import Event
from mltrigger.versions import columns
from mltrigger.versions.address import Address
from mltrigger.versions.code.captured import fingerprint_of
from mltrigger.versions.code.weights import sums_of
from mltrigger.versions.schema.schema import Schema, inferred
from mltrigger.versions.schema.signature import check_signature, is_async, of_class, wants_event
from mltrigger.versions.scheme import Setting, scheme_of
from mltrigger.versions.version import BUILD, ModelVersion

if TYPE_CHECKING:
    from mltrigger.versions.model import Model

METHODS = ("predict", "predict_proba", "transform")
"""Methods that a predictor may have, in the order in which they are looked for."""


@dataclasses.dataclass(frozen=True, slots=True)
class Kind(abc.ABC):
    """One kind of target.

    Parameters
    ----------
    target
        A Python object or class, or an address.
    method : str
        The method of a predictor to call.
    batch : bool
        Whether the user said that a callable takes a list.
    """

    target: Any
    method: str
    batch: bool

    @classmethod
    @abc.abstractmethod
    def fits(cls, target: Any, method: str, batch: bool) -> bool:
        """Whether this is the kind of *target*."""

    @property
    @abc.abstractmethod
    def name(self) -> str:
        """The name that the registry keeps."""

    @property
    def batches(self) -> bool:
        """Whether a call takes a list."""
        return False

    @property
    def takes_columns(self) -> bool:
        """Whether ``columns=`` has a meaning."""
        return False

    @property
    def wants_event(self) -> bool:
        """Whether the argument is annotated as Event, or as a list of them."""
        return False

    @property
    def function(self) -> Any:
        """The callable to inspect. For a class, no object of it is made."""
        return None

    def check(self, name: str) -> None:  # noqa: B027 - optional
        """Check that the target of model *name* can be called, or raise InvalidModel."""

    def hinted(self) -> tuple[Schema | None, Schema | None]:
        """Return the schemas of input and output that the type hints say."""
        return None, None

    @abc.abstractmethod
    def call(self, model: Model, *args: Any, **kwargs: Any) -> Any:
        """Call *model* directly, without a bus."""

    @abc.abstractmethod
    def describe(self, model: Model, takes: str | None, gives: str | None) -> ModelVersion:
        """Return the version that the registry keeps of *model*.

        *takes* and *gives* are its schemas as JSON texts.
        """


class _AtAddress(Kind):
    """A model that runs elsewhere, or is no Python.

    Only its endpoint knows if a call takes a list.
    """

    __slots__ = ()
    target: Address

    @classmethod
    def fits(cls, target: Any, method: str, batch: bool) -> bool:
        return isinstance(target, Address)

    @property
    def name(self) -> str:
        """The scheme of the address."""
        return self.target.scheme

    def call(self, model: Model, data: Any) -> Any:
        """Call the endpoint with data, or with a whole event."""
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

    def describe(self, model: Model, takes: str | None, gives: str | None) -> ModelVersion:
        found = scheme_of(self.target).describe(self.target)
        digest = self.target.digest(found.content)
        return ModelVersion(
            name=model.name,
            version=model.version or f"{BUILD}+{digest}",
            kind=self.name,
            digest=digest,
            description=found.about,
            address=self.target.text,
            options=self.target.given,
            input_schema=takes,
            output_schema=gives,
        )


class _InPython(Kind):
    """A model of this process: a callable, a class of callables, or a predictor."""

    __slots__ = ()

    @property
    def function(self) -> Any:
        return _call_of(self.target)

    @property
    def wants_event(self) -> bool:
        return wants_event(self.function)

    def hinted(self) -> tuple[Schema | None, Schema | None]:
        return inferred(self.function, self.batch)

    def check(self, name: str) -> None:
        if isinstance(self.target, type):
            _check_class(self.target, name)
        if is_async(getattr(self.target, "warm_up", None)):
            raise InvalidModel(
                f"model {name!r}: its warm_up is async; a coroutine prepares what it needs in"
                " its first call"
            )
        check_signature(self.function, self._title(name))

    def _title(self, name: str) -> str:
        """Return the name of model *name* in an error about its signature."""
        return name

    def call(self, model: Model, *args: Any, **kwargs: Any) -> Any:
        return model.loaded()(*args, **kwargs)

    def describe(self, model: Model, takes: str | None, gives: str | None) -> ModelVersion:
        """Read the source and the files, and return the version with their digests."""
        found = fingerprint_of(self.target)
        files = {
            f"file {name}": digest for name, digest in sums_of(model.files, model.name).items()
        }
        digest = found.digest if not files else _digest([found.digest, files])
        called_by = self._called_by(model, takes, gives)
        options = json.dumps(called_by, sort_keys=True)
        build = digest if not called_by else _sha(digest + options)
        parts = {"code": found.code, **found.around, **files}
        return ModelVersion(
            name=model.name,
            version=model.version or f"{BUILD}+{build}",
            kind=self.name,
            digest=digest,
            import_path=model.import_path,
            description=self._summary()[:200] or None,
            options=json.dumps({**called_by, "parts": parts}, sort_keys=True),
            input_schema=takes,
            output_schema=gives,
        )

    def _called_by(self, model: Model, takes: str | None, gives: str | None) -> dict[str, Any]:
        """Return how the model is called, as far as it is not the default."""
        found: dict[str, Any] = {}
        if model.batch:
            found["batch"] = True
        if model.method != "predict":
            found["method"] = model.method
        if model.input_schema is not None or model.output_schema is not None:
            found["schemas"] = _sha(f"{takes}{gives}")
        ordered = model.ordered()
        if ordered is not None and (model.columns is not None or columns.wants_order(self.target)):
            found["columns"] = list(ordered)
        if model.files:
            found["files"] = list(model.files)
        return found

    def _summary(self) -> str:
        return (inspect.getdoc(self.target) or "").partition("\n")[0]


class _Predictor(_InPython):
    """An object with ``predict`` or the like, or a class of them. A call takes a list."""

    __slots__ = ()
    name = "predictor"
    batches = True
    takes_columns = True
    wants_event = False

    @classmethod
    def fits(cls, target: Any, method: str, batch: bool) -> bool:
        if isinstance(target, type):
            return hasattr(target, method)
        return not callable(target) or (hasattr(target, method) and not inspect.isroutine(target))

    @property
    def function(self) -> Any:
        return _method_of(self.target, self.method)

    def hinted(self) -> tuple[Schema | None, Schema | None]:
        return None, None

    def check(self, name: str) -> None:
        if not callable(self.function):
            raise InvalidModel(
                f"model {name!r}: its {self.method} is not a method; hand over an object with"
                " predict()"
            )
        if is_async(self.function):
            raise InvalidModel(
                f"model {name!r}: its {self.method} is async; give the class an async"
                " __call__() instead"
            )
        super().check(name)

    def _title(self, name: str) -> str:
        return f"{name}.{self.method}"

    def call(self, model: Model, *args: Any, **kwargs: Any) -> Any:
        return getattr(model.loaded(), self.method)(*args, **kwargs)

    def _summary(self) -> str:
        return ""


class _Coroutine(_InPython):
    """An ``async def`` function, or an object whose call is one."""

    __slots__ = ()
    name = "async"

    @classmethod
    def fits(cls, target: Any, method: str, batch: bool) -> bool:
        return is_async(_call_of(target))

    @property
    def batches(self) -> bool:
        return self.batch


class _BatchCallable(_InPython):
    """A callable that takes a list and returns one of the same length."""

    __slots__ = ()
    name = "batch"
    batches = True

    @classmethod
    def fits(cls, target: Any, method: str, batch: bool) -> bool:
        return batch


class _SingleCallable(_InPython):
    """A callable that takes the data of one event."""

    __slots__ = ()
    name = "callable"

    @classmethod
    def fits(cls, target: Any, method: str, batch: bool) -> bool:
        return True


KINDS: tuple[type[Kind], ...] = (
    _AtAddress,
    _Predictor,
    _Coroutine,
    _BatchCallable,
    _SingleCallable,
)


def kind_of(target: Any, method: str, batch: bool) -> Kind:
    """Return the kind of *target*: the first that fits."""
    kind = next(kind for kind in KINDS if kind.fits(target, method, batch))
    return kind(target, method, batch)


def _call_of(target: Any) -> Any:
    return of_class(target, "__call__") if isinstance(target, type) else target


def _method_of(target: Any, method: str) -> Any:
    return of_class(target, method) if isinstance(target, type) else getattr(target, method)


def _sha(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:12]


def _digest(parts: Any) -> str:
    return _sha(json.dumps(parts, sort_keys=True))


def _check_class(kind: type, name: str) -> None:
    """Check that objects of class *kind* can be made, and called."""
    if not any("__call__" in vars(base) for base in kind.__mro__) and not any(
        hasattr(kind, method) for method in METHODS
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
    except ValueError:  # a class in C has no signature
        return
