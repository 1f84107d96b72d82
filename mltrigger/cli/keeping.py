"""The commands ``alias``, ``retain`` and ``backup``: names of versions, and what is kept."""

from __future__ import annotations

import argparse
from typing import Any

from mltrigger.cli.filtering import whole
from mltrigger.cli.parsing import filled
from mltrigger.cli.subscribed import add_url, on_bus
from mltrigger.text import one_line


def add_commands(commands: Any) -> None:
    """Add the commands."""
    alias = commands.add_parser("alias", help="point an alias such as ocr@champion to a version")
    alias.add_argument("model", help="the name of the model")
    alias.add_argument("alias", help="the name of the alias")
    alias.add_argument("version", help="the version, such as 1.1.0")
    alias.set_defaults(run=_alias)
    retain = commands.add_parser(
        "retain",
        help="limit the age and number of kept events, or show the limits",
        description="Without a limit, show the present ones. Open events and dead letters stay.",
    )
    retain.add_argument("--max-age", type=filled, metavar="AGE", help="such as 30d")
    retain.add_argument("--max-events", type=whole, metavar="N", help="the newest of all topics")
    retain.add_argument("--forever", action="store_true", help="keep everything")
    retain.add_argument("--prune", action="store_true", help="delete what is beyond them now")
    retain.set_defaults(run=_retain)
    backup = commands.add_parser("backup", help="write a whole copy of a store in use")
    backup.add_argument("file", help="a new file")
    backup.set_defaults(run=_backup)
    for added in (alias, retain, backup):
        add_url(added)


def _alias(given: argparse.Namespace) -> int:
    with on_bus(given) as bus:
        bus.alias(given.model, given.alias, given.version)
    print(one_line(f"{given.model}@{given.alias} is {given.version}"))
    return 0


def _retain(given: argparse.Namespace) -> int:
    from mltrigger.reports.moments import moment_us

    with on_bus(given) as bus:
        age_us = moment_us(given.max_age, 0, "--max-age")
        if given.forever or age_us is not None or given.max_events is not None:
            age_s = None if age_us is None or given.forever else -age_us / 1e6
            bus.retain(max_age_s=age_s, max_events=None if given.forever else given.max_events)
        limits = bus.registry.retention()
        age = "any age" if limits.max_age_s is None else f"up to {limits.max_age_s:,.15g} s old"
        number = "all" if limits.max_events is None else f"the newest {limits.max_events:,}"
        print(f"kept: {number} events, {age}; open events and dead letters stay")
        if given.prune:
            pruned = bus.prune()
            print(f"deleted {pruned.events:,} events; {pruned.held:,} are held")
    return 0


def _backup(given: argparse.Namespace) -> int:
    with on_bus(given) as bus:
        made = bus.backup(given.file)
    print(one_line(f"wrote {made.file}: {made.events:,} events, {made.size_bytes:,} bytes"))
    return 0
