"""The address of a SageMaker endpoint, and the rest that its two kinds of calls share."""

from __future__ import annotations

import dataclasses
import hashlib
import re
import urllib.parse
from collections.abc import Iterator
from typing import Any, NamedTuple

from mltrigger.aws.clients import ModelClients
from mltrigger.aws.faults import AwsError, code_of
from mltrigger.aws.models import access as aws_access
from mltrigger.aws.models.access import Access, failure_of, said_by, sent, unusable
from mltrigger.errors import InvalidModel, ModelFailure, NotFound
from mltrigger.event.event import Event
from mltrigger.versions.address import Address
from mltrigger.versions.scheme import Endpoint, Setting

ACTION = "sagemaker:InvokeEndpoint"
BUCKET = re.compile(
    r"s3://(?P<bucket>[a-z0-9][a-z0-9.-]{1,61}[a-z0-9])(?:/(?P<prefix>[ -~]{0,512}))?"
)

_NAME = r"[A-Za-z0-9](?:-*[A-Za-z0-9]){0,62}"
_ARN = re.compile(rf"arn:aws[a-zA-Z-]*:sagemaker:([a-z0-9-]+):(\d{{12}}):endpoint/({_NAME})")
_URL = re.compile(rf"sagemaker://({_NAME})(?:/({_NAME})?)?(?:\?([^#]*))?")
_HEADER = re.compile(r"[!-~][ -~]{0,1023}")
_TEXTS = ("content_type", "accept", "inference_component", "target_model", "custom_attributes")
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
    """An endpoint, and how it is called: the content of an address and its options."""

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
        """Return the parameters of every call, as boto3 names them."""
        given = {
            "EndpointName": self.name,
            "TargetVariant": self.variant,
            "Accept": self.accept,
            "TargetModel": self.target_model,
            "InferenceComponentName": self.inference_component,
            "CustomAttributes": self.custom_attributes,
        }
        return {name: value for name, value in given.items() if value is not None}


# -- addresses -------------------------------------------------------------------------------------


class _Named(NamedTuple):
    """The parts of an address."""

    name: str
    variant: str | None = None
    region: str | None = None
    account: str | None = None
    query: str = ""


def place_of(address: Address) -> Place:
    """Return the content of *address* and its options.

    Raises
    ------
    InvalidModel, NotFound
        With the mistake and a correct form.
    """
    shown = f"model {address.text[:200]!r}"
    named = _named(address.text)
    options = address.checked(**_OPTIONS)
    asked = dict(urllib.parse.parse_qsl(named.query, keep_blank_values=True))
    for name in asked.keys() - {"region"}:
        raise NotFound.of(
            "parameter of sagemaker: addresses",
            name,
            ["region"],
            "other settings are options: mt.model(address, name=value)",
        )
    given = (named.region, asked.get("region"), options.pop("region", None))
    regions = sorted({region for region in given if region})
    if len(regions) > 1:
        raise InvalidModel(f"{shown}: names two regions, {' and '.join(regions)}")
    access = Access.of(address, options, regions[0] if regions else None, named.account)
    own = {name: value for name, value in options.items() if name not in aws_access.OPTIONS}
    place = Place(named.name, named.variant, access, **own)
    for problem in _problems(place):
        raise InvalidModel(f"{shown}: {problem}")
    return place


def _named(text: str) -> _Named:
    if found := _ARN.fullmatch(text):
        region, account, name = found.groups()
        return _Named(name, region=region, account=account)
    if found := _URL.fullmatch(text):
        name, variant, query = found.groups()
        return _Named(name, variant, query=query or "")
    raise InvalidModel(
        f"{text[:200]!r} names no SageMaker endpoint; write sagemaker://ENDPOINT or"
        " sagemaker://ENDPOINT/VARIANT"
    )


def _problems(place: Place) -> Iterator[str]:
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


def inference_id(event_id: str) -> str:
    """Return *event_id* if SageMaker takes it as an inference id, else its SHA-256.

    SageMaker takes 64 printable ASCII characters.
    """
    if len(event_id) <= 64 and _HEADER.fullmatch(event_id):
        return event_id
    return hashlib.sha256(event_id.encode("utf-8", "surrogatepass")).hexdigest()


# -- endpoints -------------------------------------------------------------------------------------


class SageMakerEndpoint(Endpoint):
    """The base of real-time and asynchronous endpoints: clients, and a check of the account."""

    concurrency = aws_access.CONCURRENCY

    def __init__(self, place: Place, setting: Setting) -> None:
        self.batches = place.batch
        self._place, self._setting = place, setting
        self._made: ModelClients | None = None

    def warm_up(self) -> None:
        """Create the clients and check their account.

        An endpoint of the same name in another account is another model.

        Raises
        ------
        ModelFailure
            There are no credentials, or they are of another account than the address names.
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
            return  # SageMaker may be reachable even if STS is not
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
        """Return the data and their media type.

        The user's ``content_type`` applies to texts and bytes.
        """
        own = self._place.content_type
        if own is not None and isinstance(event.data, (str, bytes)):
            return (event.data.encode() if isinstance(event.data, str) else event.data), own
        return sent(event)


# -- refusals --------------------------------------------------------------------------------------


def refusal(error: Exception, action: str, name: str) -> ModelFailure:
    """Return the failure for a call that brought no answer of the model."""
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
    message = str(said.get("Error", {}).get("Message", ""))
    if _BODY.search(message) is None and _ENDPOINT.search(message):
        return unusable(str(failed), code)
    return ModelFailure(str(failed), reason="model_rejected", permanent=True, kind=code)


def of_container(status: int, message: str, log: str | None = None) -> ModelFailure:
    """Return the failure for an answer *status* of the model's own container, 0 for no answer."""
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
