"""A program behind pipes: it reads and writes lines, or one document each.

It gets its arguments, its stdin and one more file descriptor, which it may ignore. That is a pipe
that ends with this process. Then Linux kills the program and its process group. On other systems
only the end of stdin tells the program.
"""

from __future__ import annotations

import contextlib
import fcntl
import io
import os
import signal
import sys
import time
from collections.abc import Mapping, Sequence

from mltrigger.versions.running.killable import ChildProcess, Died, TimedOut

AHEAD_S = 0.1
"""A program is sent as many lines as it answers in these seconds, as measured. At first, one."""
_AHEAD_BYTES = 1024 * 1024
_MOST_AHEAD = 1024
_LOOK_S, _SOON_S = 0.25, 0.002
_GOODBYE_S = 1.0
"""Seconds that programs have to end by themselves when their stdin ends."""


class OutOfStep(Exception):  # internal signal
    """More lines came than were asked for, so no line can be assigned to an event."""


class TooLarge(Exception):  # internal signal
    """An answer has too many bytes."""


class Program(ChildProcess):
    """One run of a program. It is for one thread at a time, except :meth:`kill`.

    Parameters
    ----------
    arguments : sequence of str
        The program and its arguments. No shell reads them.
    cwd : str, optional
        Its working directory. Names of files are relative to it.
    env : mapping
        Its whole environment.
    most_bytes : int
        Largest answer.

    Raises
    ------
    OSError
        When it cannot be started.
    """

    def __init__(
        self, arguments: Sequence[str], *, cwd: str | None, env: Mapping[str, str], most_bytes: int
    ) -> None:
        self.in_flight, self.overlapped = 0, False
        self._most_bytes = most_bytes
        self._mean_s: float | None = None
        self._since_s = 0.0
        self._first = True
        self._began_s = time.monotonic()
        with contextlib.ExitStack() as theirs, contextlib.ExitStack() as ours:
            stdin, self._stdin = _pipe(theirs, ours)
            lifeline, self._lifeline = _pipe(theirs, ours)
            handles = [lifeline.fileno()]
            super().__init__(
                arguments, stdin.fileno(), self._stdin.fileno(), pass_fds=handles, cwd=cwd, env=env
            )
            _tie(lifeline.fileno(), self.pid)
            ours.pop_all()

    def exchange(
        self,
        lines: Sequence[bytes],
        answers: list[bytes],
        *,
        deadline: float,
        last_start: float,
        alone: bool,
    ) -> None:
        """Send *lines*, and append one answer for each to *answers*, in their order.

        After *last_start*, an instant of ``time.monotonic()``, only the first line is sent. Then
        there are fewer answers. When it raises, *answers* holds all answers so far. ``in_flight``
        is the number of lines without an answer, and ``overlapped`` tells whether it was ever more
        than one.

        Parameters
        ----------
        alone : bool
            Whether a line is sent only when the one before it is answered.

        Raises
        ------
        TimedOut
            When *deadline* passes first. The program goes on: kill it.
        Died
            When it ended.
        OutOfStep, TooLarge
            When it broke the protocol.
        """
        unsent, sent, more = memoryview(b""), 0, True
        self.overlapped, self._printed.tail = False, b""
        while True:
            self._take(answers, sent)
            self.in_flight = sent - len(answers)
            if not self.in_flight:
                if self._received:
                    raise OutOfStep
                if sent == len(lines) or (sent and time.monotonic() > last_start):
                    self._drain()  # all stderr from before the answer is in the pipe by now
                    return
            if not unsent and sent < len(lines):
                most = 1 if alone else self._ahead()
                may_start = not sent or time.monotonic() <= last_start
                chosen = _some(lines[sent : len(answers) + most]) if may_start else []
                unsent, sent = memoryview(b"\n".join([*chosen, b""])), sent + len(chosen)
                self.in_flight = sent - len(answers)
                self.overlapped = self.overlapped or self.in_flight > 1
            unsent = self._sent(unsent)
            if not more:
                raise self._end()
            more = self._wait(deadline)

    def run(self, document: bytes, deadline: float) -> tuple[int, bytes]:
        """Send *document* and the end of stdin. Return the exit code and the output, once it ended.

        The exit code is negative for a signal. The rest of its process group is killed.

        Raises
        ------
        TimedOut
            When *deadline* passes first. The program goes on: kill it.
        TooLarge
            When it writes too much.
        """
        unsent, more = memoryview(document), True
        while more or not self._over():
            if not self._stdin.closed and not (unsent := self._sent(unsent)):
                self.end_input()
            more = self._wait(deadline, _LOOK_S if more else _SOON_S) and more
            if len(self._received) > self._most_bytes:
                raise TooLarge
        self.kill()
        return self._process.returncode, bytes(self._received)

    def early_end(self, wait_s: float) -> Died | None:
        """Return how it ended, if it ends within *wait_s* without a question."""
        if wait_s <= 0:
            return self._end() if self._over() else None
        deadline = time.monotonic() + wait_s
        try:
            while self._wait(deadline):
                pass
        except TimedOut:
            return None
        return self._end()

    @property
    def lived_s(self) -> float:
        """Seconds since its start, also after its end."""
        return time.monotonic() - self._began_s

    def end_input(self) -> None:
        """End its stdin. Idempotent."""
        with contextlib.suppress(KeyError):
            self._poll.unregister(self._input)
        self._stdin.close()

    @property
    def unasked(self) -> bytes:
        """Output without a request. After a crash: the unfinished last line."""
        self._receive()
        return bytes(self._received)

    def _put(self, data: memoryview) -> int:
        return os.write(self._input, data)

    def _hang_up(self) -> None:
        self._stdin.close()
        self._lifeline.close()

    def _sent(self, unsent: memoryview) -> memoryview:
        """Write as much as there is room for, and return the rest.

        A program need not read to the end. Its own end tells whether it should have.
        """
        try:
            return self._send(unsent)
        except BrokenPipeError:
            with contextlib.suppress(KeyError):
                self._poll.unregister(self._input)
            return memoryview(b"")

    def _take(self, answers: list[bytes], sent: int) -> None:
        """Move received lines to *answers*, at most as many as were *sent*."""
        before = len(answers)
        while len(answers) < sent and (line := self._line()) is not None:
            if len(line) > self._most_bytes:
                self.in_flight = sent - len(answers)
                raise TooLarge
            answers.append(line)
        if len(self._received) > self._most_bytes and len(answers) < sent:
            self.in_flight = sent - len(answers)
            raise TooLarge
        self._learn(len(answers) - before)

    def _learn(self, count: int) -> None:
        """Measure the time of an answer. The first is left out, since it includes the start."""
        now_s = time.monotonic()
        if count and not self._first:
            spent_s = (now_s - self._since_s) / count
            self._mean_s = spent_s if self._mean_s is None else (self._mean_s + spent_s) / 2
        if count or not self.in_flight:
            self._since_s = now_s
        self._first = self._first and not count

    def _ahead(self) -> int:
        if self._mean_s is None:
            return 1
        return max(1, min(_MOST_AHEAD, int(AHEAD_S / max(self._mean_s, 1e-9))))


def say_goodbye(programs: Sequence[Program]) -> None:
    """End the stdin of *programs*, wait up to a second, and kill the rest."""
    for program in programs:
        program.end_input()
    deadline = time.monotonic() + _GOODBYE_S
    while time.monotonic() < deadline and not all(program._over() for program in programs):
        time.sleep(_SOON_S)
    for program in programs:
        program.close()


def _pipe(theirs: contextlib.ExitStack, ours: contextlib.ExitStack) -> tuple[io.FileIO, io.FileIO]:
    """Return both ends of a pipe. Each stack closes one."""
    read, write = os.pipe()
    return theirs.enter_context(io.FileIO(read, "r")), ours.enter_context(io.FileIO(write, "w"))


def _tie(lifeline: int, group: int) -> None:
    """Let the kernel kill *group* when this process ends.

    This process is the only writer of the pipe *lifeline*, which *group* has inherited. The setting
    belongs to the open file, which lives on in the program. Until it is made, only the end of stdin
    tells the program.
    """
    if sys.platform == "linux":
        with contextlib.suppress(OSError):  # it has ended already
            fcntl.fcntl(lifeline, fcntl.F_SETOWN, -group)
            fcntl.fcntl(lifeline, fcntl.F_SETSIG, signal.SIGKILL)
            fcntl.fcntl(lifeline, fcntl.F_SETFL, fcntl.fcntl(lifeline, fcntl.F_GETFL) | os.O_ASYNC)


def _some(lines: Sequence[bytes]) -> list[bytes]:
    """Return the first of *lines*, and more up to a limit of bytes."""
    chosen: list[bytes] = []
    size = 0
    for line in lines:
        if chosen and size + len(line) > _AHEAD_BYTES:
            break
        chosen.append(line)
        size += len(line)
    return chosen
