"""How fast and with how many requests a side empties its queue: counted by the server, in the same
way for everybody.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Sequence
from typing import NamedTuple

from benchmarks.aws.server import Server
from benchmarks.aws.side import side


@dataclasses.dataclass(frozen=True)
class Drained:
    """One backlog of ``events``, emptied: the seconds, the requests by action, the CPU seconds of
    the side.
    """

    events: int
    seconds: float
    requests: dict[str, int]
    cpu_s: float

    @property
    def per_s(self) -> float:
        """Events per second, from the first receive to the last delete."""
        return self.events / self.seconds

    @property
    def requests_per_event(self) -> float:
        """API requests per event, whatever they were for."""
        return sum(self.requests.values()) / self.events

    @property
    def cpu_s_per_1000(self) -> float:
        """CPU seconds of the side per 1,000 events, from the first receive to the last delete."""
        return self.cpu_s / self.events * 1e3


class Published(NamedTuple):
    """Events published per second, and API requests per event."""

    per_s: float
    requests_per_event: float


def drain(server: Server, arguments: Sequence[str], events: int, within_s: float) -> Drained:
    """Let a side in a new process empty its queue of *events*; its start does not count."""
    with side(arguments, server.environment) as running:
        server.forget()
        running.go()
        server.until("received", 1, within_s)
        before_s = running.cpu_s()
        log = server.until("deleted", events, within_s)
        return Drained(events, log.drained_s, log.requests, running.cpu_s() - before_s)


def published(
    server: Server,
    arguments: Sequence[str],
    events: int,
    before: Callable[[], object] = lambda: None,
) -> Published:
    """Let a side publish *events*, after it was set up and *before* was called."""
    with side(arguments, server.environment) as running:
        before()
        server.forget()
        started = time.perf_counter()
        running.go()
        running.result()
        seconds = time.perf_counter() - started
        log = server.log()
    assert log.sent == events, f"{log.sent:,} of {events:,} events arrived"
    return Published(events / seconds, log.total / events)


def latencies(server: Server, receiver: Sequence[str], sender: Sequence[str]) -> list[float]:
    """Let one side send events now and then and another one receive them; return what the receiver
    noted, in milliseconds.
    """
    with (
        side(receiver, server.environment) as receiving,
        side(sender, server.environment) as sending,
    ):
        receiving.go()
        server.forget()
        server.until("received", 1, 60)
        sending.go()
        sending.result()
        return list(receiving.result())
