"""Helpers for tests of subscriptions: a simulated clock, models that fail, AWS on this machine."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mltrigger.aws.emulator import AwsEmulator
    from mltrigger.bus import EventBus
    from mltrigger.testing.case import Case

_STILL_S = 0.05
_STEP_S = 0.1
_START_US = 1_790_000_000_000_000


class SimulatedClock:
    """A clock that stands still until it is advanced.

    Pass it to ``mt.connect("memory://", clock=…)``. Backoff, leases, dead letters and retention
    then pass when the test says so, through the same code, in no time. :func:`settle` advances it
    for you.

    Examples
    --------
    >>> clock = mt.testing.SimulatedClock()
    >>> with mt.connect("memory://", clock=clock) as other:
    ...     _ = other.topic("pages")
    ...     clock.advance(s=3600)
    """

    def __init__(self, start_us: int = _START_US) -> None:
        self._now_us = start_us
        self._told: list[Callable[[], None]] = []
        self._guard = threading.Lock()

    def now_us(self) -> int:
        """Return microseconds since 1970-01-01 UTC.

        Examples
        --------
        >>> mt.testing.SimulatedClock(start_us=7).now_us()
        7
        """
        return self._now_us

    def advance(self, s: float) -> None:
        """Let *s* seconds pass and wake all that wait for a time.

        Examples
        --------
        >>> clock = mt.testing.SimulatedClock(start_us=0)
        >>> clock.advance(s=2)
        >>> clock.now_us()
        2000000
        """
        with self._guard:
            self._now_us += int(s * 1e6)
        for told in list(self._told):
            told()

    def tell(self, told: Callable[[], None]) -> None:
        """Call *told* whenever time has passed. A bus asks for this.

        Examples
        --------
        >>> clock = mt.testing.SimulatedClock()
        >>> clock.tell(lambda: print("it is later"))
        >>> clock.advance(s=1)
        it is later
        """
        self._told.append(told)


class Failing:
    """A model that fails a number of times, then answers with its input.

    Parameters
    ----------
    times : int
        How many calls fail.
    error : Exception
        The exception they raise. ``mt.Retry`` and ``mt.Reject`` are signals, others are failures.

    Examples
    --------
    >>> model = mt.testing.Failing(times=1)
    >>> sub = bus.subscribe("documents", model, name="fails-once", version="1.0.0")
    """

    __name__ = "failing"

    def __init__(self, times: int = 1, error: Exception | None = None) -> None:
        self.calls = 0
        self._times, self._error = times, error or ValueError("failing on purpose")

    def __call__(self, data: Any) -> Any:
        """Fail, or return *data*."""
        self.calls += 1
        if self.calls <= self._times:
            raise self._error
        return data


def settle(bus: EventBus, clock: SimulatedClock, timeout_s: float = 30.0) -> None:
    """Let *bus* work until no delivered subscription has anything left to do.

    Time passes only while nothing runs.

    Parameters
    ----------
    bus, clock
        A bus, and the clock that it was connected with.
    timeout_s : float
        Real seconds until it counts as stuck.

    Raises
    ------
    TimeoutError
        When something is still open. The message says where.

    Examples
    --------
    >>> clock = mt.testing.SimulatedClock()
    >>> with mt.connect("memory://", clock=clock) as other:
    ...     sub = other.subscribe("pages", mt.testing.Failing(times=2), name="read")
    ...     receipt = other.publish("pages", 1)
    ...     mt.testing.settle(other, clock)  # the waits between attempts take no time
    ...     sub.results()["outcome"].tolist()
    ['succeeded']
    """
    end_s = time.monotonic() + timeout_s
    before, since_s = None, time.monotonic()
    while True:
        now = [
            (spec.name, bus.broker.depth(spec))
            for spec in bus.registry.subscriptions()
            if bus.listener_state(spec.name) != "stopped"
        ]
        state = (bus.log.progress(), [(name, d.visible, d.delayed, d.in_flight) for name, d in now])
        # look twice: one subscription may hand on to another
        if not any(d.visible or d.delayed or d.in_flight for _, d in now) and state == before:
            return
        if time.monotonic() > end_s:
            raise TimeoutError(
                f"still open after {timeout_s:g} s: "
                + ", ".join(f"{name}: {depth}" for name, depth in now)
            )
        if state != before:
            before, since_s = state, time.monotonic()
        elif not any(d.visible or d.in_flight for _, d in now):
            clock.advance(s=min(d.next_s for _, d in now if d.next_s is not None))
        elif not bus.busy and time.monotonic() - since_s > _STILL_S:
            # a rate limit or a batch window waits for this clock
            clock.advance(s=_STEP_S)
            since_s = time.monotonic()
        time.sleep(0.001)


def aws_emulator() -> AwsEmulator:
    """Start AWS on this machine, to try a bus on AWS without an account.

    ::

        with mltrigger.testing.aws_emulator() as emulator:
            aws = {"endpoint_url": emulator.url, "session": emulator.session()}
            bus = mt.connect("aws://eu-west-1/acme", **aws)

    It is the server of moto (extra ``test``) on a free port of 127.0.0.1, in a process that ends
    with this one. It accepts some things that AWS refuses. The bus itself refuses those before it
    sends.

    Examples
    --------
    >>> emulator = mt.testing.aws_emulator()  # doctest: +SKIP
    >>> bus = mt.connect("aws://eu-west-1/acme", endpoint_url=emulator.url)  # doctest: +SKIP
    """
    from mltrigger.aws.emulator import AwsEmulator

    return AwsEmulator()


def record_case(
    bus: EventBus, event: Any, subscription: str | None = None, *, source: str | None = None
) -> Case:
    """Return one answered event as a case: the event, its object, its effects, its answer.

    Write ``case.to_json()`` to a file ``*.case.json``, and pytest runs the model of the working
    tree with it. ``mltrigger export-case`` does so.

    Parameters
    ----------
    bus : EventBus
        A bus.
    event, source
        As for ``bus.cancel``.
    subscription : str, optional
        The subscription that answered. It is needed if several did.

    Raises
    ------
    NotFound
        If there is no such event, or no answer yet, or several have one.

    Examples
    --------
    >>> case = mt.testing.record_case(bus, event)
    >>> case.to_json()[:1]
    '{'
    """
    from mltrigger.testing.case import record

    return record(bus, event, subscription, source)
