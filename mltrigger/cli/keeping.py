"""The commands ``alias``, ``retain`` and ``backup``."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING, Any

from mltrigger.cli.confirming import add_yes, confirm, said_when_stopped
from mltrigger.cli.filtering import whole
from mltrigger.cli.parsing import filled
from mltrigger.cli.subscribed import add_url, on_bus
from mltrigger.errors import InvalidPolicy, StoreError
from mltrigger.text import count, one_line

if TYPE_CHECKING:
    from mltrigger.bus import EventBus
    from mltrigger.store.retention import Retention

_PRUNED = "deleted events are gone with all outcomes, the rest is whole; the same command goes on"


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
        description="Without a limit, show the present ones. The new ones replace them. Open events"
        " and dead letters stay.",
    )
    retain.add_argument("--max-age", type=filled, metavar="AGE", help="such as 30d")
    retain.add_argument("--max-events", type=whole, metavar="N", help="the newest of all topics")
    retain.add_argument("--forever", action="store_true", help="keep everything")
    retain.add_argument("--prune", action="store_true", help="delete what is beyond them now")
    add_yes(retain)
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
    with on_bus(given) as bus:
        wanted = _limits(given)
        if wanted is not None or given.prune:
            _ask(bus, wanted or bus.registry.retention(), given.yes)
        if wanted is not None:
            bus.retain(max_age_s=wanted.max_age_s, max_events=wanted.max_events)
        limits = bus.registry.retention()
        age = "any age" if limits.max_age_s is None else f"up to {limits.max_age_s:,.15g} s old"
        number = "all" if limits.max_events is None else f"the newest {limits.max_events:,}"
        print(f"kept: {number} events, {age}; open events and dead letters stay")
        if given.prune:
            with said_when_stopped(lambda: _PRUNED, StoreError):
                pruned = bus.prune()
            print(f"deleted {count(pruned.events, 'event')}; {pruned.held:,} held")
    return 0


def _limits(given: argparse.Namespace) -> Retention | None:
    """Return the limits that were given, ``None`` without any."""
    from mltrigger.reports.moments import moment_us
    from mltrigger.store.retention import Retention

    has_limit = given.max_age is not None or given.max_events is not None
    if given.forever and has_limit:
        raise InvalidPolicy("--forever keeps everything: leave it out, or the limits")
    if given.forever or not has_limit:
        return Retention() if given.forever else None
    age_us = moment_us(given.max_age, 0, "--max-age")
    return Retention(None if age_us is None else -age_us / 1e6, given.max_events)


def _ask(bus: EventBus, limits: Retention, is_sure: bool) -> None:
    """Ask before events are deleted. Listeners delete them within a minute."""
    from mltrigger.store.retention import beyond

    n = 0 if is_sure else beyond(bus._store, limits, bus.log.now_us())
    if n:
        confirm(f"delete up to {count(n, 'event')} with all outcomes", "say --yes")


def _backup(given: argparse.Namespace) -> int:
    with on_bus(given) as bus, said_when_stopped(lambda: "nothing is left of the backup"):
        made = bus.backup(given.file)
    print(one_line(f"wrote {made.file}: {made.events:,} events, {made.size_bytes:,} bytes"))
    return 0
