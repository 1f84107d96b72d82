"""What a server's answer means: the one reading of every status, of ``Retry-After``, and of a body
that should be JSON.

What a server may do wrong ends as a :class:`~mltrigger.errors.ModelFailure` with these words:

========================================  ================  =========  ===========  =======
what                                      reason            permanent  throttled    whole
========================================  ================  =========  ===========  =======
500                                       model_http_error  no         no           no
408, 425, 501 to 599                      model_http_error  no         no           yes
429; 503 with ``Retry-After``             throttled         no         yes          yes
401, 405, 407; 403 and 404 but for        model_unavailable no         yes          yes
plain ``http(s)://``
other 4xx                                 model_rejected    yes        no           no
3xx                                       redirect_refused  yes        no           yes
broken or too large answers               model_http_error  no         no           yes
no name, no connection, no TLS, a proxy   model_unavailable no         yes          yes
that refuses; no sign of life
broken off before a byte of the answer,   worker_died       no         no           yes
by a server that had answered before
an answer that is no JSON, or that says   model_http_error  no         no           no
that there was an error
an answer that the protocol has not       bad_model_response no        no           no
too late                                  timeout           no         no           yes
========================================  ================  =========  ===========  =======

401, 403, 405, 407 and 404 are about the address, the token or a model that is not loaded: the same
for every event, so no attempt is spent, and the listener looks again after 30 s. After a connection
that could not be made it looks again the sooner, the shorter the outage is. Plain JSON endpoints
answer 404 also for what an event names, and firewalls refuse one body with 403: there both are
about the event.

Servers answer 500 also to an input that a model does not like, and say no more: a batch that is
answered so is split, or one bad event would take its neighbours with it.
"""

from __future__ import annotations

import codecs
import dataclasses
import datetime as dt
import email.utils
import http
import json
import re
from collections.abc import Mapping, Sequence
from typing import Any

from mltrigger.errors import InvalidEvent, ModelFailure
from mltrigger.event import codec
from mltrigger.text import HIDDEN, short, visible, words
from mltrigger.versions.scheme import HOLD_S

MAX_RETRY_AFTER_S = 3600.0
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
"""Members that say what is wrong, the most telling first."""
_CODES = ("error_code", "code", "type", "__type")
_DEEPEST = 4
_NOT_BY_THE_EVENT = frozenset({401, 405, 407})
_BY_THE_ADDRESS = frozenset({403, 404})
"""Not by the event either, where the protocol says what stands in a path."""


@dataclasses.dataclass(frozen=True, slots=True)
class Answer:
    """A 2xx answer.

    ``headers`` are found whatever their case; ``where`` is the request, as errors show it,
    ``secrets`` what they hide.
    """

    status: int
    headers: Mapping[str, str]
    body: bytes
    where: str = ""
    secrets: Sequence[str] = dataclasses.field(default=(), repr=False)

    def json(self) -> Any:
        """Return the value of the body. One byte order mark before it is left out.

        NaN and Infinity, which many servers write although JSON has none, are what they mean.

        Raises
        ------
        ModelFailure
            When the body is no JSON, such as the HTML of a login page.
        """
        body = without_mark(self.body)
        try:
            return codec.loads(body)
        except InvalidEvent as error:
            problem = error
        if problem.reason in codec.NOT_FINITE:
            try:
                return json.loads(body)
            except (ValueError, RecursionError):
                pass  # broken in another way as well
        kind = short(self.headers.get("content-type", "no content type"))
        said = f"with something that is no JSON ({kind}, {len(self.body):,} bytes)"
        raise self.failure(said, reason="model_http_error") from problem

    def failure(
        self,
        what: str,
        *,
        reason: str = "bad_model_response",
        permanent: bool = False,
        whole: bool = False,
    ) -> ModelFailure:
        """Return what to raise because the server answered *what*: "without predictions"; the
        answer is its detail.

        The reason is by default that the answer is JSON, and not what the protocol says.
        """
        text, detail = (
            masked(f"{self.where} answered {self.status} {what}", self.secrets),
            masked(excerpt(self.body), self.secrets),
        )
        return ModelFailure(
            text,
            reason=reason,
            permanent=permanent,
            whole=whole,
            kind=f"HTTP {self.status}",
            detail=detail or None,
        )


def without_mark(raw: bytes) -> bytes:
    """Return *raw* without the one byte order mark of UTF-8 that tools of Windows write at the
    beginning.
    """
    return raw.removeprefix(codecs.BOM_UTF8)


def refused(
    where: str, status: int, headers: Mapping[str, str], body: bytes, *, any_json: bool = True
) -> ModelFailure:
    """Return what an answer means that is no 2xx.

    Parameters
    ----------
    where : str
        The request, as an error may show it.
    status, headers, body
        The answer; of its body the beginning.
    any_json : bool
        Whether it is of any JSON endpoint, rather than of a protocol in which no event changes what
        403 and 404 are about.
    """
    said = said_by(body)
    text = f"{where} answered {status}{_phrase(status)}{f': {said}' if said else ''}"
    kind, detail = f"HTTP {status}", excerpt(body) or None
    delay_s = retry_after_s(headers)
    if status == 429 or (status == 503 and delay_s is not None):
        return ModelFailure(
            text,
            reason="throttled",
            throttled=True,
            delay_s=delay_s,
            whole=True,
            kind=kind,
            detail=detail,
        )
    if 300 <= status < 400:
        text = f"{text}; redirects are not followed: register the address where the model is"
        return ModelFailure(
            text, reason="redirect_refused", permanent=True, whole=True, kind=kind, detail=detail
        )
    if 400 <= status < 500 and status not in (408, 425):
        if status in _NOT_BY_THE_EVENT or (status in _BY_THE_ADDRESS and not any_json):
            return ModelFailure(
                text,
                reason="model_unavailable",
                throttled=True,
                delay_s=HOLD_S if delay_s is None else delay_s,
                whole=True,
                kind=kind,
                detail=detail,
            )
        return ModelFailure(text, reason="model_rejected", permanent=True, kind=kind, detail=detail)
    return ModelFailure(
        text,
        reason="model_http_error",
        whole=status != http.HTTPStatus.INTERNAL_SERVER_ERROR,
        kind=kind,
        detail=detail,
    )


def retry_after_s(headers: Mapping[str, str]) -> float | None:
    """Return the seconds of a ``Retry-After``, given in seconds or as an HTTP date, from 1 s to 1
    hour; ``None`` for none and for garbage.

    A date is compared with the server's own ``Date``, so that two clocks that differ do no harm.
    """
    text = headers.get("retry-after", "").strip()
    if re.fullmatch(r"\d{1,20}", text, re.ASCII):
        return min(max(1.0, float(text)), MAX_RETRY_AFTER_S)
    until = _http_date(text)
    if until is None:
        return None
    now = _http_date(headers.get("date", "")) or dt.datetime.now(dt.UTC)
    return min(max(1.0, (until - now).total_seconds()), MAX_RETRY_AFTER_S)


def excerpt(body: bytes) -> str:
    """Return an answer as text, of a long one both ends; markup and control characters stay what
    they are: data, for others to escape.
    """
    return shortened(without_mark(body).decode("utf-8", "replace"))


def shortened(text: str) -> str:
    """Return *text*, of a long one both ends: servers say what is wrong at the end as well."""
    if len(text) <= EXCERPT:
        return text
    half = EXCERPT // 2
    return f"{text[:half]} … ({len(text) - 2 * half:,} more characters) … {text[-half:]}"


def masked(text: str, secrets: Sequence[str]) -> str:
    """Return *text* without the *secrets* that were sent: a server may send them back."""
    for secret in secrets:
        for part in {secret, secret.rpartition(" ")[2]}:
            text = text.replace(part, HIDDEN)
    return text


def _phrase(status: int) -> str:
    try:
        return f" {http.HTTPStatus(status).phrase}"
    except ValueError:
        return ""


def said_by(body: bytes) -> str:
    """Return what an answer that is an error says: the reason in JSON, the words of plain text or
    HTML; empty when there is none.
    """
    body = without_mark(body)
    try:
        found = json.loads(body)
    except (ValueError, RecursionError):
        return _line(words(body.decode("utf-8", "replace")))
    said = said_in(found)
    return (
        said if said is not None else "" if found in (None, "", [], {}) else _line(_compact(found))
    )


def said_in(value: Any) -> str | None:
    """Return the reason that an error in JSON gives in the fields where servers put it, ``None``
    when it has none of them.
    """
    said = _reason(value, 0)
    return _line(said) if said else None


def _reason(value: Any, depth: int) -> str:
    if isinstance(value, str):
        return value
    if depth > _DEEPEST or isinstance(value, (int, float)) or not value:
        return ""
    if isinstance(value, list):
        return "; ".join(
            filter(None, (_reason(inner, depth + 1) or _compact(inner) for inner in value))
        )
    if "msg" in value and "loc" in value:  # of FastAPI's validation, and pydantic's
        return (
            f"{'.'.join(map(str, value['loc'])) if isinstance(value['loc'], list) else value['loc']}:"
            f" {value['msg']}"
        )
    said = list(
        dict.fromkeys(filter(None, (_reason(value.get(name), depth + 1) for name in _REASONS)))
    )
    if not said:
        return _compact(value) if depth else ""
    codes = [
        str(value[name])
        for name in _CODES
        if isinstance(value.get(name), str) and value[name] and value[name] not in said[0]
    ]
    return f"{': '.join([*codes[:1], said[0]])}{''.join(f'; {more}' for more in said[1:] if more not in said[0])}"


def _compact(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def _line(text: str) -> str:
    """Return *text* as one line of a bounded length, its control characters made visible."""
    return shortened(visible(" ".join(text.split())))


def _http_date(text: str) -> dt.datetime | None:
    try:
        found = email.utils.parsedate_to_datetime(text)
    except (TypeError, ValueError, IndexError, OverflowError):
        return None
    return found if found.tzinfo else found.replace(tzinfo=dt.UTC)
