"""The parts of commands that are about one subscription."""

from __future__ import annotations

import argparse
import contextlib
import sys
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from mltrigger.cli.parsing import filled
from mltrigger.cli.reading import plain_warnings

if TYPE_CHECKING:
    from mltrigger.handle import Subscription


def command(commands: Any, name: str, said: str) -> Any:
    """Add a command that takes the name of a subscription, and ``--url``."""
    added = commands.add_parser(name, help=said)
    added.add_argument("name", help="the subscription")
    added.add_argument(
        "--url", type=filled, help="the bus (default: $MLTRIGGER_URL, else sqlite:///mltrigger.db)"
    )
    return added


def add_why(added: Any) -> None:
    """Add ``--why``."""
    added.add_argument("--why", type=filled, help="a note for the history")


@contextlib.contextmanager
def opened(given: argparse.Namespace) -> Iterator[Subscription]:
    """Open the bus. Yield the subscription that a command names."""
    from mltrigger.urls import connect, existing

    sys.path.insert(0, "")  # find models beside the notebook, as `python -m` does
    with plain_warnings(), connect(existing(given.url)) as bus:
        yield bus.subscription(given.name)
