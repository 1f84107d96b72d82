"""A model in a process of its own: its surroundings, its end, and what is left of it.

The rest is in the contract of placements.
"""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import gc
import io
import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pydantic
import pytest
from shared import ended, wait_until

import mltrigger as mt
from mltrigger.errors import InvalidModel
from mltrigger.event.event import Event
from mltrigger.event.making import with_opener
from mltrigger.sources.folder.source import FolderSource
from mltrigger.versions.describe import Model, as_model
from mltrigger.versions.running.capture import MAX_STDOUT, captured
from mltrigger.versions.running.invoke import Result
from mltrigger.versions.running.thread import Invoker
from mltrigger.versions.running.workers.invoker import WorkerInvoker
from mltrigger.versions.running.workers.portable import check_portable
from mltrigger.versions.running.workers.processes import Processes

pytestmark = pytest.mark.skipif(
    sys.platform == "win32", reason="processes cannot be killed as a group there"
)

Isolate = Callable[..., WorkerInvoker]


@pytest.fixture
def isolate() -> Iterator[Isolate]:
    """Make invokers, which are closed at the end."""
    with contextlib.ExitStack() as stack:

        def make(
            target: Any,
            *,
            batch: bool = False,
            import_path: str | None = None,
            timeout_s: float = 30.0,
            **settings: Any,
        ) -> Any:
            model = (
                target if isinstance(target, Model) else as_model(target, name="probe", batch=batch)
            )
            invoker = WorkerInvoker(model, Processes(model, import_path, timeout_s, **settings))
            stack.callback(invoker.close)
            return invoker

        yield make


def answer(result: Result) -> Any:
    assert result.error is None, result
    return json.loads(result.output or "")


def pid_in(file: Path) -> int:
    return int(wait_until(lambda: file.exists() and file.read_text().strip()))


# -- what arrives, and what comes back -------------------------------------------------------------


def test_a_model_runs_in_another_process_that_is_used_again(isolate: Isolate) -> None:
    invoker = isolate(lambda _: os.getpid())

    first, second = answer(invoker.one(Event())), answer(invoker.one(Event()))

    assert first == second != os.getpid()


def test_a_traceback_names_the_cell_also_of_what_the_model_calls(isolate: Isolate) -> None:
    cell = """
class Share:
    def of(self, data):
        return (lambda total: 1 / total)(data)

def model(data):
    def inner():
        return Share().of(data)
    return inner()
"""
    names: dict[str, Any] = {"__name__": "__main__"}
    exec(compile(cell, "/tmp/ipykernel_7/7.py", "exec"), names)

    trace = isolate(names["model"]).one(Event(0)).traceback or ""

    assert re.findall(r'File "(.*)", line (\d+), in (\S+)', trace) == [
        ("7.py", "9", "model"),
        ("7.py", "8", "inner"),
        ("7.py", "4", "of"),
        ("7.py", "4", "<lambda>"),
    ]


def test_a_predictor_is_sent_as_it_was_fitted(isolate: Isolate) -> None:
    class Scale:
        factor = 1

        def predict(self, rows: list[float]) -> list[float]:
            return [self.factor * row for row in rows]

    fitted = Scale()
    fitted.factor = 3
    invoker = isolate(fitted)
    fitted.factor = 4

    assert invoker.batches
    assert answer(invoker.one(Event(2))) == 6


def test_many_threads_call_at_once(isolate: Isolate, tmp_path: Path) -> None:
    def model(data: int) -> int:
        (tmp_path / str(data)).touch()
        while len(list(tmp_path.iterdir())) < 4:
            time.sleep(0.005)
        return os.getpid()

    invoker = isolate(model)
    with ThreadPoolExecutor(4) as threads:
        first = {answer(r) for r in threads.map(invoker.one, map(Event, range(4)))}
        again = {answer(r) for r in threads.map(invoker.one, map(Event, range(40)))}

    assert len(first) == 4
    assert again <= first


# -- where the model comes from --------------------------------------------------------------------


def test_a_model_of_a_module_is_imported_by_its_path(
    isolate: Isolate, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "probing.py").write_text(
        "import mltrigger as mt, sys\n@mt.model('probe')\ndef probe(data): return [__name__,"
        " sys.path]\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    import probing  # type: ignore[import-not-found]

    model = probing.probe
    path = model.describe().import_path
    check_portable(model, path)

    assert path == "probing:probe"
    assert answer(isolate(model, import_path=path).one(Event())) == ["probing", sys.path]


@pytest.mark.parametrize(
    "definition", ["def _inner(data): return __name__", "_inner = lambda data: __name__"]
)
def test_a_model_of_a_module_keeps_the_name_that_it_was_given(
    isolate: Isolate, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, definition: str
) -> None:
    (tmp_path / "privately.py").write_text(definition)
    monkeypatch.syspath_prepend(tmp_path)
    import privately  # type: ignore[import-not-found]

    found = (mt.model("privately:_inner", name="given"), mt.model(privately._inner, name="given"))

    assert [
        answer(isolate(model, import_path="privately:_inner").one(Event())) for model in found
    ] == ["privately"] * 2


@pytest.mark.parametrize(
    ("source", "start_timeout_s", "error_type", "error"),
    [
        ("raise KeyError('weights')", 100, "KeyError", "'weights'"),
        (
            "import os; os._exit(4)",
            100,
            "ProcessDied",
            "the model's process ended with exit code 4 while it loaded the model",
        ),
        (
            "while True: pass",
            3,
            "TimeoutError",
            "the model was not loaded within start_timeout_s = 3",
        ),
    ],
)
def test_a_model_that_cannot_be_loaded_is_unavailable(
    isolate: Isolate,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    source: str,
    start_timeout_s: float,
    error_type: str,
    error: str,
) -> None:
    (tmp_path / "broken_model.py").write_text(f"print('loading', flush=True)\n{source}\n")
    monkeypatch.syspath_prepend(tmp_path)
    invoker = isolate(
        lambda data: data, import_path="broken_model:probe", start_timeout_s=start_timeout_s
    )

    with captured() as printed:
        result = invoker.one(Event())

    assert (result.reason, result.error_type, result.error, result.permanent) == (
        "model_unavailable",
        error_type,
        error,
        False,
    )
    # no event is the cause: they wait for the model, as those of a thread do
    assert (result.throttled, result.delay_s) == (True, 15.0)
    # How far the endless one comes within its time is the machine's affair.
    assert printed.take() in ("loading\n", None if error_type == "TimeoutError" else "")


def test_a_server_that_is_not_there_spends_no_attempt(isolate: Isolate) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        model = as_model(f"oip+http://127.0.0.1:{taken.getsockname()[1]}/v2/models/ocr")
        result = isolate(model).one(Event({"x": 1}))

    assert (result.reason, result.throttled, result.permanent) == ("model_unavailable", True, False)


def test_events_of_a_model_that_cannot_be_loaded_yet_are_called_when_it_can(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "late_model.py").write_text("def probe(data): return data\n")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr("mltrigger.versions.running.workers.invoker.HOLD_S", 0.05)
    with mt.connect("memory://") as bus:
        sub = bus.subscribe(
            "numbers", "late_model:probe", isolation="process", max_attempts=1, listen=False
        )
        (tmp_path / "late_model.py").write_text("raise KeyError('weights')\n")
        sub.start()
        bus.publish("numbers", 1)
        wait_until(lambda: len(sub.invocations()) > 1)
        (tmp_path / "late_model.py").write_text("def probe(data): return data\n")
        assert bus.wait(30, progress=False)
        reasons, outcomes = sub.invocations()["reason"].dropna(), sub.results()["outcome"]

    assert (set(reasons), outcomes.tolist()) == ({"model_unavailable"}, ["succeeded"])


def test_other_files_behind_an_address_are_not_run(
    isolate: Isolate, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A process that is started later begins where this one is by then."""
    for folder, text in (("here", "cat"), ("there", "sed s/1/2/")):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "score.sh").write_text(text)
    monkeypatch.chdir(tmp_path / "here")
    invoker = isolate(as_model("command:sh score.sh", mode="each"), max_calls=1)
    first = invoker.one(Event(1))
    monkeypatch.chdir(tmp_path / "there")
    refused = invoker.one(Event(1))

    assert (answer(first), refused.reason, refused.throttled) == (1, "model_unavailable", True)
    assert "command:sh score.sh holds other content" in (refused.error or "")


KINDS = """
import pydantic

class Page(pydantic.BaseModel):
    n: int

def plain(page): return type(page).__name__
def hinted(page: Page | None): return type(page).__name__
"""


def page_schema() -> type[pydantic.BaseModel]:
    class Local(pydantic.BaseModel):
        n: int

    return Local


def test_a_schema_that_was_given_makes_objects_there_although_the_model_is_imported(
    isolate: Isolate, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "page_kinds.py").write_text(KINDS)
    monkeypatch.syspath_prepend(tmp_path)
    import page_kinds  # type: ignore[import-not-found]

    def kind(function: str, schema: Any) -> Any:
        model = as_model(f"page_kinds:{function}", input_schema=schema)
        return answer(isolate(model, import_path=model.import_path).one(Event({"n": 1})))

    given = (page_kinds.Page, page_schema(), page_kinds.Page | None, {"type": "object"})
    assert [kind("plain", schema) for schema in given] == ["Page", "Local", "Page", "dict"]
    # as another process has it, which found the model by its path
    hints, _ = as_model("page_kinds:hinted").schemas()
    assert kind("hinted", hints) == "Page"


def test_starting_does_not_count_as_running(
    isolate: Isolate, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "slow_model.py").write_text(
        "import time\ntime.sleep(0.6)\ndef probe(data): return data\n"
    )
    monkeypatch.syspath_prepend(tmp_path)

    assert (
        answer(
            isolate(lambda data: data, import_path="slow_model:probe", timeout_s=0.5).one(Event(5))
        )
        == 5
    )


def test_what_cannot_be_pickled_is_named_with_the_alternative() -> None:
    lock = threading.Lock()

    def model(data: Any) -> Any:
        with lock:
            return data

    with pytest.raises(
        InvalidModel,
        match=r"model 'model' cannot be sent.*'lock' is a lock; cannot pickle.*isolation='thread'",
    ):
        check_portable(as_model(model), None)
    with pytest.raises(InvalidModel, match="'lock' is a lock"):
        Processes(as_model(model), None, 1)
    check_portable(as_model(model), "somewhere:model")  # a module makes its own lock


def test_an_attribute_that_cannot_be_pickled_is_named() -> None:
    class Scorer:
        def __init__(self) -> None:
            self.threshold = 0.5
            self.connection = threading.Lock()

        def predict(self, rows: list[Any]) -> list[Any]:
            return rows

    with pytest.raises(InvalidModel, match="'connection' is a lock"):
        check_portable(as_model(Scorer()), None)


SCRIPT = """
import sys
import mltrigger as mt
from mltrigger.versions.running.workers.invoker import WorkerInvoker
from mltrigger.versions.running.workers.processes import Processes
print("the script runs")
OFFSET = 3
def helper(x): return x + OFFSET
def model(events: "list[mt.Event]"): return [helper(event.data) for event in events]
described = mt.model(model, batch=True)
invoker = WorkerInvoker(described, Processes(described, None, 30))
print(invoker.many([mt.Event(4)])[0])
"""


def test_a_function_of_a_script_is_sent_without_running_the_script_again(tmp_path: Path) -> None:
    (tmp_path / "script.py").write_text(SCRIPT)

    run = subprocess.run(
        [sys.executable, "script.py"],
        cwd=tmp_path,
        env=environment(),
        capture_output=True,
        text=True,
        timeout=60,
    )

    assert (run.returncode, run.stderr) == (0, "")
    assert run.stdout.count("the script runs") == 1
    assert "output='7'" in run.stdout


def environment() -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}


# -- what hangs ------------------------------------------------------------------------------------


@pytest.mark.parametrize("how", ["spin", "sleep", "ignore SIGTERM", "hold the interpreter lock"])
def test_a_model_that_hangs_is_killed_at_its_timeout(
    isolate: Isolate, tmp_path: Path, how: str
) -> None:
    def model(file: str) -> None:
        print("begun")
        if how == "ignore SIGTERM":
            signal.signal(signal.SIGTERM, signal.SIG_IGN)
        Path(file).write_text(str(os.getpid()))
        if how == "hold the interpreter lock":
            re.match("(a+)+$", "a" * 60 + "b")
        while how != "spin":
            time.sleep(1e6)
        while True:
            pass

    invoker = isolate(model, timeout_s=1.5)

    with captured() as printed:
        result = invoker.one(Event(str(tmp_path / "pid")))

    assert (result.reason, result.error_type, result.permanent) == (
        "timeout",
        "TimeoutError",
        False,
    )
    assert result.error == "no answer within timeout_s = 1.5; its process was stopped"
    assert printed.take() == "begun\n"
    assert ended(pid_in(tmp_path / "pid"))


def test_after_a_timeout_the_next_call_gets_a_fresh_process(isolate: Isolate) -> None:
    def model(data: str) -> str:
        if data == "hang":
            time.sleep(1e6)
        return data

    invoker = isolate(model, timeout_s=1.5)

    assert [invoker.one(Event(data)).output for data in ("a", "hang", "b")] == ['"a"', None, '"b"']


def test_a_batch_times_out_as_a_whole(isolate: Isolate) -> None:
    results = isolate(lambda rows: time.sleep(1e6), batch=True, timeout_s=0.5).many(
        [Event(), Event()]
    )

    assert [r.reason for r in results] == ["timeout"] * 2


def test_processes_that_the_model_started_are_killed_with_it(
    isolate: Isolate, tmp_path: Path
) -> None:
    def model(file: str) -> None:
        sleeper = subprocess.Popen(["sleep", "1000000"])
        Path(file).write_text(str(sleeper.pid))
        sleeper.wait()

    assert isolate(model, timeout_s=1.5).one(Event(str(tmp_path / "pid"))).reason == "timeout"
    assert wait_until(lambda: ended(pid_in(tmp_path / "pid")))


def test_a_request_that_the_model_does_not_read_times_out_as_well(isolate: Isolate) -> None:
    def model(data: Any) -> int:
        threading.Timer(0.05, os.kill, (os.getpid(), signal.SIGSTOP)).start()
        return os.getpid()

    invoker = isolate(model, timeout_s=1.5)
    pid = answer(invoker.one(Event()))
    wait_until(lambda: Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "T")

    assert invoker.one(Event("x" * 10_000_000)).reason == "timeout"
    assert ended(pid)


# -- what dies -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("how", "error"),
    [
        ("exit", "the model's process ended with exit code 1"),
        ("segfault", "the model's process was killed by SIGSEGV"),
        ("abort", "the model's process was killed by SIGABRT"),
        (
            "kill",
            "the model's process was killed by SIGKILL (so does the kernel when memory runs out)",
        ),
        ("mute", "the model's process closed its connection"),
    ],
)
def test_a_model_that_ends_its_process_fails_and_says_how(
    isolate: Isolate, how: str, error: str
) -> None:
    def model(_: Any) -> None:
        print("last words")
        if how == "exit":
            os._exit(1)
        elif how == "segfault":
            ctypes.string_at(0)
        elif how == "abort":
            os.abort()
        elif how == "kill":
            os.kill(os.getpid(), signal.SIGKILL)
        else:
            os.closerange(3, 100)
            time.sleep(1e6)

    with captured() as printed:
        result = isolate(model, timeout_s=20).one(Event())

    assert (result.reason, result.error_type, result.permanent) == (
        "worker_died",
        "ProcessDied",
        False,
    )
    if how != "mute":  # whether its watcher notices first is chance
        assert result.error == error
    assert (printed.take() or "").startswith("last words\n")


def test_a_death_is_noticed_although_a_process_of_the_model_holds_the_pipes(
    isolate: Isolate, tmp_path: Path
) -> None:
    def model(file: str) -> None:
        if os.fork() == 0:
            os.setsid()
            Path(file).write_text(str(os.getpid()))
            time.sleep(1e6)
        while not Path(file).exists():
            time.sleep(0.01)
        os._exit(1)

    began = time.monotonic()
    result = isolate(model, timeout_s=60).one(Event(str(tmp_path / "pid")))
    os.kill(pid_in(tmp_path / "pid"), signal.SIGKILL)

    assert result.reason == "worker_died"
    assert time.monotonic() - began < 20


def test_neighbours_of_the_cause_of_a_crash_have_their_own_time(isolate: Isolate) -> None:
    def model(rows: list[int]) -> list[int]:
        if 9 in rows:
            os._exit(9)
        time.sleep(1e6 if rows[0] == 5 else 0.8)
        return rows

    results = isolate(model, batch=True, timeout_s=1.5).many(
        [Event(9), Event(1), Event(5), Event(2), Event(3)]
    )

    assert [r.reason for r in results] == ["worker_died", None, "timeout", None, None]


def test_a_machine_that_starts_no_process_is_nobodys_failure(
    isolate: Isolate, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_more(*_: Any, **__: Any) -> None:
        raise OSError(24, "Too many open files")

    monkeypatch.setattr("subprocess.Popen", no_more)

    assert isolate(lambda data: data).one(Event()).reason == "no_process"


def test_a_process_that_died_between_two_calls_is_replaced(isolate: Isolate) -> None:
    invoker = isolate(lambda _: os.getpid())
    pid = answer(invoker.one(Event()))
    os.kill(pid, signal.SIGKILL)
    os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)

    assert answer(invoker.one(Event())) != pid


def test_memory_beyond_the_limit_is_an_error_of_the_model(isolate: Isolate) -> None:
    def model(size: int) -> int:
        return len(bytearray(size))

    invoker = isolate(model, memory_limit_mb=1024)

    assert invoker.one(Event(10**11)).error_type == "MemoryError"
    assert invoker.one(Event(2**30)).error_type == "MemoryError"
    assert answer(invoker.one(Event(1000))) == 1000


# -- what a model does to its surroundings ---------------------------------------------------------


def test_a_fork_that_comes_back_answers_once(isolate: Isolate) -> None:
    def model(data: int) -> int:
        if os.fork():
            os.wait()
        return data

    invoker = isolate(model)

    assert [answer(invoker.one(Event(n))) for n in range(5)] == list(range(5))


def test_the_model_changes_only_its_own_process(isolate: Isolate) -> None:
    def model(_: Any) -> None:
        os.chdir("/")
        os.environ["CHANGED"] = "1"
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        os.umask(0o777)

    before = Path.cwd(), signal.getsignal(signal.SIGINT)
    answer(isolate(model).one(Event()))

    assert (Path.cwd(), signal.getsignal(signal.SIGINT)) == before
    assert "CHANGED" not in os.environ


def test_the_process_begins_where_this_one_is(
    isolate: Isolate, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("GIVEN", "1")

    def model(_: Any) -> list[Any]:
        return [
            str(Path.cwd()),
            os.environ["GIVEN"],
            os.environ.get("PYTHONPATH"),
            threading.current_thread().name,
        ]

    assert answer(isolate(model).one(Event())) == [
        str(tmp_path),
        "1",
        os.environ.get("PYTHONPATH"),
        "MainThread",
    ]


def test_signals_and_asyncio_work_in_the_model(isolate: Isolate) -> None:
    def model(_: Any) -> str:
        async def work() -> str:
            await asyncio.sleep(0)
            return "done"

        signal.signal(signal.SIGALRM, lambda *_: None)
        return asyncio.run(work())

    assert answer(isolate(model).one(Event())) == "done"


@pytest.mark.skipif(sys.platform != "linux", reason="looks into /proc")
def test_the_model_inherits_no_files_and_reads_nothing_from_stdin(
    isolate: Isolate, tmp_path: Path
) -> None:
    def model(_: Any) -> list[Any]:
        targets = []
        for link in Path("/proc/self/fd").iterdir():
            with contextlib.suppress(OSError):  # the one that lists the folder
                targets.append(str(link.readlink()))
        return [sys.stdin.read(), targets]

    with (tmp_path / "secret.db").open("w") as file:
        os.set_inheritable(file.fileno(), True)
        read, targets = answer(isolate(model).one(Event()))

    assert read == ""
    assert targets
    assert not [target for target in targets if "secret" in target]


def test_a_process_is_replaced_after_its_calls(isolate: Isolate) -> None:
    invoker = isolate(lambda _: os.getpid(), max_calls=2)

    pids = [answer(invoker.one(Event())) for _ in range(3)]

    assert pids[0] == pids[1] != pids[2]
    assert ended(pids[0])


# -- what it prints --------------------------------------------------------------------------------


def test_prints_are_kept_with_the_call_that_made_them(isolate: Isolate) -> None:
    def model(data: str) -> None:
        print(data)
        print("to stderr", file=sys.stderr)
        os.write(1, b"raw \xff\n")
        subprocess.run(["echo", "from a program"], check=True)

    invoker = isolate(model)
    texts = []
    with captured() as printed:
        for data in ("a", "b\udcff"):
            invoker.one(Event(data))
            texts.append(printed.take())

    assert texts[0] == "a\nto stderr\nraw \\xff\nfrom a program\n"


def test_megabytes_of_prints_do_not_block_and_are_cut(isolate: Isolate) -> None:
    def model(_: Any) -> str:
        print("ä" * 5_000_000)
        os.write(2, b"\xff" * 1000)
        return "done"

    with captured() as printed:
        result = isolate(model).one(Event())
    text = printed.take() or ""

    assert answer(result) == "done"
    assert text.startswith("ää")
    assert text.endswith("ä… (9,935,529 more bytes)")
    assert len(text) <= MAX_STDOUT


def test_prints_of_a_thread_that_the_model_left_do_not_block_it(isolate: Isolate) -> None:
    def model(_: Any) -> str:
        threading.Thread(
            target=lambda: [os.write(2, b"x" * 1000) for _ in range(10_000)], daemon=True
        ).start()
        return "done"

    invoker = isolate(model)
    with captured():
        assert [answer(invoker.one(Event())) for _ in range(3)] == ["done"] * 3


# -- objects of events -----------------------------------------------------------------------------


def read_both(event: mt.Event) -> list[str]:
    with event.open() as one, event.open() as two:
        return [one.read().decode(), two.read(3).decode()]


def folder_event(folder: Path) -> Event:
    (folder / "scan.txt").write_text("content")
    source = FolderSource(f"{folder.as_uri()}/*.txt")
    return source.prepare(source.event("scan.txt", *source.read("scan.txt"), "scans"))


def test_an_event_of_a_folder_is_opened_by_the_model(isolate: Isolate, tmp_path: Path) -> None:
    assert answer(isolate(read_both).one(folder_event(tmp_path))) == ["content", "con"]


def test_an_object_is_opened_by_the_rules_of_its_source_and_only_when_asked_for(
    isolate: Isolate, tmp_path: Path
) -> None:
    asked = []

    def opener() -> Any:
        asked.append(1)
        raise FileNotFoundError(2, "No such file: 'scan.txt' in the watched folder")

    def model(event: mt.Event) -> str:
        if event.data == "leave":
            return "left"
        event.open()
        return ""

    invoker = isolate(model)

    assert answer(invoker.one(with_opener(Event("leave"), opener))) == "left"
    assert not asked
    missing = invoker.one(with_opener(Event(), opener))
    assert (missing.error_type, missing.error) == (
        "FileNotFoundError",
        "[Errno 2] No such file: 'scan.txt' in the watched folder",
    )
    event = folder_event(tmp_path)
    (tmp_path / "scan.txt").unlink()
    (tmp_path / "scan.txt").symlink_to("/etc/passwd")
    assert invoker.one(event) == Invoker(as_model(model)).one(event)._replace(
        traceback=invoker.one(event).traceback
    )
    plain = invoker.one(Event())
    assert (plain.error_type, plain.error) == (
        "InvalidEvent",
        Invoker(as_model(model)).one(Event()).error,
    )


def test_an_event_can_be_opened_only_during_its_call(isolate: Isolate) -> None:
    def model(event: mt.Event) -> str:
        if event.data == "keep":
            sys.kept = event  # type: ignore[attr-defined]
            return ""
        return sys.kept.open().read()  # type: ignore[attr-defined,no-any-return]

    invoker = isolate(model)
    answer(invoker.one(with_opener(Event("keep"), lambda: io.BytesIO(b"content"))))
    late = invoker.one(Event())

    assert (late.error_type, late.error) == (
        "InvalidEvent",
        "an event can be opened only while the model is called with it",
    )


# -- the end ---------------------------------------------------------------------------------------


def test_close_kills_what_runs_and_what_waits(isolate: Isolate, tmp_path: Path) -> None:
    def model(file: str) -> int:
        Path(file).write_text(str(os.getpid()))
        while "hang" in file:
            time.sleep(1)
        return os.getpid()

    invoker = isolate(model)
    with ThreadPoolExecutor(1) as threads:
        running = threads.submit(invoker.one, Event(str(tmp_path / "hang")))
        hanging = pid_in(tmp_path / "hang")
        idle = answer(invoker.one(Event(str(tmp_path / "short"))))
        invoker.close()
        invoker.close()
        result = running.result(30)

    assert ended(hanging)
    assert ended(idle)
    assert {result, invoker.one(Event("x")), *invoker.many([Event("x")])} == {
        Result(reason="stopped", error_type="Closed", error="the model's processes were stopped")
    }


def test_an_invoker_that_nobody_closed_leaves_no_process() -> None:
    model = as_model(lambda _: os.getpid(), name="probe")
    invoker = WorkerInvoker(model, Processes(model, None, 30))
    pid = answer(invoker.one(Event()))
    del invoker
    gc.collect()

    assert ended(pid)


PARENT = """
import os, re, sys, threading, time
from pathlib import Path
from mltrigger.event.event import Event
from mltrigger.versions.describe import as_model
from mltrigger.versions.running.workers.invoker import WorkerInvoker
from mltrigger.versions.running.workers.processes import Processes
def model(file):
    os.fork()
    Path(f"{file}.{os.getpid()}").touch()
    if "lock" in file and sys.platform == "linux":
        re.match("(a+)+$", "a" * 60 + "b")
    while "hang" in file: pass
folder = sys.argv[1]
invoker = WorkerInvoker(as_model(model), Processes(as_model(model), None, 1000))
invoker.one(Event(f"{folder}/idle"))
threading.Thread(target=invoker.one, args=(Event(f"{folder}/hang"),)).start()
invoker.one(Event(f"{folder}/hang-lock"))
"""


def test_a_parent_that_is_killed_leaves_no_process(tmp_path: Path) -> None:
    parent = subprocess.Popen([sys.executable, "-c", PARENT, str(tmp_path)], env=environment())
    names = wait_until(lambda: len(names := list(tmp_path.iterdir())) >= 5 and names)
    parent.kill()
    parent.wait()

    pids = [int(name.suffix[1:]) for name in names]
    assert len(pids) >= 5
    assert wait_until(lambda: all(map(ended, pids)))


def test_an_interrupt_of_the_terminal_does_not_reach_the_model(isolate: Isolate) -> None:
    invoker = isolate(lambda _: [os.getpid(), os.getpgrp(), os.getsid(0)])

    pid, group, session = answer(invoker.one(Event()))

    assert pid == group == session


def test_the_search_for_a_bad_event_has_the_time_that_its_calls_need(isolate: Any) -> None:
    """Each call costs 0.3 s, whatever is in it; finding the bad one of four takes five of them."""

    def slow(numbers: list[int]) -> list[int]:
        time.sleep(0.3)
        if -1 in numbers:
            raise ValueError("negative")
        return numbers

    invoker = isolate(slow, batch=True, timeout_s=1.0)

    assert [
        result.output or result.error for result in invoker.many([Event(n) for n in (0, 1, -1, 3)])
    ] == ["0", "1", "negative", "3"]
