"""Real processes on one file: they wake each other, one may be killed at any time, and nothing is
lost or done twice.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import sqlite3
import subprocess
import sys
import tempfile
import textwrap
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from shared import Gate, is_settled, outcomes, wait_until

import mltrigger as mt
from mltrigger.broker import Outdated
from mltrigger.policy import MAX_ABANDONED
from mltrigger.testing import SimulatedClock

ROOT = Path(mt.__file__).parents[1]
DEADLINE_S = 60.0

# Starting Python and importing pandas takes a second of both processors; this process does it once
# and forks, before it has a thread.
STARTER = """
import json, os, signal, socket, sys
import mltrigger.bus, mltrigger.urls

signal.signal(signal.SIGCHLD, signal.SIG_IGN)
server = socket.socket(socket.AF_UNIX)
server.bind(sys.argv[1])
server.listen()
print("up", flush=True)
while True:
    connection, _ = server.accept()
    if os.fork() == 0:
        break
    connection.close()
server.close()
signal.signal(signal.SIGCHLD, signal.SIG_DFL)
for number in (0, 1, 2):
    os.dup2(connection.fileno(), number)
connection.close()
program, sys.argv[1:] = json.loads(sys.stdin.readline())
print(os.getpid(), flush=True)
exec(compile(program, "<program>", "exec"))
"""

SQUARE = """
import sys, time
import mltrigger as mt

@mt.model("square", version="1.0.0")
def square(n):
    time.sleep(0.001)
    return n * n

bus = mt.connect(sys.argv[1])
sub = bus.subscribe("numbers", square, lease_s=1.0, timeout_s=20)
print("listening", flush=True)
sys.stdin.read()
bus.close()
"""


class Program:
    """A process of its own that runs a Python program; we hold its stdin, stdout and stderr."""

    def __init__(self, starter: str, program: str, *arguments: str) -> None:
        self._socket = socket.socket(socket.AF_UNIX)
        self._socket.settimeout(DEADLINE_S)
        self._socket.connect(starter)
        self._out = self._socket.makefile("r")
        self.tell(json.dumps([textwrap.dedent(program), arguments]))
        self.pid = int(self._out.readline())

    def tell(self, line: str) -> None:
        """Write a line to its stdin."""
        self._socket.sendall(f"{line}\n".encode())

    def says(self, expected: str) -> None:
        """Read a line that it prints."""
        line = self._out.readline()
        assert line.strip() == expected, line + self._out.read()

    def ends(self) -> str:
        """Close its stdin and wait until it has ended; return what else it printed."""
        self._socket.shutdown(socket.SHUT_WR)
        return self.died()

    def died(self) -> str:
        """Wait until it has ended; return what else it printed."""
        text = self._out.read()
        self.close()
        return text

    def is_alive(self) -> bool:
        """Whether it has not ended yet."""
        try:
            os.kill(self.pid, 0)
        except ProcessLookupError:
            return False
        return True

    def kill(self) -> None:
        """End it as a power cut would."""
        os.kill(self.pid, signal.SIGKILL)
        self.died()

    def close(self) -> None:
        """Let go of it: its stdin ends, and so does it."""
        self._out.close()
        self._socket.close()


Start = Callable[..., Program]


@pytest.fixture(scope="module")
def starter() -> Iterator[str]:
    with tempfile.TemporaryDirectory(prefix="starter") as folder:
        address = f"{folder}/socket"
        process = subprocess.Popen(
            [sys.executable, "-c", STARTER, address],
            stdout=subprocess.PIPE,
            text=True,
            env=environment(),
        )
        assert process.stdout is not None
        assert process.stdout.readline() == "up\n"
        yield address
        process.kill()
        process.communicate(timeout=DEADLINE_S)


@pytest.fixture
def start(file: Path, starter: str) -> Iterator[Start]:
    """Start a program whose first argument is the URL of the test's file."""
    started: list[Program] = []

    def run(program: str, *arguments: str) -> Program:
        started.append(Program(starter, program, f"sqlite:///{file}", *arguments))
        return started[-1]

    yield run
    for program in started:
        program.close()


@pytest.fixture
def bus(file: Path) -> Iterator[mt.EventBus]:
    with mt.connect(f"sqlite:///{file}") as bus:
        yield bus


def environment() -> dict[str, str]:
    return {
        **os.environ,
        "PYTHONPATH": str(ROOT),
        "OPENBLAS_NUM_THREADS": "1",
        # of a fork beside threads, from Python 3.12 on: these programs fork on purpose
        "PYTHONWARNINGS": "ignore:This process:DeprecationWarning",
    }


def ledger(file: Path, sql: str) -> list[tuple[int, ...]]:
    connection = sqlite3.connect(file)
    try:
        return connection.execute(sql).fetchall()
    finally:
        connection.close()


# -- waking ----------------------------------------------------------------------------------------


def test_event_published_by_another_process_reaches_a_listener_here_at_once(
    bus: mt.EventBus, start: Start
) -> None:
    sub = bus.subscribe("numbers", mt.model(lambda n: n, name="same"))
    publisher = start("""
        import sys
        import mltrigger as mt
        with mt.connect(sys.argv[1]) as bus:
            for line in sys.stdin:
                bus.publish("numbers", int(line))
                print("published", line.strip(), flush=True)
    """)

    for n in range(20):
        publisher.tell(str(n))
        publisher.says(f"published {n}")
        wait_until(lambda n=n: len(outcomes(sub)) > n)

    # Without a wake-up a listener looks once a second: half of the events would wait for more than
    # half a second.
    assert sub.invocations()["queue_ms"].median() < 100
    assert publisher.ends() == ""


def test_fire_waits_for_a_subscription_that_is_delivered_by_another_process(
    bus: mt.EventBus, start: Start
) -> None:
    worker = start(SQUARE)
    worker.says("listening")

    run = bus.fire("numbers", [1, 2, 3], progress=False, timeout_s=DEADLINE_S)

    assert list(run.results()["output"]) == [1, 4, 9]
    assert worker.ends() == ""


def test_model_of_a_module_is_found_by_every_process(bus: mt.EventBus, start: Start) -> None:
    elsewhere = start("""
        import sys
        import mltrigger as mt
        from mltrigger.versions.code.captured import digest_of
        with mt.connect(sys.argv[1]) as bus:
            bus.subscribe("modules", mt.model(digest_of, name="digest", version="1.0.0"), listen=False)
    """)
    assert elsewhere.ends() == ""

    sub = bus.subscription("digest").start()

    assert list(bus.fire("modules", "text", progress=False).results()["outcome"]) == ["succeeded"]
    assert sub.state == "listening"


def test_newer_patch_that_another_process_registers_is_picked_up(
    bus: mt.EventBus, start: Start
) -> None:
    bus.register(mt.model(lambda _: "1.0.0", name="reader", version="1.0.0"))
    sub = bus.subscribe("pages", "reader:1.0")
    bus.fire("pages", 1, progress=False)

    elsewhere = start("""
        import sys
        import mltrigger as mt
        from mltrigger.versions.code.captured import digest_of
        with mt.connect(sys.argv[1]) as bus:
            bus.register(mt.model(digest_of, name="reader", version="1.0.1"))
    """)
    assert elsewhere.ends() == ""

    bus.fire("pages", 1, progress=False)
    assert list(sub.invocations()["version"].astype(str)) == ["1.0.0", "1.0.1"]


def test_newer_version_of_another_process_is_loaded_before_the_next_event_comes(
    bus: mt.EventBus, start: Start, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "newer_rates.py").write_text("def new(_): return 'new'")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "newer_rates", raising=False)
    bus.register(mt.model(lambda _: "old", name="rate", version="1.0.0"))
    bus.subscribe("prices", "rate:latest", name="rate")

    switch = "bus.register(mt.model('newer_rates:new', name='rate', version='2.0.0'))"
    program = SWITCHES.format(switch=switch).rpartition("    print")[0]
    assert start(program, str(tmp_path)).ends() == ""

    wait_until(lambda: "newer_rates" in sys.modules, timeout_s=20)


def test_event_whose_wake_up_was_lost_is_found_by_a_look(
    bus: mt.EventBus, file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sub = bus.subscribe("numbers", abs, name="size")
    bus.fire("numbers", -1, progress=False)
    with mt.connect(f"sqlite:///{file}") as publisher:
        monkeypatch.setattr(publisher.wakeup, "notify", lambda _: None)
        publisher.publish("numbers", -2)

    wait_until(lambda: len(outcomes(sub)) == 2, timeout_s=20)


def test_twenty_idle_listeners_ask_the_store_for_nothing(
    bus: mt.EventBus, monkeypatch: pytest.MonkeyPatch
) -> None:
    for n in range(20):
        bus.subscribe(f"topic-{n}", abs, name=f"size-{n}")
    asked: list[str] = []
    read = bus._store.read
    monkeypatch.setattr(bus._store, "read", lambda *given: asked.append(given[0]) or read(*given))

    def is_calm() -> bool:
        before = len(asked)
        for _ in range(100):
            bus.watch.look()
        return len(asked) == before

    wait_until(is_calm)


MODELS = """
def old(_): return "old"
def new(_): return "new"
"""
SWITCHES = """
import sys
sys.path.insert(0, sys.argv[2])
import mltrigger as mt
with mt.connect(sys.argv[1]) as bus:
    {switch}
    print(*[bus.publish("prices", n).event_id for n in range(3)])
"""


@pytest.mark.parametrize(
    ("selector", "switch", "meant"),
    [
        (
            "rate:latest",
            "bus.register(mt.model('rates:new', name='rate', version='2.0.0'))",
            "2.0.0",
        ),
        ("rate:1", "bus.register(mt.model('rates:new', name='rate', version='1.1.0'))", "1.1.0"),
        ("rate:1.0", "bus.register(mt.model('rates:new', name='rate', version='1.0.1'))", "1.0.1"),
        (
            "rate@live",
            (
                "bus.register(mt.model('rates:new', name='rate', version='2.0.0'));"
                " bus.alias('rate', 'live', '2.0.0')"
            ),
            "2.0.0",
        ),
        (
            "rate:1.0.0",
            (
                "bus.subscribe('prices', mt.model('rates:new', name='rate', version='3.0.0'),"
                " name='rate', listen=False)"
            ),
            "3.0.0",
        ),
    ],
    ids=["latest", "minor", "patch", "alias", "rebind"],
)
def test_what_is_published_after_another_process_switched_the_version_runs_the_new_one(
    bus: mt.EventBus,
    start: Start,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    selector: str,
    switch: str,
    meant: str,
) -> None:
    (tmp_path / "rates.py").write_text(MODELS)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "rates", raising=False)
    bus.register(mt.model("rates:old", name="rate", version="1.0.0"))
    bus.alias("rate", "live", "1.0.0")
    sub = bus.subscribe("prices", selector, name="rate")
    bus.fire("prices", [0], progress=False)

    for _ in range(2):  # the second time nothing changes, and everything goes on
        elsewhere = start(SWITCHES.format(switch=switch), str(tmp_path))
        published = elsewhere.ends().split()
        assert bus.wait(timeout_s=60, progress=False)

        rows = sub.invocations().set_index("event_id").loc[published]
        assert list(rows["version"].astype(str)) == [meant] * 3
        assert list(rows["outcome"].astype(str)) == ["succeeded"] * 3
        assert list(rows["attempt"]) == [1] * 3


def test_claim_in_an_earlier_generation_of_the_registry_leases_nothing(bus: mt.EventBus) -> None:
    bus.subscribe("documents", mt.model(str.upper, name="shout", version="1.0.0"), listen=False)
    spec, before = bus.spec("shout"), bus.registry.generation()
    bus.publish("documents", "a")
    bus.register(mt.model(str.lower, name="whisper", version="1.0.0"))

    with pytest.raises(Outdated):
        bus.broker.receive(spec, 1, generation=before)

    assert bus.subscription("shout").depth().visible == 1
    assert [
        d.attempt for d in bus.broker.receive(spec, 1, generation=bus.registry.generation())
    ] == [1]


# -- clocks ----------------------------------------------------------------------------------------

WRONG_CLOCK = """
import sys, time
right = time.time_ns
time.time_ns = lambda: right() + int(sys.argv[2]) * 10**9
import mltrigger as mt
with mt.connect(sys.argv[1]) as bus:
"""
AHEAD_S = 1500


def test_event_of_a_publisher_whose_clock_is_ahead_does_not_wait(
    bus: mt.EventBus, start: Start
) -> None:
    sub = bus.subscribe("numbers", abs, name="size")
    elsewhere = start(WRONG_CLOCK + "    print(bus.publish('numbers', -4).event_id)", str(AHEAD_S))
    published = elsewhere.ends().strip()

    assert bus.wait(timeout_s=60, progress=False)

    (row,) = sub.invocations().to_dict("records")
    assert (row["event_id"], row["outcome"]) == (published, "succeeded")
    assert 0 <= row["queue_ms"] <= row["total_ms"] < 60_000


def test_event_of_a_publisher_whose_clock_was_set_back_after_it_began_does_not_wait(
    bus: mt.EventBus, start: Start
) -> None:
    program = (
        WRONG_CLOCK
        + """
    bus.topic("numbers")
    time.time_ns = right
    print("set back", flush=True)
    sys.stdin.readline()
    print(bus.publish("numbers", -4).event_id)
"""
    )
    elsewhere = start(program, str(AHEAD_S))
    elsewhere.says("set back")
    sub = bus.subscribe("numbers", abs, name="size")
    elsewhere.tell("go")

    published = elsewhere.ends().strip()
    assert bus.wait(timeout_s=60, progress=False)

    assert list(sub.invocations()["event_id"]) == [published]


def test_event_that_came_from_the_future_before_anybody_listened_is_delivered_when_somebody_does(
    file: Path,
) -> None:
    ahead = SimulatedClock(time.time_ns() // 1000 + AHEAD_S * 1_000_000)
    with mt.connect(f"sqlite:///{file}", clock=ahead) as early:
        early.subscribe(
            "numbers",
            mt.model("builtins:abs", name="size", version="1.0.0"),
            filter={"type": ["number"]},  # its deliveries are rows with a time
            listen=False,
        )
        early.publish("numbers", -4, type="number")
    with mt.connect(f"sqlite:///{file}") as bus:
        row = bus.doctor().set_index("check").loc["clock"]
        assert "1 event came from a process whose clock is ahead, due in" in row["finding"]

        sub = bus.subscription("size").start()
        assert bus.wait(timeout_s=60, progress=False)

        assert list(sub.results()["output"]) == [4]
        assert "clock" not in set(bus.doctor()["check"])


def test_worker_whose_clock_is_ahead_takes_no_leases_away(
    bus: mt.EventBus, start: Start, gate: Gate
) -> None:
    def waits(n: int) -> int:
        gate.wait()
        return n

    sub = bus.subscribe("numbers", mt.model(waits, name="waits", version="1.0.0"), timeout_s=60)
    bus.publish("numbers", 1)
    assert gate.reached.wait(60)
    program = (
        WRONG_CLOCK
        + """
    spec = bus.spec("waits")
    bus.subscribe("others", abs, name="other")
    print(bus.broker.receive(spec, 1), abs(bus._clock.now_us() - right() // 1000) < 60_000_000)
"""
    )
    assert start(program, str(AHEAD_S)).ends().strip() == "[] True"
    gate.open()
    assert bus.wait(timeout_s=60, progress=False)

    assert outcomes(sub) == ["succeeded"]


# -- ending ----------------------------------------------------------------------------------------


def test_work_of_a_killed_process_is_finished_by_another_exactly_once(
    bus: mt.EventBus, file: Path, start: Start
) -> None:
    def succeeded() -> int:
        return bus.log.tallies().get(1, {}).get("succeeded", 0)

    first = start(SQUARE)
    first.says("listening")
    bus.publish_batch("numbers", range(1_000))
    sub = bus.subscription("square")

    wait_until(lambda: succeeded() > 150)
    first.kill()
    assert succeeded() < 1_000
    second = start(SQUARE)
    second.says("listening")
    wait_until(lambda: is_settled(sub), DEADLINE_S)
    assert second.ends() == ""

    final = (
        "SELECT count(*) AS n FROM invocation WHERE outcome IN ('succeeded', 'dead', 'skipped')"
        " GROUP BY seq, subscription_id"
    )
    assert ledger(file, f"SELECT count(*), min(n), max(n) FROM ({final})") == [(1_000, 1, 1)]
    assert ledger(file, "SELECT count(*) FROM invocation WHERE outcome = 'succeeded'") == [(1_000,)]
    assert ledger(
        file, "SELECT count(*) FROM invocation WHERE outcome NOT IN ('succeeded', 'abandoned')"
    ) == [(0,)]
    assert ledger(file, "PRAGMA integrity_check") == [("ok",)]
    rows = sub.invocations()
    assert sorted(int(output) for output in rows["output"].dropna()) == [
        n * n for n in range(1_000)
    ]
    assert rows[rows["outcome"] == "succeeded"]["worker"].nunique() == 2
    assert succeeded() == 1_000


def test_publisher_that_is_killed_leaves_whole_batches_only(
    bus: mt.EventBus, file: Path, start: Start
) -> None:
    bus.topic("numbers")
    publisher = start("""
        import sys
        import mltrigger as mt
        bus = mt.connect(sys.argv[1])
        for batch in range(100_000):
            bus.publish_batch("numbers", [mt.Event(i, id=f"{batch}-{i}") for i in range(20)])
    """)
    wait_until(lambda: len(bus.events("numbers", limit=200)) == 200)

    publisher.kill()

    sizes = ledger(
        file, "SELECT DISTINCT count(*) FROM event GROUP BY substr(id, 1, instr(id, '-'))"
    )
    assert sizes == [(20,)]
    assert ledger(file, "PRAGMA integrity_check") == [("ok",)]


HANGS = """
import os, sys, threading
import mltrigger as mt

@mt.model("hangs", version="1.0.0")
def hangs(n):
    os.write(1, b"running\\n")
    threading.Event().wait()

bus = mt.connect(sys.argv[1])
bus.subscribe("numbers", hangs, lease_s=3600.0, timeout_s=1800.0)
print("listening", flush=True)
"""
WAITS = HANGS + "sys.stdin.read(); os._exit(0)"


def test_event_of_a_killed_process_is_taken_over_long_before_its_lease_ends(
    bus: mt.EventBus, start: Start
) -> None:
    first = start(WAITS)
    first.says("listening")
    bus.publish("numbers", 1)
    first.says("running")
    second = start(WAITS)
    second.says("listening")

    first.kill()
    second.says("running")

    rows = bus.subscription("hangs").invocations()
    assert list(rows["attempt"]) == [1, 2]
    assert list(rows["outcome"].astype(str)) == ["abandoned", "running"]
    assert rows["worker"].nunique() == 2
    assert second.ends() == ""


def test_event_of_the_only_process_is_taken_over_by_the_next_one(
    bus: mt.EventBus, start: Start
) -> None:
    first = start(WAITS)
    first.says("listening")
    bus.publish("numbers", 1)
    first.says("running")
    first.kill()

    second = start(WAITS)
    second.says("listening")

    second.says("running")
    assert second.ends() == ""


def test_event_is_taken_over_from_a_killed_process_whose_forked_child_lives_on(
    bus: mt.EventBus, start: Start
) -> None:
    first = start(
        HANGS + "if os.fork() == 0: threading.Event().wait()\nprint('forked', flush=True);"
        "sys.stdin.read()"
    )
    first.says("listening")
    first.says("forked")
    (child,) = Path(f"/proc/{first.pid}/task/{first.pid}/children").read_text().split()
    bus.publish("numbers", 1)
    first.says("running")
    second = start(WAITS)
    second.says("listening")

    os.kill(first.pid, signal.SIGKILL)
    second.says("running")

    os.kill(int(child), signal.SIGKILL)  # it has lived until now
    assert second.ends() == ""


SLEEPS = """
import sys
import mltrigger as mt

bus = mt.connect(sys.argv[1])
sleeps = mt.model("time:sleep", name="sleeps", version="1.0.0")
bus.subscribe("naps", sleeps, isolation="process", lease_s=3600.0, timeout_s=1800.0)
print("listening", flush=True)
sys.stdin.read()
"""


def test_event_is_taken_over_from_a_killed_process_whose_model_ran_in_a_process_of_its_own(
    bus: mt.EventBus, start: Start
) -> None:
    first = start(SLEEPS)
    first.says("listening")
    bus.publish("naps", 600)
    sub = bus.subscription("sleeps")
    wait_until(lambda: outcomes(sub) == ["running"])
    second = start(SLEEPS)
    second.says("listening")

    os.kill(first.pid, signal.SIGKILL)

    wait_until(lambda: outcomes(sub) == ["abandoned", "running"])
    os.kill(second.pid, signal.SIGKILL)


def test_listener_that_watches_leaves_the_events_of_a_stopped_process_alone(
    bus: mt.EventBus, start: Start
) -> None:
    first = start(WAITS)
    first.says("listening")
    bus.publish("numbers", 1)
    first.says("running")
    bus.subscribe("others", abs, name="other")  # this process watches now

    os.kill(first.pid, signal.SIGSTOP)
    for _ in range(20):
        bus.watch.look()

    assert outcomes(bus.subscription("hangs")) == ["running"]
    first.kill()
    wait_until(lambda: outcomes(bus.subscription("hangs")) == ["abandoned"])


def test_workers_of_another_boot_or_machine_are_not_judged(
    bus: mt.EventBus, file: Path, start: Start
) -> None:
    first = start(WAITS)
    first.says("listening")
    bus.publish("numbers", 1)
    first.says("running")
    connection = sqlite3.connect(file)
    with connection:
        (place,) = connection.execute("SELECT place FROM worker").fetchone()
        connection.execute("UPDATE worker SET place = ?", (f"elsewhere {place}",))
    connection.close()
    bus.subscribe("others", abs, name="other")

    first.kill()
    for _ in range(20):
        bus.watch.look()

    assert outcomes(bus.subscription("hangs")) == ["running"]


def test_direct_call_of_a_killed_process_ends_long_before_its_lease(
    bus: mt.EventBus, start: Start
) -> None:
    caller = start(
        HANGS.replace('bus.subscribe("numbers",', 'bus.subscribe("numbers", listen=False, model=')
        + """
from mltrigger.versions.selector import Selector
bus.direct.submit(Selector.parse("hangs:1.0.0"), [mt.Event(1)]).result()
"""
    )
    caller.says("listening")
    caller.says("running")
    bus.subscribe("others", abs, name="other")

    caller.kill()

    wait_until(lambda: "dead" in set(bus.invocations()["outcome"].astype(str)))
    (row,) = bus.invocations().to_dict("records")
    assert (row["outcome"], row["reason"], row["role"]) == ("dead", "worker_died", "direct")


FRAGILE = """
import os, sys
import mltrigger as mt

@mt.model("fragile", version="1.0.0")
def fragile(wanted):
    if wanted == "kill":
        os._exit(7)
    return wanted

bus = mt.connect(sys.argv[1])
bus.subscribe("orders", fragile, lease_s=0.2)
print("listening", flush=True)
sys.stdin.read()
bus.close()
"""


def test_event_that_kills_its_process_three_times_while_it_runs_alone_is_dead_and_the_others_go_on(
    bus: mt.EventBus, start: Start
) -> None:
    bus.register(mt.model(lambda _: None, name="unrelated"))
    worker = start(FRAGILE)
    worker.says("listening")
    bus.publish("orders", "kill")
    worker.died()
    for _ in range(3):
        start(FRAGILE).died()

    last = start(FRAGILE)
    last.says("listening")
    sub = bus.subscription("fragile")
    wait_until(lambda: is_settled(sub), DEADLINE_S)
    run = bus.fire("orders", "harmless", progress=False)

    assert list(run.results()["outcome"]) == ["succeeded"]
    assert outcomes(sub) == ["abandoned", "abandoned", "abandoned", "dead", "succeeded"]
    assert list(sub.dead_letters()["reason"]) == ["worker_died"]
    assert last.ends() == ""


BESIDE = """
import os, sys, time
import mltrigger as mt

@mt.model("deadly", version="1.0.0")
def deadly(n):
    time.sleep(0.05)
    os._exit(7)

@mt.model("innocent", version="1.0.0")
def innocent(n):
    time.sleep(0.1)
    return n

@mt.model("rows", version="1.0.0", batch=True)
def rows(batch):
    time.sleep(0.1)
    return batch

bus = mt.connect(sys.argv[1])
bus.subscribe("deadly", deadly, lease_s=0.3)
bus.subscribe("pages", innocent, max_concurrency=4, lease_s=0.3)
bus.subscribe("pages", rows, batch_size=4, lease_s=0.3)
print("listening", flush=True)
sys.stdin.read()
bus.close()
"""


def test_events_that_run_beside_one_that_kills_its_process_are_not_blamed(
    bus: mt.EventBus, start: Start
) -> None:
    process = start(BESIDE)
    process.says("listening")
    bus.publish_batch("pages", list(range(12)))
    bus.publish_batch("deadly", [1, 2])
    subs = {name: bus.subscription(name) for name in ("deadly", "innocent", "rows")}
    ends = 0
    while not all(is_settled(sub) for sub in subs.values()):
        if not process.is_alive():
            process.died()
            ends += 1
            process = start(BESIDE)
        time.sleep(0.02)

    assert {name: len(sub.dead_letters()) for name, sub in subs.items()} == {
        "deadly": 2,
        "innocent": 0,
        "rows": 0,
    }
    assert [outcomes(subs[name]).count("succeeded") for name in ("innocent", "rows")] == [12, 12]
    # a death beside others proves nothing
    assert 2 * MAX_ABANDONED <= ends <= 2 * MAX_ABANDONED + 2
    assert bus.audit()["balanced"].all()
    process.kill()


STOPS = """
import os, signal, sys, time
import mltrigger as mt

@mt.model("stops", version="1.0.0")
def stops(n):
    os.kill(os.getpid(), signal.SIGSTOP)
    time.sleep(0.1)  # not every thread is stopped at once
    return n * n

bus = mt.connect(sys.argv[1])
bus.subscribe("numbers", stops, lease_s=0.3, timeout_s=20)
print("listening", flush=True)
sys.stdin.read()
bus.close()
"""


def is_stopped(pid: int) -> bool:
    """Whether a signal has stopped the process."""
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "T"


def test_event_whose_processes_were_stopped_for_longer_than_their_leases_gets_the_first_answer(
    bus: mt.EventBus, start: Start
) -> None:
    bus.register(mt.model(lambda _: None, name="unrelated"))
    processes = [start(STOPS) for _ in range(MAX_ABANDONED)]
    for process in processes:
        process.says("listening")
    sub = bus.subscription("stops")
    bus.publish("numbers", 12)
    wait_until(lambda: all(is_stopped(process.pid) for process in processes), DEADLINE_S)
    assert outcomes(sub)[-1] == "running"
    time.sleep(0.4)  # the last one has lost its lease too

    for process in processes:
        os.kill(process.pid, signal.SIGCONT)
    wait_until(lambda: is_settled(sub), DEADLINE_S)

    assert outcomes(sub).count("succeeded") == 1
    assert list(sub.results()["outcome"]) == ["succeeded"]
    assert len(sub.dead_letters()) == 0
    for process in processes:
        assert process.ends() == ""
    assert bus.audit()["balanced"].all()


def test_process_that_ends_releases_what_it_has_leased(bus: mt.EventBus, file: Path) -> None:
    program = """
import sys, time
import mltrigger as mt

@mt.model("slow", version="1.0.0")
def slow(n):
    print("began", flush=True, file=sys.__stdout__)
    time.sleep(3600)

bus = mt.connect(sys.argv[1])
bus.subscribe("numbers", slow, lease_s=3600)
bus.publish("numbers", 1)
sys.stdin.readline()
"""
    process = subprocess.Popen(
        [sys.executable, "-c", program, f"sqlite:///{file}"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=environment(),
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "began\n"

    # it does not close the bus, as a kernel that is shut down
    out, err = process.communicate(timeout=DEADLINE_S)

    assert (process.returncode, out, err) == (0, "", "")
    sub = bus.subscription("slow")
    assert (sub.depth().visible, sub.depth().in_flight) == (1, 0)
    assert outcomes(sub) == ["interrupted"]


def test_process_that_has_ended_is_not_taken_for_a_live_listener(
    bus: mt.EventBus, start: Start
) -> None:
    worker = start(SQUARE)
    worker.says("listening")
    assert list(bus.subscriptions()["listeners"]) == [1]

    assert worker.ends() == ""

    assert list(bus.subscriptions()["listeners"]) == [0]


# -- opening ---------------------------------------------------------------------------------------


def test_processes_that_open_a_new_file_at_the_same_time_share_it(
    tmp_path: Path, start: Start
) -> None:
    program = """
        import os, sys
        from pathlib import Path
        import mltrigger as mt
        folder, number, rounds = Path(sys.argv[2]), sys.argv[3], int(sys.argv[4])
        for i in range(rounds):
            while not os.path.exists(folder / f"go-{i}"):
                pass  # no pause: they shall come at the same instant
            with mt.connect(f"sqlite:///{folder}/new-{i}.db") as bus:
                bus.topic("numbers")
                bus.publish("numbers", 1)
            (folder / f"done-{i}-{number}").touch()
    """
    rounds = 12
    processes = [start(program, str(tmp_path), str(number), str(rounds)) for number in range(3)]
    for i in range(rounds):
        (tmp_path / f"go-{i}").touch()
        wait_until(
            lambda i=i: (
                len(list(tmp_path.glob(f"done-{i}-*"))) == 3
                or any(not p.is_alive() for p in processes)
            )
        )

    assert [process.ends() for process in processes] == ["", "", ""]
    counts = (
        "SELECT (SELECT count(*) FROM topic), (SELECT count(*) FROM event), (SELECT count(*) FROM"
        " schema_version)"
    )
    assert {ledger(tmp_path / f"new-{i}.db", counts)[0] for i in range(rounds)} == {(1, 3, 1)}
    assert {
        ledger(tmp_path / f"new-{i}.db", "PRAGMA integrity_check")[0] for i in range(rounds)
    } == {("ok",)}


def test_processes_that_publish_the_same_events_add_each_once(
    bus: mt.EventBus, start: Start
) -> None:
    bus.topic("numbers")
    program = """
        import sys
        import mltrigger as mt
        with mt.connect(sys.argv[1]) as bus:
            receipts = [bus.publish("numbers", n, id=f"n-{n}") for n in range(50)]
            print(sum(not r.duplicate for r in receipts))
    """

    added = [int(process.ends()) for process in [start(program) for _ in range(3)]]

    assert sum(added) == 50
    assert len(bus.events("numbers")) == 50


def test_full_disk_is_an_error_that_loses_nothing_and_ends_when_there_is_room_again(
    bus: mt.EventBus, file: Path, start: Start
) -> None:
    program = start("""
        import os, resource, signal, sys, threading
        import mltrigger as mt
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        bus = mt.connect(sys.argv[1])
        bus.topic("texts")
        log = sys.argv[1].removeprefix("sqlite:///") + "-wal"
        resource.setrlimit(resource.RLIMIT_FSIZE, (os.path.getsize(log) + 300_000, resource.RLIM_INFINITY))
        published, refused = [], []

        def publish():
            for _ in range(30):
                try:
                    published.append(bus.publish("texts", "y" * 5_000).event_id)
                except mt.StoreError:
                    refused.append(1)

        threads = [threading.Thread(target=publish) for _ in range(3)]
        [t.start() for t in threads]
        [t.join() for t in threads]
        assert published and refused
        resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
        published.append(bus.publish("texts", "again").event_id)
        assert set(bus.events("texts")["event_id"]) == set(published), "what was refused is not there, the rest is"
        bus.close()
        print("fine")
    """)

    assert program.ends() == "fine\n"
    assert len(bus.events("texts")) > 1
    assert ledger(file, "PRAGMA integrity_check") == [("ok",)]


def test_listeners_of_two_processes_share_the_work(bus: mt.EventBus, start: Start) -> None:
    workers = [start(SQUARE), start(SQUARE)]
    for worker in workers:
        worker.says("listening")

    run = bus.fire("numbers", range(300), progress=False, timeout_s=DEADLINE_S)

    assert list(run.results()["output"]) == [n * n for n in range(300)]
    rows = run.invocations()
    assert len(rows) == 300
    assert rows["worker"].nunique() == 2
    assert [worker.ends() for worker in workers] == ["", ""]
