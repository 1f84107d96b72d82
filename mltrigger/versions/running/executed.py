"""What runs in the worker of an executor: a model that is loaded once, and called for as long as
the worker lives.

See :mod:`mltrigger.versions.running.executor` for the other side.
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
from typing import Any

from mltrigger.event.event import Event
from mltrigger.versions.running import parcel
from mltrigger.versions.running.capture import captured
from mltrigger.versions.running.current import Running, during, elsewhere, is_small
from mltrigger.versions.running.invoke import Caller, failure
from mltrigger.versions.running.placement import called
from mltrigger.versions.scheme import Setting

CONCURRENCY = 4
"""Calls at the same time when an executor does not say how many workers it has."""
HOLD_S = 15.0
"""How long a listener holds back when the workers, or its processes, cannot load the model."""

_MOST_HELD = 8


class _Held:
    """A model that was loaded, and how many calls of it are under way."""

    def __init__(self, caller: Caller) -> None:
        self.caller, self.calls = caller, 0


# What a worker has loaded, by key. The only state that this package keeps in a module: an executor
# gives its workers no other place to keep a model in from one call to the next.
_held: dict[str, _Held] = {}
_loading, _counting = threading.Lock(), threading.Lock()


def run(
    key: str,
    ticket: str,
    contents: bytes | None,
    events: str,
    objects: list[bytes | None] | None,
    turn: str,
    within: dict[str, str],
    flag: str,
) -> dict[str, Any]:
    """Call the model that has this *key* in this process; never raises.

    Parameters
    ----------
    key, ticket
        Which model, and what is to be known of it to call it, as JSON.
    contents
        The model, pickled, or nothing if it can be imported; ``None`` when the call is only for a
        worker that has it.
    events, objects
        The events, as one JSON list of what :func:`~mltrigger.versions.running.parcel.sent`
        returns, and the contents of those that can be opened.
    turn
        Makes each call another one: Dask takes two with equal arguments for the same.
    within
        What :func:`mltrigger.versions.running.current.place` says.
    flag
        A file to make when the model has returned, if its folder is there: on this machine,
        somebody looks at it.

    Returns
    -------
    dict
        Which ``worker`` this is; and that the model is ``missing``, or why it could not be loaded
        (``failed``), or the ``results``, one an event, and what was ``printed``.
    """
    del turn
    worker = {"worker": f"{socket.gethostname()}:{os.getpid()}"}
    held = _taken(key)
    if held is None and contents is None:
        return {**worker, "missing": True}
    with captured() as printed:
        try:
            held = held or _loaded(key, json.loads(ticket), contents or b"")
        except BaseException as error:  # whatever a module does while it is imported
            failed = failure(error)._replace(
                reason="model_unavailable", permanent=False, throttled=True, delay_s=HOLD_S
            )
            return {**worker, "failed": parcel.fields(failed), "printed": printed.take()}
        try:
            given = json.loads(events)
            opened = objects or [None] * len(given)
            arrived = [
                parcel.received(event, functools.partial(io.BytesIO, content or b""))
                for event, content in zip(given, opened, strict=True)
            ]
            longest = max(arrived, key=lambda event: event.hops)
            with during(elsewhere(within, longest, functools.partial(_returned, flag))):
                return {
                    **worker,
                    "results": _results(held.caller, arrived),
                    "printed": printed.take(),
                }
        finally:
            with _counting:
                held.calls -= 1


def _returned(flag: str, answer: object) -> None:
    if is_small(answer):
        return
    with contextlib.suppress(OSError), open(flag, "xb"):  # noqa: PTH123 - in a folder of another machine, perhaps
        pass


def in_thread(caller: Caller, events: list[Event], under_way: Running | None) -> dict[str, Any]:
    """Call a model that lives in this process, in a thread of the executor."""
    with captured() as printed, during(under_way):
        return {"results": _results(caller, events), "printed": printed.take()}


def _results(caller: Caller, events: list[Event]) -> list[dict[str, Any]]:
    results = caller.many(events) if caller.batches else [caller.one(event) for event in events]
    return [parcel.fields(result) for result in results]


def _taken(key: str) -> _Held | None:
    """Return what is held under *key*, with a call more under way."""
    with _counting:
        held = _held.get(key)
        if held is not None:
            held.calls += 1
        return held


def _loaded(key: str, ticket: dict[str, Any], contents: bytes) -> _Held:
    """Return how the model is called here, loaded by the first who asks, with a call more under
    way.
    """
    with _loading:
        if (held := _taken(key)) is None:
            # The only bytes that are unpickled: the model that the user of the calling process
            # handed over, never what came in an event.
            model = parcel.unpacked(ticket, lambda: pickle.loads(contents))  # noqa: S301
            with _counting:
                idle = [old for old, held in _held.items() if not held.calls]
                dropped = [_held.pop(old) for old in idle[: max(0, len(_held) + 1 - _MOST_HELD)]]
            for old in dropped:
                old.caller.close()
            held = _Held(
                called(model, Setting(ticket["timeout_s"], CONCURRENCY, ticket["processes"]))
            )
            with _counting:
                _held[key], held.calls = held, 1
        return held
