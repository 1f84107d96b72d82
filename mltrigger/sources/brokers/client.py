"""The protocol of a broker's client, and the thread in which all of it runs."""

from __future__ import annotations

import abc
import asyncio
import concurrent.futures
import contextlib
import importlib
import logging
import ssl
import threading
from collections.abc import Coroutine, Sequence
from typing import Any, TypeVar

from mltrigger.errors import InvalidName, MltriggerError, StoreError, how_to_install
from mltrigger.sources.brokers.messages import Message, Outgoing
from mltrigger.sources.brokers.place import BrokerPlace
from mltrigger.text import one_line, redacted, short

CONNECT_S = 5.0
"""The longest wait for a connection."""
CALL_S = 30.0
"""The longest wait for an answer of a broker."""
MOST = 256
"""The most messages of a step, and those that a broker hands out in advance."""
_CLIENTS = {
    "kafka": "kafka:KafkaClient",
    "rabbitmq": "rabbitmq:RabbitClient",
    "nats": "nats:NatsClient",
    "redis": "redis:RedisClient",
    "mqtt": "mqtt:MqttClient",
}
_LOGGERS = ("aio_pika", "aiokafka", "aiormq", "asyncio", "faststream", "nats", "redis", "zmqtt")
_Answer = TypeVar("_Answer")


class Client(abc.ABC):
    """One connection to a broker, for one place. One coroutine at a time uses it.

    Parameters
    ----------
    place : BrokerPlace
        The topic, queue or stream.
    name : str
        The name under which the broker remembers the reader: group, durable, session.
    """

    def __init__(self, place: BrokerPlace, name: str = "") -> None:
        self.place, self.name = place, name
        self.broker: Any = None

    def security(self) -> Any:
        """Return user, password and TLS as FastStream takes them. ``None`` without any."""
        from faststream.security import BaseSecurity, SASLPlaintext

        context = None
        if self.place.tls:
            context = ssl.create_default_context(cafile=self.place.option("ca") or None)
        if self.place.user or self.place.variable:
            return SASLPlaintext(
                self.place.user, self.place.secret(), use_ssl=self.place.tls, ssl_context=context
            )
        return BaseSecurity(use_ssl=True, ssl_context=context) if self.place.tls else None

    @abc.abstractmethod
    async def open(self, sending: bool = False) -> None:
        """Connect."""

    @abc.abstractmethod
    async def begin(self, since_us: int | None) -> None:
        """Let the broker remember this reader, unless it does. Raises if there is no such place.

        It gets messages from *since_us* on. ``None``: those from now on. 0: all that are there.
        """

    @abc.abstractmethod
    async def listen(self) -> None:
        """Begin to receive."""

    @abc.abstractmethod
    async def take(self, wait_s: float) -> list[Message]:
        """Return at most ``MOST`` messages. Wait for the first one. Raise when cut off."""

    @abc.abstractmethod
    async def acknowledge(self, taken: Sequence[Message]) -> None:
        """Acknowledge everything up to the last message of *taken*."""

    async def give_back(self, taken: Sequence[Message]) -> None:
        """Let messages come again at once. Most brokers do so when the connection ends."""
        return

    async def behind(self) -> int | None:
        """Return how many messages are not acknowledged. ``None`` if the broker does not say."""
        return None

    @abc.abstractmethod
    async def send(self, message: Outgoing) -> None:
        """Send a message. It is kept by the broker on return."""

    def refuses(self, error: Exception) -> bool:
        """Whether the broker will never take the message, such as one that is too large."""
        return isinstance(error, (ValueError, UnicodeError))

    def is_outage(self, error: Exception) -> bool:
        """Whether *error* says nothing about the message: the broker is away, or not ready."""
        return isinstance(error, OSError)

    async def forget(self) -> None:
        """Let the broker forget this reader, if it can."""
        return

    async def close(self) -> None:
        """Release the connection."""
        if self.broker is not None:
            await self.broker.stop()


class Inbox:
    """Messages that a broker pushes, ``MOST`` of them. More wait in the connection."""

    def __init__(self) -> None:
        self._queue: asyncio.Queue[Message] = asyncio.Queue(MOST)

    async def put(self, message: Message) -> None:
        """Add a message, as soon as there is room."""
        await self._queue.put(message)

    async def take(self, wait_s: float) -> list[Message]:
        """Return the messages that are there. Wait for the first one."""
        if self._queue.empty():
            try:
                taken = [await asyncio.wait_for(self._queue.get(), wait_s)]
            except TimeoutError:
                return []
        else:
            taken = [self._queue.get_nowait()]
        while len(taken) < MOST and not self._queue.empty():
            taken.append(self._queue.get_nowait())
        return taken

    def __len__(self) -> int:
        """Return how many messages are there."""
        return self._queue.qsize()


class Line:
    """A client in an event loop of its own thread, so that it answers the broker at any time.

    Parameters
    ----------
    place, name
        As for :class:`Client`.
    """

    def __init__(self, place: BrokerPlace, name: str = "") -> None:
        _silence()
        self._place = place
        self.client: Client = client_class(place.kind)(place, name)
        self._loop = asyncio.new_event_loop()
        self._loop.set_exception_handler(_noted)
        self._thread = threading.Thread(
            target=self._loop.run_forever, name=f"mltrigger-{place.kind}", daemon=True
        )
        self._thread.start()

    def open(self, sending: bool = False) -> None:
        """Connect."""
        self.run(self.client.open(sending), CONNECT_S)

    def run(self, call: Coroutine[Any, Any, _Answer], longest_s: float = CALL_S) -> _Answer:
        """Return the answer of *call*. No error holds the password.

        Raises
        ------
        StoreError
            When the broker is away, or refuses.
        """
        future = asyncio.run_coroutine_threadsafe(asyncio.wait_for(call, longest_s), self._loop)
        try:
            return future.result(longest_s + 5.0)
        except MltriggerError:
            raise
        except (TimeoutError, concurrent.futures.TimeoutError):
            future.cancel()
            problem = f"no answer within {longest_s:g} s"
        except Exception as error:
            problem = said(error)
        # without its cause: that may hold the password
        raise StoreError(
            short(one_line(redacted(self._place.without_secret(problem))), 300)
        ) from None

    def close(self) -> None:
        """Release the connection and the thread. Idempotent."""
        if self._loop.is_closed():
            return
        with contextlib.suppress(Exception):
            self.run(self.client.close(), CONNECT_S)
        with contextlib.suppress(Exception):
            self.run(_end_others(), CONNECT_S)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(timeout=5.0)
        if not self._thread.is_alive():
            self._loop.close()


def client_class(kind: str) -> Any:
    """Return the client of *kind*. Raises InvalidName if its library is missing."""
    module, _, name = _CLIENTS[kind].partition(":")
    return getattr(importlib.import_module(f"mltrigger.sources.brokers.{module}"), name)


def check_library(kind: str) -> None:
    """Raise InvalidName unless the libraries of *kind* are installed."""
    try:
        importlib.import_module(f"faststream.{'rabbit' if kind == 'rabbitmq' else kind}")
    except ImportError as error:
        raise InvalidName(f"{kind}:// needs faststream: {how_to_install('brokers')}") from error


def said(error: BaseException) -> str:
    """Return the words of an error. Some libraries raise errors without any."""
    return str(error) or type(error).__name__


async def _end_others() -> None:
    """End tasks that a library left behind."""
    others = asyncio.all_tasks() - {asyncio.current_task()}
    for task in others:
        task.cancel()
    await asyncio.gather(*others, return_exceptions=True)


def _noted(loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
    """Note an error in the background of a library. The next call raises it."""
    logging.getLogger("mltrigger").debug("broker: %s", context.get("message", ""))


def _silence() -> None:
    """Keep the libraries from printing. Users who want their messages configure their loggers."""
    for name in _LOGGERS:
        logger = logging.getLogger(name)
        if not logger.handlers:
            logger.addHandler(logging.NullHandler())
