"""The commands about versions in production: ``history``, ``promote``, ``canary``, ``rollback``."""

from __future__ import annotations

import argparse
import math
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mltrigger.cli.output import add_output, show
from mltrigger.cli.parsing import filled, seconds
from mltrigger.cli.subscribed import add_why, better, calling, command, opened
from mltrigger.cli.versions.rows import STATUS, VERDICTS, say, show_bound, show_lane
from mltrigger.errors import NotFound, NotShipped
from mltrigger.text import one_line, redacted

if TYPE_CHECKING:
    from mltrigger.handle import Subscription
    from mltrigger.rollout.history import Bound

_REFUSED = f"A verdict that is not SHIP refuses it, with the exit status of compare.\n{STATUS}"
_VERSION = "1.1.0, a selector such as ocr:1.1, or the import path of a model"


def add_commands(commands: Any) -> None:
    """Add the commands."""
    history = command(commands, "history", "which version answers, from which event on, and why")
    add_output(history)
    history.set_defaults(run=_history)
    _add_promote(commands)
    _add_canary(commands)
    rollback = command(commands, "rollback", "end the canary, or go back to an earlier version")
    rollback.add_argument(
        "--to",
        type=filled,
        metavar="VERSION|NUMBER",
        help="an earlier version, or the number of a binding in the history",
    )
    add_why(rollback)
    add_output(rollback)
    rollback.set_defaults(run=_rollback)


def _add_promote(commands: Any) -> None:
    added = command(commands, "promote", "let a version answer from now on", _REFUSED)
    added.add_argument("version", nargs="?", help=f"{_VERSION} (default: the canary)")
    added.add_argument(
        "--verdict", metavar="FILE", help="the verdict that it is made on, as JSON; - reads it"
    )
    added.add_argument(
        "--force", type=filled, metavar="REASON", help="promote also against the verdict"
    )
    added.add_argument(
        "--backlog",
        choices=["new", "old"],
        default="new",
        help="the version of events that wait and have not begun (default: new)",
    )
    added.add_argument(
        "--move-alias", action="store_true", help="move the alias in MLflow's registry, too"
    )
    add_why(added)
    add_output(added)
    added.set_defaults(run=_promote)


def _add_canary(commands: Any) -> None:
    added = command(
        commands, "canary", "let a version answer a growing share of the events, or show the canary"
    )
    added.add_argument("version", nargs="?", help=f"{_VERSION}; without it, show the present one")
    added.add_argument(
        "--step",
        type=float,
        action="append",
        metavar="SHARE",
        help="a share of the events, such as 0.05 (may be repeated; default: 0.01 0.05 0.2 0.5)",
    )
    for name, said in (("errors", "error rate"), ("p95", "95th percentile of run times")):
        added.add_argument(
            f"--{name}",
            type=_times,
            default=argparse.SUPPRESS,
            metavar="TIMES",
            help=f"how many times the live {said} is tolerated, or off",
        )
    added.add_argument(
        "--measure",
        type=better,
        action="append",
        default=[],
        metavar="NAME=higher|lower",
        help="a measure that must not get worse, and which is better (may be repeated)",
    )
    added.add_argument("--min-events", type=int, default=200, help="answers of a step (200)")
    added.add_argument("--min-s", type=seconds, default=60.0, help="seconds of a step (60)")
    added.add_argument(
        "--then",
        choices=["wait", "promote"],
        default="wait",
        help="after the last step wait for promote, or promote (default: wait)",
    )
    add_why(added)
    add_output(added)
    added.set_defaults(run=_canary)


def _history(given: argparse.Namespace) -> int:
    with opened(given) as sub:
        found = sub.history()
        table = found.frame()
    if given.form != "table":
        show(table, given.form)
        return 0
    for bound in found:
        print(_line(bound))
    return 0


def _promote(given: argparse.Namespace) -> int:
    verdict = None if given.verdict is None else _verdict(given.verdict)
    with calling(given) as sub:
        before = len(sub.history())
        try:
            bound = sub.promote(
                given.version,
                verdict=verdict,
                backlog=given.backlog,
                force=given.force,
                why=given.why,
                move_alias=given.move_alias,
            )
        except NotShipped as error:
            _say("mltrigger: not promoted, the verdict is", *str(error.verdict).splitlines())
            _say("--force REASON promotes it all the same")
            return VERDICTS[error.verdict.word]
    is_unchanged = bound.number < before
    _tell(bound, given.form, f"{bound.version} answers {given.name!r} already" * is_unchanged)
    return 0


def _canary(given: argparse.Namespace) -> int:
    from mltrigger.rollout.guard import Guard
    from mltrigger.rollout.service import STEPS

    rules = {name: getattr(given, name) for name in ("errors", "p95") if hasattr(given, name)}
    with calling(given) as sub:
        if given.version is None:
            return _show_canary(sub, given.form)
        canary = sub.canary(
            given.version,
            steps=given.step or STEPS,
            guard=Guard(**rules, measures=dict(given.measure)),
            min_events=given.min_events,
            min_s=given.min_s,
            then=given.then,
            why=given.why,
        )
        if given.form != "table":
            show_lane(canary, given.form)
        say(f"{canary.version} is the canary of {sub.name!r}: {canary.state}", given.form)
    return 0


def _show_canary(sub: Subscription, form: str) -> int:
    from mltrigger.rollout.canary import Canary

    present = sub.history()[-1]
    if present.canary is None:
        raise NotFound(f"subscription {sub.name!r} has no canary: name a version to begin one")
    canary = Canary(*sub._versions(), present.canary)
    rules = canary.progress()
    if form != "table":
        show(rules, form)
        return 0
    say(f"{canary.version} is the canary of {sub.name!r}: {canary.state}")
    for rule, e, limit, detail in rules.itertuples(index=False):
        say(f"  {rule}: e = {e:.3g} of {limit:g}; {detail}")
    return 0


def _rollback(given: argparse.Namespace) -> int:
    to = given.to
    with calling(given) as sub:
        number = int(to) if to is not None and to.isascii() and to.isdecimal() else to
        bound = sub.rollback(number, why=given.why)
    _tell(bound, given.form)
    return 0


def _tell(bound: Bound, form: str, instead: str = "") -> None:
    """Print a binding as its row, or for people as a line, or *instead* of that."""
    if form != "table":
        show_bound(bound, form)
    else:
        say(instead or _line(bound))


def _line(bound: Bound) -> str:
    at = bound.at.isoformat(timespec="seconds").replace("+00:00", "Z")
    by = f", by {bound.by}" if bound.by else ""
    verdict = f", on {bound.verdict}" if bound.verdict else ""
    return one_line(redacted(f"{bound} ({at}{by}{verdict})"))


def _verdict(path: str) -> Any:
    from mltrigger.rollout.verdict import Verdict

    try:
        text = sys.stdin.buffer.read() if path == "-" else Path(path).read_bytes()
    except OSError as error:
        raise NotFound(
            f"--verdict {path!r} cannot be read: {error.strerror}; compare --json FILE writes one"
        ) from error
    return Verdict.from_json(text)


def _times(text: str) -> float | None:
    if text == "off":
        return None
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not value >= 1.0 or math.isinf(value):
        raise argparse.ArgumentTypeError(f"{text!r}: write a number from 1 on, or off")
    return value


def _say(*lines: str) -> None:
    for line in lines:
        print(one_line(redacted(line)), file=sys.stderr)
