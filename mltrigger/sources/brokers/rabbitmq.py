"""RabbitMQ: a queue that exists."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Any

from mltrigger.errors import InvalidName
from mltrigger.event.ids import new_id
from mltrigger.sources.brokers.client import CONNECT_S, MOST, Client, Inbox
from mltrigger.sources.brokers.messages import Message, Outgoing


class RabbitClient(Client):
    """One queue. Several readers of a queue share its messages."""

    async def open(self, sending: bool = False) -> None:
        """Connect. The first host that answers is taken."""
        hosts = self.place.hosts.split(",")
        for host in hosts:
            try:
                self._connection: Any = await self._connected(host)
                break
            except Exception:
                if host == hosts[-1]:
                    raise
        self._channel: Any = await self._connection.channel(publisher_confirms=True)
        await self._channel.set_qos(prefetch_count=MOST)
        self._exchange: Any = self._channel.default_exchange
        if named := self.place.option("exchange"):
            self._exchange = await self._channel.get_exchange(named, ensure=True)

    async def _connected(self, host: str) -> Any:
        from faststream.rabbit import RabbitBroker

        self.broker = RabbitBroker(
            f"{'amqps' if self.place.tls else 'amqp'}://{host}",
            virtualhost=self.place.option("vhost", "/"),
            security=self.security(),
            timeout=CONNECT_S,
            fail_fast=True,
            logger=None,
        )
        return await self.broker.connect()

    async def begin(self, since_us: int | None) -> None:
        """Look whether the queue is there. It holds the messages from its own beginning on."""
        from aio_pika.exceptions import ChannelNotFoundEntity

        try:
            self._queue: Any = await self._channel.declare_queue(self.place.path, passive=True)
        except ChannelNotFoundEntity:
            raise InvalidName(
                f"there is no queue {self.place.path!r} at {self.place.shown}: declare it first,"
                " durable, so that a restart of the broker keeps its messages"
            ) from None

    async def listen(self) -> None:
        """Begin to receive."""
        self._inbox = Inbox()

        async def arrived(found: Any) -> None:
            await self._inbox.put(_message(found))

        await self._queue.consume(arrived, no_ack=False)

    async def take(self, wait_s: float) -> list[Message]:
        """Return the next messages of the queue."""
        if not self._connection.connected.is_set() or self._channel.is_closed:
            raise ConnectionError("the connection was lost")
        return await self._inbox.take(wait_s)

    async def acknowledge(self, taken: Sequence[Message]) -> None:
        """Acknowledge all messages up to the last one: they are taken in their order."""
        await taken[-1].token.ack(multiple=True)

    async def behind(self) -> int | None:
        """Return how many messages are in the queue. Raises when it is gone."""
        if not self._connection.connected.is_set():
            raise ConnectionError("the connection was lost")
        # on another channel: that of a missing queue is closed
        async with self._connection.channel() as channel:
            queue = await channel.declare_queue(self.place.path, passive=True)
            return int(queue.declaration_result.message_count or 0) + len(self._inbox)

    async def send(self, message: Outgoing) -> None:
        """Publish a persistent message. The broker confirms it, and refuses one without a queue."""
        import aio_pika

        await self._exchange.publish(
            aio_pika.Message(
                message.body,
                headers=dict(message.headers("cloudEvents_")),
                content_type=message.content_type,
                message_id=message.event.id,
                timestamp=message.event.time,
                delivery_mode=aio_pika.DeliveryMode.PERSISTENT,
            ),
            routing_key=self.place.path,
            mandatory=True,
            timeout=CONNECT_S,
        )

    def is_outage(self, error: Exception) -> bool:
        """Whether the server is away, or nothing takes the message yet: there is no queue."""
        from aio_pika import exceptions

        gone = (
            exceptions.AMQPConnectionError,
            exceptions.ChannelClosed,
            exceptions.ChannelInvalidStateError,
            exceptions.ConnectionClosed,
            exceptions.DeliveryError,
        )
        return isinstance(error, gone) or super().is_outage(error)


def _message(found: Any) -> Message:
    sent = found.timestamp
    return Message(
        found.body,
        {
            name: _header(value)
            for name, value in (found.headers or {}).items()
            if value is not None
        },
        found.message_id or new_id(),
        found,
        subject=found.routing_key or None,
        sent_us=int(sent.timestamp() * 1e6) if isinstance(sent, datetime) else None,
        content_type=found.content_type or None,
        redelivered=bool(found.redelivered) and not found.message_id,
    )


def _header(value: Any) -> str | bytes:
    if isinstance(value, (str, bytes)):
        return value
    return str(value).lower() if isinstance(value, bool) else str(value)
