"""Ids: unique, rising and of one form, in all threads and after every fork."""

from __future__ import annotations

import subprocess
import sys
import threading
import time
import uuid
from itertools import pairwise

from mltrigger.event import ids
from mltrigger.event.event import Event

TRACE = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
FORKS = """
import os
from mltrigger.event import ids

def some():
    return [each for _ in range(50) for each in (ids.new_id(), ids.new_trace())]

def forked(generations):  # in the very moment of the last id
    ids.new_id()
    read, write = os.pipe()
    if os.fork() == 0:
        made = some()
        if generations > 1:
            made += forked(generations - 1)
        with os.fdopen(write, "w") as pipe:
            pipe.write(" ".join(made))
        os._exit(0)
    os.close(write)
    made = some()
    with os.fdopen(read) as pipe:
        made += pipe.read().split()
    os.wait()
    return made

made = [each for _ in range(40) for each in forked(2)]
print(len(made), len(set(made)))
"""


def test_a_new_id_is_a_uuid_of_version_7_with_the_time_in_front() -> None:
    before_ms = time.time_ns() // 1_000_000
    made = uuid.UUID(text := ids.new_id())
    after_ms = time.time_ns() // 1_000_000

    assert (made.version, made.variant) == (7, uuid.RFC_4122)
    assert before_ms <= made.int >> 80 <= after_ms
    assert str(made) == text, "not in its canonical form"


def test_the_ids_of_a_process_rise_also_within_a_millisecond() -> None:
    made = [ids.new_id() for _ in range(20_000)]

    assert len({each[:13] for each in made}) < len(made)
    assert all(one < other for one, other in pairwise(made))


def test_threads_never_make_the_same_id() -> None:
    made: list[list[str]] = []
    threads = [
        threading.Thread(target=lambda: made.append([ids.new_id() for _ in range(5_000)]))
        for _ in range(8)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert len({each for some in made for each in some}) == 8 * 5_000
    assert all(one < other for some in made for one, other in pairwise(some))


def test_forked_processes_and_their_children_make_other_ids_than_their_parents() -> None:
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", FORKS], capture_output=True, text=True, check=True
    )

    assert done.stdout.split() == ["16000", "16000"]


def test_a_child_span_is_a_valid_context_of_the_same_trace() -> None:
    child = ids.child_span(TRACE)

    assert (child[:36], child[52:]) == (TRACE[:36], TRACE[52:])
    assert child != ids.child_span(TRACE)
    assert Event(1, extensions={"traceparent": child}).traceparent == child


def test_a_new_trace_is_a_valid_context() -> None:
    assert Event(1, extensions={"traceparent": ids.new_trace()}).traceparent is not None
    assert ids.new_trace() != ids.new_trace()
