"""Processes that are ended at random moments and started again, and the record of when and how."""

from __future__ import annotations

import dataclasses
import os
import random
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import IO

ROOT = Path(__file__).parents[2]
_LOOK_S = 0.005

Held = list[tuple[int, int, int, int]]
"""Leases as (subscription id, seq, attempt, worker id)."""


def now_us() -> int:
    """Return the time, as the ledger has it."""
    return time.time_ns() // 1000


def start(
    arguments: Sequence[str], environment: Mapping[str, str], out: IO[bytes] | int, err: IO[bytes]
) -> subprocess.Popen[bytes]:
    """Start ``python`` with *arguments* in a session of its own, from the checkout."""
    return subprocess.Popen(
        [sys.executable, *arguments],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT), **environment},
        stdin=subprocess.DEVNULL,
        stdout=out,
        stderr=err,
        start_new_session=True,
    )


@dataclasses.dataclass
class End:
    """One process that was ended or stopped, or that ended by itself (``signum`` 0)."""

    pid: int
    started_us: int
    signum: int
    at_us: int = 0
    held: Held = dataclasses.field(default_factory=list)
    resumed_us: int | None = None
    exited_us: int | None = None
    status: int | None = None


@dataclasses.dataclass
class _Running:
    process: subprocess.Popen[bytes]
    started_us: int
    end: End | None = None
    resume_us: int = 0


class Crowd:
    """Some processes of one kind, kept at their number.

    Parameters
    ----------
    arguments, environment
        What each of them runs.
    count : int
        How many.
    folder : Path
        Where what they print is kept, a file each.
    held : callable
        Returns the leases at this moment: noted at each end.
    """

    def __init__(
        self,
        arguments: Sequence[str],
        environment: Mapping[str, str],
        count: int,
        folder: Path,
        held: Callable[[], Held] = list,
    ) -> None:
        self._arguments, self._environment, self._folder, self._held = (
            arguments,
            environment,
            folder,
            held,
        )
        self.ends: list[End] = []
        self._running = [self._start() for _ in range(count)]

    def look(self) -> None:
        """Note who has ended and start another one; let those go on whose stop is over."""
        for i, one in enumerate(self._running):
            if one.resume_us and now_us() >= one.resume_us:
                self._resume(one)
            if (status := one.process.poll()) is not None:
                self._note(one, status)
                self._running[i] = self._start()

    @property
    def all_up(self) -> bool:
        """Whether every process is up, and none is stopped."""
        return all(not one.resume_us and self._is_up(one) for one in self._running)

    def strike(self, signum: int, chance: random.Random, stop_s: float) -> bool:
        """End one of those that are up and have not been told to end; say whether there was one."""
        free = [
            one
            for one in self._running
            if one.end is None and one.process.poll() is None and self._is_up(one)
        ]
        if not free:
            return False
        one = chance.choice(free)
        one.end = End(one.process.pid, one.started_us, signum, now_us())
        self.ends.append(one.end)
        if signum == signal.SIGTERM:
            one.end.held = self._held()  # before: it lets go of them
        os.kill(one.process.pid, signum)
        if signum == signal.SIGKILL:
            one.process.wait()
        if signum != signal.SIGTERM:
            one.end.held = self._held()  # after: what it holds now it holds until the lease ends
        if signum == signal.SIGSTOP:
            one.resume_us = now_us() + int(stop_s * 1e6)
        return True

    def close(self, signum: int, timeout_s: float) -> None:
        """End all of them in order, and note it; who has not ended after *timeout_s* is killed, and
        has no status.
        """
        for one in self._running:
            if one.resume_us:
                self._resume(one)
            if one.end is None:
                one.end = End(one.process.pid, one.started_us, signum, now_us())
                self.ends.append(one.end)
                if one.process.poll() is None:
                    os.kill(one.process.pid, signum)
        until = time.monotonic() + timeout_s
        left = list(self._running)
        while left and time.monotonic() < until:
            for one in list(left):
                if (status := one.process.poll()) is not None:
                    self._note(one, status)
                    left.remove(one)
            time.sleep(_LOOK_S)
        self.abort()

    def abort(self) -> None:
        """Kill what is left."""
        for one in self._running:
            if one.process.poll() is None:
                one.process.kill()
                one.process.wait()

    def printed(self, stream: str) -> dict[int, str]:
        """Return pid -> what it wrote to ``out`` or ``err``."""
        return {
            int(path.stem): path.read_text(errors="replace")
            for path in sorted(self._folder.glob(f"*.{stream}"))
        }

    def _start(self) -> _Running:
        started_us = now_us()
        out, err = self._folder / "out", self._folder / "err"
        with out.open("wb") as out_file, err.open("wb") as err_file:
            process = start(self._arguments, self._environment, out_file, err_file)
        out.rename(self._folder / f"{process.pid}.out")
        err.rename(self._folder / f"{process.pid}.err")
        return _Running(process, started_us)

    def _resume(self, one: _Running) -> None:
        assert one.end is not None
        one.end.resumed_us = now_us()
        os.kill(one.process.pid, signal.SIGCONT)
        one.resume_us, one.end = 0, None

    def _is_up(self, one: _Running) -> bool:
        """Whether it has printed its first line; a process that has not is ended by nobody, or none
        would ever work.
        """
        return (self._folder / f"{one.process.pid}.out").stat().st_size > 0

    def _note(self, one: _Running, status: int) -> None:
        if one.end is None:
            one.end = End(one.process.pid, one.started_us, 0, now_us())
            self.ends.append(one.end)
        one.end.exited_us, one.end.status = now_us(), status


class Publisher:
    """The publishing process, killed while it publishes certain batches; another one repeats the
    batch with the same ids.

    Parameters
    ----------
    arguments : callable
        Takes the first event that is not known to be durable and returns the command line.
    strikes : collection of int
        The first events of the batches during which it is killed.
    """

    def __init__(
        self,
        arguments: Callable[[int], Sequence[str]],
        environment: Mapping[str, str],
        folder: Path,
        strikes: Sequence[int],
        chance: random.Random,
    ) -> None:
        self._arguments, self._environment, self._folder, self._chance = (
            arguments,
            environment,
            folder,
            chance,
        )
        self._strikes = set(strikes)
        self._process: subprocess.Popen[bytes] | None = None
        self.next = 0
        self.kills = self.in_a_batch = 0
        self.failed: str | None = None
        self._closed = False
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    @property
    def done(self) -> bool:
        """Whether everything is published, or it failed."""
        return not self._thread.is_alive()

    def abort(self) -> None:
        """End it."""
        self._closed = True
        if self._process is not None:
            self._process.kill()
        self._thread.join()

    def _run(self) -> None:
        status: int | None = -signal.SIGKILL
        while status == -signal.SIGKILL and not self._closed:
            with (self._folder / "0.err").open("ab") as err:
                self._process = start(
                    self._arguments(self.next), self._environment, subprocess.PIPE, err
                )
            status = self._follow(self._process)
        if status:
            self.failed = f"the publisher ended with {status}"

    def _follow(self, process: subprocess.Popen[bytes]) -> int:
        assert process.stdout is not None
        began = -1
        for line in process.stdout:
            what, number = line.split()
            if what == b"begin":
                began = self.next = int(number)
                if began in self._strikes:
                    self._strikes.remove(began)
                    self.kills += 1
                    time.sleep(self._chance.uniform(0.0, 0.04))
                    process.kill()
            else:
                began = -1
        self.in_a_batch += began >= 0
        status = process.wait()
        process.stdout.close()
        return status
