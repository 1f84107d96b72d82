"""The events of a subscription that its model was not called with, and why."""

from __future__ import annotations

from typing import NamedTuple

from mltrigger.reports.audit import KeptOut, kept_out
from mltrigger.reports.explain import filter_steps, repeated
from mltrigger.store.archive import SOURCE, TYPE
from mltrigger.store.revisions import histories
from mltrigger.store.topics import Seen
from mltrigger.store.transaction import Store

_EVENT = f"e.seq, event_id(e.id), {SOURCE}, {TYPE}, e.subject"
_SKIPPED = f"""
SELECT {_EVENT}, f.reason, NULL, e.published_us
FROM final f JOIN event e ON e.seq = f.seq
WHERE f.subscription_id = :s AND f.outcome = 'skipped'
"""
_DUPLICATES = f"""
SELECT {_EVENT}, p.times, p.differing, e.published_us
FROM repeat p JOIN event e ON e.seq = p.seq WHERE EXISTS (
  SELECT 1 FROM outcome o WHERE o.seq = e.seq AND o.subscription_id = :s UNION ALL
  SELECT 1 FROM leased l WHERE l.seq = e.seq AND l.subscription_id = :s UNION ALL
  SELECT 1 FROM waiting r WHERE r.seq = e.seq AND r.subscription_id = :s)
"""


class Skipped(NamedTuple):
    """One such event. Without ``seq`` the fields are the columns of the frame."""

    seq: int
    event_id: str
    source: str
    type: str
    subject: str | None
    reason: str | None
    detail: str | None
    published_us: int


def skipped(store: Store, subscription: str, limit: int | None) -> list[Skipped]:
    """Return the skipped events, oldest first. With *limit* the newest ones."""
    with store.snapshot() as reader:
        history = histories(reader, subscription)[0]
        found = [Skipped(*row) for row in reader.query(_SKIPPED, {"s": history.id})]
        found += [
            Skipped(seq, id_, source, type_, subject, "duplicate", repeated(times, differing), us)
            for seq, id_, source, type_, subject, times, differing, us in reader.query(
                _DUPLICATES, {"s": history.id}
            )
        ]
        if any(period.filter for period in history.periods):
            found += [_filtered(event) for event in kept_out(reader, history)]
    found.sort(key=lambda each: each.seq)
    if limit is None:
        return found
    return found[-limit:] if limit else []


def _filtered(kept: KeptOut) -> Skipped:
    event, clauses = kept.archived.event, filter_steps(kept.period.filter, Seen(*kept.archived))
    detail = "; ".join(f"{s.step}: {s.detail}" for s in clauses if s.ok is False)
    return Skipped(
        kept.seq,
        event.id,
        event.source,
        event.type,
        event.subject,
        "filtered",
        detail,
        kept.published_us,
    )
