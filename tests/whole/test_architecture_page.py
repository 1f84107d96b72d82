"""docs/architecture.md: the rooms, floors and files that it names are those of the package."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest
from test_architecture import FLOORS, PACKAGE, floor, tree

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "architecture.md").read_text()
SECTIONS = dict(re.findall(r"(?ms)^## (.+?)\n(.*?)(?=^## |\Z)", PAGE))
ROOMS = re.findall(r"(?m)^\| `(\w+)` \|", SECTIONS["Rooms, from the ground up"])
WAY = re.findall(r"(?m)^\| .+? \| `(mltrigger/\S+)` \| `(\w+)` \|", SECTIONS["The way of an event"])
UNNAMED = {"_version", "__main__"}


def test_the_page_names_every_room_from_the_ground_up() -> None:
    assert set(ROOMS) == set().union(*FLOORS) - UNNAMED
    assert [floor(room) for room in ROOMS] == sorted(floor(room) for room in ROOMS)


def test_the_drawing_has_every_room() -> None:
    drawing = PAGE.split("```")[1]
    drawn = set(re.findall(r"\w+", drawing))

    assert set(ROOMS) - {"schemes"} <= drawn


@pytest.mark.parametrize("file", sorted(set(re.findall(r"mltrigger/[\w/]+(?:\.py|/)", PAGE))))
def test_a_file_that_the_page_names_is_there(file: str) -> None:
    assert (ROOT / file).exists()


@pytest.mark.parametrize(("file", "function"), WAY)
def test_a_step_of_the_way_is_a_function_of_its_file(file: str, function: str) -> None:
    name = Path(file).relative_to("mltrigger").with_suffix("").as_posix().replace("/", ".")

    assert function in {n.name for n in ast.walk(tree(name)) if isinstance(n, ast.FunctionDef)}


def test_an_event_goes_the_way_that_the_page_says(tmp_path: Path) -> None:
    """Every file of the way is entered when one event is published, processed and read."""
    from benchmarks.house import entered

    visited = entered(asked=True)

    assert {Path(file).relative_to("mltrigger").as_posix() for file, _ in WAY} <= visited
    assert all((PACKAGE / file).exists() for file in visited)
