"""The question before something that many events cannot take back."""

from __future__ import annotations

import sys
from typing import Any

from mltrigger.errors import MltriggerError


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
