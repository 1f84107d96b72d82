"""Delays: an event may say before which time no subscription gets it."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

from mltrigger.errors import InvalidEvent
from mltrigger.event.event import Event

NOT_BEFORE = "notbefore"
"""The extension with that time, as RFC 3339 has it."""
_LONGEST_S = 100 * 366 * 86_400


def delayed(event: Event, delay_s: float | None, at: datetime | None, now_us: int) -> Event:
    """Return *event* for *delay_s* seconds from now, or for the time *at*.

    Raises
    ------
    InvalidEvent
        When both are given, the delay is negative or endless, or the time has no zone.
    """
    if delay_s is None and at is None:
        return event
    if delay_s is not None and at is not None:
        raise InvalidEvent("delay_s= and at= exclude each other: give one of them")
    if at is None:
        if not isinstance(delay_s, (int, float)) or not 0 <= delay_s <= _LONGEST_S:
            raise InvalidEvent(f"delay_s must be from 0 s to 100 years, got {delay_s!r}")
        due_us = now_us + math.ceil(delay_s * 1e6)
    elif not isinstance(at, datetime) or at.tzinfo is None:
        raise InvalidEvent(
            f"at must be a datetime with a time zone, got {at!r}; such as"
            " datetime.now(UTC) + timedelta(hours=1)"
        )
    else:
        due_us = round(at.timestamp() * 1e6)
    text = datetime.fromtimestamp(due_us / 1e6, UTC).isoformat()
    return dataclasses.replace(event, extensions={**event.extensions, NOT_BEFORE: text})


def due_us(extensions: Mapping[str, Any] | None) -> int:
    """Return the time before which nobody gets an event. 0 without one that can be read."""
    text = extensions.get(NOT_BEFORE) if extensions else None
    if not isinstance(text, str):
        return 0
    try:
        return round(datetime.fromisoformat(text).timestamp() * 1e6)
    except (ValueError, OverflowError, OSError):
        return 0
