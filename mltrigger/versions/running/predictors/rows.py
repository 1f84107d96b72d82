"""Rows of values, read straight from the JSON of events. No dict is made for an event."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from typing import Any

from mltrigger.versions.columns import Takes

_MOST_COLUMNS = 64
"""With more columns a dict is faster if events have another order: it finds a name at once."""
_FLOAT = 0xCB
"""The byte that MessagePack writes before the eight bytes of a float."""


class Reader:
    """Reads the values of certain columns from records in JSON.

    Values and types are those of :func:`mltrigger.event.codec.loads_own`. A record that lacks a
    column, or has an object or a list in one, is left to it. So are other data.

    Parameters
    ----------
    names : sequence of str
        The columns, in the order of the values.
    """

    def __init__(self, names: Sequence[str]) -> None:
        from msgspec import defstruct
        from msgspec.json import Decoder
        from msgspec.structs import astuple

        fields = {f"column{number}": name for number, name in enumerate(names)}
        kind = float | int | bool | str | None
        row = defstruct("Row", [(field, kind) for field in fields], rename=fields, gc=False)
        self._decode, self._values = Decoder(row).decode, astuple

    def rows(self, raws: Sequence[bytes | None]) -> tuple[Sequence[int], list[tuple[Any, ...]]]:
        """Return the numbers of the records that could be read, and the values of each."""
        decode, values = self._decode, self._values
        with contextlib.suppress(Exception):  # then each alone: one of them is no such record
            return range(len(raws)), list(map(values, map(decode, raws)))  # type: ignore[arg-type]
        numbers, rows = [], []
        for number, raw in enumerate(raws):
            with contextlib.suppress(Exception):
                rows.append(values(decode(raw)))  # type: ignore[arg-type]
                numbers.append(number)
        return numbers, rows


def reader_of(takes: Takes | None) -> Reader | None:
    """Return the reader of the columns that *takes* says, ``None`` if their records differ."""
    if takes is None or takes.further or takes.given or not 0 < len(takes.names) <= _MOST_COLUMNS:
        return None
    if any(name.startswith("$") for name in takes.names):  # such a record may be a tag
        return None
    try:
        return Reader(takes.names)
    except Exception:  # two columns of one name, or a name without a UTF-8 form
        return None


def block(rows: Sequence[tuple[Any, ...]]) -> Any:
    """Return *rows* as an array in the memory order of columns, ``None`` if one is not of floats.

    MessagePack writes each float in nine bytes. So the bytes tell the types of all values, and have
    them in one piece. That takes a quarter of the time of looking at each.
    """
    import numpy as np
    from msgspec import msgpack

    count, width = len(rows), len(rows[0])
    head = 1 if width < 16 else 3
    size = head + 9 * width
    if set(map(type, rows[0])) != {float}:
        return None
    try:
        packed = msgpack.encode(rows)
    except Exception:  # an integer beyond 64 bits
        return None
    before = len(packed) - count * size
    if before != (1 if count < 16 else 3 if count < 2**16 else 5):
        return None
    table = np.frombuffer(packed, np.uint8, offset=before).reshape(count, size)
    cells = table[:, head:].reshape(count, width, 9)
    if not (cells[:, :, 0] == _FLOAT).all():
        return None
    return np.asfortranarray(cells[:, :, 1:].copy().view(">f8")[:, :, 0], float)
