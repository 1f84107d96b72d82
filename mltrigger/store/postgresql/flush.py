"""One flush of the server's log for all commits of a process that came before it.

A commit holds the lock of the writers only until others see it. The flush comes after that, in a
session of its own. After a cut the marks of the process tell which of its commits have arrived.
"""

from __future__ import annotations

import threading
from collections.abc import Callable

import psycopg

from mltrigger.store.postgresql.sessions import Session, Sessions

_FLUSH = "SELECT pg_logical_emit_message(true, 'mltrigger', '')"
"""A transaction that leaves something in the log: its commit flushes all before it."""
_LAST = "SELECT max(number) FROM mark WHERE token = %s"


_OFF = ("off",)


class Lost(Exception):  # a signal: the store makes its error of it
    """The server ended before a commit had reached its disk. Nothing of it is there."""


class Flush:
    """Brings commits to the server's disk, one flush for many.

    Parameters
    ----------
    sessions : Sessions
        Opens the session of the flush.
    patiently : callable
        Runs an action again while the server is away.
    token : str
        The name of this process in the marks.
    """

    def __init__(
        self, sessions: Sessions, patiently: Callable[[Callable[[], None]], None], token: str
    ) -> None:
        self._sessions, self._patiently, self._token = sessions, patiently, token
        self._lock = threading.Lock()
        self.session: Session | None = None
        self.written = self.synced = 0
        """The numbers of the newest commit, and of the newest one that is durable."""
        self._lost: list[range] = []

    def wait(self, number: int) -> None:
        """Return when commit *number* is durable.

        Raises
        ------
        Lost
            When it is not there any more.
        """
        if self.synced < number:
            with self._lock:  # the next one flushes for all that queue here
                if self.synced < number:
                    self.force_held()
        if any(number in lost for lost in self._lost):
            raise Lost

    def force(self) -> None:
        """Flush all that is visible now, also commits of other processes."""
        with self._lock:
            self.force_held()

    def force_held(self) -> None:
        """Flush. The caller holds the lock."""
        up_to = self.written  # read before the flush: it covers no later commit
        self._patiently(lambda: self._flush(up_to))
        self.synced = max(self.synced, up_to)

    def _flush(self, up_to: int) -> None:
        pooled = self._sessions.is_pooled
        if self.session is None or self.session.closed:
            self.session = self._sessions.open()
            pooled = self._sessions.is_pooled
            if not pooled and self.session.execute("SHOW synchronous_commit").fetchone() == _OFF:
                self.session.execute("SET synchronous_commit TO on")
            self._look_for_lost(self.session, up_to)
        begin = f"BEGIN;{self._sessions.local}SET LOCAL synchronous_commit TO on;"
        try:
            self.session.execute(f"{begin}{_FLUSH};COMMIT" if pooled else _FLUSH)
        except psycopg.OperationalError:
            self.session.close()
            raise

    def _look_for_lost(self, session: Session, up_to: int) -> None:
        """Note the commits that a crash has undone. The last mark never goes."""
        if up_to <= self.synced:
            return
        with session.transaction():
            if self._sessions.local:
                session.execute(self._sessions.local)
            found = session.execute(_LAST, [self._token]).fetchone()
        last = (found[0] if found else None) or 0
        if last < up_to:
            self._lost.append(range(last + 1, up_to + 1))

    def close(self) -> None:
        """Close the session."""
        if self.session is not None:
            self.session.close()
