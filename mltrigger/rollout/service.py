"""Rollouts: promote a version, send a share of the events to a canary, or roll back."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Literal

from mltrigger.broker import SubscriptionSpec
from mltrigger.clock import Clock
from mltrigger.delivery.engine import Engine
from mltrigger.errors import BindingConflict, InvalidPolicy, NotFound, NotShipped
from mltrigger.rollout.guard import Alarm, Guard
from mltrigger.rollout.history import Bound, History, read
from mltrigger.rollout.watching import Alias, Watch, follow
from mltrigger.store import tries
from mltrigger.store.lane_store import LaneStore
from mltrigger.store.ledger import Binding, Change, Ledger, rolled_back, user
from mltrigger.store.log import Log
from mltrigger.store.registry import Registry
from mltrigger.store.transaction import Store
from mltrigger.versions.catalog import Catalog
from mltrigger.versions.selector import Selector, names_model, resolve
from mltrigger.versions.version import ModelVersion

if TYPE_CHECKING:
    from mltrigger.rollout.correcting import Corrector
    from mltrigger.rollout.verdict import Verdict

Backlog = Literal["new", "old"]
STEPS = (0.01, 0.05, 0.2, 0.5)


class Rollout:
    """The changes of versions on one bus.

    Parameters
    ----------
    store, registry, catalog, clock, lanes
        Parts of the bus.
    """

    engine: Engine
    """Set once the bus has it: the engine needs the ledger first."""
    corrector: Corrector
    log: Log
    """Set by the bus, too."""

    def __init__(
        self, store: Store, registry: Registry, catalog: Catalog, clock: Clock, lanes: LaneStore
    ) -> None:
        self._store, self._registry, self._catalog = store, registry, catalog
        self.store, self.registry, self.clock, self.lanes = store, registry, clock, lanes
        self.ledger = Ledger(store, clock)
        self.watch = Watch(store, self.ledger, clock, registry)

    # -- changes -----------------------------------------------------------------------------------

    def promote(
        self,
        spec: SubscriptionSpec,
        version: Any = None,
        *,
        verdict: Any = None,
        backlog: Backlog = "new",
        force: str | None = None,
        why: str | None = None,
        move_alias: bool = False,
        by: str | None = None,
    ) -> Bound:
        """Let *version* answer from now on. See ``sub.promote``.

        *by* says who. Default: the user of this process.
        """
        if backlog not in ("new", "old"):
            raise NotFound.of("backlog", str(backlog), ["new", "old"])
        if force is not None and not (isinstance(force, str) and force.strip()):
            raise InvalidPolicy(f"force = {force!r:.60}: write the reason, force='reason'")
        rows = self._rows(spec)
        now = rows[-1]
        if version is None:
            if now.canary is None:
                raise NotFound(
                    f"subscription {spec.name!r} has no canary to promote: name the version"
                )
            version = now.canary
        # first: a model that is registered now may be the one that "latest" means
        present = self._present(now)
        meant = self.meant(spec, version)
        judged = _judged(verdict)
        if judged is not None:
            _check_about(judged, present, meant)
        if judged is not None and judged.word != "SHIP" and not force:
            raise NotShipped(
                f"{meant} is not promoted, the verdict is {judged}\nforce='reason' promotes it all"
                " the same",
                judged,
            )
        if str(meant) == str(present) and now.canary is None:
            return self.history(spec)[-1]
        selector, alias = follow(self._registry, now, meant)
        self.engine.prepare(spec.name, str(meant))
        if move_alias:
            selector, alias = self._pointed(now, meant) or (selector, alias)
        said = "; ".join(filter(None, [why, f"forced: {force}" if force else None])) or None
        return self._change(
            spec,
            Change(
                "promote",
                selector,
                meant.id,
                made_by=by or user(),
                why=said,
                verdict=judged.to_json() if judged is not None else None,
                backlog=backlog,
                after=now.number,
                until_id=present.id,
                alias=alias,
            ),
        )

    def canary(
        self,
        spec: SubscriptionSpec,
        version: Any,
        *,
        steps: Sequence[float] = STEPS,
        guard: Guard | None = None,
        min_events: int = 200,
        min_s: float = 60.0,
        then: Literal["wait", "promote"] = "wait",
        why: str | None = None,
        by: str | None = None,
    ) -> Bound:
        """Let *version* answer a share of the events. See ``sub.canary``."""
        guard = guard or Guard()
        shares = shares_of(steps)
        if then not in ("wait", "promote"):
            raise NotFound.of("then", str(then), ["wait", "promote"])
        if not isinstance(guard, Guard):
            raise InvalidPolicy(f"guard = {guard!r:.60}: write mt.Guard(errors=1.5, p95=1.3)")
        for name, given, least in (("min_events", min_events, 1), ("min_s", min_s, 0)):
            if isinstance(given, bool) or not isinstance(given, (int, float)) or not given >= least:
                raise InvalidPolicy(f"{name} = {given!r:.60}: write a number of at least {least}")
        rows = self._rows(spec)
        now = rows[-1]
        present, newest = self._present(now), self._newest_lot()
        meant = self.meant(spec, version)
        if str(meant) == str(present):
            raise BindingConflict(
                f"{meant} answers {spec.name!r} already: a canary needs another version"
            )
        if now.canary is not None:
            raise BindingConflict(
                f"{now.canary} is the canary of {spec.name!r} already: promote it or roll it back"
                " first"
            )
        self._check_measures(spec, guard)
        self.engine.prepare(spec.name, str(meant))
        selector = now.selector if self._present(now).id == present.id else str(present)
        plan = {
            "first": now.number + 1,
            "after": newest,
            "at": 0,
            "steps": shares,
            "guard": guard.to_plan(),
            "min_events": min_events,
            "min_s": min_s,
            "then": then,
        }
        return self._change(
            spec,
            Change(
                "canary",
                selector,
                present.id,
                str(meant),
                meant.id,
                shares[0],
                by or user(),
                why,
                plan=plan,
                after=now.number,
                until_id=present.id,
            ),
        )

    def rollback(
        self,
        spec: SubscriptionSpec,
        to: Any = None,
        *,
        why: str | None = None,
        by: str | None = None,
    ) -> Bound:
        """End the canary, or go back to an earlier version. See ``sub.rollback``."""
        while True:
            rows = self._rows(spec)
            now = rows[-1]
            try:
                return self._change(spec, self._back(spec, rows, to, why, by or user()))
            except BindingConflict:
                # The guard may have gone on by one step. That is the same canary.
                if now.canary is None or self._rows(spec)[-1].canary != now.canary:
                    raise

    def _back(
        self, spec: SubscriptionSpec, rows: Sequence[Binding], to: Any, why: str | None, by: str
    ) -> Change:
        now, target = rows[-1], self._target(spec, rows, to)
        present = self._present(now)
        selector, version_id, alias = self._restored(now, target)
        self.engine.prepare(spec.name, target.answers)
        return Change(
            "rollback",
            selector,
            version_id,
            made_by=by,
            why=why or f"back to binding {target.number}",
            after=now.number,
            until_id=present.id,
            alias=alias,
        )

    # -- questions ---------------------------------------------------------------------------------

    def history(self, spec: SubscriptionSpec) -> History:
        """Return every binding of a subscription."""
        rows = self.ledger.rows(spec.id)
        with self._store.snapshot() as reader:
            return read(reader, spec.name, spec.id, rows)

    def alarms(self, spec: SubscriptionSpec) -> tuple[Binding, list[Alarm]] | None:
        """Return the canary of a subscription and the rules of its guard, ``None`` without one."""
        row = self._rows(spec)[-1]
        if row.canary is None:
            return None
        with self._store.snapshot() as reader:
            return row, self.watch.figures(reader, spec.id, row)

    def meant(self, spec: SubscriptionSpec, version: Any) -> ModelVersion:
        """Return the registered version that a user means by *version*.

        ``"1.1.0"``, a selector, a registered version, or a model, which is registered by this.
        """
        _check_live(spec)
        if isinstance(version, str) and not names_model(version) and not {*":@"} & {*version}:
            version = f"{Selector.parse(spec.selector).name}:{version}"
        handed = self._catalog.understood(version, None, None)
        return resolve(self._registry, Selector.parse(self._catalog.selector(handed)))

    # -- steps -------------------------------------------------------------------------------------

    def _rows(self, spec: SubscriptionSpec) -> list[Binding]:
        _check_live(spec)
        return self.ledger.rows(spec.id)

    def _present(self, now: Binding) -> ModelVersion:
        return resolve(self._registry, Selector.parse(now.selector))

    def _newest_lot(self) -> int:
        with self._store.snapshot() as reader:
            return tries.newest_lot(reader)

    def _change(self, spec: SubscriptionSpec, change: Change) -> Bound:
        added = self.ledger.append(spec.id, change)
        if added is None:
            raise BindingConflict(
                f"another binding of {spec.name!r} came in between: look at the history, and"
                " try again"
            )
        self.engine.look_again(spec.name)
        return self.history(spec)[added.number]

    def _pointed(self, now: Binding, meant: ModelVersion) -> tuple[str, Alias] | None:
        """Move a foreign alias in its registry. Return the selector and alias that follow it."""
        selector = Selector.parse(now.selector)
        follows = self._catalog.point(selector, meant)
        if follows is None:
            return None
        return now.selector, (selector.name, str(selector.alias), meant.version, follows)

    def _restored(self, now: Binding, target: Binding) -> tuple[str, int | None, Alias | None]:
        """Return the selector to restore: that of the target if it still means its version."""
        if now.canary is not None and target.number == now.number:
            return now.selector, now.model_version_id, None
        pinned = resolve(self._registry, Selector.parse(target.answers))
        if target.selector == now.selector:
            selector, alias = follow(self._registry, target, pinned)
            if alias is not None:
                return selector, pinned.id, alias
        try:
            same = resolve(self._registry, Selector.parse(target.selector)) == pinned
        except NotFound:
            same = False
        return (target.selector if same else str(pinned)), pinned.id, None

    def _target(self, spec: SubscriptionSpec, rows: Sequence[Binding], to: Any) -> Binding:
        now = rows[-1]
        if isinstance(to, Bound):
            if to.subscription != spec.name:
                raise NotFound(
                    f"binding {to.number} is one of {to.subscription!r}, not of {spec.name!r}: take"
                    f" one of bus.subscription({spec.name!r}).history()"
                )
            to = to.number
        if isinstance(to, int) and not isinstance(to, bool):
            if not 0 <= to < len(rows):
                raise NotFound(
                    f"no binding {to} of {spec.name!r}: the history has 0 to {len(rows) - 1}"
                )
            return rows[to]
        if to is not None:
            wanted = str(self.meant(spec, to))
            for row in reversed(rows):
                if row.answers == wanted:
                    return row
            raise NotFound.of(
                "earlier version",
                wanted,
                [row.answers for row in rows],
                "promote() binds one that has not answered yet",
            )
        if now.canary is not None:
            return now
        bad = rolled_back(rows)
        for row in reversed(rows):
            if row.answers not in bad | {now.answers}:
                return row
        others = {row.answers for row in rows} - {now.answers}
        if others:
            raise NotFound(
                f"each other version of {spec.name!r} was rolled back:"
                f" {', '.join(sorted(others))}: there is nothing to go back to, unless"
                " rollback(to=…) names it"
            )
        raise NotFound(
            f"{now.answers} is the only version of {spec.name!r} so far: there is nothing to go"
            " back to"
        )

    def _check_measures(self, spec: SubscriptionSpec, guard: Guard) -> None:
        if not guard.measures:
            return
        with self._store.snapshot() as reader:
            reported = tries.reported(reader, spec.id)
        for name in guard.measures:
            if name not in reported:
                raise NotFound.of(
                    f"recent attempt of {spec.name!r} with the measure",
                    name,
                    reported,
                    f"call mt.report({name}=…) in the model first",
                )


def _check_live(spec: SubscriptionSpec) -> None:
    if spec.role != "live":
        raise InvalidPolicy(
            f"{spec.name!r} has role {spec.role}: only a live subscription has versions and lanes"
        )


def _judged(verdict: Any) -> Verdict | None:
    found = getattr(verdict, "verdict", verdict)
    if verdict is None:
        return None
    if not hasattr(found, "word") or not hasattr(found, "versions"):
        raise InvalidPolicy(
            f"verdict = {verdict!r:.60}: write the comparison of sub.compare(), or its verdict"
        )
    judged: Verdict = found
    return judged


def _check_about(judged: Verdict, present: ModelVersion, meant: ModelVersion) -> None:
    if tuple(judged.versions) != (str(present), str(meant)):
        raise InvalidPolicy(
            f"the verdict is about {' -> '.join(judged.versions)}, and this would change {present}"
            f" to {meant}: compare those"
        )


def shares_of(steps: Sequence[float]) -> list[float]:
    """Return the steps of a canary. Raise InvalidPolicy for wrong ones."""
    shares = [steps] if isinstance(steps, (int, float)) else list(steps)
    numbers = all(isinstance(s, (int, float)) and not isinstance(s, bool) for s in shares)
    if not shares or not numbers or not all(0.0 < s <= 1.0 for s in shares):
        raise InvalidPolicy(f"steps = {steps!r:.80}: write shares from 0 to 1, as [0.01, 0.1, 0.5]")
    if any(b <= a for a, b in itertools.pairwise(shares)):
        raise InvalidPolicy(f"steps = {steps!r:.80}: each step is larger than the one before")
    return [float(s) for s in shares]
