"""The child process of a model: it serves one call after the other, until its parent is gone.

Parent and child exchange lines. Each line is one JSON object in UTF-8.

=======  ==========================================================================
stdin    Requests, one line each. Its end means that the parent is gone.
stdout   One answer for each request. Any other line counts as printed.
stderr   Prints. They are kept up to a limit and never waited for.
=======  ==========================================================================

stdin is a Unix stream socket, so that an open file can travel with a request.

``{"load": ticket, "memory_limit_mb": …, "lifeline": 5, "file": 6}``
    Comes first, once. The ticket is that of
    :func:`~mltrigger.versions.running.workers.parcel.ticket`. The descriptors are a pipe that ends
    with the parent, and the pickled model. The answer is ``{"ready": true}`` or ``{"failed":
    result}``.

``{"call": [event, …], "within": place}``
    The events are those of :func:`~mltrigger.versions.running.workers.parcel.sent`, the place is
    that of :func:`mltrigger.versions.running.current.place`. The answer is ``{"results": [result,
    …]}``, one per event.

During a call the child may say something else first:

``{"open": n}``
    Asks for the object of the n-th event. The parent replies ``{}`` with the open file, or
    ``{"error": "…", "reason": "object_missing", "errno": 2}``.

``{"effect": {"event": n, "begin" or "end": […]}}``
    Asks to record an effect of the n-th event, see
    :mod:`mltrigger.versions.running.workers.effects`. The parent replies ``{"done": …}`` once it is
    durable, or ``{"refused": …}``.

``{"again": true}``
    The model is called once more, with a part of the batch. The parent replies ``{}`` and waits
    anew.

``{"returned": true}``
    The model has returned. Encoding its answer does not count as its run time. There is no reply.

Data and outputs are JSON texts within JSON, in the form of :mod:`mltrigger.event.codec`. So they
arrive exactly as they were written.

The model runs in the main thread: signals and ``asyncio.run`` work there. Its stdin is empty, and
its stdout is stderr.
"""

from __future__ import annotations

import contextlib
import fcntl
import functools
import json
import mmap
import os
import select
import signal
import socket
import sys
import threading
from collections.abc import Iterator
from typing import Any, BinaryIO, NoReturn

from mltrigger.errors import InvalidEvent, ObjectMissing, OutsideCall
from mltrigger.versions.running.current import is_small
from mltrigger.versions.running.invoke import Caller, failure
from mltrigger.versions.running.workers.parcel import fields
from mltrigger.versions.running.workers.worker import answered, load

RETURNED = b'{"returned": true}'
_CHUNK = 64 * 1024
_LOOK_MS = 2000


def main() -> None:
    """Serve one model. It does not return while the parent lives."""
    channel = Channel()
    threading.Thread(
        target=channel.watch, args=(os.getppid(),), name="mltrigger-parent", daemon=True
    ).start()
    wanted = channel.receive()
    _hang_on(wanted["lifeline"])
    try:
        _limit_memory(wanted["memory_limit_mb"])
        with _contents(wanted.get("file")) as contents:
            caller = load(wanted["load"], contents)
    except BaseException as error:  # any error of a module while it is imported
        _flush()
        channel.send({"failed": fields(failure(error))})
    else:
        _flush()
        channel.send({"ready": True})
        _serve(channel, caller)
    channel.receive()  # until the parent hangs up


def _serve(channel: Channel, caller: Caller) -> NoReturn:
    process = os.getpid()
    while True:
        asked = channel.receive()
        turn = channel.turn
        results = answered(
            caller,
            asked["call"],
            functools.partial(channel.open, turn),
            asked["within"],
            channel.returned,
            channel.again,
            functools.partial(channel.effect, turn),
        )
        if os.getpid() != process:
            # A copy that the model made with os.fork() came back, too. Only the original answers.
            os._exit(0)
        _flush()
        channel.send({"results": results})


class Channel:
    """The child's ends of the pipes. The model cannot reach them with its prints."""

    def __init__(self) -> None:
        self.turn = 0
        self._guard = threading.Lock()
        self._process = os.getpid()
        self._in, self._out = socket.socket(fileno=os.dup(0)), os.dup(1)
        null = os.open(os.devnull, os.O_RDWR)
        os.dup2(null, 0)
        os.dup2(2, 1)
        os.close(null)
        for stream in (sys.stdout, sys.stderr):
            # By lines: prints from before a crash are kept.
            stream.reconfigure(encoding="utf-8", errors="backslashreplace", line_buffering=True)  # type: ignore[union-attr]
        os.write(self._out, b"\n")  # ends anything that the interpreter printed at its start

    def watch(self, parent: int) -> None:
        """Wait until the parent is gone, also while the model runs. Then end the whole group."""
        poll = select.poll()
        poll.register(self._in, 0)  # nothing but the end of the connection
        while not poll.poll(_LOOK_MS) and os.getppid() == parent:
            pass
        _end()

    def receive(self) -> dict[str, Any]:
        """Return the next request."""
        request, _ = self._receive_file()
        return request

    def send(self, message: dict[str, Any]) -> None:
        """Answer. From now on the events of this turn cannot be opened."""
        with self._guard:
            self.turn += 1
            self._write(message)

    def returned(self, answer: object) -> None:
        """Say that the model has returned, unless encoding *answer* takes no time."""
        if not is_small(answer) and os.getpid() == self._process:
            with self._guard:
                os.write(self._out, RETURNED + b"\n")

    def again(self) -> None:
        """Say that the model is called once more, to find the bad event of a batch."""
        with self._guard:
            self._asked({"again": True})

    def open(self, turn: int, number: int) -> BinaryIO:
        """Return the object of the event *number* of this *turn*. The parent opens it."""
        if os.getpid() != self._process:
            raise InvalidEvent(
                "an event cannot be opened in a process that the model made; open it before",
                "nothing_to_open",
            )
        with self._guard:
            if turn != self.turn:
                raise InvalidEvent(
                    "an event can be opened only while the model is called with it",
                    "nothing_to_open",
                )
            reply, files = self._asked({"open": number})
        if not files:
            raise _refusal(reply)
        os.set_inheritable(files[0], False)
        return os.fdopen(files[0], "rb")

    def effect(self, turn: int, message: dict[str, Any]) -> dict[str, Any]:
        """Return the reply to a message about an effect of this *turn*."""
        with self._guard:
            if turn != self.turn or os.getpid() != self._process:
                raise OutsideCall("mt.once(…) after the call of the model, or in a copy of it")
            return self._asked(message)[0]

    def _asked(self, message: dict[str, Any]) -> tuple[dict[str, Any], list[int]]:
        """Return the reply to a message of ours, and the file that came with it."""
        try:
            self._write(message)
            return self._receive_file()
        except BaseException:
            # From a signal handler of the model. The reply would be taken for the next request.
            _end()

    def _receive_file(self) -> tuple[dict[str, Any], list[int]]:
        line, files = bytearray(), []
        while not line.endswith(b"\n"):
            part, handles, *_ = socket.recv_fds(self._in, _CHUNK, 1)
            line += part or _end()
            files += handles
        return json.loads(line), files

    def _write(self, message: dict[str, Any]) -> None:
        rest = memoryview(json.dumps(message).encode() + b"\n")
        while rest:
            rest = rest[os.write(self._out, rest) :]


def _refusal(reply: dict[str, Any]) -> Exception:
    """Return the error that the parent met when it opened an object."""
    if reply.get("errno"):
        kind = ObjectMissing if reply.get("reason") == "object_missing" else OSError
        return kind(reply["errno"], reply["error"])
    return InvalidEvent(
        reply["error"],
        "object_too_large" if reply.get("reason") == "object_too_large" else "nothing_to_open",
    )


@contextlib.contextmanager
def _contents(file: int | None) -> Iterator[Any]:
    """Yield the pickled model of the parent, and nothing if it is imported."""
    if file is None:
        yield b""
        return
    # not read(): all children share one position in the file
    with mmap.mmap(file, 0, access=mmap.ACCESS_READ) as content:
        os.close(file)
        yield content


def _hang_on(lifeline: int) -> None:
    """Let the kernel kill the group when the parent is gone.

    This needs no interpreter lock, which a regular expression may hold for ever. Only Linux can do
    it. Elsewhere :meth:`Channel.watch` has to do.
    """
    if sys.platform == "linux":
        fcntl.fcntl(lifeline, fcntl.F_SETOWN, -os.getpgrp())
        fcntl.fcntl(lifeline, fcntl.F_SETSIG, signal.SIGKILL)
        fcntl.fcntl(lifeline, fcntl.F_SETFL, fcntl.fcntl(lifeline, fcntl.F_GETFL) | os.O_ASYNC)


def _limit_memory(limit_mb: int | None) -> None:
    if limit_mb is not None:
        import resource

        limit, (_, hard) = limit_mb * 1024 * 1024, resource.getrlimit(resource.RLIMIT_AS)
        limit = limit if hard == resource.RLIM_INFINITY else min(limit, hard)
        resource.setrlimit(resource.RLIMIT_AS, (limit, limit))


def _flush() -> None:
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(Exception):  # a model may have closed or replaced it
            stream.flush()


def _end() -> NoReturn:
    """End this process and all of its group at once."""
    with contextlib.suppress(OSError):
        os.killpg(os.getpid(), signal.SIGKILL)
    os._exit(1)  # it was not the leader of a group
