"""A bus and its server on loopback, and a client that has a token."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from http_client import Caller

import mltrigger as mt


def read(page: Any) -> dict[str, Any]:
    """A model that answers with what it got."""
    return {"read": page}


def double(x: int) -> int:
    return 2 * x


def fails(x: Any) -> Any:
    raise ValueError(f"cannot read {x!r}")


@pytest.fixture
def served_bus(file: Path) -> Iterator[mt.EventBus]:
    with mt.connect(f"sqlite:///{file}") as bus:
        bus.register(double, name="double", version="1.0.0")
        bus.register(fails, name="fails", version="1.0.0")
        bus.subscribe("documents", read, name="ocr")
        yield bus


@pytest.fixture
def server(served_bus: mt.EventBus) -> Iterator[mt.Server]:
    with mt.serve(served_bus) as server:
        yield server


@pytest.fixture
def api(server: mt.Server) -> Iterator[Caller]:
    """A client whose token may do everything."""
    with Caller(server.url, server.token) as caller:
        yield caller
