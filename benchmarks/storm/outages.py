"""A server of PostgreSQL that is killed in a storm, in each of the ways that servers end."""

from __future__ import annotations

import contextlib
import os
import random
import signal
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import psycopg

from benchmarks.postgresql.servers import Postgres
from benchmarks.storm.places import HELD, Reading
from benchmarks.storm.processes import Held, now_us
from benchmarks.storm.run import Outage

_BACK_S = 120.0
_CHECKED = """
SELECT n.nspname || '.' || c.relname, c.relkind FROM pg_class c
JOIN pg_namespace n ON n.oid = c.relnamespace LEFT JOIN pg_index i ON i.indexrelid = c.oid
LEFT JOIN pg_am a ON a.oid = c.relam
WHERE n.nspname = ? AND (c.relkind = 'r' OR c.relkind = 'i' AND a.amname = 'btree')
"""
_WRITER = """
SELECT pid FROM pg_stat_activity WHERE application_name = 'mltrigger'
ORDER BY query LIKE '%mark%' DESC, random() LIMIT 1
"""
_LOOK_S = 0.005
AWAY_S = 1.5
"""A server that does not come back by itself is away for so long at most before it is started."""


class _Session:
    """A session whose parameters are ``?``."""

    def __init__(self, session: psycopg.Connection[Any]) -> None:
        self._session = session

    def execute(self, sql: str, parameters: Sequence[Any] = (), /) -> psycopg.Cursor[Any]:
        """Run *sql*, and return its cursor."""
        return self._session.execute(sql.replace("?", "%s").encode(), parameters or None)


class Schema:
    """A schema of a server of PostgreSQL that may be away."""

    def __init__(self, server: Postgres, name: str) -> None:
        self.server, self.name = server, name
        self._guard, self._is_away, self._owed = threading.Lock(), False, list[Held]()

    @property
    def url(self) -> str:
        """As ``mt.connect`` takes it."""
        return f"{self.server.dsn('postgres')}?schema={self.name}"

    @contextlib.contextmanager
    def reading(self) -> Iterator[_Session]:
        """Open a session as nobody's worker. Wait while the server is away."""
        with self._opened() as session:
            session.execute(f"SET search_path TO {self.name}")
            session.execute("SET default_transaction_read_only TO on")
            yield _Session(session)

    def held(self) -> Held:
        """Return all leases at this moment. While the server is away: a list that is filled later."""
        with self._guard:
            if self._is_away:
                self._owed.append([])
                return self._owed[-1]
        return self._held()

    def goes(self) -> None:
        """Take note that the server is killed now."""
        with self._guard:
            self._is_away = True

    def is_back(self) -> None:
        """Take note that the server answers again, and look at the leases for those who asked."""
        found = self._held()
        with self._guard:
            self._is_away, owed, self._owed = False, self._owed, []
        for held in owed:
            held.extend(found)

    def integrity(self, reading: Reading) -> str:
        """Return ``ok``, or what is damaged: each table and each index is checked."""
        damaged = []
        with self._opened() as session:
            session.execute("CREATE EXTENSION IF NOT EXISTS amcheck")
            for name, kind in reading.execute(_CHECKED, [self.name]).fetchall():
                try:
                    if kind == "i":
                        session.execute("SELECT bt_index_check(%s::regclass, true)", [name])
                    else:
                        rows = session.execute("SELECT msg FROM verify_heapam(%s)", [name])
                        damaged += [f"{name}: {said}" for (said,) in rows]
                except psycopg.Error as error:
                    damaged.append(f"{name}: {error}")
        return "; ".join(damaged) or "ok"

    def _held(self) -> Held:
        while True:
            with contextlib.suppress(psycopg.OperationalError), self.reading() as session:
                return session.execute(HELD).fetchall()

    @contextlib.contextmanager
    def _opened(self) -> Iterator[psycopg.Connection[Any]]:
        until_s = time.monotonic() + _BACK_S
        while True:
            try:
                session = psycopg.connect(self.server.dsn("postgres"), autocommit=True)
                break
            except psycopg.OperationalError:
                if time.monotonic() > until_s:
                    raise
                time.sleep(0.02)
        with session:
            yield session


# -- the ways to end a server ----------------------------------------------------------------------


def _fast(server: Postgres, away_s: float) -> None:
    """Stop in order: transactions are undone, and the log is written."""
    _signalled(server, signal.SIGINT, away_s)


def _immediate(server: Postgres, away_s: float) -> None:
    """Stop without writing anything."""
    _signalled(server, signal.SIGQUIT, away_s)


def _postmaster(server: Postgres, away_s: float) -> None:
    """Kill the first process of the server. The others end when they notice."""
    _signalled(server, signal.SIGKILL, away_s)


def _signalled(server: Postgres, signum: int, away_s: float) -> None:
    assert server.process is not None
    server.process.send_signal(signum)
    server.process.wait(timeout=_BACK_S)
    time.sleep(away_s)
    until_s = time.monotonic() + _BACK_S
    while True:
        try:
            server.start()
        except RuntimeError:  # its old processes still hold the shared memory
            if time.monotonic() > until_s:
                raise
            time.sleep(0.05)
        else:
            return


def _backend(server: Postgres, away_s: float) -> None:
    """Kill the process of a writer. The server ends all others, and comes back by itself."""
    with psycopg.connect(server.dsn("postgres"), autocommit=True) as session:
        until_s = time.monotonic() + _BACK_S
        while not _killed(session):
            if time.monotonic() > until_s:
                raise TimeoutError("nobody writes")
            time.sleep(_LOOK_S)
        with contextlib.suppress(psycopg.OperationalError):
            while True:  # the server ends this session, too
                session.execute("SELECT 1")
    while not server.answers():
        time.sleep(_LOOK_S)


def _killed(session: psycopg.Connection[Any]) -> bool:
    for (pid,) in session.execute(_WRITER.encode()).fetchall():
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
            return True
    return False


WAYS = {
    "kill -9 of a writer": _backend,
    "kill -9 of the server": _postmaster,
    "stopped at once": _immediate,
    "stopped": _fast,
}
"""Each way by its name."""


class ServerKiller:
    """Ends the server of *schema* so many times, in each of the ways in turn."""

    def __init__(self, schema: Schema, kills: int, chance: random.Random) -> None:
        self._schema, self._kills, self._chance = schema, kills, chance
        self.outages: list[Outage] = []
        self._closed = threading.Event()
        self._thread: threading.Thread | None = None

    def begin(self, done: Callable[[], float], calls: int) -> None:
        """Begin, spread over so many *calls* of the models. *done* returns how many there were."""
        self._thread = threading.Thread(target=self._run, args=(done, calls), daemon=True)
        self._thread.start()

    @property
    def is_done(self) -> bool:
        """Whether all ends are over."""
        return self._thread is None or not self._thread.is_alive()

    def end(self) -> None:
        """Begin no other end. Idempotent."""
        self._closed.set()
        if self._thread is not None:
            self._thread.join()

    def _run(self, done: Callable[[], float], calls: int) -> None:
        for i in range(self._kills):
            due = (i + self._chance.random()) / self._kills * 0.95 * calls
            while done() < due:
                if self._closed.wait(_LOOK_S):
                    return
            self._closed.wait(self._chance.uniform(0.0, 0.02))
            how = [*WAYS][i % len(WAYS)]
            down_us = now_us()
            self._schema.goes()
            WAYS[how](self._schema.server, self._chance.uniform(0.0, AWAY_S))
            self.outages.append(Outage(how, down_us, now_us()))
            self._schema.is_back()
