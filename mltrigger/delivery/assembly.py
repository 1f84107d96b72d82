"""Assembly: puts the parts of a listener together."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

from mltrigger.broker import SubscriptionSpec
from mltrigger.clock import Clock
from mltrigger.delivery.bindings import Bindings
from mltrigger.delivery.listener import Listener
from mltrigger.delivery.origins import Origins
from mltrigger.delivery.threads import ThreadWorkers
from mltrigger.store.ledger import Binding, Ledger
from mltrigger.versions.describe import Model
from mltrigger.versions.running.placement import Executing, Placement
from mltrigger.versions.version import ModelVersion

Kind = TypeVar("Kind", bound=Listener)
Judge = Callable[[SubscriptionSpec, Sequence[Binding]], None]
"""Looks at the figures of the canary of a subscription."""


class Assembly:
    """Makes the listeners of one process.

    Parameters
    ----------
    resolve : callable
        Takes a selector. Returns a function that finds its model version and model.
    ledger, judge, origins, clock, workers
        Parts of the bus and its engine.
    **parts
        Further parts that every listener gets.
    """

    def __init__(
        self,
        resolve: Callable[[str], Callable[[], tuple[ModelVersion, Model]]],
        ledger: Ledger,
        judge: Judge,
        origins: Origins,
        clock: Clock,
        workers: ThreadWorkers,
        **parts: Any,
    ) -> None:
        self._resolve, self._ledger, self._judge = resolve, ledger, judge
        self._origins, self._clock, self._workers = origins, clock, workers
        self._parts = parts
        self.executors: dict[str, Executing] = {}
        """The places of models, by subscription."""

    def listener(
        self,
        spec: SubscriptionSpec,
        kind: type[Kind],
        placed_like: str = "",
        *,
        is_lane: bool = False,
        **others: Any,
    ) -> Kind:
        """Return a new listener. Its model runs where that of *placed_like* does.

        A lane shares no executor with others, since a call in it may break that.
        """
        executor, policy = self.executors.get(placed_like or spec.name), spec.policy
        if is_lane and executor is not None and not callable(executor):
            executor, policy = None, dataclasses.replace(policy, isolation="process")

        def place(selector: str) -> Placement:
            return Placement(self._resolve(selector), policy, executor)

        parts = {**self._parts, **others}
        return kind(
            spec,
            self._bindings(spec, place),
            clock=self._clock,
            workers=self._workers,
            prepare=self._origins.prepare(spec),
            **parts,
        )

    def _bindings(self, spec: SubscriptionSpec, place: Callable[[str], Placement]) -> Bindings:
        if spec.role == "direct":  # it has a selector, and no versions one after the other
            return Bindings(spec, place, self._clock)
        return Bindings(
            spec,
            place,
            self._clock,
            rows=functools.partial(self._ledger.rows, spec.id),
            first=functools.partial(self._ledger.first, spec.id),
            judge=functools.partial(self._judge, spec),
        )

    def goes_on(self, spec: SubscriptionSpec, before: SubscriptionSpec) -> bool:
        """Whether a listener of *before* also does what *spec* says.

        It takes another version from the ledger. A cell that binds another version starts anew: a
        call that hangs in the old one must not hold back the new one.
        """
        if spec == before:
            return True
        if dataclasses.replace(spec, selector=before.selector) != before:
            return False
        return self._ledger.newest_kind(spec.id) != "bind"
