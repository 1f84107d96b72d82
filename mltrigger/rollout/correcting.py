"""Correcting the past: which answers of a binding are given again, in which lane, and how far."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from mltrigger.broker import SubscriptionSpec
from mltrigger.errors import InvalidCorrection, InvalidPolicy, NotFound
from mltrigger.event.event import Event
from mltrigger.reports.dead_letters import Trial, rehearsal, try_out
from mltrigger.rollout.history import Bound, read
from mltrigger.rollout.lane import Lane
from mltrigger.rollout.service import Rollout
from mltrigger.store import corrections
from mltrigger.store.corrections import Answered, Given, Replacement
from mltrigger.store.lanes import (
    LaneRow,
    Opened,
    end_lane,
    in_lane,
    is_through,
    open_lane,
    set_lane,
)
from mltrigger.store.lanes import lane as lane_now
from mltrigger.store.ledger import Binding, user
from mltrigger.store.log import DeadKey
from mltrigger.store.transaction import Reader
from mltrigger.versions.catalog import Catalog
from mltrigger.versions.running.placement import Placement
from mltrigger.versions.selector import Selector, resolve
from mltrigger.versions.version import ModelVersion

MakeRow = Callable[[LaneRow, tuple[str, str, str | None], Given | None, Given], tuple[Any, ...]]
"""Makes a row of a lane, the event, the answer before and the new one."""
_STEP = 1_000
"""Events that are added to a lane in one commit. Others can write in between."""
_ALL_EVENTS, _ALL_S = 2**62, 100 * 365 * 86_400.0
"""A correction holds its events until it has ended or was stopped."""


class Plan(NamedTuple):
    """The answers that a binding gave, and the events of those that are to be given again.

    ``same`` counts answers of the present version itself, which are left out where it shared the
    events with another one. ``done`` counts those that it has given again already.
    """

    answers: int
    same: int
    done: int
    seqs: Sequence[int]


class Corrector:
    """Corrects the answers of past bindings on one bus.

    Parameters
    ----------
    rollout : Rollout
        The other changes of versions, and their parts.
    catalog : Catalog
        The models.
    prepare : callable
        Takes a subscription. Returns the function that makes its events ready for a model.
    """

    def __init__(
        self,
        rollout: Rollout,
        catalog: Catalog,
        prepare: Callable[[SubscriptionSpec], Callable[[Event], Event]],
    ) -> None:
        self._rollout, self._catalog, self._prepare = rollout, catalog, prepare
        self._store, self._registry, self._clock = rollout.store, rollout.registry, rollout.clock
        self._lanes, self._ledger = rollout.lanes, rollout.ledger

    # -- what there is to do -----------------------------------------------------------------------

    def bound(self, spec: SubscriptionSpec, binding: Any) -> Bound:
        """Return the past binding that *binding* means: one of the history, or its number.

        Raises
        ------
        NotFound
            When there is no such binding.
        InvalidCorrection
            When it answers still, or belongs to another subscription.
        """
        rows = self._ledger.rows(spec.id)
        number = binding.number if isinstance(binding, Bound) else binding
        if isinstance(binding, Bound) and binding.subscription != spec.name:
            raise InvalidCorrection(
                f"binding {number} is one of {binding.subscription!r}, not of {spec.name!r}: take"
                f" one of bus.subscription({spec.name!r}).history()"
            )
        if not isinstance(number, int) or isinstance(number, bool):
            raise InvalidCorrection(
                f"binding = {binding!r:.80}: write one of sub.history(), or its number"
            )
        if not 0 <= number < len(rows):
            raise NotFound(
                f"no binding {number} of {spec.name!r}: the history has 0 to {len(rows) - 1}"
            )
        _check_past(spec, rows, rows[number])
        with self._store.snapshot() as reader:
            return read(reader, spec.name, spec.id, rows)[number]

    def present(self, spec: SubscriptionSpec) -> ModelVersion:
        """Return the version that answers now. A canary under way is none."""
        rows = self._ledger.rows(spec.id)
        return resolve(self._registry, Selector.parse(rows[-1].selector))

    def plan(self, spec: SubscriptionSpec, bound: Bound, version: ModelVersion) -> Plan:
        """Return the answers of a binding that are to be given again by *version*."""
        with self._store.snapshot() as reader:
            return _plan(reader, spec, bound, version)

    def lanes(self, spec: SubscriptionSpec, bound: Bound) -> list[LaneRow]:
        """Return the lanes that correct the answers of a binding, oldest first."""
        with self._store.snapshot() as reader:
            return corrections.lanes(reader, spec.id, bound.number)

    def counts(self, lane: LaneRow) -> corrections.Counts:
        """Count the events of a lane."""
        with self._store.snapshot() as reader:
            return corrections.counts(reader, lane.id)

    def handle(self, spec: SubscriptionSpec, lane: LaneRow) -> Lane:
        """Return the handle of a lane."""
        return Lane(self._rollout, spec, lane)

    def try_out(
        self, spec: SubscriptionSpec, version: ModelVersion, seqs: Sequence[int]
    ) -> tuple[list[Trial], dict[int, corrections.Old]]:
        """Call *version* with events, in this thread. Return the results and the old answers."""
        with self._store.snapshot() as reader:
            events = corrections.events(reader, spec.id, seqs)
            old = corrections.old_answers(reader, spec.id, 2**62, seqs)
        placed = Placement(self._catalog.resolver.of(str(version)), spec.policy)
        prepare = self._prepare(spec)
        keys = [DeadKey(seq, event.id, event.source) for seq, event in events]
        under_way = rehearsal(self._rollout.log, spec, keys)
        prepared = (prepare(event) for _, event in events)
        try:
            return try_out(prepared, *placed(), self._clock, under_way), old
        finally:
            placed.close()

    def replacements(self, spec: SubscriptionSpec) -> dict[tuple[str, str], Replacement]:
        """Return the answers that replace others, by id and source of their event."""
        with self._store.snapshot() as reader:
            return corrections.replacements(reader, spec.id)

    def rows(
        self, spec: SubscriptionSpec, lanes: Sequence[LaneRow], row: MakeRow
    ) -> list[tuple[Any, ...]]:
        """Return one *row* for each event that was answered again in *lanes*."""
        found: dict[int, tuple[Any, ...]] = {}
        with self._store.snapshot() as reader:
            each = [(lane, corrections.each(reader, lane.id)) for lane in lanes]
            seqs = [new.seq for _, given in each for new in given]
            if not seqs:
                return []
            span = min(seqs), max(seqs)
            names = corrections.names(reader, span)
            old = {given.seq: given for given in corrections.each(reader, spec.id, span)}
        for lane, given in each:
            for new in given:
                if new.seq in names:  # else it is pruned
                    found[new.seq] = row(lane, names[new.seq], old.get(new.seq), new)
                    if new.output is not None:
                        old[new.seq] = new
        return [found[seq] for seq in sorted(found)]

    # -- do it -------------------------------------------------------------------------------------

    def start(
        self,
        spec: SubscriptionSpec,
        bound: Bound,
        *,
        max_rate_per_s: float | None,
        limit: int | None,
        why: str | None,
        by: str | None = None,
    ) -> None:
        """Open a lane for the answers of a binding, or go on with the one that is open."""
        if limit is not None:
            check_limit(limit)
        version = self.present(spec)
        policy = dataclasses.replace(
            spec.policy,
            max_age_s=None,  # they are old
            max_rate_per_s=max_rate_per_s or spec.policy.max_rate_per_s,
            corrections="take",
        )
        given = Opened(
            "correction",
            str(version),
            policy,
            {
                "of": spec.name,
                "binding": bound.number,
                "limit": limit,
                "why": why,
                "by": by or user(),
                "filled": False,
                "hold_events": _ALL_EVENTS,
                "hold_s": _ALL_S,
            },
            emits=True,
        )
        lane = self._to_go_on(spec, bound, given)
        if lane is None:
            if not self.plan(spec, bound, version).seqs:
                return
            lane = self._open(spec, given)
        self._fill(spec, bound, lane, version)
        self._rollout.engine.look_again(spec.name)

    # -- steps -------------------------------------------------------------------------------------

    def _to_go_on(self, spec: SubscriptionSpec, bound: Bound, given: Opened) -> LaneRow | None:
        """Return the lane that is open, or was stopped, with the settings of *given*.

        One of a version that is not the present one any more ends for good.
        """
        lane = next(
            (row for row in self.lanes(spec, bound) if row.bound or row.ended == "stopped"), None
        )
        if lane is None:
            return None
        with self._store.transaction() as transaction:
            if lane.selector != given.selector:
                corrections.leave(transaction, lane)
                return None
            corrections.set_policy(transaction, lane.id, given.policy)
        self._lanes.begin(lane.id)
        return self._lanes.row(lane.id)

    def _open(self, spec: SubscriptionSpec, given: Opened) -> LaneRow:
        number = int(given.settings["binding"])
        with self._store.transaction() as transaction:
            before = corrections.lanes(transaction, spec.id, number)
            if not any(lane.bound for lane in before):  # else another process was faster
                ((after,),) = transaction.query("SELECT coalesce(max(seq), 0) FROM event", {})
                given = given._replace(settings={**given.settings, "after": after})
                open_lane(transaction, spec, given, self._clock.now_us())
            lanes = corrections.lanes(transaction, spec.id, number)
        return next(lane for lane in lanes if lane.bound)

    def _fill(
        self, spec: SubscriptionSpec, bound: Bound, lane: LaneRow, version: ModelVersion
    ) -> None:
        """Add the events of a lane that are not in it yet. A kill in between is made good."""
        settings = lane.settings
        if settings["filled"]:
            return
        with self._store.snapshot() as reader:
            there = in_lane(reader, lane.id)
            wanted = [s for s in _plan(reader, spec, bound, version).seqs if s not in there]
        if settings["limit"] is not None:
            wanted = wanted[: max(0, settings["limit"] - len(there))]
        for first in range(0, len(wanted), _STEP):
            with self._store.transaction() as transaction:
                added = wanted[first : first + _STEP]
                corrections.add(transaction, lane.id, spec.id, added, self._clock.now_us())
        with self._store.transaction() as transaction:
            settings = lane_now(transaction, lane.id).settings
            events = len(in_lane(transaction, lane.id))
            set_lane(transaction, lane.id, {**settings, "filled": True, "total": events})
            if is_through(transaction, lane.id):
                end_lane(transaction, lane.id, "done")


def check_limit(limit: Any) -> None:
    """Raise InvalidPolicy for a number of events that is none."""
    if isinstance(limit, bool) or not isinstance(limit, int) or limit < 1:
        raise InvalidPolicy(f"limit = {limit!r:.60}: write a whole number of at least 1")


def _check_past(spec: SubscriptionSpec, rows: Sequence[Binding], row: Binding) -> None:
    """Raise InvalidCorrection for a binding that answers still."""
    now = rows[-1]
    if row.number == now.number:
        raise InvalidCorrection(
            f"binding {row.number} of {spec.name!r} answers still, by {now.answers}: promote() a"
            " better version or rollback() first, then correct this one"
        )
    if now.canary is not None and row.number >= now.steps.get("first", now.number):
        raise InvalidCorrection(
            f"binding {row.number} of {spec.name!r} is a step of the canary {now.canary}, which"
            " answers still: promote() it or rollback() first"
        )


def _plan(reader: Reader, spec: SubscriptionSpec, bound: Bound, version: ModelVersion) -> Plan:
    found = corrections.answered(reader, spec.id, bound.number)
    others: Sequence[Answered] = found
    if bound.canary is not None:
        others = [a for a in found if a.version_id != version.id]
    lanes = corrections.lanes(reader, spec.id, bound.number)
    done = corrections.done_by(reader, lanes, str(version))
    left = [a.seq for a in others if a.seq not in done]
    return Plan(len(found), len(found) - len(others), len(others) - len(left), left)
