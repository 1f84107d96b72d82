"""Keys of a subscription as a frame: how much of each waits, why, and until when."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from mltrigger.broker import SubscriptionSpec
from mltrigger.clock import Clock
from mltrigger.errors import InvalidPolicy
from mltrigger.reports import frames
from mltrigger.store import waits
from mltrigger.store.transaction import Store

if TYPE_CHECKING:
    import pandas as pd

KEYS: dict[str, Any] = {
    "key": "str",
    "waiting": "int64",
    "in_flight": "int64",
    "delayed": "int64",
    "oldest_s": "float64",
    "why": "str",
    "until": frames.TIME,
}


def depth_by_key(store: Store, clock: Clock, spec: SubscriptionSpec) -> pd.DataFrame:
    """Return the open events of a subscription, a row for each key.

    Raises
    ------
    InvalidPolicy
        If the subscription has no key, or its deliveries come from a queue outside.
    """
    now_us = clock.now_us()
    with store.snapshot() as reader:
        found = waits.by_key(reader, spec.id, now_us)
    if found is None:
        raise InvalidPolicy(
            f"the events of {spec.name!r} do not wait by key: subscribe with key='…', the path of"
            " the key in the data; on aws:// they wait in SQS"
        )
    rows = [
        (
            d.key,
            d.waiting,
            d.in_flight,
            d.delayed,
            None if d.oldest_us is None else (now_us - d.oldest_us) / 1e6,
            d.wait.why or None,
            d.wait.until_us,
        )
        for d in found
    ]
    return frames.frame(rows, KEYS)
