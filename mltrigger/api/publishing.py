"""The routes that publish, and that say what became of an event."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from mltrigger.api import answers
from mltrigger.api.access import Holder
from mltrigger.api.combine import Combiner
from mltrigger.api.intake import events_of
from mltrigger.api.problems import Refused
from mltrigger.api.service import Service, aside, media_type, preferred_wait_s
from mltrigger.broker import Receipt
from mltrigger.errors import InvalidEvent, NotFound, silently
from mltrigger.event.envelopes.cloudevents import BATCH
from mltrigger.event.event import Event
from mltrigger.run import Run

MOST_EVENTS = 10_000
"""The most events of one request."""


class Publishing:
    """Publishes events, and tells of them.

    Parameters
    ----------
    service : Service
        The bus, and who may call.
    """

    def __init__(self, service: Service) -> None:
        self._service, self._bus = service, service.bus
        commits = 1 if service.bus.outside is None else 8
        self._combiner = Combiner(self._publish_now, commits)

    def routes(self) -> list[Route]:
        """Return the routes."""
        return [
            Route("/v1/topics/{topic}/events", self._publish, methods=["POST"]),
            Route("/v1/topics/{topic}/batch", self._publish, methods=["POST"]),
            Route("/v1/events", self._event, methods=["GET"]),
            Route("/v1/events/{id:path}/cancel", self._cancel, methods=["POST"]),
            Route("/v1/events/{id:path}", self._event, methods=["GET"]),
        ]

    async def _publish(self, request: Request) -> Response:
        topic = request.path_params["topic"]
        holder = self._service.permitted(request, "publish", topic)
        if request.url.path.endswith("/batch") and media_type(request) != BATCH:
            raise Refused(415, "unsupported_media_type", f"send {BATCH}")
        body = await request.body()
        source, key = f"/v1/topics/{topic}", request.headers.get("idempotency-key")
        events = events_of(dict(request.headers), body, source, key)
        if len(events) > MOST_EVENTS:
            raise Refused(413, "too_large", f"at most {MOST_EVENTS} events a request")
        return await self.published(request, holder, topic, events)

    async def published(
        self, request: Request, holder: Holder, topic: str, events: Sequence[Event]
    ) -> Response:
        """Publish the events of *request*, and return the answer to it."""
        receipts = await self._combiner.publish(topic, events) if events else []
        given = [answers.receipt(each, topic) for each in receipts]
        is_batch = media_type(request) == BATCH
        headers = {} if is_batch else {"location": given[0]["status"]}
        status = 202
        wait_s = preferred_wait_s(request, self._service.limits.wait_s)
        if wait_s and receipts:
            headers["preference-applied"] = f"wait={wait_s:g}"
            status = 202 if await self._outcomes(topic, receipts, wait_s, given, holder) else 200
        content: Any = {"receipts": given} if is_batch else given[0]
        return JSONResponse(content, status, headers)

    async def _outcomes(
        self,
        topic: str,
        receipts: Sequence[Receipt],
        wait_s: float,
        given: list[dict[str, Any]],
        holder: Holder,
    ) -> int:
        """Add the outcomes to *given* once they are there. Return how many are still open."""
        run = self._bus.run_of(topic, receipts)
        await self._service.slowly(_wait, run, wait_s)
        for each, receipt in zip(given, receipts, strict=True):
            each["outcomes"] = await aside(self._states, receipt.seq, holder)
        return run.open

    def _publish_now(self, topic: str, events: Sequence[Event]) -> Sequence[Receipt]:
        with silently():
            return self._bus.publish_batch(topic, events)

    async def _event(self, request: Request) -> Response:
        holder = self._service.holder(request)
        given = request.query_params.get("id", "")
        event_id = request.path_params.get("id", given)
        return JSONResponse(await aside(self._found, event_id, holder))

    def _found(self, event_id: str, holder: Holder) -> dict[str, Any]:
        events = []
        for each in self._bus.log.find(event_id):
            found = self._states(each.seq, holder)
            if holder.may("publish", each.topic) or any(
                holder.may_read(state["subscription"]) for state in found
            ):
                about = {"topic": each.topic, "source": each.source, "type": each.type}
                events.append({**about, "subscriptions": found})
        if not events:
            raise NotFound(f"no event {event_id[:100]!r} that this token may see")
        return {"id": event_id, "events": events}

    def _states(self, seq: int, holder: Holder) -> list[dict[str, Any]]:
        return answers.states(self._bus, seq, holder.may_read)

    async def _cancel(self, request: Request) -> Response:
        self._service.permitted(request, "administer")
        begun = await aside(self._bus.cancel, request.path_params["id"])
        return JSONResponse({"begun": begun})


def check_is_immediate(events: Sequence[Event]) -> None:
    """Refuse events that are to wait: somebody waits for their answer."""
    if any("notbefore" in event.extensions for event in events):
        raise InvalidEvent("notbefore: a call cannot wait; publish an event instead")


def _wait(run: Run, wait_s: float) -> None:
    with silently():
        run.wait_for_what_can_come(wait_s, progress=False)
