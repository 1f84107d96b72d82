"""The SQL stores, by the name of a test's parameter."""

from __future__ import annotations

import pytest

SQL = ("memory", "sqlite", "postgresql")
ALL = (*SQL, "aws")
"""With a bus on AWS, whose log is a file."""


def url_of(request: pytest.FixtureRequest) -> str:
    """Return the URL of an empty store of the kind ``request.param``, for one test."""
    if request.param == "sqlite":
        return f"sqlite:///{request.getfixturevalue('file')}"
    return "memory://" if request.param == "memory" else request.getfixturevalue("team")
