"""Models and events that are sent to the workers of an executor.

A worker gets the function :func:`.worker.run` and plain values, so it needs mltrigger and the
imports of the model. The model is sent only to a worker that lacks it, and stays there.
"""

from __future__ import annotations

import hashlib
import json
import tempfile
import threading
import uuid
from collections.abc import Callable
from concurrent.futures import Executor, ThreadPoolExecutor
from pathlib import Path
from typing import Any, BinaryIO

from mltrigger.errors import InvalidEvent
from mltrigger.event.event import Event
from mltrigger.event.making import can_open
from mltrigger.versions.describe import Model
from mltrigger.versions.running.current import place
from mltrigger.versions.running.workers import parcel
from mltrigger.versions.running.workers.executor import InExecutor, InThreads
from mltrigger.versions.running.workers.invoker import START_TIMEOUT_S
from mltrigger.versions.running.workers.pools import CONCURRENCY, Source
from mltrigger.versions.running.workers.portable import packed
from mltrigger.versions.running.workers.worker import run
from mltrigger.versions.scheme import Setting

_CHANCES = 16
"""Calls that take the model along because one worker lacks it. By then it has received one of them,
or is gone.
"""
_MOST_BYTES = 64 * 1024 * 1024
"""Largest object of an event that travels with its call. Both sides hold it in memory."""


class InWorkers(InExecutor):
    """An executor with workers in other processes or on other machines.

    Parameters
    ----------
    model, import_path, timeout_s, start_timeout_s
        See :func:`in_executor`.
    source : Source
        The executor.
    """

    def __init__(
        self,
        model: Model,
        import_path: str | None,
        source: Source,
        timeout_s: float,
        start_timeout_s: float,
    ) -> None:
        super().__init__(source, timeout_s)
        self._start_timeout_s, self._opens = start_timeout_s, model.wants_event
        self.batches = parcel.takes_batches(model, Setting(timeout_s, self.concurrency))
        path = parcel.path_there(model, import_path)
        setting = Setting(timeout_s, CONCURRENCY, self.concurrency)
        self._ticket = json.dumps(
            parcel.ticket(model, path, setting, checks_code=True), sort_keys=True
        )
        self._contents = b"" if path else _pickled(model)
        self._key = hashlib.sha256(self._contents + self._ticket.encode()).hexdigest()
        # Nobody can choose the worker of a call. If one lacks the model, all calls take it along
        # until that worker has received one of them.
        self._lacking: dict[str, int] = {}
        self._guard = threading.Lock()
        self._flags = tempfile.TemporaryDirectory(prefix="mltrigger-calls-")

    def packed(self, event: Event) -> tuple[str, bytes | None]:
        """Return *event* as JSON, and the contents of its object if the model may look at it.

        The object is opened here, by the rules of its source.
        """
        content = None
        if self._opens and can_open(event):
            with event.open() as source:
                content = _content(source)
        return json.dumps({**parcel.sent(event), "opens": content is not None}), content

    def close(self) -> None:
        """See :meth:`InExecutor.close`."""
        super().close()
        self._flags.cleanup()

    def _called(self, packed: list[tuple[str, bytes | None]]) -> dict[str, Any]:
        answer = self._run(packed, with_model=bool(self._lacking))
        return self._run(packed, with_model=True) if "missing" in answer else answer

    def _run(self, packed: list[tuple[str, bytes | None]], with_model: bool) -> dict[str, Any]:
        """Run a call in any free worker. *with_model*: it loads the model first if it lacks it."""
        wait_s = self._timeout_s + (self._start_timeout_s if with_model else 0.0)
        contents = self._contents if with_model else None
        events = ",".join(text for text, _ in packed)
        request = f'{{"within": {json.dumps(place())}, "events": [{events}]}}'
        objects = [content for _, content in packed]
        own = objects if any(content is not None for content in objects) else None
        flag = Path(self._flags.name) / uuid.uuid4().hex
        answer = self._answer(
            wait_s, flag.exists, run, self._key, self._ticket, contents, request, own, str(flag)
        )
        flag.unlink(missing_ok=True)
        self._note(answer, with_model)
        return answer

    def _note(self, answer: dict[str, Any], with_model: bool) -> None:
        """Note whether the worker of *answer* has the model now."""
        with self._guard:
            if "missing" in answer:
                self._lacking[answer["worker"]] = _CHANCES
                return
            self._lacking.pop(answer["worker"], None)
            self._lacking = {
                worker: left - with_model
                for worker, left in self._lacking.items()
                if left > with_model
            }


def in_executor(
    model: Model,
    import_path: str | None,
    executor: Executor | Callable[[], Executor],
    timeout_s: float,
    start_timeout_s: float = START_TIMEOUT_S,
) -> InExecutor:
    """Return the workers of *model* in *executor*.

    Parameters
    ----------
    model : Model
        The model. In threads it is this very object. Elsewhere it is a copy, one per process.
    import_path : str, optional
        ``package.module:attribute``, from which workers import the model. Without it the model is
        sent with cloudpickle.
    executor : Executor, or a callable without arguments that makes one
        Do not fork processes from a process with threads: use ``ProcessPoolExecutor(4,
        get_context("forkserver"))``.
    timeout_s : float
        See :class:`InExecutor`.
    start_timeout_s : float
        Additional time of a call in which a worker loads the model.

    Raises
    ------
    InvalidModel
        If *executor* is none, or the model cannot be sent.
    """
    source = Source(executor)
    if isinstance(source.get(), ThreadPoolExecutor):
        return InThreads(model, source, timeout_s)
    return InWorkers(model, import_path, source, timeout_s, start_timeout_s)


def _content(source: BinaryIO) -> bytes:
    """Return all of *source*. Raise InvalidEvent if it is too large to travel."""
    found = bytearray()
    while len(found) <= _MOST_BYTES and (part := source.read(_MOST_BYTES + 1 - len(found))):
        found += part
    if len(found) > _MOST_BYTES:
        most = f"{_MOST_BYTES // 1024**2} MiB"
        raise InvalidEvent(
            f"the object has more than {most}, the most that is sent to a worker with its call;"
            " isolation='process' instead of an executor opens it on this machine, at any size",
            "object_too_large",
        )
    return bytes(found)


def _pickled(model: Model) -> bytes:
    with packed(model) as file:
        file.seek(0)
        return file.read()
