"""The relay: one thread for each source of a process reads it and publishes.

A lease in the store of the bus lets one process read. The others stand by.
"""

from __future__ import annotations

import logging
import random
import threading
import time
from collections.abc import Callable, Sequence
from typing import Any, Protocol

from mltrigger.broker import Feed, Notes, Status
from mltrigger.errors import MltriggerError, warn
from mltrigger.policy import DeliveryPolicy
from mltrigger.text import one_line, redacted, short

logger = logging.getLogger("mltrigger")

LEASE_S = 10.0
"""How long a process that died keeps others from reading."""
_STANDBY_S = 2.0
_SAID_S = 5.0
"""How often the state is written while only its number changes."""
_AGAIN_S, _LONGEST_S = 0.5, 30.0
"""The first and the longest wait after a failure."""
_WHY = 300


class Reader(Protocol):
    """Reads one source. One thread at a time calls it."""

    shown: str
    """The source in words, without secrets."""

    def step(self) -> bool:
        """Publish the next things. Return whether there may be more right now."""

    def wait(self, stopped: threading.Event) -> None:
        """Wait until there may be something new, at most a second or so, or until *stopped*."""

    def behind(self) -> int | None:
        """Return how many things are no events yet. ``None`` if nobody knows."""

    def detail(self) -> str:
        """Return how far the reader is, in words. Empty if there is nothing to say."""

    def close(self) -> None:
        """Release connections. The next step opens them again."""


class Relay:
    """Feeds topics from sources of one kind, each in a thread of its own.

    Parameters
    ----------
    feed : Feed
        The way into the bus.
    reader : callable
        Takes feed, topic and source. Returns a reader.
    """

    def __init__(self, feed: Feed, reader: Callable[[Feed, str, Any], Reader]) -> None:
        self._feed, self._reader = feed, reader
        self._loops: dict[str, _Loop] = {}
        self._guard = threading.Lock()

    def feed(self, topic: str, source: Any, policies: Sequence[DeliveryPolicy]) -> None:
        """Read *source* from now on. *policies* change nothing."""
        with self._guard:
            if topic not in self._loops:
                self._loops[topic] = loop = _Loop(
                    topic, self._reader(self._feed, topic, source), self._feed.notes
                )
                loop.start()

    def forget(self, topic: str) -> None:
        """Stop reading the source of *topic*. Idempotent."""
        with self._guard:
            loop = self._loops.pop(topic, None)
        if loop is not None:
            loop.stop()

    def trouble(self, topic: str) -> str:
        """Return the source that *topic* waits for, and why. Empty if it is read."""
        status = self.status(topic)
        return status.detail if status is not None and status.state == "waiting" else ""

    def note(self, topic: str) -> str:
        """Return nothing: the doctor looks at the source itself."""
        return ""

    def status(self, topic: str) -> Status | None:
        """Return the state of the source of *topic*. ``None`` if it is not read here."""
        loop = self._loops.get(topic)
        return loop.status if loop is not None else None

    def settled(self) -> bool:
        """Look now. Return whether everything that exists has been published."""
        unsettled = [loop for loop in list(self._loops.values()) if not loop.settled()]
        return not unsettled  # ask each: it looks and publishes

    def stop(self) -> None:
        """Stop reading all sources."""
        with self._guard:
            loops, self._loops = list(self._loops.values()), {}
        for loop in loops:
            loop.begin_stop()
        for loop in loops:
            loop.stop()


class _Loop:
    """Reads one source while this process has the lease."""

    def __init__(self, topic: str, reader: Reader, notes: Notes) -> None:
        self._topic, self._reader, self._notes = topic, reader, notes
        self._stopped, self._guard = threading.Event(), threading.Lock()
        self._leased_s, self._said_s = -LEASE_S, -_SAID_S
        self._failures, self._warned = 0, False
        self.status = Status("standby", self._notes.now_us())
        self._thread = threading.Thread(target=self._run, name=f"mltrigger-{topic}", daemon=True)

    def start(self) -> None:
        """Begin to read."""
        self._thread.start()

    def begin_stop(self) -> None:
        """Read no more."""
        self._stopped.set()

    def stop(self) -> None:
        """Read no more. Wait a while for the end of the step that runs."""
        self._stopped.set()
        if self._thread is not threading.current_thread():
            self._thread.join(timeout=5.0)

    def settled(self) -> bool:
        """Look now. Return whether nothing is left to publish.

        A source that does not answer is not waited for, and a warning says so.
        """
        if self.status.state == "waiting":
            if not self._warned:
                self._warned = True
                warn(f"{self.status.detail}: it is waited for, what is there is not counted")
            return True
        with self._guard:
            try:
                if not self._has_lease():
                    return not self._reader.behind()
                return not self._reader.step() and not self._say_connected()
            except Exception:
                logger.debug("source of %s: a look failed", self._topic, exc_info=True)
                return False  # the thread will say why

    def _run(self) -> None:
        while not self._stopped.is_set():
            try:
                pause_s = self._round()
            except Exception as error:
                pause_s = self._failed(error)
            if pause_s > 0:
                self._stopped.wait(pause_s)
            elif pause_s < 0:
                self._rest()
        with self._guard:
            self._quietly(self._reader.close)
        if self._leased_s > 0:
            self._quietly(lambda: self._notes.release(self._topic))

    def _round(self) -> float:
        """Take one step. Return the seconds to wait.

        Below 0 means: until the reader sees something.
        """
        with self._guard:
            if not self._has_lease():
                self._say(Status("standby", self.status.since_us), kept=False)
                return _STANDBY_S
            more = self._reader.step()
            self._failures, self._warned = 0, False
            now_s = time.monotonic()
            if more and now_s - self._said_s < _SAID_S:
                return 0.0
            self._say_connected()
            return 0.0 if more else -1.0

    def _has_lease(self) -> bool:
        now_s = time.monotonic()
        if now_s - self._leased_s > LEASE_S / 3:
            held = self._notes.lease(self._topic, LEASE_S)
            self._leased_s = now_s if held else -LEASE_S
            return held
        return True

    def _rest(self) -> None:
        try:
            self._reader.wait(self._stopped)
        except Exception:
            self._stopped.wait(_AGAIN_S)  # the next step says why

    def _failed(self, error: Exception) -> float:
        self._failures += 1
        why = short(one_line(redacted(str(error) or type(error).__name__)), _WHY)
        said = f"{self._reader.shown}: {why}"
        if self._failures == 1:
            logger.warning("source of topic %s waits: %s", self._topic, said)
        if not isinstance(error, (MltriggerError, OSError)):
            logger.debug("source of topic %s", self._topic, exc_info=error)
        with self._guard:
            self._quietly(self._reader.close)
            self._quietly(
                lambda: self._say(Status("waiting", self._notes.now_us(), None, said), kept=True)
            )
        longest_s = min(_LONGEST_S, _AGAIN_S * 2.0 ** min(self._failures - 1, 10))
        return longest_s * random.uniform(0.5, 1)

    def _say_connected(self) -> int | None:
        """Note how many things there are no events yet, and return it."""
        behind = self._reader.behind()
        now = Status("connected", self._notes.now_us(), behind, self._reader.detail())
        self._say(now, kept=True)
        return behind

    def _say(self, now: Status, kept: bool) -> None:
        """Note the state. It goes into the store when it has changed, or now and then."""
        before = self.status
        if before.state == now.state:
            now = now._replace(since_us=before.since_us)
        self.status = now
        now_s = time.monotonic()
        changed = before.state != now.state or self._said_s < 0
        if kept and (changed or (now != before and now_s - self._said_s > _SAID_S)):
            self._notes.remember(f"status:{self._topic}", list(now))
            self._said_s = now_s

    def _quietly(self, action: Callable[[], object]) -> None:
        try:
            action()
        except Exception:
            logger.debug("source of topic %s", self._topic, exc_info=True)
