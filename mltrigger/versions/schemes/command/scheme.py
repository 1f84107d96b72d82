"""``command:./score --json``: any program is a model that reads events from its stdin and writes
answers to its stdout.

::

    mt.subscribe("documents", "command:node score.js")            # one process for many events
    mt.model("command:./classify.R", mode="each", version="1.0.0")  # one process an event

The words are split as a shell would, but no shell runs, and nothing of an event becomes an argument
or a variable of the environment.

``mode="lines"`` (the default)
    One process as long as the listener listens, one a call at the same time. It reads one line for
    each event, and answers each with one line, in their order; it writes the line out at once
    (``fflush()``, ``flush=True``) and nothing else on stdout. It ends when its stdin ends, and may
    end by itself after any answer: then it is started again. Several lines may wait for it at once.
    The time that it needs to start is part of its first call.
``mode="each"``
    One process an event. Its stdin is one document and ends; its stdout, once it has ended, is the
    answer. Nothing is batched: ``batch_size`` and ``batch="adaptive"`` of the subscription change
    nothing.

``input`` is ``"data"``, the event's data as JSON in the form of :mod:`mltrigger.event.codec`;
``"event"``, the whole event as a CloudEvent in JSON; ``"text"`` or ``"bytes"``, the data as they
are. ``output`` is ``"json"``, ``"text"`` (without the line break at its end) or ``"bytes"``. Other
options are those of :class:`~mltrigger.versions.schemes.command.line.CommandLine`.

What it prints to stderr is kept with the invocation. What went wrong is told by its exit code
(``mode="each"``), or by a line such as ``{"$error": "no such customer", "permanent": true}``;
``reason`` and ``delay_s`` may stand beside it:

================================================  ====================
==================================================== what
reason                then ================================================  ====================
==================================================== ``{"$error": …}``
model_error           tried again, after ``delay_s`` the same, ``"permanent": true``; exit code 65
rejected              dead exit code 75                                      retry
tried again another exit code; any in line mode               model_error           tried again
ended by a signal                                 worker_died           tried again; dead after
three ended before it ever answered                     model_unavailable     comes again, nobody's
failure too late                                          timeout               the process group is
killed; tried again no JSON, no UTF-8, more lines than asked for      bad_answer            the
process is replaced; tried again more than ``max_answer_mb``                       result_too_large
dead data that ``input`` cannot send                   invalid_input         dead not started, or
not come to                       no_process            comes again, nobody's failure a file of the
version is another one now          model_unavailable     comes again, nobody's failure
================================================  ====================
====================================================

Before a process is started, the files that belong to the version are looked at: other content is
another version, and never runs as this one. A process that runs already goes on with what it has
read.

A program that ends before its version ever answered could not be loaded: a package is missing, a
library, a file. Its events wait, and it is started again from time to time. An exception at the
first event looks alike, until an answer to another event shows that it can be loaded, or until it
has ended several times at one event, with no other there. With ``mode="each"`` the exit code speaks
for the event at once, but for words such as ``ModuleNotFoundError``.

When a process dies with several lines before it, or answers nonsense, a new one is asked for each
alone: only the cause fails.
"""

from __future__ import annotations

import os
import threading
import time
import weakref
from collections.abc import Sequence
from typing import Any

from mltrigger.errors import ModelFailure
from mltrigger.event.event import Event
from mltrigger.versions.address import Address
from mltrigger.versions.running.capture import echo
from mltrigger.versions.running.peer import Died, TimedOut
from mltrigger.versions.scheme import HOLD_S, Description, Endpoint, Scheme, Setting
from mltrigger.versions.schemes.command import answers as answers_of
from mltrigger.versions.schemes.command.line import CommandLine, digest_of, stamp_of
from mltrigger.versions.schemes.command.programs import OutOfStep, Program, TooLarge, say_goodbye
from mltrigger.versions.schemes.command.trial import EARLY_S, Trial, says_not_loaded

_LAST_START = 0.5
"""The part of the timeout after which no further event of a batch is begun: each shall have at
least the rest.
"""


class Command(Scheme):
    """Any program that reads stdin and writes stdout."""

    def describe(self, address: Address) -> Description:
        """Check that the program is there; its files are the content of the version."""
        line = CommandLine.of(address)
        line.check_found()
        how = "one process for many events" if line.mode == "lines" else "one process an event"
        return Description(line.name(), content=line.fingerprint(), about=f"{line.program}, {how}")

    def open(self, address: Address, setting: Setting) -> Endpoint:
        """Return an endpoint; nothing is started yet."""
        return CommandEndpoint(CommandLine.of(address), setting)


class CommandEndpoint(Endpoint):
    """Calls a program; the module tells how.

    Parameters
    ----------
    line : CommandLine
        The program.
    setting : Setting
        What was agreed on; the start of a process is part of the first call that needs it.
    """

    def __init__(self, line: CommandLine, setting: Setting) -> None:
        self.batches = line.mode == "lines"
        self._line, self._timeout_s = line, setting.timeout_s
        self._idle: list[Program] = []
        self._all: set[Program] = set()
        self._guard = threading.Lock()
        self._closed = False
        self._files = _Files(line)
        self._trial = Trial()
        # Not at exit: there the end of the pipes ends the programs.
        weakref.finalize(self, _end, self._all, os.getpid()).atexit = False

    def warm_up(self) -> None:
        """Start a process, where one answers many events, and see whether it waits for one; else
        look whether it could be started.

        Raises
        ------
        ModelFailure, InvalidModel
            When it cannot be started, ends at once, or writes before it is asked.
        """
        if not self.batches:
            self._line.check_found()
            self._line.environment(os.environ)
            return
        program = self._started()
        if isinstance(program, ModelFailure):
            raise program
        end = program.early_end(EARLY_S)
        if end is None and not program.unasked:
            self._give_back(program)
            return
        program.kill()
        failure = answers_of.not_waiting(self._line, end, program.unasked, program.last_printed)
        self._drop(program)
        raise failure

    def call(self, events: Sequence[Event]) -> Sequence[Any]:
        """Return an answer an event; what failed is a ModelFailure in its place."""
        outputs: list[Any] = [answers_of.request(self._line, event) for event in events]
        askable = [number for number, request in enumerate(outputs) if isinstance(request, bytes)]
        if self.batches:
            names = [f"{event.source}\n{event.id}" for event in events]
            askable.sort(key=lambda number: self._trial.deaths(names[number]))
            answers = self._lines(
                [outputs[number] for number in askable], [names[number] for number in askable]
            )
        else:
            answers = [self._each(outputs[number]) for number in askable]
        for number, answer in zip(askable, answers, strict=True):
            outputs[number] = answer
        return outputs

    def close(self) -> None:
        """End idle processes by the end of their stdin, and kill what does not end at once.

        Idempotent.
        """
        with self._guard:
            self._closed = True
            idle, self._idle = self._idle, []
            running = self._all.difference(idle)
        for program in running:
            program.kill()  # no more: a thread may be waiting for it
        say_goodbye(idle)
        with self._guard:
            self._all.difference_update(idle)

    def _each(self, request: bytes) -> Any:
        program = self._started()
        if isinstance(program, ModelFailure):
            return program
        try:
            code, written = program.run(request, time.monotonic() + self._timeout_s)
        except (TimedOut, TooLarge) as broken:
            return self._lost(program, broken)
        except BaseException:  # an interrupt, in the main thread
            self._drop(program)
            raise
        echo(program.printed())
        printed = program.last_printed
        self._drop(program)
        if self._closed and code:
            return answers_of.stopped()
        answer = answers_of.ended(self._line, code, written, printed)
        if not isinstance(answer, ModelFailure) or code in answers_of.SAID:
            self._trial.answered()
        elif code and not self._trial.passed and says_not_loaded(printed):
            self._trial.ended(0.0, printed)
            return answers_of.not_loaded(str(answer), printed, self._trial.delay_s)
        return answer

    def _lines(self, requests: Sequence[bytes], names: Sequence[str]) -> list[Any]:
        """Return an answer for each of *requests*, a ModelFailure in the place of what failed;
        *names* tell events apart.
        """
        began_s = time.monotonic()
        last_start = began_s + _LAST_START * self._timeout_s
        outcomes: list[Any] = []
        alone = len(requests) == 1
        while (todo := requests[len(outcomes) :]) and (
            not outcomes or time.monotonic() <= last_start
        ):
            program = self._taken(last_start)
            if isinstance(program, ModelFailure):
                return outcomes + [program] * len(todo)
            turn = self._exchanged(program, todo, began_s + self._timeout_s, last_start, alone)
            late = time.monotonic() > last_start
            if turn.outputs:
                self._trial.answered()
            if turn.broken is None:
                self._give_back(program)
                outcomes += turn.outputs
                if late:
                    break
                continue
            has_written = bool(turn.outputs or program.unasked)
            failed = self._lost(program, turn.broken)
            if self._closed:
                return outcomes + [failed] * len(todo)
            if not self._trial.passed and isinstance(turn.broken, Died) and not has_written:
                waiting = self._not_loaded(program, failed, names[len(outcomes)])
                return [*outcomes, waiting, *[answers_of.next_to_try(waiting)] * (len(todo) - 1)]
            if turn.is_doubtful and program.overlapped and not late:
                alone = True
            elif turn.may_go_on:
                outcomes += turn.outputs
            elif program.in_flight > 1 and isinstance(turn.broken, Died) and not late:
                outcomes += turn.outputs
                alone = True
            else:
                outcomes += [*turn.outputs, failed]
        return outcomes + [answers_of.not_begun(self._timeout_s)] * (len(requests) - len(outcomes))

    def _exchanged(
        self,
        program: Program,
        requests: Sequence[bytes],
        deadline: float,
        last_start: float,
        alone: bool,
    ) -> _Turn:
        lines: list[bytes] = []
        broken: Exception | None = None
        try:
            program.exchange(requests, lines, deadline=deadline, last_start=last_start, alone=alone)
        except (TimedOut, Died, OutOfStep, TooLarge) as error:
            broken = error
        except BaseException:
            self._drop(program)
            raise
        echo(program.printed())
        return _Turn(self._line, lines, broken)

    def _not_loaded(
        self, program: Program, failed: ModelFailure, name: str | None = None
    ) -> ModelFailure:
        """Return what it is that *program* ended before the version ever answered; another one is
        watched until the next call.
        """
        if self._trial.ended(program.lived_s, failed.detail or "", name):
            return failed
        if isinstance(watched := self._started(), Program):
            self._give_back(watched)
        return answers_of.not_loaded(str(failed), failed.detail, self._trial.delay_s)

    def _lost(self, program: Program, broken: Exception) -> ModelFailure:
        """End *program*, its last words first, and return what it is to the event that it was asked
        for.
        """
        program.kill()
        echo(program.printed())
        printed, half = program.last_printed, program.unasked
        self._drop(program)
        if self._closed:  # it was we who ended it
            return answers_of.stopped()
        return answers_of.broken(self._line, broken, self._timeout_s, printed, half)

    def _taken(self, deadline: float) -> Program | ModelFailure:
        """Return a process that waits for a line, or why there is none."""
        while True:
            with self._guard:
                if self._closed:
                    return answers_of.stopped()
                # the one that was used last: its caches are warm
                idle = self._idle.pop() if self._idle else None
            program = self._started() if idle is None else idle
            if isinstance(program, ModelFailure):
                return program
            if not self._trial.passed and (waiting := self._watched(program, deadline)) is not None:
                return waiting
            if idle is None or program.alive:
                return program
            program.kill()
            echo(program.printed())
            if program.unasked:
                echo(
                    f"(the program {self._line.program!r} wrote a line that nobody asked for; it"
                    " was replaced)\n"
                )
            self._drop(program)

    def _watched(self, program: Program, deadline: float) -> ModelFailure | None:
        """Watch *program* for longer than the one before it lived, before an event is sent to it;
        return why none can be, if so.
        """
        left_s = self._trial.watch_s - program.lived_s
        end = program.early_end(max(0.0, min(left_s, deadline - time.monotonic())))
        if end is None and program.lived_s >= self._trial.watch_s:
            return None
        if end is None:
            self._give_back(program)
            return answers_of.not_loaded(
                f"the program {self._line.program!r} may still be starting",
                None,
                self._trial.delay_s,
            )
        program.kill()
        echo(program.printed())
        failed = answers_of.not_waiting(self._line, end, b"", program.last_printed)
        self._drop(program)
        return answers_of.stopped() if self._closed else self._not_loaded(program, failed)

    def _started(self) -> Program | ModelFailure:
        line = self._line
        try:
            self._files.check()
            environment = line.environment(os.environ)
            program = Program(
                line.arguments, cwd=line.cwd, env=environment, most_bytes=line.most_bytes
            )
        except ModelFailure as failed:
            return failed
        except (OSError, ValueError) as error:  # it has gone; no more processes
            return answers_of.not_started(line, error)
        with self._guard:
            self._all.add(program)
        if self._closed:  # after it was added: whoever closes either sees it, or is seen here
            self._drop(program)
            return answers_of.stopped()
        return program

    def _give_back(self, program: Program) -> None:
        with self._guard:
            keep = not self._closed
            if keep:
                self._idle.append(program)
        if not keep:
            self._drop(program)

    def _drop(self, program: Program) -> None:
        program.close()
        with self._guard:
            self._all.discard(program)


class _Files:
    """The files of a version as they were when its endpoint was opened."""

    def __init__(self, line: CommandLine) -> None:
        self._line = line
        # The stamp before the content: what is written meanwhile is looked at again.
        self._known = {path: (stamp_of(path), digest_of(path)) for path in line.paths()}

    def check(self) -> None:
        """Raise ModelFailure when their content is another one now; a file that was only written
        anew is the same.
        """
        changed = []
        for path, (stamp, digest) in self._known.items():
            if (now := stamp_of(path)) == stamp:
                continue
            if now is not None and digest_of(path) == digest:
                self._known[path] = (now, digest)
            else:
                changed.append(path.name)
        if changed and not self._line.program_is_gone():  # which its start tells better
            raise ModelFailure(
                f"the program {self._line.program!r}: {', '.join(changed)[:200]} has changed since"
                " the version was registered; register it under a new version, or name with"
                " files=[…] what belongs to it",
                reason="model_unavailable",
                throttled=True,
                delay_s=HOLD_S,
                whole=True,
                kind="Changed",
            )


class _Turn:
    """What one process made of the lines that it was sent at a time."""

    def __init__(self, line: CommandLine, lines: Sequence[bytes], broken: Exception | None) -> None:
        self.outputs: list[Any] = []
        self.broken = broken
        for number, answer in enumerate(lines):
            output = answers_of.output(line, answer)
            if isinstance(output, answers_of.BadAnswer) or (
                isinstance(broken, OutOfStep) and number == len(lines) - 1
            ):
                self.broken = output if isinstance(output, answers_of.BadAnswer) else broken
                break
            self.outputs.append(output)

    @property
    def is_doubtful(self) -> bool:
        """Whether answers may stand at the wrong events: before the nonsense, another line may have
        been too many.
        """
        return isinstance(self.broken, (OutOfStep, answers_of.BadAnswer))

    @property
    def may_go_on(self) -> bool:
        """Whether it ended in good order, between two events, as far as it can be known."""
        return isinstance(self.broken, Died) and self.broken.code == 0 and bool(self.outputs)


def _end(programs: set[Program], process: int) -> None:
    """End what an endpoint left behind that nobody closed; not from a copy of the process that made
    it.
    """
    if os.getpid() == process:
        for program in list(programs):
            program.close()
