"""Combining: writes of several threads of a process become one commit.

The thread with the first item waits for the write lock, and writes for all that wait. The others
wait until that is durable. An item stays in the queue until the commit of its batch is there. So a
writer that is interrupted loses nothing of others.
"""

from __future__ import annotations

import abc
import contextlib
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager
from typing import Any

from mltrigger.broker import Finding
from mltrigger.errors import StoreError
from mltrigger.store.transaction import G, T, Transaction

MOST = 64
"""The most items of one commit."""
REPEATS = 3
"""How often an item is written again whose session was cut."""
LOOK_S = 0.05
"""A waiting thread looks again after so long. Its writer may have been interrupted."""

Together = Callable[[Transaction, Sequence[Any]], Sequence[Any]]


class Commit:
    """A commit, of one transaction or of many items. Its number is 0 until it is visible.

    ``since_s`` is the monotonic time of the first wait for it.
    """

    __slots__ = ("has_begun", "is_asked", "number", "since_s")

    def __init__(self, since_s: float | None = None) -> None:
        self.since_s = time.monotonic() if since_s is None else since_s
        self.has_begun = self.is_asked = False
        self.number = 0


class Item:
    """One caller's part of an action, and its result or error."""

    __slots__ = (
        "_bell",
        "action",
        "commit",
        "error",
        "given",
        "is_suspect",
        "is_withdrawn",
        "result",
        "since_s",
        "transaction",
    )

    def __init__(self, action: Together, given: Any) -> None:
        self.action, self.given, self.since_s = action, given, time.monotonic()
        self.commit: Commit | None = None
        self.error: Exception | None = None
        self.is_withdrawn = self.is_suspect = False
        self.result: Any = None
        self.transaction: Transaction | None = None
        self._bell = threading.Lock()
        self._bell.acquire()

    @property
    def is_done(self) -> bool:
        """Whether it is visible, or has failed."""
        return self.error is not None or (self.commit is not None and self.commit.number > 0)

    @property
    def may_run(self) -> bool:
        """Whether any thread may write it now."""
        return not (self.is_done or self.is_withdrawn or self.is_suspect)

    def wait(self) -> None:
        """Wait for :meth:`call`, but not for long."""
        self._bell.acquire(timeout=LOOK_S)

    def call(self) -> None:
        """End the wait of its owner, or the next one."""
        with contextlib.suppress(RuntimeError):  # called before
            self._bell.release()


def run(items: Sequence[Item], transaction: Transaction, commit: Commit) -> None:
    """Write *items* within *transaction*. They are done when *commit* is."""
    alike: dict[Together, list[Item]] = {}
    for item in items:
        alike.setdefault(item.action, []).append(item)
    for action, group in alike.items():
        for item in group:
            item.is_suspect = True  # if nothing comes back, only its owner runs it again
        results = action(transaction, [item.given for item in group])
        for item, result in zip(group, results, strict=True):
            item.result, item.transaction, item.commit = result, transaction, commit
            item.is_suspect = False


class Queue:
    """The items that wait. Only :meth:`batches` needs the write lock of the store."""

    def __init__(self) -> None:
        self._items: deque[Item] = deque()
        self._crowd = 0
        """The items of the last batch, 0 for one."""

    def add(self, item: Item) -> None:
        """Let *item* wait."""
        self._items.append(item)

    def is_first(self, own: Item) -> bool:
        """Whether *own* is the first item whose thread can write."""
        for item in self._items.copy():  # at once: others add meanwhile
            if item is own:
                return True
            if item.may_run:
                return False
        return True

    def call_next(self) -> None:
        """Call the owner of the first item that waits. It may be its turn to write."""
        if len(self._items) > 1:
            for item in self._items.copy():
                if item.may_run:
                    item.call()
                    return

    def batches(self, own: Item) -> Iterable[list[Item]]:
        """Return the items to write now, at least *own*. They stay until they are done."""
        items = self._items
        while items and (items[0].is_withdrawn or items[0].is_done):
            items.popleft()
        for _ in range(self._crowd):
            if len(items) >= self._crowd:
                break
            time.sleep(0)  # those of the last batch may be about to come again
        waiting = [own]
        if len(items) > 1:
            waiting += [item for item in items.copy() if item is not own and item.may_run]
        self._crowd = len(waiting) if len(waiting) > 1 else 0
        return [waiting[at : at + MOST] for at in range(0, len(waiting), MOST)]


class Combined(abc.ABC):
    """The writes of a store: one transaction of the process at a time, shared by its threads.

    A store says how it locks, begins, commits and undoes.
    """

    driver_error: type[Exception]
    """The base of the errors of its database."""
    location: str | None
    """The file of the store, if it has one."""
    hides_data = False
    """Whether this user may not read the data and the extensions of events."""
    only_reads = False
    """Whether this user may not change a subscription."""
    visible_first = True
    """Whether listeners may begin with a commit that is not durable yet."""

    def __init__(self) -> None:
        self._owner: int | None = None
        self._queue = Queue()

    @property
    def is_shared(self) -> bool:
        """Whether other processes can open the store."""
        return self.location is not None

    @property
    def home(self) -> str:
        """A name that differs between stores, the same in all processes."""
        return self.location or f"memory:{id(self)}"

    def findings(self) -> Iterable[Finding]:
        """Return nothing: a file has no server. See :class:`Store`."""
        return ()

    @contextlib.contextmanager
    def transaction(self, durable: bool = True) -> Iterator[Transaction]:
        """Begin a write transaction, see :class:`~mltrigger.store.transaction.Store`."""
        commit = Commit()
        with self._holding(), self._committing(commit):
            transaction = self._transaction()
            yield transaction
        if self.visible_first:
            transaction.visible()
        self._await(commit, durable)
        transaction.visible()
        transaction.committed()

    def write(self, action: Callable[[Transaction, Sequence[G]], Sequence[T]], given: G) -> T:
        """Write with others in one commit, see :class:`~mltrigger.store.transaction.Store`."""
        result: T = self._share(Item(action, given))
        return result

    # -- said by each store ------------------------------------------------------------------------

    @abc.abstractmethod
    def _holding(self) -> AbstractContextManager[None]:
        """Hold the write lock of this process, and set ``_owner`` to the thread."""

    @abc.abstractmethod
    def _check_open(self) -> None:
        """Raise an error if the store is closed."""

    @abc.abstractmethod
    def _transaction(self) -> Transaction:
        """Return the transaction that has begun."""

    @abc.abstractmethod
    def _begin(self, commit: Commit) -> None: ...

    @abc.abstractmethod
    def _commit(self, commit: Commit) -> None: ...

    @abc.abstractmethod
    def _undo(self, commit: Commit, error: BaseException) -> None:
        """Roll back, unless it is committed. Ctrl-C may have come after the commit."""

    @abc.abstractmethod
    def _await(self, commit: Commit, durable: bool) -> None:
        """Return when *commit* is as durable as it should be. The write lock is not held."""

    @abc.abstractmethod
    def _failed(self, error: Exception) -> StoreError:
        """Return the error that explains an *error* of the database."""

    # -- the same for all --------------------------------------------------------------------------

    def _check_free(self) -> None:
        """Raise an error where a wait for the write lock would never end."""
        self._check_open()
        if self._owner == threading.get_ident():
            raise RuntimeError(
                "a transaction inside one of the same thread would wait for itself for ever: pass"
                " the unit on"
            )

    @contextlib.contextmanager
    def _committing(self, commit: Commit) -> Iterator[None]:
        """Begin a transaction, and commit it at the end of the block. The write lock is held."""
        try:
            self._begin(commit)
            yield
            self._commit(commit)
        except BaseException as error:
            self._undo(commit, error)
            raise

    def _share(self, own: Item) -> Any:
        """Write *own* with the items of other threads. One thread writes for all."""
        self._check_free()
        queue, batch = self._queue, list[Item]()
        try:
            queue.add(own)
            while not own.is_done:
                if queue.is_first(own):
                    self._lead(own, batch)
                else:
                    own.wait()
            queue.call_next()  # it need not wait for our sync
            for item in batch or [own]:
                if self.visible_first and item.error is None and item.transaction is not None:
                    item.transaction.visible()
            if own.error is not None:
                raise own.error
            assert own.commit is not None  # noqa: S101 - it is done
            assert own.transaction is not None  # noqa: S101
            self._await(own.commit, durable=True)
        finally:
            own.is_withdrawn = True
            for item in batch:
                if item is not own:
                    item.call()
            queue.call_next()
        own.transaction.visible()
        own.transaction.committed()
        return own.result

    def _lead(self, own: Item, batch: list[Item]) -> None:
        """Write all that waits. Add it to *batch*: those who wait for it are to be called."""
        with self._holding():
            if not own.is_done:
                for part in self._queue.batches(own):
                    batch += part
                    self._write_all(part)

    def _may_repeat(self, error: Exception) -> bool:
        """Whether the same may succeed now: the session was cut, and nothing is there."""
        return False

    def _write_all(self, batch: Sequence[Item], repeats: int = REPEATS) -> None:
        """Write *batch* as one commit. If an item fails, write each alone."""
        commit = Commit(min(item.since_s for item in batch))
        try:
            self._write_together(batch, commit)
        except BaseException as error:
            self._undo(commit, error)
            if not isinstance(error, Exception):
                raise
            again = repeats > 0 and self._may_repeat(error)
            if commit.has_begun and (len(batch) > 1 or again):
                for item in batch:
                    self._write_all([item], repeats - again)
                return
            failed = self._failed(error) if isinstance(error, self.driver_error) else error
            for item in batch:
                item.error = failed

    def _write_together(self, batch: Sequence[Item], commit: Commit) -> None:
        """Write *batch* in a transaction of its own."""
        self._begin(commit)
        run(batch, self._transaction(), commit)
        self._commit(commit)
