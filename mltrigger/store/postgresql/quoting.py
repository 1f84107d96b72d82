"""Names and texts inside of SQL that other programs run, where nothing can be bound."""

from __future__ import annotations

from mltrigger.errors import InvalidName
from mltrigger.text import short

MAX_IDENTIFIER = 63
"""Bytes of a name in PostgreSQL. It cuts longer ones off, so they are refused here."""


def identifier(name: str) -> str:
    """Return *name* as a quoted identifier.

    Raises
    ------
    InvalidName
        If it is empty, longer than PostgreSQL takes, or has a character 0.
    """
    if not name or "\0" in name or len(name.encode()) > MAX_IDENTIFIER:
        raise InvalidName(
            f"name {short(name)} cannot be one in PostgreSQL: 1 to {MAX_IDENTIFIER} bytes, no NUL"
        )
    return '"' + name.replace('"', '""') + '"'


def literal(text: str) -> str:
    """Return *text* as a string of standard SQL.

    Raises
    ------
    InvalidName
        If it has a character 0, which PostgreSQL cannot have.
    """
    if "\0" in text:
        raise InvalidName(f"text {short(text)} cannot be one in PostgreSQL: it has a NUL")
    return "'" + text.replace("'", "''") + "'"
