"""Effects of the calls of a lot, recorded in the store of the log."""

from __future__ import annotations

from collections.abc import Mapping

from mltrigger.broker import Delivery
from mltrigger.delivery.lot import Lot
from mltrigger.errors import EffectMissing, OutsideCall
from mltrigger.event.event import Event
from mltrigger.store.effects import Effects, End, Intended, Intent
from mltrigger.versions.running.effects import Begun, Ending, unknown_effect


class LotEffects:
    """Records the effects of one lot. See :class:`mltrigger.versions.running.effects.Effects`.

    Parameters
    ----------
    effects : Effects
        The record.
    lot : Lot
        The lot. Once it is closed, as after a timeout, no further effect begins.
    """

    __slots__ = ("_effects", "_lot")

    def __init__(self, effects: Effects, lot: Lot) -> None:
        self._effects, self._lot = effects, lot

    def begin(self, event: Event, name: str, key: str | None, again: bool) -> Begun:
        """Record the intent, unless the effect has an answer."""
        d = self._delivery(event, name)
        of = (d.subscription_id, d.seq, d.attempt, event.id, event.source)
        return _begun(self._effects, Intent(*of, name, key, again))

    def end(self, event: Event, name: str, begun: Begun, ending: Ending) -> None:
        """Record how a call ended, also after its lot was closed."""
        home, seq = begun.place
        self._effects.end(
            End(
                home,
                seq,
                name,
                begun.key,
                begun.number,
                not ending.failed,
                ending.answer,
                ending.note,
            )
        )

    def _delivery(self, event: Event, name: str) -> Delivery:
        for delivery in self._lot.calling():
            own = delivery.event
            if own.id == event.id and own.source == event.source:
                return delivery
        raise OutsideCall(f"effect {name!r} of event {event.id!r:.80} begins after its call ended")


class RecordedEffects:
    """Answers from the record of a subscription alone, for a call that is not recorded itself.

    Parameters
    ----------
    effects : Effects
        The record.
    subscription_id : int
        The subscription.
    seqs : mapping
        The numbers of the events that may come, by id and source.
    """

    def __init__(
        self, effects: Effects, subscription_id: int, seqs: Mapping[tuple[str, str], int]
    ) -> None:
        self._effects, self._id, self._seqs = effects, subscription_id, seqs

    def begin(self, event: Event, name: str, key: str | None, again: bool) -> Begun:
        """Return the recorded answer."""
        of = (self._id, self._seqs[event.id, event.source], 0, event.id, event.source)
        return _begun(self._effects, Intent(*of, name, key, again, recorded=True))

    def end(self, event: Event, name: str, begun: Begun, ending: Ending) -> None:
        """Do nothing: no call begins."""


def _begun(effects: Effects, intent: Intent) -> Begun:
    found = effects.intend(intent)
    if found.is_missing:
        raise _missing(intent.name, found)
    if found.number == 0 and found.state == "unknown":
        raise unknown_effect(intent.name, found.key)
    return Begun(found.key, found.number, found.answer, found.error, (found.home, intent.seq))


def _missing(name: str, found: Intended) -> EffectMissing:
    state = {
        "unknown": "its end was not recorded",
        "failed": f"it failed there: {found.error}",
    }.get(found.state or "", "there is none")
    later = "" if found.is_ended else "; the live version may still bring it"
    return EffectMissing(
        f"effect {name!r} with key {found.key!r} is not in the recording: {state}{later}; a lane"
        " with effects='live' calls it",
        found.is_ended,
    )
