"""The fence around a file whose content moves to a server: from then on it refuses writes.

Triggers in the file refuse. So every process that has it open is refused, also one of an earlier
release. A file that does not move has none of them, and pays nothing.

At first leases may still end: the file takes no publish, and gives no event to a listener. Then
nothing of it changes any more. Reads go on. Workers still write when they were seen, and the time.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Literal, NamedTuple

from mltrigger.store.damage import ERRORS, damaged
from mltrigger.store.transaction import Reader, Transaction

State = Literal["draining", "frozen", "moved"]

HELD = 2
"""The value of ``subscription.paused`` for one that only the move holds back."""
NOTE = "moved_to"
"""The name of the setting that tells of the move."""
_CHANGES = ("INSERT", "UPDATE", "DELETE")
_FREE = ("schema_version", "worker", "listener")
"""Tables that may change. They are about living processes, and hold no work."""
_GET = f"SELECT value FROM setting WHERE name = '{NOTE}'"
_SET = f"""
INSERT INTO setting (name, value) VALUES ('{NOTE}', :value)
ON CONFLICT (name) DO UPDATE SET value = excluded.value
"""
_TRIGGERS = """
SELECT name FROM sqlite_master WHERE type = 'trigger' AND substr(name, 1, 6) = 'moved_'
"""
_TABLES = """
SELECT name FROM sqlite_master WHERE type = 'table' AND substr(name, 1, 7) <> 'sqlite_'
ORDER BY name
"""
# A lease ends in one commit with the outputs that it hands on.
_DRAINING = (
    (
        "INSERT ON event",
        "NEW.topic_id NOT IN"
        " (SELECT emit_topic_id FROM subscription WHERE emit_topic_id IS NOT NULL)",
    ),
    ("INSERT ON subscription", ""),
    ("UPDATE OF paused ON subscription", ""),
    ("UPDATE OF next_lease ON cursor", ""),
)


class Leaving(NamedTuple):
    """The move of a file: its id, where it goes, without a password, and how far it is."""

    id: str
    to: str
    state: State

    @property
    def refusal(self) -> str:
        """The words for a writer."""
        if self.state == "moved":
            return f"this store was moved to {self.to}: connect there"
        return f"this store moves to {self.to}: connect there when `mltrigger move` is done"


def leaving(reader: Reader) -> Leaving | None:
    """Return the move of a file, ``None`` if it stays."""
    for (value,) in reader.query(_GET, {}):
        try:
            return Leaving(**json.loads(value))
        except ERRORS as error:
            raise damaged("setting", repr(NOTE), error) from error
    return None


def put_up(transaction: Transaction, move: Leaving) -> None:
    """Let the file refuse what *move* says. What an earlier state refused is replaced."""
    _take_down(transaction)
    if move.state == "draining":
        transaction.execute(
            "UPDATE subscription SET paused = :held WHERE paused = 0", {"held": HELD}
        )
    transaction.execute(_SET, {"value": json.dumps(move._asdict())})
    refusal = move.refusal.replace("'", "''")
    for number, (change, when) in enumerate(_refused(transaction, move.state)):
        condition = f" WHEN {when}" if when else ""
        transaction.execute(
            f"CREATE TRIGGER moved_{number} BEFORE {change}{condition}"
            f" BEGIN SELECT RAISE(ABORT, '{refusal}'); END",
            {},
        )


def lift(transaction: Transaction) -> None:
    """Let the file take work again."""
    _take_down(transaction)
    transaction.execute("UPDATE subscription SET paused = 0 WHERE paused = :held", {"held": HELD})
    transaction.execute(f"DELETE FROM setting WHERE name = '{NOTE}'", {})


def _refused(transaction: Transaction, state: State) -> Iterator[tuple[str, str]]:
    """Yield the changes that are refused, each with its condition."""
    if state == "draining":
        yield from _DRAINING
        return
    for (table,) in transaction.query(_TABLES, {}):
        if table not in _FREE:
            for change in _CHANGES:
                row = "OLD" if change == "DELETE" else "NEW"
                yield f"{change} ON {table}", f"{row}.name <> 'clock'" * (table == "setting")


def _take_down(transaction: Transaction) -> None:
    for (name,) in transaction.query(_TRIGGERS, {}):
        transaction.execute(f'DROP TRIGGER "{name}"', {})
