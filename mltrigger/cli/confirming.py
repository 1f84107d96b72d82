"""The question before something that many events cannot take back, and the word after a stop."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable, Iterator
from typing import Any

from mltrigger.errors import MltriggerError
from mltrigger.text import one_line, redacted


def add_yes(added: Any) -> None:
    """Add ``--yes``."""
    added.add_argument("-y", "--yes", action="store_true", help="do not ask")


def confirm(deed: str, advice: str) -> None:
    """Ask on a terminal whether to do *deed*. Without a terminal refuse it, with *advice*.

    Raises
    ------
    MltriggerError
        When the answer is no, or there is no terminal to ask at.
    """
    if not (sys.stdin.isatty() and sys.stderr.isatty()):
        raise MltriggerError(f"this would {deed}: {advice}; nothing was changed")
    print(f"{deed}? [y/N] ", end="", file=sys.stderr, flush=True)
    if sys.stdin.readline().strip().lower() not in ("y", "yes"):
        raise MltriggerError("nothing was changed")


@contextlib.contextmanager
def said_when_stopped(far: Callable[[], str], *also: type[MltriggerError]) -> Iterator[None]:
    """Say how *far* a deed came when Ctrl-C, or an error of the class *also*, ends it half way."""
    ends: tuple[type[BaseException], ...] = (KeyboardInterrupt, *also)
    try:
        yield
    except ends as error:
        why = "interrupted" if isinstance(error, KeyboardInterrupt) else "stopped"
        with contextlib.suppress(MltriggerError):  # the store is away: the error says it
            print(f"mltrigger: {why}: {one_line(redacted(far()))}", file=sys.stderr, flush=True)
        raise
