"""EventBus: the object that a notebook holds. It puts the parts together."""

from __future__ import annotations

import atexit
import functools
import os
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, overload

from mltrigger.broker import Feed, SubscriptionSpec
from mltrigger.clock import Clock, Jumping
from mltrigger.delivery.direct import Direct
from mltrigger.delivery.engine import Engine
from mltrigger.delivery.lineage import Lineage
from mltrigger.delivery.listener import DRAIN_S
from mltrigger.delivery.observed import Observed
from mltrigger.delivery.on_call import OnCall
from mltrigger.delivery.outlets import Outlets
from mltrigger.delivery.subscribing import Subscriber
from mltrigger.delivery.vitals import Vitals
from mltrigger.errors import DiskFailed, StoreError, brief_errors
from mltrigger.handle import Subscription
from mltrigger.names import check_topic
from mltrigger.policy import keywords_of
from mltrigger.reports.outlook import Outlook
from mltrigger.rollout.correcting import Corrector
from mltrigger.rollout.service import Rollout
from mltrigger.run import Publisher
from mltrigger.store.broker import SqlBroker
from mltrigger.store.endings import StoredEndings
from mltrigger.store.lane_store import LaneStore
from mltrigger.store.log import Log
from mltrigger.store.opening import Parts
from mltrigger.store.patience import at_once
from mltrigger.store.registry import Registry
from mltrigger.store.sqlite.living import Living
from mltrigger.store.watch import Watch
from mltrigger.text import card
from mltrigger.versions.describe import LEFT_OUT, as_model
from mltrigger.versions.running.placement import Executing, check_placement
from mltrigger.versions.version import ModelVersion

if TYPE_CHECKING:
    from typing import Unpack

    from mltrigger.notebook.cockpit.widget import Dashboard
    from mltrigger.policy import Subscribing

_LAST_WORD_S = 0.5
"""The time for the store to record releases, after the running calls had theirs."""
POLLS_S = 0.5
"""A notebook does not wait for long polls when it closes a bus. A worker does."""
_EXIT_DRAIN_S = 1.5
"""A kernel has about 2.5 s between SIGTERM and SIGKILL. Later calls are released."""


@brief_errors
class EventBus(Publisher):
    """Topics, models and subscriptions in one store. Made by :func:`mltrigger.connect`.

    Parameters
    ----------
    parts : Parts
        The store, the broker and the wakeup of the bus' URL.
    clock : Clock
        The time of all leases, delays and log rows.
    """

    def __init__(self, parts: Parts, clock: Clock) -> None:
        registry = Registry(parts.store, clock)
        registry.follow_clock()
        broker, outside = parts.broker_of(registry, clock, self._worker_id)
        super().__init__(
            parts.store,
            registry,
            Log(parts.store, clock, self._worker_id),
            broker,
            clock,
            lambda name: self._engine.state(name),
            lambda topic: self._engine.feeders.note(topic),
            outside,
            lambda topic: self._engine.feeders.status(topic),
        )
        self._description, self.wakeup, self._pid = parts.description, parts.wakeup, os.getpid()
        self._living, self.observed = Living(parts.store.location), Observed()
        self._lineage = Lineage(self.broker, self.registry, self.log, clock, self.observed)
        local = self._local(parts, clock)
        self.watch = Watch(parts.store, clock, parts.wakeup, self._living, registry, local)
        lanes = LaneStore(parts.store, clock, parts.wakeup, local)
        self.rollout = Rollout(parts.store, registry, self._catalog, clock, lanes)
        outlets = Outlets(registry, broker, self._catalog)
        engine = self._engine = Engine(
            self._resolver.of,
            forget=self._resolver.forget,
            broker=self.broker,
            outside=outside,
            origins=self._origins,
            log=self.log,
            registry=self.registry,
            ledger=self.rollout.ledger,
            lanes=lanes,
            judge=self.rollout.watch.look,
            clock=clock,
            tidy=self._tidy,
            descent=self._lineage.descent,
            observed=self.observed,
            feed=self._feed(),
            sender=outlets.sender,
            join=lambda: registry.join(self._living.hold),
            news=self.watch.look,
            every_s=lambda: parts.wakeup.poll_s,
        )
        self.rollout.engine, self.rollout.log = engine, self.log
        self.rollout.corrector = Corrector(self.rollout, self._catalog, self._origins.prepare)
        self.direct = Direct(local, engine, registry, self.log, parts.wakeup, self._resolver.forget)
        self._subscriber = Subscriber(
            registry, broker, self._origins, self._catalog, engine, outlets
        )
        if isinstance(clock, Jumping):
            clock.tell(self._engine.wake)
        self._outlook = Outlook(
            self.registry,
            self._engine.state,
            self._resolver.absent,
            self._engine.pauses,
            shared=parts.store.is_shared,
        )
        self._sources_settled = self._engine.feeders.settled
        atexit.register(self._at_exit)

    def __repr__(self) -> str:
        if self._closed:
            return f"EventBus({self._description!r}, closed)"
        facts = self._counts()
        counts = ", ".join(n if what == "state" else f"{n} {what}" for what, n in facts)
        return f"EventBus({self._description!r}: {counts})"

    def _repr_html_(self) -> str:
        facts = [("state", "closed")] if self._closed else self._counts()
        return card(f"EventBus {self._description}", facts)

    def _counts(self) -> list[tuple[str, Any]]:
        try:
            with at_once():
                return [
                    ("topics", len(self.registry.topics())),
                    ("subscriptions", len(self.registry.subscriptions())),
                    ("listening here", len(self._engine)),
                ]
        except DiskFailed:
            return [("state", "failed disk: connect again")]
        except StoreError as error:
            return [("state", error.plain.partition(": ")[2])]

    def __enter__(self) -> EventBus:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def closed(self) -> bool:
        """Whether :meth:`close` was called."""
        return self._closed

    def close(self, drain_s: float = DRAIN_S, polls_s: float = POLLS_S) -> None:
        """Stop listening. Let calls end within *drain_s* seconds, and release the others.

        Idempotent. It returns even if the store does not answer: unrecorded attempts are delivered
        again. Long polls of an outside queue go on and give back their messages. *polls_s* is the
        time to wait for them.
        """
        if self._closed:
            return
        if os.getpid() != self._pid:
            self._closed = True  # a copy in a fork: everything belongs to the parent
            return
        self._store.give_up(time.monotonic() + drain_s + _LAST_WORD_S)
        self._engine.close(drain_s)
        if self.outside is not None:
            self.outside.close(_LAST_WORD_S, polls_s)
        self._closed = True
        self.wakeup.close()
        self._store.close()
        self._living.close()
        atexit.unregister(self._at_exit)

    def _local(self, parts: Parts, clock: Clock) -> SqlBroker:
        """Return the broker in the log's own database."""
        if isinstance(self.broker, SqlBroker):
            return self.broker
        return SqlBroker(parts.store, clock, parts.wakeup, self._worker_id)

    def _feed(self) -> Feed:
        return Feed(
            functools.partial(self.observed.send, self.broker.publish),
            self.log.announced,
            self.log.subjects,
            self._notes,
            StoredEndings(self._store),
            self.wakeup,
            self._lineage.hand_on,
        )

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
        """Register one version of a model and return it. The same code is the same version.

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
        """Point ``model@alias`` to *version* from now on."""
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

    @keywords_of(Subscriber.subscribe)
    def subscribe(
        self,
        source: str | os.PathLike[str],
        model: Any = LEFT_OUT,
        **options: Unpack[Subscribing],
    ) -> Subscription | Callable[[object], Subscription]:
        """Deliver the events of *source* to *model*.

        The same name again finds its subscription and binds it anew.

        Parameters
        ----------
        source : str or path
            A topic, made if need be; a folder: ``Path("scans")``, ``"./scans/*.png"``,
            ``"file:///scans/**/*.{png,jpg}"``; a table: ``"table+sqlite:///app.db#documents"``;
            a message broker: ``"kafka://broker:9092/orders"``; or
            the outcomes of a subscription: ``"outcomes://ocr"``. Each file, present or new, is an
            event once it is unchanged for ``settle_s``.
        model
            A callable, an object with ``predict``, a ``Model`` of ``mt.model``, an import path, an
            address, or a selector such as ``"ocr:1.0"``. Without it a decorator is returned.
        name : str, optional
            The subscription's name. Default: the model's. It names a lambda, too.
        version, batch
            As for ``mt.model``. ``batch="adaptive"`` learns the best number of events a call from
            measured run times.
        executor : concurrent.futures.Executor, or a callable that makes one, optional
            The place of the model when this process delivers: processes, or Dask's
            ``client.get_executor()``.
        emit : str, optional
            A topic for the outputs, or an address they are sent to: ``"kafka://broker/results"``.
            Each is published in the commit that records it, and sent then. ``None`` is not.
        filter : mapping or str, optional
            A filter policy of Amazon SNS that selects events. Default: all. ``bus.explain`` gives
            the reason for one event.
        filter_scope : {"attributes", "body"}
            The subject of the filter: attributes (type, source, subject, extensions), or data.
        start : {"latest", "earliest"}, optional
            The first event of a new subscription: the next one, or the oldest in the archive.
            Default: ``earliest`` for a folder, else ``latest``.
        listen : bool
            Whether to deliver in this process.
        on, fields : sequence of str, optional
            For a table: the changes that are events, ``insert`` (the default), ``update``,
            ``delete``; and the columns in the data. Default: all.
        rebind : bool
            Whether to bind a version again that a promote, a canary or a rollback has replaced.
            Without it the subscription keeps its version, and its repr says so.
        **policy
            Settings of :class:`~mltrigger.policy.DeliveryPolicy`: ``timeout_s``, ``max_attempts``,
            ``batch_size``, …

        Returns
        -------
        Subscription, or without *model* a decorator that returns one
        """
        self._check()
        if model is LEFT_OUT:
            return functools.partial(self.subscribe, source, **options)
        bound, note = self._subscriber.subscribe(source, model, **options)
        self._lineage.warn_of_circle(bound)
        return Subscription(self, bound, note)

    def subscription(self, name: str) -> Subscription:
        """Return the subscription *name*. A wrong name lists the near ones."""
        return Subscription(self, self.spec(name))

    def unsubscribe(self, name: str, delete: bool = False) -> None:
        """End the subscription *name*. Its open events end as ``skipped``, its log stays.

        Idempotent. With *delete* remove also its resources outside. On AWS these are its queues,
        and the topic with the last subscription. The last one of a table removes its trigger.
        """
        self.stop_listening(name, DRAIN_S)
        self._subscriber.unsubscribe(name, delete)

    # -- listen ------------------------------------------------------------------------------------

    def listen(self, spec: SubscriptionSpec, executor: Executing | None = None) -> None:
        """Deliver *spec* in this process. Idempotent. Its model runs in *executor*, if given."""
        self._check()
        if executor is not None:
            check_placement(None, spec.policy, executor)
            self._engine.place(spec.name, executor)
        self._engine.listen(spec)

    def borrowed_listener(self, spec: SubscriptionSpec) -> OnCall:
        """Return a listener for *spec* that does not receive.

        A function behind a queue hands it the deliveries.
        """
        self._check()
        return self._engine.borrowed(spec)

    def stop_listening(self, name: str, drain_s: float = DRAIN_S) -> None:
        """Deliver the subscription no more in this process. Idempotent."""
        self._engine.stop(name, drain_s)

    @property
    def busy(self) -> bool:
        """Whether a call of a model runs in this process."""
        return self._engine.busy

    @property
    def vitals(self) -> Vitals:
        """Whether the listeners of this process live, and whether they can deliver."""
        return self._engine.vitals

    # -- look --------------------------------------------------------------------------------------

    def dashboard(self, *, read_only: bool = False) -> Dashboard:
        """Return a live view of the whole bus, to look at and to steer.

        It shows topics, subscriptions and versions with live counts, throughput and latency, and
        each attempt. Every action shows its line of Python.

        Parameters
        ----------
        read_only : bool
            Whether all actions are refused.
        """
        self._check()
        from mltrigger.notebook.cockpit.widget import Dashboard

        return Dashboard(self, read_only=read_only)

    # -- publish -----------------------------------------------------------------------------------

    def topic(self, name: str) -> str:
        """Make topic *name* exist before the first subscription. Idempotent."""
        self._check()
        self.registry.topic(check_topic(name, self.broker.ordered))
        if self.outside is not None:
            self.outside.topic(name)
        return name

    def _tidy(self) -> None:
        if self.registry.setting("retention") is not None:
            self.prune()

    def _worker_id(self) -> int:
        return self._engine.worker_id

    def _at_exit(self) -> None:
        self.close(drain_s=_EXIT_DRAIN_S)
