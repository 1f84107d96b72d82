"""The commands ``redrive`` and ``discard``: dead letters again, or away for good."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING, Any

from mltrigger.cli.confirming import add_yes, confirm, said_when_stopped
from mltrigger.cli.filtering import add_filters, chosen
from mltrigger.cli.output import add_output, show, show_row
from mltrigger.cli.parsing import filled
from mltrigger.cli.reading import read
from mltrigger.cli.subscribed import calling, command, opened
from mltrigger.errors import InvalidEvent, NotFound, StoreError
from mltrigger.text import count

if TYPE_CHECKING:
    import pandas as pd

    from mltrigger.handle import Subscription

_EVENTS = "the ids of events (default: all dead letters that match)"
_DRY = ("event_id", "subject", "version", "outcome", "model_ms", "error", "output")


def add_commands(commands: Any) -> None:
    """Add the commands."""
    redrive = command(commands, "redrive", "deliver dead letters again, under their own ids")
    discard = command(commands, "discard", "put dead letters away for good, with a reason")
    for added in (redrive, discard):
        added.add_argument("event", nargs="*", help=_EVENTS)
        added.add_argument("--source", help="of an id that several sources have")
        add_yes(added)
        added.add_argument("--dry-run", action="store_true", help="change nothing")
        add_filters(added, "dead letters")
        add_output(added)
    redrive.add_argument("--data", help="corrected data of one event: JSON, or - to read it")
    redrive.add_argument("--rate-per-s", type=float, metavar="RATE", help="events a second")
    redrive.add_argument(
        "--with",
        dest="other",
        type=filled,
        metavar="VERSION",
        help="with --dry-run: the version to try (default: the one that answers)",
    )
    redrive.set_defaults(run=_redrive)
    discard.add_argument("--why", type=filled, required=True, help="the reason, for the record")
    discard.set_defaults(run=_discard)


def _redrive(given: argparse.Namespace) -> int:
    settings: dict[str, Any] = {} if given.data is None else {"data": read(given.data, False)}
    if given.other is not None and not given.dry_run:
        raise InvalidEvent("--with names the version of a dry run: say --dry-run, too")
    with calling(given) as sub:
        events = _chosen(sub, given)
        if given.dry_run:
            tried = sub.dry_run(events, version=given.other, **settings)
            show(tried, given.form, None if given.form != "table" else _shown(tried))
            return 0
        _confirm(given, len(events), f"deliver {count(len(events), 'dead letter')} again")
        with said_when_stopped(lambda: _far(sub, events, "sent again"), StoreError):
            sent = int(sub.redrive(events, rate_per_s=given.rate_per_s, **settings))
    _tell(given, f"{count(sent, 'dead letter')} sent again", sent=sent)
    return 0


def _discard(given: argparse.Namespace) -> int:
    with opened(given) as sub:
        events = _chosen(sub, given)
        if given.dry_run:
            show(events, given.form, ("event_id", "subject", "reason", "version", "error"))
            return 0
        _confirm(given, len(events), f"put {count(len(events), 'dead letter')} away for good")
        with said_when_stopped(lambda: _far(sub, events, "put away"), StoreError):
            away = int(sub.discard(events, given.why))
    _tell(given, f"{count(away, 'dead letter')} put away", discarded=away)
    return 0


def _tell(given: argparse.Namespace, said: str, **done: int) -> None:
    if given.form == "table":
        print(said)
    else:
        show_row(given.form, subscription=given.name, **done)


def _far(sub: Subscription, events: pd.DataFrame, deed: str) -> str:
    """Return how many of *events* are no dead letters any more, or were sent and died again."""
    names = ["event_id", "source", "redriven"]
    left = set(sub.dead_letters()[names].itertuples(index=False, name=None))
    done = sum(key not in left for key in events[names].itertuples(index=False, name=None))
    return f"{done:,} of {count(len(events), 'dead letter')} {deed}; the same command does the rest"


def _shown(tried: pd.DataFrame) -> list[str]:
    own = [name for name in tried.columns if name not in ("source", "model", "reason", "stdout")]
    return list(map(str, own))


def _chosen(sub: Subscription, given: argparse.Namespace) -> pd.DataFrame:
    """Return the dead letters that match. Those that are named must match.

    Raises
    ------
    NotFound
        When a named one does not exist or does not match.
    """
    from mltrigger.reports.dead_letters import choose

    table: pd.DataFrame = sub.dead_letters(**chosen(given))
    if not given.event and given.source is None:
        return table
    bus = sub.__mltrigger_bus__()
    named = choose(bus.log, bus.spec(sub.name), given.event or None, given.source)
    pairs = {(key.event_id, key.source) for key in named}
    keys = zip(table["event_id"], table["source"], strict=True)
    rows = [row for row, key in enumerate(keys) if key in pairs]
    if given.event and len(rows) < len(pairs):
        missing = pairs - {(table["event_id"][row], table["source"][row]) for row in rows}
        ids = ", ".join(sorted(repr(event_id) for event_id, _ in missing))
        raise NotFound(f"the filters leave out {ids}: give the ids without filters")
    return table.iloc[rows].reset_index(drop=True)


def _confirm(given: argparse.Namespace, n: int, deed: str) -> None:
    """Ask before a bulk repair. Without a terminal it needs ``--yes``."""
    is_bulk = len(given.event) != 1
    if n and is_bulk and not given.yes:
        confirm(f"{deed} of {given.name!r}", "say --yes, or --dry-run to see them first")
