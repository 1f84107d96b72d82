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
    from mltrigger.bus import EventBus
    from mltrigger.handle import Subscription


def add_url(added: Any) -> None:
    """Add ``--url``."""
    added.add_argument(
        "--url", type=filled, help="the bus (default: $MLTRIGGER_URL, else sqlite:///mltrigger.db)"
    )


def command(commands: Any, name: str, said: str, more: str | None = None) -> Any:
    """Add a command that takes the name of a subscription, and ``--url``."""
    added = commands.add_parser(name, help=said, description=said, epilog=more)
    added.add_argument("name", help="the subscription")
    add_url(added)
    return added


def add_why(added: Any) -> None:
    """Add ``--why``."""
    added.add_argument("--why", type=filled, help="a note for the history")


def add_effects(added: Any) -> None:
    """Add ``--effects``."""
    added.add_argument(
        "--effects",
        choices=["recorded", "live"],
        default="recorded",
        help="whether mt.once answers from the record, or calls (default: recorded)",
    )


def better(text: str) -> tuple[str, str]:
    """Return the name of a measure, and which is better."""
    name, equals, which = text.partition("=")
    if not name or not equals:
        raise argparse.ArgumentTypeError(f"{text!r}: write NAME=higher or NAME=lower")
    return name, which


@contextlib.contextmanager
def on_bus(given: argparse.Namespace) -> Iterator[EventBus]:
    """Open the bus of a command. It must exist.

    No file of the working directory is imported. Only :func:`calling` does that.
    """
    from mltrigger.urls import connect, existing

    with plain_warnings(), connect(existing(given.url)) as bus:
        yield bus


@contextlib.contextmanager
def opened(given: argparse.Namespace) -> Iterator[Subscription]:
    """Open the bus. Yield the subscription that a command names."""
    with on_bus(given) as bus:
        yield bus.subscription(given.name)


@contextlib.contextmanager
def calling(given: argparse.Namespace) -> Iterator[Subscription]:
    """Open the bus as :func:`opened`, for a command that may import or call models."""
    sys.path.insert(0, "")  # find models beside the notebook, as `python -m` does
    with opened(given) as sub:
        yield sub
