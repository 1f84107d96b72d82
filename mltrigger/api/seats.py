"""Seats: the open pages of the cockpit, each with a view of its own.

The cockpit is a face. A server gets its parts passed in, as a :class:`Cockpit`.
"""

from __future__ import annotations

import asyncio
import dataclasses
import secrets
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, Protocol

from mltrigger.api.problems import Refused

if TYPE_CHECKING:
    from mltrigger.bus import EventBus

MOST, MOST_OF_ONE = 32, 8
"""The most pages of a server, and of one token."""
KEPT_S = 600.0
"""How long a seat waits for its page to come back."""


class View(Protocol):
    """The state that one page shows, and the answers to its questions. Threads may call it."""

    @property
    def state(self) -> Mapping[str, Any]:
        """The state of the last look, as JSON values."""

    def look(self) -> bool:
        """Look once. Return whether the state is another one than before."""

    def ask(self, what: Any, args: Any, tell: Callable[[int], None]) -> dict[str, Any]:
        """Return the answer to a question: its ``value``, or an ``error``. Nothing is raised.

        A long action calls *tell* with the number of events that are done, a few times a second.
        """

    def close(self) -> None:
        """Answer no more. Idempotent."""


@dataclasses.dataclass(frozen=True)
class Cockpit:
    """The parts of the cockpit that a server needs.

    Attributes
    ----------
    module, style : str
        The ES module that exports ``render``, and its style sheet.
    open : callable
        Takes a bus, and whether all actions are refused. Returns the view of one page.
    """

    module: str
    style: str
    open: Callable[[EventBus, bool], View]


class Seat:
    """One page. Its name is a secret of the page.

    Attributes
    ----------
    view : View
        What it shows.
    holder : str
        The digest of the token that opened it. No other one may ask here.
    woken : asyncio.Event
        Set after each answer: the page may look different now.
    stream : int
        The number of its newest stream. An older one ends.
    reached : dict of int to int
        How far long actions are, by the number of the question. The stream takes them out.
    """

    def __init__(self, view: View, holder: str) -> None:
        self.name = secrets.token_urlsafe(32)
        self.view, self.holder, self.woken = view, holder, asyncio.Event()
        self.stream, self.is_taken = 0, False
        self.reached: dict[int, int] = {}
        self.left_s = asyncio.get_running_loop().time()

    def reach(self, number: int, done: int) -> None:
        """Keep for the stream how far an action is, and wake it."""
        self.reached[number] = done
        self.woken.set()


class Seats:
    """The seats of one server. Call it in the event loop."""

    def __init__(self) -> None:
        self._seats: dict[str, Seat] = {}

    def find(self, name: Any, holder: str) -> Seat | None:
        """Return the seat of that name, if *holder* opened it."""
        seat = self._seats.get(name) if isinstance(name, str) else None
        return seat if seat is not None and seat.holder == holder else None

    def check(self, holder: str) -> None:
        """Refuse one page too many."""
        for of_one in (True, False):
            seats = [s for s in self._seats.values() if not of_one or s.holder == holder]
            if len(seats) < (MOST_OF_ONE if of_one else MOST):
                continue
            empty = [seat for seat in seats if not seat.is_taken]
            if not empty:
                raise Refused(503, "too_many_pages", "too many pages are open: close one", 5)
            self._drop(min(empty, key=lambda seat: seat.left_s))

    def add(self, view: View, holder: str) -> Seat:
        """Return a new seat. It is empty."""
        try:
            self.check(holder)
        except Refused:
            view.close()
            raise
        seat = Seat(view, holder)
        self._seats[seat.name] = seat
        self._forget_later()
        return seat

    def take(self, seat: Seat) -> int:
        """Begin a stream of *seat*. Return its number."""
        self._seats[seat.name] = seat
        seat.stream, seat.is_taken = seat.stream + 1, True
        seat.woken.set()  # an older stream ends
        return seat.stream

    def leave(self, seat: Seat, stream: int) -> None:
        """End a stream. The seat stays empty for a while."""
        if seat.stream == stream:
            seat.is_taken, seat.left_s = False, asyncio.get_running_loop().time()
            self._forget_later()

    def _forget_later(self) -> None:
        asyncio.get_running_loop().call_later(KEPT_S + 0.1, self._forget)

    def _forget(self) -> None:
        until_s = asyncio.get_running_loop().time() - KEPT_S
        for seat in list(self._seats.values()):
            if not seat.is_taken and seat.left_s <= until_s:
                self._drop(seat)

    def _drop(self, seat: Seat) -> None:
        del self._seats[seat.name]
        seat.view.close()
