"""Slow tests: ``@pytest.mark.slow``, or ``@pytest.mark.slow(every=5)``.

Without ``--slow`` only a sample of them runs: every fifth case, or none if no number is given.
``of="file"`` counts the cases of a file together, else those of a test.
With ``--slow`` all cases run, and hypothesis tries ten times as many examples. A test that loops
over many points takes its sample itself, with the fixture ``sample``.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from typing import TypeVar

import pytest
from hypothesis import settings

T = TypeVar("T")

for name, most in (("few", 30), ("many", 300)):
    settings.register_profile(
        name, deadline=None, derandomize=True, database=None, max_examples=most
    )


def examples(few: int) -> int:
    """Return how many examples hypothesis tries: *few*, or ten times as many with ``--slow``."""
    return few * settings.default.max_examples // 30


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--slow", action="store_true", help="run all cases of slow tests")


def pytest_configure(config: pytest.Config) -> None:
    settings.load_profile("many" if config.getoption("--slow") else "few")


@pytest.hookimpl(wrapper=True)
def pytest_collection_modifyitems(
    config: pytest.Config, items: list[pytest.Item]
) -> Iterator[None]:
    for item in items:
        if getattr(getattr(item, "obj", None), "is_hypothesis_test", False):
            item.add_marker(pytest.mark.slow(every=1))
    yield
    if config.getoption("--slow"):
        return
    seen: Counter[tuple[str, int | None]] = Counter()
    left_out = set()
    for item in items:
        if mark := item.get_closest_marker("slow"):
            test, every = item.nodeid.partition("[")[0], mark.kwargs.get("every")
            test = test.partition("::")[0] if mark.kwargs.get("of") == "file" else test
            if every is None or seen[test, every] % every:
                left_out.add(item)
            seen[test, every] += 1
    config.hook.pytest_deselected(items=list(left_out))
    items[:] = [item for item in items if item not in left_out]


@pytest.fixture(scope="session")
def sample(request: pytest.FixtureRequest) -> Callable[[Sequence[T], int], Sequence[T]]:
    """Take every n-th of many points; all of them with ``--slow``."""
    whole = request.config.getoption("--slow")
    return lambda points, every: points if whole else points[::every]
