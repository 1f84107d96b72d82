"""The command ``mltrigger label``: the truth about an event."""

from __future__ import annotations

import argparse
from datetime import datetime
from typing import Any

from mltrigger.cli.parsing import filled
from mltrigger.cli.reading import plain_warnings, read
from mltrigger.text import one_line


def add_commands(commands: Any) -> None:
    """Add ``label``."""
    added = commands.add_parser("label", help="keep the truth about an event, for sub.accuracy()")
    added.add_argument("event", help="the id of the event; it may come later")
    added.add_argument("truth", help="JSON, or - to read it from standard input")
    added.add_argument("--text", action="store_true", help="take the truth as text, not as JSON")
    added.add_argument("--source", help="of an id that several sources have")
    added.add_argument(
        "--at", type=_moment, metavar="TIME", help="since when, such as 2026-11-30T12:00Z"
    )
    added.add_argument("--by", help="who says so (default: the user)")
    added.add_argument(
        "--url", type=filled, help="the bus (default: $MLTRIGGER_URL, else sqlite:///mltrigger.db)"
    )
    added.set_defaults(run=_label)


def _label(given: argparse.Namespace) -> int:
    from mltrigger.urls import connect, existing

    with plain_warnings():
        truth = read(given.truth, given.text)
        with connect(existing(given.url)) as bus:
            kept = bus.label(given.event, truth, source=given.source, at=given.at, by=given.by)
    print(one_line(repr(kept)))
    return 0


def _moment(text: str) -> datetime:
    try:
        return datetime.fromisoformat(text)
    except ValueError:
        raise argparse.ArgumentTypeError(
            f"{text[:60]!r} is no time: write it as 2026-11-30T12:00Z"
        ) from None
