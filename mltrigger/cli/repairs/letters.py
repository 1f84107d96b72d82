"""The commands ``redrive`` and ``discard``: dead letters again, or away for good."""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from mltrigger.cli.confirming import add_yes, confirm, said_when_stopped
from mltrigger.cli.filtering import add_filters, chosen
from mltrigger.cli.output import add_output, show, show_row
from mltrigger.cli.parsing import filled
from mltrigger.cli.reading import read
from mltrigger.cli.subscribed import calling, command, opened
from mltrigger.errors import InvalidEvent, NotFound, StoreError
from mltrigger.reports.progress import heard
from mltrigger.text import count

if TYPE_CHECKING:
    import pandas as pd

    from mltrigger.handle import Subscription

_EVENTS = "the ids of events (default: all dead letters that match)"
_DRY = ("event_id", "subject", "version", "outcome", "model_ms", "error", "output")


@dataclasses.dataclass(frozen=True)
class _Meant:
    """The dead letters of a repair: how many, and the arguments of the call that mean them."""

    n: int
    call: Mapping[str, Any]

    @contextlib.contextmanager
    def repairing(self, deed: str) -> Iterator[None]:
        """Say how far the call came when it ends half way."""
        done = 0

        def reach(number: int) -> None:
            nonlocal done
            done = number

        def far() -> str:
            return (
                f"{done:,} of {count(self.n, 'dead letter')} {deed}; the same command does the rest"
            )

        with heard(reach), said_when_stopped(far, StoreError):
            yield


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
        if given.dry_run:
            tried = sub.dry_run(_chosen(sub, given), version=given.other, **settings)
            show(tried, given.form, None if given.form != "table" else _shown(tried))
            return 0
        meant = _meant(sub, given)
        _confirm(given, meant.n, f"deliver {count(meant.n, 'dead letter')} again")
        with meant.repairing("sent again"):
            sent = int(sub.redrive(**meant.call, rate_per_s=given.rate_per_s, **settings))
    _tell(given, f"{count(sent, 'dead letter')} sent again", sent=sent)
    return 0


def _discard(given: argparse.Namespace) -> int:
    with opened(given) as sub:
        if given.dry_run:
            columns = ("event_id", "subject", "reason", "version", "error")
            show(_chosen(sub, given), given.form, columns)
            return 0
        meant = _meant(sub, given)
        _confirm(given, meant.n, f"put {count(meant.n, 'dead letter')} away for good")
        with meant.repairing("put away"):
            away = int(sub.discard(**meant.call, reason=given.why))
    _tell(given, f"{count(away, 'dead letter')} put away", discarded=away)
    return 0


def _tell(given: argparse.Namespace, said: str, **done: int) -> None:
    if given.form == "table":
        print(said)
    else:
        show_row(given.form, subscription=given.name, **done)


def _meant(sub: Subscription, given: argparse.Namespace) -> _Meant:
    """Return the dead letters that are named, or all that match by now.

    Those that match are counted in the store, and never all in memory.
    """
    from mltrigger.reports.choosing import where_of
    from mltrigger.reports.dead_letters import LETTER_FILTERS
    from mltrigger.reports.moments import fixed_ages

    if given.event or given.source is not None or getattr(given, "data", None) is not None:
        events = _chosen(sub, given)
        return _Meant(len(events), {"events": events})
    bus = sub.__mltrigger_bus__()
    log, spec = bus.log, bus.spec(sub.name)
    where = {**fixed_ages(chosen(given), log.now_us()), "up_to": log.newest_row()}
    wanted, up_to = where_of(log, spec, where, LETTER_FILTERS)
    return _Meant(log.count_dead(spec.id, wanted, up_to).n, {"events": None, "where": where})


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
