"""Checks of the doctor: the store, its files, and this process."""

from __future__ import annotations

import contextlib
import os
import sqlite3
import stat
import time
from collections.abc import Iterator
from pathlib import Path

from mltrigger.broker import Finding
from mltrigger.store import limits
from mltrigger.store.retention import Retention, surplus
from mltrigger.store.sqlite.fence import leaving
from mltrigger.store.sqlite.files import network_filesystem
from mltrigger.store.sqlite.place import is_stopped, writer_of
from mltrigger.store.timekeeper import ahead
from mltrigger.store.transaction import Store
from mltrigger.text import count

WAL_FIXED = (3, 51, 3)
"""The first SQLite without the WAL-reset bug (https://sqlite.org/wal.html)."""
_MANY_BYTES = 1 << 30
_FULL = 0.8
_MANY_BEHIND = 10_000


def sqlite() -> Iterator[Finding]:
    """Tell of the WAL-reset bug."""
    version = sqlite3.sqlite_version_info
    if version < WAL_FIXED:
        yield Finding(
            "ok",
            "bus",
            "SQLite",
            f"one process at a time checkpoints, since SQLite {sqlite3.sqlite_version} has the"
            " WAL-reset bug",
            "",
        )


def moved(store: Store) -> Iterator[Finding]:
    """Tell of a file that has moved, or is about to."""
    with store.snapshot() as reader:
        found = leaving(reader)
    if found is not None:
        said, _, advice = found.refusal.partition(": ")
        yield Finding("error", "bus", "move", said, advice)


def files(location: str | None) -> Iterator[Finding]:
    """Find files that others can read or replace, and a wrong or a full disk."""
    if location is None:
        return
    path = Path(location)
    for file in (path, Path(location + "-wal"), Path(location + "-shm")):
        if (status := _status(str(file))) and (mode := stat.S_IMODE(status.st_mode)) & 0o077:
            yield Finding(
                "warning",
                "bus",
                "file mode",
                f"{file.name} has mode {mode:04o}: others on this machine can read events",
                f"chmod 600 {file.name}",
            )
    of_folder = _status(str(path.parent))
    folder = stat.S_IMODE(of_folder.st_mode) if of_folder else 0
    if folder & 0o002 and not folder & stat.S_ISVTX:
        yield Finding(
            "warning",
            "bus",
            "file mode",
            f"the folder of the store has mode {folder:04o}: others can replace it",
            "chmod o-w on it",
        )
    if (kind := network_filesystem(path)) is not None:
        yield Finding(
            "error",
            "bus",
            "file system",
            f"the store lies on {kind}",
            "SQLite's WAL needs a local disk: move the file",
        )
    with contextlib.suppress(OSError):  # removed a moment ago
        yield from _disk(os.statvfs(path))


def _disk(usage: os.statvfs_result) -> Iterator[Finding]:
    if usage.f_bavail * usage.f_frsize < _MANY_BYTES:
        yield Finding(
            "warning",
            "bus",
            "disk",
            f"{usage.f_bavail * usage.f_frsize / 1e6:,.0f} MB are free",
            "make room: a full disk stops publishing",
        )


def _status(path: str) -> os.stat_result | None:
    """Return the status of a file, None if it is not there."""
    try:
        return os.stat(path)  # noqa: PTH116 - the path with an ending of SQLite's own
    except OSError:
        return None


def writer(location: str | None) -> Iterator[Finding]:
    """Find a process that was stopped inside a transaction: all others wait for it."""
    pid = writer_of(location) if location is not None else None
    if pid is not None and is_stopped(pid):
        yield Finding(
            "error",
            "bus",
            "write lock",
            f"process {pid} is stopped and holds the store's write lock: nobody can write",
            f"let it go on (kill -CONT {pid}), or end it",
        )


def descriptors() -> Iterator[Finding]:
    """Find a model that leaks files in this process."""
    try:
        import resource

        used, limit = (
            len(os.listdir("/proc/self/fd")),  # noqa: PTH208
            resource.getrlimit(resource.RLIMIT_NOFILE)[0],
        )
    except (ImportError, OSError):
        return
    if used > _FULL * limit:
        yield Finding(
            "warning",
            "bus",
            "file descriptors",
            f"{used} of {limit} file descriptors of this process are open",
            "a model may leak them: isolation='process' starts it anew from time to time",
        )


def clocks(store: Store, now_us: int) -> Iterator[Finding]:
    """Find clocks that disagree."""
    ahead_s = now_us / 1e6 - time.time()
    if abs(ahead_s) > 60 and store.location is not None:
        yield Finding(
            "warning",
            "bus",
            "clock",
            f"the bus's clock is {ahead_s:+.0f} s off the wall clock of this process, which was"
            " set back, or is not that of the others",
            "leases and delays are right; the times shown are not until the machine boots again",
        )
    if (early := ahead(store, now_us)) is not None:
        yield Finding(
            "warning",
            "bus",
            "clock",
            f"{count(early[0], 'event')} came from a process whose clock is ahead, due in"
            f" {early[1]:.0f} s",
            "set the clock of that process; a listener that starts now delivers them at once",
        )


_HOLDERS = """
SELECT s.name, count(*) FROM subscription s
JOIN cursor c ON c.subscription_id = s.id
JOIN event e ON e.topic_id = s.topic_id AND e.seq >= c.next_seq
WHERE s.bound = 1 AND s.parent_id IS NULL AND e.by_rows_us IS NULL AND e.seq <= :last
GROUP BY s.id ORDER BY s.id
"""


def holders(store: Store, retention: Retention, now_us: int) -> Iterator[Finding]:
    """Find subscriptions whose waiting events keep the archive longer than it was asked for."""
    last = surplus(store, retention, now_us)
    for name, n in store.read(_HOLDERS, {"last": last}) if last > 0 else ():
        yield Finding(
            "warning",
            name,
            "retention",
            f"{count(n, 'event')} beyond bus.retain(…) cannot be deleted: they wait for it",
            "start it or resume it; unsubscribe() gives them up",
        )


def lanes(store: Store, now_us: int) -> Iterator[Finding]:
    """Find lanes that are far behind. Each holds a part of the archive, up to its limit."""
    with store.snapshot() as reader:
        found = limits.held(reader, now_us)
    for lane in found:
        most = f"{lane.hold_events:,} events or {lane.hold_s / 86_400:g} days of the log"
        if lane.is_beyond:
            yield Finding(
                "warning",
                lane.name,
                "lane",
                f"{count(lane.n, 'event')} behind, more than the {most} that it may hold:"
                " older ones may be deleted before it gets to them",
                "stop it, or give it more concurrency, or a higher rate",
            )
        elif lane.n > _MANY_BEHIND:
            yield Finding(
                "info",
                lane.name,
                "lane",
                f"{count(lane.n, 'event')} behind: it holds at most {most}",
                "none while it gets on; sub.lanes() shows its rate",
            )


def archive(location: str | None, retention: Retention) -> Iterator[Finding]:
    """Find a large store that nothing is deleted from."""
    size = (
        sum(status.st_size for end in ("", "-wal") if (status := _status(location + end)))
        if location
        else 0
    )
    if size > _MANY_BYTES and retention == Retention():
        yield Finding(
            "info",
            "bus",
            "retention",
            f"the store has {size / 1e9:.1f} GB and keeps everything",
            "bus.retain(max_age_s=14 * 86400) lets old events go; what is open or dead stays",
        )
