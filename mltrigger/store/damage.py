"""Damaged rows: each unreadable row is one clear error that names it."""

from __future__ import annotations

from typing import Any

from mltrigger.errors import MltriggerError, StoreError
from mltrigger.text import short

ERRORS = (
    MltriggerError,
    ValueError,
    TypeError,
    LookupError,
    AttributeError,
    RecursionError,
    OverflowError,
)
"""The exceptions of reading a damaged row."""


REPAIR = "open a backup instead, or repair or delete that row"
"""The advice for a damaged row."""


def texts(*values: Any) -> None:
    """Raise TypeError unless all *values* are text or missing.

    SQLite keeps anything in any column.
    """
    for value in values:
        if value is not None and not isinstance(value, str):
            raise TypeError(f"text expected, got {value!r:.60}")


def numbers(*values: Any) -> None:
    """Raise TypeError unless all *values* are whole numbers."""
    for value in values:
        if not isinstance(value, int):
            raise TypeError(f"a whole number expected, got {value!r:.60}")


def damaged(table: str, row: object, error: BaseException) -> StoreError:
    """Return the error about an unreadable *row* of *table*, or *error* if it is one already."""
    if isinstance(error, StoreError):
        return error
    said = f"{type(error).__name__}: {short(str(error))}"
    return StoreError(
        f"the store is damaged: row {row} of its table {table} cannot be read ({said}); {REPAIR}"
    )
