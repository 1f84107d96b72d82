"""Damaged rows: what a store holds and cannot be read is one clear error that names the row."""

from __future__ import annotations

from mltrigger.errors import MltriggerError, StoreError
from mltrigger.render import short

ERRORS = (MltriggerError, ValueError, TypeError, LookupError, AttributeError, RecursionError, OverflowError)
"""What reading a damaged row may raise."""


def damaged(table: str, row: object, error: BaseException) -> StoreError:
    """Return the error about a *row* of *table* that cannot be read; itself, if *error* is one already."""
    if isinstance(error, StoreError):
        return error
    return StoreError(
        f"the store is damaged: row {row} of its table {table} cannot be read ({type(error).__name__}: {short(str(error))}); "
        "open a backup instead, or repair or delete that row"
    )
