"""Effects: the things that a model does to other systems, each at most once for an event.

The intent is durable before the call, the answer after it. So a retry knows about both.
"""

from __future__ import annotations

import asyncio
import functools
import inspect
from collections.abc import Callable
from typing import Any, Literal, NamedTuple, Protocol

from mltrigger.errors import EffectUnknown, NotEncodable, OutsideCall, brief
from mltrigger.event import codec
from mltrigger.event.event import Event
from mltrigger.text import redacted, short
from mltrigger.versions.running import current
from mltrigger.versions.running.current import Running

MAX_NAME, MAX_KEY = 100, 255
"""Longest name and key of an effect, in characters."""
MAX_ANSWER_BYTES = 1024 * 1024
"""Longest answer of an effect that is kept, as JSON."""
_MAX_ERROR = 1000
_KEYWORD = "idempotency_key"
_WHERE = "it works in the thread or coroutine in which a listener calls the model"
_LATER = "do not call again before you have looked there, see sub.effects()"


class Begun(NamedTuple):
    """The state of an effect before its call.

    - ``key``: the idempotency key.
    - ``number``: the number of the call that begins now. 0 if the effect has its answer.
    - ``answer``: the recorded answer as JSON.
    - ``note``: why there is no answer to keep.
    - ``place``: the subscription and the event that it is recorded for.
    """

    key: str
    number: int = 0
    answer: str | None = None
    note: str | None = None
    place: tuple[int, int] = (0, 0)


class Ending(NamedTuple):
    """How a call ended: with an *answer* as JSON, or a *note* why there is none, or it *failed*."""

    answer: str | None = None
    note: str | None = None
    failed: bool = False


class Effects(Protocol):
    """Records the effects of the calls under way. Each method returns when it is durable."""

    def begin(self, event: Event, name: str, key: str | None, again: bool) -> Begun:
        """Record the intent of effect *name* for *event*, unless it has an answer.

        Raises
        ------
        EffectUnknown
            When it was begun before without an end. Unless *again* asks for another call.
        EffectMissing
            When the effects come from a recording, which does not have it.
        OutsideCall
            When the call has ended already.
        """

    def end(self, event: Event, name: str, begun: Begun, ending: Ending) -> None:
        """Record how the call of *begun* ended."""


@brief
def once(
    name: str,
    function: Callable[..., Any],
    *args: Any,
    key: str | int | None = None,
    unknown: Literal["fail", "again"] = "fail",
    event: Event | str | None = None,
) -> Any:
    """Call *function* at most once for the event of this call, and return its answer.

    Use it in a model, for everything that it does to other systems. The intent is on the disk
    before the call, the answer after it. A retry gets the recorded answer. So does a second call
    with the same *name* and *key*: several effects of one event need different names or keys.

    A coroutine function is awaited: ``await mt.once("charge", charge, order)``.

    Parameters
    ----------
    name : str
        The name of the effect, such as ``"charge"``.
    function : callable
        Does it. An exception means that the effect did not happen, and a retry calls again. If that
        is not certain, as after a timeout, raise ``mt.EffectUnknown``. The answer must have a JSON
        form, and is returned as its JSON says.
    *args
        Its arguments. If it has a parameter ``idempotency_key``, it gets the key, too.
    key : str or int, optional
        The idempotency key for the other system. Default: one derived from subscription, event and
        name. It is the same in every retry. The ``key`` of the subscription is no part of it: two
        events of one customer have two effects.
    unknown : {"fail", "again"}
        What to do if an earlier call has no recorded end, since its process died. ``"fail"`` makes
        the event a dead letter. ``"again"`` calls again, with the same key.
    event : Event or str, optional
        For a model that takes batches: the event of the effect, or its id.

    Returns
    -------
    object
        The answer of *function*, or the recorded one. Shadows and replays only get recorded ones,
        unless their policy says ``effects="live"``.

    Raises
    ------
    EffectUnknown
        If it is unknown whether an earlier call had its effect.
    EffectMissing
        In a shadow or replay, if the recording has no answer.
    OutsideCall
        Outside of a model's call, in its other threads and forks, and in the workers of executors.
    NotEncodable
        If the answer has no JSON form. The effect has happened, and is not called again.
    """
    effect = _Effect(*_place(name, event), _checked_name(name))
    begin = functools.partial(effect.begin, _checked_key(key), _checked_policy(unknown))
    if _is_async(function):
        return _once_awaited(effect, begin, function, args)
    begun = begin()
    if begun.number == 0:
        return effect.recorded(begun)
    try:
        answer = _called(function, args, begun.key)
    except EffectUnknown:
        raise
    except Exception as error:
        effect.failed(begun, error)
        raise
    if inspect.iscoroutine(answer):
        answer.close()
        late = TypeError(
            f"effect {name!r}: the function returned a coroutine that was not begun; hand over the"
            " coroutine function itself: await mt.once(name, function, *args)"
        )
        effect.failed(begun, late)
        raise late
    return effect.kept(begun, answer)


async def _once_awaited(
    effect: _Effect, begin: Callable[[], Begun], function: Callable[..., Any], args: tuple[Any, ...]
) -> Any:
    # in other threads: the loop goes on while the disk writes
    begun = await asyncio.to_thread(begin)
    if begun.number == 0:
        return effect.recorded(begun)
    try:
        answer = await _called(function, args, begun.key)
    except EffectUnknown:
        raise
    except Exception as error:
        await asyncio.to_thread(effect.failed, begun, error)
        raise
    return await asyncio.to_thread(effect.kept, begun, answer)


class _Effect(NamedTuple):
    """One effect of the call under way."""

    effects: Effects
    event: Event
    name: str

    def begin(self, key: str | None, again: bool) -> Begun:
        """Record the intent."""
        return self.effects.begin(self.event, self.name, key, again)

    def recorded(self, begun: Begun) -> Any:
        """Return the recorded answer."""
        if begun.answer is None:
            raise self._unkept(begun.note or "there is none")
        return codec.loads_own(begun.answer.encode())

    def failed(self, begun: Begun, error: BaseException) -> None:
        """Record that the effect did not happen."""
        note = f"{type(error).__name__}: {short(str(error), _MAX_ERROR)}"
        self.effects.end(self.event, self.name, begun, Ending(note=redacted(note), failed=True))

    def kept(self, begun: Begun, answer: Any) -> Any:
        """Record *answer*, and return it as a retry gets it."""
        raw, why = b"", None
        try:
            raw = codec.encode(answer)
        except NotEncodable as error:
            why = str(error)
        if len(raw) > MAX_ANSWER_BYTES:
            why = f"it has {len(raw):,} bytes of JSON, {MAX_ANSWER_BYTES:,} are kept"
        if why is not None:
            # It has happened: a retry must not call again.
            self.effects.end(self.event, self.name, begun, Ending(note=why))
            raise self._unkept(why)
        self.effects.end(self.event, self.name, begun, Ending(raw.decode()))
        return codec.loads_own(raw)

    def _unkept(self, why: str) -> NotEncodable:
        return NotEncodable(
            f"effect {self.name!r} has happened, and its answer cannot be kept: {why}; return JSON"
            " data from its function"
        )


def unknown_effect(name: str, key: str) -> EffectUnknown:
    """Return the error about an effect that was begun and has no recorded end."""
    return EffectUnknown(
        f"effect {name!r} with key {key!r} was begun before, and its end was not recorded: it may"
        f" have happened; {_LATER}; unknown='again' calls again with the same key"
    )


def _place(name: str, event: Event | str | None) -> tuple[Effects, Event]:
    """Return the recorder of effects of the call under way, and the event that is meant."""
    under_way = current.current()
    if under_way is None:
        raise OutsideCall(f"mt.once({short(name)}, …) outside of a model's call; {_WHERE}")
    if under_way.forks != current.forks:
        raise OutsideCall(
            f"mt.once({short(name)}, …) in a copy that the model made with os.fork(); {_WHERE}"
        )
    if under_way.effects is None:
        raise OutsideCall(
            f"mt.once({short(name)}, …) in a worker of an executor, which cannot record effects;"
            " leave executor= out, isolation='process' is a process of its own"
        )
    return under_way.effects, _event_of(under_way, event)


def _event_of(under_way: Running, event: Event | str | None) -> Event:
    called = under_way.events if under_way.batch is None else under_way.batch
    if event is None:
        if under_way.batch is None:
            return under_way.event
        raise OutsideCall(
            f"the model was called with a batch of {len(called)}: say which event, event=; a model"
            " whose argument is annotated list[mt.Event] has them"
        )
    key = (event, None) if isinstance(event, str) else (event.id, event.source)
    found = [each for each in called if key in ((each.id, None), (each.id, each.source))]
    if len(found) != 1:
        raise OutsideCall(
            f"event {short(key[0])} is {'not' if not found else 'more than once'} in this call"
        )
    return found[0]


def _called(function: Callable[..., Any], args: tuple[Any, ...], key: str) -> Any:
    try:
        signature = inspect.signature(function)
        takes = signature.parameters.get(_KEYWORD)
        given = takes is None or _KEYWORD in signature.bind_partial(*args).arguments
    except (TypeError, ValueError):  # it has none, or the call itself says what is wrong
        takes, given = None, True
    if takes is None or given or takes.kind is inspect.Parameter.POSITIONAL_ONLY:
        return function(*args)
    return function(*args, **{_KEYWORD: key})


def _is_async(function: Callable[..., Any]) -> bool:
    return inspect.iscoroutinefunction(function) or inspect.iscoroutinefunction(
        getattr(function, "__call__", None)  # noqa: B004 - of an object with a coroutine method
    )


def _checked_name(name: str) -> str:
    if not isinstance(name, str) or not 0 < len(name) <= MAX_NAME or not name.isprintable():
        raise ValueError(
            f"the name of an effect has 1 to {MAX_NAME} printable characters, got {short(name)}"
        )
    return name


def _checked_key(key: str | int | None) -> str | None:
    if key is None:
        return None
    text = str(key) if isinstance(key, int) and not isinstance(key, bool) else key
    if not isinstance(text, str) or not 0 < len(text) <= MAX_KEY or not text.isprintable():
        raise ValueError(
            f"key must be a number or 1 to {MAX_KEY} printable characters, got {short(key)}"
        )
    return text


def _checked_policy(unknown: str) -> bool:
    if unknown not in ("fail", "again"):
        raise ValueError(f"unknown must be 'fail' or 'again', got {short(unknown)}")
    return unknown == "again"
