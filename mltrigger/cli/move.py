"""The command ``mltrigger move``: from a file to PostgreSQL, with all that is in it."""

from __future__ import annotations

import argparse
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any

from mltrigger.cli.parsing import filled, seconds
from mltrigger.errors import StoreError
from mltrigger.text import one_line, redacted

if TYPE_CHECKING:
    from mltrigger.reports.audit import Balance
    from mltrigger.store.move import Move, Part, Progress
    from mltrigger.store.postgresql.destination import Destination
    from mltrigger.store.transaction import Store

_MORE = """\
The file takes no new work from then on, and says where it goes. Events that are worked on may end
first. After an interruption the same command goes on. --undo takes an unfinished move back."""
_EVERY_S = 1.0


def add_commands(commands: Any) -> None:
    """Add the command."""
    said = "move a file to PostgreSQL: events, outcomes, versions, open work"
    added = commands.add_parser("move", help=said, description=said, epilog=_MORE)
    added.add_argument("source", type=filled, help="such as sqlite:///mltrigger.db")
    added.add_argument("destination", type=filled, help="such as postgresql://team@db/ml")
    chosen = added.add_mutually_exclusive_group()
    chosen.add_argument(
        "--dry-run", action="store_true", help="read all, change nothing, and say how it would go"
    )
    chosen.add_argument(
        "--undo", action="store_true", help="empty the destination, and let the file take work"
    )
    added.add_argument(
        "--wait-s",
        type=seconds,
        default=60.0,
        help="the longest wait for events that are worked on (default: 60)",
    )
    added.set_defaults(run=_move)


def _move(given: argparse.Namespace) -> int:
    with _opened(given) as (source, destination, move):
        if given.dry_run:
            return _tried(move, source, destination)
        if given.undo:
            move.undo()
            _say(f"undone: {source.description} takes work again")
            return 0
        try:
            return _moved(move, source, destination, given.wait_s)
        except KeyboardInterrupt:
            _say("interrupted: the same command goes on, and --undo takes the move back")
            raise


@contextmanager
def _opened(given: argparse.Namespace) -> Iterator[tuple[Store, Destination, Move]]:
    from mltrigger.store.opening import store_at
    from mltrigger.urls import existing

    kinds = [url.partition("://")[0] for url in (given.source, given.destination)]
    if kinds != ["sqlite", "postgresql"]:
        advice = {
            "postgresql": "pg_dump and pg_restore copy a schema of PostgreSQL",
            "memory": "a store in memory ends with its process",
        }.get(
            kinds[0], "write mltrigger move sqlite:///mltrigger.db postgresql://user@host/database"
        )
        raise StoreError(f"a move goes from sqlite:///file.db to postgresql://…; {advice}")
    _needs_psycopg()
    from mltrigger.store.move import Move
    from mltrigger.store.postgresql.destination import Destination

    # What the file refuses must be on the disk before the destination opens.
    url = (existing(given.source) or "").replace("durability=normal", "durability=full")
    store, wakeup = store_at(url)
    try:
        destination = Destination(given.destination)
        try:
            yield store, destination, Move(store, destination)
        finally:
            destination.close()
    finally:
        wakeup.close()
        store.close()


def _needs_psycopg() -> None:
    from importlib.util import find_spec

    from mltrigger.errors import how_to_install

    if find_spec("psycopg") is None:
        raise StoreError(f"PostgreSQL needs psycopg: {how_to_install('postgres')}")


def _tried(move: Move, source: Store, destination: Destination) -> int:
    """Print how a move would go. Return 1 if it would be refused."""
    import sqlite3

    from mltrigger.store import move as moves
    from mltrigger.store.tables import VERSION

    _say(f"from {source.description}: SQLite {sqlite3.sqlite_version}, schema version {VERSION}")
    _say(f"to {destination.shown}: {destination.server()}, schema version {VERSION}")
    problems, counts, live = move.problems(), move.counts(), move.live()
    size, texts = move.read_all(_Shown())
    _print_counts(counts)
    rows = sum(part.source - part.destination for part in counts)
    took_s = rows / moves.ROWS_PER_S + size / moves.BYTES_PER_S
    _say(f"{rows:,} rows, {size:,} bytes: about {max(1, round(took_s)):,} s")
    if texts:
        _say(f"note: {texts:,} texts hold the character NUL, which is written \u2400 there")
    if live:
        _say(f"note: {sum(live.values()):,} leases are held: a move waits until they end")
    for problem in problems:
        _say(f"error: {problem}")
    _say("nothing was changed")
    return int(bool(problems))


def _moved(move: Move, source: Store, destination: Destination, wait_s: float) -> int:
    began_s, found, show = time.monotonic(), list[Any](), _Shown()
    _say(f"moving {source.description} to {destination.shown}")
    parts = move.run(wait_s, show, lambda: found.extend(_compared(source, destination)))
    _print_counts(parts)
    for before, after in zip(*found, strict=True) if found else ():
        _say(_balance(before, "source     "))
        _say(_balance(after, "destination"))
    took_s = time.monotonic() - began_s
    said = (
        f"{show.copied:,} rows in {took_s:,.1f} s, {show.copied / max(took_s, 0.001):,.0f} rows/s"
    )
    _say(f"done: {said if found else 'all was there before'}; connect to {destination.shown}")
    return 0


def _compared(source: Store, destination: Destination) -> list[list[Balance]]:
    """Return the audits of both sides, which are equal."""
    from mltrigger.reports.audit import balances

    found = []
    for side in (source, destination):  # one after the other: a server ends idle transactions
        with side.snapshot() as reader:
            found.append(balances(reader))
    differing = [b.subscription for b, a in zip(*found, strict=True) if a != b]
    if differing:
        raise StoreError(
            f"the audit of {', '.join(map(repr, differing))} differs on both sides: nothing was"
            " opened; take the move back with --undo"
        )
    return found


def _balance(b: Balance, side: str) -> str:
    is_so = "balanced" if b.balanced else f"NOT balanced: {b.missing} missing, {b.double} double"
    return (
        f"audit {side} {b.subscription}: {b.published:,} published, {b.sent:,} sent,"
        f" {b.filtered:,} filtered = {b.succeeded:,} succeeded, {b.dead:,} dead,"
        f" {b.skipped:,} skipped, {b.open:,} open: {is_so}"
    )


def _print_counts(parts: Sequence[Part]) -> None:
    _say(f"{'table':<16}{'source':>14}{'destination':>14}")
    for table, there, here in parts:
        if there or here:
            _say(f"{table:<16}{there:>14,}{here:>14,}")


class _Shown:
    """Prints the progress: a line a second, and one for each table at its end."""

    def __init__(self) -> None:
        self.copied, self._last_s = 0, time.monotonic()
        self._before = ("", 0)

    def __call__(self, at: Progress) -> None:
        table, before = self._before
        self.copied += at.copied - (before if table == at.table else 0)
        self._before = (at.table, at.copied)
        now_s = time.monotonic()
        if at.done < at.total and now_s - self._last_s < _EVERY_S:
            return
        self._last_s = now_s
        rate = at.copied / max(at.took_s, 0.001)
        _say(f"{at.table:<16}{at.done:>14,} of {at.total:,} rows, {rate:,.0f} rows/s")


def _say(line: str) -> None:
    with suppress(OSError, ValueError):  # a reader who has gone must not end the move half way
        print(one_line(redacted(line)), flush=True)
