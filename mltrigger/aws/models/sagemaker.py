"""Amazon SageMaker endpoints as models: ``sagemaker://ENDPOINT/VARIANT?region=eu-west-1``."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from mltrigger.aws.models.access import listed, sent, value_of, within
from mltrigger.aws.models.place import (
    ACTION,
    SageMakerEndpoint,
    inference_id,
    place_of,
    refusal,
)
from mltrigger.aws.models.sagemaker_async import Queued
from mltrigger.errors import ModelFailure
from mltrigger.event.data import is_json
from mltrigger.event.event import Event
from mltrigger.versions.address import Address
from mltrigger.versions.scheme import Description, Endpoint, Scheme, Setting

MAX_BODY = 25 * 1000 * 1000
"""The largest body in bytes that any endpoint takes. Serverless ones refuse more than 4 MB."""
_SMALLER = "use an asynchronous endpoint, or store the object and publish its name"


class SageMaker(Scheme):
    """An endpoint that is called with the data of one event.

    The data are JSON, or bytes of the event's own media type.

    ``sagemaker://ENDPOINT`` leaves the production variant to the endpoint's weights,
    ``sagemaker://ENDPOINT/VARIANT`` names it. The region is ``?region=``, the option ``region=``,
    or the one that boto3 finds. An endpoint keeps its name when another model is deployed to it.
    So it is a build unless a version is given.

    Options
    -------
    accept : str
        The wanted media type of the answer, for example ``"application/json"``. JSON becomes the
        output, text a text, anything else bytes.
    content_type : str
        The media type of texts and bytes, for example ``"text/csv"``.
    inference_component, target_model, custom_attributes : str
        As in SageMaker's InvokeEndpoint.
    batch : bool
        Send a JSON list of events, for a list of as many outputs.
    profile, role_arn, external_id, endpoint_url : str
        The caller, and the address of an emulator. The caller needs ``sagemaker:InvokeEndpoint``.
    mode : str
        ``"async"`` calls an asynchronous endpoint, up to an hour and 1 GB: see
        :class:`~mltrigger.aws.models.sagemaker_async.Queued`.
    """

    def describe(self, address: Address) -> Description:
        """Check the address and the options."""
        place = place_of(address)
        name = f"{place.name}.{place.variant}" if place.variant else place.name
        region = f", {place.access.region}" if place.access.region else ""
        asynchronous = ", asynchronous" if place.mode == "async" else ""
        return Description(
            name[:80], about=f"SageMaker endpoint {place.name}{region}{asynchronous}"
        )

    def open(self, address: Address, setting: Setting) -> Endpoint:
        """Return the endpoint. The client is created at its first use."""
        place = place_of(address)
        return (Queued if place.mode == "async" else RealTime)(place, setting)


class RealTime(SageMakerEndpoint):
    """An endpoint that answers at once, or a serverless one. Thread-safe."""

    def call(self, events: Sequence[Event]) -> Sequence[Any]:
        """Invoke the endpoint once."""
        if self.batches:
            body, kind = listed(events, _json_of), "application/json"
        else:
            body, kind = self._sent(events[0])
        body = within(body, MAX_BODY, "a SageMaker endpoint", _SMALLER)
        try:
            said = self._clients().sagemaker.invoke_endpoint(
                Body=body,
                ContentType=kind,
                **self._place.parameters(),
                InferenceId=inference_id(events[0].id),
            )
            raw = said["Body"].read()
        except ModelFailure:
            raise
        except Exception as error:
            raise refusal(error, ACTION, self._place.name) from error
        answer = value_of(raw, said.get("ContentType"), f"endpoint {self._place.name}")
        return answer if self.batches else [answer]  # the caller checks type and length


def _json_of(event: Event) -> bytes:
    raw, kind = sent(event)
    if not is_json(kind):
        raise ModelFailure(
            f"a batch is one JSON list; this event's data are {kind}",
            reason="invalid_input",
            permanent=True,
        )
    return raw
