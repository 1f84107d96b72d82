"""Frames on the terminal, as JSON with one object a row, or as CSV.

Text of events and models moves no cursor: control characters are shown by their numbers.
"""

from __future__ import annotations

import base64
import contextlib
import datetime
import errno
import json
import math
import numbers
import os
import re
import shutil
import sys
import unicodedata
from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from mltrigger.text import visible

if TYPE_CHECKING:
    import pandas as pd

FORMS = ("table", "json", "csv")
_UNSEEN = re.compile("[\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ufeff]")
_GAP, _LEAST, _MORE = "  ", 8, "…"
_MEASURES = ("_ms", "_s")
FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO)
"""Errors of an output that takes no more."""


def add_output(added: Any) -> None:
    """Add ``-o``."""
    added.add_argument(
        "-o",
        "--output",
        dest="form",
        choices=FORMS,
        default="table",
        help="a table for people, JSON with one object a line, or CSV (default: table)",
    )


def silence() -> None:
    """Drop all further output: its reader has seen enough."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def show(table: pd.DataFrame, form: str, columns: Sequence[str] | None = None) -> None:
    """Print the rows of *table*. Only a table for people leaves out columns not in *columns*."""
    if form == "csv":
        write(csv_text(table).removesuffix("\n").split("\n"), form)
    elif form == "json":
        write(json_lines(table), form)
    else:
        chosen = [name for name in columns or table.columns if name in table.columns]
        write(table_lines(table[chosen], width()), form)


def write(lines: Iterable[str], form: str) -> None:
    """Print *lines*. JSON and CSV are UTF-8, whatever the locale says.

    A reader who has gone does not change the exit status of the command.
    """
    if form != "table":
        with contextlib.suppress(AttributeError):  # not a file: a test looks at it
            sys.stdout.reconfigure(encoding="utf-8")  # type: ignore[union-attr]
    try:
        for line in lines:
            print(line)
        sys.stdout.flush()
    except BrokenPipeError:
        silence()


def show_row(form: str, **values: Any) -> None:
    """Print one row."""
    import pandas as pd

    show(
        pd.DataFrame({name: pd.Series([value], dtype=object) for name, value in values.items()}),
        form,
    )


def csv_text(table: pd.DataFrame, header: bool = True) -> str:
    """Return *table* as pandas writes it to CSV, with times as in JSON."""
    text: str = _plain(table).to_csv(index=False, header=header, lineterminator="\n")
    return text


def valued(table: pd.DataFrame) -> pd.DataFrame:
    """Return *table* with the values of its outputs in place of their JSON."""
    import pandas as pd

    values = pd.Series([_loaded(text) for text in table["output"]], table.index, dtype=object)
    return table.assign(output=values)


def _loaded(text: Any) -> Any:
    try:
        return json.loads(text) if isinstance(text, str) else None
    except ValueError:
        return text


def width() -> int | None:
    """Return the columns of the terminal, ``None`` without a terminal."""
    return shutil.get_terminal_size().columns if sys.stdout.isatty() else None


def json_lines(table: pd.DataFrame) -> Iterator[str]:
    """Yield one JSON object for each row. Times are ISO texts, missing values are null."""
    names = list(map(str, table.columns))
    for row in table.itertuples(index=False, name=None):
        yield json_line(dict(zip(names, map(plain, row), strict=True)))


def json_line(value: Any) -> str:
    """Return *value* as JSON on one line. Signs that move a cursor are escaped."""
    text = json.dumps(value, ensure_ascii=False, allow_nan=False)
    return _UNSEEN.sub(lambda found: f"\\u{ord(found[0]):04x}", text)


def plain(value: Any) -> Any:
    """Return a value of a frame as JSON has it. Bytes are base64."""
    if isinstance(value, dict):
        return {str(key): plain(inner) for key, inner in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(inner) for inner in value]
    if isinstance(value, bytes):
        return base64.b64encode(value).decode()
    if value is None or isinstance(value, (str, bool)):
        return value
    if _is_missing(value):
        return None
    if isinstance(value, datetime.datetime):
        return value.isoformat(timespec="microseconds").replace("+00:00", "Z")
    if isinstance(value, numbers.Integral):
        return int(value)
    if isinstance(value, numbers.Real):
        return float(value) if math.isfinite(value) else None
    own = getattr(value, "item", None)
    return plain(own()) if own is not None else str(value)


def _is_missing(value: Any) -> bool:
    import pandas as pd

    return value is pd.NA or value is pd.NaT or (isinstance(value, float) and math.isnan(value))


def _plain(table: pd.DataFrame) -> pd.DataFrame:
    """Return *table* with values that CSV can have, without line ends that move a cursor."""
    import pandas as pd

    made = pd.DataFrame(table).copy()
    for name in made.columns:
        if made[name].dtype.kind in "OMf" or str(made[name].dtype) in ("str", "string"):
            cells = [_cell_of_csv(value) for value in made[name]]
            made[name] = pd.Series(cells, made.index, dtype=object)  # a missing one makes no floats
    return made


def _cell_of_csv(value: Any) -> Any:
    value = plain(value)
    if isinstance(value, (dict, list)):
        value = json.dumps(value, ensure_ascii=False)
    if isinstance(value, str):
        value = "\n".join(visible(line) for line in value.split("\n"))
    return value


# -- tables ----------------------------------------------------------------------------------------


class _Column(NamedTuple):
    """The texts of a column, its title first. Only texts may be cut."""

    cells: list[str]
    is_text: bool

    @property
    def width(self) -> int:
        return max(map(wide, self.cells))


def table_lines(table: pd.DataFrame, most: int | None) -> Iterator[str]:
    """Yield the lines of a table. With *most* columns texts are cut to fit, and numbers never."""
    columns = [_column(str(name), table[name]) for name in table.columns]
    widths = [column.width for column in columns]
    if most is not None:
        widths = _fitted(columns, widths, most - len(_GAP) * (len(columns) - 1))
    for cells in zip(*(column.cells for column in columns), strict=True):
        parts = [
            _padded(cut(cell, n) if column.is_text else cell, n, not column.is_text)
            for cell, n, column in zip(cells, widths, columns, strict=True)
        ]
        yield _GAP.join(parts).rstrip()
    if not len(table):
        yield "(nothing)"


def _column(name: str, values: Iterable[Any]) -> _Column:
    found = [plain(value) for value in values]
    there = [value for value in found if value is not None]
    is_number = bool(there) and all(isinstance(v, (int, float)) for v in there)
    is_time = name.endswith("_at") or name in ("since", "until")
    cells = [cell(name, value) for value in found]
    return _Column([name, *cells], not (is_number or is_time))


def cell(name: str, value: Any) -> str:
    """Return a value as one line of a table. Milliseconds and seconds have three decimals."""
    if value is None:
        return "–"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float) and name.endswith(_MEASURES):
        return f"{value:.3f}"
    if isinstance(value, (int, float)):
        return repr(value)
    if isinstance(value, (dict, list)):
        value = json.dumps(value, ensure_ascii=False)
    return visible(" ".join(str(value).split()))


def _fitted(columns: Sequence[_Column], widths: list[int], most: int) -> list[int]:
    """Return widths that fit: the widest texts get narrower first."""
    widths = list(widths)
    while sum(widths) > most:
        texts = [n for n, c in enumerate(columns) if c.is_text and widths[n] > _LEAST]
        if not texts:
            break
        widest = max(texts, key=lambda n: widths[n])
        others = [widths[n] for n in texts if widths[n] < widths[widest]]
        least = max([_LEAST, *others])
        widths[widest] = max(
            least if least < widths[widest] else _LEAST, widths[widest] - (sum(widths) - most)
        )
        if len([n for n in texts if widths[n] == widths[widest]]) > 1 and sum(widths) > most:
            widths[widest] = max(_LEAST, widths[widest] - 1)
    return widths


def wide(text: str) -> int:
    """Return how many columns of a terminal *text* takes."""
    if text.isascii():
        return len(text)
    return sum(map(_wide, text))


def _wide(sign: str) -> int:
    if unicodedata.combining(sign):
        return 0
    return 2 if unicodedata.east_asian_width(sign) in "WF" else 1


def cut(text: str, most: int) -> str:
    """Return *text*, cut to *most* columns with a sign for the rest."""
    if wide(text) <= most:
        return text
    taken, left = "", most - 1
    for sign in text:
        if (left := left - _wide(sign)) < 0:
            break
        taken += sign
    return taken + _MORE


def _padded(text: str, n: int, right: bool) -> str:
    space = " " * (n - wide(text))
    return space + text if right else text + space
