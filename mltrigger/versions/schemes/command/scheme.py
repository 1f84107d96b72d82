"""``command:./score --json``: a program that reads events from stdin and writes answers to stdout.

It may be in any language::

    mt.subscribe("documents", "command:node score.js")            # one process for many events
    mt.model("command:./classify.R", mode="each", version="1.0.0")  # one process an event

The words are split as a shell would, but no shell runs. Nothing of an event becomes an argument or
an environment variable.

``mode="lines"`` (the default)
    One process runs as long as the listener, for each concurrent call. It reads one line for each
    event, and answers each with one line, in their order. It must write each line at once
    (``fflush()``, ``flush=True``), and nothing else on stdout. It ends when its stdin ends. It may
    end after any answer, and is then started again. Several lines may wait for it at once. The time
    of its start is part of its first call.
``mode="each"``
    One process runs for each event. It reads one document from stdin, to the end. Its stdout is the
    answer, once it has ended. There are no batches: ``batch_size`` and ``batch="adaptive"`` of the
    subscription change nothing.

``input`` is ``"data"``, the event's data as JSON (:mod:`mltrigger.event.codec`). Or it is
``"event"``, the whole event as a CloudEvent in JSON. Or it is ``"text"`` or ``"bytes"``, the data
as they are. ``output`` is ``"json"``, ``"text"`` (without the last line break) or ``"bytes"``.
Other options are those of :class:`~mltrigger.versions.schemes.command.line.CommandLine`.

Its stderr is kept with the invocation. A program reports a problem by its exit code
(``mode="each"``), or by a line such as ``{"$error": "no customer", "permanent": true}``. The line
may also have ``reason`` and ``delay_s``.

=============================================  =================  ================================
problem                                        reason             then
=============================================  =================  ================================
``{"$error": …}``                              model_error        tried again, after ``delay_s``
the same, ``"permanent": true``; exit code 65  rejected           dead
exit code 75                                   retry              tried again
another exit code; any in line mode            model_error        tried again
ended by a signal                              worker_died        tried again; dead after three
ended before it ever answered                  model_unavailable  comes again, no attempt is spent
too late                                       timeout            killed; tried again
no JSON, no UTF-8, too many lines              bad_answer         process replaced; tried again
more than ``max_answer_mb``                    result_too_large   dead
data that ``input`` cannot send                invalid_input      dead
not started, or no time left for the event     no_process         comes again, no attempt is spent
a file of the version has changed              model_unavailable  comes again, no attempt is spent
=============================================  =================  ================================

The files of a version are checked before a process starts. Other content is another version, and
never runs as this one. A process that runs already goes on with the old content.

A program that ends before its version ever answered could not be loaded. A package, a library or a
file is missing. Its events wait, and it is started again from time to time. A program that fails at
its first event looks the same. It counts as loaded when another event gets an answer. It also does
when it has ended several times at one event, with no other there. With ``mode="each"`` the exit
code counts against the event at once, unless stderr has words such as ``ModuleNotFoundError``.

When a process dies with several lines before it, or answers nonsense, each line goes to a new
process alone. So only the cause fails.
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
from mltrigger.versions.running.killable import Died, TimedOut
from mltrigger.versions.scheme import Description, Endpoint, Scheme, Setting
from mltrigger.versions.schemes.command import answers as answers_of
from mltrigger.versions.schemes.command.files import FilesOfVersion
from mltrigger.versions.schemes.command.line import CommandLine
from mltrigger.versions.schemes.command.programs import OutOfStep, Program, TooLarge, say_goodbye
from mltrigger.versions.schemes.command.trial import EARLY_S, Trial, says_not_loaded

_LAST_START = 0.5
"""The part of the timeout after which no event of a batch is begun. Each has at least the rest."""


class Command(Scheme):
    """Any program that reads stdin and writes stdout."""

    def describe(self, address: Address) -> Description:
        """Check that the program exists. Its files are the content of the version."""
        line = CommandLine.of(address)
        line.check_found()
        how = "one process for many events" if line.mode == "lines" else "one process an event"
        return Description(line.name(), content=line.fingerprint(), about=f"{line.program}, {how}")

    def open(self, address: Address, setting: Setting) -> Endpoint:
        """Return an endpoint. Nothing is started yet."""
        return CommandEndpoint(CommandLine.of(address), setting)


class CommandEndpoint(Endpoint):
    """Calls a program, as the module tells.

    Parameters
    ----------
    line : CommandLine
        The program.
    setting : Setting
        Its timeout includes the start of a process, in the first call that needs it.
    """

    def __init__(self, line: CommandLine, setting: Setting) -> None:
        self.batches = line.mode == "lines"
        self._line, self._timeout_s = line, setting.timeout_s
        self._idle: list[Program] = []
        self._all: set[Program] = set()
        self._guard = threading.Lock()
        self._closed = False
        self._files = FilesOfVersion(line)
        self._trial = Trial()
        # Not at exit: there the end of the pipes ends the programs.
        weakref.finalize(self, _end, self._all, os.getpid()).atexit = False

    def warm_up(self) -> None:
        """Check the program before the first event.

        In line mode a process is started, and must wait for a line. Otherwise the program must
        exist.

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
        """Return one answer for each event, or its ModelFailure."""
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
        """End idle processes by the end of their stdin. Kill the rest. Idempotent."""
        with self._guard:
            self._closed = True
            idle, self._idle = self._idle, []
            running = self._all.difference(idle)
        for program in running:
            program.kill()  # and no more: a thread may be waiting for it
        say_goodbye(idle)
        with self._guard:
            self._all.difference_update(idle)

    def _each(self, request: bytes) -> Any:
        """Return the answer of a process of its own."""
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
        """Return one answer for each of *requests*, or its ModelFailure.

        *names* identify the events.
        """
        began_s = time.monotonic()
        last_start = began_s + _LAST_START * self._timeout_s
        outcomes: list[Any] = []
        alone = len(requests) == 1
        while (todo := requests[len(outcomes) :]) and not (
            outcomes and time.monotonic() > last_start
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
                continue
            has_written = bool(turn.outputs or program.unasked)
            failed = self._lost(program, turn.broken)
            if self._closed:
                return outcomes + [failed] * len(todo)
            died = isinstance(turn.broken, Died)
            if died and not self._trial.passed and not has_written:
                waiting = self._not_loaded(program, failed, names[len(outcomes)])
                return [*outcomes, waiting, *[answers_of.next_to_try(waiting)] * (len(todo) - 1)]
            if turn.is_doubtful and program.overlapped and not late:
                alone = True  # ask all of them again
                continue
            outcomes += turn.outputs
            if turn.may_go_on:
                continue
            if died and program.in_flight > 1 and not late:
                alone = True  # ask again those without an answer
            else:
                outcomes.append(failed)
        return outcomes + [answers_of.not_begun(self._timeout_s)] * (len(requests) - len(outcomes))

    def _exchanged(
        self,
        program: Program,
        requests: Sequence[bytes],
        deadline: float,
        last_start: float,
        alone: bool,
    ) -> answers_of.Turn:
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
        return answers_of.Turn(self._line, lines, broken)

    def _not_loaded(
        self, program: Program, failed: ModelFailure, name: str | None = None
    ) -> ModelFailure:
        """Return the failure when *program* ended before the version ever answered.

        Another process is started, and watched until the next call.
        """
        if self._trial.ended(program.lived_s, failed.detail or "", name):
            return failed
        if isinstance(watched := self._started(), Program):
            self._give_back(watched)
        return answers_of.not_loaded(str(failed), failed.detail, self._trial.delay_s)

    def _lost(self, program: Program, broken: Exception) -> ModelFailure:
        """End *program*, keep its last words, and return the failure of the event before it."""
        program.kill()
        echo(program.printed())
        printed, half = program.last_printed, program.unasked
        self._drop(program)
        if self._closed:  # close() has ended it
            return answers_of.stopped()
        return answers_of.broken(self._line, broken, self._timeout_s, printed, half)

    def _taken(self, deadline: float) -> Program | ModelFailure:
        """Return a process that waits for a line, or the reason why there is none."""
        while True:
            with self._guard:
                if self._closed:
                    return answers_of.stopped()
                # The last used one: its caches are warm.
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
        """Watch *program* before its first event, for longer than the one before it lived.

        Return a failure when it gets no event now.
        """
        left_s = self._trial.watch_s - program.lived_s
        end = program.early_end(max(0.0, min(left_s, deadline - time.monotonic())))
        if end is None:
            if program.lived_s >= self._trial.watch_s:
                return None
            self._give_back(program)
            text = f"the program {self._line.program!r} may still be starting"
            return answers_of.not_loaded(text, None, self._trial.delay_s)
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
        except (OSError, ValueError) as error:  # it is gone, or there are too many processes
            return answers_of.not_started(line, error)
        with self._guard:
            self._all.add(program)
        if self._closed:  # after it was added: either close() sees it, or this line sees close()
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


def _end(programs: set[Program], process: int) -> None:
    """End the programs of an endpoint that nobody closed. Do nothing in a fork of *process*."""
    if os.getpid() == process:
        for program in list(programs):
            program.close()
