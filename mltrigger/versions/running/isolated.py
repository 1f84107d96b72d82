"""One process that has loaded one model: the parent's end of what
:mod:`mltrigger.versions.running.child` describes.
"""

from __future__ import annotations

import contextlib
import errno
import io
import os
import shutil
import stat
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from typing import Any, BinaryIO

from mltrigger.event.event import Event
from mltrigger.versions.running.current import place
from mltrigger.versions.running.invoke import Result, failure
from mltrigger.versions.running.peer import Died, Peer, TimedOut

# Not "-m": this way the child imports from where this process does, also when that is no installed
# package, and its environment stays as it is.
_COMMAND = (
    "import sys; sys.path[:] = sys.argv[1:]; del sys.argv[1:]; from"
    " mltrigger.versions.running.child import main; main()"
)


class ModelProcess(Peer):
    """A process for one model; it has it after :meth:`load`.

    Parameters
    ----------
    described : dict
        What :func:`~mltrigger.versions.running.parcel.description` said of the model when its
        invoker was made.
    file : file, optional
        The pickled model, unless it is imported.
    memory_limit_mb : int, optional
        Most address space.
    """

    def __init__(
        self, described: dict[str, Any], file: BinaryIO | None, memory_limit_mb: int | None
    ) -> None:
        lifeline, ours = os.pipe()  # nothing is ever written to it; it ends with this process
        self._lifeline = os.fdopen(ours, "wb", buffering=0)
        handles = (
            {"lifeline": lifeline}
            if file is None
            else {"lifeline": lifeline, "file": file.fileno()}
        )
        try:
            super().__init__(
                [sys.executable, "-c", _COMMAND, *map(str, sys.path)], list(handles.values())
            )
        except BaseException:
            self._lifeline.close()
            raise
        finally:
            os.close(lifeline)
        self.calls = 0
        self._load = {**described, **handles, "memory_limit_mb": memory_limit_mb}

    def load(self, deadline: float) -> Result | None:
        """Load the model; return why it cannot, if so. Raises what :meth:`Peer.ask` raises."""
        answer = self.ask({"load": self._load}, deadline)
        return Result(**answer["failed"]) if "failed" in answer else None

    def call(
        self,
        request: list[dict[str, Any]],
        events: Sequence[Event],
        deadline: float,
        again: Callable[[], float],
    ) -> list[Result]:
        """Call the model with *request*, the :func:`~mltrigger.versions.running.parcel.sent` form
        of *events*, and open those that it asks for.

        *again* is told when the child calls the model once more, to find a bad event, and returns
        the deadline of that.
        """
        self.calls += 1
        answer = self.ask({"call": request, "within": place()}, deadline)
        while "results" not in answer:
            if "again" in answer:
                deadline = again()
                answer = self.ask({}, deadline)
            else:
                answer = self._open(events[answer["open"]], deadline)
        return [Result(**fields) for fields in answer["results"]]

    def close(self) -> None:
        """Kill it and release the pipes; only for the thread that speaks to it. Idempotent."""
        super().close()
        self._lifeline.close()

    def _open(self, event: Event, deadline: float) -> dict[str, Any]:
        """Send the open file of *event*'s object; opened here, where the rules of its source are
        known.
        """
        try:
            with event.open() as source, _as_file(source) as file:
                return self.ask({}, deadline, file.fileno())
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
            return self.ask(refusal, deadline)


@contextlib.contextmanager
def _as_file(source: BinaryIO) -> Iterator[BinaryIO]:
    """Yield *source* itself when it is a file on disk, which another process can read; else a copy
    that is one.
    """
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
