"""Dead letters: seen whole, tried without settling, sent again under their own ids, put away with a
reason.
"""

from __future__ import annotations

import functools
import json
import pickle
from typing import Any

import pytest
from shared import is_settled, outcomes, settle, wait_until

import mltrigger as mt
from mltrigger.testing import SimulatedClock


def strict(page: dict[str, Any]) -> dict[str, Any]:
    if page["text"] is None:
        raise mt.Reject("a page without text")
    return {"words": len(page["text"].split())}


@pytest.fixture
def sub(bus: mt.EventBus) -> mt.Subscription:
    """A subscription with the dead letters "a" and "b", and "c" that succeeded."""
    sub: mt.Subscription = bus.subscribe("pages", strict, version="1.0.0")
    for id_, text in (("a", None), ("b", None), ("c", "three small words")):
        bus.publish("pages", {"text": text}, id=id_, subject=f"{id_}.png")
    wait_until(lambda: is_settled(sub))
    return sub


def test_dead_letter_shows_everything_there_is_to_know(sub: mt.Subscription) -> None:
    dead = sub.dead_letters()

    assert list(dead["event_id"]) == ["a", "b"]
    row = dead.iloc[0]
    assert (row["subject"], row["reason"], row["attempts"], row["redriven"]) == (
        "a.png",
        "rejected",
        1,
        0,
    )
    assert (row["model"], row["version"], row["error_type"], row["error"]) == (
        "strict",
        "1.0.0",
        "Reject",
        "a page without text",
    )
    assert "raise mt.Reject" in row["traceback"]
    assert row["data"] == '{"text":null}'
    assert row["raw"] == b'{"text":null}'


def test_dry_run_tries_another_version_and_changes_nothing(
    bus: mt.EventBus, sub: mt.Subscription
) -> None:
    @mt.model("strict", version="1.1.0")
    def lenient(page: dict[str, Any]) -> dict[str, Any]:
        print("was empty")
        return {"words": len((page["text"] or "").split())}

    bus.register(lenient)
    before = (sub.depth(), len(bus.invocations()), len(bus.events()))

    now, new, unregistered = (
        sub.dry_run(),
        sub.dry_run("a", version="1.1.0"),
        sub.dry_run(version=lambda page: page and 7),
    )

    assert list(now["outcome"]) == ["failed", "failed"]
    assert list(now["error"]) == ["Reject: a page without text"] * 2
    assert (new["version"][0], new["outcome"][0], new["words"][0], new["stdout"][0]) == (
        "1.1.0",
        "succeeded",
        0,
        "was empty\n",
    )
    assert list(unregistered["output"]) == [7, 7]
    assert list(sub.dry_run("a", data={"text": "two words"})["words"]) == [2]
    assert (sub.depth(), len(bus.invocations()), len(bus.events())) == before


def test_redriven_events_run_again_under_their_ids_with_the_repaired_model(
    bus: mt.EventBus, sub: mt.Subscription
) -> None:
    @mt.model("strict", version="1.1.0")
    def lenient(page: mt.Event) -> dict[str, Any]:
        return {"id": page.id, "again": page.extensions["redrive"]}

    sub = bus.subscribe("pages", lenient)
    assert sub.redrive() == 2
    wait_until(lambda: is_settled(sub))

    done = sub.results()
    assert sorted(done["id"].dropna()) == ["a", "b"]
    assert list(done["again"].dropna()) == [1, 1]
    assert list(sub.dead_letters()["event_id"]) == []
    assert sorted(outcomes(sub)) == ["failed", "failed", "succeeded", "succeeded", "succeeded"]
    assert bool(bus.audit()["balanced"].all())
    assert sub.redrive() == 0


def test_one_event_is_redriven_with_corrected_data_and_the_archive_stays(
    bus: mt.EventBus, sub: mt.Subscription
) -> None:
    assert sub.redrive("b", data={"text": "now it has words"}) == 1
    wait_until(lambda: is_settled(sub))

    assert sub.results()["words"].dropna().tolist() == [3, 4]
    assert list(bus.events()["data"][:2]) == ['{"text":null}'] * 2
    assert "with other data" in " ".join(bus.explain("b", sub.name)["detail"])


def test_frame_of_dead_letters_chooses_what_is_redriven_or_discarded(
    bus: mt.EventBus, sub: mt.Subscription
) -> None:
    dead = sub.dead_letters()

    assert sub.discard(dead[dead["event_id"] == "a"], "a test page") == 1
    assert sub.redrive(dead[dead["event_id"] == "b"]) == 1
    wait_until(lambda: is_settled(sub) and len(sub.dead_letters()) == 1)

    steps = bus.explain("a", sub.name)
    assert "discarded" in steps.loc[steps["step"] == "dead letter", "detail"].item()
    assert "a test page" in steps.loc[steps["step"] == "dead letter", "detail"].item()
    (row,) = sub.dead_letters().to_dict(orient="records")
    assert (row["event_id"], row["attempts"], row["redriven"]) == ("b", 2, 1)
    assert bool(bus.audit()["balanced"].all())


@pytest.fixture
def keyed(bus: mt.EventBus, clock: SimulatedClock) -> mt.Subscription:
    """A subscription with dead letters of two versions, two reasons and two keys."""

    def judged(page: dict[str, Any]) -> None:
        raise mt.Reject(f"É no {page['n']}") if page["n"] % 2 else ValueError(f"bad {page['n']}")

    for version in ("1.0.0", "2.0.0"):
        sub = bus.subscribe(
            "keyed", judged, version=version, name="keyed", key="team", max_attempts=1
        )
        for n in range(6):
            bus.publish("keyed", {"n": n, "team": "ab"[n % 3 == 0]}, subject=f"{n}.png")
            clock.advance(s=1)
        wait_until(functools.partial(is_settled, sub))
    return sub


def test_a_redrive_with_other_data_is_ordered_and_listed_by_their_key(
    keyed: mt.Subscription, bus: mt.EventBus
) -> None:
    letter = keyed.dead_letters(key="a").iloc[0]
    keyed.stop()
    keyed.redrive(letter, data={"n": 2, "team": "c"})
    depth = keyed.depth(by="key")
    assert depth[["key", "waiting"]].values.tolist() == [["c", 1]]
    keyed.start()
    wait_until(lambda: is_settled(keyed))

    assert keyed.dead_letters(key="c")["event_id"].tolist() == [letter["event_id"]]
    assert letter["event_id"] not in keyed.dead_letters(key="a")["event_id"].tolist()
    assert {*keyed.invocations(key="c")["event_id"]} == {letter["event_id"]}
    assert keyed.discard(None, "known", where={"key": "c"}) == 1


WHERE: list[dict[str, Any]] = [
    {},
    {"version": "1.0.0"},
    {"reason": "rejected"},
    {"reason": ["rejected", "model_error"], "version": ["2.0.0"]},
    {"key": "b"},
    {"text": "é NO"},
    {"text": "4.png"},
    {"since": "4s"},
    {"until": "4s", "reason": "model_error"},
    {"text": "nothing like that"},
]


@pytest.mark.parametrize("where", WHERE, ids=str)
def test_where_means_the_same_dead_letters_as_the_frame(
    keyed: mt.Subscription, bus: mt.EventBus, where: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mltrigger.reports.dead_letters._BATCH", 4)
    everything = {*keyed.dead_letters()["event_id"]}
    wanted = {*keyed.dead_letters(**where)["event_id"]}

    assert keyed.discard(None, "known", where=where) == len(wanted)

    assert {*keyed.dead_letters()["event_id"]} == everything - wanted
    assert len(everything) == 12


def test_redrive_of_all_that_match_keeps_to_the_rate_over_its_parts(
    keyed: mt.Subscription, bus: mt.EventBus, clock: SimulatedClock, monkeypatch: Any
) -> None:
    monkeypatch.setattr("mltrigger.reports.dead_letters._BATCH", 2)
    keyed.stop()
    assert keyed.redrive(where={"reason": "rejected"}, rate_per_s=0.5) == 6
    assert (keyed.depth().visible, keyed.depth().delayed) == (1, 5)
    clock.advance(s=5)
    assert keyed.depth().visible == 3


def test_up_to_leaves_out_what_was_recorded_later(keyed: mt.Subscription, bus: mt.EventBus) -> None:
    up_to = bus.log.newest_row()
    bus.publish("keyed", {"n": 1}, id="later")
    wait_until(lambda: is_settled(keyed))

    assert keyed.discard(None, "known", where={"up_to": up_to}) == 12

    assert keyed.dead_letters()["event_id"].tolist() == ["later"]


@pytest.mark.parametrize(
    ("where", "said"),
    [
        ({"reson": "rejected"}, "did you mean 'reason'"),
        ({"outcome": "dead"}, "no filter 'outcome'"),
        ({"up_to": "now"}, "number of a record"),
        ("rejected", "filters by name"),
    ],
)
def test_a_wrong_where_is_refused(keyed: mt.Subscription, where: Any, said: str) -> None:
    with pytest.raises(mt.MltriggerError, match=said):
        keyed.redrive(where=where)
    with pytest.raises(mt.InvalidEvent, match="leave events and source out"):
        keyed.redrive("a", where={})


def test_redrive_at_a_rate_spreads_the_events(
    bus: mt.EventBus, clock: SimulatedClock, sub: mt.Subscription
) -> None:
    sub.stop()
    assert sub.redrive(rate_per_s=0.1) == 2

    assert (sub.depth().visible, sub.depth().delayed) == (1, 1)
    clock.advance(s=10)
    assert (sub.depth().visible, sub.depth().delayed) == (2, 0)


def test_failures_of_a_redriven_event_are_counted_anew(
    bus: mt.EventBus, clock: SimulatedClock
) -> None:
    def fails(page: Any) -> None:
        raise ValueError(page)

    sub = bus.subscribe("pages", fails, max_attempts=2)
    bus.publish("pages", 1)
    settle(bus, clock, sub)
    assert outcomes(sub) == ["failed", "dead"]

    sub.redrive()
    settle(bus, clock, sub)

    assert outcomes(sub) == ["failed", "failed", "failed", "dead"]
    assert list(sub.invocations()["attempt"]) == [1, 2, 3, 4]


@pytest.mark.parametrize(
    ("act", "error", "says"),
    [
        pytest.param(
            lambda sub: sub.redrive("aa"), mt.NotFound, "did you mean 'a'", id="a wrong id"
        ),
        pytest.param(
            lambda sub: sub.redrive("c"), mt.NotFound, "dead letter", id="one that succeeded"
        ),
        pytest.param(
            lambda sub: sub.redrive(data=1),
            mt.InvalidEvent,
            "2 were chosen",
            id="one correction for two",
        ),
        pytest.param(
            lambda sub: sub.redrive(rate_per_s=0), mt.InvalidEvent, "rate_per_s", id="no rate"
        ),
        pytest.param(
            lambda sub: sub.redrive("a", data=object()),
            mt.NotEncodable,
            "object",
            id="data without a JSON form",
        ),
        pytest.param(
            lambda sub: sub.dry_run("a", version="9.9.9"),
            mt.NotFound,
            "strict:1.0.0",
            id="an unknown version",
        ),
        pytest.param(
            lambda sub: sub.redrive(sub.invocations(columns=["outcome"])),
            mt.InvalidEvent,
            "event_id",
            id="a frame without ids",
        ),
    ],
)
def test_what_cannot_be_done_is_said_and_changes_nothing(
    sub: mt.Subscription, act: Any, error: type[Exception], says: str
) -> None:
    with pytest.raises(error, match=says):
        act(sub)

    assert list(sub.dead_letters()["event_id"]) == ["a", "b"]


# -- as a notebook shows them ----------------------------------------------------------------------

HOSTILE = "<img src=x onerror=alert(1)>"


def test_dead_letters_are_a_card_with_error_traceback_and_data(sub: mt.Subscription) -> None:
    page = sub.dead_letters()._repr_html_()

    assert "2 dead letters" in page
    assert "a.png" in page
    assert "rejected · 1 attempt · strict:1.0.0 · 2" in page
    assert "Reject: a page without text" in page
    assert page.count("<details>") == 6  # traceback, data and id of each
    assert "raise mt.Reject(&quot;a page without text&quot;)" in page
    assert "File &quot;test_dead_letters.py&quot;" in page  # no folder of this machine
    assert "{&quot;text&quot;:null}" in page


def test_dead_letters_that_are_chosen_are_a_card_and_a_part_is_a_table(
    sub: mt.Subscription,
) -> None:
    dead = sub.dead_letters()

    assert "1 dead letter<" in sub.dead_letters(text="b.png")._repr_html_()
    assert 'class="dataframe"' in dead[["reason", "error"]]._repr_html_()
    assert 'class="dataframe"' in dead.head(1)._repr_html_()
    assert "0 dead letters" in sub.dead_letters(reason="timeout")._repr_html_()
    assert "traceback" in repr(dead)
    assert "a page without text" in repr(dead)


def test_card_of_many_shows_some_and_says_how_many_more(bus: mt.EventBus) -> None:
    sub = bus.subscribe("pages", strict, version="1.0.0")
    bus.fire("pages", [{"text": None}] * 25, progress=False)

    page = sub.dead_letters()._repr_html_()

    # in the line and in the traceback of each of 20
    assert page.count("Reject: a page without text") == 40
    assert "5 more: choose by dead_letters(reason=…, text=…, since=…)" in page


def test_nothing_of_a_dead_letter_is_markup(bus: mt.EventBus) -> None:
    def hostile(page: Any) -> Any:
        raise ValueError(HOSTILE + "\u202e" + "x" * 1_000)

    sub = bus.subscribe("pages", hostile, max_attempts=1)
    bus.fire("pages", [mt.Event({HOSTILE: HOSTILE}, subject=HOSTILE)], progress=False)

    page = sub.dead_letters()._repr_html_()

    assert "<img" not in page
    assert page.count("&lt;img src=x onerror=alert(1)&gt;") >= 6
    assert "whole error" in page
    assert "x" * 1_000 in page


def test_what_was_done_is_a_number_that_is_shown_as_a_sentence(
    bus: mt.EventBus, sub: mt.Subscription
) -> None:
    discarded, sent, none = sub.discard("a", "a test page"), sub.redrive(), sub.redrive([])

    assert [repr(n) for n in (discarded, sent, none)] == [
        "1 dead letter put away: a test page",
        "1 dead letter sent again; bus.wait() waits until they have ended",
        "no dead letter to send again",
    ]
    assert (discarded, sent, none, discarded + sent) == (1, 1, 0, 2)
    assert (
        f"{sent} of {discarded}",
        str(sent),
        json.dumps([sent]),
        pickle.loads(pickle.dumps(sent)),
    ) == ("1 of 1", "1", "[1]", 1)


def test_settings_and_counts_are_cards(bus: mt.EventBus, sub: mt.Subscription) -> None:
    shown = [
        sub.depth(),
        sub.policy,
        bus.retain(max_age_s=3600),
        bus.prune(),
        bus.publish("pages", {"text": ""}),
        bus.register(strict),
    ]

    words = ["dead</th>", "max_attempts", "3,600 s", "invocations", "delivered to", "digest"]
    for value, word in zip(shown, words, strict=True):
        page = value._repr_html_()
        assert page.startswith('<div style="')
        assert type(value).__name__ in page
        assert word in page
