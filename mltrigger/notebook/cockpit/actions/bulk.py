"""Actions on all that match the filter of the table. They are counted in the store first.

A bound goes with the number: the newest record at the moment of counting, and that moment. Later
records are left alone. An age such as "1h" counts back from that moment. So an action does no more
than was confirmed.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from mltrigger.broker import SubscriptionSpec
from mltrigger.errors import InvalidEvent, NotFound
from mltrigger.notebook.cockpit.actions.base import SUB, Desk, Prepared, one
from mltrigger.notebook.cockpit.actions.letters import REASON
from mltrigger.notebook.cockpit.code import Call, Script, call
from mltrigger.notebook.cockpit.given import FILTERS, Given, about, filters
from mltrigger.reports.choosing import matching_of
from mltrigger.reports.dead_letters import check_rate
from mltrigger.reports.moments import fixed_ages
from mltrigger.store.matched import Counted
from mltrigger.text import count

COUNT_S = 0.4
"""The longest time for counting."""
ATTEMPTS = (*FILTERS, "role", "outcome")
"""The filters of attempts."""
_NOTHING = Counted(0, False)


@dataclasses.dataclass(frozen=True)
class Matched:
    """All that match a filter: where, up to which record, and how many there are.

    The ages of ``where`` count back from ``at_us``. ``is_counted`` is False for events that were
    confirmed before.
    """

    spec: SubscriptionSpec
    where: Mapping[str, Any]
    at_us: int
    up_to: int
    counted: Counted
    is_counted: bool

    def prepared(self, desk: Desk, what: Call, says: str, **more: Any) -> Prepared:
        """Return the action *what* on them. Its keyword ``where`` is added here."""
        bounded, free = (
            _with_where(desk, self.spec, what, where)
            for where in ({**fixed_ages(self.where, self.at_us), "up_to": self.up_to}, self.where)
        )
        return Prepared(
            bounded,
            says,
            self.counted.n if self.is_counted else None,
            "exact" if self.counted.is_exact else "at least",
            confirm=True,
            bound={"up_to": self.up_to, "at_us": self.at_us},
            recorded=free,
            **more,
        )

    def number(self, what: str) -> str:
        """Return how many there are, in words."""
        if not self.is_counted:
            return f"the {what}s that were confirmed"
        return ("" if self.counted.is_exact else "at least ") + count(self.counted.n, what)


def redrive(desk: Desk, given: Given) -> Prepared:
    """Prepare to deliver all matching dead letters again."""
    letters = _letters(desk, given)
    rate = given.number_or_none("rate_per_s")
    if rate is not None:
        with about("rate_per_s"):
            check_rate(rate)
    pace = f", {rate:g} a second" if rate else ", all at once"
    return letters.prepared(
        desk,
        call(SUB, "redrive", rate_per_s=rate),
        f"Delivers {letters.number('dead letter')} of {letters.spec.name} again{pace}.",
    )


def discard(desk: Desk, given: Given) -> Prepared:
    """Prepare to put all matching dead letters away."""
    letters = _letters(desk, given)
    reason = given.text("reason", REASON)
    return letters.prepared(
        desk,
        call(SUB, "discard", None, reason),
        f"Puts {letters.number('dead letter')} of {letters.spec.name} away for good.",
    )


def attempts(desk: Desk, given: Given) -> Matched:
    """Return the events whose attempts match the filter of the table."""
    asked = given.inner("filter")
    spec = desk.spec(asked)
    where = filters(asked, ATTEMPTS)
    found = _matched(desk, spec, where, given, is_dead=False)
    if found.is_counted and not found.counted.n and found.counted.is_exact:
        raise NotFound(f"no attempt of {spec.name} matches the filter")
    return found


def _letters(desk: Desk, given: Given) -> Matched:
    asked = given.inner("filter")
    spec = desk.spec(asked)
    if asked.text_or_none("outcome") not in (None, "dead"):
        raise InvalidEvent("only dead letters are sent again or put away: choose the outcome dead")
    known = Given({n: asked.raw(n) for n in asked.names() if n != "outcome"})
    found = _matched(desk, spec, filters(known, FILTERS), given, is_dead=True)
    if found.is_counted and not found.counted.n and found.counted.is_exact:
        raise NotFound(f"no dead letter of {spec.name} matches the filter")
    return found


def _matched(
    desk: Desk, spec: SubscriptionSpec, where: Mapping[str, Any], given: Given, is_dead: bool
) -> Matched:
    log = desk.bus.log
    at_us = given.whole("at_us", high=2**52) if "at_us" in given else log.now_us()
    wanted = matching_of(log, spec, **fixed_ages(where, at_us))
    if "up_to" in given:
        return Matched(spec, where, at_us, given.whole("up_to"), _NOTHING, False)
    up_to = log.newest_row()
    if is_dead:
        counted = log.count_dead(spec.id, wanted, up_to, COUNT_S)
    else:
        counted = log.count_events(wanted, up_to, COUNT_S)
    return Matched(spec, where, at_us, up_to, counted, True)


def _with_where(desk: Desk, spec: SubscriptionSpec, what: Call, where: Mapping[str, Any]) -> Script:
    is_said = where or what.method == "replay"  # other calls mean all without it
    added = (("where", where),) if is_said else ()
    return desk.on(spec, one(dataclasses.replace(what, kwargs=(*added, *what.kwargs))))
