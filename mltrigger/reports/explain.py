"""Why an event did or did not fire, clause by clause, before and after the fact."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any, NamedTuple

from mltrigger.broker import MAX_EVENT_BYTES, Receipt
from mltrigger.clock import Clock
from mltrigger.errors import NotFound
from mltrigger.event.data import encode_data
from mltrigger.event.event import Event
from mltrigger.event.making import as_event
from mltrigger.filters import FilterPolicy
from mltrigger.reports.naming import EventKey, named, names_event, unknown
from mltrigger.store import effects, waits
from mltrigger.store.archive import ARCHIVED, Archived, archived
from mltrigger.store.corrections import CORRECTED
from mltrigger.store.finding import near as near_ids
from mltrigger.store.keys import id_key
from mltrigger.store.outcomes import FINAL
from mltrigger.store.revisions import History, histories
from mltrigger.store.timekeeper import ALIVE_US
from mltrigger.store.topics import Seen
from mltrigger.store.transaction import Reader, Store

_EVENT = f"""
SELECT e.seq, e.topic_id, e.published_us, t.name, {ARCHIVED}
FROM event e JOIN topic t ON t.id = e.topic_id WHERE e.id = :id ORDER BY e.seq
"""
_REPEATS = "SELECT times, differing, repeated_us FROM repeat WHERE seq = :seq"
_RESENT = """
SELECT times, resent_us, data IS NOT NULL FROM resent WHERE subscription_id = :s AND seq = :seq
"""
_ATTEMPTS = """
SELECT i.attempt, i.outcome, i.reason, i.error_type, i.error, m.name, m.version
FROM invocation i LEFT JOIN model_version m ON m.id = i.model_version_id
WHERE i.seq = :seq AND i.subscription_id = :s ORDER BY i.attempt
"""
_CORRECTED = """
SELECT l.lane, i.outcome, i.reason, m.name, m.version
FROM subscription l JOIN invocation i ON i.subscription_id = l.id AND i.seq = :seq
LEFT JOIN model_version m ON m.id = i.model_version_id
WHERE l.parent_id = :s AND l.role = 'correction' AND i.outcome IN ('succeeded', 'dead')
ORDER BY l.id
"""
_DEAD = """
SELECT reason, dead_us, discarded_us, discard_reason FROM dead_letter
WHERE subscription_id = :s AND seq = :seq
"""
_WAITING = "SELECT visible_us FROM waiting WHERE subscription_id = :s AND seq = :seq"
_LEASED = """
SELECT attempt, worker_id, until_us FROM leased WHERE subscription_id = :s AND seq = :seq
"""
_SUBSCRIPTION = "SELECT paused, selector FROM subscription WHERE id = :s"
_LIVE = """
SELECT count(*) FROM listener l JOIN worker w ON w.id = l.worker_id
WHERE l.subscription_id = :s AND w.seen_us > :then
"""


class Step(NamedTuple):
    """One line of an explanation.

    ``ok`` says whether the event passed. None stands for a mere fact.
    """

    step: str
    ok: bool | None
    detail: str


class _Found(NamedTuple):
    """An event of the archive."""

    seq: int
    topic_id: int
    published_us: int
    topic: str
    archived: Archived

    @property
    def source(self) -> str:
        return self.archived.event.source


class _Attempt(NamedTuple):
    number: int
    outcome: str
    reason: str | None
    error_type: str | None
    error: str | None
    model: str | None
    version: str | None

    @property
    def step(self) -> Step:
        which = f"{self.model}:{self.version}" if self.model else "no model was called"
        reason = f" ({self.reason})" if self.reason else ""
        problem = f", {self.error_type}: {self.error}" if self.error_type else ""
        ok = {"succeeded": True, "failed": False, "dead": False, "abandoned": False}
        detail = f"{which}, {self.outcome}{reason}{problem}"
        return Step(f"attempt {self.number}", ok.get(self.outcome), detail)


def explain(
    store: Store, clock: Clock, event: Any, subscription: str, source: str | None = None
) -> list[Step]:
    """Return the steps of *event* on its way to a subscription.

    An id, a receipt or a row names an event of the archive. An Event or data that were not
    published get a forecast.
    """
    with store.snapshot() as reader:
        known = histories(reader, subscription)
        if not known:
            raise NotFound.of("subscription", subscription, [h.name for h in histories(reader)])
        history, now_us = known[0], clock.now_us()
        key = named(event, source) if names_event(event) else None
        found = _found(reader, key) if key is not None else []
        mine = [each for each in found if each.topic == history.topic] or found
        chosen = key.among(mine) if key is not None else []
        if chosen:
            return list(_after(reader, history, chosen[0], now_us))
        if key is not None and isinstance(event, (str, Receipt)):
            near = near_ids(reader, key.event_id) if not found else ()
            raise unknown(key, near, [each.source for each in found])
        return list(_before(reader, history, _future(event, source), now_us))


def _future(event: Any, source: str | None) -> Event:
    """Return the event that was not published. Data get *source*, as :meth:`publish` would do."""
    future = as_event(event)
    return future if source is None else dataclasses.replace(future, source=source)


def _found(reader: Reader, key: EventKey) -> list[_Found]:
    return [
        _Found(seq, topic_id, published_us, topic, archived(columns))
        for seq, topic_id, published_us, topic, *columns in reader.query(
            _EVENT, {"id": id_key(key.event_id)}
        )
    ]


def repeated(times: int, differing: int) -> str:
    """Describe how often the same event was published again."""
    others = f", {differing} of them with other data" if differing else ""
    return f"published {times} more times{others}"


def _before(reader: Reader, history: History, event: Event, now_us: int) -> Iterator[Step]:
    seen = Seen(event, *encode_data(event, MAX_EVENT_BYTES))
    period = history.periods[-1]
    yield Step("published", None, f"not yet; what would happen on {history.topic!r}")
    yield Step("subscribed", period.bound, "yes" if period.bound else "unsubscribed")
    yield from filter_steps(period.filter, seen)
    due = period.bound and seen.passes(period.filter)
    if due:
        yield from _delivering(reader, history, now_us)
    yield Step("outcome", due, "would be delivered" if due else "would not be delivered")


def _after(reader: Reader, history: History, event: _Found, now_us: int) -> Iterator[Step]:
    seen = Seen(*event.archived)
    of = {"seq": event.seq, "s": history.id}
    yield Step(
        "published",
        True,
        f"on {event.topic!r} at {_time(event.published_us)}, number {event.seq} of the archive",
    )
    is_mine = event.topic == history.topic
    yield Step("topic", is_mine, f"the subscription listens to {history.topic!r}")
    yield from _repeats(reader, of)
    periods = history.at(event.seq, event.topic_id)
    due = [p for p in periods if seen.passes(p.filter)]
    yield Step(
        "subscribed",
        bool(periods),
        "when it was published" if periods else "not when it was published: not yet, or no longer",
    )
    if periods:
        yield from filter_steps((due or periods)[0].filter, seen)
    yield from _sent_again(reader, of)
    attempts = [_Attempt(*row) for row in reader.query(_ATTEMPTS, of)]
    yield from (attempt.step for attempt in attempts)
    yield from _effects(reader, of)
    state = list(_state(reader, of, now_us))
    yield from state
    yield from _corrections(reader, of)
    is_open = bool(state) and state[-1].step == "open"
    if is_open:
        yield from _delivering(reader, history, now_us)
        yield from _waits(reader, of, now_us)
    yield _outcome(attempts, is_open, bool(due), bool(periods))


def _outcome(attempts: list[_Attempt], is_open: bool, due: bool, subscribed: bool) -> Step:
    final = [attempt for attempt in attempts if attempt.outcome in FINAL]
    if final:
        outcome, reason = final[-1].outcome, final[-1].reason
        return Step("outcome", outcome == "succeeded", outcome + (f": {reason}" if reason else ""))
    if is_open:
        return Step("outcome", None, "open")
    if due:
        missing = "missing: it was due and is nowhere; bus.audit() says how many there are"
        return Step("outcome", False, missing)
    never = "skipped: filtered" if subscribed else "never due to this subscription"
    return Step("outcome", False, never)


def filter_steps(policy: FilterPolicy | None, seen: Seen) -> Iterator[Step]:
    """Yield one step for each clause of a filter."""
    if policy is None:
        yield Step("filter", True, "none: every event of the topic is delivered")
        return
    if policy.scope == "MessageBody" and seen.body is None:
        yield Step("filter", False, "not_json: the filter looks at the body, which is not JSON")
        return
    for clause in policy.explain(seen.attributes, seen.body):
        yield Step(f"filter {clause.path}", clause.ok, f"{clause.condition}, found {clause.found}")
    if policy.scope == "MessageAttributes" and isinstance(seen.body, dict):
        elsewhere = json.loads(policy.to_json()).keys() & seen.body.keys() - seen.attributes.keys()
        if elsewhere:
            named = ", ".join(sorted(elsewhere))
            yield Step(
                "filter",
                None,
                f"{named} is in the body, and this filter looks at attributes: filter_scope='body'",
            )


def _repeats(reader: Reader, of: dict[str, int]) -> Iterator[Step]:
    for times, differing, repeated_us in reader.query(_REPEATS, of):
        yield Step(
            "duplicate",
            None,
            f"{repeated(times, differing)}, last at {_time(repeated_us)}: skipped, the first one"
            " counts",
        )


def _sent_again(reader: Reader, of: dict[str, int]) -> Iterator[Step]:
    for times, resent_us, changed in reader.query(_RESENT, of):
        if times:
            data = ", with other data" if changed else ""
            yield Step(
                "redrive", None, f"sent again {times} times, last at {_time(resent_us)}{data}"
            )
        else:
            yield Step(
                "arrived",
                None,
                "in the queue of this subscription, without an identity that others could know"
                " it by",
            )


def _effects(reader: Reader, of: dict[str, int]) -> Iterator[Step]:
    for name, key, state, attempt, error in effects.of_event(reader, of["s"], of["seq"]):
        said = {
            "answered": "has happened",
            "failed": f"failed, {error}",
            "unknown": "began and has no recorded end: it may have happened",
        }[state]
        ok = {"answered": True, "failed": False}.get(state)
        yield Step(f"effect {name}", ok, f"{said}; attempt {attempt}, key {key}")


def _corrections(reader: Reader, of: dict[str, int]) -> Iterator[Step]:
    for lane, outcome, reason, model, version in reader.query(_CORRECTED, of):
        number = json.loads(lane)["binding"]
        found = {CORRECTED: "another answer, which replaces that", "": "the same answer"}
        said = found.get(reason or "", f"{outcome} ({reason})")
        detail = f"instead of binding {number}: {model}:{version}, {said}"
        yield Step("correction", outcome == "succeeded", detail)


def _state(reader: Reader, of: dict[str, int], now_us: int) -> Iterator[Step]:
    for reason, dead_us, discarded_us, why in reader.query(_DEAD, of):
        put_away = (
            f"discarded at {_time(discarded_us)}: {why}"
            if discarded_us
            else "waiting to be redriven or discarded"
        )
        yield Step("dead letter", None, f"{reason} at {_time(dead_us)}, {put_away}")
    for (visible_us,) in reader.query(_WAITING, of):
        when = "visible" if visible_us <= now_us else f"delayed until {_time(visible_us)}"
        yield Step("open", None, when)
    for attempt, worker, until_us in reader.query(_LEASED, of):
        over = " (over: the next poll delivers it again)" if until_us <= now_us else ""
        yield Step(
            "open",
            None,
            f"in flight, attempt {attempt} on worker-{worker}, lease until {_time(until_us)}{over}",
        )


def _delivering(reader: Reader, history: History, now_us: int) -> Iterator[Step]:
    ((paused, selector),) = reader.query(_SUBSCRIPTION, {"s": history.id})
    yield Step("paused", not paused, "yes: sub.resume() goes on" if paused else "no")
    ((live,),) = reader.query(_LIVE, {"s": history.id, "then": now_us - ALIVE_US})
    listening = (
        f"{live} live for {selector}"
        if live
        else f"none is live for {selector}: bus.doctor() says what to do"
    )
    yield Step("listener", bool(live), listening)


def _waits(reader: Reader, of: dict[str, int], now_us: int) -> Iterator[Step]:
    for why, until_us in waits.of_event(reader, of["s"], of["seq"], now_us):
        until = "" if until_us is None else f" until {_time(until_us)}"
        yield Step("waits for", None, f"{why}{until}")


def _time(us: int) -> str:
    return (
        datetime.fromtimestamp(us / 1e6, UTC)
        .isoformat(timespec="milliseconds")
        .replace("+00:00", "Z")
    )
