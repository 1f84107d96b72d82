"""The versions of attempts that never ended: the ledger tells which one had begun each event."""

from __future__ import annotations

import json
from collections.abc import Sequence

from mltrigger.store import ledger, tries
from mltrigger.store.keys import id_text
from mltrigger.store.leases import Member
from mltrigger.store.ledger import Binding
from mltrigger.store.lots import By
from mltrigger.store.shares import is_canary
from mltrigger.store.transaction import Transaction

_KEYS = "SELECT seq, id, subject, extensions FROM event WHERE seq IN ({seqs})"


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
    keys = _keys(transaction, [m.seq for m in found]) if any(b.canary for b in rows) else {}
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


def _keys(transaction: Transaction, seqs: Sequence[int]) -> dict[int, str]:
    """Return the keys of events, as :func:`~mltrigger.store.shares.key_of` has them."""
    among = ", ".join(map(str, seqs))
    found = {}
    for seq, key, subject, extensions in transaction.query(_KEYS.format(seqs=among), {}):
        others = json.loads(extensions) if extensions else {}
        found[seq] = str(others.get("partitionkey") or subject or id_text(key))
    return found
