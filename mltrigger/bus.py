"""EventBus: the facade that a notebook holds.

It puts the parts together and keeps the promises of the words.
"""

from __future__ import annotations

import atexit
import dataclasses
import functools
import os
import threading
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, overload

from mltrigger.broker import Broker, Receipt, SubscriptionSpec, prepared_by
from mltrigger.clock import Clock
from mltrigger.delivery.engine import Engine
from mltrigger.delivery.lineage import Lineage
from mltrigger.delivery.listener import DRAIN_S, Listener
from mltrigger.delivery.origins import Origins
from mltrigger.errors import NotFound, brief_errors
from mltrigger.event.event import as_event
from mltrigger.filters import FilterPolicy, Scope
from mltrigger.handle import Subscription
from mltrigger.names import check_name, check_topic
from mltrigger.policy import DeliveryPolicy, settings_named
from mltrigger.reports.dead_letters import UNCHANGED, Trial, events_of, try_out
from mltrigger.reports.lookup import Lookup
from mltrigger.reports.outlook import Outlook
from mltrigger.reports.waiting import Idle
from mltrigger.run import Run, samples_of, warn_if_nobody_gets
from mltrigger.sources import is_source
from mltrigger.store.broker import SqlBroker
from mltrigger.store.log import DeadKey, Log
from mltrigger.store.registry import Registry
from mltrigger.store.retention import Pruned, Retention, prune
from mltrigger.store.transaction import Store
from mltrigger.store.wake import Wakeup
from mltrigger.text import card
from mltrigger.versions.catalog import Catalog
from mltrigger.versions.describe import LEFT_OUT, Model, as_model
from mltrigger.versions.running.placement import Executing, Placement, check_placement
from mltrigger.versions.version import ModelVersion

if TYPE_CHECKING:
    from typing import Unpack

    import pandas as pd

    from mltrigger.policy import Settings, Subscribing

BrokerOf = Callable[[Registry, Callable[[], int]], Broker]
FIRE_TIMEOUT_S = 60.0
_LAST_WORD_S = 0.5
"""How long, after what runs had its time, the store may take to hear what is released."""
POLLS_S = 0.5
"""Somebody who closes a bus in a notebook does not wait for a long poll; a worker does."""
_EXIT_DRAIN_S = 1.5
"""A kernel that is shut down has about 2.5 s between SIGTERM and SIGKILL; what does not end in time
is released.
"""


_SCOPES: dict[str, Scope] = {
    "attributes": "MessageAttributes",
    "body": "MessageBody",
    "MessageAttributes": "MessageAttributes",
    "MessageBody": "MessageBody",
}
"""The scopes of a filter, under our words and those of SNS."""


@brief_errors
class EventBus(Lookup):
    """Topics, models and subscriptions in one store; made by :func:`mltrigger.connect`.

    Parameters
    ----------
    store, clock, wakeup
        The parts: where everything is kept, what time it is, who is told.
    broker_of : callable, optional
        Makes the broker, of the registry and a function that returns this process's number.
        Default: one in the store itself.
    description : str, optional
        What the bus is called in a repr; default: what the store is called.
    """

    def __init__(
        self,
        store: Store,
        clock: Clock,
        wakeup: Wakeup,
        broker_of: BrokerOf | None = None,
        description: str | None = None,
    ) -> None:
        registry = Registry(store, clock)
        registry.follow_clock()
        broker = (
            broker_of(registry, self._worker_id)
            if broker_of
            else SqlBroker(store, clock, wakeup, self._worker_id)
        )
        self._description = description or store.description
        super().__init__(
            store,
            registry,
            Log(store, clock, self._worker_id),
            broker,
            clock,
            lambda name: self._engine.state(name),
            lambda topic: self._engine.watcher.no_hints(topic),
        )
        self.wakeup = wakeup
        self._pid = os.getpid()
        self._catalog = Catalog(self.registry, clock)
        self._resolver = self._catalog.resolver
        self._origins = Origins(registry, broker)
        self._lineage = Lineage(self.broker, self.registry, self.log, clock)
        self._engine = Engine(
            self._resolver.of,
            forget=self._resolver.forget,
            broker=self.broker,
            log=self.log,
            registry=self.registry,
            clock=clock,
            tidy=self._tidy,
            descent=self._lineage.descent,
        )
        if (tell := getattr(clock, "tell", None)) is not None:
            tell(self._engine.wake)
        self._outlook = Outlook(
            self.registry,
            self._engine.state,
            self._resolver.absent,
            self._engine.pauses,
            shared=store.location is not None,
        )
        self._guard = threading.Lock()
        atexit.register(self._at_exit)

    def __repr__(self) -> str:
        if self._closed:
            return f"EventBus({self._description!r}, closed)"
        topics, subscriptions = len(self.registry.topics()), len(self.registry.subscriptions())
        return (
            f"EventBus({self._description!r}: {topics} topics, {subscriptions} subscriptions,"
            f" {len(self._engine)} listening here)"
        )

    def _repr_html_(self) -> str:
        if self._closed:
            return card(f"EventBus {self._description}", [("state", "closed")])
        facts = [
            ("topics", len(self.registry.topics())),
            ("subscriptions", len(self.registry.subscriptions())),
            ("listening here", len(self._engine)),
        ]
        return card(f"EventBus {self._description}", facts)

    def __enter__(self) -> EventBus:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def closed(self) -> bool:
        """Whether :meth:`close` was called."""
        return self._closed

    def close(self, drain_s: float = DRAIN_S, polls_s: float = POLLS_S) -> None:
        """Stop listening, let what runs end within *drain_s* seconds, release the rest; idempotent.

        It returns even when the store does not answer: what could not be recorded then is delivered
        again. Long polls of a queue outside that are under way go on for as long as this process
        does, and give back what they bring; *polls_s* is how long to wait for that.
        """
        if self._closed:
            return
        if os.getpid() != self._pid:
            self._closed = True  # a fork's copy: everything belongs to the parent
            return
        self._store.give_up(time.monotonic() + drain_s + _LAST_WORD_S)
        self._engine.close(drain_s)
        self.broker.close(_LAST_WORD_S, polls_s)
        self._closed = True
        self.wakeup.close()
        self._store.close()
        atexit.unregister(self._at_exit)

    # -- models ------------------------------------------------------------------------------------

    def register(
        self,
        model: Any,
        /,
        *,
        name: str | None = None,
        version: str | None = None,
        **described: Any,
    ) -> ModelVersion:
        """Register one version of a model and return it; the same code again is the same version.

        Parameters
        ----------
        model, name, version, **described
            As for ``mt.model``.

        Raises
        ------
        VersionConflict
            When the version exists with other code.
        InvalidModel
            When *model* cannot be called with one argument and has no ``predict``.
        """
        self._check()
        return self._catalog.register(as_model(model, name=name, version=version, **described))[0]

    def alias(self, model: str, alias: str, version: str) -> None:
        """Let ``model@alias`` mean *version* from now on."""
        self._check()
        self._catalog.alias(model, alias, version)

    # -- subscribe ---------------------------------------------------------------------------------

    @overload
    def subscribe(
        self, source: str | os.PathLike[str], model: Any, **options: Unpack[Subscribing]
    ) -> Subscription: ...

    @overload
    def subscribe(
        self, source: str | os.PathLike[str], **options: Unpack[Subscribing]
    ) -> Callable[[object], Subscription]: ...

    @settings_named
    def subscribe(
        self,
        source: str | os.PathLike[str],
        model: Any = LEFT_OUT,
        *,
        name: str | None = None,
        version: str | None = None,
        batch: bool | str | None = None,
        executor: Executing | None = None,
        emit: str | None = None,
        filter: Mapping[str, Any] | str | None = None,  # noqa: A002 - the word of SNS
        filter_scope: str = "attributes",
        start: str | None = None,
        listen: bool = True,
        **policy: Unpack[Settings],
    ) -> Subscription | Callable[[object], Subscription]:
        """Deliver the events of *source* to *model*; the same name again finds its subscription and
        rebinds it.

        Parameters
        ----------
        source : str or path
            A topic, made if need be, or a folder: ``Path("scans")``, ``"./scans/*.png"``,
            ``"file:///scans/**/*.{png,jpg}"``. Every file there, and every new one, is an event
            once it is complete: unchanged for ``settle_s``.
        model
            A callable, an object with ``predict``, what ``mt.model`` made of them, where one is (an
            import path or an address), or a selector such as ``"ocr:1.0"``. Left out, a decorator
            is returned.
        name : str, optional
            The subscription's name; default: the model's. It names a lambda, too.
        version, batch
            As for ``mt.model``; ``batch="adaptive"`` learns from measured run times how many events
            a call takes best.
        executor : concurrent.futures.Executor, or a callable that makes one, optional
            Where the model runs when this process delivers: processes, or Dask's
            ``client.get_executor()``.
        emit : str, optional
            A topic on which every output is published, in the same commit that records it; ``None``
            outputs are not.
        filter : mapping or str, optional
            A filter policy of Amazon SNS: which events are delivered. Default: all. ``bus.explain``
            says why one was or was not.
        filter_scope : {"attributes", "body"}
            What the filter looks at: the event's attributes (type, source, subject, extensions), or
            its data.
        start : {"latest", "earliest"}, optional
            Whether a new subscription begins with the next event or with the oldest one in the
            archive. Default: ``earliest`` for a folder, ``latest`` for a topic.
        listen : bool
            Whether to deliver in this process.
        **policy
            Settings of :class:`~mltrigger.policy.DeliveryPolicy`: ``timeout_s``, ``max_attempts``,
            ``batch_size``, …

        Returns
        -------
        Subscription, or without *model* a decorator that returns one
        """
        self._check()
        if model is LEFT_OUT:
            options = {
                "name": name,
                "version": version,
                "batch": batch,
                "executor": executor,
                "emit": emit,
                "filter": filter,
                "filter_scope": filter_scope,
                "start": start,
                "listen": listen,
                **policy,
            }
            return functools.partial(self.subscribe, source, **options)
        if start not in (None, "latest", "earliest"):
            raise NotFound.of("start", str(start), ["latest", "earliest"])
        if batch == "adaptive":
            policy = {"adaptive": True, **policy}
        settings, passing = DeliveryPolicy.of(policy), _filter(filter, filter_scope)
        handed = self._catalog.understood(model, version, batch, name)
        check_placement(handed if isinstance(handed, Model) else None, settings, executor)
        wanted = check_name("subscription", name or handed.name.replace(".", "-"))
        emit = check_topic(emit, self.broker.ordered) if emit is not None else None
        with self._guard:
            found = self._origins.found(source)
            before = self.registry.subscription(wanted)
            self._origins.check_same(wanted, found, before)
            selector = self._catalog.selector(handed)  # last, because it registers the version
            spec = SubscriptionSpec(
                wanted, self._origins.topic_of(found), selector, settings, emit, passing
            )
            self.broker.bind(
                spec,
                from_start=(start or ("earliest" if is_source(source) else "latest")) == "earliest",
            )
            bound = self.registry.subscription(wanted) or spec
            if self._engine.place(bound.name, executor) or listen:
                self.listen(bound)
        self._lineage.warn_of_circle(bound)
        note = (
            f"was {before.selector}" if before is not None and before.selector != selector else ""
        )
        return Subscription(self, bound, note)

    def subscription(self, name: str) -> Subscription:
        """Return the subscription *name*; a wrong name lists the near ones."""
        return Subscription(self, self.spec(name))

    def unsubscribe(self, name: str, delete: bool = False) -> None:
        """Stop listening here, and end the subscription: what it had not settled ends as
        ``skipped``; its log stays. Idempotent.

        With *delete* what subscribing made outside goes as well: on AWS its queues, and the topic
        if it was the last one there.
        """
        self.stop_listening(name, DRAIN_S)
        self.broker.unbind(name, delete)

    @settings_named
    def plan(
        self,
        source: str | None = None,
        *,
        name: str | None = None,
        filter: Any = None,  # noqa: A002
        filter_scope: str = "attributes",
        **policy: Unpack[Settings],
    ) -> pd.DataFrame:
        """Return what subscribing would create or change outside, and change nothing: one row a
        setting.

        Columns: ``subscription``, ``action`` (``create``, ``change`` or ``keep``), ``kind``,
        ``name``, ``setting``, ``now``, ``wanted``. Empty where nothing is outside.

        Parameters
        ----------
        source, name, filter, filter_scope, **policy
            As for :meth:`subscribe`; without a *source*, all subscriptions that there are.
        """
        self._check()
        specs = self.registry.subscriptions()
        if source is not None:
            url, (topic, *_) = self._origins.find(source)
            wanted = check_name("subscription", name or "model")
            specs = [
                SubscriptionSpec(
                    wanted,
                    topic,
                    "",
                    DeliveryPolicy.of(policy),
                    None,
                    _filter(filter, filter_scope),
                )
            ]
            rows = [(wanted, *change) for change in self.broker.plan(specs[0], url)]
        else:
            sources = self.registry.sources()
            rows = [
                (s.name, *change)
                for s in specs
                for change in self.broker.plan(s, sources.get(s.topic))
            ]
        from mltrigger.reports import frames

        return frames.frame(rows, frames.PLAN)

    # -- listen ------------------------------------------------------------------------------------

    def listen(self, spec: SubscriptionSpec) -> None:
        """Deliver *spec* in this process; idempotent."""
        self._check()
        self._engine.listen(spec, self._origins.of(spec))

    def borrowed_listener(self, spec: SubscriptionSpec) -> Listener:
        """Return a listener for *spec* that does not receive: a function behind a queue hands it
        what has come.
        """
        self._check()
        return self._engine.borrowed(spec, self._origins.of(spec))

    def stop_listening(self, name: str, drain_s: float = DRAIN_S) -> None:
        """Deliver the subscription no more in this process; idempotent."""
        self._engine.stop(name, drain_s)

    def listener_state(self, name: str) -> str:
        """Return the state of the subscription's listener in this process; ``paused`` when it is so
        everywhere.
        """
        spec = None if self._closed else self.registry.subscription(name)
        return (
            "paused"
            if spec is not None and spec.id in self.registry.paused()
            else self._engine.state(name)
        )

    @property
    def busy(self) -> bool:
        """Whether a model is being called in this process."""
        return self._engine.busy

    # -- keep --------------------------------------------------------------------------------------

    def retain(self, *, max_age_s: float | None = None, max_events: int | None = None) -> Retention:
        """Agree how long events and their log rows are kept; listeners of every process hold to it
        once a minute.

        Without arguments everything is kept, which is the default. Open events and dead letters
        never go by themselves. The id of an event that went is forgotten with it: a repeat would be
        a new event.
        """
        self._check()
        retention = Retention(max_age_s, max_events)
        self.registry.set_setting("retention", dataclasses.asdict(retention))
        return retention

    def prune(self) -> Pruned:
        """Let go now what :meth:`retain` agreed on; return how many events and invocations went,
        and how many old ones are held.
        """
        self._check()
        return prune(self._store, self._clock, self.registry.retention())

    def model_of(self, spec: SubscriptionSpec) -> Model:
        """Return the model that *spec* calls now."""
        return self._resolver.of(spec.selector)()[1]

    def try_out(
        self,
        spec: SubscriptionSpec,
        keys: Sequence[DeadKey],
        version: Any = None,
        data: Any = UNCHANGED,
    ) -> list[Trial]:
        """Call a version of the model with dead letters, where the policy says; nothing is recorded
        or settled. See ``sub.dry_run``.
        """
        chosen = self._resolver.chosen(spec.selector, version)
        events = map(prepared_by(self._origins.of(spec)), events_of(self.log, spec, keys, data))
        placed = Placement(lambda: chosen, spec.policy)
        try:
            return try_out(events, *placed(), self._clock)
        finally:
            placed.close()

    # -- publish -----------------------------------------------------------------------------------

    def topic(self, name: str) -> str:
        """Make topic *name* exist, before anybody subscribes; idempotent."""
        self._check()
        self.broker.topic(check_topic(name, self.broker.ordered))
        return name

    def publish(self, topic: str, data: Any, **attributes: Any) -> Receipt:
        """Publish one event and return its receipt when it is durable.

        Parameters
        ----------
        topic : str
            An existing topic; a wrong name lists the near ones.
        data
            The data, or a whole :class:`~mltrigger.Event`.
        **attributes
            ``type``, ``source``, ``subject``, ``id``, ``time``, ``extensions`` of the event.
        """
        self._check()
        event = dataclasses.replace(as_event(data), **attributes) if attributes else as_event(data)
        return self._lineage.publish(topic, [event])[0]

    def publish_batch(self, topic: str, samples: Iterable[Any]) -> list[Receipt]:
        """Publish many samples in one commit, all or nothing; each is data or an Event.

        Of a frame, each row is one.
        """
        self._check()
        return self._lineage.publish(topic, [as_event(s) for s in samples_of(samples)])

    def fire(
        self, topic: str, samples: Any, *, timeout_s: float = FIRE_TIMEOUT_S, progress: bool = True
    ) -> Run:
        """Publish *samples* and wait until every subscription of *topic* has ended them, wherever
        its listener runs.

        The bar says what fails and which attempt that was. A warning says at once when a
        subscription has no listener. It returns early when nothing can come: no listener can start,
        a pause, a model that cannot be loaded.

        Parameters
        ----------
        samples
            An iterable of data or Events, a DataFrame (each row is an object), or one mapping,
            text, row of a frame or Event.
        timeout_s : float
            How long to wait; then the run is returned with what is there, and a warning says what
            is not.
        progress : bool
            Whether to show a progress bar.
        """
        self._check()
        receipts = self._lineage.publish(
            topic, [as_event(s) for s in samples_of(samples)], awaited=True
        )
        run = Run(topic, receipts, self.log, self.wakeup, self.registry, self._outlook)
        if len(run):
            warn_if_nobody_gets(self.registry, run)
        return run.wait_for_what_can_come(timeout_s, progress)

    def wait(self, timeout_s: float = FIRE_TIMEOUT_S, *, progress: bool = True) -> bool:
        """Wait until nothing is left to do: watched folders looked at, every event ended by every
        subscription and all it caused.

        Returns whether that was reached within *timeout_s* seconds. It ends before, with a warning,
        when nothing that is open can end.
        """
        self._check()
        self._lineage.check_wait()
        idle = Idle(
            self.log, self.broker, self.registry, self._outlook, self._engine.watcher.settled
        )
        return idle.wait(self.wakeup, timeout_s, progress)

    def _tidy(self) -> None:
        if self.registry.setting("retention") is not None:
            self.prune()

    def _worker_id(self) -> int:
        return self._engine.worker_id

    def _at_exit(self) -> None:
        self.close(drain_s=_EXIT_DRAIN_S)


def _filter(policy: Mapping[str, Any] | str | None, scope: str) -> FilterPolicy | None:
    if scope not in _SCOPES:
        raise NotFound.of("filter_scope", str(scope), list(_SCOPES))
    return None if policy is None else FilterPolicy.parse(policy, _SCOPES[scope])
