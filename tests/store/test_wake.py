"""Wake-ups: who waits hears at once, here and in other processes; and what a dead process left
behind is cleared away.
"""

from __future__ import annotations

import os
import socket
import stat
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from shared import wait_until

from mltrigger.store.wake import SocketWakeup, Wakeup

LONG_S = 20.0


@pytest.fixture
def temporary(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder for temporary files with a path that is short enough for sockets."""
    with tempfile.TemporaryDirectory(prefix="wake") as folder:
        monkeypatch.setattr(tempfile, "tempdir", folder)
        yield Path(folder)


@pytest.fixture
def pair(temporary: Path) -> Iterator[tuple[SocketWakeup, SocketWakeup]]:
    """Two of them for one store, as two processes have them."""
    one, two = SocketWakeup("/data/bus.db"), SocketWakeup("/data/bus.db")
    yield one, two
    one.close()
    two.close()


def sockets(temporary: Path) -> list[Path]:
    return [path for path in temporary.rglob("*") if stat.S_ISSOCK(path.lstat().st_mode)]


# -- in one process --------------------------------------------------------------------------------


def test_who_waits_is_woken_by_its_own_key_only() -> None:
    wakeup = Wakeup()
    mine, other = wakeup.generation("mine"), wakeup.generation("other")

    wakeup.notify(["mine"])

    assert wakeup.wait("mine", mine, LONG_S)
    assert not wakeup.wait("other", other, 0.01)


def test_wake_up_between_looking_and_waiting_is_not_lost() -> None:
    wakeup = Wakeup()
    seen = wakeup.generation("ready")
    wakeup.notify(["ready"])

    began = time.monotonic()
    assert wakeup.wait("ready", seen, LONG_S)

    assert time.monotonic() - began < LONG_S / 2


def test_wake_up_that_was_seen_is_not_heard_again() -> None:
    wakeup = Wakeup()
    wakeup.notify(["ready"])

    assert not wakeup.wait("ready", wakeup.generation("ready"), 0.01)


def test_close_wakes_everybody() -> None:
    wakeup = Wakeup()
    woken: list[bool] = []
    waiting = {key: wakeup.generation(key) for key in "abc"}
    threads = [
        threading.Thread(target=lambda k=k, seen=seen: woken.append(wakeup.wait(k, seen, LONG_S)))
        for k, seen in waiting.items()
    ]
    for thread in threads:
        thread.start()

    wakeup.close()
    for thread in threads:
        thread.join(timeout=LONG_S)

    assert woken == [True, True, True]


# -- groups ----------------------------------------------------------------------------------------


def test_wake_up_of_a_group_wakes_all_keys_that_joined_it_and_no_other() -> None:
    wakeup = Wakeup()
    for key in ("ready:1", "ready:2", "ready:2"):
        wakeup.join(key, "topic:1")
    seen = {key: wakeup.generation(key) for key in ("ready:1", "ready:2", "ready:3")}

    wakeup.notify(["topic:1"])

    assert wakeup.wait("ready:1", seen["ready:1"], LONG_S)
    assert wakeup.wait("ready:2", seen["ready:2"], LONG_S)
    assert not wakeup.wait("ready:3", seen["ready:3"], 0.01)


def test_key_of_a_group_has_wake_ups_of_its_own() -> None:
    wakeup = Wakeup()
    wakeup.join("ready:1", "topic:1")
    wakeup.join("ready:2", "topic:1")
    one, two = wakeup.generation("ready:1"), wakeup.generation("ready:2")

    wakeup.notify(["ready:1"])

    assert wakeup.wait("ready:1", one, LONG_S)
    assert not wakeup.wait("ready:2", two, 0.01)
    assert not wakeup.wait("ready:1", wakeup.generation("ready:1"), 0.01)


def test_every_one_of_a_thousand_waiting_threads_of_a_group_hears() -> None:
    wakeup = Wakeup()
    woken: list[bool] = []
    threads = []
    for number in range(1_000):
        key = f"ready:{number // 2}"  # two threads a key
        wakeup.join(key, "topic:1")
        seen = wakeup.generation(key)
        threads.append(
            threading.Thread(target=lambda k=key, s=seen: woken.append(wakeup.wait(k, s, LONG_S)))
        )
    for thread in threads:
        thread.start()

    wakeup.notify(["topic:1"])
    for thread in threads:
        thread.join(timeout=LONG_S)

    assert woken == [True] * 1_000


def test_no_wake_up_of_a_group_is_lost_between_looking_and_waiting() -> None:
    wakeup = Wakeup()
    wakeup.join("ready:1", "topic:1")
    heard: list[bool] = []
    turn = threading.Semaphore(0)

    def wait() -> None:
        for _ in range(2_000):
            seen = wakeup.generation("ready:1")
            turn.release()
            heard.append(wakeup.wait("ready:1", seen, LONG_S))

    thread = threading.Thread(target=wait)
    thread.start()
    for _ in range(2_000):
        turn.acquire()
        wakeup.notify(["topic:1"])
    thread.join(timeout=LONG_S)

    assert heard == [True] * 2_000


# -- across processes ------------------------------------------------------------------------------


def test_wake_up_reaches_the_other_processes_of_the_same_store(
    pair: tuple[SocketWakeup, SocketWakeup],
) -> None:
    here, there = pair
    seen = {key: there.generation(key) for key in ("ready:1", "done")}

    here.notify(["ready:1", "done"])

    assert there.wait("ready:1", seen["ready:1"], LONG_S)
    assert there.wait("done", seen["done"], LONG_S)


def test_group_reaches_the_keys_that_the_other_process_joined(
    pair: tuple[SocketWakeup, SocketWakeup],
) -> None:
    here, there = pair
    there.join("ready:1", "topic:1")
    seen = there.generation("ready:1")

    here.notify(["topic:1"])

    assert there.wait("ready:1", seen, LONG_S)


def test_none_of_a_thousand_keys_is_cut_off(pair: tuple[SocketWakeup, SocketWakeup]) -> None:
    here, there = pair
    keys = [f"ready:{number}" for number in range(1_000)]
    seen = {key: there.generation(key) for key in keys}

    here.notify(keys)

    assert all(there.wait(key, seen[key], LONG_S) for key in keys)


def test_wake_up_does_not_reach_another_store(pair: tuple[SocketWakeup, SocketWakeup]) -> None:
    here, there = pair
    stranger = SocketWakeup("/data/other.db")
    seen, known = stranger.generation("done"), there.generation("done")

    here.notify(["done"])
    assert there.wait("done", known, LONG_S)

    assert not stranger.wait("done", seen, 0.01)
    stranger.close()


def test_process_that_only_publishes_opens_no_socket(temporary: Path) -> None:
    publisher = SocketWakeup("/data/bus.db")

    publisher.notify(["ready:1"])

    assert sockets(temporary) == []
    publisher.close()


def test_folder_of_the_sockets_is_private_whatever_the_umask(temporary: Path) -> None:
    before = os.umask(0)
    try:
        wakeup = SocketWakeup("/data/bus.db")
        wakeup.generation("done")
    finally:
        os.umask(before)

    folders = [path for path in temporary.rglob("*") if path.is_dir()]
    assert len(folders) == 2
    assert {stat.S_IMODE(path.stat().st_mode) for path in folders} == {0o700}
    assert len(sockets(temporary)) == 1
    wakeup.close()


def open_to_others(temporary: Path) -> None:
    (temporary / f"mltrigger-{os.getuid()}").mkdir()
    (temporary / f"mltrigger-{os.getuid()}").chmod(0o777)


def link(temporary: Path) -> None:
    (temporary / "elsewhere").mkdir(mode=0o700)
    (temporary / f"mltrigger-{os.getuid()}").symlink_to(temporary / "elsewhere")


def plain_file(temporary: Path) -> None:
    (temporary / f"mltrigger-{os.getuid()}").write_text("")


@pytest.mark.parametrize("made_by", [open_to_others, link, plain_file])
def test_folder_that_somebody_else_prepared_is_not_used_and_looking_takes_its_place(
    temporary: Path, made_by: object
) -> None:
    made_by(temporary)  # type: ignore[operator]

    wakeup = SocketWakeup("/data/bus.db")
    seen = wakeup.generation("done")
    wakeup.notify(["done"])

    assert wakeup.wait("done", seen, LONG_S)  # in this process as ever
    assert wakeup.poll_s < Wakeup.poll_s
    assert sockets(temporary) == []
    wakeup.close()


def test_path_that_is_too_long_for_a_socket_is_no_error(
    temporary: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    deep = temporary / ("d" * 100)
    deep.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(deep))

    wakeup = SocketWakeup("/data/bus.db")
    seen = wakeup.generation("done")
    wakeup.notify(["done"])

    assert wakeup.wait("done", seen, LONG_S)
    assert wakeup.poll_s < Wakeup.poll_s
    wakeup.close()


def test_socket_of_a_process_that_died_is_removed(
    pair: tuple[SocketWakeup, SocketWakeup], temporary: Path
) -> None:
    here, there = pair
    seen = there.generation("done")
    (alive,) = sockets(temporary)
    left = alive.parent / "99999-dead"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as dead:
        dead.bind(str(left))

    here.notify(["done"])

    assert there.wait("done", seen, LONG_S)
    assert sockets(temporary) == [alive]


def test_receiver_that_does_not_read_does_not_hold_up_the_sender(
    pair: tuple[SocketWakeup, SocketWakeup], temporary: Path
) -> None:
    here, there = pair
    there.generation("done")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as stuck:
        stuck.bind(str(sockets(temporary)[0].parent / "1-stuck"))

        began = time.monotonic()
        for _ in range(2_000):
            here.notify(["done"])

        assert time.monotonic() - began < LONG_S


def test_close_removes_the_own_socket_and_no_other(
    pair: tuple[SocketWakeup, SocketWakeup], temporary: Path
) -> None:
    here, there = pair
    here.generation("done")
    seen = there.generation("done")
    assert len(sockets(temporary)) == 2

    here.close()
    here.close()

    assert len(sockets(temporary)) == 1
    third = SocketWakeup("/data/bus.db")
    third.notify(["done"])
    assert there.wait("done", seen, LONG_S)
    third.close()


def test_nonsense_that_arrives_is_ignored(
    pair: tuple[SocketWakeup, SocketWakeup], temporary: Path
) -> None:
    here, there = pair
    seen = there.generation("done")
    (path,) = sockets(temporary)
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as stranger:
        stranger.sendto(b"\xff\xfe unknown:1 \x00", str(path))

    here.notify(["done"])

    assert there.wait("done", seen, LONG_S)


def test_forked_child_that_closes_leaves_the_wake_ups_of_its_parent(
    pair: tuple[SocketWakeup, SocketWakeup], temporary: Path
) -> None:
    here, there = pair
    seen = there.generation("done")
    child = os.fork()
    if child == 0:
        there.close()
        os._exit(0)
    os.waitpid(child, 0)

    assert len(sockets(temporary)) == 1
    here.notify(["done"])

    assert there.wait("done", seen, 5.0)


def test_thread_that_hears_ends_with_close(temporary: Path) -> None:
    before = set(threading.enumerate())
    wakeup = SocketWakeup("/data/bus.db")
    wakeup.generation("done")
    (hears,) = set(threading.enumerate()) - before

    wakeup.close()

    wait_until(lambda: not hears.is_alive())


def test_process_that_can_start_no_thread_listens_with_a_later_look(
    pair: tuple[SocketWakeup, SocketWakeup], temporary: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuses(thread: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    one, two = pair
    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", refuses)
        one.generation("ready")
    assert sockets(temporary) == []
    seen = one.generation("ready")

    two.notify(["ready"])

    assert one.wait("ready", seen, LONG_S)
