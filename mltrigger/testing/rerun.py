"""Runs a case with the model of the working tree."""

from __future__ import annotations

import difflib
import io
import json
from typing import Any

from mltrigger.errors import EffectMissing, InvalidEvent, InvalidModel, ObjectMissing
from mltrigger.event.event import Event
from mltrigger.event.making import with_opener
from mltrigger.store.effects import Intent, derived_key
from mltrigger.testing.case import Case
from mltrigger.testing.offline import offline
from mltrigger.versions.describe import Model, as_model
from mltrigger.versions.running.capture import captured
from mltrigger.versions.running.current import Place, Running, during
from mltrigger.versions.running.effects import Begun, Ending, unknown_effect
from mltrigger.versions.running.here import called
from mltrigger.versions.scheme import Setting, is_address


class CaseFailed(AssertionError):
    """The model of the working tree does not answer a case as it was answered. Says how."""


class CaseEffects:
    """Answers effects from a case alone. See ``mltrigger.versions.running.effects.Effects``.

    Attributes
    ----------
    missing : list of str
        The effects that the case does not have.
    """

    def __init__(self, case: Case) -> None:
        self._case = case
        self._known = {(effect.name, effect.key): effect for effect in case.effects}
        self.missing: list[str] = []

    def begin(self, event: Event, name: str, key: str | None, again: bool) -> Begun:
        """Return the recorded answer."""
        intent = Intent(0, 0, 0, event.id, event.source, name, None)
        sent = key or derived_key(self._case.subscription, intent)
        found = self._known.get((name, key))
        if found is not None and found.state == "answered":
            return Begun(sent, 0, found.answer, found.note)
        if found is None:
            why = "there is none"
        else:
            why = (
                f"it failed there: {found.note}"
                if found.state == "failed"
                else "its end is unknown"
            )
        said = f"effect {name!r} with key {sent!r} is not in the case: {why}"
        self.missing.append(said)
        if found is not None and found.state == "unknown":
            raise unknown_effect(name, sent)
        raise EffectMissing(said)

    def end(self, event: Event, name: str, begun: Begun, ending: Ending) -> None:
        """Do nothing: no call begins."""


def rerun(case: Case, path: str | None = None) -> str:
    """Call the model with the event of *case*, without network, and return its answer as JSON.

    Parameters
    ----------
    case : Case
        The case.
    path : str, optional
        The import path of the model. Default: that of the case.

    Raises
    ------
    CaseFailed
        If it fails, asks for an effect that is not there, or answers otherwise.
    InvalidModel
        If there is no model to call.
    """
    if (path or case.path) is None:
        raise InvalidModel(
            f"the case has no import path, {case.model} lived in a notebook: name the model,"
            " --case-model module:attribute"
        )
    effects = CaseEffects(case)
    place = Place(case.subscription, case.topic, "")
    with offline(), captured() as printed:
        caller = called(_loaded(str(path or case.path)), Setting())
        event = with_opener(case.event, lambda: _opened(case))
        try:
            with during(Running(place, (event,), effects=effects)):
                result = caller.one(event)
        finally:
            caller.close()
    said = [f"{case.model} is compared with {path or case.path}"]
    said += [f"printed:\n{text}"] if (text := printed.take()) else []
    if effects.missing:
        raise CaseFailed("\n".join([*effects.missing, *said]))
    if result.output is None or result.reason is not None:
        failure = f"the model failed: {result.error_type}: {result.error}"
        raise CaseFailed("\n".join(filter(None, [failure, result.traceback, *said])))
    if not case.agrees(result.output):
        raise CaseFailed(
            "\n".join(["the answer is another one:", _diff(case, result.output), *said])
        )
    return result.output


def _loaded(path: str) -> Model:
    if is_address(path):
        raise InvalidModel(f"a case runs a model of the working tree, not one at {path!r:.100}")
    return as_model(path)


def _opened(case: Case) -> io.BytesIO:
    if case.object is not None:
        return io.BytesIO(case.object)
    if case.left_out is not None:
        raise ObjectMissing(f"the case has no object: {case.left_out}")
    raise InvalidEvent("the event of this case announces no object", "nothing_to_open")


def _diff(case: Case, answer: str) -> str:
    old, new = (_lines(text) for text in (case.answer or "null", answer))
    return "\n".join(difflib.unified_diff(old, new, "recorded", "now", lineterm=""))


def _lines(text: str) -> list[str]:
    value: Any = json.loads(text)
    return json.dumps(value, indent=2, ensure_ascii=False, sort_keys=True).splitlines()
