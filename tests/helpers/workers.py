"""Processes of ``mltrigger worker`` that answer probes."""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from shared import wait_until

import mltrigger as mt

URL = "sqlite:///bus.db"


class Probed:
    """A worker process and its probes."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        assert process.stdout is not None
        self.process, self.said = process, process.stdout.readline()
        found = re.search(r"probes on port (\d+)", self.said)
        assert found, self.said + process.stdout.read()
        self._at = f"http://127.0.0.1:{found[1]}"

    def get(self, path: str) -> tuple[int, Any]:
        """Return the status of a probe and its body."""
        try:
            with urllib.request.urlopen(self._at + path, timeout=30) as answer:
                return answer.status, json.load(answer)
        except urllib.error.HTTPError as error:
            return error.code, json.load(error)

    def is_ready(self) -> bool:
        return self.get("/readyz")[0] == 200

    def wait_ready(self) -> None:
        wait_until(lambda: self.is_ready() or self.process.poll() is not None, timeout_s=120)
        assert self.process.poll() is None, self.process.communicate()

    def terminate(self) -> None:
        self.process.send_signal(signal.SIGTERM)

    def end(self) -> str:
        """Return the rest of its words when it has ended with status 0."""
        said, _ = self.process.communicate(timeout=120)
        assert self.process.returncode == 0, f"status {self.process.returncode}: {said}"
        return said


@contextlib.contextmanager
def probed(*options: str, env: dict[str, str] | None = None) -> Iterator[Probed]:
    """Run a worker in the working directory. Kill it at the end if it still runs."""
    path = os.pathsep.join([str(Path(mt.__file__).parent.parent), os.environ.get("PYTHONPATH", "")])
    process = subprocess.Popen(
        [sys.executable, "-m", "mltrigger", "worker", "--url", URL, "--health", "0", *options],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env={**os.environ, "PYTHONPATH": path.rstrip(os.pathsep), **(env or {})},
    )
    try:
        yield Probed(process)
    finally:
        process.kill()
        process.communicate()
