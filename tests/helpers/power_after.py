"""What a newly opened bus finds after a power cut, compared with what had been told before."""

from __future__ import annotations

import bisect
import contextlib
import os
import random
import re
import sqlite3
from collections import defaultdict
from collections.abc import Iterator, Sequence
from pathlib import Path
from unittest import mock

import power_load
from power_record import Files, Op, after_cuts

import mltrigger as mt
from mltrigger.clock import SystemClock

FRAME_HEADER = 24


class Later(SystemClock):
    """The time in an hour: every lease of the dead has run out."""

    def now_us(self) -> int:
        return super().now_us() + 3_600_000_000


Told = dict[str, set[str]]
"""The kinds of receipts, and the ids of their events."""


def told_by(ops: Sequence[Op]) -> Told:
    """Return what processes had been told at the end of *ops*."""
    told: Told = defaultdict(set)
    for op in ops:
        if op.kind == "receipt":
            kind, *what = op.receipt
            told[kind].add("/".join(what))
    return told


def cuts(
    before: bytes, ops: Sequence[Op], count: int, seed: int
) -> Iterator[tuple[str, Files, Told]]:
    """Cut the power *count* times, most of them right after a receipt.

    Yield the place in words, the files that are left, and what had been told by then.
    """
    chance = random.Random(seed)
    receipts = [number + 1 for number, op in enumerate(ops) if op.kind == "receipt"]
    places = sorted(
        chance.choice(receipts) if chance.random() < 0.6 else chance.randrange(len(ops) + 1)
        for _ in range(count)
    )
    for left in after_cuts(before, ops, places, chance):
        where = f"cut {left.place} of {len(ops)}: {left.keep} of {left.unsynced} unsynced writes"
        yield where, left.files, told_by(ops[: left.place])


def put(files: Files, file: Path) -> None:
    """Write what is left of a database and its log to *file*."""
    for path in file.parent.glob(f"{file.name}*"):
        path.unlink()
    file.write_bytes(files["database"])
    Path(f"{file}-wal").write_bytes(files["log"])


def losses(file: Path, told: Told) -> list[str]:
    """Return what is damaged or lost, compared with what was *told*."""
    try:
        with _opened(file) as bus:
            return _damage(file) or _lost(bus, told)
    except (mt.StoreError, sqlite3.DatabaseError) as error:
        return [f"damaged: {error}"]


def troubles(file: Path, told: Told) -> list[str]:
    """Return losses, and what does not end as it should when the models go on."""
    if found := losses(file, told):
        return found
    with mock.patch.dict(os.environ, {power_load.HEALED: "1"}), _opened(file) as bus:
        power_load.subscribe(bus)
        if not bus.wait(60, progress=False):
            return ["it does not come to an end"]
        return _damage(file) or _lost(bus, told) or _unfinished(bus)


def _opened(file: Path) -> mt.EventBus:
    # no second cut comes: it need not wait for the disk
    return mt.connect(f"sqlite:///{file}?durability=normal", clock=Later())


def _damage(file: Path) -> list[str]:
    with contextlib.closing(sqlite3.connect(file)) as connection:
        found = connection.execute("PRAGMA integrity_check").fetchall()
        loose = connection.execute("PRAGMA foreign_key_check").fetchall()
    return [f"damaged: {row}" for row in (*found, *loose) if row != ("ok",)]


def _lost(bus: mt.EventBus, told: Told) -> list[str]:
    events = bus.events()
    there = {
        "published": set(events["topic"] + "/" + events["event_id"]),
        **_answers(bus),
    }
    missing = [
        f"{kind} but lost: {what}"
        for kind, found in there.items()
        for what in sorted(told[kind] - found)
    ]
    dead = set(bus.subscription("hard").dead_letters()["event_id"])
    again = [f"dead again: {id_}" for id_ in sorted(dead & (told["redriven"] | told["discarded"]))]
    audit = bus.audit()
    wrong = audit[~audit["balanced"] | (audit[["missing", "double", "surplus"]].sum(axis=1) > 0)]
    return missing + again + [f"unbalanced: {row}" for row in wrong.to_dict("records")]


def _answers(bus: mt.EventBus) -> dict[str, set[str]]:
    ended = bus.invocations(columns=["subscription", "event_id", "role", "outcome"])
    ended = ended[ended["outcome"] == "succeeded"]
    names = ended["subscription"].astype(str) + "/" + ended["event_id"]
    return {
        "outcome": set(names),
        "answered": set(ended.loc[ended["role"] == "direct", "event_id"]),
    }


def _unfinished(bus: mt.EventBus) -> list[str]:
    audit = bus.audit().set_index("subscription")
    texts, outputs = int(audit.loc["echo", "published"]), int(audit.loc["counter", "succeeded"])
    return [
        *(f"open: {name}" for name in audit.index[audit["open"] > 0]),
        *([f"{outputs} outputs, but {texts} events of them"] if texts != outputs else []),
    ]


def unsynced_receipts(ops: Sequence[Op]) -> list[str]:
    """Return the published events whose commit was not synced to the log before their receipt.

    A frame of the log is a header of 24 bytes, then a page. In the last one of a commit, bytes 4 to
    8 are the size of the database, else 0 (https://www.sqlite.org/fileformat2.html#walformat).
    """
    found, first, commits, synced = [], dict[bytes, int](), list[int](), 0
    for number, op in enumerate(ops):
        if op.kind == "write" and op.file == "log":
            if len(op.data) == FRAME_HEADER and any(op.data[4:8]):
                commits.append(number)
            for id_ in re.findall(rb"e\d+-\d+-\d+\.", op.data):
                first.setdefault(id_, number)
        elif op.kind == "sync" and op.file == "log":
            synced = max(synced, op.at)
        elif op.kind == "receipt" and op.receipt[0] == "published":
            page = first.get(op.receipt[2].encode(), number)
            # the page is that of the last frame, or its commit comes later
            commit = bisect.bisect_left(commits, page - 1)
            if commit == len(commits) or synced <= commits[commit] + 1:
                found.append(op.receipt[2])
    return found
