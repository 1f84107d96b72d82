"""A comparison as text, as a card of a notebook, as a page and as a plot."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from mltrigger.reports.plots import drawing
from mltrigger.text import card as facts_card
from mltrigger.text import count, esc, harmless, short, table_html

if TYPE_CHECKING:
    from mltrigger.rollout.comparison import Comparison

SLICES: dict[str, Any] = {
    "slice": "str",
    "pairs": "Int64",
    "flips": "Int64",
    "agreement": "float64",
    "low": "float64",
    "high": "float64",
    "newly_failed": "Int64",
    "no_longer_failed": "Int64",
}
LATENCY: dict[str, Any] = {
    "version": "str",
    "count": "Int64",
    "p50": "float64",
    "p95": "float64",
    "p99": "float64",
    "max": "float64",
}
_SHOWN_SLICES = 10
_SHOWN_FLIPS = 200
_OUTPUT = 160
_COLUMNS = ("event_id", "slice", "state", "old_output", "new_output", "error")
_WORDS = {
    "same": "same answer",
    "flip": "other answer",
    "not_comparable": "not comparable",
    "new_failed": "failed with new only",
    "old_failed": "failed with old only",
    "both_failed": "failed with both",
    "unfinished": "unfinished",
    "missing_new": "missing in new",
    "missing_old": "missing in old",
    "noise": "noise runs",
    "labelled": "labelled",
    "labels_without_pair": "labels without a pair",
    "labels_of_two_sources": "labels of an id with two sources",
}
_STYLE = (
    "body{font-family:system-ui,sans-serif;margin:2em;max-width:70em}"
    "table{margin-top:1em;font-size:13px}td,th{vertical-align:top}"
    "td:nth-child(n+4){overflow-wrap:anywhere}"
    "@media(prefers-color-scheme:dark){body{background:#111;color:#ddd}}"
)


def text(c: Comparison, by: str) -> str:
    """Return the verdict with its arithmetic, counts, both latencies and slices."""
    lines = [str(c.verdict), f"  {_counted(c)}"]
    lines += [f"  {name}: {said}" for name, said in (*_first_error(c), *_latencies(c))]
    lines += [f"  {harmless(by)} {line}" for line in _slices(c)]
    return "\n".join(lines)


def _counted(c: Comparison) -> str:
    """Return all counts but zeros, in words."""
    shown = [
        f"{number:,} {_WORDS.get(name, name.replace('_', ' '))}"
        for name, number in c.counts.items()
        if name != "pairs" and number
    ]
    return f"{c.counts['pairs']:,} pairs: {', '.join(shown)}"


def _latencies(c: Comparison) -> Iterator[tuple[str, str]]:
    for version, n, p50, p95, *_ in _rows(c.latency()):
        if n:
            yield version, f"p50 {p50:,.2f} ms, p95 {p95:,.2f} ms"


def _first_error(c: Comparison) -> Iterator[tuple[str, str]]:
    if c.first_error is not None:
        yield "not comparable", f"{short(c.first_error, _OUTPUT)}, for example"


def _facts(c: Comparison) -> list[tuple[str, str]]:
    return [("counts", _counted(c)), *_first_error(c), *_latencies(c)]


def _slices(c: Comparison) -> list[str]:
    rows = _rows(c.slices())
    lines = [
        f"{name}: {flips:,} flips of {pairs:,} pairs"
        for name, pairs, flips, *_ in rows[:_SHOWN_SLICES]
    ]
    if len(rows) > _SHOWN_SLICES:
        lines.append(f"and {len(rows) - _SHOWN_SLICES:,} more: .slices()")
    return lines


def _rows(table: Any) -> list[tuple[Any, ...]]:
    return list(table.itertuples(index=False, name=None))


def card(c: Comparison, by: str) -> str:
    """Return the comparison as a card of a notebook."""
    return facts_card(c.verdict.summary, _facts(c), c.verdict.table() + _slice_table(c, by, 10))


def _slice_table(c: Comparison, by: str, most: int) -> str:
    table = c.slices()
    if not len(table):
        return ""
    rows = [
        (
            name,
            f"{pairs:,}",
            f"{flips:,}",
            "–" if share != share else f"{share:.2%}",
            f"{low:.2%} to {high:.2%}",
        )
        for name, pairs, flips, share, low, high, *_ in _rows(table)[:most]
    ]
    more = f" ({len(table) - most:,} more)" if len(table) > most else ""
    return table_html((by, "pairs", "flips", "agreement", "interval"), rows, f"Slices{more}")


def whole(c: Comparison, by: str) -> str:
    """Return the comparison as a page of its own."""
    flips = c.flips()
    more = f", the first {_SHOWN_FLIPS} of them" if len(flips) > _SHOWN_FLIPS else ""
    known = flips.head(_SHOWN_FLIPS)[[*_COLUMNS]].astype(object)
    rows = [
        (event, part, state, short(old, _OUTPUT), short(new, _OUTPUT), error)
        for event, part, state, old, new, error in _rows(known.where(known.notna(), ""))
    ]
    head = ("event", by, "state", *c.versions, "error")
    title = esc(c.verdict.summary)
    parts = [
        "<!doctype html>",
        '<html lang="en"><head><meta charset="utf-8">',
        '<meta http-equiv="Content-Security-Policy" content="default-src \'none\';',
        " style-src 'unsafe-inline'\">",
        f"<title>{title}</title><style>{_STYLE}</style></head><body>",
        facts_card(c.verdict.summary, _facts(c), c.verdict.table()),
        _slice_table(c, by, len(c.slices())),
        table_html(head, rows, f"{len(flips):,} flips{more}"),
        "</body></html>",
    ]
    return "\n".join(part for part in parts if part)


def plot(c: Comparison, by: str, limit: float | None, ax: Any = None) -> Any:
    """Draw the agreement of each slice, and of all pairs, with its interval."""
    rows = [(name, *shown) for name, _, _, *shown, _, _ in _rows(c.slices())]
    for rule in c.verdict.rules:
        if rule.name == "agreement" and rule.interval is not None and rule.figure is not None:
            rows.insert(0, ("all pairs", rule.figure, *rule.interval))
    head = f"{c.verdict.word}: {' → '.join(c.versions)}"
    about = f"{count(c.verdict.pairs, 'pair')}, {c.verdict.confidence:.0%} intervals"
    return drawing().agreement(rows, (head, about), by, limit, ax)
