"""Files for spreadsheets and others: no text of an event is a formula, whatever ends a line inside
it and whatever stands before.
"""

from __future__ import annotations

import csv
import datetime
import importlib.util
import io
import re
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

import mltrigger as mt
from mltrigger.reports.export import defused

FORMULA = re.compile(r"[\s\0-\x1f\x7f-\xa0\u200b-\u200f\u2060\ufeff]*[=+\-@＝＋－＠]")
TEXTS = [
    *(
        "=1",
        "+1",
        "-1",
        "@SUM(A1)",
        "＝1",
        "＋1",
        "－1",
        "＠SUM(A1)",
        "﹦1",
        "\t=1",
        "\r=1",
        "\n=1",
    ),
    *(
        " =1",
        "\xa0=1",
        "\u3000 =1",
        "\ufeff=1",
        "\u200b=1",
        "\u202e=1",
        "\x00=1",
        "\xa0\ufeff\t＝1",
    ),
    *(
        "paid\r@SUM(A1:A9)",
        "thanks\r\n+2+3",
        "a\nb\r=1",
        "a\n\n=1",
        "a\r\r \xa0=1",
        "a\x0b=1",
        "a\x0c=1",
        "a\x85=1",
        "a\u2028=1",
        "a;=1",
        "a\t=1",
    ),
]
HARMLESS = [
    "paid",
    "a = b",
    "1-2",
    "[1,-2]",
    '{"n": -1}',
    "x;y",
    "'=1",
    "line\nline",
    "ｘ＝1",
    "–5",
    "",
]


def read_as_a_spreadsheet_does(text: str) -> list[list[str]]:
    """Return the cells: \\r, \\n and \\r\\n end a row outside quotes, inside them they stay one
    line end.
    """
    return list(csv.reader(io.StringIO(text, newline=None)))


def lines(cell: str) -> list[str]:
    return re.split(r"[\t;]", "\n".join(cell.splitlines()).replace("\n", "\t"))


@pytest.mark.parametrize("text", TEXTS, ids=ascii)
@pytest.mark.parametrize("where", ["cell", "column", "answer"])
def test_no_text_of_an_event_begins_a_cell_or_a_line_as_a_formula(text: str, where: str) -> None:
    if where == "answer":
        with mt.connect("memory://") as bus:
            bus.subscribe(
                "notes",
                mt.model(lambda note: {"text": note, "n": -1}, name="echo", version="1.0.0"),
            )
            frame = bus.fire("notes", [text, "plain"], progress=False).results()[["text", "n"]]
    else:
        frame = pd.DataFrame(
            {"text": [text, "plain"], "n": [-1, -1]}
            if where == "cell"
            else {text: ["a", "plain"], "n": [-1, -1]}
        )

    written = mt.to_csv(frame)

    assert written is not None
    rows = read_as_a_spreadsheet_does(written)
    assert len(rows) == 3
    assert [row[1] for row in rows] == ["n", "-1", "-1"]
    assert [line for row in rows for line in lines(row[0]) if FORMULA.match(line)] == []


@pytest.mark.parametrize("text", HARMLESS, ids=ascii)
def test_text_that_is_no_formula_is_written_as_it_is(text: str) -> None:
    written = mt.to_csv(pd.DataFrame({"text": [text], "n": [1]}))

    assert written is not None
    assert list(csv.reader(io.StringIO(written, newline=""))) == [["text", "n"], [text, "1"]]


def test_a_carriage_return_ends_no_row_with_or_without_the_guard(tmp_path: Path) -> None:
    frame = pd.DataFrame({"text": ["a\rb", None], "n": [1.5, None]})

    for safe in (True, False):
        mt.to_csv(frame, tmp_path / "out.csv", safe=safe)
        with (tmp_path / "out.csv").open(newline="") as file:
            assert list(csv.reader(file)) == [["text", "n"], ["a\rb", "1.5"], ["", ""]]


def test_the_guard_leaves_the_frame_and_what_is_no_text_alone() -> None:
    values: list[Any] = [-1, -1.5, None, True, ["=1"], {"a": "=1"}, b"=1"]
    frame = pd.DataFrame({"=a": values, "n": range(7)}, index=["=i"] * 7)
    frame.index.name, frame.columns.name = "=x", "=y"

    safe = defused(frame)

    assert safe.columns.tolist() == ["'=a", "n"]
    assert safe["'=a"].tolist() == values
    assert (safe.index.tolist(), safe.index.name, safe.columns.name) == (["'=i"] * 7, "'=x", "'=y")
    assert (frame.columns.tolist(), frame.index.name) == (["=a", "n"], "=x")


def test_names_of_several_levels_are_guarded_level_by_level() -> None:
    columns = pd.MultiIndex.from_tuples([("=a", "b"), ("c", "@d")], names=["=n", None])

    safe = defused(pd.DataFrame([[1, 2]], columns=columns))

    assert safe.columns.tolist() == [("'=a", "b"), ("c", "'@d")]
    assert list(safe.columns.names) == ["'=n", None]


# -- Excel and Feather -----------------------------------------------------------------------------


def mixed() -> pd.DataFrame:
    """Return a frame with every kind of column that frames of a bus have."""
    at = pd.Timestamp("2026-11-23 05:41:50.342", tz="UTC")
    return pd.DataFrame(
        {
            "output": pd.Series([1, "two", {"three": [3, None]}], dtype=object),
            "at": pd.Series([at, at, None], dtype="datetime64[us, UTC]"),
            "local": pd.Series(
                [at.tz_convert("Asia/Tokyo"), at.tz_localize(None), None], dtype=object
            ),
            "naive": pd.to_datetime(["2026-11-23 05:41:50", None, None]),
            "n": pd.array([2**62 + 1, None, -7], dtype="Int64"),
            "outcome": pd.Categorical(["succeeded", "dead", None]),
            "raw": pd.Series([b"\x89PNG", b"", None], dtype=object),
            "text": ["=1+1", "bell\x07 and \x1b[2J", "x" * 40_000],
            "ms": [1.5, float("nan"), float("inf")],
        }
    )


def in_excel(path: Path) -> dict[str, list[Any]]:
    """Return the columns of a workbook's only sheet."""
    import openpyxl

    head, *rows = openpyxl.load_workbook(path).active.iter_rows(values_only=True)
    return {name: [row[i] for row in rows] for i, name in enumerate(head)}


@pytest.mark.needs("openpyxl")
def test_a_workbook_has_times_in_utc_exact_numbers_and_no_formula(tmp_path: Path) -> None:
    mt.to_excel(mixed(), tmp_path / "out.xlsx")

    found, at = in_excel(tmp_path / "out.xlsx"), datetime.datetime(2026, 11, 23, 5, 41, 50, 342_000)
    assert found["at"] == [at, at, None]
    assert found["local"] == [at, at, None]
    assert found["naive"] == [at.replace(microsecond=0), None, None]
    assert found["n"] == [str(2**62 + 1), None, -7]
    assert found["outcome"] == ["succeeded", "dead", None]
    assert found["output"] == [1, "two", "{'three': [3, None]}"]
    assert found["text"][:2] == ["'=1+1", "bell\\x07 and \\x1b[2J"]
    assert found["text"][2].endswith("x… (40,000 characters)")
    assert found["ms"] == [1.5, None, "inf"]


@pytest.mark.needs("openpyxl")
def test_every_frame_of_a_bus_becomes_a_workbook(tmp_path: Path) -> None:
    def model(page: Any) -> Any:
        return {"page": page, "at": [1, 2]} if page else 1 / page

    with mt.connect("memory://") as bus:
        sub = bus.subscribe("pages", model, max_attempts=1)
        run = bus.fire("pages", [1, 0, "two"], progress=False)
        tables = [
            *(
                run.results(),
                run.invocations(),
                sub.invocations(),
                sub.results(),
                sub.latency(),
                sub.dead_letters(),
                sub.skipped(),
            ),
            *(
                bus.events(),
                bus.models(),
                bus.subscriptions(),
                bus.topics(),
                bus.audit(),
                bus.doctor(),
                sub.dry_run(),
            ),
            *(
                bus.trace(run.receipts[0].event_id),
                bus.explain(run.receipts[1].event_id, sub.name),
                bus.plan("pages"),
            ),
        ]
    for n, table in enumerate(tables):
        mt.to_excel(table, tmp_path / f"{n}.xlsx")
        assert list(in_excel(tmp_path / f"{n}.xlsx")) == [str(name) for name in table.columns]


def test_excel_without_its_library_says_how_to_get_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda _: None)

    with pytest.raises(ImportError, match=r"to_excel needs openpyxl: .*\[excel\]"):
        mt.to_excel(pd.DataFrame({"a": [1]}), tmp_path / "out.xlsx")


@pytest.mark.needs("pyarrow")
@pytest.mark.needs("pyarrow")
def test_outputs_of_several_kinds_become_json_text_in_feather(tmp_path: Path) -> None:
    frame = mixed().drop(columns="local")

    mt.to_feather(frame, tmp_path / "out.feather")

    found = pd.read_feather(tmp_path / "out.feather")
    assert found["output"].tolist() == ["1", '"two"', '{"three":[3,null]}']
    assert found["at"].equals(frame["at"])
    assert found["n"].tolist()[::2] == [2**62 + 1, -7]
    assert found["raw"].tolist() == [b"\x89PNG", b"", None]
