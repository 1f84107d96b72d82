"""What travels to another process: a model, the events it is called with, and the results;
everything but the model is JSON.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import pkgutil
from collections.abc import Callable, Mapping
from typing import Any, BinaryIO

from mltrigger.errors import InvalidModel
from mltrigger.event import codec
from mltrigger.event.event import Event, can_open, restored, with_opener
from mltrigger.versions.address import Address
from mltrigger.versions.code.captured import digest_of
from mltrigger.versions.code.weights import Weights
from mltrigger.versions.describe import Model, load
from mltrigger.versions.describe import import_path as path_of
from mltrigger.versions.running.invoke import Result
from mltrigger.versions.running.surroundings import arithmetic, context_of
from mltrigger.versions.schema.schema import Schema, schema_of
from mltrigger.versions.scheme import Setting, scheme_of

_DESCRIBED = ("name", "version", "batch", "method", "columns", "wants_event")
_SCHEMAS = ("input_schema", "output_schema")


def contents(model: Model) -> tuple[Any, Any, Any]:
    """Return what is pickled of a model that cannot be imported there."""
    return model.target, _type(model.input_schema), _type(model.output_schema)


def path_there(model: Model, import_path: str | None) -> str | None:
    """Return *import_path* when all of *model* can be found from there, ``None`` when it has to be
    pickled.

    Not all of it can when a schema is a class of a notebook or a function: its JSON Schema alone
    would hand over plain data.
    """
    if import_path is None or any(_way(model, name, import_path) is None for name in _SCHEMAS):
        return None
    return import_path


def description(model: Model, import_path: str | None) -> dict[str, Any]:
    """Return what is said about *model* beside its contents, in JSON; *import_path* is what
    :func:`path_there` returns.
    """
    schemas = {name: _way(model, name, import_path) if import_path else None for name in _SCHEMAS}
    digest = content_digest(model) if isinstance(model.target, Address) else None
    around = {
        "files": model.weights.sums if model.weights else {},
        "arithmetic": arithmetic(model.context),
    }
    return {
        **{name: getattr(model, name) for name in _DESCRIBED},
        **schemas,
        **around,
        "import_path": import_path,
        "digest": digest,
    }


def unpacked(described: dict[str, Any], contents: Callable[[], tuple[Any, Any, Any]]) -> Model:
    """Return the model of a :func:`description`, imported where it says so, else from its
    *contents*.

    Raises
    ------
    InvalidModel
        When other code or other files are here than the ``digest`` tells.
    """
    weights = Weights(described["files"])
    weights.check(described["name"])  # before anything is imported or unpickled that may read them
    if described["import_path"]:
        found = load(described["import_path"], described["name"])
        parts = (
            found.target,
            *(_arrived(described[name], getattr(found, name)) for name in _SCHEMAS),
        )
    else:
        parts = contents()
    target, takes, gives = parts
    known = {name: described[name] for name in ("name", "version", "batch", "method", "columns")}
    known |= {
        "files": tuple(weights.sums),
        "weights": weights,
        "context": context_of(described["arithmetic"]),
    }
    model = _Sent(
        target,
        **known,
        input_schema=takes,
        output_schema=gives,
        takes_event=described["wants_event"],
    )
    if described["digest"] not in (None, content_digest(model)):
        if isinstance(target, Address):
            raise InvalidModel(
                f"{target.text[:200]} holds other content where it is called than where it was"
                " registered; bring the same files there, or register them under a new version"
            )
        path = described["import_path"] or path_of(target)
        raise InvalidModel(
            f"{path} holds other code on this worker than where it was registered; bring it the"
            " same version"
        )
    return model


def content_digest(model: Model) -> str:
    """Return the digest of what *model* is in this process: its code and state, or the files at its
    address.
    """
    if isinstance(model.target, Address):
        return model.target.digest(scheme_of(model.target).describe(model.target).content)
    return digest_of(model.target)


def takes_batches(model: Model, setting: Setting) -> bool:
    """Whether one call of *model* may have several events. Nothing is connected to find out."""
    if not isinstance(model.target, Address):
        return model.batches
    try:
        endpoint = scheme_of(model.target).open(model.target, setting)
    except Exception:
        # what it needs may be installed only there; whether it is, that process says when it loads
        # the model
        return False
    with contextlib.closing(endpoint):
        return endpoint.batches


def _way(model: Model, name: str, import_path: str) -> dict[str, Any] | None:
    """Return how a schema of a model with an *import_path* gets there, ``None`` when it has to be
    pickled.
    """
    given = getattr(model, name)
    if given is None:
        return {}
    schema, wanted = schema_of(given), _type(given)
    # plain data are handed over, here as well as there
    if schema.hint is None or not schema.hint.own:
        return {"document": json.loads(json.dumps(schema.json))}
    if path := path_of(wanted):
        return {"class": path}
    with contextlib.suppress(Exception):  # what cannot be imported here says so where it is called
        own = dataclasses.replace(
            load(import_path, model.name), batch=model.batch, method=model.method
        ).schemas()[_SCHEMAS.index(name)]
        if own is not None and _type(own) == wanted:
            return {}
    return None


def _arrived(way: Mapping[str, Any], own: Any) -> Any:
    """Return the schema that was sent in this *way*; the imported model's *own* when that is the
    one.
    """
    return pkgutil.resolve_name(way["class"]) if "class" in way else way.get("document", own)


def _type(schema: Any) -> Any:
    """Return the class or type that *schema* was made of, which can be pickled; its checks cannot."""
    return schema.hint.type if isinstance(schema, Schema) and schema.hint else schema


@dataclasses.dataclass(frozen=True, slots=True, repr=False)
class _Sent(Model):
    """A model as the sender knows it: the annotations of a pickled function may name what did not
    travel with it.
    """

    takes_event: bool = False

    @property
    def wants_event(self) -> bool:
        return self.takes_event


def sent(event: Event) -> dict[str, Any]:
    """Return *event* as it is sent: CloudEvents attributes, ``extensions``, ``data`` as a text of
    JSON, ``opens``: whether it can be.
    """
    return {
        "data": codec.dumps(event.data),
        "type": event.type,
        "source": event.source,
        "id": event.id,
        "time": event.time.isoformat(),
        "subject": event.subject,
        "datacontenttype": event.datacontenttype,
        "dataschema": event.dataschema,
        "extensions": dict(event.extensions),
        "opens": can_open(event),
    }


def received(given: dict[str, Any], opener: Callable[[], BinaryIO]) -> Event:
    """Return the event that was :func:`sent`; *opener* opens its object, if it has one."""
    given = dict(given)
    opens, raw = given.pop("opens", False), given.pop("data").encode()
    event = restored(codec.loads_own(raw), **given, raw=raw)
    return with_opener(event, opener) if opens else event


def fields(result: Result) -> dict[str, Any]:
    """Return the fields of *result* that are set, in JSON; ``Result(**fields)`` is the same result."""
    return {
        name: value
        for name, value in zip(Result._fields, result, strict=True)
        if value is not None and value is not False
    }
