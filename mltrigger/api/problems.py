"""Refusals, as problem details (RFC 9457)."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from mltrigger.api.intake import Unsupported
from mltrigger.delivery.answering import Refusal
from mltrigger.errors import (
    AmbiguousEvent,
    BindingConflict,
    Closed,
    EventTooLarge,
    InvalidCorrection,
    InvalidEvent,
    InvalidModel,
    InvalidName,
    InvalidSignature,
    MltriggerError,
    NameTaken,
    NotFound,
    NothingToCompare,
    NotShipped,
    ObjectMissing,
    StoreError,
    VersionConflict,
)
from mltrigger.store.direct import IdTaken, Paused
from mltrigger.text import one_line, redacted, short

MEDIA_TYPE = "application/problem+json"
_MOST = 1_000
_STATUS: dict[type[Exception], int] = {
    Unsupported: 415,
    IdTaken: 409,
    Paused: 503,
    EventTooLarge: 413,
    InvalidEvent: 400,
    InvalidName: 400,
    InvalidModel: 503,
    ObjectMissing: 404,
    NotFound: 404,
    AmbiguousEvent: 409,
    NameTaken: 409,
    VersionConflict: 409,
    NotShipped: 409,
    BindingConflict: 409,
    NothingToCompare: 409,
    InvalidCorrection: 409,
    StoreError: 503,
    Closed: 503,
}
_REFUSALS = {"in_progress": 409, "too_many_calls": 429, "throttled": 429}
_REASONS = {
    400: "bad_request",
    404: "not_found",
    405: "method_not_allowed",
    413: "too_large",
    415: "unsupported_media_type",
}


class Refused(Exception):  # a signal: the answer to a request
    """A request that is not done.

    Parameters
    ----------
    status : int
        The status of the answer.
    reason : str
        A stable reason code.
    detail : str
        The cause, and the advice.
    after_s : float, optional
        When to try again.
    more : mapping, optional
        Other members of the problem.
    """

    def __init__(
        self,
        status: int,
        reason: str,
        detail: str,
        after_s: float | None = None,
        more: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__(detail)
        self.status, self.reason, self.after_s, self.more = status, reason, after_s, more or {}


async def answer(request: Request, error: Exception) -> Response:
    """Return the answer to a request that was refused or met an error.

    Below ``/v2`` it has the form of the Open Inference Protocol: ``{"error": "…"}``.
    """
    if isinstance(error, NotFound) and not getattr(request.state, "sees_all", False):
        error = Refused(404, "not_found", str(error).partition(";")[0])  # no names of others
    response = problem(error)
    if not request.url.path.startswith("/v2"):
        return response
    said = json.loads(bytes(response.body))
    content = {"error": said["detail"], "reason": said["reason"]}
    again = JSONResponse(content, response.status_code)
    for name in ("retry-after", "www-authenticate", "allow"):
        if name in response.headers:
            again.headers[name] = response.headers[name]
    return again


def problem(error: Exception) -> Response:
    """Return an error as problem details, without secrets and control characters."""
    if isinstance(error, Refused):
        return _problem(error.status, error.reason, str(error), error.after_s, error.more)
    if isinstance(error, HTTPException):
        reason = _REASONS.get(error.status_code, "refused")
        response = _problem(error.status_code, reason, error.detail)
        response.headers.update(error.headers or {})
        return response
    if isinstance(error, InvalidSignature):  # one code for all senders who are not who they say
        reason = "replayed" if error.reason in ("too_old", "too_new") else "bad_signature"
        return _problem(403, reason, str(error))
    if isinstance(error, Refusal):
        return _problem(_REFUSALS.get(error.reason, 503), error.reason, str(error), error.after_s)
    status = next((code for kind, code in _STATUS.items() if isinstance(error, kind)), None)
    if status is None and isinstance(error, MltriggerError):
        status = 400
    if status is None:
        return _problem(500, "internal_error", "the server failed: its log says why")
    reason = getattr(error, "reason", None) or _code(type(error).__name__)
    if isinstance(error, Unsupported):
        reason = error.reason
    more = {"verdict": json.loads(error.verdict.to_json())} if isinstance(error, NotShipped) else {}
    return _problem(status, reason, redacted(str(error)), 5.0 if status == 503 else None, more)


def _problem(
    status: int,
    reason: str,
    detail: str,
    after_s: float | None = None,
    more: Mapping[str, Any] | None = None,
) -> Response:
    said = short(one_line(detail), _MOST)
    content = {"type": "about:blank", "status": status, "reason": reason, "detail": said}
    response = JSONResponse({**content, **(more or {})}, status, media_type=MEDIA_TYPE)
    if after_s is not None:
        response.headers["retry-after"] = str(max(1, round(after_s)))
    if status == 401:
        response.headers["www-authenticate"] = "Bearer"
    return response


def _code(name: str) -> str:
    return "".join(f"_{c.lower()}" if c.isupper() else c for c in name).lstrip("_")
