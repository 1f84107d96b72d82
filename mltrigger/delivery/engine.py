"""The engine: everything of a bus that runs in this process.

Listeners, the keeper of their leases, the feeders of their topics.
"""

from __future__ import annotations

import functools
import logging
import threading
import time
from collections.abc import Callable

from mltrigger.broker import Broker, Feed, Outside, SubscriptionSpec
from mltrigger.clock import Clock
from mltrigger.delivery.answering import Answering
from mltrigger.delivery.assembly import Assembly, Judge
from mltrigger.delivery.feeders import Feeders
from mltrigger.delivery.keeper import SEEN_S, Chore, Keeper, beside, quietly
from mltrigger.delivery.lanes import Lanes
from mltrigger.delivery.lineage import Descent
from mltrigger.delivery.listener import DRAIN_S, Listener
from mltrigger.delivery.observed import Observed
from mltrigger.delivery.on_call import OnCall
from mltrigger.delivery.origins import Origins
from mltrigger.delivery.threads import ThreadWorkers
from mltrigger.delivery.vitals import Vitals
from mltrigger.errors import StoreError
from mltrigger.store.lane_store import LaneStore
from mltrigger.store.ledger import Ledger
from mltrigger.store.log import Log
from mltrigger.store.registry import Registry
from mltrigger.text import LogFilter
from mltrigger.versions.describe import Model
from mltrigger.versions.running.placement import Executing
from mltrigger.versions.version import ModelVersion

logger = logging.getLogger("mltrigger")

# A library never prints. Users who want these messages configure the logger "mltrigger".
logger.addHandler(logging.NullHandler())
logger.addFilter(LogFilter())

LOOK_S = 0.5
"""How often the store is asked for news: a change of a subscription, an event, a dead process."""
UPKEEP_S = 2.0
"""How often the broker does its upkeep."""
WATCH_S = 0.5
"""How often the figures of a canary are looked at while nothing is recorded."""
PRUNE_S = 60.0
"""How often a process that listens deletes events that the retention lets go."""
_WHY = 300


class Engine:
    """Starts and stops the listeners of this process.

    Parameters
    ----------
    resolve, forget : callable
        The first takes a selector and returns a function that finds its model version and model.
        The second makes that function ask the registry again.
    broker, outside, origins, log, registry, ledger, clock
        The parts that listeners work with.
    lanes : LaneStore
        The lanes of the store.
    judge : callable
        Looks at the figures of the canary of a subscription.
    tidy : callable
        Deletes events that the retention lets go. Called once a minute while a listener runs.
    descent : Descent
        Counts the descendants of events.
    observed : Observed
        Tells an observer of each step.
    feed : Feed
        The way of sources into the bus.
    sender : callable
        Returns the subscription that sends the events of a topic elsewhere. ``None`` for others.
    join : callable
        Makes this process a worker of the store. Returns its number.
    news : callable
        Looks for all receivers of this process. Returns a value that differs after each commit.
    every_s : callable
        Returns how often a receiver would look itself.
    """

    def __init__(
        self,
        resolve: Callable[[str], Callable[[], tuple[ModelVersion, Model]]],
        *,
        forget: Callable[[], None],
        broker: Broker,
        outside: Outside | None,
        origins: Origins,
        log: Log,
        registry: Registry,
        ledger: Ledger,
        lanes: LaneStore,
        judge: Judge,
        clock: Clock,
        tidy: Callable[[], object],
        descent: Descent,
        observed: Observed,
        feed: Feed,
        sender: Callable[[str | None], SubscriptionSpec | None],
        join: Callable[[], int],
        news: Callable[[], object],
        every_s: Callable[[], float],
    ) -> None:
        self.worker_id = 0
        self.feeders = Feeders(feed)
        self._registry, self._broker, self._origins = registry, broker, origins
        self._forget, self._sender = forget, sender
        self._join_store, self._news = join, news
        self._seen: object = None
        self._followed: object = None
        self._restless = self._lost = False
        self._workers = ThreadWorkers()
        self._assembly = Assembly(
            *(resolve, ledger, judge, origins, clock, self._workers),
            look=self._look,
            broker=broker,
            outside=outside,
            log=log,
            descent=descent,
            observed=observed,
        )
        chores = [
            Chore(lambda: SEEN_S, lambda: registry.seen(self.worker_id)),
            Chore(lambda: min(LOOK_S, every_s()), self._look_for_news),
            Chore(lambda: WATCH_S, self._watch_canaries),
            Chore(lambda: PRUNE_S, beside(self._workers.submit, tidy)),
        ]
        if outside is not None:
            upkeep = beside(self._workers.submit, outside.upkeep)
            chores.append(Chore(lambda: UPKEEP_S, upkeep))
        self._keeper = Keeper(chores)
        self._listeners: dict[str, Listener] = {}
        self.vitals = Vitals(self._listeners, self._keeper, self.state)
        self._retired: list[Listener] = []
        self._on_call: list[Answering] = []
        self._guard = threading.Lock()
        self.lanes = Lanes(
            *(self._assembly, registry, lanes, self._keeper, self._workers),
            lambda: self._listeners,
            lambda: [*self._listeners.values(), *self._on_call],
            {"emits": broker, "checks": outside},
        )

    def __len__(self) -> int:
        """Return how many subscriptions are delivered here."""
        return len(self._listeners)

    @property
    def busy(self) -> bool:
        """Whether a model is being called here."""
        return any(listener.in_flight for listener in self._all())

    def _all(self) -> list[Listener]:
        own = [*self._listeners.values(), *self._retired, *self._on_call]
        return [*own, *self.lanes.listeners()]

    def state(self, name: str) -> str:
        """Return the state of the listener of subscription *name*, ``stopped`` without one."""
        listener = self._listeners.get(name)
        if listener is None:
            return "stopped"
        if trouble := self.feeders.trouble(listener.spec.topic):
            return f"waiting for {trouble}"
        if listener.state.startswith(("waiting for", "stopped by")):
            return f"{listener.state}: {listener.why[:_WHY]}"
        if listener.trouble:
            return f"waiting for the store: {listener.trouble[:_WHY]}"
        return listener.state + (
            f", {listener.leftover} timed-out calls left behind" if listener.leftover else ""
        )

    def pauses(self, name: str) -> bool:
        """Whether the listener of subscription *name* pauses, see :attr:`Listener.pauses`."""
        listener = self._listeners.get(name)
        return listener is not None and listener.pauses

    def listen(self, spec: SubscriptionSpec) -> None:
        """Deliver *spec* here. Idempotent.

        A listener with another policy or selector is replaced. Its calls may end.
        """
        with self._guard:
            running = self._listeners.get(spec.name)
            if running is not None and self._assembly.goes_on(spec, running.spec):
                running.spec = spec
            else:
                if self.worker_id == 0:
                    self.worker_id = self._join_store()
                if running is not None:
                    self._retired = [r for r in self._retired if r.state != "stopped"] + [running]
                    # now: what is published next is not for the version before
                    running.begin_stop()
                    # in the background; the keeper goes on holding its leases
                    self._workers.submit(running.stop)
                self._listeners[spec.name] = self._started(spec)
        self.lanes.follow(self.worker_id)
        if (source := self._origins.source(spec)) is not None:
            specs = [spec, *self._registry.subscriptions()]
            self.feeders.feed(spec.topic, source, specs, self._registry.paused())
        if (sender := self._sender(spec.emit)) is not None and sender.name != spec.name:
            self.listen(sender)

    def place(self, name: str, executor: Executing | None) -> bool:
        """Let the model of subscription *name* run in *executor*, or in this process for None.

        Returns whether this ended a listener. Then it has to be started again.
        """
        with self._guard:
            if executor is self._assembly.executors.get(name):
                return False
            self._assembly.executors.pop(name, None)
            if executor is not None:
                self._assembly.executors[name] = executor
            running = self._listeners.pop(name, None)
            if running is not None:
                self._retired = [r for r in self._retired if r.state != "stopped"] + [running]
                running.begin_stop()
                self._workers.submit(running.stop)
            return running is not None

    def borrowed(self, spec: SubscriptionSpec) -> OnCall:
        """Return a listener that is never started. The caller receives, and calls ``process``."""
        self._join()
        return self._assembly.listener(spec, OnCall)

    def answering(self, spec: SubscriptionSpec, broker: Broker, placed_like: str) -> Answering:
        """Return a listener for direct calls, with the leases of *broker*.

        Its model runs where that of the subscription *placed_like* runs here. :meth:`let_go` ends
        it.
        """
        self._join()
        listener = self._assembly.listener(
            spec, Answering, placed_like, broker=broker, outside=None
        )
        listener.state = "listening"
        self._on_call.append(listener)
        self._keeper.watch(listener)
        return listener

    def run(self, call: Callable[[], None]) -> None:
        """Run *call* in a thread of this process. It must not raise."""
        self._workers.submit(call)

    def let_go(self, listener: Answering) -> None:
        """End a listener for direct calls, once its calls have ended."""
        self._on_call.remove(listener)
        listener.begin_stop()
        self._workers.submit(listener.stop)

    def _join(self) -> None:
        with self._guard:
            if self.worker_id == 0:
                self.worker_id = self._join_store()

    def stop(self, name: str, drain_s: float) -> None:
        """Deliver subscription *name* here no more. Idempotent."""
        if (listener := self._listeners.get(name)) is None:
            return
        listener.begin_stop()  # nothing begins any more once it is said to be stopped
        with self._guard:
            if self._listeners.get(name) is not listener:
                return
            del self._listeners[name]
        self.lanes.follow(self.worker_id)
        self._end(listener, drain_s)

    def _end(self, listener: Listener, drain_s: float) -> None:
        with self._guard:
            if all(other.spec.topic != listener.spec.topic for other in self._listeners.values()):
                self.feeders.forget(listener.spec.topic)
        listener.stop(drain_s)
        self._keeper.forget(listener)
        try:
            self._registry.listening(listener.spec.id, self.worker_id, on=False)
        except StoreError:
            # it has stopped all the same; the store will notice when this process is gone
            logger.warning(
                "subscription %s: the store did not answer when it was stopped", listener.spec.name
            )

    def wake(self) -> None:
        """Let every listener look again, since the clock was moved."""
        for listener in list(self._listeners.values()):
            self._broker.wake(listener.spec)
        self.lanes.wake()

    def _look(self, spec: SubscriptionSpec, known: str | None) -> str | None:
        """Return the generation of the registry, or None if *spec* has changed there.

        Unless it is *known*, versions are resolved anew.
        """
        # first: what is resolved from now on is at least as new
        generation = self._registry.generation()
        if generation == known:
            return known
        self._forget()
        found = self._registry.subscription(spec.name)
        if found is not None and self._assembly.goes_on(found, spec):
            return generation
        self._follow()
        return None

    def _look_for_news(self) -> None:
        """Ask the store whether anything has changed. Follow changes of the registry."""
        try:
            seen = self._news()
            if seen != self._seen and self._has_news():
                self._restless = True
            elif self._restless:  # calm again: load newer versions before the next event comes
                self._restless = False
                self._forget()
                self.wake()
            self._seen = seen
        except Exception:
            if not self._lost:
                self._lost = True
                self.wake()  # listeners that wait find out themselves, and say so
            raise
        self._lost = False

    def _has_news(self) -> bool:
        """Follow the registry. Return whether it has changed."""
        now = self._registry.generation(), self._registry.paused()
        if now == self._followed:
            return False
        if self._follow():
            self._followed = now
        return True

    def _follow(self) -> bool:
        """Follow changes of subscriptions by other processes. Return whether all are followed."""
        known, done = {spec.name: spec for spec in self._registry.subscriptions()}, True
        self.feeders.follow(list(known.values()), self._registry.paused())
        for name, listener in list(self._listeners.items()):
            spec = known.get(name)
            done = done and spec == listener.spec
            # Not here: stopping waits for calls, and the leases of others wait for this thread.
            if spec is None:
                self._workers.submit(functools.partial(quietly, self._let_go, name))
            elif spec != listener.spec:
                self._workers.submit(functools.partial(quietly, self.listen, spec))
        self._workers.submit(functools.partial(quietly, self.lanes.follow, self.worker_id))
        return done

    def _let_go(self, name: str) -> None:
        with self._guard:
            # Ask again under the guard: it may have been subscribed anew.
            listener = (
                self._listeners.pop(name, None)
                if self._registry.subscription(name) is None
                else None
            )
        if listener is not None:
            self._end(listener, DRAIN_S)

    def close(self, drain_s: float) -> None:
        """Stop everything within *drain_s*. First no listener receives, then they drain."""
        end = time.monotonic() + drain_s
        self.feeders.stop()
        self.lanes.begin_stop()
        for listener in [*self._listeners.values(), *self._on_call]:
            listener.begin_stop()
        for listener in [*self._retired, *self._on_call]:
            listener.stop(max(0.0, end - time.monotonic()))
        for name in list(self._listeners):
            self.stop(name, max(0.0, end - time.monotonic()))
        self.lanes.stop()
        self._keeper.stop()
        self._workers.close()

    def _started(self, spec: SubscriptionSpec) -> Listener:
        listener = self._assembly.listener(spec, Listener)
        self._registry.listening(spec.id, self.worker_id, on=True)
        listener.start()
        self._keeper.watch(listener)  # after the start: it forgets a listener that is stopped
        return listener

    def prepare(self, name: str, selector: str) -> None:
        """Load a version for the listener of subscription *name*, if there is one here."""
        if (listener := self._listeners.get(name)) is not None:
            listener.bindings.prepare(selector)

    def look_again(self, name: str) -> None:
        """Let the listener of subscription *name* find a new binding at once, if it is here."""
        self._forget()
        if (listener := self._listeners.get(name)) is not None:
            self._broker.wake(listener.spec)
            self.lanes.follow(self.worker_id)

    def _watch_canaries(self) -> None:
        for listener in list(self._listeners.values()):
            if listener.bindings.canary is not None:
                self._workers.submit(listener.bindings.watch)
