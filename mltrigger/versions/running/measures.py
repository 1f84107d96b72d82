"""Measures: figures that a model reports about its answers, such as its confidence."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from typing import Any, SupportsFloat

from mltrigger.errors import InvalidReport, OutsideCall, brief
from mltrigger.event.event import Event
from mltrigger.text import short
from mltrigger.versions.running import current
from mltrigger.versions.running.current import Running
from mltrigger.versions.running.invoke import Result

MOST, MAX_NAME = 25, 100
"""The most figures of an event, and the longest name. So all together stay below 25 KB."""

Measures = dict[tuple[str, str], dict[str, float]]
"""The figures of events, by their id and source."""


@brief
def report(**figures: float | Sequence[float]) -> None:
    """Keep *figures* about the answer of this call, such as ``confidence=0.93``.

    Use it in a model. They stand in the column ``measures`` of invocations, and in
    ``measures.confidence`` of results. Failed attempts keep theirs. Later calls add to earlier
    ones, and replace figures of the same name.

    Parameters
    ----------
    **figures
        At most 25 numbers for an event, finite or NaN. A model that takes batches gives a list for
        each name, with one number for each event of the batch.

    Raises
    ------
    InvalidReport
        If there are too many, or something is no number. Nothing is kept then.
    OutsideCall
        Outside of a model's call, and in its other threads.
    """
    under_way = current.current()
    if under_way is None:
        raise OutsideCall(
            "mt.report(…) outside of a model's call; it works in the thread or coroutine in which a"
            " listener calls the model"
        )
    if under_way.batch is None:
        each = [(under_way.event, {n: _number(n, value) for n, value in figures.items()})]
    else:
        columns = {n: _column(n, values, len(under_way.batch)) for n, values in figures.items()}
        each = [
            (event, {name: column[place] for name, column in columns.items()})
            for place, event in enumerate(under_way.batch)
        ]
    kept = under_way.measures or {}
    merged = {_key(event): {**kept.get(_key(event), {}), **own} for event, own in each}
    for own in merged.values():
        _check_names(own)
    under_way.measures = {**kept, **merged}


def measured(
    under_way: Running, events: Sequence[Event], results: Sequence[Result]
) -> list[Result]:
    """Return *results* with the figures of their *events*, and forget these."""
    taken, under_way.measures = under_way.measures or {}, None
    return [
        result if (own := taken.get(_key(event))) is None else result._replace(measures=_text(own))
        for event, result in zip(events, results, strict=True)
    ]


def figures_of(text: str) -> dict[str, float]:
    """Return the figures that an attempt keeps. A missing number is NaN."""
    return {name: math.nan if v is None else float(v) for name, v in json.loads(text).items()}


def _text(figures: Mapping[str, float]) -> str:
    # JSON has no NaN
    kept = {name: None if math.isnan(v) else v for name, v in figures.items()}
    return json.dumps(kept, separators=(",", ":"))


def _key(event: Event) -> tuple[str, str]:
    return event.id, event.source


def _check_names(figures: Mapping[str, float]) -> None:
    if len(figures) > MOST:
        raise InvalidReport(
            f"mt.report keeps at most {MOST} figures of an event, these are {len(figures)}; put"
            " more into the output"
        )
    for name in figures:
        if not 0 < len(name) <= MAX_NAME or not name.isprintable():
            raise InvalidReport(
                f"the name of a figure has 1 to {MAX_NAME} printable characters, got {short(name)}"
            )


def _column(name: str, values: Any, n: int) -> list[float]:
    try:
        listed = None if isinstance(values, (str, bytes, Mapping)) else list(values)
    except TypeError:
        listed = None
    if listed is None or len(listed) != n:
        got = short(values) if listed is None else f"{len(listed)} values"
        raise InvalidReport(
            f"mt.report({name}=…) in a batch of {n} events takes a list of {n} numbers, one each;"
            f" got {got}"
        )
    return [_number(name, value) for value in listed]


def _number(name: str, value: Any) -> float:
    number: float | None = None
    if isinstance(value, SupportsFloat) and not isinstance(value, (str, bytes)):
        try:
            number = float(value)
        except Exception:  # an array of several, an integer of 400 digits
            number = None
    if number is None or math.isinf(number):
        raise InvalidReport(
            f"mt.report({name}={short(value)}): a figure is one number, finite or NaN"
        )
    return number
