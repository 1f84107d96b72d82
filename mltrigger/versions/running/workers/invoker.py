"""Calls a model in workers. Processes of our own and executors share these rules."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, Protocol

from mltrigger.errors import NotEncodable
from mltrigger.event.event import Event
from mltrigger.versions.describe import Model
from mltrigger.versions.running.invoke import USUAL_BATCH, Result, failure

START_TIMEOUT_S = 120.0
"""Longest time to load a model in a worker. It does not count as the run time of the model."""
HOLD_S = 15.0
"""Pause of a listener after its workers could not load the model."""


class NoAnswer(Exception):  # internal signal
    """A call ended without an answer. *result* is the Result of each of its events.

    *doubtful* says that another call may be the cause of a death.
    """

    def __init__(self, result: Result, doubtful: bool = False) -> None:
        super().__init__(result.error)
        self.result, self.doubtful = result, doubtful


class Workers(Protocol):
    """The workers of one model.

    ``batches``: the model takes several events at once. ``concurrency``: number of calls at the
    same time. ``runs_here``: the model runs in this process, and its crash ends this process.
    """

    batches: bool
    concurrency: int
    runs_here: bool

    def packed(self, event: Event) -> Any:
        """Return *event* in the form in which it travels.

        Raises
        ------
        Exception
            If it cannot travel. Only this event fails.
        """

    def call(self, packed: list[Any], again: Callable[[], None], alone: bool) -> list[Result]:
        """Call the model with packed events and return one Result per event.

        *again* is told before each further call of the model. *alone*: no other call may run
        beside this one where a death could be blamed on both.

        Raises
        ------
        NoAnswer
            If the worker is late, dead or missing.
        """

    def close(self) -> None:
        """End the calls and release the workers. Idempotent."""


class WorkerInvoker:
    """Calls one model in workers. Never raises, once it is made.

    Parameters
    ----------
    model : Model
        The model. The workers hold it.
    workers : Workers
        Processes or an executor. They are closed with this object.
    """

    # Workers end a late call themselves, so that nobody else needs to watch it.
    grace_s = math.inf
    usual_batch = USUAL_BATCH
    tells_others = False

    def __init__(self, model: Model, workers: Workers) -> None:
        self.model, self._workers = model, workers
        self.batches, self.concurrency = workers.batches, workers.concurrency
        self.runs_here = workers.runs_here

    def one(self, event: Event) -> Result:
        """Call the model with one event."""
        return self._asked([event])[0]

    def many(
        self, events: Sequence[Event], again: Callable[[], None] = lambda: None
    ) -> list[Result]:
        """Call the model with a batch, as ``Invoker.many`` does.

        After a worker died, each event is tried alone. Each has its own time then, and only the
        cause of the death fails.
        """
        results = self._asked(events, again) if events else []
        if len(events) > 1 and any(result.reason == "worker_died" for result in results):
            return [self._alone(event, again) for event in events]
        return results

    def close(self) -> None:
        """Close the workers. Later calls give a Result with reason ``stopped``. Idempotent."""
        self._workers.close()

    def _alone(self, event: Event, again: Callable[[], None]) -> Result:
        again()
        return self._asked([event], alone=True)[0]

    def _asked(
        self,
        events: Sequence[Event],
        again: Callable[[], None] = lambda: None,
        alone: bool = False,
    ) -> list[Result]:
        """Call the model with the events that can travel. The others fail alone."""
        travelling: list[Any] = []
        refused: dict[int, Result] = {}
        for number, event in enumerate(events):
            try:
                travelling.append(self._workers.packed(event))
            except NotEncodable as error:
                refused[number] = failure(error)._replace(reason="invalid_event")
            except Exception as error:
                refused[number] = failure(error)
        results = self._tried(travelling, again, alone) if travelling else []
        for number, result in refused.items():  # in ascending order: each lands in its place
            results.insert(number, result)
        return results

    def _tried(self, packed: list[Any], again: Callable[[], None], alone: bool) -> list[Result]:
        try:
            return self._workers.call(packed, again, alone)
        except NoAnswer as none:
            if alone or len(packed) > 1 or not none.doubtful:
                return [none.result] * len(packed)
        return self._tried(packed, again, alone=True)  # now it can only blame itself


def unavailable(result: Result) -> Result:
    """Return the Result of events whose model could not be loaded. They spend no attempt."""
    return result._replace(
        reason="model_unavailable", permanent=False, throttled=True, delay_s=HOLD_S
    )
