"""Many plain events are leased, called and recorded by column: as if each had a row of its own."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from range_child import Process
from shared import is_settled, wait_until
from slow import examples

import mltrigger as mt
from mltrigger.broker import Delivery, Settlement, SubscriptionSpec
from mltrigger.broker.alike import Alike
from mltrigger.event import codec
from mltrigger.event.batch import Batch
from mltrigger.event.data import are_texts
from mltrigger.policy import DeliveryPolicy
from mltrigger.store import ranges
from mltrigger.store.lots import By, Succeeded
from mltrigger.store.ranges import LEAST
from mltrigger.store.sqlite.store import SqliteStore
from mltrigger.store.wake import Wakeup
from mltrigger.testing import SimulatedClock
from mltrigger.versions.version import ModelVersion

LEASE_S = 60.0
MANY = 2 * LEAST


class Side(Process):
    """A worker with a simulated clock, and short words for it."""

    clock: SimulatedClock

    def bind(self, name: str = "reader", topic: str = "numbers") -> SubscriptionSpec:
        policy = DeliveryPolicy(lease_s=LEASE_S)
        self.broker.bind(SubscriptionSpec(name, topic, "square:latest", policy))
        found = self.registry.subscription(name)
        assert found is not None
        return found

    def publish(self, *data: Any, topic: str = "numbers", **attributes: Any) -> list[int]:
        events = [mt.Event(each, **attributes) for each in data]
        return [receipt.seq for receipt in self.broker.publish(topic, events)]

    def acknowledge(self, deliveries: Sequence[Delivery], outputs: Sequence[str | None]) -> bool:
        """Record and settle answers that went well, as a whole; return whether all were held."""
        now_us = self.clock.now_us()
        with self.log.unit() as unit:
            held = self.broker.ack(deliveries, unit)
            if held:
                version = ModelVersion("square", "1.0.0", "function", "x")
                well = Succeeded(deliveries, outputs, By(version.id), now_us, now_us)
                unit.record_well(well)
        return held

    def recorded(self) -> list[tuple[Any, ...]]:
        """Return what is recorded of each attempt, but for its row."""
        return self.store.read(
            "SELECT seq, attempt, outcome, output, batch_size, finished_us FROM invocation"
            " ORDER BY subscription_id, seq"
        )


@pytest.fixture
def side(clock: SimulatedClock) -> Iterator[Side]:
    side = Side(SqliteStore(), clock, Wakeup())
    yield side
    side.store.close()


def facts(delivery: Delivery) -> tuple[Any, ...]:
    """Return all that a delivery says, but for the number of its subscription and its lease."""
    event = delivery.event
    about = [event.data, event.id, event.source, event.type, event.time, dict(event.extensions)]
    own = {
        field.name: getattr(delivery, field.name)
        for field in dataclasses.fields(delivery)
        if field.name not in ("event", "subscription_id", "lease")
    }
    return *about, *own.values()


# -- claimed ---------------------------------------------------------------------------------------


def test_deliveries_of_a_range_say_what_those_of_rows_say(side: Side) -> None:
    by_columns, by_rows = side.bind("columns"), side.bind("rows")
    side.publish(*[{"n": n, "text": 'é"\x1e\n'} for n in range(MANY)])

    alike = side.broker.receive(by_columns, MANY)
    rows = [d for _ in range(MANY // 16) for d in side.broker.receive(by_rows, 16)]

    assert isinstance(alike, Alike)
    assert not isinstance(rows, Alike)
    assert list(map(facts, alike)) == list(map(facts, rows))
    assert list(alike.texts) == [d.event._raw for d in rows]
    assert alike[5] is alike[5] is alike[3:9][2] is list(alike)[5]
    assert alike[-1] is alike[MANY - 1]


def test_few_events_come_as_a_list(side: Side) -> None:
    spec = side.bind()
    side.publish(*range(LEAST - 1))

    assert isinstance(held := side.broker.receive(spec, MANY), list)
    assert [d.event.data for d in held] == list(range(LEAST - 1))
    assert side.broker.receive(spec, MANY) == []


@pytest.mark.parametrize(
    "attributes",
    [
        {"subject": "s"},
        {"id": "not-a-uuid"},
        {"id": "sixteen-letters!"},
        {"type": "other"},
        {"source": "/other"},
        {"dataschema": "https://example.com/schema"},
        {"extensions": {"tenant": "a"}},
        {"extensions": {"traceparent": f"00-{'1' * 32}-{'2' * 16}-01"}},
    ],
    ids=str,
)
def test_an_event_with_attributes_of_its_own_keeps_them(
    side: Side, attributes: dict[str, Any]
) -> None:
    spec = side.bind()
    side.publish(*range(MANY))
    side.publish("own", **attributes)

    held = side.broker.receive(spec, MANY + 1)

    assert not isinstance(held, Alike)
    assert [d.event.data for d in held] == [*range(MANY), "own"]
    for name, value in attributes.items():
        found = getattr(held[-1].event, name)
        assert value.items() <= found.items() if isinstance(value, dict) else found == value


def test_one_look_tells_that_a_topic_has_events_of_another_kind(side: Side) -> None:
    spec = side.bind()
    side.publish(*range(MANY), subject="s")
    of = {"t": 1, "next": 0, "last": 2**62, "n": MANY}

    with side.log.unit() as unit:
        ((is_plain, _, _, read, *_),) = unit.transaction.query(ranges._COLUMNS, of)

    assert (is_plain, read) == (0, 0), "the others are not read as columns"

    assert [d.event.data for d in side.broker.receive(spec, MANY)] == list(range(MANY))


@pytest.mark.parametrize(
    "data", [b"bytes\x1e\x1e", "x" * 20_000, codec.loads("[1e5, 0.1]"), 2**70, float("nan")]
)
def test_data_of_any_kind_and_size_are_delivered(side: Side, data: Any) -> None:
    spec = side.bind()
    side.publish(*[{"n": n} for n in range(MANY)])
    side.publish(data)

    *rest, last = side.broker.receive(spec, MANY + 1)

    assert [d.event.data for d in rest] == [{"n": n} for n in range(MANY)]
    assert last.event.data == data or data != data


def test_an_event_that_is_due_comes_before_the_range(side: Side) -> None:
    spec = side.bind()
    side.publish("first")
    (first,) = side.broker.receive(spec, 1)
    side.broker.settle([Settlement(first, "retry", 1.0)])
    side.publish(*range(MANY))
    side.clock.advance(s=2)

    held = side.broker.receive(spec, MANY + 1)

    assert sorted((d.attempt, str(d.event.data)) for d in held)[-1] == (2, "first")
    assert len(held) == MANY + 1


@pytest.mark.parametrize(
    "damage",
    [
        "data = CAST('{\"n\": 1' AS BLOB)",
        "data = CAST('1,2' AS BLOB)",
        "data = CAST(x'ff' AS BLOB)",
        "data = CAST(x'22ff22' AS BLOB)",
        "data = '12'",
        "id = 'sixteen-letters!'",
        "lag_us = 'x'",
    ],
)
def test_a_damaged_row_is_found_before_anything_is_leased(side: Side, damage: str) -> None:
    spec = side.bind()
    first, *_ = side.publish(*range(MANY))
    with side.store.transaction() as transaction:
        transaction.execute(f"UPDATE event SET {damage} WHERE seq = :seq", {"seq": first + 7})

    with pytest.raises(mt.StoreError, match=f"row {first + 7} of its table event"):
        list(map(facts, side.broker.receive(spec, MANY)))
    assert side.broker.depth(spec).in_flight == 0


def test_damaged_texts_that_are_json_together_are_no_texts() -> None:
    assert are_texts([b"1", b"[2,3]", '"é"'.encode()])
    assert not are_texts([b"1,2", b"[3", b"4]"])


# -- recorded --------------------------------------------------------------------------------------

SHORT = st.sampled_from(
    [None, "null", "1", "-0.0", "0.30000000000000004", "1e400", '"1"', '"\\u0000\\\\"', "[]"]
) | st.sampled_from(
    ['{"a": "é"}', f'"{"x" * 798}"', '"\U0001f600\x7f"', "12345678901234567890123456789"]
)
LONG = st.sampled_from([f'"{"x" * 799}"', f'"{"x" * 5_000}"'])
OUTPUTS = st.lists(SHORT, min_size=LEAST, max_size=LEAST) | st.lists(
    SHORT | LONG, min_size=LEAST, max_size=LEAST
)


@settings(max_examples=examples(10))
@given(outputs=OUTPUTS, gaps=st.sets(st.integers(0, 63)))
def test_a_whole_is_recorded_as_its_parts_are(outputs: list[str | None], gaps: set[int]) -> None:
    found = []
    for whole in (True, False):
        side = Side(SqliteStore(), SimulatedClock(), Wakeup())
        spec, _ = side.bind(), side.bind("other", "elsewhere")
        for n in range(LEAST):
            side.publish(n)
            if n in gaps:
                side.publish(n, topic="elsewhere")
        held = side.broker.receive(spec, LEAST)
        assert isinstance(held, Alike)
        assert isinstance(held.seqs, range) == (gaps <= {LEAST - 1})
        assert side.acknowledge(held if whole else list(held), outputs)
        assert side.broker.depth(spec).open == 0
        found.append(side.recorded())
        side.store.close()

    assert found[0] == found[1]
    assert [row[3] for row in found[0]] == ["null" if o is None else o for o in outputs]


def test_a_whole_whose_lease_is_lost_changes_nothing(side: Side) -> None:
    spec = side.bind()
    side.publish(*range(MANY))
    late = side.broker.receive(spec, MANY)
    side.clock.advance(s=LEASE_S + 1)
    again = side.broker.receive(spec, MANY)

    assert not side.acknowledge(late, ["1"] * MANY)
    assert {d.attempt for d in again} == {2}
    assert side.broker.depth(spec).in_flight == len(again)


def test_a_whole_of_which_one_is_settled_ends_no_lease(side: Side) -> None:
    spec = side.bind()
    side.publish(*range(MANY))
    held = side.broker.receive(spec, MANY)
    side.broker.settle([Settlement(held[5], "ack")])

    assert not side.acknowledge(held, ["1"] * MANY)
    assert side.acknowledge(held[6:], ["1"] * (MANY - 6))
    assert side.broker.depth(spec).in_flight == 5


def test_the_part_of_a_whole_that_is_not_settled_stays_leased(side: Side) -> None:
    spec = side.bind()
    side.publish(*range(MANY))
    held = side.broker.receive(spec, MANY)

    assert side.acknowledge(held[:10], ["1"] * 10)
    assert side.broker.depth(spec).in_flight == MANY - 10
    assert side.acknowledge(held[10:], ["1"] * (MANY - 10))


def test_leases_of_a_range_are_extended_as_a_whole(side: Side) -> None:
    spec = side.bind()
    side.publish(*range(MANY))
    held = side.broker.receive(spec, MANY)
    side.clock.advance(s=LEASE_S - 1)

    assert side.broker.extend(held, LEASE_S) == []
    side.clock.advance(s=LEASE_S - 1)
    assert side.broker.receive(spec, MANY) == []
    assert side.acknowledge(held, ["1"] * MANY)


# -- called ----------------------------------------------------------------------------------------


def consumed(tmp_path: Path, model: Any, data: Sequence[Any], **policy: Any) -> list[Any]:
    """Return the answers to *data*, in their order."""
    with mt.connect(f"sqlite:///{tmp_path}/bus.db") as bus:
        sub = bus.subscribe("numbers", model, listen=False, batch_size=len(data), **policy)
        bus.publish_batch("numbers", list(data))
        sub.start()
        wait_until(lambda: is_settled(sub))
        rows = sub.invocations(columns=["outcome", "attempt", "output", "error", "batch_size"])
        assert bus.audit().iloc[0]["balanced"]
    return list(rows.to_dict("records"))


def test_one_bad_event_of_a_lot_is_found_and_blamed_alone(tmp_path: Path) -> None:
    sizes: list[int] = []

    def inverse(numbers: list[int]) -> list[float]:
        sizes.append(len(numbers))
        return [6 / number for number in numbers]

    model = mt.model(inverse, name="inverse", version="1.0.0", batch=True)
    rows = consumed(tmp_path, model, [*range(1, 101), 0, *range(1, 101)], max_attempts=1)

    expected = [json.dumps(6 / n) for n in range(1, 101)]
    assert sizes[0] == 201
    assert [row["outcome"] for row in rows] == ["succeeded"] * 100 + ["dead"] + ["succeeded"] * 100
    assert [float(row["output"]) for row in rows if row["outcome"] == "succeeded"] == [
        float(each) for each in expected * 2
    ]
    assert "division by zero" in rows[100]["error"]


def test_a_model_that_changes_its_data_harms_no_second_call(tmp_path: Path) -> None:
    def popping(records):  # type: ignore[no-untyped-def]
        found = [record.pop("n") for record in records]
        if len(found) > 1:
            raise ValueError("only one at a time")
        return found

    model = mt.model(popping, name="popping", version="1.0.0", batch=True)
    rows = consumed(tmp_path, model, [{"n": n} for n in range(LEAST)])

    assert [int(row["output"]) for row in rows] == list(range(LEAST))
    assert {row["attempt"] for row in rows} == {1}


def test_a_model_that_takes_events_gets_them(tmp_path: Path) -> None:
    def ids(events: list[mt.Event]) -> list[Any]:
        return [[event.id, event.type, event.data] for event in events]

    model = mt.model(ids, name="ids", version="1.0.0", batch=True)
    rows = consumed(tmp_path, model, range(LEAST))

    found = [json.loads(row["output"]) for row in rows]
    assert [each[1:] for each in found] == [["mltrigger.event", n] for n in range(LEAST)]
    assert len({each[0] for each in found}) == LEAST


def test_what_a_model_fires_in_a_batch_is_linked_to_its_event(tmp_path: Path) -> None:
    causes: list[Any] = []

    def cause(event: mt.Event) -> None:
        causes.append(event.extensions["causationid"])

    with mt.connect(f"sqlite:///{tmp_path}/bus.db") as bus:

        def firing(numbers: list[int]) -> list[int]:
            bus.publish("others", "fired")
            return numbers

        model = mt.model(firing, name="firing", version="1.0.0", batch=True)
        sub = bus.subscribe("numbers", model, listen=False, batch_size=LEAST)
        bus.subscribe("others", mt.model(cause, name="cause", version="1.0.0"))
        ids = [receipt.event_id for receipt in bus.publish_batch("numbers", list(range(LEAST)))]
        sub.start()
        wait_until(lambda: is_settled(sub) and causes)

    assert causes == ids[:1]


def test_the_events_of_a_batch_are_made_once_and_when_asked_for() -> None:
    made: list[int] = []

    def make(place: int) -> mt.Event:
        made.append(place)
        return mt.Event(place)

    batch = Batch([b"0", b"1", b"2"], make)

    assert (len(batch), made) == (3, [])
    assert batch[1] is batch[1] is batch[1:][0] is batch[-2]
    assert [event.data for event in batch] == [0, 1, 2]
    assert sorted(made) == [0, 1, 2]
