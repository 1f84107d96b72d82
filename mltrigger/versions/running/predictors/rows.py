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
        self._places = _places(names)

    def read(self, raws: Sequence[bytes | None]) -> tuple[Sequence[int], list[Any]]:
        """Return the numbers of the records that could be read, and the records."""
        decode = self._decode
        with contextlib.suppress(Exception):  # then each alone: one of them is no such record
            return range(len(raws)), list(map(decode, raws))  # type: ignore[arg-type]
        numbers, records = [], []
        for number, raw in enumerate(raws):
            with contextlib.suppress(Exception):
                records.append(decode(raw))  # type: ignore[arg-type]
                numbers.append(number)
        return numbers, records

    def rows(self, records: Sequence[Any]) -> list[tuple[Any, ...]]:
        """Return the values of each of *records*."""
        return list(map(self._values, records))

    def block(self, records: Sequence[Any]) -> Any:
        """Return the values of *records* as :func:`block` does."""
        return _floats(records, self._places)


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
    return _floats(rows, _places([None] * len(rows[0])))


def _places(names: Sequence[str | None]) -> list[int]:
    """Return the place of each value in MessagePack's bytes of a row, and the end of the last.

    A record has the name before each value. The other values are floats.
    """
    from msgspec import msgpack

    place = 1 if len(names) < 16 else 3
    places = []
    for name in names:
        place += 0 if name is None else len(msgpack.encode(name))
        places.append(place)
        place += 9
    return [*places, place]


def _floats(rows: Sequence[Any], places: Sequence[int]) -> Any:
    """Return the values of *rows*, at these *places* of the bytes of each, if all are floats.

    The first byte of a value tells its type. All before it being floats, it is where it should be.
    """
    import numpy as np
    from msgspec import msgpack

    count, (*starts, size) = len(rows), places
    try:
        if len(msgpack.encode(rows[0])) != size:
            return None
        packed = msgpack.encode(rows)
    except Exception:  # an integer beyond 64 bits
        return None
    before = len(packed) - count * size
    if before != (1 if count < 16 else 3 if count < 2**16 else 5):
        return None
    table = np.empty((count, len(starts)), order="F")
    for column, start in enumerate(starts):
        begin = before + start
        if (np.ndarray(count, np.uint8, packed, begin, (size,)) != _FLOAT).any():
            return None
        table[:, column] = np.ndarray(count, ">f8", packed, begin + 1, (size,))
    return table
