"""The parts of routes that change the versions of one subscription."""

from __future__ import annotations

import abc
from typing import Any

from starlette.requests import Request

from mltrigger.api.service import Routes, aside, json_object
from mltrigger.broker import SubscriptionSpec
from mltrigger.versions.selector import Selector, resolve
from mltrigger.versions.version import ModelVersion


class Subscribed(Routes, abc.ABC):
    """Routes below ``/v1/subscriptions/NAME``."""

    async def readable(self, request: Request) -> SubscriptionSpec:
        """Return the subscription of a request that reads it."""
        name = request.path_params["name"]
        await self._service.permitted(request, "read", name)
        return await aside(self._bus.spec, name)

    async def change(self, request: Request) -> tuple[SubscriptionSpec, str, dict[str, Any]]:
        """Return the subscription, the name of the token, and the body."""
        holder = await self._service.permitted(request, "administer")
        spec = await aside(self._bus.spec, request.path_params["name"])
        return spec, holder.name, await json_object(request)

    async def registered(self, spec: SubscriptionSpec, text: str | None) -> ModelVersion | None:
        """Return the registered version that *text* means. A request imports no code."""
        if text is None:
            return None
        if not {*":@"} & {*text}:
            text = f"{Selector.parse(spec.selector).name}:{text}"
        return await aside(resolve, self._bus.registry, Selector.parse(text))
