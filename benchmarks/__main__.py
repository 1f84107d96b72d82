"""``python -m benchmarks``: run the parts, print what they found, and write it to ``RESULTS.md``
when asked.
"""

from __future__ import annotations

import argparse
import sys
import time
import traceback
from collections.abc import Callable
from pathlib import Path

from benchmarks import (
    api,
    batches,
    cockpit,
    corrections,
    effects,
    fanout,
    growth,
    keys,
    lanes,
    latency,
    million,
    newcomer,
    peers,
    rollouts,
    start,
    tables,
    telemetry,
    throughput,
    where,
)
from benchmarks.harness import Options, facts, quiet
from benchmarks.postgresql import large
from benchmarks.postgresql import part as postgresql
from benchmarks.report import Report, Table, kept, targets_table

PARTS: dict[str, Callable[[Options], Report]] = {
    "throughput": throughput.run,
    "where": where.run,
    "peers": peers.run,
    "latency": latency.run,
    "batches": batches.run,
    "fanout": fanout.run,
    "effects": effects.run,
    "corrections": corrections.run,
    "lanes": lanes.run,
    "keys": keys.run,
    "cockpit": cockpit.run,
    "growth": growth.run,
    "million": million.run,
    "start": start.run,
    "newcomer": newcomer.run,
    "tables": tables.run,
    "rollouts": rollouts.run,
    "telemetry": telemetry.run,
    "api": api.run,
    "postgresql": postgresql.run,
    "postgresql-large": large.run,
}
RESULTS = Path(__file__).with_name("RESULTS.md")


def main() -> int:
    """Run what the command line asks for; return 1 when a part failed."""
    asked = _arguments()
    options = Options(asked.quick, asked.long)
    quiet()
    machine, started = facts(options), time.perf_counter()
    print("\n".join([*machine.text(), ""]))
    reports, failed = [], []
    for name in asked.only or list(PARTS):
        began = time.perf_counter()
        try:
            reports.append(PARTS[name](options))
            print(f"{reports[-1].text()}  ({_since(began)})\n", flush=True)
        except Exception:
            failed.append(name)
            print(f"== {name} failed, after {_since(began)}\n{traceback.format_exc()}", flush=True)
    print(f"{_since(started)} in all" + (f"; failed: {', '.join(failed)}" if failed else ""))
    if asked.write and not failed:
        RESULTS.write_text(
            kept(RESULTS.read_text() if RESULTS.exists() else "", _markdown(machine, reports))
        )
        print(f"written: {RESULTS.name}")
    return 1 if failed else 0


def _since(started: float) -> str:
    return f"{time.perf_counter() - started:.0f} s"


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks",
        description="mltrigger against its limit and its peers, in the same run",
    )
    parser.add_argument(
        "--quick",
        action="store_true",
        help="small sizes: under a minute, for a smoke test; the figures are noisy",
    )
    parser.add_argument(
        "--long",
        action="store_true",
        help="a log of 10,000,000 events instead of 1,000,000: many minutes more",
    )
    names = ", ".join(PARTS)
    parser.add_argument(
        "--only",
        metavar="NAME",
        action="append",
        choices=list(PARTS),
        help=f"one part (may be repeated): {names}",
    )
    parser.add_argument(
        "--write", action="store_true", help=f"write {RESULTS.name} when all parts succeeded"
    )
    asked = parser.parse_args()
    if asked.write and asked.only:
        parser.error("--write writes all parts: leave --only out")
    return asked


def _markdown(machine: Table, reports: list[Report]) -> str:
    targets = targets_table([target for report in reports for target in report.targets])
    missed = [row for row in targets.rows if row[-1] != "reached"]
    head = [
        "# Results",
        "",
        (
            "Written by `python -m benchmarks --write`; do not edit. Compare ratios, which were"
            " measured in the same run, rather than figures: those belong to the machine and to"
            " what else it did."
        ),
        "",
        f"{len(targets.rows) - len(missed)} of {len(targets.rows)} targets reached.",
        *[
            f"- not reached: {what}: {measured}, target {wanted}"
            for what, wanted, measured, _ in missed
        ],
        "",
        *machine.markdown(),
        "",
    ]
    return "\n".join([*head, *[report.markdown() for report in reports]])


if __name__ == "__main__":
    sys.exit(main())
