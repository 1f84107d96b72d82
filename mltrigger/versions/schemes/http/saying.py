"""The words of a server about an error: found in JSON, HTML or text, and cut to one short line."""

from __future__ import annotations

import codecs
import json
import re
from collections.abc import Sequence
from typing import Any

from mltrigger.text import HIDDEN, visible, words

EXCERPT = 4000
"""Characters of an answer that an error keeps."""
_REASONS = (
    "error",
    "detail",
    "message",
    "errors",
    "error_message",
    "error_description",
    "description",
    "reason",
    "msg",
    "Message",
    "title",
)
"""Members that name the problem, the most useful first."""
_CODES = ("error_code", "code", "type", "__type")
_DEEPEST = 4
_COMPANIONS = re.compile(
    r"error|message|details?|code|status|statuscode|errorcode|type|timestamp|path|requestid|traceid"
    r"|traceback|trace|success|ok|reason|title|param|object"
)
"""Members that servers write beside an error, and that are no result."""


def without_mark(raw: bytes) -> bytes:
    """Return *raw* without the byte order mark of UTF-8, which tools on Windows write."""
    return raw.removeprefix(codecs.BOM_UTF8)


def excerpt(body: bytes) -> str:
    """Return an answer as text, shortened. It is data: escape it before it is shown."""
    return shortened(without_mark(body).decode("utf-8", "replace"))


def shortened(text: str) -> str:
    """Return the beginning and the end of a long *text*. Servers name the problem at either."""
    if len(text) <= EXCERPT:
        return text
    half = EXCERPT // 2
    return f"{text[:half]} … ({len(text) - 2 * half:,} more characters) … {text[-half:]}"


def masked(text: str, secrets: Sequence[str]) -> str:
    """Return *text* without the *secrets* of the request, since a server may send them back."""
    for secret in secrets:
        for part in {secret, secret.rpartition(" ")[2]}:
            text = text.replace(part, HIDDEN)
    return text


def said_by(body: bytes) -> str:
    """Return the reason in the body of an error, or an empty text.

    The body may be JSON, HTML or plain text.
    """
    body = without_mark(body)
    try:
        found = json.loads(body)
    except (ValueError, RecursionError):
        return _line(words(body.decode("utf-8", "replace")))
    said = said_in(found)
    if said is None:
        return "" if found in (None, "", [], {}) else _line(_compact(found))
    return said


def said_in(value: Any) -> str | None:
    """Return the reason in an error that is JSON, ``None`` when no usual member holds one."""
    said = _reason(value, 0)
    return _line(said) if said else None


def error_in(value: Any, field: str | None = None) -> Any:
    """Return the error in the JSON of an answer with status 200, ``None`` when there is none.

    *field* is the option ``error_field`` of
    :class:`~mltrigger.versions.schemes.http.json_http.JsonHttp`, where the rule stands.
    """
    if not isinstance(value, dict) or field == "":
        return None
    if field is not None:
        return value.get(field) or None
    error = value.get("error")
    alone = all(_COMPANIONS.fullmatch(re.sub(r"[^a-z]", "", name.lower())) for name in value)
    return error if error and isinstance(error, (str, dict)) and alone else None


def _reason(value: Any, depth: int) -> str:
    if isinstance(value, str):
        return value
    if depth > _DEEPEST or isinstance(value, (int, float)) or not value:
        return ""
    if isinstance(value, list):
        return "; ".join(
            filter(None, (_reason(inner, depth + 1) or _compact(inner) for inner in value))
        )
    if "msg" in value and "loc" in value:  # of FastAPI and pydantic
        place = value["loc"]
        return f"{'.'.join(map(str, place)) if isinstance(place, list) else place}: {value['msg']}"
    reasons = (_reason(value.get(name), depth + 1) for name in _REASONS)
    said = list(dict.fromkeys(filter(None, reasons)))
    if not said:
        return _compact(value) if depth else ""
    first, *others = said
    named = (value.get(name) for name in _CODES)
    code = next((c for c in named if isinstance(c, str) and c and c not in first), None)
    more = [other for other in others if other not in first]
    return "; ".join([f"{code}: {first}" if code else first, *more])


def _compact(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def _line(text: str) -> str:
    """Return *text* as one line of bounded length, with visible control characters."""
    return shortened(visible(" ".join(text.split())))
