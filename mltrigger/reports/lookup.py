"""Lookup: the questions that a bus answers with frames. Nothing here changes anything."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Sequence
from datetime import datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mltrigger.broker import Broker, Outside, Status, SubscriptionSpec
from mltrigger.clock import Clock
from mltrigger.delivery.origins import Origins
from mltrigger.delivery.subscribing import wanted
from mltrigger.errors import Closed, NotFound, StoreError, brief_errors
from mltrigger.event.data import decode_data
from mltrigger.event.event import Event
from mltrigger.event.making import with_data
from mltrigger.policy import DeliveryPolicy, keywords_of
from mltrigger.reports import frames, views
from mltrigger.reports.audit import audit
from mltrigger.reports.choosing import choosing, matching_of
from mltrigger.reports.dead_letters import UNCHANGED, Trial, events_of, rehearsal, try_out
from mltrigger.reports.doctor import Doctor
from mltrigger.reports.explain import explain
from mltrigger.reports.keys import depth_by_key
from mltrigger.reports.naming import find
from mltrigger.reports.plots import BusPlots
from mltrigger.reports.skipped import skipped
from mltrigger.reports.trace import trace
from mltrigger.store.backup import Backup, backup
from mltrigger.store.log import DeadKey, Log
from mltrigger.store.notes import StoredNotes
from mltrigger.store.patience import at_once
from mltrigger.store.registry import Registry
from mltrigger.store.transaction import Store
from mltrigger.versions.catalog import Catalog
from mltrigger.versions.describe import Model
from mltrigger.versions.running.placement import Placement

if TYPE_CHECKING:
    from typing import Unpack

    import pandas as pd

    from mltrigger.policy import Settings
    from mltrigger.reports.choosing import Choosing


@brief_errors
class Lookup(BusPlots):
    """Answers questions about a bus. :class:`~mltrigger.EventBus` adds actions.

    Parameters
    ----------
    here : callable
        Returns the state of the listener of a subscription in this process.
    note : callable
        Returns the remark of this process's feeder on a topic; empty if there is none.
    outside : Outside, optional
        The part of the broker for a service outside.
    status : callable
        Returns the state of a topic's source, if this process reads it.
    """

    def __init__(
        self,
        store: Store,
        registry: Registry,
        log: Log,
        broker: Broker,
        clock: Clock,
        here: Callable[[str], str] = lambda _: "stopped",
        note: Callable[[str], str] = lambda _: "",
        outside: Outside | None = None,
        status: Callable[[str], Status | None] = lambda _: None,
    ) -> None:
        self._here, self._status_here = here, status
        self.registry, self.log, self.broker, self.outside = registry, log, broker, outside
        self._store, self._clock = store, clock
        self._doctor = Doctor(
            store, registry, log, broker, clock, here, note, outside, self._status
        )
        self._catalog = Catalog(registry, clock)
        self._resolver = self._catalog.resolver
        self._notes = StoredNotes(store, clock)
        self._origins = Origins(registry, broker, self._notes, outside)
        self._closed = False

    def spec(self, name: str) -> SubscriptionSpec:
        """Return the subscription *name*. An unknown name raises NotFound, with similar names."""
        self._check()
        found = self.registry.subscription(name)
        if found is None or found.parent_id:
            raise NotFound.of("subscription", name, [s.name for s in self.registry.subscriptions()])
        return found

    # -- what exists -------------------------------------------------------------------------------

    def models(self) -> pd.DataFrame:
        """Return every registered model version."""
        self._check()
        return views.models(self.registry)

    def subscriptions(self) -> pd.DataFrame:
        """Return every subscription: its selector and version, its listeners and its counts.

        ``portable`` says whether a worker can deliver it. A model of a notebook needs that
        notebook.
        """
        self._check()
        return views.subscriptions(self.registry, self.log, self.broker)

    def topics(self) -> pd.DataFrame:
        """Return every topic, its numbers of events and subscriptions, and its source.

        A source is ``connected``, or ``waiting`` for the reason in ``detail``, or ``unread`` if no
        process listens. ``since`` is the time of its last change. ``behind`` counts things there
        that were no events at the last look.
        """
        self._check()
        return views.topics(self.registry, self._status)

    def listener_state(self, name: str) -> str:
        """Return the state of the listener in this process. ``paused`` holds everywhere."""
        is_paused = False
        with contextlib.suppress(StoreError), at_once():  # the listener here says so
            spec = None if self._closed else self.registry.subscription(name)
            is_paused = spec is not None and spec.id in self.registry.paused()
        return "paused" if is_paused else self._here(name)

    def _status(self, topic: str) -> Status | None:
        """Return the state of the source of *topic*: as seen here, else by another process."""
        here = self._status_here(topic)
        if here is not None and here.state != "standby":
            return here
        noted = self._notes.recall(f"status:{topic}")
        if noted is None:
            return here
        status = Status(*noted)
        return status if self._notes.held(topic) else status._replace(state="unread", detail="")

    # -- what happened -----------------------------------------------------------------------------

    @keywords_of(choosing)
    def invocations(
        self,
        subscription: str | None = None,
        *,
        limit: int | None = None,
        columns: Sequence[str] | None = None,
        **chosen: Unpack[Choosing],
    ) -> pd.DataFrame:
        """Return every attempt as one row, oldest first, of all subscriptions or one.

        See ``Subscription.invocations``.
        """
        self._check()
        spec = self.spec(subscription) if subscription is not None else None
        if {name for name, value in chosen.items() if value is not None} <= {"since", "role"}:
            number, role = None if spec is None else spec.id, chosen.get("role")
            return views.invocations(
                self.log, number, limit, chosen.get("since"), columns, role=role
            )
        return views.matching(self.log, matching_of(self.log, spec, **chosen), limit, columns)

    def latency(self, *, since: datetime | timedelta | str | None = None) -> pd.DataFrame:
        """Return latency quantiles for each stage and version, of all subscriptions together.

        See ``Subscription.latency``.
        """
        self._check()
        return views.latency(self.log, since=since)

    def events(
        self,
        topic: str | None = None,
        *,
        limit: int | None = None,
        since: datetime | timedelta | str | None = None,
    ) -> pd.DataFrame:
        """Return the archive of published events, oldest first.

        *limit* keeps the newest. *since* is as for ``Subscription.invocations``.
        """
        self._check()
        if topic is not None and topic not in self.registry.topics():
            raise NotFound.of("topic", topic, self.registry.topics())
        return views.events(self.log, topic, limit, since)

    def trace(self, event: Any, *, source: str | None = None) -> pd.DataFrame:
        """Return all that one event caused, through all models.

        There is one row for each attempt, from the first cause down. See :meth:`cancel` for the
        ways to name an event.
        """
        self._check()
        return trace(self.log, find(self.log, event, source), self._notes.recall("bus"))

    def backup(self, path: str | Path) -> Backup:
        """Write a copy of the whole store, as of now, to a new file.

        Others go on publishing and delivering meanwhile. On AWS the store is the log. Copying the
        file itself is no backup: its newest part is in the file beside it. A bus on the copy
        delivers events in flight again when their leases end.

        Parameters
        ----------
        path : str or Path
            The new file, readable for this user only. An existing file is refused.

        Returns
        -------
        Backup
            The ``file``, its ``events`` and ``size_bytes``. ``mt.connect("sqlite:///…")`` opens it.
        """
        self._check()
        return backup(self._store, Path(path))

    # -- whether it is right, and why --------------------------------------------------------------

    def audit(self) -> pd.DataFrame:
        """Return the balance of every subscription: events due to it, and their outcomes.

        Subscriptions that were unsubscribed are included. Columns: ``topic``, ``subscription``,
        ``published`` (while it was subscribed), ``filtered``, ``sent`` (again, on request),
        ``succeeded``, ``dead``, ``skipped``, ``open``, ``missing``, ``double``, ``surplus``
        (neither due nor asked for), ``balanced``, ``events`` (the ids of missing, double and
        surplus events). Always: published - filtered + sent = succeeded + dead + skipped + open.
        With a filter, each event of the archive is checked.
        """
        self._check()
        return frames.carded(frames.frame(audit(self._store), frames.AUDIT), "audit")

    def depth_by_key(self, subscription: Any) -> pd.DataFrame:
        """Return the open events of a subscription by key. See ``sub.depth(by="key")``."""
        self._check()
        name = str(getattr(subscription, "name", subscription))
        return depth_by_key(self._store, self._clock, self.spec(name))

    def explain(self, event: Any, subscription: Any, *, source: str | None = None) -> pd.DataFrame:
        """Return why an event did or did not fire, one row for each clause.

        ``ok`` says whether the clause let the event pass. It is missing for a mere fact.

        Parameters
        ----------
        event
            An id, a Receipt, or a row of a frame with ``event_id`` explains the past. An Event or
            data that was not published explains the future.
        subscription : str or Subscription
            The subscription that is asked about, or its name.
        source : str, optional
            The source of an id that two sources have.

        Raises
        ------
        AmbiguousEvent
            When several sources have the id. The error lists them.
        """
        self._check()
        name = str(getattr(subscription, "name", subscription))
        return frames.sentences(
            explain(self._store, self._clock, event, name, source), frames.EXPLAIN
        )

    def skipped(self, subscription: str, limit: int | None = None) -> pd.DataFrame:
        """Return the events that the model of a subscription was not called with, and why.

        See ``Subscription.skipped``.
        """
        self.spec(subscription)
        rows = [row[1:] for row in skipped(self._store, subscription, limit)]
        return frames.sentences(rows, frames.SKIPPED)

    def doctor(self, subscription: str | None = None) -> pd.DataFrame:
        """Return advice from measured run times and the policies, the worst finding first.

        Columns: ``severity``, ``about``, ``check``, ``finding``, ``advice``.
        """
        self._check()
        found = (
            self._doctor.bus()
            if subscription is None
            else self._doctor.subscription(self.spec(subscription))
        )
        return frames.sentences(found, frames.DOCTOR)

    # -- what would happen -------------------------------------------------------------------------

    @keywords_of(DeliveryPolicy)
    def plan(
        self,
        source: str | None = None,
        *,
        name: str | None = None,
        filter: Any = None,  # noqa: A002
        filter_scope: str = "attributes",
        on: Sequence[str] | str | None = None,
        fields: Sequence[str] | str | None = None,
        **policy: Unpack[Settings],
    ) -> pd.DataFrame:
        """Return the changes outside that subscribing would make, one row a setting.

        Empty if nothing is outside. Columns: ``subscription``, ``action``
        (``create``, ``change`` or ``keep``), ``kind``, ``name``, ``setting``, ``now``, ``wanted``.
        For a table these are the SQL statements.

        Parameters
        ----------
        source, name, filter, filter_scope, on, fields, **policy
            As for :meth:`subscribe`. Without a *source*: all existing subscriptions.
        """
        self._check()
        sources = self.registry.sources()
        specs = [(spec, sources.get(spec.topic)) for spec in self.registry.subscriptions()]
        if source is not None:
            options = {"on": on, "fields": fields}
            specs = [wanted(self._origins, source, name, filter, filter_scope, policy, options)]
        rows = [
            (spec.name, *change) for spec, url in specs for change in self._origins.plan(spec, url)
        ]
        return frames.frame(rows, frames.PLAN)

    def model_of(self, spec: SubscriptionSpec) -> Model:
        """Return the model that *spec* means now."""
        return self._resolver.of(spec.selector)()[1]

    def try_out(
        self,
        spec: SubscriptionSpec,
        keys: Sequence[DeadKey],
        version: Any = None,
        data: Any = UNCHANGED,
    ) -> list[Trial]:
        """Call a version of the model with dead letters. Record nothing. See ``sub.dry_run``."""
        chosen = self._resolver.chosen(spec.selector, version)
        events = map(self._origins.prepare(spec), events_of(self.log, spec, keys, data))
        placed = Placement(lambda: chosen, spec.policy)
        try:
            return try_out(events, *placed(), self._clock, rehearsal(self.log, spec, keys))
        finally:
            placed.close()

    def archived(self, spec: SubscriptionSpec, seq: int) -> Event:
        """Return an event of the archive as a model of *spec* gets it, with its object."""
        event, raw, media_type = self.log.archived(seq)
        return self._origins.prepare(spec)(with_data(event, decode_data(raw, media_type)))

    def tally(self, spec: SubscriptionSpec) -> dict[str, int]:
        """Return outcome -> number of attempts of one subscription."""
        return self.log.tallies().get(spec.id, {}) if not self._closed else {}

    def _check(self) -> None:
        if self._closed:
            raise Closed("this bus is closed: mt.connect(…) opens another one")
