"""Subscribing: from the arguments of ``bus.subscribe`` to a bound subscription."""

from __future__ import annotations

import os
import threading
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from mltrigger.broker import Broker, SubscriptionSpec
from mltrigger.delivery.engine import Engine
from mltrigger.delivery.origins import Origins
from mltrigger.delivery.outlets import Outlets
from mltrigger.errors import NotFound
from mltrigger.filters import FilterPolicy, Scope
from mltrigger.names import check_name, check_topic
from mltrigger.policy import DeliveryPolicy, keywords_of
from mltrigger.store.registry import Registry
from mltrigger.versions.catalog import Catalog
from mltrigger.versions.describe import Model
from mltrigger.versions.running.placement import Executing, check_placement

if TYPE_CHECKING:
    from typing import Unpack

    from mltrigger.policy import Settings

_SCOPES: dict[str, Scope] = {
    "attributes": "MessageAttributes",
    "body": "MessageBody",
    "MessageAttributes": "MessageAttributes",
    "MessageBody": "MessageBody",
}
"""The scopes of a filter, under our words and those of SNS."""


class Subscriber:
    """Binds subscriptions of one bus."""

    def __init__(
        self,
        registry: Registry,
        broker: Broker,
        origins: Origins,
        catalog: Catalog,
        engine: Engine,
        outlets: Outlets,
    ) -> None:
        self._registry, self._broker, self._outlets = registry, broker, outlets
        self._origins, self._catalog, self._engine = origins, catalog, engine
        self._guard = threading.Lock()

    @keywords_of(DeliveryPolicy)
    def subscribe(
        self,
        source: str | os.PathLike[str],
        model: Any,
        *,
        name: str | None = None,
        version: str | None = None,
        batch: bool | str | None = None,
        executor: Executing | None = None,
        emit: str | None = None,
        filter: Mapping[str, Any] | str | None = None,  # noqa: A002 - the word of SNS
        filter_scope: str = "attributes",
        start: str | None = None,
        listen: bool = True,
        on: Sequence[str] | str | None = None,
        fields: Sequence[str] | str | None = None,
        rebind: bool = False,
        **policy: Unpack[Settings],
    ) -> tuple[SubscriptionSpec, str]:
        """Bind a subscription. See ``bus.subscribe``.

        Return it as the registry has it, and a note: the selector that it had before, or kept.
        Everything is checked before anything is made. The version is registered last.
        """
        if start not in (None, "latest", "earliest"):
            raise NotFound.of("start", str(start), ["latest", "earliest"])
        if batch == "adaptive":
            policy = {"adaptive": True, **policy}
        settings, passing = DeliveryPolicy.of(policy), _filter(filter, filter_scope)
        handed = self._catalog.understood(model, version, batch, name)
        check_placement(handed if isinstance(handed, Model) else None, settings, executor)
        wanted = check_name("subscription", name or handed.name.replace(".", "-"))
        sender = self._outlets.understood(emit) if emit is not None else None
        if emit is not None and sender is None:
            check_topic(emit, self._broker.ordered)
        with self._guard:
            origin = self._origins.find(source, options={"on": on, "fields": fields})
            before = self._registry.subscription(wanted)
            self._origins.check_same(wanted, origin, before)
            selector = self._catalog.selector(handed)
            topic = self._origins.topic_of(origin)
            from_start = (start or origin.start) == "earliest"
            if origin.url is not None:
                self._origins.attach(topic, from_start, known=before is not None)
            if emit is not None and sender is not None:
                emit = self._outlets.topic(emit, sender)
            spec = SubscriptionSpec(wanted, topic, selector, settings, emit, passing)
            self._broker.bind(spec, from_start=from_start, rebind=rebind)
            bound = self._registry.subscription(wanted) or spec
            if self._engine.place(bound.name, executor) or listen:
                self._engine.listen(bound)
        if bound.selector != selector:
            return bound, f"kept: {selector} was replaced, rebind=True binds it again"
        changed = before is not None and before.selector != selector
        return bound, f"was {before.selector}" if before is not None and changed else ""

    def unsubscribe(self, name: str, delete: bool) -> None:
        """End the subscription *name*. See ``bus.unsubscribe``."""
        before = self._registry.subscription(name)
        self._broker.unbind(name, delete)
        self._outlets.ended(name)
        if before is not None:
            self._origins.detach(before.topic, delete)
        if delete:
            self._outlets.tidy()


def wanted(
    origins: Origins,
    source: str | os.PathLike[str],
    name: str | None,
    filter: Any,  # noqa: A002 - the word of SNS
    filter_scope: str,
    policy: Settings,
    options: Mapping[str, Any],
) -> tuple[SubscriptionSpec, str | None]:
    """Return the subscription that ``bus.plan`` describes, and the URL of its source, if any."""
    origin = origins.find(source, check=False, options=options)
    spec = SubscriptionSpec(
        check_name("subscription", name or "model"),
        origin.names[0],
        "",
        DeliveryPolicy.of(policy),
        None,
        _filter(filter, filter_scope),
    )
    return spec, origin.url


def _filter(policy: Mapping[str, Any] | str | None, scope: str) -> FilterPolicy | None:
    if scope not in _SCOPES:
        raise NotFound.of("filter_scope", str(scope), list(_SCOPES))
    return None if policy is None else FilterPolicy.parse(policy, _SCOPES[scope])
