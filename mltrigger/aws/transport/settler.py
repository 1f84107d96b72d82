"""Tells SQS about settled messages: deletes and visibility changes, in batches of ten.

One thread sends them. Each entry of a batch may succeed or fail.
"""

from __future__ import annotations

import logging
import math
import threading
import time
from collections.abc import Callable, Sequence
from typing import Any, Literal, NamedTuple

from mltrigger.aws.faults import STALE_HANDLE, code_of
from mltrigger.aws.transport.polls import MOST_A_CALL, Message
from mltrigger.clock import Clock
from mltrigger.names import FIFO

logger = logging.getLogger("mltrigger")

LINGER_S = 0.5
"""Seconds that a delete may wait for others. Its outcome is durable, so a repeat is harmless."""
HIDE_CAP_S = 12 * 3600
"""The longest time in seconds that a message is hidden in all, counted from its receive.

https://docs.aws.amazon.com/AWSSimpleQueueService/latest/SQSDeveloperGuide/sqs-visibility-timeout.html
"""
SAID_S = 1.0
"""Seconds that a caller waits for a change. After that it continues in the background."""
_PAUSE_S = (0.1, 0.4, 1.6, 5.0, 20.0)
"""Seconds to wait after the first, second … failure of an entry.

After the last one the entry is dropped, and the message comes again.
"""

Kind = Literal["delete", "hide"]


class _Entry(NamedTuple):
    """A request about one message: delete it, or hide it until ``until_us``."""

    kind: Kind
    message: Message
    until_us: int
    due_s: float
    tries: int = 0


class Settler:
    """Sends requests about messages soon, in batches.

    Parameters
    ----------
    sqs : callable
        Returns the client of Amazon SQS.
    clock : Clock
        The time, to compute how long a message stays hidden.
    """

    def __init__(self, sqs: Callable[[], Any], clock: Clock) -> None:
        self._sqs, self._clock = sqs, clock
        self._entries: list[_Entry] = []
        self._saying: list[_Entry] = []
        self._hurry = False
        self._stopped = False
        self._changed = threading.Condition()
        self._thread: threading.Thread | None = None

    def delete(self, messages: Sequence[Message]) -> None:
        """Delete messages: ten at once, the rest after ``LINGER_S``."""
        if messages:
            # In an ordered group a message blocks those behind it.
            due_s = time.monotonic() + (0.0 if messages[0].queue.endswith(FIFO) else LINGER_S)
            self._add([_Entry("delete", message, 0, due_s) for message in messages])

    def hide(self, hidden: Sequence[tuple[Message, int]], wait_s: float = SAID_S) -> None:
        """Make each message visible at its time, or now if that has passed.

        Return when SQS knows, or after *wait_s* seconds.
        """
        if not hidden:
            return
        entries = [_Entry("hide", message, until_us, 0.0) for message, until_us in hidden]
        # Closed, but a late poll has brought messages, in a thread that nobody waits for.
        if self._stopped:
            for queue in dict.fromkeys(e.message.queue for e in entries):
                mine_there = [e for e in entries if e.message.queue == queue]
                for first in range(0, len(mine_there), MOST_A_CALL):
                    self._send(mine_there[first : first + MOST_A_CALL])
            return
        self._add(entries)
        if wait_s > 0:
            mine = set(map(id, entries))
            with self._changed:
                self._changed.wait_for(
                    lambda: (
                        self._stopped or mine.isdisjoint(map(id, [*self._entries, *self._saying]))
                    ),
                    wait_s,
                )

    @property
    def busy(self) -> bool:
        """Whether SQS has not been told everything yet."""
        return bool(self._entries or self._saying)

    def flush(self, timeout_s: float) -> bool:
        """Send everything without lingering. Return whether that was done within *timeout_s*."""
        with self._changed:
            if not self.busy:
                return True
            self._hurry = True
            self._changed.notify_all()
            return self._changed.wait_for(lambda: not self.busy, timeout_s)

    def stop(self) -> None:
        """End the thread. SQS returns unsettled messages when their leases end."""
        with self._changed:
            self._stopped = True
            self._changed.notify_all()

    def _add(self, entries: Sequence[_Entry]) -> None:
        if not entries:
            return
        with self._changed:
            alone = not self._entries
            self._entries += entries
            if self._thread is None and not self._stopped:
                self._thread = threading.Thread(
                    target=self._loop, name="mltrigger-settler", daemon=True
                )
                self._thread.start()
            if (
                alone
                or entries[0].tries
                or len(self._entries) >= MOST_A_CALL
                or entries[0].due_s <= time.monotonic()
            ):
                self._changed.notify_all()

    def _loop(self) -> None:
        while True:
            with self._changed:
                while not (batch := self._ready()):
                    if self._stopped:
                        return
                    if not self._entries:
                        self._hurry = False
                        self._changed.notify_all()
                    self._changed.wait(self._pause_s())
                self._saying = batch
            failed: list[_Entry] = []
            try:
                failed = self._send(batch)
            except Exception:
                logger.exception(
                    "telling SQS what became of messages failed; they come again and are recognised"
                )
            finally:
                with self._changed:
                    self._saying = []
                    self._entries += failed
                    self._changed.notify_all()

    def _ready(self) -> list[_Entry]:
        """Return a batch for one call, of due entries or a full call. Empty if there is none."""
        now_s = time.monotonic()
        for kind in ("hide", "delete"):
            for queue in dict.fromkeys(e.message.queue for e in self._entries if e.kind == kind):
                mine = [
                    e
                    for e in self._entries
                    if e.kind == kind
                    and e.message.queue == queue
                    and (not e.tries or e.due_s <= now_s)
                ]
                if len(mine) >= MOST_A_CALL or self._hurry or any(e.due_s <= now_s for e in mine):
                    chosen = mine[:MOST_A_CALL]
                    if chosen:
                        taken = set(map(id, chosen))
                        self._entries = [e for e in self._entries if id(e) not in taken]
                        return chosen
        return []

    def _pause_s(self) -> float | None:
        if not self._entries:
            return None
        return max(0.001, min(e.due_s for e in self._entries) - time.monotonic())

    def _send(self, batch: Sequence[_Entry]) -> list[_Entry]:
        """Make one call. Return the entries to send again."""
        kind, queue = batch[0].kind, batch[0].message.queue
        entries: list[dict[str, Any]] = [
            {"Id": str(i), "ReceiptHandle": e.message.handle} for i, e in enumerate(batch)
        ]
        try:
            if kind == "delete":
                answer = self._sqs().delete_message_batch(QueueUrl=queue, Entries=entries)
            else:
                now_us = self._clock.now_us()
                for entry, e in zip(entries, batch, strict=True):
                    entry["VisibilityTimeout"] = visibility_s(e.message, e.until_us, now_us)
                answer = self._sqs().change_message_visibility_batch(
                    QueueUrl=queue, Entries=entries
                )
        except Exception as error:
            return self._again([(e, code_of(error), False) for e in batch])
        faults = [
            (batch[int(f["Id"])], str(f.get("Code", "")), bool(f.get("SenderFault")))
            for f in answer.get("Failed", ())
        ]
        return self._again(faults) if faults else []

    def _again(self, faults: Sequence[tuple[_Entry, str, bool]]) -> list[_Entry]:
        again = []
        for entry, code, ours in faults:
            if (
                code in STALE_HANDLE
                or ours
                or entry.tries >= len(_PAUSE_S)
                or code in ("QueueDoesNotExist", "AWS.SimpleQueueService.NonExistentQueue")
            ):
                logger.warning(
                    "SQS did not take a %s: %s; the message may come again, and will be recognised",
                    entry.kind,
                    code,
                )
            else:
                again.append(
                    entry._replace(
                        tries=entry.tries + 1, due_s=time.monotonic() + _PAUSE_S[entry.tries]
                    )
                )
        return again


def visibility_s(message: Message, until_us: int, now_us: int) -> int:
    """Return the seconds for which SQS shall hide *message*, never beyond its twelve hours."""
    wanted = math.ceil(max(0, until_us - now_us) / 1e6)
    left = HIDE_CAP_S - math.ceil((now_us - message.asked_us) / 1e6) - 1
    return max(0, min(wanted, left))
