"""Text for people: HTML through one escape function, and redaction of secrets.

Every value that becomes HTML passes :func:`esc`. Nothing here knows a broker or a frame. The rooms
above build their cards with it.
"""

from __future__ import annotations

import dataclasses
import html
import html.parser
import logging
import re
import textwrap
import traceback
import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from pathlib import PurePath
from types import MappingProxyType
from typing import Any

_ADDRESS = re.compile(r" at 0x[0-9a-fA-F]+")
_PAGE = re.compile(r"<!doctype html|<html|<body|<head|<h1|<p>|<title", re.IGNORECASE)
_PAGE_BEGINS = 2000
_FILE, _CELL = (
    re.compile(r'File "([^"\n]+)"'),
    re.compile(r"ipykernel_\d+|^<ipython-input|^<stdin>$"),
)
_TEXT = "font-family:var(--jp-ui-font-family,sans-serif);font-size:13px"
_NAME = "text-align:left;font-weight:normal;opacity:.7;padding-right:1em"
_STYLE = f"border:1px solid #8884;border-radius:6px;padding:.5em .8em;display:inline-block;{_TEXT}"


def esc(value: Any) -> str:
    """Return *value* as HTML text: markup escaped, control and bidirectional characters visible."""
    return html.escape(visible(str(value)), quote=True)


def visible(text: str) -> str:
    """Return *text* with control, format and surrogate characters as ``\\xNN`` or ``\\uNNNN``.

    Newlines stay.
    """
    if text.isprintable():
        return text
    return "".join(
        c if c == "\n" or unicodedata.category(c) not in ("Cc", "Cf", "Cs") else ascii(c)[1:-1]
        for c in text
    )


def short(value: Any, limit: int = 60) -> str:
    """Return *value* as one line of at most *limit* characters. A bad ``repr`` does no harm."""
    try:
        text = value if isinstance(value, str) else repr(value)
    except BaseException:  # a hostile __repr__ may raise anything
        text = f"<unprintable {type(value).__name__}>"
    text = visible(" ".join(_ADDRESS.sub("", text[: 4 * limit]).split()))
    return text if len(text) <= limit else text[: limit - 1] + "…"


def words(text: str) -> str:
    """Return the words of an HTML page without its markup. Other *text* stays as it is."""
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
    """Return a small HTML card: a title, names with values, and a table of :func:`table_html`."""
    items = "".join(
        f'<tr><th scope="row" style="{_NAME}">{esc(name)}</th>'
        f'<td style="text-align:left">{esc(value)}</td></tr>'
        for name, value in facts
    )
    return (
        f'<div style="{_STYLE}"><strong>{esc(title)}</strong><table style="margin:.3em 0 0'
        f' 0">{items}</table>{table}</div>'
    )


def near(traceback: str) -> str:
    """Return a traceback with file names instead of paths. A notebook cell is "a cell"."""
    return _FILE.sub(
        lambda found: f'File "{"a cell" if _CELL.search(found[1]) else PurePath(found[1]).name}"',
        traceback,
    )


def folded(summary: str, text: str) -> str:
    """Return *text* as HTML that opens on demand, behind *summary*. Line breaks stay."""
    style = (
        "margin:.3em 0;max-height:24em;overflow:auto;"
        "white-space:pre-wrap;overflow-wrap:anywhere;font-size:12px"
    )
    return (
        f'<details><summary style="cursor:pointer">{esc(summary)}</summary><pre'
        f' style="{style}">{esc(text)}</pre></details>'
    )


def letters(
    title: str, entries: Iterable[tuple[str, str, str, Sequence[tuple[str, str]]]], rest: str = ""
) -> str:
    """Return a card of entries: subject, facts in one line, error, and (summary, text) pairs.

    The pairs open on demand.
    """
    items = "".join(
        '<div style="margin-top:.6em;padding-top:.5em;border-top:1px solid'
        f' #8884"><strong>{esc(name)}</strong> '
        f'<span style="opacity:.7">{esc(facts)}</span>'
        "<div"
        f' style="color:var(--jp-error-color1,#c62828);overflow-wrap:anywhere">{esc(error)}</div>'
        f"{''.join(folded(summary, text) for summary, text in more)}</div>"
        for name, facts, error, more in entries
    )
    last = f'<div style="margin-top:.6em;opacity:.7">{esc(rest)}</div>' if rest else ""
    return f'<div style="{_STYLE};max-width:60em"><strong>{esc(title)}</strong>{items}{last}</div>'


def card_of(title: str, value: Any, units: Mapping[str, str] = MappingProxyType({})) -> str:
    """Return a card of the fields of a dataclass or named tuple. *units* follow the numbers."""
    names = (
        [f.name for f in dataclasses.fields(value)]
        if dataclasses.is_dataclass(value)
        else value._fields
    )
    found = [(name, getattr(value, name)) for name in names]
    return card(
        title,
        [(name, "–" if v is None else f"{_number(v)}{units.get(name, '')}") for name, v in found],
    )


def _number(value: Any) -> Any:
    if isinstance(value, int) and not isinstance(value, bool):
        return f"{value:,}"
    return f"{value:,.6g}" if isinstance(value, float) else value


class Told(int):
    """A number that a notebook shows as a sentence. Everywhere else it is the number."""

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


def progress(
    label: str, done: int, total: int, note: str, took_s: float | None = None
) -> tuple[str, str]:
    """Return a progress bar as text and as HTML.

    After *took_s* seconds it has ended and is a line without the bar.
    """
    state = (f"{done:,} of {count(total, 'outcome')}" if total else "nothing to wait for") + (
        "" if took_s is None else f" in {took_s:.2f} s"
    )
    text = f"{visible(label)}: {state}{f' · {visible(note)}' if note else ''}"
    bar = (
        f'<progress value="{done}" max="{max(total, 1)}"'
        ' style="width:12em;vertical-align:middle"></progress> '
        if took_s is None
        else ""
    )
    said = (
        f'<br><span style="color:var(--jp-error-color1,#c62828)">{esc(note)}</span>' if note else ""
    )
    return (
        text,
        (
            f'<div class="mltrigger-progress" style="{_TEXT}">{bar}{esc(label)}:'
            f" {esc(state)}{said}</div>"
        ),
    )


def table_html(columns: Sequence[str], rows: Iterable[Sequence[Any]], caption: str = "") -> str:
    """Return an HTML table with header scopes, every cell escaped."""
    head = "".join(
        f'<th scope="col" style="text-align:left;padding:.15em .8em .15em 0">{esc(c)}</th>'
        for c in columns
    )
    body = "".join(
        "<tr>"
        + "".join(
            f'<td style="text-align:left;padding:.15em .8em .15em 0">{esc(v)}</td>' for v in row
        )
        + "</tr>"
        for row in rows
    )
    title = f'<caption style="text-align:left">{esc(caption)}</caption>' if caption else ""
    return f"<table>{title}<thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"


# -- secrets ---------------------------------------------------------------------------------------

HIDDEN = "***"

_NAMES = (
    r"(?:pass(?:word|wd|phrase)|pwd|secret|(?:api|access|account|private|secret|shared)[_"
    r" -]?(?:access[_ -]?)?key|"
    r"x-amz-(?:signature|credential|security-token))"
)
_NEEDLES = ("pass", "pwd", "secret", "key", "x-amz-")
_IS = r"\\?['\"]?[ \t]{0,5}[=:][ \t]{0,5}"
_QUOTED = r"[bfru]?\\?(['\"]))(?:(?!\2|\n).)+"
_PLAIN = r"(?!(?:None|null|True|False)\b|\\['\"])[^\s'\"&,;)}\]<]+"

# Needles in lower case, the pattern, its flags. A text without a needle is not searched. Each
# pattern keeps its first group and hides the rest. All run in linear time: the part after a repeat
# is bounded, empty, or begins with a character that the repeat excludes. They rather hide too much.
# A number of tokens and the signature of a function stay.
_SECRETS: tuple[tuple[tuple[str, ...], re.Pattern[str]], ...] = tuple(
    (needles, re.compile(pattern, flags))
    for needles, pattern, flags in [
        # user:password@ of a URL (RFC 3986, 3.2.1)
        (
            ("://",),
            r"(\b[a-z][a-z0-9+.-]{0,30}://[^\s/:@'\"]{0,200}:)[^\s/'\"]{1,2000}(?=@)",
            re.IGNORECASE,
        ),
        # name=value and name: value, in query strings, headers, JSON and reprs
        (_NEEDLES, rf"({_NAMES}{_IS}{_QUOTED}", re.IGNORECASE),
        (_NEEDLES, rf"({_NAMES}{_IS}){_PLAIN}", re.IGNORECASE),
        (("token", "credential"), rf"((?:token|credentials?){_IS}{_QUOTED}", re.IGNORECASE),
        (
            ("token", "credential"),
            rf"((?:token|credentials?){_IS})(?!\d{{1,5}}(?![\w.%+/=-])){_PLAIN}",
            re.IGNORECASE,
        ),
        (
            ("signature",),
            rf"(signature{_IS}['\"]?)(?=[A-Za-z%+/=_-]{{0,200}}[0-9])[A-Za-z0-9%+/=_-]{{16,}}",
            re.IGNORECASE,
        ),
        (("sig=", "key=", "auth="), r"([?&](?:sig|key|auth)=)[^\s'\"&]+", re.IGNORECASE),
        # of an Authorization header. In a sentence about a bearer or the basics, the next word
        # has no digit or capital inside.
        (
            ("bearer", "basic"),
            (
                r"(\b(?i:bearer|basic)["
                r" \t]{1,5})(?=[A-Za-z._~+/-]{0,200}(?:[0-9=]|[a-z][A-Z]))[A-Za-z0-9._~+/=-]{8,}"
            ),
            0,
        ),
        # AWS access key ids, and a secret key beside one:
        # https://docs.aws.amazon.com/IAM/latest/UserGuide/reference_identifiers.html
        (
            ("akia", "asia"),
            r"(\b(?:AKIA|ASIA)[A-Z0-9]{16}\b.{1,30}?)(?<![A-Za-z0-9/+=])[A-Za-z0-9/+]{40}(?![A-Za-z0-9/+=])",
            re.DOTALL,
        ),
        (("akia", "asia"), r"(\b(?:AKIA|ASIA))[A-Z0-9]{16}\b", 0),
        # JSON Web Tokens (RFC 7519), and tokens that name their issuer
        (
            ("eyj",),
            r"((?<![A-Za-z0-9_.-])eyJ)[A-Za-z0-9_-]{8,}\.[A-Za-z0-9_-]{8,}\.[A-Za-z0-9_-]*",
            0,
        ),
        (
            ("gh", "pat", "xox", "aiza", "hf_"),
            r"(\b(?:gh[pousr]_|github_pat_|glpat-|xox[abprs]-|AIza|hf_))[A-Za-z0-9_-]{16,}",
            0,
        ),
        (("whsec_",), r"(\bwhsec_)[A-Za-z0-9+/_=-]{16,}", 0),
        (("sk-",), r"(\bsk-(?:proj-|ant-)?)[A-Za-z0-9]{20}[A-Za-z0-9_-]*", 0),
        # PEM (RFC 7468), also when the text was cut off before its end
        (
            ("-----begin",),
            r"(-----BEGIN [A-Z ]{0,40}PRIVATE KEY(?: BLOCK)?-----)(?:(?!-----END).)+",
            re.DOTALL,
        ),
    ]
)
_UNSEEN = (
    "\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028\u2029"
    "\u202a-\u202e\u2066-\u2069\ufeff\ud800-\udfff"
)
_BUT_LAYOUT = re.compile(f"[{_UNSEEN}]")
_CONTROL = re.compile(f"[\t\n\r{_UNSEEN}]")


def redacted(text: str) -> str:
    """Return *text* with ``***`` for passwords, keys and tokens.

    They are recognised by their name or their form.
    """
    lower = text.lower()
    for needles, pattern in _SECRETS:
        if any(needle in lower for needle in needles):
            text = pattern.sub(rf"\g<1>{HIDDEN}", text)
    return text


def one_line(text: str) -> str:
    """Return *text* with escaped control characters and line breaks.

    So no event can forge a line of a log.
    """
    return _CONTROL.sub(lambda found: found[0].encode("unicode_escape").decode(), text)


def harmless(text: str) -> str:
    r"""Return *text* with control and bidirectional characters as ``\uNNNN``.

    Tabs and line breaks stay. JSON stays the same JSON.
    """
    return (
        text
        if text.isprintable()
        else _BUT_LAYOUT.sub(lambda found: f"\\u{ord(found[0]):04x}", text)
    )


def harmless_value(value: Any) -> Any:
    """Return a JSON value with :func:`harmless` texts and keys.

    Keys that become equal get a number.
    """
    if isinstance(value, str):
        return harmless(value)
    if isinstance(value, list):
        return [harmless_value(element) for element in value]
    if not isinstance(value, dict):
        return value
    found: dict[str, Any] = {}
    for key, inner in value.items():
        name = harmless(key)
        while name != key and (name in value or name in found):
            name = f"{name}_{len(found)}"
        found[name] = harmless_value(inner)
    return found


class LogFilter(logging.Filter):
    """Makes each log record one line without secrets, with the error at its end.

    At level DEBUG the traceback follows.
    """

    def filter(self, record: logging.LogRecord) -> bool:
        """Rewrite the record. It always passes."""
        message = record.getMessage()
        if record.exc_info and record.exc_info[1] is not None:
            error = record.exc_info[1]
            message = f"{message}: {type(error).__name__}: {error}"
            if logging.getLogger(record.name).isEnabledFor(logging.DEBUG):
                # Indented: no line of it can pass for a record of its own.
                record.exc_text = textwrap.indent(
                    harmless(redacted("".join(traceback.format_exception(error)))), "    "
                ).rstrip()
            record.exc_info = None
        record.msg, record.args = one_line(redacted(message)), ()
        return True
