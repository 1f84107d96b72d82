"""Polls of a queue: as many as its backlog is worth; and for how long a message may be hidden."""

from __future__ import annotations

import threading
from collections.abc import Sequence

import pytest
from shared import wait_until

from mltrigger.aws.transport.polls import MOST_POLLS, Inlet, Message, Raw
from mltrigger.aws.transport.settler import HIDE_CAP_S, visibility_s
from mltrigger.delivery.threads import ThreadWorkers

AT_US = 1_790_000_000_000_000


class Queue:
    """Answers each poll when the test lets it, with as many messages as it says."""

    def __init__(self) -> None:
        self.brings = 10
        self.polls: list[int] = []
        self.given_back: list[Raw] = []
        self._go = threading.Semaphore(0)
        self.inlet = Inlet(self._receive, self._give_back, lambda: None, ThreadWorkers())

    def _receive(self, most: int, wait_s: int) -> list[Raw]:
        self.polls.append(wait_s)
        assert self._go.acquire(timeout=20)
        return [
            Raw(Message("q", str(i), AT_US, AT_US), "1", {}, str(i), None, None)
            for i in range(min(most, self.brings))
        ]

    def _give_back(self, unwanted: Sequence[Raw]) -> None:
        self.given_back += unwanted

    def answer(self, most: int = 1_000) -> int:
        """Let all polls answer; return how many there were, and want more."""
        flying = len(self.polls)
        self.polls.clear()
        for _ in range(flying):
            self._go.release()
        self.inlet.wait_until_landed(20)
        self.inlet.take(most)
        self.inlet.want(most)
        wait_until(lambda: self.polls)
        return flying


@pytest.fixture
def queue() -> Queue:
    queue = Queue()
    queue.inlet.want(1_000)
    wait_until(lambda: queue.polls)
    return queue


def flying(queue: Queue, count: int) -> bool:
    wait_until(lambda: len(queue.polls) >= count)
    return len(queue.polls) == count


def test_polls_grow_while_they_come_back_full_and_never_pass_their_limit(queue: Queue) -> None:
    for count in (1, 2, MOST_POLLS, MOST_POLLS):
        assert flying(queue, count)
        queue.answer()


def test_polls_get_fewer_when_the_backlog_is_gone(queue: Queue) -> None:
    for count in (1, 2):
        assert flying(queue, count)
        queue.answer()
    queue.brings = 0

    assert flying(queue, MOST_POLLS)
    queue.answer()

    assert flying(queue, 1)


def test_polls_that_bring_nothing_wait_longer_and_longer(queue: Queue) -> None:
    queue.brings, waited = 0, []
    for _ in range(6):
        assert flying(queue, 1)
        waited += queue.polls
        queue.answer()

    assert waited == [1, 2, 5, 10, 20, 20]


def test_polls_never_ask_for_more_than_is_wanted() -> None:
    queue = Queue()
    queue.inlet.want(3)
    wait_until(lambda: queue.polls)

    queue.answer(3)

    assert queue.given_back == []
    assert flying(queue, 1)


def test_what_a_poll_brings_after_nobody_wants_it_is_given_back(queue: Queue) -> None:
    queue.inlet.leave()
    queue._go.release()
    queue.inlet.wait_until_landed(20)

    wait_until(lambda: len(queue.given_back) == 10)
    assert queue.inlet.take(10) == []


@pytest.mark.parametrize(
    ("age_s", "wanted_s", "seconds"),
    [
        (0, 30, 30),
        (0, 0.2, 1),
        (0, -5, 0),
        (0, 10 * HIDE_CAP_S, HIDE_CAP_S - 1),
        (HIDE_CAP_S - 100, 360, 99),
        (HIDE_CAP_S + 60, 360, 0),
    ],
)
def test_message_is_hidden_in_whole_seconds_and_never_beyond_twelve_hours_since_it_was_asked_for(
    age_s: float, wanted_s: float, seconds: int
) -> None:
    now_us = AT_US + int(age_s * 1e6)

    assert (
        visibility_s(
            Message("q", "h", AT_US, AT_US + 20_000_000), now_us + int(wanted_s * 1e6), now_us
        )
        == seconds
    )
