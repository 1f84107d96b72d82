"""The handles of lanes, and their list."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple, overload

from mltrigger.broker import SubscriptionSpec
from mltrigger.errors import NotFound, brief_errors, warn
from mltrigger.rollout.canary import Canary
from mltrigger.rollout.columns import LANES
from mltrigger.rollout.lanes import shown
from mltrigger.rollout.service import Rollout
from mltrigger.store.lanes import LaneRow
from mltrigger.text import card, card_of, short, table_html
from mltrigger.versions.running.current import about_to_wait

if TYPE_CHECKING:
    from datetime import datetime, timedelta

    import pandas as pd

_LOOK_S = 0.25


class Progress(NamedTuple):
    """How far a lane is.

    ``total`` events are its own, ``None`` if the number is not known. ``done`` have an answer,
    ``failed`` of them an error. ``remaining`` ones wait. With a filter or a share some of them may
    still be kept out. ``rate_per_s`` is that of the last minute.
    """

    total: int | None
    done: int
    failed: int
    remaining: int
    share: float
    rate_per_s: float

    def _repr_html_(self) -> str:
        return card_of("Progress", self)


@brief_errors
class Lane:
    """A shadow, a replay or a correction of a subscription. Made by ``sub.shadow`` and others.

    The live lane of ``sub.lanes()`` is one, too.

    Attributes
    ----------
    name : str
        Its name, such as ``ocr~replay-7``.
    role : str
        ``live``, ``shadow``, ``replay`` or ``correction``.
    version : str
        The version that answers in it.
    """

    def __init__(self, rollout: Rollout, spec: SubscriptionSpec, row: LaneRow | None) -> None:
        self._rollout, self._spec, self._row = rollout, spec, row
        self.name, self.role = (row.name, row.role) if row is not None else (spec.name, "live")
        self.version = row.selector if row is not None else spec.selector

    @property
    def _id(self) -> int:
        return self._spec.id if self._row is None else self._row.id

    def _now(self) -> LaneRow | None:
        return None if self._row is None else self._rollout.lanes.row(self._row.id)

    def _own(self) -> LaneRow:
        row = self._now()
        if row is None:
            raise NotFound(
                f"the live lane of {self.name!r} is the subscription itself: sub.stop(),"
                " sub.pause() or sub.unsubscribe() end it"
            )
        return row

    # -- what it does ------------------------------------------------------------------------------

    @property
    def state(self) -> str:
        """``running``, ``waiting …`` with the reason, ``stopped``, ``done`` or ``unsubscribed``.

        A lane runs where its subscription is delivered.
        """
        row = self._now()
        if row is None:
            return self._rollout.engine.state(self.name)
        if row.ended:
            return row.ended
        here = self._rollout.engine.lanes.state(row.id)
        if here.startswith("waiting"):
            return here
        is_live = here != "stopped" or self._rollout.registry.live_listeners().get(row.id)
        return "running" if is_live else f"waiting for a listener of {self._spec.name!r}"

    def progress(self) -> Progress:
        """Return how many events are done, failed and left, and the rate."""
        row, counts = self._now(), self._rollout.lanes.counts(self._id)
        settings = {} if row is None else row.settings
        total = settings.get("total")
        share = float(settings.get("share") or 1.0)
        return Progress(total, counts.done, counts.failed, counts.open, share, counts.rate_per_s)

    def stop(self) -> None:
        """Begin no more calls, in any process. :meth:`start` goes on. Idempotent."""
        self._rollout.lanes.end(self._own().id)
        self._rollout.engine.look_again(self._spec.name)

    def start(self) -> Lane:
        """Go on after :meth:`stop`: a replay where it was, a shadow with the next event.

        Idempotent.

        Raises
        ------
        NotFound
            When its subscription was unsubscribed, or nothing of it is left.
        """
        row = self._own()
        if row.ended == "done":
            raise NotFound(f"{self.name} is done: open another one to call the version again")
        if row.ended and not self._rollout.lanes.begin(row.id):
            raise NotFound(f"{self.name} ended with its subscription: open another one")
        self._rollout.engine.look_again(self._spec.name)
        return self

    def wait(self, timeout_s: float = 600.0) -> Lane:
        """Wait until a replay is done, at most *timeout_s* seconds. Return the lane itself.

        A shadow is waited for until it has answered all events so far. A warning counts the rest.
        """
        about_to_wait()
        end_s = time.monotonic() + timeout_s
        while not self._is_through():
            left_s = end_s - time.monotonic()
            row = self._now()
            if row is not None and row.ended == "done":
                break
            if row is not None and row.ended:
                warn(f"{self.name} is {row.ended}; start() goes on")
                break
            if left_s <= 0 or "waiting for a listener" in self.state:
                why = f"after {timeout_s:g} s" if left_s <= 0 else self.state
                warn(f"{self.name} has {self.progress().remaining:,} events left: {why}")
                break
            self._rollout.lanes.wait(min(left_s, _LOOK_S))
        return self

    def _is_through(self) -> bool:
        row = self._now()
        if row is not None and row.ended == "done":
            return True
        if self._rollout.lanes.counts(self._id).open:
            return False
        return row is None or row.role == "shadow" or self._rollout.lanes.finish(row.id)

    # -- what came of it ---------------------------------------------------------------------------

    def results(self, limit: int | None = None) -> pd.DataFrame:
        """Return one row per ended event, as ``sub.results()`` does."""
        from mltrigger.reports import views

        return views.results(self._rollout.log, self._id, limit, [self.role])

    def invocations(
        self,
        limit: int | None = None,
        *,
        since: datetime | timedelta | str | None = None,
        columns: Sequence[str] | None = None,
    ) -> pd.DataFrame:
        """Return every attempt as one row, as ``sub.invocations()`` does."""
        from mltrigger.reports import views

        role = [self.role] if self._row is not None else None
        return views.invocations(self._rollout.log, self._id, limit, since, columns, role=role)

    def facts(self) -> dict[str, Any]:
        """Return the row of this lane in ``sub.lanes().frame()``."""
        row, at = self._now(), self.progress()
        settings = {} if row is None else row.settings
        return {
            "lane": self.name,
            "role": self.role,
            "version": self.version,
            "state": self.state,
            "share": at.share,
            "total": at.total,
            "done": at.done,
            "failed": at.failed,
            "remaining": at.remaining,
            "rate_per_s": at.rate_per_s,
            "effects": settings.get("effects"),
            "opened_at": None if row is None else row.created_us,
            "by": settings.get("by"),
            "why": settings.get("why"),
        }

    def __repr__(self) -> str:
        at = self.progress()
        of = "" if at.total is None else f" of {at.total:,}"
        share = f", share {at.share:.3g}" if at.share < 1 else ""
        failed = f", {at.failed:,} failed" if at.failed else ""
        return (
            f"Lane({self.name}: {self.role} {self.version}, {self.state}, {at.done:,}{of} done"
            f"{failed}, {at.remaining:,} left{share})"
        )

    def _repr_html_(self) -> str:
        found = [(name, value) for name, value in self.facts().items() if name != "opened_at"]
        row = self._now()
        if row is not None and (part := shown(row.settings)):
            found.append(("events", part))
        if row is not None and (cut := row.settings.get("cut")):
            found.append(("note", cut))
        return card(
            f"Lane {self.name}",
            [(name, _text(value)) for name, value in found if value is not None],
        )


class Lanes(Sequence[Any]):
    """The lanes of one subscription: the live one, a canary under way, then the others."""

    def __init__(self, name: str, lanes: Sequence[Lane | Canary]) -> None:
        self._name, self._lanes = name, tuple(lanes)

    def __len__(self) -> int:
        return len(self._lanes)

    @overload
    def __getitem__(self, place: int) -> Any: ...
    @overload
    def __getitem__(self, place: slice) -> Sequence[Any]: ...

    def __getitem__(self, place: int | slice) -> Any:
        return self._lanes[place]

    def __iter__(self) -> Iterator[Any]:
        return iter(self._lanes)

    def __repr__(self) -> str:
        return "\n".join([f"Lanes of {self._name}:", *(f"  {lane!r}" for lane in self._lanes)])

    def _repr_html_(self) -> str:
        columns = [name for name in LANES if name != "opened_at"]
        rows = [[_text(lane.facts()[name]) for name in columns] for lane in self._lanes]
        return table_html(columns, rows, f"Lanes of {self._name}")

    def frame(self) -> pd.DataFrame:
        """Return one row a lane, always with the same columns and dtypes."""
        from mltrigger.reports import frames

        rows = [[lane.facts()[name] for name in LANES] for lane in self._lanes]
        return frames.frame(rows, LANES)


def _text(value: Any) -> str:
    if value is None or value != value:
        return ""
    if isinstance(value, float):
        return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"
    return f"{value:,}" if isinstance(value, int) else short(value, 200)


def lanes_of(rollout: Rollout, spec: SubscriptionSpec) -> Lanes:
    """Return the lanes of a subscription, also those that have ended."""
    found: list[Lane | Canary] = [Lane(rollout, spec, None)]
    alarms = rollout.alarms(spec)
    if alarms is not None and alarms[0].canary is not None:
        found.append(Canary(rollout, spec, alarms[0].canary))
    return Lanes(
        spec.name, [*found, *(Lane(rollout, spec, r) for r in rollout.lanes.rows(spec.id))]
    )
