"""Combining: writes of several threads become one commit.

The thread with the first item waits for the write lock, and writes for all that wait. The others
wait until that is durable. An item stays in the queue until the commit of its batch is there. So a
writer that is interrupted loses nothing of others.
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from mltrigger.store.transaction import Transaction

MOST = 64
"""The most items of one commit."""
LOOK_S = 0.05
"""A waiting thread looks again after so long. Whoever wrote for it may have been interrupted."""

Together = Callable[[Transaction, Sequence[Any]], Sequence[Any]]


class Commit:
    """A commit, of one transaction or of many items. Its number is 0 until it is visible."""

    __slots__ = ("has_begun", "is_asked", "number")

    def __init__(self) -> None:
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
        "transaction",
    )

    def __init__(self, action: Together, given: Any) -> None:
        self.action, self.given = action, given
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
