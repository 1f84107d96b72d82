"""Lanes: listeners beside those of the subscriptions, which never stand in their way.

A lane has threads, slots and a rate of its own. It lets live calls go first. It emits nothing, and
an event that it fails on is no dead letter.
"""

from __future__ import annotations

import dataclasses
import functools
import json
import logging
import threading
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from mltrigger.broker import (
    MAX_EVENT_BYTES,
    Broker,
    Delivery,
    Outside,
    Settlement,
    SubscriptionSpec,
)
from mltrigger.broker.alike import Alike
from mltrigger.delivery.assembly import Assembly
from mltrigger.delivery.claims import Claims, Room
from mltrigger.delivery.correcting import CorrectionRecorder
from mltrigger.delivery.keeper import Keeper
from mltrigger.delivery.listener import DRAIN_S, Listener
from mltrigger.delivery.recorder import Recorder
from mltrigger.delivery.threads import ThreadWorkers
from mltrigger.errors import Closed, StoreError
from mltrigger.event.data import encode_data
from mltrigger.event.envelopes import IGNORED_TYPES
from mltrigger.event.event import DEFAULT_SOURCE
from mltrigger.policy import DeliveryPolicy, backoff_s
from mltrigger.store.lane_store import LaneStore
from mltrigger.store.outcomes import ANSWERING, Outcome
from mltrigger.store.registry import Registry
from mltrigger.store.shares import in_share, key_of
from mltrigger.store.topics import Seen
from mltrigger.versions.running.invoke import Result

logger = logging.getLogger("mltrigger")

QUIET_S = 0.005
"""How long after a live call a lane begins nothing."""
_PATIENCE_S = 0.25
"""How long a lane waits for a pause of live calls. Else it would never begin beside busy ones."""
_GATHER_S = 0.05
"""The pause of a lane that keeps up with live events. It takes several of them then."""
_RECENT_S = 1.0
_SHORT = 8
"""Beside live calls a lot of a lane is so much shorter."""
_FINITE_POLL_S = 0.2


class Traffic:
    """Tells whether live calls are under way in this process.

    Parameters
    ----------
    live : callable
        Returns the listeners of subscriptions.
    """

    def __init__(self, live: Callable[[], Iterable[Listener]]) -> None:
        self._live = live

    def is_quiet(self, for_s: float = QUIET_S) -> bool:
        """Whether no live call is under way or ended in the last *for_s* seconds."""
        before_s = time.monotonic() - for_s
        return not any(each.slots.busy or each.slots.last_s > before_s for each in self._live())

    def wait(self, stopping: threading.Event) -> None:
        """Wait for a pause of live calls, but not for long."""
        end_s = time.monotonic() + _PATIENCE_S
        while not self.is_quiet() and time.monotonic() < end_s:
            if stopping.wait(QUIET_S):
                return


class LaneClaims(Claims):
    """Leases the events of a lane."""

    keep: Callable[[Sequence[Delivery]], Sequence[Delivery]]
    """Returns the deliveries that the lane calls its model with. The others end."""
    traffic: Traffic
    finish: Callable[[], bool] | None
    """Ends a lane that is through. ``None`` for one that has no end."""
    _is_behind = True

    def room(self, slots: Callable[[Any], int], in_use: Any) -> Room:
        """Return how much may begin now. It is less beside live calls."""
        room = super().room(slots, in_use)
        if room.events > 1 and not room.batches and not self.traffic.is_quiet(_RECENT_S):
            return room._replace(events=max(1, room.events // _SHORT))
        return room

    def receive(self, room: Room) -> Sequence[Delivery]:
        """Receive as much as there is room for, once no live call is under way."""
        if not self._is_behind and not self.traffic.is_quiet(_RECENT_S):
            self._stopping.wait(_GATHER_S)
        self.traffic.wait(self._stopping)
        found = super().receive(room)
        self._is_behind = len(found) >= room.events
        if not found and self.finish is not None and not self._outdated:
            self.finish()
        return found

    @property
    def poll_s(self) -> float:
        """The longest wait for an event."""
        return super().poll_s if self.finish is None else _FINITE_POLL_S

    @property
    def may_follow(self) -> bool:
        """Whether a claim may be part of another commit: not while live calls are under way."""
        return super().may_follow and self.traffic.is_quiet(_RECENT_S)

    def admitted(self, deliveries: Sequence[Delivery]) -> Sequence[Delivery]:
        """Return the deliveries that may begin. Those that are not for this lane end."""
        return super().admitted(self.keep(deliveries))


class LaneRecorder(Recorder):
    """Records attempts of a shadow or a replay. No caller waits for them or is told.

    An event that fails is dead, but no dead letter. A power cut may undo the record: then the event
    comes again.
    """

    durable = False

    def _verdict(self, delivery: Delivery, result: Result) -> tuple[Outcome, Settlement]:
        if result.reason == "effect_missing" and not result.permanent:  # the live call goes on
            delay_s = backoff_s(delivery.attempt, self._uniform)
            return "failed", Settlement(delivery, "retry", delay_s, counts="nothing")
        outcome, settlement = super()._verdict(delivery, result)
        if settlement.verdict == "dead_letter":
            return outcome, Settlement(delivery, "ack")
        return outcome, settlement

    def _is_last(self, delivery: Delivery, died: bool) -> bool:
        if died:  # in a process of its own: the next call has it alone
            return delivery.abandoned > 0
        return super()._is_last(delivery, died)


class LaneListener(Listener):
    """Delivers a lane. Its parameters are those of a listener, and the parts of its claims."""

    claiming = LaneClaims

    def __init__(
        self,
        spec: SubscriptionSpec,
        bindings: Any,
        *,
        keep: Callable[[Sequence[Delivery]], Sequence[Delivery]],
        traffic: Traffic,
        finish: Callable[[], bool] | None,
        **parts: Any,
    ) -> None:
        super().__init__(spec, bindings, **parts)
        self._claims: LaneClaims
        self._claims.keep, self._claims.traffic, self._claims.finish = keep, traffic, finish


class SilentLaneListener(LaneListener):
    """Delivers a lane whose answers no caller gets: a shadow or a replay."""

    recording = LaneRecorder


class CorrectionListener(LaneListener):
    """Delivers a lane of corrections. Its parameters are also those of its recorder."""

    def __init__(
        self, *given: Any, emits: Broker, checks: Outside | None = None, **parts: Any
    ) -> None:
        self.recording = functools.partial(CorrectionRecorder, emits=emits, checks=checks)
        super().__init__(*given, **parts)


class Lanes:
    """The lanes that run in this process: those of the subscriptions that are delivered here.

    Parameters
    ----------
    assembly, registry, store, keeper, workers
        Parts of the engine.
    live : callable
        Returns the listeners of subscriptions by their names.
    calling : callable
        Returns all listeners with live calls.
    outlet : mapping
        Further parts of lanes that emit: see :class:`CorrectionRecorder`.
    """

    def __init__(
        self,
        assembly: Assembly,
        registry: Registry,
        store: LaneStore,
        keeper: Keeper,
        workers: ThreadWorkers,
        live: Callable[[], Mapping[str, Listener]],
        calling: Callable[[], Iterable[Listener]],
        outlet: Mapping[str, Any],
    ) -> None:
        self._assembly, self._registry, self._store = assembly, registry, store
        self._keeper, self._workers, self._live = keeper, workers, live
        self._outlet = outlet
        self._listeners: dict[int, LaneListener] = {}
        self._retired: list[LaneListener] = []
        self._guard = threading.Lock()
        self._closed = False
        self._specs: dict[int, SubscriptionSpec] = {}
        self._traffic = Traffic(calling)

    def listeners(self) -> list[LaneListener]:
        """Return all listeners of lanes, also those whose calls still end."""
        return [*self._listeners.values(), *self._retired]

    def state(self, number: int) -> str:
        """Return the state of a lane in this process."""
        listener = self._listeners.get(number)
        if listener is None:
            return "stopped"
        return f"{listener.state}: {listener.why[:300]}" if listener.why else listener.state

    def follow(self, worker_id: int) -> None:
        """Run the open lanes of the subscriptions that are delivered here, and no others."""
        with self._guard:
            if self._closed:
                return
            parents = {listener.spec.id: name for name, listener in self._live().items()}
            open_ = {spec.id: spec for spec in self._registry.lanes()}
            wanted = {n: spec for n, spec in open_.items() if spec.parent_id in parents}
            for number in list(self._listeners):
                if wanted.get(number) != self._specs[number]:
                    self._retire(number, worker_id)
            for number, spec in wanted.items():
                if number not in self._listeners:
                    self._start(spec, parents[spec.parent_id], worker_id)

    def wake(self) -> None:
        """Let every lane look again."""
        for listener in list(self._listeners.values()):
            self._store.broker.wake(listener.spec)

    def begin_stop(self) -> None:
        """Begin nothing any more. Returns at once."""
        with self._guard:
            self._closed = True
            for listener in self.listeners():
                listener.begin_stop()

    def stop(self) -> None:
        """End all lanes. A call under way is given back: no caller waits for a lane."""
        for listener in self.listeners():
            listener.stop(0.0)
            self._keeper.forget(listener)

    def _start(self, spec: SubscriptionSpec, parent: str, worker_id: int) -> None:
        answers = spec.role in ANSWERING
        kind = CorrectionListener if answers else SilentLaneListener
        self._specs[spec.id] = spec
        listener = self._assembly.listener(
            spec,
            kind,
            parent,
            is_lane=True,
            broker=self._store.broker,
            outside=None,
            # events that were answered are not filtered again
            keep=_all if answers else functools.partial(_kept, spec, self._store),
            traffic=self._traffic,
            finish=None if spec.role == "shadow" else lambda: self._store.finish(spec.id),
            **(self._outlet if answers else {}),
        )
        self._registry.listening(spec.id, worker_id, on=True)
        listener.start()
        self._keeper.watch(listener)
        self._listeners[spec.id] = listener

    def _retire(self, number: int, worker_id: int) -> None:
        listener = self._listeners.pop(number)
        self._retired = [r for r in self._retired if r.state != "stopped"] + [listener]
        listener.begin_stop()
        self._workers.submit(functools.partial(self._end, listener, worker_id))

    def _end(self, listener: LaneListener, worker_id: int) -> None:
        try:
            listener.stop(min(DRAIN_S, listener.spec.policy.timeout_s))
            self._registry.listening(listener.spec.id, worker_id, on=False)
        except (StoreError, Closed):
            logger.warning("%s: the store did not answer when it ended", listener.spec.name)


def _all(deliveries: Sequence[Delivery]) -> Sequence[Delivery]:
    return deliveries


def _kept(
    spec: SubscriptionSpec, store: LaneStore, deliveries: Sequence[Delivery]
) -> Sequence[Delivery]:
    """Return the deliveries that pass the filter and the share of a lane. End the others.

    Arrivals that were no events are never among them.
    """
    share = _share(spec)
    if share >= 1.0 and spec.filter is None:
        some = deliveries[:1] if isinstance(deliveries, Alike) else deliveries
        if not any(map(_is_no_event, some)):
            return deliveries
    kept = [d for d in deliveries if _is_for(spec, share, d)]
    if len(kept) == len(deliveries):
        return deliveries
    mine = {d.seq for d in kept}
    store.drop([d for d in deliveries if d.seq not in mine])
    return kept


def _share(spec: SubscriptionSpec) -> float:
    return float(json.loads(spec.lane).get("share") or 1.0)


def _is_no_event(d: Delivery) -> bool:
    return d.event.type in IGNORED_TYPES and d.event.source.startswith(f"{DEFAULT_SOURCE}/")


def _is_for(spec: SubscriptionSpec, share: float, d: Delivery) -> bool:
    if _is_no_event(d) or not in_share(key_of(d, spec.policy.key), share, f"lane:{spec.id}"):
        return False
    if spec.filter is None:
        return True
    return Seen(d.event, *encode_data(d.event, MAX_EVENT_BYTES)).passes(spec.filter)


def policy_of(spec: SubscriptionSpec, concurrency: int, rate: float | None) -> DeliveryPolicy:
    """Return the policy of a lane of *spec*: one attempt an event, and no age limit."""
    return dataclasses.replace(
        spec.policy,
        max_attempts=1,
        max_concurrency=concurrency,
        max_rate_per_s=rate,
        max_age_s=None,
        batch_window_s=0.0,
        ack="completed",
    )
