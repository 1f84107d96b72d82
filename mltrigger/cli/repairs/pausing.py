"""The commands ``pause`` and ``resume``: in all processes at once."""

from __future__ import annotations

import argparse
from typing import Any

from mltrigger.cli.subscribed import add_url, on_bus
from mltrigger.text import count, one_line


def add_commands(commands: Any) -> None:
    """Add the commands."""
    for name, said in (
        ("pause", "deliver no more, in all processes; events wait"),
        ("resume", "go on after pause"),
    ):
        added = commands.add_parser(name, help=said, description=said)
        added.add_argument("name", nargs="+", help="the subscriptions")
        add_url(added)
        added.set_defaults(run=_pause if name == "pause" else _resume)


def _pause(given: argparse.Namespace) -> int:
    with on_bus(given) as bus:
        for sub in [bus.subscription(name) for name in given.name]:
            sub.pause()
            print(one_line(f"{sub.name!r} is paused, with {count(sub.depth().open, 'open event')}"))
    return 0


def _resume(given: argparse.Namespace) -> int:
    with on_bus(given) as bus:
        for sub in [bus.subscription(name) for name in given.name]:
            sub.resume()
            print(one_line(f"{sub.name!r} goes on, with {count(sub.depth().open, 'open event')}"))
    return 0
