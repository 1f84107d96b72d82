"""Placing: the key and the priority of an event, and its place among those that wait.

A subscription with a key or a priority has its due events in ``keyed``. Its keys take turns, see
:mod:`mltrigger.store.turns`.
"""

from __future__ import annotations

import functools
import hashlib
import math
import sys
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple, Protocol

from mltrigger.errors import InvalidPolicy
from mltrigger.event.event import Event, attributes_of
from mltrigger.policy import DeliveryPolicy
from mltrigger.store.damage import ERRORS, damaged
from mltrigger.store.transaction import Row, Transaction

NO_KEY = ""
"""The key of events without one. They share it."""
LAST = sys.float_info.max
"""The rank of an event without a priority."""
FIRST_TURN = 4
"""How many events the first turn of a new key has. Later turns have one.

So a key with a few events waits for less than twice as long as alone, beside one that floods.
"""
_ATTRIBUTES = ("subject", "type", "source")
_LONGEST = 200
INSERT_KEYED = """
INSERT INTO keyed (subscription_id, key, rank, visible_us, seq, attempt, failures, abandoned,
  aged_us)
VALUES (:subscription_id, :key, :rank, :visible_us, :seq, :attempt, :failures, :abandoned,
  :aged_us)
ON CONFLICT DO NOTHING
"""
_NEW_KEY = f"""
INSERT INTO turn (subscription_id, key, turn, bonus)
SELECT :s, :key, turn, {FIRST_TURN - 1} FROM pace WHERE subscription_id = :pace
ON CONFLICT DO NOTHING
"""


class Looked(Protocol):
    """An event as a filter sees it."""

    @property
    def attributes(self) -> Mapping[str, Any]:
        """The context attributes by name."""

    @property
    def body(self) -> Any:
        """The data as plain JSON, else None."""


class Path(NamedTuple):
    """A path in the data, or the name of an attribute."""

    attribute: str | None
    """Looked at if the data have no such path."""
    parts: tuple[str, ...]
    """Empty for an attribute that no data replace."""

    @classmethod
    def of(cls, text: str) -> Path:
        """Return the path of *text*, such as ``order.tenant``, ``data.type`` or ``subject``."""
        if text in _ATTRIBUTES:
            return cls(text, ())
        parts = tuple(text.split("."))
        if parts[0] == "data" and len(parts) > 1:
            return cls(None, parts[1:])
        return cls(text, parts)

    def found(self, looked: Looked) -> Any:
        """Return the value there, ``None`` without one."""
        if self.parts:
            value: Any = looked.body
            for part in self.parts:
                value = value.get(part) if isinstance(value, dict) else None
            if value is not None:
                return value
        return looked.attributes.get(self.attribute) if self.attribute else None


def key_text(value: Any) -> str | None:
    """Return a value as a key: a text, a number or a truth value. ``None`` for others."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, float):
        value = int(value) if value.is_integer() else value
    if not isinstance(value, (str, int, float)):
        return None
    text = str(value)
    if len(text) > _LONGEST:
        digest = hashlib.blake2b(text.encode(errors="replace"), digest_size=8).hexdigest()
        text = f"{text[: _LONGEST - 20]}…{digest}"
    return text


def rank_of(value: Any) -> float:
    """Return the rank of a priority. The lowest rank goes first, that of no number last."""
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return LAST
    try:
        number = float(value)
    except OverflowError:
        return LAST
    return -number if math.isfinite(number) else LAST


class Placing(NamedTuple):
    """The settings of a subscription that decide on places."""

    key: Path | None
    priority: Path | None

    @property
    def reads_attributes(self) -> bool:
        """Whether it looks at attributes first."""
        return any(path is not None and not path.parts for path in self)

    @classmethod
    def of(cls, policy: DeliveryPolicy) -> Placing | None:
        """Return the placing of *policy*, ``None`` if it has neither key nor priority."""
        if policy.key is None and policy.priority is None:
            return None
        key, priority = policy.key, policy.priority
        return cls(Path.of(key) if key else None, Path.of(priority) if priority else None)

    def place(self, looked: Looked) -> tuple[str, float, bool]:
        """Return the key and the rank of an event, and whether ranks count."""
        key = key_text(_found(self.key, looked)) or NO_KEY
        if self.priority is None:
            return key, 0.0, False
        return key, rank_of(_found(self.priority, looked)), True

    def row(self, looked: Looked, waiting: Row) -> Row:
        """Return the row of ``keyed`` for a row of ``ready``."""
        key, rank, counts = self.place(looked)
        s, visible_us, *rest = waiting
        return (s, key, rank, visible_us, *rest, visible_us if counts else None)


def _found(path: Path | None, looked: Looked) -> Any:
    try:
        return path.found(looked) if path is not None else None
    except ERRORS:  # a damaged event is found out when it is delivered
        return None


class _Open:
    """An event with its decoded data."""

    __slots__ = ("_event",)

    def __init__(self, event: Event) -> None:
        self._event = event

    @property
    def attributes(self) -> Mapping[str, Any]:
        return attributes_of(self._event)

    @property
    def body(self) -> Any:
        return self._event.data


def event_key(event: Event, path: str | None) -> str | None:
    """Return the key of *event* at *path*, ``None`` without one."""
    return key_text(Path.of(path).found(_Open(event))) if path is not None else None


def placing_of(settings: str, subscription_id: int) -> Placing | None:
    """Return the placing of a subscription in the registry. It is read once in a process."""
    try:
        return _placing_of(settings)
    except ERRORS as error:
        raise damaged("subscription", subscription_id, error) from error


@functools.lru_cache(maxsize=1024)
def _placing_of(settings: str) -> Placing | None:
    return Placing.of(DeliveryPolicy.from_json(settings))


def check_outside(policy: DeliveryPolicy) -> None:
    """Refuse the settings that cannot hold for deliveries of a queue outside.

    Raises
    ------
    InvalidPolicy
        For a priority and for limits over all processes. A key alone is allowed: canaries and
        shadows choose by it.
    """
    given = {
        "priority": policy.priority,
        "max_concurrency_per_key": policy.max_concurrency_per_key,
        "max_rate_per_s_total": policy.max_rate_per_s_total,
    }
    if asked := [name for name, value in given.items() if value is not None]:
        raise InvalidPolicy(
            f"{', '.join(asked)} cannot hold on aws://: SQS decides which event comes next, and to"
            " which process; leave it out, take a FIFO topic for one event of a group at a time, or"
            " deliver from a log in a SQL database"
        )


def insert(transaction: Transaction, rows: Iterable[Row]) -> None:
    """Write rows of ``keyed``. Their keys get a turn."""
    keyed = list(rows)
    transaction.insert(INSERT_KEYED, keyed)
    transaction.execute_many(_NEW_KEY, [(s, key, s) for s, key in {row[:2] for row in keyed}])
