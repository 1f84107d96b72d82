"""Asynchronous endpoints of SageMaker: it queues the request and writes the answer to S3."""

from __future__ import annotations

import contextlib
import json
import math
import re
import threading
import time
import uuid
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from mltrigger.aws.faults import DENIED, code_of
from mltrigger.aws.models.access import failure_of, value_of, within
from mltrigger.aws.models.place import (
    BUCKET,
    Place,
    SageMakerEndpoint,
    inference_id,
    of_container,
    refusal,
)
from mltrigger.errors import ModelFailure
from mltrigger.event.event import Event
from mltrigger.versions.scheme import Setting

INLINE_BYTES = 128_000
MAX_BODY = 1_000_000_000
ACTION = "sagemaker:InvokeEndpointAsync"
FIRST_PAUSE_S = 0.25
MOST_PAUSE_S = 5.0

_S3 = re.compile(r"s3://([^/]+)/(.+)")
_ANSWERED = re.compile(
    r"(?:client|server) error \((\d{1,3})\) from .{0,200}? with message \"?",
    re.IGNORECASE | re.DOTALL,
)
_QUEUE_S = (60, 21_600)
_RUN_S = (1, 3_600)


class Queued(SageMakerEndpoint):
    """An asynchronous endpoint. Each call waits for its answer. Thread-safe.

    Up to 128,000 bytes travel with the request. More is stored under the option
    ``bucket="s3://bucket/prefix"`` until the answer comes. The call polls the endpoint's output and
    failure locations, less and less often, until the subscription's ``timeout_s``. Then the request
    expires in SageMaker, too. ``output="location"`` returns ``{"output_location": "s3://…",
    "bytes": 123}`` instead of a large answer.

    The caller needs ``sagemaker:InvokeEndpointAsync``, and ``s3:GetObject`` and ``s3:ListBucket``
    for the answers. Without the latter S3 does not say that an answer is not there yet. For
    ``bucket`` it needs ``s3:PutObject`` and ``s3:DeleteObject``.

    Every attempt is a request with an inference id of its own, which begins with the event's. So it
    never takes the answer of another attempt, of a replay, or of an earlier model at the same
    endpoint. An attempt that was cut off runs to its end there, and its answer is ignored.

    To react to SageMaker's notices, or to requests of others, subscribe to the topic of the
    endpoint: ``mt.subscribe("arn:aws:sns:…", model)``. This needs neither this class nor a waiting
    listener.

    Parameters
    ----------
    place, setting
        The endpoint, and how long to wait.
    now, sleep : callable, optional
        The monotonic time in seconds, and how to wait.
    """

    concurrency = 32

    def __init__(
        self,
        place: Place,
        setting: Setting,
        now: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], Any] | None = None,
    ) -> None:
        super().__init__(place, setting)
        self._closed = threading.Event()
        self._now, self._sleep = now, sleep or self._closed.wait

    def close(self) -> None:
        """Stop waiting for answers."""
        self._closed.set()

    def call(self, events: Sequence[Event]) -> Sequence[Any]:
        """Queue the request and wait for its answer."""
        (event,) = events
        until_s = self._now() + self._setting.timeout_s
        body, kind = self._sent(event)
        request_id = f"{inference_id(event.id)[:47]}.{uuid.uuid4().hex[:16]}"
        with contextlib.ExitStack() as stack:
            given = {**self._input(body, kind, request_id, stack), **self._place.parameters()}
            return [self._answer(self._queued(given, kind, request_id), until_s)]

    def _input(
        self, body: bytes, kind: str, request_id: str, stack: contextlib.ExitStack
    ) -> dict[str, Any]:
        """Return the input as a parameter of the call.

        A stored input is deleted when *stack* ends well.
        """
        clients = self._clients()
        known = clients.sagemaker.meta.service_model.operation_model(
            "InvokeEndpointAsync"
        ).input_shape.members
        if len(body) <= INLINE_BYTES and "Body" in known:
            return {"Body": body}
        if self._place.bucket is None:
            within(
                body,
                INLINE_BYTES if "Body" in known else 0,
                "an asynchronous call",
                "name a bucket: bucket='s3://bucket/prefix'",
            )
        within(body, MAX_BODY, "an asynchronous endpoint")
        found = BUCKET.fullmatch(self._place.bucket or "")
        bucket, prefix = (found["bucket"], found["prefix"]) if found else ("", "")
        place = {
            "Bucket": bucket,
            "Key": "/".join(filter(None, [(prefix or "").strip("/"), uuid.uuid4().hex])),
        }
        try:
            clients.s3.put_object(**place, Body=body, ContentType=kind)
        except Exception as error:
            raise failure_of(error, "s3:PutObject", bucket) from error
        stack.push(_deleting(clients.s3, place))
        return {"InputLocation": f"s3://{place['Bucket']}/{place['Key']}"}

    def _queued(self, given: dict[str, Any], kind: str, request_id: str) -> _Locations:
        limits = {
            "RequestTTLSeconds": self._seconds(*_QUEUE_S),
            "InvocationTimeoutSeconds": self._seconds(*_RUN_S),
        }
        try:
            said = self._clients().sagemaker.invoke_endpoint_async(
                **given, **limits, ContentType=kind, InferenceId=request_id
            )
        except ModelFailure:
            raise
        except Exception as error:
            raise refusal(error, ACTION, self._place.name) from error
        return _Locations(str(said["OutputLocation"]), said.get("FailureLocation"))

    def _seconds(self, low: int, high: int) -> int:
        return max(low, min(high, math.ceil(self._setting.timeout_s)))

    def _answer(self, where: _Locations, until_s: float) -> Any:
        """Return the answer as soon as it is there."""
        pause_s, denied = FIRST_PAUSE_S, False
        while True:
            found = self._object(where.output)
            if isinstance(found, dict):
                return self._value(found, where.output)
            if where.failure and isinstance(failed := self._object(where.failure), dict):
                raise _failed(_read(failed["Body"], 64 * 1024))
            if self._closed.is_set():
                raise ModelFailure(
                    "nobody waits for the answer any more",
                    reason="stopped",
                    kind="Closed",
                    whole=True,
                )
            denied = found == "denied"
            if self._now() >= until_s:
                raise self._late(where.output, denied)
            self._sleep(min(pause_s, max(0.0, until_s - self._now())))
            pause_s = min(MOST_PAUSE_S, 1.5 * pause_s)

    def _object(self, location: str) -> dict[str, Any] | str:
        """Return the object at *location*, or the reason that there is none yet."""
        bucket, key = _parts(location)
        try:
            found: dict[str, Any] = self._clients().s3.get_object(Bucket=bucket, Key=key)
        except Exception as error:  # an outage of S3 counts as "not there yet"
            return "denied" if code_of(error) in DENIED else "not there"
        return found

    def _value(self, found: dict[str, Any], location: str) -> Any:
        with contextlib.closing(found["Body"]):
            size, most = int(found["ContentLength"]), int(self._place.max_answer_mb * 1024 * 1024)
            if self._place.output == "location":
                return {"output_location": location, "bytes": size}
            if size > most:
                message = (
                    f"the answer has {size:,} bytes; max_answer_mb is"
                    f" {self._place.max_answer_mb:g}: raise it, or take output='location'"
                )
                raise ModelFailure(
                    message, reason="result_too_large", permanent=True, kind="AnswerTooLarge"
                )
            return value_of(
                _read(found["Body"], most), found.get("ContentType"), f"endpoint {self._place.name}"
            )

    def _late(self, location: str, denied: bool) -> ModelFailure:
        message = (
            f"no answer within timeout_s = {self._setting.timeout_s:g}; SageMaker drops the request"
        )
        if denied:
            message = (
                f"S3 does not say whether {location} is there: allow s3:GetObject and"
                f" s3:ListBucket; {message}"
            )
        return ModelFailure(message, reason="timeout", kind="TimeoutError", whole=True)


class _Locations(NamedTuple):
    """Where SageMaker will write the answer, or the reason for a failure."""

    output: str
    failure: str | None


def _parts(location: str) -> tuple[str, str]:
    if (found := _S3.fullmatch(location)) is None:
        raise ModelFailure(
            f"SageMaker names no object of S3: {location[:200]!r}",
            reason="model_http_error",
            kind="BadAnswer",
        )
    return found[1], found[2]


def _read(body: Any, most: int) -> bytes:
    try:
        with contextlib.closing(body):
            return bytes(body.read(most))
    except Exception as error:
        raise failure_of(error, "s3:GetObject", "the answer") from error


def _deleting(s3: Any, place: dict[str, str]) -> Callable[..., None]:
    """Return a function that deletes the object at *place*.

    It keeps the object while the request may still be queued, because SageMaker will read it.
    """

    def delete(_: object, error: BaseException | None, __: object) -> None:
        if error is None or (isinstance(error, ModelFailure) and error.reason != "timeout"):
            with contextlib.suppress(Exception):  # the answer matters more than a leftover object
                s3.delete_object(**place)

    return delete


def _failed(raw: bytes) -> ModelFailure:
    """Return the failure in the object at the failure location.

    It has SageMaker's report about its container, or JSON.
    """
    text = raw.decode("utf-8", "backslashreplace")
    with contextlib.suppress(ValueError, RecursionError):
        said = json.loads(text)
        text = (
            str(said.get("failureReason") or said.get("errorMessage") or text)
            if isinstance(said, dict)
            else text
        )
    answered = _ANSWERED.search(text)
    if answered is None:
        return ModelFailure(
            text[:1000] or "the request failed",
            reason="model_error",
            kind="ModelError",
            detail=text,
        )
    return of_container(int(answered[1]), text[answered.end() :])
