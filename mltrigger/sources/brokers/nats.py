"""NATS: a subject of a JetStream stream, read through a durable consumer."""

from __future__ import annotations

import json
import time
import urllib.parse
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

from mltrigger.errors import InvalidName
from mltrigger.sources.brokers.client import CONNECT_S, MOST, Client, Inbox
from mltrigger.sources.brokers.messages import Message, Outgoing
from mltrigger.sources.relay import LEASE_S

# CloudEvents 1.0.2, NATS protocol binding: headers are percent-encoded as in HTTP.
_SAFE = "".join(chr(code) for code in range(0x21, 0x7F) if chr(code) not in '"%')

_ASK_S = 5.0
"""How long a request for messages is open."""


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
        self._inbox = Inbox()

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
        """Begin to receive.

        One request is open at a time, so that a message is taken as soon as it comes.
        """
        self._asked, self._until_s = 0, 0.0
        self._reply = self._nats.new_inbox()
        await self._nats.subscribe(self._reply, cb=self._arrived)

    async def _arrived(self, found: Any) -> None:
        if not found.reply:  # the end of a request
            self._asked = 0
            return
        self._asked -= 1
        await self._inbox.put(_message(found))

    async def _ask(self) -> None:
        """Ask for messages, unless a request is open."""
        now_s = time.monotonic()
        if self._asked > 0 and now_s < self._until_s:
            return
        self._asked, self._until_s = MOST - len(self._inbox), now_s + _ASK_S + 1.0
        request = {"batch": self._asked, "expires": int(_ASK_S * 1e9)}
        await self._nats.publish(
            f"$JS.API.CONSUMER.MSG.NEXT.{self._of}.{self.name}",
            json.dumps(request).encode(),
            reply=self._reply,
        )

    async def take(self, wait_s: float) -> list[Message]:
        """Return the next messages of the stream."""
        if not self._nats.is_connected:
            raise ConnectionError("the connection was lost")
        if len(self._inbox) < MOST:
            await self._ask()
        return await self._inbox.take(wait_s)

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
        if self.broker is None or self.broker._connection is None:
            return
        if len(self._inbox) and self._nats.is_connected:
            await self.give_back(await self._inbox.take(0.0))
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
