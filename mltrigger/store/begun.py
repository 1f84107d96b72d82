"""The versions of attempts that never ended: the ledger tells which one had begun each event."""

from __future__ import annotations

from collections.abc import Sequence

from mltrigger.policy import DeliveryPolicy
from mltrigger.store import ledger, tries
from mltrigger.store.archive import ARCHIVED, archived
from mltrigger.store.leases import Member
from mltrigger.store.ledger import Binding
from mltrigger.store.lots import By
from mltrigger.store.placing import NO_KEY, Path, Placing
from mltrigger.store.shares import is_canary, without_path
from mltrigger.store.topics import Seen
from mltrigger.store.transaction import Transaction

_EVENTS = f"SELECT {ARCHIVED} FROM event e WHERE e.seq IN ({{seqs}})"
_POLICY = "SELECT policy FROM subscription WHERE id = :s"


def begun_by(
    transaction: Transaction, subscription_id: int, found: Sequence[Member], role: str
) -> list[By]:
    """Return the version, binding and role of each attempt of *found*.

    The binding is that of the first attempt, else the one that held for the event at its claim.
    """
    rows = ledger.read(transaction, subscription_id)
    if len(rows) <= 1:
        by = _by(rows[0], role, role) if rows else By(None, 0, role)
        return [by] * len(found)
    again = [m.seq for m in found if m.lease.attempt > 1]
    first = tries.first_bindings(transaction, subscription_id, again) if again else {}
    has_canary = any(b.canary for b in rows)
    keys = _keys(transaction, subscription_id, [m.seq for m in found]) if has_canary else {}
    made = []
    for m in found:
        known = rows[: m.lease.binding + 1]
        before = first.get(m.seq)
        if m.seq in first and before is not None and before[0] < len(rows):
            made.append(_by(rows[before[0]], before[1], role))
            continue
        row = known[-1] if m.seq in first else ledger.covering(known, m.seq)
        is_its = is_canary(subscription_id, row, m.lease.by_key or keys.get(m.seq, ""))
        made.append(_by(row, "canary" if is_its else role, role))
    return made


def _by(row: Binding, role: str, own: str) -> By:
    if role == "canary":
        return By(row.canary_version_id, row.number, role)
    return By(row.model_version_id, row.number, own)


def _keys(transaction: Transaction, subscription_id: int, seqs: Sequence[int]) -> dict[int, str]:
    """Return the keys of events, as :func:`~mltrigger.store.shares.key_of` has them."""
    ((policy,),) = transaction.query(_POLICY, {"s": subscription_id})
    path = DeliveryPolicy.from_json(policy).key
    by = Placing(Path.of(path), None) if path is not None else None
    among = ", ".join(map(str, seqs))
    found = {}
    for row in transaction.query(_EVENTS.format(seqs=among), {}):
        event = archived(row)
        key = by.place(Seen(*event))[0] if by is not None else NO_KEY
        found[row[0]] = key or without_path(event.event)
    return found
