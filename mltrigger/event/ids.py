"""Ids of events and of traces: unique, ordered where an index likes it, cheap."""

from __future__ import annotations

import os
import random
import time

# Ids must be unique, not secret: a generator that the system seeded saves a system call each.
_random = random.Random()
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_random.seed)


def new_id() -> str:
    """Return a UUID version 7 (RFC 9562): ordered by time, so that indexes grow at one end."""
    bits = _random.getrandbits(74)
    tail = 0x8000000000000000 | bits & 0x3FFFFFFFFFFFFFFF
    text = f"{time.time_ns() // 1_000_000:012x}7{bits >> 62:03x}{tail:016x}"
    return f"{text[:8]}-{text[8:12]}-{text[12:16]}-{text[16:20]}-{text[20:]}"


def new_trace() -> str:
    """Return a new, sampled ``traceparent``."""
    text = f"{_random.getrandbits(192) | 1 << 64 | 1:048x}"  # neither part may be all zeros
    return f"00-{text[:32]}-{text[32:]}-01"


def child_span(traceparent: str) -> str:
    """Return *traceparent* with a new span of the same trace."""
    return f"{traceparent[:36]}{_random.getrandbits(64) or 1:016x}{traceparent[52:]}"
