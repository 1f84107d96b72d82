"""The route ``/metrics``: the figures of the bus for Prometheus."""

from __future__ import annotations

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from mltrigger.api.service import Routes, aside
from mltrigger.telemetry.prometheus import CONTENT_TYPE, text


class Metrics(Routes):
    """Figures of all subscriptions. A token needs ``read:*``."""

    def routes(self) -> list[Route]:
        """Return the routes."""
        return [Route("/metrics", self._metrics, methods=["GET"])]

    async def _metrics(self, request: Request) -> Response:
        await self._service.permitted(request, "read", "*")
        found = await aside(text, self._bus)
        return Response(found, media_type=CONTENT_TYPE, headers={"cache-control": "no-store"})
