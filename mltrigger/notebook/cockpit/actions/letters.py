"""Actions on single events and on single dead letters."""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING, Any

from mltrigger.broker import MAX_EVENT_BYTES, SubscriptionSpec
from mltrigger.errors import InvalidEvent, InvalidModel, MltriggerError, ModelFailure, NotFound
from mltrigger.event.data import decode_data, encode_data, is_json
from mltrigger.event.event import Event
from mltrigger.notebook.cockpit.actions.base import MT, SUB, Desk, Prepared, one
from mltrigger.notebook.cockpit.code import MOST_DATA_CHARACTERS, Call, call
from mltrigger.notebook.cockpit.detail import attempts_of, meant, payload, source_needed
from mltrigger.notebook.cockpit.given import Given, Wrong
from mltrigger.notebook.cockpit.texts import bounded, failed
from mltrigger.reports.dead_letters import UNCHANGED
from mltrigger.reports.frames import DRY_RUN
from mltrigger.reports.outputs import columns, figures
from mltrigger.text import visible
from mltrigger.versions.schema.schema import Schema, schema_of
from mltrigger.versions.selector import Selector, resolve

if TYPE_CHECKING:
    import pandas as pd

_FILE = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,119}\.case\.json")
REASON = 200
"""The most characters of a reason."""


def redrive(desk: Desk, given: Given) -> Prepared:
    """Prepare to deliver one dead letter again, perhaps with other data."""
    spec = desk.spec(given)
    event_id, source = _dead(desk, spec, given)
    data, checked = _edited(desk, spec, given)
    keywords: dict[str, Any] = {"source": source}
    again = call(SUB, "redrive", event_id, **keywords)
    if data is not UNCHANGED:
        again = Call(SUB, "redrive", (event_id,), (*again.kwargs, ("data", data)))
    what = "with the edited data" if data is not UNCHANGED else "with its own data"
    return Prepared(
        desk.on(spec, one(again)),
        f"Delivers event {event_id} to {spec.name} again, {what}.{checked}",
        1,
        told=repr,
    )


def dry_run(desk: Desk, given: Given) -> Prepared:
    """Prepare to call a version with the event of any attempt. Nothing is recorded."""
    spec = desk.spec(given)
    seq = given.whole("seq")
    event_id, own_source, _, _ = payload(desk.bus, spec, seq)
    source = source_needed(desk.bus, event_id, own_source)
    version = desk.version(spec, given) if "version" in given else None
    data, checked = _edited(desk, spec, given)
    trial = call(SUB, "dry_run", event_id, version=version, source=source)
    if data is not UNCHANGED:
        trial = Call(SUB, "dry_run", (event_id,), (*trial.kwargs, ("data", data)))
    return Prepared(
        desk.on(spec, one(trial)),
        f"Calls {version or 'the present version'} with the event. Nothing is recorded.{checked}",
        1,
        told=_tried,
        trial=lambda frame: _beside(frame, _recorded(desk, spec, given)),
    )


def discard(desk: Desk, given: Given) -> Prepared:
    """Prepare to put one dead letter away."""
    spec = desk.spec(given)
    event_id, source = _dead(desk, spec, given)
    reason = given.text("reason", REASON)
    return Prepared(
        desk.on(spec, one(call(SUB, "discard", event_id, reason, source=source))),
        f"Puts event {event_id} of {spec.name} away for good. It stays dead in the log.",
        1,
        confirm=True,
    )


def export_case(desk: Desk, given: Given) -> Prepared:
    """Prepare to write an event and its answer as a test."""
    spec = desk.spec(given)
    event_id, source, _, _ = payload(desk.bus, spec, given.whole("seq"))
    path = given.text_or_none("path") or f"{_safe(event_id)}.case.json"
    if not _FILE.fullmatch(path):
        raise Wrong(
            "path", f"{path!r:.80} is no bare file name that ends in .case.json: pytest finds those"
        )
    case = call(
        *(MT, "testing.record_case", desk.bus_value, event_id, spec.name),
        source=source_needed(desk.bus, event_id, source),
    )
    return Prepared(
        desk.on(spec, one(call(case, "write", path))),
        f"Writes the event, its effects and its answer to {path}, a test for pytest.",
        1,
        told=lambda where: f"Wrote {where}.",
    )


def _dead(desk: Desk, spec: SubscriptionSpec, given: Given) -> tuple[str, str | None]:
    """Return the id of a dead letter, and its source if the id alone is ambiguous."""
    seq = given.whole("seq")
    event_id, source, _, _ = payload(desk.bus, spec, seq)
    if not desk.bus.log.dead_letters(spec.id, seq):
        raise NotFound(f"event {event_id} is no dead letter of {spec.name} any more")
    return event_id, source_needed(desk.bus, event_id, source)


def _edited(desk: Desk, spec: SubscriptionSpec, given: Given) -> tuple[Any, str]:
    """Return edited data that fit the schema of the version, and a remark about that."""
    if not is_edited(given):
        return UNCHANGED, ""
    data = parsed(desk, spec, given)
    raw, media_type = encode_data(Event(data), MAX_EVENT_BYTES)
    if len(raw) > MOST_DATA_CHARACTERS:
        raise InvalidEvent(
            f"the data have {len(raw):,} bytes, too many for a line of code: redrive in a cell"
        )
    data = decode_data(raw, media_type)
    try:
        schema = _schema(desk, spec)
        if schema is not None:
            schema.accept(data)
    except ModelFailure as error:
        said = f"the data do not fit the model: {error}"
        raise Wrong("data", said, "invalid_input") from None
    except (MltriggerError, TypeError) as error:
        return data, f" The data were not checked: {error}"
    return data, " The data fit the model's schema." if schema is not None else ""


def is_edited(given: Given) -> bool:
    """Whether the view sends data of its own."""
    return given.has("data") or "json" in given


def parsed(desk: Desk, spec: SubscriptionSpec, given: Given) -> Any:
    """Return the data that the view sends: JSON as text or value, or the text of other data."""
    if "json" in given:
        return given.json("json")
    data = given.raw("data")
    if not isinstance(data, str):
        return data
    _, _, _, media_type = payload(desk.bus, spec, given.whole("seq"))
    return data if is_json(media_type) else data.encode()


def _schema(desk: Desk, spec: SubscriptionSpec) -> Schema | None:
    """Return the schema of the version that answers: that of the model here, else the kept one."""
    try:
        return desk.bus.model_of(spec).schemas()[0]
    except NotFound:
        version = resolve(desk.bus.registry, Selector.parse(spec.selector))
        kept = version.input_schema
        return None if kept is None else schema_of(json.loads(kept))
    except InvalidModel:
        return None


def _recorded(desk: Desk, spec: SubscriptionSpec, given: Given) -> dict[str, Any] | None:
    """Return the attempt that the trial is shown beside, None without one."""
    if "recorded" not in given:
        return None
    asked = given.inner("recorded")
    lane = asked.text_or_none("role"), asked.text_or_none("version")
    found = attempts_of(desk.bus, spec, given.whole("seq"))
    return meant(found, asked.whole("attempt"), lane)


def _beside(frame: pd.DataFrame, recorded: dict[str, Any] | None) -> dict[str, Any]:
    """Return both answers as JSON with the same columns, so that they can be compared."""
    (row,) = frame.to_dict("records")
    new = {name: row[name] for name in frame.columns if name not in DRY_RUN}
    is_good = row["outcome"] == "succeeded"
    old = recorded or {"output": None, "error_type": None, "error": None, "reason": None}
    before = columns([old["output"]], DRY_RUN) if old["output"] is not None else {}
    before |= figures([old["measures"]]) if old.get("measures") else {}
    return {
        "version": visible(f"{row['model']}:{row['version']}"),
        "output": bounded(_json(new)) if is_good else "",
        "error": "" if is_good else bounded(str(row["error"])),
        "recorded": bounded(_json({name: next(iter(of)) for name, of in before.items()})),
        "recorded_error": bounded(failed(old["error_type"], old["error"], old["reason"])),
        "is_recorded": recorded is not None,
    }


def _json(output: dict[str, Any]) -> str:
    return json.dumps(output, default=_plain, ensure_ascii=False) if output else ""


def _plain(value: Any) -> Any:
    return value.item() if hasattr(value, "item") else str(value)


def _tried(frame: pd.DataFrame) -> str:
    (row,) = frame.to_dict("records")
    who = f"{row['model']}:{row['version']}"
    if row["outcome"] != "succeeded":
        return f"{who} failed: {row['error']}\nNothing was recorded."
    output = {name: row[name] for name in frame.columns if name not in DRY_RUN}
    return f"{who} answered in {row['model_ms']:,.2f} ms. Nothing was recorded.\n{_said(output)}"


def _said(output: dict[str, Any]) -> str:
    return "\n".join(f"{name}: {value}" for name, value in output.items())


def _safe(event_id: str) -> str:
    return re.sub(r"[^A-Za-z0-9_-]", "-", event_id)[:80].lstrip("-.") or "event"
