"""An SQS, SNS and S3 server on loopback, as a process of its own: fauxqs for figures, moto where
there is no Node.

fauxqs keeps the log that everybody is counted by. moto's calls take longer the more messages wait
(below 200 they are fit for a storm, never for a benchmark).
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

REGION = "eu-west-1"
FAUXQS = "1.9.2"
CREDENTIALS = {
    "AWS_ACCESS_KEY_ID": "testing",
    "AWS_SECRET_ACCESS_KEY": "testing",
    "AWS_DEFAULT_REGION": REGION,
    "AWS_EC2_METADATA_DISABLED": "true",
}
_SCRIPT = Path(__file__).with_name("fauxqs.mjs")
_MOTO = """
import logging, sys
from moto.server import ThreadedMotoServer
logging.getLogger("werkzeug").setLevel(logging.ERROR)
server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
server.start()
print("http://%s:%s" % server.get_host_and_port(), flush=True)
sys.stdin.read()
"""


class Log(NamedTuple):
    """What the server served since it was told to forget: requests by action, refusals, receives,
    and messages sent and deleted.
    """

    requests: dict[str, int]
    refused: int
    sent: int
    received: int
    deleted: int
    first_receive_ms: float | None
    last_delete_ms: float | None

    @property
    def total(self) -> int:
        """All requests."""
        return sum(self.requests.values())

    @property
    def drained_s(self) -> float:
        """From the arrival of the first receive to the answer of the last delete, by the server's
        clock.
        """
        if self.first_receive_ms is None or self.last_delete_ms is None:
            raise RuntimeError("nothing was received and deleted")
        return (self.last_delete_ms - self.first_receive_ms) / 1e3


class Server:
    """A running server at ``url``, of process ``pid``."""

    def __init__(self, url: str, pid: int) -> None:
        self.url, self.pid = url, pid

    @property
    def environment(self) -> dict[str, str]:
        """What a process needs for boto3 to find it, whatever the machine has configured."""
        return environment(self.url)

    def client(self, service: str) -> Any:
        """Return a boto3 client for it."""
        return session().client(service, endpoint_url=self.url)

    def forget(self) -> None:
        """Begin a new log; fauxqs only."""
        urllib.request.urlopen(
            urllib.request.Request(f"{self.url}/_bench/forget", method="POST"), timeout=10
        ).close()

    def log(self) -> Log:
        """Return the log; fauxqs only."""
        return Log(**self._get("/_bench/log"))

    def until(self, what: str, count: int, within_s: float) -> Log:
        """Return the log once it has *count* of *what*, ``received`` or ``deleted``; raise
        TimeoutError after *within_s* seconds.
        """
        found = Log(
            **self._get(f"/_bench/until/{what}/{count}/within/{within_s * 1e3:.0f}", within_s + 10)
        )
        if getattr(found, what) < count:
            raise TimeoutError(
                f"{getattr(found, what):,} of {count:,} {what} after {within_s:g} s:"
                f" {found.requests}"
            )
        return found

    def left(self) -> dict[str, int]:
        """Return the messages that each queue has, in flight or not; queues without any are left
        out.
        """
        sqs, found = self.client("sqs"), {}
        for url in sqs.list_queues().get("QueueUrls", []):
            names = [
                f"ApproximateNumberOfMessages{which}" for which in ("", "NotVisible", "Delayed")
            ]
            counts = sqs.get_queue_attributes(QueueUrl=url, AttributeNames=names)["Attributes"]
            found[url.rpartition("/")[2]] = sum(map(int, counts.values()))
        return {name: count for name, count in found.items() if count}

    def _get(self, path: str, timeout_s: float = 10) -> Any:
        with urllib.request.urlopen(self.url + path, timeout=timeout_s) as answer:
            return json.load(answer)


def environment(url: str) -> dict[str, str]:
    """Return the variables by which boto3 finds the server at *url*, with credentials that mean
    nothing.
    """
    nothing = os.devnull
    return {
        **CREDENTIALS,
        "AWS_ENDPOINT_URL": url,
        "AWS_CONFIG_FILE": nothing,
        "AWS_SHARED_CREDENTIALS_FILE": nothing,
    }


def session() -> Any:
    """Return a boto3 session with credentials of its own, so that nothing depends on the machine's."""
    import boto3

    return boto3.Session("testing", "testing", region_name=REGION)


@contextlib.contextmanager
def fauxqs() -> Iterator[Server]:
    """Run fauxqs until the block ends; at first use it is installed by npm, below the user's cache."""
    node = shutil.which("node")
    if node is None:
        raise SystemExit(
            "node is not installed: the benchmarks on SQS need Node 20 or newer for their server,"
            " fauxqs"
        )
    with _running([node, str(_SCRIPT), str(_app()), REGION]) as server:
        yield server


@contextlib.contextmanager
def moto() -> Iterator[Server]:
    """Run moto's server until the block ends."""
    with _running([sys.executable, "-c", _MOTO]) as server:
        yield server


@contextlib.contextmanager
def _running(
    command: Sequence[str], variables: Mapping[str, str] = CREDENTIALS
) -> Iterator[Server]:
    """Start *command*, read its address, and end it by its pid; it also ends when this process
    does: its input is closed.
    """
    process = subprocess.Popen(
        command,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env={**os.environ, **variables},
        start_new_session=True,
        text=True,
    )
    assert process.stdout is not None and process.stdin is not None
    try:
        url = process.stdout.readline().strip()
        if not url.startswith("http://127.0.0.1:"):
            raise RuntimeError(f"the server did not start on loopback; it said {url!r}")
        yield Server(url, process.pid)
    finally:
        process.terminate()
        process.wait()
        process.stdin.close()
        process.stdout.close()


def _app() -> Path:
    """Return fauxqs' entry; install it first where it is not."""
    folder = _cache() / f"fauxqs-{FAUXQS}"
    app = folder / "node_modules" / "fauxqs" / "dist" / "app.js"
    if not app.exists():
        npm = shutil.which("npm")
        if npm is None:
            raise SystemExit("npm is not installed: it is needed once, to install fauxqs")
        print(f"installing fauxqs {FAUXQS} below the cache folder, once", flush=True)
        folder.mkdir(parents=True, exist_ok=True)
        wanted = [
            npm,
            "install",
            "--prefix",
            str(folder),
            "--no-audit",
            "--no-fund",
            "--ignore-scripts",
            "--silent",
            f"fauxqs@{FAUXQS}",
        ]
        subprocess.run(wanted, check=True, cwd=folder, stdin=subprocess.DEVNULL)
    return app


def _cache() -> Path:
    """Return a folder that outlives the run, and is not in the checkout."""
    home = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    folder = home / "mltrigger-benchmarks"
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError:
        folder = Path(tempfile.gettempdir()) / "mltrigger-benchmarks"
        folder.mkdir(exist_ok=True)
    return folder
