"""The ledger of bindings: which version answers a subscription, from which event number on.

A binding is never changed. A new one is added behind it. So the ledger says for each event which
version had to answer it, and why.
"""

from __future__ import annotations

import getpass
import json
from collections.abc import Collection, Mapping, Sequence
from typing import Any, Literal, NamedTuple

from mltrigger.clock import Clock
from mltrigger.store import tries
from mltrigger.store.registry import move_alias, next_generation
from mltrigger.store.transaction import Reader, Row, Store, Transaction
from mltrigger.versions.selector import Selector

Kind = Literal["bind", "promote", "canary", "step", "rollback"]

_ROWS = """
SELECT b.number, b.kind, b.from_seq, b.selector, b.model_version_id, b.canary, b.canary_version_id,
  b.share, b.made_us, b.made_by, b.why, b.verdict, b.plan, m.name || ':' || m.version
FROM binding b LEFT JOIN model_version m ON m.id = b.model_version_id
WHERE b.subscription_id = :s ORDER BY b.number
"""
_INSERT = """
INSERT INTO binding (subscription_id, number, kind, from_seq, selector, model_version_id, canary,
  canary_version_id, share, made_us, made_by, why, verdict, plan)
VALUES (:s, :number, :kind, :from_seq, :selector, :model_version_id, :canary, :canary_version_id,
  :share, :made_us, :made_by, :why, :verdict, :plan)
"""
_NUMBER = "SELECT max(number) FROM binding WHERE subscription_id = :s"
_VERSION = "SELECT id FROM model_version WHERE name = :name AND version = :version"
_NEWEST = "SELECT coalesce(max(seq), 0) FROM event"
# Not by the view of all that waits: a long backlog would be read under the write lock.
_LOWEST_OPEN = """
SELECT min(seq) FROM (
  SELECT min(seq) AS seq FROM ready WHERE subscription_id = :s
  UNION ALL SELECT min(seq) FROM awaited WHERE subscription_id = :s
  UNION ALL SELECT min(seq) FROM keyed WHERE subscription_id = :s
  UNION ALL SELECT min(low) FROM lease WHERE subscription_id = :s
  UNION ALL SELECT (
    SELECT e.seq FROM event e INDEXED BY event_topic
    WHERE e.topic_id = s.topic_id AND e.seq >= c.next_seq AND e.by_rows_us IS NULL
      AND e.seq <= coalesce(c.last_seq, e.seq)
    ORDER BY e.seq LIMIT 1)
  FROM cursor c JOIN subscription s ON s.id = c.subscription_id WHERE c.subscription_id = :s
) AS open
"""
_PIN = """
UPDATE binding SET model_version_id = :until_id
WHERE subscription_id = :s AND number = :newest AND model_version_id IS NULL
"""
_SET_SLOW = """
UPDATE binding SET plan = json_set(plan, '$.slow_us', :slow_us)
WHERE subscription_id = :s AND number = :number AND json_type(plan, '$.slow_us') IS NULL
"""
_SELECT = "UPDATE subscription SET selector = :selector WHERE id = :s"


class Binding(NamedTuple):
    """One row of the ledger.

    It holds for first attempts of events from ``from_seq`` on. A ``share`` of them, chosen by their
    keys, goes to the ``canary``. ``plan`` has the steps and the guard of the canary.
    """

    number: int
    kind: str
    from_seq: int
    selector: str
    model_version_id: int | None = None
    canary: str | None = None
    canary_version_id: int | None = None
    share: float = 0.0
    made_us: int = 0
    made_by: str = ""
    why: str | None = None
    verdict: str | None = None
    plan: str | None = None
    pinned: str | None = None
    """The exact version that the selector meant, if that is known."""

    @property
    def answers(self) -> str:
        """The selector of the version that answers, exact if it is known."""
        return self.pinned or self.selector

    @property
    def steps(self) -> Mapping[str, Any]:
        """The plan of the canary."""
        return dict(json.loads(self.plan)) if self.plan else {}


class Change(NamedTuple):
    """A binding to be added.

    ``after`` is the newest one that the caller knows. ``None`` adds it behind any. ``until_id`` is
    the version that answered until now, for a selector that is no exact one. ``alias`` is moved in
    the same commit: its model, its name, and the version that it means then.
    """

    kind: Kind
    selector: str
    model_version_id: int | None = None
    canary: str | None = None
    canary_version_id: int | None = None
    share: float = 0.0
    made_by: str = ""
    why: str | None = None
    verdict: str | None = None
    plan: Mapping[str, Any] | None = None
    backlog: Literal["new", "old"] = "new"
    after: int | None = None
    until_id: int | None = None
    alias: tuple[str, str, str] | tuple[str, str, str, str] | None = None


class Ledger:
    """The ledger of all subscriptions of one store."""

    def __init__(self, store: Store, clock: Clock) -> None:
        self._store, self._clock = store, clock

    def rows(self, subscription_id: int) -> list[Binding]:
        """Return the bindings of a subscription, oldest first."""
        return [Binding(*row) for row in self._store.read(_ROWS, {"s": subscription_id})]

    def first(
        self, subscription_id: int, seqs: Collection[int]
    ) -> dict[int, tuple[int, str] | None]:
        """Return the binding and role of first attempts, see :func:`tries.first_bindings`."""
        with self._store.snapshot() as reader:
            return tries.first_bindings(reader, subscription_id, seqs)

    def newest_kind(self, subscription_id: int) -> str:
        """Return the kind of the newest binding, ``bind`` without one."""
        found = self._store.read(
            "SELECT kind FROM binding WHERE subscription_id = :s ORDER BY number DESC LIMIT 1",
            {"s": subscription_id},
        )
        return str(found[0][0]) if found else "bind"

    def append(self, subscription_id: int, change: Change) -> Binding | None:
        """Add a binding, and let the subscription mean its selector.

        Returns ``None``, and changes nothing, if another binding came in between.
        """
        with self._store.transaction() as transaction:
            return append(transaction, subscription_id, change, self._clock.now_us())

    def set_slow(self, subscription_id: int, number: int, slow_us: int) -> None:
        """Complete the plan of a canary by its limit of slow calls. The first one stays."""
        of = {"s": subscription_id, "number": number, "slow_us": slow_us}
        with self._store.transaction() as transaction:
            transaction.execute(_SET_SLOW, of)


def user() -> str:
    """Return the name of the user of this process, for the ledger."""
    try:
        return getpass.getuser()
    except (OSError, KeyError, ImportError):  # no name in this container
        return ""


def append(
    transaction: Transaction, subscription_id: int, change: Change, now_us: int
) -> Binding | None:
    """Add a binding. See :meth:`Ledger.append`."""
    ((newest,),) = transaction.query(_NUMBER, {"s": subscription_id})
    if change.after is not None and change.after != newest:
        return None
    number = 0 if newest is None else newest + 1
    from_seq = 0 if newest is None else _begin(transaction, subscription_id, change.backlog)
    row = {
        **change._asdict(),
        "s": subscription_id,
        "number": number,
        "from_seq": from_seq,
        "made_us": now_us,
        "plan": None if change.plan is None else json.dumps(dict(change.plan)),
    }
    transaction.execute(_PIN, {"s": subscription_id, "newest": newest, "until_id": change.until_id})
    if change.alias is not None:
        move_alias(transaction, *change.alias)
    del row["backlog"], row["after"], row["until_id"], row["alias"]
    if row["model_version_id"] is None:
        row["model_version_id"] = _version_id(transaction, change.selector)
    transaction.execute(_INSERT, row)
    transaction.execute(_SELECT, {"s": subscription_id, "selector": change.selector})
    next_generation(transaction)
    return read(transaction, subscription_id)[-1]


def _begin(transaction: Transaction, subscription_id: int, backlog: str) -> int:
    """Return the first event of a new binding: the oldest open one, or the next one."""
    ((newest,),) = transaction.query(_NEWEST, {})
    if backlog == "old":
        return int(newest) + 1
    ((lowest,),) = transaction.query(_LOWEST_OPEN, {"s": subscription_id})
    return int(newest) + 1 if lowest is None else int(lowest)


def unbound(transaction: Transaction, subscription_id: int, made_by: str, now_us: int) -> None:
    """End the canary of a subscription that is unsubscribed. A new one begins without it."""
    rows = read(transaction, subscription_id)
    if rows and (now := rows[-1]).canary is not None:
        change = Change(
            "rollback", now.selector, now.model_version_id, made_by=made_by, why="unsubscribed"
        )
        append(transaction, subscription_id, change, now_us)


def bound(
    transaction: Transaction, subscription_id: int, selector: str, made_by: str, now_us: int
) -> None:
    """Add the binding of a ``subscribe``, unless the newest one says the same."""
    rows = read(transaction, subscription_id)
    if not rows or rows[-1].selector != selector:
        append(transaction, subscription_id, Change("bind", selector, made_by=made_by), now_us)


def kept(rows: Sequence[Binding], selector: str) -> bool:
    """Whether the ledger shows that the version of *selector* was replaced on purpose.

    A ``subscribe`` that runs again does not undo a promote, a canary or a rollback.
    """
    last = max(
        (n for n, row in enumerate(rows) if selector in (row.selector, row.canary)), default=None
    )
    if last is None or rows[-1].selector == selector:
        return False
    return any(row.kind != "bind" for row in rows[last + 1 :]) or rows[last].selector != selector


def read(reader: Reader, subscription_id: int) -> list[Binding]:
    """Return the bindings of a subscription in an open transaction or snapshot, oldest first."""
    return [Binding(*row) for row in reader.query(_ROWS, {"s": subscription_id})]


def rolled_back(rows: Sequence[Binding]) -> set[str]:
    """Return the versions that a rollback left, and that were not bound again since.

    A rollback leaves all versions that answered since the one that it goes back to.
    """
    left: set[str] = set()
    for place, row in enumerate(rows):
        if row.kind == "rollback":
            earlier = (n for n in range(place) if rows[n].answers == row.answers)
            since = rows[max(earlier, default=place - 1) : place]
            left |= {v for each in since for v in (each.answers, each.canary) if v is not None}
        left -= {row.answers, row.canary or row.answers}
    return left


def covering(rows: Sequence[Binding], seq: int) -> Binding:
    """Return the binding that holds for the first attempt of event *seq*.

    It is the newest one that begins at that event or before. Later bindings with ``backlog="old"``
    begin behind it.
    """
    return next((b for b in reversed(rows) if b.from_seq <= seq), rows[0])


def _version_id(transaction: Transaction, selector: str) -> int | None:
    """Return the registered version that an exact selector means, ``None`` for a floating one."""
    meant = Selector.parse(selector)
    of = {"name": meant.name, "version": getattr(meant, "version", None)}
    rows: Sequence[Row] = transaction.query(_VERSION, of)
    return int(rows[0][0]) if rows else None
