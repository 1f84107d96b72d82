"""The states of a listener."""

from __future__ import annotations

from typing import Literal

Waits = Literal["waiting for the model", "waiting for the store", "waiting for calls that hang"]
State = Literal["stopped", "stopped by the store", "listening"] | Waits
