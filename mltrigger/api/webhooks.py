"""Webhooks that come in: signed ones, and the handshake of CloudEvents.

https://github.com/standard-webhooks/standard-webhooks/blob/main/spec/standard-webhooks.md
https://github.com/cloudevents/spec/blob/v1.0.2/cloudevents/http-webhook.md
"""

from __future__ import annotations

import time

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from mltrigger.api.access import Holder
from mltrigger.api.publishing import Publishing
from mltrigger.api.service import Rate, Routes, Service, large
from mltrigger.api.settings import Hooks
from mltrigger.errors import InvalidSignature
from mltrigger.event import codec
from mltrigger.event.envelopes.arrival import with_raw
from mltrigger.event.event import Event
from mltrigger.event.signatures import Signed, verify

TYPE = "mltrigger.webhook"
"""The type of an event whose body names none."""
RATE_PER_MINUTE = 600
"""The rate that a sender gets when it asks for permission."""


class Webhooks(Routes):
    """Takes events from senders without a token.

    Parameters
    ----------
    service : Service
        The bus.
    publishing : Publishing
        Publishes.
    hooks : Hooks
        The secrets, and the senders.
    """

    def __init__(self, service: Service, publishing: Publishing, hooks: Hooks) -> None:
        super().__init__(service)
        self._publishing, self._hooks = publishing, hooks
        self._rate = Rate(service.limits.rate_per_s)

    def routes(self) -> list[Route]:
        """Return the routes."""
        return [
            Route("/v1/webhooks/{topic}", self._take, methods=["POST"]),
            Route("/v1/webhooks/{topic}", self._permit, methods=["OPTIONS"]),
            Route("/v1/topics/{topic}/events", self._permit, methods=["OPTIONS"]),
        ]

    async def _take(self, request: Request) -> Response:
        topic = request.path_params["topic"]
        body = await request.body()
        try:
            signed = self._signed(request, topic, body)
        except InvalidSignature:
            self._service.count_wrong(request)
            raise
        self._rate.spend(topic)
        event = await large(body, _event, body, topic, signed.id)
        sender = Holder(f"webhook {topic}", (f"publish:{topic}",))
        return await self._publishing.published(request, sender, topic, [event])

    def _signed(self, request: Request, topic: str, body: bytes) -> Signed:
        if topic not in self._hooks.secrets:  # the same answer as to a wrong signature
            raise InvalidSignature("no webhook of this name and signature", "wrong_signature")
        return verify(self._hooks.secrets[topic], _single(request), body, time.time())

    async def _permit(self, request: Request) -> Response:
        """Answer a sender that asks whether it may send here."""
        origin = request.headers.get("webhook-request-origin", "")
        headers = {"allow": "POST, OPTIONS"}
        if origin and origin.lower() in self._hooks.origins:
            headers |= {
                "webhook-allowed-origin": origin,
                "webhook-allowed-rate": str(RATE_PER_MINUTE),
            }
        return Response(status_code=200, headers=headers)


def _event(body: bytes, topic: str, message: str) -> Event:
    """Return the event of a signed body.

    The signature covers the id of the message, its time and the body. No header beside them counts.
    It may have been written on the way.
    """
    data = codec.loads(body)
    if isinstance(data, dict) and "specversion" in data:
        return Event.from_attributes(data)
    kind = data.get("type") if isinstance(data, dict) else None
    named = kind if isinstance(kind, str) and kind else TYPE
    event = Event(data, id=message, type=named, source=f"/v1/webhooks/{topic}")
    return with_raw(event, body)


def _single(request: Request) -> dict[str, str]:
    """Return the headers. One that came twice has no one value."""
    for name in ("webhook-id", "webhook-timestamp", "webhook-signature"):
        if len(request.headers.getlist(name)) > 1:
            raise InvalidSignature(f"header {name} came twice: send it once", "malformed_header")
    return dict(request.headers)
