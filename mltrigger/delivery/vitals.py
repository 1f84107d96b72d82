"""Vital signs: whether the listeners of a process live, and whether they can deliver."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from mltrigger.delivery.keeper import Keeper
from mltrigger.delivery.listener import Listener


class Vitals:
    """Tells a supervisor of processes how the listeners here are.

    Parameters
    ----------
    listeners : mapping
        The listeners of this process, by subscription. Later changes are seen.
    keeper : Keeper
        Holds their leases.
    state : callable
        Returns the state of the listener of a subscription.
    """

    def __init__(
        self, listeners: Mapping[str, Listener], keeper: Keeper, state: Callable[[str], str]
    ) -> None:
        self._listeners, self._keeper, self._state = listeners, keeper, state

    def lifeless(self) -> list[str]:
        """Return why this process has to be started again. Empty while it lives.

        It asks no store, and returns at once. A store that does not answer is no reason: the
        listeners try again by themselves.
        """
        found = [] if self._keeper.is_alive else ["the thread that holds the leases has ended"]
        for name, listener in list(self._listeners.items()):
            if listener.state == "stopped by the store":
                found.append(f"{name}: {self._state(name)}")
            elif not listener.slots.is_attended:
                found.append(f"{name}: no thread receives its events")
        return found

    def unready(self) -> list[str]:
        """Return why subscriptions cannot be delivered here now. It may ask the store."""
        found = []
        for name, listener in list(self._listeners.items()):
            state = self._state(name)
            if not state.startswith("listening"):
                found.append(f"{name}: {state}")
            elif not listener.bindings.is_loaded:
                found.append(f"{name}: its model is not loaded yet")
        return found
