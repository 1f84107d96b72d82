"""DeliveryPolicy: the settings of delivery, and the arithmetic of retries."""

from __future__ import annotations

import dataclasses
import inspect
import json
import random
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal, TypedDict, TypeVar, get_args

from mltrigger.errors import MAX_DELAY_S, InvalidPolicy
from mltrigger.text import card_of

if TYPE_CHECKING:
    from mltrigger.versions.running.placement import Executing

F = TypeVar("F", bound=Callable[..., Any])

BACKOFF_BASE_S = 1.0
BACKOFF_CAP_S = 900.0
MAX_ABANDONED = 3
RATES_PER_S = 0.001, 1e6
"""The lowest and the highest rate that can be asked for."""
"""The number of attempts that ran alone and never ended. Then the event counts as the killer of its
worker (reason ``worker_died``).
"""
SUSPECT = -1
"""The count after an attempt that was abandoned beside others. It proves nothing, but the next
attempt runs alone.
"""
_LONGEST_PATH = 200
Isolation = Literal["thread", "process"]
Ack = Literal["completed", "accepted"]
Input = Literal["json", "text"]
Corrections = Literal["skip", "take"]


@dataclasses.dataclass(frozen=True, slots=True)
class DeliveryPolicy:
    """The settings of delivery for one subscription.

    Parameters
    ----------
    timeout_s : float
        The longest run of one call. After that the attempt has failed with reason ``timeout``.
    lease_s : float, optional
        The time that a received event is hidden from other listeners. A heartbeat extends it every
        third of it. The event of a lost machine comes back after at most this time, that of a dead
        process sooner on Linux. Default: twice the timeout.
    max_attempts : int
        The number of failures of the model that makes an event dead. Abandoned and interrupted
        attempts do not count.
    batch_size : int, optional
        The most events in one call. Default: 1 for a callable, 32 for a model that takes batches.
        A fitted object that takes frames gets up to 2,048 in calls of at most ``batch_budget_s``,
        if there is no window.
    batch_window_s : float
        The time to wait for a batch to fill. 0 takes the events that are there.
    adaptive : bool
        Whether to learn the number of events a call from measured run times. It is the number with
        the highest throughput whose calls take at most ``batch_budget_s``. ``batch_size`` is its
        limit. For models that take batches. ``batch="adaptive"`` sets it.
    batch_budget_s : float
        The longest call of an adaptive batch, and of one that is larger than 32 by default.
    max_concurrency : int, optional
        The most calls at the same time in one listener. Default: 1 for Python, which may not be
        thread-safe, 64 for ``async def``, 8 for servers.
    max_rate_per_s : float, optional
        The most events that one listener begins a second, on average. At most one second's worth
        begins at once.
        In all processes together: ``max_rate_per_s_total``.
    key : str, optional
        The path of the key in the data, with dots, such as ``"tenant"`` or ``"order.tenant"``.
        ``"subject"``, ``"type"`` and ``"source"`` are those attributes of the event. Another name
        that the data do not have is an extension. ``"data.type"`` looks only at the data. Keys take
        turns, so that one with many events does not hold up the others. Events without the key
        share one. Canaries and shadows choose by the key, so that all its events go to one version.
    max_concurrency_per_key : int, optional
        The most events of one key that are worked on at the same time, in all processes. It needs
        ``key``. A batch counts with all its events. Shadows, replays, corrections and direct calls
        have no such limits.
    max_rate_per_s_total : float, optional
        The most events that begin a second, on average, in all processes. At most one second's
        worth begins at once. Retries count.
    priority : str, optional
        The path of a number, as for ``key``. The highest number goes first, an event without a
        number last. Each fourth event is the one that waits longest, if that is more than a minute.
        So no event waits for ever. With a ``key`` this is the order within each key.
    max_age_s : float, optional
        The age after which an event is not given to the model. It ends as ``skipped``, ``expired``.
    isolation : {"thread", "process"}
        The place of the model. In a thread a call that takes too long cannot be stopped. It is
        recorded, its slot is replaced, and the leftover is counted. A process of its own is killed
        with all its children. Its globals of a notebook are those of the moment of subscribing.
    memory_limit_mb : int, optional
        The most address space of a model's own process, in MiB (``RLIMIT_AS``). It needs
        ``isolation="process"``.
    ack : {"completed", "accepted"}
        The moment when an outside queue deletes its message: after the outcome, or after the event
        itself, is durable in the log. After ``accepted`` the log alone keeps the event. No other
        bus can take it over.
    input : {"json", "text"}
        The default content of messages in an outside queue. A message that is not JSON is dead, or
        delivered as ``str``.
    unwrap : int
        The number of SNS notifications around a message that are taken off. 0 leaves them.
    max_object_mb : int
        The largest object that ``event.open()`` opens, in MiB. A larger one is dead,
        ``object_too_large``.
    settle_s : float
        The time that a file of a watched folder must stay unchanged to be complete. A slow upload
        that pauses longer needs more, or another name and a rename at the end. 0 takes every file
        at once. The longest time of a folder's subscriptions holds.
    max_descendants : int
        The most events that one event may cause in all, through ``emit`` and publishing models. An
        event with one more output is dead, ``too_many_descendants``. So topics that feed each other
        come to an end.
    corrections : {"skip", "take"}
        Whether the model gets events that replace outputs of another model, see ``sub.correct``.
        Take them if the same output may come again with other data: an upsert. Otherwise they end
        as ``skipped``, ``correction``.
    """

    timeout_s: float = 60.0
    lease_s: float | None = None
    max_attempts: int = 5
    batch_size: int | None = None
    batch_window_s: float = 0.0
    adaptive: bool = False
    batch_budget_s: float = 0.25
    max_concurrency: int | None = None
    max_rate_per_s: float | None = None
    max_age_s: float | None = None
    isolation: Isolation = "thread"
    memory_limit_mb: int | None = None
    ack: Ack = "completed"
    input: Input = "json"
    unwrap: int = 1
    max_object_mb: int = 1024
    max_descendants: int = 10_000
    settle_s: float = 0.3
    corrections: Corrections = "skip"
    key: str | None = None
    max_concurrency_per_key: int | None = None
    max_rate_per_s_total: float | None = None
    priority: str | None = None

    def __post_init__(self) -> None:
        if problems := list(self._problems()):
            raise InvalidPolicy("invalid delivery policy: " + "; ".join(problems))

    def _problems(self) -> list[str]:
        ranges: list[tuple[str, Any, float, float]] = [
            ("timeout_s", self.timeout_s, 0.001, 12 * 3600),
            ("lease_s", self.lease_s, 0.05, 12 * 3600),
            ("batch_window_s", self.batch_window_s, 0, 300),
            ("batch_budget_s", self.batch_budget_s, 0.001, 3600),
            ("max_attempts", self.max_attempts, 1, 1000),
            ("batch_size", self.batch_size, 1, 10_000),
            ("max_concurrency", self.max_concurrency, 1, 1000),
            ("max_rate_per_s", self.max_rate_per_s, *RATES_PER_S),
            ("max_concurrency_per_key", self.max_concurrency_per_key, 1, 1_000_000),
            ("max_rate_per_s_total", self.max_rate_per_s_total, *RATES_PER_S),
            ("max_age_s", self.max_age_s, 0.001, MAX_DELAY_S),
            ("memory_limit_mb", self.memory_limit_mb, 16, 1 << 30),
            ("unwrap", self.unwrap, 0, 5),
            ("max_object_mb", self.max_object_mb, 1, 5 << 20),
            ("max_descendants", self.max_descendants, 1, 1_000_000_000),
            ("settle_s", self.settle_s, 0, 24 * 3600),
        ]
        optional = {field.name for field in dataclasses.fields(self) if field.default is None}
        found = []
        for name, value, low, high in ranges:
            if value is None and name in optional:
                continue
            whole = not name.removesuffix("_total").endswith("_s")
            if not within(value, int if whole else (int, float), low, high):
                found.append(
                    f"{name} must be {'a whole number ' if whole else ''}from {low:g} to {high:g},"
                    f" got {value!r}"
                )
        if not found and self.lease < self.batch_window_s:
            found.append(
                f"lease_s ({self.lease:g}) must be longer than batch_window_s"
                f" ({self.batch_window_s:g})"
            )
        for name, value, choice in (
            ("isolation", self.isolation, Isolation),
            ("ack", self.ack, Ack),
            ("input", self.input, Input),
            ("corrections", self.corrections, Corrections),
        ):
            if value not in get_args(choice):
                found.append(
                    f"{name} must be {' or '.join(map(repr, get_args(choice)))}, got {value!r}"
                )
        if self.memory_limit_mb is not None and self.isolation == "thread":
            found.append("memory_limit_mb needs isolation='process': threads share their memory")
        return found + self._problems_of_paths()

    def _problems_of_paths(self) -> list[str]:
        found = [
            f"{name} must be a path such as 'order.tenant', got {path!r:.80}"
            for name, path in (("key", self.key), ("priority", self.priority))
            if path is not None and not _is_path(path)
        ]
        if self.max_concurrency_per_key is not None and self.key is None:
            found.append(
                "max_concurrency_per_key needs a key: name its path in the data, such as"
                " key='tenant'"
            )
        return found

    def _repr_html_(self) -> str:
        return card_of("DeliveryPolicy", self)

    @property
    def lease(self) -> float:
        """The lease in seconds: as given, else twice the timeout."""
        return self.lease_s if self.lease_s is not None else 2 * self.timeout_s

    def to_json(self) -> str:
        """Return the policy as JSON text, for the registry."""
        return json.dumps(dataclasses.asdict(self))

    @classmethod
    def from_json(cls, text: str) -> DeliveryPolicy:
        """Return the policy of :meth:`to_json`. Settings of newer releases are ignored."""
        known = {f.name for f in dataclasses.fields(cls)}
        return cls(**{name: value for name, value in json.loads(text).items() if name in known})

    @classmethod
    def of(cls, settings: Mapping[str, Any]) -> DeliveryPolicy:
        """Return a policy with *settings*. A wrong name lists the near ones."""
        known = [f.name for f in dataclasses.fields(cls)]
        for name in settings:
            if name not in known:
                raise InvalidPolicy.of("delivery setting", name, known)
        return cls(**settings)


class Settings(TypedDict, total=False):
    """The settings of a :class:`DeliveryPolicy` as keyword arguments, for type checkers."""

    timeout_s: float
    lease_s: float | None
    max_attempts: int
    batch_size: int | None
    batch_window_s: float
    adaptive: bool
    batch_budget_s: float
    max_concurrency: int | None
    max_rate_per_s: float | None
    max_age_s: float | None
    isolation: Isolation
    memory_limit_mb: int | None
    ack: Ack
    input: Input
    unwrap: int
    max_object_mb: int
    max_descendants: int
    settle_s: float
    corrections: Corrections
    key: str | None
    max_concurrency_per_key: int | None
    max_rate_per_s_total: float | None
    priority: str | None


def within(value: Any, kinds: Any, low: float, high: float) -> bool:
    """Whether *value* is a number of *kinds* from *low* to *high*."""
    return isinstance(value, kinds) and not isinstance(value, bool) and bool(low <= value <= high)


def _is_path(path: Any) -> bool:
    return isinstance(path, str) and len(path) <= _LONGEST_PATH and all(path.split("."))


def charged(abandoned: int) -> int:
    """Return the count of abandoned attempts after one more that ran alone."""
    return max(0, abandoned) + 1


def cleared(abandoned: int, before: int) -> int:
    """Return the count of abandoned attempts without one that was :func:`charged` but ended.

    *before* is the count before that attempt.
    """
    return abandoned - 1 if abandoned > 1 else min(before, 0)


def backoff_s(failures: int, uniform: Callable[[float, float], float] = random.uniform) -> float:
    """Return the seconds to wait after the *failures*-th failure.

    Exponential with full jitter, base 1 s, cap 900 s. See "Exponential Backoff And Jitter", AWS
    Architecture Blog, 2015: full jitter does the least work in the least time.
    """
    return uniform(0.0, min(BACKOFF_CAP_S, BACKOFF_BASE_S * 2.0 ** min(failures - 1, 30)))


def retry_budget_s(max_attempts: int) -> float:
    """Return the longest total wait of an event between its attempts, in seconds.

    It is the sum of the upper bounds of the backoff.
    """
    return sum(backoff_s(failures, lambda _, high: high) for failures in range(1, max_attempts))


class Subscribing(Settings, total=False):
    """The keyword arguments of ``EventBus.subscribe``, for type checkers."""

    name: str | None
    version: str | None
    batch: bool | str | None
    executor: Executing | None
    emit: str | None
    filter: Mapping[str, Any] | str | None
    filter_scope: str
    start: str | None
    listen: bool
    on: Sequence[str] | str | None
    fields: Sequence[str] | str | None
    rebind: bool


def keywords_of(other: Callable[..., Any]) -> Callable[[F], F]:
    """Show the parameters of *other* in the signature of a function that takes ``**options``."""

    def shown(function: F) -> F:
        signature = inspect.signature(function)
        own = {n: p for n, p in signature.parameters.items() if p.kind is not p.VAR_KEYWORD}
        keywords = [
            p.replace(kind=p.KEYWORD_ONLY)
            for name, p in inspect.signature(other).parameters.items()
            if name not in own
        ]
        parameters = [*own.values(), *keywords]
        function.__signature__ = signature.replace(parameters=parameters)  # type: ignore[attr-defined]
        return function

    return shown
