"""What a server's answer means: the one reading of every status, of ``Retry-After``, and of a body that should be JSON.

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

401, 403, 405, 407 and 404 are about the address, the token or a model that is not loaded: the same for every event, so no attempt is spent,
and the listener looks again after 30 s. After a connection that could not be made it looks again the sooner, the shorter the outage is.
Plain JSON endpoints answer 404 also for what an event names, and firewalls refuse one body with 403: there both are about the event.

Servers answer 500 also to an input that a model does not like, and say no more: a batch that is answered so is split, or one bad event
would take its neighbours with it.
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

from mltrigger import codec
from mltrigger.errors import InvalidEvent, ModelFailure
from mltrigger.models.schemes.base import HOLD_S
from mltrigger.redact import HIDDEN
from mltrigger.render import short

MAX_RETRY_AFTER_S = 3600.0
EXCERPT = 500
"""Characters of an answer that an error keeps."""
_NOT_BY_THE_EVENT = frozenset({401, 405, 407})
_BY_THE_ADDRESS = frozenset({403, 404})
"""Not by the event either, where the protocol says what stands in a path."""


@dataclasses.dataclass(frozen=True, slots=True)
class Answer:
    """A 2xx answer. ``headers`` are found whatever their case; ``where`` is the request, as errors show it, ``secrets`` what they hide."""

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
        if problem.reason == "non_finite_number":
            try:
                return json.loads(body)
            except (ValueError, RecursionError):
                pass  # broken in another way as well
        kind = short(self.headers.get("content-type", "no content type"))
        said = f"with something that is no JSON ({kind}, {len(self.body):,} bytes)"
        raise self.failure(said, reason="model_http_error") from problem

    def failure(self, what: str, *, reason: str = "bad_model_response", permanent: bool = False, whole: bool = False) -> ModelFailure:
        """Return what to raise because the server answered *what*: "without predictions"; the answer is its detail.

        The reason is by default that the answer is JSON, and not what the protocol says.
        """
        text, detail = masked(f"{self.where} answered {self.status} {what}", self.secrets), masked(excerpt(self.body), self.secrets)
        return ModelFailure(text, reason=reason, permanent=permanent, whole=whole, kind=f"HTTP {self.status}", detail=detail or None)


def without_mark(raw: bytes) -> bytes:
    """Return *raw* without the one byte order mark of UTF-8 that tools of Windows write at the beginning."""
    return raw.removeprefix(codecs.BOM_UTF8)


def refused(where: str, status: int, headers: Mapping[str, str], body: bytes, *, any_json: bool = True) -> ModelFailure:
    """Return what an answer means that is no 2xx.

    Parameters
    ----------
    where : str
        The request, as an error may show it.
    status, headers, body
        The answer; of its body the beginning.
    any_json : bool
        Whether it is of any JSON endpoint, rather than of a protocol in which no event changes what 403 and 404 are about.
    """
    said = _said(body)
    text = f"{where} answered {status}{_phrase(status)}{f': {said}' if said else ''}"
    kind, detail = f"HTTP {status}", excerpt(body) or None
    delay_s = retry_after_s(headers)
    if status == 429 or (status == 503 and delay_s is not None):
        return ModelFailure(text, reason="throttled", throttled=True, delay_s=delay_s, whole=True, kind=kind, detail=detail)
    if 300 <= status < 400:
        text = f"{text}; redirects are not followed: register the address where the model is"
        return ModelFailure(text, reason="redirect_refused", permanent=True, whole=True, kind=kind, detail=detail)
    if 400 <= status < 500 and status not in (408, 425):
        if status in _NOT_BY_THE_EVENT or (status in _BY_THE_ADDRESS and not any_json):
            return ModelFailure(
                text, reason="model_unavailable", throttled=True, delay_s=HOLD_S if delay_s is None else delay_s, whole=True, kind=kind,
                detail=detail,
            )  # fmt: skip
        return ModelFailure(text, reason="model_rejected", permanent=True, kind=kind, detail=detail)
    return ModelFailure(text, reason="model_http_error", whole=status != http.HTTPStatus.INTERNAL_SERVER_ERROR, kind=kind, detail=detail)


def retry_after_s(headers: Mapping[str, str]) -> float | None:
    """Return the seconds of a ``Retry-After``, given in seconds or as an HTTP date, from 1 s to 1 hour; ``None`` for none and for garbage.

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
    """Return the beginning of an answer as text; markup and control characters stay what they are: data, for others to escape."""
    text = body[: 4 * EXCERPT].decode("utf-8", "replace")
    return text if len(text) <= EXCERPT and len(body) <= 4 * EXCERPT else f"{text[:EXCERPT]}… ({len(body):,} bytes)"


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


def _said(body: bytes) -> str:
    """Return what an error in JSON says in the fields where servers put it; empty when there is none."""
    try:
        found = json.loads(body)
    except (ValueError, RecursionError):
        return ""
    for _ in range(2):
        if isinstance(found, dict):
            found = next((found[name] for name in ("error", "message", "detail") if found.get(name)), None)
    return short(found, 200) if isinstance(found, (str, list)) else ""


def _http_date(text: str) -> dt.datetime | None:
    try:
        found = email.utils.parsedate_to_datetime(text)
    except (TypeError, ValueError, IndexError, OverflowError):
        return None
    return found if found.tzinfo else found.replace(tzinfo=dt.UTC)
