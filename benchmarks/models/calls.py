"""The cost of one call of a model behind HTTP: mltrigger's endpoints beside requests, urllib3 and
http.client, to one server.
"""

from __future__ import annotations

import asyncio
import contextlib
import http.client
import json
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from typing import Any

import mltrigger as mt
from benchmarks.models.rows import COLUMNS, rows
from mltrigger.versions.address import Address
from mltrigger.versions.scheme import Setting, scheme_of

LIMIT = "requests.Session.post"
_TENSOR = {"name": "x", "datatype": "FP64", "shape": [-1, len(COLUMNS)]}
_OUTPUT = {"name": "predict", "datatype": "INT64", "shape": [-1]}
ANSWERS = {
    b"GET /v2/models/m": {
        "name": "m",
        "platform": "none",
        "inputs": [_TENSOR],
        "outputs": [_OUTPUT],
    },
    b"POST /v2/models/m/infer": {
        "model_name": "m",
        "outputs": [{"name": "predict", "shape": [1], "datatype": "INT64", "data": [1]}],
    },
    b"POST /score": {"predict": 1},
}


class _Answering(asyncio.Protocol):
    """Answers each request with the JSON of its path, at once: what is measured is the client."""

    def __init__(self, ready: dict[bytes, bytes]) -> None:
        self._ready, self._got = ready, b""

    def connection_made(self, transport: Any) -> None:
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        self._got += data
        head, end, body = self._got.partition(b"\r\n\r\n")
        length = head.lower().partition(b"content-length:")[2].split(b"\r\n", 1)[0]
        if end and len(body) >= int(length or 0):
            self._got = b""
            self._transport.write(self._ready[head.split(b" HTTP/", 1)[0]])


async def serve() -> None:
    """Serve until the input is closed; print the port first."""
    ready = {}
    for line, answer in ANSWERS.items():
        body = json.dumps(answer).encode()
        ready[line] = (
            b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n"
            % len(body)
            + body
        )
    loop = asyncio.get_running_loop()
    server = await loop.create_server(lambda: _Answering(ready), "127.0.0.1", 0)
    print(server.sockets[0].getsockname()[1], flush=True)
    await loop.run_in_executor(None, sys.stdin.read)


@contextlib.contextmanager
def server() -> Iterator[int]:
    """Run the server in a process of its own until the block ends; yield its port."""
    command = [sys.executable, "-m", "benchmarks.models.calls"]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None and process.stdin is not None
    try:
        yield int(process.stdout.readline())
    finally:
        process.stdin.close()
        process.wait()
        process.stdout.close()


def clients(port: int) -> dict[str, Callable[[], Any]]:
    """Return who is measured: each makes one call with one row, and reads the answer's JSON."""
    import requests
    import urllib3

    row, base = rows(1)[0], f"http://127.0.0.1:{port}"
    session, pool, connection = (
        requests.Session(),
        urllib3.PoolManager(),
        http.client.HTTPConnection("127.0.0.1", port),
    )
    setting = Setting(timeout_s=60.0)
    plain, oip = (
        Address(f"{base}/score"),
        Address.of(f"oip+{base}/v2/models/m", {"columns": COLUMNS}),
    )
    endpoints = {
        "mltrigger, JSON endpoint": scheme_of(plain).open(plain, setting),
        "mltrigger, Open Inference Protocol": scheme_of(oip).open(oip, setting),
    }
    event = mt.Event(row)

    def bare() -> Any:
        connection.request("POST", "/score", json.dumps(row), {"Content-Type": "application/json"})
        return json.loads(connection.getresponse().read())

    return {
        "http.client": bare,
        "urllib3.PoolManager.request": lambda: pool.request(
            "POST", f"{base}/score", json=row
        ).json(),
        LIMIT: lambda: session.post(f"{base}/score", json=row, timeout=60).json(),
        **{name: _asking(endpoint, event) for name, endpoint in endpoints.items()},
    }


def _asking(endpoint: Any, event: mt.Event) -> Callable[[], Any]:
    endpoint.warm_up()
    return lambda: endpoint.call([event])[0]


def measure(asked: dict[str, Callable[[], Any]], calls: int) -> dict[str, float]:
    """Return microseconds a call, everybody in turn, in blocks of 50 so that nobody has the quiet
    moment alone.
    """
    spent = dict.fromkeys(asked, 0.0)
    for call in asked.values():
        for _ in range(20):
            answer = call()
        if answer != {"predict": 1}:
            raise RuntimeError(f"unexpected answer {answer!r}")
    for _ in range(-(-calls // 50)):
        for name, call in asked.items():
            started = time.perf_counter()
            for _ in range(50):
                call()
            spent[name] += time.perf_counter() - started
    return {name: seconds / (-(-calls // 50) * 50) * 1e6 for name, seconds in spent.items()}


if __name__ == "__main__":
    asyncio.run(serve())
