"""A child process that can be killed, written to and read from without ever waiting for it."""

from __future__ import annotations

import abc
import codecs
import contextlib
import os
import select
import signal
import subprocess
import threading
import time
from collections.abc import Mapping, Sequence

from mltrigger.versions.running.capture import MAX_STDOUT

_CHUNK = 64 * 1024
_CHUNKS = 16  # read in a row: a process that never stops writing must not hold us
_LOOK_S = 0.25
"""How often it is looked whether the process still lives; its end is noticed at once, unless a
process it left holds the pipe.
"""
_REAP_S = 5.0
_END_S = 1.0
"""How long the end of the process may take after the end of its stdout."""
_LAST_LOOK_S = 1.0
"""How much longer than the deadline it is read what is arriving."""
_LAST_WORDS = 64
_KEPT = MAX_STDOUT - 64  # room for the note that says how much is missing
_TAIL = 4096


class TimedOut(Exception):  # internal signal
    """No answer before the deadline."""


class Died(Exception):  # internal signal
    """The process ended, or broke off the conversation; the message says how: ``ended with exit
    code 1``.

    ``code`` is the exit code, negative for a signal, ``None`` when it has not ended.
    """

    def __init__(self, how: str, code: int | None = None) -> None:
        super().__init__(how)
        self.code = code

    @classmethod
    def of(cls, code: int) -> Died:
        """Return what the exit code *code* means."""
        if code >= 0:
            return cls(f"ended with exit code {code}", code)
        name = signal.Signals(-code).name if -code in set(signal.Signals) else f"signal {-code}"
        return cls(
            f"was killed by {name}"
            + (" (so does the kernel when memory runs out)" if name == "SIGKILL" else ""),
            code,
        )


class ChildProcess(abc.ABC):
    """One child process, the leader of its own session and process group; for one thread at a time,
    but for :meth:`kill`.

    Parameters
    ----------
    command : sequence of str
        What to run.
    stdin : int
        The file descriptor that becomes its standard input; remains the caller's.
    ours : int
        The other end of it, which is written to.
    pass_fds : sequence of int
        File descriptors to hand on under the same numbers.
    cwd, env : optional
        Its working directory and environment; by default those of this process.

    Raises
    ------
    OSError
        When the process cannot be made.
    """

    def __init__(
        self,
        command: Sequence[str],
        stdin: int,
        ours: int,
        *,
        pass_fds: Sequence[int] = (),
        cwd: str | None = None,
        env: Mapping[str, str] | None = None,
    ) -> None:
        self._process: subprocess.Popen[bytes] = subprocess.Popen(  # noqa: S603 - the command is the user's, as it was registered
            command,
            stdin=stdin,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            bufsize=0,
            pass_fds=pass_fds,
            cwd=cwd,
            env=env,
            start_new_session=True,  # a Ctrl-C for the notebook is not meant for it
        )
        self._input = ours
        os.set_blocking(ours, False)
        self._streams = [
            stream for stream in (self._process.stdout, self._process.stderr) if stream is not None
        ]
        self._answers, self._prints = (stream.fileno() for stream in self._streams)
        self._poll = select.poll()
        for handle in (self._answers, self._prints):
            os.set_blocking(handle, False)
            self._poll.register(handle, select.POLLIN)
        self._kill_guard = threading.Lock()
        self._killed = False
        self._received = bytearray()
        self._looked_at = 0
        self._printed = _Printed()

    @abc.abstractmethod
    def _put(self, data: memoryview) -> int:
        """Write some of *data*; return how much.

        Raises BlockingIOError, BrokenPipeError and ConnectionResetError.
        """

    @abc.abstractmethod
    def _hang_up(self) -> None:
        """Release our end of its standard input; idempotent."""

    @property
    def pid(self) -> int:
        """The process id, which is also the id of the group."""
        return self._process.pid

    @property
    def alive(self) -> bool:
        """Whether the process has not ended, and waits for a request."""
        if self._killed or self._received or self._over():
            return False
        # The end of its pipe comes before the end of its last thread; and nobody asked it anything.
        return all(handle != self._answers for handle, _ in self._poll.poll(0))

    def printed(self) -> str:
        """Return what was printed since the last time, bounded; after :meth:`kill`, the last words
        too.
        """
        if self._killed:
            self._drain()
        return self._printed.take()

    @property
    def last_printed(self) -> str:
        """The end of what was printed, taken or not."""
        if self._killed:
            self._drain()
        return self._printed.tail.decode("utf-8", "backslashreplace")

    def kill(self) -> None:
        """End the process and all of its group, which no process can refuse.

        Idempotent, from any thread.
        """
        with self._kill_guard:
            if self._killed:
                return
            self._killed = True
            # Darwin refuses a group of zombies
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(self._process.pid, signal.SIGKILL)
            # it hangs in the kernel; it is killed all the same
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._process.wait(_REAP_S)

    def close(self) -> None:
        """Kill it and release the pipes; only for the thread that speaks to it. Idempotent."""
        self.kill()
        with self._kill_guard:
            self._hang_up()
            for stream in self._streams:
                stream.close()

    def _send(self, unsent: memoryview) -> memoryview:
        """Write what there is room for; return the rest, for which :meth:`_wait` waits as well."""
        with contextlib.suppress(BlockingIOError):
            while unsent:
                unsent = unsent[self._put(unsent) :]
        if unsent:
            self._poll.register(self._input, select.POLLOUT)
        return unsent

    def _line(self) -> bytes | None:
        """Return the next line that was received, without its end; ``None`` when there is no whole
        one.
        """
        end = self._received.find(b"\n", self._looked_at)
        if end < 0:
            self._looked_at = len(self._received)
            return None
        line = bytes(memoryview(self._received)[:end])
        del self._received[: end + 1]
        self._looked_at = 0
        return line

    def _wait(self, deadline: float, look_s: float = _LOOK_S) -> bool:
        """Wait for something to happen, and take what arrived; return whether more can come on
        stdout.
        """
        left_s = deadline - time.monotonic()
        ready = [handle for handle, _ in self._poll.poll(1000 * max(0.0, min(left_s, look_s)))]
        more = True
        for handle in ready:
            if handle == self._answers:
                more = self._receive()
            elif handle == self._prints:
                self._read_printed()
            else:
                self._poll.unregister(self._input)  # until it is full again
        if self._answers not in ready and self._over():
            # something may have come in between; and the pipe may be held by a process that was
            # left
            self._receive()
            return False
        if more and left_s <= (-_LAST_LOOK_S if self._answers in ready else 0):
            raise TimedOut
        return more

    def _receive(self) -> bool:
        """Take what has arrived on stdout; return whether more can come."""
        with contextlib.suppress(BlockingIOError):
            for _ in range(_CHUNKS):
                if not (chunk := os.read(self._answers, _CHUNK)):
                    with contextlib.suppress(KeyError):
                        self._poll.unregister(self._answers)
                    return False
                self._received += chunk
                if len(chunk) < _CHUNK:
                    break
        return True

    def _read_printed(self) -> bool:
        """Take one chunk of what was printed; return whether there was one."""
        try:
            chunk = os.read(self._prints, _CHUNK)
        except BlockingIOError:
            return False
        if not chunk:
            self._poll.unregister(self._prints)  # it closed its stderr
            self._prints = -1
        self._printed.add(chunk)
        return bool(chunk)

    def _print(self, text: bytes) -> None:
        """Keep *text*, which did not come through stderr, with the prints."""
        self._printed.add(text)

    def _drain(self) -> None:
        for _ in range(_LAST_WORDS):  # nor one that never stops printing
            if self._prints < 0 or not self._read_printed():
                return

    def _over(self) -> bool:
        """Whether the process has ended.

        It is left a zombie: its number, which is the group's, must not become somebody else's.
        """
        if self._process.returncode is None and hasattr(os, "waitid"):
            with contextlib.suppress(ChildProcessError):
                return (
                    os.waitid(os.P_PID, self._process.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT)
                    is not None
                )
        return self._process.poll() is not None

    def _end(self) -> Died:
        """Return how the process ended; what is left of its group is killed."""
        deadline = time.monotonic() + _END_S
        while not self._over():
            if time.monotonic() > deadline:
                return Died("closed its connection")
            time.sleep(0.001)
        self.kill()
        return Died.of(self._process.returncode)


class _Printed:
    """Bytes that were printed: the first ones are kept until they are taken, the rest is counted;
    the last ones of all are kept as well.
    """

    def __init__(self) -> None:
        self._kept, self._spilt = bytearray(), 0
        self.tail = b""

    def add(self, chunk: bytes) -> None:
        room = _KEPT - len(self._kept)
        self._kept += chunk[:room]
        self._spilt += max(0, len(chunk) - room)
        self.tail = (self.tail + chunk)[-_TAIL:]

    def take(self) -> str:
        if not self._kept:
            return ""
        note = f"… ({self._spilt:,} more bytes)" if self._spilt else ""
        # Not final when cut off: half a character at the end is not invalid.
        text = codecs.getincrementaldecoder("utf-8")("backslashreplace").decode(
            bytes(self._kept), final=not self._spilt
        )
        self._kept, self._spilt = bytearray(), 0
        return text[:_KEPT] + note  # a byte that is no text is shown as four characters
