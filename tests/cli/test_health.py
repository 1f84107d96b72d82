"""``mltrigger worker --health``: what the probes of an orchestrator hear, and when."""

from __future__ import annotations

import sys
import textwrap
import threading
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from shared import is_settled, outcomes, wait_until
from workers import URL, probed

import mltrigger as mt
from mltrigger.cli import main
from mltrigger.cli.health import Probes
from mltrigger.worker import SILENT_S, Stop, Worker

MODELS = """
import pathlib, time
import mltrigger as mt

@mt.model("held", version="1.0.0")
def held(n):
    pathlib.Path("begun").touch()
    while not pathlib.Path("go").exists():
        time.sleep(0.01)
    return n
"""


@pytest.fixture
def home(tmp_path: Path, blank: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    (tmp_path / "held_models.py").write_text(textwrap.dedent(MODELS))
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    yield tmp_path
    sys.modules.pop("held_models", None)


def subscribed(bus: mt.EventBus) -> mt.Subscription:
    import held_models  # type: ignore[import-not-found]

    return bus.subscribe("numbers", held_models.held, listen=False)


def test_worker_is_ready_when_its_model_is_loaded_and_lives_all_the_time(home: Path) -> None:
    with mt.connect(URL) as bus:
        subscribed(bus)
        with probed() as worker:
            assert worker.get("/livez") == (200, {"status": "ok"})
            worker.wait_ready()
            assert worker.get("/readyz?verbose") == (200, {"status": "ok"})
            assert worker.get("/metrics")[0] == 404
            worker.terminate()
            assert worker.end().splitlines()[-2:] == ["draining", "done"]


def test_readiness_ends_at_once_with_sigterm_while_the_running_call_ends(home: Path) -> None:
    with mt.connect(URL) as bus:
        sub = subscribed(bus)
        bus.publish("numbers", 1)
        with probed() as worker:
            wait_until((home / "begun").exists, timeout_s=120)
            worker.terminate()
            status, body = wait_until(lambda: _unready(worker))
            assert (status, body["reasons"]) == (503, ["it drains"])
            assert worker.get("/livez")[0] == 200
            assert outcomes(sub) == ["running"]

            (home / "go").touch()
            worker.end()
        assert is_settled(sub)
        assert outcomes(sub) == ["succeeded"]


def _unready(worker: Any) -> tuple[int, Any] | None:
    status, body = worker.get("/readyz")
    return (status, body) if body.get("reasons") == ["it drains"] else None


def test_model_whose_module_takes_the_signals_does_not_keep_the_worker_from_draining(
    home: Path,
) -> None:
    """As Ray does when it is imported."""
    module = home / "held_models.py"
    thief = "import signal, sys\nsignal.signal(signal.SIGTERM, lambda *_: sys.exit(7))\n"
    with mt.connect(URL) as bus:
        sub = subscribed(bus)
        module.write_text(f"{module.read_text()}\n{thief}")
        (home / "go").touch()
        bus.publish("numbers", 1)
        with probed() as worker:
            wait_until(lambda: is_settled(sub), timeout_s=120)
            worker.wait_ready()
            worker.terminate()
            assert worker.end().splitlines()[-2:] == ["draining", "done"]


def test_worker_without_its_store_is_alive_but_not_ready_and_recovers(home: Path) -> None:
    with mt.connect(URL) as bus:
        subscribed(bus)
    with probed() as worker:
        worker.wait_ready()
        (home / "bus.db").rename(home / "away.db")
        wait_until(lambda: not worker.is_ready())
        assert "bus.db" in str(worker.get("/readyz")[1]["reasons"])
        assert worker.get("/livez")[0] == 200

        (home / "away.db").rename(home / "bus.db")
        worker.wait_ready()


def test_worker_is_not_ready_without_the_subscriptions_that_it_was_given(home: Path) -> None:
    with mt.connect(URL) as bus:
        subscribed(bus)
        bus.subscribe("numbers", lambda n: n, name="elsewhere", listen=False)
        with probed("--subscription", "held", "--subscription", "elsewhere") as worker:
            assert wait_until(lambda: _only_reason(worker)).startswith("elsewhere: ")
        with probed() as worker:  # without names it takes those that it can
            worker.wait_ready()


def _only_reason(worker: Any) -> str:
    """Return why it is not ready, once the rest is."""
    reasons: list[str] = worker.get("/readyz")[1].get("reasons", [])
    begins = any(word in reasons[0] for word in ("starts", "looked", "loaded")) if reasons else True
    return "" if begins or len(reasons) > 1 else reasons[0]


def test_worker_that_can_take_nothing_is_not_ready(home: Path) -> None:
    with mt.connect(URL) as bus:
        worker = Worker(bus, (), [].append, Stop())
        assert worker.unready() == ["it has not looked for subscriptions yet"]
        _one_round(worker)
        assert worker.unready() == ["there is no subscription yet"]

        bus.subscribe("numbers", lambda n: n, name="mine", listen=False)
        with mt.connect(URL) as other:
            elsewhere = Worker(other, (), [].append, Stop())
            _one_round(elsewhere)
            (reason,) = elsewhere.unready()
            assert reason.startswith("mine: ")


def _one_round(worker: Worker) -> None:
    waited = worker._stopping.wait
    worker._stopping.wait = lambda timeout_s: worker._stopping.set()  # type: ignore[method-assign]
    worker.run()
    worker._stopping = Stop()
    worker._stopping.wait = waited  # type: ignore[method-assign]


def test_store_that_is_silent_for_long_ends_readiness() -> None:
    now = SimpleNamespace(s=100.0)
    with mt.connect("memory://") as bus:
        bus.subscribe("numbers", lambda n: n, name="mine")
        worker = Worker(bus, (), [].append, Stop(), monotonic=lambda: now.s)
        wait_until(lambda: not bus.vitals.unready())
        _one_round(worker)
        now.s += SILENT_S
        assert worker.unready() == []
        now.s += 2
        assert worker.unready() == ["the store has not answered for 12 s"]


def test_listener_whose_thread_has_died_is_lifeless(monkeypatch: pytest.MonkeyPatch) -> None:
    """It is found by its thread: a listener that waits for events has one as well."""
    monkeypatch.setattr(threading, "excepthook", lambda given: None)
    with mt.connect("memory://") as bus:
        bus.subscribe("numbers", lambda n: n, name="mine")
        bus.fire("numbers", [1], progress=False)
        assert bus.vitals.lifeless() == []

        def broken(*_: Any) -> None:
            raise KeyboardInterrupt

        monkeypatch.setattr(bus.broker, "receive", broken)
        bus.publish("numbers", 2)
        assert wait_until(bus.vitals.lifeless) == ["mine: no thread receives its events"]
        worker = Worker(bus, (), [].append, stopping := Stop())
        assert worker.lifeless() == bus.vitals.lifeless()
        stopping.set()
        assert worker.lifeless() == []


def test_listener_with_all_slots_busy_lives() -> None:
    begun, go = threading.Event(), threading.Event()

    def held(n: int) -> int:
        begun.set()
        go.wait(60)
        return n

    with mt.connect("memory://") as bus:
        bus.subscribe("numbers", held, max_concurrency=1)
        bus.publish("numbers", 1)
        assert begun.wait(60)
        assert bus.vitals.lifeless() == []
        go.set()


def test_answer_hides_secrets_and_survives_a_check_that_fails() -> None:
    probes = Probes()
    assert probes.answer("/livez")[0] == 200
    assert probes.answer("/readyz") == (503, {"status": "unavailable", "reasons": ["it starts"]})

    probes.follow(lambda: 1 // 0, lambda: ["no postgresql://team:hunter2@db/ml\nhere"])  # type: ignore[arg-type,return-value]
    status, body = probes.answer("/livez")
    assert (status, body["reasons"]) == (
        503,
        ["ZeroDivisionError: integer division or modulo by zero"],
    )
    assert "hunter2" not in str(probes.answer("/readyz"))
    assert "\n" not in probes.answer("/readyz")[1]["reasons"][0]


@pytest.mark.parametrize("given", ["", "http", "70000", ":80", "host:", "1.2.3.4:-1", "²"])
def test_wrong_address_is_wrong_usage(given: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["worker", "--health", given])
    assert ended.value.code == 2
    assert "0.0.0.0:8080" in capsys.readouterr().err


def test_taken_port_is_refused(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    import socket

    with mt.connect(URL), socket.create_server(("127.0.0.1", 0)) as taken:
        given = str(taken.getsockname()[1])
        with _handlers():
            assert main(["worker", "--url", URL, "--health", given]) == 1
    assert f"127.0.0.1:{given} cannot be opened" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ("cluster", "must be package.module:name"),
        ("no_such_module:make", "ModuleNotFoundError"),
        ("os:no_such_name", "AttributeError"),
        ("os:sep", "takes a concurrent.futures.Executor"),
    ],
)
def test_executor_that_is_none_is_refused(
    given: str, said: str, home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with mt.connect(URL), _handlers():
        assert main(["worker", "--url", URL, "--executor", given]) == 1
    assert said in capsys.readouterr().err


def _handlers() -> Any:
    """Put the handlers of signals back, and the path of modules, which a worker changes."""
    import contextlib
    import signal

    @contextlib.contextmanager
    def kept() -> Iterator[None]:
        before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
        path = list(sys.path)
        try:
            yield
        finally:
            sys.path[:] = path
            for number, handler in before.items():
                signal.signal(number, handler)

    return kept()
