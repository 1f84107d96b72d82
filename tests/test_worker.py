"""``mltrigger worker``: processes that deliver what they can import; and models in processes of
their own.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from shared import is_settled, outcomes, settle, wait_until

import mltrigger as mt
from mltrigger.cli import main
from mltrigger.clock import SystemClock
from mltrigger.testing import SimulatedClock
from mltrigger.worker import Worker

MODELS = """
import os, time
import mltrigger as mt

@mt.model("double", version="1.0.0")
def double(n):
    return {"pid": os.getpid(), "twice": 2 * n}

@mt.model("slow", version="1.0.0")
def slow(n):
    open("begun", "a").write(f"{n}\\n")
    time.sleep(0.3)
    return n
"""


@pytest.fixture
def home(tmp_path: Path, blank: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A working directory with a store and a module of models, importable here and in the processes
    started from it.
    """
    (tmp_path / "some_models.py").write_text(textwrap.dedent(MODELS))
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    yield tmp_path
    sys.modules.pop("some_models", None)


def start(*options: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "mltrigger", "worker", "--url", "sqlite:///bus.db", *options]
    worker = subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env={**os.environ, "PYTHONPATH": _path()},
    )
    assert next_line(worker).startswith("worker on ")
    return worker


def next_line(worker: subprocess.Popen[str]) -> str:
    assert worker.stdout is not None
    return worker.stdout.readline()


def _path() -> str:
    return os.pathsep.join(
        [str(Path(mt.__file__).parent.parent), os.environ.get("PYTHONPATH", "")]
    ).rstrip(os.pathsep)


def stop(worker: subprocess.Popen[str]) -> str:
    worker.send_signal(signal.SIGTERM)
    said, _ = worker.communicate(timeout=60)
    assert worker.returncode == 0, said
    return said


def test_workers_deliver_what_is_portable_and_leave_the_rest(home: Path) -> None:
    import some_models  # type: ignore[import-not-found]

    def local(n: int) -> int:
        return n

    with mt.connect("sqlite:///bus.db") as bus:
        double = bus.subscribe("numbers", some_models.double, listen=False)
        here = bus.subscribe("numbers", local, listen=False)
        bus.publish_batch("numbers", range(200))
        workers = [start(), start()]
        # One that is told to stop while it begins does not look at all subscriptions.
        began = [next_line(worker) + next_line(worker) for worker in workers]
        wait_until(lambda: is_settled(double), timeout_s=60)
        said = [text + stop(worker) for text, worker in zip(began, workers, strict=True)]

        assert all(
            "double: numbers -> double:1.0.0" in text and "local: left to others" in text
            for text in said
        )
        assert "Traceback" not in "".join(said)
        assert sorted(double.results()["twice"]) == [2 * n for n in range(200)]
        assert os.getpid() not in set(double.results()["pid"])
        assert (here.depth().visible, len(here.invocations())) == (200, 0)
        row = bus.subscriptions().set_index("subscription").loc["local"]
        assert (row["listeners"], row["portable"]) == (0, False)
        assert bus.audit()["balanced"].all()


def test_sigterm_ends_what_runs_releases_the_rest_and_exits_with_zero(home: Path) -> None:
    import some_models

    with mt.connect("sqlite:///bus.db") as bus:
        sub = bus.subscribe("numbers", some_models.slow, listen=False)
        bus.publish_batch("numbers", range(20))
        worker = start()
        wait_until((home / "begun").exists, timeout_s=60)
        said = stop(worker)

        assert said.splitlines()[-2:] == ["draining", "done"]
        begun = len((home / "begun").read_text().splitlines())
        assert outcomes(sub) == ["succeeded"] * begun
        depth = sub.depth()
        assert (depth.visible, depth.delayed, depth.in_flight, depth.dead) == (20 - begun, 0, 0, 0)


def test_worker_notices_what_is_subscribed_changed_and_unsubscribed(home: Path) -> None:
    import some_models

    said: list[str] = []
    with mt.connect("sqlite:///bus.db") as bus, mt.connect("sqlite:///bus.db") as other:
        worker = Worker(other, (), said.append, threading.Event())
        worker.look()
        bus.subscribe("numbers", some_models.double, listen=False)
        worker.look()
        assert bus.subscriptions()["listeners"].tolist() == [1]
        bus.subscribe("numbers", some_models.double, listen=False, max_attempts=2)
        worker.look()
        worker.look()
        bus.unsubscribe("double")
        worker.look()

    assert said == ["double: numbers -> double:1.0.0"] * 2 + ["double: let go, it was unsubscribed"]


def test_worker_listens_again_to_what_was_subscribed_anew_between_two_looks(home: Path) -> None:
    import some_models

    with mt.connect("sqlite:///bus.db") as bus, mt.connect("sqlite:///bus.db") as other:
        bus.subscribe("numbers", some_models.double, listen=False)
        worker = Worker(other, (), [].append, threading.Event())
        worker.look()
        bus.unsubscribe("double")
        other._engine._let_go("double")  # the engine sees the gap, the worker does not
        bus.subscribe("numbers", some_models.double, listen=False)
        worker.look()

        assert other.listener_state("double") == "listening"


def test_worker_until_idle_waits_for_nobody_elses_events(home: Path) -> None:
    import some_models

    with mt.connect("sqlite:///bus.db") as bus, mt.connect("sqlite:///bus.db") as other:
        mine = bus.subscribe("numbers", some_models.double, name="mine", listen=False)
        bus.subscribe("numbers", some_models.double, name="others", listen=False).pause()
        bus.publish_batch("numbers", range(3))

        Worker(other, ("mine",), [].append, threading.Event()).run(until_idle=True)

        assert len(mine.results()) == 3


def test_doctor_on_the_command_line_makes_no_store(
    home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["doctor", "--url", "sqlite:///typo.db"]) == 1

    assert "no store 'typo.db'" in capsys.readouterr().err
    assert not (home / "typo.db").exists()


def test_worker_takes_only_what_it_was_asked_for_and_ends_when_idle(
    home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    import some_models

    with mt.connect("sqlite:///bus.db") as bus:
        one = bus.subscribe("numbers", some_models.double, name="one", listen=False)
        two = bus.subscribe("others", some_models.double, name="two", listen=False)
        for topic in ("numbers", "others"):
            bus.publish_batch(topic, range(5))
        two.pause()
        worker = start("--subscription", "one")
        wait_until(lambda: is_settled(one), timeout_s=60)
        stop(worker)

        assert (len(one.invocations()), len(two.invocations())) == (5, 0)
        two.resume()
    before = {signum: signal.getsignal(signum) for signum in (signal.SIGTERM, signal.SIGINT)}
    try:
        assert main(["worker", "--url", "sqlite:///bus.db", "--until-idle"]) == 0
    finally:
        for signum, handler in before.items():
            signal.signal(signum, handler)
        sys.path.remove("")
    assert "two: others -> double:1.0.0" in capsys.readouterr().out


def test_doctor_on_the_command_line_says_what_waits_and_fails_for_errors(
    home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    import some_models

    with mt.connect("sqlite:///bus.db") as bus:
        bus.subscribe("numbers", some_models.double, listen=False)
        bus.publish("numbers", 1)

    assert main(["doctor", "--url", "sqlite:///bus.db"]) == 1
    assert "error   double: listener: no live listener; 1 event waiting" in capsys.readouterr().out


# -- a process for the model -----------------------------------------------------------------------


def test_call_that_hangs_is_killed_and_the_others_go_on(tmp_path: Path) -> None:
    def hangs(n: int) -> dict[str, int]:
        print("began", n)
        while n == 1:
            pass
        return {"pid": os.getpid()}

    with mt.connect("memory://") as bus:
        sub = bus.subscribe("numbers", hangs, isolation="process", timeout_s=2.0, max_attempts=1)
        table = bus.fire("numbers", [0, 1, 2], timeout_s=60, progress=False).results()

        assert table["outcome"].tolist() == ["succeeded", "dead", "succeeded"]
        assert table["reason"].tolist()[1] == "timeout"
        assert os.getpid() not in set(table["pid"].dropna())
        assert sorted(sub.invocations()["stdout"].dropna()) == [
            "began 0\n",
            "began 1\n",
            "began 2\n",
        ]
        assert sub.state == "listening"  # nothing was left behind


def test_event_that_kills_the_models_process_is_dead_after_three_and_harms_no_other(
    clock: SimulatedClock,
) -> None:
    def crashes(n: int) -> int:
        if n == 1:
            os._exit(7)
        return n

    with mt.connect("memory://", clock=clock) as bus:
        sub = bus.subscribe("numbers", crashes, isolation="process", max_attempts=10)
        bus.publish_batch("numbers", [0, 1, 2])
        settle(bus, clock, sub)

        assert sorted(outcomes(sub)) == ["dead", "failed", "failed", "succeeded", "succeeded"]
        (letter,) = sub.dead_letters().to_dict(orient="records")
        assert (letter["reason"], letter["attempts"]) == ("worker_died", 3)
        assert "exit code 7" in letter["error"]


def test_processes_of_models_end_with_the_listener() -> None:
    def pid(_: Any) -> dict[str, int]:
        return {"pid": os.getpid()}

    with mt.connect("memory://") as bus:
        bus.subscribe("numbers", pid, isolation="process", max_concurrency=2)
        pids = set(bus.fire("numbers", range(10), progress=False).results()["pid"])

    def gone() -> bool:
        return not any(Path(f"/proc/{n}").exists() for n in pids)

    wait_until(gone)


def test_memory_limit_makes_a_greedy_call_fail_alone() -> None:
    def greedy(n: int) -> int:
        return len(bytearray(n))

    with mt.connect("memory://") as bus:
        bus.subscribe("numbers", greedy, isolation="process", memory_limit_mb=512, max_attempts=1)
        table = bus.fire("numbers", [10, 10**10, 20], progress=False).results()

    assert table["outcome"].tolist() == ["succeeded", "dead", "succeeded"]
    assert table["error"][1].startswith("MemoryError")


def test_model_that_cannot_be_sent_to_a_process_is_refused_at_subscribe() -> None:
    lock = threading.Lock()

    def locked(n: int) -> int:
        with lock:
            return n

    with mt.connect("memory://") as bus:
        with pytest.raises(mt.InvalidModel, match=r"lock.*isolation='thread'"):
            bus.subscribe("numbers", locked, isolation="process")
        assert len(bus.subscriptions()) == 0


def test_memory_limit_needs_a_process() -> None:
    with (
        mt.connect("memory://") as bus,
        pytest.raises(mt.InvalidPolicy, match="isolation='process'"),
    ):
        bus.subscribe("numbers", abs, memory_limit_mb=512)


# -- several processes, one subscription -----------------------------------------------------------


def test_listener_follows_what_another_process_agrees_on(file: Path) -> None:
    def one(n: int) -> str:
        return "one"

    with mt.connect(f"sqlite:///{file}") as here, mt.connect(f"sqlite:///{file}") as there:
        sub = here.subscribe("numbers", one, name="reader", version="1.0.0")
        there.subscribe(
            "numbers", mt.model(lambda n: "two", name="two", version="1.0.0"), name="reader"
        )
        wait_until(lambda: sub.state.startswith("waiting for the model"))
        table = there.fire("numbers", range(3), progress=False).results()
        assert table["output"].tolist() == ["two"] * 3

        there.unsubscribe("reader")
        wait_until(lambda: sub.state == "stopped")


# -- time ------------------------------------------------------------------------------------------


def test_processes_of_one_boot_agree_on_the_time_when_the_wall_clock_is_set_back(
    file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """BI-087: what an earlier process stamped is not in the future of a later one."""
    with mt.connect(f"sqlite:///{file}") as bus:
        bus.subscribe("numbers", abs)
        before = bus._clock.now_us()
    wall_ns, wall_s = time.time_ns, time.time
    monkeypatch.setattr(time, "time_ns", lambda: wall_ns() - 3600 * 10**9)
    monkeypatch.setattr(time, "time", lambda: wall_s() - 3600)

    assert SystemClock().now_us() < before
    with mt.connect(f"sqlite:///{file}") as bus:
        assert bus._clock.now_us() >= before
        row = bus.doctor().set_index("check").loc["clock"]
        assert (row["severity"], "set back" in row["finding"]) == ("warning", True)
