"""The command ``mltrigger export-case``: one event and its answer as a regression test."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

from mltrigger.cli.parsing import filled
from mltrigger.cli.reading import plain_warnings
from mltrigger.errors import MltriggerError


def add_commands(commands: Any) -> None:
    """Add ``export-case``."""
    added = commands.add_parser(
        "export-case", help="write an event, its object, effects and answer, as a test for pytest"
    )
    added.add_argument("event", help="the id of the event")
    added.add_argument("--subscription", metavar="NAME", help="whose answer, if several have one")
    added.add_argument("--source", help="of an id that several sources have")
    added.add_argument(
        "--output",
        type=filled,
        metavar="FILE",
        help="a new file, such as tests/invoice.case.json (default: standard output)",
    )
    added.add_argument(
        "--url", type=filled, help="the bus (default: $MLTRIGGER_URL, else sqlite:///mltrigger.db)"
    )
    added.set_defaults(run=_export)


def _export(given: argparse.Namespace) -> int:
    from mltrigger.testing import record_case
    from mltrigger.urls import connect, existing

    with plain_warnings(), connect(existing(given.url)) as bus:
        case = record_case(bus, given.event, given.subscription, source=given.source)
    if given.output is None:
        sys.stdout.write(case.to_json())
        return 0
    _write(Path(given.output), case.to_json())
    if case.path is None:
        print(f"{case.model} has no import path: pytest --case-model module:attribute names it")
    return 0


def _write(path: Path, text: str) -> None:
    if not path.name.endswith(".case.json"):
        raise MltriggerError(f"--output {str(path)!r}: pytest finds files that end in .case.json")
    try:
        with path.open("x", encoding="utf-8") as file:
            file.write(text)
    except OSError as error:
        raise MltriggerError(
            f"--output {str(path)!r} cannot be written: {error.strerror}; name a new file"
        ) from error
    print(f"wrote {path}")
