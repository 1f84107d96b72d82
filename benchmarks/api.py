"""HTTP: publishing against a bare Starlette handler, and the wait of a direct call.

The bare handler parses the JSON and writes the same row durably, in a thread, one commit a request.
It runs under the same server with the same settings.
"""

from __future__ import annotations

import http.client
import json
import multiprocessing
import sqlite3
import statistics
import subprocess
import sys
import threading
import time
import urllib.parse
from pathlib import Path

from benchmarks.harness import Options, payload, scratch, url
from benchmarks.report import Report, Table, Target, number, quantile

_CLIENTS = (1, 8, 32)

_OURS = """
import sys, time
import mltrigger as mt
bus = mt.connect(sys.argv[1])
bus.topic("t")
bus.register(lambda x: x, name="echo", version="1.0.0")
server = mt.serve(bus, rate_per_s=1e9)
print(server.url, server.token, flush=True)
sys.stdin.read()
"""
_BARE = """
import json, sqlite3, sys, threading, time, uuid
import anyio.to_thread, uvicorn
from starlette.applications import Starlette
from starlette.responses import JSONResponse
from starlette.routing import Route
lock = threading.Lock()
db = sqlite3.connect(sys.argv[1], check_same_thread=False, isolation_level=None)
db.execute("PRAGMA journal_mode = WAL")
db.execute("PRAGMA synchronous = FULL")
db.execute("CREATE TABLE event (id TEXT PRIMARY KEY, topic TEXT, source TEXT, type TEXT, time REAL, data BLOB)")
def write(row):
    with lock:
        db.execute("INSERT INTO event VALUES (?, ?, ?, ?, ?, ?)", row)
async def publish(request):
    if request.headers.get("authorization") != "Bearer x":
        return JSONResponse({}, 401)
    body = await request.body()
    json.loads(body)
    name = str(uuid.uuid4())
    await anyio.to_thread.run_sync(write, (name, "t", "s", "e", time.time(), body))
    return JSONResponse({"id": name, "topic": "t"}, 202)
app = Starlette(routes=[Route("/v1/topics/t/events", publish, methods=["POST"])])
import socket
bound = socket.socket(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP)
bound.bind(("127.0.0.1", 0))
print(f"http://127.0.0.1:{bound.getsockname()[1]} x", flush=True)
config = uvicorn.Config(app, http="h11", ws="none", log_config=None, access_log=False)
threading.Thread(target=uvicorn.Server(config).run, args=([bound],), daemon=True).start()
sys.stdin.read()
"""


class _Server:
    """A server in a process of its own, until its input ends."""

    def __init__(self, code: str, place: str) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-c", code, place],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        assert self._process.stdout is not None
        self.url, self.token = self._process.stdout.readline().split()

    def stop(self) -> None:
        self._process.communicate(timeout=30)


def run(options: Options) -> Report:
    """Measure both servers in turn, then the direct call."""
    report = Report("api", "publishing over HTTP against a bare handler, and a direct call")
    seconds = float(options.size(6, 1))
    with scratch() as folder:
        ours = _Server(_OURS, url(folder / "ours.db"))
        bare = _Server(_BARE, str(folder / "bare.db"))
        try:
            time.sleep(0.5)
            rows = [_publishing(report, ours, bare, clients, seconds) for clients in _CLIENTS]
            report.tables.append(
                Table(
                    "Events a second over HTTP, each durable before its 202; the better of three"
                    " turns",
                    ("clients", "bare Starlette", "mltrigger", "ratio"),
                    rows,
                )
            )
            _calling(report, ours, options)
        finally:
            ours.stop()
            bare.stop()
        _check(folder)
    report.notes.append(
        "The bare handler commits each request by itself. Requests that arrive together share a"
        " commit here, so the ratio rises with the number of clients."
    )
    return report


def _publishing(
    report: Report, ours: _Server, bare: _Server, clients: int, seconds: float
) -> list[str]:
    rates: dict[str, list[float]] = {"ours": [], "bare": []}
    for _ in range(3):
        for name, server in (("bare", bare), ("ours", ours)):
            rates[name].append(_rate(server, clients, seconds / 3))
    ratio = statistics.median(o / b for o, b in zip(rates["ours"], rates["bare"], strict=True))
    report.targets.append(
        Target(
            f"publish over HTTP, {clients} at a time, of a bare handler",
            ">= 0.5",
            f"{ratio:.2f}",
            ratio >= 0.5,
        )
    )
    best = {name: max(found) for name, found in rates.items()}
    return [str(clients), number(best["bare"]), number(best["ours"]), f"{ratio:.2f}"]


def _rate(server: _Server, clients: int, seconds: float) -> float:
    """Return the requests a second of so many clients, in a process of their own."""
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        return pool.apply(requests_per_s, (server.url, server.token, clients, seconds))


def requests_per_s(where: str, token: str, clients: int, seconds: float) -> float:
    """Return how many requests a second so many threads send and see confirmed."""
    counts = [0] * clients
    end_s = time.monotonic() + seconds

    def send(number: int) -> None:
        connection = http.client.HTTPConnection(urllib.parse.urlsplit(where).netloc)
        headers = {"Authorization": f"Bearer {token}", "Content-Type": "application/json"}
        body = json.dumps(payload(number))
        while time.monotonic() < end_s:
            connection.request("POST", "/v1/topics/t/events", body, headers)
            answer = connection.getresponse()
            answer.read()
            if answer.status != 202:
                raise RuntimeError(f"refused: {answer.status}")
            counts[number] += 1
        connection.close()

    threads = [threading.Thread(target=send, args=(number,)) for number in range(clients)]
    began_s = time.monotonic()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return sum(counts) / (time.monotonic() - began_s)


def _calling(report: Report, server: _Server, options: Options) -> None:
    waits = []
    connection = http.client.HTTPConnection(urllib.parse.urlsplit(server.url).netloc)
    headers = {"Authorization": f"Bearer {server.token}", "Content-Type": "application/json"}
    model_ms = []
    for n in range(options.size(600, 100)):
        began_s = time.perf_counter()
        connection.request("POST", "/v1/models/echo/invoke", json.dumps(payload(n)), headers)
        answer = json.loads(connection.getresponse().read())
        waits.append((time.perf_counter() - began_s) * 1000)
        model_ms.append(answer["model_ms"])
    beyond = quantile(waits, 0.5) - quantile(model_ms, 0.5)
    report.targets.append(
        Target("direct call, p50 beyond the model", "< 3 ms", f"{beyond:.2f} ms", beyond < 3)
    )
    report.tables.append(
        Table(
            "A direct call over HTTP, one at a time, ms: the event and its outcome are durable"
            " before the answer",
            ("p50", "p95", "p99", "in the model, p50"),
            [
                [f"{quantile(waits, q):.2f}" for q in (0.5, 0.95, 0.99)]
                + [f"{quantile(model_ms, 0.5):.2f}"]
            ],
        )
    )


def _check(folder: Path) -> None:
    """Raise unless both stores have the rows that were confirmed."""
    for name in ("ours", "bare"):
        with sqlite3.connect(folder / f"{name}.db") as store:
            ((count,),) = store.execute("SELECT count(*) FROM event")
            if count == 0:
                raise RuntimeError(f"{name} wrote nothing")
