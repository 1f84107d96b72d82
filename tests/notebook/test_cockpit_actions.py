"""The actions of the cockpit: each shows its code, and does what its code does."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from cockpit import Front, Refused, copied, run_cell, until_settled
from shared import wait_until

import mltrigger as mt
from mltrigger.notebook.cockpit.actions.table import ACTIONS
from mltrigger.notebook.cockpit.code import Name, Script, Step, call, written
from mltrigger.notebook.cockpit.recording import Recording

HOSTILE = "<img src=x onerror=alert(1)>\u202e\x1b[31m'\"\\\n"


def old(page: Any) -> Any:
    if page.get("bad"):
        raise mt.Reject("no page")
    return {"n": page["n"]}


def new(page: Any) -> Any:
    return {"n": page["n"], "twice": 2 * page["n"]}


OLD, NEW = mt.model("read", version="1.0.0")(old), mt.model("read", version="1.1.0")(new)
PAGES = [{"n": n, "bad": n % 5 == 0} for n in range(20)]


def opened(url: str) -> mt.EventBus:
    """Return a bus with a subscription and two versions in this process."""
    bus = mt.connect(url)
    bus.subscribe("pages", OLD, name="pages", max_attempts=1)
    bus.register(NEW)
    return bus


@pytest.fixture
def bus(url: str) -> Iterator[mt.EventBus]:
    with opened(url) as bus:
        bus.fire("pages", PAGES, progress=False)
        yield bus


@pytest.fixture
def front(bus: mt.EventBus) -> Iterator[Front]:
    widget = bus.subscription("pages").dashboard()
    yield Front(widget)
    widget.close()


def answers(bus: mt.EventBus, role: str = "live") -> list[tuple[Any, ...]]:
    """Return what became of each event, without times and ids."""
    columns = ["version", "attempt", "outcome", "reason", "output"]
    frame = bus.subscription("pages").invocations(columns=columns, role=role)
    return sorted(map(str, frame.astype(object).itertuples(index=False, name=None)))


def dead(front: Front) -> dict[str, Any]:
    return front.rows(outcome="dead", subscription="pages")[0]


# -- each of them ----------------------------------------------------------------------------------


def test_pause_and_resume_act_on_all_processes(bus: mt.EventBus, front: Front) -> None:
    paused = front.act("pause")
    assert paused["code"] == 'sub = bus.subscription("pages")\nsub.pause()'
    assert bus.subscription("pages").state == "paused"
    wait_until(lambda: not front.state["controls"]["pause"]["enabled"])
    assert front.state["controls"]["resume"]["enabled"]
    front.act("resume")
    assert bus.subscription("pages").state == "listening"


def test_nothing_is_done_before_go(bus: mt.EventBus, front: Front) -> None:
    found = front.act("bulk_redrive", go=False, filter={"subscription": "pages"})
    assert (found["number"], found["needs_confirmation"], found["done"]) == (4, True, False)
    assert len(bus.subscription("pages").dead_letters()) == 4
    front.act("pause", go=False)
    assert bus.subscription("pages").state == "listening"


def test_fire_publishes_data_or_repeats_the_newest_event(bus: mt.EventBus, front: Front) -> None:
    found = front.act("fire", data={"n": 7})
    assert found["code"] == 'bus.publish("pages", {"n": 7})'
    front.act("fire", data=None)
    assert bus.events("pages")["data"].tolist()[-2:] == ['{"n":7}'] * 2


def test_fire_repeats_bytes_with_their_attributes(bus: mt.EventBus, front: Front) -> None:
    png = mt.Event(b"\x89PNG", type="scan", subject="a.png", datacontenttype="image/png")
    bus.publish("pages", png)
    found = front.act("fire")
    first, again = bus.events("pages").iloc[-2:].to_dict("records")
    assert first["event_id"] != again["event_id"]
    for name in ("type", "subject", "datacontenttype", "data"):
        assert first[name] == again[name]
    assert r'mt.Event(b"\x89PNG"' in found["code"].replace("'", '"')


def test_a_sample_is_fired_as_a_new_event_each_time(bus: mt.EventBus) -> None:
    sample = mt.Event({"n": 1}, type="scan", source="scanner", extensions={"batch": "b7"})
    front = Front(bus.subscription("pages").dashboard(sample))
    front.act("fire")
    front.act("fire")
    events = bus.events("pages").iloc[-2:]
    assert events["event_id"].nunique() == 2
    assert events[["type", "source"]].drop_duplicates().values.tolist() == [["scan", "scanner"]]


def test_redrive_with_edited_data_reaches_the_model(bus: mt.EventBus, front: Front) -> None:
    row = dead(front)
    found = front.act("redrive", seq=row["seq"], data={"n": 99})
    assert f'sub.redrive("{row["event_id"]}", data={{"n": 99}})' in found["code"]
    assert found["says"].startswith("1 dead letter sent again")
    until_settled(bus)
    assert '{"n":99}' in bus.subscription("pages").invocations()["output"].tolist()


@pytest.mark.parametrize(
    "text",
    ['{"n": 12345678901234567890}', '{"n": 1.0}', '{"n": 0.1000000000000000055}', "null", '"x"'],
)
def test_edited_data_are_sent_as_they_were_written(front: Front, text: str) -> None:
    value = json.loads(text)
    redrive = front.act("redrive", go=False, seq=dead(front)["seq"], json=text)
    assert f"data={written(value)})" in redrive["code"]
    fire = front.act("fire", go=False, json=text)
    assert f'.publish("pages", {written(value)})' in fire["code"]


@pytest.mark.parametrize("text", ["{broken", "NaN", "[" * 10_000, "1 2"])
def test_text_that_is_no_json_is_refused(front: Front, text: str) -> None:
    row = dead(front)
    for action in ("redrive", "fire"):
        with pytest.raises(Refused, match="no JSON"):
            front.act(action, go=False, seq=row["seq"], json=text)


def test_data_that_do_not_fit_the_schema_are_refused_before(url: str) -> None:
    pytest.importorskip("pydantic")
    with mt.connect(url) as bus:

        def typed(page: dict[str, int]) -> int:
            return page["n"]

        sub = bus.subscribe("typed", mt.model("typed", version="1.0.0")(typed), max_attempts=1)
        sub.fire([{"n": "x"}], progress=False)
        front = Front(sub.dashboard())
        (row,) = front.rows(outcome="dead", subscription=sub.name)
        with pytest.raises(Refused, match="do not fit the model"):
            front.act("redrive", seq=row["seq"], data={"n": "still no number"})
        assert len(sub.dead_letters()) == 1
        assert (
            "fit the model's schema"
            in front.act("redrive", go=False, seq=row["seq"], data={"n": 1})["says"]
        )


def test_dry_run_shows_the_answer_and_records_nothing(bus: mt.EventBus, front: Front) -> None:
    row, before = dead(front), answers(bus)
    found = front.act("dry_run", seq=row["seq"], version="1.1.0")
    assert "read:1.1.0 answered in" in found["says"]
    assert f"twice: {2 * json.loads(row['event'])['n']}" in found["says"]
    assert "failed: Reject: no page" in front.act("dry_run", seq=row["seq"])["says"]
    assert answers(bus) == before


def test_any_row_is_tried_beside_its_recorded_answer(bus: mt.EventBus, front: Front) -> None:
    row, before = front.rows(outcome="succeeded")[0], answers(bus)
    recorded = {"attempt": 1, "role": "live", "version": "1.0.0"}
    given = {"seq": row["seq"], "recorded": recorded}
    n = json.loads(row["event"])["n"]

    found = front.act("dry_run", version="1.1.0", **given)
    assert f'sub.dry_run("{row["event_id"]}", version="1.1.0")' in found["code"]
    trial = found["trial"]
    assert (json.loads(trial["recorded"]), trial["recorded_error"]) == ({"n": n}, "")
    assert (json.loads(trial["output"]), trial["error"]) == ({"n": n, "twice": 2 * n}, "")
    same = front.act("dry_run", version="1.0.0", **given)["trial"]
    assert same["output"] == same["recorded"]
    edited = front.act("dry_run", version="1.0.0", data={"n": 1, "bad": True}, **given)["trial"]
    assert (edited["output"], "no page" in edited["error"]) == ("", True)
    bad = dead(front)
    trial = front.act("dry_run", version="1.1.0", seq=bad["seq"], recorded=recorded)["trial"]
    assert "no page" in trial["recorded_error"]
    assert answers(bus) == before
    assert bus.wait(0, progress=False)


def test_the_payload_of_a_row_is_fired_as_a_new_event(bus: mt.EventBus, front: Front) -> None:
    png = mt.Event(b"\x89PNG", type="scan", subject="a.png", datacontenttype="image/png")
    bus.publish("pages", png)
    row = front.rows()[0]
    until_settled(bus)
    found = front.act("fire", seq=row["seq"])
    assert "as a new event" in front.act("fire", go=False, seq=row["seq"])["says"]
    front.act("fire", seq=row["seq"], json='{"n": 5}')
    front.act("fire", seq=row["seq"], data={"n": 6})
    first, again, edited, other = bus.events("pages").iloc[-4:].to_dict("records")
    assert len({each["event_id"] for each in (first, again, edited, other)}) == 4
    assert (other["data"], other["type"]) == ('{"n":6}', "scan")
    for name in ("type", "subject", "datacontenttype", "data"):
        assert first[name] == again[name]
    assert (edited["data"], edited["type"], edited["subject"]) == ('{"n":5}', "scan", "a.png")
    assert '.publish("pages", mt.Event(' in found["code"]


def test_discard_needs_a_reason_and_keeps_it(bus: mt.EventBus, front: Front) -> None:
    row = dead(front)
    with pytest.raises(Refused, match="reason must be a text"):
        front.act("discard", seq=row["seq"])
    front.act("discard", seq=row["seq"], reason=HOSTILE)
    explained = bus.explain(row["event_id"], "pages")["detail"].tolist()
    assert any("discarded at" in each for each in explained)
    with pytest.raises(Refused, match="no dead letter of pages any more"):
        front.act("discard", seq=row["seq"], reason="again")


def test_export_writes_a_case_and_never_over_another_file(
    bus: mt.EventBus, front: Front, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    row = front.rows(outcome="succeeded")[0]
    found = front.act("export_case", seq=row["seq"], path="page.case.json")
    assert "Wrote page.case.json" in found["says"]
    case = mt.testing.case.Case.from_json((tmp_path / "page.case.json").read_bytes())
    assert case.event.id == row["event_id"]
    with pytest.raises(Refused, match="cannot be written"):
        front.act("export_case", seq=row["seq"], path="page.case.json")


@pytest.mark.parametrize(
    "path", ["/etc/x.case.json", "../x.case.json", "x.py", ".case.json", "a\n"]
)
def test_export_takes_bare_file_names_only(front: Front, path: str) -> None:
    row = front.rows(outcome="succeeded")[0]
    with pytest.raises(Refused, match="no bare file name"):
        front.act("export_case", seq=row["seq"], path=path)


def test_bulk_redrive_takes_all_that_match_at_a_rate(bus: mt.EventBus, front: Front) -> None:
    found = front.act("bulk_redrive", filter={"reason": "rejected"}, rate_per_s=1000)
    up_to = found["bound"]["up_to"]
    said = f'sub.redrive(where={{"reason": "rejected", "up_to": {up_to}}}, rate_per_s=1000)'
    assert said in found["code"]
    assert (found["number"], found["number_is"]) == (4, "exact")
    until_settled(bus)
    assert len(bus.subscription("pages").invocations()) == 24
    with pytest.raises(Refused, match="matches the filter"):
        front.act("bulk_redrive", filter={"text": "nothing like that"})


@pytest.mark.parametrize("action", ["bulk_redrive", "bulk_discard", "replay"])
def test_what_matches_is_counted_in_the_store(front: Front, action: str, monkeypatch: Any) -> None:
    for name in ("dead_letters", "dead_keys"):
        monkeypatch.setattr(front.widget._bus.log, name, None)
    monkeypatch.setattr(mt.Subscription, "invocations", None)
    args = {"filter": {"reason": "rejected"}, "reason": "known", "version": "1.1.0"}
    found = front.act(action, go=False, **args)
    assert (found["number"], found["number_is"]) == (4, "exact")


@pytest.mark.parametrize("action", ["bulk_redrive", "bulk_discard", "replay"])
def test_a_count_that_takes_too_long_says_at_least(
    bus: mt.EventBus, front: Front, action: str, monkeypatch: Any
) -> None:
    monkeypatch.setattr("mltrigger.notebook.cockpit.actions.bulk.COUNT_S", -1.0)
    args = {"filter": {"reason": "rejected"}, "reason": "known", "version": "1.1.0"}
    found = front.act(action, go=False, **args)
    assert (found["number_is"], "at least" in found["says"]) == ("at least", True)
    done = front.act(action, **args, **found["bound"])
    assert (done["number"], done["done"]) == (None, True)


@pytest.mark.parametrize("action", ["bulk_redrive", "bulk_discard", "replay"])
def test_what_matches_later_than_it_was_counted_is_not_touched(
    bus: mt.EventBus, front: Front, action: str
) -> None:
    sub = bus.subscription("pages")
    before = {*sub.dead_letters()["event_id"]}
    args = {"filter": {"outcome": "dead"}, "reason": "known", "version": "1.1.0"}
    found = front.act(action, go=False, **args)
    assert found["number"] == len(before) == 4
    bus.fire("pages", PAGES, progress=False)
    later = {*sub.dead_letters()["event_id"]} - before

    front.act(action, **args, **found["bound"])

    until_settled(bus)
    if action == "replay":
        wait_until(lambda: len(sub.invocations(role="replay")) == 4)
        assert {*sub.invocations(role="replay")["event_id"]} == before
    elif action == "bulk_redrive":
        again = sub.invocations().query("attempt == 2")["event_id"]
        assert {*again} == before
    else:
        assert {*sub.dead_letters()["event_id"]} == later


def test_a_dead_letter_that_died_again_meanwhile_is_another_one(
    bus: mt.EventBus, front: Front
) -> None:
    sub = bus.subscription("pages")
    args = {"filter": {}, "reason": "known"}
    found = front.act("bulk_discard", go=False, **args)
    first = sub.dead_letters()["event_id"].iloc[0]
    sub.redrive(first)
    until_settled(bus)

    front.act("bulk_discard", **args, **found["bound"])

    assert sub.dead_letters()["event_id"].tolist() == [first]


@pytest.mark.parametrize("action", ["bulk_redrive", "bulk_discard", "replay"])
def test_an_age_counts_back_from_the_moment_of_counting(
    bus: mt.EventBus, front: Front, action: str
) -> None:
    sub = bus.subscription("pages")
    args = {"filter": {"until": "0.001s"}, "reason": "known", "version": "1.1.0"}
    found = front.act(action, go=False, **args)
    assert '"until": "20' in found["code"]
    an_hour_before = found["bound"]["at_us"] - 3_600_000_000

    try:
        front.act(action, **args, **{**found["bound"], "at_us": an_hour_before})
    except Refused as error:
        assert "nothing to replay" in str(error)

    until_settled(bus)
    assert len(sub.dead_letters()) == 4
    assert (len(sub.invocations()), len(sub.lanes())) == (20, 1)


def test_a_long_bulk_action_is_done_in_parts_and_says_how_far_it_is(
    bus: mt.EventBus, front: Front, monkeypatch: Any
) -> None:
    monkeypatch.setattr("mltrigger.reports.dead_letters._BATCH", 1)
    monkeypatch.setattr("mltrigger.notebook.cockpit.answering._TELL_S", 0.0)
    args = {"action": "bulk_discard", "args": {"filter": {}, "reason": "known"}, "go": True}
    number = front.begin("act", args)
    assert "4 dead letters put away" in front.end(number)["says"]
    assert [m["done"] for m in front.told(number, "progress")] == [1, 2, 3, 4]


def test_bulk_discard_keeps_to_the_filter(bus: mt.EventBus, front: Front) -> None:
    row = dead(front)
    front.act("bulk_discard", filter={"text": row["event_id"]}, reason="known")
    assert row["event_id"] not in bus.subscription("pages").dead_letters()["event_id"].tolist()
    assert len(bus.subscription("pages").dead_letters()) == 3


@pytest.mark.parametrize(
    "filters", [{"outcome": "succeeded"}, {"role": "shadow"}, {"what": "1"}, {"reason": "rejectd"}]
)
def test_a_bulk_action_refuses_a_filter_it_cannot_keep(front: Front, filters: Any) -> None:
    with pytest.raises(Refused):
        front.act("bulk_redrive", filter=filters)


def test_replay_takes_all_recorded_events_or_those_that_match(
    bus: mt.EventBus, front: Front
) -> None:
    found = front.act("replay", version="1.1.0", filter={"outcome": "dead"})
    assert found["number"] == 4
    sub = bus.subscription("pages")
    wait_until(lambda: len(sub.invocations(role="replay")) == 4)
    front.act("replay", version="1.1.0")
    wait_until(lambda: len(sub.invocations(role="replay")) == 24)


def test_shadow_canary_promote_and_rollback(bus: mt.EventBus, front: Front) -> None:
    sub = bus.subscription("pages")
    assert "shadow" in front.act("shadow", version="1.1.0", share=0.5)["says"]
    found = front.act("canary", version="1.1.0", steps=[0.1, 0.5], guard={"errors": 2})
    assert "guard=mt.Guard(errors=2)" in found["code"]
    roles = lambda: {v["role"] for v in front.state["picture"]["subscriptions"][0]["versions"]}  # noqa: E731
    wait_until(lambda: roles() == {"serving", "canary", "shadow"})
    assert "Ends the canary" in front.act("rollback")["says"] or sub.history()[-1].canary is None
    front.act("promote", version="1.1.0")
    assert sub.selector == "read:1.1.0"
    front.act("rollback")
    assert sub.selector == "read:1.0.0"


LANE = {"max_rate_per_s": 50, "effects": "live", "concurrency": 3, "why": "a look"}
CANARY = {"min_events": 20, "min_s": 0, "then": "promote", "why": "a look"}
GUARD = {"errors": None, "p95": 2, "alpha": 0.1, "measures": {"cost": "lower"}}


@pytest.mark.parametrize(
    ("action", "args", "said"),
    [
        ("shadow", {"share": 0.5, **LANE}, 'shadow("1.1.0", share=0.5, {lane})'),
        (
            "replay",
            {"limit": 9, "since": "1h", **LANE},
            'replay("1.1.0", since="1h", limit=9, {lane})',
        ),
        ("replay", {"filter": {}, **LANE}, '"up_to": '),
        ("canary", {"steps": [0.1], **CANARY}, "steps=[0.1], min_events=20, min_s=0, "),
        ("canary", {"guard": GUARD}, 'errors=None, p95=2, alpha=0.1, measures={"cost": "lower"})'),
        ("promote", {"backlog": "old", "why": "x", "move_alias": True}, 'backlog="old", why="x", '),
        ("rollback", {"to": 1, "why": "x"}, 'sub.rollback(1, why="x")'),
    ],
)
def test_each_setting_of_the_call_is_in_its_form(
    bus: mt.EventBus, front: Front, action: str, args: dict[str, Any], said: str
) -> None:
    if action == "rollback":
        bus.subscription("pages").promote("1.1.0")
        first = bus.subscription("pages").history()[0].number
        args, said = {**args, "to": first}, said.replace("rollback(1", f"rollback({first}")
    found = front.act(action, go=False, version="1.1.0", **args)["code"]
    lane = 'max_rate_per_s=50, effects="live", concurrency=3, why="a look"'
    assert said.replace("{lane}", lane) in found


@pytest.mark.parametrize(
    ("action", "args"),
    [
        ("shadow", {"share": 1, "effects": "recorded", "concurrency": 1}),
        (
            "canary",
            {"steps": [0.01, 0.05, 0.2, 0.5], "min_events": 200, "min_s": 60, "then": "wait"},
        ),
        ("canary", {"guard": {"errors": 1.5, "p95": 1.3, "alpha": 0.05}}),
        ("promote", {"backlog": "new", "move_alias": False}),
        ("replay", {"limit": "", "concurrency": 1}),
    ],
)
def test_usual_settings_are_not_in_the_code(
    front: Front, action: str, args: dict[str, Any]
) -> None:
    assert f'sub.{action}("1.1.0")' in front.act(action, go=False, version="1.1.0", **args)["code"]


@pytest.mark.parametrize(
    ("action", "args", "field", "said"),
    [
        ("shadow", {"share": 2}, "share", "up to 1"),
        ("shadow", {"effects": "lve"}, "effects", "did you mean 'live'"),
        ("shadow", {"concurrency": 0}, "concurrency", "from 1 on"),
        ("canary", {"steps": [0.5, 0.1]}, "steps", "each step is larger"),
        ("canary", {"guard": {"errors": 0.5}}, "guard.errors", "a number from 1 on"),
        ("canary", {"guard": {"errors": None, "p95": None}}, "guard.errors", "no rule"),
        ("canary", {"guard": {"alpha": 7}}, "guard.alpha", "between 0 and 1"),
        ("canary", {"guard": {"measures": {"cost": "less"}}}, "guard.measures", "'lower'"),
        ("canary", {"min_s": -1}, "min_s", "from 0 on"),
        ("canary", {"then": "stop"}, "then", "promote"),
        ("rollback", {"to": 77}, "to", "no binding 77"),
        ("replay", {"limit": 0}, "limit", "from 1 on"),
        ("promote", {"version": "9.9.9"}, "version", "1.1.0"),
        ("bulk_redrive", {"filter": {}, "rate_per_s": 0}, "rate_per_s", "above 0"),
        ("bulk_redrive", {"filter": {}, "rate_per_s": 1e-320}, "rate_per_s", "from 0.001"),
        ("bulk_redrive", {"filter": {}, "rate_per_s": 10**400}, "rate_per_s", "above 0"),
        ("bulk_discard", {"filter": {}, "reason": "\ud800"}, "reason", "half a character"),
        ("canary", {"why": "\ud800"}, "why", "half a character"),
        ("shadow", {"share": 10**400}, "share", "above 0"),
        ("shadow", {"max_rate_per_s": 1e-9}, "max_rate_per_s", "from 0.001"),
        ("shadow", {"concurrency": 5000}, "concurrency", "from 1 to 1000"),
        ("replay", {"since": "9999999y"}, "since", "a time with its zone"),
        ("bulk_discard", {"filter": {}, "reason": " "}, "reason", "must be a text"),
        ("fire", {"json": "{"}, "data", "no JSON"),
    ],
)
def test_an_error_names_the_field_that_it_is_about(
    front: Front, action: str, args: dict[str, Any], field: str, said: str
) -> None:
    given = {"version": "1.1.0", **args}
    number = front.begin("act", {"action": action, "args": given})
    with pytest.raises(Refused, match=said):
        front.end(number)
    assert front.told(number, "answer")[0]["field"] == field


def test_promote_shows_the_verdict_and_keeps_to_it(bus: mt.EventBus, front: Front) -> None:
    bus.subscription("pages").replay("1.1.0", wait=True)
    found = front.act("promote", go=False, version="1.1.0")
    assert 'verdict = sub.compare("1.0.0", "1.1.0")' in found["code"]
    assert "read:1.0.0 -> read:1.1.0" in found["says"]
    with pytest.raises(Refused, match="NotShipped"):
        front.act("promote", version="1.1.0", force=False)
    front.act("promote", version="1.1.0", force=True)
    assert bus.subscription("pages").history()[-1].verdict in ("HOLD", "WORSE", "NOT YET")


def test_correct_counts_tries_and_starts(bus: mt.EventBus, front: Front) -> None:
    sub = bus.subscription("pages")
    sub.promote("1.1.0")
    wait_until(lambda: front.state["names"]["bindings"])
    number = front.state["names"]["bindings"][0]["number"]
    found = front.act("correct", binding=number, dry=True)
    assert found["number"] == 20
    assert "of 20 answers would differ" in found["says"]
    found = front.act("correct", go=False, binding=number, limit=7, max_rate_per_s=5, why="x")
    assert (found["number"], '.start(max_rate_per_s=5, limit=7, why="x")' in found["code"]) == (
        7,
        True,
    )
    assert "dry_run(limit=7)" in front.act("correct", binding=number, dry=True, limit=7)["code"]
    assert front.act("correct", go=False, binding=number, dry=True, limit=7)["number"] == 7
    front.act("correct", binding=number, dry=False)
    wait_until(lambda: sub.correct(number).state == "done")


def test_a_report_is_a_page(
    bus: mt.EventBus, front: Front, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    bus.subscription("pages").replay("1.1.0", wait=True)
    found = front.act("report", old="1.0.0", new="1.1.0")
    assert (tmp_path / "pages-1.0.0-1.1.0.html").read_text().startswith("<!doctype html>")
    assert "to_html(" in found["code"]


def test_compare_lists_the_worst_flips_first(bus: mt.EventBus, front: Front) -> None:
    bus.subscription("pages").replay("1.1.0", wait=True)
    found = front.ask("compare", old="1.0.0", new="1.1.0", by="type")
    worse = [flip["worse"] for flip in found["flips"]]
    assert worse == sorted(worse, reverse=True)
    assert found["counts"]["pairs"] == 20
    assert {"slice", "n", "agree", "interval"} <= set(found["slices"][0])
    first = front.ask("row", seq=found["flips"][0]["seq"], attempt=1, subscription="pages")
    assert first["payload"]


@pytest.mark.parametrize(
    "version", ["9.9.9", "os:system", "read@champion", HOSTILE, 5, None, ["1.1.0"]]
)
def test_only_registered_versions_are_taken_and_nothing_is_imported(
    front: Front, version: Any
) -> None:
    for action in ("promote", "canary", "shadow", "replay"):
        with pytest.raises(Refused):
            front.act(action, version=version)


# -- the code --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "value",
    [
        HOSTILE,
        "plain",
        'a "quoted" one',
        "it's",
        "\x00\ud800\U0001f600",
        float("inf"),
        -0.0,
        10**30,
        True,
        None,
        b"\x00'\"",
        {"a": [1, {"b": "\u2028"}], "": None},
        [],
    ],
)
def test_a_value_in_code_is_that_value(value: Any) -> None:
    code = written(value)
    assert "\n" not in code
    assert code.isprintable()
    assert repr(eval(code)) == repr(value)


def test_every_action_has_its_control_and_is_in_the_table(front: Front) -> None:
    assert set(front.state["controls"]) == set(ACTIONS)


def test_a_recording_keeps_every_action() -> None:
    recording = Recording()
    recording.turn(True)
    for n in range(1_500):
        recording.add(Script((Step(call(Name("bus"), "publish", "pages", n)),)))
    assert recording.code().count("bus.publish(") == 1_500


def recorded(bus: mt.EventBus) -> str:
    """Do a series of actions by messages, and return the recorded cell."""
    front = Front(bus.dashboard())
    front.ask("record", on=True)
    front.act("pause", subscription="pages")
    front.ask("choose", subscription="pages")
    front.act("fire", data={"n": 100, "text": HOSTILE})
    front.act("fire")
    front.act("resume")
    until_settled(bus)
    row = dead(front)
    front.act("redrive", seq=row["seq"], data={"n": 41})
    until_settled(bus)
    row = dead(front)
    front.act("discard", seq=row["seq"], reason=HOSTILE)
    front.act("bulk_redrive", filter={"reason": "rejected"}, rate_per_s=1000)
    until_settled(bus)
    front.act("promote", version="1.1.0")
    front.act("bulk_redrive", filter={})
    until_settled(bus)
    front.act("rollback")
    front.ask("record", on=False)
    front.act("pause")  # not any more
    front.act("resume")
    return str(front.ask("recorded")["code"])


@pytest.mark.parametrize("url", ["memory", "sqlite"], indirect=True)  # a server has no copy
@pytest.mark.parametrize("default", [False, True])
def test_the_recorded_cell_does_the_same_to_a_copy_of_the_log(
    url: str, tmp_path: Path, default: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    with opened(url) as bus:
        bus.fire("pages", PAGES, progress=False)
        until_settled(bus)
        other = copied(bus, tmp_path / "copy.db")
        if default:
            monkeypatch.setattr(mt, "_default", bus)
        code = recorded(bus)
        done, history = answers(bus), [b.version for b in bus.subscription("pages").history()]
        left = len(bus.subscription("pages").dead_letters())
        if default:
            monkeypatch.setattr(mt, "_default", None)

    assert code.startswith("import mltrigger as mt\n")
    assert ("mt.subscription(" in code) is default
    assert code.count(".subscription(") == 1
    assert HOSTILE not in code
    with opened(other) as again:
        if default:
            monkeypatch.setattr(mt, "_default", again)
        run_cell(code, again)
        until_settled(again)
        assert answers(again) == done
        assert [b.version for b in again.subscription("pages").history()][
            -len(history) :
        ] == history
        assert len(again.subscription("pages").dead_letters()) == left
        if default:
            monkeypatch.setattr(mt, "_default", None)


# -- who may ---------------------------------------------------------------------------------------


def test_a_read_only_view_shows_code_and_does_nothing(bus: mt.EventBus) -> None:
    front = Front(bus.subscription("pages").dashboard(read_only=True))
    assert front.state["read_only"]
    assert not any(c["enabled"] for c in front.state["controls"].values())
    before = answers(bus)
    seq = dead(front)["seq"]
    given = {"seq": seq, "version": "1.1.0", "reason": "x", "old": "1.0.0", "new": "1.1.0"}
    for action in ACTIONS:
        with pytest.raises(Refused, match="read-only"):
            front.act(action, **given)
    assert front.act("pause", go=False)["code"].endswith("sub.pause()")
    assert (answers(bus), bus.subscription("pages").state) == (before, "listening")


def test_a_slow_question_does_not_hold_up_a_pause(url: str) -> None:
    begun, go = threading.Event(), threading.Event()

    def slow(_: Any) -> None:
        begun.set()
        go.wait(30)
        raise mt.Reject("slow")

    with mt.connect(url) as bus:
        go.set()
        sub = bus.subscribe("pages", mt.model("slow", version="1.0.0")(slow), max_attempts=1)
        sub.fire([1, 2, 3, 4], progress=False)
        go.clear()
        begun.clear()
        front = Front(sub.dashboard())
        rows = front.rows(outcome="dead", subscription=sub.name)
        asked = [
            front.begin("act", {"action": "dry_run", "args": {"seq": r["seq"]}, "go": True})
            for r in rows
        ]
        assert begun.wait(30)
        began_s = time.monotonic()
        front.act("pause")
        assert time.monotonic() - began_s < 5
        assert sub.state == "paused"
        go.set()
        assert all(front.end(number)["done"] for number in asked)
