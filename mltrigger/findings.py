"""What a doctor says: one thing that was found, and what to do about it."""

from __future__ import annotations

from typing import Literal, NamedTuple

Severity = Literal["ok", "info", "warning", "error"]
SEVERITIES: tuple[Severity, ...] = ("error", "warning", "info", "ok")


class Finding(NamedTuple):
    """One thing the doctor found: how bad, about what, and what to do now."""

    severity: Severity
    about: str
    check: str
    finding: str
    advice: str
