"""One child process with one model: the parent's end of the pipe.

:mod:`mltrigger.versions.running.workers.child` describes the messages.
"""

from __future__ import annotations

import contextlib
import errno
import io
import json
import os
import shutil
import socket
import stat
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any, BinaryIO

from mltrigger.event.event import Event
from mltrigger.versions.running.current import ENCODING_S, model_returned, place
from mltrigger.versions.running.invoke import Result, failure
from mltrigger.versions.running.killable import ChildProcess, Died, TimedOut
from mltrigger.versions.running.workers.child import RETURNED
from mltrigger.versions.running.workers.effects import recorded

# Not "-m": the child imports from the same folders as this process, also if that is no installed
# package. Its environment stays as it is.
_COMMAND = (
    "import sys; sys.path[:] = sys.argv[1:]; del sys.argv[1:]; from"
    " mltrigger.versions.running.workers.child import main; main()"
)


class ModelProcess(ChildProcess):
    """A child process for one model. Call :meth:`load` first.

    Parameters
    ----------
    ticket : dict
        See :func:`~mltrigger.versions.running.workers.parcel.ticket`.
    file : file, optional
        The pickled model, unless it is imported.
    memory_limit_mb : int, optional
        Largest address space.

    Raises
    ------
    OSError
        If the process cannot be made.
    ValueError
        If *file* is closed.
    """

    def __init__(
        self, ticket: dict[str, Any], file: BinaryIO | None, memory_limit_mb: int | None
    ) -> None:
        handles = {} if file is None else {"file": file.fileno()}
        self._socket, theirs = socket.socketpair()
        lifeline, ours = os.pipe()  # nothing is ever written to it; it ends with this process
        self._lifeline = os.fdopen(ours, "wb", buffering=0)
        handles["lifeline"] = lifeline
        try:
            super().__init__(
                [sys.executable, "-c", _COMMAND, *map(str, sys.path)],
                theirs.fileno(),
                self._socket.fileno(),
                pass_fds=list(handles.values()),
            )
        except BaseException:
            self._hang_up()
            raise
        finally:
            theirs.close()
            os.close(lifeline)
        self.calls = 0
        self._load = {"load": ticket, "memory_limit_mb": memory_limit_mb, **handles}

    def load(self, deadline: float) -> Result | None:
        """Load the model. Return the reason if it cannot be loaded.

        Raises
        ------
        TimedOut, Died
            See :meth:`call`. *deadline* is an instant of ``time.monotonic()``.
        """
        answer = self._ask(self._load, deadline)
        return Result(**answer["failed"]) if "failed" in answer else None

    def call(
        self,
        packed: Sequence[tuple[Event, dict[str, Any]]],
        timeout_s: float,
        again: Callable[[], None],
    ) -> list[Result]:
        """Call the model with events and their JSON forms.

        Open the objects that it asks for. Record its effects.

        *again* is told when the child calls the model once more to find a bad event. That call has
        *timeout_s* of its own.

        Raises
        ------
        TimedOut
            If no answer comes in time. The process goes on: kill it. Once the model has returned,
            its answer has ``ENCODING_S`` to arrive.
        Died
            If the process ends before it answers.
        """
        self.calls += 1
        deadline = time.monotonic() + timeout_s
        request = {"call": [sent for _, sent in packed], "within": place()}
        answer = self._ask(request, deadline)
        while "results" not in answer:
            if "again" in answer:
                again()
                deadline = time.monotonic() + timeout_s
                answer = self._ask({}, deadline)
            elif "effect" in answer:
                reply = recorded(answer["effect"], [event for event, _ in packed])
                answer = self._ask(reply, deadline)
            else:
                event, _ = packed[answer["open"]]
                answer = self._open(event, deadline)
        return [Result(**fields) for fields in answer["results"]]

    def _open(self, event: Event, deadline: float) -> dict[str, Any]:
        """Send the open object of *event*. It is opened here, by the rules of its source."""
        try:
            with event.open() as source, _as_file(source) as file:
                return self._ask({}, deadline, file.fileno())
        except (TimedOut, Died):
            raise
        except Exception as error:
            failed = failure(error)
            refusal: dict[str, Any] = {"error": failed.error, "reason": failed.reason}
            if isinstance(error, OSError):
                refusal |= {
                    "error": error.strerror or failed.error,
                    "errno": error.errno or errno.EIO,
                }
            return self._ask(refusal, deadline)

    def _ask(
        self, message: dict[str, Any], deadline: float, file: int | None = None
    ) -> dict[str, Any]:
        """Send *message*, and the open *file* if given. Return the answer."""
        unsent = memoryview(json.dumps(message).encode() + b"\n")
        if file is not None:
            socket.send_fds(self._socket, [unsent[:1]], [file])
            unsent = unsent[1:]
        more = True
        while True:
            try:
                unsent = self._send(unsent)
            except (BrokenPipeError, ConnectionResetError):
                raise self._end() from None
            while (line := self._line()) is not None:
                if line == RETURNED:
                    model_returned(...)  # nobody knows how long its answer takes to encode
                    deadline = max(deadline, time.monotonic() + ENCODING_S)
                elif line.startswith(b"{"):
                    self._drain()  # all prints from before the answer are in the pipe by now
                    return _object(line)
                else:
                    self._print(line + b"\n" if line else b"")
            if not more:
                raise self._end()
            more = self._wait(deadline)

    def _put(self, data: memoryview) -> int:
        return self._socket.send(data)

    def _hang_up(self) -> None:
        self._socket.close()
        self._lifeline.close()


def _object(line: bytes) -> dict[str, Any]:
    try:
        answer: dict[str, Any] = json.loads(line)
    except ValueError:
        raise Died("answered something that is not JSON") from None
    return answer


@contextlib.contextmanager
def _as_file(source: BinaryIO) -> Iterator[BinaryIO]:
    """Yield *source* if it is a file on disk, which another process can read, else a copy."""
    raw: Any = getattr(source, "raw", source)
    if (
        isinstance(raw, io.FileIO)
        and stat.S_ISREG(os.fstat(raw.fileno()).st_mode)
        and source.tell() == raw.tell()
    ):
        yield source
        return
    with tempfile.TemporaryFile() as copy:
        shutil.copyfileobj(source, copy)
        copy.seek(0)
        yield copy
