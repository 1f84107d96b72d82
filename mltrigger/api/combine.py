"""Combining: requests that publish at the same time share a commit."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import NamedTuple

from mltrigger.api.service import aside
from mltrigger.broker import Receipt
from mltrigger.event.event import Event

MOST_EVENTS = 1_000
"""The most events of one commit."""

Publish = Callable[[str, Sequence[Event]], Sequence[Receipt]]


class _Waiting(NamedTuple):
    topic: str
    events: Sequence[Event]
    receipts: asyncio.Future[Sequence[Receipt]]


class Combiner:
    """Publishes for many requests. Those that come during a commit share the next one.

    Parameters
    ----------
    publish : callable
        Publishes events on a topic, all or nothing.
    commits : int
        How many may be under way. One is best for a store with one writer.
    """

    def __init__(self, publish: Publish, commits: int = 1) -> None:
        self._publish, self._free = publish, commits
        self._waiting: list[_Waiting] = []
        self._running: set[asyncio.Task[None]] = set()

    async def publish(self, topic: str, events: Sequence[Event]) -> Sequence[Receipt]:
        """Publish *events*, all or nothing. Return when they are durable."""
        receipts: asyncio.Future[Sequence[Receipt]] = asyncio.get_running_loop().create_future()
        self._waiting.append(_Waiting(topic, events, receipts))
        if self._free > 0:
            self._free -= 1
            task = asyncio.create_task(self._run())
            self._running.add(task)
            task.add_done_callback(self._running.discard)
        return await receipts

    async def _run(self) -> None:
        try:
            while self._waiting:
                await self._commit(self._next())
        finally:
            self._free += 1

    def _next(self) -> list[_Waiting]:
        """Take the requests of the next commit: of one topic, the oldest first."""
        topic, count = self._waiting[0].topic, 0
        taken: list[_Waiting] = []
        left: list[_Waiting] = []
        for each in self._waiting:
            if each.topic == topic and (not taken or count + len(each.events) <= MOST_EVENTS):
                taken.append(each)
                count += len(each.events)
            else:
                left.append(each)
        self._waiting = left
        return taken

    async def _commit(self, taken: list[_Waiting]) -> None:
        events = [event for each in taken for event in each.events]
        try:
            receipts = await aside(self._publish, taken[0].topic, events)
        except Exception as error:
            if len(taken) == 1:
                _tell(taken[0], error)
                return
            for each in taken:  # one of them is refused: the others must not suffer
                await self._commit([each])
            return
        for each in taken:
            _tell(each, receipts[: len(each.events)])
            receipts = receipts[len(each.events) :]


def _tell(waiting: _Waiting, result: Sequence[Receipt] | Exception) -> None:
    if waiting.receipts.done():  # its caller has gone
        return
    if isinstance(result, Exception):
        waiting.receipts.set_exception(result)
    else:
        waiting.receipts.set_result(result)
