"""Actions on versions: replay, shadow, canary, promote, roll back, correct, report."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from mltrigger.broker import SubscriptionSpec
from mltrigger.errors import InvalidEvent, NothingToCompare
from mltrigger.notebook.cockpit.actions import bulk
from mltrigger.notebook.cockpit.actions.base import MT, SUB, Desk, Prepared, one
from mltrigger.notebook.cockpit.code import Call, Name, Step, call
from mltrigger.notebook.cockpit.given import Given, Wrong, about, filters
from mltrigger.policy import DeliveryPolicy
from mltrigger.reports.moments import moment_us
from mltrigger.rollout.guard import Guard
from mltrigger.rollout.service import STEPS, shares_of
from mltrigger.text import count
from mltrigger.versions.selector import Selector, resolve

_FORCE = _NOTE = 300
_MIN_EVENTS, _MIN_S, _TRIED = 200, 60.0, 100
"""The usual settings of a canary and of a dry run, see the public calls."""
_RULES = ("errors", "p95", "alpha", "measures")
_MOST_STEPS, _MOST_SHOWN = 20, 20
_NOT_EMITTED = "Nothing is emitted or settled."


def replay(desk: Desk, given: Given) -> Prepared:
    """Prepare to send recorded events to a version: those of a time, or all that match."""
    spec = desk.spec(given.inner("filter") if "filter" in given else given)
    version = desk.version(spec, given)
    settings = _lane_settings(given)
    if "filter" in given:
        events = bulk.attempts(desk, given)
        return events.prepared(
            desk,
            call(SUB, "replay", version, **settings),
            f"Sends {events.number('event')} of {spec.name} to {version}. {_NOT_EMITTED}",
            told=_lane,
        )
    times = Given({name: given.raw(name) for name in ("since", "until")})
    limit = given.whole_or_none("limit")
    chosen = filters(times, ("since", "until"))
    for name, moment in chosen.items():
        with about(name):
            moment_us(moment, desk.bus.log.now_us(), name)
    lane = call(SUB, "replay", version, **chosen, limit=limit, **settings)
    return Prepared(
        desk.on(spec, one(lane)),
        f"Sends the recorded events of {spec.name} to {version}. {_NOT_EMITTED}",
        confirm=True,
        told=_lane,
    )


def shadow(desk: Desk, given: Given) -> Prepared:
    """Prepare to send a copy of a share of the live events to a version."""
    spec = desk.spec(given)
    version = desk.version(spec, given)
    share = given.number_or_none("share")
    if share is not None and share > 1:
        raise Wrong("share", f"share must be above 0 and up to 1, got {share:g}")
    settings = {"share": None if share == 1 else share, **_lane_settings(given)}
    lane = call(SUB, "shadow", version, **settings)
    return Prepared(
        desk.on(spec, one(lane)),
        f"Sends a copy of {1.0 if share is None else share:.3g} of the live events of {spec.name}"
        f" to {version}. Nobody gets its answers.",
        confirm=True,
        told=_lane,
    )


def canary(desk: Desk, given: Given) -> Prepared:
    """Prepare to let a version answer a growing share of the events."""
    spec = desk.spec(given)
    version = desk.version(spec, given)
    steps, guard = _steps(given), _guard(given)
    least_s = given.number_or_none("min_s", least=0.0)
    begun = call(
        *(SUB, "canary", version),
        steps=steps,
        guard=guard,
        min_events=given.whole_or_none("min_events", usual=_MIN_EVENTS),
        min_s=None if least_s == _MIN_S else least_s,
        then=given.choice("then", ("wait", "promote")),
        why=_why(given),
    )
    first = (steps or STEPS)[0]
    return Prepared(
        desk.on(spec, one(begun)),
        f"{version} answers {first:.3g} of the events of {spec.name} first, and is rolled back by"
        " itself if it is worse.",
        confirm=True,
        told=lambda found: f"{found.version}: {found.state}.",
    )


def promote(desk: Desk, given: Given) -> Prepared:
    """Prepare to let a version answer all events, with the verdict about it."""
    spec = desk.spec(given)
    version, present = desk.version(spec, given), _present(desk, spec)
    force = _forced(given)
    steps: tuple[Step, ...] = ()
    verdict: Name | None = None
    says = f"{version} answers all events of {spec.name} from the next one on."
    if present != version:
        comparing = call(SUB, "compare", present, version)
        try:
            found = desk.run(desk.on(spec, one(comparing)))
        except NothingToCompare as error:
            says += f" There is no verdict: {error}"
        else:
            steps, verdict = (Step(comparing, "verdict"),), Name("verdict")
            says += f"\n{found.verdict}"
            if found.verdict.word != "SHIP" and force is None:
                says += "\nIt can be forced."
    promoting = call(
        *(SUB, "promote", version),
        verdict=verdict,
        backlog=given.choice("backlog", ("new", "old")),
        force=force,
        why=_why(given),
        move_alias=given.flag("move_alias") or None,
    )
    return Prepared(
        desk.on(spec, *steps, one(promoting)),
        says,
        confirm=True,
        told=lambda bound: f"{bound.version} answers from event {bound.from_event} on.",
    )


def rollback(desk: Desk, given: Given) -> Prepared:
    """Prepare to end the canary, or to go back to the version before."""
    spec = desk.spec(given)
    bindings = desk.bus.subscription(spec.name).history()
    now, to = bindings[-1], given.whole_or_none("to", low=0)
    if to is not None and to not in {each.number for each in bindings}:
        raise Wrong("to", f"no binding {to} of {spec.name}: sub.history() lists them")
    what = (
        f"{spec.name} goes back to binding {to}."
        if to is not None
        else f"Ends the canary {now.canary} of {spec.name}."
        if now.canary
        else f"{spec.name} goes back to the version before {now.version}."
    )
    why = call(SUB, "rollback", why=_why(given)).kwargs
    return Prepared(
        desk.on(spec, one(Call(SUB, "rollback", () if to is None else (to,), why))),
        what,
        confirm=True,
        told=lambda bound: f"{bound.version} answers from event {bound.from_event} on.",
    )


def correct(desk: Desk, given: Given) -> Prepared:
    """Prepare to give the answers of a past binding again, or to try that out."""
    spec = desk.spec(given)
    binding, dry = given.whole("binding"), given.flag("dry")
    correction = call(SUB, "correct", binding)
    limit = given.whole_or_none("limit")
    at = desk.run(desk.on(spec, one(correction))).progress()
    if dry:
        return Prepared(
            desk.on(spec, one(call(correction, "dry_run", limit=limit))),
            f"Answers up to {limit or _TRIED:,} of {count(at.left, 'event')} of binding {binding}"
            " again, without a record.",
            min(at.left, limit or _TRIED),
            told=_differing,
        )
    rate, n = _rate(given), min(at.left, limit or at.left)
    start = call(correction, "start", max_rate_per_s=rate, limit=limit, why=_why(given))
    return Prepared(
        desk.on(spec, one(start)),
        f"Answers {count(n, 'event')} of binding {binding} again, and publishes a correction"
        " where an answer differs.",
        n,
        confirm=True,
        told=lambda found: f"The correction of binding {binding} is {found.state}.",
    )


def report(desk: Desk, given: Given) -> Prepared:
    """Prepare to write the comparison of two versions as a page."""
    spec = desk.spec(given)
    old, new = desk.version(spec, given, "old"), desk.version(spec, given, "new")
    by = given.text_or_none("by")
    name = f"{spec.name}-{old}-{new}.html".replace("+", "-").replace(":", "-").replace("@", "-")
    return Prepared(
        desk.on(spec, one(call(call(SUB, "compare", old, new, by=by), "to_html", name))),
        f"Writes the comparison of {old} and {new} to {name}, in the folder of the kernel. A file"
        " of that name is replaced.",
        told=lambda where: f"Wrote {where}.",
    )


def _lane(lane: Any) -> str:
    return f"{lane.name} is {lane.state}."


def _differing(frame: Any) -> str:
    n = int(frame["differs"].fillna(False).sum())
    failed = int((frame["outcome"] == "failed").sum())
    said = f"{n} of {count(len(frame), 'answer')} would differ, {failed} failed."
    changed = frame[frame["differs"].fillna(False).astype(bool)].head(_MOST_SHOWN)
    pairs = (f"{old} → {new}" for old, new in zip(changed["old"], changed["new"], strict=True))
    more = f"… and {count(n - len(changed), 'other answer')}" if n > len(changed) else ""
    return "\n".join(filter(None, [said, *pairs, more]))


def _present(desk: Desk, spec: SubscriptionSpec) -> str:
    return resolve(desk.bus.registry, Selector.parse(spec.selector)).version


def _forced(given: Given) -> str | None:
    """Return why the verdict does not count, None if it does."""
    if isinstance(given.raw("force"), bool):
        return "decided in the cockpit" if given.flag("force") else None
    return given.text_or_none("force", _FORCE)


def _why(given: Given) -> str | None:
    return given.text_or_none("why", _NOTE)


def _lane_settings(given: Given) -> dict[str, Any]:
    """Return the settings that shadows and replays share, without the usual ones."""
    concurrency = given.whole_or_none("concurrency", usual=1)
    with about("concurrency"):
        DeliveryPolicy(max_concurrency=concurrency)
    return {
        "max_rate_per_s": _rate(given),
        "effects": given.choice("effects", ("recorded", "live")),
        "concurrency": concurrency,
        "why": _why(given),
    }


def _rate(given: Given) -> float | None:
    rate = given.number_or_none("max_rate_per_s")
    with about("max_rate_per_s"):
        DeliveryPolicy(max_rate_per_s=rate)
    return rate


def _steps(given: Given) -> list[float] | None:
    """Return the steps of a canary, None for the usual ones."""
    steps = given.raw("steps")
    if steps in (None, [], ""):
        return None
    if not isinstance(steps, Sequence) or isinstance(steps, str) or len(steps) > _MOST_STEPS:
        raise Wrong("steps", f"steps must be up to {_MOST_STEPS} shares, such as 5 %, 50 %")
    found = [Given({"steps": step}).number_or_none("steps") for step in steps]
    shares = [share for share in found if share is not None]
    with about("steps"):
        shares_of(shares)
    return None if tuple(shares) == STEPS else shares


def _guard(given: Given) -> Call | None:
    """Return the guard as a call, checked as a guard checks itself. None for the usual one.

    A rule that is ``null`` does not hold.
    """
    if "guard" not in given:
        return None
    asked, usual = given.inner("guard", "guard"), Guard()
    for name in asked.names():
        if name not in _RULES:
            raise InvalidEvent(f"a guard has {', '.join(_RULES)}, not {name!r:.60}")
    rules: dict[str, Any] = {
        name: asked.number_or_none(name) for name in ("errors", "p95", "alpha") if asked.has(name)
    }
    if rules.get("alpha", 0) is None:
        del rules["alpha"]
    if "measures" in asked:
        rules["measures"] = asked.raw("measures")
    for name, value in rules.items():
        with about(f"guard.{name}"):
            Guard(**{name: value})
    with about("guard.errors"):
        Guard(**rules)
    others = tuple((name, value) for name, value in rules.items() if value != getattr(usual, name))
    return Call(MT, "Guard", (), others) if others else None
