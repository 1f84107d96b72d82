"""What goes out: events that are durable here and on their way to SNS, until it says that it has
them.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from mltrigger.aws import limits
from mltrigger.aws.faults import MISSING, AwsError, code_of, explained
from mltrigger.aws.transport.payloads import Payloads
from mltrigger.aws.transport.wire import Message, batches, entries, to_message
from mltrigger.clock import Clock
from mltrigger.errors import EventTooLarge, InvalidEvent, MltriggerError
from mltrigger.store.archive import ARCHIVED, archived
from mltrigger.store.publishing import Encoded
from mltrigger.store.transaction import Row, Store, Transaction

logger = logging.getLogger("mltrigger")

AGAIN_US = 5_000_000
"""What was not confirmed for so long is sent again: whoever began to send it has gone, or was
refused.
"""
LINGER_S = 0.02
"""How long what a model's output causes waits for others to be sent with it: their cause is
recorded already.
"""
_MOST = 500

_ADD = "INSERT INTO unsent (seq, since_us) VALUES (:seq, :since_us) ON CONFLICT DO NOTHING"
_DONE = "DELETE FROM unsent WHERE seq = :seq"
_TRIED = "UPDATE unsent SET since_us = :since_us WHERE seq = :seq"
_LEFT = f"""
SELECT t.name, {ARCHIVED} FROM unsent u JOIN event e ON e.seq = u.seq JOIN topic t ON t.id = e.topic_id WHERE u.since_us <= :then
ORDER BY u.seq LIMIT {_MOST}
"""
_WAITING = "SELECT count(*), min(e.published_us) FROM unsent u JOIN event e ON e.seq = u.seq"
_EARLIER = f"""
SELECT {ARCHIVED} FROM unsent u JOIN event e ON e.seq = u.seq JOIN topic t ON t.id = e.topic_id WHERE t.name = :topic AND u.seq < :seq
ORDER BY u.seq LIMIT {_MOST}
"""
_AMONG = "SELECT seq FROM unsent WHERE seq IN ({seqs})"


class Target(NamedTuple):
    """Where the events of a topic are sent: the ARN of an SNS topic, or the URL of a queue that
    somebody else owns.
    """

    topic_arn: str | None
    queue_url: str | None

    @property
    def fifo(self) -> bool:
        """Whether it keeps the order of each group."""
        return (self.topic_arn or self.queue_url or "").endswith(".fifo")

    @property
    def limit(self) -> int:
        """The most bytes of one message, and of one call."""
        return limits.SNS_MESSAGE.high if self.topic_arn else limits.SQS_MESSAGE.high


class Outgoing(NamedTuple):
    """One event on its way: its number in the archive, and its message."""

    seq: int
    message: Message


class Outbox:
    """Sends what is in the table ``unsent``.

    Parameters
    ----------
    clients : Clients
        SNS, SQS and S3.
    store, clock
        The parts.
    target_of : callable
        Takes a topic of the bus; returns where it is.
    make : callable
        Makes a topic of the bus exist on SNS.
    payloads : Payloads
        Where bodies beyond the limit go; without a bucket such events are refused.
    """

    def __init__(
        self,
        clients: Any,
        store: Store,
        clock: Clock,
        target_of: Callable[[str], Target],
        make: Callable[[str], Target],
        payloads: Payloads,
    ) -> None:
        self._clients, self._store, self._clock = clients, store, clock
        self._target_of, self._make, self._payloads = target_of, make, payloads
        self._pending: dict[str, list[Outgoing]] = {}
        self._flushed_s = time.monotonic()
        self._sending = False
        self._hurry = False
        self._stopped = False
        self._changed = threading.Condition()
        self._thread: threading.Thread | None = None

    def message(self, encoded: Encoded, target: Target) -> Message:
        """Return the message of an event, checked against what AWS takes; raise InvalidEvent or
        EventTooLarge.
        """
        try:
            return to_message(
                *encoded, target.fifo, None if self._payloads.bucket else target.limit
            )
        except EventTooLarge as error:
            if error.reason != "too_large":
                raise
            raise EventTooLarge(
                f"{error}; mt.connect(…, bucket='…') keeps larger ones in S3", error.reason
            ) from error

    def add(self, transaction: Transaction, seqs: Sequence[int]) -> None:
        """Note in *transaction* that these events have to be sent."""
        transaction.execute_many(_ADD, [(seq, self._clock.now_us()) for seq in seqs])

    def unconfirmed(self, transaction: Transaction, seqs: Sequence[int]) -> set[int]:
        """Return which of these events nobody has confirmed yet."""
        return {
            seq for (seq,) in transaction.query(_AMONG.format(seqs=", ".join(map(str, seqs))), {})
        }

    def waiting(self) -> tuple[int, float] | None:
        """Return how many events nobody has confirmed, and the age of the oldest in seconds;
        ``None`` when there is none.
        """
        count, oldest_us = self._store.read(_WAITING, {})[0]
        return (count, (self._clock.now_us() - oldest_us) / 1e6) if count else None

    def send(self, topic: str, outgoing: Sequence[Outgoing]) -> None:
        """Send events now.

        Raises
        ------
        AwsError
            When some were not taken; they are sent again later, and those that were taken are not.
        """
        if not outgoing:
            return
        target = self._target_of(topic)
        if target.fifo:
            # nothing overtakes what waits to be sent again
            outgoing = [*self._before(topic, outgoing[0].seq, target), *outgoing]
        messages, problem = self._small(outgoing, target)
        refused: dict[int, str] = {}
        began_s = time.monotonic()
        for group in batches(list(messages.values()), target.limit):
            places = [list(messages)[i] for i in group]
            # or somebody takes what is not sent yet for left behind
            if time.monotonic() - began_s > AGAIN_US / 2e6:
                began_s = time.monotonic()
                self._mark([o.seq for o in outgoing])
            try:
                found = self._call(topic, target, [messages[i] for i in places])
            except AwsError as error:
                problem, found = error, dict.fromkeys(range(len(places)), error.code)
            self._confirm([outgoing[place].seq for i, place in enumerate(places) if i not in found])
            refused |= {places[i]: code for i, code in found.items()}
            if refused and target.fifo:
                refused |= dict.fromkeys(
                    [place for place in messages if place > places[-1]],
                    "not sent, to keep the order",
                )
                break
        left = len(refused) + len(outgoing) - len(messages)
        if left:
            codes = ", ".join(sorted({*refused.values(), *([problem.code] if problem else [])}))
            raise AwsError(
                f"{left} of {len(outgoing)} events on {topic!r} were not taken ({codes}): they are"
                " kept and sent again; publishing them again with the same ids is"
                f" safe{f'. {problem}' if problem else ''}",
                problem.code if problem else next(iter(refused.values())),
            ) from problem

    def _small(
        self, outgoing: Sequence[Outgoing], target: Target
    ) -> tuple[dict[int, Message], AwsError | None]:
        """Return the messages by their place, large bodies put into the bucket; without those that
        could not be, and why.
        """
        messages: dict[int, Message] = {}
        problem: AwsError | None = None
        for place, one in enumerate(outgoing):
            try:
                messages[place] = self._payloads.kept(one.message, target.limit)
            except AwsError as error:
                problem = error
                if target.fifo:
                    break
        return messages, problem

    def _before(self, topic: str, seq: int, target: Target) -> list[Outgoing]:
        rows = self._store.read(_EARLIER, {"topic": topic, "seq": seq})
        try:
            return [Outgoing(row[0], self.message(archived(row), target)) for row in rows]
        except InvalidEvent as error:
            # it is another event that is too large, since the bus has no bucket any more
            raise AwsError(
                f"events on {topic!r} are kept, to keep the order, until one before them can be"
                f" sent: {error}",
                error.reason,
            ) from error

    def _mark(self, seqs: Sequence[int]) -> None:
        """Say that these are being sent now."""
        now_us = self._clock.now_us()
        with self._store.transaction(durable=False) as transaction:
            transaction.execute_many(_TRIED, [(now_us, seq) for seq in seqs])

    def send_soon(self, topic: str, outgoing: Sequence[Outgoing]) -> None:
        """Send events in the background, ten a call; what is refused is sent again later."""
        if not outgoing:
            return
        with self._changed:
            self._pending.setdefault(topic, []).extend(outgoing)
            if self._thread is None and not self._stopped:
                self._thread = threading.Thread(
                    target=self._loop, name="mltrigger-sender", daemon=True
                )
                self._thread.start()
            self._changed.notify_all()

    def drain(self, timeout_s: float) -> bool:
        """Send what waits without lingering; return whether nothing is left within *timeout_s*."""
        with self._changed:
            self._hurry = True
            self._changed.notify_all()
            done = self._changed.wait_for(
                lambda: not self._pending and not self._sending, timeout_s
            )
            self._hurry = False
            return done

    def stop(self) -> None:
        """End the thread; what it has not sent stays in the log, and whoever opens it next sends
        it.
        """
        with self._changed:
            self._stopped = True
            self._changed.notify_all()

    def _loop(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._pending or self._stopped)
                if self._stopped:
                    return
                self._changed.wait_for(self._is_full, LINGER_S)
                pending, self._pending, self._sending = self._pending, {}, True
            for topic, outgoing in pending.items():
                try:
                    self.send(topic, outgoing)
                except Exception as error:
                    # the outcome that caused them is recorded; they are in the outbox, and sent
                    # again
                    logger.warning("events wait to be sent: %s", error)
            with self._changed:
                self._sending = False
                self._changed.notify_all()

    def _is_full(self) -> bool:
        return (
            self._hurry
            or self._stopped
            or any(len(waiting) >= limits.BATCH_ENTRIES.high for waiting in self._pending.values())
        )

    def flush_at_times(self) -> None:
        """Do :meth:`flush`, unless it was done a moment ago; what is refused again is nobody's
        error here.
        """
        if time.monotonic() - self._flushed_s > AGAIN_US / 1e6:
            try:
                self.flush()
            except MltriggerError as error:
                logger.warning("events wait to be sent: %s", error)

    def flush(self) -> int:
        """Send again what was not confirmed in time; return how many events were.

        What is refused again stays for the next time.
        """
        now_us, self._flushed_s = self._clock.now_us(), time.monotonic()
        rows = self._store.read(_LEFT, {"then": now_us - AGAIN_US})
        if not rows:
            return 0
        self._mark([row[1] for row in rows])  # so that other processes leave them to us for a while
        sent = 0
        for topic in dict.fromkeys(row[0] for row in rows):
            try:
                sent += self._send_again(topic, [row[1:] for row in rows if row[0] == topic])
            except MltriggerError as error:
                logger.warning("events wait to be sent: %s", error)
        return sent

    def _send_again(self, topic: str, rows: Sequence[Row]) -> int:
        target = self._target_of(topic)
        outgoing = []
        for row in rows:
            try:
                outgoing.append(Outgoing(row[0], self.message(archived(row), target)))
            except InvalidEvent as error:
                # too large since the bus has no bucket any more: it must not hold the others back
                logger.warning("event %s waits to be sent: %s", row[3], error)
        self.send(topic, outgoing)
        return len(outgoing)

    def _call(self, topic: str, target: Target, messages: Sequence[Message]) -> dict[int, str]:
        """Make one call; return the places that were refused, with the code."""
        try:
            answer = self._sent(target, messages)
        except Exception as error:
            action = "sns:Publish" if target.topic_arn else "sqs:SendMessage"
            if code_of(error) not in MISSING or target.topic_arn is None:
                raise explained(error, action, topic) from error
            try:
                # a topic of ours that nobody has subscribed to yet
                answer = self._sent(self._make(topic), messages)
            except Exception as again:
                raise explained(again, action, topic) from again
        return {int(f["Id"]): str(f.get("Code", "")) for f in answer.get("Failed", ())}

    def _sent(self, target: Target, messages: Sequence[Message]) -> dict[str, Any]:
        answer: dict[str, Any]
        if target.topic_arn:
            answer = self._clients.sns.publish_batch(
                TopicArn=target.topic_arn, PublishBatchRequestEntries=entries(messages, "sns")
            )
        else:
            answer = self._clients.sqs.send_message_batch(
                QueueUrl=target.queue_url, Entries=entries(messages, "sqs")
            )
        return answer

    def _confirm(self, seqs: Sequence[int]) -> None:
        # Not durable: losing it at a power cut only sends the events again, and repeats are
        # recognised.
        with self._store.transaction(durable=False) as transaction:
            transaction.execute_many(_DONE, [(seq,) for seq in seqs])
