"""The commands ``compare`` and ``correct``: a new version before it answers, an old one after."""

from __future__ import annotations

import argparse
import contextlib
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mltrigger.cli.confirming import said_when_stopped
from mltrigger.cli.output import add_output, show
from mltrigger.cli.parsing import filled, seconds
from mltrigger.cli.subscribed import add_why, better, calling, command
from mltrigger.cli.versions.rows import STATUS, VERDICTS, say, show_correction, show_verdict
from mltrigger.errors import InvalidComparison, MltriggerError
from mltrigger.text import short

if TYPE_CHECKING:
    import pandas as pd

_ROWS = 100
_AGAIN = ("event_id", "subject", "outcome", "differs", "old", "new", "error", "correction")
_PARTS = ("flips", "frame", "missing", "slices", "latency")
"""Methods of a comparison that return rows."""


def add_commands(commands: Any) -> None:
    """Add the commands."""
    _add_compare(commands)
    _add_correct(commands)


def _add_compare(commands: Any) -> None:
    added = command(commands, "compare", "compare two versions, and print the verdict", STATUS)
    added.add_argument("old", help="the version that answers, such as 1.0.0")
    added.add_argument("new", help="the version in a shadow, a replay or a canary")
    agree = added.add_mutually_exclusive_group()
    agree.add_argument("--tolerance", type=float, help="numbers agree within it (default: equal)")
    agree.add_argument(
        "--similar", type=float, metavar="SHARE", help="texts agree if so similar, such as 0.95"
    )
    agree.add_argument(
        "--same-set", type=float, metavar="SHARE", help="lists agree if they share so much"
    )
    added.add_argument("--field", type=filled, metavar="PATH", help="compare this part alone")
    added.add_argument("--by", type=filled, metavar="COLUMN", help="slices, such as type")
    added.add_argument("--since", type=filled, metavar="TIME", help="2d, or 2026-11-30T12:00Z")
    added.add_argument(
        "--measure",
        type=better,
        action="append",
        default=[],
        metavar="NAME=higher|lower",
        help="a figure of mt.report, and which is better (may be repeated)",
    )
    added.add_argument("--noise", type=int, default=0, metavar="N", help="run the old one again")
    for name, default, said in (
        ("agree-at-least", 0.99, "the agreement to be shown"),
        ("confidence", 0.95, "of intervals, and of all tests of harm"),
        ("within", 0.01, "how much larger the share of errors may be"),
        ("slow-at-most", 0.10, "the share of calls slower than the old p95"),
    ):
        added.add_argument(
            f"--{name}", type=float, default=default, help=f"{said} (default: {default:g})"
        )
    added.add_argument("--html", type=filled, metavar="FILE", help="write the comparison as a page")
    added.add_argument("--json", type=filled, metavar="FILE", help="write it for promote --verdict")
    added.add_argument(
        "--rows", choices=_PARTS, help="print these rows of the comparison, not its verdict"
    )
    add_output(added)
    added.set_defaults(run=_compare)


def _add_correct(commands: Any) -> None:
    added = command(commands, "correct", "give the answers of a past binding again, or show them")
    added.add_argument("binding", type=int, help="its number in the history")
    chosen = added.add_mutually_exclusive_group()
    chosen.add_argument("--dry-run", action="store_true", help="show what would differ")
    chosen.add_argument("--start", action="store_true", help="publish corrections where it differs")
    chosen.add_argument("--stop", action="store_true", help="begin no more events")
    chosen.add_argument("--rows", action="store_true", help="the answers that were given again")
    added.add_argument("--limit", type=int, help="only the first so many events")
    added.add_argument("--max-rate-per-s", type=float, metavar="RATE", help="events a second")
    added.add_argument("--wait-s", type=seconds, help="wait so long until it is done")
    add_why(added)
    add_output(added)
    added.set_defaults(run=_correct)


def _compare(given: argparse.Namespace) -> int:
    if "-" in (given.json, given.html):
        raise InvalidComparison("--json and --html name a file: -o json prints the verdict")
    agree = _agree(given)
    names = ("by", "noise", "since", "agree_at_least", "confidence", "within", "slow_at_most")
    with calling(given) as sub:
        found = sub.compare(
            given.old,
            given.new,
            agree=agree,
            measures=dict(given.measure),
            **{name: getattr(given, name) for name in names},
        )
    with _written():
        if given.html is not None:
            found.to_html(given.html)
        if given.json is not None:
            Path(given.json).write_text(found.verdict.to_json(), "utf-8")
    if given.rows is not None:
        show(getattr(found, given.rows)(), given.form)
    elif given.form != "table":
        show_verdict(found.verdict, given.form)
    else:
        for line in repr(found).splitlines():
            say(line)
    return VERDICTS[found.verdict.word]


def _agree(given: argparse.Namespace) -> Any:
    from mltrigger.rollout import agree

    chosen: Any = given.tolerance
    if given.similar is not None:
        chosen = agree.similar(given.similar)
    if given.same_set is not None:
        chosen = agree.same_set(given.same_set)
    return chosen if given.field is None else agree.field(given.field, chosen)


@contextlib.contextmanager
def _written() -> Any:
    try:
        yield
    except OSError as error:
        raise MltriggerError(
            f"{error.filename} cannot be written: {error.strerror}; name another file"
        ) from error


def _correct(given: argparse.Namespace) -> int:
    if given.limit is not None and given.limit < 1:
        raise InvalidComparison("--limit must be at least 1")
    with calling(given) as sub:
        correction = sub.correct(given.binding)
        if given.dry_run or given.rows:
            limit = _ROWS if given.limit is None else given.limit
            table = correction.frame() if given.rows else correction.dry_run(limit)
            if given.form != "table" or given.rows:
                show(table, given.form, _AGAIN)
            else:
                _show(table)
            return 0
        if given.stop:
            correction.stop()
        if given.start:
            correction.start(
                max_rate_per_s=given.max_rate_per_s,
                limit=given.limit,
                why=given.why,
            )
        if given.wait_s is not None:
            with said_when_stopped(lambda: f"{correction!r} goes on; --stop ends it"):
                correction.wait(given.wait_s)
        late = given.wait_s is not None and correction.state != "done"
        if given.form != "table":
            show_correction(correction, given.form)
        say(repr(correction).removeprefix("Correction(").removesuffix(")"), given.form)
    return int(late)


def _show(rows: pd.DataFrame) -> None:
    for row in rows.itertuples(index=False):
        if row.outcome == "failed":
            said = f"fails: {short(row.error, 200)}"
        elif row.differs:
            said = f"{short(row.old, 80)} -> {short(row.new, 80)}"
        else:
            continue
        say(f"{row.event_id}  {said}")
    differ = int(rows["differs"].fillna(value=False).sum())
    print(f"{differ:,} of {len(rows):,} answers differ; --start corrects them")
