"""Effects of a model in a process of its own: the parent records them, the child makes them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from mltrigger.errors import (
    EffectMissing,
    EffectUnknown,
    MltriggerError,
    OutsideCall,
    StoreError,
)
from mltrigger.event.event import Event
from mltrigger.versions.running.current import current
from mltrigger.versions.running.effects import Begun, Ending

Asking = Callable[[dict[str, Any]], dict[str, Any]]
"""Sends a message to the parent, and returns its reply."""


class AskedEffects:
    """The effects of one call in a child. The parent records them.

    Parameters
    ----------
    ask : callable
        Sends a message to the parent.
    events : sequence of Event
        The events of the call.
    """

    def __init__(self, ask: Asking, events: Sequence[Event]) -> None:
        self._ask, self._events = ask, events

    def begin(self, event: Event, name: str, key: str | None, again: bool) -> Begun:
        """Let the parent record the intent."""
        return Begun(*self._asked(event, {"begin": [name, key, again]}))

    def end(self, event: Event, name: str, begun: Begun, ending: Ending) -> None:
        """Let the parent record the end."""
        self._asked(event, {"end": [name, begun, ending]})

    def _asked(self, event: Event, message: dict[str, Any]) -> Any:
        place = next(n for n, each in enumerate(self._events) if each is event)
        reply = self._ask({"effect": {"event": place, **message}})
        if "refused" in reply:
            raise _error(**reply["refused"])
        return reply["done"]


def recorded(message: Mapping[str, Any], events: Sequence[Event]) -> dict[str, Any]:
    """Do as the *message* of a child says. Return the reply. Runs in the parent."""
    try:
        return {"done": _recorded(message, events)}
    except Exception as error:
        known = next((kind for kind in _KINDS if isinstance(error, kind)), StoreError)
        permanent = getattr(error, "permanent", None)
        return {"refused": {"kind": known.__name__, "message": str(error), "permanent": permanent}}


def _recorded(message: Mapping[str, Any], events: Sequence[Event]) -> Begun | None:
    under_way, event = current(), events[message["event"]]
    if under_way is None or under_way.effects is None:
        raise OutsideCall("mt.once(…) outside of a listener, which records effects")
    if "begin" in message:
        return under_way.effects.begin(event, *message["begin"])
    name, begun, ending = message["end"]
    under_way.effects.end(event, name, Begun(*begun), Ending(*ending))
    return None


_KINDS: tuple[type[MltriggerError], ...] = (EffectMissing, EffectUnknown, OutsideCall)


def _error(kind: str, message: str, permanent: bool | None) -> MltriggerError:
    """Return the error that the parent met."""
    if kind == EffectMissing.__name__:
        return EffectMissing(message, bool(permanent))
    return {each.__name__: each for each in _KINDS}.get(kind, StoreError)(message)
