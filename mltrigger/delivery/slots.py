"""The slots of a listener: the lots under way, and the thread that receives the next ones."""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable

from mltrigger.delivery.lot import Lot

_MOST_ENDING = 4
"""How many recorded lots may wait for the disk while others begin."""
_PASSED = 0
"""In place of a thread: the duty is on its way to one."""


class Slots:
    """The lots of one listener, at most one a slot.

    One thread has the duty to receive. Before it runs a lot itself, it passes the duty on or leaves
    it to the thread that is free next. So an event begins in the thread that received it.
    """

    def __init__(self, number: int) -> None:
        self.number = number
        self.changed = threading.Condition()
        self._active: set[Lot] = set()
        self._ending: set[Lot] = set()
        self._receiver: int | None = None
        self.last_s = -math.inf
        """The monotonic time when the last lot began or ended."""
        self._open = False

    def open(self) -> None:
        """Let the duty begin, on its way to a thread."""
        self._open, self._receiver = True, _PASSED

    def close(self) -> None:
        """Let no thread take the duty any more. The one that has it leaves it."""
        with self.changed:
            self._open = False
            self.changed.notify_all()

    def free(self, ending: int = 0) -> int:
        """Return how many slots are free, when *ending* lots have ended."""
        return self.number + ending - len(self._active)

    # -- the duty ----------------------------------------------------------------------------------

    @property
    def has_duty(self) -> bool:
        """Whether this thread has the duty."""
        return self._receiver == threading.get_ident()

    def take_duty(self, ending: int = 0) -> bool:
        """Take the duty if it is free, and a slot too. Return whether this thread has it.

        With *ending* lots it is for the commit that ends them. Few of those wait for the disk.
        """
        with self.changed:
            many = ending and len(self._ending) >= _MOST_ENDING
            if self._receiver is None and self._open and self.free(ending) > 0 and not many:
                self._receiver = threading.get_ident()
            return self.has_duty

    @property
    def is_attended(self) -> bool:
        """Whether a thread receives, or will when a lot under way has ended.

        Closed slots need none.
        """
        receiver = self._receiver
        if receiver is None:
            return bool(self._active) or not self._open
        return receiver == _PASSED or any(t.ident == receiver for t in threading.enumerate())

    def begin_duty(self) -> None:
        """Take the duty that was passed to this thread."""
        self._receiver = threading.get_ident()

    def pass_duty(self, submit: Callable[[], None]) -> bool:
        """Pass the duty to the thread that *submit* starts. Keep it if none can be started.

        Return whether it was passed.
        """
        self._receiver = _PASSED
        try:
            submit()
        except RuntimeError:
            self._receiver = threading.get_ident()
        return not self.has_duty

    def yield_duty(self, submit: Callable[[], None]) -> None:
        """Pass the duty on as :meth:`pass_duty`. Without a free slot or a thread leave it."""
        with self.changed:  # one look: a slot that falls free next finds nobody on duty
            if self.free() <= 0:
                self._receiver = None
                return
        if not self.pass_duty(submit):  # its own lot may hang: the next free thread takes it
            self.leave_duty()

    def leave_duty(self) -> None:
        """Give the duty up. Another thread may take it."""
        with self.changed:
            if self.has_duty:
                self._receiver = None
                self.changed.notify_all()

    def wait_left(self, timeout_s: float) -> bool:
        """Wait until no other thread receives. Return whether it is so."""
        with self.changed:
            return self.changed.wait_for(lambda: self._receiver is None or self.has_duty, timeout_s)

    # -- lots --------------------------------------------------------------------------------------

    def add(self, lot: Lot) -> None:
        """Take note of a lot that begins."""
        with self.changed:
            self._active.add(lot)
            self.last_s = time.monotonic()

    def ending(self, lot: Lot) -> None:
        """Free the slot of a lot that is recorded, though not yet on the disk."""
        with self.changed:
            self._active.discard(lot)
            self._ending.add(lot)

    def remove(self, lot: Lot) -> None:
        """Take note of a lot that has ended."""
        with self.changed:
            self._active.discard(lot)
            self._ending.discard(lot)
            self.last_s = time.monotonic()
            self.changed.notify_all()

    @property
    def busy(self) -> bool:
        """Whether any lot is under way or ending."""
        return bool(self._active or self._ending)

    def lots(self) -> list[Lot]:
        """Return the lots under way."""
        with self.changed:
            return list(self._active)
