"""The questions of a view: every answer, and no trouble from any message."""

from __future__ import annotations

import itertools
import json
import random
import threading
from collections.abc import Iterator
from typing import Any

import pytest
from cockpit import Front, Refused, until_settled
from shared import in_threads, wait_until

import mltrigger as mt
from mltrigger.notebook.cockpit import images
from mltrigger.notebook.cockpit.actions.table import ACTIONS
from mltrigger.notebook.cockpit.answering import MOST_BYTES
from mltrigger.notebook.cockpit.figures import Columns, figures
from mltrigger.notebook.cockpit.looking import Looker
from mltrigger.notebook.cockpit.pool import MOST_WAITING, Pool
from mltrigger.store.glance import Attempt

HOSTILE = "<img src=x onerror=alert(1)>\u202e\x1b[31m"
PNG = b"\x89PNG\r\n\x1a\n" + b"\x00" * 64
ASKS = ("choose", "rows", "row", "compare", "act", "record", "recorded")


def read(page: Any) -> Any:
    if page.get("bad"):
        print("printed", page["n"])
        raise mt.Reject("no page")
    return {"n": page["n"]}


@pytest.fixture
def bus(url: str) -> Iterator[mt.EventBus]:
    with mt.connect(url) as bus:
        sub = bus.subscribe(
            "pages",
            mt.model("read", version="1.0.0")(read),
            name="pages",
            max_attempts=1,
            emit="texts",
        )
        bus.subscribe("texts", mt.model("len", version="2.0.0")(len), name="lengths")
        sub.fire([{"n": n, "bad": n % 5 == 0} for n in range(20)], progress=False)
        until_settled(bus)
        yield bus


@pytest.fixture
def front(bus: mt.EventBus) -> Iterator[Front]:
    widget = bus.dashboard()
    yield Front(widget)
    widget.close()


# -- the state -------------------------------------------------------------------------------------


def test_the_state_draws_the_whole_bus(front: Front) -> None:
    state = front.state
    assert state["chosen"] is None
    topics = {t["name"]: t["events"] for t in state["picture"]["topics"]}
    assert topics == {"pages": 20, "texts": 16}
    pages, lengths = state["picture"]["subscriptions"]
    assert (pages["name"], pages["topic"], pages["emits"]) == ("pages", "pages", ["texts"])
    assert pages["versions"] == [{"version": "1.0.0", "role": "serving", "share": 1.0}]
    assert (pages["done"], pages["dead"], pages["state"]) == (20, 4, "listening")
    assert lengths["done"] == 16
    assert state["counts"] == {"succeeded": 32, "dead": 4}
    assert state["log"]["rows"] == 36
    assert sum(map(sum, state["throughput"]["versions"].values())) == 36
    assert sum(state["throughput"]["failed"]) == 4
    assert set(state["throughput"]["versions"]) == {"read:1.0.0", "len:2.0.0"}
    assert set(state["controls"]) == set(ACTIONS)
    assert not state["controls"]["pause"]["enabled"]


def test_the_state_is_json_of_a_bounded_size(front: Front) -> None:
    text = json.dumps(front.state, allow_nan=False)
    assert json.loads(text) == front.state
    assert len(text) < 40_000


def test_choosing_a_subscription_changes_all_figures(front: Front) -> None:
    assert front.ask("choose", subscription="pages") == {}
    state = front.state
    assert (state["chosen"], state["counts"]) == ("pages", {"succeeded": 16, "dead": 4})
    assert state["names"]["versions"] == ["1.0.0"]
    assert state["names"]["reasons"] == ["rejected"]
    assert state["controls"]["pause"]["enabled"]
    assert set(state["throughput"]["versions"]) == {"1.0.0"}
    front.ask("choose", subscription=None)
    assert front.state["chosen"] is None
    with pytest.raises(Refused, match="did you mean 'pages'"):
        front.ask("choose", subscription="page")


def test_latency_says_the_same_as_the_frame(bus: mt.EventBus, front: Front) -> None:
    front.ask("choose", subscription="pages")
    frame = bus.subscription("pages").latency().set_index("stage")
    table = front.state["latency"]["table"]
    assert [row["stage"] for row in table] == ["queue", "model", "total"]
    for row in table:
        for name in ("count", "p50_ms", "p95_ms", "p99_ms", "max_ms"):
            assert row[name] == pytest.approx(frame.loc[row["stage"], name], abs=0.001)
    ecdf = front.state["latency"]["ecdf"][0]
    assert ecdf["ms"] == sorted(ecdf["ms"])
    assert (ecdf["share"][-1], ecdf["count"], len(ecdf["ms"])) == (1.0, 20, 20)


def test_latency_over_time_is_that_of_the_whole_way() -> None:
    waited = Attempt(1, 0, 7, 5_000_000, 0, 0, 4_000_000, 5_000_000)
    (lines,) = figures(Columns.of([waited]), {7: "1.0.0"})["latency"]["over_time"][
        "versions"
    ].values()
    assert lines == {"p50_ms": [5000.0], "p95_ms": [5000.0]}


def test_the_generation_rises_when_something_is_recorded(bus: mt.EventBus, front: Front) -> None:
    before = front.state["log"]
    bus.publish("pages", {"n": 1})
    wait_until(lambda: front.state["log"]["rows"] == before["rows"] + 2)
    assert front.state["log"]["generation"] > before["generation"]


def test_reasons_are_read_again_while_their_number_stays(bus: mt.EventBus) -> None:
    seconds = itertools.count(step=0.3)
    looker = Looker(bus, monotonic=lambda: next(seconds))
    assert looker.look().shown["names"]["reasons"] == ["rejected"]
    sub = bus.subscription("pages")
    letter = sub.dead_letters().iloc[0]
    sub.discard(letter, "known")
    bus.publish("pages", "no page", id="other")  # another reason, and as many dead letters
    until_settled(bus)
    assert {*sub.dead_letters()["reason"]} == {"rejected", "model_error"}

    wait_until(lambda: looker.look().shown["names"]["reasons"] == ["model_error", "rejected"])


def test_what_is_left_out_of_charts_and_rows_is_counted(bus: mt.EventBus, front: Front) -> None:
    attempts = [Attempt(n, 0, n % 11, n, 0, 0, 1, 2) for n in range(2_000)]
    names = {n: f"{n}.0.0" for n in range(11)}
    window = figures(Columns.of(attempts), names)["window"]
    assert window == {"attempts": 2_000, "is_cut": True, "versions_left_out": 3}
    assert front.state["window"] == {"attempts": 36, "is_cut": False, "versions_left_out": 0}
    row = front.rows(outcome="dead")[0]
    found = front.ask("row", seq=row["seq"], attempt=1, subscription="pages")
    assert found["in_all"]["attempts"] == len(found["attempts"]) == 1
    assert "2.0 MB" in images.too_large(PNG + b"\x00" * images.MOST_BYTES)
    assert images.too_large(PNG) == images.too_large(b"\x00" * 9_999_999) == ""
    with pytest.raises(Refused, match="100 values"):
        front.rows(reason=["rejected"] * 101)


def test_a_path_and_a_password_are_not_in_the_title(file: Any) -> None:
    with mt.connect(f"sqlite:///{file}") as bus:
        assert bus.dashboard().state["bus"]["title"] == "SQLite file bus.db"


def test_sub_dashboard_opens_with_the_subscription_chosen(bus: mt.EventBus) -> None:
    state = bus.subscription("pages").dashboard().state
    assert (state["chosen"], state["log"]["rows"]) == ("pages", 20)


def test_lanes_are_versions_in_the_picture(bus: mt.EventBus, front: Front) -> None:
    bus.register(mt.model("read", version="1.1.0")(read))
    bus.subscription("pages").shadow("1.1.0", share=0.25)
    shadow = {"version": "1.1.0", "role": "shadow", "share": 0.25}
    wait_until(lambda: shadow in front.state["picture"]["subscriptions"][0]["versions"])


# -- rows ------------------------------------------------------------------------------------------


def test_pages_have_each_row_once(front: Front) -> None:
    seen: list[tuple[int, str]] = []
    before = None
    while True:
        page = front.ask("rows", filter={}, before=before, limit=7)
        seen += [(row["seq"], row["subscription"]) for row in page["rows"]]
        if before is None:
            assert (page["count"], page["count_is"]) == (36, "exact")
        if (before := page["next"]) is None:
            break
    assert len(seen) == len(set(seen)) == 36


@pytest.mark.parametrize(
    ("filters", "n"),
    [
        ({"subscription": "pages"}, 20),
        ({"outcome": "dead"}, 4),
        ({"outcome": ["dead", "succeeded"], "subscription": "lengths"}, 16),
        ({"version": "2.0.0"}, 16),
        ({"reason": "rejected"}, 4),
        ({"role": "shadow"}, 0),
        ({"text": "NO PAGE"}, 4),
        ({"since": "1h"}, 36),
        ({"until": "2020-01-01T00:00:00Z"}, 0),
        ({"text": "%"}, 0),
        ({"subscription": "", "text": None}, 36),
    ],
)
def test_filters_choose_rows(front: Front, filters: Any, n: int) -> None:
    page = front.ask("rows", filter=filters, before=None, limit=100)
    assert (len(page["rows"]), page["count"]) == (n, n)


def test_the_code_of_a_filter_returns_the_same_rows(bus: mt.EventBus, front: Front) -> None:
    asked = {"subscription": "pages", "outcome": "dead", "text": 'no "page'}
    found = front.ask("rows", filter=asked, limit=5)
    said = 'bus.invocations("pages", limit=5, outcome="dead", text='
    assert found["code"].startswith(said)
    assert len(eval(found["code"], {"bus": bus})) == 0
    found = front.ask("rows", filter={"reason": ["rejected"]}, limit=100)
    ids = eval(found["code"], {"bus": bus})["event_id"].tolist()
    assert ids == [row["event_id"] for row in found["rows"]][::-1]


@pytest.mark.parametrize(
    ("filters", "said"),
    [
        ({"subscription": "pags"}, "did you mean 'pages'"),
        ({"outcome": "succeded"}, "did you mean 'succeeded'"),
        ({"version": "1.0"}, "1.0.0"),
        ({"role": "lve"}, "did you mean 'live'"),
        ({"reason": "rejectd"}, "rejected"),
        ({"since": "yesterday"}, "since must be"),
        ({"what": "x"}, "no filter 'what'"),
        ({"text": 5}, "text must be a text"),
        ("all", "must be an object"),
    ],
)
def test_a_wrong_filter_is_a_sentence(front: Front, filters: Any, said: str) -> None:
    with pytest.raises(Refused, match=said):
        front.ask("rows", filter=filters, before=None, limit=100)


def test_rows_name_events_and_errors_in_short(front: Front) -> None:
    row = front.rows(outcome="dead")[0]
    assert row["event"].startswith('{"n": ')
    assert (row["error"], row["reason"], row["role"]) == ("Reject: no page", "rejected", "live")
    assert row["started"].endswith("Z")


def test_rows_have_the_key_of_the_subscription(bus: mt.EventBus, front: Front) -> None:
    sub = bus.subscribe("scans", mt.model("len", version="2.0.0")(len), name="keyed", key="subject")
    sub.fire([mt.Event("x", subject="customer-7")], progress=False)
    assert [r["key"] for r in front.rows(subscription="keyed")] == ["customer-7"]
    assert len(front.rows(subscription="keyed", key="customer-7")) == 1


# -- one row ---------------------------------------------------------------------------------------


def test_a_row_opens_with_everything_about_its_event(bus: mt.EventBus, front: Front) -> None:
    row = front.rows(subscription="pages", outcome="succeeded")[0]
    found = front.ask("row", seq=row["seq"], attempt=1, subscription="pages")
    assert json.loads(found["payload"])["n"] == json.loads(row["event"])["n"]
    assert found["output"] == f'{{"n":{json.loads(row["event"])["n"]}}}'
    assert [(t["subscription"], t["depth"]) for t in found["trace"]] == [
        ("pages", 0),
        ("lengths", 1),
    ]
    assert found["trace"][1]["start_ms"] >= 0
    assert {"published", "outcome"} <= {step["step"] for step in found["explain"]}
    event_id = row["event_id"]
    assert found["code"] == f'bus.trace("{event_id}")\nbus.explain("{event_id}", "pages")'
    assert (found["dead"], found["actions"]) == (
        False,
        ["dry_run", "fire", "export_case"],
    )
    dead = front.rows(outcome="dead")[0]
    found = front.ask("row", seq=dead["seq"], attempt=1, subscription="pages")
    assert "Reject: no page" in found["traceback"]
    assert found["printed"].startswith("printed")
    assert found["actions"] == ["redrive", "dry_run", "fire", "discard", "export_case"]


def test_every_attempt_is_there_and_a_redrive_shows_its_data(
    bus: mt.EventBus, front: Front
) -> None:
    row = front.rows(outcome="dead")[0]
    front.act("redrive", seq=row["seq"], data={"n": 3, "bad": True}, subscription="pages")
    until_settled(bus)
    found = front.ask("row", seq=row["seq"], attempt=2, subscription="pages")
    assert [a["attempt"] for a in found["attempts"]] == [1, 2]
    assert json.loads(found["payload"]) == {"n": 3, "bad": True}
    assert (found["edited"]["used"], found["edited"]["original"]) == (
        True,
        row["event"].replace(" ", ""),
    )


def test_an_attempt_between_two_redrives_is_not_said_to_have_got_the_published_payload(
    bus: mt.EventBus, front: Front
) -> None:
    row = front.rows(outcome="dead")[0]
    sub = bus.subscription("pages")
    for again in ({"data": {"n": 77, "bad": True}}, {}):
        sub.redrive(row["event_id"], **again)
        until_settled(bus)
    used = [
        front.ask("row", seq=row["seq"], attempt=n, subscription="pages")["edited"]["used"]
        for n in (1, 2, 3)
    ]
    assert used == [False, None, True]


def test_a_row_that_was_answered_with_edited_data_shows_both(
    bus: mt.EventBus, front: Front
) -> None:
    row = front.rows(outcome="dead")[0]
    bus.register(mt.model("read", version="1.1.0")(read))
    bus.subscription("pages").replay("1.1.0", wait=True)
    front.act("redrive", seq=row["seq"], data={"n": 77}, subscription="pages")
    until_settled(bus)
    opened = {
        place: front.ask("row", seq=row["seq"], subscription="pages", **of)
        for place, of in {
            "answered": {"attempt": 2},
            "before": {"attempt": 1, "role": "live", "version": "1.0.0"},
            "replayed": {"attempt": 1, "role": "replay", "version": "1.1.0"},
        }.items()
    }
    assert {place: one["edited"]["used"] for place, one in opened.items()} == {
        "answered": True,
        "before": False,
        "replayed": False,
    }
    found = opened["answered"]
    assert (json.loads(found["payload"]), json.loads(found["output"])) == ({"n": 77}, {"n": 77})
    assert json.loads(found["edited"]["original"])["bad"] is True
    assert found["edited"]["at"].endswith("Z")
    assert (
        front.ask("row", seq=1, attempt=1, subscription="pages")["edited"] is None
        or row["seq"] == 1
    )


def test_a_row_of_a_lane_opens_its_own_attempt(bus: mt.EventBus, front: Front) -> None:
    for version in ("2.0.0", "3.0.0"):
        bus.register(mt.model("read", version=version)(lambda page, by=version: {"by": by}))
        bus.subscription("pages").replay(version)
    until_settled(bus)
    wait_until(lambda: len(front.rows(role="replay")) == 40)

    dead = front.rows(outcome="dead")[0]["seq"]
    rows = [row for row in front.rows(role="replay") if row["seq"] == dead]

    opened = [
        front.ask(
            "row", seq=dead, attempt=1, subscription="pages", role="replay", version=row["version"]
        )
        for row in rows
    ]
    assert [json.loads(found["output"]) for found in opened] == [
        {"by": row["version"]} for row in rows
    ]
    assert len({row["version"] for row in rows}) == 2
    assert {(found["error"], found["traceback"]) for found in opened} == {("", "")}


@pytest.mark.parametrize(
    ("data", "media_type", "editable"),
    [
        (b"plain\ttext\n", "text/plain", True),
        ("caf\u00e9".encode("latin-1"), "text/plain; charset=latin-1", False),
        (b"bell \x07", "text/plain", False),
        (b"\x00", "application/octet-stream", False),
    ],
)
def test_only_data_that_are_shown_as_they_are_can_be_edited(
    bus: mt.EventBus, front: Front, data: bytes, media_type: str, editable: bool
) -> None:
    bus.publish("texts", mt.Event(data, datacontenttype=media_type))
    until_settled(bus)
    row = front.rows(subscription="lengths")[0]
    found = front.ask("row", seq=row["seq"], attempt=1, subscription="lengths")
    assert found["editable"] is editable


def test_the_last_choice_wins(bus: mt.EventBus, front: Front, monkeypatch: Any) -> None:
    go, spec = threading.Event(), bus.spec

    def slow(name: str) -> Any:
        if name == "pages":
            go.wait(10)
        return spec(name)

    monkeypatch.setattr(bus, "spec", slow)
    first = front.begin("choose", {"subscription": "pages"})
    last = front.begin("choose", {"subscription": "lengths"})
    front.ask("rows", filter={}, limit=1)  # other questions are answered meanwhile
    go.set()
    for number in (first, last):
        front.end(number)
    assert front.state["chosen"] == "lengths"


@pytest.mark.parametrize(
    ("data", "shown"),
    [
        (PNG, "data:image/png;base64,"),
        (b"\xff\xd8\xff\xe0" + b"\x00" * 9, "data:image/jpeg;base64,"),
        (b"GIF89a" + b"\x00" * 9, "data:image/gif;base64,"),
        (b"RIFF\x00\x00\x00\x00WEBPVP8 ", "data:image/webp;base64,"),
        (b"<svg onload=alert(1)>", None),
        (b"<!doctype html><script>", None),
        (PNG + b"\x00" * images.MOST_BYTES, None),
        (b"", None),
    ],
)
def test_only_small_images_are_shown_and_only_by_their_bytes(
    data: bytes, shown: str | None
) -> None:
    with mt.connect("memory://") as bus:
        sub = bus.subscribe("scans", mt.model("size", version="1.0.0")(len))
        event = mt.Event(data, datacontenttype="image/png")
        sub.fire([event], progress=False)
        front = Front(sub.dashboard())
        (row,) = front.rows()
        image = front.ask("row", seq=row["seq"], attempt=1, subscription=sub.name)["image"]
        assert image is None if shown is None else image.startswith(shown)


def test_hostile_texts_are_only_texts_everywhere(url: str) -> None:
    def hostile(event: mt.Event) -> Any:
        print(HOSTILE)
        if event.data["fail"]:
            raise ValueError(HOSTILE)
        return {HOSTILE: HOSTILE}

    with mt.connect(url) as bus:
        sub = bus.subscribe("pages", mt.model("hostile", version="1.0.0")(hostile), max_attempts=1)
        samples = [{"fail": fail, "text": HOSTILE} for fail in (True, False)]
        sub.fire(
            [mt.Event(s, subject=HOSTILE, type="<b>", source="<i>") for s in samples],
            progress=False,
        )
        front = Front(sub.dashboard())
        for row in front.rows():
            front.ask("row", seq=row["seq"], attempt=1, subscription=sub.name)
        dead = front.rows(outcome="dead")[0]["seq"]
        front.act("discard", go=False, seq=dead, reason=HOSTILE)
        front.act("dry_run", seq=dead)
        with pytest.raises(Refused):
            front.act(HOSTILE)
        said = json.dumps([front.heard, front.state], ensure_ascii=False)
        assert "<img src=x" in said
        for sign in "\u202e\x1b":
            assert sign not in said
        assert "<img" not in front.widget.to_html(times=True)


def test_an_event_that_was_deleted_meanwhile_is_a_sentence(bus: mt.EventBus, front: Front) -> None:
    row = front.rows(subscription="pages", outcome="succeeded")[-1]
    bus.retain(max_events=1)
    bus.prune()
    with pytest.raises(Refused, match="not in the log any more"):
        front.ask("row", seq=row["seq"], attempt=1, subscription="pages")
    with pytest.raises(Refused, match="not in the log any more"):
        front.act("export_case", seq=row["seq"], subscription="pages")
    assert front.rows()


def test_unsubscribed_meanwhile_is_said(bus: mt.EventBus) -> None:
    front = Front(bus.subscription("pages").dashboard())
    bus.unsubscribe("pages")
    wait_until(lambda: "unsubscribed" in front.state["controls"]["pause"]["title"])
    assert front.state["counts"] == {"succeeded": 16, "dead": 4}
    for action in ("pause", "fire", "bulk_redrive"):
        with pytest.raises(Refused, match="no subscription 'pages'"):
            front.act(action)


def test_a_closed_bus_answers_with_a_sentence(bus: mt.EventBus, front: Front) -> None:
    front.ask("choose", subscription="pages")
    bus.close()
    wait_until(lambda: front.state["bus"]["state"] == "closed")
    assert not front.state["alive"]
    assert not any(c["enabled"] for c in front.state["controls"].values())
    assert front.state["counts"] == {"succeeded": 16, "dead": 4}
    for what in ("choose", "rows", "row", "compare", "act"):
        with pytest.raises(Refused, match="closed"):
            front.ask(
                what,
                action="pause",
                subscription="pages",
                seq=1,
                attempt=1,
                old="1",
                new="2",
                go=True,
            )


# -- nonsense --------------------------------------------------------------------------------------

NONSENSE: tuple[Any, ...] = (
    None,
    0,
    -1,
    2**70,
    1.5,
    True,
    "",
    "x",
    HOSTILE,
    "x" * 5_000,
    [],
    ["x", None, {}],
    {},
    {"a": {"b": [1]}},
    {"filter": {"filter": {}}},
)


@pytest.mark.parametrize(
    "content",
    [
        *NONSENSE,
        {"type": "ask"},
        {"type": "ask", "id": [1]},
        {"type": ["ask"]},
        {"type": "ask", "id": True, "what": "rows"},
    ],
)
def test_a_message_that_is_no_ask_does_nothing(front: Front, content: Any) -> None:
    front.say(content)
    assert [m for m in front.heard if m["type"] == "answer"] == []


@pytest.mark.parametrize("what", [*NONSENSE, "rowss", "__init__"])
def test_an_unknown_question_is_an_error(front: Front, what: Any) -> None:
    with pytest.raises(Refused, match="question"):
        front.ask(what)


def test_no_arguments_whatever_raise(bus: mt.EventBus, front: Front) -> None:
    """Each ask with each kind of nonsense answers, and the widget lives on."""
    for what in ASKS:
        for args in NONSENSE:
            answered(front, what, args)
    for action in ACTIONS:
        for args in NONSENSE:
            answered(front, "act", {"action": action, "args": args, "go": False})
    assert front.rows(subscription="pages")


def test_random_arguments_never_raise(bus: mt.EventBus, front: Front) -> None:
    chance = random.Random(7)
    names = (
        *("subscription", "seq", "attempt", "version", "data", "filter", "rate_per_s", "reason"),
        *(
            "steps",
            "guard",
            "share",
            "force",
            "binding",
            "dry",
            "old",
            "new",
            "by",
            "path",
            "limit",
        ),
        *("before", "since", "until", "on", "max_rate_per_s"),
    )
    for _ in range(150):
        args = {n: chance.choice(NONSENSE) for n in chance.sample(names, 6)}
        args.setdefault("subscription", "pages")
        what = chance.choice(ASKS)
        given = {"action": chance.choice(list(ACTIONS)), "args": args, "go": False}
        answered(front, what, given if what == "act" else args)
    assert front.rows(subscription="pages")


def answered(front: Front, what: str, args: Any) -> None:
    number = front.begin(what, args)
    answer = wait_until(lambda: next(iter(front.told(number, "answer")), None))
    assert {*answer} - {"field"} == {"type", "id", "value" if "value" in answer else "error"}
    assert "error" in answer or "field" not in answer
    if "error" in answer:
        assert 0 < len(answer["error"]) <= 300
        assert "\n" not in answer["error"]


def test_a_huge_question_is_refused(front: Front) -> None:
    with pytest.raises(Refused, match="may have"):
        front.ask("rows", filter={"text": "x" * MOST_BYTES})


def test_questions_of_many_threads_are_all_answered(front: Front) -> None:
    numbers: list[int] = []

    def ask(n: int) -> None:
        numbers.append(front.begin("rows", {"filter": {}, "limit": 1 + n}))
        numbers.append(front.begin("choose", {"subscription": ("pages", None)[n % 2]}))

    in_threads(ask)
    assert len([front.end(number) for number in numbers]) == 16


# -- the pool --------------------------------------------------------------------------------------


def test_a_pool_refuses_more_than_it_can_keep_and_ends_when_closed() -> None:
    pool, go, ran = Pool(1), threading.Event(), []
    assert pool.submit(lambda: go.wait(30) and ran.append(0))
    wait_until(lambda: threading.active_count() and pool._running == 1 and not pool._waiting)
    assert all(pool.submit(lambda: ran.append(1)) for _ in range(MOST_WAITING))
    assert not pool.submit(lambda: ran.append(2))
    pool.close()
    go.set()
    assert not pool.submit(lambda: ran.append(3))
    wait_until(lambda: pool._running == 0)
    assert ran == [0]
