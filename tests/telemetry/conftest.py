"""The telemetry of the bus of a test."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from telemetry_seen import Seen, seeing

import mltrigger as mt


@pytest.fixture
def seen(bus: mt.EventBus) -> Iterator[Seen]:
    """The telemetry of *bus*."""
    found = seeing(bus)
    yield found
    found.instrumentation.stop()
