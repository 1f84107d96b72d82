"""Subscription: what a notebook holds of one subscription. It reads; the bus does."""

from __future__ import annotations

from datetime import datetime
from typing import TYPE_CHECKING, Any

from mltrigger.broker import Depth, SubscriptionSpec
from mltrigger.delivery.listener import DRAIN_S
from mltrigger.errors import brief_errors
from mltrigger.filters import FilterPolicy
from mltrigger.policy import DeliveryPolicy
from mltrigger.reports.dead_letters import UNCHANGED, choose, redrive
from mltrigger.store.outcomes import FINAL
from mltrigger.text import Told, card, count, short

if TYPE_CHECKING:
    from collections.abc import Sequence

    import pandas as pd

    from mltrigger.bus import EventBus
    from mltrigger.notebook.dashboard import Dashboard
    from mltrigger.run import Run


@brief_errors
class Subscription:
    """A topic, a model selector and a delivery policy, under a name; and everything that happened
    to it, as frames.
    """

    def __init__(self, bus: EventBus, spec: SubscriptionSpec, note: str = "") -> None:
        self._bus = bus
        self._spec = spec
        self._note = note

    # -- what it is --------------------------------------------------------------------------------

    @property
    def name(self) -> str:
        """The name, unique on its bus."""
        return self._spec.name

    @property
    def topic(self) -> str:
        """The topic whose events are delivered."""
        return self._spec.topic

    @property
    def selector(self) -> str:
        """Which version of which model is called."""
        return self._spec.selector

    @property
    def policy(self) -> DeliveryPolicy:
        """How events are delivered."""
        return self._spec.policy

    @property
    def filter(self) -> FilterPolicy | None:
        """Which events are delivered; ``None`` for all."""
        return self._spec.filter

    @property
    def state(self) -> str:
        """``listening``, ``stopped``, ``paused``, or what delivery in this process waits for."""
        return self._bus.listener_state(self.name)

    def __repr__(self) -> str:
        shown = [f"{n} {what}" for what, n in self._counts()] or ["no events yet"]
        arrow = f"{self.topic!r} -> {self.selector}{f' ({self._note})' if self._note else ''}"
        emit = f" -> {self._spec.emit!r}" if self._spec.emit else ""
        return f"Subscription({arrow}{emit}, {self.state}, {', '.join(shown)})"

    def _repr_html_(self) -> str:
        facts = [
            ("topic", self.topic),
            ("model", f"{self.selector}{f' ({self._note})' if self._note else ''}"),
            ("emits to", self._spec.emit or "–"),
            *([("filter", self._spec.filter.to_json())] if self._spec.filter else []),
            ("state", self.state),
            *self._counts(),
        ]
        return card(f"Subscription {self.name}", facts)

    def _counts(self) -> list[tuple[str, int]]:
        """Return what there is, and how much: events by outcome, then attempts that ended none."""
        tally = {outcome: n for outcome, n in self._bus.tally(self._spec).items() if n}
        events = [(outcome, n) for outcome, n in tally.items() if outcome in FINAL]
        return events + [
            (f"{outcome} attempt{'' if n == 1 else 's'}", n)
            for outcome, n in tally.items()
            if outcome not in FINAL
        ]

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Call the model directly, without an event: what ``@mt.subscribe`` decorated is still a
        function.
        """
        return self._bus.model_of(self._spec)(*args, **kwargs)

    # -- what happened -----------------------------------------------------------------------------

    def invocations(
        self,
        limit: int | None = None,
        *,
        since: datetime | None = None,
        columns: Sequence[str] | None = None,
    ) -> pd.DataFrame:
        """Return every attempt as one row, oldest first.

        Parameters
        ----------
        limit : int, optional
            Only the newest so many.
        since : datetime, optional
            Only attempts received at or after this instant; timezone-aware.
        columns : sequence of str, optional
            Only these columns; the others are not read.
        """
        return self._bus.invocations(self.name, limit=limit, since=since, columns=columns)

    def results(self, limit: int | None = None) -> pd.DataFrame:
        """Return one row per event that has ended, oldest first; with *limit* only the newest so
        many.

        Columns: ``subject``, ``model``, ``version``, ``outcome``, ``reason``, ``error``, then the
        output as in ``run.results()``.
        """
        from mltrigger.reports import views

        return views.results(self._bus.log, self._spec.id, limit)

    def latency(self, *, since: datetime | None = None) -> pd.DataFrame:
        """Return count, p50, p95, p99 and max in milliseconds, per stage (queue, model, total) and
        version.
        """
        times = self.invocations(
            since=since, columns=["version", "queue_ms", "model_ms", "total_ms"]
        )
        from mltrigger.reports import frames

        return frames.latency(times)

    def depth(self) -> Depth:
        """Return how many events are visible, delayed, in flight and dead now."""
        return self._bus.broker.depth(self._spec)

    def skipped(self, limit: int | None = None) -> pd.DataFrame:
        """Return the events of the topic that the model was not called with, and why, oldest first;
        with *limit* the newest ones.

        ``reason`` is ``filtered`` (``detail`` names the clause), ``duplicate`` (the id was
        published before), ``expired`` or ``unsubscribed``. What a filter keeps out is found in the
        archive when this is asked; it costs nothing before.
        """
        return self._bus.skipped(self.name, limit)

    def explain(self, event: Any) -> pd.DataFrame:
        """Return why an event did or did not fire here; see ``bus.explain``."""
        return self._bus.explain(event, self.name)

    def doctor(self) -> pd.DataFrame:
        """Return what to change about this subscription, and why; see ``bus.doctor``."""
        return self._bus.doctor(self.name)

    # -- dead letters ------------------------------------------------------------------------------

    def dead_letters(self) -> pd.DataFrame:
        """Return what could not be processed and waits for somebody: one row a dead event.

        With its reason, last error and traceback, the attempts and the version of the last one, its
        data as text and, in ``raw``, as bytes; ``redriven`` says how often it was sent again
        before.
        """
        from mltrigger.reports import views

        return views.dead_letters(self._bus.log, self._spec.id)

    def dry_run(
        self, events: Any = None, *, version: Any = None, data: Any = UNCHANGED
    ) -> pd.DataFrame:
        """Call the model with dead letters here and now; nothing is recorded, settled or handed on.

        Parameters
        ----------
        events
            An event id, several, or a frame of dead letters; default: all of them.
        version
            Which version to try: ``"1.1.0"``, a selector, or a model that was never registered.
            Default: what would be called now.
        data
            Other data to call it with.

        Returns
        -------
        pandas.DataFrame
            One row an event: ``outcome`` (``succeeded`` or ``failed``), ``model_ms``, ``stdout``,
            ``error``, then the output.
        """
        trials = self._bus.try_out(
            self._spec, choose(self._bus.log, self._spec, events), version, data
        )
        from mltrigger.reports import views

        return views.dry_run(trials)

    def redrive(
        self, events: Any = None, *, data: Any = UNCHANGED, rate_per_s: float | None = None
    ) -> int:
        """Deliver dead letters again, under their own ids, with no failures counted; return how
        many, as a number that says what was done.

        Parameters
        ----------
        events
            An event id, several, or a frame of dead letters; default: all of them.
        data
            Corrected data for one event. The archive keeps what was published; only this
            subscription gets the correction.
        rate_per_s : float, optional
            How many a second become visible, so that a backlog does not bury what is new.
        """
        self._bus.spec(self.name)  # or it was unsubscribed, and nobody would receive them
        n = redrive(
            self._bus.broker,
            self._spec,
            choose(self._bus.log, self._spec, events),
            data,
            rate_per_s,
        )
        return Told(
            n,
            (
                f"{count(n, 'dead letter')} sent again; bus.wait() waits until they have ended"
                if n
                else "no dead letter to send again"
            ),
        )

    def discard(self, events: Any, reason: str) -> int:
        """Put dead letters away for good: they stay ``dead`` in the log, with the *reason*, and are
        listed no more; return how many.
        """
        chosen = choose(self._bus.log, self._spec, events)
        n = len(self._bus.broker.discard(self._spec, [d.seq for d in chosen], reason))
        return Told(
            n,
            (
                f"{count(n, 'dead letter')} put away: {short(reason)}"
                if n
                else "no dead letter to put away"
            ),
        )

    def dashboard(self, sample: Any = None) -> Dashboard:
        """Return a live widget: counts by outcome, latency, newest invocations, and a button that
        fires *sample*.

        Without a *sample* the button repeats the data of the newest event of the topic.
        """
        from mltrigger.notebook.dashboard import Dashboard

        return Dashboard(self, sample)

    # -- what to do with it ------------------------------------------------------------------------

    def fire(self, samples: Any, **options: Any) -> Run:
        """Publish *samples* on the topic and wait; as ``bus.fire(sub.topic, samples)``."""
        return self._bus.fire(self.topic, samples, **options)

    def stop(self, drain_s: float = DRAIN_S) -> None:
        """Deliver no more in this process; events wait. What runs may end within *drain_s* seconds."""
        self._bus.stop_listening(self.name, drain_s)

    def start(self) -> Subscription:
        """Deliver in this process (again); idempotent."""
        self._bus.listen(self._bus.spec(self.name))  # as it is now: somebody may have bound it anew
        return self

    def pause(self) -> None:
        """Deliver no more, in any process, until :meth:`resume`; events wait. What runs may end."""
        self._bus.broker.pause(self.name)

    def resume(self) -> None:
        """Deliver again what :meth:`pause` held back; idempotent."""
        self._bus.broker.pause(self.name, False)

    def unsubscribe(self, delete: bool = False) -> None:
        """Stop, and end the subscription: what it had not settled ends as ``skipped``; its log
        stays.

        With *delete* what subscribing made outside, such as a queue, goes as well.
        """
        self._bus.unsubscribe(self.name, delete)
