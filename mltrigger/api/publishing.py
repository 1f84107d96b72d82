"""The routes that publish, and that tell the state of an event."""

from __future__ import annotations

import asyncio
import functools
import time
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
from mltrigger.api.service import Routes, Service, aside, large, media_type, preferred_wait_s
from mltrigger.broker import MAX_EVENT_BYTES, Receipt
from mltrigger.errors import InvalidEvent, NotFound, silently
from mltrigger.event.data import encode_data
from mltrigger.event.envelopes.cloudevents import BATCH
from mltrigger.event.event import Event
from mltrigger.store.publishing import differ

_FIRST_LOOK_S, _LONGEST_LOOK_S = 0.01, 0.25
"""The first and the longest time between looks for outcomes."""


class Publishing(Routes):
    """Publishes events, and tells of them."""

    def __init__(self, service: Service) -> None:
        super().__init__(service)
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
        holder = await self._service.permitted(request, "publish", topic)
        if request.url.path.endswith("/batch") and media_type(request) != BATCH:
            raise Refused(415, "unsupported_media_type", f"send {BATCH}")
        body = await request.body()
        headers, key = dict(request.headers), request.headers.get("idempotency-key")
        events = await large(body, events_of, headers, body, source_of(holder), key)
        is_batch = media_type(request) == BATCH
        return await self.published(request, holder, topic, events, is_batch)

    async def published(
        self,
        request: Request,
        holder: Holder,
        topic: str,
        events: Sequence[Event],
        is_batch: bool = False,
    ) -> Response:
        """Publish the events of *request*, and return the answer to it.

        After the commit nothing becomes an error: the events are durable.
        """
        receipts = await self._combiner.publish(topic, events) if events else []
        given = [answers.receipt(each, topic) for each in receipts]
        if any(each.duplicate for each in receipts):
            await aside(self._compare, events, receipts, given)
        if not is_batch and given[0].get("differs"):
            raise Refused(
                409,
                "id_taken",
                f"id {receipts[0].event_id[:100]!r} was sent before with other data, which stay:"
                " use another id",
            )
        headers = {} if is_batch else {"location": given[0]["status"]}
        status = 202
        wait_s = preferred_wait_s(request, self._service.limits.wait_s)
        if wait_s and receipts:
            headers["preference-applied"] = f"wait={wait_s:g}"
            ended = await self._outcomes(topic, receipts, wait_s, given, holder)
            status = 200 if ended else 202
        content: Any = {"receipts": given} if is_batch else given[0]
        return JSONResponse(content, status, headers)

    async def _outcomes(
        self,
        topic: str,
        receipts: Sequence[Receipt],
        wait_s: float,
        given: list[dict[str, Any]],
        holder: Holder,
    ) -> bool:
        """Wait, then add the states to *given*. Return whether all outcomes are there.

        It waits in the event loop: many callers may wait without a thread each.
        """
        run, end_s = self._bus.run_of(topic, receipts), time.monotonic() + wait_s
        look_s = _FIRST_LOOK_S
        while True:
            open_, stuck = await aside(run.look)
            left_s = end_s - time.monotonic()
            if not open_ or stuck or left_s <= 0 or self._service.news.is_over:
                break
            await asyncio.sleep(min(look_s, left_s))
            look_s = min(2 * look_s, _LONGEST_LOOK_S)
        for each, receipt in zip(given, receipts, strict=True):
            each["outcomes"] = await aside(self._states, receipt.seq, holder)
        return not open_

    def _publish_now(self, topic: str, events: Sequence[Event]) -> Sequence[Receipt]:
        with silently():
            return self._bus.publish_batch(topic, events)

    def _compare(
        self, events: Sequence[Event], receipts: Sequence[Receipt], given: list[dict[str, Any]]
    ) -> None:
        """Mark receipts of events that were sent before with other data."""
        for event, receipt, each in zip(events, receipts, given, strict=True):
            if receipt.duplicate:
                _, kept, kept_type = self._bus.log.archived(receipt.seq)[:3]
                own, own_type = encode_data(event, MAX_EVENT_BYTES)
                if differ((kept, kept_type), (own, own_type)):
                    each["differs"] = True

    async def _event(self, request: Request) -> Response:
        holder = await self._service.holder(request)
        given = request.query_params.get("id", "")
        event_id = request.path_params.get("id", given)
        source = request.query_params.get("source")
        return JSONResponse(await aside(self._found, event_id, source, holder))

    def _found(self, event_id: str, source: str | None, holder: Holder) -> dict[str, Any]:
        events = []
        for each in self._bus.log.find(event_id):
            if source not in (None, each.source):
                continue
            found = self._states(each.seq, holder)
            if holder.may("publish", each.topic) or any(
                holder.may_see(state["subscription"]) for state in found
            ):
                about = {"topic": each.topic, "source": each.source, "type": each.type}
                events.append({**about, "subscriptions": found})
        if not events:
            raise NotFound(f"no event {event_id[:100]!r} that this token may see")
        return {"id": event_id, "events": events}

    def _states(self, seq: int, holder: Holder) -> list[dict[str, Any]]:
        return answers.states(self._bus, seq, holder.may_see)

    async def _cancel(self, request: Request) -> Response:
        await self._service.permitted(request, "administer")
        source = request.query_params.get("source")
        cancel = functools.partial(self._bus.cancel, source=source)
        begun = await aside(cancel, request.path_params["id"])
        return JSONResponse({"begun": begun})


def source_of(holder: Holder) -> str:
    """Return the source of plain JSON: its sender. So an id belongs to one sender."""
    return f"/v1/callers/{holder.name}"


def check_is_immediate(events: Sequence[Event]) -> None:
    """Refuse events with a delay. Their caller waits for the answer."""
    if any("notbefore" in event.extensions for event in events):
        raise InvalidEvent("notbefore: a call cannot wait; publish an event instead")
