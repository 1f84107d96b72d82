"""Amazon SageMaker endpoints as models: ``sagemaker://ENDPOINT/VARIANT?region=eu-west-1``,
real-time and asynchronous.
"""

from __future__ import annotations

import dataclasses
import hashlib
import re
import urllib.parse
from collections.abc import Sequence
from typing import Any

from mltrigger.aws.clients import ModelClients
from mltrigger.aws.faults import AwsError, code_of
from mltrigger.aws.models import access as aws_access
from mltrigger.aws.models.access import (
    Access,
    failure_of,
    listed,
    said_by,
    sent,
    unusable,
    value_of,
    within,
)
from mltrigger.errors import InvalidModel, ModelFailure, NotFound
from mltrigger.event.event import Event, is_json
from mltrigger.versions.address import Address
from mltrigger.versions.scheme import Description, Endpoint, Scheme, Setting

MAX_BODY = 25 * 1000 * 1000
"""What an endpoint takes at most, of the kind that takes most (serverless ones take 4 MB); what it
takes less it refuses itself.
"""
ACTION = "sagemaker:InvokeEndpoint"

_NAME = r"[A-Za-z0-9](?:-*[A-Za-z0-9]){0,62}"
_ARN = re.compile(
    rf"arn:aws[a-zA-Z-]*:sagemaker:(?P<region>[a-z0-9-]+):(?P<account>\d{{12}}):endpoint/(?P<name>{_NAME})(?P<variant>)(?P<query>)"
)
_URL = re.compile(
    rf"sagemaker://(?P<name>{_NAME})(?:/(?P<variant>{_NAME})?)?(?:\?(?P<query>[^#]*))?(?P<region>)(?P<account>)"
)
_HEADER = re.compile(r"[!-~][ -~]{0,1023}")
_TEXTS = ("content_type", "accept", "inference_component", "target_model", "custom_attributes")
_ASYNC = ("bucket", "output")
_OPTIONS: dict[str, type | tuple[type, ...]] = {
    **aws_access.OPTIONS,
    "region": str,
    "mode": str,
    "batch": bool,
    **dict.fromkeys(_TEXTS, str),
    "bucket": str,
    "output": str,
    "max_answer_mb": (int, float),
}
_LATER = frozenset({"ModelNotReadyException"})
_ENDPOINT = re.compile(r"\b(endpoint|variant|inference component|target ?model)\b", re.IGNORECASE)
_BODY = re.compile(r"\b(body|payload|length less than)\b", re.IGNORECASE)
_TIMED_OUT = re.compile(r"timed out|timeout", re.IGNORECASE)


@dataclasses.dataclass(frozen=True, slots=True)
class Place:
    """What an address and its options say: which endpoint, and how it is called."""

    name: str
    variant: str | None
    access: Access
    mode: str = "realtime"
    batch: bool = False
    content_type: str | None = None
    accept: str | None = None
    inference_component: str | None = None
    target_model: str | None = None
    custom_attributes: str | None = None
    bucket: str | None = None
    output: str = "value"
    max_answer_mb: float = 16

    def parameters(self) -> dict[str, str]:
        """Return the parameters that every call has, as boto3 names them."""
        given = {
            "EndpointName": self.name,
            "TargetVariant": self.variant,
            "Accept": self.accept,
            "TargetModel": self.target_model,
            "InferenceComponentName": self.inference_component,
            "CustomAttributes": self.custom_attributes,
        }
        return {name: value for name, value in given.items() if value is not None}


class SageMaker(Scheme):
    """An endpoint that is called with the data of one event: JSON, or bytes of the event's own
    media type.

    ``sagemaker://ENDPOINT`` leaves the production variant to the endpoint's weights,
    ``sagemaker://ENDPOINT/VARIANT`` names it. The region is ``?region=``, the option ``region=``,
    or the one that boto3 finds. An endpoint keeps its name when another model is deployed to it, so
    it is a build unless a version is given.

    Options: ``accept="application/json"`` asks for the answer's type; JSON becomes the output, text
    a text, all else bytes. ``content_type="text/csv"`` says what texts and bytes are.
    ``inference_component``, ``target_model``, ``custom_attributes``: as in SageMaker's
    InvokeEndpoint. ``batch=True`` sends a JSON list of events for a list of as many outputs.
    ``profile``, ``role_arn``, ``external_id``, ``endpoint_url``: who calls, and an emulator. The
    caller needs ``sagemaker:InvokeEndpoint``.

    ``mode="async"`` calls an asynchronous endpoint, up to an hour and 1 GB: see
    :class:`~mltrigger.aws.models.sagemaker_async.Queued`.
    """

    def describe(self, address: Address) -> Description:
        """Check the address and the options."""
        place = place_of(address)
        name = f"{place.name}.{place.variant}" if place.variant else place.name
        region = f", {place.access.region}" if place.access.region else ""
        return Description(
            name[:80],
            about=(
                "SageMaker endpoint"
                f" {place.name}{region}{', asynchronous' if place.mode == 'async' else ''}"
            ),
        )

    def open(self, address: Address, setting: Setting) -> Endpoint:
        """Return the endpoint; the client is made at its first use."""
        place = place_of(address)
        if place.mode == "async":
            from mltrigger.aws.models.sagemaker_async import Queued

            return Queued(place, setting)
        return RealTime(place, setting)


class SageMakerEndpoint(Endpoint):
    """What real-time and asynchronous endpoints share: their clients, and a look at whose they are."""

    concurrency = aws_access.CONCURRENCY

    def __init__(self, place: Place, setting: Setting) -> None:
        self.batches = place.batch
        self._place, self._setting = place, setting
        self._made: ModelClients | None = None

    def warm_up(self) -> None:
        """Make the clients, and look whose they are: an endpoint of the same name in another
        account is another model.

        Raises
        ------
        ModelFailure
            When there are no credentials, or they are of another account than the address names.
        """
        clients = self._clients()
        if (wanted := self._place.access.account) is None:
            return
        try:
            found = clients.account
        except AwsError as error:
            failed = failure_of(error, "sts:GetCallerIdentity", clients.region)
            if failed.reason == "model_unavailable":
                raise failed from error
            return  # STS may be out of reach where SageMaker is not
        if found != wanted:
            message = (
                f"endpoint {self._place.name!r} is in account {wanted}, the credentials are of"
                f" {found}: name a profile or role_arn"
            )
            raise unusable(message, "WrongAccount")

    def _clients(self) -> ModelClients:
        if self._made is None:
            try:
                self._made = self._place.access.clients(
                    self._setting.timeout_s, self._setting.concurrency
                )
            except AwsError as error:
                raise failure_of(error, ACTION, self._place.name) from error
        return self._made

    def _sent(self, event: Event) -> tuple[bytes, str]:
        """Return the data and their media type; the user's own word is for what is no JSON value."""
        own = self._place.content_type
        if own is not None and isinstance(event.data, (str, bytes)):
            return (event.data.encode() if isinstance(event.data, str) else event.data), own
        return sent(event)


class RealTime(SageMakerEndpoint):
    """An endpoint that answers at once, or a serverless one; thread-safe."""

    def call(self, events: Sequence[Event]) -> Sequence[Any]:
        """Invoke the endpoint once."""
        body, kind = (
            (self._list_of(events), "application/json") if self.batches else self._sent(events[0])
        )
        given = {
            "Body": within(body, MAX_BODY, "a SageMaker endpoint", _SMALLER),
            "ContentType": kind,
            **self._place.parameters(),
        }
        try:
            said = self._clients().sagemaker.invoke_endpoint(
                **given, InferenceId=inference_id(events[0].id)
            )
            raw = said["Body"].read()
        except ModelFailure:
            raise
        except Exception as error:
            raise refusal(error, ACTION, self._place.name) from error
        answer = value_of(raw, said.get("ContentType"), f"endpoint {self._place.name}")
        return answer if self.batches else [answer]  # the caller checks what it is, and its length

    def _list_of(self, events: Sequence[Event]) -> bytes:
        return listed(events, self._json_of)

    def _json_of(self, event: Event) -> bytes:
        raw, kind = sent(event)
        if not is_json(kind):
            raise ModelFailure(
                f"a batch is one JSON list; this event's data are {kind}",
                reason="invalid_input",
                permanent=True,
            )
        return raw


_SMALLER = "use an asynchronous endpoint, or store the object and publish its name"


def place_of(address: Address) -> Place:
    """Return what *address* and its options say.

    Raises
    ------
    InvalidModel, NotFound
        With what is wrong, and a form that would be right.
    """
    shown = f"model {address.text[:200]!r}"
    if (found := _ARN.fullmatch(address.text) or _URL.fullmatch(address.text)) is None:
        raise InvalidModel(
            f"{address.text[:200]!r} names no SageMaker endpoint; write sagemaker://ENDPOINT or"
            " sagemaker://ENDPOINT/VARIANT"
        )
    options = address.checked(**_OPTIONS)
    asked = dict(urllib.parse.parse_qsl(found["query"] or "", keep_blank_values=True))
    for name in asked.keys() - {"region"}:
        raise NotFound.of(
            "parameter of sagemaker: addresses",
            name,
            ["region"],
            "other settings are options: mt.model(address, name=value)",
        )
    regions = {
        region
        for region in (found["region"], asked.get("region"), options.pop("region", None))
        if region
    }
    if len(regions) > 1:
        raise InvalidModel(f"{shown}: names two regions, {' and '.join(sorted(regions))}")
    access = Access.of(address, options, next(iter(regions), None), found["account"] or None)
    own = {name: value for name, value in options.items() if name not in aws_access.OPTIONS}
    place = Place(found["name"], found["variant"] or None, access, **own)
    for problem in _problems(place):
        raise InvalidModel(f"{shown}: {problem}")
    return place


def _problems(place: Place) -> Any:
    if place.mode not in ("realtime", "async"):
        yield f"mode must be 'realtime' or 'async', got {place.mode[:40]!r}"
    if place.output not in ("value", "location"):
        yield f"output must be 'value' or 'location', got {place.output[:40]!r}"
    for name in _TEXTS:
        if (text := getattr(place, name)) is not None and not _HEADER.fullmatch(text):
            yield f"{name} must be 1 to 1,024 printable ASCII characters, got {text[:40]!r}"
    if not place.max_answer_mb > 0:
        yield f"max_answer_mb must be more than 0, got {place.max_answer_mb!r}"
    if place.bucket is not None and not BUCKET.fullmatch(place.bucket):
        yield f"bucket must be s3://BUCKET or s3://BUCKET/PREFIX, got {place.bucket[:100]!r}"
    if place.mode == "async":
        for name in ("variant", "batch", "inference_component", "target_model"):
            if getattr(place, name):
                yield f"an asynchronous call takes no {name}; leave it out"
    elif place.bucket is not None or place.output != "value":
        yield "bucket and output are for mode='async'"


BUCKET = re.compile(
    r"s3://(?P<bucket>[a-z0-9][a-z0-9.-]{1,61}[a-z0-9])(?:/(?P<prefix>[ -~]{0,512}))?"
)


def inference_id(event_id: str) -> str:
    """Return *event_id* when SageMaker takes it as an inference id (64 printable ASCII characters),
    else its SHA-256.
    """
    if len(event_id) <= 64 and _HEADER.fullmatch(event_id):
        return event_id
    return hashlib.sha256(event_id.encode("utf-8", "surrogatepass")).hexdigest()


def refusal(error: Exception, action: str, name: str) -> ModelFailure:
    """Return what it means that SageMaker gave no answer of the model."""
    code, said = code_of(error), said_by(error)
    if code == "ModelError":
        return of_container(
            int(said.get("OriginalStatusCode") or 0),
            str(said.get("OriginalMessage") or ""),
            said.get("LogStreamArn"),
        )
    failed = failure_of(error, action, name, _LATER)
    if code not in ("ValidationError", "ValidationException"):
        return failed
    if _BODY.search(
        message := str(said.get("Error", {}).get("Message", ""))
    ) is None and _ENDPOINT.search(message):
        return unusable(str(failed), code)
    return ModelFailure(str(failed), reason="model_rejected", permanent=True, kind=code)


def of_container(status: int, message: str, log: str | None = None) -> ModelFailure:
    """Return what it means that the model's own container answered with *status*; 0 when it gave no
    answer at all.
    """
    shown = (
        f"the container answered {status}: {message[:1000]}"
        if status
        else message[:1000] or "the container gave no answer"
    )
    given: dict[str, Any] = {
        "kind": f"HTTP {status}" if status else "ModelError",
        "detail": f"log stream: {log}" if log else None,
    }
    if status == 429:
        return ModelFailure(shown, reason="throttled", throttled=True, whole=True, **given)
    if 400 <= status < 500 and status not in (408, 425):
        return ModelFailure(shown, reason="model_rejected", permanent=True, **given)
    if status in (0, 408, 504) and _TIMED_OUT.search(message):
        return ModelFailure(shown, reason="timeout", whole=True, **given)
    return ModelFailure(shown, reason="model_http_error", whole=True, **given)
