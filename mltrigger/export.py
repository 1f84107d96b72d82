"""Export: frames as CSV that no spreadsheet takes for formulas."""

from __future__ import annotations

import csv
import numbers
import re
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    import os

    import pandas as pd

# What begins a formula, also in the wide forms that spreadsheets take for the same (https://owasp.org/www-community/attacks/CSV_Injection);
# what ends a row or a cell in one of them, whatever this file's separator is; and what they drop or do not show before a formula.
_SIGNS = "=+@\uff1d\uff0b\uff0d\uff20\ufe66\ufe62\ufe63\ufe6b-"
_ENDS = "\t\n\x0b\x0c\r\x1c-\x1e\x85\u2028\u2029;"
_BLANKS = (
    " \x00-\x08\x0e-\x1b\x1f\x7f-\x84\x86-\xa0\xad\u061c\u115f\u1160\u1680\u180e\u2000-\u200f\u202a-\u202f\u205f-\u206f\u2800\u3000\u3164"
    "\ufe00-\ufe0f\ufeff\uffa0\ufff9-\ufffb\U000e0001-\U000e007f"
)
_FORMULA = re.compile(rf"^(?=[\t\r\n]|[{_BLANKS}]*[{_SIGNS}])|[{_ENDS}](?=[{_BLANKS}]*[{_SIGNS}])")
_ENDS_A_ROW = re.compile("[\x0b\x0c\r\x1c-\x1e\x85\u2028\u2029]")


def to_csv(frame: pd.DataFrame, path: str | os.PathLike[str] | None = None, *, safe: bool = True) -> str | None:
    """Write *frame* as CSV, in UTF-8, without its index.

    Parameters
    ----------
    frame : pandas.DataFrame
        Such as ``sub.invocations()`` or ``run.results()``.
    path : str or path, optional
        Where to; what is there is replaced. Left out, the text is returned.
    safe : bool
        Put an apostrophe before text that a spreadsheet would take for a formula: in cells and headers, at their beginning and after each
        line end, tab and semicolon inside. Numbers stay numbers.

    Returns
    -------
    str or None
        The CSV text when *path* is left out.
    """
    table = defused(frame) if safe else frame
    # Only fields with \n are quoted by themselves. Spreadsheets begin a row after \r as well.
    quoting: Literal[0, 2] = csv.QUOTE_NONNUMERIC if any(map(_ENDS_A_ROW.search, _texts(table))) else csv.QUOTE_MINIMAL
    if path is None:
        return str(table.to_csv(index=False, quoting=quoting))
    table.to_csv(path, index=False, quoting=quoting)
    return None


def defused(frame: pd.DataFrame) -> pd.DataFrame:
    """Return a copy of *frame* in which no text is a formula: neither in cells nor in names of columns, nor in the index."""
    table = frame.copy(deep=False)
    for place in _with_text(frame):
        table.isetitem(place, frame.iloc[:, place].astype(object).map(_cell).to_numpy())
    table.columns, table.index = _labels(table.columns), _labels(table.index)
    return table


def _with_text(frame: pd.DataFrame) -> list[int]:
    """Return the places of columns that may hold text: neither numbers nor truth values nor times."""
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
    return safe.map(lambda label: tuple(map(_cell, label)) if isinstance(label, tuple) else _cell(label))


def _cell(value: Any) -> Any:
    if value is None or isinstance(value, numbers.Number):
        return value
    text = str(value)
    safe = _FORMULA.sub(r"\g<0>'", text)
    return value if safe == text else safe
