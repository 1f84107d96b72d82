"""Outlets: outputs that go to an address, such as a broker of others.

An outlet is a topic of its own, with a subscription whose model sends. So an output is in the log
with the commit that records it. It is sent afterwards, under the same id. Leases, retries, dead
letters, redrive and audit are those of any subscription.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from mltrigger.broker import Broker, SubscriptionSpec
from mltrigger.errors import warn
from mltrigger.policy import DeliveryPolicy
from mltrigger.store.registry import Registry
from mltrigger.versions.catalog import Catalog
from mltrigger.versions.scheme import is_address

TIMEOUT_S = 15.0
"""The timeout of sending. A process that dies holds its outputs back for twice as long.

Bind the subscription of an outlet under its name again for other settings. They stay.
"""
_LONGEST = 70


class Outlets:
    """The outlets of one bus. The topic and the subscription of one have the same name."""

    def __init__(self, registry: Registry, broker: Broker, catalog: Catalog) -> None:
        self._registry, self._broker, self._catalog = registry, broker, catalog

    def understood(self, emit: str) -> Any:
        """Return the unregistered model that sends to *emit*. ``None`` if that is a topic.

        Raises
        ------
        InvalidModel
            When the address cannot be sent to.
        """
        return self._catalog.understood(emit, None, None) if is_address(emit) else None

    def topic(self, address: str, handed: Any) -> str:
        """Return the topic whose events go to *address*. Make it and its subscription."""
        name = self._name(address, handed.name)
        known = self._registry.subscription(name)
        policy = DeliveryPolicy(timeout_s=TIMEOUT_S) if known is None else known.policy
        spec = SubscriptionSpec(name, name, self._catalog.selector(handed), policy)
        self._registry.set_setting(_key(name), {"address": address})
        self._broker.bind(spec)
        return name

    def sender(self, topic: str | None) -> SubscriptionSpec | None:
        """Return the subscription that sends the events of *topic*, if that is an outlet."""
        if topic is None or not self._registry.setting(_key(topic)):
            return None
        return self._registry.subscription(topic)

    def ended(self, name: str) -> None:
        """Warn when the subscription *name*, which has ended, sent outputs of others."""
        if not self._registry.setting(_key(name)):
            return
        if emitting := [spec.name for spec in self._registry.subscriptions() if spec.emit == name]:
            warn(
                f"outputs of {', '.join(emitting)} are sent no more, they stay in the log:"
                " subscribe again with emit= to send them"
            )

    def tidy(self) -> None:
        """End outlets that nobody emits to, if everything was sent."""
        for spec in self._unused():
            if not self._broker.depth(spec).open:
                self._broker.unbind(spec.name, True)
                self._registry.set_setting(_key(spec.name), {})

    def _unused(self) -> Iterator[SubscriptionSpec]:
        specs = self._registry.subscriptions()
        used = {spec.emit for spec in specs}
        for spec in specs:
            if spec.name not in used and self._registry.setting(_key(spec.name)):
                yield spec

    def _name(self, address: str, model: str) -> str:
        """Return the name of the outlet to *address*: a known one, or the first that is free."""
        base = f"to-{model.replace('.', '-')}"[:_LONGEST]
        taken = {*self._registry.topics(), *(s.name for s in self._registry.subscriptions())}
        number, name = 1, base
        while True:
            kept = self._registry.setting(_key(name))
            if kept and kept["address"] == address:
                return name
            if not kept and (name not in taken or kept == {}):
                return name
            number += 1
            name = f"{base}-{number}"


def _key(name: str) -> str:
    return f"outlet:{name}"
