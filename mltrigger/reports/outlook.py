"""The outlook of open events: what they wait for, and whether waiting is enough."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from typing import Literal, NamedTuple

from mltrigger.broker import SubscriptionSpec
from mltrigger.errors import NotFound
from mltrigger.store.registry import Registry
from mltrigger.versions.selector import Selector, resolve
from mltrigger.versions.version import ModelVersion

PATIENCE_S = 3.0
"""A model that cannot be called may be repaired meanwhile. After this time it counts as broken."""


class Hold(NamedTuple):
    """Why the events of a subscription wait. When it is *final*, waiting alone does not end it."""

    reason: Literal["paused", "no_listener", "held"]
    why: str
    final: bool

    def warning(self, name: str) -> str:
        """Return a warning about subscription *name* for a caller that begins to wait."""
        if self.reason == "paused":
            return f"{name!r} is paused: its events wait until sub.resume()"
        if self.reason == "no_listener":
            return (
                f"no live listener for {name!r}: its events wait until one starts;"
                f" {self.why.partition('; ')[2]}"
            )
        return f"{name!r} cannot be called: {self.why}"


_PAUSED = Hold("paused", "paused; sub.resume() delivers them", True)


class Outlook:
    """Says why the open events of a subscription wait.

    Parameters
    ----------
    registry : Registry
        The subscriptions and the live listeners.
    state : callable
        Returns the state of the listener of a subscription in this process.
    absent : callable
        Returns why this process can never load a version, None if it can.
    pauses : callable
        Returns whether the listener of a subscription only pauses for its server. It goes on by
        itself.
    shared : bool
        Whether other processes can open the store.
    """

    def __init__(
        self,
        registry: Registry,
        state: Callable[[str], str],
        absent: Callable[[ModelVersion], str | None],
        pauses: Callable[[str], bool],
        shared: bool = True,
    ) -> None:
        self._registry, self._state, self._absent, self._shared = registry, state, absent, shared
        self._pauses = pauses
        self._held_s: dict[str, float] = {}

    def of(self, names: Iterable[str] | None = None) -> dict[str, Hold]:
        """Return subscription -> hold, for those of *names* that have one. Default: all."""
        specs = {spec.name: spec for spec in self._registry.subscriptions()}
        live, paused = self._registry.live_listeners(), self._registry.paused()
        found = {}
        for name in specs if names is None else names:
            spec = specs.get(name)  # without one it was unsubscribed, which ends what is open
            if (
                spec is not None
                and (
                    hold := _PAUSED if spec.id in paused else self._hold(spec, live.get(spec.id, 0))
                )
                is not None
            ):
                found[name] = hold
        return found

    def _hold(self, spec: SubscriptionSpec, live: int) -> Hold | None:
        state, _, why = self._state(spec.name).partition(": ")
        here = state != "stopped"
        if live - here > 0:  # another process delivers it
            return None
        if not here:
            return self._silent(spec)
        # bound by another process: the listener here may not have heard of it yet
        if missing := self._missing(spec):
            return Hold("held", missing, True)
        if state == "waiting for calls that hang":
            return Hold("held", why, False)
        if state != "waiting for the model" or not why:
            self._held_s.pop(spec.name, None)
            return None
        since_s = self._held_s.setdefault(spec.name, time.monotonic())
        return Hold(
            "held", why, time.monotonic() - since_s >= PATIENCE_S and not self._pauses(spec.name)
        )

    def _silent(self, spec: SubscriptionSpec) -> Hold:
        version = self._version(spec)
        if version is None or not version.portable or not self._shared:
            missing = version and self._absent(version)
            return Hold(
                "no_listener", f"no live listener; {missing or 'sub.start() delivers here'}", True
            )
        way = (
            f"sub.start() delivers here, `mltrigger worker --subscription {spec.name}` in a process"
            " of its own"
        )
        return Hold("no_listener", f"no live listener; {way}", False)

    def _missing(self, spec: SubscriptionSpec) -> str | None:
        version = self._version(spec)
        return self._absent(version) if version is not None else None

    def _version(self, spec: SubscriptionSpec) -> ModelVersion | None:
        try:
            return resolve(self._registry, Selector.parse(spec.selector))
        except NotFound:
            return None
