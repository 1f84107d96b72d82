"""Outgoing events: durable here, and on their way until SNS confirms them."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from mltrigger.aws import limits
from mltrigger.aws.faults import MISSING, AwsError, code_of, explained
from mltrigger.aws.transport.payloads import Payloads
from mltrigger.aws.transport.targets import Target, Targets
from mltrigger.aws.transport.wire import Message, batches, entries, to_message
from mltrigger.clock import Clock
from mltrigger.errors import EventTooLarge, InvalidEvent, MltriggerError
from mltrigger.store.archive import ARCHIVED, archived
from mltrigger.store.publishing import Encoded
from mltrigger.store.transaction import Row, Store, Transaction

logger = logging.getLogger("mltrigger")

AGAIN_US = 5_000_000
"""Microseconds after which unconfirmed events are sent again: their sender failed."""
LINGER_S = 0.02
"""Seconds that events of a model wait for others. Their cause is recorded already."""
_MOST = 500

_ADD = "INSERT INTO unsent (seq, since_us) VALUES (:seq, :since_us) ON CONFLICT DO NOTHING"
_DONE = "DELETE FROM unsent WHERE seq = :seq"
_TRIED = "UPDATE unsent SET since_us = :since_us WHERE seq = :seq"
_LEFT = f"""
SELECT t.name, {ARCHIVED}
FROM unsent u JOIN event e ON e.seq = u.seq JOIN topic t ON t.id = e.topic_id
WHERE u.since_us <= :then ORDER BY u.seq LIMIT {_MOST}
"""
_WAITING = """
SELECT count(*), min(e.published_us) FROM unsent u JOIN event e ON e.seq = u.seq
WHERE u.since_us <= :now
"""
_EARLIER = f"""
SELECT {ARCHIVED} FROM unsent u JOIN event e ON e.seq = u.seq JOIN topic t ON t.id = e.topic_id
WHERE t.name = :topic AND u.seq < :seq ORDER BY u.seq LIMIT {_MOST}
"""
_AMONG = "SELECT seq FROM unsent WHERE seq IN ({seqs})"


class Outgoing(NamedTuple):
    """One event on its way: its number in the archive, and its message."""

    seq: int
    message: Message


class Outbox:
    """Sends the events of the table ``unsent``.

    Parameters
    ----------
    clients : Clients
        SNS, SQS and S3.
    store, clock
        The log's database, and the time.
    targets : Targets
        The targets of topics.
    payloads : Payloads
        Stores bodies beyond the limit. Without a bucket such events are refused.
    """

    def __init__(
        self,
        clients: Any,
        store: Store,
        clock: Clock,
        targets: Targets,
        payloads: Payloads,
    ) -> None:
        self._clients, self._store, self._clock = clients, store, clock
        self._targets, self._payloads = targets, payloads
        self._pending: dict[str, list[Outgoing]] = {}
        self._flushed_s = time.monotonic()
        self._sending = False
        self._hurry = False
        self._stopped = False
        self._changed = threading.Condition()
        self._thread: threading.Thread | None = None

    def message(self, encoded: Encoded, target: Target) -> Message:
        """Return the message of an event, checked against AWS' rules.

        Raise InvalidEvent or EventTooLarge.
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

    def add(self, transaction: Transaction, dues: Mapping[int, int]) -> list[int]:
        """Note in *transaction* that these events have to be sent, each at its due time.

        Return those that are due. The others are sent later.
        """
        now_us = self._clock.now_us()
        transaction.execute_many(
            _ADD,
            [(seq, now_us if due <= now_us else due - AGAIN_US) for seq, due in dues.items()],
        )
        return [seq for seq, due in dues.items() if due <= now_us]

    def forget(self, transaction: Transaction, seq: int) -> None:
        """Send an event no more."""
        transaction.execute(_DONE, {"seq": seq})

    def unconfirmed(self, transaction: Transaction, seqs: Sequence[int]) -> set[int]:
        """Return those of these events that are not confirmed."""
        return {
            seq for (seq,) in transaction.query(_AMONG.format(seqs=", ".join(map(str, seqs))), {})
        }

    def waiting(self) -> tuple[int, float] | None:
        """Return the number of unconfirmed events and the age of the oldest in seconds.

        Return ``None`` if there is none.
        """
        ((count, oldest_us),) = self._store.read(_WAITING, {"now": self._clock.now_us()})
        return (count, (self._clock.now_us() - oldest_us) / 1e6) if count else None

    def send(self, topic: str, outgoing: Sequence[Outgoing]) -> None:
        """Send events now.

        Raises
        ------
        AwsError
            Some were not taken. Only those are sent again later.
        """
        if not outgoing:
            return
        target = self._targets.of(topic)
        if target.fifo:
            # In order: first those that wait to be sent again.
            outgoing = [*self._before(topic, outgoing[0].seq, target), *outgoing]
        messages, problem = self._small(outgoing, target)
        refused: dict[int, str] = {}
        began_s = time.monotonic()
        for group in batches(list(messages.values()), target.limit):
            places = [list(messages)[i] for i in group]
            # Otherwise another process takes the rest for left behind.
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
        """Return the messages by their place, with large bodies in the bucket.

        Messages that could not be stored are missing. The second value is the reason.
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
            return [self._outgoing(row, target) for row in rows]
        except InvalidEvent as error:
            # An earlier event is too large, since the bus has no bucket any more.
            raise AwsError(
                f"events on {topic!r} are kept, to keep the order, until one before them can be"
                f" sent: {error}",
                error.reason,
            ) from error

    def _mark(self, seqs: Sequence[int]) -> None:
        """Note that these are being sent now."""
        now_us = self._clock.now_us()
        with self._store.transaction(durable=False) as transaction:
            transaction.execute_many(_TRIED, [(now_us, seq) for seq in seqs])

    def send_soon(self, topic: str, outgoing: Sequence[Outgoing]) -> None:
        """Send events in the background, ten a call. Refused ones are sent again later."""
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
        """Send everything without lingering. Return whether that was done within *timeout_s*."""
        with self._changed:
            self._hurry = True
            self._changed.notify_all()
            done = self._changed.wait_for(
                lambda: not self._pending and not self._sending, timeout_s
            )
            self._hurry = False
            return done

    def stop(self) -> None:
        """End the thread. Unsent events stay in the log, and its next user sends them."""
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
                    # The outcome that caused them is recorded. The outbox sends them again.
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
        """Call :meth:`flush` unless it ran a moment ago. Refusals are logged, not raised."""
        if time.monotonic() - self._flushed_s > AGAIN_US / 1e6:
            try:
                self.flush()
            except MltriggerError as error:
                logger.warning("events wait to be sent: %s", error)

    def flush(self) -> int:
        """Send events again that were not confirmed in time. Return how many.

        Events that are refused again stay for the next time.
        """
        now_us, self._flushed_s = self._clock.now_us(), time.monotonic()
        rows = self._store.read(_LEFT, {"then": now_us - AGAIN_US})
        if not rows:
            return 0
        left: dict[str, list[Row]] = {}
        for topic, *row in rows:
            left.setdefault(topic, []).append(tuple(row))
        # Other processes now leave them to us for a while.
        self._mark([seq for _, seq, *_ in rows])
        sent = 0
        for topic, mine in left.items():
            try:
                sent += self._send_again(topic, mine)
            except MltriggerError as error:
                logger.warning("events wait to be sent: %s", error)
        return sent

    def _send_again(self, topic: str, rows: Sequence[Row]) -> int:
        target = self._targets.of(topic)
        outgoing = []
        for row in rows:
            try:
                outgoing.append(self._outgoing(row, target))
            except InvalidEvent as error:
                # Too large, since the bus has no bucket any more. It must not block the others.
                logger.warning("event %s waits to be sent: %s", archived(row).event.id, error)
        self.send(topic, outgoing)
        return len(outgoing)

    def _outgoing(self, row: Row, target: Target) -> Outgoing:
        seq, *_ = row
        return Outgoing(seq, self.message(archived(row), target))

    def _call(self, topic: str, target: Target, messages: Sequence[Message]) -> dict[int, str]:
        """Make one call. Return the places of refused entries, with their codes."""
        try:
            answer = self._sent(target, messages)
        except Exception as error:
            action = "sns:Publish" if target.topic_arn else "sqs:SendMessage"
            if code_of(error) not in MISSING or target.topic_arn is None:
                raise explained(error, action, topic) from error
            try:
                # A topic of ours without a subscription yet.
                answer = self._sent(self._targets.make(topic), messages)
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
        # Not durable: a power cut only sends the events again, and repeats are recognised.
        with self._store.transaction(durable=False) as transaction:
            transaction.execute_many(_DONE, [(seq,) for seq in seqs])
