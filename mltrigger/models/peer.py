"""A process that can be killed, spoken to in lines of JSON.

The protocol is turn-based; each line is one JSON object, in UTF-8:

======== =============================================================================================================
stdin    requests, one line each. The end of the stream means: the other side is gone, end at once.
stdout   answers, exactly one line for each request. A line that is no object counts as printed.
stderr   whatever is printed; kept up to a limit, never waited for.
======== =============================================================================================================

What the lines say is the matter of the two ends; :mod:`mltrigger.models.child` tells what a Python model's process understands.
stdin is a Unix stream socket, so that an open file can travel with a request.
"""

from __future__ import annotations

import codecs
import contextlib
import json
import os
import select
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Sequence
from typing import Any

from mltrigger.capture import MAX_STDOUT

_CHUNK = 64 * 1024
_LOOK_S = 0.25
"""How often it is looked whether the process still lives; its end is noticed at once, unless a process it left holds the pipe."""
_REAP_S = 5.0
_LAST_WORDS = 64
_KEPT = MAX_STDOUT - 64  # room for the note that says how much is missing


class TimedOut(Exception):  # internal signal
    """No answer before the deadline."""


class Died(Exception):  # internal signal
    """The process ended, or broke off the conversation; the message says how: ``ended with exit code 1``."""


class Peer:
    """One child process, the leader of its own session and process group; for one thread at a time, but for :meth:`kill`.

    Parameters
    ----------
    command : sequence of str
        What to run: working directory and environment are those of this process.
    pass_fds : sequence of int
        File descriptors to hand on under the same numbers.

    Raises
    ------
    OSError
        When the process cannot be made.
    """

    def __init__(self, command: Sequence[str], pass_fds: Sequence[int] = ()) -> None:
        self._socket, theirs = socket.socketpair()
        try:
            self._process: subprocess.Popen[bytes] = subprocess.Popen(  # noqa: S603 - the command is ours
                command,
                stdin=theirs.fileno(),
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                bufsize=0,
                pass_fds=pass_fds,
                start_new_session=True,  # a Ctrl-C for the notebook is not meant for it
            )
        except BaseException:
            self._socket.close()
            raise
        finally:
            theirs.close()
        self._streams = [stream for stream in (self._process.stdout, self._process.stderr) if stream is not None]
        self._answers, self._prints = (stream.fileno() for stream in self._streams)
        self._socket.setblocking(False)
        self._poll = select.poll()
        for handle in (self._answers, self._prints):
            os.set_blocking(handle, False)
            self._poll.register(handle, select.POLLIN)
        self._kill_guard = threading.Lock()
        self._killed = False
        self._received = b""
        self._printed = _Printed()

    @property
    def pid(self) -> int:
        """The process id, which is also the id of the group."""
        return self._process.pid

    @property
    def alive(self) -> bool:
        """Whether the process has not ended, and waits for a request."""
        if self._killed or self._process.poll() is not None:
            return False
        # The end of its pipe comes before the end of its last thread; and nobody asked it anything.
        return all(handle != self._answers for handle, _ in self._poll.poll(0))

    def ask(self, message: dict[str, Any], deadline: float, file: int | None = None) -> dict[str, Any]:
        """Send *message*, with an open *file* if given, and return the answer.

        Raises
        ------
        TimedOut
            When *deadline*, an instant of ``time.monotonic()``, passes first. The process goes on: kill it.
        Died
            When the process ends before it answers.
        """
        unsent = memoryview(json.dumps(message).encode() + b"\n")
        if file is not None:
            socket.send_fds(self._socket, [unsent[:1]], [file])
            unsent = unsent[1:]
        while True:
            unsent = self._send(unsent)
            while b"\n" in self._received:
                line, _, self._received = self._received.partition(b"\n")
                if line.startswith(b"{"):
                    self._drain()  # what was printed before the answer is in the pipe by now
                    return self._object(line)
                self._printed.add(line + b"\n" if line else b"")
            self._wait(deadline)

    def printed(self) -> str:
        """Return what was printed since the last time, bounded; after :meth:`kill`, the last words too."""
        if self._killed:
            self._drain()
        return self._printed.take()

    def kill(self) -> None:
        """End the process and all of its group, which no process can refuse. Idempotent, from any thread."""
        with self._kill_guard:
            if self._killed:
                return
            self._killed = True
            with contextlib.suppress(ProcessLookupError, PermissionError):  # Darwin refuses a group of zombies
                os.killpg(self._process.pid, signal.SIGKILL)
            with contextlib.suppress(subprocess.TimeoutExpired):  # it hangs in the kernel; it is killed all the same
                self._process.wait(_REAP_S)

    def close(self) -> None:
        """Kill it and release the pipes; only for the thread that speaks to it."""
        self.kill()
        with self._kill_guard:
            self._socket.close()
            for stream in self._streams:
                stream.close()

    def _send(self, unsent: memoryview) -> memoryview:
        with contextlib.suppress(BlockingIOError):
            try:
                while unsent:
                    unsent = unsent[self._socket.send(unsent) :]
            except (BrokenPipeError, ConnectionResetError):
                raise Died(self._end()) from None
        if unsent:
            self._poll.register(self._socket, select.POLLOUT)
        return unsent

    def _wait(self, deadline: float) -> None:
        """Wait for something to happen, and take what arrived."""
        left_s = deadline - time.monotonic()
        ready = [handle for handle, _ in self._poll.poll(1000 * max(0.0, min(left_s, _LOOK_S)))]
        for handle in ready:
            if handle == self._answers:
                self._receive()
            elif handle == self._prints:
                self._read_printed()
            else:
                self._poll.unregister(self._socket)  # until it is full again
        if self._answers in ready:
            return
        if self._process.poll() is not None:
            self._receive()  # an answer may have come in between
            if b"\n" not in self._received:
                raise Died(self._end())
        elif left_s <= 0:
            raise TimedOut

    def _receive(self) -> None:
        """Take what has arrived of the answer."""
        parts = []
        with contextlib.suppress(BlockingIOError):
            while chunk := os.read(self._answers, _CHUNK):
                parts.append(chunk)
                if chunk.endswith(b"\n"):
                    break
            else:
                raise Died(self._end())
        self._received = b"".join((self._received, *parts))

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

    def _drain(self) -> None:
        for _ in range(_LAST_WORDS):  # a process that never stops printing must not hold us
            if self._prints < 0 or not self._read_printed():
                return

    def _object(self, line: bytes) -> dict[str, Any]:
        try:
            answer: dict[str, Any] = json.loads(line)
        except ValueError:
            raise Died("answered something that is not JSON") from None
        return answer

    def _end(self) -> str:
        """Return how the process ended."""
        try:
            code = self._process.wait(1.0)
        except subprocess.TimeoutExpired:
            return "closed its connection"
        if code >= 0:
            return f"ended with exit code {code}"
        name = signal.Signals(-code).name if -code in set(signal.Signals) else f"signal {-code}"
        return f"was killed by {name}" + (" (so does the kernel when memory runs out)" if name == "SIGKILL" else "")


class _Printed:
    """Bytes that were printed: the first ones, the rest is counted."""

    def __init__(self) -> None:
        self._kept, self._spilt = bytearray(), 0

    def add(self, chunk: bytes) -> None:
        room = _KEPT - len(self._kept)
        self._kept += chunk[:room]
        self._spilt += max(0, len(chunk) - room)

    def take(self) -> str:
        if not self._kept:
            return ""
        note = f"… ({self._spilt:,} more bytes)" if self._spilt else ""
        # Not final when cut off: half a character at the end is not invalid.
        text = codecs.getincrementaldecoder("utf-8")("backslashreplace").decode(bytes(self._kept), final=not self._spilt)
        self._kept, self._spilt = bytearray(), 0
        return text[:_KEPT] + note  # a byte that is no text is shown as four characters
