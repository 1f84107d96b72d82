"""Threads that run models. They are reused, and left behind when a model hangs."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable

Call = Callable[[], None]


class ThreadWorkers:
    """Daemon threads, made when none is idle.

    There is no upper limit: each listener has its own. A thread whose call never returns is never
    idle again. It delays no other call, and not the end of the process. (``concurrent.futures``
    joins its threads at exit.)
    """

    def __init__(self) -> None:
        self._idle: deque[_Worker] = deque()
        self._closed = False

    def submit(self, call: Call) -> None:
        """Run *call* in a thread, at once. It must not raise."""
        try:
            worker = self._idle.pop()  # the one used last: its stack and caches are warm
        except IndexError:
            worker = _Worker(self._rest)
        worker.give(call)

    def close(self) -> None:
        """End the idle threads. Busy ones end after their call."""
        self._closed = True
        while self._idle:
            self._idle.pop().give(None)

    def _rest(self, worker: _Worker) -> bool:
        if self._closed:
            return False
        self._idle.append(worker)
        return True


class _Worker:
    def __init__(self, rest: Callable[[_Worker], bool]) -> None:
        self._rest = rest
        self._call: Call | None = None
        self._given = threading.Semaphore(0)
        threading.Thread(target=self._work, name="mltrigger-worker", daemon=True).start()

    def give(self, call: Call | None) -> None:
        self._call = call
        self._given.release()

    def _work(self) -> None:
        while True:
            self._given.acquire()
            call, self._call = self._call, None
            if call is None:
                return
            call()
            del call  # an idle thread must not keep the last batch alive
            if not self._rest(self):
                return
