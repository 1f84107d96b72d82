"""Export: frames as CSV that no spreadsheet takes for formulas."""

from __future__ import annotations

import numbers
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import os

    import pandas as pd

_FORMULA = ("=", "+", "-", "@", "\t", "\r")
"""What a spreadsheet takes for the beginning of a formula (https://owasp.org/www-community/attacks/CSV_Injection)."""


def to_csv(frame: pd.DataFrame, path: str | os.PathLike[str] | None = None, *, safe: bool = True) -> str | None:
    """Write *frame* as CSV, in UTF-8, without its index.

    Parameters
    ----------
    frame : pandas.DataFrame
        Such as ``sub.invocations()`` or ``run.results()``.
    path : str or path, optional
        Where to; what is there is replaced. Left out, the text is returned.
    safe : bool
        Whether text and headers that a spreadsheet would take for a formula get an apostrophe before them. Numbers stay numbers.

    Returns
    -------
    str or None
        The CSV text when *path* is left out.
    """
    table = _defused(frame) if safe else frame
    if path is None:
        return str(table.to_csv(index=False))
    table.to_csv(path, index=False)
    return None


def _defused(frame: pd.DataFrame) -> pd.DataFrame:
    table = frame.copy(deep=False)
    for place, dtype in enumerate(frame.dtypes):
        if dtype.kind not in "biufcmM":  # whatever is neither number, truth value nor time may hold text
            table.isetitem(place, frame.iloc[:, place].astype(object).map(_cell).to_numpy())
    table.columns = table.columns.map(_cell)
    return table


def _cell(value: Any) -> Any:
    if value is None or isinstance(value, numbers.Number):
        return value
    text = str(value)
    return f"'{text}" if text.startswith(_FORMULA) else value
