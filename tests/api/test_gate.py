"""Slow, half, silent and huge requests: refused, and others are served."""

from __future__ import annotations

import contextlib
import http.client
import os
import resource
import signal
import socket
import subprocess
import sys
import time
import urllib.parse
from collections.abc import Iterator
from pathlib import Path

import pytest
from http_client import Caller
from shared import wait_until

import mltrigger as mt

EVENTS = "/v1/topics/documents/events"


@contextlib.contextmanager
def connected(server: mt.Server) -> Iterator[socket.socket]:
    where = urllib.parse.urlsplit(server.url)
    with socket.create_connection((where.hostname, where.port), 10) as connection:
        yield connection


def head(server: mt.Server, *lines: str) -> bytes:
    host = urllib.parse.urlsplit(server.url).netloc
    first = [f"POST {EVENTS} HTTP/1.1", f"Host: {host}", f"Authorization: Bearer {server.token}"]
    return "\r\n".join([*first, "Content-Type: application/json", *lines, "", ""]).encode()


def test_body_beyond_the_limit_is_refused_before_it_is_read(served_bus: mt.EventBus) -> None:
    with mt.serve(served_bus, body_mb=0.1) as server:
        with connected(server) as connection:
            connection.sendall(head(server, "Content-Length: 999999999"))
            assert connection.recv(200).startswith(b"HTTP/1.1 413")
        with connected(server) as connection:
            connection.sendall(head(server, "Transfer-Encoding: chunked"))
            with contextlib.suppress(OSError):  # the server closes while we send
                for _ in range(20):
                    connection.sendall(b"4000\r\n" + b"1" * 0x4000 + b"\r\n")
            assert connection.recv(200).startswith(b"HTTP/1.1 413")
        with Caller(server.url, server.token) as caller:
            answer = caller.post(EVENTS, json="x" * 200_000)
            assert (answer.status_code, answer.json()["reason"]) == (413, "too_large")
            assert caller.post(EVENTS, json="x" * 1_000).status_code == 202
    assert len(served_bus.events()) == 1


def test_body_that_does_not_arrive_is_given_up(served_bus: mt.EventBus) -> None:
    with mt.serve(served_bus, body_s=0.3) as server:
        with connected(server) as connection:
            connection.sendall(head(server, "Content-Length: 100") + b"[1, 2")
            assert connection.recv(200).startswith(b"HTTP/1.1 408")
        assert Caller(server.url, server.token).post(EVENTS, json=1).status_code == 202
    assert len(served_bus.events()) == 1


@pytest.mark.parametrize(
    "begun", [b"", b"POST /v1/topics/documents", b"GET /v1/health HTTP/1.1\r\nHost: x\r\nX-A: "]
)
def test_silent_and_half_requests_are_closed(begun: bytes, served_bus: mt.EventBus) -> None:
    with mt.serve(served_bus, head_s=0.3) as server, connected(server) as connection:
        connection.sendall(begun)
        assert connection.recv(100) == b""


def test_head_that_drips_after_a_request_is_closed_too(served_bus: mt.EventBus) -> None:
    with mt.serve(served_bus, head_s=0.5) as server, connected(server) as connection:
        host = urllib.parse.urlsplit(server.url).netloc
        connection.sendall(f"GET /v1/health HTTP/1.1\r\nHost: {host}\r\n\r\n".encode())
        assert b" 200 " in connection.recv(1000)
        began_s = time.monotonic()
        with contextlib.suppress(OSError):
            while time.monotonic() - began_s < 20:  # each byte would keep a naive server waiting
                connection.sendall(b"G")
                if connection.recv(1) == b"":
                    break
        assert time.monotonic() - began_s < 20


@pytest.mark.parametrize(
    "sent",
    [
        b"\x00" * 100,
        b"GET / HTTP/9.9\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",  # TLS
        b"GET /v1/health HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n",
        b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        b"POST / HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: -5\r\n\r\n",
        b"GET http://evil.example/ HTTP/1.1\r\nHost: evil.example\r\n\r\n",
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    ],
)
def test_nonsense_is_refused_and_others_are_served(
    sent: bytes, server: mt.Server, api: Caller, capfd: pytest.CaptureFixture[str]
) -> None:
    with connected(server) as connection:
        connection.sendall(sent)
        connection.shutdown(socket.SHUT_WR)
        answer = connection.recv(1000)

    assert answer == b"" or answer.split()[1][:1] in (b"4", b"5"), answer
    assert b" 500 " not in answer
    assert api.post(EVENTS, json=1).status_code == 202
    assert capfd.readouterr() == ("", "")


def test_grpc_is_refused_by_name(server: mt.Server, api: Caller) -> None:
    with connected(server) as connection:
        connection.sendall(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n")
        assert b"gRPC" in connection.recv(1000)
    answer = api.post(
        "/inference.GRPC/Infer", data=b"", headers={"Content-Type": "application/grpc"}
    )
    assert (answer.status_code, answer.json()["reason"]) == (415, "no_grpc")


IDLE = """
import socket, sys, time
kept = []
for n in range(int(sys.argv[2])):
    try:
        kept.append(socket.create_connection(("127.0.0.1", int(sys.argv[1])), 20))
    except OSError:
        pass
    if n % 1000 == 0:
        print(n, flush=True)
print("open", flush=True)
time.sleep(600)
"""


def test_ten_thousand_idle_connections_keep_nobody_from_being_served(
    server: mt.Server, api: Caller
) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    most = min(hard, 20_000) if hard > 0 else 20_000
    port = urllib.parse.urlsplit(server.url).port
    before = len(list(Path("/proc/self/fd").iterdir()))
    child = subprocess.Popen(
        [sys.executable, "-c", IDLE, str(port), "10000"],
        stdout=subprocess.PIPE,
        text=True,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, most), hard)),
    )
    assert child.stdout is not None
    try:
        lines = 0
        for line in child.stdout:
            lines += 1
            assert api.post(EVENTS, json=lines, timeout=60).status_code == 202
            if line.strip() == "open":
                break
        assert lines == 11
        with Caller(server.url, server.token) as late:
            assert late.post(EVENTS, json="late", timeout=60).status_code == 202
        held = len(list(Path("/proc/self/fd").iterdir()))
        assert held - before < 2_000
    finally:
        child.kill()
        child.wait()


def test_client_that_goes_away_leaves_nothing_behind(
    served_bus: mt.EventBus, server: mt.Server
) -> None:
    served_bus.subscribe("never", lambda x: x, name="never", listen=False)
    for _ in range(20):
        connection = http.client.HTTPConnection(urllib.parse.urlsplit(server.url).netloc)
        headers = {
            "Authorization": f"Bearer {server.token}",
            "Accept": "text/event-stream",
        }
        connection.request("GET", "/v1/subscriptions/ocr/outcomes", headers=headers)
        assert connection.getresponse().status == 200
        connection.close()
    served_bus.publish("documents", 1)
    wait_until(lambda: len(server._uvicorn.server_state.tasks) == 0)


KILLED = """
import sys, time
import mltrigger as mt
bus = mt.connect(sys.argv[1])
bus.topic("documents")
server = mt.serve(bus, port=int(sys.argv[2]))
print(server.url, server.token, flush=True)
time.sleep(600)
"""
PUBLISHES = """
import http.client, json, sys
host, token, name = sys.argv[1:]
headers = {"Authorization": f"Bearer {token}", "Content-Type": "application/json"}
connection, n = http.client.HTTPConnection(host), 0
while True:
    n += 1
    key = f"{name}-{n}"
    try:
        connection.request("POST", "/v1/topics/documents/events", json.dumps(key),
                           {**headers, "Idempotency-Key": key})
        answer = connection.getresponse()
        answer.read()
        if answer.status == 202:
            print(key, flush=True)
    except (OSError, http.client.HTTPException):
        break
"""


@pytest.mark.slow(every=20)
@pytest.mark.parametrize("turn", range(60))
def test_every_202_of_a_killed_server_is_in_the_log_once(
    turn: int, served_bus: mt.EventBus
) -> None:
    url = f"sqlite:///{served_bus.log.home}"
    server = subprocess.Popen(
        [sys.executable, "-c", KILLED, url, "0"], stdout=subprocess.PIPE, text=True
    )
    assert server.stdout is not None
    address, token = server.stdout.readline().split()
    host = urllib.parse.urlsplit(address).netloc
    clients = [
        subprocess.Popen(
            [sys.executable, "-c", PUBLISHES, host, token, f"{turn}-{n}"],
            stdout=subprocess.PIPE,
            text=True,
        )
        for n in range(3)
    ]
    wait_until(lambda: len(served_bus.events("documents")) > 20 + turn)
    os.kill(server.pid, signal.SIGKILL)
    server.wait()
    confirmed = [line for client in clients for line in client.communicate(timeout=30)[0].split()]

    found = served_bus.events("documents")["event_id"].tolist()
    assert len(confirmed) > 10
    assert set(confirmed) <= set(found)
    assert len(found) == len(set(found))
