"""The cockpit as a page of a server: the same state and answers, without a kernel."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from mltrigger.api.seats import Cockpit
from mltrigger.notebook.cockpit import files
from mltrigger.notebook.cockpit.actions.base import Desk
from mltrigger.notebook.cockpit.answering import Answerer, Parts, paced
from mltrigger.notebook.cockpit.screen import Screen
from mltrigger.reports.progress import heard

if TYPE_CHECKING:
    from mltrigger.bus import EventBus


class Hosted:
    """The state that one page shows, and the answers to its questions. Any thread may call it.

    Parameters
    ----------
    bus : EventBus
        The bus to show.
    read_only : bool
        Whether all actions are refused.
    """

    def __init__(self, bus: EventBus, read_only: bool) -> None:
        self._bus, self._screen = bus, Screen(bus, read_only=read_only)
        self._answerer = Answerer(
            Parts(bus, self._desk, self._choose, lambda: None, lambda _: None),
            self._screen.is_read_only,
        )

    @property
    def state(self) -> dict[str, Any]:
        """The state of the last look."""
        return self._screen.state

    def look(self) -> bool:
        """Look once. Return whether the state is another one than before."""
        return self._screen.look()

    def ask(self, what: Any, args: Any, tell: Callable[[int], None]) -> dict[str, Any]:
        """Return the answer to a question: its ``value``, or an ``error``. Nothing is raised.

        A long action calls *tell* with the number of events that are done, a few times a second.
        """
        with heard(paced(tell)):
            return self._answerer.said(what, args)

    def close(self) -> None:
        """Answer no more. Idempotent."""
        self._answerer.close()

    def _desk(self) -> Desk:
        return Desk(self._bus, self._screen.chosen, is_default=False)

    def _choose(self, name: str | None) -> None:
        self._screen.choose(name)


def cockpit() -> Cockpit:
    """Return the parts of the cockpit that a server needs."""
    return Cockpit(files.MODULE, files.STYLE, Hosted)
