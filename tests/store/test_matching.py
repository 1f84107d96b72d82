"""Attempts that match filters: found in SQL, page by page, as a look at the whole frame finds them."""

from __future__ import annotations

import dataclasses
import itertools
import json
from collections.abc import Callable, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

import pandas as pd
import pytest
from pandas.testing import assert_frame_equal
from shared import is_settled, wait_until

import mltrigger as mt
from mltrigger.store import matched
from mltrigger.store.corrections import Replacement
from mltrigger.store.matching import Matching, folded
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
            return self.is_told(row, shown(value))
        return value == "all" or row[name] in values

    def is_told(self, row: dict[str, Any], needle: str) -> bool:
        key = (row["subscription"], row["event_id"], row["role"], row["attempt"])
        output, type_, error = self.raw[key]
        said = f"{type_}: {error or ''}" if type_ else error
        places = [output, said, self.subjects[row["event_id"]], row["event_id"]]
        written = json.loads(output) if output else None
        places += list(map(str, written.values())) if isinstance(written, dict) else []
        return any(place and needle in shown(place) for place in places)


def shown(text: str) -> str:
    """Return a text in small letters. PostgreSQL has a sign in place of NUL."""
    return folded(text).replace("\0", "␀")


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


@pytest.mark.slow(every=2)
def test_filters_find_the_attempts_that_a_look_at_the_whole_frame_finds(
    lived: mt.EventBus,
    clock: SimulatedClock,
    url: str,
    sample: Callable[[Sequence[Any], int], Sequence[Any]],
) -> None:
    cases = CASES if url == "memory://" else sample(CASES, 3)
    whole = lived.invocations(role="all")
    by_name = {"pages": lived.invocations("pages", role="all"), None: whole}
    assert set(whole["outcome"]) >= {"succeeded", "dead", "running"}
    slow, found = Slow(lived), 0
    for case, name in itertools.product(cases, by_name):
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
    assert found > len(cases)


COLUMNS = ("seq", "subscription", "attempt", "role", "outcome", "row")
WANTED = [
    Matching(),
    Matching(roles=ROLES),
    Matching(roles=("shadow",)),
    Matching(outcomes=("dead",)),
    Matching(outcomes=("dead", "running")),
    Matching(outcomes=("succeeded",), versions=("1.1.0",)),
    Matching(reasons=("rejected",)),
    Matching(keys=("north", "x")),
    Matching(text="é"),
    Matching(text="É", roles=ROLES),
    Matching(text="nowhere"),
]


@pytest.mark.slow(every=5)  # each limit, each store
@pytest.mark.parametrize("limit", [1, 2, 7, 1000])
def test_pages_put_together_are_all_that_match_and_the_newest_come_first(
    lived: mt.EventBus, limit: int
) -> None:
    for wanted in WANTED:
        whole = lived.log.matched(COLUMNS, wanted, None)
        pages, before = [], None
        while True:
            page = lived.log.matching(COLUMNS, wanted, before, limit)
            assert len(page.rows) <= limit
            pages += page.rows
            if (before := page.next) is None:
                break
            assert page.rows
        running = [row for row in whole if row[4] == "running"]
        recorded = [row for row in whole if row[4] != "running"]
        first = [*running[::-1]][:limit]  # those that one page has no room for are left out
        assert pages == first + recorded[::-1]


def test_page_of_a_cursor_stays_the_same_when_more_is_recorded(lived: mt.EventBus) -> None:
    first = lived.log.matching(COLUMNS, Matching(outcomes=("dead",)), limit=3)
    second = lived.log.matching(COLUMNS, Matching(outcomes=("dead",)), first.next, limit=3)
    more = lived.subscribe("more", answer, name="more", version="3.0.0", max_attempts=1)
    lived.publish_batch("more", [{"n": 4, "say": "x"}] * 5)
    wait_until(lambda: is_settled(more))

    again = lived.log.matching(COLUMNS, Matching(outcomes=("dead",)), first.next, limit=3)
    assert again.rows == second.rows
    assert lived.log.matching(COLUMNS, Matching(outcomes=("dead",)), limit=3).rows != first.rows


def test_count_is_that_of_the_rows_or_more_than_the_limit(lived: mt.EventBus) -> None:
    pages = lived.spec("pages").id
    for wanted in [*WANTED, Matching(pages), Matching(pages, outcomes=("dead", "succeeded"))]:
        n = len(lived.log.matched(("seq",), wanted, None))
        assert lived.log.count(wanted) == (n, True), wanted
        if n > 2 and not wanted.is_plain:
            assert lived.log.count(wanted, at_most=2) == (2, False), wanted
        assert lived.log.count(wanted, at_most=n) == (n, True), wanted


def test_count_has_corrections_and_nothing_for_no_outcome(lived: mt.EventBus) -> None:
    sub = lived.subscription("pages")
    lived.subscribe("pages", answer, name="pages", version="1.2.0", key="tenant", max_attempts=1)
    corrections = sub.correct(0)
    corrections.start()
    corrections.wait(60)
    wanted = Matching(lived.spec("pages").id)

    for each in (wanted, Matching()):
        rows = lived.log.matched(("role",), each, None)
        assert ("correction",) in rows
        assert lived.log.count(each) == (len(rows), True)
    nothing = dataclasses.replace(wanted, outcomes=())
    assert lived.log.count(nothing) == (0, True)
    assert lived.log.count(wanted.final(["dead"]).final(["succeeded"])) == (0, True)


def test_count_has_no_attempts_that_were_deleted_around_a_dead_letter(bus: mt.EventBus) -> None:
    sub = bus.subscribe("pages", answer, name="pages", version="1.0.0", max_attempts=1)
    bus.publish_batch("pages", [{"n": n, "say": "x"} for n in (4, 0, 1, 2, 3)])
    wait_until(lambda: is_settled(sub))
    bus.retain(max_events=2)
    assert bus.prune().events == 2

    rows = bus.log.matched(("seq",), Matching(bus.spec("pages").id), None)

    assert len(rows) == 3
    assert bus.log.count(Matching(bus.spec("pages").id)) == (3, True)


@pytest.mark.slow(every=4)  # each size, each store
@pytest.mark.parametrize("size", [1, 7, 100])
def test_pages_go_back_the_way_they_came(lived: mt.EventBus, size: int) -> None:
    columns = ("row", *COLUMNS)
    for wanted in WANTED:
        older, before = list[list[Any]](), matched.FIRST
        while before is not None:
            page = lived.log.matching(columns, wanted, before, size, None)
            older, before = [*older, page.rows], page.next
        rows = [row for page in older for row in page]
        newer, after = list[Any](), 0
        while after is not None:
            page = lived.log.newer(columns, wanted, after, size, None)
            assert len(page.rows) <= size
            newer, after = [*page.rows, *newer], page.next
        assert newer == rows
        for place, row in [*enumerate(rows)][::9]:  # from any row both ways
            up = lived.log.newer(columns, wanted, row[0], size, None).rows
            assert up == rows[max(0, place - size) : place]
            down = lived.log.matching(columns, wanted, row[0], size, None).rows
            assert down == rows[place + 1 :][:size]


def test_a_page_of_newer_attempts_that_takes_too_long_says_how_far_it_was(
    lived: mt.EventBus, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mltrigger.store.matched._LEAST", 8)
    seconds = itertools.count()
    monkeypatch.setattr(type(lived.log), "_timer", lambda _: float(next(seconds)))
    wanted, after, rows, looked = Matching(text="page-a-1"), 0, list[Any](), list[int]()
    while after is not None:
        page = lived.log.newer(COLUMNS, wanted, after, 200, budget_s=3.0)
        looked += [page.looked_us] if page.looked_us else []
        rows, after = [*page.rows, *rows], page.next

    assert len(looked) > 2
    assert looked == sorted(looked)
    assert rows == lived.log.matched(COLUMNS, wanted, None)[::-1]


def test_seqs_are_the_events_that_match_each_once(lived: mt.EventBus) -> None:
    for wanted in WANTED:
        expected = {
            seq
            for seq, _, _, _, outcome, _ in lived.log.matched(COLUMNS, wanted, None)
            if outcome != "running"
        }
        lists = list(lived.log.seqs(wanted, size=4))
        assert all(0 < len(each) <= 4 for each in lists)
        found = [seq for each in lists for seq in each]
        assert (len(found), {*found}) == (len(expected), expected)


def test_a_look_that_takes_too_long_ends_and_says_how_far_it_was(
    lived: mt.EventBus, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mltrigger.store.matched._LEAST", 8)
    seconds = itertools.count()
    monkeypatch.setattr(type(lived.log), "_timer", lambda _: float(next(seconds)))
    wanted, looked, before, rows, pages = Matching(text="page-a-1"), [], matched.FIRST, [], 0
    while before is not None:
        page = lived.log.matching(COLUMNS, wanted, before, 200, budget_s=3.0)
        looked += [page.looked_us] if page.looked_us else []
        rows, before, pages = rows + page.rows, page.next, pages + 1

    assert pages > 3
    assert looked == sorted(looked, reverse=True)
    assert rows == lived.log.matched(COLUMNS, wanted, None)[::-1]
    assert not lived.log.count(wanted, budget_s=3.0).is_exact


def test_keys_are_told_of_subscriptions_that_have_them(lived: mt.EventBus) -> None:
    rows = lived.log.matched(("seq", "subscription"), Matching(keys=("süd",)), None)
    pages, others = lived.spec("pages").id, lived.spec("others").id
    seqs = {seq for seq, _ in rows}

    found = lived.log.keys_of([*((pages, seq) for seq in seqs), *((others, seq) for seq in seqs)])

    assert seqs
    assert found == {(pages, seq): "süd" for seq in seqs}


@pytest.mark.parametrize(
    ("wanted", "error", "said"),
    [
        ({"outcome": "suceeded"}, mt.NotFound, "no outcome 'suceeded'; did you mean 'succeeded'"),
        ({"outcome": ["dead", "gone"]}, mt.NotFound, "no outcome 'gone'"),
        ({"version": "1.0"}, mt.NotFound, "no version '1.0'; did you mean '1."),
        ({"reason": "rejectd"}, mt.NotFound, "no reason 'rejectd'; did you mean 'rejected'"),
        ({"role": "life"}, mt.NotFound, "no role 'life'; did you mean 'live'"),
        ({"version": 1}, mt.InvalidEvent, "version must be a text or several texts; got 1"),
        ({"reason": [1]}, mt.InvalidEvent, "reason must be a text or several texts"),
        ({"text": ""}, mt.InvalidEvent, "text must be a text that is not empty"),
        ({"text": 7}, mt.InvalidEvent, "text must be a text that is not empty"),
        ({"text": "\ud800"}, mt.InvalidEvent, "holds a lone surrogate"),
        ({"key": "\ud800"}, mt.InvalidEvent, "holds a lone surrogate"),
        ({"until": "yesterday"}, mt.InvalidEvent, "until must be a time with its zone"),
        ({"key": "north"}, mt.InvalidPolicy, "the events of 'others' have no key: subscribe with"),
    ],
    ids=lambda value: str(value)[:30] if isinstance(value, dict) else None,
)
def test_wrong_filter_is_refused_with_the_near_ones(
    wanted: dict[str, Any], error: type[Exception], said: str
) -> None:
    with mt.connect("memory://") as bus:
        sub = bus.subscribe("pages", answer, name="others", version="1.0.0", listen=False)
        bus.register(mt.model("others", version="1.1.0")(len))
        keyed = bus.subscribe("pages", answer, name="keyed", key="tenant", listen=False)
        asked = keyed if error is not mt.InvalidPolicy else sub
        for frame in (asked.invocations, asked.results):
            with pytest.raises(error, match=said.replace("(", r"\(")):
                frame(**wanted)


def test_results_and_dead_letters_take_the_filters(
    lived: mt.EventBus, clock: SimulatedClock
) -> None:
    sub = lived.subscription("pages")
    results, letters = sub.results(), sub.dead_letters()

    for version in ("1.0.0", "1.1.0"):
        assert_frame_equal(
            sub.results(version=version).dropna(axis=1, how="all"),
            results[results["version"] == version].reset_index(drop=True).dropna(axis=1, how="all"),
        )
        expected = letters[letters["version"] == version].reset_index(drop=True)
        assert_frame_equal(pd.DataFrame(sub.dead_letters(version=version)), pd.DataFrame(expected))
        assert len(expected)
    reasons = [sub.dead_letters(reason=reason) for reason in ("rejected", "model_error")]
    assert sum(map(len, reasons)) == len(letters)
    assert set(sub.results(outcome="dead", limit=4)["outcome"]) == {"dead"}
    assert len(sub.results(outcome="dead", limit=4)) == 4
    recent = sub.dead_letters(since=at(clock, 90), until=at(clock, 30))
    assert 0 < len(recent) < len(letters)
    assert set(recent["event_id"]) <= set(letters["event_id"])
    assert len(sub.dead_letters(text="VALUEERROR")) == len(reasons[1])
    keyed = sum(len(sub.dead_letters(key=key)) for key in ("north", "süd", "7", ""))
    assert keyed == len(letters)


def test_many_that_match_are_read_by_columns_with_the_same_rows(
    lived: mt.EventBus, monkeypatch: pytest.MonkeyPatch
) -> None:
    wanted = [
        {"outcome": ["succeeded", "running"]},
        {"version": "1.0.0", "role": "all"},
        {"reason": "rejected"},
        {"until": "1s", "columns": ["event_id"]},
        {"outcome": "dead", "columns": ["outcome", "seq"][:1]},
    ]
    by_rows = [lived.invocations("pages", **each) for each in wanted]
    monkeypatch.setattr("mltrigger.reports.views._FEW", 0)

    for each, expected in zip(wanted, by_rows, strict=True):
        assert_frame_equal(lived.invocations("pages", **each), expected)


def test_answer_that_was_replaced_is_found_as_it_is_shown(
    lived: mt.EventBus, monkeypatch: pytest.MonkeyPatch
) -> None:
    sub = lived.subscription("pages")
    before = sub.results(outcome="succeeded", version="1.0.0")
    key = (before["event_id"][0], before["source"][0])
    new = Replacement(model="pages", version="1.1.0", output='{"said": "Corrected"}', measures=None)
    monkeypatch.setattr(lived.rollout.corrector, "replacements", lambda spec: {key: new})

    assert list(sub.results(reason="corrected")["event_id"]) == [key[0]]
    assert list(sub.results(text="corrECTED")["event_id"]) == [key[0]]
    assert key[0] in set(sub.results(version="1.1.0")["event_id"])
    assert list(sub.results(outcome="succeeded", version="1.0.0")["event_id"]) == [
        *before["event_id"][1:]
    ]
    assert len(sub.results(outcome="succeeded", limit=2)) == 2
