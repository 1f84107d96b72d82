"""A store that an earlier schema wrote is read and goes on: one dump of each schema lies in data."""

from __future__ import annotations

import contextlib
import sqlite3
from pathlib import Path

import pytest
from shared import wait_until

import mltrigger as mt
from mltrigger.store import tables
from mltrigger.testing import SimulatedClock

DUMPS = sorted((Path(__file__).parents[1] / "data").glob("store-*.sql"))
LATER_US = 1_790_007_200_000_000
"""Two hours after the events of the dumps, when all that was delayed is due."""


def test_there_is_a_dump_of_the_present_schema() -> None:
    assert f"store-{tables.VERSION}.sql" in {dump.name for dump in DUMPS}


@pytest.fixture(params=DUMPS, ids=lambda dump: dump.stem)
def file(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """A store as it was left: answered, dead, failed, delayed, filtered and waiting events."""
    with contextlib.closing(sqlite3.connect(tmp_path / "bus.db")) as connection:
        connection.executescript(request.param.read_text())
    return tmp_path / "bus.db"


def test_store_of_an_earlier_schema_is_read_as_it_was_and_goes_on(file: Path) -> None:
    with mt.connect(f"sqlite:///{file}", clock=SimulatedClock(LATER_US)) as bus:
        assert bus.audit()["balanced"].all()
        assert len(bus.events()) == 6
        ended = bus.invocations().groupby("subscription", observed=True)["outcome"]
        assert {name: sorted(of) for name, of in ended} == {
            "done": ["succeeded"] * 5,
            "strict": ["dead", "failed", *["succeeded"] * 3],
        }
        assert list(bus.subscription("strict").dead_letters()["reason"]) == ["rejected"]

        for name in ("done", "filtered", "behind"):
            bus.subscription(name).start()
        wait_until(lambda: not any(bus.subscription(n).depth().open for n in ("done", "behind")))
        wait_until(lambda: not bus.subscription("filtered").depth().open)

        assert sorted(bus.subscription("behind").results()["output"]) == [3, 4, 4, 5, 11, 900]
        assert sorted(bus.subscription("filtered").results()["output"]) == [3, 900]
        assert bus.audit()["balanced"].all()
        assert bus.audit().set_index("subscription").loc["strict", "open"] == 2


def test_store_of_an_earlier_schema_takes_a_key(file: Path) -> None:
    with mt.connect(f"sqlite:///{file}", clock=SimulatedClock(LATER_US)) as bus:
        bus.subscribe("pages", len, name="shares", key="type", start="earliest", listen=False)
        before = bus.subscription("shares").depth(by="key")
        bus.subscription("shares").start()
        wait_until(lambda: not bus.subscription("shares").depth().open)

        assert before["waiting"].sum() == 6
        assert len(before) == 3
        assert bus.audit()["balanced"].all()
