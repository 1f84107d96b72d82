"""Kafka: a topic, read as a consumer group."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from typing import Any

from mltrigger.errors import InvalidName
from mltrigger.sources.brokers.client import CALL_S, MOST, Client
from mltrigger.sources.brokers.messages import Message, Outgoing

SESSION_MS = 6_000
"""How long the group waits for a member that died: the least that Kafka takes by default."""


class KafkaClient(Client):
    """One topic. Its partitions are shared with other members of the group."""

    def security(self) -> Any:
        """Return the security, with the mechanism of the URL."""
        from faststream import security

        plain = super().security()
        kind = {
            "scram-sha-256": security.SASLScram256,
            "scram-sha-512": security.SASLScram512,
        }.get(self.place.option("sasl"))
        if kind is None or not isinstance(plain, security.SASLPlaintext):
            return plain
        return kind(
            plain.username, plain.password, use_ssl=plain.use_ssl, ssl_context=plain.ssl_context
        )

    async def open(self, sending: bool = False) -> None:
        """Connect."""
        from faststream.kafka import KafkaBroker

        self._consumer: Any = None
        self.broker = KafkaBroker(
            self.place.hosts.split(","),
            security=self.security(),
            consumer_only=not sending,
            acks="all",
            request_timeout_ms=int(CALL_S * 1000 / 2),
            client_id="mltrigger",
            logger=None,
        )
        self._consumer_of: Any = await self.broker.connect()
        if sending:
            self._producer = self.broker.config.broker_config.producer._producer.producer

    async def begin(self, since_us: int | None) -> None:
        """Commit where to begin, for each partition without a committed offset."""
        from aiokafka import TopicPartition

        consumer = self._consumer_of(group_id=self.name, enable_auto_commit=False)
        await consumer.start()
        try:
            places = await self._partitions(consumer)
            consumer.assign(places)
            new = [place for place in places if await consumer.committed(place) is None]
            if new:
                offsets = await self._offsets(consumer, new, since_us)
                await consumer.commit({TopicPartition(*place): n for place, n in offsets.items()})
        finally:
            await consumer.stop()

    async def _partitions(self, consumer: Any) -> list[Any]:
        from aiokafka import TopicPartition

        cluster = await consumer._client.fetch_all_metadata()
        numbers = cluster.partitions_for_topic(self.place.path)
        if not numbers:
            raise InvalidName(
                f"there is no topic {self.place.path!r} at {self.place.shown}: create it first"
            )
        return [TopicPartition(self.place.path, number) for number in sorted(numbers)]

    async def _offsets(self, consumer: Any, new: list[Any], since_us: int | None) -> dict[Any, int]:
        if since_us == 0:
            return dict(await consumer.beginning_offsets(new))
        ends = dict(await consumer.end_offsets(new))
        if since_us is None:
            return ends
        found = await consumer.offsets_for_times(dict.fromkeys(new, since_us // 1000))
        return {
            place: at.offset if (at := found.get(place)) and at.timestamp >= 0 else ends[place]
            for place in new
        }

    async def listen(self) -> None:
        """Join the group."""
        self._consumer = self._consumer_of(
            self.place.path,
            group_id=self.name,
            enable_auto_commit=False,
            auto_offset_reset="earliest",
            max_poll_records=MOST,
            session_timeout_ms=SESSION_MS,
            heartbeat_interval_ms=SESSION_MS // 5,
        )
        await self._consumer.start()
        self._places = await self._partitions(self._consumer)

    async def take(self, wait_s: float) -> list[Message]:
        """Return the next messages, in order within a partition."""
        found = await self._consumer.getmany(
            timeout_ms=max(1, int(wait_s * 1000)), max_records=MOST
        )
        return [_message(record) for records in found.values() for record in records]

    async def acknowledge(self, taken: Sequence[Message]) -> None:
        """Commit. A partition that another member has by now is left to it: it reads them again."""
        from aiokafka import TopicPartition
        from aiokafka.errors import CommitFailedError, IllegalStateError

        ends: dict[Any, int] = {}
        for message in taken:
            record = message.token
            place = TopicPartition(record.topic, record.partition)
            ends[place] = max(ends.get(place, 0), record.offset + 1)
        mine = self._consumer.assignment()
        try:
            if ends := {place: end for place, end in ends.items() if place in mine}:
                await self._consumer.commit(ends)
        except (CommitFailedError, IllegalStateError):
            return

    async def behind(self) -> int | None:
        """Return the lag of the group, over all partitions."""
        ends = await self._consumer.end_offsets(self._places)
        lag = 0
        for place, end in ends.items():
            lag += max(0, end - (await self._consumer.committed(place) or 0))
        return lag

    async def send(self, message: Outgoing) -> None:
        """Send. All replicas in sync have it on return."""
        headers = {**message.headers("ce_"), "content-type": message.content_type}
        await self._producer.send_and_wait(
            self.place.path,
            message.body,
            key=message.key.encode() if message.key is not None else None,
            headers=[(name, value.encode()) for name, value in headers.items()],
        )

    def refuses(self, error: Exception) -> bool:
        """Whether the message is too large, or not valid."""
        from aiokafka import errors

        never = (errors.MessageSizeTooLargeError, errors.RecordListTooLargeError)
        return isinstance(error, (*never, errors.InvalidMessageError)) or super().refuses(error)

    def is_outage(self, error: Exception) -> bool:
        """Whether the cluster is away, or has no such topic yet."""
        from aiokafka import errors

        gone = (
            errors.KafkaConnectionError,
            errors.KafkaTimeoutError,
            errors.NoBrokersAvailable,
            errors.ProducerClosed,
            errors.RequestTimedOutError,
            errors.UnknownTopicOrPartitionError,
        )
        retriable = bool(getattr(error, "retriable", False))
        return retriable or isinstance(error, gone) or super().is_outage(error)

    async def close(self) -> None:
        """Leave the group and disconnect."""
        if self._consumer is not None:
            await self._consumer.stop()
        await super().close()


def _message(record: Any) -> Message:
    headers = dict(record.headers or ())
    kind = next(
        (headers.pop(name) for name in list(headers) if name.lower() == "content-type"), None
    )
    return Message(
        record.value or b"",
        headers,
        # the time tells an offset apart that a topic made anew gives again
        f"{record.partition}-{record.offset}-{record.timestamp:x}",
        record,
        key=_key(record.key),
        sent_us=record.timestamp * 1000,
        content_type=kind.decode("utf-8", "replace") if kind is not None else None,
    )


def _key(key: bytes | None) -> str | None:
    if key is None:
        return None
    try:
        return key.decode()
    except UnicodeDecodeError:
        return base64.b64encode(key).decode()
