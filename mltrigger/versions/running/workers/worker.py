"""The worker's side: load a model once, call it with events, return the results.

A worker is a process of our own (:mod:`~mltrigger.versions.running.workers.child`) or a process of
an executor, where :func:`run` is submitted.
"""

from __future__ import annotations

import contextlib
import functools
import io
import json
import os
import pickle
import socket
import threading
from collections.abc import Callable, Sequence
from typing import Any, BinaryIO

from mltrigger.event.event import Event
from mltrigger.versions.running.capture import captured
from mltrigger.versions.running.current import Running, during, elsewhere, is_small
from mltrigger.versions.running.here import called
from mltrigger.versions.running.invoke import Caller, Result, failure
from mltrigger.versions.running.measures import measured
from mltrigger.versions.running.workers import parcel
from mltrigger.versions.running.workers.effects import AskedEffects, Asking
from mltrigger.versions.scheme import Setting

_MOST_HELD = 8
"""Models that a worker of an executor keeps. Then the idle ones make room."""


def load(ticket: dict[str, Any], contents: Any) -> Caller:
    """Return the caller of the model that *ticket* describes.

    Parameters
    ----------
    ticket : dict
        See :func:`~mltrigger.versions.running.workers.parcel.ticket`.
    contents : bytes-like
        The pickled model. Empty if the model is imported.

    Raises
    ------
    BaseException
        Any error of a module or class while it is imported or made.
    """
    # The only bytes that are ever unpickled: the model of the user in the calling process. Nobody
    # else can have written them, and no event is among them.
    model = parcel.unpacked(ticket, lambda: pickle.loads(contents))  # noqa: S301
    return called(model, Setting(**ticket["setting"]))


def answered(
    caller: Caller,
    given: Sequence[dict[str, Any]],
    opener: Callable[[int], BinaryIO],
    within: dict[str, str],
    returned: Callable[[object], None],
    again: Callable[[], None] = lambda: None,
    ask: Asking | None = None,
) -> list[dict[str, Any]]:
    """Call the model with events that were sent.

    Return one Result per event, as JSON objects.

    Parameters
    ----------
    caller : Caller
        See :func:`load`.
    given : sequence of dict
        See :func:`~mltrigger.versions.running.workers.parcel.sent`.
    opener : callable
        Opens the object of the event with this number.
    within : dict
        See :func:`mltrigger.versions.running.current.place`.
    returned : callable
        Told the answer of the model before it is encoded.
    again : callable
        Told before each further call of the model.
    ask : callable, optional
        Asks the calling process to record an effect. Without it the model can have none.
    """
    events = [
        parcel.received(event, functools.partial(opener, number))
        for number, event in enumerate(given)
    ]
    effects = None if ask is None else AskedEffects(ask, events)
    return _results(caller, events, elsewhere(within, events, returned, effects), again)


def _results(
    caller: Caller,
    events: Sequence[Event],
    under_way: Running | None,
    again: Callable[[], None] = lambda: None,
) -> list[dict[str, Any]]:
    with during(under_way):
        results: Sequence[Result] = (
            caller.many(events, again) if caller.batches else [caller.one(e) for e in events]
        )
    if under_way is not None and under_way.measures is not None:
        results = measured(under_way, events, results)
    return [parcel.fields(result) for result in results]


# -- in an executor --------------------------------------------------------------------------------


class _Held:
    """A loaded model, and the number of its calls under way."""

    def __init__(self, caller: Caller) -> None:
        self.caller, self.calls = caller, 0


# The models of this worker, by key. It is the only state that this package keeps in a module: an
# executor has no other place that lasts from one call to the next.
_held: dict[str, _Held] = {}
_loading, _counting = threading.Lock(), threading.Lock()


def run(
    key: str,
    ticket: str,
    contents: bytes | None,
    request: str,
    objects: list[bytes | None] | None,
    flag: str,
) -> dict[str, Any]:
    """Call the model *key* in this process. Never raises.

    All arguments are plain values. Texts hold JSON, since Dask inspects every other structure.

    Parameters
    ----------
    key, ticket : str
        The model, and its description.
    contents : bytes, optional
        The pickled model. ``None`` if only a worker that has the model shall answer.
    request : str
        An object with ``events`` and ``within``. See :func:`answered`.
    objects : list of bytes, optional
        The contents of the objects of the events.
    flag : str
        A file to create when the model has returned, if its folder exists. On the same machine the
        caller looks at it. It differs in each call: Dask runs two equal calls only once.

    Returns
    -------
    dict
        ``worker``, the name of this worker. Then either ``missing``, ``failed`` (a Result of
        loading), or ``results``. Also ``printed``.
    """
    worker = {"worker": f"{socket.gethostname()}:{os.getpid()}"}
    held = _taken(key)
    if held is None and contents is None:
        return {**worker, "missing": True}
    with captured() as printed:
        try:
            held = held or _loaded(key, json.loads(ticket), contents or b"")
        except BaseException as error:
            failed = parcel.fields(failure(error))
            return {**worker, "failed": failed, "printed": printed.take()}
        try:
            asked, opened = json.loads(request), objects or []
            results = answered(
                held.caller,
                asked["events"],
                lambda number: io.BytesIO(opened[number] or b""),
                asked["within"],
                functools.partial(_raise_flag, flag),
            )
            return {**worker, "results": results, "printed": printed.take()}
        finally:
            with _counting:
                held.calls -= 1


def run_here(caller: Caller, events: list[Event], under_way: Running | None) -> dict[str, Any]:
    """Call a model of this process, in a thread of an executor. Returns as :func:`run` does."""
    with captured() as printed:
        return {"results": _results(caller, events, under_way), "printed": printed.take()}


def _raise_flag(flag: str, answer: object) -> None:
    if is_small(answer):
        return
    # The folder may be on another machine.
    with contextlib.suppress(OSError), open(flag, "xb"):  # noqa: PTH123
        pass


def _taken(key: str) -> _Held | None:
    """Return the model *key* with one more call under way, if this worker has it."""
    with _counting:
        held = _held.get(key)
        if held is not None:
            held.calls += 1
        return held


def _loaded(key: str, ticket: dict[str, Any], contents: bytes) -> _Held:
    """Return the model *key* with one more call under way. The first thread loads it."""
    with _loading:
        if (held := _taken(key)) is None:
            with _counting:
                idle = [old for old, held in _held.items() if not held.calls]
                dropped = [_held.pop(old) for old in idle[: max(0, len(_held) + 1 - _MOST_HELD)]]
            for old in dropped:
                old.caller.close()
            held = _Held(load(ticket, contents))
            with _counting:
                _held[key], held.calls = held, 1
        return held
