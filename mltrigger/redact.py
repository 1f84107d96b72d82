"""Secrets, taken out of text before it is kept: what models raise and print, and what goes to the log."""

from __future__ import annotations

import logging
import re
import textwrap
import traceback
from typing import Any

HIDDEN = "***"

_NAMES = (
    r"(?:pass(?:word|wd|phrase)|pwd|secret|(?:api|access|account|private|secret|shared)[_ -]?(?:access[_ -]?)?key|"
    r"x-amz-(?:signature|credential|security-token))"
)
_NEEDLES = ("pass", "pwd", "secret", "key", "x-amz-")
_IS = r"\\?['\"]?[ \t]{0,5}[=:][ \t]{0,5}"
_QUOTED = r"[bfru]?\\?(['\"]))(?:(?!\2|\n).)+"
_PLAIN = r"(?!(?:None|null|True|False)\b|\\['\"])[^\s'\"&,;)}\]<]+"

# What a text must hold in lower case to be worth the look, the pattern, its flags. Each pattern keeps its first group and hides the
# rest. Linear: what follows a repeat is bounded, or nothing, or begins with a character that the repeat excludes. They err towards
# hiding; a number that counts tokens, or the signature of a function, stays.
_SECRETS: tuple[tuple[tuple[str, ...], re.Pattern[str]], ...] = tuple(
    (needles, re.compile(pattern, flags))
    for needles, pattern, flags in [
        # user:password@ of a URL (RFC 3986, 3.2.1)
        (("://",), r"(\b[a-z][a-z0-9+.-]{0,30}://[^\s/:@'\"]{0,200}:)[^\s/'\"]{1,2000}(?=@)", re.IGNORECASE),
        # name=value and name: value, in query strings, headers, JSON and reprs
        (_NEEDLES, rf"({_NAMES}{_IS}{_QUOTED}", re.IGNORECASE),
        (_NEEDLES, rf"({_NAMES}{_IS}){_PLAIN}", re.IGNORECASE),
        (("token", "credential"), rf"((?:token|credentials?){_IS}{_QUOTED}", re.IGNORECASE),
        (("token", "credential"), rf"((?:token|credentials?){_IS})(?!\d{{1,5}}(?![\w.%+/=-])){_PLAIN}", re.IGNORECASE),
        (("signature",), rf"(signature{_IS}['\"]?)(?=[A-Za-z%+/=_-]{{0,200}}[0-9])[A-Za-z0-9%+/=_-]{{16,}}", re.IGNORECASE),
        (("sig=", "key=", "auth="), r"([?&](?:sig|key|auth)=)[^\s'\"&]+", re.IGNORECASE),
        # of an Authorization header; a sentence about a bearer or the basics has no digit or capital inside the next word
        (
            ("bearer", "basic"),
            r"(\b(?i:bearer|basic)[ \t]{1,5})(?=[A-Za-z._~+/-]{0,200}(?:[0-9=]|[a-z][A-Z]))[A-Za-z0-9._~+/=-]{8,}",
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
        (("eyj",), r"((?<![A-Za-z0-9_.-])eyJ)[A-Za-z0-9_-]{8,}\.[A-Za-z0-9_-]{8,}\.[A-Za-z0-9_-]*", 0),
        (
            ("gh", "pat", "xox", "aiza", "hf_"),
            r"(\b(?:gh[pousr]_|github_pat_|glpat-|xox[abprs]-|AIza|hf_))[A-Za-z0-9_-]{16,}",
            0,
        ),
        (("sk-",), r"(\bsk-(?:proj-|ant-)?)[A-Za-z0-9]{20}[A-Za-z0-9_-]*", 0),
        # PEM (RFC 7468), also when the text was cut off before its end
        (("-----begin",), r"(-----BEGIN [A-Z ]{0,40}PRIVATE KEY(?: BLOCK)?-----)(?:(?!-----END).)+", re.DOTALL),
    ]
)
_UNSEEN = "\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028\u2029\u202a-\u202e\u2066-\u2069\ufeff\ud800-\udfff"
_BUT_LAYOUT = re.compile(f"[{_UNSEEN}]")
_CONTROL = re.compile(f"[\t\n\r{_UNSEEN}]")


def redacted(text: str) -> str:
    """Return *text* with ``***`` in the place of passwords, keys and tokens, as far as they can be told by their name or their form."""
    lower = text.lower()
    for needles, pattern in _SECRETS:
        if any(needle in lower for needle in needles):
            text = pattern.sub(rf"\g<1>{HIDDEN}", text)
    return text


def one_line(text: str) -> str:
    """Return *text* with control characters escaped, line breaks among them, so that no event can forge a line of a log."""
    return _CONTROL.sub(lambda found: found[0].encode("unicode_escape").decode(), text)


def harmless(text: str) -> str:
    r"""Return *text* with control and bidirectional characters as ``\uNNNN``; tabs and line breaks stay, and JSON stays the same JSON."""
    return text if text.isprintable() else _BUT_LAYOUT.sub(lambda found: f"\\u{ord(found[0]):04x}", text)


def harmless_value(value: Any) -> Any:
    """Return a JSON value whose texts and keys are :func:`harmless`; of keys that become the same the later ones get a number."""
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
    """Makes each record of the background one line without secrets; the error stands at its end, its traceback at level DEBUG."""

    def filter(self, record: logging.LogRecord) -> bool:
        """Rewrite the record; it always passes."""
        message = record.getMessage()
        if record.exc_info and record.exc_info[1] is not None:
            error = record.exc_info[1]
            message = f"{message}: {type(error).__name__}: {error}"
            if logging.getLogger(record.name).isEnabledFor(logging.DEBUG):
                # Indented: no line of it can pass for a record of its own.
                record.exc_text = textwrap.indent(harmless(redacted("".join(traceback.format_exception(error)))), "    ").rstrip()
            record.exc_info = None
        record.msg, record.args = one_line(redacted(message)), ()
        return True
