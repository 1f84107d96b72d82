"""``python -m benchmarks.models``: models through mltrigger beside calling them directly and beside
MLServer; written when asked.
"""

from __future__ import annotations

import argparse
import os
import statistics
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec

import mltrigger as mt
from benchmarks.batches import DICTS, JSON, LEAST
from benchmarks.harness import scratch, version_of
from benchmarks.models import calls, checks, mlserver
from benchmarks.models.rows import (
    COLUMNS,
    KINDS,
    SIZES,
    best_size,
    direct,
    direct_json,
    direct_ready,
    json_lines,
    rows,
    through,
    trained,
)
from benchmarks.report import Report, Table, Target, median_ratio, number, replaced, spread

RESULTS = Path(__file__).parents[1] / "RESULTS.md"
LIMIT, READY = "predict, best size, frames of records", "predict, best size, frames ready-made"
FROM_JSON = "predict, best size, records read from JSON"
ONE, FIXED, BEST, ADAPTIVE = (
    "mltrigger, one by one",
    "mltrigger, batches of 32",
    "mltrigger, best size",
    'mltrigger, batch="adaptive"',
)
THERE = "mltrigger, a model on MLServer, batches of 32"
MLSERVER = mlserver.WAYS[0].name

Rates = dict[str, list[float]]


class Sizes:
    """How much to do: rows for each way, calls, seconds of load, repetitions."""

    def __init__(self, quick: bool) -> None:
        self.quick = quick
        self.repetitions = 1 if quick else 3
        self.many = 3_000 if quick else 20_000
        self.fixed = {KINDS[0]: 320 if quick else 3_200, KINDS[1]: 3_000 if quick else 20_000}
        self.singles = {KINDS[0]: 20 if quick else 100, KINDS[1]: 100 if quick else 1_000}
        self.calls = 200 if quick else 2_000
        self.load_s = 2.0 if quick else 6.0


def main(arguments: Sequence[str] | None = None) -> int:
    """Run what the command line asks for."""
    asked = _arguments(arguments)
    report = run(Sizes(asked.quick), asked.mlserver)
    print(report.text())
    if asked.write:
        RESULTS.write_text(replaced(RESULTS.read_text(), report))
        print(f"written: {RESULTS.name}")
    return 0


def run(sizes: Sizes, binary: Path | None) -> Report:
    """Measure everybody in turn."""
    models = {kind: trained(kind) for kind in KINDS}
    best = {
        kind: best_size(model, [size for size in SIZES if size <= sizes.many])
        for kind, model in models.items()
    }
    found: dict[str, Rates] = {kind: {} for kind in KINDS}
    learned: dict[str, list[float]] = {kind: [] for kind in KINDS}
    called: Rates = {}
    checked: Rates = {}
    for turn in range(sizes.repetitions):
        for kind, model in models.items():
            _say(f"{kind}, {turn + 1} of {sizes.repetitions}")
            _rates(kind, model, best[kind], sizes, found[kind], learned[kind])
        _costs(sizes, called, checked)
    served, client, notes = _served(binary, sizes, found)
    report = Report(
        "models",
        "a RandomForest and a LogisticRegression, beside calling them directly and MLServer",
    )
    for kind in KINDS:
        report.tables.append(
            _table(kind, best[kind], statistics.median(learned[kind]), found[kind], client)
        )
        report.targets += _targets(kind, found[kind], served)
    report.tables.append(
        _relative("One call of a model behind HTTP, microseconds", called, calls.LIMIT)
    )
    report.tables.append(
        _relative("Checking one record against a schema, microseconds", checked, None)
    )
    report.notes += [*_notes(sizes), *notes]
    return report


def _rates(
    kind: str, model: Any, best: int, sizes: Sizes, found: Rates, learned: list[float]
) -> None:
    """Measure one model once, directly and through mltrigger, one right after the other."""
    many = rows(sizes.many)
    few, single = many[: sizes.fixed[kind]], many[: sizes.singles[kind]]
    expected = model.predict(_frame(many)).tolist()
    described = mt.model(model, name="scored", version="1.0.0")

    def add(name: str, rate: float) -> None:
        found.setdefault(name, []).append(rate)

    add(LIMIT, direct(model, many, best))
    add(FROM_JSON, direct_json(model, json_lines(many), best, msgspec.json.Decoder().decode))
    add(READY, direct_ready(model, many, best))
    ways: dict[str, tuple[list[Any], dict[str, Any]]] = {
        ONE: (single, {"batch_size": 1}),
        FIXED: (few, {"batch_size": 32}),
        BEST: (many, {"batch_size": best}),
        ADAPTIVE: (many, {"batch": "adaptive"}),
    }
    for name, (given, how) in ways.items():
        with scratch() as folder:
            done = through(folder, described, given, expected[: len(given)], **how)
        add(name, done.per_s)
        if name == ADAPTIVE:
            learned.append(done.size)
    add("predict, one record at a time", direct(model, single, 1))


def _frame(given: Sequence[dict[str, float]]) -> Any:
    import pandas as pd

    return pd.DataFrame.from_records(given)


def _costs(sizes: Sizes, called: Rates, checked: Rates) -> None:
    _say("HTTP calls and schemas")
    with calls.server() as port:
        for name, micros in calls.measure(calls.clients(port), sizes.calls).items():
            called.setdefault(name, []).append(micros)
    for name, micros in checks.measure(checks.checks(), sizes.calls).items():
        checked.setdefault(name, []).append(micros)


def _served(
    binary: Path | None, sizes: Sizes, found: dict[str, Rates]
) -> tuple[bool, dict[str, float], list[str]]:
    """Measure MLServer when it is there; return whether it was, the CPU its client took, and what
    to say of it.
    """
    if binary is None:
        return False, {}, ["MLServer was not measured: name its program with --mlserver."]
    client: dict[str, float] = {}
    notes = [
        (
            f"MLServer ({mlserver.versions(binary)}): the same models, trained on the same data by"
            " its own scikit-learn, JSON over HTTP on loopback; max_batch_size 32, max_batch_time"
            f" {mlserver.MAX_BATCH_S * 1e3:g} ms, 32 keep-alive connections with one row each,"
            " parallel_workers=0, unless it says otherwise. The load comes from another process,"
            " which sends ready-made bytes; its CPU, of one core, is what the server did not have."
            " Nothing is recorded there: a row is gone when its answer is."
        ),
    ]
    with scratch() as folder:
        mlserver.prepare(binary, folder)
        for way in mlserver.WAYS:
            try:
                with mlserver.serving(
                    binary, folder, batching=way.batching, workers=way.workers
                ) as place:
                    _load(place, way, sizes, found, client)
            except mlserver.Unusable as error:
                notes.append(f"{way.name}: {error}.")
    return MLSERVER in found[KINDS[0]], client, notes


def _load(
    place: tuple[str, int],
    way: mlserver.Way,
    sizes: Sizes,
    found: dict[str, Rates],
    client: dict[str, float],
) -> None:
    for kind in KINDS:
        for _ in range(sizes.repetitions):
            _say(f"{way.name}: {kind}")
            done = mlserver.loaded(place, kind, way, sizes.load_s)
            found[kind].setdefault(way.name, []).append(done["rows_per_s"])
            client[way.name] = max(client.get(way.name, 0.0), done["cpu_share"])
            if way.rows > 1:  # it does not batch by itself: mltrigger does
                with scratch() as folder:
                    address = mt.model(
                        mlserver.address(place, kind),
                        name="scored",
                        version="1.0.0",
                        columns=COLUMNS,
                        outputs=["predict"],
                    )
                    rate = through(folder, address, rows(sizes.fixed[kind]), batch_size=32).per_s
                found[kind].setdefault(THERE, []).append(rate)


# -- the report ------------------------------------------------------------------------------------


def _table(kind: str, best: int, learned: float, found: Rates, client: dict[str, float]) -> Table:
    shown = {
        LIMIT: f"{LIMIT} ({best})",
        READY: f"{READY} ({best})",
        FROM_JSON: f"{FROM_JSON} ({best})",
        BEST: f"{BEST} ({best})",
        ADAPTIVE: f"{ADAPTIVE} (found {learned:g})",
    }
    lines = []
    for name, rates in sorted(found.items(), key=lambda item: -statistics.median(item[1])):
        lines.append(
            (
                shown.get(name, name),
                number(statistics.median(rates)),
                spread(rates),
                f"{median_ratio(rates, found[LIMIT]):.3f}",
                f"{client[name]:.0%}" if name in client else "",
            )
        )
    return Table(
        f"{kind}, rows a second",
        ("what", "rows/s", "range", "of predict on records", "client CPU"),
        lines,
    )


def _relative(title: str, found: Rates, limit: str | None) -> Table:
    lines = []
    for name, micros in found.items():
        ratio = (f"{median_ratio(micros, found[limit]):.2f}",) if limit else ()
        lines.append((name, number(statistics.median(micros)), spread(micros), *ratio))
    return Table(title, ("what", "median", "range", *((f"of {limit}",) if limit else ())), lines)


def _targets(kind: str, found: Rates, served: bool) -> list[Target]:
    targets = []
    limits = {DICTS: LIMIT, JSON: FROM_JSON}
    for (of_kind, what), least in LEAST.items():
        if of_kind == kind:
            ratio = median_ratio(found[BEST], found[limits[what]])
            title = f"{kind}, {BEST}, of {what}"
            targets.append(Target(title, f">= {least:g}", f"{ratio:.2f}", ratio >= least))
    ratio = median_ratio(found[ADAPTIVE], found[BEST])
    targets.append(
        Target(f"{kind}, adaptive over the best fixed size", ">= 0.9", f"{ratio:.2f}", ratio >= 0.9)
    )
    if served:
        ratio = median_ratio(found[ADAPTIVE], found[MLSERVER])
        targets.append(
            Target(f"{kind}, {ADAPTIVE}, over {MLSERVER}", "> 1", f"{ratio:.1f}", ratio > 1)
        )
    return targets


def _notes(sizes: Sizes) -> list[str]:
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return [
        (
            f"`python -m benchmarks.models`; {cores} cores; mltrigger {mt.__version__},"
            f" scikit-learn {version_of('scikit-learn')}, pandas {version_of('pandas')}, requests"
            f" {version_of('requests')}, pydantic {version_of('pydantic')}, jsonschema-rs"
            f" {version_of('jsonschema-rs')}, Python {sys.version.split()[0]}. Load at the end (1"
            f" min): {os.getloadavg()[0]:.1f}.{' Quick: small and noisy.' if sizes.quick else ''}"
        ),
        (
            "RandomForestClassifier with 100 trees and LogisticRegression, default settings,"
            f" {len(COLUMNS)} features; {sizes.repetitions} repetitions in turn, medians, ratios"
            f" within a repetition. {sizes.many:,} rows for the best size and adaptive; batches of"
            f" 32: {sizes.fixed[KINDS[0]]:,} and {sizes.fixed[KINDS[1]]:,}; one by one:"
            f" {sizes.singles[KINDS[0]]:,} and {sizes.singles[KINDS[1]]:,}."
        ),
        (
            "mltrigger: a backlog of events, one a row, on SQLite with durability full; from"
            " starting the listener to the last recorded outcome, the answers compared with the"
            " model's own. Adaptive begins with one row a call: what it spends on learning is in"
            " its figure."
        ),
        (
            f"The limit: predict on DataFrames made of the same records, in the size of {SIZES[0]}"
            f" to {SIZES[-1]} that is best for it; nothing is received, recorded or acknowledged."
            " Ready-made: without making the DataFrames. From JSON: msgspec reads each record first."
        ),
        (
            "HTTP: one row a call, one after the other, each side reads the JSON of the answer; the"
            " server answers at once, from a process of its own. mltrigger's endpoint sends the"
            " event as a CloudEvent and checks the answer, of the Open Inference Protocol its"
            " tensors."
        ),
    ]


def _say(what: str) -> None:
    print(f"  {what}", file=sys.stderr, flush=True)


def _arguments(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.models",
        description="models through mltrigger, directly, and on MLServer",
    )
    parser.add_argument(
        "--quick",
        action="store_true",
        help="small sizes, one repetition: for a smoke test; the figures are noisy",
    )
    parser.add_argument(
        "--mlserver",
        metavar="BIN",
        type=Path,
        help="MLServer's program, in an environment with mlserver-sklearn",
    )
    parser.add_argument("--write", action="store_true", help=f"write the section in {RESULTS.name}")
    return parser.parse_args(arguments)


if __name__ == "__main__":
    sys.exit(main())
