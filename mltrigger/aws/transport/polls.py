"""Received SQS messages, and the long polls that bring them."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from mltrigger.delivery.threads import ThreadWorkers
from mltrigger.names import FIFO

logger = logging.getLogger("mltrigger")

MOST_A_CALL = 10
"""https://docs.aws.amazon.com/AWSSimpleQueueService/latest/APIReference/API_ReceiveMessage.html"""
POLL_S = (1, 2, 5, 10, 20)
"""Seconds that a poll waits for its first message.

It waits longer after each empty poll, up to the limit of SQS, to save requests.
"""
_EXTRA_POLL_S = 1
"""A second poll serves a backlog. Without one it shall end soon."""
MOST_POLLS = 8
"""The most concurrent polls of one queue in one process."""


class Message:
    """One received message.

    It stands for one delivery. A message with several events is taken over by the log at once.

    Parameters
    ----------
    queue : str
        The URL of its queue.
    handle : str
        The receipt handle of the newest receive.
    asked_us, received_us : int
        The time of the request, from which SQS may count its twelve hours, and the time of the
        answer, from which the lease counts.
    group : str, optional
        The group whose order a FIFO queue keeps.
    lent : bool
        Whether somebody else settles it: the service of a Lambda function.
    """

    __slots__ = ("asked_us", "group", "handle", "lent", "queue", "received_us")

    def __init__(
        self,
        queue: str,
        handle: str,
        asked_us: int,
        received_us: int,
        group: str | None = None,
        lent: bool = False,
    ) -> None:
        self.queue, self.handle, self.group, self.lent = queue, handle, group, lent
        self.asked_us, self.received_us = asked_us, received_us

    def received_again(self, newer: Message) -> None:
        """Take over the handle of a *newer* receive of this message. The old handle is invalid."""
        self.handle, self.asked_us, self.received_us = (
            newer.handle,
            newer.asked_us,
            newer.received_us,
        )


class Raw(NamedTuple):
    """A message as SQS gave it, not yet parsed."""

    message: Message
    body: str
    attributes: Mapping[str, Mapping[str, Any]]
    message_id: str
    sent_us: int | None
    group: str | None


def raw(given: Mapping[str, Any], queue: str, asked_us: int, received_us: int) -> Raw:
    """Return a message of ``ReceiveMessage``."""
    system = given.get("Attributes", {})
    sent = system.get("SentTimestamp")
    group = system.get("MessageGroupId")
    ordered = group if queue.endswith(FIFO) else None
    return Raw(
        Message(queue, given["ReceiptHandle"], asked_us, received_us, ordered),
        given.get("Body", ""),
        given.get("MessageAttributes", {}),
        given["MessageId"],
        int(sent) * 1000 if sent else None,
        group,
    )


class Inlet:
    """The polls of one queue: one long poll while nothing comes, several during a backlog.

    Parameters
    ----------
    receive : callable
        Takes the most messages and the seconds to wait, and returns messages. Called in other
        threads.
    give_back : callable
        Makes unwanted messages visible again at once.
    arrived : callable
        Called when messages have come, or a poll failed.
    workers : ThreadWorkers
        The threads of the polls.
    """

    def __init__(
        self,
        receive: Callable[[int, int], list[Raw]],
        give_back: Callable[[Sequence[Raw]], None],
        arrived: Callable[[], None],
        workers: ThreadWorkers,
    ) -> None:
        self._receive, self._give_back, self._arrived, self._workers = (
            receive,
            give_back,
            arrived,
            workers,
        )
        self._guard = threading.Condition()
        self._buffer: list[Raw] = []
        self._error: Exception | None = None
        self._flying = 0
        self._asked = 0
        self._allowed = 1
        self._vain = 0
        self._left = False

    def take(self, most: int) -> list[Raw]:
        """Return up to *most* received messages, and give back the others.

        Raise the error of a failed poll.
        """
        with self._guard:
            error, self._error = self._error, None
            taken, surplus, self._buffer = self._buffer[:most], self._buffer[most:], []
        if error is not None and not taken:
            self._give_back(surplus)
            raise error
        self._give_back(surplus)
        return taken

    def untake(self, received: Sequence[Raw]) -> None:
        """Keep messages that were taken and could not be leased, for the next :meth:`take`."""
        with self._guard:
            left = self._left
            if not left:
                self._buffer = [*received, *self._buffer]
        if left:
            self._quietly_give_back(received)

    def poll_now(self, most: int) -> list[Raw]:
        """Return received messages, or ask once without waiting, in this thread."""
        found = self.take(most)
        return found or self._receive(min(most, MOST_A_CALL), 0)

    def want(self, most: int) -> None:
        """Start polls for up to *most* messages, as many as the backlog deserves."""
        with self._guard:
            self._left = False
            while (
                self._flying < self._allowed and (share := min(MOST_A_CALL, most - self._asked)) > 0
            ):
                wait_s = _EXTRA_POLL_S if self._flying else POLL_S[min(self._vain, len(POLL_S) - 1)]
                self._flying += 1
                self._asked += share
                self._submit(share, wait_s)

    def leave(self) -> None:
        """Give back received messages, and those of the running polls."""
        with self._guard:
            self._left = True
            left, self._buffer = self._buffer, []
        self._give_back(left)

    def wait_until_landed(self, timeout_s: float) -> None:
        """Wait until no poll is running, at most *timeout_s* seconds."""
        with self._guard:
            self._guard.wait_for(lambda: not self._flying, timeout_s)

    def _submit(self, share: int, wait_s: int) -> None:
        def poll() -> None:
            found: list[Raw] = []
            error: Exception | None = None
            try:
                found = self._receive(share, wait_s)
            except Exception as problem:  # raised by the next take()
                error = problem
            self._landed(found, error, share)

        try:
            self._workers.submit(poll)
        except RuntimeError as error:  # no thread can be started
            self._flying -= 1
            self._asked -= share
            self._error = error

    def _landed(self, found: list[Raw], error: Exception | None, share: int) -> None:
        with self._guard:
            self._flying -= 1
            self._asked -= share
            self._vain = 0 if found or error else self._vain + 1
            if len(found) >= MOST_A_CALL:
                self._allowed = min(MOST_POLLS, 2 * self._allowed)
            elif len(found) < share:
                self._allowed = max(1, self._allowed - 1)
            left = self._left
            if not left:
                self._buffer += found
                self._error = error or self._error
            self._guard.notify_all()
        if left:
            self._quietly_give_back(found)
        elif found or error:
            self._arrived()

    def _quietly_give_back(self, found: Sequence[Raw]) -> None:
        try:
            self._give_back(found)
        except Exception:  # they come back when their lease ends
            logger.exception("messages that came too late could not be given back")
