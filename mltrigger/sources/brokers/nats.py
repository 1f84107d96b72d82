"""NATS: a subject of a JetStream stream, read through a durable consumer."""

from __future__ import annotations

import urllib.parse
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

from mltrigger.errors import InvalidName
from mltrigger.sources.brokers.client import CONNECT_S, MOST, Client
from mltrigger.sources.brokers.messages import Message, Outgoing
from mltrigger.sources.relay import LEASE_S

# CloudEvents 1.0.2, NATS protocol binding: headers are percent-encoded as in HTTP.
_SAFE = "".join(chr(code) for code in range(0x21, 0x7F) if chr(code) not in '"%')


class NatsClient(Client):
    """One subject of JetStream. Core NATS keeps nothing, so it is no source."""

    async def open(self, sending: bool = False) -> None:
        """Connect. A lost connection is not repaired here: the reader says that it waits."""
        from faststream.nats import NatsBroker

        self.broker = NatsBroker(
            [f"nats://{host}" for host in self.place.hosts.split(",")],
            security=self.security(),
            allow_reconnect=False,
            connect_timeout=int(CONNECT_S),
            max_reconnect_attempts=1,
            logger=None,
        )
        self._nats: Any = await self.broker.connect()
        self._stream = self._nats.jetstream()

    async def begin(self, since_us: int | None) -> None:
        """Make the durable consumer, unless it is there."""
        from nats.js.api import ConsumerConfig, DeliverPolicy
        from nats.js.errors import NotFoundError

        self._of = await self._stream_name()
        try:
            await self._stream.consumer_info(self._of, self.name)
        except NotFoundError:
            start = {None: DeliverPolicy.NEW, 0: DeliverPolicy.ALL}.get(since_us)
            await self._stream.add_consumer(
                self._of,
                ConsumerConfig(
                    durable_name=self.name,
                    deliver_policy=start or DeliverPolicy.BY_START_TIME,
                    opt_start_time=None
                    if start
                    else datetime.fromtimestamp((since_us or 0) / 1e6, UTC),
                    filter_subject=self.place.path,
                    ack_wait=LEASE_S,  # after it the messages of a dead reader come again
                    max_ack_pending=2 * MOST,
                ),
            )

    async def _stream_name(self) -> str:
        from nats.js.errors import NotFoundError

        if named := self.place.option("stream"):
            return named
        try:
            found: str = await self._stream.find_stream_name_by_subject(self.place.path)
        except NotFoundError:
            raise InvalidName(
                f"no stream of JetStream keeps the subject {self.place.path!r}: make one, or name"
                " one with ?stream=; core NATS keeps nothing, so its messages would be lost"
            ) from None
        return found

    async def listen(self) -> None:
        """Bind to the durable consumer."""
        self._pull = await self._stream.pull_subscribe_bind(durable=self.name, stream=self._of)

    async def take(self, wait_s: float) -> list[Message]:
        """Return the next messages of the stream."""
        if not self._nats.is_connected:
            raise ConnectionError("the connection was lost")
        try:
            return [_message(found) for found in await self._pull.fetch(MOST, timeout=wait_s)]
        except TimeoutError:
            return []

    async def acknowledge(self, taken: Sequence[Message]) -> None:
        """Acknowledge each message."""
        for message in taken:
            await message.token.ack()
        await self._nats.flush(timeout=int(CONNECT_S))

    async def give_back(self, taken: Sequence[Message]) -> None:
        """Let messages come again at once, not after ``ack_wait``."""
        for message in taken:
            await message.token.nak()
        await self._nats.flush(timeout=int(CONNECT_S))

    async def behind(self) -> int | None:
        """Return how many messages the consumer has not acknowledged."""
        info = await self._stream.consumer_info(self._of, self.name)
        return int((info.num_pending or 0) + (info.num_ack_pending or 0))

    async def send(self, message: Outgoing) -> None:
        """Publish. JetStream has it on return, and knows a repeat by its id."""
        headers = {
            name: urllib.parse.quote(value, safe=_SAFE)
            for name, value in message.headers("ce-").items()
        }
        headers |= {"content-type": message.content_type, "Nats-Msg-Id": message.id}
        await self._stream.publish(
            self.place.path, message.body, timeout=CONNECT_S, headers=headers
        )

    def refuses(self, error: Exception) -> bool:
        """Whether the message is too large."""
        from nats.errors import MaxPayloadError

        return isinstance(error, MaxPayloadError) or super().refuses(error)

    def is_outage(self, error: Exception) -> bool:
        """Whether the server is away, or has no stream for the subject yet."""
        from nats import errors
        from nats.js.errors import NoStreamResponseError, ServerError, ServiceUnavailableError

        gone = (
            errors.ConnectionClosedError,
            errors.ConnectionReconnectingError,
            errors.ConnectionDrainingError,
            errors.NoServersError,
            errors.StaleConnectionError,
            errors.TimeoutError,
            NoStreamResponseError,
            ServerError,
            ServiceUnavailableError,
        )
        return isinstance(error, gone) or super().is_outage(error)

    async def close(self) -> None:
        """Disconnect at once. FastStream would wait for messages that are under way."""
        if self.broker is not None and self.broker._connection is not None:
            await self._nats.close()

    async def forget(self) -> None:
        """Delete the durable consumer."""
        from nats.js.errors import NotFoundError

        try:
            await self._stream.delete_consumer(await self._stream_name(), self.name)
        except NotFoundError:
            return


def _message(found: Any) -> Message:
    at = found.metadata
    headers = {
        name: urllib.parse.unquote(value) if name.lower().startswith("ce-") else value
        for name, value in (found.headers or {}).items()
        if name.lower() != "nats-msg-id"
    }
    kind = next(
        (headers.pop(name) for name in list(headers) if name.lower() == "content-type"), None
    )
    sent_us = int(at.timestamp.timestamp() * 1e6)
    # the time tells a number apart that a stream made anew gives again
    return Message(
        found.data,
        headers,
        f"{at.sequence.stream}-{sent_us:x}",
        found,
        subject=found.subject,
        sent_us=sent_us,
        content_type=kind,
    )
