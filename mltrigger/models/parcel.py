"""What travels to another process: a model, the events it is called with, and the results; everything but the model is JSON."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from typing import Any, BinaryIO

from mltrigger import codec
from mltrigger.events import Event, restored, with_opener
from mltrigger.models.describe import Model, load
from mltrigger.models.invoke import Result
from mltrigger.models.schema import schema_of

_DESCRIBED = ("name", "version", "batch", "method", "wants_event")


def contents(model: Model) -> tuple[Any, Any, Any]:
    """Return what is pickled of a model that cannot be imported there."""
    return model.target, model.input_schema, model.output_schema


def description(model: Model, import_path: str | None) -> dict[str, Any]:
    """Return what is said about *model* beside its contents, in JSON."""
    given = {"input_schema": model.input_schema, "output_schema": model.output_schema}
    documents = {name: None if schema is None else json.loads(json.dumps(schema_of(schema).json)) for name, schema in given.items()}
    return {**{name: getattr(model, name) for name in _DESCRIBED}, **documents, "import_path": import_path}


def unpacked(described: dict[str, Any], contents: Callable[[], tuple[Any, Any, Any]]) -> Model:
    """Return the model of a :func:`description`, imported where it says so, else from its *contents*."""
    if described["import_path"]:
        found = load(described["import_path"])
        parts = (
            found.target,
            found.input_schema or described["input_schema"],
            found.output_schema or described["output_schema"],
        )
    else:
        parts = contents()
    target, takes, gives = parts
    known = {name: described[name] for name in ("name", "version", "batch", "method")}
    return _Sent(target, **known, input_schema=takes, output_schema=gives, takes_event=described["wants_event"])


@dataclasses.dataclass(frozen=True, slots=True, repr=False)
class _Sent(Model):
    """A model as the sender knows it: the annotations of a pickled function may name what did not travel with it."""

    takes_event: bool = False

    @property
    def wants_event(self) -> bool:
        return self.takes_event


def sent(event: Event) -> dict[str, Any]:
    """Return *event* as it is sent: CloudEvents attributes, ``extensions``, ``data`` as a text of JSON, ``opens``: whether it can be."""
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
        "opens": event._opener is not None,
    }


def received(given: dict[str, Any], opener: Callable[[], BinaryIO]) -> Event:
    """Return the event that was :func:`sent`; *opener* opens its object, if it has one."""
    given = dict(given)
    opens, data = given.pop("opens", False), codec.loads_own(given.pop("data").encode())
    event = restored(data, **given)
    return with_opener(event, opener) if opens else event


def fields(result: Result) -> dict[str, Any]:
    """Return the fields of *result* that are set, in JSON; ``Result(**fields)`` is the same result."""
    return {name: value for name, value in zip(Result._fields, result, strict=True) if value is not None and value is not False}
