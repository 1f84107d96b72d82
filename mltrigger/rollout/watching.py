"""Watching a canary: any listener that holds it looks at its figures after each lot."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Mapping, Sequence
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

Alias = tuple[str, str, str]
"""A model, its alias, and the version that it means."""
_LOOK_S = 0.2
"""The shortest time between two looks of one process. Each one reads the attempts of the canary."""
_FEW = 100
"""Live calls that make a 95th percentile."""


def follow(registry: Registry, now: Binding, meant: ModelVersion) -> tuple[str, Alias | None]:
    """Return the selector of a new binding, and the alias of ours that it moves."""
    selector = Selector.parse(now.selector)
    if selector.alias is None or selector.name != meant.name:
        return str(meant), None
    if registry.followed(selector) is not None:
        return str(meant), None  # the alias of a foreign registry is moved there
    return now.selector, (selector.name, selector.alias, meant.version)


class Watch:
    """Judges the canaries of one store, and goes on with their steps."""

    def __init__(self, store: Store, ledger: Ledger, clock: Clock, registry: Registry) -> None:
        self._store, self._ledger, self._clock = store, ledger, clock
        self._registry = registry
        self._looked_s: dict[int, float] = {}
        self._guard = threading.Lock()

    def look(self, spec: SubscriptionSpec, rows: Sequence[Binding]) -> None:
        """Roll the canary back, go on with its next step, or do nothing.

        Looks of several processes do not disturb each other: a binding is added only behind the one
        that was judged.
        """
        now_s = time.monotonic()
        with self._guard:
            if now_s - self._looked_s.get(spec.id, 0.0) < _LOOK_S:
                return
            self._looked_s[spec.id] = now_s
        self.judge(spec.id, rows)

    def judge(self, subscription_id: int, rows: Sequence[Binding]) -> Binding | None:
        """Look now. Return the binding that was added, if any."""
        row = rows[-1]
        if row.canary is None:
            return None
        plan = dict(row.steps)
        with self._store.snapshot() as reader:
            if "slow_us" not in plan:
                p95_us, n = tries.p95_us(reader, subscription_id)
                if n >= _FEW:
                    plan["slow_us"] = int(p95_us * (plan["guard"].get("p95") or 1.0))
            found = self.figures(reader, subscription_id, row, plan)
        if plan != row.steps:
            self._ledger.set_plan(subscription_id, row.number, plan)
        broken = [alarm for alarm in found if alarm.is_broken]
        if broken:
            return self._rolled_back(subscription_id, row, broken)
        with self._store.snapshot() as reader:
            step = tries.tried(reader, subscription_id, row.number, row.number, 0).get("canary")
        waited_s = (self._clock.now_us() - row.made_us) / 1e6
        if step is None or step.n < plan["min_events"] or waited_s < plan["min_s"]:
            return None
        return self._next(subscription_id, row, plan)

    def figures(
        self,
        reader: Reader,
        subscription_id: int,
        row: Binding,
        plan: Mapping[str, Any],
    ) -> list[Alarm]:
        """Return the rules of the guard of a canary with their figures."""
        guard = Guard(**plan["guard"])
        slow_us = plan.get("slow_us", 2**62)
        counts = tries.tried(reader, subscription_id, plan["first"], row.number, slow_us)
        measured = {
            name: tries.measured(reader, subscription_id, plan["first"], name)
            for name in guard.measures
        }
        none = tries.Tried()
        return alarms(guard, counts.get("canary", none), counts.get("live", none), measured)

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
