"""Patience: how long a call waits for a server that is away."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator

_here = threading.local()


@contextlib.contextmanager
def at_once() -> Iterator[None]:
    """Let this thread wait for no server within the block: a view shows the outage instead."""
    before, _here.hurries = hurries(), True
    try:
        yield
    finally:
        _here.hurries = before


def hurries() -> bool:
    """Whether this thread waits for no server."""
    return getattr(_here, "hurries", False)
