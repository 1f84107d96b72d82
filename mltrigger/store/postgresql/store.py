"""PostgreSQL as a store: one writer at a time, shared commits, one flush for many of them.

Writers take an advisory lock of the schema. So numbers become visible in their order, and a cursor
passes no event. They hold it for as long as their statements take. The disk is waited for later,
outside the lock. Readers take no lock and do not wait.
"""

from __future__ import annotations

import contextlib
import math
import os
import random
import threading
import time
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NoReturn

import psycopg
from psycopg.errors import CheckViolation, UniqueViolation
from psycopg.pq import TransactionStatus

from mltrigger.broker import Finding
from mltrigger.clock import Clock
from mltrigger.errors import Closed, StoreError
from mltrigger.store import tables
from mltrigger.store.combining import Combined, Commit, Item, Together
from mltrigger.store.patience import hurries
from mltrigger.store.postgresql import SCHEMA, condition, lives, partitions, schema, statements
from mltrigger.store.postgresql.dialect import translated
from mltrigger.store.postgresql.flush import Flush, Lost
from mltrigger.store.postgresql.partitions import Partitions
from mltrigger.store.postgresql.servertime import ServerKeeper, ServerTime
from mltrigger.store.postgresql.sessions import Session, Sessions
from mltrigger.store.postgresql.transaction import PostgresTransaction, SessionDriver
from mltrigger.store.postgresql.trouble import is_away, is_cut, lost, said
from mltrigger.store.topics import Topics
from mltrigger.store.transaction import Reader, Row, Transaction
from mltrigger.store.vocabulary import Vocabulary

BUSY_S = 30.0
"""How long a caller waits for a server that is away, before StoreError."""
_OPEN_S = 5.0
"""So long at the first time, when the URL may be wrong."""
_FIRST_S, _LONGEST_S = 0.01, 1.0
"""The first and the longest pause between two tries."""
_DOUBTS = 64
"""So many writes check for known events, after one has met some."""


class PostgresStore(Combined):
    """A schema of a PostgreSQL database.

    Parameters
    ----------
    conninfo : str
        As libpq has it.
    schema_name : str
        The schema of the tables. It is made if it is not there.
    sleep : callable
        Waits. Passed in for tests.
    """

    driver_error = psycopg.Error
    location: str | None = None
    by_columns, hold_s, is_shared, home = True, 0.05, True, ""

    def __init__(
        self,
        conninfo: str,
        schema_name: str = SCHEMA,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        super().__init__()
        self.sessions, self._sleep = Sessions(conninfo, schema_name), sleep
        self._give_up_s, self._closed = math.inf, False
        self.vocabulary, self.topics, self.time = Vocabulary(), Topics(), ServerTime()
        self._fresh()
        try:
            self._patiently(self._prepare, time.monotonic() - BUSY_S + _OPEN_S)
        except psycopg.Error as error:
            raise self._failed(error) from error

    def _fresh(self) -> None:
        """Begin without sessions: for the first time, or in a forked child."""
        self._pid, self._lock = os.getpid(), threading.Lock()
        self._writer: Session | None = None
        self._token, self._number = str(uuid.uuid4()), 0
        self._kept = 0  # the first mark that may still be there
        self._current: PostgresTransaction | None = None
        self._doubts, self._is_hopeful = 0, False
        self._first: dict[Together, str | None] = {}
        self._foreseen: str | None = None
        self._answer: tuple[str, list[Row]] | None = None
        self._next_row, self._life = 1, lives.NONE
        self._partitions = Partitions()
        self._flush = Flush(self.sessions, self._patiently, self._token)

    def _prepare(self) -> None:
        with self.sessions.reading() as session:  # the first reader has it then
            self.description = f"PostgreSQL, database {session.info.dbname}"
            if self.sessions.schema != SCHEMA:
                self.description += f", schema {self.sessions.schema}"
            self.home = self.sessions.home(session)
            schema.check_encoding(session)
            schema.create(session, self.sessions.schema)
            of = [self.sessions.schema] * 3
            (standing,) = session.execute(schema.STANDING, of).fetchall()
            self._key, self.hides_data, self.only_reads = standing
            self._flush.life = lives.now(session, self.sessions.schema)

    def make_durable(self) -> None:
        """Return when all that is visible now is on the disk. See :class:`Store`."""
        self._check_open()
        try:
            self._flush.force()
        except Lost as lost:
            raise StoreError(f"store {self.description}: {statements.CRASHED}") from lost
        except psycopg.Error as error:
            raise self._failed(error) from error

    def read(self, sql: str, parameters: Mapping[str, Any] | None = None) -> list[Row]:
        """Return the rows of *sql*. A reader sees the last commit, and never waits."""
        return self._looked(lambda s: SessionDriver(s).execute(sql, parameters or {}).fetchall())

    def _looked(self, look: Callable[[Session], list[Row]]) -> list[Row]:
        """Return the rows that *look* finds, as soon as the server answers."""
        self._check_open()
        found: list[Row] = []

        def once() -> None:
            with self.sessions.reading() as session:
                found[:] = look(session)

        try:
            self._patiently(once)
        except psycopg.Error as error:
            raise self._failed(error) from error
        return found

    def timekeeper(self, clock: Clock) -> ServerKeeper:
        """Return the part that keeps *clock* to the time of the server."""
        return self.time.keeper(clock)

    def version(self) -> object:
        """Return a value that differs after each commit. Call it from one thread at a time."""
        sent_ns = time.monotonic_ns()
        ((number, life, server_us),) = self.read(statements.VERSION)
        self.time.seen(server_us, sent_ns // 1000, time.monotonic_ns() // 1000)
        return number, life

    def give_up(self, at_s: float) -> None:
        """Let no writer wait beyond the monotonic time *at_s*: the store is about to close."""
        self._give_up_s = at_s

    @contextlib.contextmanager
    def snapshot(self) -> Iterator[Reader]:
        """Begin a look at one moment, see :class:`~mltrigger.store.transaction.Store`."""
        self._check_open()
        try:
            with contextlib.ExitStack() as stack:
                lent, looks = list[Session](), statements.LOOK
                self._patiently(
                    lambda: lent.append(stack.enter_context(self.sessions.reading(*looks)))
                )
                yield Transaction(self, SessionDriver(lent[0]))
        except psycopg.Error as error:
            raise self._failed(error) from error

    def copy(self, to: object) -> NoReturn:
        """Raise StoreError: the programs of PostgreSQL copy a database."""
        raise StoreError(
            "a bus on PostgreSQL has no file to copy: call pg_dump --schema="
            f"{self.sessions.schema} for a backup, and pg_restore to read it"
        )

    def spans(self, table: str, last: int) -> list[tuple[int, int]]:
        """Return the old partitions, see :class:`~mltrigger.store.transaction.Store`."""
        old = partitions.old_lots if table == "lot" else partitions.old_events
        return self._looked(lambda session: old(session, last))

    def shed(
        self, transaction: Transaction, table: str, span: tuple[int, int], kept: Sequence[int]
    ) -> dict[str, int]:
        """Drop a partition, see :class:`~mltrigger.store.transaction.Store`."""
        assert self._writer is not None  # noqa: S101 - within a transaction
        return partitions.shed(self._writer, table, *span, kept)

    def tidy(self) -> None:
        """Do nothing: the server gives space back itself."""

    def lost(self) -> tuple[str, str] | None:
        """Return why nothing can be stored, see :class:`~mltrigger.store.transaction.Store`."""
        return lost(self.sessions)

    def findings(self) -> list[Finding]:
        """Return the findings of the doctor about the server."""
        try:
            return list(condition.findings(self.sessions))
        except psycopg.Error as error:
            raise self._failed(error) from error

    def close(self) -> None:
        """Close the sessions."""
        if self._closed or os.getpid() != self._pid:
            return
        self.give_up(min(self._give_up_s, time.monotonic()))
        self._closed = True
        with self._lock:
            self._drop_writer()
            self._flush.close()
            self.sessions.close()

    # -- the write lock ----------------------------------------------------------------------------

    def _check_open(self) -> None:
        if self._closed:
            raise Closed("the store was closed: connect again")
        if os.getpid() != self._pid:
            self.sessions.forked(self._writer, self._flush.session)
            super().__init__()
            self._fresh()

    def _transaction(self) -> Transaction:
        assert self._writer is not None  # noqa: S101 - it has begun
        self._current = PostgresTransaction(
            self,
            self._writer,
            self._partitions,
            self._next_row,
            self._is_hopeful,
            self._answer,
        )
        return self._current

    def _write_together(self, batch: Sequence[Item], commit: Commit) -> None:
        """Write *batch*, in the hope that all events are new.

        The first query of an action is foreseen: it was the same the last time. Under the lock each
        journey to the server counts.
        """
        action, self._is_hopeful = batch[0].action, self._doubts == 0
        self._foreseen = self._first.get(action)
        self._doubts = max(0, self._doubts - 1)
        try:
            super()._write_together(batch, commit)
        except UniqueViolation as error:
            if not self._is_hopeful:
                raise
            self._undo(commit, error)
            commit.is_asked, self._is_hopeful, self._doubts = False, False, _DOUBTS
            super()._write_together(batch, commit)
        finally:
            if self._current is not None:
                self._first[action] = self._current.first
            self._foreseen, self._is_hopeful = None, False

    @contextlib.contextmanager
    def _holding(self) -> Iterator[None]:
        self._check_free()
        try:
            with self._lock:
                try:
                    self._owner = threading.get_ident()
                    yield
                finally:
                    self._owner = None
        except psycopg.Error as error:
            raise self._failed(error) from error

    def _begin(self, commit: Commit) -> None:
        self._patiently(self._try_to_begin, commit.since_s)
        commit.has_begun = True

    def _try_to_begin(self) -> None:
        writer = self._writer
        if writer is None or writer.closed:
            writer = self._writer = self.sessions.open()
        sent_ns, foreseen, self._answer = time.monotonic_ns(), self._foreseen, None
        try:
            begin = statements.begin(self.sessions.local, self._key)
            cursor = writer.execute(f"{begin};{translated(foreseen)}" if foreseen else begin)
            for _ in range(begin.count(";")):
                cursor.nextset()
            ((version, server_us, self._next_row, life),) = cursor.fetchall()
            if foreseen and cursor.nextset():
                self._answer = foreseen, cursor.fetchall()
        except psycopg.OperationalError:
            self._drop_writer()
            raise
        if version != tables.VERSION:
            raise schema.refused(version)
        if life != self._life or life is None:
            self._begin_anew(writer, life)
        self.time.seen(server_us, sent_ns // 1000, time.monotonic_ns() // 1000)

    def _begin_anew(self, writer: Session, life: uuid.UUID | None) -> None:
        """Forget the rows that this process has kept. A crash may have undone some of them."""
        self.vocabulary, self.topics = Vocabulary(), Topics()
        self._partitions, self._answer = Partitions(), None
        if life is None:
            lives.renew(writer)
            self._patiently(self._try_to_begin)
            return
        self._life = self._flush.life = life  # what is read from now on is of this life

    def _commit(self, commit: Commit) -> None:
        self._number += 1
        commit.is_asked, self._flush.asked = True, self._number
        writer, number = self._writer, self._number
        assert writer is not None  # noqa: S101
        try:
            pending = self._current.pending() if self._current is not None else ""
            kept = self._kept, self._flush.synced
            mark, self._kept = statements.mark(self._token, number, *kept)
            writer.execute(f"{pending}{mark}; COMMIT")
        except psycopg.OperationalError:
            if not self._has_mark(number):
                raise
        self._counted(commit)

    def _counted(self, commit: Commit) -> None:
        commit.number = self._flush.written = self._number

    def _has_mark(self, number: int) -> bool:
        """Whether a commit of which the server said nothing is there. It may still be under way.

        That one holds the lock, so the look comes after it.
        """
        self._drop_writer()
        self._patiently(self._try_to_begin)
        assert self._writer is not None  # noqa: S101
        look = statements.HAS_MARK.format(token=self._token, number=number)
        found = self._writer.execute(look).fetchone()
        self._writer.execute("ROLLBACK")
        return found is not None

    def _may_repeat(self, error: Exception) -> bool:
        # a crash may have undone a partition, and a pooler have hidden the crash
        lacks_partition = isinstance(error, CheckViolation) and "no partition" in str(error)
        return lacks_partition or (isinstance(error, psycopg.Error) and is_cut(error))

    def _undo(self, commit: Commit, error: BaseException) -> None:
        self._partitions = Partitions()  # those that were made are gone
        writer = self._writer
        status = TransactionStatus.UNKNOWN if writer is None else writer.info.transaction_status
        if status is TransactionStatus.IDLE and commit.is_asked and not commit.number:
            if not isinstance(error, Exception) and self._has_mark(self._number):
                self._counted(commit)
            return
        if writer is None or status is TransactionStatus.IDLE:
            return
        try:
            writer.execute("ROLLBACK")
        except psycopg.Error:
            self._drop_writer()

    def _drop_writer(self) -> None:
        self._partitions = Partitions()  # a crash may have undone the newest ones
        writer, self._writer = self._writer, None
        if writer is not None:
            with contextlib.suppress(psycopg.Error):
                writer.close()

    # -- the server --------------------------------------------------------------------------------

    def _await(self, commit: Commit, durable: bool) -> None:
        if not durable:
            return
        try:
            self._flush.wait(commit.number)
        except Lost as lost:
            self._partitions = Partitions()
            raise StoreError(f"store {self.description}: {statements.LOST}") from lost
        except psycopg.Error as error:
            raise self._failed(error) from error

    def _patiently(self, action: Callable[[], None], since_s: float | None = None) -> None:
        """Run *action* again while the server is away, for a while after *since_s*."""
        pause_s = _FIRST_S
        until_s = (time.monotonic() if since_s is None else since_s) + BUSY_S
        while True:
            try:
                action()
            except psycopg.OperationalError as error:
                left_s = min(until_s, self._give_up_s) - time.monotonic()
                if not is_away(error) or left_s <= 0 or hurries():
                    raise
                self._sleep(min(left_s, random.uniform(0, pause_s)))
                pause_s = min(2 * pause_s, _LONGEST_S)
            else:
                return

    def _failed(self, error: Exception) -> StoreError:
        if isinstance(error, psycopg.OperationalError):
            error.with_traceback(None)  # of an outage: its place in this package tells nothing
        return StoreError(f"store {getattr(self, 'description', 'PostgreSQL')}: {said(error)}")
