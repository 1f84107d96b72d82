"""The table of all actions."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from mltrigger.notebook.cockpit.actions import bulk, delivery, letters, versions
from mltrigger.notebook.cockpit.actions.base import Action

ACTIONS: Mapping[str, Action] = {
    action.name: action
    for action in (
        Action("pause", "Stop delivery in all processes", delivery.pause, is_quick=True),
        Action("resume", "Go on with delivery", delivery.resume, is_quick=True, sends=True),
        Action("fire", "Publish an event", delivery.fire, sends=True),
        Action("redrive", "Deliver a dead letter again", letters.redrive, sends=True),
        Action("dry_run", "Call a version, without a record", letters.dry_run),
        Action("discard", "Put a dead letter away", letters.discard),
        Action("export_case", "Write an event as a test", letters.export_case),
        Action(
            "bulk_redrive",
            "Deliver all matching dead letters again",
            bulk.redrive,
            sends=True,
        ),
        Action("bulk_discard", "Put all matching dead letters away", bulk.discard),
        Action("replay", "Send recorded events to a version", versions.replay),
        Action("shadow", "Let a version see live events", versions.shadow),
        Action("canary", "Let a version answer a share", versions.canary),
        Action("promote", "Let a version answer", versions.promote),
        Action("rollback", "Go back to the version before", versions.rollback),
        Action("correct", "Give past answers again", versions.correct, sends=True),
        Action("report", "Write a comparison as a page", versions.report),
    )
}
"""The actions by name."""


def controls(
    state: str | None, read_only: str, over: str, listed: Mapping[str, Action] = ACTIONS
) -> dict[str, dict[str, Any]]:
    """Return for each action whether it can be done now, and why not.

    Parameters
    ----------
    state : str or None
        The state of the chosen subscription, None if none is chosen.
    read_only : str
        Why the view only looks. Empty if it may act.
    over : str
        Why nothing can be done any more. Empty while the bus is open.
    """
    found = {}
    for name, action in listed.items():
        why = over
        if not why and read_only:
            why = read_only
        elif not why and state is None and action.needs_subscription:
            why = "Choose a subscription first"
        elif not why:
            why = _not_now(name, state or "")
        found[name] = {"enabled": not why, "title": why or action.title}
    return found


def _not_now(name: str, state: str) -> str:
    if state == "unsubscribed":
        return "It is unsubscribed"
    if name == "pause" and state == "paused":
        return "It is paused"
    return "It is not paused" if name == "resume" and state != "paused" else ""
