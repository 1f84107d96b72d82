"""Replaying all events that match a filter: they are added to the lane in parts."""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from mltrigger.broker import SubscriptionSpec
from mltrigger.errors import NotFound
from mltrigger.policy import DeliveryPolicy
from mltrigger.reports.choosing import Where, where_of
from mltrigger.reports.progress import reached
from mltrigger.rollout.service import Rollout
from mltrigger.store.lanes import (
    LaneRow,
    Opened,
    add_to,
    end_lane,
    is_through,
    lane,
    lanes_of,
    open_lane,
    set_lane,
)

FILTERS = tuple(Where.__annotations__)
"""The names of ``where`` for attempts."""
_STEP = 1_000
"""Events that are added to a lane in one commit. Others can write in between."""
_THERE = "SELECT seq FROM event WHERE seq IN ({})"


def replay_matching(
    rollout: Rollout,
    spec: SubscriptionSpec,
    version: Any,
    where: Mapping[str, Any],
    settings: Mapping[str, Any],
    policy: DeliveryPolicy,
) -> LaneRow:
    """Send all events with attempts that match to *version*. See ``sub.replay``.

    The same call again finds its lane while it is under way. It goes on to fill it, if the process
    before was killed. Without ``up_to`` it keeps to the record that the lane began with.

    Raises
    ------
    NotFound
        When no attempt matches.
    """
    wanted, up_to = where_of(rollout.log, spec, where, FILTERS)
    meant = str(rollout.meant(spec, version))
    asked = {n: _plain(value) for n, value in sorted(where.items()) if n != "up_to"}
    same = {"where": asked} if where.get("up_to") is None else {"where": asked, "up_to": up_to}
    row = _under_way(rollout.lanes.rows(spec.id), meant, same)
    parts: Iterator[list[int]] = rollout.log.seqs(wanted, _STEP, up_to)
    if row is None:
        first = next(parts, None)
        if first is None:
            raise NotFound(f"no attempt of {spec.name!r} matches: there is nothing to replay")
        parts = itertools.chain([first], parts)
        about = {**settings, "where": asked, "up_to": up_to, "filled": False}
        with rollout.store.transaction() as transaction:  # another process may have been faster
            row = _under_way(lanes_of(transaction, spec.id), meant, same)
            if row is None:
                given = Opened("replay", meant, policy, about)
                number, _ = open_lane(transaction, spec, given, rollout.clock.now_us())
                row = lane(transaction, number)
    if row.settings["filled"]:
        return row
    if row.settings["up_to"] != up_to:
        parts = rollout.log.seqs(wanted, _STEP, row.settings["up_to"])
    with _stopped_by_trouble(rollout, row.id):
        _fill(rollout, row.id, parts)
    return rollout.lanes.row(row.id)


def _under_way(rows: Iterable[LaneRow], meant: str, same: Mapping[str, Any]) -> LaneRow | None:
    for row in rows:
        if row.bound and row.role == "replay" and row.selector == meant:
            settings = row.settings
            if all(settings.get(name) == value for name, value in same.items()):
                return row
    return None


def _fill(rollout: Rollout, number: int, parts: Iterable[Sequence[int]]) -> None:
    total = 0
    for seqs in parts:
        with rollout.store.transaction() as transaction:
            among = ", ".join(str(int(seq)) for seq in seqs)
            there = [seq for (seq,) in transaction.query(_THERE.format(among), {})]
            if there:  # else retention has deleted them meanwhile
                add_to(transaction, number, there, rollout.clock.now_us())
        total += len(there)
        reached(total)
    with rollout.store.transaction() as transaction:
        settings = lane(transaction, number).settings
        set_lane(transaction, number, {**settings, "filled": True, "total": total})
        if is_through(transaction, number):
            end_lane(transaction, number, "done")


@contextlib.contextmanager
def _stopped_by_trouble(rollout: Rollout, number: int) -> Iterator[None]:
    """Stop a lane that cannot be filled: it would never be done."""
    try:
        yield
    except BaseException:
        with contextlib.suppress(Exception):
            rollout.lanes.end(number)
        raise


def _plain(value: Any) -> Any:
    if value is None or isinstance(value, (str, int)):
        return value
    if isinstance(value, (list, tuple)):
        return [_plain(each) for each in value]
    return str(value)
