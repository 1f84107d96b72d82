"""One sync of the log for all commits that were visible before it began."""

from __future__ import annotations

import contextlib
import errno
import threading
from collections.abc import Callable

_NO_ROOM = (errno.ENOSPC, errno.EDQUOT)


class SharedSync:
    """Brings the commits of a process to the disk, with one sync for many.

    An error of the disk poisons it for good. After a failed sync the content of the disk is
    unknown. A second sync may report success (https://wiki.postgresql.org/wiki/Fsync_Errors).

    Parameters
    ----------
    sync : callable
        Returns when all that is in the log is on the disk. An OSError poisons, other errors do not.
    failed : callable
        Called once when it is poisoned.
    """

    def __init__(self, sync: Callable[[], object], failed: Callable[[], object]) -> None:
        self._sync, self._failed, self._lock = sync, failed, threading.Lock()
        self._written = self._synced = 0
        self.error: OSError | None = None

    def written(self) -> int:
        """Count a visible commit. Return its number. The write lock is held."""
        self._written += 1
        return self._written

    def wait(self, number: int) -> None:
        """Return when commit *number* is durable. Call it without the write lock.

        Raises
        ------
        OSError
            When this or an earlier sync failed.
        """
        if self._synced < number:
            with self._lock:  # others queue here meanwhile, and the next one syncs for all of them
                if self._synced < number:
                    self._bring()

    def force(self) -> None:
        """Sync even if no commit waits for it."""
        with self._lock:
            self._bring()

    def finish(self) -> None:
        """Sync the rest, before the log closes. Errors reach the threads that wait."""
        with contextlib.suppress(Exception):
            self.wait(self._written)

    def poison(self, error: OSError) -> None:
        """Take note that a sync has failed, here or inside SQLite."""
        if self.error is None:
            self.error = error
            self._failed()

    def _bring(self) -> None:
        if self.error is not None:
            raise OSError(self.error.errno, self.error.strerror) from self.error
        up_to = self._written  # read before the sync begins: it covers no later commit
        try:
            self._sync()
        except OSError as error:
            self.poison(error)
            raise
        self._synced = up_to


def poisoned(error: OSError) -> tuple[str, str]:
    """Return the meaning of a failed sync, and the advice."""
    why = error.strerror or str(error)
    if error.errno in _NO_ROOM:  # blocks are found late on some file systems, in the sync itself
        why = f"{why}, found only when it was synced"
    return (
        f"the disk failed to sync the write-ahead log ({why}), so nobody knows what is stored;"
        " nothing more is read or written here",
        "make room, or look at the disk; then close this bus and connect again: what is there is"
        " checked then",
    )
