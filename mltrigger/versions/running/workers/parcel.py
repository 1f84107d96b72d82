"""The form in which models, events and results travel to another process and back.

Everything but a pickled model is JSON.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import pkgutil
from collections.abc import Callable, Mapping
from datetime import datetime
from typing import Any, BinaryIO

from mltrigger.errors import InvalidModel
from mltrigger.event import codec
from mltrigger.event.data import is_json, json_of
from mltrigger.event.event import Event
from mltrigger.event.making import can_open, restored, with_data, with_opener
from mltrigger.versions.address import Address
from mltrigger.versions.code.captured import digest_of
from mltrigger.versions.code.weights import Weights
from mltrigger.versions.describe import Model, load
from mltrigger.versions.describe import import_path as path_of
from mltrigger.versions.running.invoke import Result
from mltrigger.versions.running.surroundings import arithmetic, context_of
from mltrigger.versions.schema.schema import Schema, schema_of
from mltrigger.versions.scheme import Setting, scheme_of

_PLAIN = ("name", "version", "batch", "method", "columns")
_SCHEMAS = ("input_schema", "output_schema")


# -- a model ---------------------------------------------------------------------------------------


def contents(model: Model) -> tuple[Any, Any, Any]:
    """Return the parts of a model that are pickled if a worker cannot import it."""
    return model.target, _type(model.input_schema), _type(model.output_schema)


def path_there(model: Model, import_path: str | None) -> str | None:
    """Return *import_path* if all of *model* can be found from there, ``None`` to pickle it.

    A schema that is a class of a notebook or of a function cannot be found. Its JSON Schema alone
    would give the model plain data instead of objects.
    """
    if import_path is None or any(_way(model, name, import_path) is None for name in _SCHEMAS):
        return None
    return import_path


def ticket(
    model: Model, import_path: str | None, setting: Setting, *, checks_code: bool = False
) -> dict[str, Any]:
    """Return all that a worker has to know of *model* beside its contents, as JSON objects.

    Parameters
    ----------
    model : Model
        The model.
    import_path : str, optional
        The result of :func:`path_there`.
    setting : Setting
        The setting of its endpoint there, if it has an address.
    checks_code : bool
        Whether the worker compares its code with the code of this process. It always compares the
        files behind an address.
    """
    schemas = {name: _way(model, name, import_path) if import_path else None for name in _SCHEMAS}
    # pickle finds even a pickled function by its name there
    comes_by_name = bool(import_path or path_of(model.target))
    checked = isinstance(model.target, Address) or (checks_code and comes_by_name)
    return {
        **{name: getattr(model, name) for name in (*_PLAIN, "wants_event")},
        **schemas,
        "files": model.weights.sums if model.weights else {},
        "arithmetic": arithmetic(model.context),
        "import_path": import_path,
        "digest": _content_digest(model) if checked else None,
        "setting": dataclasses.asdict(setting),
    }


def unpacked(ticket: dict[str, Any], contents: Callable[[], tuple[Any, Any, Any]]) -> Model:
    """Return the model of a :func:`ticket`: imported, or made of its *contents*.

    Raises
    ------
    InvalidModel
        If this process has other code or other files than the ``digest`` says.
    """
    weights = Weights(ticket["files"])
    weights.check(ticket["name"])  # before anything is imported or unpickled that may read them
    target, takes, gives = _imported(ticket) if ticket["import_path"] else contents()
    model = _Sent(
        target,
        **{name: ticket[name] for name in _PLAIN},
        files=tuple(weights.sums),
        weights=weights,
        context=context_of(ticket["arithmetic"]),
        input_schema=takes,
        output_schema=gives,
        takes_event=ticket["wants_event"],
    )
    if ticket["digest"] not in (None, _content_digest(model)):
        if isinstance(target, Address):
            raise InvalidModel(
                f"{target.text[:200]} holds other content where it is called than where it was"
                " registered; bring the same files there, or register them under a new version"
            )
        raise InvalidModel(
            f"{ticket['import_path'] or path_of(target)} holds other code on this worker than where"
            " it was registered; bring it the same version"
        )
    return model


def takes_batches(model: Model, setting: Setting) -> bool:
    """Whether one call of *model* may have several events. This connects to nothing."""
    if not isinstance(model.target, Address):
        return model.batches
    try:
        endpoint = scheme_of(model.target).open(model.target, setting)
    except Exception:
        # Its libraries may be installed only in the worker, which tells when it loads the model.
        return False
    with contextlib.closing(endpoint):
        return endpoint.batches


def _content_digest(model: Model) -> str:
    """Return the digest of *model* in this process: of its code and state, or of its files."""
    if isinstance(model.target, Address):
        return model.target.digest(scheme_of(model.target).describe(model.target).content)
    return digest_of(model.target)


def _imported(ticket: dict[str, Any]) -> tuple[Any, Any, Any]:
    found = load(ticket["import_path"], ticket["name"])
    takes, gives = (_arrived(ticket[name], getattr(found, name)) for name in _SCHEMAS)
    return found.target, takes, gives


def _way(model: Model, name: str, import_path: str) -> dict[str, Any] | None:
    """Return the way of a schema to a worker that imports the model, ``None`` to pickle it."""
    given = getattr(model, name)
    if given is None:
        return {}
    schema, wanted = schema_of(given), _type(given)
    if schema.hint is None or not schema.hint.own:  # the model gets plain data, here and there
        return {"document": json.loads(json.dumps(schema.json))}
    if path := path_of(wanted):
        return {"class": path}
    with contextlib.suppress(Exception):  # a failed import is reported where the model is called
        found = load(import_path, model.name)
        own = dataclasses.replace(found, batch=model.batch, method=model.method).schemas()
        own_schema = own[_SCHEMAS.index(name)]
        if own_schema is not None and _type(own_schema) == wanted:
            return {}
    return None


def _arrived(way: Mapping[str, Any], own: Any) -> Any:
    """Return the schema that came in this *way*. *own* is that of the imported model."""
    return pkgutil.resolve_name(way["class"]) if "class" in way else way.get("document", own)


def _type(schema: Any) -> Any:
    """Return the class or type of *schema*. It can be pickled, the checks of a Schema cannot."""
    return schema.hint.type if isinstance(schema, Schema) and schema.hint else schema


@dataclasses.dataclass(frozen=True, slots=True, repr=False)
class _Sent(Model):
    """A model that was sent. Annotations of a pickled function may name absent things."""

    takes_event: bool = False

    @property
    def wants_event(self) -> bool:
        return self.takes_event


# -- events and results ----------------------------------------------------------------------------


def sent(event: Event) -> dict[str, Any]:
    """Return *event* as a JSON object: its CloudEvents attributes and ``extensions``.

    ``data`` is a text of JSON. ``opens`` says whether it has an object.

    Raises
    ------
    NotEncodable
        If the data have no JSON form. An event that came through a broker has one.
    """
    return {
        "data": codec.dumps(event.data) if (raw := json_of(event)) is None else raw.decode(),
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
    """Return the event that was :func:`sent`. *opener* opens its object, if it has one."""
    given = dict(given)
    opens, raw = given.pop("opens", False), given.pop("data").encode()
    time = datetime.fromisoformat(given.pop("time"))
    event = restored(raw, time=time, **given)
    if not is_json(event.datacontenttype):
        event = with_data(event, codec.loads_own(raw))
    return with_opener(event, opener) if opens else event


def fields(result: Result) -> dict[str, Any]:
    """Return the fields of *result* that are set. ``Result(**fields)`` is the same result."""
    return {
        name: value
        for name, value in zip(Result._fields, result, strict=True)
        if value is not None and value is not False
    }
