"""The rows of commands about versions: those of the frames in Python."""

from __future__ import annotations

import dataclasses
import json
from typing import TYPE_CHECKING, Any

from mltrigger.cli.output import json_line, show, show_row, write
from mltrigger.text import one_line, redacted

if TYPE_CHECKING:
    from mltrigger.rollout.correction import Correction
    from mltrigger.rollout.history import Bound
    from mltrigger.rollout.verdict import Verdict

VERDICTS = {"SHIP": 0, "HOLD": 3, "WORSE": 4, "NOT YET": 5}
"""The exit status of each verdict. 1 and 2 are errors."""
STATUS = """\
exit status: 0 if the verdict is SHIP, 3 if HOLD, 4 if WORSE, 5 if NOT YET, 1 without a verdict"""
RULES = (
    *("verdict", "old", "new", "pairs", "rule", "passed", "figure", "low", "high", "needs"),
    *("harm", "text"),
)


def say(line: str, form: str = "table") -> None:
    """Print *line*, which is for people: not in another form than a table."""
    if form == "table":
        print(one_line(redacted(line)))


def show_lane(lane: Any, form: str) -> None:
    """Print the row of *lane*, with the columns of ``sub.lanes().frame()``."""
    from mltrigger.reports import frames
    from mltrigger.rollout.columns import LANES

    facts = lane.facts()
    show(frames.frame([[facts[name] for name in LANES]], LANES), form)


def show_bound(bound: Bound, form: str) -> None:
    """Print the row of a binding, with the columns of ``sub.history().frame()``."""
    from mltrigger.rollout.history import History

    show(History(bound.subscription, [bound]).frame(), form)


def show_verdict(verdict: Verdict, form: str) -> None:
    """Print *verdict* as ``promote --verdict`` takes it, or each rule as a row of CSV."""
    found = json.loads(verdict.to_json())
    if form == "json":
        write([json_line(found)], form)
        return
    old, new = found["versions"]
    rows = [
        (found["word"], old, new, found["pairs"], rule["name"], rule["passed"], rule["figure"],
         *(rule["interval"] or (None, None)), rule["needs"], rule["harm"], rule["text"])
        for rule in found["rules"]
    ]  # fmt: skip
    import pandas as pd

    show(pd.DataFrame(rows, columns=[*RULES], dtype=object), form)


def show_correction(correction: Correction, form: str) -> None:
    """Print the progress of *correction* as one row."""
    at = dataclasses.asdict(correction.progress())
    old = correction.binding
    show_row(form, binding=old.number, old_version=old.version, version=correction.version, **at)
