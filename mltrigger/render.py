"""Text and HTML for the notebook: the one place where anything becomes HTML.

Every value passes :func:`esc`. Nothing here knows a broker or a frame; the rooms above build their cards with it.
"""

from __future__ import annotations

import dataclasses
import html
import html.parser
import re
import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from pathlib import PurePath
from types import MappingProxyType
from typing import Any

_ADDRESS = re.compile(r" at 0x[0-9a-fA-F]+")
_PAGE = re.compile(r"<!doctype html|<html|<body|<head|<h1|<p>|<title", re.IGNORECASE)
_PAGE_BEGINS = 2000
_FILE, _CELL = re.compile(r'File "([^"\n]+)"'), re.compile(r"ipykernel_\d+|^<ipython-input|^<stdin>$")
_TEXT = "font-family:var(--jp-ui-font-family,sans-serif);font-size:13px"
_STYLE = f"border:1px solid #8884;border-radius:6px;padding:.5em .8em;display:inline-block;{_TEXT}"


def esc(value: Any) -> str:
    """Return *value* as HTML text: markup escaped, control and bidirectional characters made visible."""
    return html.escape(visible(str(value)), quote=True)


def visible(text: str) -> str:
    """Return *text* with control, format and surrogate characters written as ``\\xNN`` or ``\\uNNNN``; newlines stay."""
    if text.isprintable():
        return text
    return "".join(c if c == "\n" or unicodedata.category(c) not in ("Cc", "Cf", "Cs") else ascii(c)[1:-1] for c in text)


def short(value: Any, limit: int = 60) -> str:
    """Return *value* as one line of at most *limit* characters, whatever its ``repr`` does."""
    try:
        text = value if isinstance(value, str) else repr(value)
    except BaseException:  # a hostile __repr__ may raise anything
        text = f"<unprintable {type(value).__name__}>"
    text = visible(" ".join(_ADDRESS.sub("", text[: 4 * limit]).split()))
    return text if len(text) <= limit else text[: limit - 1] + "…"


def words(text: str) -> str:
    """Return the words of *text* without its markup, when it is a page in HTML; else *text*."""
    if not _PAGE.search(text[:_PAGE_BEGINS]):
        return text
    page = _Page()
    page.feed(text)
    page.close()
    return " ".join(page.words)


class _Page(html.parser.HTMLParser):
    """The words of a page that people see."""

    def __init__(self) -> None:
        super().__init__()
        self.words: list[str] = []
        self._unseen = False

    def handle_starttag(self, tag: str, attrs: object) -> None:
        self._unseen = tag in ("script", "style")

    def handle_endtag(self, tag: str) -> None:
        self._unseen = False

    def handle_data(self, data: str) -> None:
        if not self._unseen:
            self.words.append(data)


def card(title: str, facts: Iterable[tuple[str, Any]], table: str = "") -> str:
    """Return a small HTML card: a title, name and value pairs, and optionally a table made by :func:`table_html`."""
    items = "".join(
        f'<tr><th scope="row" style="text-align:left;font-weight:normal;opacity:.7;padding-right:1em">{esc(name)}</th>'
        f'<td style="text-align:left">{esc(value)}</td></tr>'
        for name, value in facts
    )
    return f'<div style="{_STYLE}"><strong>{esc(title)}</strong><table style="margin:.3em 0 0 0">{items}</table>{table}</div>'


def near(traceback: str) -> str:
    """Return a traceback with the names of its files instead of their paths; a cell of a notebook is called one."""
    return _FILE.sub(lambda found: f'File "{"a cell" if _CELL.search(found[1]) else PurePath(found[1]).name}"', traceback)


def folded(summary: str, text: str) -> str:
    """Return *text* as HTML that opens on demand, behind *summary*; its lines stay lines."""
    style = "margin:.3em 0;max-height:24em;overflow:auto;white-space:pre-wrap;overflow-wrap:anywhere;font-size:12px"
    return f'<details><summary style="cursor:pointer">{esc(summary)}</summary><pre style="{style}">{esc(text)}</pre></details>'


def letters(title: str, entries: Iterable[tuple[str, str, str, Sequence[tuple[str, str]]]], rest: str = "") -> str:
    """Return a card of entries: what each is about, facts in one line, an error, and (summary, text) pairs that open on demand."""
    items = "".join(
        f'<div style="margin-top:.6em;padding-top:.5em;border-top:1px solid #8884"><strong>{esc(name)}</strong> '
        f'<span style="opacity:.7">{esc(facts)}</span>'
        f'<div style="color:var(--jp-error-color1,#c62828);overflow-wrap:anywhere">{esc(error)}</div>'
        f"{''.join(folded(summary, text) for summary, text in more)}</div>"
        for name, facts, error, more in entries
    )
    last = f'<div style="margin-top:.6em;opacity:.7">{esc(rest)}</div>' if rest else ""
    return f'<div style="{_STYLE};max-width:60em"><strong>{esc(title)}</strong>{items}{last}</div>'


def card_of(title: str, value: Any, units: Mapping[str, str] = MappingProxyType({})) -> str:
    """Return a card with the fields of a dataclass or a named tuple; *units* are written after their numbers."""
    names = [f.name for f in dataclasses.fields(value)] if dataclasses.is_dataclass(value) else value._fields
    found = [(name, getattr(value, name)) for name in names]
    return card(title, [(name, "–" if v is None else f"{_number(v)}{units.get(name, '')}") for name, v in found])


def _number(value: Any) -> Any:
    if isinstance(value, int) and not isinstance(value, bool):
        return f"{value:,}"
    return f"{value:,.6g}" if isinstance(value, float) else value


class Told(int):
    """A number that a notebook shows as a sentence; everywhere else it is the number."""

    _sentence: str

    def __new__(cls, number: int, sentence: str) -> Told:
        """Return *number*, shown as *sentence*."""
        told = super().__new__(cls, number)
        told._sentence = sentence
        return told

    def __getnewargs__(self) -> tuple[int, str]:  # type: ignore[override]  # the two that make one again
        return int(self), self._sentence

    def __repr__(self) -> str:
        return self._sentence

    __str__ = int.__repr__


def count(n: int, what: str) -> str:
    """Return a number with its noun: ``1 event``, ``2,000 events``."""
    return f"{n:,} {what}{'' if n == 1 else 's'}"


def progress(label: str, done: int, total: int, note: str, took_s: float | None = None) -> tuple[str, str]:
    """Return a progress bar as text and as HTML; one that has ended, after *took_s* seconds, is a line without the bar."""
    state = (f"{done:,} of {count(total, 'outcome')}" if total else "nothing to wait for") + (
        "" if took_s is None else f" in {took_s:.2f} s"
    )
    text = f"{visible(label)}: {state}{f' · {visible(note)}' if note else ''}"
    bar = f'<progress value="{done}" max="{max(total, 1)}" style="width:12em;vertical-align:middle"></progress> ' if took_s is None else ""
    said = f'<br><span style="color:var(--jp-error-color1,#c62828)">{esc(note)}</span>' if note else ""
    return text, f'<div class="mltrigger-progress" style="{_TEXT}">{bar}{esc(label)}: {esc(state)}{said}</div>'


def table_html(columns: Sequence[str], rows: Iterable[Sequence[Any]], caption: str = "") -> str:
    """Return an HTML table with header scopes, every cell escaped."""
    head = "".join(f'<th scope="col" style="text-align:left;padding:.15em .8em .15em 0">{esc(c)}</th>' for c in columns)
    body = "".join(
        "<tr>" + "".join(f'<td style="text-align:left;padding:.15em .8em .15em 0">{esc(v)}</td>' for v in row) + "</tr>" for row in rows
    )
    title = f'<caption style="text-align:left">{esc(caption)}</caption>' if caption else ""
    return f"<table>{title}<thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"
