"""Why an event did or did not fire: clause by clause, before and after the fact."""

from __future__ import annotations

import json
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import NamedTuple

from mltrigger.broker import MAX_EVENT_BYTES, Receipt
from mltrigger.clock import Clock
from mltrigger.errors import NotFound
from mltrigger.event.event import Event, encode_data
from mltrigger.filters import FilterPolicy
from mltrigger.reports.audit import kept_out
from mltrigger.store.archive import ARCHIVED, archived
from mltrigger.store.outcomes import FINAL
from mltrigger.store.publishing import Seen
from mltrigger.store.revisions import History, histories
from mltrigger.store.timekeeper import ALIVE_US
from mltrigger.store.transaction import Reader, Row, Store


class Step(NamedTuple):
    """One line of an explanation: what was looked at, whether it let the event go on (``None``: a
    fact), and what was found.
    """

    step: str
    ok: bool | None
    detail: str


_EVENT = (
    f"SELECT {ARCHIVED}, e.topic_id, e.published_us, t.name FROM event e JOIN topic t ON t.id ="
    " e.topic_id WHERE e.id = :id ORDER BY e.seq"
)
_ATTEMPTS = """
SELECT i.attempt, i.outcome, i.reason, i.error_type, i.error, m.name, m.version FROM invocation i
LEFT JOIN model_version m ON m.id = i.model_version_id WHERE i.seq = :seq AND i.subscription_id = :s ORDER BY i.attempt
"""
_SKIPPED = """
SELECT e.seq, e.id, e.source, e.type, e.subject, i.reason, e.published_us FROM invocation i JOIN event e ON e.seq = i.seq
WHERE i.subscription_id = :s AND i.outcome = 'skipped'
"""
_DUPLICATES = """
SELECT e.seq, e.id, e.source, e.type, e.subject, p.times, p.differing, e.published_us
FROM repeat p JOIN event e ON e.seq = p.seq WHERE EXISTS (
  SELECT 1 FROM invocation i WHERE i.seq = e.seq AND i.subscription_id = :s UNION ALL
  SELECT 1 FROM lease l WHERE l.seq = e.seq AND l.subscription_id = :s UNION ALL
  SELECT 1 FROM waiting r WHERE r.seq = e.seq AND r.subscription_id = :s)
"""


def explain(
    store: Store, clock: Clock, event: Event | Receipt | str, subscription: str
) -> list[Step]:
    """Return what happened to *event* (an id, a receipt), or what would happen to it (an Event that
    was not published).
    """
    with store.snapshot() as reader:
        found = histories(reader, subscription)
        if not found:
            raise NotFound.of("subscription", subscription, [h.name for h in histories(reader)])
        history = found[0]
        id_ = (
            event
            if isinstance(event, str)
            else event.event_id
            if isinstance(event, Receipt)
            else event.id
        )
        rows = reader.query(_EVENT, {"id": id_})
        if isinstance(event, Receipt):
            rows = [row for row in rows if row[0] == event.seq]
        elif isinstance(event, Event):
            rows = [row for row in rows if row[2] == event.source]
        if rows:
            mine = [row for row in rows if row[-1] == history.topic] or rows
            others = (
                [
                    Step(
                        "also",
                        None,
                        f"the first of {len(mine)} events with this id: a receipt, or an Event,"
                        " says which is meant",
                    )
                ]
                if mine[1:]
                else []
            )
            return others + list(_after(reader, history, mine[0], clock.now_us()))
        if not isinstance(event, Event):
            raise NotFound(
                f"no event {id_!r}; bus.events() lists what was published, and an Event says what"
                " would happen to it"
            )
        return list(_before(reader, history, event, clock.now_us()))


def skipped(store: Store, subscription: str, limit: int | None) -> list[Row]:
    """Return (event id, source, type, subject, reason, detail, published_us) of what the model was
    not called with, oldest first.
    """
    with store.snapshot() as reader:
        history = histories(reader, subscription)[0]
        rows = [(*row[:6], None, row[6]) for row in reader.query(_SKIPPED, {"s": history.id})]
        rows += [
            (*row[:5], "duplicate", _repeated(*row[5:7]), row[7])
            for row in reader.query(_DUPLICATES, {"s": history.id})
        ]
        for row, published_us, period in (
            kept_out(reader, history) if any(p.filter for p in history.periods) else ()
        ):
            event, clauses = archived(row).event, _filter(period.filter, Seen(*archived(row)))
            detail = "; ".join(f"{s.step}: {s.detail}" for s in clauses if s.ok is False)
            rows.append(
                (
                    row[0],
                    event.id,
                    event.source,
                    event.type,
                    event.subject,
                    "filtered",
                    detail,
                    published_us,
                )
            )
    rows.sort(key=lambda row: row[0])
    return [row[1:] for row in (rows if limit is None else rows[-limit:] if limit else [])]


def _repeated(times: int, differing: int) -> str:
    return f"published {times} more times" + (
        f", {differing} of them with other data" if differing else ""
    )


def _before(reader: Reader, history: History, event: Event, now_us: int) -> Iterator[Step]:
    seen = Seen(event, *encode_data(event, MAX_EVENT_BYTES))
    period = history.periods[-1]
    yield Step("published", None, f"not yet; what would happen on {history.topic!r}")
    yield Step("subscribed", period.bound, "yes" if period.bound else "unsubscribed")
    yield from _filter(period.filter, seen)
    due = period.bound and seen.passes(period.filter)
    if due:
        yield from _delivering(reader, history, now_us)
    yield Step("outcome", due, "would be delivered" if due else "would not be delivered")


def _after(reader: Reader, history: History, row: Row, now_us: int) -> Iterator[Step]:
    seen = Seen(*archived(row[:-3]))
    seq, topic_id, published_us, topic = row[0], *row[-3:]
    of = {"seq": seq, "s": history.id}
    yield Step(
        "published", True, f"on {topic!r} at {_time(published_us)}, number {seq} of the archive"
    )
    yield Step("topic", topic == history.topic, f"the subscription listens to {history.topic!r}")
    yield from _repeats(reader, of)
    periods = history.at(seq, topic_id)
    due = [p for p in periods if seen.passes(p.filter)]
    yield Step(
        "subscribed",
        bool(periods),
        "when it was published" if periods else "not when it was published: not yet, or no longer",
    )
    if periods:
        yield from _filter((due or periods)[0].filter, seen)
    yield from _sent_again(reader, of)
    attempts = reader.query(_ATTEMPTS, of)
    yield from (_attempt(*attempt) for attempt in attempts)
    state = list(_state(reader, of, now_us))
    yield from state
    if state and state[-1].step == "open":
        yield from _delivering(reader, history, now_us)
    yield _outcome(
        [(a[1], a[2]) for a in attempts],
        bool(state and state[-1].step == "open"),
        bool(due),
        bool(periods),
    )


def _outcome(
    attempts: list[tuple[str, str | None]], is_open: bool, due: bool, subscribed: bool
) -> Step:
    final = [(outcome, reason) for outcome, reason in attempts if outcome in FINAL]
    if final:
        outcome, reason = final[-1]
        return Step("outcome", outcome == "succeeded", outcome + (f": {reason}" if reason else ""))
    if is_open:
        return Step("outcome", None, "open")
    if due:
        return Step(
            "outcome",
            False,
            "missing: it was due and is nowhere; bus.audit() says how many there are",
        )
    return Step(
        "outcome", False, "skipped: filtered" if subscribed else "never due to this subscription"
    )


def _filter(policy: FilterPolicy | None, seen: Seen) -> Iterator[Step]:
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
    for times, differing, repeated_us in reader.query(
        "SELECT times, differing, repeated_us FROM repeat WHERE seq = :seq", of
    ):
        yield Step(
            "duplicate",
            None,
            f"{_repeated(times, differing)}, last at {_time(repeated_us)}: skipped, the first one"
            " counts",
        )


def _sent_again(reader: Reader, of: dict[str, int]) -> Iterator[Step]:
    for times, resent_us, changed in reader.query(
        "SELECT times, resent_us, data IS NOT NULL FROM resent WHERE subscription_id = :s AND seq ="
        " :seq",
        of,
    ):
        if not times:
            yield Step(
                "arrived",
                None,
                "in the queue of this subscription, without an identity that others could know"
                " it by",
            )
            continue
        yield Step(
            "redrive",
            None,
            f"sent again {times} times, last at"
            f" {_time(resent_us)}{', with other data' if changed else ''}",
        )


def _attempt(
    number: int,
    outcome: str,
    reason: str | None,
    error_type: str | None,
    error: str | None,
    model: str | None,
    version: str | None,
) -> Step:
    which = f"{model}:{version}" if model else "no model was called"
    problem = f", {error_type}: {error}" if error_type else ""
    ok = {"succeeded": True, "failed": False, "dead": False, "abandoned": False}.get(outcome)
    return Step(
        f"attempt {number}", ok, f"{which}, {outcome}{f' ({reason})' if reason else ''}{problem}"
    )


def _state(reader: Reader, of: dict[str, int], now_us: int) -> Iterator[Step]:
    for reason, dead_us, discarded_us, why in reader.query(
        "SELECT reason, dead_us, discarded_us, discard_reason FROM dead_letter WHERE"
        " subscription_id = :s AND seq = :seq",
        of,
    ):
        put_away = (
            f"discarded at {_time(discarded_us)}: {why}"
            if discarded_us
            else "waiting to be redriven or discarded"
        )
        yield Step("dead letter", None, f"{reason} at {_time(dead_us)}, {put_away}")
    for (visible_us,) in reader.query(
        "SELECT visible_us FROM waiting WHERE subscription_id = :s AND seq = :seq", of
    ):
        yield Step(
            "open",
            None,
            "visible" if visible_us <= now_us else f"delayed until {_time(visible_us)}",
        )
    for attempt, worker, until_us in reader.query(
        "SELECT attempt, worker_id, until_us FROM lease WHERE subscription_id = :s AND seq = :seq",
        of,
    ):
        over = " (over: the next poll delivers it again)" if until_us <= now_us else ""
        yield Step(
            "open",
            None,
            f"in flight, attempt {attempt} on worker-{worker}, lease until {_time(until_us)}{over}",
        )


def _delivering(reader: Reader, history: History, now_us: int) -> Iterator[Step]:
    paused, selector = reader.query(
        "SELECT paused, selector FROM subscription WHERE id = :s", {"s": history.id}
    )[0]
    yield Step("paused", not paused, "yes: sub.resume() goes on" if paused else "no")
    live = reader.query(
        "SELECT count(*) FROM listener l JOIN worker w ON w.id = l.worker_id WHERE"
        " l.subscription_id = :s AND w.seen_us > :then",
        {"s": history.id, "then": now_us - ALIVE_US},
    )[0][0]
    yield Step(
        "listener",
        bool(live),
        (
            f"{live} live for {selector}"
            if live
            else f"none is live for {selector}: bus.doctor() says what to do"
        ),
    )


def _time(us: int) -> str:
    return (
        datetime.fromtimestamp(us / 1e6, UTC)
        .isoformat(timespec="milliseconds")
        .replace("+00:00", "Z")
    )
