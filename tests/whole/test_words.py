"""Words: docstrings are short and plain, measured over all sentences of the package."""

from __future__ import annotations

import functools
import json
import statistics
from pathlib import Path

import pytest

from benchmarks.house import LONG_WORDS, RIDDLE, sentences, sources

NOTEBOOKS = Path(__file__).parents[2] / "notebooks"
pytestmark = pytest.mark.xdist_group("words")  # one process reads the sources


@functools.cache
def written() -> list[tuple[str, str]]:
    """Return the sentences of all docstrings, each with the name of its file."""
    return [(name, s) for name, tree in sources().items() for s in sentences(tree)]


def share(found: list[str]) -> float:
    return len(found) / len(written())


def test_half_of_all_sentences_are_short() -> None:
    assert statistics.median(len(s.split()) for _, s in written()) <= 10


def test_few_sentences_are_long() -> None:
    long = [f"{name}: {s}" for name, s in written() if len(s.split()) > LONG_WORDS]

    assert share(long) < 0.03, "\n".join(long)


def test_sentences_are_no_chains_of_semicolons() -> None:
    chains = [f"{name}: {s}" for name, s in written() if ";" in s]

    assert share(chains) < 0.01, "\n".join(chains)


def test_sentences_are_no_riddles() -> None:
    riddles = [f"{name}: {s}" for name, s in written() if RIDDLE.search(s)]

    assert share(riddles) < 0.01, "\n".join(riddles)


@pytest.mark.parametrize("name", sorted(path.name for path in NOTEBOOKS.glob("*.ipynb")))
def test_a_tutorial_opens_with_what_its_reader_will_learn(name: str) -> None:
    first = json.loads((NOTEBOOKS / name).read_text())["cells"][0]
    title, _, rest = "".join(first["source"]).partition("\n\n")

    assert first["cell_type"] == "markdown" and title.startswith("# ")
    assert rest.startswith("You will learn to")
