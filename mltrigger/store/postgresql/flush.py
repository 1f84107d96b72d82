"""One flush of the server's log for all commits of a process that came before it.

A commit holds the lock of the writers only until others see it. The flush comes after that, in a
session of its own. After a cut the marks of the process tell which of its commits have arrived.
"""

from __future__ import annotations

import threading
import time
import uuid
from collections.abc import Callable

from mltrigger.store.postgresql import lives
from mltrigger.store.postgresql.sessions import Session, Sessions

_FLUSH = "SELECT pg_logical_emit_message(true, 'mltrigger', '')"
"""A transaction that leaves something in the log: its commit flushes all before it."""
_MARKS = "SELECT number FROM mark WHERE token = %s AND number > %s AND number <= %s"
_SHOW = "SHOW synchronous_commit"
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
        self, sessions: Sessions, patiently: Callable[[Callable[[], None], float], None], token: str
    ) -> None:
        self._sessions, self._patiently, self._token = sessions, patiently, token
        self._lock = threading.Lock()
        self.session: Session | None = None
        self.asked = self.written = self.synced = 0
        """The numbers of the newest commit: asked for, visible, and durable."""
        self._doubtful = 0
        """The newest commit that was asked for before the session was there."""
        self._lost: set[int] = set()
        self.life: uuid.UUID | None = None
        """The life of the server in which all was read that the next :meth:`force` covers."""
        self._lives_on = True

    def wait(self, number: int) -> None:
        """Return when commit *number* is durable.

        Raises
        ------
        Lost
            When it is not there any more.
        """
        if self.synced < number:
            since_s = time.monotonic()
            with self._lock:  # the next one flushes for all that queue here
                if self.synced < number:
                    self._force(since_s)
        if number in self._lost:
            raise Lost

    def force(self) -> None:
        """Flush all that is visible now, also commits of other processes.

        Raises
        ------
        Lost
            When the server has crashed since the last call, or since the store was opened. What
            was read before may be gone.
        """
        since_s = time.monotonic()
        with self._lock:
            self._force(since_s)
            lives_on, self._lives_on = self._lives_on, True
        if not lives_on:
            raise Lost

    def _force(self, since_s: float) -> None:
        """Flush. The caller holds the lock, and has waited for it *since_s*."""
        up_to = self.written  # read before the flush: it covers no later commit
        self._patiently(lambda: self._flush(up_to), since_s)
        self.synced = max(self.synced, up_to)

    def _flush(self, up_to: int) -> None:
        session = self.session
        if session is None or session.closed:
            session = self.session = self._opened()
        try:
            if self._sessions.is_pooled:  # any transaction may be the first one after a crash
                session.execute(f"BEGIN;{self._sessions.local}SET LOCAL synchronous_commit TO on")
                self._look_for_lost(session, up_to)
                self._look_at_life(session)
                session.execute(f"{_FLUSH};COMMIT")
            else:
                self._look_for_lost(session, min(up_to, self._doubtful))
                session.execute(_FLUSH)
        except BaseException:
            session.close()
            raise

    def _opened(self) -> Session:
        session = self._sessions.open()
        if not self._sessions.is_pooled and session.execute(_SHOW).fetchone() == _OFF:
            session.execute("SET synchronous_commit TO on")
        # A crash would have ended this session: none of the later ones can be lost while it lives.
        self._doubtful = self.asked
        self._look_at_life(session)
        return session

    def _look_at_life(self, session: Session) -> None:
        life = lives.now(session, self._sessions.schema)
        if life != self.life and self.life is not None:
            self._lives_on = False
        self.life = life

    def _look_for_lost(self, session: Session, up_to: int) -> None:
        """Note the commits that a crash has undone. Later commits may be there already."""
        if up_to > self.synced:
            found = session.execute(_MARKS, [self._token, self.synced, up_to]).fetchall()
            awaited = range(self.synced + 1, up_to + 1)
            self._lost.update(set(awaited).difference(number for (number,) in found))

    def close(self) -> None:
        """Close the session."""
        if self.session is not None:
            self.session.close()
