"""Charts as inline SVG: plain functions from numbers to text.

They are readable in light and dark pages (``currentColor``).
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable, Sequence

from mltrigger.clock import rounded_ms
from mltrigger.text import esc

BINS = 24
WIDE = 10.0
"""The axis is logarithmic from this ratio of the largest to the smallest value on."""
_LEAST_MS = 0.001
"""The clock counts microseconds. A logarithmic axis draws shorter times here."""

_TICKS = 9
_CHARACTER = 6.5
"""The largest width of a figure."""
_LABEL = 0.3
"""The part of the axis that the longest label of a mark takes."""
_WIDTH, _HEIGHT = 440, 176
_LEFT, _RIGHT, _TOP, _BOTTOM = 2, 438, 38, 142


@dataclasses.dataclass(frozen=True, slots=True)
class Histogram:
    """Milliseconds counted in bins of equal width. Places run from 0 (left end) to 1 (right end).

    ``ticks`` and ``marks`` are pairs of place and label. ``sides`` are the places of the labels of
    marks: left or right, on one of two levels. ``version`` is the model version with these times.
    ``label`` describes the picture in words.
    """

    counts: tuple[int, ...]
    ticks: tuple[tuple[float, str], ...]
    marks: tuple[tuple[float, str], ...]
    logarithmic: bool
    label: str
    sides: tuple[tuple[str, int], ...] = ()
    version: str = ""


def ms(value: float) -> str:
    """Return a duration as text, always in the form ``1,234.56 ms``."""
    return f"{value:,.2f} ms"


def quantile(ordered: Sequence[float], q: float) -> float:
    """Return the *q* quantile of sorted milliseconds, to the digits of the clock.

    Interpolates between neighbours, as pandas does.
    """
    at = q * (len(ordered) - 1)
    low = math.floor(at)
    high = min(low + 1, len(ordered) - 1)
    return rounded_ms(ordered[low] + (ordered[high] - ordered[low]) * (at - low))


def histogram(
    values: Iterable[float | None], title: str = "latency histogram", version: str = ""
) -> Histogram:
    """Count milliseconds in bins. Missing values are left out. No values give empty bins."""
    ordered = sorted(max(float(v), 0.0) for v in values if v is not None and math.isfinite(v))
    if not ordered:
        return Histogram((0,) * BINS, (), (), False, f"{title}: no values yet", version=version)
    logarithmic = ordered[-1] > WIDE * max(ordered[0], _LEAST_MS)
    axis = (
        _log_axis(ordered[0], ordered[-1]) if logarithmic else _linear_axis(ordered[0], ordered[-1])
    )
    counts = [0] * BINS
    for value in ordered:
        counts[min(int(axis.place(value) * BINS), BINS - 1)] += 1
    median, p99 = quantile(ordered, 0.5), quantile(ordered, 0.99)
    size = f"{len(ordered):,} value{'s' if len(ordered) != 1 else ''}"
    places = axis.place(median), axis.place(p99)
    return Histogram(
        counts=tuple(counts),
        ticks=_readable([(axis.place(tick), f"{tick:,.12g}") for tick in axis.ticks]),
        marks=((places[0], f"p50 {ms(median)}"), (places[1], f"p99 {ms(p99)}")),
        sides=_sides(*places),
        version=version,
        logarithmic=logarithmic,
        label=(
            f"{title}: {size}, median {ms(median)}, p99"
            f" {ms(p99)}{f', version {version}' if version else ''}"
        ),
    )


def _readable(ticks: list[tuple[float, str]]) -> tuple[tuple[float, str], ...]:
    """Return the first and the last tick, and those between whose labels overlap no other."""
    kept, last = ticks[:1], ticks[-1]
    for tick in ticks[1:-1]:
        if _apart(kept[-1], tick) and _apart(tick, last):
            kept.append(tick)
    return (*kept, last) if len(ticks) > 1 else tuple(kept)


def _apart(one: tuple[float, str], other: tuple[float, str]) -> bool:
    """Whether the labels of two ticks do not touch. End labels stand inside the axis."""
    half = [
        len(label) * _CHARACTER * (0.0 if place > 0.98 else 1.0 if place < 0.02 else 0.5)
        for place, label in (one, other)
    ]
    left = len(other[1]) * _CHARACTER - half[1]
    return (other[0] - one[0]) * (_RIGHT - _LEFT) >= half[0] + left + _CHARACTER


def _sides(low: float, high: float) -> tuple[tuple[str, int], tuple[str, int]]:
    """Return side and level of the labels of two marks, so that nothing overlaps.

    Labels point away from each other. A label without room outwards stands inwards, on the upper
    level. The line of the other mark begins below it.
    """
    outwards = low >= _LABEL, high <= 1 - _LABEL
    upper = 1 if outwards[0] and not outwards[1] else 0  # the one on the upper level
    return ("left" if outwards[0] else "right", int(upper == 1)), (
        "right" if outwards[1] else "left",
        int(upper == 0),
    )


def histogram_svg(values: Iterable[float | None], title: str = "latency histogram") -> str:
    """Return a histogram of milliseconds as SVG. Its accessible name has count, median and p99."""
    return drawn(histogram(values, title))


def drawn(found: Histogram) -> str:
    """Return a counted histogram, drawn as by :func:`histogram_svg`."""
    body = "".join([*_bars(found.counts), *_ticks(found), *_marks(found)])
    if not found.marks:
        body += (
            f'<text x="{_WIDTH / 2:g}" y="{_HEIGHT / 2:g}" text-anchor="middle" opacity=".6">no'
            " values yet</text>"
        )
    return (
        f'<svg role="img" aria-label="{esc(found.label)}" xmlns="http://www.w3.org/2000/svg"'
        f' viewBox="0 0 {_WIDTH} {_HEIGHT}" width="{_WIDTH}" height="{_HEIGHT}"'
        ' style="max-width:100%;height:auto" fill="currentColor" stroke="none"'
        f' font-family="var(--jp-ui-font-family,sans-serif)" font-size="11">{body}<path d="M{_LEFT}'
        f' {_BOTTOM + 0.5}H{_RIGHT}" stroke="currentColor" stroke-opacity=".4"/></svg>'
    )


@dataclasses.dataclass(frozen=True, slots=True)
class _Axis:
    low: float
    high: float
    ticks: tuple[float, ...]
    logarithmic: bool

    def place(self, value: float) -> float:
        low, high = self.low, self.high
        if self.logarithmic:
            low, high, value = math.log10(low), math.log10(high), math.log10(max(value, low))
        return round(min(max((value - low) / (high - low), 0.0), 1.0), 4)


def _linear_axis(least: float, most: float) -> _Axis:
    """Return an axis with three to six round ticks around the values. A single value is centred."""
    step = _nice((most - least or most / 2 or 1.0) / 4)
    low, high = math.floor(least / step), math.ceil(most / step)
    if low == high:
        low, high = max(low - 1, 0), high + 1
    return _Axis(
        low * step, high * step, tuple(round(i * step, 9) for i in range(low, high + 1)), False
    )


def _log_axis(least: float, most: float) -> _Axis:
    """Return a logarithmic axis with readable ticks.

    Its ends are 1, 2 or 5 times a power of ten.
    """
    steps = [
        mantissa * 10.0**power
        for power in range(
            math.floor(math.log10(max(least, _LEAST_MS))), math.floor(math.log10(most)) + 2
        )
        for mantissa in (1, 2, 5)
    ]
    low = max(s for s in steps if s <= max(least, _LEAST_MS))
    high = min(s for s in steps if s >= most)
    inside = [s for s in steps if low <= s <= high]
    tens = [s for s in inside if math.isclose(math.log10(s), round(math.log10(s)))]
    ticks = inside if len(inside) <= _TICKS else tens[:: -(-len(tens) // _TICKS)]
    return _Axis(low, high, tuple(float(f"{t:.3g}") for t in ticks), True)


def _nice(step: float) -> float:
    """Return the smallest 1, 2 or 5 times a power of ten that is at least *step*."""
    power = 10.0 ** math.floor(math.log10(step))
    return next(m * power for m in (1, 2, 5, 10) if m * power >= step * (1 - 1e-9))


def _x(place: float) -> float:
    return round(_LEFT + place * (_RIGHT - _LEFT), 1)


def _bars(counts: Sequence[int]) -> list[str]:
    most, width = max(counts) or 1, (_RIGHT - _LEFT) / len(counts)
    bars = []
    for i, count in enumerate(counts):
        height = round(max(count / most * (_BOTTOM - _TOP), 1.5), 1) if count else 0
        if height:
            bars.append(
                f'<rect x="{_x(i / len(counts)) + 0.5:g}" y="{_BOTTOM - height:g}"'
                f' width="{width - 1:.1f}" height="{height:g}" fill-opacity=".55"/>'
            )
    return bars


def _ticks(found: Histogram) -> list[str]:
    texts = [
        f'<text x="{_x(at):g}" y="{_BOTTOM + 16}" text-anchor="{_anchor(at)}">{esc(label)}</text>'
        for at, label in found.ticks
    ]
    if texts:
        scale = "ms, logarithmic" if found.logarithmic else "ms"
        texts.append(
            f'<text x="{_RIGHT}" y="{_HEIGHT - 4}" text-anchor="end" opacity=".7"'
            f' font-size="10">{scale}</text>'
        )
    return texts


def _marks(found: Histogram) -> list[str]:
    """Draw the quantiles as lines with their text beside them."""
    drawn = []
    for (at, label), (side, level) in zip(found.marks, found.sides, strict=True):
        x, y = _x(at), 11 + 14 * level
        right = side == "right"
        drawn.append(
            f'<path d="M{x:g} {y - 8}V{_BOTTOM}" stroke="currentColor" stroke-opacity=".8"'
            f' stroke-dasharray="3 2"/><text x="{x + (4 if right else -4):g}" y="{y}"'
            f' text-anchor="{"start" if right else "end"}">{esc(label)}</text>'
        )
    return drawn


def _anchor(place: float) -> str:
    return "start" if place < 0.02 else "end" if place > 0.98 else "middle"
