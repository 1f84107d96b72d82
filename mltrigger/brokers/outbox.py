"""What goes out: events that are durable here and on their way to SNS, until it says that it has them."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from mltrigger.aws import limits
from mltrigger.aws.faults import MISSING, AwsError, code_of, explained
from mltrigger.aws.wire import Message, batches, entries, to_message
from mltrigger.brokers.payloads import Payloads
from mltrigger.brokers.publishing import Encoded
from mltrigger.clock import Clock
from mltrigger.errors import EventTooLarge
from mltrigger.store.log import ARCHIVED, archived
from mltrigger.store.transaction import Store, Transaction

logger = logging.getLogger("mltrigger")

AGAIN_US = 5_000_000
"""What was not confirmed for so long is sent again: whoever began to send it has gone, or was refused."""
_MOST = 500

_ADD = "INSERT INTO unsent (seq, since_us) VALUES (:seq, :since_us) ON CONFLICT DO NOTHING"
_DONE = "DELETE FROM unsent WHERE seq = :seq"
_TRIED = "UPDATE unsent SET since_us = :since_us WHERE seq = :seq"
_LEFT = f"""
SELECT t.name, {ARCHIVED} FROM unsent u JOIN event e ON e.seq = u.seq JOIN topic t ON t.id = e.topic_id WHERE u.since_us <= :then
ORDER BY u.seq LIMIT {_MOST}
"""
_AMONG = "SELECT seq FROM unsent WHERE seq IN ({seqs})"


class Target(NamedTuple):
    """Where the events of a topic are sent: the ARN of an SNS topic, or the URL of a queue that somebody else owns."""

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

    def message(self, encoded: Encoded, target: Target) -> Message:
        """Return the message of an event, checked against what AWS takes; raise InvalidEvent or EventTooLarge."""
        try:
            return to_message(*encoded, target.fifo, None if self._payloads.bucket else target.limit)
        except EventTooLarge as error:
            if error.reason != "too_large":
                raise
            raise EventTooLarge(f"{error}; mt.connect(…, bucket='…') keeps larger ones in S3", error.reason) from error

    def add(self, transaction: Transaction, seqs: Sequence[int]) -> None:
        """Note in *transaction* that these events have to be sent."""
        transaction.execute_many(_ADD, [(seq, self._clock.now_us()) for seq in seqs])

    def unconfirmed(self, transaction: Transaction, seqs: Sequence[int]) -> set[int]:
        """Return which of these events nobody has confirmed yet."""
        return {seq for (seq,) in transaction.query(_AMONG.format(seqs=", ".join(map(str, seqs))), {})}

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
        messages = [self._payloads.kept(o.message, target.limit) for o in outgoing]
        refused: dict[int, str] = {}
        for group in batches(messages, target.limit):
            found = self._call(topic, target, messages, group)
            self._confirm([outgoing[i].seq for i in group if i not in found])
            refused |= found
        if refused:
            codes = ", ".join(sorted(set(refused.values())))
            raise AwsError(
                f"{len(refused)} of {len(outgoing)} events on {topic!r} were not taken ({codes}): they are kept and sent again; "
                f"publishing them again with the same ids is safe",
                next(iter(refused.values())),
            )

    def flush(self) -> int:
        """Send again what was not confirmed in time; return how many events were. What is refused again stays for the next time."""
        now_us = self._clock.now_us()
        rows = self._store.read(_LEFT, {"then": now_us - AGAIN_US})
        if not rows:
            return 0
        with self._store.transaction(durable=False) as transaction:  # so that other processes leave them to us for a while
            transaction.execute_many(_TRIED, [(now_us, row[1]) for row in rows])
        sent = 0
        for topic in dict.fromkeys(row[0] for row in rows):
            mine = [row[1:] for row in rows if row[0] == topic]
            target = self._target_of(topic)
            outgoing = [Outgoing(row[0], self.message(archived(row), target)) for row in mine]
            try:
                self.send(topic, outgoing)
                sent += len(outgoing)
            except AwsError as error:
                logger.warning("events wait to be sent: %s", error)
        return sent

    def _call(self, topic: str, target: Target, messages: Sequence[Message], group: Sequence[int]) -> dict[int, str]:
        """Make one call; return the indexes that were refused, with the code."""
        try:
            answer = self._sent(target, messages, group)
        except Exception as error:
            if code_of(error) not in MISSING or target.topic_arn is None:
                raise explained(error, "sns:Publish" if target.topic_arn else "sqs:SendMessage", topic) from error
            answer = self._sent(self._make(topic), messages, group)  # a topic of ours that nobody has subscribed to yet
        return {int(f["Id"]): str(f.get("Code", "")) for f in answer.get("Failed", ())}

    def _sent(self, target: Target, messages: Sequence[Message], group: Sequence[int]) -> dict[str, Any]:
        answer: dict[str, Any]
        if target.topic_arn:
            answer = self._clients.sns.publish_batch(TopicArn=target.topic_arn, PublishBatchRequestEntries=entries(messages, "sns", group))
        else:
            answer = self._clients.sqs.send_message_batch(QueueUrl=target.queue_url, Entries=entries(messages, "sqs", group))
        return answer

    def _confirm(self, seqs: Sequence[int]) -> None:
        # Not durable: losing it at a power cut only sends the events again, and repeats are recognised.
        with self._store.transaction(durable=False) as transaction:
            transaction.execute_many(_DONE, [(seq,) for seq in seqs])
