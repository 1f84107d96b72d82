"""A glance at the log: each look reads the news, and all looks together what one look reads."""

from __future__ import annotations

import mltrigger as mt
from mltrigger.store.glance import ANEW_S, Published


def answer(n: int) -> int:
    if n % 3 == 0:
        raise mt.Reject("third")
    return n


def opened(bus: mt.EventBus) -> tuple[mt.Subscription, mt.Subscription]:
    model = mt.model("answer", version="1.0.0")(answer)
    return (
        bus.subscribe("numbers", model, name="first", max_attempts=1),
        bus.subscribe("others", model, name="second", max_attempts=1),
    )


def test_all_looks_together_have_what_one_look_has(url: str) -> None:
    with mt.connect(url) as bus:
        first, second = opened(bus)
        glance, of = bus.log.glance, {None: [], first._spec.id: [], second._spec.id: []}
        rows = dict.fromkeys(of, 0)
        for n in range(4):
            bus.fire("numbers", range(n * 5), progress=False)
            bus.fire("others", range(3), progress=False)
            for number, found in of.items():
                news = glance.attempts(number, rows[number], 1_000)
                assert all(attempt.row > rows[number] for attempt in news)
                found += news
                rows[number] = glance.ends().row
        for number, found in of.items():
            assert found == glance.attempts(number, 0, 1_000)
        assert len(of[None]) == len(bus.invocations()) == 42
        assert len(of[first._spec.id]) == len(first.invocations()) == 30
        seconds = glance.attempts(second._spec.id, 0, 5)
        assert seconds == of[second._spec.id][-5:]


def test_times_are_those_of_the_frame(url: str) -> None:
    with mt.connect(url) as bus:
        first, _ = opened(bus)
        first.fire(range(10), progress=False)
        frame = first.invocations()
        for attempt, row in zip(
            bus.log.glance.attempts(first._spec.id, 0, 100), frame.itertuples(), strict=True
        ):
            assert (attempt.finished_us - attempt.started_us) / 1000 == row.model_ms
            assert (attempt.started_us - attempt.visible_us) / 1000 == row.queue_ms
            assert (attempt.finished_us - attempt.published_us) / 1000 == row.total_ms


def test_shadows_are_left_out_and_corrections_are_not(url: str) -> None:
    with mt.connect(url) as bus:
        first, _ = opened(bus)
        bus.register(mt.model("answer", version="1.1.0")(lambda n: -n))
        first.fire(range(6), progress=False)
        first.replay("1.1.0", wait=True)
        assert len(bus.log.glance.attempts(first._spec.id, 0, 100)) == 6
        assert len(bus.log.glance.attempts(None, 0, 100)) == 6
        first.promote("1.1.0")
        first.correct(0).start().wait()
        assert len(bus.log.glance.attempts(first._spec.id, 0, 100)) == 12


def test_events_are_counted_once_and_anew_after_a_deletion(url: str) -> None:
    with mt.connect(url) as bus:
        opened(bus)
        now_s = [0.0]
        counted = Published(lambda: now_s[0])
        for n in (3, 5):
            bus.fire("numbers", range(n), progress=False)
            bus.fire("others", [1], progress=False)
        assert bus.log.glance.topics(counted) == {"numbers": 8, "others": 2}
        bus.fire("numbers", [1, 2], progress=False)
        assert bus.log.glance.topics(counted) == {"numbers": 10, "others": 2}
        bus.retain(max_events=4)
        bus.prune()
        now_s[0] += ANEW_S
        kept = {topic: len(bus.events(topic)) for topic in ("numbers", "others")}
        assert bus.log.glance.topics(counted) == kept
