"""Two versions compared, for the view: the verdict, the flips with the worst first, the slices."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from mltrigger.notebook.cockpit.actions.base import SUB, Desk, one
from mltrigger.notebook.cockpit.code import call
from mltrigger.notebook.cockpit.given import Given
from mltrigger.notebook.cockpit.texts import bounded, event_hint
from mltrigger.text import visible

if TYPE_CHECKING:
    import pandas as pd

    from mltrigger.broker import SubscriptionSpec
    from mltrigger.rollout.comparison import Comparison

MOST_FLIPS, MOST_SLICES = 200, 200
_OUTPUT = 4_000
_PEEK = 400
_HARM = {"new_failed": 2.0, "not_comparable": 1.5, "old_failed": -1.0}
"""Where a flip without a figure stands among the others, which are from 0 to 1."""


def compared(desk: Desk, given: Given) -> dict[str, Any]:
    """Return the comparison of two versions as JSON values."""
    spec = desk.spec(given)
    old, new = desk.version(spec, given, "old"), desk.version(spec, given, "new")
    script = desk.on(
        spec, one(call(SUB, "compare", old, new, by=given.text_or_none("by")), "comparison")
    )
    found: Comparison = desk.run(script)
    flips = found.flips()
    return {
        "verdict": bounded(found.verdict.summary),
        "arithmetic": [bounded(line.strip()) for line in str(found.verdict).split("\n")[1:]],
        "rules": [
            {"name": visible(rule.name), "passed": rule.passed, "text": bounded(rule.text)}
            for rule in found.verdict.rules
        ],
        "counts": {name: int(n) for name, n in found.counts.items()},
        "flips": _flips(desk, spec, flips),
        "flips_in_all": len(flips),
        "slices": _slices(found),
        "slices_in_all": len(found.slices()),
        "code": script.code(),
    }


def _flips(desk: Desk, spec: SubscriptionSpec, frame: pd.DataFrame) -> list[dict[str, Any]]:
    """Return the worst flips first."""
    worse = [
        _HARM.get(state, 1.0 - agreement if agreement == agreement else 1.0)
        for state, agreement in zip(frame["state"], frame["agreement"], strict=True)
    ]
    order = sorted(range(len(worse)), key=lambda at: -worse[at])[:MOST_FLIPS]
    chosen = frame.iloc[order].astype(object)
    rows: list[dict[str, Any]] = chosen.where(chosen.notna(), None).to_dict("records")  # type: ignore[assignment]
    seqs = [_seq(desk, spec, row) for row in rows]
    heads = desk.bus.log.heads([seq for seq in seqs if seq is not None], _PEEK) if any(seqs) else []
    hints = {h.seq: event_hint(h.subject, h.media_type, h.size, h.head) for h in heads}
    return [
        {
            "seq": seq,
            "event": hints.get(seq or 0) or visible(row["event_id"]),
            "event_id": visible(row["event_id"]),
            "state": row["state"],
            "old_output": _cut(row["old_output"]),
            "new_output": _cut(row["new_output"]),
            "error": _cut(row["error"]),
            "worse": round(worse[at], 6),
            "slice": visible(str(row["slice"] or "")),
        }
        for at, seq, row in zip(order, seqs, rows, strict=True)
    ]


def _seq(desk: Desk, spec: SubscriptionSpec, row: dict[str, Any]) -> int | None:
    found = desk.bus.log.find(row["event_id"])
    mine = [f.seq for f in found if f.topic == spec.topic and f.source == row["source"]]
    return mine[0] if mine else None


def _slices(found: Comparison) -> list[dict[str, Any]]:
    rows = found.slices().head(MOST_SLICES).astype(object)
    return [
        {
            "slice": visible(str(row["slice"])),
            "n": int(row["pairs"]),
            "flips": int(row["flips"]),
            "agree": _share(row["agreement"]),
            "interval": [_share(row["low"]), _share(row["high"])],
        }
        for row in rows.to_dict("records")
    ]


def _share(value: Any) -> float | None:
    return None if value is None or value != value else round(float(value), 6)


def _cut(value: Any) -> str:
    text = "" if value is None else str(value)
    more = len(text) - _OUTPUT
    return bounded(text if more <= 0 else f"{text[:_OUTPUT]}… ({more:,} more characters)")
