"""Lookup: everything a bus can be asked. The answers are DataFrames; nothing here changes anything."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mltrigger.broker import Broker, Receipt, SubscriptionSpec
from mltrigger.clock import Clock
from mltrigger.errors import Closed, NotFound, brief_errors
from mltrigger.event.event import Event, as_event
from mltrigger.reports.audit import audit
from mltrigger.reports.doctor import Doctor
from mltrigger.reports.explain import explain, skipped
from mltrigger.store.backup import Backup, backup
from mltrigger.store.log import Log
from mltrigger.store.registry import Registry
from mltrigger.store.transaction import Store

if TYPE_CHECKING:
    import pandas as pd


@brief_errors
class Lookup:
    """What a bus knows. Made by :class:`~mltrigger.EventBus`, which adds what a bus does.

    Parameters
    ----------
    store, registry, log, broker, clock
        The parts that are asked.
    here : callable
        Returns what the listener of a subscription is doing in this process.
    no_hints : callable
        Returns why the system does not tell this process of changes in the folder of a topic; empty
        when it does.
    """

    def __init__(
        self,
        store: Store,
        registry: Registry,
        log: Log,
        broker: Broker,
        clock: Clock,
        here: Callable[[str], str] = lambda _: "stopped",
        no_hints: Callable[[str], str] = lambda _: "",
    ) -> None:
        self.registry, self.log, self.broker = registry, log, broker
        self._store, self._clock = store, clock
        self._doctor = Doctor(store, registry, log, broker, clock, here, no_hints)
        self._closed = False

    def spec(self, name: str) -> SubscriptionSpec:
        """Return the subscription *name* as the registry keeps it; a wrong name lists the near
        ones.
        """
        self._check()
        found = self.registry.subscription(name)
        if found is None:
            raise NotFound.of("subscription", name, [s.name for s in self.registry.subscriptions()])
        return found

    # -- what exists -------------------------------------------------------------------------------

    def models(self) -> pd.DataFrame:
        """Return every registered model version."""
        self._check()
        from mltrigger.reports import views

        return views.models(self.registry)

    def subscriptions(self) -> pd.DataFrame:
        """Return every subscription, with its selector, what it resolves to, who listens, and how
        much it has done.

        ``portable`` says whether a worker can take it; a model that lives in a notebook only is
        delivered by that notebook.
        """
        self._check()
        from mltrigger.reports import views

        return views.subscriptions(self.registry, self.log, self.broker)

    def topics(self) -> pd.DataFrame:
        """Return every topic, with how many events and subscriptions it has, and what it watches."""
        self._check()
        from mltrigger.reports import views

        return views.topics(self.registry)

    # -- what happened -----------------------------------------------------------------------------

    def invocations(
        self,
        subscription: str | None = None,
        *,
        limit: int | None = None,
        since: datetime | None = None,
        columns: Sequence[str] | None = None,
    ) -> pd.DataFrame:
        """Return every attempt of all subscriptions or one, as one row each, oldest first; see
        ``Subscription.invocations``.
        """
        self._check()
        number = self.spec(subscription).id if subscription is not None else None
        from mltrigger.reports import views

        return views.invocations(self.log, number, limit, since, columns)

    def latency(self) -> pd.DataFrame:
        """Return the latency quantiles of all subscriptions together, per stage and version; see
        ``Subscription.latency``.
        """
        times = self.invocations(columns=["version", "queue_ms", "model_ms", "total_ms"])
        from mltrigger.reports import frames

        return frames.latency(times)

    def events(
        self, topic: str | None = None, *, limit: int | None = None, since: datetime | None = None
    ) -> pd.DataFrame:
        """Return the archive of published events, oldest first."""
        self._check()
        if topic is not None and topic not in self.registry.topics():
            raise NotFound.of("topic", topic, self.registry.topics())
        from mltrigger.reports import views

        return views.events(self.log, topic, limit, since)

    def trace(self, event_id: str) -> pd.DataFrame:
        """Return what the event with this id caused, through all models: one row an attempt, from
        the first cause down.
        """
        self._check()
        from mltrigger.reports import views

        return views.trace(self.log, event_id)

    def backup(self, path: str | Path) -> Backup:
        """Write a whole copy of the store, as of now, to a new file; others go on publishing and
        delivering meanwhile.

        On AWS that is the log. Copying the file itself is no backup: the newest part lies in the
        file beside it. A bus on the copy delivers what was under way again when its leases have run
        out.

        Parameters
        ----------
        path : str or Path
            The file, readable for this user only; one that exists is refused.

        Returns
        -------
        Backup
            The ``file``, its ``events`` and ``size_bytes``. ``mt.connect("sqlite:///…")`` opens it.
        """
        self._check()
        return backup(self._store, Path(path))

    # -- whether it is right, and why --------------------------------------------------------------

    def audit(self) -> pd.DataFrame:
        """Return the balance of every subscription, those that were unsubscribed too: what was due
        to it, and what is there.

        Columns: ``topic``, ``subscription``, ``published`` (while it was subscribed), ``filtered``,
        ``sent`` (beside that, on request), ``succeeded``, ``dead``, ``skipped``, ``open``,
        ``missing``, ``double``, ``surplus`` (neither due nor asked for), ``balanced``, ``events``
        (the ids of what is missing, double or surplus). Always: published - filtered + sent =
        succeeded + dead + skipped + open. Where a filter was set, each event of the archive is
        looked at.
        """
        self._check()
        from mltrigger.reports import frames

        return frames.frame(audit(self._store), frames.AUDIT)

    def explain(self, event: Any, subscription: str) -> pd.DataFrame:
        """Return why an event did or did not fire: one row a clause, with ``ok`` (missing for a
        mere fact) and what was found.

        Parameters
        ----------
        event
            An event id or a receipt: what happened. An Event or data that was not published: what
            would happen.
        subscription : str
            Whose view is asked for.
        """
        self._check()
        what = event if isinstance(event, (Receipt, Event, str)) else as_event(event)
        from mltrigger.reports import frames

        return frames.sentences(
            explain(self._store, self._clock, what, subscription), frames.EXPLAIN
        )

    def skipped(self, subscription: str, limit: int | None = None) -> pd.DataFrame:
        """Return the events that were not given to the model of a subscription, and why; see
        ``Subscription.skipped``.
        """
        self.spec(subscription)
        from mltrigger.reports import frames

        return frames.sentences(skipped(self._store, subscription, limit), frames.SKIPPED)

    def doctor(self, subscription: str | None = None) -> pd.DataFrame:
        """Return what to change and why, from measured run times and the policies: ``severity``, ``about``, ``check``, ``finding``,
        ``advice``; the worst first."""  # noqa: D209 - one sentence
        self._check()
        found = (
            self._doctor.bus()
            if subscription is None
            else self._doctor.subscription(self.spec(subscription))
        )
        from mltrigger.reports import frames

        return frames.sentences(found, frames.DOCTOR)

    def tally(self, spec: SubscriptionSpec) -> dict[str, int]:
        """Return outcome -> number of attempts of one subscription."""
        return self.log.tallies().get(spec.id, {}) if not self._closed else {}

    def _check(self) -> None:
        if self._closed:
            raise Closed("this bus is closed: mt.connect(…) opens another one")
