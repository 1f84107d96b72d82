"""Effects of a subscription as a frame, and the findings about unknown ones."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from mltrigger.broker import Finding, SubscriptionSpec
from mltrigger.reports import frames
from mltrigger.store.effects import Effects
from mltrigger.text import count

if TYPE_CHECKING:
    import pandas as pd

EFFECTS: dict[str, Any] = {
    "event_id": "str",
    "source": "str",
    "name": "str",
    "key": "str",
    "state": frames.OneOf(("answered", "unknown", "failed")),
    "attempt": "Int64",
    "calls": "Int64",
    "intended_at": frames.TIME,
    "answered_at": frames.TIME,
    "answer": "str",
    "error": "str",
}


def frame(effects: Effects, subscription_id: int) -> pd.DataFrame:
    """Return the effects of a subscription, each as one row."""
    return frames.frame(effects.rows(subscription_id), EFFECTS)


def unknown(effects: Effects, spec: SubscriptionSpec) -> Iterator[Finding]:
    """Yield a finding for the effects of each name whose end was not recorded."""
    for name, n in effects.unknown(spec.id).items():
        yield Finding(
            "warning",
            spec.name,
            "effects",
            f"{count(n, 'effect')} {name!r} began, and the end was not recorded: it may have"
            " happened",
            "sub.effects() has the keys: look for them in the other system; unknown='again' in"
            " mt.once calls again with the same key",
        )
