"""Combining: writes of several threads become one commit.

The thread that holds the write lock writes for all that wait. An item stays in the queue until the
commit of its batch is there. So a writer that is interrupted loses nothing of others.
"""

from __future__ import annotations

import itertools
from collections import deque
from collections.abc import Callable
from typing import Any

from mltrigger.store.transaction import Transaction

MOST = 64
"""The most items of one commit."""


class Commit:
    """A commit, of one transaction or of many items. Its number is 0 until it is visible."""

    __slots__ = ("has_begun", "is_asked", "number")

    def __init__(self) -> None:
        self.has_begun = self.is_asked = False
        self.number = 0


class Item:
    """One caller's action, and its result or error."""

    __slots__ = (
        "_action",
        "commit",
        "error",
        "is_suspect",
        "is_withdrawn",
        "result",
        "transaction",
    )

    def __init__(self, action: Callable[[Transaction], Any]) -> None:
        self._action = action
        self.commit: Commit | None = None
        self.error: Exception | None = None
        self.is_withdrawn = self.is_suspect = False
        self.result: Any = None
        self.transaction: Transaction | None = None

    @property
    def is_done(self) -> bool:
        """Whether it is visible, or has failed."""
        return self.error is not None or (self.commit is not None and self.commit.number > 0)

    @property
    def may_run(self) -> bool:
        """Whether any thread may write it now."""
        return not (self.is_done or self.is_withdrawn or self.is_suspect)

    def run(self, transaction: Transaction, commit: Commit) -> None:
        """Write within *transaction*. It is done when *commit* is."""
        self.is_suspect = True  # if nothing comes back from here, only its owner runs it again
        self.result = self._action(transaction)
        self.transaction, self.commit, self.is_suspect = transaction, commit, False


class Queue:
    """The items that wait. Adding needs no lock, all else the write lock of the store."""

    def __init__(self) -> None:
        self._items: deque[Item] = deque()

    def add(self, item: Item) -> None:
        """Let *item* wait."""
        self._items.append(item)

    def batch(self, own: Item) -> list[Item]:
        """Return the items to write now, at least *own*. They stay until they are done."""
        while self._items and (self._items[0].is_done or self._items[0].is_withdrawn):
            self._items.popleft()
        waiting = list(itertools.islice(self._items, MOST))  # at once: others add meanwhile
        return [own, *(item for item in waiting if item is not own and item.may_run)]
