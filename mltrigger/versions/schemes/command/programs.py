"""A program of any language, spoken to over pipes: lines in, lines out; or one document in and one
out.

It is given nothing but its arguments, what it reads from stdin, and one file descriptor more that
it need not know of: a pipe that ends with this process, upon which Linux kills the program and all
of its process group. Elsewhere it is told by the end of its stdin.
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

from mltrigger.versions.running.peer import ChildProcess, Died, TimedOut

AHEAD_S = 0.1
"""A program is sent as many lines as it will answer within this time, measured; one, as long as
nothing is known.
"""
_AHEAD_BYTES = 1024 * 1024
_MOST_AHEAD = 1024
_LOOK_S, _SOON_S = 0.25, 0.002
_GOODBYE_S = 1.0
"""How long programs have to end by themselves when their stdin ends."""


class OutOfStep(Exception):  # internal signal
    """More lines came than were asked for: nobody can tell which one is the answer."""


class TooLarge(Exception):  # internal signal
    """An answer has more bytes than are accepted."""


class Program(ChildProcess):
    """One run of a program; for one thread at a time, but for :meth:`kill`.

    Parameters
    ----------
    arguments : sequence of str
        The program and its arguments; no shell sees them.
    cwd : str, optional
        Where it runs; names of files are relative to it.
    env : mapping
        All of its environment.
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

        Nothing is begun after *last_start*, an instant of ``time.monotonic()``, but the first line:
        then there are fewer answers. When it raises, *answers* holds what came before;
        ``in_flight`` tells how many lines were sent without an answer, and ``overlapped`` whether
        there ever was more than one.

        Parameters
        ----------
        alone : bool
            Whether a line is sent only when the one before it is answered.

        Raises
        ------
        TimedOut
            When *deadline* passes first. The program goes on: kill it.
        Died, OutOfStep, TooLarge
            See there.
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
                    self._drain()  # what was printed before the answer is in the pipe by now
                    return
            if not unsent and sent < len(lines):
                most = 1 if alone else self._ahead()
                chosen = (
                    _some(lines[sent : len(answers) + most])
                    if not sent or time.monotonic() <= last_start
                    else []
                )
                unsent, sent = memoryview(b"\n".join([*chosen, b""])), sent + len(chosen)
                self.in_flight = sent - len(answers)
                self.overlapped = self.overlapped or self.in_flight > 1
            unsent = self._sent(unsent)
            if not more:
                raise self._end()
            more = self._wait(deadline)

    def run(self, document: bytes, deadline: float) -> tuple[int, bytes]:
        """Give it *document* and the end of its stdin; return its exit code (negative for a signal)
        and what it wrote, once it has ended.

        What it leaves of its process group is killed.

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
        """Return how it ended, if it ends within *wait_s* without having been asked for anything."""
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
        """For how many seconds it has been running; for one that has ended, until now."""
        return time.monotonic() - self._began_s

    def end_input(self) -> None:
        """Let it read the end of its stdin; idempotent."""
        with contextlib.suppress(KeyError):
            self._poll.unregister(self._input)
        self._stdin.close()

    @property
    def unasked(self) -> bytes:
        """What it wrote that nobody asked for; after it broke off, the line that has no end."""
        self._receive()
        return bytes(self._received)

    def _put(self, data: memoryview) -> int:
        return os.write(self._input, data)

    def _hang_up(self) -> None:
        self._stdin.close()
        self._lifeline.close()

    def _sent(self, unsent: memoryview) -> memoryview:
        """Write what there is room for; return the rest.

        A program need not read to the end: how it ends tells whether it should have.
        """
        try:
            return self._send(unsent)
        except BrokenPipeError:
            with contextlib.suppress(KeyError):
                self._poll.unregister(self._input)
            return memoryview(b"")

    def _take(self, answers: list[bytes], sent: int) -> None:
        """Move whole lines from what was received to *answers*, at most as many as were *sent*."""
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
        """Follow how long an answer takes; the first one says more about the start."""
        now_s = time.monotonic()
        if count and not self._first:
            spent_s = (now_s - self._since_s) / count
            self._mean_s = spent_s if self._mean_s is None else (self._mean_s + spent_s) / 2
        if count or not self.in_flight:
            self._since_s = now_s
        self._first = self._first and not count

    def _ahead(self) -> int:
        return (
            1
            if self._mean_s is None
            else max(1, min(_MOST_AHEAD, int(AHEAD_S / max(self._mean_s, 1e-9))))
        )


def say_goodbye(programs: Sequence[Program]) -> None:
    """End the stdin of *programs*, give them a moment to end by themselves, and kill the rest."""
    for program in programs:
        program.end_input()
    deadline = time.monotonic() + _GOODBYE_S
    while time.monotonic() < deadline and not all(program._over() for program in programs):
        time.sleep(_SOON_S)
    for program in programs:
        program.close()


def _pipe(theirs: contextlib.ExitStack, ours: contextlib.ExitStack) -> tuple[io.FileIO, io.FileIO]:
    """Return both ends of a pipe, each in the care of its stack."""
    read, write = os.pipe()
    return theirs.enter_context(io.FileIO(read, "r")), ours.enter_context(io.FileIO(write, "w"))


def _tie(lifeline: int, group: int) -> None:
    """Let the kernel kill *group*, which has inherited *lifeline*, when the last writer of that
    pipe is gone: this process.

    The setting belongs to the open file, which lives on in the program. Before it is made, only the
    end of its stdin tells the program.
    """
    if sys.platform == "linux":
        with contextlib.suppress(OSError):  # it has ended already
            fcntl.fcntl(lifeline, fcntl.F_SETOWN, -group)
            fcntl.fcntl(lifeline, fcntl.F_SETSIG, signal.SIGKILL)
            fcntl.fcntl(lifeline, fcntl.F_SETFL, fcntl.fcntl(lifeline, fcntl.F_GETFL) | os.O_ASYNC)


def _some(lines: Sequence[bytes]) -> list[bytes]:
    """Return the first of *lines*, and more as long as they are not too many bytes."""
    chosen: list[bytes] = []
    size = 0
    for line in lines:
        if chosen and size + len(line) > _AHEAD_BYTES:
            break
        chosen.append(line)
        size += len(line)
    return chosen
