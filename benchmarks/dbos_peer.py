"""DBOS: durable queues of workflows, on SQLite without a server, or on PostgreSQL.

It has one instance a process, so each measurement runs in a process of its own.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from benchmarks.harness import Counted, Most, quiet, until

POLL_S = 0.001
_QUEUE, _WORKFLOW, _VERSION = "documents", "noop", "1"


def rates(path: Path, most: Most) -> tuple[float, float]:
    """Enqueue from a client, then launch and wait for the result of each workflow.

    Returns
    -------
    tuple of float
        Workflows enqueued a second, and completed a second.
    """
    from dbos import DBOS, DBOSClient

    quiet()
    _start(path, Counted().one)  # makes the tables
    DBOS.destroy()
    client = DBOSClient(system_database_url=_url(path))
    options: Any = {
        "workflow_name": _WORKFLOW,
        "queue_name": _QUEUE,
        "app_version": _VERSION,
    }
    count, published_s = most.send(lambda sample: client.enqueue(options, sample))
    client.destroy()
    started = time.perf_counter()
    _launch(path)
    until(lambda: completed() >= count, "DBOS", 0.02)
    consumed_s = time.perf_counter() - started
    DBOS.destroy()
    return count / published_s, count / consumed_s


def deliver(
    path: Path | str, model: Callable[[Any], None], poll_s: float = POLL_S
) -> Callable[[Any], object]:
    """Deliver to *model* in this process; return a function that enqueues.

    *path* is a file of SQLite, or the URL of a database of PostgreSQL.
    """
    from dbos import DBOS

    quiet()
    workflow = _start(path, model, poll_s)
    return lambda data: DBOS.enqueue_workflow(_QUEUE, workflow, data)


def send_together(dsn: str, samples: Sequence[Any]) -> None:
    """Enqueue a workflow for each of *samples*, in one transaction of PostgreSQL."""
    import sqlalchemy
    from dbos import DBOSClient

    client = DBOSClient(system_database_url=dsn)
    options: Any = {
        "workflow_name": _WORKFLOW,
        "queue_name": _QUEUE,
        "app_version": _VERSION,
    }
    engine = sqlalchemy.create_engine(dsn.replace("postgresql:", "postgresql+psycopg:", 1))
    with engine.begin() as session:
        for sample in samples:
            client.enqueue_in_transaction(session, options, sample)
    engine.dispose()
    client.destroy()


def stop() -> None:
    """End the instance of this process."""
    from dbos import DBOS

    DBOS.destroy()


def _start(path: Path | str, model: Callable[[Any], None], poll_s: float = POLL_S) -> Any:
    from dbos import DBOS

    def noop(data: Any) -> None:
        model(data)

    workflow = DBOS.workflow(name=_WORKFLOW)(noop)
    _launch(path)
    DBOS.register_queue(_QUEUE, polling_interval_sec=poll_s)
    return workflow


def _launch(path: Path | str) -> None:
    from dbos import DBOS

    DBOS(
        config={
            "name": "bench",
            "system_database_url": _url(path),
            "application_version": _VERSION,
            "log_level": "CRITICAL",
        }
    )
    DBOS.launch()


def completed() -> int:
    """Return how many workflows have ended well."""
    from dbos import DBOS

    return len(DBOS.list_workflows(status="SUCCESS", load_input=False, load_output=False))


def _url(path: Path | str) -> str:
    return f"sqlite:///{path}" if isinstance(path, Path) else path
