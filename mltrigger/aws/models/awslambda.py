"""AWS Lambda functions as models: ``arn:aws:lambda:REGION:ACCOUNT:function:NAME:VERSION``."""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Sequence
from typing import Any

from mltrigger.aws.clients import ModelClients
from mltrigger.aws.models import access as aws_access
from mltrigger.aws.models.access import (
    Access,
    failure_of,
    listed,
    sent,
    status_of,
    unusable,
    value_of,
    within,
)
from mltrigger.errors import MAX_DELAY_S, InvalidModel, ModelFailure, Reject, Retry
from mltrigger.event import codec
from mltrigger.event.data import is_json
from mltrigger.event.event import Event
from mltrigger.versions.address import Address
from mltrigger.versions.running.capture import echo
from mltrigger.versions.scheme import HOLD_S, Description, Endpoint, Scheme, Setting

MAX_PAYLOAD = 6 * 1024 * 1024
"""The largest payload of a synchronous invocation, in bytes.

https://docs.aws.amazon.com/lambda/latest/dg/gettingstarted-limits.html
"""
ACTION = "lambda:InvokeFunction"

_ARN = re.compile(
    r"arn:aws[a-zA-Z-]*:lambda:(?P<region>[a-z0-9-]+):(?P<account>\d{12}):function:(?P<name>[A-Za-z0-9_-]{1,140})"
    r"(:(?P<qualifier>\$LATEST(\.PUBLISHED)?|[A-Za-z0-9_-]{1,128}))?"
)
_OPTIONS: dict[str, type | tuple[type, ...]] = {
    **aws_access.OPTIONS,
    "envelope": str,
    "batch": bool,
    "log": bool,
}
_ENVELOPES = ("data", "cloudevent")
_LATER = frozenset(
    {
        "EC2ThrottledException",
        "ServiceQuotaExceededException",
        "ENILimitReachedException",
        "SubnetIPAddressLimitReachedException",
    }
)
"""More codes for "too many calls at once"."""
_NOT_READY = frozenset(
    {
        "ResourceConflictException",
        "ResourceNotReadyException",
        "SnapStartNotReadyException",
        "SnapStartTimeoutException",
        "SnapStartException",
        "ENINotReadyException",
        "CodeArtifactUserPendingException",
        "CodeArtifactUserDeletedException",
        "CodeArtifactUserFailedException",
        "EC2AccessDeniedException",
        "EC2UnexpectedException",
        "EFSIOException",
        "EFSMountConnectivityException",
        "EFSMountFailureException",
        "EFSMountTimeoutException",
        "InvalidRuntimeException",
        "InvalidSecurityGroupIDException",
        "InvalidSubnetIDException",
        "InvalidZipFileException",
        "KMSDisabledException",
        "KMSInvalidStateException",
        "KMSNotFoundException",
        "NoPublishedVersionException",
        "RuntimeAliasDeletedException",
        "RuntimeVersionDeletedException",
        "S3FilesMountConnectivityException",
        "S3FilesMountFailureException",
        "S3FilesMountTimeoutException",
        "InvalidParameterValueException",
    }
)
"""Codes of a function that is being deployed, or was deployed wrongly. No event causes them."""
_REFUSED = frozenset(
    {
        "InvalidRequestContentException",
        "UnsupportedMediaTypeException",
        "RecursiveInvocationException",
    }
)

_BROKEN = frozenset(
    {
        "ImportModuleError",
        "HandlerNotFound",
        "UserCodeSyntaxError",
        "InvalidEntrypoint",
        "InvalidWorkingDir",
        "NotFound",
    }
)
"""``Runtime.…`` errors of a deployment that does not start."""
_DEAD = frozenset({"ExitError", "OutOfMemory", "Crash"})
_TIMED_OUT = re.compile(r"Task timed out after [\d.]+ seconds")
_DELAY = re.compile(r"\bdelay_s\s*=\s*(\d{1,9}(?:\.\d{1,6})?)")


class Lambda(Scheme):
    """A function, called synchronously with the data of one event as JSON.

    Its result is the output.

    ``…:function:ocr:7`` is version 7, model version ``7.0.0``. With an alias, ``$LATEST`` or
    nothing it is a build, because its meaning changes. The log that is kept with each invocation
    then says which version ran.

    Options
    -------
    envelope : str
        ``"cloudevent"`` sends the whole event in CloudEvents' JSON format, ``traceparent``
        included.
    batch : bool
        Send a list of events, for a list of as many outputs.
    log : bool
        ``False`` does not fetch the last 4 KB of the function's log.
    profile, role_arn, external_id, endpoint_url : str
        The caller, by default the one that boto3 finds, and the address of an emulator. The caller
        needs ``lambda:InvokeFunction``.

    A function that raises is a model that raises: type, message and stack trace are recorded, and
    it is called again. An error type named ``Reject`` ends the event at once. One named ``Retry``
    asks for another attempt, after 30 seconds if its message says ``delay_s=30``. This holds for
    functions in every language.
    """

    def describe(self, address: Address) -> Description:
        """Check the name and the options."""
        found, _ = _read(address)
        qualifier = found["qualifier"] or ""
        version = f"{int(qualifier)}.0.0" if qualifier.isdecimal() else None
        return Description(
            found["name"][:80].lstrip("_-") or "function",
            version,
            about=f"Lambda function {found['name']}, {found['region']}",
        )

    def open(self, address: Address, setting: Setting) -> Endpoint:
        """Return the endpoint. The client is created at its first use."""
        return LambdaEndpoint(address, setting)


class LambdaEndpoint(Endpoint):
    """One function or version of it. Thread-safe."""

    concurrency = aws_access.CONCURRENCY

    def __init__(self, address: Address, setting: Setting) -> None:
        found, options = _read(address)
        self.batches = options.get("batch", False)
        self._name, self._setting = address.text, setting
        self._access = Access.of(address, options, found["region"], found["account"])
        self._whole_event = options.get("envelope", "data") == "cloudevent"
        self._log_type = "Tail" if options.get("log", True) else "None"
        self._clients: ModelClients | None = None

    def warm_up(self) -> None:
        """Ask Lambda whether this function may be called, without calling it.

        Raises
        ------
        ModelFailure
            It may not be called, does not exist, or Lambda does not answer.
        """
        try:
            self._lambda().invoke(FunctionName=self._name, InvocationType="DryRun")
        except Exception as error:
            failed = failure_of(error, ACTION, self._name)
            if failed.reason == "model_unavailable" or not status_of(error):
                raise failed from error

    def call(self, events: Sequence[Event]) -> Sequence[Any]:
        """Invoke the function once. Its log is printed."""
        payload = listed(events, self._json_of) if self.batches else self._json_of(events[0])
        answer = self._invoked(within(payload, MAX_PAYLOAD, "a Lambda function"))
        return answer if self.batches else [answer]  # the caller checks type and length

    def _json_of(self, event: Event) -> bytes:
        if self._whole_event:
            return event.to_json().encode()
        raw, media_type = sent(event)
        return raw if is_json(media_type) else codec.encode(event.data)

    def _invoked(self, payload: bytes) -> Any:
        try:
            said = self._lambda().invoke(
                FunctionName=self._name, Payload=payload, LogType=self._log_type
            )
            raw = said["Payload"].read()
        except Exception as error:
            raise _refusal(error, self._name) from error
        if log := said.get("LogResult"):
            echo(base64.b64decode(log).decode("utf-8", "replace"))
        if said.get("FunctionError"):
            raise _failed(raw)
        return value_of(raw, "application/json", "the Lambda function")

    def _lambda(self) -> Any:
        if self._clients is None:
            self._clients = self._access.clients(self._setting.timeout_s, self._setting.concurrency)
        return self._clients.lambda_


def _read(address: Address) -> tuple[re.Match[str], dict[str, Any]]:
    found = _ARN.fullmatch(address.text)
    if found is None:
        form = "arn:aws:lambda:REGION:ACCOUNT:function:NAME, :VERSION or :ALIAS behind it"
        raise InvalidModel(f"{address.text[:200]!r} names no Lambda function; write {form}")
    options = address.checked(**_OPTIONS)
    if (envelope := options.get("envelope", "data")) not in _ENVELOPES:
        raise InvalidModel(
            f"model {address.text[:200]!r}: envelope must be 'data' or 'cloudevent', got"
            f" {envelope[:40]!r}"
        )
    Access.of(address, options, found["region"])
    return found, options


def _refusal(error: Exception, name: str) -> ModelFailure:
    """Return the failure for a call in which Lambda did not run the function."""
    failed = failure_of(error, ACTION, name, _LATER)
    if failed.kind in _NOT_READY:
        return unusable(str(failed), str(failed.kind))
    if failed.kind in _REFUSED:
        return ModelFailure(str(failed), reason="model_rejected", permanent=True, kind=failed.kind)
    return failed


def _failed(raw: bytes) -> Exception:
    """Return the error that the function raised, from the description by its runtime."""
    try:
        said = json.loads(raw)
    except (ValueError, RecursionError):
        said = raw.decode("utf-8", "backslashreplace")
    said = said if isinstance(said, dict) else {"errorMessage": str(said)}
    kind, message = (
        str(said.get("errorType") or "FunctionError"),
        str(said.get("errorMessage") or ""),
    )
    area, _, name = kind.rpartition(".")
    if name == "Reject":
        return Reject(message or "rejected by the function")
    if name == "Retry":
        asked = _DELAY.search(message)
        return Retry(min(float(asked[1]), float(MAX_DELAY_S)) if asked else None, message)
    given: dict[str, Any] = {"kind": kind, "detail": _trace(said)}
    if kind == "Sandbox.Timedout" or (area == "" and _TIMED_OUT.search(message)):
        return ModelFailure(f"{message}: the function's own timeout", reason="timeout", **given)
    if kind == "Function.ResponseSizeTooLarge":
        return ModelFailure(message, reason="result_too_large", permanent=True, **given)
    if kind == "Runtime.MarshalError":
        return ModelFailure(message, reason="result_not_serialisable", permanent=True, **given)
    if area == "Runtime" and name in _BROKEN:
        return ModelFailure(
            message, reason="model_unavailable", throttled=True, delay_s=HOLD_S, **given
        )
    if area in ("Runtime", "Extension") and name in _DEAD:
        return ModelFailure(message, reason="worker_died", **given)
    return ModelFailure(message, **given)


def _trace(said: dict[str, Any]) -> str | None:
    """Return the stack trace as its runtime wrote it.

    Python, Ruby and Java give lists of lines, Node gives ``trace``.
    """
    lines = said.get("stackTrace") or said.get("trace")
    if isinstance(lines, list):
        return "\n".join(str(line).rstrip("\n") for line in lines) or None
    return str(lines) if lines else None
