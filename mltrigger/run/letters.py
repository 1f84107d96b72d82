"""Letters: the verbs of a subscription for its dead letters."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol

from mltrigger.broker import SubscriptionSpec
from mltrigger.errors import InvalidEvent, brief_errors
from mltrigger.policy import keywords_of
from mltrigger.reports.choosing import chosen_of, ending
from mltrigger.reports.dead_letters import (
    UNCHANGED,
    choose,
    choose_any,
    discard_parts,
    matching_parts,
    redrive,
    redrive_parts,
)
from mltrigger.text import Told, count, short

if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Unpack

    import pandas as pd

    from mltrigger.broker import Broker
    from mltrigger.reports.choosing import Ended, EndedWhere
    from mltrigger.reports.dead_letters import Trial
    from mltrigger.store.log import DeadKey, Log


class Bus(Protocol):
    """The part of a bus that dead letters need."""

    log: Log
    broker: Broker

    def spec(self, name: str) -> SubscriptionSpec:
        """Return the subscription *name* as it is now."""

    def try_out(
        self,
        spec: SubscriptionSpec,
        keys: Sequence[DeadKey],
        version: Any = None,
        data: Any = UNCHANGED,
    ) -> list[Trial]:
        """Call the model with dead letters, without a record."""


@brief_errors
class Letters:
    """Dead letters of one subscription. :class:`~mltrigger.Subscription` adds the other verbs."""

    _bus: Bus
    _spec: SubscriptionSpec

    @keywords_of(ending)
    def dead_letters(self, **chosen: Unpack[Ended]) -> pd.DataFrame:
        """Return the dead events that wait for a decision, one row each.

        A row has the reason, the last error and traceback, the number of attempts and the last
        version. ``data`` is text, ``raw`` the same as bytes. ``redriven`` counts redrives before.

        Parameters
        ----------
        version, reason, key, text
            As for ``invocations``.
        since, until
            Only events that died since then, or before then.
        """
        from mltrigger.reports import letters

        wanted = chosen_of(self._bus.log, self._spec, None, chosen)
        return letters.dead_letters(self._bus.log, self._spec.id, wanted)

    def dry_run(
        self,
        events: Any = None,
        *,
        version: Any = None,
        data: Any = UNCHANGED,
        source: str | None = None,
    ) -> pd.DataFrame:
        """Call the model with events now. Record, settle and emit nothing.

        Parameters
        ----------
        events, source
            As for :meth:`redrive`. Any event of the topic will do, also one that succeeded.
            Default: all dead letters.
        version
            The version to try: ``"1.1.0"``, a selector, or a model that was never registered.
            Default: the one that the selector means now.
        data
            Other data for the call.

        Returns
        -------
        pandas.DataFrame
            One row an event: ``outcome`` (``succeeded`` or ``failed``), ``model_ms``, ``stdout``,
            ``error``, then the output.
        """
        trials = self._bus.try_out(
            self._spec, choose_any(self._bus.log, self._spec, events, source), version, data
        )
        from mltrigger.reports import views

        return views.dry_run(trials)

    def redrive(
        self,
        events: Any = None,
        *,
        data: Any = UNCHANGED,
        rate_per_s: float | None = None,
        source: str | None = None,
        where: EndedWhere | None = None,
    ) -> int:
        """Deliver dead letters again, under their own ids. Failures start from zero.

        Parameters
        ----------
        events
            An event as :meth:`cancel` of the bus takes it, several, or a frame of dead letters.
            Default: all.
        data
            Corrected data for one event. Only this subscription gets it. The archive keeps the
            published data.
        rate_per_s : float, optional
            The number a second that becomes visible, so that a backlog does not delay new events.
        source : str, optional
            The source of an id that two sources have.
        where : mapping, optional
            Instead of *events*: all that match these filters of :meth:`dead_letters`, by name, such
            as ``{"reason": "timeout"}``. They are sent in parts, and never all in memory.
            ``up_to`` leaves those out that came after a record, by its number.

        Returns
        -------
        int
            The number of events. A notebook shows it as a sentence.
        """
        self._bus.spec(self._spec.name)  # an unsubscribed one has no listener: raise now
        n = self._redriven(events, data, rate_per_s, source, where)
        return Told(
            n,
            (
                f"{count(n, 'dead letter')} sent again; bus.wait() waits until they have ended"
                if n
                else "no dead letter to send again"
            ),
        )

    def _redriven(
        self,
        events: Any,
        data: Any,
        rate_per_s: float | None,
        source: str | None,
        where: EndedWhere | None,
    ) -> int:
        bus, spec = self._bus, self._spec
        if data is UNCHANGED and events is None and source is None:
            where = where or {}
        if where is None:
            chosen = choose(bus.log, spec, events, source)
            return redrive(bus.broker, spec, chosen, data, rate_per_s)
        if data is not UNCHANGED:
            raise InvalidEvent("data= corrects one event: name it, and leave where= out")
        parts = matching_parts(bus.log, spec, events, source, where)
        return redrive_parts(bus.broker, spec, parts, rate_per_s)

    def discard(
        self,
        events: Any,
        reason: str,
        *,
        source: str | None = None,
        where: EndedWhere | None = None,
    ) -> int:
        """Put dead letters away for good, with a *reason*. Return their number.

        They stay ``dead`` in the log and are listed no more. *events*, *source* and *where* are as
        for :meth:`redrive`: ``sub.discard(None, "a test", where={"version": "1.0.0"})``.
        """
        bus, spec = self._bus, self._spec
        if events is None and source is None:
            where = where or {}
        if where is None:
            chosen = choose(bus.log, spec, events, source)
            n = len(bus.broker.discard(spec, [d.seq for d in chosen], reason))
        else:
            parts = matching_parts(bus.log, spec, events, source, where)
            n = discard_parts(bus.broker, spec, parts, reason)
        return Told(
            n,
            (
                f"{count(n, 'dead letter')} put away: {short(reason)}"
                if n
                else "no dead letter to put away"
            ),
        )
