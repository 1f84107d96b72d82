"""Identity: the name of a bus that differs from those of all others."""

from __future__ import annotations

import uuid

from mltrigger.broker import Notes


def bus_id(notes: Notes) -> str:
    """Return the id of the bus. It is made at the first call, and kept."""
    known = notes.recall("bus")
    if known is None:
        notes.remember("bus", uuid.uuid4().hex[:12])
        known = notes.recall("bus")
    return str(known)
