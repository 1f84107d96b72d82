"""What becomes HTML or one line of text, and what a model prints: whatever it is, nothing of it
runs and nothing gets lost.
"""

from __future__ import annotations

import contextlib
import html.parser
import io
import sys
import threading
from typing import Any

import pytest

from mltrigger.delivery.threads import ThreadWorkers
from mltrigger.text import card, esc, short, table_html, visible
from mltrigger.versions.running import capture
from mltrigger.versions.running.capture import MAX_STDOUT, captured

HOSTILE = (
    "<img src=x"
    " onerror=\"alert('1')\">&amp;</td></table><script>\x1b[2J\u202egnp.exe\x00\ud800</script>"
)
NAMES = ["<img", "<script", 'onerror="', "</td></table><", "\x1b", "\x00", "\u202e", "\ud800"]


class Tags(html.parser.HTMLParser):
    """The tags and the text of a piece of HTML, as a browser would see them."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.open: list[str] = []
        self.text = ""
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attributes: Any) -> None:
        self.tags.append(tag)
        self.open.append(tag)
        assert not [
            name for name, _ in attributes if name.startswith("on") or name in ("src", "href")
        ]

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data


# -- HTML ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "made",
    [
        esc(HOSTILE),
        card(HOSTILE, [(HOSTILE, HOSTILE), ("n", 1)]),
        card("title", [], table_html([HOSTILE], [[HOSTILE], [None]], HOSTILE)),
        table_html([HOSTILE, "b"], iter([[HOSTILE, 1]]), HOSTILE),
    ],
    ids=["esc", "card", "card with a table", "table"],
)
def test_a_hostile_text_is_only_text(made: str) -> None:
    """BI-128."""
    seen = Tags(made)

    assert not [name for name in NAMES if name in made]
    assert set(seen.tags) <= {
        "div",
        "strong",
        "table",
        "caption",
        "thead",
        "tbody",
        "tr",
        "th",
        "td",
    }
    assert seen.open == []
    assert "<img src=x onerror=\"alert('1')\">&amp;" in seen.text
    assert "\\x1b[2J\\u202egnp.exe\\x00\\ud800" in seen.text
    made.encode()


def test_plain_values_look_like_themselves() -> None:
    assert esc(5) == "5"
    assert esc(None) == "None"
    assert esc("Zürich 😀 – a\nb") == "Zürich 😀 – a\nb"


def test_a_table_tells_a_reader_which_cells_are_its_headers() -> None:
    made = table_html(["a", "b"], [[1, 2], [3, 4]], "numbers")

    assert made.count('<th scope="col"') == 2
    assert made.count("<td") == 4
    assert "<caption" in made
    assert "<caption" not in table_html(["a"], [])


def test_a_card_names_its_facts() -> None:
    made = card("Event", [("source", "scanner"), ("n", 3)])

    assert made.count('<th scope="row"') == 2
    assert Tags(made).text == "Eventsourcescannern3"


# -- text ------------------------------------------------------------------------------------------

INVISIBLE = "\x00\x07\x08\r\x1b\x7f\x85\u00ad\u061c\u200b\u200e\u200f\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069\ufeff\ud800"


@pytest.mark.parametrize("character", INVISIBLE, ids=ascii)
def test_control_and_bidirectional_characters_become_visible(character: str) -> None:
    for made in (
        visible(f"a{character}b"),
        esc(f"a{character}b"),
        short(f"a{character}b") if not character.isspace() else "ab",
    ):
        assert character not in made
        assert made.isprintable()


def test_newlines_stay_in_text_and_go_from_a_line() -> None:
    assert visible("a\nb") == "a\nb"
    assert short("a\n\t b\r\nc") == "a b c"


@pytest.mark.parametrize("limit", [1, 2, 10, 60, 200])
@pytest.mark.parametrize(
    "value",
    [
        "x" * 1000,
        "\x1b" * 1000,
        ["y"] * 1000,
        {"a": "\u202e" * 50},
        "",
        " " * 99 + "z",
        "é" * 61,
        HOSTILE,
    ],
)
def test_a_short_text_is_one_printable_line_within_its_limit(value: Any, limit: int) -> None:
    made = short(value, limit)

    assert len(made) <= limit
    assert made.isprintable()


def test_a_text_that_was_cut_says_so() -> None:
    assert short("x" * 60) == "x" * 60
    assert short("x" * 61) == "x" * 59 + "…"


class Unprintable:
    def __init__(self, error: BaseException) -> None:
        self._error = error

    def __repr__(self) -> str:
        raise self._error

    __str__ = __repr__


class NoText:
    def __repr__(self) -> Any:
        return 5


@pytest.mark.parametrize(
    "value",
    [Unprintable(ValueError()), Unprintable(SystemExit()), Unprintable(KeyboardInterrupt())],
    ids=["ValueError", "SystemExit", "KeyboardInterrupt"],
)
def test_an_object_whose_repr_raises_has_a_short_text(value: Any) -> None:
    made = short(value)

    assert made == "<unprintable Unprintable>"


def test_an_object_whose_repr_is_no_text_has_a_short_text() -> None:
    assert short(NoText()) == "<unprintable NoText>"


# -- what a model prints ---------------------------------------------------------------------------


def test_what_is_printed_inside_is_kept_and_not_shown(capsys: pytest.CaptureFixture[str]) -> None:
    print("before")
    with captured() as text:
        print("inside")
        print("loudly", file=sys.stderr)
        sys.stdout.writelines(["a", "b"])
        sys.stdout.flush()
        assert text.take() == "inside\nloudly\nab"
        assert text.take() is None
    print("after")

    seen = capsys.readouterr()
    assert (seen.out, seen.err) == ("before\nafter\n", "")


def test_nothing_printed_is_none() -> None:
    with captured() as text:
        print(end="")
        assert text.take() is None


def test_what_is_kept_is_bounded_and_the_rest_is_counted(
    capsys: pytest.CaptureFixture[str],
) -> None:
    """BI-105."""
    with captured() as text:
        for _ in range(10):
            print("x" * 1_000_000, end="")
        kept = text.take() or ""
        print("next")
        assert text.take() == "next\n"

    assert kept == "x" * MAX_STDOUT + f"… ({10_000_000 - MAX_STDOUT:,} more characters)"


def test_exactly_what_there_is_room_for_is_kept_whole(capsys: pytest.CaptureFixture[str]) -> None:
    with captured() as text:
        print("x" * MAX_STDOUT, end="")
        assert text.take() == "x" * MAX_STDOUT


def test_what_is_kept_can_be_stored(capsys: pytest.CaptureFixture[str]) -> None:
    with captured() as text:
        print("a\ud800b", end="")
        kept = text.take() or ""

    assert kept == "a\\ud800b"
    kept.encode()


def test_two_threads_do_not_mix_and_a_third_is_not_touched(
    capsys: pytest.CaptureFixture[str],
) -> None:
    both, found = threading.Barrier(3), {}

    def work(name: str) -> None:
        with captured() as text:
            both.wait(20)
            for i in range(200):
                print(name, i)
            both.wait(20)
            found[name] = text.take()

    threads = [threading.Thread(target=work, args=(name,)) for name in ("one", "two")]
    for thread in threads:
        thread.start()
    both.wait(20)
    for i in range(200):
        print("main", i)
    both.wait(20)
    for thread in threads:
        thread.join(20)

    assert found == {name: "".join(f"{name} {i}\n" for i in range(200)) for name in ("one", "two")}
    assert capsys.readouterr().out == "".join(f"main {i}\n" for i in range(200))


def test_a_capture_that_ends_with_an_error_ends(capsys: pytest.CaptureFixture[str]) -> None:
    with contextlib.suppress(ZeroDivisionError), captured():
        print("inside")
        print(1 / 0)
    print("after")

    assert capsys.readouterr().out == "after\n"


def test_stdout_stays_a_stream_like_any_other(capsys: pytest.CaptureFixture[str]) -> None:
    with captured():
        pass

    assert sys.stdout.write("abc") == 3
    assert sys.stdout.isatty() is False
    assert sys.stdout.encoding.lower() == "utf-8"
    assert capsys.readouterr().out == "abc"
    with pytest.raises(AttributeError):
        sys.stdout.no_such_attribute  # noqa: B018


def test_a_stream_that_somebody_else_put_there_is_captured_as_well(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    with captured():
        pass
    other = io.StringIO()
    monkeypatch.setattr(sys, "stdout", other)
    with captured() as text:
        print("inside")
        assert text.take() == "inside\n"
    print("after")

    assert (other.getvalue(), capsys.readouterr().out) == ("after\n", "")


def test_captures_do_not_pile_up(capsys: pytest.CaptureFixture[str]) -> None:
    for _ in range(2000):  # deeper than Python's stack, if each wrapped the one before
        with captured():
            pass
    print("still here")

    assert capsys.readouterr().out == "still here\n"


def test_without_a_stdout_there_is_nothing_to_capture(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdout", None)
    with captured() as text:
        print("into nothing")
        assert text.take() is None


def test_capture_keeps_at_most_64_ki_characters() -> None:
    assert capture.MAX_STDOUT == 64 * 1024


# -- the threads that models run in ----------------------------------------------------------------


def test_a_worker_that_hangs_delays_nobody() -> None:
    workers, gate, ran = ThreadWorkers(), threading.Event(), threading.Semaphore(0)
    workers.submit(lambda: gate.wait(60))
    for _ in range(20):
        workers.submit(ran.release)
        assert ran.acquire(timeout=20)
    gate.set()
    workers.close()


def test_an_idle_worker_is_used_again() -> None:
    workers, seen, done = ThreadWorkers(), [], threading.Semaphore(0)

    def call() -> None:
        seen.append(threading.get_ident())
        done.release()

    for _ in range(50):
        workers.submit(call)
        assert done.acquire(timeout=20)
    workers.close()

    assert len(set(seen)) < 50, "a new thread for every call"


def test_worker_threads_do_not_keep_a_process_alive() -> None:
    workers, gate, daemons, ready = ThreadWorkers(), threading.Event(), [], threading.Event()

    def call() -> None:
        daemons.append(threading.current_thread().daemon)
        ready.set()
        gate.wait(60)

    workers.submit(call)
    assert ready.wait(20)
    gate.set()
    workers.close()

    assert daemons == [True]
