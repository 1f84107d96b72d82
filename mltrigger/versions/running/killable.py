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
_CHUNKS = 16  # reads in a row: a process that never stops writing must not hold us
_LOOK_S = 0.25
"""Interval to look whether the process lives. Its end is usually noticed at once by the end of its
pipe, but a process that it left may hold that.
"""
_REAP_S = 5.0
_END_S = 1.0
"""Longest time from the end of its stdout to the end of the process."""
_LAST_LOOK_S = 1.0
"""Time after the deadline in which an answer that is arriving is still read."""
_LAST_WORDS = 64
_KEPT = MAX_STDOUT - 64  # room for the note that says how much is missing
_TAIL = 4096


class TimedOut(Exception):  # internal signal
    """No answer before the deadline."""


class Died(Exception):  # internal signal
    """The process ended, or closed its connection. The message says how.

    ``code`` is the exit code, negative for a signal, ``None`` if it has not ended.
    """

    def __init__(self, how: str, code: int | None = None) -> None:
        super().__init__(how)
        self.code = code

    @classmethod
    def of(cls, code: int) -> Died:
        """Return the error for the exit code *code*."""
        if code >= 0:
            return cls(f"ended with exit code {code}", code)
        name = signal.Signals(-code).name if -code in set(signal.Signals) else f"signal {-code}"
        return cls(
            f"was killed by {name}"
            + (" (so does the kernel when memory runs out)" if name == "SIGKILL" else ""),
            code,
        )


class ChildProcess(abc.ABC):
    """One child process, the leader of its own session and process group.

    Only one thread at a time may use it, except for :meth:`kill`.

    Parameters
    ----------
    command : sequence of str
        The program and its arguments.
    stdin : int
        The file descriptor that becomes its standard input. The caller closes it.
    ours : int
        The other end of its standard input, which is written to.
    pass_fds : sequence of int
        File descriptors that it inherits under the same numbers.
    cwd, env : optional
        Its working directory and environment. By default those of this process.

    Raises
    ------
    OSError
        If the process cannot be made.
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
        """Write some of *data* and return the number of bytes.

        Raises
        ------
        BlockingIOError
            If there is no room now.
        BrokenPipeError, ConnectionResetError
            If nobody reads any more.
        """

    @abc.abstractmethod
    def _hang_up(self) -> None:
        """Release our end of its standard input. Idempotent."""

    @property
    def pid(self) -> int:
        """The process id. It is also the id of the group."""
        return self._process.pid

    @property
    def alive(self) -> bool:
        """Whether the process runs and waits for a request."""
        if self._killed or self._received or self._over():
            return False
        # Nothing may have come: nobody asked it anything. And the end of its pipe comes before the
        # end of its last thread.
        return all(handle != self._answers for handle, _ in self._poll.poll(0))

    def printed(self) -> str:
        """Return the prints since the last call, up to a limit.

        After :meth:`kill` this includes the last words.
        """
        if self._killed:
            self._drain()
        return self._printed.take()

    @property
    def last_printed(self) -> str:
        """The end of all prints, also of those that were returned before."""
        if self._killed:
            self._drain()
        return self._printed.tail.decode("utf-8", "backslashreplace")

    def kill(self) -> None:
        """End the process and its whole group at once. Idempotent, from any thread."""
        with self._kill_guard:
            if self._killed:
                return
            self._killed = True
            # macOS refuses to kill a group of zombies
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(self._process.pid, signal.SIGKILL)
            # it may hang in the kernel for longer; it is killed all the same
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._process.wait(_REAP_S)

    def close(self) -> None:
        """Kill the process and release the pipes. Idempotent."""
        self.kill()
        with self._kill_guard:
            self._hang_up()
            for stream in self._streams:
                stream.close()

    def _send(self, unsent: memoryview) -> memoryview:
        """Write *unsent* as far as there is room and return the rest.

        :meth:`_wait` waits for room.
        """
        with contextlib.suppress(BlockingIOError):
            while unsent:
                unsent = unsent[self._put(unsent) :]
        if unsent:
            self._poll.register(self._input, select.POLLOUT)
        return unsent

    def _line(self) -> bytes | None:
        """Return the next line from stdout without its end, ``None`` if it is not complete."""
        end = self._received.find(b"\n", self._looked_at)
        if end < 0:
            self._looked_at = len(self._received)
            return None
        line = bytes(memoryview(self._received)[:end])
        del self._received[: end + 1]
        self._looked_at = 0
        return line

    def _wait(self, deadline: float, look_s: float = _LOOK_S) -> bool:
        """Wait for input or room, and read. Return whether more can come on stdout.

        Raises
        ------
        TimedOut
            After *deadline*, an instant of ``time.monotonic()``.
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
            # An answer may have come in between. The pipe may still be open: a process that it
            # left may hold it.
            self._receive()
            return False
        if more and left_s <= (-_LAST_LOOK_S if self._answers in ready else 0):
            raise TimedOut
        return more

    def _receive(self) -> bool:
        """Read from stdout without waiting. Return whether more can come."""
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
        """Read one chunk from stderr without waiting. Return whether there was one."""
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
        """Keep *text*, which came through stdout, with the prints."""
        self._printed.add(text)

    def _drain(self) -> None:
        for _ in range(_LAST_WORDS):  # bounded: it may never stop printing
            if self._prints < 0 or not self._read_printed():
                return

    def _over(self) -> bool:
        """Whether the process has ended.

        It stays a zombie, so that the id of its group is not given to another process.
        """
        if self._process.returncode is None and hasattr(os, "waitid"):
            with contextlib.suppress(ChildProcessError):
                return (
                    os.waitid(os.P_PID, self._process.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT)
                    is not None
                )
        return self._process.poll() is not None

    def _end(self) -> Died:
        """Return the error for the end of the process. Kill the rest of its group."""
        deadline = time.monotonic() + _END_S
        while not self._over():
            if time.monotonic() > deadline:
                return Died("closed its connection")
            time.sleep(0.001)
        self.kill()
        return Died.of(self._process.returncode)


class _Printed:
    """Printed bytes: the first ones are kept until they are taken, the rest is counted.

    ``tail`` keeps the last bytes of all.
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
        # Not final if cut off: half a character at the end is no error then.
        text = codecs.getincrementaldecoder("utf-8")("backslashreplace").decode(
            bytes(self._kept), final=not self._spilt
        )
        self._kept, self._spilt = bytearray(), 0
        return text[:_KEPT] + note  # a byte that is no text becomes four characters
