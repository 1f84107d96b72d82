"""Subscription: what a notebook holds of one subscription. It reads; the bus does."""

from __future__ import annotations

from datetime import datetime
from typing import TYPE_CHECKING, Any

from mltrigger.brokers.base import Depth, SubscriptionSpec
from mltrigger.listener import DRAIN_S
from mltrigger.policy import DeliveryPolicy
from mltrigger.render import card

if TYPE_CHECKING:
    from collections.abc import Sequence

    import pandas as pd

    from mltrigger.bus import EventBus
    from mltrigger.notebook.dashboard import Dashboard
    from mltrigger.run import Run


class Subscription:
    """A topic, a model selector and a delivery policy, under a name; and everything that happened to it, as frames."""

    def __init__(self, bus: EventBus, spec: SubscriptionSpec, note: str = "") -> None:
        self._bus = bus
        self._spec = spec
        self._note = note

    # -- what it is -----------------------------------------------------------------------------------------------------------

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
    def state(self) -> str:
        """``listening``, ``stopped``, or what delivery in this process waits for."""
        return self._bus.listener_state(self.name)

    def __repr__(self) -> str:
        counts = self._bus.tally(self._spec)
        shown = [f"{n} {outcome}" for outcome, n in counts.items() if n] or ["no events yet"]
        arrow = f"{self.topic!r} -> {self.selector}{f' ({self._note})' if self._note else ''}"
        emit = f" -> {self._spec.emit!r}" if self._spec.emit else ""
        return f"Subscription({arrow}{emit}, {self.state}, {', '.join(shown)})"

    def _repr_html_(self) -> str:
        counts = {o: n for o, n in self._bus.tally(self._spec).items() if n}
        facts = [
            ("topic", self.topic),
            ("model", f"{self.selector}{f' ({self._note})' if self._note else ''}"),
            ("emits to", self._spec.emit or "–"),
            ("state", self.state),
            *counts.items(),
        ]
        return card(f"Subscription {self.name}", facts)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Call the model directly, without an event: what ``@mt.subscribe`` decorated is still a function."""
        return self._bus.model_of(self._spec)(*args, **kwargs)

    # -- what happened --------------------------------------------------------------------------------------------------------

    def invocations(self, limit: int | None = None, *, since: datetime | None = None, columns: Sequence[str] | None = None) -> pd.DataFrame:
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
        """Return one row per event that has ended, oldest first; with *limit* only the newest so many.

        Columns: ``subject``, ``model``, ``version``, ``outcome``, ``reason``, ``error``, then the output as in ``run.results()``.
        """
        from mltrigger import views

        return views.results(self._bus.log, self._spec.id, limit)

    def latency(self, *, since: datetime | None = None) -> pd.DataFrame:
        """Return count, p50, p95, p99 and max in milliseconds, per stage (queue, model, total) and version."""
        times = self.invocations(since=since, columns=["version", "queue_ms", "model_ms", "total_ms"])
        from mltrigger import frames

        return frames.latency(times)

    def depth(self) -> Depth:
        """Return how many events are visible, delayed, in flight and dead now."""
        return self._bus.broker.depth(self._spec)

    def dead_letters(self) -> pd.DataFrame:
        """Return what could not be processed: one row a dead event, with its reason, last error and data."""
        from mltrigger import views

        return views.dead_letters(self._bus.log, self._spec.id)

    def dashboard(self, sample: Any = None) -> Dashboard:
        """Return a live widget: counts by outcome, latency, newest invocations, and a button that fires *sample*.

        Without a *sample* the button repeats the data of the newest event of the topic.
        """
        from mltrigger.notebook.dashboard import Dashboard

        return Dashboard(self, sample)

    # -- what to do with it ---------------------------------------------------------------------------------------------------

    def fire(self, samples: Any, **options: Any) -> Run:
        """Publish *samples* on the topic and wait; as ``bus.fire(sub.topic, samples)``."""
        return self._bus.fire(self.topic, samples, **options)

    def stop(self, drain_s: float = DRAIN_S) -> None:
        """Deliver no more in this process; events wait. What runs may end within *drain_s* seconds."""
        self._bus.stop_listening(self.name, drain_s)

    def start(self) -> Subscription:
        """Deliver in this process (again); idempotent."""
        self._bus.listen(self._spec)
        return self

    def unsubscribe(self) -> None:
        """Stop, and forget the subscription and what it had not settled; its log stays."""
        self._bus.unsubscribe(self.name)
