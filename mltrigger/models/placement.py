"""Where a model runs: in a thread of this process, or in processes of its own."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

from mltrigger.models.invoke import Caller
from mltrigger.models.process import ProcessInvoker
from mltrigger.models.version import ModelVersion


class Isolated:
    """Resolves as *resolve* does, and has the model called in processes of its own.

    A version that is no longer meant keeps its processes until its calls have ended.

    Parameters
    ----------
    resolve : callable
        Returns the model version that is meant now, and how it is called in a thread.
    timeout_s, memory_limit_mb
        See :class:`~mltrigger.models.process.ProcessInvoker`.
    """

    def __init__(self, resolve: Callable[[], tuple[ModelVersion, Caller]], timeout_s: float, memory_limit_mb: int | None) -> None:
        self._resolve = resolve
        self._limits: dict[str, Any] = {"timeout_s": timeout_s, "memory_limit_mb": memory_limit_mb}
        self._now: tuple[Caller, ProcessInvoker] | None = None
        self._before: list[ProcessInvoker] = []
        self._guard = threading.Lock()

    def __call__(self) -> tuple[ModelVersion, ProcessInvoker]:
        """Return the version that is meant now, and how to call it."""
        version, invoker = self._resolve()
        with self._guard:
            for old in [old for old in self._before if not old.busy]:
                old.close()
                self._before.remove(old)
            if self._now is None or self._now[0] is not invoker:
                if self._now is not None:
                    self._before.append(self._now[1])
                self._now = (invoker, ProcessInvoker(invoker.model, import_path=version.import_path, **self._limits))
            return version, self._now[1]

    def close(self) -> None:
        """End all processes; idempotent."""
        with self._guard:
            for isolated in [*self._before, *([self._now[1]] if self._now else [])]:
                isolated.close()
            self._before, self._now = [], None
