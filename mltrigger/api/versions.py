"""The routes about versions in production: bindings, promote, canary, rollback, lanes."""

from __future__ import annotations

import dataclasses
import functools
import json
import math
from datetime import UTC, datetime
from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from mltrigger.api import bodies
from mltrigger.api.service import Routes, aside, json_object
from mltrigger.broker import SubscriptionSpec
from mltrigger.errors import NotFound, silently
from mltrigger.rollout import lanes
from mltrigger.rollout.canary import Canary
from mltrigger.rollout.guard import Guard
from mltrigger.rollout.history import Bound
from mltrigger.rollout.lane import Lane, lanes_of
from mltrigger.rollout.verdict import Verdict
from mltrigger.versions.selector import Selector, resolve
from mltrigger.versions.version import ModelVersion

_PROMOTE = {
    "version": bodies.text,
    "verdict": bodies.members,
    "backlog": bodies.one_of("new", "old"),
    "force": bodies.text,
    "why": bodies.text,
}
_CANARY = {
    "version": bodies.text,
    "steps": bodies.each(bodies.number),
    "guard": bodies.members,
    "min_events": bodies.whole,
    "min_s": bodies.number,
    "then": bodies.one_of("wait", "promote"),
    "why": bodies.text,
}
_GUARD = {
    "errors": bodies.either(bodies.number, bodies.nothing),
    "p95": bodies.either(bodies.number, bodies.nothing),
    "measures": bodies.members,
    "alpha": bodies.number,
}
_ROLLBACK = {"to": bodies.either(bodies.whole, bodies.text), "why": bodies.text}


_LANE = {
    "role": bodies.one_of("shadow", "replay"),
    "version": bodies.text,
    "share": bodies.number,
    "since": bodies.text,
    "until": bodies.text,
    "limit": bodies.whole,
    "effects": bodies.one_of("recorded", "live"),
    "concurrency": bodies.whole,
    "max_rate_per_s": bodies.number,
    "why": bodies.text,
}
_ONLY = {"shadow": {"share"}, "replay": {"since", "until", "limit"}}
"""The members that only one kind of lane has."""


class Versions(Routes):
    """Changes the versions of subscriptions. The ledger has the name of the token."""

    def routes(self) -> list[Route]:
        """Return the routes."""
        one = "/v1/subscriptions/{name}"
        return [
            Route(f"{one}/bindings", self._bindings, methods=["GET"]),
            Route(f"{one}/promote", self._promote, methods=["POST"]),
            Route(f"{one}/canary", self._canary, methods=["POST"]),
            Route(f"{one}/rollback", self._rollback, methods=["POST"]),
            Route(f"{one}/lanes", self._lanes, methods=["GET"]),
            Route(f"{one}/lanes", self._open_lane, methods=["POST"]),
            Route(f"{one}/lanes/{{lane}}", self._stop_lane, methods=["DELETE"]),
        ]

    async def _bindings(self, request: Request) -> Response:
        name = request.path_params["name"]
        await self._service.permitted(request, "read", name)
        spec = await aside(self._bus.spec, name)
        found = await aside(self._bus.rollout.history, spec)
        return JSONResponse({"bindings": [_shown(each) for each in found]})

    async def _promote(self, request: Request) -> Response:
        spec, by, given = await self._change(request)
        given = bodies.checked(given, _PROMOTE)
        if "verdict" in given:
            given["verdict"] = Verdict.from_json(json.dumps(given["verdict"]))
        version = await self._registered(spec, given.pop("version", None))
        call = functools.partial(self._bus.rollout.promote, spec, version, by=by, **given)
        return JSONResponse(_shown(await self._service.slowly(call)))

    async def _canary(self, request: Request) -> Response:
        spec, by, given = await self._change(request)
        given = bodies.checked(given, _CANARY)
        if "version" not in given:
            raise bodies.refused('send {"version": "1.1.0"}')
        if "guard" in given:
            given["guard"] = Guard(**bodies.checked(given["guard"], _GUARD))
        version = await self._registered(spec, given.pop("version"))
        call = functools.partial(self._bus.rollout.canary, spec, version, by=by, **given)
        return JSONResponse(_shown(await self._service.slowly(call)))

    async def _rollback(self, request: Request) -> Response:
        spec, by, given = await self._change(request)
        given = bodies.checked(given, _ROLLBACK)
        to = given.pop("to", None)
        if isinstance(to, str):
            to = await self._registered(spec, to)
        call = functools.partial(self._bus.rollout.rollback, spec, to, by=by, **given)
        return JSONResponse(_shown(await self._service.slowly(call)))

    async def _lanes(self, request: Request) -> Response:
        name = request.path_params["name"]
        await self._service.permitted(request, "read", name)
        spec = await aside(self._bus.spec, name)
        return JSONResponse({"lanes": await aside(self._listed, spec)})

    def _listed(self, spec: SubscriptionSpec) -> list[dict[str, Any]]:
        return [_facts(lane) for lane in lanes_of(self._bus.rollout, spec)]

    async def _open_lane(self, request: Request) -> Response:
        spec, by, given = await self._change(request)
        given = bodies.checked(given, _LANE)
        if not {"role", "version"} <= given.keys():
            raise bodies.refused('send {"role": "shadow", "version": "1.1.0"}, or "replay"')
        role = given.pop("role")
        for other, names in _ONLY.items():
            if other != role and (wrong := names & given.keys()):
                raise bodies.refused(f"{' and '.join(sorted(wrong))} is for a {other} only")
        version = await self._registered(spec, given.pop("version"))
        opening = lanes.shadow if role == "shadow" else lanes.replay
        call = functools.partial(opening, self._bus.rollout, spec, version, by=by, **given)
        with silently():
            row = await self._service.slowly(call)
        return JSONResponse(await aside(_facts, Lane(self._bus.rollout, spec, row)))

    async def _stop_lane(self, request: Request) -> Response:
        spec, by, _ = await self._change(request)
        return JSONResponse(
            await self._service.slowly(self._stopped, spec, request.path_params["lane"], by)
        )

    def _stopped(self, spec: SubscriptionSpec, name: str, by: str) -> dict[str, Any]:
        found = lanes_of(self._bus.rollout, spec)
        lane = next((lane for lane in found if isinstance(lane, Lane) and lane.name == name), None)
        if lane is None:
            raise NotFound.of("lane", name, [each.facts()["lane"] for each in found])
        lane.stop()
        return _facts(lane)

    async def _change(self, request: Request) -> tuple[SubscriptionSpec, str, dict[str, Any]]:
        """Return the subscription, the name of the token, and the body."""
        holder = await self._service.permitted(request, "administer")
        spec = await aside(self._bus.spec, request.path_params["name"])
        return spec, holder.name, await json_object(request)

    async def _registered(self, spec: SubscriptionSpec, text: str | None) -> ModelVersion | None:
        """Return the registered version that *text* means. A request imports no code."""
        if text is None:
            return None
        if not {*":@"} & {*text}:
            text = f"{Selector.parse(spec.selector).name}:{text}"
        return await aside(resolve, self._bus.registry, Selector.parse(text))


def _shown(bound: Bound) -> dict[str, Any]:
    return {**dataclasses.asdict(bound), "at": bound.at.isoformat()}


def _facts(lane: Lane | Canary) -> dict[str, Any]:
    facts = lane.facts()
    at, rate = facts["opened_at"], facts["rate_per_s"]
    return {
        **facts,
        "opened_at": None if at is None else datetime.fromtimestamp(at / 1e6, UTC).isoformat(),
        "rate_per_s": None if math.isnan(rate) else rate,
    }
