"""The kill storm on SQS, small: what `make storm-aws` does with 2,000 events.

The server is moto's, behind a proxy that fails.
"""

from __future__ import annotations

import sys

import pytest

from benchmarks.aws.server import moto
from benchmarks.aws.storm import Sizes, Verdict, storm

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="no such signals")
SIZES = Sizes(events=120, kills=3, workers=3)


@pytest.fixture(scope="module")
def verdict(tmp_path_factory: pytest.TempPathFactory) -> Verdict:
    """What became of 120 events and of what they caused, while workers were killed and calls
    failed.
    """
    with moto() as server:
        return storm(tmp_path_factory.mktemp("storm"), server, SIZES, seed=1)


def test_storm_on_sqs_loses_nothing_and_records_nothing_twice(verdict: Verdict) -> None:
    assert verdict.broken == []
    assert (verdict.lost, verdict.doubled, verdict.stuck) == (0, 0, 0)
    assert (verdict.published, verdict.outcomes) == (SIZES.events, 2 * SIZES.events)


def test_storm_on_sqs_was_one(verdict: Verdict) -> None:
    assert verdict.kills == SIZES.kills
    assert verdict.publisher_kills == 1
    assert sum(verdict.fired.values()) > 10
