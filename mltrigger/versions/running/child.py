"""What runs in the process of an isolated model: one call after the other, until the parent is
gone.

Over the lines of :mod:`mltrigger.versions.running.peer`, the parent says

- ``{"load": {…}}`` once, with what :func:`mltrigger.versions.running.parcel.description` says of
  the model: an ``import_path``, or else the
  descriptor of a ``file`` with its pickled contents; the ``memory_limit_mb``; and the descriptor of
  a ``lifeline``, a pipe that ends with the parent. Answer: ``{"ready": true}``, or ``{"failed":
  result}``.
- ``{"call": [event, …], "within": place}``, the place as
  :func:`mltrigger.versions.running.current.place` says it; answer:
  ``{"results": [result, …]}``, one an event. An event is an object of CloudEvents attributes with
  ``extensions`` as an object of their own, ``data`` as a text that holds its JSON, and ``opens``:
  whether it can be opened. A result has the fields of
  :class:`~mltrigger.versions.running.invoke.Result` that are set; ``output`` is a text that holds
  its JSON.

Data and outputs are JSON within JSON, in the extended form of :mod:`mltrigger.event.codec`: this
way they arrive as they were written.

While a call runs, the child may ask for the object of the call's n-th event: ``{"open": n}`` in the
place of an answer. The parent replies ``{}`` with the open file attached, or ``{"error": "…",
"reason": "object_missing", "errno": 2}``; the call goes on. With ``{"again": true}`` it says that
the model is called once more, with a part of the batch; the parent replies ``{}`` and waits anew.
``{"returned": true}``, which has no reply, says that the model has returned: what follows is not
its time.

The model runs in the main thread (signals and ``asyncio.run`` work there), stdin is empty for it,
and stdout is stderr.
"""

from __future__ import annotations

import contextlib
import fcntl
import functools
import itertools
import json
import mmap
import os
import pickle
import select
import signal
import socket
import sys
import threading
from typing import Any, BinaryIO, NoReturn

from mltrigger.errors import InvalidEvent, ObjectMissing
from mltrigger.versions.running import parcel
from mltrigger.versions.running.current import during, elsewhere, is_small
from mltrigger.versions.running.invoke import Caller, failure
from mltrigger.versions.running.peer import RETURNED
from mltrigger.versions.running.placement import called
from mltrigger.versions.scheme import Setting

_CHUNK = 64 * 1024
_LOOK_MS = 2000
_FOREVER_S = 30 * 24 * 3600.0


def main() -> None:
    """Serve one model; does not return while the parent lives."""
    channel = Channel()
    threading.Thread(
        target=channel.watch, args=(os.getppid(),), name="mltrigger-parent", daemon=True
    ).start()
    wanted = channel.receive()["load"]
    _hang_on(wanted["lifeline"])
    try:
        _limit_memory(wanted["memory_limit_mb"])
        model = parcel.unpacked(wanted, lambda: _unpacked(wanted["file"]))
        # the parent ends what takes too long
        invoker = called(model, Setting(_FOREVER_S, processes=wanted["processes"]))
    except BaseException as error:  # whatever a module does while it is imported
        _flush()
        channel.send({"failed": parcel.fields(failure(error))})
    else:
        _flush()
        channel.send({"ready": True})
        _serve(channel, invoker)
    channel.receive()  # until the parent hangs up


def _serve(channel: Channel, invoker: Caller) -> NoReturn:
    process = os.getpid()
    while True:
        asked = channel.receive()
        openers = (
            functools.partial(channel.open, channel.turn, number) for number in itertools.count()
        )
        events = [
            parcel.received(given, opener)
            for given, opener in zip(asked["call"], openers, strict=False)
        ]
        with during(
            elsewhere(asked["within"], max(events, key=lambda event: event.hops), channel.returned)
        ):
            results = (
                invoker.many(events, channel.again)
                if invoker.batches
                else [invoker.one(event) for event in events]
            )
        if os.getpid() != process:
            # the copy that os.fork() made in the model came back as well; only the original answers
            os._exit(0)
        _flush()
        channel.send({"results": [parcel.fields(result) for result in results]})


class Channel:
    """The two ends that the parent listens at; taken away from the model, whose prints must not
    come between.
    """

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
            # By lines: what was printed before a crash is kept.
            stream.reconfigure(encoding="utf-8", errors="backslashreplace", line_buffering=True)  # type: ignore[union-attr]
        os.write(self._out, b"\n")  # whatever the start of the interpreter printed ends here

    def watch(self, parent: int) -> None:
        """Wait until the parent is gone, also while the model runs; then end the whole group."""
        poll = select.poll()
        poll.register(self._in, 0)  # nothing but the end of the connection
        while not poll.poll(_LOOK_MS) and os.getppid() == parent:
            pass
        _end()

    def receive(self) -> dict[str, Any]:
        """Return the next request."""
        line = bytearray()
        while not line.endswith(b"\n"):
            chunk = self._in.recv(_CHUNK)
            if not chunk:
                _end()
            line += chunk
        return json.loads(line)  # type: ignore[no-any-return]

    def send(self, message: dict[str, Any]) -> None:
        """Answer; from now on the events of this turn cannot be opened."""
        with self._guard:
            self.turn += 1
            self._write(message)

    def returned(self, answer: object) -> None:
        """Say that the model has returned *answer*, unless it is here in no time: its clock stands
        still. There is no reply.
        """
        if not is_small(answer) and os.getpid() == self._process:
            with self._guard:
                os.write(self._out, RETURNED + b"\n")

    def again(self) -> None:
        """Say that the model is called once more, to find the bad event of a batch: it may take as
        long as the first time.
        """
        with self._guard:
            try:
                self._write({"again": True})
                self.receive()
            except BaseException:
                # from a signal handler of the model: the reply would be taken for the next request
                _end()

    def open(self, turn: int, number: int) -> BinaryIO:
        """Return the object of the event *number* of this *turn*; the parent opens it, by the rules
        of its source.
        """
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
            try:
                self._write({"open": number})
                reply, files = self._receive_file()
            except BaseException:
                # from a signal handler of the model: the reply would be taken for the next request
                _end()
        if not files:
            raise _refusal(reply)
        os.set_inheritable(files[0], False)
        return os.fdopen(files[0], "rb")

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
    """Return what the parent's attempt to open an object raised."""
    if reply.get("errno"):
        kind = ObjectMissing if reply.get("reason") == "object_missing" else OSError
        return kind(reply["errno"], reply["error"])
    return InvalidEvent(
        reply["error"],
        "object_too_large" if reply.get("reason") == "object_too_large" else "nothing_to_open",
    )


def _unpacked(file: int) -> tuple[Any, Any, Any]:
    """Return the model that the parent pickled; the only thing that is ever unpickled, and nobody
    else can have written it.
    """
    # not read(): all children share one position in the file
    with mmap.mmap(file, 0, access=mmap.ACCESS_READ) as content:
        os.close(file)
        contents: tuple[Any, Any, Any] = pickle.loads(content)  # noqa: S301
        return contents


def _hang_on(lifeline: int) -> None:
    """Let the kernel kill the group when the parent is gone: it needs no interpreter lock, which a
    regular expression may hold for ever.

    Only Linux can; elsewhere it is :meth:`Channel.watch` alone.
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
