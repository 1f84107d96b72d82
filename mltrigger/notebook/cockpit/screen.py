"""Screen: the state that a view shows, from one look to the next."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from mltrigger.errors import Closed, DiskFailed
from mltrigger.notebook.cockpit.actions.table import controls
from mltrigger.notebook.cockpit.figures import NOTHING
from mltrigger.notebook.cockpit.looking import Found, Looker
from mltrigger.notebook.cockpit.texts import now, plain, sentence
from mltrigger.store.patience import at_once
from mltrigger.text import visible

if TYPE_CHECKING:
    from mltrigger.broker import SubscriptionSpec
    from mltrigger.bus import EventBus

CLOSED, DISK_FAILED = "closed", "stopped by the store"
"""The states of a bus of which nothing more can come."""
_EMPTY: Mapping[str, Any] = {
    "picture": {"topics": [], "subscriptions": []},
    "counts": {},
    "attempts": {},
    "depth": {"waiting": 0, "delayed": 0, "in_flight": 0, "dead": 0, "oldest_s": None},
    **NOTHING,
    "log": {"rows": 0, "generation": 0},
    "names": {
        "more_reasons": 0,
        **{name: [] for name in ("versions", "topics", "reasons", "roles", "outcomes", "bindings")},
    },
}


class Screen:
    """The state of one view of a bus, as JSON values. Any thread may call it.

    Parameters
    ----------
    bus : EventBus
        The bus to show.
    subscription : SubscriptionSpec, optional
        The subscription that is chosen at first. Default: all of the bus.
    read_only : bool
        Whether the state says that all actions are refused.

    Attributes
    ----------
    state : dict
        The state of the last look.
    title : str
        The bus, without an absolute path and without a secret.

    Raises
    ------
    MltriggerError
        When the bus cannot be read at the first look.
    """

    def __init__(
        self, bus: EventBus, subscription: SubscriptionSpec | None = None, read_only: bool = False
    ) -> None:
        self._bus = bus
        self._why = "This view is read-only" if read_only else _only_reads(bus)
        self._guard = threading.RLock()
        self._looker = Looker(bus, subscription)
        self._over, self._outage = "", ""
        self._found: Found | None = self._looker.look()
        self.title = _title(bus)
        self.state: dict[str, Any] = {**self._shown(), "at": now()}

    @property
    def is_over(self) -> bool:
        """Whether nothing new can come."""
        return bool(self._over)

    @property
    def is_read_only(self) -> bool:
        """Whether all actions are refused."""
        return bool(self._why)

    @property
    def chosen(self) -> str | None:
        """The subscription that is chosen."""
        return self._looker.chosen

    @property
    def spec(self) -> SubscriptionSpec | None:
        """The same as it was known last, also after its end."""
        return self._looker.spec

    def choose(self, name: str | None) -> None:
        """Show another subscription from the next look on."""
        self._looker.choose(name)

    def forget(self) -> None:
        """Read everything at the next look."""
        self._looker.forget()

    def look(self) -> bool:
        """Look once. Return whether the state is another one than before."""
        with self._guard:
            before = self._seen()
            try:
                with at_once():
                    self._found = self._looker.look()
                self._outage, self._over = "", ""
            except Exception as error:  # an outage of ours is shown, and ends with the outage
                self._outage = sentence(error, "cannot read the log")
                if self._bus.closed or isinstance(error, Closed):
                    self._over, self._outage = CLOSED, ""
                elif isinstance(error, DiskFailed):
                    self._over = DISK_FAILED
            if all(a is b for a, b in zip(before, self._seen(), strict=True)):
                return False
            shown = self._shown()
            if shown == {name: value for name, value in self.state.items() if name != "at"}:
                return False
            self.state = {**shown, "at": now()}
            return True

    def _shown(self) -> dict[str, Any]:
        found = self._found
        over = self._over and f"The bus is {self._over}"
        return {
            "notice": "",
            "outage": self._outage,
            "alive": not self._over,
            "read_only": self.is_read_only,
            "read_only_why": self._why if self.is_read_only else "",
            "bus": {"title": self.title, "state": self._over or "open"},
            **plain(found.shown if found is not None else _EMPTY),
            "chosen": self._looker.chosen,
            "controls": controls(None if found is None else found.state, self._why, over),
        }

    def _seen(self) -> tuple[Any, str, str]:
        return self._found, self._outage, self._over


def _only_reads(bus: EventBus) -> str:
    if not bus.log.only_reads:
        return ""
    return "Your role in the database may only read: ask its owner for another one"


def _title(bus: EventBus) -> str:
    where = visible(bus._description)
    return f"SQLite file {where}" if where.endswith((".db", ".sqlite", ".sqlite3")) else where
