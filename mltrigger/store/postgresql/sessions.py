"""Sessions with a server: how they are opened, and which of them are idle.

Settings of a session come as start-up options. A pooler such as PgBouncer refuses those, and gives
each transaction another session. There the same settings come with each transaction.
"""

from __future__ import annotations

import contextlib
import os
import re
import threading
from collections.abc import Iterator, Mapping
from typing import Any

import psycopg
from psycopg.conninfo import conninfo_to_dict
from psycopg.pq import TransactionStatus

from mltrigger.store.postgresql.dialect import adapted

Session = psycopg.Connection[Any]

_PAUSED_S = 5
"""The server ends a transaction of a process that was paused in the middle of it for so long."""
_MOST_IDLE = 4
_CONNECT_S = 10
_NEVER = 1 << 30
_SETTINGS = {
    # not those of the administrator: a writer waits for others, and a reader may read all
    "statement_timeout": "0",
    "lock_timeout": "0",
    "idle_in_transaction_session_timeout": f"{_PAUSED_S}s",
    "default_transaction_isolation": "read committed",
    "standard_conforming_strings": "on",
    "jit": "off",
    "TimeZone": "UTC",
    "DateStyle": "ISO",
    "extra_float_digits": "1",
}
_LATER_SETTINGS = {140_000: "idle_session_timeout", 170_000: "transaction_timeout"}
"""Other limits of time, and the versions of the server that have them first."""
_REFUSED = re.compile("unsupported startup parameter|startup parameter", re.IGNORECASE)
_ARRIVED = """
SELECT current_setting('search_path'), current_setting('idle_in_transaction_session_timeout')
"""
_left_to_parents: list[Any] = []
"""Sessions of a parent process. Their sockets are shared with it, so nothing is said there."""


class Sessions:
    """Opens sessions with one schema of one database.

    A process keeps at most eight: one each to write, to flush, to listen and to notify, and four
    for readers. More threads that read at the same time have more for that moment.

    Parameters
    ----------
    conninfo : str
        As libpq has it: a URL or words. Missing parts come from ``PG*`` and ``.pgpass``.
    schema : str
        The schema of the tables.
    """

    def __init__(self, conninfo: str, schema: str) -> None:
        given = conninfo_to_dict(conninfo)
        defaults: Mapping[str, Any] = {
            "application_name": "mltrigger",
            "connect_timeout": _CONNECT_S,
            "target_session_attrs": "read-write",  # of several hosts, the one that leads
            "keepalives_idle": 10,
            "keepalives_interval": 5,
            "keepalives_count": 3,
            "tcp_user_timeout": 30_000,
        }
        self._words = {**defaults, **given, "client_encoding": "UTF8"}
        self._settings = {**_SETTINGS, "search_path": f'"{schema}"'}
        self._version = 0
        self.schema = schema
        self.is_pooled = False
        """Whether a pooler is in between: no setting, lock or statement outlives a transaction."""
        self._idle: list[Session] = []
        self.adapters, self.connection = adapted(), None  # as psycopg's AdaptContext
        self._guard = threading.Lock()

    @property
    def local(self) -> str:
        """The statements that a transaction begins with behind a pooler."""
        if not self.is_pooled:
            return ""
        return "".join(f"SET LOCAL {name} TO {_quoted(v)};" for name, v in self._settings.items())

    def open(self) -> Session:
        """Open a session in which each statement commits by itself.

        Raises
        ------
        psycopg.OperationalError
            When there is no server, or it does not let us in.
        """
        if not self.is_pooled:
            options = " ".join(
                f"-c {name}={_escaped(value)}" for name, value in self._settings.items()
            )
            with_settings = f"{self._words.get('options') or ''} {options}".strip()
            try:
                session = self._opened(options=with_settings)
            except psycopg.OperationalError as error:
                if not _REFUSED.search(str(error)):
                    raise
            else:
                if self._is_set(session):
                    return self._known(session)
                session.close()  # a pooler that ignores the options
            self.is_pooled = True
        return self._known(self._opened())

    def home(self, session: Session) -> str:
        """Return the name of the schema and its server, the same in all processes with one URL.

        Of several hosts all are named: the one that leads changes.
        """
        info = session.info
        host = self._words.get("host") or os.environ.get("PGHOST") or info.host
        port = self._words.get("port") or os.environ.get("PGPORT") or info.port
        return f"postgresql:{host}:{port}/{info.dbname}#{self.schema}"

    def _known(self, session: Session) -> Session:
        """Return *session*, with the settings that only the version of its server has."""
        if self._version != session.info.server_version:
            self._version = session.info.server_version
            more = {n: "0" for since, n in _LATER_SETTINGS.items() if self._version >= since}
            self._settings = {
                **{n: v for n, v in self._settings.items() if n not in _LATER_SETTINGS.values()},
                **more,
            }
            if not self.is_pooled:
                session.execute("".join(f"SET {name} TO {v};" for name, v in more.items()))
        return session

    def _opened(self, **more: Any) -> Session:
        return psycopg.connect(
            **{**self._words, **more},
            autocommit=True,
            # Only statements that ask for it are prepared, and behind a pooler none.
            prepare_threshold=None if self.is_pooled else _NEVER,
            cursor_factory=psycopg.ClientCursor,
            context=self,
        )

    def _is_set(self, session: Session) -> bool:
        """Whether the options have arrived. A pooler may hand on some of them."""
        return session.execute(_ARRIVED).fetchone() == (
            self._settings["search_path"],
            self._settings["idle_in_transaction_session_timeout"],
        )

    # -- readers -----------------------------------------------------------------------------------

    @contextlib.contextmanager
    def reading(self, begin: str = "", then: str = "") -> Iterator[Session]:
        """Lend a session for reading. *begin* begins a transaction, and it ends with the block.

        *then* is its second statement. A session that was cut while it was idle is replaced.
        """
        session = self._lent(begin, then)
        try:
            yield session
            if session.info.transaction_status is not TransactionStatus.IDLE:
                session.execute("COMMIT")
        except BaseException:
            self._dropped(session)
            raise
        self._back(session)

    def _lent(self, begin: str, then: str) -> Session:
        while True:
            with self._guard:
                idle = self._idle.pop() if self._idle else None
            session = idle or self.open()
            if session.closed:
                continue
            try:
                if begin or self.is_pooled:  # known at the latest now: the address may have moved
                    session.execute(f"{begin or 'BEGIN'};{self.local}{then}")
            except psycopg.OperationalError:
                self._dropped(session)
                if idle is None:
                    raise
                continue
            return session

    def _back(self, session: Session) -> None:
        with self._guard:
            if len(self._idle) < _MOST_IDLE and not session.closed:
                self._idle.append(session)
                return
        session.close()

    def _dropped(self, session: Session) -> None:
        with contextlib.suppress(psycopg.Error):
            session.close()

    def close(self) -> None:
        """Close the idle sessions."""
        with self._guard:
            idle, self._idle = self._idle, []
        for session in idle:
            self._dropped(session)

    def forked(self, *sessions: Session | None) -> None:
        """Leave *sessions* and the idle ones to the parent process."""
        self._guard = threading.Lock()
        _left_to_parents.extend([*sessions, *self._idle])
        self._idle = []


def _escaped(value: str) -> str:
    return value.replace("\\", "\\\\").replace(" ", "\\ ")


def _quoted(value: str) -> str:
    return value if value.startswith('"') else "'" + value.replace("'", "''") + "'"
