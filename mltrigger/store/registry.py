"""The registry: topics, model versions, aliases, subscriptions, sources, and live processes."""

from __future__ import annotations

import dataclasses
import functools
import json
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from semver import Version as SemVersion

from mltrigger.broker import SubscriptionSpec
from mltrigger.clock import Clock
from mltrigger.filters import FilterPolicy
from mltrigger.policy import DeliveryPolicy
from mltrigger.store.damage import ERRORS, damaged, numbers, texts
from mltrigger.store.retention import Retention
from mltrigger.store.timekeeper import ALIVE_US, bring_forward
from mltrigger.store.transaction import Row, Store, Transaction
from mltrigger.versions.selector import Selector
from mltrigger.versions.version import ModelVersion

_FORGOTTEN_US = 86_400_000_000
_FORGET_DEAD = """
DELETE FROM listener WHERE worker_id IN (SELECT id FROM worker WHERE seen_us < :then)
"""
_TOPIC_COUNTS = """
SELECT t.name, (SELECT count(*) FROM event e WHERE e.topic_id = t.id),
  (SELECT count(*) FROM subscription s WHERE s.topic_id = t.id AND s.bound = 1
    AND s.parent_id IS NULL),
  (SELECT published_us FROM event
    WHERE seq = (SELECT max(seq) FROM event e WHERE e.topic_id = t.id))
FROM topic t ORDER BY t.id
"""
_SOURCE_TOPIC = """
SELECT t.name FROM source s JOIN topic t ON t.id = s.topic_id WHERE s.url = :url
"""
_SPECS = """
SELECT s.name, t.name, s.selector, s.policy, e.name, s.filter, s.filter_scope, s.id, s.role,
  coalesce(s.parent_id, 0), coalesce(s.lane, '')
FROM subscription s JOIN topic t ON t.id = s.topic_id
LEFT JOIN topic e ON e.id = s.emit_topic_id
WHERE s.bound = 1
"""
_VERSIONS = """
SELECT name, version, kind, digest, import_path, description, created_us, id, address, options,
  input_schema, output_schema
FROM model_version
"""
_REGISTER = """
INSERT INTO model_version (name, version, kind, digest, import_path, description, created_us,
  address, options, input_schema, output_schema)
VALUES (:name, :version, :kind, :digest, :import_path, :description, :created_us,
  :address, :options, :input_schema, :output_schema)
"""
_SET_ALIAS = """
INSERT INTO model_alias (name, alias, version, follows)
VALUES (:name, :alias, :version, :follows)
ON CONFLICT (name, alias) DO UPDATE SET
  version = excluded.version, follows = excluded.follows
"""
_FOLLOW = """
UPDATE model_alias SET version = :version
WHERE name = :name AND alias = :alias AND follows = :follows
"""
_GENERATION = "SELECT value FROM setting WHERE name = 'generation'"
_NEXT_GENERATION = """
INSERT INTO setting (name, value) VALUES ('generation', '1')
ON CONFLICT (name) DO UPDATE SET value = CAST(CAST(setting.value AS BIGINT) + 1 AS TEXT)
"""
_SET = """
INSERT INTO setting (name, value) VALUES (:name, :value)
ON CONFLICT (name) DO UPDATE SET value = excluded.value
"""
_JOIN = "INSERT INTO worker (started_us, seen_us) VALUES (:now, :now) RETURNING id"
_PLACE = "UPDATE worker SET place = :place WHERE id = :id"
_LISTEN = "INSERT INTO listener (subscription_id, worker_id) VALUES (:s, :w) ON CONFLICT DO NOTHING"
_STOP_LISTENING = "DELETE FROM listener WHERE subscription_id = :s AND worker_id = :w"
_LIVE = """
SELECT l.subscription_id, count(*) FROM listener l JOIN worker w ON w.id = l.worker_id
WHERE w.seen_us > :then GROUP BY l.subscription_id
"""


class TopicCount(NamedTuple):
    """A topic: its events, its bound subscriptions, and when the newest event was published."""

    name: str
    events: int
    subscriptions: int
    newest_us: int | None


class Registry:
    """Everything that has a name, for all processes that share the store."""

    def __init__(self, store: Store, clock: Clock) -> None:
        self._store, self._clock = store, clock
        self._time = store.timekeeper(clock)

    # -- topics and sources ------------------------------------------------------------------------

    def topic(self, name: str) -> None:
        """Make topic *name* exist. Safe to repeat."""
        with self._store.transaction() as transaction:
            ensure_topic(transaction, name, self._clock.now_us())

    def topics(self) -> list[str]:
        """Return the names of all topics, the oldest first."""
        return [name for (name,) in self._store.read("SELECT name FROM topic ORDER BY id")]

    def topic_counts(self) -> list[TopicCount]:
        """Return the counts of every topic, the oldest first."""
        return list(map(TopicCount._make, self._store.read(_TOPIC_COUNTS)))

    def source_topic(self, url: str, *wanted: str) -> str:
        """Return the topic for events of source *url*. It is chosen once.

        It is the first free name of *wanted*, or the first one with a number.
        """
        with self._store.transaction() as transaction:
            for (known,) in transaction.query(_SOURCE_TOPIC, {"url": url}):
                return str(known)
            taken = {name for (name,) in transaction.query("SELECT name FROM topic", {})}
            numbered = (f"{wanted[0]}-{n}" for n in range(2, len(taken) + 3))
            name = next(n for n in (*wanted, *numbered) if n not in taken)
            topic_id = ensure_topic(transaction, name, self._clock.now_us())
            transaction.execute(
                "INSERT INTO source (url, topic_id) VALUES (:url, :topic_id)",
                {"url": url, "topic_id": topic_id},
            )
            return name

    def sources(self) -> dict[str, str]:
        """Return the URL of every source by its topic."""
        return dict(
            self._store.read("SELECT t.name, s.url FROM source s JOIN topic t ON t.id = s.topic_id")
        )

    # -- models ------------------------------------------------------------------------------------

    def register(self, version: ModelVersion) -> ModelVersion:
        """Add *version* unless its name and version exist. Return the registered one."""
        with self._store.transaction() as transaction:
            key = {"name": version.name, "version": version.version}
            one = f"{_VERSIONS} WHERE name = :name AND version = :version"
            rows = transaction.query(one, key)
            if not rows:
                transaction.execute(
                    _REGISTER, {**dataclasses.asdict(version), "created_us": self._clock.now_us()}
                )
                next_generation(transaction)
                rows = transaction.query(one, key)
            return _version(rows[0])

    def versions(self, name: str | None = None) -> list[ModelVersion]:
        """Return the registered versions of *name*, or of all models, oldest first."""
        where = "WHERE name = :name" if name is not None else ""
        rows = self._store.read(f"{_VERSIONS} {where} ORDER BY id", {"name": name})
        return [_version(row) for row in rows]

    def aliases(self, name: str | None = None) -> dict[tuple[str, str], str]:
        """Return the version by model and alias."""
        where = "WHERE name = :name" if name is not None else ""
        rows = self._store.read(
            f"SELECT name, alias, version, follows FROM model_alias {where}", {"name": name}
        )
        return dict(map(_alias, rows))

    def set_alias(self, name: str, alias: str, version: str, follows: str | None = None) -> None:
        """Point *alias* of model *name* to *version*.

        *follows* names the foreign alias that it repeats.
        """
        with self._store.transaction() as transaction:
            move_alias(transaction, name, alias, version, follows)

    def follow(self, name: str, alias: str, version: str, follows: str) -> None:
        """Point *alias* to *version* if it still follows *follows*.

        It may have been set by hand meanwhile.
        """
        given = {"name": name, "alias": alias, "version": version, "follows": follows}
        with self._store.transaction() as transaction:
            transaction.execute(_FOLLOW, given)
            next_generation(transaction)

    def followed(self, selector: Selector) -> str | None:
        """Return the foreign alias that the alias of *selector* follows, ``None`` without one."""
        rows = self._store.read(
            "SELECT follows FROM model_alias WHERE name = :name AND alias = :alias",
            {"name": selector.name, "alias": selector.alias},
        )
        return next((follows for (follows,) in rows), None)

    # -- subscriptions -----------------------------------------------------------------------------

    def subscriptions(self, role: str | None = "live") -> list[SubscriptionSpec]:
        """Return the bound subscriptions of that role, oldest first. ``None`` stands for all.

        Lanes are none, see :meth:`lanes`.
        """
        where = "AND s.parent_id IS NULL" if role is None else "AND s.role = :role"
        rows = self._store.read(f"{_SPECS} {where} ORDER BY s.id", {"role": role})
        return [_spec(row) for row in rows]

    def lanes(self) -> list[SubscriptionSpec]:
        """Return the open lanes of all subscriptions, oldest first."""
        return [
            *map(_spec, self._store.read(f"{_SPECS} AND s.parent_id IS NOT NULL ORDER BY s.id"))
        ]

    def subscription(self, name: str) -> SubscriptionSpec | None:
        """Return the bound subscription *name*, ``None`` when there is none."""
        rows = self._store.read(f"{_SPECS} AND s.name = :name", {"name": name})
        return _spec(rows[0]) if rows else None

    def paused(self) -> set[int]:
        """Return the ids of the paused subscriptions."""
        rows = self._store.read("SELECT id FROM subscription WHERE paused = 1")
        return {number for (number,) in rows}

    def generation(self) -> str:
        """Return the current generation of the registry. See :func:`next_generation`."""
        return next((str(value) for (value,) in self._store.read(_GENERATION)), "")

    # -- settings ----------------------------------------------------------------------------------

    def setting(self, name: str) -> Any:
        """Return a setting of the bus, ``None`` when it was never set."""
        rows = self._store.read("SELECT value FROM setting WHERE name = :name", {"name": name})
        try:
            return next((json.loads(value) for (value,) in rows), None)
        except ERRORS as error:
            raise damaged("setting", repr(name), error) from error

    def retention(self) -> Retention:
        """Return how long events are kept, for all processes that share the store."""
        try:
            return Retention(**(self.setting("retention") or {}))
        except ERRORS as error:
            raise damaged("setting", "'retention'", error) from error

    def set_setting(self, name: str, value: Mapping[str, Any]) -> None:
        """Keep a setting of the bus, for all processes that share the store."""
        with self._store.transaction() as transaction:
            transaction.execute(_SET, {"name": name, "value": json.dumps(value)})

    def settings(self, prefix: str) -> dict[str, Any]:
        """Return the settings whose names begin with *prefix*."""
        rows = self._store.read(
            "SELECT name, value FROM setting WHERE substr(name, 1, :n) = :prefix ORDER BY name",
            {"n": len(prefix), "prefix": prefix},
        )
        try:
            return {name: json.loads(value) for name, value in rows}
        except ERRORS as error:
            raise damaged("setting", repr(prefix), error) from error

    def drop_setting(self, name: str) -> bool:
        """Delete a setting. Return whether it was there."""
        with self._store.transaction() as transaction:
            return bool(
                transaction.execute("DELETE FROM setting WHERE name = :name", {"name": name})
            )

    # -- live processes, and their time ------------------------------------------------------------

    def follow_clock(self) -> None:
        """Take over the time of earlier processes.

        A wall clock that was set back meanwhile must not make leases longer.
        """
        self._time.follow(self._store)

    def join(self, hold: Callable[[int], str | None] = lambda _: None) -> int:
        """Return a new worker number for this process.

        *hold* locks that number for as long as the process lives. It returns the lock's place.
        """
        with self._store.transaction() as transaction:
            self._time.keep(transaction)
            now_us = self._clock.now_us()
            bring_forward(transaction, now_us)
            transaction.execute(_FORGET_DEAD, {"then": now_us - _FORGOTTEN_US})
            ((number,),) = transaction.query(_JOIN, {"now": now_us})
            if (place := hold(number)) is not None:
                transaction.execute(_PLACE, {"id": number, "place": place})
            return int(number)

    def seen(self, worker_id: int) -> None:
        """Record that this process is alive."""
        with self._store.transaction(durable=False) as transaction:
            self._time.keep(transaction)
            transaction.execute(
                "UPDATE worker SET seen_us = :now WHERE id = :id",
                {"now": self._clock.now_us(), "id": worker_id},
            )

    def listening(self, subscription_id: int, worker_id: int, on: bool) -> None:
        """Record whether this process listens for a subscription."""
        with self._store.transaction(durable=False) as transaction:
            transaction.execute(
                _LISTEN if on else _STOP_LISTENING, {"s": subscription_id, "w": worker_id}
            )

    def live_listeners(self) -> dict[int, int]:
        """Return how many processes listen now, by subscription id."""
        rows = self._store.read(_LIVE, {"then": self._clock.now_us() - ALIVE_US})
        return {subscription_id: int(n) for subscription_id, n in rows}


def ensure_topic(transaction: Transaction, name: str, now_us: int) -> int:
    """Return the id of topic *name*, and make it first if it does not exist."""
    transaction.execute(
        "INSERT INTO topic (name, created_us) VALUES (:name, :now) ON CONFLICT (name) DO NOTHING",
        {"name": name, "now": now_us},
    )
    ((number,),) = transaction.query("SELECT id FROM topic WHERE name = :name", {"name": name})
    return int(number)


def move_alias(
    transaction: Transaction, name: str, alias: str, version: str, follows: str | None = None
) -> None:
    """Point *alias* of model *name* to *version*, see :meth:`Registry.set_alias`."""
    given = {"name": name, "alias": alias, "version": version, "follows": follows}
    transaction.execute(_SET_ALIAS, given)
    next_generation(transaction)


def next_generation(transaction: Transaction) -> None:
    """Count a change of selectors or subscriptions.

    Listeners that claim with an earlier generation read the registry first.
    """
    transaction.execute(_NEXT_GENERATION, {})


# -- from rows to values ---------------------------------------------------------------------------


def filter_of(text: str | None, scope: Any, table: str, row: object) -> FilterPolicy | None:
    """Return the filter of a *row* of *table*. It is compiled once in a process."""
    if text is None:
        return None
    try:
        texts(text, scope)
        return _compiled(text, scope)
    except ERRORS as error:
        raise damaged(table, row, error) from error


@functools.lru_cache(maxsize=1024)
def _compiled(text: str, scope: Any) -> FilterPolicy:
    return FilterPolicy.parse(text, scope)


def _spec(row: Row) -> SubscriptionSpec:
    name, topic, selector, policy, emit, filter_text, scope, number, role, parent_id, lane = row
    named = f"{number} ({name!r:.60})"
    try:
        texts(name, topic, selector, emit, role, lane)
        Selector.parse(selector)
        agreed = DeliveryPolicy.from_json(policy)
    except ERRORS as error:
        raise damaged("subscription", named, error) from error
    passing = filter_of(filter_text, scope, "subscription", named)
    return SubscriptionSpec(
        *(name, topic, selector, agreed, emit, passing, number, role), parent_id, lane
    )


@functools.lru_cache(maxsize=4096)
def _version(row: Row) -> ModelVersion:
    """Return the version of a row of ``_VERSIONS``. It is checked once in a process."""
    v = ModelVersion(*row)
    try:
        texts(v.name, v.version, v.kind, v.digest, v.import_path, v.description, v.address)
        numbers(v.created_us)
        SemVersion.parse(v.version)
        for text in (v.options, v.input_schema, v.output_schema):
            if text is not None and not isinstance(json.loads(text), dict):
                raise ValueError(f"an object expected, got {text!r:.60}")
    except ERRORS as error:
        raise damaged("model_version", v.id, error) from error
    return v


def _alias(row: Row) -> tuple[tuple[str, str], str]:
    name, alias, version, follows = row
    try:
        texts(name, alias, version, follows)
        SemVersion.parse(version)
        if follows is not None:
            _address, _given, _takes, _gives = json.loads(follows)
    except ERRORS as error:
        raise damaged("model_alias", f"{name!r:.60}@{alias!r:.60}", error) from error
    return (name, alias), version
