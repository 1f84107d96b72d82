"""MQTT 5: a topic filter, read through a session that the broker keeps."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

from mltrigger.event.ids import new_id
from mltrigger.sources.brokers.client import CONNECT_S, MOST, Client, Inbox, said
from mltrigger.sources.brokers.messages import Message, Outgoing

_FOR_EVER = 0xFFFF_FFFF


class MqttClient(Client):
    """One filter, at QoS 1. The broker's own limit bounds the messages in flight."""

    async def open(self, sending: bool = False) -> None:
        """Connect. A reader takes up its session again."""
        from faststream.mqtt import MQTTBroker
        from zmqtt import ReconnectConfig

        host, _, port = self.place.hosts.split(",")[0].rpartition(":")
        self._sending = sending
        self.broker = MQTTBroker(
            f"mqtt://{host}:{port}",
            client_id="" if sending else self.name,
            clean_session=sending,
            session_expiry_interval=0 if sending else _FOR_EVER,
            # No receive_maximum: mosquitto 2.0 sends one more when it resumes a session.
            session_replay_buffer_size=0,
            session_replay_timeout=CONNECT_S * 12,
            reconnect=ReconnectConfig(enabled=False),
            mqtt_connect_timeout=CONNECT_S,
            security=self.security(),
            logger=None,
        )
        self._mqtt: Any = await self.broker.connect()
        self._subscription: Any = None
        self._pump: asyncio.Task[None] | None = None

    async def begin(self, since_us: int | None) -> None:
        """Subscribe. The session keeps messages from then on, and retained ones if all count."""
        from zmqtt import QoS, RetainHandling

        self._subscription = self._mqtt.subscribe(
            self.place.path,
            qos=QoS.AT_LEAST_ONCE,
            auto_ack=False,
            receive_buffer_size=MOST,
            retain_handling=(
                RetainHandling.SEND_IF_NOT_EXISTS if since_us == 0 else RetainHandling.DO_NOT_SEND
            ),
        )
        await self._subscription.start()

    async def listen(self) -> None:
        """Begin to receive."""
        self._inbox = Inbox()
        self._pump = asyncio.create_task(self._receive())

    async def _receive(self) -> None:
        async for found in self._subscription:
            await self._inbox.put(_message(found))

    async def take(self, wait_s: float) -> list[Message]:
        """Return the next messages."""
        pump = self._pump
        if pump is None or pump.done():
            error = None if pump is None or pump.cancelled() else pump.exception()
            raise ConnectionError(said(error) if error else "the connection was lost")
        return await self._inbox.take(wait_s)

    async def acknowledge(self, taken: Sequence[Message]) -> None:
        """Acknowledge each message."""
        for message in taken:
            await message.token.ack()

    async def send(self, message: Outgoing) -> None:
        """Publish at QoS 1. The broker has it on return."""
        from zmqtt import PublishProperties, QoS

        await self._mqtt.publish(
            self.place.path,
            message.body,
            qos=QoS.AT_LEAST_ONCE,
            properties=PublishProperties(
                content_type=message.content_type,
                user_properties=tuple(message.headers("").items()),
            ),
        )

    def is_outage(self, error: Exception) -> bool:
        """Whether the server is away."""
        from zmqtt import MQTTConnectError, MQTTDisconnectedError, MQTTTimeoutError

        gone = (MQTTConnectError, MQTTDisconnectedError, MQTTTimeoutError)
        return isinstance(error, gone) or super().is_outage(error)

    async def forget(self) -> None:
        """End the session at the broker."""
        from zmqtt import QoS

        gone = self._mqtt.subscribe(self.place.path, qos=QoS.AT_LEAST_ONCE, auto_ack=False)
        await gone.start()
        await gone.stop()

    async def close(self) -> None:
        """Disconnect. The session stays, with everything that is not acknowledged."""
        if self._pump is not None:
            self._pump.cancel()
        if self._subscription is not None:
            await self._subscription.detach()
        await super().close()


def _message(found: Any) -> Message:
    properties = found.properties
    named = dict(properties.user_properties) if properties is not None else {}
    if "specversion" in named:  # CloudEvents 1.0.2, MQTT protocol binding: names have no prefix
        named = {f"ce-{name}": value for name, value in named.items()}
    return Message(
        found.payload,
        named,
        new_id(),
        found,
        subject=found.topic,
        content_type=properties.content_type if properties is not None else None,
    )
