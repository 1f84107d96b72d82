"""Clusters on loopback that run models: Dask's and Ray's."""

from __future__ import annotations

import contextlib
import logging
import secrets
import shutil
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from concurrent.futures import Executor
from pathlib import Path

import pytest
from shared import wait_until

import mltrigger as mt

_STARTED = "Ray runtime started"
# Ray gives a start up after 30 s of its clock. A busy machine needs longer, so the clock runs slower.
_START = """
import time
from types import SimpleNamespace
import ray._private.node as node
from ray.scripts.scripts import main
node.time = SimpleNamespace(**{**vars(time), "monotonic": lambda: time.monotonic() / 20})
main()
"""
_PATIENCE = {
    "RAY_agent_register_timeout_ms": "600000",
    "RAY_worker_register_timeout_seconds": "600",
    "RAY_health_check_timeout_ms": "60000",
    "RAY_NUM_REDIS_GET_RETRIES": "300",
}


@contextlib.contextmanager
def dask() -> Iterator[Executor]:
    """Run two worker processes of Dask. A call that kills its worker is not tried on another."""
    import dask
    import distributed

    with (
        dask.config.set({"distributed.scheduler.allowed-failures": 0}),
        distributed.LocalCluster(
            n_workers=2,
            threads_per_worker=1,
            processes=True,
            host="127.0.0.1",
            dashboard_address=":0",
            silence_logs=logging.CRITICAL,
        ) as cluster,
        distributed.Client(cluster) as client,
    ):
        yield client.get_executor()


@contextlib.contextmanager
def ray() -> Iterator[Executor]:
    """Run a node of Ray, and let this process use it."""
    with ray_node() as address:
        import ray

        try:
            ray.init(address=address, log_to_driver=False, logging_level=logging.CRITICAL)
            yield mt.RayExecutor(num_cpus=1)
        finally:
            ray.shutdown()


@contextlib.contextmanager
def ray_node() -> Iterator[str]:
    """Run a node of Ray with two processors, without the programs that only watch it.

    Yield its address. Processes started here may use it.
    """
    folder = Path(tempfile.mkdtemp(prefix="ray-"))  # the path of a socket must be short
    token = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": secrets.token_hex(32)}
    with pytest.MonkeyPatch.context() as patch:
        for name, value in {**token, **_PATIENCE}.items():
            patch.setenv(name, value)  # before ray is imported, which reads it
        node, port = _node(folder)
        try:
            yield f"127.0.0.1:{port}"
        finally:
            node.terminate()
            node.wait()
            shutil.rmtree(folder, ignore_errors=True)


def _node(folder: Path) -> tuple[subprocess.Popen[bytes], int]:
    """Start a node of Ray. Return its process and its port."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    options = {
        "port": port,
        "node-ip-address": "127.0.0.1",
        "num-cpus": 2,
        "include-dashboard": "false",
        "include-log-monitor": "false",
        "temp-dir": folder,
    }
    command = [sys.executable, "-c", _START, "start", "--head", "--block", "--no-monitor"]
    command += ["--disable-usage-stats", *(f"--{name}={value}" for name, value in options.items())]
    said = folder / "said.txt"
    with said.open("wb") as file:
        node = subprocess.Popen(command, stdout=file, stderr=file)
    wait_until(lambda: node.poll() is not None or _STARTED in said.read_text(), 600)
    assert node.poll() is None, f"Ray did not start: {said.read_text()}"
    return node, port
