"""The application: the routes of one bus behind the gate."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable
from typing import TYPE_CHECKING, Any, NamedTuple

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.middleware.cors import CORSMiddleware
from starlette.types import ASGIApp

from mltrigger.api.access import Sessions, Tokens
from mltrigger.api.cockpit import CockpitRoutes
from mltrigger.api.documents import Documents
from mltrigger.api.gate import Gate
from mltrigger.api.inference import Inference
from mltrigger.api.intake import Unsupported
from mltrigger.api.lanes import LaneRoutes
from mltrigger.api.metrics import Metrics
from mltrigger.api.models import Models
from mltrigger.api.problems import Refused, answer
from mltrigger.api.publishing import Publishing
from mltrigger.api.reading import Reading
from mltrigger.api.seats import Cockpit
from mltrigger.api.service import Service, aside
from mltrigger.api.settings import Doors, Hooks, Limits
from mltrigger.api.steering import Steering
from mltrigger.api.versions import Versions
from mltrigger.api.webhooks import Webhooks
from mltrigger.errors import MltriggerError

if TYPE_CHECKING:
    from mltrigger.bus import EventBus

_HEADERS = (
    "authorization",
    "content-type",
    "idempotency-key",
    "last-event-id",
    "prefer",
    "ce-specversion",
    "ce-id",
    "ce-source",
    "ce-type",
    "ce-subject",
    "ce-time",
)


_SWEEP_S = 1.0


async def _sweep(bus: EventBus) -> None:
    """End calls of servers that died, also when no listener runs here."""
    while True:
        with contextlib.suppress(MltriggerError):
            await aside(bus.watch.look)
        await asyncio.sleep(_SWEEP_S)


class Application(NamedTuple):
    """The ASGI application, the function that ends its streams, and its sessions."""

    gate: ASGIApp
    stop: Callable[[], None]
    sessions: Sessions


def application(
    bus: EventBus,
    tokens: Tokens,
    doors: Doors,
    limits: Limits,
    hooks: Hooks,
    cockpit: Cockpit | None = None,
) -> Application:
    """Return the ASGI application for *bus*.

    Parameters
    ----------
    tokens : Tokens
        The tokens that are accepted.
    doors : Doors
        The hosts and origins that are accepted.
    limits : Limits
        The limits of requests.
    hooks : Hooks
        The secrets of webhooks.
    cockpit : Cockpit, optional
        The parts of the cockpit. Without them there is no such page.
    """
    service = Service(bus, tokens, limits)
    models, publishing = Models(service), Publishing(service)
    rooms = (
        publishing,
        Webhooks(service, publishing, hooks),
        Reading(service),
        Metrics(service),
        Steering(service),
        Versions(service),
        LaneRoutes(service),
        models,
        Inference(service, models),
        Documents(service),
        *([] if cockpit is None else [CockpitRoutes(service, cockpit)]),
    )

    @contextlib.asynccontextmanager
    async def life(_: Starlette) -> AsyncIterator[None]:
        service.start()
        sweeping = asyncio.create_task(_sweep(bus))
        try:
            yield
        finally:
            sweeping.cancel()
            service.stop()

    handlers: Any = dict.fromkeys(
        (Refused, MltriggerError, Unsupported, HTTPException, Exception), answer
    )
    cors = Middleware(
        CORSMiddleware,
        allow_origins=list(doors.origins),
        allow_methods=["GET", "POST", "DELETE"],
        allow_headers=list(_HEADERS),
        expose_headers=["location", "preference-applied", "retry-after"],
    )
    app = Starlette(
        routes=[route for room in rooms for route in room.routes()],
        exception_handlers=handlers,
        middleware=[cors] if doors.origins else [],
        lifespan=life,
    )
    gate = Gate(app, doors.hosts, doors.origins, limits)
    return Application(gate, service.stop, service.sessions)
