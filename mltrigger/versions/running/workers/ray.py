"""Ray as an executor, since it has none of its own."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from concurrent.futures import Executor, Future
from typing import Any

from mltrigger.errors import InvalidModel, how_to_install
from mltrigger.versions.running.workers.pools import CONCURRENCY


class RayExecutor(Executor):
    """Runs each call as a Ray task: ``executor=mt.RayExecutor(num_cpus=1)``.

    Call ``ray.init(…)`` before, so that the number of its processors is known. Cancelling a call,
    as a timeout does, ends the worker that runs it. Ray is neither started nor shut down by this.

    Parameters
    ----------
    **options
        Arguments of ``ray.remote``, such as ``num_cpus``, ``num_gpus``, ``resources``,
        ``runtime_env``. ``max_retries`` is 0: the subscription repeats a call whose worker died,
        and counts it.

    Raises
    ------
    InvalidModel
        If ray is not installed.
    """

    def __init__(self, **options: Any) -> None:
        try:
            self._ray: Any = importlib.import_module("ray")
        except ModuleNotFoundError as error:
            raise InvalidModel(f"RayExecutor needs ray: {how_to_install('ray')}") from error
        self._closed = False
        ray = self._ray
        self._task = ray.remote(**{"max_retries": 0, **options})(_applied)
        each = float(options.get("num_cpus", 1)) or 1.0
        self._max_workers = (
            max(1, int(ray.cluster_resources().get("CPU", CONCURRENCY) / each))
            if ray.is_initialized()
            else CONCURRENCY
        )

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        """Run *fn* as a task."""
        if self._closed:
            raise RuntimeError("cannot schedule new futures after shutdown")
        reference = self._task.remote(fn, args, kwargs)
        future: Future[Any] = reference.future()
        future.add_done_callback(
            lambda done: self._ray.cancel(reference, force=True) if done.cancelled() else None
        )
        return future

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """Take no more calls. Those under way go on."""
        self._closed = True


def _applied(function: Callable[..., Any], given: tuple[Any, ...], named: dict[str, Any]) -> Any:
    return function(*given, **named)
