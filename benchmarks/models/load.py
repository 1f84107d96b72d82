"""The load on an Open Inference Protocol server, in a process of its own: some keep-alive
connections, each with one request at a time.

``python -m benchmarks.models.load HOST PORT MODEL CONNECTIONS ROWS SECONDS`` prints what it counted
as JSON. It speaks the least HTTP that works and its requests are ready-made: what it costs itself
is printed, too.
"""

from __future__ import annotations

import asyncio
import json
import sys
import time

import numpy as np

from benchmarks.models.rows import FEATURES

WARM_S = 1.5


def request(host: str, model: str, rows: int) -> bytes:
    """Return one whole request with *rows* rows."""
    values = np.random.default_rng(1).normal(size=rows * FEATURES).round(4).tolist()
    tensor = {"name": "x", "shape": [rows, FEATURES], "datatype": "FP64", "data": values}
    body = json.dumps({"inputs": [tensor]}).encode()
    head = (
        f"POST /v2/models/{model}/infer HTTP/1.1\r\nHost: {host}\r\nContent-Type:"
        f" application/json\r\nContent-Length: {len(body)}\r\n\r\n"
    )
    return head.encode() + body


class Load:
    """Counts answers between the end of the warm-up and the end."""

    def __init__(self, host: str, port: int, sent: bytes, seconds: float) -> None:
        self._place, self._sent = (host, port), sent
        self.begins_at = time.perf_counter() + WARM_S
        self.ends_at = self.begins_at + seconds
        self.answers = self.failed = 0
        self.waited_s: list[float] = []

    async def connection(self) -> None:
        """Send one request after the other until the time is over."""
        reader, writer = await asyncio.open_connection(*self._place)
        while (started := time.perf_counter()) < self.ends_at:
            writer.write(self._sent)
            head = await reader.readuntil(b"\r\n\r\n")
            length = int(head.lower().partition(b"content-length:")[2].split(b"\r\n", 1)[0])
            await reader.readexactly(length)
            ended = time.perf_counter()
            if self.begins_at <= started and ended <= self.ends_at:
                if head.startswith(b"HTTP/1.1 200"):
                    self.answers += 1
                    self.waited_s.append(ended - started)
                else:
                    self.failed += 1
        writer.close()


async def run(
    host: str, port: int, model: str, connections: int, rows: int, seconds: float
) -> dict[str, float]:
    """Load the server and return what was counted."""
    load = Load(host, port, request(host, model, rows), seconds)
    cpu_s, started = time.process_time(), time.perf_counter()
    await asyncio.gather(*(load.connection() for _ in range(connections)))
    share = (time.process_time() - cpu_s) / (time.perf_counter() - started)
    waited = sorted(load.waited_s) or [0.0]
    return {
        "rows_per_s": load.answers * rows / seconds,
        "failed": load.failed,
        "p50_ms": waited[len(waited) // 2] * 1e3,
        "cpu_share": share,
    }


if __name__ == "__main__":
    host_, port_, model_, connections_, rows_, seconds_ = sys.argv[1:]
    print(
        json.dumps(
            asyncio.run(
                run(host_, int(port_), model_, int(connections_), int(rows_), float(seconds_))
            )
        )
    )
