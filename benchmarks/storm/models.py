"""The models of the storm. The workers import them from here: they are portable."""

from __future__ import annotations

import logging
import os
import time
from typing import Any

import mltrigger as mt
from benchmarks.storm.ledger import LEDGER, MODEL_S, append

# in the processes of a storm: what the package logs is looked at afterwards
if LEDGER in os.environ:
    logging.basicConfig(level=logging.WARNING)


def _work(level: int, data: dict[str, Any]) -> dict[str, Any]:
    append("b", level, data["n"])
    time.sleep(MODEL_S)
    append("e", level, data["n"])
    return {"n": data["n"]}


@mt.model("storm-read", version="1.0.0")
def read(data: dict[str, Any]) -> dict[str, Any]:
    """First level: its output is handed on."""
    return _work(1, data)


@mt.model("storm-file", version="1.0.0")
def file(data: dict[str, Any]) -> dict[str, Any]:
    """Second level."""
    return _work(2, data)
