"""The registry: what exists.

Topics, model versions, aliases, subscriptions, sources, and who is alive.
"""

from __future__ import annotations

import dataclasses
import functools
import ipaddress
import json
from collections.abc import Mapping
from typing import Any

from semver import Version as SemVersion

from mltrigger.broker import SubscriptionSpec
from mltrigger.clock import Clock
from mltrigger.errors import InvalidFilter
from mltrigger.filters import FilterPolicy
from mltrigger.policy import DeliveryPolicy
from mltrigger.store.damage import ERRORS, damaged, numbers, texts
from mltrigger.store.retention import Retention
from mltrigger.store.timekeeper import ALIVE_US, Timekeeper, bring_forward
from mltrigger.store.transaction import Row, Store, Transaction
from mltrigger.versions.selector import Selector
from mltrigger.versions.version import ModelVersion

_FORGOTTEN_US = 86_400_000_000
_FORGET_DEAD = (
    "DELETE FROM listener WHERE worker_id IN (SELECT id FROM worker WHERE seen_us < :then)"
)

_SPECS = """
SELECT s.name, t.name, s.selector, s.policy, e.name, s.filter, s.filter_scope, s.id FROM subscription s JOIN topic t ON t.id = s.topic_id
LEFT JOIN topic e ON e.id = s.emit_topic_id WHERE s.bound = 1
"""
_COLUMNS = (
    "name, version, kind, digest, import_path, description, created_us, id, address, options,"
    " input_schema, output_schema"
)
_VERSIONS = f"SELECT {_COLUMNS} FROM model_version"
_GENERATION = "SELECT value FROM setting WHERE name = 'generation'"
_NEXT_GENERATION = """
INSERT INTO setting (name, value) VALUES ('generation', '1')
ON CONFLICT (name) DO UPDATE SET value = CAST(CAST(setting.value AS BIGINT) + 1 AS TEXT)
"""
_REGISTER = """
INSERT INTO model_version (name, version, kind, digest, import_path, description, created_us, address, options, input_schema, output_schema)
VALUES (:name, :version, :kind, :digest, :import_path, :description, :created_us, :address, :options, :input_schema, :output_schema)
"""


class Registry:
    """What exists, for every process that shares the store."""

    def __init__(self, store: Store, clock: Clock) -> None:
        self._store, self._clock = store, clock
        self._time = Timekeeper(clock)

    # -- topics and sources ------------------------------------------------------------------------

    def topic(self, name: str) -> None:
        """Make topic *name* exist; idempotent."""
        with self._store.transaction() as transaction:
            ensure_topic(transaction, name, self._clock.now_us())

    def topics(self) -> list[str]:
        """Return the names of all topics, in the order in which they were made."""
        return [name for (name,) in self._store.read("SELECT name FROM topic ORDER BY id")]

    def topic_counts(self) -> list[Row]:
        """Return (name, events, subscriptions, published_us of the newest event) of every topic."""
        return self._store.read(
            "SELECT t.name, (SELECT count(*) FROM event e WHERE e.topic_id = t.id), (SELECT"
            " count(*) FROM subscription s WHERE s.topic_id = t.id AND s.bound = 1), (SELECT"
            " max(published_us) FROM event e WHERE e.topic_id = t.id) FROM topic t ORDER BY t.id"
        )

    def source_topic(self, url: str, *wanted: str) -> str:
        """Return the topic that events of source *url* are published to: the first *wanted* that is
        free, or the first with a number.
        """
        with self._store.transaction() as transaction:
            found = transaction.query(
                "SELECT t.name FROM source s JOIN topic t ON t.id = s.topic_id WHERE s.url = :url",
                {"url": url},
            )
            if found:
                return str(found[0][0])
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
        """Return topic -> URL of every source."""
        return dict(
            self._store.read("SELECT t.name, s.url FROM source s JOIN topic t ON t.id = s.topic_id")
        )

    # -- models ------------------------------------------------------------------------------------

    def register(self, version: ModelVersion) -> ModelVersion:
        """Add *version* unless its name and version exist, and return the registered one."""
        with self._store.transaction() as transaction:
            key = {"name": version.name, "version": version.version}
            rows = transaction.query(_VERSIONS + " WHERE name = :name AND version = :version", key)
            if not rows:
                transaction.execute(
                    _REGISTER, {**dataclasses.asdict(version), "created_us": self._clock.now_us()}
                )
                next_generation(transaction)
                rows = transaction.query(
                    _VERSIONS + " WHERE name = :name AND version = :version", key
                )
            return _version(rows[0])

    def versions(self, name: str | None = None) -> list[ModelVersion]:
        """Return the registered versions, of *name* or of all models, oldest first."""
        where = " WHERE name = :name" if name is not None else ""
        return [
            _version(row)
            for row in self._store.read(f"{_VERSIONS}{where} ORDER BY id", {"name": name})
        ]

    def aliases(self, name: str | None = None) -> dict[tuple[str, str], str]:
        """Return (model, alias) -> version."""
        where = " WHERE name = :name" if name is not None else ""
        return dict(
            map(
                _alias,
                self._store.read(
                    f"SELECT name, alias, version, follows FROM model_alias{where}", {"name": name}
                ),
            )
        )

    def set_alias(self, name: str, alias: str, version: str, follows: str | None = None) -> None:
        """Point *alias* of model *name* to *version*.

        *follows* names an alias elsewhere that it repeats.
        """
        with self._store.transaction() as transaction:
            transaction.execute(
                "INSERT INTO model_alias (name, alias, version, follows) VALUES (:name, :alias,"
                " :version, :follows) ON CONFLICT (name, alias) DO UPDATE SET version ="
                " excluded.version, follows = excluded.follows",
                {"name": name, "alias": alias, "version": version, "follows": follows},
            )
            next_generation(transaction)

    def follow(self, name: str, alias: str, version: str, follows: str) -> None:
        """Point *alias* to *version*, if it still follows what it did: somebody may have set it by
        hand meanwhile.
        """
        with self._store.transaction() as transaction:
            transaction.execute(
                "UPDATE model_alias SET version = :version WHERE name = :name AND alias = :alias"
                " AND follows = :follows",
                {"name": name, "alias": alias, "version": version, "follows": follows},
            )
            next_generation(transaction)

    def followed(self, selector: Selector) -> str | None:
        """Return what alias elsewhere the alias of *selector* follows, ``None`` when it is our own,
        or none.
        """
        key = {"name": selector.name, "alias": selector.alias}
        rows = self._store.read(
            "SELECT follows FROM model_alias WHERE name = :name AND alias = :alias", key
        )
        return rows[0][0] if rows else None

    # -- subscriptions -----------------------------------------------------------------------------

    def subscriptions(self) -> list[SubscriptionSpec]:
        """Return the bound subscriptions, oldest first."""
        return [_spec(row) for row in self._store.read(_SPECS + " ORDER BY s.id")]

    def subscription(self, name: str) -> SubscriptionSpec | None:
        """Return the bound subscription *name*, ``None`` when there is none."""
        rows = self._store.read(_SPECS + " AND s.name = :name", {"name": name})
        return _spec(rows[0]) if rows else None

    def paused(self) -> set[int]:
        """Return the ids of the subscriptions that are paused."""
        return {
            number for (number,) in self._store.read("SELECT id FROM subscription WHERE paused = 1")
        }

    def generation(self) -> str:
        """Return the registry's generation now; see :func:`next_generation`."""
        rows = self._store.read(_GENERATION)
        return str(rows[0][0]) if rows else ""

    # -- settings ----------------------------------------------------------------------------------

    def setting(self, name: str) -> Any:
        """Return a setting of the bus, ``None`` when it was never set."""
        rows = self._store.read("SELECT value FROM setting WHERE name = :name", {"name": name})
        try:
            return json.loads(rows[0][0]) if rows else None
        except ERRORS as error:
            raise damaged("setting", repr(name), error) from error

    def retention(self) -> Retention:
        """Return how long events are kept, as the processes that share the store agreed."""
        try:
            return Retention(**(self.setting("retention") or {}))
        except ERRORS as error:
            raise damaged("setting", "'retention'", error) from error

    def set_setting(self, name: str, value: Mapping[str, Any]) -> None:
        """Keep a setting of the bus, for every process that shares the store."""
        with self._store.transaction() as transaction:
            _set(transaction, name, value)

    # -- who is alive, and what time it is ---------------------------------------------------------

    def follow_clock(self) -> None:
        """Take over the time of the processes before us: a wall clock that was set back meanwhile
        must not make leases longer.
        """
        self._time.follow(self._store)

    def join(self) -> int:
        """Return a new worker number for this process."""
        with self._store.transaction() as transaction:
            self._time.keep(transaction)
            now_us = self._clock.now_us()
            bring_forward(transaction, now_us)
            transaction.execute(_FORGET_DEAD, {"then": now_us - _FORGOTTEN_US})
            return int(
                transaction.query(
                    "INSERT INTO worker (started_us, seen_us) VALUES (:now, :now) RETURNING id",
                    {"now": now_us},
                )[0][0]
            )

    def seen(self, worker_id: int) -> None:
        """Say that this process is alive."""
        with self._store.transaction(durable=False) as transaction:
            self._time.keep(transaction)
            transaction.execute(
                "UPDATE worker SET seen_us = :now WHERE id = :id",
                {"now": self._clock.now_us(), "id": worker_id},
            )

    def listening(self, subscription_id: int, worker_id: int, on: bool) -> None:
        """Say that this process listens, or no longer listens, for a subscription."""
        sql = (
            "INSERT INTO listener (subscription_id, worker_id) VALUES (:s, :w) ON CONFLICT DO"
            " NOTHING"
            if on
            else "DELETE FROM listener WHERE subscription_id = :s AND worker_id = :w"
        )
        with self._store.transaction(durable=False) as transaction:
            transaction.execute(sql, {"s": subscription_id, "w": worker_id})

    def live_listeners(self) -> dict[int, int]:
        """Return subscription id -> how many processes listen for it now."""
        rows = self._store.read(
            "SELECT l.subscription_id, count(*) FROM listener l JOIN worker w ON w.id = l.worker_id"
            " WHERE w.seen_us > :then GROUP BY 1",
            {"then": self._clock.now_us() - ALIVE_US},
        )
        return {subscription_id: int(n) for subscription_id, n in rows}


def ensure_topic(transaction: Transaction, name: str, now_us: int) -> int:
    """Return the id of topic *name*, made now if need be."""
    transaction.execute(
        "INSERT INTO topic (name, created_us) VALUES (:name, :now) ON CONFLICT (name) DO NOTHING",
        {"name": name, "now": now_us},
    )
    return int(transaction.query("SELECT id FROM topic WHERE name = :name", {"name": name})[0][0])


def generation_of(transaction: Transaction) -> str:
    """Return the generation of the registry as *transaction* sees it."""
    rows = transaction.query(_GENERATION, {})
    return str(rows[0][0]) if rows else ""


def next_generation(transaction: Transaction) -> None:
    """Count a change of what selectors and subscriptions mean; listeners that claim in an earlier
    generation look at it first.
    """
    transaction.execute(_NEXT_GENERATION, {})


def _set(transaction: Transaction, name: str, value: Mapping[str, Any]) -> None:
    transaction.execute(
        "INSERT INTO setting (name, value) VALUES (:name, :value) ON CONFLICT (name) DO UPDATE SET"
        " value = excluded.value",
        {"name": name, "value": json.dumps(value)},
    )


def filter_of(text: str | None, scope: Any, table: str, row: object) -> FilterPolicy | None:
    """Return the filter that a *row* of *table* holds; compiled once in a process."""
    if text is None:
        return None
    try:
        texts(text, scope)
        return _compiled(text, scope)
    except ERRORS as error:
        raise damaged(table, row, error) from error


@functools.lru_cache(maxsize=1024)
def _compiled(text: str, scope: Any) -> FilterPolicy:
    try:
        return FilterPolicy.parse(text, scope)
    except InvalidFilter:
        return FilterPolicy.parse(json.dumps(_of_today(json.loads(text))), scope)


def _of_today(condition: Any) -> Any:
    """Return *condition* of a filter with single addresses as texts: earlier releases took
    ``{"cidr": "10.0.0.1"}`` for them.
    """
    if isinstance(condition, list):
        return [_of_today(one) for one in condition]
    if not isinstance(condition, dict):
        return condition
    if (
        len(condition) == 1
        and ipaddress.ip_network(condition.get("cidr", "0.0.0.0/0"), strict=False).num_addresses
        == 1
    ):
        return condition["cidr"].partition("/")[0]
    return {key: _of_today(inner) for key, inner in condition.items()}


def _spec(row: Row) -> SubscriptionSpec:
    name, topic, selector, policy, emit, filter_text, scope, number = row
    try:
        texts(name, topic, selector, emit)
        Selector.parse(selector)
        agreed = DeliveryPolicy.from_json(policy)
    except ERRORS as error:
        raise damaged("subscription", f"{number} ({name!r:.60})", error) from error
    passing = filter_of(filter_text, scope, "subscription", f"{number} ({name!r:.60})")
    return SubscriptionSpec(name, topic, selector, agreed, emit, passing, number)


@functools.lru_cache(maxsize=4096)
def _version(row: Row) -> ModelVersion:
    """Return the version of a row with ``_COLUMNS``; looked through once in a process."""
    found = ModelVersion(*row)
    try:
        texts(
            found.name,
            found.version,
            found.kind,
            found.digest,
            found.import_path,
            found.description,
            found.address,
        )
        numbers(found.created_us)
        SemVersion.parse(found.version)
        for text in (found.options, found.input_schema, found.output_schema):
            if text is not None and not isinstance(json.loads(text), dict):
                raise ValueError(f"an object expected, got {text!r:.60}")
    except ERRORS as error:
        raise damaged("model_version", found.id, error) from error
    return found


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
