"""Shares: which events go to a canary or a shadow, by a hash of their keys."""

from __future__ import annotations

import hashlib

from mltrigger.broker import Delivery
from mltrigger.event.event import Event
from mltrigger.store.ledger import Binding
from mltrigger.store.placing import event_key

_WHOLE = 2**64


def key_of(delivery: Delivery, path: str | None = None) -> str:
    """Return the key of an event: that at *path*, the ``key`` of its subscription.

    Else its ordered group, partition key or subject, else its id. Events with the same key go to
    the same version.
    """
    key = event_key(delivery.event, path) or delivery.group
    return key or without_path(delivery.event)


def without_path(event: Event) -> str:
    """Return the key of an event whose subscription has none: partition key, subject, or id."""
    return str(event.extensions.get("partitionkey") or event.subject or event.id)


def in_share(key: str, share: float, salt: str) -> bool:
    """Whether *key* is in that share. It stays in it when the share grows.

    Another *salt* chooses other keys.
    """
    if share >= 1.0:
        return True
    digest = hashlib.blake2b(key.encode(), digest_size=8, key=salt.encode()[:64]).digest()
    return int.from_bytes(digest, "big") < share * _WHOLE


def salt_of(subscription_id: int, row: Binding) -> str:
    """Return the salt by which a canary chooses its events. All its steps have the same one."""
    return f"{subscription_id}:{row.steps.get('first', row.number)}"


def is_canary(subscription_id: int, row: Binding, key: str) -> bool:
    """Whether the canary of *row* answers the events with that key."""
    return row.canary is not None and in_share(key, row.share, salt_of(subscription_id, row))
