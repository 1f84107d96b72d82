"""The backlog of queues: SQS' own count, and events that are overdue."""

from __future__ import annotations

import functools
import logging
import math
import time
from collections.abc import Callable
from typing import Any

from mltrigger.aws.faults import MISSING, THROTTLED, code_of, explained
from mltrigger.aws.transport.admission import take_over
from mltrigger.broker import SubscriptionSpec
from mltrigger.clock import Clock
from mltrigger.store.transaction import Store
from mltrigger.store.wake import Wakeup

logger = logging.getLogger("mltrigger")

OVERDUE_US = 20 * 60 * 1_000_000
"""Microseconds after its due time at which an event is overdue.

SNS takes up to 15 minutes to apply a filter.
"""
_MOST = 1_000
_COUNT_S = 1.0
_OVERDUE = """
SELECT seq FROM awaited WHERE subscription_id = :s AND visible_us <= :then
  AND seq NOT IN (SELECT seq FROM unsent) ORDER BY seq LIMIT :n
"""
_NEWEST = """
SELECT e.published_us FROM invocation i JOIN event e ON e.seq = i.seq
WHERE i.subscription_id = :s ORDER BY i.seq DESC LIMIT 1
"""


class Backlog:
    """Counts messages in queues, and delivers overdue events out of the log.

    Parameters
    ----------
    sqs : callable
        Returns the client of Amazon SQS.
    url_of : callable
        Returns the URL of a subscription's queue.
    store, clock, wakeup
        The log's database, the time, and the bell for listeners.
    """

    def __init__(
        self,
        sqs: Callable[[], Any],
        url_of: Callable[[SubscriptionSpec], str],
        store: Store,
        clock: Clock,
        wakeup: Wakeup,
    ) -> None:
        self._sqs, self._url_of = sqs, url_of
        self._store, self._clock, self._wakeup = store, clock, wakeup
        self._counted: dict[int, tuple[float, int]] = {}

    def count(self, subscription: SubscriptionSpec) -> int:
        """Return SQS' approximate number of visible messages, at most a second old.

        Return 0 if SQS does not answer.
        """
        now_s = time.monotonic()
        counted_s, count = self._counted.get(subscription.id, (-math.inf, 0))
        if now_s - counted_s > _COUNT_S:
            count = self._asked(subscription)
            self._counted[subscription.id] = (now_s, count)
        return count

    def overdue(self, subscription: SubscriptionSpec) -> int:
        """Return the number of overdue events, at most a thousand."""
        then_us = self._clock.now_us() - OVERDUE_US
        return len(self._store.read(_OVERDUE, {"s": subscription.id, "then": then_us, "n": _MOST}))

    def reconcile(self, subscription: SubscriptionSpec) -> None:
        """Deliver overdue events out of the log, if they are not in the queue.

        SNS takes minutes to learn a filter and may judge an event differently. A queue may be
        purged, and a message may expire. If the message still comes, it is recognised.
        """
        now_us = self._clock.now_us()
        of = {"s": subscription.id, "then": now_us - OVERDUE_US, "n": 1}
        if not self._store.read(_OVERDUE, of):
            return
        due = {**of, "then": self._come_so_far_us(subscription) - OVERDUE_US, "n": _MOST}
        with self._store.transaction() as transaction:
            seqs = [seq for (seq,) in transaction.query(_OVERDUE, due)]
            take_over(transaction, subscription.id, seqs)
            transaction.after_commit(
                functools.partial(self._wakeup.notify, [f"ready:{subscription.id}"])
            )
        if seqs:
            logger.warning(
                "subscription %s: %d events were overdue in its queue and are delivered out of"
                " the log",
                subscription.name,
                len(seqs),
            )

    def _come_so_far_us(self, subscription: SubscriptionSpec) -> int:
        """Return the time up to which published events have come.

        It is now if nothing waits in the queue, else the time of the newest event that has come.
        """
        now_us = self._clock.now_us()
        if not self.count(subscription):
            return now_us
        newest = self._store.read(_NEWEST, {"s": subscription.id})
        return min((now_us, *(published_us for (published_us,) in newest))) if newest else 0

    def _asked(self, subscription: SubscriptionSpec) -> int:
        try:
            answer = self._sqs().get_queue_attributes(
                QueueUrl=self._url_of(subscription),
                AttributeNames=["ApproximateNumberOfMessages"],
            )
            return int(answer["Attributes"]["ApproximateNumberOfMessages"])
        except Exception as error:
            if code_of(error) not in THROTTLED | MISSING:
                logger.warning(
                    "the depth of a queue is not known: %s",
                    explained(error, "sqs:GetQueueAttributes", subscription.name),
                )
            return 0
