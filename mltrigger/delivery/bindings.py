"""Bindings: the versions that answer one subscription, each where its model runs.

A first attempt follows the binding that holds for its event. A retry follows the binding of the
first attempt, so that one event is not answered by two versions. The ledger decides, and a claim
fails unless the listener knows the newest binding.
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import NamedTuple

from mltrigger.broker import Delivery, SubscriptionSpec
from mltrigger.broker.alike import Alike
from mltrigger.clock import Clock
from mltrigger.errors import InvalidModel, NotFound
from mltrigger.store.ledger import Binding, covering, rolled_back
from mltrigger.store.lots import By
from mltrigger.store.shares import is_canary, key_of
from mltrigger.versions.running.invoke import Caller
from mltrigger.versions.running.placement import Placement
from mltrigger.versions.selector import Selector
from mltrigger.versions.version import BUILD, ModelVersion

logger = logging.getLogger("mltrigger")

_MOST_KEPT = 4
"""How many versions stay loaded beside those that are needed now."""
_AGAIN_US = 5_000_000
"""The pause before a canary that could not be loaded is loaded again."""

First = Callable[[Collection[int]], Mapping[int, tuple[int, str] | None]]
"""Returns the binding and the role of the first attempts of events."""


class Part(NamedTuple):
    """A version that answers some of the events, and its caller."""

    by: By
    invoker: Caller


class Bindings:
    """The versions of one subscription.

    Parameters
    ----------
    spec : SubscriptionSpec
        The subscription.
    place : callable
        Takes a selector. Returns the place of its model.
    clock : Clock
        The time of another try to load a version.
    rows : callable, optional
        Returns the bindings of the subscription, oldest first. Without it there is one for all.
    first : callable, optional
        Returns the bindings of the first attempts of events.
    judge : callable, optional
        Looks at the figures of a canary. It may add a binding.
    """

    def __init__(
        self,
        spec: SubscriptionSpec,
        place: Callable[[str], Placement],
        clock: Clock,
        rows: Callable[[], Sequence[Binding]] | None = None,
        first: First = lambda seqs: {},
        judge: Callable[[Sequence[Binding]], None] | None = None,
    ) -> None:
        self._spec, self._place, self._clock = spec, place, clock
        self._read, self._first, self._judge = rows, first, judge
        self._rows: Sequence[Binding] = [Binding(0, "bind", 0, spec.selector)]
        self._placements: dict[str, Placement] = {spec.selector: place(spec.selector)}
        self._again_us: dict[str, int] = {}
        self._left: list[Placement] = []

    # -- the present one ---------------------------------------------------------------------------

    def __call__(self) -> tuple[ModelVersion, Caller]:
        """Return the version that new events go to, and its caller.

        It raises as :class:`~mltrigger.versions.running.placement.Placement` does.
        """
        return self._placed(self._rows[-1].selector)()

    @property
    def is_loaded(self) -> bool:
        """Whether the present version is loaded."""
        return self._placed(self._rows[-1].selector).is_loaded

    @property
    def canary(self) -> str | None:
        """The selector of the canary that answers now."""
        return self._rows[-1].canary

    def refresh(self) -> None:
        """Read the ledger. Load the versions of a new binding before the next claim."""
        if self._read is None:
            return
        rows = self._read()
        if not rows or rows == self._rows:
            return
        self._rows = rows
        needed = {self._rows[-1].selector, self._rows[-1].canary}
        others = [each for each in self._placements if each not in needed]
        for selector in others[: max(0, len(others) - _MOST_KEPT)]:
            self._left.append(self._placements.pop(selector))
        if (canary := self._rows[-1].canary) is not None:
            self._loaded(canary)

    def prepare(self, selector: str) -> None:
        """Load the version of *selector*, which is about to be bound. Errors wait until then."""
        self._loaded(selector)

    def watch(self) -> None:
        """Let the figures of a canary be judged, if there is one."""
        if self._judge is not None and self._rows[-1].canary is not None:
            try:
                self._judge(self._rows)
            except Exception:
                logger.exception(
                    "subscription %s: the guard of the canary failed; trying again", self._spec.name
                )

    # -- the versions of events --------------------------------------------------------------------

    def parts(self, deliveries: Sequence[Delivery]) -> list[tuple[Part, Sequence[Delivery]]]:
        """Return *deliveries* by the version that answers them.

        A version that cannot be called here any more leaves its events to the present one. A canary
        that cannot be called here leaves them to the live version.
        """
        rows, now = self._rows, self._rows[-1]
        if now.canary is None and (len(rows) == 1 or _is_new(deliveries, now)):
            return [(self._part(now.number, now.selector, self._spec.role), deliveries)]
        begun = self._begun([d.seq for d in deliveries if d.attempt > 1])
        found: dict[tuple[int, str], list[Delivery]] = {}
        for d in deliveries:
            found.setdefault(self._followed(d, begun), []).append(d)
        parts: dict[By, tuple[Part, list[Delivery]]] = {}
        for (number, role), own in found.items():
            part = self._callable(rows[number], role)
            parts.setdefault(part.by, (part, []))[1].extend(own)
        return list(parts.values())

    def _begun(self, seqs: Collection[int]) -> Mapping[int, tuple[int, str] | None]:
        return self._first(seqs) if seqs else {}

    def _followed(
        self, d: Delivery, begun: Mapping[int, tuple[int, str] | None]
    ) -> tuple[int, str]:
        """Return the number of the binding of a delivery, and its role."""
        rows = self._rows
        if d.seq not in begun:
            return self._chosen(covering(rows, d.seq), d)
        first = begun[d.seq]
        if first is None or first[0] >= len(rows):
            return self._chosen(rows[-1], d)
        number, role = first
        chosen = rows[number].canary if role == "canary" else rows[number].answers
        if chosen is None or _is_over(rows, chosen):
            return rows[-1].number, self._spec.role
        return number, role

    def _chosen(self, row: Binding, d: Delivery) -> tuple[int, str]:
        key = self._spec.policy.key
        if row.canary is not None and is_canary(self._spec.id, row, key_of(d, key)):
            return row.number, "canary"
        return row.number, self._spec.role

    def _callable(self, row: Binding, role: str) -> Part:
        now = self._rows[-1]
        if role == "canary" and row.canary is not None and self._loaded(row.canary):
            with contextlib.suppress(NotFound, InvalidModel):
                return self._part(row.number, row.canary, role)
        if row.number != now.number and row.answers != now.answers:
            try:
                return self._part(row.number, row.answers, self._spec.role)
            except (NotFound, InvalidModel):
                row = now
        return self._part(row.number, now.selector, self._spec.role)

    def _part(self, number: int, selector: str, role: str) -> Part:
        version, invoker = self._placed(selector)()
        return Part(By(version.id, number, role), invoker)

    # -- places ------------------------------------------------------------------------------------

    def _placed(self, selector: str) -> Placement:
        placed = self._placements.get(selector)
        if placed is None:
            placed = self._placements[selector] = self._place(selector)
        return placed

    def _loaded(self, selector: str) -> bool:
        """Load a version that need not be there. Return whether it can be called."""
        now_us = self._clock.now_us()
        if now_us < self._again_us.get(selector, 0):
            return False
        try:
            self._placed(selector)()
        except (NotFound, InvalidModel) as error:
            self._again_us[selector] = now_us + _AGAIN_US
            logger.warning("subscription %s: no %s here: %s", self._spec.name, selector, error)
            return False
        return True

    def tidy(self, in_use: Collection[Caller]) -> None:
        """Close the callers of versions that are not needed any more, and not *in_use*."""
        for placed in self._placements.values():
            placed.tidy(in_use)
        if self._left and not in_use:
            for placed in self._left:
                placed.close()
            self._left = []

    def close(self) -> None:
        """Close all callers. Idempotent."""
        for placed in [*self._placements.values(), *self._left]:
            placed.close()


def _is_new(deliveries: Sequence[Delivery], now: Binding) -> bool:
    """Whether all are first attempts of events that the newest binding holds for."""
    if isinstance(deliveries, Alike):
        return deliveries.seqs[0] >= now.from_seq
    return all(d.attempt == 1 and d.seq >= now.from_seq for d in deliveries)


def _is_over(rows: Sequence[Binding], selector: str) -> bool:
    """Whether the version of a binding was rolled back, or was a build that is replaced."""
    now = rows[-1]
    version = Selector.parse(selector).version or ""
    if version.startswith(f"{BUILD}+") and selector not in (now.answers, now.canary):
        return True
    return selector in rolled_back(rows)
