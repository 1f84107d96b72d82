"""Labels: the truth about events, and how often answers were right."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import pandas as pd
import pytest
from emulators import Account
from shared import in_memory
from stores import ALL, url_of

import mltrigger as mt
from mltrigger.testing import SimulatedClock

NOON = datetime(2026, 11, 30, 12, tzinfo=UTC)


@pytest.fixture(params=ALL)
def served(request: pytest.FixtureRequest) -> Iterator[mt.EventBus]:
    """A bus of each broker in turn, in real time."""
    if request.param == "aws":
        account: Account = request.getfixturevalue("aws")
        yield account.bus()
        return
    with mt.connect(url_of(request)) as bus:
        yield bus


def echo(version: str = "1.0.0") -> mt.Model:
    return mt.model("echo", version=version)(lambda page: page)


def shown(bus: mt.EventBus) -> list[tuple[Any, ...]]:
    found = bus.labels()
    columns = [found[name] for name in ("event_id", "truth", "known", "latest")]
    return list(zip(*columns, strict=True))


# -- labels ----------------------------------------------------------------------------------------


def test_labels_come_late_twice_out_of_order_and_before_the_answer(served: mt.EventBus) -> None:
    served.label("e-1", "early")
    sub = served.subscribe("pages", echo())
    events = [mt.Event("early", id="e-1"), mt.Event("b", id="e-2"), mt.Event("c", id="e-3")]
    served.fire("pages", events, progress=False)
    served.label("e-2", "wrong", at=NOON)
    served.label("e-2", "b", at=NOON + timedelta(hours=1))
    served.label("e-2", "older", at=NOON - timedelta(hours=1))
    served.label("nix", "never published")

    assert shown(served) == [
        ("e-1", '"early"', True, True),
        ("e-2", '"wrong"', True, False),
        ("e-2", '"b"', True, True),
        ("e-2", '"older"', True, False),
        ("nix", '"never published"', False, True),
    ]
    (row,) = sub.accuracy().to_dict("records")
    assert (row["answered"], row["labelled"], row["right"], row["accuracy"]) == (3, 2, 2, 1.0)


@in_memory
def test_label_holds_since_the_time_of_the_bus(bus: mt.EventBus, clock: SimulatedClock) -> None:
    bus.label("e-1", 1)
    clock.advance(s=60)
    bus.label("e-1", 2, by="ann")

    found = bus.labels()
    assert (found["at"] == found["made_at"]).all()
    assert found["at"].diff()[1] == pd.Timedelta(seconds=60)
    assert found["by"].tolist()[1] == "ann"
    assert found["by"].notna().all()
    assert found["latest"].tolist() == [False, True]


@in_memory
def test_event_is_named_in_any_way(bus: mt.EventBus) -> None:
    sub = bus.subscribe("pages", echo())
    event = mt.Event(1, id="e-1", source="scanner")
    run = bus.fire("pages", [event], progress=False)
    for name in ("e-1", event, run.receipts[0], sub.invocations().iloc[0], {"event_id": "e-1"}):
        bus.label(name, 1)

    assert set(bus.labels()["event_id"]) == {"e-1"}
    assert set(bus.labels()["source"]) == {"scanner"}


@in_memory
def test_id_of_two_sources_asks_which(bus: mt.EventBus) -> None:
    sub = bus.subscribe("pages", echo())
    for source in ("scanner", "camera"):
        bus.fire("pages", [mt.Event(source, id="e-1", source=source)], progress=False)

    with pytest.raises(mt.AmbiguousEvent, match="from 2 sources: 'camera', 'scanner'"):
        bus.label("e-1", "camera")
    bus.label("e-1", "camera", source="camera")
    bus.label("e-1", "nothing", source="scanner")

    assert bus.labels()["latest"].tolist() == [True, True]
    assert sub.accuracy()["right"].tolist() == [1]
    assert sub.accuracy()["labelled"].tolist() == [2]


def test_many_labels_come_as_a_frame(bus: mt.EventBus) -> None:
    sub = bus.subscribe("pages", echo())
    run = bus.fire("pages", list(range(10)), progress=False)
    table = pd.DataFrame(
        {
            "event_id": [receipt.event_id for receipt in run.receipts],
            "truth": [n if n < 8 else -1 for n in range(10)],
            "at": [pd.Timestamp(NOON), *[pd.NaT] * 9],
        }
    )
    kept = bus.label_batch(table, by="checker")

    assert (kept, repr(kept)) == (10, "10 labels kept")
    assert sub.accuracy()["right"].tolist() == [8]
    assert bus.labels()["at"][0] == NOON
    assert set(bus.labels()["by"]) == {"checker"}
    assert repr(bus.label("nix", 1)) == "1 label kept; 1 event of them not published yet"


@pytest.mark.parametrize(
    ("table", "said"),
    [
        (pd.DataFrame({"event_id": ["a"]}), "a row of labels has event_id and truth"),
        ([{"event_id": "a", "truth": 1}, {"truth": 2}], "row 1 is"),
        ([{"event_id": "a", "truth": None}], "row 0 has no truth"),
        ([{"event_id": 7, "truth": 1}], "row 0: give an event id"),
        ([{"event_id": "a", "truth": 1, "at": "noon"}], "row 0: at must be a datetime"),
        (["a"], "row 0 is a"),
    ],
)
@in_memory
def test_a_bad_row_is_named_and_nothing_is_kept(table: Any, said: str, bus: mt.EventBus) -> None:
    with pytest.raises(mt.MltriggerError, match=said):
        bus.label_batch(table)

    assert len(bus.labels()) == 0


@pytest.mark.parametrize(
    ("given", "error"),
    [
        ({"event": 7, "truth": 1}, mt.InvalidEvent),
        ({"event": "", "truth": 1}, mt.InvalidEvent),
        ({"event": "a", "truth": object()}, mt.NotEncodable),
        ({"event": "a", "truth": 1, "at": "noon"}, mt.InvalidEvent),
        ({"event": "a", "truth": 1, "at": datetime(2026, 1, 1)}, mt.InvalidEvent),
        ({"event": "a", "truth": 1, "by": 7}, mt.InvalidEvent),
        ({"event": "a", "truth": 1, "source": 7}, mt.InvalidEvent),
    ],
)
@in_memory
def test_bad_labels_are_refused(
    given: dict[str, Any], error: type[Exception], bus: mt.EventBus
) -> None:
    with pytest.raises(error):
        bus.label(given.pop("event"), given.pop("truth"), **given)

    assert len(bus.labels()) == 0


def test_labels_go_with_their_events_and_others_stay(bus: mt.EventBus) -> None:
    bus.subscribe("pages", echo())
    run = bus.fire("pages", [1, 2], progress=False)
    for receipt in run.receipts:
        bus.label(receipt, 1)
    bus.label("to come", 1)
    bus.retain(max_events=1)
    bus.prune()

    assert bus.labels()["event_id"].tolist() == [run.receipts[1].event_id, "to come"]


def test_frame_of_labels_has_its_dtypes_with_and_without_rows(bus: mt.EventBus) -> None:
    before = bus.labels()
    bus.label("a", 1)
    after = bus.labels()

    assert (len(before), len(after)) == (0, 1)
    assert before.dtypes.to_dict() == after.dtypes.to_dict()


# -- accuracy --------------------------------------------------------------------------------------


def test_accuracy_is_counted_by_version_with_an_exact_interval(served: mt.EventBus) -> None:
    sub = served.subscribe("pages", echo("1.0.0"))
    first = served.fire("pages", list(range(20)), progress=False)
    sub = served.subscribe("pages", echo("1.1.0"))
    second = served.fire("pages", list(range(5)), progress=False)
    for n, receipt in enumerate(first.receipts):
        served.label(receipt, n if n else "another")
    served.label(second.receipts[0], 0)

    found = sub.accuracy()
    assert found["version"].tolist() == ["1.0.0", "1.1.0"]
    assert found["answered"].tolist() == [20, 5]
    assert found["labelled"].tolist() == [20, 1]
    assert found["right"].tolist() == [19, 1]
    # Clopper and Pearson: 19 of 20, 95 %
    assert found["low"].tolist()[0] == pytest.approx(0.7513, abs=1e-4)
    assert found["high"].tolist()[0] == pytest.approx(0.9987, abs=1e-4)


@in_memory
def test_accuracy_by_several_columns(bus: mt.EventBus) -> None:
    sub = bus.subscribe("pages", echo())
    kinds = [("invoice", "a"), ("invoice", "b"), ("letter", "c")]
    events = [mt.Event(s, type=kind, subject=s) for kind, s in kinds]
    run = bus.fire("pages", events, progress=False)
    for receipt in run.receipts:
        bus.label(receipt, "a")

    assert sub.accuracy(by="type")[["type", "right"]].values.tolist() == [
        ["invoice", 1],
        ["letter", 0],
    ]
    found = sub.accuracy(by=["role", "subject"])
    assert found["subject"].tolist() == ["a", "b", "c"]
    assert found["right"].tolist() == [1, 0, 0]
    with pytest.raises(mt.NotFound, match="did you mean 'version'"):
        sub.accuracy(by="versions")


@in_memory
def test_agreement_may_be_a_tolerance_a_rule_or_a_function(bus: mt.EventBus) -> None:
    sub = bus.subscribe("pages", mt.model("half", version="1.0.0")(lambda page: page / 2))
    run = bus.fire("pages", [1, 2], progress=False)
    bus.label(run.receipts[0], 0.4)
    bus.label(run.receipts[1], 1.0)

    def right(agree: Any) -> int:
        return int(sub.accuracy(agree=agree)["right"].iloc[0])

    assert [right(None), right(0.2), right(lambda out, truth: out > truth)] == [1, 2, 1]
    with pytest.raises(mt.InvalidComparison, match="agree failed for the output"):
        sub.accuracy(agree=lambda out, truth: out["total"])


@in_memory
def test_shadows_replays_and_dead_events_do_not_count(bus: mt.EventBus) -> None:
    def picky(page: int) -> int:
        if page == 3:
            raise mt.Reject("no")
        return page

    sub = bus.subscribe("pages", mt.model("picky", version="1.0.0")(picky))
    for page in (1, 2, 3):
        run = bus.fire("pages", [page], progress=False)
        bus.label(run.receipts[0], page)
    sub.replay("1.0.0", wait=True)

    found = sub.accuracy(by=["version", "role"])
    assert found["role"].tolist() == ["live"]
    assert found[["answered", "labelled", "right"]].values.tolist() == [[2, 2, 2]]


@in_memory
def test_a_corrected_answer_counts_once_for_its_version(bus: mt.EventBus) -> None:
    def double(page: int) -> int:
        return 2 * page

    sub = bus.subscribe("pages", mt.model("picky", version="1.0.0")(double))
    for page in (1, 2):
        bus.label(bus.fire("pages", [page], progress=False).receipts[0], page)
    sub.promote(mt.model(lambda page: page, name="picky", version="2.0.0"))
    sub.correct(0).start().wait()

    found = sub.accuracy(by=["version", "role"])
    assert found["role"].tolist() == ["live", "correction"]
    assert found[["answered", "labelled", "right"]].values.tolist() == [[2, 2, 0], [2, 2, 2]]


@in_memory
def test_accuracy_without_answers_or_labels_is_an_honest_frame(bus: mt.EventBus) -> None:
    sub = bus.subscribe("pages", echo())
    before = sub.accuracy()
    bus.fire("pages", [1], progress=False)
    after = sub.accuracy()

    assert (len(before), len(after)) == (0, 1)
    assert before.dtypes.to_dict() == after.dtypes.to_dict()
    assert after[["answered", "labelled", "right"]].values.tolist() == [[1, 0, 0]]
    assert after[["accuracy", "low", "high"]].isna().all(axis=None)
