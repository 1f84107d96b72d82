"""The commands ``audit``, ``explain`` and ``trace``. Each answers one question."""

from __future__ import annotations

import argparse
from typing import Any

from mltrigger.cli.output import add_output, show
from mltrigger.cli.subscribed import add_url, on_bus

_AUDIT = (
    *("subscription", "topic", "published", "filtered", "sent", "succeeded", "dead", "skipped"),
    *("open", "missing", "double", "surplus", "balanced"),
)
_TRACE = (
    *("hop", "topic", "subject", "subscription", "version", "attempt", "outcome", "queue_ms"),
    *("model_ms", "total_ms", "output", "event_id"),
)


def add_commands(commands: Any) -> None:
    """Add the commands."""
    audit = commands.add_parser(
        "audit",
        help="count events and outcomes from both sides",
        epilog="exit status: 0 if every subscription is balanced, else 1",
    )
    audit.set_defaults(run=_audit)
    explain = commands.add_parser("explain", help="why an event did or did not reach a model")
    explain.add_argument("event", help="the id of the event")
    explain.add_argument("name", help="the subscription")
    explain.set_defaults(run=_explain)
    trace = commands.add_parser("trace", help="all that one event caused, through all models")
    trace.add_argument("event", help="the id of the event")
    trace.set_defaults(run=_trace)
    for added in (explain, trace):
        added.add_argument("--source", help="of an id that several sources have")
    for added in (audit, explain, trace):
        add_output(added)
        add_url(added)


def _audit(given: argparse.Namespace) -> int:
    with on_bus(given) as bus:
        table = bus.audit()
    show(table, given.form, _AUDIT)
    return int(not table["balanced"].all())


def _explain(given: argparse.Namespace) -> int:
    with on_bus(given) as bus:
        show(bus.explain(given.event, given.name, source=given.source), given.form)
    return 0


def _trace(given: argparse.Namespace) -> int:
    with on_bus(given) as bus:
        show(bus.trace(given.event, source=given.source), given.form, _TRACE)
    return 0
