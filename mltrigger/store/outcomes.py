"""The outcomes of an attempt, and which of them are final."""

from __future__ import annotations

from typing import Literal

Outcome = Literal[
    "succeeded", "failed", "dead", "skipped", "abandoned", "interrupted", "stale", "running"
]
"""How an attempt ended.

``succeeded``, ``dead`` and ``skipped`` are final. A ``failed`` attempt is tried again. An
``abandoned`` one never ended. An ``interrupted`` one was stopped on purpose. A ``stale`` one ended
after its lease was lost. A ``running`` one is under way.
"""
OUTCOMES: tuple[Outcome, ...] = (
    "succeeded",
    "failed",
    "dead",
    "skipped",
    "abandoned",
    "interrupted",
    "stale",
    "running",
)
FINAL: tuple[Outcome, ...] = ("succeeded", "dead", "skipped")
"""The outcomes that end an event for a subscription. In SQL they are the view ``final``."""
ROLES = ("live", "shadow", "canary", "replay", "correction", "direct")
ANSWERING = ("live", "canary", "correction", "direct")
"""The roles that answer somebody. Only they count where no role is asked for."""
NO_EVENTS = ("s3_test_event", "sns_confirmation", "empty_batch", "no_records")
"""Reasons why an arrival was no event: it was skipped and is no invocation."""
