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
    before was killed.

    Raises
    ------
    NotFound
        When no attempt matches.
    """
    wanted, up_to = where_of(rollout.log, spec, where, FILTERS)
    meant = str(rollout.meant(spec, version))
    asked = {"where": {name: _plain(value) for name, value in sorted(where.items())}}
    row = _under_way(rollout, spec, meant, asked) if "up_to" in where else None
    if row is not None and row.settings["filled"]:
        return row
    parts = rollout.log.seqs(wanted, _STEP, up_to)
    first = next(parts, None)
    if first is None:
        raise NotFound(f"no attempt of {spec.name!r} matches: there is nothing to replay")
    if row is None:
        given = Opened("replay", meant, policy, {**settings, **asked, "filled": False})
        with rollout.store.transaction() as transaction:
            number, _ = open_lane(transaction, spec, given, rollout.clock.now_us())
    else:
        number = row.id
    with _stopped_by_trouble(rollout, number):
        _fill(rollout, number, itertools.chain([first], parts))
    return rollout.lanes.row(number)


def _under_way(
    rollout: Rollout, spec: SubscriptionSpec, meant: str, asked: Mapping[str, Any]
) -> LaneRow | None:
    for row in rollout.lanes.rows(spec.id):
        same = row.bound and row.role == "replay" and row.selector == meant
        if same and row.settings.get("where") == asked["where"]:
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
