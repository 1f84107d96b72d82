"""The dashboard: what it shows, how it follows, what its button does."""

from __future__ import annotations

import gc
import json
import re
import subprocess
import sys
import threading
import time
import weakref
from pathlib import Path

import pytest
from ipywidgets.widgets import widget as ipywidgets_registry
from mltrigger.notebook.dashboard import Dashboard, snapshot
from mltrigger.notebook.snapshot import NEWEST, WINDOW

import mltrigger as mt
from mltrigger.notebook import dashboard as module
from mltrigger.notebook.charts import ms
from mltrigger.testing import Failing

HOSTILE = "<img src=x onerror=alert(1)>"


def until(condition, timeout_s=10.0):
    """Wait until *condition* holds; fail with its last value."""
    end = time.monotonic() + timeout_s
    while not (value := condition()) and time.monotonic() < end:
        time.sleep(0.01)
    assert value, "not reached in time"
    return value


def followers():
    return [t for t in threading.enumerate() if t.name == "mltrigger-dashboard"]


def message(widget, content):
    """Hand over what the front end sends."""
    widget._handle_msg(
        {"content": {"data": {"method": "custom", "content": content}}, "buffers": []}
    )


def views(widget, count):
    """Say, as the front end does, how many views of the widget there are."""
    widget._handle_msg(
        {"content": {"data": {"method": "update", "state": {"_view_count": count}}}, "buffers": []}
    )


@pytest.fixture
def bus():
    with mt.connect("memory://") as opened:
        yield opened
    until(lambda: not followers())


def echo(document):
    if document == "bad":
        raise mt.Reject("no page")
    return {"seen": document}


@pytest.fixture
def sub(bus):
    return bus.subscribe("documents", mt.model("echo", version="1.0.0")(echo), name="pages")


def fire(sub, *samples):
    sub.fire(list(samples), progress=False)


# -- snapshot --------------------------------------------------------------------------------------


def test_snapshot_of_an_unused_subscription_is_empty(sub):
    found = snapshot(sub)
    assert (found["title"], found["topic"], found["selector"], found["state"]) == (
        "pages",
        "documents",
        "echo:1.0.0",
        "listening",
    )
    assert found["counts"] == {}
    assert found["depth"] == {"waiting": 0, "delayed": 0, "in_flight": 0, "dead": 0}
    assert found["latency"] == found["newest"] == []
    assert sum(found["histogram"]["counts"]) == 0
    assert found["repeatable"] is False


def test_snapshot_counts_outcomes_and_lists_the_newest_attempts_first(sub):
    fire(sub, "one", "bad", "zwölf")
    found = snapshot(sub)
    assert found["counts"] == {"succeeded": 2, "dead": 1}
    assert [row["event"] for row in found["newest"]] == ["zwölf", "bad", "one"]
    assert [row["outcome"] for row in found["newest"]] == ["succeeded", "dead", "succeeded"]
    assert found["newest"][0]["output"] == '{"seen": "zwölf"}'
    assert found["newest"][1]["error"] == "Reject: no page"
    assert found["newest"][0]["version"] == "1.0.0"
    assert found["depth"]["dead"] == 1
    assert sum(found["histogram"]["counts"]) == 3
    assert found["repeatable"] is True


def test_tiles_count_events_and_attempts_are_said_apart(bus):
    sub = bus.subscribe(
        "parcels", mt.model(Failing(times=2), name="scan", version="1.0.0"), max_attempts=3
    )
    sub.fire([{"n": 1}], progress=False, timeout_s=30)
    found = snapshot(sub)
    assert (found["counts"], found["attempts"]) == ({"succeeded": 1}, {"failed": 2})
    text = re.sub(r"<[^>]+>", " ", sub.dashboard().to_html())
    assert re.search(r"succeeded\s+1\s+failed attempts\s+2\s", text)
    assert "failed attempts" in sub._repr_html_()
    assert repr(sub).endswith("listening, 1 succeeded, 2 failed attempts)")


def test_snapshot_says_of_latency_what_the_frame_says(sub):
    fire(sub, *range(20))
    frame = sub.latency().set_index("stage")
    for row in snapshot(sub)["latency"]:
        assert row["count"] == frame.loc[row["stage"], "count"]
        for name in ("p50_ms", "p95_ms", "p99_ms", "max_ms"):
            assert row[name] == pytest.approx(frame.loc[row["stage"], name], abs=0.001)


def test_histogram_is_of_the_newest_version_and_has_the_figures_of_its_row(bus, sub):
    fire(sub, *range(20))
    bus.subscribe(
        "documents",
        mt.model("echo", version="1.1.0")(lambda page: time.sleep(0.01) or page),
        name="pages",
    )
    fire(sub, *range(5))
    found = snapshot(sub)
    (row,) = [
        row for row in found["latency"] if (row["stage"], row["version"]) == ("model", "1.1.0")
    ]
    assert found["histogram"]["version"] == "1.1.0"
    assert sum(found["histogram"]["counts"]) == row["count"] == 5
    assert [label for _, label in found["histogram"]["marks"]] == [
        f"p50 {ms(row['p50_ms'])}",
        f"p99 {ms(row['p99_ms'])}",
    ]


def test_snapshot_is_json_and_comes_back_equal(sub):
    fire(sub, "one", float("nan"), {"deep": [1, None]})
    found = snapshot(sub)
    assert json.loads(json.dumps(found, allow_nan=False)) == found


def test_snapshot_reads_only_the_newest_rows(bus, sub):
    for _ in range(3):
        fire(sub, *range(WINDOW // 2))
    read = []
    original = bus.log.invocations
    bus.log.invocations = lambda *args, **options: (
        read.append(original(*args, **options)) or read[-1]
    )
    found = snapshot(sub)
    assert found["counts"] == {"succeeded": WINDOW // 2 * 3}
    assert found["latency"][0]["count"] == sum(found["histogram"]["counts"]) == WINDOW
    assert len(found["newest"]) == NEWEST
    assert sorted(len(rows) for rows in read) == [NEWEST, WINDOW]


def test_snapshot_reads_no_rows_again_while_nothing_happens(bus, sub):
    fire(sub, "one")
    before = until(lambda: (s := snapshot(sub))["depth"]["in_flight"] == 0 and s)
    bus.log.invocations = lambda *_, **__: pytest.fail("read although nothing happened")
    assert snapshot(sub, before) == before


@pytest.mark.parametrize(
    ("sample", "hint"),
    [
        (mt.Event({"n": 1}, subject="page-7.png"), "page-7.png"),
        ({"n": 1}, '{"n": 1}'),
        ("ein Satz mit ß und 文", "ein Satz mit ß und 文"),
        (b"\x89PNG\x00", "application/octet-stream, 5 bytes"),
        (mt.Event(b"\x89PNG", datacontenttype="image/png"), "image/png, 4 bytes"),
        ("文" * 3000, '"' + "文" * 58 + "…"),
        ("a\u202eb\x1b[31m", "a\\u202eb\\x1b[31m"),
        (None, "null"),
    ],
)
def test_an_event_is_named_by_its_subject_or_the_beginning_of_its_data(sub, sample, hint):
    sub.fire([sample], progress=False)
    assert snapshot(sub)["newest"][0]["event"] == hint


def test_snapshot_shows_what_waits_and_what_runs(bus):
    begun, go = threading.Event(), threading.Event()

    def slow(_):
        begun.set()
        go.wait(10)

    sub = bus.subscribe("documents", mt.model("slow", version="1.0.0")(slow))
    bus.publish_batch("documents", ["a", "b"])
    assert begun.wait(10)
    found = snapshot(sub)
    go.set()
    assert found["depth"]["in_flight"] + found["depth"]["waiting"] == 2
    assert found["newest"][0]["outcome"] == "running"
    assert found["newest"][0]["model_ms"] is None


def test_what_is_leased_ahead_does_not_push_out_what_has_ended(bus):
    begun, go = threading.Event(), threading.Event()

    def slow(page):
        if page == "slow":
            begun.set()
            go.wait(10)
        return page

    sub = bus.subscribe("documents", mt.model("slow", version="1.0.0")(slow))
    fire(sub, *range(12))
    bus.publish_batch("documents", ["slow", *range(12, 40)])
    assert begun.wait(10)
    outcomes = [row["outcome"] for row in snapshot(sub)["newest"]]
    go.set()
    assert len(outcomes) == NEWEST
    assert 1 <= outcomes.count("running") <= 3
    assert outcomes[-1] == "succeeded"


def test_state_is_said_in_words(bus, sub):
    assert snapshot(sub)["state"] == "listening"
    sub.stop()
    assert snapshot(sub)["state"] == "stopped"
    sub.unsubscribe()
    assert snapshot(sub)["state"] == "unsubscribed"
    bus.close()
    with pytest.raises(mt.Closed):
        snapshot(sub)


def test_a_listener_in_another_process_is_seen(bus, sub):
    sub.stop()
    bus.registry.listening(sub._spec.id, bus.registry.join(), on=True)
    assert snapshot(sub)["state"] == "listening elsewhere"


def test_selector_is_the_one_that_is_bound_now(bus, sub):
    def shout(page):
        return page

    bus.subscribe("documents", mt.model("echo", version="1.1.0")(shout), name="pages")
    assert snapshot(sub)["selector"] == "echo:1.1.0"


# -- what is shown ---------------------------------------------------------------------------------


def test_repr_is_the_same_every_time(sub):
    assert repr(sub.dashboard()) == repr(sub.dashboard()) == "Dashboard('pages' on 'documents')"


def test_mimebundle_has_the_live_view_and_html_beside_it(sub):
    data, metadata = sub.dashboard()._repr_mimebundle_()
    assert data["text/plain"] == "Dashboard('pages' on 'documents')"
    assert data["application/vnd.jupyter.widget-view+json"]["model_id"]
    assert data["text/html"].startswith("<div")
    assert metadata == {}


@pytest.mark.parametrize("bundle", [None, {"text/plain": "x"}, ({"text/plain": "x"}, {"a": 1})])
def test_mimebundle_takes_every_form_that_widgets_return(sub, monkeypatch, bundle):
    monkeypatch.setattr(module.anywidget.AnyWidget, "_repr_mimebundle_", lambda _, **__: bundle)
    data, metadata = sub.dashboard()._repr_mimebundle_()
    assert set(data) == {"text/plain", "text/html"}
    assert metadata == ({"a": 1} if isinstance(bundle, tuple) else {})


@pytest.mark.parametrize("concurrency", [1, 4])
def test_saved_html_is_equal_when_the_notebook_runs_again(concurrency):
    def run():
        with mt.connect("memory://") as bus:
            sub = bus.subscribe(
                "documents", mt.model("echo", version="1.0.0")(echo), max_concurrency=concurrency
            )
            shown = sub.dashboard()
            sub.fire(["bad" if i % 7 == 3 else i for i in range(30)], progress=False)
            return re.sub(
                r"as of [-\d]+ [:\d]+ UTC", "as of NOW", shown._repr_mimebundle_()[0]["text/html"]
            )

    first = run()
    assert first == run()
    assert "26" in first
    assert " ms" not in first


def test_html_with_times_has_state_latency_and_histogram(sub):
    fire(sub, "one")
    page = sub.dashboard().to_html(times=True)
    assert "listening" in page
    assert '<svg role="img" aria-label="model time histogram: 1 value' in page
    assert "p99" in page
    assert "<caption" in page
    assert 'scope="col"' in page


@pytest.mark.parametrize("times", [False, True])
def test_hostile_text_is_never_markup_in_html(bus, times):
    def hostile(event: mt.Event):
        if event.data["fail"]:
            raise ValueError(HOSTILE)
        return {HOSTILE: HOSTILE}

    sub = bus.subscribe("documents", mt.model("hostile", version="1.0.0")(hostile), max_attempts=1)
    samples = [{"fail": fail, "text": HOSTILE} for fail in (True, False)]
    sub.fire([*samples, *(mt.Event(sample, subject=HOSTILE) for sample in samples)], progress=False)
    page = sub.dashboard().to_html(times)
    assert "<img" not in page
    assert page.count("&lt;img src=x onerror=alert(1)&gt;") >= 6


def test_front_end_never_makes_markup_of_data_and_loads_nothing():
    script = Dashboard._esm
    assert f"newest {WINDOW} attempts" in script
    for forbidden in (
        "innerHTML",
        "outerHTML",
        "insertAdjacentHTML",
        "document.write",
        "eval(",
        "import ",
        "fetch(",
        "https://",
    ):
        assert forbidden not in script
    assert "@import" not in Dashboard._css
    assert "url(" not in Dashboard._css


def test_the_package_does_not_load_the_widget():
    code = (
        "import sys, mltrigger.bus, mltrigger.handle; assert not {'anywidget', 'ipywidgets'} &"
        " set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


# -- follow ----------------------------------------------------------------------------------------


def test_outcomes_reach_the_widget_by_themselves(sub):
    shown = sub.dashboard()
    fire(sub, "one", "two")
    until(lambda: shown.state["counts"] == {"succeeded": 2})
    until(lambda: shown.state["depth"]["in_flight"] == 0)


def test_the_widget_changes_at_most_five_times_a_second(bus, sub):
    shown = sub.dashboard()
    changes = []
    shown.observe(lambda change: changes.append(time.monotonic()), "state")
    began = time.monotonic()
    for i in range(60):
        bus.publish("documents", i)
        time.sleep(0.01)
    until(lambda: shown.state["counts"] == {"succeeded": 60})
    assert 2 <= len(changes) <= 2 + 5 * (time.monotonic() - began)


def test_nothing_is_sent_while_nothing_changes(sub):
    shown = sub.dashboard()
    fire(sub, "one")
    until(lambda: shown.state["counts"] and not shown.state["depth"]["in_flight"])
    changes = []
    shown.observe(changes.append, "state")
    for _ in range(3):
        assert shown.refresh()
    assert changes == []


def test_closing_the_bus_ends_the_thread_and_is_shown(bus, sub):
    shown = sub.dashboard()
    fire(sub, "one")
    until(lambda: shown.state["counts"])
    assert followers()
    bus.close()
    until(lambda: not followers())
    assert shown.state["state"] == "bus closed"
    assert shown.state["counts"] == {"succeeded": 1}
    assert shown.state["button"] == {"enabled": False, "title": "Nothing to fire at: bus closed"}
    assert "succeeded" in shown.to_html(times=True)


def test_closing_the_widget_ends_the_thread(sub):
    shown = sub.dashboard()
    shown.close()
    shown.close()
    until(lambda: not followers())


def test_a_widget_that_nobody_holds_goes_and_its_thread_too(sub):
    shown = sub.dashboard()
    gone = weakref.ref(shown)
    # what ipywidgets and its channel hold until close()
    ipywidgets_registry._instances.pop(shown.model_id)
    shown.comm.on_msg(None)
    del shown
    until(lambda: gc.collect() is not None and gone() is None)
    until(lambda: not followers())


def test_the_thread_rests_while_no_view_is_shown(bus, sub, monkeypatch):
    looks = []
    shown = sub.dashboard()
    original = shown.refresh
    monkeypatch.setattr(shown, "refresh", lambda: looks.append(1) or original())
    views(shown, 1)
    fire(sub, "one")
    until(
        lambda: shown.state["counts"] == {"succeeded": 1} and not shown.state["depth"]["in_flight"]
    )
    views(shown, 0)
    time.sleep(0.3)  # a look that had begun
    looks.clear()
    fire(sub, "two")
    time.sleep(0.5)
    assert looks == []
    views(shown, 1)
    until(lambda: shown.state["counts"] == {"succeeded": 2})
    views(shown, 0)
    bus.close()
    until(lambda: shown.state["state"] == "bus closed")


def test_an_outage_of_the_store_is_shown_and_passes(bus, sub, monkeypatch):
    shown = sub.dashboard()
    with monkeypatch.context() as patch:
        patch.setattr(
            bus.broker,
            "depth",
            lambda _: (_ for _ in ()).throw(mt.StoreError("database is locked")),
        )
        assert shown.refresh()
        assert shown.state["notice"] == "cannot read the log: StoreError: database is locked"
    shown.refresh()
    assert shown.state["notice"] == ""


def test_nothing_is_printed(sub, capfd):
    shown = sub.dashboard(object())
    fire(sub, "one")
    message(shown, {"type": "fire"})
    until(lambda: shown.state["counts"])
    assert capfd.readouterr() == ("", "")


@pytest.fixture
def sent(monkeypatch):
    """What widgets send to the front end, beside their state."""
    found = []
    monkeypatch.setattr(Dashboard, "send", lambda _, content, **__: found.append(content))
    return found


def test_the_kernel_says_that_it_lives_while_somebody_looks(sub, sent, monkeypatch):
    monkeypatch.setattr(module, "BEAT_S", 0.2)
    shown = sub.dashboard()
    until(lambda: sent.count({"type": "alive"}) >= 3)
    views(shown, 1)
    views(shown, 0)
    time.sleep(0.3)  # a look that had begun
    sent.clear()
    time.sleep(0.6)
    assert sent == []
    views(shown, 1)
    until(lambda: {"type": "alive"} in sent)


def test_state_says_when_it_was_shown(sub):
    shown = sub.dashboard()
    assert re.fullmatch(r"20\d\d-\d\d-\d\dT\d\d:\d\d:\d\dZ", shown.state["at"])
    assert re.search(r"static, as of 20\d\d-\d\d-\d\d \d\d:\d\d UTC", shown.to_html())


def test_a_text_that_a_row_shows_shortened_is_whole_on_demand(sub, sent):
    shown, page = sub.dashboard(), "word " * 2_000 + HOSTILE + "\x1b[31m"
    fire(sub, page)
    row = until(lambda: shown.state["newest"] and shown.state["newest"][0])
    message(shown, {"type": "whole", "seq": row["seq"], "attempt": row["attempt"]})
    (answer,) = [content for content in sent if content["type"] == "whole"]
    assert (answer["seq"], answer["attempt"]) == (row["seq"], 1)
    assert "word " * 2_000 + HOSTILE in answer["texts"]["data"]
    assert "word " * 2_000 in answer["texts"]["output"]
    assert "\x1b" not in "".join(answer["texts"].values())
    html = shown.to_html()
    assert "<details>" in html
    assert "word " * 2_000 + "&lt;img" in html


@pytest.mark.parametrize(
    "asked",
    [{"seq": 10**9, "attempt": 1}, {"seq": "1", "attempt": 1}, {"seq": True, "attempt": 1}, {}],
)
def test_a_text_that_is_not_there_is_no_trouble(bus, sub, sent, asked):
    shown = sub.dashboard()
    message(shown, {"type": "whole", **asked})
    answers = [content for content in sent if content["type"] == "whole"]
    assert all("error" in answer["texts"] for answer in answers)
    assert len(answers) == (1 if asked.get("seq") == 10**9 else 0)


# -- the button ------------------------------------------------------------------------------------


def test_the_button_publishes_the_sample(bus, sub):
    shown = sub.dashboard(sample={"page": 7})
    message(shown, {"type": "fire"})
    message(shown, {"type": "fire"})
    until(lambda: shown.state["counts"] == {"succeeded": 2})
    assert bus.events("documents")["data"].tolist() == ['{"page":7}'] * 2


def test_the_button_publishes_a_sample_event_as_a_new_event_every_time(bus, sub):
    sample = mt.Event(
        "page", type="scan", subject="a.png", source="scanner", extensions={"batch": "b7"}
    )
    shown = sub.dashboard(sample)
    for _ in range(2):
        message(shown, {"type": "fire"})
    until(lambda: shown.state["counts"] == {"succeeded": 2})
    events = bus.events("documents")
    assert events["event_id"].nunique() == 2
    assert events[["type", "subject", "source"]].drop_duplicates().values.tolist() == [
        ["scan", "a.png", "scanner"]
    ]


def test_without_a_sample_the_button_repeats_the_newest_event(bus, sub):
    fire(
        sub,
        "old",
        mt.Event(b"\x89PNG", type="scan", subject="new.png", datacontenttype="image/png"),
    )
    shown = sub.dashboard()
    message(shown, {"type": "fire"})
    until(lambda: sum(shown.state["counts"].values()) == 3)
    first, repeated = bus.events("documents").iloc[1:].to_dict("records")
    assert first["event_id"] != repeated["event_id"]
    for name in ("type", "subject", "datacontenttype", "data"):
        assert first[name] == repeated[name]


def test_without_anything_to_publish_the_button_is_off_and_says_why(bus, sub):
    shown = sub.dashboard()
    assert shown.state["button"]["enabled"] is False
    assert "no event to repeat" in shown.state["button"]["title"]
    sub.stop()
    bus.publish("documents", "one")  # nobody takes it: known at the next look, within a second
    until(lambda: shown.state["button"]["enabled"])


def test_an_event_from_before_the_subscription_can_be_repeated(bus):
    bus.topic("documents")
    bus.publish("documents", "early")
    shown = bus.subscribe("documents", mt.model("echo", version="1.0.0")(echo)).dashboard()
    assert shown.state["button"] == {
        "enabled": True,
        "title": "Publish the data of the newest event of documents once more",
    }


def test_a_message_that_cannot_be_honoured_is_shown_and_goes_with_the_next_that_can(bus, sub):
    shown = sub.dashboard()
    message(shown, {"type": "fire"})
    assert shown.state["notice"].startswith(
        "the sample was not published: NotFound: topic 'documents' has no event to repeat"
    )
    bus.publish("documents", "one")
    message(shown, {"type": "fire"})
    assert shown.state["notice"] == ""


def test_a_sample_that_cannot_be_published_is_said_in_the_widget(sub):
    shown = sub.dashboard(sample=lambda: None)
    message(shown, {"type": "fire"})
    assert "the sample was not published: NotEncodable" in shown.state["notice"]
    fire(sub, "one")
    until(lambda: shown.state["counts"])
    assert "NotEncodable" in shown.state["notice"]


def test_other_messages_do_nothing(bus, sub):
    shown = sub.dashboard("page")
    for content in (None, "fire", [], {}, {"type": "other"}, {"type": ["fire"]}):
        message(shown, content)
    assert bus.events("documents").empty


def test_after_the_bus_was_closed_the_button_says_so(bus, sub):
    shown = sub.dashboard("page")
    bus.close()
    message(shown, {"type": "fire"})
    assert "the sample was not published: Closed" in shown.state["notice"]


# -- the notebooks as they are saved ---------------------------------------------------------------


@pytest.mark.parametrize(
    "path",
    sorted((Path(__file__).parents[2] / "notebooks").glob("*.ipynb")),
    ids=lambda path: path.stem,
)
def test_a_saved_notebook_shows_static_forms_and_bars_that_have_ended(path):
    book = json.loads(path.read_text("utf-8"))
    cells = [cell for cell in book["cells"] if cell["cell_type"] == "code"]
    assert "widgets" not in book["metadata"]
    shown = [n for n, cell in enumerate(cells) if ".dashboard(" in "".join(cell["source"])]
    closed = [n for n, cell in enumerate(cells) if "bus.close()" in "".join(cell["source"])]
    assert not [n for n in closed if shown and n > shown[0]]
    outputs = [output.get("data", {}) for cell in cells for output in cell["outputs"]]
    for data in outputs:
        if "application/vnd.jupyter.widget-view+json" in data:
            assert re.search(r"static, as of 20\d\d-", "".join(data["text/html"]))
        if found := re.match(
            r"\w+: ([\d,]+) of ([\d,]+) outcome", "".join(data.get("text/plain", ""))
        ):
            assert found[1] == found[2]
            assert "<progress" not in "".join(data["text/html"])
