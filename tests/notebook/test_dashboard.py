"""The widget of the dashboard: how it follows, what it shows without a front end, when it ends."""

from __future__ import annotations

import gc
import json
import re
import subprocess
import sys
import threading
import time
import tracemalloc
import weakref
from pathlib import Path

import pytest
from cockpit import Front, Refused
from ipywidgets.widgets import widget as ipywidgets_registry

import mltrigger as mt
from mltrigger.notebook.cockpit import widget as module
from mltrigger.notebook.cockpit.figures import MOST, Window
from mltrigger.notebook.cockpit.looking import AGAIN_S, Looker
from mltrigger.notebook.cockpit.widget import Dashboard
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
    assert script.count("export default") == 1
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
    assert shown.state["bus"]["state"] == "closed"
    assert shown.state["counts"] == {"succeeded": 1}
    assert shown.state["controls"]["fire"] == {"enabled": False, "title": "The bus is closed"}
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
    until(lambda: shown.state["bus"]["state"] == "closed")


def test_an_outage_of_the_store_is_shown_and_passes(bus, sub, monkeypatch):
    shown = sub.dashboard()
    with monkeypatch.context() as patch:
        patch.setattr(
            bus.watch,
            "version",
            lambda: (_ for _ in ()).throw(mt.StoreError("database is locked")),
        )
        assert shown.refresh()
        assert shown.state["outage"] == "cannot read the log: StoreError: database is locked"
    shown.refresh()
    assert shown.state["outage"] == ""


def test_nothing_is_printed(sub, capfd):
    shown = sub.dashboard(object())
    fire(sub, "one")
    message(shown, {"type": "ask", "id": 1, "what": "act", "args": {"action": "fire", "go": True}})
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


def test_a_text_that_a_row_shows_shortened_is_whole_in_the_static_form(sub):
    shown, page = sub.dashboard(), "word " * 2_000 + HOSTILE + "\x1b[31m"
    fire(sub, page)
    html = shown.to_html()
    assert "<details>" in html
    assert "word " * 2_000 + "&lt;img" in html
    assert "\x1b" not in html


def test_the_static_form_of_a_bus_lists_its_subscriptions(bus, sub):
    fire(sub, "one", "bad")
    text = re.sub(r"<[^>]+>", " ", bus.dashboard().to_html())
    assert re.search(r"documents\s+pages\s+1.0.0 \(serving\)\s+2\s+1\s", text)
    assert repr(bus.dashboard()) == "Dashboard(memory)"


def test_tiles_count_events_and_attempts_are_said_apart(bus):
    sub = bus.subscribe(
        "parcels", mt.model(Failing(times=2), name="scan", version="1.0.0"), max_attempts=3
    )
    sub.fire([{"n": 1}], progress=False, timeout_s=30)
    shown = sub.dashboard()
    state = shown.state
    assert (state["counts"], state["attempts"]) == ({"succeeded": 1}, {"failed": 2})
    text = re.sub(r"<[^>]+>", " ", shown.to_html())
    assert re.search(r"succeeded\s+1\s+failed attempts\s+2\s", text)
    assert "failed attempts" in sub._repr_html_()
    assert repr(sub).endswith("listening, 1 succeeded, 2 failed attempts)")


def test_a_sample_that_cannot_be_published_is_said(sub):
    front = Front(sub.dashboard(sample=lambda: None))
    with pytest.raises(Refused, match="NotEncodable"):
        front.act("fire")


# -- the cost --------------------------------------------------------------------------------------


def test_a_look_reads_only_the_attempts_since_the_last_one(bus, sub):
    fire(sub, *range(300))
    looker = Looker(bus, sub._spec)
    looker.look()
    read, original = [], bus.log.glance.attempts
    looker._window._read = lambda *args: read.append(original(*args)) or read[-1]
    fire(sub, "one", "two")
    looker.look()
    assert [len(rows) for rows in read] == [2]


def test_an_idle_look_reads_nothing_but_a_number(bus, sub, monkeypatch):
    fire(sub, "one")
    now_s = [0.0]
    looker = Looker(bus, sub._spec, monotonic=lambda: now_s[0])
    found = looker.look()
    now_s[0] += 60  # nothing is open, and rates are those of a minute ago
    found = looker.look()
    monkeypatch.setattr(looker, "_read", lambda _: pytest.fail("read although nothing happened"))
    now_s[0] += AGAIN_S / 2
    assert looker.look() is found


def test_a_whole_look_without_news_reads_no_attempt(bus, sub, monkeypatch):
    fire(sub, "one")
    now_s = [0.0]
    looker = Looker(bus, None, monotonic=lambda: now_s[0])
    looker.look()
    monkeypatch.setattr(bus.log.glance, "attempts", lambda *_: pytest.fail("read an attempt"))
    looker._window._read = lambda *_: pytest.fail("read an attempt")
    now_s[0] += 60
    assert looker.look().shown["counts"] == {"succeeded": 1}


def test_figures_are_those_of_a_window_of_the_newest_attempts(bus, sub):
    looked = []
    window = Window(lambda s, after, most: looked.append((s, after, most)) or [], sub._spec.id)
    assert not window.look(5)
    assert not window.look(5)
    assert looked == [(sub._spec.id, 0, MOST)]


@pytest.mark.slow(every=1)
def test_memory_stays_flat_over_many_events(bus, slow_many):
    sub = bus.subscribe("numbers", mt.model("many", version="1.0.0", batch=True)(lambda b: b))
    shown, each = sub.dashboard(), 5_000
    looks = []
    tracemalloc.start()
    try:
        for n in range(slow_many):
            bus.publish_batch("numbers", range(each))
            until(lambda n=n: shown.state["counts"].get("succeeded") == each * (n + 1), 60)
            gc.collect()
            of_ours = tracemalloc.take_snapshot().filter_traces(
                [tracemalloc.Filter(True, "*/notebook/*"), tracemalloc.Filter(True, "*/glance.py")]
            )
            looks.append(sum(trace.size for trace in of_ours.traces))
    finally:
        tracemalloc.stop()
    assert looks[-1] < 1.5 * looks[1] + 200_000


@pytest.fixture
def slow_many(request):
    """How often 5,000 events are fired: 100,000 in all with --slow."""
    return 20 if request.config.getoption("--slow") else 3


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
