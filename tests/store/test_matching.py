"""Attempts that match filters: found in SQL, page by page, as a look at the whole frame finds them."""

from __future__ import annotations

import itertools
import json
from datetime import UTC, datetime, timedelta
from typing import Any

import pandas as pd
import pytest
from pandas.testing import assert_frame_equal
from shared import is_settled, wait_until

import mltrigger as mt
from mltrigger.store.matching import folded
from mltrigger.store.outcomes import ANSWERING, OUTCOMES, ROLES
from mltrigger.testing import SimulatedClock

HOSTILE = [
    "100%",
    "a_b",
    "it's",
    'say "hi"',
    "back\\slash",
    "nul\0nul",
    "🍏 pear",
    "ÉTÉ straße",
    "İstanbul",
    "\x1b[31mred",
    "two\nlines",
    "';--",
    "ｆｕｌｌ",
]


def answer(page: Any) -> Any:
    if page["n"] % 5 == 4:
        raise mt.Reject(f"no {page['say']}")
    if page["n"] % 7 == 6:
        raise ValueError(page["say"])
    return {"said": page["say"], "n": page["n"]}


@pytest.fixture
def lived(bus: mt.EventBus, clock: SimulatedClock) -> mt.EventBus:
    """A bus with attempts of two subscriptions and two versions, of hostile texts, some running."""
    pages = bus.subscribe(
        "pages", answer, name="pages", version="1.0.0", key="tenant", max_attempts=1
    )
    others = bus.subscribe("pages", lambda page: None, name="others", version="2.0.0")
    said = itertools.cycle(HOSTILE)

    def publish(version: str) -> None:
        for n in range(20):
            tenant = {"tenant": ["north", "süd", 7, None][n % 4]} if n % 3 else {}
            bus.publish(
                "pages",
                {"n": n, "say": next(said), **tenant},
                id=f"page-{version}-{n}" if n % 2 else None,
                subject=next(said) if n % 4 == 0 else None,
            )
        wait_until(lambda: is_settled(pages) and is_settled(others))

    publish("a")
    clock.advance(s=60)
    bus.subscribe("pages", answer, name="pages", version="1.1.0", key="tenant", max_attempts=1)
    publish("b")
    shadow = pages.shadow("1.0.0")
    clock.advance(s=60)
    publish("c")
    wait_until(lambda: len(shadow.invocations()) == 20)
    shadow.stop()
    for sub in (pages, others):
        sub.stop()
    bus.publish_batch("pages", [{"n": 1, "say": "later"}, {"n": 2, "say": "later", "tenant": "x"}])
    bus.broker.receive(bus.spec("pages"), 1)
    bus.broker.receive(bus.spec("others"), 10)
    return bus


class Slow:
    """Looks at each row of the whole frame."""

    def __init__(self, bus: mt.EventBus) -> None:
        data = {e.event_id: json.loads(e.data) for e in bus.events().itertuples()}
        tenants = {event: of.get("tenant") for event, of in data.items()}
        self.keys = {event: "" if key is None else str(key) for event, key in tenants.items()}
        self.subjects = dict(bus.log._store.read("SELECT event_id(id), subject FROM event"))
        columns = ("subscription", "event_id", "role", "attempt", "output", "error_type", "error")
        self.raw = {row[:4]: row[4:] for row in bus.log.invocations(columns, roles=ROLES)}

    def rows(self, table: pd.DataFrame, wanted: dict[str, Any]) -> pd.DataFrame:
        rows = table.to_dict("records")
        kept = [all(self.is_right(row, name, wanted[name]) for name in wanted) for row in rows]
        return table[kept].reset_index(drop=True)

    def is_right(self, row: dict[str, Any], name: str, value: Any) -> bool:
        values = [value] if isinstance(value, str) else value
        if name == "key":
            return row["subscription"] == "pages" and self.keys[row["event_id"]] in values
        if name == "since":
            return bool(row["received_at"] >= value)
        if name == "until":
            return bool(row["received_at"] < value)
        if name == "text":
            return self.is_told(row, folded(value))
        return value == "all" or row[name] in values

    def is_told(self, row: dict[str, Any], needle: str) -> bool:
        key = (row["subscription"], row["event_id"], row["role"], row["attempt"])
        output, type_, error = self.raw[key]
        said = f"{type_}: {error or ''}" if type_ else error
        places = [output, said, self.subjects[row["event_id"]], row["event_id"]]
        written = json.loads(output) if output else None
        places += list(map(str, written.values())) if isinstance(written, dict) else []
        return any(place and needle in folded(place) for place in places)


def at(clock: SimulatedClock, back_s: float) -> datetime:
    return datetime.fromtimestamp(clock.now_us() / 1e6, UTC) - timedelta(seconds=back_s)


CASES: list[dict[str, Any]] = [
    {},
    {"version": "1.0.0"},
    {"version": ["1.0.0", "2.0.0"]},
    {"version": []},
    {"outcome": "succeeded"},
    {"outcome": "dead"},
    {"outcome": ["dead", "running"]},
    {"outcome": "running"},
    {"outcome": list(OUTCOMES)},
    {"outcome": "stale"},
    {"outcome": []},
    {"reason": "rejected"},
    {"reason": ["model_error", "rejected"], "version": "1.1.0"},
    {"reason": "timeout"},
    {"role": "shadow"},
    {"role": ["live", "shadow"], "outcome": "dead"},
    {"role": "all", "version": "1.0.0", "outcome": "succeeded"},
    {"key": "north"},
    {"key": ["süd", "7"], "outcome": "succeeded"},
    {"key": ""},
    {"key": "nobody"},
    {"key": "north", "text": "É", "role": "all"},
    {"since_s": 90},
    {"until_s": 90},
    {"since_s": 90, "until_s": 30, "outcome": "dead"},
    {"text": "page-a-1"},
    {"text": "PAGE-B"},
    {"text": "-"},
    {"text": "a"},
    {"text": "null"},
    {"text": "valueerror: "},
    {"text": "été STRASSE"},
    {"text": "été"},
    {"text": "É"},
    {"text": "ß"},
    {"text": "i"},
    {"text": "é", "outcome": "dead", "version": "1.1.0"},
    *({"text": text} for text in HOSTILE),
    *({"text": text.upper()} for text in HOSTILE),
    *({"text": text[1:3]} for text in HOSTILE),
]


def asked(case: dict[str, Any], clock: SimulatedClock) -> dict[str, Any]:
    """Return the filters of a case. Its times are seconds before now."""
    times = {
        name.removesuffix("_s"): at(clock, back)
        for name, back in case.items()
        if name.endswith("_s")
    }
    return {name: value for name, value in case.items() if not name.endswith("_s")} | times


def test_filters_find_the_attempts_that_a_look_at_the_whole_frame_finds(
    lived: mt.EventBus, clock: SimulatedClock
) -> None:
    whole = lived.invocations(role="all")
    by_name = {"pages": lived.invocations("pages", role="all"), None: whole}
    assert set(whole["outcome"]) >= {"succeeded", "dead", "running"}
    slow, found = Slow(lived), 0
    for case, name in itertools.product(CASES, by_name):
        wanted = asked(case, clock)
        table = by_name[name]
        if "role" not in wanted:
            table = table[table["role"].isin(ANSWERING)].reset_index(drop=True)
        expected = slow.rows(table, wanted)
        got = lived.invocations(name, **wanted)
        assert_frame_equal(got, expected, obj=f"{name} {wanted}")
        assert_frame_equal(
            lived.invocations(name, limit=3, **wanted),
            expected.tail(3).reset_index(drop=True),
            obj=f"newest of {name} {wanted}",
        )
        found += len(got) > 0
    assert found > len(CASES)
