"""``%load_ext mltrigger``: the magics, and completion of names."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest
from IPython.core.completer import provisionalcompleter
from IPython.core.error import UsageError
from IPython.core.interactiveshell import InteractiveShell
from shared import is_settled, wait_until

import mltrigger as mt
from mltrigger.notebook.completion import Completing, place_of
from mltrigger.notebook.known import Names

READ = "def read_page(page):\n    return {'page': page}\n"


@pytest.fixture
def bus(monkeypatch: pytest.MonkeyPatch) -> Iterator[mt.EventBus]:
    monkeypatch.setenv("MLTRIGGER_URL", "memory://")
    yield mt.use("memory://")
    mt.close()


@pytest.fixture
def shell(bus: mt.EventBus) -> InteractiveShell:
    shell = InteractiveShell()
    shell.user_ns["mt"] = mt
    shell.run_line_magic("load_ext", "mltrigger")
    return shell


def completed(shell: InteractiveShell, text: str) -> list[str]:
    with provisionalcompleter():
        return [found.text for found in shell.Completer.completions(text, len(text))]


# -- %%on ------------------------------------------------------------------------------------------


def test_the_function_of_the_cell_subscribes(shell: InteractiveShell, bus: mt.EventBus) -> None:
    sub = shell.run_cell_magic("on", "pages --version 1.2.0 --max-attempts 3", READ)
    run = bus.fire("pages", [7], progress=False)

    assert (sub.name, sub.topic, sub.selector) == ("read_page", "pages", "read_page:1.2.0")
    assert sub.policy.max_attempts == 3
    assert run.results()["page"].tolist() == [7]
    assert shell.user_ns["read_page"](1) == {"page": 1}


def test_the_options_are_those_of_subscribe(shell: InteractiveShell, bus: mt.EventBus) -> None:
    line = """pages --name reader --version 1.0.0 --filter '{"type": ["page"]}' --emit texts
        --timeout-s=2.5 --no-listen"""

    sub = shell.run_cell_magic("on", line, READ)

    assert (sub.name, sub.state) == ("reader", "stopped")
    assert sub.filter.to_json() == '{"type": ["page"]}' or "page" in sub.filter.to_json()
    assert sub.policy.timeout_s == 2.5
    assert bus.subscriptions()["emit"].tolist() == ["texts"]


def test_the_cell_again_binds_the_subscription_anew(
    shell: InteractiveShell, bus: mt.EventBus
) -> None:
    shell.run_cell_magic("on", "pages --version 1.0.0", READ)
    shell.run_cell_magic("on", "pages --version 1.1.0", READ.replace("'page'", "'other'"))

    assert bus.subscriptions()["selector"].tolist() == ["read_page:1.1.0"]
    assert bus.fire("pages", [1], progress=False).results()["other"].tolist() == [1]


def test_the_source_of_the_function_is_that_of_the_cell(shell: InteractiveShell) -> None:
    """Without a version the code is the version."""
    first = shell.run_cell_magic("on", "pages", READ).selector
    again = shell.run_cell_magic("on", "pages", READ).selector
    other = shell.run_cell_magic("on", "pages", READ.replace("'page'", "'x'")).selector

    assert first == again != other


def test_a_bus_in_a_variable_is_named(shell: InteractiveShell) -> None:
    with mt.connect("memory://") as other:
        shell.user_ns["mine"] = other
        shell.run_cell_magic("on", "pages --bus mine --no-listen", READ)

        assert other.topics()["topic"].tolist() == ["pages"]
        assert mt.topics().empty
        with pytest.raises(UsageError, match=r"no bus in a variable 'mien'.*'mine'"):
            shell.run_line_magic("events", "--bus mien")


@pytest.mark.parametrize("line", ["--listen pages", "pages --listen", "pages --listen 2"])
def test_listen_takes_a_number_and_never_the_topic(
    shell: InteractiveShell, bus: mt.EventBus, line: str
) -> None:
    sub: Any = shell.run_cell_magic("on", line, READ)

    assert sub.topic == "pages"


@pytest.mark.parametrize(
    ("line", "cell", "said"),
    [
        ("pages", "x = 1", "exactly one function in its cell, found none"),
        ("pages", READ + "def other(x): pass", "found 2: read_page, other"),
        ("", READ, "needs one topic or source, got 0"),
        ("pages more", READ, "got 2"),
        ("pages --tiemout-s 3", READ, "did you mean 'timeout_s'"),
        ("pages --version", READ, "--version needs a value"),
        ("pages --name --version 1.0.0", READ, "--name needs a value"),
        ("pages 'open", READ, "No closing quotation"),
        ("pages", f"import mltrigger as mt\n@mt.subscribe('pages', name='a')\n{READ}", "leave out"),
    ],
)
def test_a_cell_that_is_not_clear_is_refused_with_the_reason(
    shell: InteractiveShell, bus: mt.EventBus, line: str, cell: str, said: str
) -> None:
    with pytest.raises(UsageError, match=said):
        shell.run_cell_magic("on", line, cell)

    assert "read_page" not in bus.subscriptions()["subscription"].tolist()


def test_an_error_of_the_cell_is_that_of_the_cell(shell: InteractiveShell) -> None:
    with pytest.raises(ZeroDivisionError):
        shell.run_cell_magic("on", "pages", "1 / 0\n" + READ)


# -- %events ---------------------------------------------------------------------------------------


def test_events_shows_the_newest(shell: InteractiveShell, bus: mt.EventBus) -> None:
    bus.topic("pages")
    bus.topic("texts")
    bus.publish_batch("pages", range(20))
    bus.publish("texts", "x")

    assert shell.run_line_magic("events", "pages -n 3")["data"].tolist() == ["17", "18", "19"]
    assert len(shell.run_line_magic("events", "")) == 10
    assert shell.run_line_magic("events", "texts --since 1h")["data"].tolist() == ['"x"']
    with pytest.raises(mt.NotFound, match="'pages'"):
        shell.run_line_magic("events", "pagse")
    with pytest.raises(UsageError, match="from 1 on"):
        shell.run_line_magic("events", f"-n {2**63}")
    with pytest.raises(UsageError, match="from 1 on"):
        shell.run_line_magic("events", "-n many")


def test_the_extension_can_be_loaded_again_and_taken_away(shell: InteractiveShell) -> None:
    shell.run_line_magic("reload_ext", "mltrigger")
    identifiers = [m.matcher_identifier for m in shell.Completer.custom_matchers]
    shell.run_line_magic("unload_ext", "mltrigger")

    assert identifiers == ["mltrigger"]
    assert shell.Completer.custom_matchers == []
    assert "on" not in shell.magics_manager.magics["cell"]


# -- completion ------------------------------------------------------------------------------------


@pytest.fixture
def furnished(shell: InteractiveShell, bus: mt.EventBus) -> InteractiveShell:
    def read(page: object) -> object:
        return page

    ocr = mt.model(read, name="ocr", version="1.0.0")
    shell.user_ns["sub"] = bus.subscribe("documents", ocr, name="reader", listen=False)
    bus.register(mt.model(read, name="ocr", version="1.1.0"))
    bus.register(mt.model(read, name="kinds", version="7.0.0"))
    bus.alias("ocr", "champion", "1.0.0")
    bus.topic("drafts")
    shell.user_ns["bus"] = bus
    return shell


@pytest.mark.parametrize(
    ("text", "offered"),
    [
        ('mt.publish("d', ["documents", "drafts"]),
        ("bus.fire('do", ["documents"]),
        ('bus.subscribe("documents", read, emit="dr', ["drafts"]),
        ('bus.subscribe("documents", "ocr', ["ocr", "ocr:1.0.0", "ocr:1.1.0", "ocr@champion"]),
        ('mt.subscription("', ["reader"]),
        ('mt.explain(event, "re', ["reader"]),
        ('sub.promote("1.', ["1.0.0", "1.1.0"]),
        ('sub.compare("1.0.0", "', ["1.0.0", "1.1.0"]),
        ('mt.subscription("reader").shadow("7', ["7.0.0"]),
        ('mt.alias("k', ["kinds"]),
        ('sub.invocations(columns=["model", "mod', ["model", "model_ms"]),
        ('mt.invocations()["queue', ["queue_ms"]),
        ('sub.plot_latency(stage="t', ["total"]),
        ('mt.subscribe("documents", read, isolation="p', ["process"]),
        ('mt.invocations(\n    "reader",\n    role="sh', ["shadow"]),
        ("%%on dr", ["drafts"]),
        ("%%on documents --max-att", ["--max-attempts"]),
        ("%%on documents --emit d", ["documents", "drafts"]),
        ("%events doc", ["documents"]),
    ],
)
def test_names_are_offered_where_they_fit(
    furnished: InteractiveShell, text: str, offered: list[str]
) -> None:
    wait_until(lambda: completed(furnished, 'mt.publish("d'))  # the list is read in a thread

    assert completed(furnished, text) == offered


@pytest.mark.parametrize(
    "text",
    [
        'print("d',
        'other.publish("d',
        "mt.publish(",
        'x = "d',
        '# mt.publish("d',
        'mt.publish("documents", "d',
        'frame.to_csv(columns=["mod',
        'mt.publish("documents"), ("d',
    ],
)
def test_names_are_offered_nowhere_else(furnished: InteractiveShell, text: str) -> None:
    wait_until(lambda: completed(furnished, 'mt.publish("d'))

    assert not {"documents", "drafts", "model_ms"} & set(completed(furnished, text))


def test_completion_opens_no_bus(monkeypatch: pytest.MonkeyPatch, tmp_path: Any) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MLTRIGGER_URL", raising=False)
    mt.close()
    shell = InteractiveShell()
    shell.user_ns["mt"] = mt
    shell.run_line_magic("load_ext", "mltrigger")

    assert "documents" not in completed(shell, 'mt.publish("d')
    assert mt._default is None
    assert list(tmp_path.iterdir()) == []


class Slow:
    """A bus whose store does not answer until the test lets it."""

    closed = False

    def __init__(self) -> None:
        self.go = threading.Event()

    @property
    def registry(self) -> Any:
        assert self.go.wait(60)
        raise mt.StoreError("away")


def test_a_store_that_does_not_answer_holds_up_nothing() -> None:
    names, slow = Names(), Slow()

    began_s = time.monotonic()
    first = [names.of(slow) for _ in range(3)]  # type: ignore[arg-type]
    took_s = time.monotonic() - began_s
    slow.go.set()

    assert first == [type(first[0])()] * 3
    assert took_s < 2  # 0.03 s each; the machine may be busy


def test_a_bus_that_is_closed_offers_nothing(furnished: InteractiveShell, bus: mt.EventBus) -> None:
    bus.close()

    assert "documents" not in completed(furnished, 'bus.publish("d')


def test_looking_for_names_takes_no_time_that_is_felt(furnished: InteractiveShell) -> None:
    wait_until(lambda: completed(furnished, 'mt.publish("d'))
    completing = Completing(furnished)
    long = "\n".join(f"value_{n} = call('text', [{n}])" for n in range(5_000))

    began_s = time.process_time()
    for _ in range(20):
        completing.at(f'{long}\nmt.publish("d')

    assert (time.process_time() - began_s) / 20 < 0.05


@pytest.mark.parametrize(
    "text",
    ["(" * 50, "'", '"""a(', "f(a=='x", "]])('", "mt.publish(f'{x}", "\\", "a(b[c{'d", "f('\\"],
)
def test_half_written_code_does_no_harm(furnished: InteractiveShell, text: str) -> None:
    place_of(text)
    assert Completing(furnished).at(text)[1] == [] or "publish" in text


def test_a_subscription_completes_after_its_model_is_gone(
    furnished: InteractiveShell, bus: mt.EventBus
) -> None:
    sub = furnished.user_ns["sub"]
    wait_until(lambda: is_settled(sub))
    bus.unsubscribe("reader")
    wait_until(lambda: "reader" not in completed(furnished, 'mt.subscription("'))

    assert completed(furnished, 'sub.promote("1.0') == ["1.0.0"]
