"""Tables and targets, as plain text for a terminal and as Markdown for ``RESULTS.md``."""

from __future__ import annotations

import dataclasses
import re
import statistics
from collections.abc import Iterable, Sequence


@dataclasses.dataclass(frozen=True)
class Table:
    """A title, column names, and rows of text; all but the first column are figures."""

    title: str
    columns: Sequence[str]
    rows: Sequence[Sequence[str]]

    def text(self) -> list[str]:
        widths = [
            max(len(row[i]) for row in [self.columns, *self.rows]) for i in range(len(self.columns))
        ]

        def line(cells: Sequence[str]) -> str:
            first, *others = [(c, w) for c, w in zip(cells, widths, strict=True)]
            return "  ".join(
                ["  " + first[0].ljust(first[1]), *(c.rjust(w) for c, w in others)]
            ).rstrip()

        return [
            self.title,
            line(self.columns),
            "  " + "-" * (sum(widths) + 2 * len(widths) - 2),
            *map(line, self.rows),
        ]

    def markdown(self) -> list[str]:
        def line(cells: Iterable[str]) -> str:
            return "| " + " | ".join(c.replace("|", "\\|") for c in cells) + " |"

        bars = ["---", *["---:"] * (len(self.columns) - 1)]
        return [f"**{self.title}**", "", line(self.columns), line(bars), *map(line, self.rows)]


@dataclasses.dataclass(frozen=True)
class Target:
    """What design.md promises, and what was measured."""

    what: str
    wanted: str
    measured: str
    reached: bool


@dataclasses.dataclass
class Report:
    """What one part found out."""

    name: str
    title: str
    tables: list[Table] = dataclasses.field(default_factory=list)
    targets: list[Target] = dataclasses.field(default_factory=list)
    notes: list[str] = dataclasses.field(default_factory=list)

    def text(self) -> str:
        lines = [f"== {self.name}: {self.title}"]
        for table in self._tables():
            lines += ["", *table.text()]
        return "\n".join([*lines, "", *[f"  {note}" for note in self.notes]]).rstrip() + "\n"

    def markdown(self) -> str:
        lines = [f"## {self.name}: {self.title}"]
        for table in self._tables():
            lines += ["", *table.markdown()]
        return "\n".join([*lines, "", *[f"- {note}" for note in self.notes]]).rstrip() + "\n"

    def _tables(self) -> list[Table]:
        return [*self.tables, *([targets_table(self.targets)] if self.targets else [])]


def kept(old: str, new: str) -> str:
    """Return *new* with those sections of *old* appended that it does not have: other commands
    wrote them.
    """
    named = _sections(new)
    others = [text for name, text in _sections(old).items() if name not in named]
    return "\n".join(text.rstrip("\n") + "\n" for text in [new, *others])


def replaced(old: str, report: Report) -> str:
    """Return *old* with the section of *report* in place of its former one, or at the end."""
    head, *_ = re.split(r"^(?=## )", old, maxsplit=1, flags=re.MULTILINE)
    sections = {**_sections(old), report.name: report.markdown()}
    return "\n".join(
        text.rstrip("\n") + "\n" for text in [head, *sections.values()] if text.strip()
    )


def _sections(text: str) -> dict[str, str]:
    """Return name -> text of the sections of a Markdown file: each begins with ``## name: title``."""
    found = re.split(r"^(?=## )", text, flags=re.MULTILINE)[1:]
    return {section[3:].partition("\n")[0].partition(":")[0]: section for section in found}


def targets_table(targets: Sequence[Target]) -> Table:
    """Return the targets beside what was measured."""
    rows = [
        (t.what, t.wanted, t.measured, "reached" if t.reached else "not reached") for t in targets
    ]
    return Table("Targets", ("what", "target", "measured", "verdict"), rows)


def spread(values: Sequence[float]) -> str:
    """Return the smallest and the largest of *values*."""
    return f"{number(min(values))}-{number(max(values))}"


def number(value: float) -> str:
    """Return *value* with as many digits as mean something."""
    if value >= 100:
        return f"{value:,.0f}"
    return f"{value:.1f}" if value >= 10 else f"{value:.2f}"


def quantile(values: Sequence[float], q: float) -> float:
    """Return the quantile *q* of *values*: the smallest value that at least that share does not
    exceed.
    """
    ordered = sorted(values)
    return ordered[max(0, min(len(ordered) - 1, -(-int(q * 1000) * len(ordered) // 1000) - 1))]


def median_ratio(above: Sequence[float], below: Sequence[float]) -> float:
    """Return the median of the ratios of each pair; pairs were measured one right after the other."""
    return statistics.median(a / b for a, b in zip(above, below, strict=True))
