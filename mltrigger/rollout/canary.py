"""The handle of a canary."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

from mltrigger.broker import SubscriptionSpec
from mltrigger.rollout import history
from mltrigger.rollout.columns import ALARMS
from mltrigger.rollout.service import Rollout
from mltrigger.text import card
from mltrigger.versions.running.current import about_to_wait

if TYPE_CHECKING:
    import pandas as pd

_LOOK_S = 0.25


class Canary:
    """A version that answers a share of the events. Made by ``sub.canary``."""

    role = "canary"

    def __init__(self, rollout: Rollout, spec: SubscriptionSpec, version: str) -> None:
        self._rollout, self._spec, self.version = rollout, spec, version

    @property
    def state(self) -> str:
        """``5 % of the events, step 2 of 4``, or how it ended."""
        bound = [b for b in self._rollout.history(self._spec) if b.number >= self._begun]
        now = bound[-1]
        if now.canary == self.version:
            found = self._rollout.alarms(self._spec)
            plan: dict[str, Any] = dict(found[0].steps) if found is not None else {}
            at, steps = plan.get("at", 0) + 1, len(plan.get("steps", ()))
            return f"{now.share:.3g} of the events, step {at} of {steps}"
        ended = next((b for b in bound if b.canary != self.version), now)
        words = {"promote": "promoted", "rollback": "rolled back", "bind": "bound anew"}
        how = words.get(ended.kind, ended.kind)
        return f"{how}: {ended.why}" if ended.why else how

    @property
    def _begun(self) -> int:
        rows = self._rollout.history(self._spec)
        return max(
            (b.number for b in rows if b.kind == "canary" and b.canary == self.version), default=0
        )

    def stop(self, why: str | None = None) -> history.Bound:
        """Roll the canary back. Its retries go to the live version."""
        return self._rollout.rollback(self._spec, why=why)

    def progress(self) -> pd.DataFrame:
        """Return one row a rule of the guard: its e-value, its limit, and the counts."""
        from mltrigger.reports import frames

        found = self._rollout.alarms(self._spec)
        rows = [] if found is None else [[a.rule, a.e, a.limit, a.text] for a in found[1]]
        return frames.sentences(rows, ALARMS)

    def wait(self, timeout_s: float = 600.0) -> Canary:
        """Wait until the canary is over, at most *timeout_s* seconds. Return it.

        It is over when it was promoted or rolled back.
        """
        about_to_wait()
        end_s = time.monotonic() + timeout_s
        while self._rollout.alarms(self._spec) is not None and time.monotonic() < end_s:
            self._rollout.lanes.wait(_LOOK_S)
        return self

    def results(self, limit: int | None = None) -> pd.DataFrame:
        """Return one row per event that the canary has ended, as ``sub.results()`` does."""
        from mltrigger.reports import views

        return views.results(self._rollout.log, self._spec.id, limit, [self.role])

    def invocations(self, limit: int | None = None) -> pd.DataFrame:
        """Return every attempt of the canary, as ``sub.invocations()`` does."""
        from mltrigger.reports import views

        return views.invocations(self._rollout.log, self._spec.id, limit, role=self.role)

    def facts(self) -> dict[str, Any]:
        """Return the row of this canary in ``sub.lanes().frame()``."""
        found = self._rollout.alarms(self._spec)
        row = found[0] if found is not None else None
        done, failed = self._rollout.lanes.answered(self._spec.id, self.role, self._begun)
        return {
            "lane": self._spec.name,
            "role": self.role,
            "version": self.version,
            "state": self.state,
            "share": 0.0 if row is None else row.share,
            "total": None,
            "done": done,
            "failed": failed,
            "remaining": None,
            "rate_per_s": float("nan"),
            "effects": None,
            "opened_at": None if row is None else row.made_us,
            "by": None if row is None else row.made_by,
            "why": None if row is None else row.why,
        }

    def _facts(self) -> list[tuple[str, Any]]:
        found = self._rollout.alarms(self._spec)
        facts: list[tuple[str, Any]] = [("version", self.version), ("state", self.state)]
        if found is not None:
            facts += [(a.rule, f"e = {a.e:.3g} of {a.limit:g}; {a.text}") for a in found[1]]
        return facts

    def __repr__(self) -> str:
        return f"Canary({self.version} of {self._spec.name!r}: {self.state})"

    def _repr_html_(self) -> str:
        return card(f"Canary of {self._spec.name}", self._facts())
