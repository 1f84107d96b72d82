"""The listeners of lanes of corrections in this process: those whose parent is delivered here."""

from __future__ import annotations

import threading
from collections.abc import Callable, Collection, Iterator

from mltrigger.broker import Broker, Outside, SubscriptionSpec
from mltrigger.delivery.assembly import Assembly
from mltrigger.delivery.correcting import CorrectionListener
from mltrigger.delivery.keeper import Keeper
from mltrigger.store.registry import Registry


class CorrectionLanes:
    """Starts and stops them."""

    def __init__(
        self,
        registry: Registry,
        assembly: Assembly,
        local: Broker,
        emits: Broker,
        checks: Outside | None,
        run: Callable[[Callable[[], None]], None],
    ) -> None:
        self._registry, self._assembly, self._local = registry, assembly, local
        self._emits, self._checks, self._run = emits, checks, run
        self.keeper: Keeper
        self._listeners: dict[str, CorrectionListener] = {}
        self._guard = threading.Lock()

    def __iter__(self) -> Iterator[CorrectionListener]:
        return iter(list(self._listeners.values()))

    def follow(self, parents: Collection[SubscriptionSpec]) -> None:
        """Listen for the lanes of *parents*, and for no others."""
        by_id = {spec.id: spec for spec in parents}
        lanes = {
            spec.name: spec
            for spec in self._registry.subscriptions("correction")
            if spec.parent_id in by_id
        }
        with self._guard:
            for name, listener in list(self._listeners.items()):
                if lanes.get(name) != listener.spec:
                    del self._listeners[name]
                    listener.begin_stop()
                    self._run(listener.stop)
            for name, spec in lanes.items():
                if name not in self._listeners:
                    listener = self._assembly.listener(
                        spec,
                        CorrectionListener,
                        by_id[spec.parent_id].name,
                        broker=self._local,
                        outside=None,
                        emits=self._emits,
                        checks=self._checks,
                    )
                    self._listeners[name] = listener
                    listener.start()
                    self.keeper.watch(listener)
