"""The filters of commands: the same as those of the frames."""

from __future__ import annotations

import argparse
from typing import Any

from mltrigger.cli.parsing import filled

_NAMES = {
    "version": "of this version",
    "outcome": "that ended so: succeeded, failed, dead, skipped, …",
    "reason": "with this reason, such as timeout",
    "role": "of this role: live, canary, shadow, replay, correction, direct, or all",
    "key": "of events with this key",
}
_OF_LETTERS = ("version", "reason", "key")


def add_filters(added: Any, of: str = "attempts") -> None:
    """Add ``--version``, ``--since`` and the others. Dead letters have fewer."""
    group = added.add_argument_group(f"which {of}")
    for name, said in _NAMES.items():
        if of == "attempts" or name in _OF_LETTERS:
            group.add_argument(
                f"--{name}", action="append", metavar=name.upper(), help=f"{said} (may be repeated)"
            )
    for name, said in (("since", "from"), ("until", "before")):
        group.add_argument(
            f"--{name}", type=filled, metavar="TIME", help=f"{said} then: 2h, or 2026-11-30T12:00Z"
        )
    group.add_argument(
        "--text", type=filled, help="with this part in output, error, subject or event id"
    )


def chosen(given: argparse.Namespace) -> dict[str, Any]:
    """Return the filters that were given, as arguments of the frames."""
    names = (*_NAMES, "since", "until", "text")
    found = {name: getattr(given, name, None) for name in names}
    return {name: value for name, value in found.items() if value is not None}


def add_limit(added: Any, default: int) -> None:
    """Add ``--limit``."""
    added.add_argument(
        "--limit",
        type=whole,
        default=default,
        metavar="N",
        help=f"only the newest so many, 0 for all (default: {default})",
    )


def limit_of(given: argparse.Namespace) -> int | None:
    """Return the limit that was given, ``None`` for all."""
    return given.limit or None


def whole(text: str) -> int:
    """Return *text* as a whole number, 0 or more."""
    if not (text.isascii() and text.isdigit() and len(text) < 19):
        raise argparse.ArgumentTypeError(f"{text[:60]!r} is no whole number: 0 or more")
    return int(text)
