"""Wake-ups across machines: NOTIFY, one for all that a process has to say in ten milliseconds.

A NOTIFY takes a lock over all commits of the server, and wakes each session that listens. In each
publishing transaction it would cost most of the throughput. So it comes after the commit, in a
session of its own, and not for each one. A process listens only if it waits for something. It then
holds a shared lock, and without such a lock nothing is sent. A wake-up may be lost. Looks at the
log are promised.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import random
import secrets
import socket
import threading
import time
from collections.abc import Iterable
from typing import Literal

import psycopg

from mltrigger.store.postgresql.sessions import Session, Sessions
from mltrigger.store.wake import Wakeup

_APART_S = 0.01
"""The shortest time between two notifications of a process."""
_UNHEARD_S = 0.05
"""The same while no process listens. A new one looks at the log first, so it misses nothing."""
_MOST_BYTES = 7_000
"""A notification carries at most 8,000 bytes. Longer ones wake everybody."""
_EVERYBODY = "*"
_BACK_S = 0.2, 2.0
"""The pause before a lost session is opened again."""
_HEAR_S = 60.0
_END_S = 1.0
"""The longest wait for the two threads at the end."""
_DEAF_POLL_S = 0.1
"""The longest wait until the next look where no notification is heard."""
_LISTENS = "SELECT pg_advisory_lock_shared(%s)"
_NOTIFY = "SELECT pg_notify(%s, %s) WHERE NOT pg_try_advisory_xact_lock(%s)"
"""Returns a row if it was sent: a process holds the lock of those who listen, or asks as we do."""


class PostgresWakeup(Wakeup):
    """Wake-ups of all processes of one schema, on any machine.

    Parameters
    ----------
    sessions : Sessions
        Opens the two sessions of this process: one listens, one notifies.
    """

    def __init__(self, sessions: Sessions) -> None:
        super().__init__()
        self._sessions = sessions
        digest = hashlib.blake2b(sessions.schema.encode(), digest_size=8)
        self._channel = f"mltrigger_{digest.hexdigest()}"
        self._key = int.from_bytes(digest.digest(), signed=True)
        self._fresh()

    def _fresh(self) -> None:
        self._pid, self._own = os.getpid(), secrets.token_hex(4)
        self._begun, self._closed = set[str](), False
        self._over, self._threads = threading.Event(), list[threading.Thread]()
        self._said = threading.Condition()
        self._pending: set[str] = set()
        self._hears: Session | None = None
        self.poll_s = Wakeup.poll_s if not self._sessions.is_pooled else _DEAF_POLL_S

    def wait(self, key: str, seen: int, timeout_s: float) -> bool:
        """Wait as :meth:`Wakeup.wait`. The first wait opens the session that listens."""
        self._begin("listens")
        return super().wait(key, seen, timeout_s)

    def generation(self, key: str) -> int:
        """Return as :meth:`Wakeup.generation`."""
        self._begin("listens")
        return super().generation(key)

    def notify(self, keys: Iterable[str]) -> None:
        """Wake the waiters of *keys* here at once, and those of other processes soon."""
        keys = list(keys)
        self._begin("notifies")
        super().notify(keys)
        if keys and not self._closed:
            with self._said:
                self._pending.update(keys)
                self._said.notify()

    def close(self) -> None:
        """Wake everybody, send the last notification, and end the sessions."""
        super().close()
        if os.getpid() != self._pid:
            return
        with self._said:
            self._closed = True
            self._said.notify_all()
        self._over.set()
        if (hears := self._hears) is not None:
            with contextlib.suppress(Exception):
                _cut(hears)
        until_s = time.monotonic() + _END_S
        for thread in self._threads:
            if thread is not threading.current_thread():
                thread.join(max(0.0, until_s - time.monotonic()))

    def _begin(self, task: Literal["listens", "notifies"]) -> None:
        """Start the thread of *task*, once in a process."""
        if os.getpid() != self._pid:  # a forked child: threads and held locks are the parent's
            super().__init__()
            self._fresh()
        if task in self._begun or self._closed:
            return
        with self._said:
            if task in self._begun:
                return
            self._begun.add(task)
        if task == "listens" and self._sessions.is_pooled:
            return  # a pooler forgets who listens
        target = self._listen if task == "listens" else self._send
        thread = threading.Thread(target=target, name=f"mltrigger-{task}", daemon=True)
        with contextlib.suppress(RuntimeError):  # no thread can be started: looks must do
            thread.start()
            self._threads.append(thread)

    # -- threads -----------------------------------------------------------------------------------

    def _listen(self) -> None:
        while not self._closed:
            try:
                with self._sessions.open() as session:
                    if self._sessions.is_pooled:  # since the last session
                        self.poll_s = _DEAF_POLL_S
                        return
                    self._hears = session
                    session.execute(_LISTENS, [self._key])
                    session.execute(f"LISTEN {self._channel}")
                    self.poll_s = Wakeup.poll_s
                    self._wake_all()  # something may have come before
                    while not self._closed:
                        for notification in session.notifies(timeout=_HEAR_S):
                            self._hear(notification.payload)
            except Exception:
                if self._closed:
                    return
            self.poll_s = _DEAF_POLL_S
            time.sleep(random.uniform(*_BACK_S))

    def _hear(self, message: str) -> None:
        sender, *keys = message.split()
        if sender == self._own:
            return
        for key in keys:
            if key == _EVERYBODY:
                self._wake_all()
            elif key in self._keys:  # else nobody waits for it here
                self.notify_here(key)

    def _send(self) -> None:
        session: Session | None = None
        while True:
            is_heard = False
            with self._said:
                while not self._pending and not self._closed:
                    self._said.wait()
                keys, self._pending = self._pending, set()
            if not keys:
                break
            message = " ".join([self._own, *sorted(keys)])
            if len(message.encode()) > _MOST_BYTES:
                message = f"{self._own} {_EVERYBODY}"
            try:
                if session is None or session.closed:
                    session = self._sessions.open()
                    if not self._sessions.is_pooled:
                        session.execute("SET synchronous_commit TO off")  # nothing is stored
                sent = session.execute(_NOTIFY, [self._channel, message, self._key])
                is_heard = sent.rowcount > 0
            except psycopg.Error:
                session = None  # looks must do
            self._over.wait(_APART_S if is_heard else _UNHEARD_S)
        if session is not None:
            session.close()


def _cut(session: Session) -> None:
    """End *session* from another thread than the one that waits in it: that one closes it."""
    with socket.fromfd(session.fileno(), socket.AF_INET, socket.SOCK_STREAM) as shared:
        shared.shutdown(socket.SHUT_RDWR)
