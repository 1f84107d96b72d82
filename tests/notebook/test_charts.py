"""The charts: numbers in, accessible SVG out."""

from __future__ import annotations

import itertools
import math
import xml.etree.ElementTree as ET

import pandas as pd
import pytest

from mltrigger.notebook.charts import BINS, histogram, histogram_svg, ms, quantile

SVG = "{http://www.w3.org/2000/svg}"


def test_svg_has_a_role_and_a_name_with_count_median_and_p99():
    svg = ET.fromstring(histogram_svg([1.0, 2.0, 3.0], "latency"))
    assert svg.get("role") == "img"
    assert svg.get("aria-label") == "latency: 3 values, median 2.00 ms, p99 2.98 ms"


def test_svg_takes_the_colour_of_the_page():
    text = histogram_svg([1.0, 2.0, 300.0])
    assert 'fill="currentColor"' in text
    assert "#" not in text


def test_title_is_escaped():
    text = histogram_svg([1.0], "<img src=x onerror=alert(1)>\"'")
    assert "<img" not in text
    assert ET.fromstring(text).get("aria-label").startswith("<img src=x onerror=alert(1)>\"'")


@pytest.mark.parametrize("values", [[], [None], [math.nan, math.inf]])
def test_no_value_is_said_in_words(values):
    svg = ET.fromstring(histogram_svg(values))
    assert svg.get("aria-label").endswith("no values yet")
    assert not svg.findall(f"{SVG}rect")
    assert [t.text for t in svg.findall(f"{SVG}text")] == ["no values yet"]


@pytest.mark.parametrize("value", [0.0, 0.004, 3.2, 1.0, 999.0, 1e7])
def test_one_value_stands_inside_its_axis(value):
    found = histogram([value])
    assert sum(found.counts) == 1
    assert 0 <= found.marks[0][0] <= 1
    assert len(found.ticks) >= 2
    assert found.label.startswith("latency histogram: 1 value, ")


def test_values_that_are_all_equal_share_one_bin():
    assert sorted(histogram([5.0] * 40).counts)[-2:] == [0, 40]


@pytest.mark.parametrize(
    "values",
    [
        [1, 2, 3],
        [0, 0, 900],
        [0.002, 0.5, 12_000],
        list(range(1, 1000)),
        [1e-9, 1e9],
        [0.3, 1.1],
        [-1.0, 2.0],
        [17.0, 17.5, 529.9],
    ],
)
def test_every_value_is_counted_and_every_place_is_on_the_axis(values):
    found = histogram(values)
    assert len(found.counts) == BINS
    assert sum(found.counts) == len(values)
    places = [place for place, _ in (*found.ticks, *found.marks)]
    assert all(0 <= place <= 1 for place in places)
    assert 2 <= len(found.ticks) <= 10
    assert [p for p, _ in found.ticks] == sorted(p for p, _ in found.ticks)
    assert len({label for _, label in found.ticks}) == len(found.ticks)


def test_a_wide_range_is_drawn_on_a_logarithmic_axis_and_a_narrow_one_is_not():
    assert histogram([1.0, 10.0, 1000.0]).logarithmic
    assert not histogram([10.0, 11.0, 40.0]).logarithmic
    wide = histogram([1.0] * 10 + [1000.0])
    assert [label for _, label in wide.ticks] == ["1", "10", "100", "1,000"]
    assert wide.counts[0] == 10
    assert wide.counts[-1] == 1


def test_ticks_are_round_and_cover_the_values():
    found = histogram([3.1, 4.7, 9.2])
    labels = [float(label) for _, label in found.ticks]
    assert labels[0] <= 3.1
    assert labels[-1] >= 9.2
    assert found.ticks[0][0] == 0.0
    assert found.ticks[-1][0] == 1.0


def test_bars_stay_inside_the_picture():
    svg = ET.fromstring(histogram_svg([0.5, 1.0, 1.1, 60.0]))
    width, height = (float(v) for v in svg.get("viewBox").split()[2:])
    for bar in svg.findall(f"{SVG}rect"):
        assert 0 <= float(bar.get("x")) <= width - float(bar.get("width")) + 0.2
        assert 0 <= float(bar.get("y")) <= height - float(bar.get("height"))


@pytest.mark.parametrize("q", [0.0, 0.5, 0.95, 0.99, 1.0])
@pytest.mark.parametrize("values", [[4.0], [1.0, 2.0], [0.5, 9.0, 3.0, 3.0, 120.0]])
def test_quantile_is_that_of_pandas(values, q):
    assert quantile(sorted(values), q) == pytest.approx(pd.Series(values).quantile(q))


def test_durations_have_one_format():
    assert ms(12.3456) == "12.35 ms"


def boxes(svg):
    """Return left, right and level of the labels of both marks, and where their lines stand and
    begin.
    """
    lines = [
        path.get("d").removeprefix("M").partition("V")[0].split()
        for path in svg.findall(f"{SVG}path")[:2]
    ]
    texts = [t for t in svg.findall(f"{SVG}text") if (t.text or "").startswith("p")]
    found = []
    for text, (x, top) in zip(texts, lines, strict=True):
        width, at = 6.5 * len(text.text), float(text.get("x"))
        left = at if text.get("text-anchor") == "start" else at - width
        found.append((left, left + width, float(text.get("y")), float(x), float(top)))
    return found


@pytest.mark.parametrize(
    "values",
    [
        [1.0] * 50 + [1.1],
        [1.0, *[1.1] * 50],
        [5.0] * 9,
        [1.0] * 50 + [1000.0],
        [0.01, *[900.0] * 50],
        [500.0, *[520.0] * 9, 540.0],
        [123456.0, 1234567.0, 12345678.0],
        [0.001] * 3 + [1e7],
        list(range(1, 100)),
        [96.0, 97.0, 98.0, 99.0, 100.0, 1.0],
    ],
)
def test_labels_of_the_quantiles_cover_neither_each_other_nor_a_line(values):
    (left, right, y, x, top), (left2, right2, y2, x2, top2) = boxes(
        ET.fromstring(histogram_svg(values))
    )
    assert y != y2 or right <= left2 or right2 <= left
    # the line of the other begins below the label, or stands beside it
    assert not (left < x2 < right and top2 < y)
    assert not (left2 < x < right2 and top < y2)
    assert min(left, left2) >= -1
    assert max(right, right2) <= 441


@pytest.mark.parametrize(
    "values",
    [
        [0.001, 1e9],
        [1e6, 9e6],
        [123456.0, 123457.0],
        [0.0011, 0.0012],
        [1.0, 1e5],
        [999_999.0, 1_000_001.0],
    ],
)
def test_labels_of_the_axis_do_not_touch(values):
    places = histogram(values).ticks
    ends = []
    for place, label in places:
        width, at = 6.5 * len(label), 436 * place
        left = at if place < 0.02 else at - width if place > 0.98 else at - width / 2
        ends.append((left, left + width))
    assert all(before[1] < after[0] for before, after in itertools.pairwise(ends))
    assert len(places) >= 2
