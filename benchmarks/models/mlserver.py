"""MLServer with the same models, started here on loopback, and the load on it."""

from __future__ import annotations

import contextlib
import json
import os
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from benchmarks.models.rows import KINDS, data

READY_S = 40.0
MAX_BATCH_S = 0.005
_SLUG = {KINDS[0]: "forest", KINDS[1]: "linear"}
_TRAIN = """
import sys, joblib, numpy as np
from sklearn.ensemble import RandomForestClassifier
from sklearn.linear_model import LogisticRegression
known = np.load(sys.argv[1])
model = RandomForestClassifier(100, random_state=0) if sys.argv[2] == "forest" else LogisticRegression()
joblib.dump(model.fit(known["features"], known["classes"]), sys.argv[3])
"""
_VERSIONS = (
    "import importlib.metadata as m; print(*(f'{n} {m.version(n)}' for n in ('mlserver',"
    " 'mlserver-sklearn', 'scikit-learn')), sep=', ')"
)


class Way(NamedTuple):
    """How the server is set up and asked."""

    name: str
    batching: bool
    workers: int
    rows: int
    connections: int


WAYS = [
    Way("MLServer, adaptive batching of 32", True, 0, 1, 32),
    Way("MLServer, adaptive batching of 32, a worker process", True, 1, 1, 32),
    Way("MLServer, without batching", False, 0, 1, 32),
    Way("MLServer, 32 rows a request, by the client", False, 0, 32, 2),
]


class Unusable(RuntimeError):
    """The server did not start."""


def versions(binary: Path) -> str:
    """Return the versions that the server runs with."""
    return subprocess.run(
        [binary.parent / "python", "-c", _VERSIONS], check=True, capture_output=True, text=True
    ).stdout.strip()


def prepare(binary: Path, folder: Path) -> None:
    """Train the models with the server's own scikit-learn, on the same data."""
    features, classes = data()
    np.savez(folder / "known.npz", features=features, classes=classes)
    for slug in _SLUG.values():
        subprocess.run(
            [
                binary.parent / "python",
                "-c",
                _TRAIN,
                folder / "known.npz",
                slug,
                folder / f"{slug}.joblib",
            ],
            check=True,
        )


@contextlib.contextmanager
def serving(
    binary: Path, folder: Path, *, batching: bool, workers: int
) -> Iterator[tuple[str, int]]:
    """Run the server with both models until the block ends; yield host and port."""
    place = folder / f"batching-{batching}-workers-{workers}"
    ports = _free_ports(3)
    _configure(place, folder, ports, batching=batching, workers=workers)
    with (place / "log").open("wb") as log:
        process = subprocess.Popen(
            [binary.absolute(), "start", place],
            cwd=place,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,
        )
        try:
            _wait(process, ports[0])
            yield "127.0.0.1", ports[0]
        finally:
            process.terminate()
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(20)
            with contextlib.suppress(ProcessLookupError):
                # its worker processes, if any is left: they are of its own session
                os.killpg(process.pid, 9)
            process.wait()


def loaded(place: tuple[str, int], kind: str, way: Way, seconds: float) -> dict[str, float]:
    """Load *kind* for *seconds* from another process; return what it counted."""
    arguments = [*map(str, place), _SLUG[kind], str(way.connections), str(way.rows), str(seconds)]
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.models.load", *arguments],
        check=True,
        capture_output=True,
        text=True,
        timeout=300,
    )
    found: dict[str, float] = json.loads(done.stdout)
    if found["failed"]:
        raise RuntimeError(f"{found['failed']} requests failed")
    return found


def address(place: tuple[str, int], kind: str) -> str:
    """Return the address of *kind* for mltrigger."""
    return f"oip+http://{place[0]}:{place[1]}/v2/models/{_SLUG[kind]}"


def _configure(
    place: Path, folder: Path, ports: Sequence[int], *, batching: bool, workers: int
) -> None:
    place.mkdir(exist_ok=True)
    settings = {
        "host": "127.0.0.1",
        "http_port": ports[0],
        "grpc_port": ports[1],
        "metrics_port": ports[2],
        "debug": False,
    }
    (place / "settings.json").write_text(json.dumps({**settings, "parallel_workers": workers}))
    for slug in _SLUG.values():
        (place / slug).mkdir(exist_ok=True)
        model: dict[str, Any] = {"name": slug, "implementation": "mlserver_sklearn.SKLearnModel"}
        model["parameters"] = {"uri": str(folder / f"{slug}.joblib")}
        if batching:
            model |= {"max_batch_size": 32, "max_batch_time": MAX_BATCH_S}
        model["inputs"] = [{"name": "x", "datatype": "FP64", "shape": [-1, 10]}]
        model["outputs"] = [{"name": "predict", "datatype": "INT64", "shape": [-1, 1]}]
        (place / slug / "model-settings.json").write_text(json.dumps(model))


def _wait(process: subprocess.Popen[bytes], port: int) -> None:
    end = time.monotonic() + READY_S
    while time.monotonic() < end and process.poll() is None:
        try:
            for slug in _SLUG.values():
                urllib.request.urlopen(
                    f"http://127.0.0.1:{port}/v2/models/{slug}/ready", timeout=5
                ).close()
        except OSError:
            time.sleep(0.5)
        else:
            return
    raise Unusable(f"MLServer was not ready after {READY_S:g} s")


def _free_ports(count: int) -> list[int]:
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for one in sockets:
            one.bind(("127.0.0.1", 0))
        return [one.getsockname()[1] for one in sockets]
