"""AWS on loopback: moto's server, in a thread of the test process, over real HTTP. Its time can be moved."""

from __future__ import annotations

import contextlib
import datetime as dt
import itertools
import logging
from collections.abc import Callable, Iterator

import boto3
import moto.core.utils
import moto.sqs.models
import pytest
from moto.server import ThreadedMotoServer

REGION = "eu-west-1"
ACCOUNT = "123456789012"
CREDENTIALS = {"aws_access_key_id": "testing", "aws_secret_access_key": "testing"}


class Emulator:
    """A running server: its address, sessions for it, and its time.

    ``ahead_s`` says how many seconds its clock is ahead of the machine's; set it to a function to let a simulated clock decide.
    """

    def __init__(self, server: ThreadedMotoServer) -> None:
        host, port = server.get_host_and_port()
        self.url = f"http://{host}:{port}"
        self.ahead_s: Callable[[], float] = lambda: 0.0
        self._prefixes = itertools.count(1)

    def fresh_prefix(self) -> str:
        """Return the name of a bus that nobody else uses: tests share the server, and nothing on it."""
        return f"bus{next(self._prefixes)}"

    def session(self) -> boto3.Session:
        """Return a session with credentials of its own, so that no test depends on the machine's."""
        return boto3.Session(region_name=REGION, **CREDENTIALS)

    def client(self, service: str) -> object:
        """Return a bare boto3 client, to look at the emulator from outside."""
        return self.session().client(service, endpoint_url=self.url)

    def reset(self) -> None:
        """Forget everything."""
        import requests

        requests.post(f"{self.url}/moto-api/reset", timeout=10).raise_for_status()
        self.ahead_s = lambda: 0.0

    def now_s(self) -> float:
        """Return the time that the emulator lives in."""
        return dt.datetime.now(dt.UTC).timestamp() + self.ahead_s()


@contextlib.contextmanager
def moto_server() -> Iterator[Emulator]:
    """Run moto's server on a free port of loopback until the block ends."""
    logging.getLogger("werkzeug").setLevel(logging.ERROR)  # or it writes a line for each request
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    emulator = Emulator(server)
    patch = pytest.MonkeyPatch()
    for name, factor in (("unix_time", 1.0), ("unix_time_millis", 1000.0)):
        patch.setattr(moto.sqs.models, name, lambda factor=factor: emulator.now_s() * factor)
    try:
        yield emulator
    finally:
        patch.undo()
        server.stop()
