"""Redis: a stream, read through a consumer group."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from mltrigger.sources.brokers.client import CALL_S, CONNECT_S, MOST, Client
from mltrigger.sources.brokers.messages import Message, Outgoing

DATA = "data"
"""The field of an entry that is its body. The others are its headers."""
_FASTSTREAM = "__data__"
_CONSUMER = "mltrigger"


class RedisClient(Client):
    """One stream. An entry with a field ``data`` is that, with headers. Any other is an object."""

    async def open(self, sending: bool = False) -> None:
        """Connect."""
        from faststream.redis import RedisBroker

        nobody: Any = None  # None is taken, whatever its type says
        self.broker = RedisBroker(
            f"{'rediss' if self.place.tls else 'redis'}://{self.place.hosts}"
            f"/{self.place.option('db', '0')}",
            security=self.security(),
            socket_connect_timeout=CONNECT_S,
            socket_timeout=CALL_S,
            logger=nobody,
        )
        self._redis: Any = await self.broker.connect()
        await self._redis.ping()
        self._after = "0"

    async def begin(self, since_us: int | None) -> None:
        """Make the consumer group, unless it is there. The stream is made as well."""
        from redis.exceptions import ResponseError

        start = "$" if since_us is None else f"{since_us // 1000}-0"
        try:
            await self._redis.xgroup_create(self.place.path, self.name, id=start, mkstream=True)
        except ResponseError as error:
            if "BUSYGROUP" not in str(error):
                raise

    async def listen(self) -> None:
        """Take first the entries that a reader before took and did not acknowledge."""
        self._after = "0"

    async def take(self, wait_s: float) -> list[Message]:
        """Return the next entries of the stream."""
        answer = await self._redis.xreadgroup(
            self.name,
            _CONSUMER,
            {self.place.path: self._after},
            count=MOST,
            block=max(1, int(wait_s * 1000)),
        )
        found = _entries(answer)
        if self._after != ">":
            self._after = _text(found[-1][0]) if found else ">"
            if not found:
                return await self.take(wait_s)
        # an entry that was trimmed since has no fields: nobody can read it any more
        return [_message(_text(number), fields or {}) for number, fields in found]

    async def acknowledge(self, taken: Sequence[Message]) -> None:
        """Acknowledge each entry."""
        await self._redis.xack(self.place.path, self.name, *[message.token for message in taken])

    async def behind(self) -> int | None:
        """Return the lag of the group, and its entries without acknowledgement."""
        for group in await self._redis.xinfo_groups(self.place.path):
            fields = {_text(name): value for name, value in group.items()}
            if _text(fields["name"]) == self.name:
                lag = fields.get("lag")
                return None if lag is None else int(lag) + int(fields["pending"])
        return None

    async def send(self, message: Outgoing) -> None:
        """Add an entry. It is as durable as the server's ``appendfsync``."""
        most = self.place.option("maxlen")
        fields = {**message.headers("ce-"), "content-type": message.content_type}
        await self._redis.xadd(
            self.place.path,
            {**fields, DATA: message.body},
            maxlen=int(most) if most else None,
            approximate=True,
        )

    def is_outage(self, error: Exception) -> bool:
        """Whether the server is away, starts, or has no room."""
        from redis import exceptions

        full = isinstance(error, exceptions.ResponseError) and str(error).startswith(
            ("OOM", "LOADING", "MISCONF", "READONLY", "NOREPLICAS", "CLUSTERDOWN")
        )
        gone = (exceptions.ConnectionError, exceptions.TimeoutError, exceptions.ReadOnlyError)
        return full or isinstance(error, gone) or super().is_outage(error)

    async def forget(self) -> None:
        """Remove the consumer group."""
        await self._redis.xgroup_destroy(self.place.path, self.name)


def _entries(answer: Any) -> list[tuple[Any, Any]]:
    """Return the entries of an answer: a list of streams, or a mapping in RESP3."""
    if not answer:
        return []
    streams = list(answer.values()) if isinstance(answer, Mapping) else [s for _, s in answer]
    entries = streams[0]
    if isinstance(answer, Mapping) and entries and isinstance(entries[0], list):
        entries = [pair for group in entries for pair in group]
    return [tuple(entry) for entry in entries]


def _message(number: str, fields: Mapping[Any, Any]) -> Message:
    named = {_text(name): value for name, value in fields.items()}
    milliseconds = number.partition("-")[0]
    sent_us = int(milliseconds) * 1000 if milliseconds.isdecimal() else None
    if _FASTSTREAM in named:
        from faststream.redis.parser import BinaryMessageFormatV1

        body, headers = BinaryMessageFormatV1.parse(named.pop(_FASTSTREAM))
        kind = headers.pop("content-type", None)
        return Message(body, headers, number, number, sent_us=sent_us, content_type=kind)
    if DATA in named:
        body = named.pop(DATA)
        kind = named.pop("content-type", None)
        return Message(
            body,
            named,
            number,
            number,
            sent_us=sent_us,
            content_type=None if kind is None else _text(kind),
        )
    texts = {name: _text(value) for name, value in named.items()}
    return Message(json.dumps(texts).encode(), {}, number, number, sent_us=sent_us)


def _text(value: Any) -> str:
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else str(value)
