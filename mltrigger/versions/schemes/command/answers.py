"""What is sent to a program for an event, and what its answer, its exit code or its end means."""

from __future__ import annotations

import codecs
import copy
import json
import re
from typing import Any

from mltrigger.errors import InvalidEvent, ModelFailure, NotEncodable
from mltrigger.event import codec
from mltrigger.event.event import Event
from mltrigger.text import short
from mltrigger.versions.running.peer import Died, TimedOut
from mltrigger.versions.schemes.command.line import CommandLine
from mltrigger.versions.schemes.command.programs import OutOfStep, TooLarge

DATA_ERROR, TRY_AGAIN = 65, 75
"""EX_DATAERR and EX_TEMPFAIL of sysexits.h."""
SAID = (DATA_ERROR, TRY_AGAIN)
"""Exit codes by which a program has said something of its event."""
_REASON = re.compile(r"[a-z][a-z0-9_]{0,63}")
_OURS = frozenset({"stopped", "no_process", "worker_died", "group_order"})
"""Reasons that mean something to whoever settles the event; a program cannot give them."""
_TELLING = re.compile(r"error|exception|fatal|panic", re.IGNORECASE)
_LAST_LINE = 300
_EXCERPT = 500


class BadAnswer(Exception):  # internal signal
    """An answer that cannot be read; the message says why."""

    def __init__(self, problem: str, answer: bytes) -> None:
        super().__init__(problem)
        self.answer = answer


def request(line: CommandLine, event: Event) -> bytes | ModelFailure:
    """Return what the program reads for *event*: in line mode, a line without its end."""
    try:
        if line.input in ("text", "bytes"):
            return _raw(line, event.data)
        text = codec.dumps(event.data) if line.input == "data" else event.to_json()
        # what reads lines, reads this too
        return text.encode() if line.mode == "lines" else text.encode() + b"\n"
    except (NotEncodable, ValueError) as error:
        # never published: what came through a broker has a JSON form
        return ModelFailure(
            str(error), reason="invalid_input", permanent=True, kind=type(error).__name__
        )


def output(line: CommandLine, answer: bytes) -> Any:
    """Return the output that *answer* is, a ModelFailure when it tells of one, or BadAnswer."""
    if line.output == "bytes":
        return answer
    try:
        text = answer.removeprefix(codecs.BOM_UTF8).decode()
    except UnicodeDecodeError as error:
        return BadAnswer(f"is not UTF-8 (byte {error.start})", answer)
    if line.output == "text":
        return text.removesuffix("\n").removesuffix("\r")
    try:
        value = _json(text)
    except InvalidEvent as error:
        return BadAnswer(
            "is empty" if not text.strip() else str(error).replace("data ", "", 1), answer
        )
    return _failure(value) if isinstance(value, dict) and "$error" in value else value


def ended(line: CommandLine, code: int, written: bytes, printed: str) -> Any:
    """Return the output of a program that ended with *code*, after it had *written* its answer and
    *printed* to stderr.
    """
    if code == 0:
        answer = output(line, written)
        return broken(line, answer, 0.0, printed) if isinstance(answer, BadAnswer) else answer
    if code < 0:
        return broken(line, Died.of(code), 0.0, printed)
    text, detail = (
        f"the program {line.program!r} ended with exit code {code}{_said(printed)}",
        printed or None,
    )
    if code == DATA_ERROR:
        return ModelFailure(
            text, reason="rejected", permanent=True, kind=f"exit code {code}", detail=detail
        )
    return ModelFailure(
        text,
        reason="retry" if code == TRY_AGAIN else "model_error",
        kind=f"exit code {code}",
        detail=detail,
    )


def broken(
    line: CommandLine, error: Exception, timeout_s: float, printed: str, half: bytes = b""
) -> ModelFailure:
    """Return what *error* is to the event that the program was asked for; *half* is what it wrote
    last, a line without its end.
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
    """Return what the events get of a program that has never answered: whichever the event, and no
    attempt is spent.
    """
    text = f"could not be loaded: {problem}; it has never answered"
    return ModelFailure(
        text,
        reason="model_unavailable",
        throttled=True,
        delay_s=delay_s,
        whole=True,
        kind="NotLoaded",
        detail=detail,
    )


def next_to_try(waiting: ModelFailure) -> ModelFailure:
    """Return what the events get that nobody has asked yet, beside one that gets *waiting*: they
    come again before it.
    """
    found = copy.copy(waiting)
    found.delay_s = None if waiting.delay_s is None else waiting.delay_s / 2
    return found


def not_waiting(line: CommandLine, end: Died | None, wrote: bytes, printed: str) -> ModelFailure:
    """Return what is wrong with a program that did not wait for its first event."""
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
    """Return what the events get when the program cannot be started."""
    why = (error.strerror if isinstance(error, OSError) else None) or str(error)
    hint = (
        "; a script begins with a line such as #!/bin/sh"
        if isinstance(error, OSError) and why.startswith("Exec format")
        else ""
    )
    text = f"the program {line.program!r} could not be started: {why}{hint}"
    return ModelFailure(text, reason="no_process", whole=True, kind=type(error).__name__)


def not_begun(timeout_s: float) -> ModelFailure:
    """Return what an event gets that the program did not come to."""
    text = (
        "not begun: the events before it in the same call took too much of timeout_s ="
        f" {timeout_s:g}; try a smaller batch_size"
    )
    return ModelFailure(text, reason="no_process", kind="NotBegun")


def stopped() -> ModelFailure:
    """Return what an event gets whose call was cut off by the listener's end."""
    return ModelFailure(
        "the model's programs were stopped", reason="stopped", whole=True, kind="Closed"
    )


def _said(printed: str) -> str:
    """Return what a program said last to stderr about its end; some write where they are, or their
    version, after it.
    """
    lines = [text.strip() for text in printed.splitlines() if text.strip()]
    telling = [
        n for n, text in enumerate(lines) if _TELLING.search(text) and not text.startswith("at ")
    ]
    if not lines:
        return ""
    number = telling[-1] if telling else len(lines) - 1
    said = lines[number]
    if said.endswith(":"):  # as R writes it: the message is on the next line
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


def _json(text: str) -> Any:
    """Return the value of *text*; NaN and Infinity, which many programs write although JSON has
    none, are what they mean.
    """
    try:
        return codec.loads(text)
    except InvalidEvent as error:
        if error.reason not in codec.NOT_FINITE:
            raise
        problem = error
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        raise problem from None


def _failure(value: dict[str, Any]) -> ModelFailure:
    message, permanent, delay_s, reason = (
        value.get(name) for name in ("$error", "permanent", "delay_s", "reason")
    )
    known = (
        isinstance(reason, str) and _REASON.fullmatch(reason) is not None and reason not in _OURS
    )
    waits = (
        isinstance(delay_s, (int, float)) and not isinstance(delay_s, bool) and delay_s == delay_s
    )
    return ModelFailure(
        message if isinstance(message, str) else codec.dumps(message),
        reason=reason if known else "rejected" if permanent is True else "model_error",  # type: ignore[arg-type]
        permanent=permanent is True,
        delay_s=float(delay_s) if waits else None,  # type: ignore[arg-type]
        kind="ProgramError",
    )
