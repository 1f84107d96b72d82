"""A listener that receives nothing: its caller hands it deliveries."""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Sequence

from mltrigger.broker import Delivery
from mltrigger.delivery.listener import Listener
from mltrigger.delivery.lot import Lot, shared_out, suspects_last


class OnCall(Listener):
    """A listener that is never started. A function behind a queue hands it deliveries.

    Its parameters are those of :class:`~mltrigger.delivery.listener.Listener`.
    """

    def process(self, deliveries: Sequence[Delivery], until_s: float = math.inf) -> None:
        """Call the model with deliveries from elsewhere in this thread, and settle them.

        Deliveries that were not begun at the monotonic time *until_s* are released.
        """
        self._claims.look_anew()  # it claims nothing that would tell it of a new binding
        for lot in self._lots(self._claims.answered(deliveries)):
            left_s = min(threading.TIMEOUT_MAX, max(0.0, until_s - time.monotonic()))
            timer = threading.Timer(left_s, lot.stop_after_current)
            timer.daemon = True
            timer.start()
            self._run(lot)
            timer.cancel()

    def _lots(self, deliveries: Sequence[Delivery]) -> list[Lot]:
        """Return *deliveries* as lots of the model's size, those that killed a process last."""
        lots: list[Lot] = []
        for (by, invoker), own in self.bindings.parts(deliveries):
            size = self._calls.size.of(invoker) if invoker.batches else len(own)
            shared = shared_out(own, 1, size, invoker.batches, self._calls.suspects)
            now_us = self._clock.now_us()
            lots += [Lot(each, by, invoker, now_us) for each in suspects_last(shared)]
        return lots
