"""The names of a bus for completion. A thread keeps the list fresh."""

from __future__ import annotations

import threading
import time
import weakref
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from mltrigger.bus import EventBus

FRESH_S = 2.0
WAIT_S = 0.03
"""The longest wait for a fresh list. A slow store is read for the next time."""


class Known(NamedTuple):
    """The names of a bus. ``versions`` are pairs of model and version."""

    topics: tuple[str, ...] = ()
    subscriptions: tuple[str, ...] = ()
    versions: tuple[tuple[str, str], ...] = ()
    aliases: tuple[tuple[str, str], ...] = ()

    @property
    def models(self) -> list[str]:
        """The names of models."""
        return sorted({name for name, _ in self.versions})

    @property
    def selectors(self) -> list[str]:
        """All ways to name a model: ``ocr``, ``ocr:1.0.0``, ``ocr@champion``."""
        exact = [f"{name}:{version}" for name, version in self.versions]
        return [*self.models, *exact, *(f"{name}@{alias}" for name, alias in self.aliases)]


class _Entry:
    def __init__(self) -> None:
        self.known, self.at_s = Known(), float("-inf")
        self.reading: threading.Thread | None = None


class Names:
    """Lists of names by bus."""

    def __init__(self) -> None:
        self._entries: weakref.WeakKeyDictionary[EventBus, _Entry] = weakref.WeakKeyDictionary()
        self._guard = threading.Lock()

    def of(self, bus: EventBus) -> Known:
        """Return the names of *bus*, fresh ones if they come at once."""
        if bus.closed:
            return Known()
        with self._guard:
            entry = self._entries.setdefault(bus, _Entry())
            if time.monotonic() - entry.at_s > FRESH_S and entry.reading is None:
                entry.reading = threading.Thread(
                    target=_read, args=(bus, entry), name="mltrigger-names", daemon=True
                )
                entry.reading.start()
            reading = entry.reading
        if reading is not None:
            reading.join(WAIT_S)
        return entry.known


def _read(bus: EventBus, entry: _Entry) -> None:
    try:
        registry = bus.registry
        entry.known = Known(
            tuple(sorted(registry.topics())),
            tuple(sorted(spec.name for spec in registry.subscriptions())),
            tuple((v.name, v.version) for v in registry.versions()),
            tuple(sorted(registry.aliases())),
        )
    except Exception:  # noqa: S110  # an outage of the store is no matter of completion
        pass
    finally:
        entry.at_s, entry.reading = time.monotonic(), None
