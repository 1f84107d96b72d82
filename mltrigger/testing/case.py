"""Cases: one event with its object, its recorded effects and its answer, in one JSON file.

::

    {
      "mltrigger_case": 1,                  the version of this format
      "subscription": "ocr",
      "topic": "documents",
      "model": "ocr:1.0.0",                 the version that answered
      "path": "models:read_page",           its import path, or null
      "event": {"specversion": "1.0", …},   a CloudEvent
      "object": {"data_base64": "…"},       or {"left_out": "why"}, or null: it announces none
      "effects": [{"name": "charge", "key": null, "state": "answered", "answer": …, "note": null}],
      "outcome": "succeeded",               or "dead": then the answer is null
      "answer": …,
      "agree": null                         when two answers agree, see :meth:`Case.agrees`
    }

The key of an effect is null if the model gave none. Texts of errors have no secrets. The data of
the event and the answers of effects are those of the record: look at them before you share a file.
"""

from __future__ import annotations

import base64
import dataclasses
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from mltrigger.errors import InvalidEvent, MltriggerError, NotFound, warn
from mltrigger.event import codec
from mltrigger.event.event import Event
from mltrigger.event.making import can_open
from mltrigger.text import redacted, short

if TYPE_CHECKING:
    import os

    from mltrigger.broker import SubscriptionSpec
    from mltrigger.bus import EventBus

FORMAT = 1
"""The version of the format."""
MAX_OBJECT_BYTES = 8 * 1024 * 1024
"""The largest object that a case has."""
_ROLES = ("live", "canary", "correction", "direct")
_COLUMNS = (
    *("subscription", "role", "model", "version", "outcome", "reason"),
    *("output", "error_type", "error"),
)
_STATES = ("answered", "unknown", "failed")


class Effect(NamedTuple):
    """One recorded effect. The answer is a JSON text. Without a key its model gave none."""

    name: str
    key: str | None
    state: str
    answer: str | None
    note: str | None


@dataclasses.dataclass(frozen=True, slots=True)
class Case:
    """One event, and everything that its answer came from.

    Attributes
    ----------
    subscription, topic, model : str
        Where it was answered, and by which version.
    path : str or None
        The import path of the model.
    event : Event
        The event.
    object : bytes or None
        The content of its object.
    left_out : str or None
        Why the object is not here.
    effects : tuple of Effect
        The recorded effects.
    answer : str or None
        The answer, as JSON text. None of an event that failed.
    agree
        When two answers agree.
    """

    subscription: str
    topic: str
    model: str
    path: str | None
    event: Event
    object: bytes | None
    left_out: str | None
    effects: tuple[Effect, ...]
    answer: str | None
    agree: Any = None

    def agrees(self, answer: str) -> bool:
        """Whether *answer*, a JSON text, agrees with the recorded one.

        ``agree`` of the case decides. ``null`` is equality, a number is a tolerance. Others are
        ``{"within": {"abs": 0.1, "rel": 0}}``, ``{"similar": 0.95}`` and ``{"same_set": 1}``, as in
        ``mt.agree``. With ``{"field": "label", "agree": …}`` one part decides. A failed event only
        asks for an answer.
        """
        if self.answer is None:
            return True
        from mltrigger.rollout.agreement import score

        return score(_rule(self.agree), codec.loads(self.answer), codec.loads(answer)) == 1.0

    def to_json(self) -> str:
        """Return the text of the file."""
        there = {
            "mltrigger_case": FORMAT,
            "subscription": self.subscription,
            "topic": self.topic,
            "model": self.model,
            "path": self.path,
            "event": _event_members(self.event),
            "object": self._object(),
            "effects": [
                {**effect._asdict(), "answer": _value(effect.answer)} for effect in self.effects
            ],
            "outcome": "dead" if self.answer is None else "succeeded",
            "answer": _value(self.answer),
            "agree": self.agree,
        }
        return json.dumps(there, indent=2, ensure_ascii=False) + "\n"

    def write(self, path: str | os.PathLike[str]) -> Path:
        """Write the file that pytest runs, and return its path. An existing file is refused.

        Raises
        ------
        MltriggerError
            When its name does not end in ``.case.json``, or it cannot be written.
        """
        where = Path(path)
        if not where.name.endswith(".case.json"):
            raise MltriggerError(f"{str(where)!r}: pytest finds files that end in .case.json")
        try:
            with where.open("x", encoding="utf-8") as file:
                file.write(self.to_json())
        except OSError as error:
            raise MltriggerError(
                f"{str(where)!r} cannot be written: {error.strerror}; name a new file"
            ) from error
        return where

    def _object(self) -> Any:
        if self.left_out is not None:
            return {"left_out": self.left_out}
        if self.object is None:
            return None
        return {"data_base64": base64.b64encode(self.object).decode()}

    @classmethod
    def from_json(cls, text: str | bytes) -> Case:
        """Return the case of a file.

        Raises
        ------
        InvalidEvent
            If the text is no case, or one of a newer format.
        """
        try:
            found = json.loads(text)
        except (ValueError, RecursionError) as error:
            raise _invalid(f"it is not JSON: {error}") from None
        if not isinstance(found, dict) or "mltrigger_case" not in found:
            raise _invalid("it has no member mltrigger_case")
        if found["mltrigger_case"] != FORMAT:
            raise _invalid(
                f"its format is {short(found['mltrigger_case'])}, this release reads {FORMAT}"
            )
        try:
            return cls._read(found)
        except KeyError as error:
            raise _invalid(f"there is no member {error}") from None
        except (TypeError, ValueError, AttributeError) as error:
            raise _invalid(str(error)) from error

    @classmethod
    def _read(cls, found: dict[str, Any]) -> Case:
        known = {
            *("mltrigger_case", "subscription", "topic", "model", "path", "event", "object"),
            *("effects", "outcome", "answer", "agree"),
        }
        for name in found.keys() - known:
            raise ValueError(str(NotFound.of("member", name, known)))
        if found["outcome"] not in ("succeeded", "dead"):
            raise ValueError('the outcome must be "succeeded" or "dead"')
        for name in ("subscription", "topic", "model"):
            if not isinstance(found[name], str):
                raise TypeError(f"{name} must be a text")
        if not isinstance(found["path"], (str, type(None))):
            raise TypeError("path must be an import path or null")
        kept = found["object"] or {}
        content = (
            base64.b64decode(kept["data_base64"], validate=True) if "data_base64" in kept else None
        )
        agree = found.get("agree")
        _rule(agree)
        return cls(
            *(found["subscription"], found["topic"], found["model"], found["path"]),
            Event.from_json(json.dumps(found["event"])),
            content,
            kept.get("left_out"),
            tuple(map(_effect, found["effects"])),
            json.dumps(found["answer"]) if found["outcome"] == "succeeded" else None,
            agree,
        )


def record(
    bus: EventBus, event: Any, subscription: str | None = None, source: str | None = None
) -> Case:
    """Return the case of an event that was answered. See ``mltrigger.testing.record_case``."""
    from mltrigger.reports.naming import find

    if subscription is not None:
        bus.spec(subscription)
    found = find(bus.log, event, source)
    ended = {
        row["subscription"]: (each, row)
        for each in found
        for row in _ended(bus, each.seq)
        if subscription in (None, row["subscription"])
    }
    event_id = short(found[0].id)
    if not ended:
        by = f" of {subscription!r}" if subscription is not None else ""
        raise NotFound(f"event {event_id!r} has no answer{by} yet: a case needs one")
    if len(ended) > 1:
        names = ", ".join(map(repr, sorted(ended)))
        raise NotFound(f"event {event_id!r} has answers of {names}: name the subscription")
    ((name, (chosen, row)),) = ended.items()
    return _case(bus, bus.spec(name), chosen.seq, chosen.topic, row)


def _ended(bus: EventBus, seq: int) -> list[dict[str, Any]]:
    """Return the final attempts for an event that answer somebody, oldest first."""
    rows = bus.log.invocations(
        _COLUMNS, seqs=(seq, seq), running=False, outcomes=("succeeded", "dead")
    )
    named = [dict(zip(_COLUMNS, row, strict=True)) for row in rows]
    return [
        row
        for row in named
        if row["role"] in _ROLES
        and row["model"] is not None
        # a correction that fails leaves the answer before it
        and (row["role"], row["outcome"]) != ("correction", "dead")
    ]


def _case(bus: EventBus, spec: SubscriptionSpec, seq: int, topic: str, row: dict[str, Any]) -> Case:
    answer = row["output"] if row["outcome"] == "succeeded" else None
    if row["reason"] == "result_too_large":
        raise NotFound("its answer was too large to be kept whole: a case needs all of it")
    versions = bus.registry.versions(row["model"])
    path = next((v.import_path for v in versions if v.version == row["version"]), None)
    event = bus.archived(spec, seq)
    content, left_out = _content(event)
    return Case(
        *(spec.name, topic, f"{row['model']}:{row['version']}", path, event),
        *(content, left_out, _effects(bus, spec, seq, event), answer),
    )


def _content(event: Event) -> tuple[bytes | None, str | None]:
    """Return the content of the object of *event*, or why it is left out."""
    if not can_open(event):
        return None, None
    from mltrigger.versions.running.capture import captured

    try:
        with captured() as printed, event.open() as file:
            content = file.read(MAX_OBJECT_BYTES + 1)
    except InvalidEvent as error:
        return None, None if error.reason == "nothing_to_open" else redacted(str(error))
    except (MltriggerError, OSError) as error:
        return None, redacted(short(str(error), 300))
    if said := printed.take():
        warn(said.strip())
    if len(content) > MAX_OBJECT_BYTES:
        return None, f"it has more than {MAX_OBJECT_BYTES:,} bytes"
    return content, None


def _effects(bus: EventBus, spec: SubscriptionSpec, seq: int, event: Event) -> tuple[Effect, ...]:
    from mltrigger.store.effects import Intent, derived_key

    found = []
    for _, _, name, key, state, _, _, _, _, answer, note in bus.log.effects.rows(spec.id, seq):
        intent = Intent(spec.id, seq, 0, event.id, event.source, name, None)
        own = None if key == derived_key(spec.name, intent) else key
        found.append(Effect(name, own, state, answer, None if note is None else redacted(note)))
    return tuple(found)


def _event_members(event: Event) -> dict[str, Any]:
    members = {
        "specversion": "1.0",
        "id": event.id,
        "source": event.source,
        "type": event.type,
        "subject": event.subject,
        "time": event.time.isoformat(),
        "datacontenttype": event.datacontenttype,
        "dataschema": event.dataschema,
        **event.extensions,
    }
    if isinstance(event.data, bytes):
        members["data_base64"] = base64.b64encode(event.data).decode()
    else:
        members["data"] = json.loads(codec.encode(event.data))
    return {name: value for name, value in members.items() if value is not None or name == "data"}


def _effect(given: Any) -> Effect:
    effect = Effect(**{**given, "answer": None})
    if effect.state not in _STATES:
        raise ValueError(f"the state of effect {effect.name!r:.60} is none of {', '.join(_STATES)}")
    # an answer that could not be kept has a note instead
    without = effect.state != "answered" or (effect.note is not None and given["answer"] is None)
    return effect._replace(answer=None if without else json.dumps(given["answer"]))


def _rule(agree: Any) -> Any:
    """Return the rule that a case names."""
    from mltrigger.rollout import agree as rules

    if agree is None or (isinstance(agree, (int, float)) and not isinstance(agree, bool)):
        return rules.rule(agree)
    if isinstance(agree, dict) and "field" in agree and agree.keys() <= {"field", "agree"}:
        return rules.field(agree["field"], _rule(agree.get("agree")))
    if isinstance(agree, dict) and len(agree) == 1:
        ((name, given),) = agree.items()
        if name == "within" and isinstance(given, dict):
            return rules.within(**given)
        if name == "similar":
            return rules.similar(given)
        if name == "same_set":
            return rules.same_set(given)
    raise ValueError(
        f"agree is null, a number, or one of within, similar, same_set and field: got {agree!r:.60}"
    )


def _value(text: str | None) -> Any:
    return None if text is None else json.loads(text)


def _invalid(why: str) -> InvalidEvent:
    return InvalidEvent(f"this is no case of mltrigger: {short(why, 300)}", "not_a_case")
