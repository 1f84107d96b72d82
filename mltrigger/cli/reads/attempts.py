"""The commands ``results``, ``dead-letters`` and ``tail``. They list attempts."""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from mltrigger.cli.filtering import add_filters, add_limit, chosen, limit_of
from mltrigger.cli.output import add_output, cell, csv_text, json_lines, plain, show, valued
from mltrigger.cli.subscribed import add_url, command, on_bus, opened
from mltrigger.errors import Closed, NotFound, StoreError
from mltrigger.text import one_line, redacted

if TYPE_CHECKING:
    import pandas as pd

    from mltrigger.bus import EventBus
    from mltrigger.store.matching import Matching

_LETTERS = (
    *("event_id", "subject", "reason", "attempts", "redriven", "version", "dead_at", "error_type"),
    *("error", "data"),
)
_TAIL = (
    *("settled_at", "subscription", "version", "outcome", "reason", "model_ms", "total_ms"),
    *("event_id", "output", "error"),
)
_WAIT_S, _AGAIN_S = 1.0, 1.0


def add_commands(commands: Any) -> None:
    """Add the commands."""
    results = command(commands, "results", "one row an ended event, with its output as columns")
    results.set_defaults(run=_results)
    letters = command(commands, "dead-letters", "the dead events that wait for a decision")
    letters.set_defaults(run=_letters)
    tail = commands.add_parser(
        "tail",
        help="the newest attempts, the newest last",
        description="Print the newest attempts. With -f go on with each new one until Ctrl-C.",
    )
    tail.add_argument("name", nargs="?", help="the subscription (default: all)")
    tail.add_argument("-f", "--follow", action="store_true", help="go on until Ctrl-C")
    add_url(tail)
    tail.set_defaults(run=_tail)
    for added, default in ((results, 50), (letters, 50), (tail, 10)):
        add_filters(added, "dead letters" if added is letters else "attempts")
        add_limit(added, default)
        add_output(added)


def _results(given: argparse.Namespace) -> int:
    with opened(given) as sub:
        show(sub.results(limit_of(given), **chosen(given)), given.form)
    return 0


def _letters(given: argparse.Namespace) -> int:
    from mltrigger.reports import letters
    from mltrigger.reports.choosing import chosen_of

    with on_bus(given) as bus:
        spec = bus.spec(given.name)
        wanted = chosen_of(bus.log, spec, None, chosen(given))
        table = letters.dead_letters(bus.log, spec.id, wanted, limit_of(given))
    show(table, given.form, _LETTERS)
    return 0


def _tail(given: argparse.Namespace) -> int:
    from mltrigger.reports import views

    with on_bus(given) as bus:
        table, last = views.newest(bus.log, _wanted(bus, given), limit_of(given))
    show(valued(table) if given.form == "json" else table, given.form, _TAIL)
    sys.stdout.flush()
    if given.follow:
        for lines in _followed(given, last):
            print("\n".join(lines), flush=True)
    return 0


def _followed(given: argparse.Namespace, last: int) -> Iterator[list[str]]:
    """Yield the lines of new attempts, without end. An outage of the store is waited for."""
    from mltrigger.reports import views

    is_away = False
    while True:
        try:
            with on_bus(given) as bus:
                wanted = _wanted(bus, given)
                if is_away:
                    _say("the store is there again")
                is_away = False
                while True:
                    seen = bus.wakeup.generation("done")
                    if bus.log.newest_row() > last:
                        table, last = views.recorded_after(bus.log, wanted, last)
                        if len(table):
                            yield _lines(table, given.form)
                    bus.wakeup.wait("done", seen, _WAIT_S)
        except (StoreError, Closed, NotFound) as error:
            if not is_away:
                _say(f"{error.plain}; waiting for the store")
            is_away = True
        time.sleep(_AGAIN_S)


def _wanted(bus: EventBus, given: argparse.Namespace) -> Matching:
    from mltrigger.reports.choosing import matching_of

    spec = None if given.name is None else bus.spec(given.name)
    return matching_of(bus.log, spec, **chosen(given))


def _lines(table: pd.DataFrame, form: str) -> list[str]:
    """Return the lines of attempts. The widths of those that will come are not known."""
    if form == "json":
        return list(json_lines(valued(table)))
    if form == "csv":
        return csv_text(table, header=False).removesuffix("\n").split("\n")
    rows = table[list(_TAIL)].itertuples(index=False)
    return ["  ".join(map(cell, _TAIL, map(plain, row))) for row in rows]


def _say(line: str) -> None:
    print(f"mltrigger: {one_line(redacted(line))}", file=sys.stderr, flush=True)
