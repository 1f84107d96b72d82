"""The columns of the frames about versions."""

from __future__ import annotations

from typing import Any

from mltrigger.reports import frames
from mltrigger.reports.frames import TIME
from mltrigger.store.outcomes import ROLES

HISTORY: dict[str, Any] = {
    "number": "Int64",
    "kind": "str",
    "version": "str",
    "canary": "str",
    "share": "float64",
    "from_event": "Int64",
    "at": TIME,
    "by": "str",
    "why": "str",
    "verdict": "str",
    "answered": "Int64",
    "by_canary": "Int64",
    "corrected": "Int64",
}
CORRECTIONS: dict[str, Any] = {
    "event_id": "str",
    "source": "str",
    "subject": "str",
    "outcome": frames.INVOCATIONS["outcome"],
    "differs": "boolean",
    "old_version": "str",
    "version": "str",
    "old": "str",
    "new": "str",
    "error": "str",
    "correction": "str",
}
LANES: dict[str, Any] = {
    "lane": "str",
    "role": frames.OneOf(ROLES),
    "version": "str",
    "state": "str",
    "share": "float64",
    "total": "Int64",
    "done": "Int64",
    "failed": "Int64",
    "remaining": "Int64",
    "rate_per_s": "float64",
    "effects": "str",
    "opened_at": TIME,
    "by": "str",
    "why": "str",
}
ALARMS: dict[str, Any] = {"rule": "str", "e": "float64", "limit": "float64", "detail": "str"}
