"""Opening lanes: shadows of live events, and replays of recorded ones."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, Literal

from mltrigger.broker import SubscriptionSpec
from mltrigger.delivery.lanes import policy_of
from mltrigger.errors import InvalidPolicy, NotFound, warn
from mltrigger.policy import DeliveryPolicy
from mltrigger.reports.moments import Moment, moment_us
from mltrigger.reports.naming import named_each, unknown
from mltrigger.rollout.replaying import replay_matching
from mltrigger.rollout.service import Rollout
from mltrigger.store.archive import ARCHIVED, archived
from mltrigger.store.lanes import LaneRow, Opened
from mltrigger.store.ledger import user
from mltrigger.store.limits import HOLD_EVENTS, HOLD_S
from mltrigger.store.topics import Seen
from mltrigger.text import count

Effects = Literal["recorded", "live"]
_EFFECTS = ("recorded", "live")
_STEP = 1_000
_CHOSEN = "chosen"
"""The purpose of a replay of events that were named."""
_THOSE = "e.seq BETWEEN :low AND :high AND (e.by_rows_us IS NULL OR e.by_rows_us <= :now)"
_NEWEST = f"""
SELECT e.seq FROM event e JOIN topic t ON t.id = e.topic_id
WHERE t.name = :topic AND {_THOSE} ORDER BY e.seq DESC LIMIT 1 OFFSET :n
"""
_HOW_MANY = f"""
SELECT count(*) FROM event e JOIN topic t ON t.id = e.topic_id
WHERE t.name = :topic AND {_THOSE}
"""
_BACKWARD = f"""
SELECT {ARCHIVED} FROM event e JOIN topic t ON t.id = e.topic_id
WHERE t.name = :topic AND {_THOSE} ORDER BY e.seq DESC LIMIT {_STEP}
"""


def shadow(
    rollout: Rollout,
    spec: SubscriptionSpec,
    version: Any,
    *,
    share: float = 1.0,
    effects: Effects = "recorded",
    concurrency: int = 1,
    max_rate_per_s: float | None = None,
    why: str | None = None,
    by: str | None = None,
) -> LaneRow:
    """Send a copy of a share of the live events to *version*. See ``sub.shadow``."""
    if isinstance(share, bool) or not isinstance(share, (int, float)) or not 0.0 < share <= 1.0:
        raise InvalidPolicy(f"share = {share!r:.60}: write a share above 0 and up to 1, as 0.2")
    meant = str(rollout.meant(spec, version))
    settings = _settings(effects, why, by) | {"share": float(share)}
    given = Opened(
        "shadow",
        meant,
        policy_of(spec, concurrency, max_rate_per_s),
        settings,
        next_seq=_newest(rollout) + 1,
    )
    for row in rollout.lanes.rows(spec.id):
        if row.bound and row.role == "shadow" and row.selector == meant:
            if _asks_the_same(rollout, row, given):
                return row  # the cell ran again
            rollout.lanes.end(row.id)
    return _opened(rollout, spec, given)


def replay(
    rollout: Rollout,
    spec: SubscriptionSpec,
    version: Any,
    *,
    since: Moment = None,
    until: Moment = None,
    limit: int | None = None,
    events: Any = None,
    source: str | None = None,
    where: Mapping[str, Any] | None = None,
    max_rate_per_s: float | None = None,
    effects: Effects = "recorded",
    concurrency: int = 1,
    why: str | None = None,
    by: str | None = None,
) -> LaneRow:
    """Send recorded events to *version*. See ``sub.replay``."""
    if where is not None:
        if not (since is None and until is None and limit is None and events is None):
            raise InvalidPolicy(
                "where= has since and until itself: leave since, until, limit and events out"
            )
        policy, common = policy_of(spec, concurrency, max_rate_per_s), _settings(effects, why, by)
        row = replay_matching(rollout, spec, version, where, common, policy)
        rollout.engine.look_again(spec.name)
        return row
    if events is not None:
        if not (since is None and until is None and limit is None):
            raise InvalidPolicy("events= names all events: leave since, until and limit out")
        settings = _settings(effects, why, by) | {"purpose": _CHOSEN}
        policy = policy_of(spec, concurrency, max_rate_per_s)
        seqs = _numbers(rollout, spec, events, source)
        return _chosen(rollout, spec, version, seqs, settings, policy)
    if limit is not None and (isinstance(limit, bool) or not isinstance(limit, int) or limit < 1):
        raise InvalidPolicy(f"limit = {limit!r:.60}: write a whole number of at least 1")
    meant = str(rollout.meant(spec, version))
    policy, common = policy_of(spec, concurrency, max_rate_per_s), _settings(effects, why, by)
    low, high, cut = _range(rollout, spec, since, until)
    times = {"since": _said(since), "until": _said(until)}
    asked = {**times, "limit": limit, "purpose": None, "where": None}
    low, total = _limited(rollout, spec, low, high, limit)
    if not total and total is not None:
        raise NotFound(
            f"no recorded event of {spec.topic!r} passes the filter of {spec.name!r} there: there"
            " is nothing to replay"
        )
    settings = common | asked | {"total": total, "cut": cut}
    given = Opened("replay", meant, policy, settings, low, high)
    for row in rollout.lanes.rows(spec.id):
        same = {name: row.settings.get(name) for name in asked} == asked
        if row.bound and row.role == "replay" and row.selector == meant and same:
            return row  # the cell ran again while it is under way
    if cut:
        warn(f"{cut}: the replay begins with the oldest event that is kept")
    return _opened(rollout, spec, given)


def replay_these(
    rollout: Rollout, spec: SubscriptionSpec, version: Any, seqs: Sequence[int], purpose: str
) -> LaneRow:
    """Send the events *seqs* to *version*."""
    settings = _settings("recorded", None) | {"purpose": purpose}
    return _chosen(rollout, spec, version, seqs, settings, policy_of(spec, 1, None))


def _chosen(
    rollout: Rollout,
    spec: SubscriptionSpec,
    version: Any,
    seqs: Sequence[int],
    settings: Mapping[str, Any],
    policy: DeliveryPolicy,
) -> LaneRow:
    meant = str(rollout.meant(spec, version))
    given = Opened("replay", meant, policy, {**settings, "total": len(seqs)}, seqs=seqs)
    return _opened(rollout, spec, given)


def _numbers(
    rollout: Rollout, spec: SubscriptionSpec, events: Any, source: str | None
) -> list[int]:
    """Return the numbers of the named events of the subscription's topic, in order."""
    found: dict[int, None] = {}
    for key in dict.fromkeys(named_each(events, source)):
        there = [each for each in rollout.log.find(key.event_id) if each.topic == spec.topic]
        mine = key.among(there)
        if not mine:
            raise unknown(key, rollout.log.near(key.event_id), [each.source for each in there])
        found |= dict.fromkeys(each.seq for each in mine)
    if not found:
        raise NotFound("no event was named: there is nothing to replay")
    return sorted(found)


def _settings(effects: str, why: str | None, by: str | None = None) -> dict[str, Any]:
    if effects not in _EFFECTS:
        raise NotFound.of("effects", str(effects), _EFFECTS)
    return {
        "effects": effects,
        "why": why,
        "by": by or user(),
        "hold_events": HOLD_EVENTS,
        "hold_s": HOLD_S,
    }


def _opened(rollout: Rollout, spec: SubscriptionSpec, given: Opened) -> LaneRow:
    row = rollout.lanes.open(spec, given)
    rollout.engine.look_again(spec.name)
    return row


def _asks_the_same(rollout: Rollout, row: LaneRow, given: Opened) -> bool:
    running = rollout.registry.subscription(row.name)
    same = {name: row.settings.get(name) for name in given.settings} == dict(given.settings)
    return same and running is not None and running.policy == given.policy


def _newest(rollout: Rollout) -> int:
    ((newest,),) = rollout.store.read("SELECT coalesce(max(seq), 0) FROM event")
    return int(newest)


def _range(
    rollout: Rollout, spec: SubscriptionSpec, since: Moment, until: Moment
) -> tuple[int, int, str | None]:
    """Return the first and the last event, and a remark if the log begins later than asked for."""
    now_us = rollout.clock.now_us()
    since_us, until_us = moment_us(since, now_us), moment_us(until, now_us, "until")
    if since_us is not None and until_us is not None and since_us >= until_us:
        raise InvalidPolicy(f"since={_said(since)} is not before until={_said(until)}")
    kept = rollout.lanes.archive(spec.topic)
    low = kept.first if since_us is None else max(kept.first, rollout.lanes.since(since_us))
    high = kept.last if until_us is None else min(kept.last, rollout.lanes.since(until_us) - 1)
    begins_us = kept.begins_us
    cut = None
    if kept.is_cut and begins_us is not None and (since_us is None or since_us < begins_us):
        begins = datetime.fromtimestamp(begins_us / 1e6, UTC).strftime("%Y-%m-%d %H:%M:%S UTC")
        cut = f"events before {begins} were deleted, as bus.retain(…) says"
    if low > high:
        of = f"no event of {spec.topic!r} is recorded"
        then = "" if since is None and until is None else " in that time"
        raise NotFound(f"{of}{then}{f'; {cut}' if cut else ''}: there is nothing to replay")
    return low, high, cut


def _limited(
    rollout: Rollout, spec: SubscriptionSpec, low: int, high: int, limit: int | None
) -> tuple[int, int | None]:
    """Return where the newest *limit* events begin, and their number if that is known."""
    of = {"topic": spec.topic, "low": low, "high": high, "now": rollout.clock.now_us()}
    if spec.filter is None:
        ((n,),) = rollout.store.read(_HOW_MANY, of)
        if limit is None or n <= limit:
            return low, int(n)
        ((low,),) = rollout.store.read(_NEWEST, {**of, "n": limit - 1})
        return int(low), limit
    if limit is None:
        return low, None
    found = 0
    while rows := rollout.store.read(_BACKWARD, of):
        for row in rows:
            found += Seen(*archived(row)).passes(spec.filter)
            if found == limit:
                return int(row[0]), limit
        of["high"] = rows[-1][0] - 1
    return low, found


def _said(moment: Moment) -> str | None:
    return None if moment is None else str(moment)


def shown(settings: Mapping[str, Any]) -> str:
    """Return the part of the log that a replay takes, in words."""
    parts = [f"{name} {settings[name]}" for name in ("since", "until") if settings.get(name)]
    parts += [f"{name} {value}" for name, value in (settings.get("where") or {}).items()]
    if settings.get("limit"):
        parts.append(f"the newest {settings['limit']:,}")
    if settings.get("purpose") == _CHOSEN:
        parts.append(count(settings["total"], "event"))
    return ", ".join(parts)
