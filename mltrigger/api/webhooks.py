"""Webhooks that come in: signed ones, and the handshake of CloudEvents.

https://github.com/standard-webhooks/standard-webhooks/blob/main/spec/standard-webhooks.md
https://github.com/cloudevents/spec/blob/v1.0.2/cloudevents/http-webhook.md
"""

from __future__ import annotations

import dataclasses
import time

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from mltrigger.api.access import Holder
from mltrigger.api.intake import events_of
from mltrigger.api.publishing import Publishing
from mltrigger.api.service import Rate, Service
from mltrigger.api.settings import Hooks
from mltrigger.errors import InvalidSignature
from mltrigger.event.envelopes.cloudevents import STRUCTURED
from mltrigger.event.signatures import verify

TYPE = "mltrigger.webhook"
"""The type of an event whose body names none."""
RATE_PER_MINUTE = 600
"""The rate that a sender gets when it asks for permission."""


class Webhooks:
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
        self._service, self._publishing, self._hooks = service, publishing, hooks
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
        self._rate.spend(topic if topic in self._hooks.secrets else "")
        body = await request.body()
        if topic not in self._hooks.secrets:  # the same answer as to a wrong signature
            raise InvalidSignature("no webhook of this name and signature", "wrong_signature")
        headers = dict(request.headers)
        signed = verify(self._hooks.secrets[topic], _single(request), body, time.time())
        source = f"/v1/webhooks/{topic}"
        events = events_of(headers, body, source, signed.id)
        if "ce-id" not in headers and not headers.get("content-type", "").startswith(
            STRUCTURED.removesuffix("+json")
        ):
            (event,) = events
            kind = event.data.get("type") if isinstance(event.data, dict) else None
            named = kind if isinstance(kind, str) and kind else TYPE
            events = [dataclasses.replace(event, type=named)]
        sender = Holder(f"webhook {topic}", (f"publish:{topic}",))
        return await self._publishing.published(request, sender, topic, events)

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


def _single(request: Request) -> dict[str, str]:
    """Return the headers. One that came twice has no one value."""
    for name in ("webhook-id", "webhook-timestamp", "webhook-signature"):
        if len(request.headers.getlist(name)) > 1:
            raise InvalidSignature(f"header {name} came twice: send it once", "malformed_header")
    return dict(request.headers)
