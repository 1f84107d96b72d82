"""Ids of events and of traces: unique, ordered where an index likes it, cheap."""

from __future__ import annotations

import hashlib
import os
import random

from uuid_utils import uuid7

# Ids must be unique, not secret: a generator that the system seeded saves a system call each.
_random = random.Random()
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_random.seed)


def new_id() -> str:
    """Return a UUID version 7 (RFC 9562): ordered by time, so that indexes grow at one end."""
    return str(uuid7())


def new_ids(count: int) -> tuple[list[str], list[bytes]]:
    """Return *count* new ids, and the 16 bytes of each."""
    made = [uuid7() for _ in range(count)]
    return [str(each) for each in made], [each.bytes for each in made]


def outcome_id(bus: str, subscription: str, event: tuple[str, str], seq: int, attempt: int) -> str:
    """Return the id of the event that is an outcome: of *attempt*, for *subscription*.

    *event* is the source and the id of its event, *seq* the number of that in the log of *bus*. So
    a repeat is recognised. An event that is published again after it was pruned is another one.
    """
    source, event_id = event
    key = "\n".join((bus, subscription, source, event_id, f"{seq}/{attempt}"))
    return hashlib.blake2b(key.encode(), digest_size=16).hexdigest()


def new_trace() -> str:
    """Return a new, sampled ``traceparent``."""
    text = _random.randbytes(24).hex()
    return f"00-{text[:31]}1-{text[32:47]}1-01"  # neither part may be all zeros


def child_span(traceparent: str) -> str:
    """Return *traceparent* with a new span of the same trace."""
    return f"{traceparent[:36]}{_random.getrandbits(64) or 1:016x}{traceparent[52:]}"
