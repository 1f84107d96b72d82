"""The short tables of ``docs/figures.md``, taken from ``benchmarks/RESULTS.md``.

After a new measurement: ``python docs/_ext/figures.py``. A test compares the two.
"""

from __future__ import annotations

import re
from pathlib import Path

DOCS = Path(__file__).parents[1]
PAGE = DOCS / "figures.md"
RESULTS = DOCS.parent / "benchmarks" / "RESULTS.md"
TABLES = {
    "peers": ("peers", "Publish one at a time, then consume the backlog"),
    "latency": ("latency", "Milliseconds"),
    "throughput": ("throughput", "Events per second"),
    "postgresql": ("postgresql", "End to end, one event a call, worker in the same process"),
}
"""Name in the page -> section of the results, and heading of its table."""


def tables(results: str) -> dict[str, str]:
    """Return the tables of the page as the *results* have them."""
    sections = dict(re.findall(r"(?ms)^## ([^\n:]+)[^\n]*\n(.*?)(?=^## |\Z)", results))
    found = {
        name: re.search(rf"\*\*{re.escape(title)}\*\*\n\n((?:\|[^\n]*\n)+)", sections[section])
        for name, (section, title) in TABLES.items()
    }
    return {name: table[1] for name, table in found.items() if table} | {
        "reached": _reached(results),
        "missed": _missed(sections),
    }


def _reached(results: str) -> str:
    """Return how many targets were reached, and on which machine."""
    verdicts = re.findall(r"^\| .* \| (reached|not reached) \|$", results, re.MULTILINE)
    machine = results.partition("**Machine and versions**")[2].partition("\n## ")[0]
    facts = re.findall(r"^\| (cores|disk|Python|SQLite) \| (.+?) \|$", machine, re.MULTILINE)
    said = f"{verdicts.count('reached')} of {len(verdicts)} targets are reached. The machine: "
    return said + ", ".join(f"{name} {value}" for name, value in facts) + ".\n"


def _missed(sections: dict[str, str]) -> str:
    """Return the targets that were not reached, as one table."""
    rows = [
        row
        for section in sections.values()
        for row in re.findall(r"^\| .* \| not reached \|$", section, re.MULTILINE)
    ]
    return (
        "| what | target | measured | verdict |\n| --- | ---: | ---: | ---: |\n"
        + "\n".join(rows)
        + "\n"
    )


def renewed(page: str, results: str) -> str:
    """Return the *page* with the tables of the *results*."""
    for name, table in tables(results).items():
        part = rf"(?s)(<!-- {name} -->\n).*?(<!-- end -->)"
        page = re.sub(part, lambda found, table=table: f"{found[1]}\n{table}\n{found[2]}", page)
    return page


if __name__ == "__main__":
    PAGE.write_text(renewed(PAGE.read_text("utf-8"), RESULTS.read_text("utf-8")), "utf-8")
