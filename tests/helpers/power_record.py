"""The record of a disk: writes, truncations and syncs of a database and its log, and receipts.

A process appends to it with :class:`Record`, or through ``power_shim.c``. From it,
:func:`after_cuts` makes the files that a power cut may leave.

The model: a sync that returned holds. Of later writes nothing, everything, whole writes or single
sectors are there, in any order. A sector is whole or old. File names are there.
"""

from __future__ import annotations

import bisect
import json
import os
import random
import struct
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

SECTOR = 512
KEEP = ("nothing", "nothing", "all", "writes", "sectors", "sectors")
"""The part of the unsynced writes that is left."""
_ENTRY = struct.Struct("=ccQI")
"""Kind, file, number, length. The data follow. ``power_shim.c`` writes the same."""
_KINDS = {b"W": "write", b"T": "truncate", b"S": "sync", b"F": "failed", b"A": "receipt"}
_FILES = {b"d": "database", b"l": "log", b"-": ""}

Files = dict[str, bytearray]


class Op(NamedTuple):
    """One operation, noted when it ended.

    ``at`` is the offset of a write, the new size of a truncation, or the number of the operation
    at which a sync began.
    """

    kind: str
    file: str
    at: int
    data: bytes = b""

    @property
    def receipt(self) -> list[Any]:
        """What a process was told."""
        found: list[Any] = json.loads(self.data)
        return found


class Record:
    """Appends to a record. Each entry is one write to its end, so threads and processes share it."""

    def __init__(self, path: Path) -> None:
        self._handle = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
        self._lock = threading.Lock()
        self.begun_anew = 0
        """How often the log of this record was written from its beginning."""

    def note(self, kind: bytes, file: bytes = b"-", number: int = 0, data: bytes = b"") -> None:
        """Append an entry."""
        with self._lock:
            os.write(self._handle, _ENTRY.pack(kind, file, number, len(data)) + data)
            self.begun_anew += kind == b"W" and file == b"l" and number == 0

    def receipt(self, *what: Any) -> None:
        """Note what a process was told just now."""
        self.note(b"A", data=json.dumps(what).encode())


def read(path: Path) -> list[Op]:
    """Return the operations of a record."""
    content, at = path.read_bytes(), 0
    ops: list[Op] = []
    began: dict[int, int] = {}
    while at + _ENTRY.size <= len(content):
        kind, file, number, length = _ENTRY.unpack_from(content, at)
        at += _ENTRY.size
        if kind == b"B":  # the thread of that number begins a sync
            began[number] = len(ops)
            continue
        if kind in (b"S", b"F"):
            number = began.pop(number)
        ops.append(Op(_KINDS[kind], _FILES[file], number, content[at : at + length]))
        at += length
    return ops


class Left(NamedTuple):
    """What is left after a cut at operation ``place``, with ``unsynced`` writes at that moment."""

    place: int
    unsynced: int
    keep: str
    files: Files


def after_cuts(
    before: bytes, ops: Sequence[Op], places: Sequence[int], chance: random.Random
) -> Iterator[Left]:
    """Yield the files that are left after a cut at each of *places*, which rise.

    Parameters
    ----------
    before : bytes
        The database before the first operation. There was no log.
    ops : sequence of Op
        The operations.
    places : sequence of int
        Each cut comes before the operation of this number.
    chance : random.Random
        Decides which writes are left.
    """
    synced: Files = {"database": bytearray(before), "log": bytearray()}
    pending: dict[str, list[int]] = {"database": [], "log": []}
    adrift: list[int] = []  # a sync failed: no later one brings these to the disk
    done = 0
    for place in places:
        for number in range(done, place):
            op = ops[number]
            if op.kind in ("write", "truncate"):
                pending[op.file].append(number)
            elif op.kind in ("sync", "failed"):
                covered = bisect.bisect_left(pending[op.file], op.at)
                if op.kind == "failed":
                    adrift += pending[op.file][:covered]
                else:
                    for write in pending[op.file][:covered]:
                        _apply(synced, ops[write])
                        adrift = [old for old in adrift if not _overlap(ops[old], ops[write])]
                del pending[op.file][:covered]
        done = place
        unsynced = sorted(adrift + pending["database"] + pending["log"])
        keep = chance.choice(KEEP)
        files = _survivors(synced, [ops[number] for number in unsynced], keep, chance)
        yield Left(place, len(unsynced), keep, files)


def _overlap(one: Op, other: Op) -> bool:
    return (
        one.file == other.file
        and one.at < other.at + len(other.data)
        and other.at < one.at + len(one.data)
    )


def _survivors(synced: Files, unsynced: Sequence[Op], keep: str, chance: random.Random) -> Files:
    files = {name: bytearray(data) for name, data in synced.items()}
    for op in unsynced:
        torn = keep == "sectors" and op.kind == "write"
        if keep == "all" or torn or (keep != "nothing" and chance.random() < 0.5):
            _apply(files, op, chance if torn else None)
    return files


def _apply(files: Files, op: Op, torn: random.Random | None = None) -> None:
    content = files[op.file]
    if op.kind == "truncate":
        del content[op.at :]
        content.extend(bytes(op.at - len(content)))
        return
    at, end = op.at, op.at + len(op.data)
    while at < end:
        stop = end if torn is None else min(end, (at // SECTOR + 1) * SECTOR)
        if torn is None or torn.random() < 0.5:
            content.extend(bytes(max(0, at - len(content))))
            content[at:stop] = op.data[at - op.at : stop - op.at]
        at = stop
