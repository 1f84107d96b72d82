"""The routes about versions in production: bindings, promote, canary, rollback."""

from __future__ import annotations

import dataclasses
import functools
import json
from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from mltrigger.api import bodies
from mltrigger.api.service import aside
from mltrigger.api.subscribed import Subscribed
from mltrigger.rollout.guard import Guard
from mltrigger.rollout.history import Bound
from mltrigger.rollout.verdict import Verdict

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


class Versions(Subscribed):
    """Changes the versions of subscriptions. The ledger has the name of the token."""

    def routes(self) -> list[Route]:
        """Return the routes."""
        one = "/v1/subscriptions/{name}"
        return [
            Route(f"{one}/bindings", self._bindings, methods=["GET"]),
            Route(f"{one}/promote", self._promote, methods=["POST"]),
            Route(f"{one}/canary", self._canary, methods=["POST"]),
            Route(f"{one}/rollback", self._rollback, methods=["POST"]),
        ]

    async def _bindings(self, request: Request) -> Response:
        spec = await self.readable(request)
        found = await aside(self._bus.rollout.history, spec)
        return JSONResponse({"bindings": [_shown(each) for each in found]})

    async def _promote(self, request: Request) -> Response:
        spec, by, given = await self.change(request)
        given = bodies.checked(given, _PROMOTE)
        if "verdict" in given:
            given["verdict"] = Verdict.from_json(json.dumps(given["verdict"]))
        version = await self.registered(spec, given.pop("version", None))
        call = functools.partial(self._bus.rollout.promote, spec, version, by=by, **given)
        return JSONResponse(_shown(await self._service.slowly(call)))

    async def _canary(self, request: Request) -> Response:
        spec, by, given = await self.change(request)
        given = bodies.checked(given, _CANARY)
        if "version" not in given:
            raise bodies.refused('send {"version": "1.1.0"}')
        if "guard" in given:
            given["guard"] = Guard(**bodies.checked(given["guard"], _GUARD))
        version = await self.registered(spec, given.pop("version"))
        call = functools.partial(self._bus.rollout.canary, spec, version, by=by, **given)
        return JSONResponse(_shown(await self._service.slowly(call)))

    async def _rollback(self, request: Request) -> Response:
        spec, by, given = await self.change(request)
        given = bodies.checked(given, _ROLLBACK)
        to = given.pop("to", None)
        if isinstance(to, str):
            to = await self.registered(spec, to)
        call = functools.partial(self._bus.rollout.rollback, spec, to, by=by, **given)
        return JSONResponse(_shown(await self._service.slowly(call)))


def _shown(bound: Bound) -> dict[str, Any]:
    return {**dataclasses.asdict(bound), "at": bound.at.isoformat()}
