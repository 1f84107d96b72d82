"""The watcher: one thread that looks at all folders of a process and publishes new files."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Sequence
from typing import Any

from mltrigger.broker import Status
from mltrigger.errors import warn
from mltrigger.event.event import Event
from mltrigger.policy import DeliveryPolicy
from mltrigger.sources.folder.folder import Folder
from mltrigger.sources.folder.hints import Hints
from mltrigger.sources.folder.watch import FolderWatch

logger = logging.getLogger("mltrigger")

POLL_S = 0.2
_GLANCE_S = 1.0
"""The interval of checking a folder's time while the system reports changes."""
_LOOK_S, _LOOK_WITH_HINTS_S = 2.0, 60.0
"""The shortest interval of looking at every file, without and with hints."""
_AGAIN_S = 2.0
_SHARE, _SHARE_BUSY = 0.004, 0.1
"""The largest share of a core for looking: at rest, and while files come."""


class Watcher:
    """Publishes the new files of the folders of this process, from one thread.

    Parameters
    ----------
    publish : callable
        Takes a topic and events. Returns when they are durable.
    history : callable
        Takes a topic and a number in the log. Returns (number, subject, data) of the folder's next
        events, oldest first.
    """

    def __init__(
        self,
        publish: Callable[[str, Sequence[Event]], object],
        history: Callable[[str, int], Sequence[tuple[int, str | None, Any]]] = lambda *_: (),
    ) -> None:
        self._publish, self._history = publish, history
        self._rounds: dict[str, _Rounds] = {}
        self._guard = threading.Lock()
        self._stop = threading.Event()
        self._hints = Hints()
        self._thread: threading.Thread | None = None

    def feed(self, topic: str, source: Folder, policies: Sequence[DeliveryPolicy]) -> None:
        """Watch *source* for *topic*. The longest ``settle_s`` of *policies* holds."""
        settle_s = max(policy.settle_s for policy in policies)
        with self._guard:
            known = self._rounds.get(topic)
            if known is None:
                self._rounds[topic] = _Rounds(
                    FolderWatch(source, topic, lambda after: self._history(topic, after), settle_s)
                )
            else:
                known.watch.settle_s = settle_s
        if self._thread is None:
            self._thread = threading.Thread(
                target=self._loop, name="mltrigger-watcher", daemon=True
            )
            self._thread.start()

    def forget(self, topic: str) -> None:
        """Stop watching the folder of *topic*. Idempotent."""
        with self._guard:
            self._rounds.pop(topic, None)

    def trouble(self, topic: str) -> str:
        """Return the folder that *topic* waits for and why. Empty if it can be read."""
        rounds = self._rounds.get(topic)
        if rounds is None or not rounds.trouble:
            return ""
        return f"the folder: {rounds.watch.source.folder.name!r}: {rounds.trouble}"

    def note(self, topic: str) -> str:
        """Return why the system reports no changes in the folder of *topic*. Empty if it does."""
        return self._hints.trouble if topic in self._rounds else ""

    def status(self, topic: str) -> Status | None:
        """Return the state of the folder of *topic*. ``None`` if it is not watched here."""
        rounds = self._rounds.get(topic)
        if rounds is None:
            return None
        waits = bool(rounds.trouble)
        return Status("waiting" if waits else "connected", None, None, self.trouble(topic))

    def settled(self) -> bool:
        """Look now. Return whether everything that exists has been published.

        A missing folder counts as empty.
        """
        with self._guard:
            quiet = [
                self._look(rounds, whole=rounds.watch.settled) == 0 and rounds.watch.settled
                for rounds in self._rounds.values()
            ]
            gone = [
                rounds for rounds in self._rounds.values() if rounds.trouble and not rounds.warned
            ]
        for rounds in gone:
            rounds.warned = True
            warn(
                f"folder {rounds.watch.source.shown()!r} cannot be read ({rounds.trouble}): it is"
                " waited for, its files are not counted"
            )
        return all(quiet)

    def stop(self) -> None:
        """Stop looking."""
        self._stop.set()
        if self._thread is not None:
            self._thread.join(timeout=5.0)

    # -- the thread --------------------------------------------------------------------------------

    def _loop(self) -> None:
        touched: set[str] | None = set()
        try:
            while not self._stop.is_set():
                pause_s = POLL_S
                try:
                    pause_s = self._round(touched)
                except Exception:
                    logger.exception("watched folders: looking failed; trying again")
                touched = self._hints.wait(pause_s, self._stop)
        finally:
            self._hints.close()

    def _round(self, touched: set[str] | None) -> float:
        """Look at folders that are due or *touched*. Return the seconds to wait."""
        with self._guard:
            for rounds in self._rounds.values():
                rounds.hinted = not self._hints.trouble
                if touched is None:
                    rounds.look_again()
                if rounds.is_due(time.monotonic(), touched or ()):
                    try:
                        self._look(rounds, touched or ())
                    except Exception:  # such as a store that does not answer: go on with the others
                        logger.exception(
                            "watched folder %s: publishing failed; trying again",
                            rounds.watch.source.shown(),
                        )
                        rounds.rest_until_s = time.monotonic() + _AGAIN_S
            folders: dict[str, int] = {
                path: inode
                for rounds in self._rounds.values()
                for path, inode in rounds.watch.folders.items()
            }
            if self._hints.cover(folders):
                for rounds in self._rounds.values():
                    rounds.look_again()
            due_s = min(
                (rounds.next_s for rounds in self._rounds.values()),
                default=time.monotonic() + POLL_S,
            )
        return min(POLL_S, max(0.01, due_s - time.monotonic()))

    def _look(
        self, rounds: _Rounds, touched: Sequence[str] | set[str] = (), whole: bool | None = None
    ) -> int:
        """Look at one folder and publish its new files. Return the number of events."""
        events = rounds.look(touched, whole)
        if events:
            self._publish(rounds.watch.topic, events)
            rounds.watch.taken(events)
        return len(events)


class _Rounds:
    """The schedule of one folder: as often as a small share of a core allows."""

    def __init__(self, watch: FolderWatch) -> None:
        self.watch = watch
        self.trouble = ""
        self.warned = False
        self.hinted = False
        self.rest_until_s = 0.0
        self._look_s = self._glance_s = time.monotonic()
        self._looked_s, self._look_cost_s = 0.0, 0.0

    @property
    def next_s(self) -> float:
        """The time of the next look."""
        return max(
            self.rest_until_s, min(self._look_s, self._glance_s, self.watch.due_s or self._glance_s)
        )

    def look_again(self) -> None:
        """Look at every file soon: a change may have been missed."""
        self._look_s = min(
            self._look_s, self._looked_s + max(POLL_S, self._look_cost_s / _SHARE_BUSY)
        )

    def is_due(self, now_s: float, touched: Sequence[str] | set[str]) -> bool:
        """Whether it is time, or a file of this folder was *touched*."""
        if now_s < self.rest_until_s:
            return False
        folders = self.watch.folders
        return now_s >= self.next_s or any(path.rpartition("/")[0] in folders for path in touched)

    def look(self, touched: Sequence[str] | set[str], whole: bool | None) -> list[Event]:
        """Look at files that may have changed, or at every file when it is due or *whole*."""
        began_s, used_s = time.monotonic(), time.thread_time()
        whole = (
            began_s >= self._look_s or bool(self.trouble)
            if whole is None
            else whole or bool(self.trouble)
        )
        try:
            events = self.watch.look(began_s) if whole else self.watch.glance(began_s, touched)
        except OSError as error:
            self.trouble = error.strerror or type(error).__name__
            events, whole = [], True
        else:
            self.trouble, self.warned = "", self.warned and bool(self.trouble)
        self._plan(whole, time.monotonic() - began_s, time.thread_time() - used_s)
        return events

    def _plan(self, whole: bool, took_s: float, used_s: float) -> None:
        """Plan the next looks after one that *took_s*, with *used_s* of a core.

        On a slow network drive it takes much longer than it uses.
        """
        now_s = time.monotonic()
        self._glance_s = now_s + (_GLANCE_S if self.hinted and not self.trouble else POLL_S)
        if whole:
            self._looked_s, self._look_cost_s = now_s, max(used_s, took_s / 10)
            self._look_s = now_s + max(
                _LOOK_WITH_HINTS_S if self.hinted else _LOOK_S, used_s / _SHARE, took_s
            )
        else:
            self._glance_s = max(
                self._glance_s,
                now_s
                + min(10.0, max(used_s / (_SHARE if self.watch.at_rest else _SHARE_BUSY), took_s)),
            )
        if self.trouble:
            self._look_s = now_s + _GLANCE_S
