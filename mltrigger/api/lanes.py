"""The routes about lanes: shadows and replays, comparisons and corrections."""

from __future__ import annotations

import dataclasses
import functools
import json
import math
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from mltrigger.api import bodies
from mltrigger.api.service import aside
from mltrigger.api.subscribed import Subscribed
from mltrigger.broker import SubscriptionSpec
from mltrigger.errors import NotFound, silently
from mltrigger.rollout import agree, compared, lanes
from mltrigger.rollout.canary import Canary
from mltrigger.rollout.comparison import Comparison
from mltrigger.rollout.correction import Correction
from mltrigger.rollout.lane import Lane, lanes_of

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
_CORRECT = {
    "binding": bodies.whole,
    "limit": bodies.whole,
    "max_rate_per_s": bodies.number,
    "why": bodies.text,
}
_AGREE = ("tolerance", "similar", "same_set")
_NUMBERS = ("agree_at_least", "confidence", "within", "slow_at_most")
_COMPARE = {
    **dict.fromkeys(("old", "new", "field", "by", "since"), bodies.text),
    **dict.fromkeys((*_AGREE, *_NUMBERS), bodies.written_number),
}


class LaneRoutes(Subscribed):
    """Opens, lists and stops lanes, compares versions, and corrects answers."""

    def routes(self) -> list[Route]:
        """Return the routes."""
        one = "/v1/subscriptions/{name}"
        return [
            Route(f"{one}/lanes", self._lanes, methods=["GET"]),
            Route(f"{one}/lanes", self._open_lane, methods=["POST"]),
            Route(f"{one}/lanes/{{lane}}", self._stop_lane, methods=["DELETE"]),
            Route(f"{one}/compare", self._compare, methods=["GET"]),
            Route(f"{one}/correct", self._correct, methods=["POST"]),
        ]

    async def _lanes(self, request: Request) -> Response:
        spec = await self.readable(request)
        return JSONResponse({"lanes": await aside(self._listed, spec)})

    def _listed(self, spec: SubscriptionSpec) -> list[dict[str, Any]]:
        return [_facts(lane) for lane in lanes_of(self._bus.rollout, spec)]

    async def _open_lane(self, request: Request) -> Response:
        spec, by, given = await self.change(request)
        given = bodies.checked(given, _LANE)
        if not {"role", "version"} <= given.keys():
            raise bodies.refused('send {"role": "shadow", "version": "1.1.0"}, or "replay"')
        role = given.pop("role")
        for other, names in _ONLY.items():
            if other != role and (wrong := names & given.keys()):
                raise bodies.refused(f"{' and '.join(sorted(wrong))} is for a {other} only")
        version = await self.registered(spec, given.pop("version"))
        opening = lanes.shadow if role == "shadow" else lanes.replay
        call = functools.partial(opening, self._bus.rollout, spec, version, by=by, **given)
        with silently():
            row = await self._service.slowly(call)
        return JSONResponse(await aside(_facts, Lane(self._bus.rollout, spec, row)))

    async def _stop_lane(self, request: Request) -> Response:
        spec, _, _ = await self.change(request)
        return JSONResponse(
            await self._service.slowly(self._stopped, spec, request.path_params["lane"])
        )

    def _stopped(self, spec: SubscriptionSpec, name: str) -> dict[str, Any]:
        found = lanes_of(self._bus.rollout, spec)
        lane = next((lane for lane in found if isinstance(lane, Lane) and lane.name == name), None)
        if lane is None:
            raise NotFound.of("lane", name, [each.facts()["lane"] for each in found])
        lane.stop()
        return _facts(lane)

    async def _compare(self, request: Request) -> Response:
        spec = await self.readable(request)
        given = bodies.checked(request.query_params, _COMPARE)
        if not {"old", "new"} <= given.keys():
            raise bodies.refused("say ?old=1.0.0&new=1.1.0")
        versions = [await self.registered(spec, given.pop(name)) for name in ("old", "new")]
        rule = _rule(given)
        call = functools.partial(
            compared.compare, self._bus.rollout, spec, *versions, agree=rule, **given
        )
        with silently():
            return JSONResponse(_comparison(await self._service.slowly(call)))

    async def _correct(self, request: Request) -> Response:
        spec, by, given = await self.change(request)
        given = bodies.checked(given, _CORRECT)
        if "binding" not in given:
            raise bodies.refused('send {"binding": 3}: its number among the bindings')
        call = functools.partial(self._started, spec, given.pop("binding"), by, given)
        return JSONResponse(await self._service.slowly(call))

    def _started(
        self, spec: SubscriptionSpec, number: int, by: str, given: Mapping[str, Any]
    ) -> dict[str, Any]:
        corrector = self._bus.rollout.corrector
        bound = corrector.bound(spec, number)
        settings = {"max_rate_per_s": None, "limit": None, "why": None}
        corrector.start(spec, bound, **{**settings, **given}, by=by)
        return dataclasses.asdict(Correction(corrector, spec, bound).progress())


def _facts(lane: Lane | Canary) -> dict[str, Any]:
    facts = lane.facts()
    at, rate = facts["opened_at"], facts["rate_per_s"]
    return {
        **facts,
        "opened_at": None if at is None else datetime.fromtimestamp(at / 1e6, UTC).isoformat(),
        "rate_per_s": None if math.isnan(rate) else rate,
    }


def _rule(given: dict[str, Any]) -> Any:
    """Take the rule of agreement out of the parameters of a comparison."""
    chosen = [name for name in _AGREE if name in given]
    if len(chosen) > 1:
        raise bodies.refused(f"say one of {' and '.join(chosen)}")
    rule: Any = None
    for name in chosen:
        value = given.pop(name)
        rule = {"similar": agree.similar, "same_set": agree.same_set}.get(name, agree.rule)(value)
    path = given.pop("field", None)
    return rule if path is None else agree.field(path, rule)


def _comparison(found: Comparison) -> dict[str, Any]:
    return {
        "summary": found.verdict.summary,
        "counts": found.counts,
        "verdict": json.loads(found.verdict.to_json()),
    }
