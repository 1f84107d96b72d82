"""Watching a canary: any listener that holds it looks at its figures after each lot."""

from __future__ import annotations

import json
import math
import threading
import time
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from mltrigger.broker import SubscriptionSpec
from mltrigger.clock import Clock
from mltrigger.rollout.guard import Alarm, Guard, alarms
from mltrigger.store import tries
from mltrigger.store.ledger import Binding, Change, Ledger
from mltrigger.store.registry import Registry
from mltrigger.store.transaction import Reader, Store
from mltrigger.versions.selector import Selector, resolve
from mltrigger.versions.version import ModelVersion

Alias = tuple[str, str, str] | tuple[str, str, str, str]
"""A model, its alias, the version that it means, and the foreign alias that it follows."""
_LOOK_S = 0.2
"""The shortest time between two looks of one process."""
_REST = 20
"""A look that takes long is followed by a rest that is so many times longer."""
_FEW = 100
"""Live calls that make a 95th percentile."""
_NOISE_US = 1_000
"""A slow call is slower by this at least: the times of fast models are noise of the machine."""
_NEVER = 2**62
_MOST_NUMBERS = 20_000
"""Numbers of one measure that are compared."""


class _Counts:
    """The attempts of one canary that were counted so far: those of lots up to ``after``."""

    def __init__(self, first: int, slow_us: int, after: int) -> None:
        self.first, self.slow_us, self.after = first, slow_us, after
        self._tried: dict[tuple[int, str], tries.Tried] = {}
        self._measured: dict[str, tuple[list[float], list[float]]] = {}

    def go_on(self, reader: Reader, subscription_id: int, measures: Iterable[str]) -> None:
        """Count the attempts that were recorded since then."""
        newest = tries.newest_lot(reader)
        found = tries.tried(reader, subscription_id, self.first, self.slow_us, self.after)
        for key, more in found.items():
            self._tried[key] = self._tried.get(key, tries.Tried()).plus(more)
        for name in measures:
            own = self._measured.setdefault(name, ([], []))
            new = tries.measured(reader, subscription_id, self.first, name, self.after)
            for numbers, values in zip(own, new, strict=True):
                numbers += values[: _MOST_NUMBERS - len(numbers)]
        self.after = max(self.after, newest)  # another thread may have a newer snapshot

    def of(self, role: str, binding: int | None = None) -> tries.Tried:
        """Return the attempts of a role, under all bindings or one."""
        found = tries.Tried()
        for (number, its), counts in self._tried.items():
            if its == role and binding in (None, number):
                found = found.plus(counts)
        return found

    @property
    def measured(self) -> Mapping[str, tuple[Sequence[float], Sequence[float]]]:
        """The numbers of each measure, of the canary and of the live version."""
        return self._measured


def follow(registry: Registry, now: Binding, meant: ModelVersion) -> tuple[str, Alias | None]:
    """Return the selector of a new binding, and the alias of ours that it moves."""
    selector = Selector.parse(now.selector)
    if selector.alias is None or selector.name != meant.name:
        return str(meant), None
    if registry.followed(selector) is not None:
        return str(meant), None  # the alias of a foreign registry is moved there
    return now.selector, (selector.name, selector.alias, meant.version)


class Watch:
    """Judges the canaries of one store, and goes on with their steps.

    Parameters
    ----------
    store, ledger, clock, registry
        Parts of the bus.
    """

    def __init__(self, store: Store, ledger: Ledger, clock: Clock, registry: Registry) -> None:
        self._store, self._ledger, self._clock = store, ledger, clock
        self._registry = registry
        self._next_s: dict[int, float] = {}
        self._counts: dict[int, _Counts] = {}
        self._guard, self._counting = threading.Lock(), threading.Lock()

    def look(self, spec: SubscriptionSpec, rows: Sequence[Binding]) -> None:
        """Roll the canary back, go on with its next step, or do nothing.

        Looks of several processes do not disturb each other: a binding is added only behind the one
        that was judged.
        """
        began_s = time.monotonic()
        with self._guard:
            if began_s < self._next_s.get(spec.id, -math.inf):
                return
            self._next_s[spec.id] = math.inf
        try:
            self.judge(spec.id, rows)
        finally:
            ended_s = time.monotonic()
            self._next_s[spec.id] = ended_s + max(_LOOK_S, _REST * (ended_s - began_s))

    def judge(self, subscription_id: int, rows: Sequence[Binding]) -> Binding | None:
        """Look now. Return the binding that was added, if any."""
        # again: the limit of slow calls may have been measured since
        row = self._ledger.rows(subscription_id)[-1]
        if row.canary is None or row.number != rows[-1].number:
            return None
        if "slow_us" not in row.steps:
            row = self._with_limit(subscription_id, row)
        with self._store.snapshot() as reader:
            found = self.figures(reader, subscription_id, row)
        broken = [alarm for alarm in found if alarm.is_broken]
        if broken:
            return self._rolled_back(subscription_id, row, broken)
        plan = row.steps
        step = self._counts[subscription_id].of("canary", row.number)
        waited_s = (self._clock.now_us() - row.made_us) / 1e6
        if step.n < plan["min_events"] or waited_s < plan["min_s"]:
            return None
        return self._next(subscription_id, row, plan)

    def figures(self, reader: Reader, subscription_id: int, row: Binding) -> list[Alarm]:
        """Return the rules of the guard of a canary with their figures.

        Each look reads only the attempts since the one before.
        """
        plan = row.steps
        guard, first, slow_us = Guard(**plan["guard"]), plan["first"], plan.get("slow_us", _NEVER)
        with self._counting:
            counts = self._counts.get(subscription_id)
            if counts is None or (counts.first, counts.slow_us) != (first, slow_us):
                counts = _Counts(first, slow_us, plan.get("after", 0))
            counts.go_on(reader, subscription_id, guard.measures)
            self._counts[subscription_id] = counts
            return alarms(guard, counts.of("canary"), counts.of("live"), counts.measured)

    def forget(self) -> None:
        """Count all attempts anew at the next look."""
        with self._counting:
            self._counts = {}

    def _with_limit(self, subscription_id: int, row: Binding) -> Binding:
        """Measure the limit of slow calls, once there are enough. It never changes then."""
        with self._store.snapshot() as reader:
            p95_us, n = tries.p95_us(reader, subscription_id)
        if n < _FEW:
            return row
        factor = row.steps["guard"].get("p95") or 1.0
        slow_us = max(int(p95_us * factor), p95_us + _NOISE_US)
        self._ledger.set_slow(subscription_id, row.number, slow_us)
        return self._ledger.rows(subscription_id)[row.number]

    def _rolled_back(
        self, subscription_id: int, row: Binding, broken: Sequence[Alarm]
    ) -> Binding | None:
        said = "; ".join(f"{a.rule}: {a.text} (e = {a.e:.3g}, limit {a.limit:g})" for a in broken)
        verdict = {"word": "WORSE", "rules": [[a.rule, a.e, a.limit, a.text] for a in broken]}
        return self._ledger.append(
            subscription_id,
            Change(
                "rollback",
                row.selector,
                row.model_version_id,
                made_by="guard",
                why=f"the guard rolled {row.canary} back: {said}",
                verdict=json.dumps(verdict),
                after=row.number,
            ),
        )

    def _next(self, subscription_id: int, row: Binding, plan: Mapping[str, Any]) -> Binding | None:
        """Add the next step. After the last one promote, if the plan says so."""
        at, steps = plan["at"] + 1, plan["steps"]
        if at < len(steps):
            return self._ledger.append(
                subscription_id,
                Change(
                    "step",
                    row.selector,
                    row.model_version_id,
                    row.canary,
                    row.canary_version_id,
                    steps[at],
                    made_by="guard",
                    why=f"step {at + 1} of {len(steps)}: the guard was quiet",
                    plan={**plan, "at": at},
                    after=row.number,
                ),
            )
        if plan["then"] != "promote" or row.canary is None:
            return None
        meant = resolve(self._registry, Selector.parse(row.canary))
        selector, alias = follow(self._registry, row, meant)
        return self._ledger.append(
            subscription_id,
            Change(
                "promote",
                selector,
                row.canary_version_id,
                made_by="guard",
                why="the guard was quiet in all steps of the canary",
                after=row.number,
                alias=alias,
            ),
        )
