"""How many events a slot takes at a time, from measured run times."""

from __future__ import annotations

from mltrigger.delivery.batching import AdaptiveBatch
from mltrigger.policy import DeliveryPolicy
from mltrigger.versions.running.invoke import USUAL_BATCH, Caller

RUN_AHEAD_S = 0.01
"""A slot leases the events that it will begin within this time, or one if nothing is measured."""
_MOST_AHEAD = 256
_MOST_IN_BATCH = 4096


class LotSize:
    """The size of the next lots of one listener."""

    def __init__(self, policy: DeliveryPolicy) -> None:
        self._policy = policy
        self._mean_s: float | None = None
        self.adaptive: AdaptiveBatch | None = None
        if policy.adaptive:
            most = policy.batch_size or _MOST_IN_BATCH
            self.adaptive = AdaptiveBatch(policy.batch_budget_s, most)

    def of(self, caller: Caller) -> int:
        """Return how many events one slot takes at a time.

        A batch is as the policy says, or as many events as a quarter of the timeout allows. It has
        more than ``USUAL_BATCH`` if the model pays for them and the call stays within the budget.
        Not with a window: it might have to wait for them.
        """
        if not caller.batches:
            return self._fitting(RUN_AHEAD_S, _MOST_AHEAD, unknown=1)
        if self.adaptive is not None:
            return self.adaptive.size()
        if self._policy.batch_size:
            return self._policy.batch_size
        longest_s = self._policy.timeout_s / 4
        usual = self._fitting(longest_s, USUAL_BATCH, unknown=USUAL_BATCH)
        if self._policy.batch_window_s:
            return usual
        longest_s = min(longest_s, self._policy.batch_budget_s)
        return max(usual, self._fitting(longest_s, caller.usual_batch, unknown=usual))

    def learn(self, spent_s: float) -> None:
        """Follow the model's run time of one event.

        A single stall of the process counts as at most ten times the usual time.
        """
        mean_s = self._mean_s
        self._mean_s = (
            spent_s if mean_s is None else 0.8 * mean_s + 0.2 * min(spent_s, 10 * mean_s + 1e-5)
        )

    def timed_out(self, count: int) -> None:
        """Learn that a call with *count* events did not end in time."""
        if self.adaptive is not None:
            self.adaptive.learn(count, self._policy.timeout_s)

    def _fitting(self, time_s: float, most: int, unknown: int) -> int:
        if self._mean_s is None:
            return unknown
        return max(1, min(most, int(time_s / max(self._mean_s, 1e-6))))
