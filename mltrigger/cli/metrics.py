"""The command ``metrics``: the figures of a bus in Prometheus' text format."""

from __future__ import annotations

import argparse
import math
from typing import Any

from mltrigger.cli.parsing import filled


def add_commands(commands: Any) -> None:
    """Add ``metrics``."""
    added = commands.add_parser(
        "metrics", help="print counters, gauges and run times of a bus in Prometheus' text format"
    )
    added.add_argument(
        "--url", type=filled, help="the bus (default: $MLTRIGGER_URL, else sqlite:///mltrigger.db)"
    )
    added.set_defaults(run=metrics)


def metrics(given: argparse.Namespace) -> int:
    """Print the figures. All attempts are counted, however many are new."""
    from mltrigger.telemetry.prometheus import text
    from mltrigger.urls import connect, existing

    with connect(existing(given.url)) as bus:
        print(text(bus, math.inf), end="")
    return 0
