"""Frames of attempts as ``invocations()`` returns them, made without a bus."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import pandas as pd

from mltrigger.reports import frames


def attempts(
    outputs: Sequence[Any],
    version: str = "1.0.0",
    *,
    first: int = 0,
    outcomes: Sequence[str] | None = None,
    ms: Sequence[float] | None = None,
    **columns: Sequence[Any],
) -> pd.DataFrame:
    """Return one attempt an event. *outputs* are values. The events are numbered from *first*."""
    n = len(outputs)
    outcomes = outcomes or ["succeeded"] * n
    given: dict[str, Sequence[Any]] = {
        "event_id": [f"e{first + i}" for i in range(n)],
        "source": ["test"] * n,
        "type": ["page"] * n,
        "model": ["ocr"] * n,
        "version": [version] * n,
        "attempt": [1] * n,
        "outcome": outcomes,
        "model_ms": list(ms) if ms is not None else [10.0 + i % 20 for i in range(n)],
        "output": [
            json.dumps(value) if outcome == "succeeded" else None
            for value, outcome in zip(outputs, outcomes, strict=True)
        ],
    }
    given |= {name: values for name, values in columns.items() if name in frames.INVOCATIONS}
    rows = zip(*(given.get(name, [None] * n) for name in frames.INVOCATIONS), strict=True)
    table = frames.frame(rows, frames.INVOCATIONS)
    others = {name: list(v) for name, v in columns.items() if name not in frames.INVOCATIONS}
    return table.assign(**others)


def labels(truths: Sequence[Any], first: int = 0) -> pd.DataFrame:
    """Return a frame of labels for events numbered from *first*."""
    return pd.DataFrame(
        {
            "event_id": [f"e{first + i}" for i in range(len(truths))],
            "label": [json.dumps(truth) for truth in truths],
        }
    )
