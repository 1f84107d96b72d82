"""Correcting: the answers of a past binding are given again, and those that differ are emitted."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from mltrigger.broker import Broker, Delivery, Outside, Settlement, SubscriptionSpec
from mltrigger.delivery.circles import OUTPUT_TYPE
from mltrigger.delivery.lot import Ended
from mltrigger.delivery.recorder import Recorder
from mltrigger.event.event import Event
from mltrigger.store import corrections
from mltrigger.store.lanes import end_lane, is_through
from mltrigger.store.outcomes import Outcome
from mltrigger.store.unit import Invocation, Unit
from mltrigger.versions.running.invoke import Result


class CorrectionRecorder(Recorder):
    """Records answers beside those that they replace. Emits only those that differ.

    Its parameters are those of :class:`~mltrigger.delivery.recorder.Recorder`, and two more.

    Parameters
    ----------
    emits : Broker
        Publishes corrections. Leases are those of the store.
    checks : Outside, optional
        Checks a correction before its outcome is recorded.
    """

    def __init__(
        self,
        spec: SubscriptionSpec,
        *parts: Any,
        emits: Broker,
        checks: Outside | None = None,
    ) -> None:
        super().__init__(spec, *parts)
        settings = json.loads(spec.lane)
        self._of, self._number = str(settings["of"]), int(settings["binding"])
        self._publish, self._outside = emits.publish, checks

    def takes_whole(self, deliveries: Sequence[Delivery], results: Sequence[Result]) -> bool:
        """Return ``False``: each answer is compared with the one before."""
        return False

    def takes(self, delivery: Delivery, result: Result) -> bool:
        """Return ``False``, as :meth:`takes_whole`."""
        return False

    def _verdict(self, delivery: Delivery, result: Result) -> tuple[Outcome, Settlement]:
        outcome, settlement = super()._verdict(delivery, result)
        if settlement.verdict == "dead_letter":  # the old answer stays: nobody has to decide
            return outcome, Settlement(delivery, "ack")
        return outcome, settlement

    def _is_silent(self, result: Result) -> bool:
        return not result.ok  # no answer replaces an answer, too

    def _output(self, delivery: Delivery, encoded: bytes) -> Event:
        return delivery.event.correction(
            by=self._of,
            type=OUTPUT_TYPE,
            number=self._number,
            version=self._spec.selector,
            encoded=encoded,
        )

    def _record_ended(self, ended: list[Ended], unit: Unit) -> list[Invocation]:
        spec, transaction = self._spec, unit.transaction
        if ended:
            seqs = [e.settlement.delivery.seq for e in ended]
            old = corrections.old_answers(transaction, spec.parent_id, spec.id, seqs)
            ended = [_compared(e, old.get(e.settlement.delivery.seq)) for e in ended]
        rows = super()._record_ended(ended, unit)
        if rows and is_through(transaction, spec.id):
            end_lane(transaction, spec.id, "done")
        return rows


def _compared(ended: Ended, old: corrections.Old | None) -> Ended:
    """Mark an answer that differs. Leave out the event of another one.

    An event without a final answer was sent again meanwhile: the present version answers it.
    """
    row = ended.invocation
    if row.outcome != "succeeded":
        return ended
    if old is None or not old.differs(row.result.output):
        return ended._replace(emitted=None)
    return ended._replace(invocation=row._replace(reason=corrections.CORRECTED))
