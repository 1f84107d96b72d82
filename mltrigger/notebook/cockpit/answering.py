"""Answering: each question of the view goes to its part, and gets one answer, whatever it is.

A front end of JupyterLab 4.4 sends its messages to a thread beside the one that runs cells. Quick
actions are done in that thread at once. All other questions go to small pools, so that no slow one
holds up a pause.
"""

from __future__ import annotations

import dataclasses
import json
import math
import time
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from mltrigger.errors import InvalidEvent, NotFound, silently
from mltrigger.notebook.cockpit.actions.base import Action, Desk, answered
from mltrigger.notebook.cockpit.actions.table import ACTIONS
from mltrigger.notebook.cockpit.code import Script, Step, call
from mltrigger.notebook.cockpit.comparing import compared
from mltrigger.notebook.cockpit.detail import detail
from mltrigger.notebook.cockpit.given import Given, Wrong
from mltrigger.notebook.cockpit.pool import Pool
from mltrigger.notebook.cockpit.recording import Recording
from mltrigger.notebook.cockpit.rows import page
from mltrigger.notebook.cockpit.texts import SENTENCE, sentence
from mltrigger.reports.progress import heard
from mltrigger.text import redacted, short

if TYPE_CHECKING:
    from mltrigger.bus import EventBus

MOST_BYTES = 1024 * 1024
"""The largest question."""
_READERS, _DOERS, _CHOOSERS = 2, 2, 1
"""Choices are made one after the other: the last one wins."""
_TELL_S = 0.25


@dataclasses.dataclass(frozen=True)
class Parts:
    """The parts of an answerer.

    Attributes
    ----------
    bus : EventBus
        The bus.
    desk : callable
        Returns the :class:`Desk` of now.
    choose : callable
        Chooses a subscription, or all.
    changed : callable
        Called after an action was done.
    send : callable
        Sends a message to the view. It may raise if there is none.
    """

    bus: EventBus
    desk: Callable[[], Desk]
    choose: Callable[[str | None], None]
    changed: Callable[[], None]
    send: Callable[[dict[str, Any]], None]


class Answerer:
    """Answers the questions of a view. Any thread may hand them over.

    Parameters
    ----------
    parts : Parts
        See there.
    read_only : bool
        Whether every action is refused. Its code is shown.
    """

    def __init__(self, parts: Parts, read_only: bool) -> None:
        self._parts, self._read_only = parts, read_only
        self.recording, self._sent = Recording(), False
        self._readers, self._doers, self._choosers = map(Pool, (_READERS, _DOERS, _CHOOSERS))
        self._asks: Mapping[str, Callable[[Given], dict[str, Any]]] = {
            "choose": self._choose,
            "rows": self._rows,
            "row": self._row,
            "compare": lambda given: compared(parts.desk(), given),
            "act": self._act,
            "record": self._record,
            "recorded": lambda _: {"code": self.recording.code()},
        }

    def hear(self, message: Any) -> None:
        """Answer one message of the view, now or soon. Anything but an ask is ignored."""
        if not isinstance(message, Mapping) or message.get("type") != "ask":
            return
        number = message.get("id")
        if isinstance(number, bool) or not isinstance(number, (int, str)):
            return
        if isinstance(number, str) and len(number) > 100:
            return
        what, args = message.get("what"), message.get("args")
        pool = self._pool(what, args)
        if pool is None:
            self.answer(number, what, args)
        elif not pool.submit(lambda: self.answer(number, what, args)):
            self._send({"type": "answer", "id": number, "error": "Too many questions wait already"})

    def answer(self, number: int | str, what: Any, args: Any) -> None:
        """Answer one ask. Nothing is ever raised: the view gets the sentence of an error."""
        progress = {"type": "progress", "id": number}
        with heard(paced(lambda done: self._send({**progress, "done": done}))):
            answer = self.said(what, args)
        self._send({"type": "answer", "id": number, **answer})

    def said(self, what: Any, args: Any) -> dict[str, Any]:
        """Return the answer as ``value``, or the sentence of an error as ``error``.

        An error about one argument has its name as ``field``.
        """
        try:
            with silently():
                return {"value": self.value(what, args)}
        except Wrong as error:
            return {"error": short(redacted(str(error)), SENTENCE), "field": error.field}
        except Exception as error:
            return {"error": sentence(error)}
        except BaseException as error:  # an interrupt of a cell is not for this thread
            return {"error": sentence(error, "interrupted")}

    def value(self, what: Any, args: Any) -> dict[str, Any]:
        """Return the answer to one ask.

        Raises
        ------
        MltriggerError
            With the reason, for anything that cannot be answered.
        """
        if not isinstance(what, str) or what not in self._asks:
            raise NotFound.of("question", short(what), self._asks)
        _check_size(args)
        return self._asks[what](Given(args))

    def close(self) -> None:
        """Answer nothing more. Idempotent."""
        for pool in (self._readers, self._doers, self._choosers):
            pool.close()

    # -- the questions -----------------------------------------------------------------------------

    def _choose(self, given: Given) -> dict[str, Any]:
        name = given.text_or_none("subscription")
        if name is not None:
            self._parts.bus.spec(name)
        self._parts.choose(name)
        return {}

    def _rows(self, given: Given) -> dict[str, Any]:
        return page(self._parts.desk(), given)

    def _row(self, given: Given) -> dict[str, Any]:
        spec = self._parts.desk().spec(given)
        lane = given.text_or_none("role"), given.text_or_none("version")
        return detail(self._parts.desk(), spec, given.whole("seq"), given.whole("attempt"), lane)

    def _act(self, given: Given) -> dict[str, Any]:
        action = _action(given.raw("action"))
        go = given.flag("go")
        if self._read_only and go:
            raise InvalidEvent(f"this view is read-only: {action.name} is not done")
        desk = self._parts.desk()
        prepared = action.prepare(desk, given.inner("args"))
        if not go:
            return answered(prepared, False)
        wait = self._wait(desk)
        result = desk.run(prepared.script)
        self.recording.add(prepared.recorded or prepared.script, wait)
        self._sent = action.sends
        self._parts.changed()
        trial = prepared.trial(result) if prepared.trial is not None else None
        return answered(prepared, True, prepared.told(result), trial)

    def _wait(self, desk: Desk) -> Script | None:
        """Return a line that waits, if the events that the last action sent have ended by now."""
        if not (self.recording.is_on and self._sent) or self._parts.bus.log.progress()[1]:
            return None
        return Script((Step(call(desk.root, "wait")),))

    def _record(self, given: Given) -> dict[str, Any]:
        self.recording.turn(given.flag("on"))
        return {}

    # -- where they are answered -------------------------------------------------------------------

    def _pool(self, what: Any, args: Any) -> Pool | None:
        """Return the pool for a question, None to answer it here."""
        if what == "choose":
            return self._choosers
        if what in ("rows", "row"):
            return self._readers
        if what not in ("compare", "act"):
            return None
        action = args.get("action") if isinstance(args, Mapping) else None
        found = ACTIONS.get(action) if isinstance(action, str) else None
        return None if what == "act" and (found is None or found.is_quick) else self._doers

    def _send(self, message: dict[str, Any]) -> None:
        try:
            self._parts.send(message)
        except Exception:  # without a channel there is no front end
            return


def paced(tell: Callable[[int], None]) -> Callable[[int], None]:
    """Return *tell*, which is called a few times a second at most."""
    last_s = -math.inf

    def told(done: int) -> None:
        nonlocal last_s
        if (now_s := time.monotonic()) - last_s >= _TELL_S:
            last_s = now_s
            tell(done)

    return told


def _action(name: Any) -> Action:
    if not isinstance(name, str) or name not in ACTIONS:
        raise NotFound.of("action", short(name), ACTIONS)
    return ACTIONS[name]


def _check_size(args: Any) -> None:
    try:
        size = len(json.dumps(args))
    except (TypeError, ValueError, RecursionError) as error:
        raise InvalidEvent(f"the arguments are no JSON: {error}") from None
    if size > MOST_BYTES:
        raise InvalidEvent(f"a question may have {MOST_BYTES:,} bytes, this one has {size:,}")
