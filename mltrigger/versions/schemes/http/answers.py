"""The answer of a server: the one reading of every status, of ``Retry-After`` and of JSON bodies.

Each problem becomes a :class:`~mltrigger.errors.ModelFailure` with these words:

========================================  ================  =========  ===========  =======
problem                                   reason            permanent  throttled    whole
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
not JSON, or JSON with an error in it     model_http_error  no         no           no
JSON that breaks the protocol             bad_model_response no        no           no
too late                                  timeout           no         no           yes
========================================  ================  =========  ===========  =======

401, 403, 404, 405 and 407 are about the address, the token or a model that is not loaded. They are
the same for every event. So no attempt is spent, and the listener tries again after 30 s. After a
failed connection it tries again sooner, when the outage is still short. Plain JSON endpoints also
answer 404 for an unknown name in an event, and firewalls answer 403 to one body. There both count
against the event.

Many servers answer 500 to an input that the model does not like. So a batch with the answer 500 is
split, and the good events succeed.
"""

from __future__ import annotations

import dataclasses
import datetime as dt
import email.utils
import http
import re
from collections.abc import Mapping, Sequence
from typing import Any

from mltrigger.errors import InvalidEvent, ModelFailure
from mltrigger.text import short
from mltrigger.versions.scheme import HOLD_S
from mltrigger.versions.schemes.failures import unavailable
from mltrigger.versions.schemes.http.saying import excerpt, masked, said_by, said_in, without_mark
from mltrigger.versions.schemes.plain import loaded

MAX_RETRY_AFTER_S = 3600.0
_NOT_BY_THE_EVENT = frozenset({401, 405, 407})
_BY_THE_ADDRESS = frozenset({403, 404})
"""Not by the event either, where the protocol defines the path."""


@dataclasses.dataclass(frozen=True, slots=True)
class Answer:
    """A 2xx answer.

    Parameters
    ----------
    headers : mapping
        Names are found in upper and lower case.
    where : str
        The request, as errors show it.
    secrets : sequence of str
        Secrets that were sent. Errors hide them.
    """

    status: int
    headers: Mapping[str, str]
    body: bytes
    where: str = ""
    secrets: Sequence[str] = dataclasses.field(default=(), repr=False)

    def json(self) -> Any:
        """Return the value of the body. A byte order mark is skipped.

        NaN and Infinity are accepted: many servers write them, although JSON has none.

        Raises
        ------
        ModelFailure
            When the body is not JSON, such as the HTML of a login page.
        """
        try:
            return loaded(without_mark(self.body))
        except InvalidEvent as problem:
            kind = short(self.headers.get("content-type", "no content type"))
            said = f"with something that is no JSON ({kind}, {len(self.body):,} bytes)"
            raise self.failure(said, reason="model_http_error") from problem

    def failure(
        self,
        problem: str,
        *,
        reason: str = "bad_model_response",
        permanent: bool = False,
        whole: bool = False,
    ) -> ModelFailure:
        """Return the failure of a server that answered *problem*: "without predictions".

        The answer is its detail. By default the reason is JSON that breaks the protocol.
        """
        return ModelFailure(
            masked(f"{self.where} answered {self.status} {problem}", self.secrets),
            reason=reason,
            permanent=permanent,
            whole=whole,
            kind=f"HTTP {self.status}",
            detail=masked(excerpt(self.body), self.secrets) or None,
        )

    def error(self, said: Any) -> ModelFailure:
        """Return the failure of a server that answered 200 with the error *said*."""
        text = said_in({"error": said}) or short(said, 200)
        return self.failure(f"with an error: {text}", reason="model_http_error")

    def one_each(self, found: Any, count: int, noun: str, hint: str = "") -> Sequence[Any]:
        """Return *found* when it is a list of *count*, else raise.

        The failure is permanent: asking again would give the same.
        """
        if isinstance(found, list) and len(found) == count:
            return found
        got = f"{len(found):,}" if isinstance(found, list) else f"no list but {short(found)}"
        raise self.failure(
            f"with {got} in the place of {count:,} {noun}{hint}",
            reason="bad_batch_result",
            permanent=True,
            whole=True,
        )


def refused(
    where: str, status: int, headers: Mapping[str, str], body: bytes, *, any_json: bool = False
) -> ModelFailure:
    """Return the failure for an answer that is not 2xx.

    Parameters
    ----------
    where : str
        The request, as errors show it.
    status, headers, body
        The answer, with the beginning of its body.
    any_json : bool
        Whether the endpoint is any JSON endpoint, so that 403 and 404 may be about the event.
    """
    said, delay_s = said_by(body), retry_after_s(headers)
    text = f"{where} answered {status}{_phrase(status)}{f': {said}' if said else ''}"
    kind, detail = f"HTTP {status}", excerpt(body) or None
    if status in _NOT_BY_THE_EVENT or (status in _BY_THE_ADDRESS and not any_json):
        return unavailable(text, kind, HOLD_S if delay_s is None else delay_s, detail)
    reason, permanent, whole = "model_http_error", False, status != 500
    throttled = status == 429 or (status == 503 and delay_s is not None)
    if throttled:
        reason = "throttled"
    elif 300 <= status < 400:
        text += "; redirects are not followed: register the address where the model is"
        reason, permanent = "redirect_refused", True
    elif 400 <= status < 500 and status not in (408, 425):
        reason, permanent, whole = "model_rejected", True, False
    return ModelFailure(
        text,
        reason=reason,
        permanent=permanent,
        throttled=throttled,
        delay_s=delay_s if throttled else None,
        whole=whole,
        kind=kind,
        detail=detail,
    )


def retry_after_s(headers: Mapping[str, str]) -> float | None:
    """Return the seconds of ``Retry-After``, from 1 s to 1 hour, ``None`` when it has no sense.

    It holds seconds or an HTTP date. A date is compared with the ``Date`` of the server, so that
    different clocks do no harm.
    """
    text = headers.get("retry-after", "").strip()
    if re.fullmatch(r"\d{1,20}", text, re.ASCII):
        delay_s = float(text)
    elif (until := _http_date(text)) is not None:
        now = _http_date(headers.get("date", "")) or dt.datetime.now(dt.UTC)
        delay_s = (until - now).total_seconds()
    else:
        return None
    return min(max(1.0, delay_s), MAX_RETRY_AFTER_S)


def _phrase(status: int) -> str:
    try:
        return f" {http.HTTPStatus(status).phrase}"
    except ValueError:
        return ""


def _http_date(text: str) -> dt.datetime | None:
    try:
        found = email.utils.parsedate_to_datetime(text)
    except (TypeError, ValueError, IndexError, OverflowError):
        return None
    return found if found.tzinfo else found.replace(tzinfo=dt.UTC)
