"""The versions that the storm of versions promotes and rolls back. The workers import them."""

from __future__ import annotations

import time
from typing import Any

MODEL_S = 0.004


def one(data: dict[str, Any]) -> str:
    """Answer as version 1.0.0."""
    time.sleep(MODEL_S)
    return "1.0.0"


def two(data: dict[str, Any]) -> str:
    """Answer as version 2.0.0."""
    time.sleep(MODEL_S)
    return "2.0.0"
