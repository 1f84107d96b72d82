"""A real Jupyter kernel, driven as JupyterLab does it: interrupted, restarted, shut down in the
middle; nothing is lost, nothing stuck.
"""

from __future__ import annotations

import os
import queue
import signal
import sqlite3
import subprocess
import sys
import textwrap
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from audit import assert_each_event_succeeded_once, rows
from jupyter_client.blocking.client import BlockingKernelClient
from jupyter_client.manager import KernelManager
from shared import is_settled, wait_until

import mltrigger as mt
from mltrigger.store.timekeeper import ALIVE_US
from mltrigger.testing import SimulatedClock

ROOT = Path(mt.__file__).parents[1]
DEADLINE_S = 60.0
LEASE_S = 2.0
START_S = 10.0
MOST_IN_FLIGHT = 2 * 256  # slots x the most that a slot takes
EVENTS = 200

CELL = """
import os, time
import mltrigger as mt

def note(word, n):
    handle = os.open({ledger!r}, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
    os.write(handle, f"{{os.getpid()}} {{word}} {{n}}\\n".encode())
    os.close(handle)

@mt.model("slow", version="1.0.0")
def slow(n):
    note("begin", n)
    time.sleep(0.01)
    note("end", n)
    return n

mt.use({url!r})
sub = mt.subscribe("numbers", slow, lease_s={lease_s}, timeout_s=1, max_concurrency=2)
"""


class Notebook:
    """A notebook with its kernel: cells run, the toolbar's buttons are pressed."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._manager = KernelManager(kernel_name="python3")

    def start(self) -> None:
        """Start the kernel, unless one runs."""
        if not self.alive:
            self._manager = KernelManager(kernel_name="python3")
            ipython = str(self._folder / "ipython")
            environment = {
                **os.environ,
                "PYTHONPATH": str(ROOT),
                "IPYTHONDIR": ipython,
                "OPENBLAS_NUM_THREADS": "1",
            }
            self._manager.start_kernel(cwd=str(self._folder), env=environment)
            self._connect()

    def _connect(self) -> None:
        self._client: BlockingKernelClient = self._manager.client()
        self._client.start_channels()
        self._client.wait_for_ready(timeout=DEADLINE_S)

    @property
    def pid(self) -> int:
        return int(self._manager.provisioner.process.pid)

    @property
    def alive(self) -> bool:
        return bool(self._manager.has_kernel and self._manager.is_alive())

    def begin(self, cell: str) -> str:
        """Begin to run *cell*, and return the request's number."""
        return str(self._client.execute(textwrap.dedent(cell)))

    def end(self, request: str) -> tuple[str, str]:
        """Wait for the end of a cell; return its status and the name of its error."""
        while True:
            reply = self._client.get_shell_msg(timeout=DEADLINE_S)
            if reply["parent_header"].get("msg_id") == request:
                return reply["content"]["status"], reply["content"].get("ename", "")

    def waits(self, for_s: float) -> None:
        """Fail if the cell that runs ends within *for_s*."""
        with pytest.raises(queue.Empty):
            self._client.get_shell_msg(timeout=for_s)

    def run(self, cell: str) -> None:
        """Run *cell* to its end, without an error."""
        assert self.end(self.begin(cell)) == ("ok", "")

    def interrupt(self) -> None:
        self._manager.interrupt_kernel()

    def restart(self, now: bool) -> None:
        self._client.stop_channels()
        self._manager.restart_kernel(now=now)
        self._connect()

    def shutdown(self, now: bool = False, patience_s: float = 5.0) -> None:
        """Shut the kernel down; it gets SIGTERM after half of *patience_s*, Jupyter's own being 5
        s.
        """
        self._client.stop_channels()
        self._manager.shutdown_wait_time = patience_s
        self._manager.shutdown_kernel(now=now)


@pytest.fixture(scope="module")
def one_notebook(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Notebook]:
    notebook = Notebook(tmp_path_factory.mktemp("notebook"))
    notebook.start()
    yield notebook
    notebook.shutdown(now=True)


@pytest.fixture
def notebook(one_notebook: Notebook) -> Notebook:
    """A notebook whose kernel runs; the next test gets the same one, because starting it takes two
    seconds.
    """
    one_notebook.start()
    return one_notebook


@pytest.fixture
def ledger(tmp_path: Path) -> Path:
    """Where each call of the model writes a line when it begins and one when it ends."""
    return tmp_path / "ledger"


@pytest.fixture
def cell(file: Path, ledger: Path) -> str:
    """The cell that defines the model and subscribes it."""
    return CELL.format(url=f"sqlite:///{file}", ledger=str(ledger), lease_s=LEASE_S)


@pytest.fixture
def bus(file: Path) -> Iterator[mt.EventBus]:
    """The same store, seen from outside the kernel."""
    with mt.connect(f"sqlite:///{file}") as bus:
        yield bus


def calls(ledger: Path, word: str) -> list[int]:
    """Return the events of the calls that began, or ended."""
    lines = [line.split() for line in ledger.read_text().splitlines()] if ledger.exists() else []
    return [int(n) for _, found, n in lines if found == word]


def assert_every_call_is_accounted_for(file: Path, ledger: Path) -> None:
    """A call that did not end has a row that says so; a call that ended is the outcome, or came
    again.
    """
    assert set(calls(ledger, "end")) == set(range(EVENTS))
    begun, ended = len(calls(ledger, "begin")), len(calls(ledger, "end"))
    cut_off = rows(
        file, "SELECT count(*) FROM invocation WHERE outcome IN ('abandoned', 'interrupted')"
    )[0][0]
    assert begun - ended <= cut_off
    assert begun <= EVENTS + cut_off


# -- interrupt -------------------------------------------------------------------------------------


def test_interrupt_ends_the_cell_and_not_the_delivery(
    notebook: Notebook, cell: str, bus: mt.EventBus, file: Path, ledger: Path
) -> None:
    notebook.run(cell)
    request = notebook.begin(f"run = mt.fire('numbers', range({EVENTS}))")
    wait_until(lambda: len(calls(ledger, "end")) > 20)
    assert len(calls(ledger, "end")) < EVENTS

    notebook.interrupt()

    assert notebook.end(request) == ("error", "KeyboardInterrupt")
    sub = bus.subscription("slow")
    wait_until(lambda: is_settled(sub), DEADLINE_S)
    assert_each_event_succeeded_once(file, EVENTS)
    assert len(calls(ledger, "begin")) == len(calls(ledger, "end")) == EVENTS
    notebook.run("assert sub.state == 'listening', sub.state")
    notebook.run("assert list(mt.fire('numbers', [1000]).results()['outcome']) == ['succeeded']")


def test_interrupt_of_a_wait_leaves_the_run_whole(
    notebook: Notebook, cell: str, file: Path
) -> None:
    notebook.run(cell)
    notebook.run(
        "import threading, warnings; warnings.simplefilter('ignore'); gate = threading.Event()"
    )
    notebook.run("work = slow.target; hold = lambda n: (gate.wait(), work(n))[1]")
    notebook.run(
        "sub = mt.subscribe('numbers', mt.model(hold, name='held'), name='slow', lease_s=60,"
        " timeout_s=60, max_concurrency=2)"
    )
    notebook.run(f"run = mt.fire('numbers', range({EVENTS}), timeout_s=0)")
    for _ in range(3):
        request = notebook.begin("run.wait()")
        notebook.waits(0.3)
        notebook.interrupt()
        assert notebook.end(request) == ("error", "KeyboardInterrupt")

    notebook.run(
        f"gate.set(); run.wait(); assert list(run.results()['output']) == list(range({EVENTS}))"
    )

    assert_each_event_succeeded_once(file, EVENTS)


def test_interrupt_of_a_publish_that_waits_for_the_store_leaves_the_store_free(
    notebook: Notebook, cell: str, bus: mt.EventBus, file: Path
) -> None:
    notebook.run(cell)
    connection = sqlite3.connect(file, isolation_level=None)
    connection.execute("BEGIN IMMEDIATE")

    request = notebook.begin("mt.publish('numbers', 1, id='1')")
    notebook.waits(0.5)
    notebook.interrupt()

    assert notebook.end(request) == ("error", "KeyboardInterrupt")  # while the lock is held
    connection.execute("ROLLBACK")
    connection.close()
    bus.publish("numbers", 2, id="2")  # the kernel does not hold the lock
    notebook.run(
        "run = mt.fire('numbers', [mt.Event(n, id=str(n)) for n in (1, 2)]); assert not run.open"
    )
    assert_each_event_succeeded_once(file, 2)


PUBLISHER = """
import random, signal, sys, time
import mltrigger as mt

def at_last(look):  # the thread that keeps the log short may be at work for a moment
    end = time.monotonic() + 20
    while not look() and time.monotonic() < end:
        time.sleep(0.001)
    return look()

def ctrl_c(*_):
    raise KeyboardInterrupt

def unraisable(what, otherwise=sys.unraisablehook):  # Python drops and prints what is raised in a callback of a weak reference
    if not issubclass(what.exc_type, KeyboardInterrupt):
        otherwise(what)

sys.unraisablehook = unraisable
signal.signal(signal.SIGALRM, ctrl_c)
bus = mt.connect(sys.argv[1])
bus.topic("numbers")
interrupted = 0
for n in range(400):
    try:
        signal.setitimer(signal.ITIMER_REAL, random.uniform(0.00005, 0.002))
        bus.publish_batch("numbers", [mt.Event(n, id=f"{n}-{i}") for i in range(3)])
        signal.setitimer(signal.ITIMER_REAL, 0)
    except KeyboardInterrupt:
        interrupted += 1
    assert at_last(lambda: not bus._store._connections.in_transaction and not bus._store._lock.locked()), "it holds the lock"
    bus.publish_batch("numbers", [mt.Event(n, id=f"{n}-{i}") for i in range(3)])
    assert at_last(lambda: bus._store not in bus._store._gate._inside), "a fork would wait for it"
assert interrupted > 50, interrupted
bus.close()
"""


def test_interrupt_at_any_moment_of_a_publish_leaves_whole_batches_and_a_store_that_works(
    bus: mt.EventBus, file: Path
) -> None:
    process = subprocess.run(
        [sys.executable, "-c", PUBLISHER, f"sqlite:///{file}"],
        capture_output=True,
        text=True,
        timeout=DEADLINE_S,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        check=False,
    )

    assert (process.returncode, process.stderr) == (0, "")
    assert rows(file, "SELECT count(*), count(DISTINCT data) FROM event") == [(1200, 400)]
    assert rows(file, "PRAGMA integrity_check") == [("ok",)]


# -- restart ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("now", [False, True])
def test_restarted_kernel_that_runs_the_cell_again_ends_what_the_first_began(
    notebook: Notebook, cell: str, bus: mt.EventBus, file: Path, ledger: Path, now: bool
) -> None:
    notebook.run(cell)
    notebook.begin(f"mt.fire('numbers', range({EVENTS}))")
    wait_until(lambda: len(calls(ledger, "end")) > 20)

    notebook.restart(now)
    done = len(calls(ledger, "end"))
    assert done < EVENTS
    notebook.run(cell)
    again = time.monotonic()
    sub = bus.subscription("slow")
    wait_until(lambda: is_settled(sub), DEADLINE_S)

    assert time.monotonic() - again < LEASE_S + 2 + (EVENTS - done) * 0.05
    assert_each_event_succeeded_once(file, EVENTS, also=("abandoned", "interrupted"))
    assert_every_call_is_accounted_for(file, ledger)
    assert rows(
        file, "SELECT count(DISTINCT worker_id) FROM invocation WHERE outcome = 'succeeded'"
    ) == [(2,)]
    assert len(bus.subscriptions()) == 1


# -- shutdown --------------------------------------------------------------------------------------


def test_backlog_of_a_kernel_that_is_shut_down_is_ended_by_another_process(
    notebook: Notebook, cell: str, bus: mt.EventBus, file: Path, ledger: Path, tmp_path: Path
) -> None:
    notebook.run(cell)
    notebook.begin(f"mt.fire('numbers', range({EVENTS}))")
    wait_until(lambda: len(calls(ledger, "end")) > 20)
    sub = bus.subscription("slow")

    began = time.monotonic()
    notebook.shutdown()
    assert time.monotonic() - began < 6

    # How much time is left for releasing, when the kernel has shown its traceback and tidied up, is
    # not ours to say: a lease may stay.
    ended, depth = (
        rows(file, "SELECT count(*) FROM invocation WHERE outcome = 'succeeded'")[0][0],
        sub.depth(),
    )
    assert depth.visible + depth.in_flight == EVENTS - ended
    assert depth.in_flight <= MOST_IN_FLIGHT
    began = time.monotonic()
    script = tmp_path / "second.py"
    script.write_text(
        cell + "import shared; shared.wait_until(lambda: shared.is_settled(sub), 40); mt.close()\n"
    )
    second = subprocess.run(
        [sys.executable, str(script)],
        capture_output=True,
        text=True,
        timeout=DEADLINE_S,
        env={**os.environ, "PYTHONPATH": f"{ROOT}:{ROOT / 'tests' / 'helpers'}"},
        check=False,
    )
    assert (second.returncode, second.stderr) == (0, "")
    assert time.monotonic() - began < LEASE_S + 2 + START_S + (EVENTS - ended) * 0.05
    assert_each_event_succeeded_once(file, EVENTS, also=("abandoned", "interrupted"))
    assert_every_call_is_accounted_for(file, ledger)


def test_kernel_that_has_the_time_releases_everything_it_holds(
    notebook: Notebook, bus: mt.EventBus, file: Path, tmp_path: Path
) -> None:
    notebook.run(f"""
        import pathlib, time
        import mltrigger as mt
        mt.use("sqlite:///{file}")
        def stuck(number):
            pathlib.Path("{tmp_path}", f"{{number}}.began").touch()
            time.sleep(3600)
        mt.subscribe("numbers", mt.model(stuck, version="1.0.0"), max_concurrency=2)
        """)
    bus.publish_batch("numbers", range(10))
    sub = bus.subscription("stuck")
    wait_until(lambda: len([*tmp_path.glob("*.began")]) == 2)

    notebook.shutdown(patience_s=40)

    # The model lives in that kernel only: its events wait, and are there at once.
    assert (sub.depth().visible, sub.depth().in_flight) == (10, 0)
    assert rows(file, "SELECT outcome, count(*) FROM invocation GROUP BY 1") == [("interrupted", 2)]
    assert list(bus.subscriptions()["listeners"]) == [0]


def test_kernel_that_was_killed_is_taken_for_gone_and_its_events_wait(
    notebook: Notebook, cell: str, bus: mt.EventBus, file: Path, ledger: Path
) -> None:
    notebook.run(cell)
    assert list(bus.subscriptions()["listeners"]) == [1]
    bus.publish_batch("numbers", range(EVENTS))
    wait_until(lambda: len(calls(ledger, "end")) > 20)

    os.kill(notebook.pid, signal.SIGKILL)
    wait_until(lambda: not notebook.alive)

    with mt.connect(
        f"sqlite:///{file}", clock=SimulatedClock(time.time_ns() // 1000 + ALIVE_US)
    ) as later:
        assert list(later.subscriptions()["listeners"]) == [0]
    sub = bus.subscription("slow")
    depth, ended = (
        sub.depth(),
        rows(file, "SELECT count(*) FROM invocation WHERE outcome = 'succeeded'")[0][0],
    )
    assert depth.visible + depth.in_flight == EVENTS - ended
    # Whoever can run the model gets all of them, also those whose leases the dead kernel held.
    notebook.restart(now=True)
    notebook.run(cell)
    wait_until(lambda: is_settled(sub), DEADLINE_S)
    assert_each_event_succeeded_once(file, EVENTS, also=("abandoned",))
    assert_every_call_is_accounted_for(file, ledger)
