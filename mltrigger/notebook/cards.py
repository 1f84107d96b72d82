"""Frames as cards: the columns that matter, in words, with small pictures. The rest opens by click.

Everything passes the one escape function. Colours follow the page, so dark pages are readable.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from mltrigger.reports import frames
from mltrigger.store.outcomes import OUTCOMES
from mltrigger.text import count, esc, short

if TYPE_CHECKING:
    import pandas as pd

ROWS = 12
"""The most rows of a card."""
_OUTPUTS = 4
"""The most columns of outputs beside each other. The others open by click."""
_TEXT, _WHOLE = 80, 300
_WORD = 24
"""Characters of a text that stays on one line."""
_NUMBERS = "iuf"
_EXACT = 2.0**53
"""Up to here a float holds each whole number."""
_STYLE = (
    "border:1px solid #8884;border-radius:6px;padding:.5em .8em;display:inline-block;"
    "max-width:100%;box-sizing:border-box;overflow-x:auto;"
    "font-family:var(--jp-ui-font-family,sans-serif);font-size:13px"
)
_CELL = "padding:.2em .9em .2em 0;vertical-align:top;border:0;"
_SIGNS: Mapping[str, tuple[str, str]] = MappingProxyType(
    {
        "succeeded": ("#009E73", '<circle cx="5" cy="5" r="4"/>'),
        "failed": ("#E69F00", '<path d="M5 1L9.5 9H.5z"/>'),
        "dead": (
            "#D55E00",
            '<path d="M1 2.4L2.4 1 5 3.6 7.6 1 9 2.4 6.4 5 9 7.6 7.6 9 5 6.4 2.4 9 1 7.6 3.6 5z"/>',
        ),
        "skipped": ("#8A8A8A", '<path d="M1 4h8v2H1z"/>'),
        "running": ("#0072B2", '<path d="M2 1l7 4-7 4z"/>'),
    }
)
"""The colour and the shape of outcomes. A shape tells without a colour."""
_OTHER = ("#8A8A8A", '<path d="M5 .5L9.5 5 5 9.5.5 5z"/>')


@dataclasses.dataclass(frozen=True, slots=True)
class Card:
    """The way to show one kind of frame.

    Attributes
    ----------
    noun : str
        One row of it.
    columns : mapping
        The columns that matter, and their heads.
    known : mapping
        All columns of the frame but those of outputs. Without it there are no outputs.
    newest : bool
        Whether the last rows matter most.
    """

    noun: str
    columns: Mapping[str, str]
    known: Mapping[str, Any] | None = None
    newest: bool = False


def _heads(text: str) -> dict[str, str]:
    """Return column -> head, from words such as ``queue_ms=waited``."""
    pairs = (word.partition("=") for word in text.split())
    return {name: (head or name).replace("_", " ") for name, _, head in pairs}


_TIMES = "queue_ms=waited model_ms=model total_ms=total"
CARDS: Mapping[str, Card] = MappingProxyType(
    {
        "results": Card(
            "result",
            _heads("sample subject subscription model version outcome reason model_ms=model error"),
            {**frames.ENDED, **frames.RESULTS, **frames.DRY_RUN},
            newest=True,
        ),
        "invocations": Card(
            "attempt",
            _heads(f"subscription version attempt outcome reason {_TIMES} output error"),
            newest=True,
        ),
        "latency": Card(
            "row", _heads("stage version count p50_ms=p50 p95_ms=p95 p99_ms=p99 max_ms=max")
        ),
        "topics": Card(
            "topic", _heads("topic events subscriptions state detail newest_at=newest_event")
        ),
        "subscriptions": Card(
            "subscription",
            _heads(
                "subscription topic selector=model emit=emits_to paused listeners visible=waiting"
                " delayed in_flight succeeded failed=failed_attempts dead"
            ),
        ),
        "models": Card(
            "version",
            _heads("model version aliases kind takes gives description registered_at=registered"),
        ),
        "events": Card(
            "event", _heads("topic subject type published_at=published data"), newest=True
        ),
        "trace": Card(
            "attempt",
            _heads(f"hop topic subject subscription version attempt outcome {_TIMES} output"),
        ),
        "audit": Card(
            "subscription",
            _heads(
                "subscription published filtered sent succeeded dead skipped open missing double"
                " surplus balanced"
            ),
        ),
        "history": Card(
            "binding",
            _heads(
                "number kind version canary share from_event at by why verdict answered corrected"
            ),
        ),
    }
)
"""How each kind of frame is shown."""


def html(table: pd.DataFrame, kind: str) -> str | None:
    """Return *table* as a card, ``None`` if its columns are no longer those of its *kind*."""
    card = CARDS[kind]
    if not table.columns.is_unique or not any(name in card.columns for name in table.columns):
        return None
    rows = table.tail(ROWS) if card.newest else table.head(ROWS)
    there = [name for name in card.columns if name in table.columns]
    mine = [name for name in there if not _is_empty(rows[name])]
    shown: dict[Any, str] = {name: card.columns[name] for name in mine or there}
    if card.known is not None:
        made = [name for name in table.columns if name not in card.known]
        shown = _with_outputs(shown, [name for name in made if not _is_empty(rows[name])])
    extra = {"": [_range(row) for row in _records(rows)]} if kind == "latency" else {}
    title = esc(_title(card, len(table)))
    parts = [f"<strong>{title}</strong>"]
    if "outcome" in table.columns and len(table):
        parts.append(_bar(table["outcome"]))
    if len(table):
        parts.append(_table(rows, shown, _TEXT, extra))
        if set(table.columns) - set(shown) or _is_long(rows, shown):
            whole = _table(rows, {name: str(name) for name in table.columns}, _WHOLE, {})
            parts.append(_folded(f"all {len(table.columns)} columns", whole))
    # a card that is wider than the page scrolls, also by keys
    return (
        f'<div role="region" aria-label="{title}" tabindex="0" style="{_STYLE}">'
        f"{''.join(parts)}</div>"
    )


def _title(card: Card, n: int) -> str:
    if n <= ROWS:
        return count(n, card.noun)
    return f"{count(n, card.noun)}, the {'newest' if card.newest else 'first'} {ROWS} of them"


def _with_outputs(shown: dict[Any, str], made: Sequence[Any]) -> dict[Any, str]:
    """Return the columns with those of outputs before the error, as in the frame after it."""
    error = {name: head for name, head in shown.items() if name == "error"}
    rest = {name: head for name, head in shown.items() if name != "error"}
    return {**rest, **{name: str(name) for name in made[:_OUTPUTS]}, **error}


def _is_empty(column: pd.Series[Any]) -> bool:
    return bool((column.isna() | (column == "")).all())


def _is_long(rows: pd.DataFrame, shown: Mapping[Any, str]) -> bool:
    return any(
        isinstance(value, str) and len(value) > _TEXT for name in shown for value in rows[name]
    )


def _records(rows: pd.DataFrame) -> list[dict[Any, Any]]:
    found: list[dict[Any, Any]] = rows.to_dict("records")
    return found


def _table(
    rows: pd.DataFrame,
    shown: Mapping[Any, str],
    limit: int,
    pictures: Mapping[str, Sequence[str]],
) -> str:
    """Return the columns *shown* as a table. Numbers stand on the right, and are never cut."""
    right = {name: getattr(rows[name].dtype, "kind", "O") in _NUMBERS for name in shown}
    head = "".join(
        f'<th scope="col" style="{_CELL}text-align:{"right" if right[name] else "left"};'
        f'opacity:.7;font-weight:normal">{esc(title)}</th>'
        for name, title in shown.items()
    )
    head += "".join(f'<th style="{_CELL}">{esc(name)}</th>' for name in pictures)
    body = []
    for place, row in enumerate(_records(rows[[*shown]])):
        cells = [_cell(name, row[name], right[name], limit) for name in shown]
        cells += [f'<td style="{_CELL}">{each[place]}</td>' for each in pictures.values()]
        body.append(f"<tr>{''.join(cells)}</tr>")
    return (
        '<table style="border-collapse:collapse;margin:.4em 0 0;font-variant-numeric:tabular-nums">'
        f"<thead><tr>{head}</tr></thead><tbody>{''.join(body)}</tbody></table>"
    )


def _cell(name: Any, value: Any, right: bool, limit: int) -> str:
    said = _said(name, value, limit)
    if right:
        style = f"{_CELL}text-align:right;white-space:nowrap"
    elif len(said) <= _WORD:
        style = f"{_CELL}text-align:left;white-space:nowrap"
    else:
        style = f"{_CELL}text-align:left;overflow-wrap:anywhere;min-width:12em;max-width:28em"
    sign = f"{_sign(said)} " if name == "outcome" and said else ""
    return f'<td style="{style}">{sign}{esc(said)}</td>'


def _said(name: Any, value: Any, limit: int) -> str:
    """Return a value in words."""
    import pandas as pd

    from mltrigger.reports.shown import moment

    if value is None or (pd.api.types.is_scalar(value) and pd.isna(value)):
        return ""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, pd.Timestamp):
        return moment(value)
    if isinstance(value, (int, float)) and str(name).endswith("_ms"):
        return f"{value:,.2f} ms"
    if isinstance(value, int):
        return f"{value:,}"
    if isinstance(value, float):
        return _number(value)
    return short(value, limit)


def _number(value: float) -> str:
    """Return a number with its digits before the point. Two large ones never look the same."""
    if value.is_integer() and abs(value) <= _EXACT:
        return f"{value:,.0f}"
    said = f"{value:,.6g}"
    return f"{value:,.2f}" if "e+" in said and abs(value) <= _EXACT else said


def _folded(summary: str, inside: str) -> str:
    return (
        f'<details style="margin-top:.4em"><summary style="cursor:pointer">{esc(summary)}</summary>'
        f'<div style="overflow-x:auto">{inside}</div></details>'
    )


# -- pictures --------------------------------------------------------------------------------------


def _sign(outcome: str) -> str:
    colour, shape = _SIGNS.get(outcome, _OTHER)
    return (
        f'<svg width="10" height="10" viewBox="0 0 10 10" aria-hidden="true" fill="{colour}">'
        f"{shape}</svg>"
    )


def _bar(outcomes: pd.Series[Any]) -> str:
    """Return the shares of outcomes as a bar, with their numbers in words below it."""
    tally = {str(name): int(n) for name, n in outcomes.value_counts().items() if n}
    order = [name for name in (*OUTCOMES, "open") if name in tally]
    total, at, parts = sum(tally.values()), 0.0, []
    for name in order:
        wide = 300 * tally[name] / max(total, 1)
        colour = _SIGNS.get(name, _OTHER)[0]
        parts.append(f'<rect x="{at:.2f}" width="{max(wide, 1):.2f}" height="6" fill="{colour}"/>')
        at += wide
    said = ", ".join(f"{tally[name]:,} {name}" for name in order)
    words = " · ".join(f"{_sign(name)} {tally[name]:,} {esc(name)}" for name in order)
    return (
        f'<div style="margin:.35em 0 0"><svg role="img" aria-label="{esc(said)}" width="300"'
        ' height="6" viewBox="0 0 300 6" preserveAspectRatio="none"'
        f' style="max-width:100%;display:block">{"".join(parts)}</svg>'
        f'<div style="margin-top:.2em">{words}</div></div>'
    )


def _range(row: Mapping[Any, Any]) -> str:
    """Return a line from p50 to p99 with a mark at p95, on a logarithmic axis up to 100 s."""
    import math

    def at(ms: float) -> float:
        return 10 + 20 * (math.log10(min(max(ms, 0.01), 100_000)) + 2)

    names = ("p50_ms", "p95_ms", "p99_ms")
    if any(name not in row or row[name] != row[name] for name in names):
        return ""
    low, middle, high = (at(float(row[name])) for name in names)
    said = ", ".join(f"{name.removesuffix('_ms')} {row[name]:,.2f} ms" for name in names)
    return (
        f'<svg role="img" aria-label="{esc(said)}, logarithmic" width="160" height="12"'
        ' viewBox="0 0 160 12" fill="currentColor" stroke="currentColor">'
        '<path d="M10 6H150" stroke-opacity=".15"/>'
        f'<path d="M{low:.1f} 6H{max(high, low + 1):.1f}" stroke-width="3"/>'
        f'<circle cx="{low:.1f}" cy="6" r="3.5" stroke="none"/>'
        f'<path d="M{middle:.1f} 1V11" stroke-width="1.5"/></svg>'
    )
