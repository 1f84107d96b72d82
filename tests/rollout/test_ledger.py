"""The ledger of bindings: which version answers which event, through every change."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path

import pandas as pd
import pytest
from emulators import Account
from shared import wait_until
from stores import ALL, url_of

import mltrigger as mt
from mltrigger.store.ledger import Binding, Change
from mltrigger.testing import SimulatedClock


def answers(version: str) -> mt.Model:
    """A version that answers with its number."""
    said = version

    def ocr(document: object) -> str:
        return said

    return mt.model(ocr, name="ocr", version=version)


@pytest.fixture(params=ALL)
def bus(request: pytest.FixtureRequest) -> Iterator[mt.EventBus]:
    if request.param == "aws":
        account: Account = request.getfixturevalue("aws")
        yield account.bus()
        return
    with mt.connect(url_of(request), clock=SimulatedClock()) as bus:
        yield bus


def outputs(run: mt.Run) -> list[object]:
    return list(run.results()["output"])


def test_first_binding_is_that_of_subscribe(bus: mt.EventBus) -> None:
    sub = bus.subscribe("documents", answers("1.0.0"))

    (first,) = sub.history()

    assert (first.number, first.kind, first.version, first.answered) == (0, "bind", "ocr:1.0.0", 0)


def test_promoted_version_answers_and_history_counts_the_answers_of_each(bus: mt.EventBus) -> None:
    sub = bus.subscribe("documents", answers("1.0.0"))
    bus.register(answers("2.0.0"))
    assert outputs(bus.fire("documents", [1, 2], progress=False)) == ["1.0.0"] * 2

    bound = sub.promote("ocr:2.0.0", why="better scans")

    assert (bound.kind, bound.version, bound.why) == ("promote", "ocr:2.0.0", "better scans")
    assert outputs(bus.fire("documents", [3, 4, 5], progress=False)) == ["2.0.0"] * 3
    frame = sub.history().frame()
    assert list(frame["version"]) == ["ocr:1.0.0", "ocr:2.0.0"]
    assert list(frame["answered"]) == [2, 3]
    assert frame["from_event"].iloc[1] > 2
    assert sub.selector == "ocr:2.0.0"
    assert "ocr:2.0.0" in repr(sub)


def test_short_version_and_a_model_that_is_not_registered_are_understood(bus: mt.EventBus) -> None:
    sub = bus.subscribe("documents", answers("1.0.0"))
    bus.register(answers("2.0.0"))

    sub.promote("2.0.0")
    assert sub.history()[-1].version == "ocr:2.0.0"

    sub.promote(answers("3.0.0"))
    assert outputs(bus.fire("documents", [1], progress=False)) == ["3.0.0"]


def test_promote_of_the_present_version_changes_nothing(bus: mt.EventBus) -> None:
    sub = bus.subscribe("documents", answers("1.0.0"))

    sub.promote("ocr:1.0.0")

    assert len(sub.history()) == 1


def test_unknown_version_is_refused_with_the_near_ones(bus: mt.EventBus) -> None:
    sub = bus.subscribe("documents", answers("1.0.0"))

    with pytest.raises(mt.NotFound, match=r"ocr:1\.0\.0"):
        sub.promote("ocr:1.0.1")
    with pytest.raises(mt.NotFound, match=r"did you mean|known"):
        sub.promote("ocr:1.0.0", backlog="neu")  # type: ignore[arg-type]


@pytest.mark.parametrize(("backlog", "version"), [("new", "2.0.0"), ("old", "1.0.0")])
def test_backlog_goes_to_the_version_that_the_promote_says(
    bus: mt.EventBus, backlog: str, version: str
) -> None:
    sub = bus.subscribe("documents", answers("1.0.0"))
    bus.register(answers("2.0.0"))
    sub.stop()
    bus.publish_batch("documents", [1, 2])

    sub.promote("ocr:2.0.0", backlog=backlog)  # type: ignore[arg-type]
    bus.publish("documents", 3)
    sub.start()
    wait_until(lambda: len(sub.results()) == 3)

    assert sorted(sub.results()["output"]) == sorted([version] * 2 + ["2.0.0"])


def test_retry_stays_with_the_version_of_the_first_attempt(bus: mt.EventBus) -> None:
    tries: list[str] = []

    def flaky(document: object) -> str:
        tries.append("1.0.0")
        if len(tries) == 1:
            raise mt.Retry(delay_s=0.01)
        return "1.0.0"

    sub = bus.subscribe("documents", mt.model(flaky, name="ocr", version="1.0.0"))
    bus.register(answers("2.0.0"))
    bus.publish("documents", 1)
    wait_until(lambda: len(sub.invocations()) >= 1)

    sub.promote("ocr:2.0.0")
    _let_pass(bus, 1)
    wait_until(lambda: len(sub.results()) == 1)

    assert list(sub.results()["output"]) == ["1.0.0"]
    assert outputs(bus.fire("documents", [2], progress=False)) == ["2.0.0"]


def test_retry_of_a_version_that_was_rolled_back_goes_to_the_present_one(bus: mt.EventBus) -> None:
    def bad(document: object) -> str:
        raise mt.Retry(delay_s=0.01)

    sub = bus.subscribe("documents", answers("1.0.0"))
    bus.register(mt.model(bad, name="ocr", version="2.0.0"))
    sub.promote("ocr:2.0.0")
    bus.publish("documents", 1)
    wait_until(lambda: len(sub.invocations()) >= 1)

    sub.rollback()
    _let_pass(bus, 1)
    wait_until(lambda: len(sub.results()) == 1)

    assert list(sub.results()["output"]) == ["1.0.0"]
    assert [b.kind for b in sub.history()] == ["bind", "promote", "rollback"]


def test_rollback_over_two_versions_takes_the_retries_of_both(bus: mt.EventBus) -> None:
    def bad(document: object) -> str:
        raise mt.Retry(delay_s=0.01)

    sub = bus.subscribe("documents", answers("1.0.0"))
    sub.promote(mt.model(bad, name="ocr", version="2.0.0"))
    bus.publish("documents", 1)
    wait_until(lambda: len(sub.invocations()) >= 1)
    sub.promote(answers("3.0.0"))

    sub.rollback(to=0)
    _let_pass(bus, 1)
    wait_until(lambda: len(sub.results()) == 1)

    assert list(sub.results()["output"]) == ["1.0.0"]


def test_rollback_takes_the_backlog_back(bus: mt.EventBus) -> None:
    sub = bus.subscribe("documents", answers("1.0.0"))
    bus.register(answers("2.0.0"))
    sub.promote("ocr:2.0.0")
    sub.stop()
    bus.publish_batch("documents", [1, 2])

    sub.rollback(why="wrong pages")
    sub.start()
    wait_until(lambda: len(sub.results()) == 2)

    assert list(sub.results()["output"]) == ["1.0.0"] * 2
    assert sub.history()[-1].why == "wrong pages"


def test_rollback_goes_to_a_version_a_binding_or_its_number(bus: mt.EventBus) -> None:
    sub = bus.subscribe("documents", answers("1.0.0"))
    for version in ("2.0.0", "3.0.0"):
        sub.promote(answers(version))

    assert sub.rollback("1.0.0").version == "ocr:1.0.0"
    assert sub.rollback(2).version == "ocr:3.0.0"
    assert sub.rollback(sub.history()[1]).version == "ocr:2.0.0"
    with pytest.raises(mt.NotFound, match="0 to 5"):
        sub.rollback(9)
    with pytest.raises(mt.NotFound, match=r"ocr:4\.0\.0"):
        sub.rollback("4.0.0")


def test_second_rollback_goes_further_back_and_the_last_one_says_that_there_is_no_other(
    bus: mt.EventBus,
) -> None:
    sub = bus.subscribe("documents", answers("1.0.0"))
    for version in ("2.0.0", "3.0.0"):
        sub.promote(answers(version))

    assert sub.rollback().version == "ocr:2.0.0"
    assert sub.rollback().version == "ocr:1.0.0"
    with pytest.raises(mt.NotFound, match=r"2\.0\.0, ocr:3\.0\.0: there is nothing to go back to"):
        sub.rollback()


def test_old_subscribe_cell_does_not_undo_a_promote(bus: mt.EventBus) -> None:
    cell = answers("1.0.0")
    sub = bus.subscribe("documents", cell)
    bus.register(answers("2.0.0"))
    sub.promote("ocr:2.0.0")

    again = bus.subscribe("documents", cell)

    assert again.selector == "ocr:2.0.0"
    assert "kept" in repr(again)
    assert "rebind=True" in repr(again)
    assert outputs(bus.fire("documents", [1], progress=False)) == ["2.0.0"]
    assert bus.subscribe("documents", cell, rebind=True).selector == "ocr:1.0.0"
    assert outputs(bus.fire("documents", [2], progress=False)) == ["1.0.0"]


def test_old_subscribe_cell_does_not_end_a_canary(bus: mt.EventBus) -> None:
    cell = answers("1.0.0")
    sub = bus.subscribe("documents", cell)
    sub.canary(answers("2.0.0"), steps=[0.5])

    bus.subscribe("documents", cell)

    assert sub.history()[-1].canary == "ocr:2.0.0"


def test_version_that_was_never_bound_is_bound_by_subscribe(bus: mt.EventBus) -> None:
    sub = bus.subscribe("documents", answers("1.0.0"))
    sub.promote(answers("2.0.0"))

    bus.subscribe("documents", answers("3.0.0"))

    assert outputs(bus.fire("documents", [1], progress=False)) == ["3.0.0"]
    assert [b.kind for b in sub.history()] == ["bind", "promote", "bind"]


def test_dead_letter_that_is_sent_again_goes_to_the_present_version(bus: mt.EventBus) -> None:
    def bad(document: object) -> str:
        raise mt.Reject("no page")

    sub = bus.subscribe("documents", mt.model(bad, name="ocr", version="1.0.0"))
    run = bus.fire("documents", [1], progress=False)
    assert list(run.results()["outcome"]) == ["dead"]
    sub.promote(answers("2.0.0"))

    sub.redrive()
    wait_until(lambda: list(sub.results()["outcome"]) == ["succeeded"])

    assert list(sub.results()["output"]) == ["2.0.0"]


def test_canary_answers_its_share_by_key_and_each_key_has_one_version(bus: mt.EventBus) -> None:
    sub = bus.subscribe("documents", answers("1.0.0"))
    sub.canary(answers("2.0.0"), steps=[0.3])

    samples = [mt.Event(n, subject=f"page-{n % 40}") for n in range(200)]
    bus.fire("documents", samples, progress=False)
    results = sub.results()

    by_key = results.groupby("subject")["output"].nunique()
    assert (by_key == 1).all()
    assert 0.1 < (results["output"] == "2.0.0").mean() < 0.55
    roles = sub.invocations().groupby("version", observed=True)["role"].unique()
    assert {v: [str(r) for r in of] for v, of in roles.items()} == {
        "1.0.0": ["live"],
        "2.0.0": ["canary"],
    }
    last = sub.history()[-1]
    assert last.answered == 200
    assert last.by_canary == (results["output"] == "2.0.0").sum()


def test_canary_goes_on_by_steps_and_promotes(bus: mt.EventBus) -> None:
    sub = bus.subscribe("documents", answers("1.0.0"))
    canary = sub.canary(answers("2.0.0"), steps=[0.3, 0.9], min_events=10, min_s=0, then="promote")

    def promoted() -> bool:
        bus.fire("documents", range(60), progress=False)
        return sub.history()[-1].kind == "promote"

    wait_until(promoted, timeout_s=30)
    assert [b.kind for b in sub.history()] == ["bind", "canary", "step", "promote"]
    assert "promoted" in canary.state
    assert set(outputs(bus.fire("documents", [1, 2], progress=False))) == {"2.0.0"}
    assert (bus.audit()["balanced"]).all()


def test_bad_canary_is_rolled_back_by_itself_and_no_event_is_lost(bus: mt.EventBus) -> None:
    def bad(document: object) -> str:
        raise ValueError("no page")

    sub = bus.subscribe("documents", answers("1.0.0"), max_attempts=1)
    canary = sub.canary(mt.model(bad, name="ocr", version="2.0.0"), steps=[0.5], min_events=10_000)

    def rolled_back() -> bool:
        bus.fire("documents", range(60), progress=False)
        return sub.history()[-1].kind == "rollback"

    wait_until(rolled_back, timeout_s=30)
    last = sub.history()[-1]
    assert last.by == "guard"
    assert "errors" in (last.why or "")
    assert last.verdict == "WORSE"
    assert "rolled back" in canary.state
    assert outputs(bus.fire("documents", [1], progress=False)) == ["1.0.0"]
    assert (bus.audit()["balanced"]).all()


def test_canary_waits_for_promote_after_the_last_step(bus: mt.EventBus) -> None:
    sub = bus.subscribe("documents", answers("1.0.0"))
    canary = sub.canary(answers("2.0.0"), steps=[0.5], min_events=1, min_s=0)
    bus.fire("documents", range(40), progress=False)

    assert sub.history()[-1].canary == "ocr:2.0.0"
    assert "0.5 of it -> ocr:2.0.0" in repr(sub)
    assert "0.5 of it -&gt; ocr:2.0.0" in sub._repr_html_()
    progress = canary.progress()
    assert list(progress["rule"]) == ["errors", "p95"]
    assert sub.promote().version == "ocr:2.0.0"
    assert list(canary.progress()["rule"]) == []


def test_canary_is_stopped_by_its_handle(bus: mt.EventBus) -> None:
    sub = bus.subscribe("documents", answers("1.0.0"))
    canary = sub.canary(answers("2.0.0"), steps=[0.9])

    canary.stop("enough seen")

    assert sub.history()[-1].kind == "rollback"
    assert outputs(bus.fire("documents", range(20), progress=False)) == ["1.0.0"] * 20
    assert "enough seen" in repr(canary)
    assert "enough seen" in canary._repr_html_()


def test_rollback_ends_a_canary_that_goes_on_by_a_step_meanwhile(
    bus: mt.EventBus, monkeypatch: pytest.MonkeyPatch
) -> None:
    sub = bus.subscribe("documents", answers("1.0.0"))
    sub.canary(answers("2.0.0"), steps=[0.1, 0.5])
    ledger, spec = bus.rollout.ledger, bus.spec("ocr")
    rows, stepped = ledger.rows, []

    def rows_before_the_step(subscription_id: int) -> list[Binding]:
        found = rows(subscription_id)
        if not stepped:
            now = found[-1]
            step = Change("step", now.selector, now.model_version_id, now.canary, share=0.5)
            stepped.append(ledger.append(spec.id, step))
        return found

    monkeypatch.setattr(ledger, "rows", rows_before_the_step)
    sub.rollback()

    assert [b.kind for b in sub.history()] == ["bind", "canary", "step", "rollback"]
    assert sub.history()[-1].canary is None


def test_second_canary_is_refused_and_so_is_one_of_the_present_version(bus: mt.EventBus) -> None:
    sub = bus.subscribe("documents", answers("1.0.0"))
    with pytest.raises(mt.BindingConflict, match="answers 'ocr' already"):
        sub.canary("ocr:1.0.0")
    sub.canary(answers("2.0.0"))

    with pytest.raises(mt.BindingConflict, match="is the canary"):
        sub.canary(answers("3.0.0"))


@pytest.mark.parametrize(
    "wrong",
    [
        {"steps": []},
        {"steps": [0.5, 0.1]},
        {"steps": [1.5]},
        {"steps": [float("nan")]},
        {"steps": ["1"]},
        {"min_events": 0},
        {"guard": 1.5},
    ],
)
def test_wrong_plan_of_a_canary_is_refused_and_nothing_changes(
    bus: mt.EventBus, wrong: dict[str, object]
) -> None:
    sub = bus.subscribe("documents", answers("1.0.0"))
    bus.register(answers("2.0.0"))

    with pytest.raises(mt.InvalidPolicy):
        sub.canary("2.0.0", **wrong)  # type: ignore[arg-type]

    assert len(sub.history()) == 1


@pytest.mark.parametrize(
    "wrong",
    [
        {"errors": 0.5},
        {"errors": float("nan")},
        {"p95": "1.3"},
        {"alpha": 0},
        {"alpha": 1.0},
        {"errors": None, "p95": None},
        {"measures": {"confidence": "more"}},
    ],
)
def test_wrong_guard_is_refused_with_the_reason(wrong: dict[str, object]) -> None:
    with pytest.raises(mt.InvalidPolicy, match="invalid guard"):
        mt.Guard(**wrong)  # type: ignore[arg-type]


def test_guard_on_a_measure_without_reports_is_refused(bus: mt.EventBus) -> None:
    sub = bus.subscribe("documents", answers("1.0.0"))
    bus.register(answers("2.0.0"))

    with pytest.raises(mt.NotFound, match="'confidence'"):
        sub.canary("2.0.0", guard=mt.Guard(measures={"confidence": "higher"}))


def test_canary_that_lives_in_another_notebook_leaves_its_events_to_the_live_version(
    tmp_path: Path,
) -> None:
    url = f"sqlite:///{tmp_path}/bus.db"
    with mt.connect(url) as here, mt.connect(url) as there:
        here.subscribe("documents", answers("1.0.0"))
        there.subscription("ocr").canary(answers("2.0.0"), steps=[0.9])

        assert outputs(here.fire("documents", range(10), progress=False)) == ["1.0.0"] * 10
        assert set(here.invocations()["role"]) == {"live"}


def test_alias_of_the_subscription_follows_promote_and_rollback(bus: mt.EventBus) -> None:
    for version in ("1.0.0", "2.0.0"):
        bus.register(answers(version))
    bus.alias("ocr", "champion", "1.0.0")
    sub = bus.subscribe("documents", "ocr@champion")

    sub.promote("ocr:2.0.0")
    assert sub.selector == "ocr@champion"
    assert outputs(bus.fire("documents", [1], progress=False)) == ["2.0.0"]
    assert [b.version for b in sub.history()] == ["ocr:1.0.0", "ocr:2.0.0"]

    sub.rollback()
    assert outputs(bus.fire("documents", [2], progress=False)) == ["1.0.0"]
    assert bus.subscription("ocr").selector == "ocr@champion"


def test_alias_of_the_subscription_follows_a_canary_that_promotes_itself(
    bus: mt.EventBus,
) -> None:
    for version in ("1.0.0", "2.0.0"):
        bus.register(answers(version))
    bus.alias("ocr", "champion", "1.0.0")
    sub = bus.subscribe("documents", "ocr@champion")
    sub.canary("ocr:2.0.0", steps=[0.9], min_events=10, min_s=0, then="promote")

    def promoted() -> bool:
        bus.fire("documents", range(60), progress=False)
        return sub.history()[-1].kind == "promote"

    wait_until(promoted, timeout_s=30)
    assert sub.selector == "ocr@champion"
    assert outputs(bus.fire("documents", [1], progress=False)) == ["2.0.0"]
    assert sub.rollback().version == "ocr:1.0.0"


def test_event_under_way_at_a_promote_is_answered_once_by_the_version_that_began_it(
    bus: mt.EventBus,
) -> None:
    begun, go_on = threading.Event(), threading.Event()

    def slow(document: object) -> str:
        begun.set()
        assert go_on.wait(20)
        return "1.0.0"

    sub = bus.subscribe("documents", mt.model(slow, name="ocr", version="1.0.0"))
    bus.publish("documents", 1)
    assert begun.wait(20)

    sub.promote(answers("2.0.0"))
    bus.publish("documents", 2)
    go_on.set()
    wait_until(lambda: len(sub.results()) == 2)

    assert list(sub.invocations()["version"].astype(str).sort_values()) == ["1.0.0", "2.0.0"]
    assert list(sub.history().frame()["answered"]) == [1, 1]


def test_batch_models_are_promoted_and_shared_out(bus: mt.EventBus) -> None:
    def batch(said: str) -> mt.Model:
        def ocr(documents: list[object]) -> list[str]:
            return [said] * len(documents)

        return mt.model(ocr, name="ocr", version=said, batch=True)

    sub = bus.subscribe("documents", batch("1.0.0"), batch_size=16)
    sub.canary(batch("2.0.0"), steps=[0.5])

    first = outputs(bus.fire("documents", range(100), progress=False))
    sub.promote()
    second = outputs(bus.fire("documents", range(100), progress=False))

    assert 20 < first.count("2.0.0") < 80
    assert second == ["2.0.0"] * 100
    assert sub.history().frame()["answered"].sum() == 200


def test_history_of_a_fresh_subscription_has_its_columns_and_dtypes(bus: mt.EventBus) -> None:
    sub = bus.subscribe("documents", answers("1.0.0"))

    frame = sub.history().frame()

    assert list(frame.columns)[:4] == ["number", "kind", "version", "canary"]
    assert isinstance(frame["at"].dtype, pd.DatetimeTZDtype)
    assert "ocr:1.0.0" in sub.history()._repr_html_()


def _let_pass(bus: mt.EventBus, s: float) -> None:
    clock = getattr(bus, "_clock", None)
    if isinstance(clock, SimulatedClock):
        clock.advance(s=s)


def test_rollback_after_a_stopped_canary_goes_back_to_the_version_before(bus: mt.EventBus) -> None:
    sub = bus.subscribe("documents", answers("1.0.0"))
    sub.canary(answers("2.0.0"), steps=[0.5])
    sub.rollback()
    sub.promote("2.0.0", force="it was the network")

    assert sub.rollback().version == "ocr:1.0.0"


def test_rollback_takes_a_version_that_was_promoted_again_since(bus: mt.EventBus) -> None:
    sub = bus.subscribe("documents", answers("1.0.0"))
    sub.promote(answers("2.0.0"))
    sub.rollback()
    sub.promote("2.0.0", why="repaired")
    sub.promote(answers("3.0.0"))

    assert sub.rollback().version == "ocr:2.0.0"
