"""Requests to a program, and the meaning of its answers, its exit code and its end."""

from __future__ import annotations

import codecs
import copy
import re
from collections.abc import Sequence
from typing import Any

from mltrigger.errors import InvalidEvent, ModelFailure, NotEncodable
from mltrigger.event import codec
from mltrigger.event.event import Event
from mltrigger.text import short
from mltrigger.versions.running.killable import Died, TimedOut
from mltrigger.versions.schemes.command.line import CommandLine
from mltrigger.versions.schemes.command.programs import OutOfStep, TooLarge
from mltrigger.versions.schemes.failures import unavailable, unfit
from mltrigger.versions.schemes.plain import loaded

DATA_ERROR, TRY_AGAIN = 65, 75
"""EX_DATAERR and EX_TEMPFAIL of sysexits.h."""
SAID = (DATA_ERROR, TRY_AGAIN)
"""Exit codes by which a program judges its event."""
_REASON = re.compile(r"[a-z][a-z0-9_]{0,63}")
_OURS = frozenset({"stopped", "no_process", "worker_died", "group_order"})
"""Reasons with a meaning for the delivery. A program cannot give them."""
_TELLING = re.compile(r"error|exception|fatal|panic", re.IGNORECASE)
_LAST_LINE = 300
_EXCERPT = 500


class BadAnswer(Exception):  # internal signal
    """An answer that cannot be read. The message has the reason."""

    def __init__(self, problem: str, answer: bytes) -> None:
        super().__init__(problem)
        self.answer = answer


def request(line: CommandLine, event: Event) -> bytes | ModelFailure:
    """Return the input of the program for *event*. In line mode it is a line without its end."""
    try:
        if line.input in ("text", "bytes"):
            return _raw(line, event.data)
        text = codec.dumps(event.data) if line.input == "data" else event.to_json()
        # Programs that read lines can read this, too.
        return text.encode() if line.mode == "lines" else text.encode() + b"\n"
    except (NotEncodable, ValueError) as error:
        # It was never published: all events of a broker have a JSON form.
        return unfit(str(error), type(error).__name__)


def output(line: CommandLine, answer: bytes) -> Any:
    """Return the output in *answer*, the ModelFailure that it reports, or BadAnswer."""
    if line.output == "bytes":
        return answer
    try:
        text = answer.removeprefix(codecs.BOM_UTF8).decode()
    except UnicodeDecodeError as error:
        return BadAnswer(f"is not UTF-8 (byte {error.start})", answer)
    if line.output == "text":
        return text.removesuffix("\n").removesuffix("\r")
    try:
        value = loaded(text)
    except InvalidEvent as error:
        return BadAnswer(
            "is empty" if not text.strip() else str(error).replace("data ", "", 1), answer
        )
    return _failure(value) if isinstance(value, dict) and "$error" in value else value


def ended(line: CommandLine, code: int, written: bytes, printed: str) -> Any:
    """Return the output of a program that ended with *code*.

    Its answer is *written*, and the end of its stderr *printed*.
    """
    if code == 0:
        answer = output(line, written)
        return broken(line, answer, 0.0, printed) if isinstance(answer, BadAnswer) else answer
    if code < 0:
        return broken(line, Died.of(code), 0.0, printed)
    reasons = {DATA_ERROR: "rejected", TRY_AGAIN: "retry"}
    return ModelFailure(
        f"the program {line.program!r} ended with exit code {code}{_said(printed)}",
        reason=reasons.get(code, "model_error"),
        permanent=code == DATA_ERROR,
        kind=f"exit code {code}",
        detail=printed or None,
    )


def broken(
    line: CommandLine, error: Exception, timeout_s: float, printed: str, half: bytes = b""
) -> ModelFailure:
    """Return the failure of the event that the program was asked for.

    *error* ended the exchange. *half* is the last line, if it has no end.
    """
    program, detail = f"the program {line.program!r}", printed or None
    lines = line.mode == "lines"
    if isinstance(error, TimedOut):
        hint = "; does it flush each line? mode='each' runs it once an event" if lines else ""
        if lines and half:
            hint = (
                f"; it wrote {_beginning(half)} without a line break at its end: an answer ends"
                " with one"
            )
        elif lines and line.program in ("awk", "mawk"):
            hint += "; mawk reads ahead unless it is run as mawk -W interactive"
        text = f"no answer of {program} within timeout_s = {timeout_s:g}, it was stopped{hint}"
        return ModelFailure(text, reason="timeout", kind="TimeoutError", detail=detail)
    if isinstance(error, TooLarge):
        text = (
            f"{program} wrote an answer of more than {line.most_bytes:,} bytes; max_answer_mb sets"
            " how much it may be"
        )
        return ModelFailure(
            text, reason="result_too_large", permanent=True, kind="TooLarge", detail=detail
        )
    if isinstance(error, OutOfStep):
        text = (
            f"{program} wrote more lines than it was asked for: one line an event, all else belongs"
            " to stderr"
        )
        return ModelFailure(text, reason="bad_answer", kind="BadAnswer", detail=detail)
    if isinstance(error, BadAnswer):
        what, hint = ("a line", "; messages belong to stderr") if lines else ("something", "")
        excerpt = error.answer[:_EXCERPT].decode("utf-8", "backslashreplace")
        return ModelFailure(
            f"{program} answered with {what} that {error}: {short(excerpt)}{hint}",
            reason="bad_answer",
            kind="BadAnswer",
            detail=excerpt,
        )
    text = (
        f"{program} {error} before it"
        f" answered{' (its last line has no line break)' if half else ''}"
    )
    code = error.code if isinstance(error, Died) else None
    if code is not None and code < 0:
        return ModelFailure(text, reason="worker_died", kind="ProcessDied", detail=detail)
    kind = "ProcessDied" if code is None else f"exit code {code}"
    return ModelFailure(f"{text}{_said(printed)}", reason="model_error", kind=kind, detail=detail)


def not_loaded(problem: str, detail: str | None, delay_s: float) -> ModelFailure:
    """Return the failure of a program that has never answered. No attempt is spent."""
    text = f"could not be loaded: {problem}; it has never answered"
    return unavailable(text, "NotLoaded", delay_s, detail)


def next_to_try(waiting: ModelFailure) -> ModelFailure:
    """Return the failure of the events behind the one with the failure *waiting*.

    They were not asked. They come again before it.
    """
    found = copy.copy(waiting)
    found.delay_s = None if waiting.delay_s is None else waiting.delay_s / 2
    return found


def not_waiting(line: CommandLine, end: Died | None, wrote: bytes, printed: str) -> ModelFailure:
    """Return the failure of a program that did not wait for its first event."""
    program, detail = f"the program {line.program!r}", printed or None
    excerpt = wrote[:_EXCERPT].decode("utf-8", "backslashreplace")
    if end is None:
        text = (
            f"{program} wrote {short(excerpt)!r} before it was asked for anything: stdout is for"
            " answers only, stderr for messages"
        )
        return ModelFailure(text, reason="bad_answer", whole=True, kind="BadAnswer", detail=detail)
    hint = (
        "; is it for one event? mode='each' runs it once an event"
        if end.code == 0
        else _said(printed)
    )
    text = f"{program} {end} before it was asked for anything{hint}"
    return ModelFailure(text, reason="no_process", whole=True, kind="ProcessDied", detail=detail)


def not_started(line: CommandLine, error: Exception) -> ModelFailure:
    """Return the failure when the program cannot be started."""
    why = (error.strerror if isinstance(error, OSError) else None) or str(error)
    hint = (
        "; a script begins with a line such as #!/bin/sh"
        if isinstance(error, OSError) and why.startswith("Exec format")
        else ""
    )
    text = f"the program {line.program!r} could not be started: {why}{hint}"
    return ModelFailure(text, reason="no_process", whole=True, kind=type(error).__name__)


def not_begun(timeout_s: float) -> ModelFailure:
    """Return the failure of an event for which no time was left."""
    text = (
        "not begun: the events before it in the same call took too much of timeout_s ="
        f" {timeout_s:g}; try a smaller batch_size"
    )
    return ModelFailure(text, reason="no_process", kind="NotBegun")


def stopped() -> ModelFailure:
    """Return the failure of an event whose call was cut off when the listener ended."""
    return ModelFailure(
        "the model's programs were stopped", reason="stopped", whole=True, kind="Closed"
    )


def _said(printed: str) -> str:
    """Return the last line of stderr that names the problem.

    Some programs write their place or their version after it.
    """
    lines = [text.strip() for text in printed.splitlines() if text.strip()]
    telling = [
        n for n, text in enumerate(lines) if _TELLING.search(text) and not text.startswith("at ")
    ]
    if not lines:
        return ""
    number = telling[-1] if telling else len(lines) - 1
    said = lines[number]
    if said.endswith(":"):  # R writes the message on the next line
        said = " ".join([said, *lines[number + 1 : number + 2]])
    return f": {said[:_LAST_LINE]}"


def _beginning(raw: bytes) -> str:
    return repr(short(raw[:_EXCERPT].decode("utf-8", "backslashreplace")))


def _raw(line: CommandLine, data: Any) -> bytes:
    raw = data.encode() if isinstance(data, str) else data
    if not isinstance(raw, (bytes, bytearray)):
        raise NotEncodable(
            f"input={line.input!r} sends data that are text or bytes as they are, not"
            f" {type(data).__name__}"
        )
    if line.mode == "lines" and (b"\n" in raw or b"\r" in raw):
        raise NotEncodable(
            "the data have a line break; mode='each' sends them whole, input='data' as JSON"
        )
    return bytes(raw)


def _failure(value: dict[str, Any]) -> ModelFailure:
    message, permanent, delay_s, reason = (
        value.get(name) for name in ("$error", "permanent", "delay_s", "reason")
    )
    known = isinstance(reason, str) and _REASON.fullmatch(reason) and reason not in _OURS
    is_number = isinstance(delay_s, (int, float)) and not isinstance(delay_s, bool)
    return ModelFailure(
        message if isinstance(message, str) else codec.dumps(message),
        reason=reason if known else "rejected" if permanent is True else "model_error",  # type: ignore[arg-type]
        permanent=permanent is True,
        delay_s=float(delay_s) if is_number and delay_s == delay_s else None,  # type: ignore[arg-type]
        kind="ProgramError",
    )


class Turn:
    """The outputs of one process for the lines that it was sent at a time.

    Attributes
    ----------
    outputs : list
        One for each line that it answered well.
    broken : Exception or None
        The reason why it broke off.
    """

    def __init__(self, line: CommandLine, lines: Sequence[bytes], broken: Exception | None) -> None:
        self.outputs: list[Any] = []
        self.broken = broken
        if isinstance(broken, OutOfStep):
            lines = lines[:-1]  # the last line may belong to no event
        for answer in lines:
            found = output(line, answer)
            if isinstance(found, BadAnswer):
                self.broken = found
                break
            self.outputs.append(found)

    @property
    def is_doubtful(self) -> bool:
        """Whether answers may belong to other events, since a line too many may be among them."""
        return isinstance(self.broken, (OutOfStep, BadAnswer))

    @property
    def may_go_on(self) -> bool:
        """Whether it ended in good order between two events, as far as can be known."""
        return isinstance(self.broken, Died) and self.broken.code == 0 and bool(self.outputs)
