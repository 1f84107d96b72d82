"""The columns of the frames about versions."""

from __future__ import annotations

from typing import Any

from mltrigger.reports.frames import TIME

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
}
ALARMS: dict[str, Any] = {"rule": "str", "e": "float64", "limit": "float64", "detail": "str"}
