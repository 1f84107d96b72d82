"""Dead letters as a frame: all of a subscription, those that match, or the newest."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from mltrigger.reports import frames
from mltrigger.reports.views import data_text
from mltrigger.store.log import DeadLetter, Log
from mltrigger.store.matching import Matching, is_in

if TYPE_CHECKING:
    import pandas as pd


def dead_letters(
    log: Log, subscription_id: int, wanted: Matching | None = None, limit: int | None = None
) -> pd.DataFrame:
    """Return the dead letters of one subscription. ``raw`` has the bytes, ``data`` shows them.

    With *limit* only the newest ones.
    """
    rows = [
        (
            d.event_id,
            d.source,
            d.type,
            d.subject,
            d.reason,
            d.attempts,
            d.redriven,
            d.model,
            d.version,
            d.error_type,
            d.error,
            d.traceback,
            d.dead_us,
            data_text(d.data, d.media_type),
            bytes(d.data),
        )
        for d in letters(log, subscription_id, wanted, limit)
    ]
    return frames.dead_letters(rows)


def letters(
    log: Log, subscription_id: int, wanted: Matching | None = None, limit: int | None = None
) -> Sequence[DeadLetter]:
    """Return the dead letters of one subscription that match. Their time is that of their death.

    With *limit* only the newest ones.
    """
    found = log.dead_letters(subscription_id, limit=limit if wanted is None else None)
    if wanted is None:
        return found
    keys: Mapping[tuple[int, int], str] = {}
    if wanted.keys is not None:
        keys = log.keys_of((subscription_id, d.seq) for d in found)
    right = [d for d in found if _matches(d, keys.get((subscription_id, d.seq)), wanted)]
    return right if limit is None else right[max(0, len(right) - limit) :]


def _matches(d: DeadLetter, key: str | None, wanted: Matching) -> bool:
    error = f"{d.error_type}: {d.error or ''}" if d.error_type else d.error
    return (
        (wanted.versions is None or d.version in wanted.versions)
        and (wanted.reasons is None or d.reason in wanted.reasons)
        and (wanted.keys is None or key in wanted.keys)
        and (wanted.since_us is None or d.dead_us >= wanted.since_us)
        and (wanted.until_us is None or d.dead_us < wanted.until_us)
        and (wanted.text is None or is_in(wanted.text, (error, d.subject, d.event_id)))
    )
