"""A move from a file to PostgreSQL: nothing is lost, nothing comes twice, and one side takes work."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import sqlite3
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import moving
import pandas as pd
import psycopg
import pytest
from databases import Postgres
from moving import HOUR_S, IDS, assert_equal, frames_at, move, takes_work
from shared import Gate, wait_until

import mltrigger as mt
from mltrigger.store import tables
from mltrigger.store.move import Move
from mltrigger.store.opening import store_at
from mltrigger.store.postgresql import partitions, transaction
from mltrigger.store.postgresql.destination import Destination, names
from mltrigger.store.postgresql.place import parts_of
from mltrigger.testing import SimulatedClock

START_US = SimulatedClock().now_us()


@pytest.fixture(scope="module")
def filled(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file that has everything in it."""
    path = tmp_path_factory.mktemp("filled") / "bus.db"
    moving.fill(f"sqlite:///{path}", SimulatedClock())
    return path


@pytest.fixture(scope="module")
def before(filled: Path) -> dict[str, pd.DataFrame]:
    """Every frame about that file."""
    return frames_at(f"sqlite:///{filled}", SimulatedClock())


@pytest.fixture
def file(filled: Path, tmp_path: Path) -> Path:
    return Path(shutil.copy(filled, tmp_path / "bus.db"))


def work(sub: mt.Subscription) -> None:
    """Let *sub* do what is due."""
    wait_until(lambda: not (sub.depth().visible or sub.depth().in_flight))


def attempts(sub: mt.Subscription, event_id: str) -> list[str]:
    """Return the outcomes of all attempts of one event."""
    frame = sub.invocations(columns=["event_id", "outcome"])
    return list(frame[frame["event_id"] == event_id]["outcome"])


# -- all of it -----------------------------------------------------------------------------------------


def test_every_frame_is_the_same_before_and_after(
    file: Path, team: str, clock: SimulatedClock, before: dict[str, pd.DataFrame]
) -> None:
    parts = move(file, team)

    assert_equal(frames_at(team, clock), before)
    assert_equal(frames_at(f"sqlite:///{file}", clock), before)  # it can still be read
    assert before["audit"]["balanced"].all()
    assert set(IDS) <= set(before["events"]["event_id"])
    assert all(part.source == part.destination for part in parts)
    assert {p.table for p in parts if p.source} >= {
        *("event", "outcome", "lot", "detail", "ready", "dead_letter", "effect", "label"),
        *("binding", "subscription", "model_version", "revision", "cursor", "tally"),
    }


def test_rows_go_into_the_partitions_of_their_numbers(
    file: Path,
    team: str,
    clock: SimulatedClock,
    before: dict[str, pd.DataFrame],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for room in (partitions, transaction):
        monkeypatch.setattr(room, "SIZE", 4)

    move(file, team)

    assert_equal(frames_at(team, clock), before)
    with mt.connect(team, clock=clock) as bus:
        parts = "SELECT count(*) FROM pg_inherits WHERE inhparent = 'event'::regclass"
        with contextlib.closing(Destination(team)) as there:
            assert there.query(parts, {})[0][0] > 4
        run = bus.subscribe("more", mt.model(lambda n: n, name="more")).fire([1, 2, 3])
        assert len(run.results()) == 3
        assert bus.audit()["balanced"].all()


def test_a_move_takes_every_table_along() -> None:
    connection = sqlite3.connect(":memory:")
    for statement in tables.CREATE.split(";\n\n"):
        connection.execute(statement)
    there = {n for (n,) in connection.execute("SELECT name FROM sqlite_master WHERE type='table'")}

    # listeners register again; the version is that of the new schema
    assert set(names()) == there - {"listener", "schema_version"}


def test_open_work_goes_on_there(file: Path, team: str, clock: SimulatedClock) -> None:
    move(file, team)

    with mt.connect(team, clock=clock) as bus:
        moving.models(bus)
        names = ("reader", "held", "counter", "fair")
        reader, held, counter, fair = map(bus.subscription, names)
        assert (reader.depth().delayed, reader.depth().visible) == (2, 1)
        for sub in (reader, held, counter, fair):
            sub.start()
        work(reader)
        assert reader.depth().delayed == 2  # not before their time

        for _ in range(5):
            clock.advance(HOUR_S + 1)
            work(reader)
        assert held.depth().visible == 16  # it is paused there, too
        held.resume()
        work(held)
        assert reader.redrive("dead") == 1
        for sub in (reader, counter, fair):
            work(sub)

        answered = reader.results().set_index("event_id")
        assert answered["by"]["waiting"] == "reread"
        assert answered["by"]["delayed"] == "reread"
        assert attempts(reader, "again") == ["failed"] * 4 + ["dead"]
        assert sorted(answered["n"].dropna()) == [n for n in range(16) if n != 13]
        assert set(held.results()["outcome"]) == {"succeeded"}
        audit = bus.audit().set_index("subscription")
        assert audit["balanced"].all()
        assert list(audit.loc[["held", "fair"], "succeeded"]) == [16, 16]


def test_new_rows_get_new_numbers(file: Path, team: str, clock: SimulatedClock) -> None:
    move(file, team)

    with mt.connect(team, clock=clock) as bus:
        newest = len(bus.events())
        new = bus.subscribe("fresh", mt.model(lambda n: n, name="new"), name="new")
        run = bus.fire("fresh", [1, 2], progress=False)
        bus.label(run.results()["event_id"][0], 1)

        assert list(new.results()["output"]) == [1, 2]
        assert len(bus.events()) == newest + 2
        assert len(bus.labels()) == 3
        assert bus.audit()["balanced"].all()


def test_a_character_nul_is_written_as_its_sign(tmp_path: Path, blank: Path, team: str) -> None:
    file = Path(shutil.copy(blank, tmp_path / "bus.db"))

    with mt.connect(f"sqlite:///{file}") as bus:
        bus.label("page", "good")
    with sqlite3.connect(file) as connection:  # the store itself writes it in another way
        connection.execute("UPDATE label SET made_by = 'a' || char(0) || 'b'")

    move(file, team)

    with mt.connect(team) as bus:
        assert list(bus.labels()["by"]) == ["a\u2400b"]


@pytest.mark.parametrize(
    "damage",
    [
        "UPDATE name SET text = CAST(text AS BLOB) WHERE id = 1",
        "UPDATE tally SET n = 'many'",
        "UPDATE subscription SET policy = CAST(x'ff' AS TEXT)",
    ],
)
def test_a_damaged_row_is_named_and_the_move_goes_on_when_it_is_put_right(
    damage: str, file: Path, filled: Path, team: str
) -> None:
    with sqlite3.connect(file) as connection:
        connection.execute(damage)

    with pytest.raises(mt.StoreError, match=r"row .* of its table (name|tally)|decode to UTF-8"):
        move(file, team)
    assert not takes_work(team)

    move(file, team, undo=True)
    with sqlite3.connect(file) as connection:
        connection.execute("ATTACH ? AS whole", [str(filled)])
        for table in ("name", "tally", "subscription"):
            connection.execute(f"DELETE FROM {table}")
            connection.execute(f"INSERT INTO {table} SELECT * FROM whole.{table}")
    move(file, team)
    assert takes_work(team)


# -- the source ----------------------------------------------------------------------------------------


def test_a_moved_file_refuses_every_write_and_names_the_new_place(
    file: Path, team: str, clock: SimulatedClock
) -> None:
    url = team.replace("app@", "app:hunter2@")
    with mt.connect(f"sqlite:///{file}", clock=clock) as before:
        move(file, url)
        with mt.connect(f"sqlite:///{file}", clock=clock) as after:
            for bus in (before, after):  # also one that was open
                for write in (
                    lambda bus=bus: bus.publish("pages", moving.page(1)),
                    lambda bus=bus: bus.label("page-1", 2),
                    lambda bus=bus: bus.topic("new"),
                    lambda bus=bus: bus.subscription("held").resume(),
                    lambda bus=bus: bus.subscription("reader").redrive("dead"),
                    lambda bus=bus: bus.register(mt.model(lambda n: n, name="n", version="1.0.0")),
                ):
                    with pytest.raises(mt.StoreError) as refused:
                        write()
                    shown = team.replace("app@", "")
                    assert f"this store was moved to {shown}: connect there" in str(refused.value)
                    assert "hunter2" not in str(refused.value)
                assert len(bus.subscription("reader").results()) == 13
                assert bus.audit()["balanced"].all()
                found = bus.doctor().set_index("check").loc["move"]
                assert found["finding"] == f"this store was moved to {shown}"
                assert found["severity"] == "error"


def test_a_file_that_stays_has_no_trigger(file: Path) -> None:
    rows = sqlite3.connect(file).execute("SELECT 1 FROM sqlite_master WHERE type = 'trigger'")

    assert rows.fetchall() == []


@pytest.fixture
def working(tmp_path: Path, blank: Path, gate: Gate) -> Iterator[tuple[Path, mt.Subscription]]:
    """A file, and a model that works on one event of it and will hand an output on."""
    file = Path(shutil.copy(blank, tmp_path / "bus.db"))

    def work(n: int) -> int:
        gate.wait()
        return n

    with mt.connect(f"sqlite:///{file}") as bus:
        model = mt.model(work, name="work", version="1.0.0")
        sub = bus.subscribe("numbers", model, emit="done")
        bus.subscribe("done", mt.model(lambda n: n, name="end", version="1.0.0"), listen=False)
        bus.publish_batch("numbers", [1, 2, 3])
        gate.reached.wait(60)
        yield file, sub
        gate.open()


def test_what_is_worked_on_ends_first_and_nothing_new_begins(
    working: tuple[Path, mt.Subscription], team: str, gate: Gate
) -> None:
    file, sub = working
    store, wakeup = store_at(f"sqlite:///{file}")
    there, refused = Destination(team), list[str]()

    def sleep(_: float) -> None:
        if not refused:
            with (
                mt.connect(f"sqlite:///{file}") as bus,
                pytest.raises(mt.StoreError, match="this store moves to postgresql://") as no,
            ):
                bus.publish("numbers", 4)
            refused.append(str(no.value))
            gate.open()
        threading.Event().wait(0.01)

    Move(store, there, sleep=sleep).run(600.0, lambda _: None, lambda: None)
    for each in (there, wakeup, store):
        each.close()

    assert "connect there when `mltrigger move` is done" in refused[0]
    ended = len(sub.results())
    assert ended >= 1
    with mt.connect(team) as bus:
        assert len(bus.subscription("work").results()) == ended
        assert bus.subscription("end").depth().visible == ended  # handed on in the last commit
        assert bus.subscription("work").depth().open == 3 - ended
        assert bus.audit()["balanced"].all()
        assert not bus.subscription("work").depth().in_flight


def test_a_move_that_waited_in_vain_leaves_all_as_it_was(
    working: tuple[Path, mt.Subscription], team: str, gate: Gate
) -> None:
    file, sub = working

    with pytest.raises(mt.StoreError, match=r"leases are held by the workers \d+, after 0 s"):
        move(file, team)

    gate.open()
    sub.fire([4, 5], progress=False)
    assert list(sub.results()["output"]) == [1, 2, 3, 4, 5]
    with mt.connect(team) as bus:
        assert len(bus.topics()) == 0


def test_leases_of_a_killed_worker_move_along(file: Path, team: str, clock: SimulatedClock) -> None:
    with mt.connect(f"sqlite:///{file}", clock=clock) as bus:
        (held,) = bus.broker.receive(bus.spec("reader"), 1)
        worker, place = bus.registry.join(), bus._living.place
    with sqlite3.connect(file) as connection:  # as it is left by a kill
        connection.execute("UPDATE lease SET worker_id = ?", [worker])
        connection.execute("UPDATE worker SET place = 'elsewhere' WHERE id = ?", [worker])

    with pytest.raises(mt.StoreError, match=f"1 leases are held by the workers {worker}, after"):
        move(file, team, clock)  # nobody here can tell whether it lives
    with sqlite3.connect(file) as connection:
        connection.execute("UPDATE worker SET place = ? WHERE id = ?", [place, worker])
    move(file, team, clock)

    with mt.connect(team, clock=clock) as bus:
        moving.models(bus)
        reader = bus.subscription("reader")
        assert reader.depth().in_flight == 1
        clock.advance(2 * HOUR_S)
        reader.start()
        work(reader)
        assert attempts(reader, held.event.id) == ["abandoned", "succeeded"]
        assert bus.audit()["balanced"].all()


# -- the destination -----------------------------------------------------------------------------------


def test_a_destination_that_has_something_is_refused_and_nothing_changes(
    file: Path, team: str
) -> None:
    with mt.connect(team) as bus:
        bus.topic("mine")

    with pytest.raises(mt.StoreError, match=r"is not empty \(topic 1.*DROP SCHEMA test_"):
        move(file, team)

    assert takes_work(f"sqlite:///{file}")


def test_nothing_else_opens_a_destination_that_is_being_filled(file: Path, team: str) -> None:
    with mt.connect(team) as early:
        store, wakeup = store_at(f"sqlite:///{file}")
        there, looks = Destination(team), list[str]()

        def look(_: Any) -> None:
            if not looks:
                with pytest.raises(mt.StoreError) as late:
                    mt.connect(team)
                with pytest.raises(mt.StoreError) as open_before:
                    early.topic("mine")
                with pytest.raises(mt.StoreError) as second:
                    move(file, team)
                looks.extend(str(e.value) for e in (late, open_before, second))

        Move(store, there).run(0.0, look, lambda: None)
        for each in (there, wakeup, store):
            each.close()

        assert ["a move into this store is under way" in said for said in looks[:2]] == [True, True]
        assert "another `mltrigger move` fills postgresql://" in looks[2]
        assert early.topic("mine") == "mine"  # the same bus, now that all is there
        assert early.audit()["balanced"].all()


def test_two_files_do_not_move_to_one_place(
    file: Path, filled: Path, tmp_path: Path, team: str
) -> None:
    other = Path(shutil.copy(filled, tmp_path / "other.db"))
    move(file, team)

    with pytest.raises(mt.StoreError, match=r"has come from another store, bus\.db"):
        move(other, team)
    assert takes_work(f"sqlite:///{other}")


def test_one_file_does_not_move_to_two_places(file: Path, team: str) -> None:
    move(file, team)

    with pytest.raises(mt.StoreError, match="this store was moved to postgresql://"):
        move(file, f"{team}_2")
    assert takes_work(team)


def test_time_goes_on_from_the_newest_row(tmp_path: Path, blank: Path, team: str) -> None:
    """A file whose clock was ahead of the server's: else new events would lie before old ones."""
    file = Path(shutil.copy(blank, tmp_path / "bus.db"))
    ahead = SimulatedClock(4_000_000_000_000_000)
    with mt.connect(f"sqlite:///{file}", clock=ahead) as bus:
        bus.topic("numbers")
        bus.publish("numbers", 1)

    move(file, team)

    with mt.connect(team) as bus:
        bus.publish("numbers", 2)
        published = bus.events()["published_at"]
        assert published.is_monotonic_increasing
        assert (published.max() - published.min()).total_seconds() < 600


# -- crashes -------------------------------------------------------------------------------------------


def child(file: Path, url: str, *kill: int) -> subprocess.CompletedProcess[str]:
    tests = Path(__file__).parents[1] / "helpers"
    path = os.pathsep.join([str(Path(mt.__file__).parents[1]), str(tests)])
    return subprocess.run(
        [sys.executable, str(tests / "moving.py"), f"sqlite:///{file}", url, *map(str, kill)],
        env={**os.environ, "PYTHONPATH": path, "OPENBLAS_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )


POINTS = (0, 1, 3, 5, 6, 8, 9, 12, 40, 97, 151, 203, -9, -8, -7, -6, -5, -4, -3, -2, -1)
"""Steps of a move: the first ones, some in the middle, and the last ones."""


@pytest.fixture(scope="module")
def step_count(filled: Path, tmp_path_factory: pytest.TempPathFactory, postgres: Postgres) -> int:
    """How many steps a move of that file has."""
    whole = Path(shutil.copy(filled, tmp_path_factory.mktemp("whole") / "bus.db"))
    done = child(whole, f"{postgres.dsn('postgres')}?schema=whole")
    postgres.forget("whole")
    assert done.returncode == 0, done.stderr
    return int(done.stdout)


@pytest.mark.slow(every=7)
@pytest.mark.parametrize("point", POINTS)
def test_a_move_that_is_killed_goes_on_and_no_row_comes_twice(
    point: int, file: Path, team: str, before: dict[str, pd.DataFrame], step_count: int
) -> None:
    clock = SimulatedClock()
    if point < 0:
        point += step_count

    killed = child(file, team, point)
    assert killed.returncode == -signal.SIGKILL, killed.stderr

    at_work = sum(map(takes_work, (f"sqlite:///{file}", team)))
    assert at_work <= 1
    again = child(file, team)

    assert again.returncode == 0, again.stderr
    assert not takes_work(f"sqlite:///{file}")
    if not at_work:
        assert_equal(frames_at(team, clock), before)
    assert takes_work(team)
    with mt.connect(team) as bus:
        assert bus.audit()["balanced"].all()


def test_an_unfinished_move_is_taken_back(file: Path, team: str, clock: SimulatedClock) -> None:
    before = frames_at(f"sqlite:///{file}", clock)
    assert child(file, team, 60).returncode == -signal.SIGKILL
    assert not takes_work(f"sqlite:///{file}")
    assert not takes_work(team)

    move(file, team, undo=True)

    assert_equal(frames_at(f"sqlite:///{file}", clock), before)
    with mt.connect(team) as bus:
        assert len(bus.topics()) == 0
    assert takes_work(f"sqlite:///{file}")
    move(file, team)
    assert takes_work(team)


def test_a_finished_move_cannot_be_taken_back(file: Path, team: str) -> None:
    with pytest.raises(mt.StoreError, match="does not move: nothing to undo"):
        move(file, team, undo=True)
    move(file, team)

    with pytest.raises(mt.StoreError, match="is done, and that store may have new events"):
        move(file, team, undo=True)
    assert not takes_work(f"sqlite:///{file}")


def test_a_copy_that_is_not_whole_is_not_opened(file: Path, team: str) -> None:
    assert child(file, team, 60).returncode == -signal.SIGKILL
    with psycopg.connect(parts_of(team)[0], autocommit=True) as session:
        session.execute(f"DELETE FROM {parts_of(team)[1]}.event WHERE seq = 2")

    with pytest.raises(mt.StoreError, match=r"the copy is not whole \(event \d+ of \d+\)"):
        move(file, team)

    assert not takes_work(team)
    assert not takes_work(f"sqlite:///{file}")
