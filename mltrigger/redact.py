"""Secrets, taken out of text before it is kept: what models raise and print, and what goes to the log."""

from __future__ import annotations

import logging
import re

HIDDEN = "***"

# Each pattern keeps its first group and hides the rest. Linear: no nested repetition, every repeat is bounded by what it excludes.
_SECRETS = tuple(
    re.compile(pattern, flags)
    for pattern, flags in [
        # user:password@ of a URL (RFC 3986, 3.2.1)
        (r"(\b[a-z][a-z0-9+.-]{0,30}://[^\s/:@'\"]{0,200}:)[^\s/@'\"]{1,500}(?=@)", re.IGNORECASE),
        # name=value and name: value, in query strings, headers, JSON and reprs
        (
            r"((?:password|passwd|pwd|secret|token|api[_-]?key|access[_-]?key|secret[_-]?access[_-]?key|session[_-]?token|"
            r"x-amz-signature|x-amz-credential|x-amz-security-token|signature)['\"]?\s{0,5}[=:]\s{0,5}['\"]?)[^\s'\"&,;)}\]]{1,2000}",
            re.IGNORECASE,
        ),
        (r"(\b(?:bearer|basic)\s{1,5})[A-Za-z0-9._~+/=-]{8,2000}", re.IGNORECASE),
        # AWS access key ids: https://docs.aws.amazon.com/IAM/latest/UserGuide/reference_identifiers.html
        (r"(\b(?:AKIA|ASIA))[A-Z0-9]{16}\b", 0),
        (r"(-----BEGIN [A-Z ]{0,40}PRIVATE KEY-----)[^-]{1,10000}", 0),
    ]
)
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069]")


def redacted(text: str) -> str:
    """Return *text* with ``***`` in the place of passwords, keys and tokens."""
    for pattern in _SECRETS:
        text = pattern.sub(rf"\g<1>{HIDDEN}", text)
    return text


def one_line(text: str) -> str:
    """Return *text* with control characters escaped, line breaks among them, so that no event can forge a line of a log."""
    return _CONTROL.sub(lambda found: found[0].encode("unicode_escape").decode(), text)


class LogFilter(logging.Filter):
    """Makes each record of the background one line without secrets; the error stands at its end, its traceback at level DEBUG."""

    def filter(self, record: logging.LogRecord) -> bool:
        """Rewrite the record; it always passes."""
        message = record.getMessage()
        if record.exc_info and record.exc_info[1] is not None:
            error = record.exc_info[1]
            message = f"{message}: {type(error).__name__}: {error}"
            if not logging.getLogger(record.name).isEnabledFor(logging.DEBUG):
                record.exc_info = None
        record.msg, record.args = one_line(redacted(message)), ()
        return True
