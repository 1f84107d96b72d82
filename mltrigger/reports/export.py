"""Export: frames as files. No spreadsheet takes text of an event for a formula."""

from __future__ import annotations

import csv
import datetime
import importlib.util
import math
import numbers
import re
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any, Literal

from mltrigger.errors import how_to_install
from mltrigger.event.codec import dumps

if TYPE_CHECKING:
    import os

    import pandas as pd

# Signs that begin a formula, also in their wide forms; characters that end a row or a cell in some
# spreadsheet; blanks that spreadsheets drop or do not show before a formula
# (https://owasp.org/www-community/attacks/CSV_Injection).
_SIGNS = "=+@\uff1d\uff0b\uff0d\uff20\ufe66\ufe62\ufe63\ufe6b-"
_ENDS = "\t\n\x0b\x0c\r\x1c-\x1e\x85\u2028\u2029;"
_BLANKS = (
    " \x00-\x08\x0e-\x1b\x1f\x7f-\x84\x86-\xa0\xad\u061c\u115f\u1160\u1680\u180e\u2000-\u200f"
    "\u202a-\u202f\u205f-\u206f\u2800\u3000\u3164"
    "\ufe00-\ufe0f\ufeff\uffa0\ufff9-\ufffb\U000e0001-\U000e007f"
)
_FORMULA = re.compile(rf"^(?=[\t\r\n]|[{_BLANKS}]*[{_SIGNS}])|[{_ENDS}](?=[{_BLANKS}]*[{_SIGNS}])")
_ENDS_A_ROW = re.compile("[\x0b\x0c\r\x1c-\x1e\x85\u2028\u2029]")
_EXCEL_CELL = 32_767
_EXCEL_EXACT = 10**15
_EXCEL_BEGINS = 1900
_NO_XML = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\ud800-\udfff\ufffe\uffff]")
"""Characters that XML, and so a workbook, cannot hold."""


def to_csv(
    frame: pd.DataFrame, path: str | os.PathLike[str] | None = None, *, safe: bool = True
) -> str | None:
    """Write *frame* as CSV, in UTF-8, without its index.

    Parameters
    ----------
    frame : pandas.DataFrame
        Such as ``sub.invocations()`` or ``run.results()``.
    path : str or path, optional
        The file to write or replace. Without it the text is returned.
    safe : bool
        Put an apostrophe before text that a spreadsheet would take for a formula. That is done in
        cells and headers, at the beginning and after each line end, tab and semicolon. Numbers stay
        numbers.

    Returns
    -------
    str or None
        The CSV text when *path* is left out.
    """
    table = defused(frame) if safe else frame
    # Only fields with \n are quoted by themselves. Spreadsheets begin a row after \r as well.
    quoting: Literal[0, 2] = (
        csv.QUOTE_NONNUMERIC if any(map(_ENDS_A_ROW.search, _texts(table))) else csv.QUOTE_MINIMAL
    )
    if path is None:
        return str(table.to_csv(index=False, quoting=quoting))
    table.to_csv(path, index=False, quoting=quoting)
    return None


def to_excel(frame: pd.DataFrame, path: str | os.PathLike[str], *, safe: bool = True) -> None:
    """Write *frame* as an Excel workbook with one sheet, without its index.

    This needs the extra ``excel``. Excel knows no time zones: times are written in UTC. Whole
    numbers beyond its 15 digits become text, so that they stay exact. A text that is too long for a
    cell is cut, and says so.

    Parameters
    ----------
    frame : pandas.DataFrame
        Such as ``sub.invocations()`` or ``run.results()``.
    path : str or path
        The file to write or replace, usually ``….xlsx``.
    safe : bool
        As for :func:`to_csv`.
    """
    if importlib.util.find_spec("openpyxl") is None:
        raise ImportError(f"to_excel needs openpyxl: {how_to_install('excel')}")
    import pandas as pd

    table = _mapped(defused(frame) if safe else frame, _excel_value)
    table.columns = pd.Index([_excel_value(_label(name)) for name in table.columns], dtype=object)
    with pd.ExcelWriter(
        path, engine="openpyxl", datetime_format="yyyy-mm-dd hh:mm:ss.000"
    ) as writer:
        table.to_excel(writer, index=False)


def to_feather(frame: pd.DataFrame, path: str | os.PathLike[str]) -> None:
    """Write *frame* as a Feather file (Arrow) without its index. This needs pyarrow.

    Arrow has no type for a column of mixed outputs. It is written as JSON text.
    """
    import pandas as pd

    def json_text(value: Any) -> Any:
        missing = (
            value is None or value is pd.NA or (isinstance(value, float) and math.isnan(value))
        )
        return None if missing else dumps(value)

    table = frame.reset_index(drop=True)
    for place, dtype in enumerate(frame.dtypes):
        if dtype.kind == "O" and not _is_uniform(table.iloc[:, place]):
            table.isetitem(
                place, pd.array([json_text(value) for value in table.iloc[:, place]], dtype="str")
            )
    table.columns = table.columns.map(_label)
    table.to_feather(path)


def _is_uniform(column: pd.Series[Any]) -> bool:
    """Whether Arrow has a type for a column of objects."""
    kinds = {type(value) for value in column if value is not None}
    return (
        kinds <= {bytes} or kinds <= {str} or kinds <= {bool} or kinds <= {int} or kinds <= {float}
    )


def _label(name: Any) -> str:
    return " ".join(map(str, name)) if isinstance(name, tuple) else str(name)


def _mapped(frame: pd.DataFrame, change: Callable[[Any], Any]) -> pd.DataFrame:
    """Return a copy of *frame* with *change* applied to each value that is not a small number."""
    table = frame.copy(deep=False)
    for place, dtype in enumerate(frame.dtypes):
        if dtype.kind not in "bf":
            table.isetitem(place, frame.iloc[:, place].astype(object).map(change).to_numpy())
    return table


def _excel_value(value: Any) -> Any:
    """Return *value* as Excel can keep it."""
    if type(value).__name__ in ("NaTType", "NAType"):
        return None
    if isinstance(value, datetime.datetime):
        if value.tzinfo is not None:
            value = value.astimezone(datetime.UTC).replace(tzinfo=None)
        return value if value.year >= _EXCEL_BEGINS else str(value)
    if isinstance(value, numbers.Integral) and abs(int(value)) >= _EXCEL_EXACT:
        return str(value)
    if value is None or isinstance(
        value, (numbers.Number, datetime.date, datetime.time, datetime.timedelta)
    ):
        return value
    text = _NO_XML.sub(lambda found: ascii(found[0])[1:-1], str(value))
    if len(text) <= _EXCEL_CELL:
        return text
    note = f"… ({len(text):,} characters)"
    return text[: _EXCEL_CELL - len(note)] + note


def defused(frame: pd.DataFrame) -> pd.DataFrame:
    """Return a copy of *frame* without formulas in cells, column names and the index."""
    table = frame.copy(deep=False)
    for place in _with_text(frame):
        table.isetitem(place, frame.iloc[:, place].astype(object).map(_cell).to_numpy())
    table.columns, table.index = _labels(table.columns), _labels(table.index)
    return table


def _with_text(frame: pd.DataFrame) -> list[int]:
    """Return the places of columns that may hold text."""
    return [place for place, dtype in enumerate(frame.dtypes) if dtype.kind not in "biufcmM"]


def _texts(frame: pd.DataFrame) -> Iterator[str]:
    for label in frame.columns:
        yield str(label)
    for place in _with_text(frame):
        for value in frame.iloc[:, place]:
            if not isinstance(value, numbers.Number):
                yield str(value)


def _labels(index: pd.Index[Any]) -> pd.Index[Any]:
    safe = index.set_names([_cell(name) for name in index.names])
    if index.dtype.kind in "biufcmM":
        return safe
    return safe.map(
        lambda label: tuple(map(_cell, label)) if isinstance(label, tuple) else _cell(label)
    )


def _cell(value: Any) -> Any:
    if value is None or isinstance(value, numbers.Number):
        return value
    text = str(value)
    safe = _FORMULA.sub(r"\g<0>'", text)
    return value if safe == text else safe
