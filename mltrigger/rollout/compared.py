"""Comparing two versions of a subscription by recorded answers: live, shadow and replay."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from mltrigger.broker import SubscriptionSpec
from mltrigger.errors import InvalidComparison, NotFound, NothingToCompare
from mltrigger.reports import frames, views
from mltrigger.reports.moments import Moment
from mltrigger.rollout.comparison import Comparison, compare_frames
from mltrigger.rollout.lane import Lane
from mltrigger.rollout.lanes import replay_these
from mltrigger.rollout.pairs import NEEDED
from mltrigger.rollout.service import Rollout
from mltrigger.store.lanes import LaneRow
from mltrigger.versions.version import ModelVersion

if TYPE_CHECKING:
    import pandas as pd

NOISE = "noise"
_FINAL = ("succeeded", "dead")
_KEY = ["source", "event_id"]
_LABELS = "SELECT event_id, source, truth FROM label ORDER BY true_us, id"
_ORDER = ("shadow", "replay")
"""An answer in a shadow comes before one in a replay. Live answers come first."""


def compare(
    rollout: Rollout,
    spec: SubscriptionSpec,
    old: Any,
    new: Any,
    *,
    noise: int = 0,
    since: Moment = None,
    by: str | Callable[[Mapping[str, Any]], Any] | None = None,
    repeated: bool | None = None,
    timeout_s: float = 600.0,
    **asked: Any,
) -> Comparison:
    """Compare two versions. See ``sub.compare``."""
    if isinstance(noise, bool) or not isinstance(noise, int) or noise < 0:
        raise InvalidComparison(f"noise = {noise!r:.60}: write a number of events, such as 200")
    versions = rollout.meant(spec, old), rollout.meant(spec, new)
    lanes = [row for row in rollout.lanes.rows(spec.id) if row.role in _ORDER]
    left, right = _sides(rollout, spec, versions, lanes, since, _columns(by))
    shared = _shared(left, right)
    if not shared:
        raise NothingToCompare(
            f"no event was answered by both: {len(left):,} by {versions[0]}, {len(right):,} by"
            f" {versions[1]}{'' if since is None else f', since {since}'}; sub.replay(…) runs a"
            " version on recorded events, sub.shadow(…) beside the live one"
        )
    if repeated is None:
        repeated = _is_watched(rollout, spec, versions, lanes)
    again = None
    if noise:
        again = _noise(rollout, spec, versions[0], shared, noise, timeout_s)
    labels = _labels(rollout, left)
    return compare_frames(
        left, right, by=by, noise=again, labels=labels, repeated=repeated, **asked
    )


def _columns(by: Any) -> list[str]:
    """Return the columns to read: a function may look at all of them."""
    if callable(by):
        return list(frames.INVOCATIONS)
    if by is not None and by not in frames.INVOCATIONS:
        advice = "by= takes a function of a row as well"
        raise NotFound.of("column", str(by), frames.INVOCATIONS, advice)
    others = [by] if by is not None else []
    return list(dict.fromkeys([*NEEDED, "measures", *others]))


def _sides(
    rollout: Rollout,
    spec: SubscriptionSpec,
    versions: tuple[ModelVersion, ModelVersion],
    lanes: Sequence[LaneRow],
    since: Moment,
    columns: Sequence[str],
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Return the first final answer to each event, of both versions."""
    live = _ended(rollout, spec.id, ["live", "canary"], since, columns)
    found: list[pd.DataFrame] = []
    for version in versions:
        beside = _in_order(lanes, version)
        parts = [live[_is(live, version)]]
        parts += [_ended(rollout, row.id, [row.role], since, columns) for row in beside]
        if versions[0] == versions[1]:  # a version against itself: live against its lanes
            parts = parts[:1] if not found else parts[1:] or [live.iloc[:0]]
        found.append(_first(parts))
    return found[0], found[1]


def _in_order(lanes: Sequence[LaneRow], version: ModelVersion) -> list[LaneRow]:
    """Return the lanes of a version: shadows first, of each kind the newest first."""
    own = [
        row
        for row in lanes
        if row.selector == str(version) and row.settings.get("purpose") != NOISE
    ]
    return sorted(own, key=lambda row: (_ORDER.index(row.role), -row.id))


def _ended(
    rollout: Rollout, number: int, roles: Sequence[str], since: Moment, columns: Sequence[str]
) -> pd.DataFrame:
    found = views.invocations(rollout.log, number, since=since, columns=columns, role=roles)
    return found[found["outcome"].isin(_FINAL)]


def _is(table: pd.DataFrame, version: ModelVersion) -> pd.Series[bool]:
    return (table["model"] == version.name) & (table["version"] == version.version)


def _first(parts: Sequence[pd.DataFrame]) -> pd.DataFrame:
    """Return the first answer to each event."""
    import pandas as pd

    there = [part for part in parts if len(part)] or [parts[0]]
    table = there[0] if len(there) == 1 else pd.concat(there, ignore_index=True)
    return table[~table.duplicated(_KEY)].reset_index(drop=True)


def _shared(left: pd.DataFrame, right: pd.DataFrame) -> list[tuple[str, str]]:
    """Return source and id of the events that both answered, in an order of their own."""
    both = left[_KEY].merge(right[_KEY], on=_KEY).sort_values(["event_id", "source"])
    return list(both.itertuples(index=False, name=None))


def _is_watched(
    rollout: Rollout,
    spec: SubscriptionSpec,
    versions: Sequence[ModelVersion],
    lanes: Sequence[LaneRow],
) -> bool:
    """Whether answers came in one by one, so that they may have been looked at before.

    A shadow or a canary that has ended counts: it may have been ended for its figures.
    """
    names = {str(version) for version in versions}
    shadowed = {row.selector for row in lanes if row.role == "shadow"}
    canaries = {row.canary for row in rollout.ledger.rows(spec.id)}
    return bool(names & (shadowed | canaries))


def _noise(
    rollout: Rollout,
    spec: SubscriptionSpec,
    old: ModelVersion,
    keys: Sequence[tuple[str, str]],
    n: int,
    timeout_s: float,
) -> pd.DataFrame | None:
    """Run the old version again on *n* of the events. The same events again are not run again."""
    if not keys:
        return None
    chosen = [keys[at * len(keys) // min(n, len(keys))] for at in range(min(n, len(keys)))]
    columns = _columns(None)
    for row in reversed(rollout.lanes.rows(spec.id)):
        if row.selector == str(old) and row.settings.get("purpose") == NOISE:
            found = _ended(rollout, row.id, ["replay"], None, columns)
            if {*chosen} <= {*found[_KEY].itertuples(index=False, name=None)}:
                return found
    seqs = [
        each.seq
        for source, event_id in chosen
        for each in rollout.log.find(event_id)
        if (each.source, each.topic) == (source, spec.topic)
    ]
    row = replay_these(rollout, spec, old, sorted(seqs), NOISE)
    Lane(rollout, spec, row).wait(timeout_s)
    return _ended(rollout, row.id, ["replay"], None, columns)


def _labels(rollout: Rollout, left: pd.DataFrame) -> pd.DataFrame | None:
    """Return the truths about the events of the old version, the one that counts last."""
    import pandas as pd

    if not (rows := rollout.store.read(_LABELS)):
        return None
    ids = {*left["event_id"]}
    rows = [row for row in rows if row[0] in ids]
    return pd.DataFrame(rows, columns=["event_id", "source", "label"]) if rows else None
