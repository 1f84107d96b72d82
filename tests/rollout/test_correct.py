"""Correcting the past: the answers of a bad version, given again by a good one."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from emulators import Account
from shared import wait_until
from stores import ALL, url_of

import mltrigger as mt

WAIT_S = 60


def model(version: str, answer: Callable[[Any], Any], name: str = "ocr") -> mt.Model:
    def read(document: Any) -> Any:
        return answer(document)

    return mt.model(read, name=name, version=version)


def good(n: int) -> dict[str, Any]:
    return {"page": n, "text": f"page {n}"}


def bad(n: int) -> dict[str, Any]:
    """Every third answer is wrong. The keys have another order."""
    return {"text": f"page {n}" if n % 3 else "?", "page": n}


@pytest.fixture(params=ALL)
def bus(request: pytest.FixtureRequest) -> Iterator[mt.EventBus]:
    if request.param == "aws":
        account: Account = request.getfixturevalue("aws")
        yield account.bus()
        return
    with mt.connect(url_of(request)) as bus:
        yield bus


class Table:
    """A downstream that keeps the newest answer of each subject."""

    def __init__(self, bus: mt.EventBus, topic: str = "pages", name: str = "table") -> None:
        self.rows: dict[str | None, Any] = {}
        self.events: list[mt.Event] = []

        def keep(event: mt.Event) -> None:
            self.events.append(event)
            self.rows[event.subject] = event.data

        self.sub = bus.subscribe(
            topic, mt.model(keep, name=name, version="1.0.0"), corrections="take"
        )

    @property
    def corrections(self) -> list[mt.Event]:
        return [event for event in self.events if event.corrects is not None]


def samples(numbers: range) -> list[mt.Event]:
    return [mt.Event(n, subject=f"page-{n}") for n in numbers]


def served(bus: mt.EventBus, wrong: Any = bad, **policy: Any) -> mt.Subscription:
    """Events 0 to 9 and 20 to 29 are answered well, 10 to 19 by *wrong*."""
    sub = bus.subscribe("documents", model("1.0.0", good), emit="pages", **policy)
    bus.fire("documents", samples(range(10)), progress=False)
    sub.promote(model("1.1.0", wrong))
    bus.fire("documents", samples(range(10, 20)), progress=False)
    sub.rollback()
    bus.fire("documents", samples(range(20, 30)), progress=False)
    return sub


def test_correction_makes_of_the_table_what_a_good_version_would_have_made(
    bus: mt.EventBus,
) -> None:
    table = Table(bus)
    sub = served(bus)
    wait_until(lambda: len(table.events) == 30)

    correction = sub.correct(sub.history()[1]).start().wait(WAIT_S)
    bus.wait()

    assert table.rows == {f"page-{n}": good(n) for n in range(30)}
    assert sorted(e.subject or "" for e in table.corrections) == ["page-12", "page-15", "page-18"]
    at = correction.progress()
    assert (at.state, at.answers, at.done, at.corrected, at.same) == ("done", 10, 10, 3, 7)
    assert [b.corrected for b in sub.history()] == [0, 3, 0]


def test_correction_names_the_output_that_it_replaces_and_keeps_its_subject(
    bus: mt.EventBus,
) -> None:
    table = Table(bus)
    sub = served(bus)
    sub.correct(1).start().wait(WAIT_S)
    wait_until(lambda: len(table.events) == 33)

    firsts = {f"{e.source}#{e.id}": e for e in table.events if e.corrects is None}
    for correction in table.corrections:
        replaced = firsts[correction.corrects or ""]
        assert correction.subject == replaced.subject
        assert correction.type == replaced.type == "mltrigger.output"
        assert correction.source == replaced.source
        assert correction.extensions["causationid"] == replaced.extensions["causationid"]
        assert correction.id != replaced.id


def test_nothing_runs_before_start_and_the_dry_run_shows_what_would_differ(
    bus: mt.EventBus,
) -> None:
    table = Table(bus)
    sub = served(bus)
    wait_until(lambda: len(table.events) == 30)
    before = len(bus.events())

    correction = sub.correct(sub.history()[1])
    frame = correction.dry_run(limit=6)

    assert list(frame["subject"]) == [f"page-{n}" for n in range(10, 16)]
    assert list(frame["differs"]) == [False, False, True, False, False, True]
    assert set(frame["old_version"]) == {"1.1.0"}
    assert correction.state == "not started"
    assert "10 to do" in repr(correction)
    assert "start()" in repr(correction)
    assert "not started" in correction._repr_html_()
    assert len(bus.events()) == before
    assert len(correction.frame()) == 0
    assert sub.history()[1].corrected == 0


def test_frame_has_a_row_for_each_event_with_both_answers_and_the_correction(
    bus: mt.EventBus,
) -> None:
    table = Table(bus)
    sub = served(bus)

    frame = sub.correct(1).start().wait(WAIT_S).frame()
    wait_until(lambda: len(table.corrections) == 3)

    assert len(frame) == 10
    assert list(frame["differs"]) == [n % 3 == 0 for n in range(10, 20)]
    differing = frame[frame["differs"].astype(bool)]
    assert set(differing["correction"]) == {e.id for e in table.corrections}
    assert frame.loc[~frame["differs"].astype(bool), "correction"].isna().all()
    assert '"?"' in differing["old"].iloc[0]
    assert '"page 12"' in differing["new"].iloc[0]


def test_dry_run_and_frame_have_the_same_columns_and_dtypes_when_empty(bus: mt.EventBus) -> None:
    sub = served(bus)
    correction = sub.correct(1)

    empty, shown = correction.frame(), correction.dry_run()

    assert list(empty.columns) == list(shown.columns)
    assert dict(empty.dtypes) == dict(shown.dtypes)


def test_second_correct_does_nothing(bus: mt.EventBus) -> None:
    table = Table(bus)
    sub = served(bus)
    sub.correct(1).start().wait(WAIT_S)
    wait_until(lambda: len(table.events) == 33)

    again = sub.correct(1)
    again.start().wait(WAIT_S)
    bus.wait()

    assert again.progress().done == 10
    assert again.progress().left == 0
    assert len(table.events) == 33


def test_events_beyond_the_limit_are_left_to_the_next_start(bus: mt.EventBus) -> None:
    table = Table(bus)
    sub = served(bus)

    first = sub.correct(1).start(limit=4).wait(WAIT_S)
    assert (first.progress().done, first.progress().left) == (4, 6)
    first.start().wait(WAIT_S)

    assert (first.progress().done, first.progress().left) == (10, 0)
    wait_until(lambda: len(table.corrections) == 3)


def test_wrong_correction_is_corrected_again_and_names_the_first_output(
    bus: mt.EventBus,
) -> None:
    table = Table(bus)
    sub = served(bus)
    sub.promote(model("1.2.0", lambda n: {"page": n, "text": "worse"}))
    sub.correct(1).start().wait(WAIT_S)
    sub.promote(model("1.3.0", good))

    sub.correct(1).start().wait(WAIT_S)
    bus.wait()

    assert table.rows == {f"page-{n}": good(n) for n in range(30)}
    replaced = [e.corrects for e in table.corrections if e.subject == "page-12"]
    assert len(replaced) == 2
    assert len(set(replaced)) == 1
    assert sub.history()[1].corrected == 10
    assert (bus.audit()["balanced"]).all()


def test_audit_balances_over_answers_and_corrections(bus: mt.EventBus) -> None:
    table = Table(bus)
    sub = served(bus)
    sub.correct(1).start().wait(WAIT_S)
    wait_until(lambda: len(table.events) == 33)
    bus.wait()

    audit = bus.audit().set_index("subscription")

    assert audit.loc["ocr", "corrected"] == 3
    assert audit.loc["ocr", "succeeded"] == 30
    assert audit.loc["table", "published"] == 33
    assert audit["balanced"].all()


def test_results_show_the_corrected_answers(bus: mt.EventBus) -> None:
    sub = served(bus)
    sub.correct(1).start().wait(WAIT_S)

    for results in (sub.results(), sub.results(limit=30)):  # AWS keeps no order
        texts = dict(zip(results["subject"], results["text"], strict=True))
        assert texts == {f"page-{n}": f"page {n}" for n in range(30)}
        corrected = results[results["reason"] == "corrected"]
        assert set(corrected["subject"]) == {"page-12", "page-15", "page-18"}
        assert set(corrected["version"]) == {"1.0.0"}
        assert list(results["version"]).count("1.1.0") == 7


def test_accuracy_counts_each_corrected_answer_once(bus: mt.EventBus) -> None:
    sub = served(bus)
    events = bus.events("documents")
    bus.label_batch(
        [
            {"event_id": each.event_id, "truth": good(int(each.subject.removeprefix("page-")))}
            for each in events.itertuples()
        ]
    )
    sub.correct(1).start().wait(WAIT_S)

    found = sub.accuracy(by=["version", "role"])

    assert found[["version", "role", "answered", "labelled", "right"]].values.tolist() == [
        ["1.0.0", "correction", 10, 10, 10],
        ["1.0.0", "live", 20, 20, 20],
        ["1.1.0", "live", 10, 10, 7],
    ]


def test_answers_of_a_subscription_without_emit_are_corrected_in_its_results(
    bus: mt.EventBus,
) -> None:
    sub = bus.subscribe("documents", model("1.0.0", bad))
    bus.fire("documents", samples(range(6)), progress=False)
    sub.promote(model("1.1.0", good))

    correction = sub.correct(0).start().wait(WAIT_S)

    assert set(sub.results()["text"]) == {f"page {n}" for n in range(6)}
    assert correction.frame()["correction"].isna().all()
    assert correction.progress().corrected == 2
    assert (bus.audit()["balanced"]).all()


def test_subscriber_that_does_not_take_corrections_skips_and_counts_them(
    bus: mt.EventBus,
) -> None:
    seen: list[Any] = []
    other = bus.subscribe("pages", model("1.0.0", seen.append, "adder"))
    sub = served(bus)
    sub.correct(1).start().wait(WAIT_S)
    wait_until(lambda: len(other.skipped()) == 3)

    assert len(seen) == 30
    assert list(other.skipped()["reason"]) == ["correction"] * 3
    steps = other.explain(other.skipped()["event_id"].iloc[0]).set_index("step")["detail"]
    assert steps["outcome"] == "skipped: correction"
    assert bus.audit().set_index("subscription").loc["adder", "skipped"] == 3
    assert (bus.audit()["balanced"]).all()


def test_dead_event_is_answered_and_null_replaces_an_output(bus: mt.EventBus) -> None:
    def wrong(n: int) -> Any:
        if n % 2:
            raise mt.Reject("no page")
        return good(n)

    def right(n: int) -> Any:
        return good(n) if n % 2 else None

    table = Table(bus)
    sub = bus.subscribe("documents", model("1.0.0", wrong), emit="pages")
    bus.fire("documents", samples(range(4)), progress=False)
    sub.promote(model("1.1.0", right))

    sub.correct(0).start().wait(WAIT_S)
    wait_until(lambda: len(table.corrections) == 4)

    assert table.rows == {"page-0": None, "page-1": good(1), "page-2": None, "page-3": good(3)}
    assert list(sub.results()["outcome"]) == ["succeeded"] * 4


def test_answer_stays_when_the_present_version_fails(bus: mt.EventBus) -> None:
    def picky(n: int) -> Any:
        if n == 12:
            raise mt.Reject("no page")
        return good(n)

    table = Table(bus)
    sub = served(bus)
    sub.promote(model("1.2.0", picky))

    at = sub.correct(1).start().wait(WAIT_S).progress()

    assert (at.corrected, at.same, at.dead) == (2, 7, 1)
    results = sub.results().set_index("subject")
    assert results.loc["page-12", "text"] == "?"
    wait_until(lambda: len(table.corrections) == 2)
    assert len(sub.dead_letters()) == 0
    assert (bus.audit()["balanced"]).all()
    bus.wait()
    bus.retain(max_events=1)
    assert bus.prune().held == 0


def test_long_and_unequal_answers_are_compared_whole(bus: mt.EventBus) -> None:
    long = "x" * 5_000
    sub = bus.subscribe("documents", model("1.0.0", lambda n: {"a": long + str(n % 2), "b": n}))
    bus.fire("documents", samples(range(4)), progress=False)
    sub.promote(model("1.1.0", lambda n: {"b": n, "a": long + "0"}))

    frame = sub.correct(0).start().wait(WAIT_S).frame()

    assert list(frame["differs"]) == [False, True, False, True]


def test_dead_letter_that_was_sent_again_with_other_data_is_corrected_with_these(
    bus: mt.EventBus,
) -> None:
    def picky(n: int) -> Any:
        if n < 0:
            raise mt.Reject("no page")
        return {"page": n, "text": "?"}

    sub = bus.subscribe("documents", model("1.0.0", picky))
    bus.fire("documents", samples(range(-1, 1)), progress=False)
    sub.redrive(next(iter(sub.dead_letters()["event_id"])), data=7)
    wait_until(lambda: list(sub.results()["outcome"]) == ["succeeded"] * 2)
    sub.promote(model("1.1.0", good))

    correction = sub.correct(0)
    assert set(correction.dry_run()["new"]) == {
        '{"page":7,"text":"page 7"}',
        '{"page":0,"text":"page 0"}',
    }
    correction.start().wait(WAIT_S)

    assert set(sub.results()["text"]) == {"page 7", "page 0"}


def test_stopped_correction_goes_on(bus: mt.EventBus) -> None:
    table = Table(bus)
    sub = served(bus)
    sub.stop()
    correction = sub.correct(1).start()
    assert "waiting for a listener of 'ocr'" in correction.state
    with pytest.warns(UserWarning, match="10 events left"):
        correction.wait(WAIT_S)
    correction.stop()
    sub.start()
    assert correction.wait(WAIT_S).state == "stopped"
    assert [lane.state for lane in sub.lanes() if lane.role == "correction"] == ["stopped"]
    assert correction.progress().open == 10

    correction.start(max_rate_per_s=1000).wait(WAIT_S)

    wait_until(lambda: len(table.corrections) == 3)
    assert correction.state == "done"


def test_canary_is_corrected_without_the_answers_of_the_present_version(
    bus: mt.EventBus,
) -> None:
    sub = bus.subscribe("documents", model("1.0.0", good), emit="pages")
    sub.canary(model("1.1.0", bad), steps=[0.5])
    bus.fire("documents", samples(range(60)), progress=False)
    by_canary = sub.history()[-1].by_canary
    with pytest.raises(mt.InvalidCorrection, match="rollback"):
        sub.correct(1)
    sub.rollback()

    at = sub.correct(1).start().wait(WAIT_S).progress()

    assert 0 < by_canary < 60
    assert at.done == by_canary
    assert set(sub.results()["text"]) == {f"page {n}" for n in range(60)}


def test_binding_that_answers_still_is_refused_with_the_advice(bus: mt.EventBus) -> None:
    sub = bus.subscribe("documents", model("1.0.0", good))

    with pytest.raises(mt.InvalidCorrection, match=r"answers still.*promote\(\)"):
        sub.correct(sub.history()[0])


def test_unknown_bindings_are_refused(bus: mt.EventBus) -> None:
    sub = served(bus)
    other = bus.subscribe("other", model("1.0.0", good, "other"))
    other.promote(model("1.1.0", good, "other"))

    with pytest.raises(mt.NotFound, match="0 to 2"):
        sub.correct(7)
    with pytest.raises(mt.InvalidCorrection, match="'other'"):
        sub.correct(other.history()[0])
    for wrong in ("ocr:1.0.0", 1.0, None, True):
        with pytest.raises(mt.InvalidCorrection, match=r"sub\.history"):
            sub.correct(wrong)
    with pytest.raises(mt.InvalidPolicy, match="limit"):
        sub.correct(1).start(limit=0)


def test_correction_by_the_version_that_gave_the_answers_corrects_nothing(
    bus: mt.EventBus,
) -> None:
    sub = bus.subscribe("documents", model("1.0.0", bad), emit="pages")
    bus.fire("documents", samples(range(6)), progress=False)
    sub.promote(model("1.1.0", good))
    sub.rollback()

    at = sub.correct(0).start().wait(WAIT_S).progress()

    assert (at.done, at.corrected, at.same) == (6, 0, 6)


@pytest.mark.parametrize(
    "policy", [{"batch": True, "batch_size": 4}, {"filter": {"type": ["mltrigger.event"]}}]
)
def test_batches_and_filtered_subscriptions_are_corrected(
    bus: mt.EventBus, policy: dict[str, Any]
) -> None:
    table = Table(bus)
    sub = served(bus, **policy) if "filter" in policy else _in_batches(bus)
    sub.correct(1).start().wait(WAIT_S)
    bus.wait()

    assert table.rows == {f"page-{n}": good(n) for n in range(30)}
    assert (bus.audit()["balanced"]).all()


def _in_batches(bus: mt.EventBus) -> mt.Subscription:
    def batch(version: str, answer: Callable[[int], Any]) -> mt.Model:
        def read(documents: list[int]) -> list[Any]:
            return [answer(n) for n in documents]

        return mt.model(read, name="ocr", version=version, batch=True)

    sub = bus.subscribe("documents", batch("1.0.0", good), emit="pages", batch_size=4)
    bus.fire("documents", samples(range(10)), progress=False)
    sub.promote(batch("1.1.0", bad))
    bus.fire("documents", samples(range(10, 20)), progress=False)
    sub.rollback()
    bus.fire("documents", samples(range(20, 30)), progress=False)
    return sub


def test_explain_says_what_became_of_the_answer_of_an_event(bus: mt.EventBus) -> None:
    sub = served(bus)
    sub.correct(1).start().wait(WAIT_S)
    results = sub.results().set_index("subject")["event_id"]

    def said(subject: str) -> list[str]:
        steps = sub.explain(results[subject])
        return list(steps.loc[steps["step"] == "correction", "detail"])

    assert said("page-3") == []
    assert said("page-12") == [
        "instead of binding 1: ocr:1.0.0, another answer, which replaces that"
    ]
    assert said("page-13") == ["instead of binding 1: ocr:1.0.0, the same answer"]


def test_dead_event_that_is_redriven_before_its_correction_is_answered_once(
    bus: mt.EventBus,
) -> None:
    def wrong(n: int) -> Any:
        raise mt.Reject("no page")

    table = Table(bus)
    sub = bus.subscribe("documents", model("1.0.0", wrong), emit="pages")
    bus.fire("documents", samples(range(3)), progress=False)
    sub.promote(model("1.1.0", good))
    sub.stop()
    correction = sub.correct(0).start()
    correction.stop()
    sub.start()
    sub.redrive()
    wait_until(lambda: len(table.events) == 3)

    at = correction.start().wait(WAIT_S).progress()

    assert (at.done, at.corrected, at.same) == (3, 0, 3)
    assert table.corrections == []
    assert (bus.audit()["balanced"]).all()


def test_effects_are_not_called_again(bus: mt.EventBus) -> None:
    charged: list[int] = []

    def charge(n: int, idempotency_key: str) -> int:
        charged.append(n)
        return n

    def paying(text: str) -> Callable[[int], Any]:
        return lambda n: {"paid": mt.once("charge", charge, n), "text": text}

    sub = bus.subscribe("documents", model("1.0.0", paying("?")))
    bus.fire("documents", samples(range(3)), progress=False)
    sub.promote(model("1.1.0", paying("page")))
    assert list(sub.correct(0).dry_run()["differs"]) == [True] * 3

    at = sub.correct(0).start().wait(WAIT_S).progress()

    assert at.corrected == 3
    assert sorted(charged) == [0, 1, 2]
    assert list(sub.results()["text"]) == ["page"] * 3


def test_correction_ends_with_its_subscription(bus: mt.EventBus) -> None:
    sub = served(bus)
    sub.stop()
    correction = sub.correct(1).start()

    sub.unsubscribe()

    assert correction.state == "unsubscribed"
    assert bus.audit()["balanced"].all()


def test_events_that_the_retention_deletes_while_it_is_stopped_are_left_as_they_are(
    bus: mt.EventBus,
) -> None:
    sub = served(bus)
    sub.stop()
    correction = sub.correct(1).start()
    correction.stop()
    bus.retain(max_events=15)
    bus.prune()
    sub.start()

    at = correction.start().wait(WAIT_S).progress()

    assert at.state == "done"
    assert at.done < 10
    assert (bus.audit()["balanced"]).all()


@pytest.mark.parametrize("kind", ["process", "async", "address"])
def test_models_in_processes_and_coroutines_correct_too(tmp_path: Path, kind: str) -> None:
    with mt.connect(f"sqlite:///{tmp_path}/bus.db") as bus:
        table = Table(bus)
        policy: dict[str, Any] = {"isolation": "process"} if kind == "process" else {}
        sub = bus.subscribe("documents", _placed(kind, "1.0.0", "?"), emit="pages", **policy)
        bus.fire("documents", samples(range(6)), progress=False)
        sub.promote(_placed(kind, "1.1.0", "page"))

        at = sub.correct(0).start().wait(WAIT_S).progress()
        bus.wait()

        assert (at.corrected, at.dead) == (6, 0)
        assert set(table.rows.values()) == {"page"}
        assert (bus.audit()["balanced"]).all()


def _placed(kind: str, version: str, said: str) -> mt.Model:
    if kind == "async":

        async def read_soon(n: int) -> str:
            return said

        return mt.model(read_soon, name="ocr", version=version)
    if kind == "address":
        return mt.model(f"command:echo '\"{said}\"'", name="ocr", version=version, mode="each")

    def read(n: int) -> str:
        return said

    return mt.model(read, name="ocr", version=version)


def test_answers_are_corrected_whatever_the_filter_is_by_now(bus: mt.EventBus) -> None:
    table = Table(bus)
    sub = served(bus)
    bus.subscribe("documents", model("1.0.0", good), emit="pages", filter={"type": ["other"]})

    sub.correct(1).start().wait(WAIT_S)

    wait_until(lambda: len(table.corrections) == 3)


def test_output_of_a_taker_that_emits_is_an_output_of_the_correction(bus: mt.EventBus) -> None:
    table = Table(bus, "titles")
    bus.subscribe(
        "pages",
        model("1.0.0", lambda page: page["text"].upper(), "shout"),
        emit="titles",
        corrections="take",
    )
    sub = served(bus)

    sub.correct(1).start().wait(WAIT_S)

    wait_until(lambda: table.rows.get("page-18") == "PAGE 18")
    assert table.corrections == []
    assert len({event.id for event in table.events}) == 33


def test_corrections_setting_is_checked(bus: mt.EventBus) -> None:
    with pytest.raises(mt.InvalidPolicy, match="corrections must be 'skip' or 'take'"):
        bus.subscribe("pages", model("1.0.0", good), corrections="maybe")  # type: ignore[arg-type]
