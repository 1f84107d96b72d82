"""A worker process whose models run on a cluster: the examples of docs/kubernetes.md."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Iterator
from concurrent.futures import Executor
from pathlib import Path

import clusters
import pytest
from shared import is_settled, wait_until
from workers import URL, probed

import mltrigger as mt

PAGE = (Path(__file__).parents[2] / "docs" / "kubernetes.md").read_text()
EXAMPLES = dict(re.findall(r"```python\n# (\w+)\n(.*?)```", PAGE, re.DOTALL))
MODEL = """
import os
import mltrigger as mt

@mt.model("where", version="1.0.0")
def where(n):
    return {"n": n, "pid": os.getpid()}
"""


@pytest.fixture
def home(tmp_path: Path, blank: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A working directory with a model that the cluster and its workers import."""
    (tmp_path / "where_models.py").write_text(MODEL)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    path = [str(tmp_path), str(Path(mt.__file__).parents[1]), os.environ.get("PYTHONPATH", "")]
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(filter(None, path)))
    yield tmp_path
    sys.modules.pop("where_models", None)


def delivered_on(cluster: str, env: dict[str, str]) -> tuple[list[int], set[int], int]:
    """Run the example in a worker. Return the answers, the processes of the model and the worker."""
    import where_models  # type: ignore[import-not-found]

    Path("cluster.py").write_text(EXAMPLES[cluster])
    with mt.connect(URL) as bus:
        sub = bus.subscribe("numbers", where_models.where, listen=False, timeout_s=120)
        bus.publish_batch("numbers", range(6))
        with probed("--executor", "cluster:executor", env=env) as worker:
            wait_until(lambda: is_settled(sub) or worker.process.poll() is not None, timeout_s=300)
            assert worker.process.poll() is None, worker.process.communicate()
            worker.wait_ready()
            worker.terminate()
            said = worker.end()
            assert said.splitlines()[-2:] == ["draining", "done"]
        results = sub.results()
        assert set(results["outcome"]) == {"succeeded"}
        return sorted(results["n"]), set(results["pid"]), worker.process.pid


def test_models_of_a_worker_run_on_a_cluster_of_dask(home: Path) -> None:
    with clusters.dask() as executor:
        scheduler = executor._client.scheduler.address  # type: ignore[attr-defined]
        pids = set(_pids(executor))
        answers, called, worker = delivered_on("dask", {"DASK_SCHEDULER": scheduler})

    assert answers == list(range(6))
    assert called <= pids and worker not in called


def _pids(executor: Executor) -> Iterator[int]:
    yield from executor._client.run(os.getpid).values()  # type: ignore[attr-defined]


@pytest.mark.slow  # a node of Ray takes 10 s of the processor. The contract of placements has one
@pytest.mark.needs("ray")
@pytest.mark.xdist_group("ray")
def test_models_of_a_worker_run_on_a_cluster_of_ray(home: Path) -> None:
    with clusters.ray_node() as address:
        answers, called, worker = delivered_on("ray", {"RAY_ADDRESS": address})

    assert answers == list(range(6))
    assert worker not in called and os.getpid() not in called
