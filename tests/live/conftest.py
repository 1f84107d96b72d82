"""``make test-aws``: checks on a real account, by whoever runs them.

What they make is told before, and removed however they end.
"""

from __future__ import annotations

import signal
import time
from collections.abc import Iterator
from typing import Any

import boto3
import pytest
import rig

from mltrigger.aws.clients import Clients
from mltrigger.text import short

LIVE = pytest.StashKey[rig.Live]()
NOT_KEPT = "NotKept"
"""The code with which mltrigger says that an emulator has no notifications of buckets."""
_WILL_MAKE = """\
  region {region}, account {account}, endpoint {endpoint}
  It makes about 200 queues, 80 topics, 20 buckets with small objects, and, where that is allowed, 5 IAM roles, an EventBridge rule and a
  CloudFormation stack. Their names all begin with {prefix}-, and they are removed at the end, also after a failure or Ctrl-C.
  It takes about 20 minutes and costs about two US cents (some 10,000 requests of SQS and SNS, 500 of S3); nothing within the free tier.
  Should this process be killed:  make clean-aws PREFIX={prefix}"""


def pytest_configure(config: pytest.Config) -> None:
    where = rig.region()
    if where is None:
        raise pytest.UsageError(
            "in which region? Set AWS_REGION or AWS_DEFAULT_REGION; credentials are those that"
            " boto3 finds"
        )
    clients = Clients(boto3.Session(region_name=where), where)
    try:
        _ = clients.account
    except Exception as error:
        raise pytest.UsageError(f"no account: {error}") from error
    config.stash[LIVE] = rig.Live(clients, rig.fresh_prefix())
    # Or whoever ends this politely would leave everything behind.
    signal.signal(signal.SIGTERM, signal.default_int_handler)


def pytest_report_header(config: pytest.Config) -> list[str]:
    live = config.stash[LIVE]
    endpoint = live.clients.sqs.meta.endpoint_url + (" (an emulator)" if live.emulator else "")
    told = _WILL_MAKE.format(
        region=live.clients.region,
        account=live.clients.account,
        endpoint=endpoint,
        prefix=live.prefix,
    )
    return ["live checks on AWS:", *told.splitlines()]


@pytest.hookimpl(trylast=True)
def pytest_sessionfinish(session: pytest.Session) -> None:
    """Remove everything; after the fixtures, which close their buses."""
    live = session.config.stash[LIVE]
    if session.config.option.collectonly:
        return
    janitor = rig.Janitor(live.prefix, live.clients.region)
    try:
        janitor.clean(tuple(live.buckets))
        time.sleep(0 if live.emulator else 5)
        # what was being made while the first one looked
        again = rig.Janitor(live.prefix, live.clients.region)
        again.clean()
        janitor.problems += again.problems
    finally:
        told = ", ".join(f"{count} {kind}s" for kind, count in janitor.removed.items()) or "nothing"
        live.sees(f"removed: {told}")
        if janitor.problems:
            session.exitstatus = pytest.ExitCode.TESTS_FAILED
            live.sees(
                f"NOT REMOVED, run make clean-aws PREFIX={live.prefix}:"
                f" {'; '.join(janitor.problems)}"
            )


def pytest_terminal_summary(terminalreporter: Any, config: pytest.Config) -> None:
    gaps = [
        report
        for report in terminalreporter.stats.get("xfailed", ())
        if "emulator gap" in getattr(report, "wasxfail", "")
    ]
    if gaps:
        terminalreporter.section(f"{len(gaps)} emulator gaps: not checked here, only AWS can tell")
        for report in gaps:
            terminalreporter.write_line(
                short(
                    f"{report.nodeid.rpartition('::')[2]}:"
                    f" {report.wasxfail.removeprefix('emulator gap: ')}",
                    180,
                )
            )
    for report in terminalreporter.stats.get("skipped", ()):
        terminalreporter.write_line(
            f"not run: {report.nodeid.rpartition('::')[2]}:"
            f" {report.longrepr[2].removeprefix('Skipped: ')}"
        )
    terminalreporter.section("seen")
    for line in config.stash[LIVE].observed:
        terminalreporter.write_line(line)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo[None]) -> Any:
    """Tell what an emulator does otherwise than AWS as a gap. A failure of ours stays one."""
    report = yield
    if (
        report.when != "call"
        or not report.failed
        or not item.config.stash[LIVE].emulator
        or call.excinfo is None
    ):
        return report
    if (
        isinstance(call.excinfo.value, rig.Gap)
        or getattr(call.excinfo.value, "code", "") == NOT_KEPT
    ):
        said = str(call.excinfo.value).splitlines() or [""]
        report.outcome = "skipped"
        report.wasxfail = f"emulator gap: {said[0]}"
    return report


@pytest.fixture(scope="session")
def live(pytestconfig: pytest.Config) -> Iterator[rig.Live]:
    """The account."""
    return pytestconfig.stash[LIVE]  # type: ignore[return-value]


@pytest.fixture(scope="session")
def queue(live: rig.Live) -> str:
    """A queue that takes 1 MiB, for checks of what may be sent."""
    return live.queue(MaximumMessageSize="1048576")


@pytest.fixture(scope="session")
def fifo_queue(live: rig.Live) -> str:
    """A FIFO queue."""
    return live.queue(fifo=True)


@pytest.fixture(scope="session")
def topic(live: rig.Live) -> str:
    """A topic without subscribers."""
    return live.topic()
