"""Faults around a PostgreSQL server: held locks, processes that are stopped, sessions that are cut."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import textwrap
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psycopg
from databases import NOBODY, Postgres
from shared import wait_until

import mltrigger as mt

ROOT = Path(mt.__file__).parents[1]
LOCK = "SELECT pg_advisory_xact_lock(hashtextextended('mltrigger ' || %s, 0))"
"""Takes the lock of the writers of a schema."""
_DEADLINE_S = 120.0


def schema_of(url: str) -> str:
    """Return the schema that a URL names."""
    return url.partition("schema=")[2].partition("&")[0] or "mltrigger_bus"


def raw(url: str, **words: Any) -> psycopg.Connection[Any]:
    """Open a session past the package, with the schema as its path. Each statement commits."""
    address = url.partition("?")[0]
    words = {"options": f"-c search_path={schema_of(url)}", **words}
    return psycopg.connect(address, autocommit=True, **words)


def asked(url: str, sql: str, *values: object) -> list[Any]:
    """Ask the tables themselves, past the package."""
    with raw(url) as session:
        return session.execute(sql, values or None).fetchall()


@contextlib.contextmanager
def locked(url: str) -> Iterator[psycopg.Connection[Any]]:
    """Hold the lock of the writers in a transaction that commits at the end of the block."""
    with raw(url) as session, session.transaction():
        session.execute(LOCK, [schema_of(url)])
        yield session


def sessions(url: str, program: str) -> list[int]:
    """Return the server's processes for the sessions of *program*, but those of tests."""
    found = asked(url, "SELECT pid FROM pg_stat_activity WHERE application_name = %s", program)
    return [pid for (pid,) in found]


class Child:
    """A process of its own that runs a Python program. Its arguments are those of the program."""

    def __init__(self, program: str, *arguments: str, **environment: str) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-c", textwrap.dedent(program), *arguments],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env={
                **os.environ,
                "PYTHONPATH": str(ROOT),
                "OPENBLAS_NUM_THREADS": "1",
                "PYTHONWARNINGS": "ignore:This process:DeprecationWarning",
                **environment,
            },
        )

    @property
    def pid(self) -> int:
        return self.process.pid

    def says(self, expected: str = "") -> str:
        """Read a line that it prints."""
        assert self.process.stdout is not None
        line = self.process.stdout.readline().strip()
        if expected or not line:
            assert line == expected, line + self.process.communicate(timeout=_DEADLINE_S)[1]
        return line

    def tell(self, line: str = "") -> None:
        """Write a line to its stdin."""
        assert self.process.stdin is not None
        self.process.stdin.write(line + "\n")
        self.process.stdin.flush()

    def signal(self, number: int) -> None:
        self.process.send_signal(number)

    def ends(self) -> str:
        """Close its stdin and wait until it has ended, well. Return what it printed."""
        try:
            out, err = self.process.communicate(timeout=_DEADLINE_S)
        finally:
            self.process.kill()
        assert (self.process.returncode, err) == (0, ""), err
        return out

    def kill(self) -> None:
        self.process.kill()
        self.process.communicate()


@contextlib.contextmanager
def pooler(server: Postgres, *settings: str) -> Iterator[int]:
    """Run PgBouncer in transaction mode with few sessions of *server*. Yield its port."""
    with tempfile.TemporaryDirectory(prefix="mlt-pgb-") as name, socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
        probe.close()
        home = Path(name)
        lines = [
            "[databases]",
            f"* = host=127.0.0.1 port={server.port} user=app",
            "[pgbouncer]",
            "listen_addr = 127.0.0.1",
            f"listen_port = {port}",
            "unix_socket_dir =",
            "auth_type = any",
            "pool_mode = transaction",
            "default_pool_size = 4",
            "max_client_conn = 200",
            *settings,
        ]
        (home / "pgbouncer.ini").write_text("\n".join(lines) + "\n")
        user = NOBODY if os.geteuid() == 0 else None
        if user is not None:
            shutil.chown(home, user, user)
        with (home / "log").open("wb") as log:
            process = subprocess.Popen(
                ["pgbouncer", "pgbouncer.ini"], cwd=home, stdout=log, stderr=log, user=user
            )
        try:
            _until_it_answers(port, process, home / "log")
            yield port
        finally:
            process.send_signal(signal.SIGINT)
            try:
                process.wait(timeout=5)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def _until_it_answers(port: int, process: subprocess.Popen[bytes], log: Path) -> None:
    until = time.monotonic() + 30
    while True:
        try:
            socket.create_connection(("127.0.0.1", port), timeout=2).close()
        except OSError:
            assert process.poll() is None, log.read_text()
            assert time.monotonic() < until, log.read_text()
            time.sleep(0.02)
        else:
            return


class Proxy:
    """A server of TCP between us and *port*. It can cut a session around its next COMMIT.

    ``cut`` is ``"before"`` for a COMMIT that never arrives, ``"after"`` for one without an answer.
    """

    def __init__(self, port: int) -> None:
        self._target, self._listening = port, socket.create_server(("127.0.0.1", 0))
        self.port = int(self._listening.getsockname()[1])
        self._guard, self._where, self.cuts = threading.Lock(), "", 0
        self._wants: Callable[[bytes], bool] = lambda _: True
        threading.Thread(target=self._accept, daemon=True).start()

    def cut(self, where: str, wants: Callable[[bytes], bool] = lambda _: True) -> None:
        """Cut one session at its next COMMIT of a transaction that *wants* lets through."""
        with self._guard:
            self._where, self._wants = where, wants

    def moves(self, port: int) -> None:
        """Let new sessions go to another *port*."""
        self._target = port

    def close(self) -> None:
        self._listening.close()

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listening.accept()
            except OSError:
                return
            try:
                server = socket.create_connection(("127.0.0.1", self._target))
            except OSError:
                client.close()
                continue
            deaf = threading.Event()
            for run in (self._forth, self._back):
                threading.Thread(target=run, args=(client, server, deaf), daemon=True).start()

    def _forth(self, client: socket.socket, server: socket.socket, deaf: threading.Event) -> None:
        said = b""
        with contextlib.suppress(OSError):
            while data := client.recv(1 << 16):
                said, where = said + data, ""
                if b"COMMIT" in data:
                    where, said = self._taken(said), b""
                if where == "before":
                    break
                if where == "after":
                    deaf.set()
                server.sendall(data)
                if where == "after":
                    return  # the answer ends it
        _end(client, server)

    def _back(self, client: socket.socket, server: socket.socket, deaf: threading.Event) -> None:
        with contextlib.suppress(OSError):
            while (data := server.recv(1 << 16)) and not deaf.is_set():
                client.sendall(data)
        _end(client, server)

    def _taken(self, data: bytes) -> str:
        with self._guard:
            if not self._where or not self._wants(data):
                return ""
            where, self._where = self._where, ""
            self.cuts += 1
            return where


def _end(*sockets: socket.socket) -> None:
    for each in sockets:
        with contextlib.suppress(OSError):
            each.shutdown(socket.SHUT_RDWR)
        each.close()


def fast(server: Postgres) -> None:
    """Restart the server as its administrator does."""
    assert server.process is not None
    server.process.send_signal(signal.SIGINT)
    server.process.wait(timeout=60)
    server.start()


def immediate(server: Postgres) -> None:
    """End the server without its last checkpoint, and start it."""
    server.end()
    server.start()


def postmaster(server: Postgres) -> None:
    """Kill the first process of the server. The others end when they notice."""
    assert server.process is not None
    server.process.kill()
    server.process.wait(timeout=60)
    until = time.monotonic() + 60
    while True:
        try:
            server.start()
        except RuntimeError:  # its old processes still hold the shared memory
            assert time.monotonic() < until
            time.sleep(0.1)
        else:
            return


def backend(server: Postgres) -> None:
    """Kill the process of a writer. The server ends all others, and recovers."""
    with psycopg.connect(server.dsn("postgres"), autocommit=True) as session:
        found = session.execute(
            "SELECT pid FROM pg_stat_activity WHERE application_name = 'mltrigger'"
            " ORDER BY query LIKE '%%mark%%' DESC, random() LIMIT 1"
        ).fetchall()
        for (pid,) in found:
            os.kill(pid, signal.SIGKILL)
    wait_until(server.answers)
