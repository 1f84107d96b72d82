"""The columns of the frames about versions."""

from __future__ import annotations

from typing import Any

from mltrigger.reports.frames import INVOCATIONS, TIME

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
    "outcome": INVOCATIONS["outcome"],
    "differs": "boolean",
    "old_version": "str",
    "version": "str",
    "old": "str",
    "new": "str",
    "error": "str",
    "correction": "str",
}
ALARMS: dict[str, Any] = {"rule": "str", "e": "float64", "limit": "float64", "detail": "str"}
