"""Schedules as sources: one event a tick, through summer time, after downtime, for any listeners."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from shared import wait_until

import mltrigger as mt
from mltrigger.testing import SimulatedClock


def at(text: str) -> SimulatedClock:
    """Return a clock that shows *text*, in UTC."""
    time = datetime.fromisoformat(text).replace(tzinfo=UTC)
    return SimulatedClock(round(time.timestamp() * 1e6))


def ticks(bus: mt.EventBus, n: int) -> list[str]:
    """Return the local times of the ticks so far, once there are *n*."""
    wait_until(lambda: len(bus.events()) >= n)
    assert bus.wait(30, progress=False)
    return list(bus.events()["subject"])


def test_every_counts_from_1970_in_utc(file: Path) -> None:
    clock = at("2026-03-01T10:07:00")
    with mt.connect(f"sqlite:///{file}", clock=clock) as bus:
        sub = bus.subscribe("every://15m", lambda tick: tick["missed"], name="ocr")
        clock.advance(s=8 * 60 - 1)
        assert bus.wait(30, progress=False)
        assert not len(bus.events())
        clock.advance(s=1)

        assert ticks(bus, 1) == ["2026-03-01T10:15:00+00:00"]
        assert sub.topic == "every-15m"
        assert set(bus.events()["type"]) == {"mltrigger.tick"}
        clock.advance(s=15 * 60)
        assert ticks(bus, 2)[1] == "2026-03-01T10:30:00+00:00"
        assert list(sub.results()["output"]) == [0, 0]


@pytest.mark.parametrize(
    ("began", "expression", "days", "expected"),
    [
        # 02:30 does not exist on this day: it comes right after the gap
        (
            "2026-03-28T12:00:00",
            "30 2 * * *",
            2,
            ["2026-03-29T03:00:00+02:00", "2026-03-30T02:30:00+02:00"],
        ),
        # 02:30 comes twice: once
        (
            "2026-10-24T12:00:00",
            "30 2 * * *",
            2,
            ["2026-10-25T02:30:00+02:00", "2026-10-26T02:30:00+01:00"],
        ),
        (
            "2026-07-03T12:00:00",
            "0 7 * * 1-5",
            4,
            ["2026-07-06T07:00:00+02:00", "2026-07-07T07:00:00+02:00"],
        ),
    ],
)
def test_cron_follows_summer_time(
    began: str, expression: str, days: int, expected: list[str]
) -> None:
    clock = at(began)
    with mt.connect("memory://", clock=clock) as bus:
        bus.subscribe(
            f"cron://{expression}?tz=Europe/Berlin&missed=all", lambda tick: 1, name="ocr"
        )
        for _ in range(days):
            clock.advance(s=86_400)

        assert ticks(bus, len(expected)) == expected


@pytest.mark.parametrize(
    ("missed", "expected"),
    [
        ("one", [("2026-03-01T13:00:00+00:00", 2)]),
        (
            "all",
            [
                ("2026-03-01T11:00:00+00:00", 0),
                ("2026-03-01T12:00:00+00:00", 0),
                ("2026-03-01T13:00:00+00:00", 0),
            ],
        ),
        ("none", []),
    ],
)
def test_ticks_while_nobody_listened(
    file: Path, missed: str, expected: list[tuple[str, int]]
) -> None:
    source = f"every://1h?missed={missed}"
    clock = at("2026-03-01T10:30:00")
    with mt.connect(f"sqlite:///{file}", clock=clock) as bus:
        bus.subscribe(source, missed_of, name="ocr")
    clock.advance(s=3 * 3600)
    with mt.connect(f"sqlite:///{file}", clock=clock) as bus:
        sub = bus.subscribe(source, missed_of, name="ocr")
        wait_until(lambda: bus.topics()["state"].tolist() == ["connected"])
        seen = ticks(bus, len(expected))
        assert list(zip(seen, sub.results()["output"], strict=True)) == expected
        clock.advance(s=1800)
        assert ticks(bus, len(expected) + 1)[-1] == "2026-03-01T14:00:00+00:00"


def missed_of(tick: dict[str, Any]) -> Any:
    return tick["missed"]


def test_several_listeners_make_one_event_a_tick(file: Path) -> None:
    clock = at("2026-03-01T10:00:30")
    url = f"sqlite:///{file}"
    with mt.connect(url, clock=clock) as one, mt.connect(url, clock=clock) as other:
        one.subscribe("every://1m", missed_of, name="a")
        other.subscribe("every://1m", missed_of, name="b")
        for _ in range(5):
            n = len(one.events())
            clock.advance(s=60)
            wait_until(lambda n=n: len(one.events()) > n)

        assert len(ticks(one, 5)) == 5
        assert one.audit()["balanced"].all()


def test_next_tick_is_in_the_frame() -> None:
    clock = at("2026-03-01T10:07:00")
    with mt.connect("memory://", clock=clock) as bus:
        bus.subscribe("cron://0 7 * * 1-5?tz=Europe/Berlin", missed_of, name="ocr")
        wait_until(lambda: bus.topics()["detail"].tolist() == ["next: 2026-03-02T07:00:00+01:00"])
        assert bus.topics()["watches"].tolist() == ["cron://0 7 * * 1-5?tz=Europe/Berlin"]


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("every://", "from 1s to 366d"),
        ("every://0s", "from 1s to 366d"),
        ("every://5", "such as every://15m"),
        ("every://15m?tz=UTC", "no option of every:// 'tz'"),
        ("every://15m?missed=some", "no missed 'some'"),
        ("cron://", "minute, hour, day, month, weekday"),
        ("cron://61 * * * *", "Bad minute"),
        ("cron://0 7 * * 1-5?tz=Europe/Berln", "did you mean 'Europe/Berlin'"),
        ("cron://0 7 * * 1-5?tz=../../etc/passwd", "no time zone"),
    ],
)
def test_wrong_schedule_says_how_it_is_written(url: str, message: str) -> None:
    with mt.connect("memory://") as bus:
        with pytest.raises(mt.InvalidName, match=message):
            bus.subscribe(url, missed_of, name="ocr")
        assert not len(bus.topics())
