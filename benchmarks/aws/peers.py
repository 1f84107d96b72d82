"""Celery on SQS, the transport of kombu: the same events as arguments of a task that does nothing."""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
import warnings
from typing import Any
from urllib.parse import urlsplit

from benchmarks.aws.server import REGION
from benchmarks.aws.side import at_end, say, wait_for_end, wait_for_go
from benchmarks.harness import payloads
from benchmarks.latency import pace

TUNED = {"wait_time_seconds": 20, "polling_interval": 0}
"""Long polls, and no pause after an empty one."""


def noop(data: Any) -> None:
    """Do nothing: the task."""


def celery(queue: str, tuned: bool) -> Any:
    """Return an app with its defaults, or *tuned*: acknowledged late and fetched ahead, without
    pauses and results.
    """
    from celery import Celery

    where = urlsplit(os.environ["AWS_ENDPOINT_URL"])
    app = Celery("bench", broker=f"sqs://testing:testing@{where.netloc}//", set_as_current=False)
    app.conf.broker_transport_options = {
        "region": REGION,
        "is_secure": False,
        **(TUNED if tuned else {}),
    }
    app.conf.task_default_queue = queue
    app.conf.broker_connection_retry_on_startup = True
    app.conf.worker_hijack_root_logger = app.conf.worker_redirect_stdouts = False
    if tuned:
        app.conf.update(
            task_acks_late=True,
            task_ignore_result=True,
            worker_prefetch_multiplier=100,
            worker_concurrency=1,
        )
    return app


def _worker(tuned: bool) -> list[str]:
    """Return the command line of Celery's worker: without what SQS cannot carry, and when *tuned*
    in the fastest pool for such a task.
    """
    quiet = [
        "worker",
        "--loglevel=CRITICAL",
        "--without-gossip",
        "--without-mingle",
        "--without-heartbeat",
    ]
    return [*quiet, "--pool=solo"] if tuned else quiet


def publish(queue: str, count: int) -> None:
    """Send *count* tasks."""
    task = celery(queue, True).task(name="noop")(noop)
    wait_for_go()
    for sample in payloads(count):
        task.apply_async((sample,))
    say("sent")
    wait_for_end()


def drain(queue: str, tuned: bool) -> None:
    """Run a worker until the parent has seen enough."""
    app = celery(queue, tuned)
    app.task(name="noop")(noop)
    app.finalize()
    _work(app, tuned)


def poll(queue: str, count: int) -> None:
    """Note how long each task took from before the call of ``apply_async`` to its first line, in
    milliseconds.
    """
    app, taken_ms = celery(queue, True), list[float]()
    enough = threading.Event()

    def arrive(data: Any) -> None:
        taken_ms.append((time.monotonic_ns() - data["sent_ns"]) / 1e6)
        if len(taken_ms) == count:
            enough.set()

    app.task(name="noop")(arrive)
    app.finalize()

    def answer() -> None:
        enough.wait()
        say(taken_ms)

    threading.Thread(target=answer, daemon=True).start()
    _work(app, True)


def send(queue: str, count: int) -> None:
    """Send a task now and then, *count* and some before them."""
    task = celery(queue, True).task(name="noop")(noop)
    wait_for_go()
    pace(lambda data: task.apply_async((data,)), count)
    say("sent")
    wait_for_end()


def arguments(what: str, queue: str, given: object) -> list[str]:
    """Return the command line of a process that calls the function *what*."""
    return ["benchmarks.aws.peers", what, queue, str(given)]


def _work(app: Any, tuned: bool) -> None:
    from celery.bin import worker as _  # noqa: F401  (it is imported before the clock starts)

    warnings.simplefilter("ignore")  # of those who run it as root, in a container
    wait_for_go()
    at_end(lambda: os.kill(os.getpid(), signal.SIGTERM))
    app.worker_main(_worker(tuned))


if __name__ == "__main__":
    what, name, given = sys.argv[1:]
    if what == "drain":
        drain(name, given == "tuned")
    else:
        {"publish": publish, "poll": poll, "send": send}[what](name, int(given))
