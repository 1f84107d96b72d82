"""Checks of the doctor: the settings of a subscription against measured times."""

from __future__ import annotations

from collections.abc import Iterator

from mltrigger.broker import Finding, SubscriptionSpec
from mltrigger.policy import retry_budget_s
from mltrigger.store.retention import Retention

ENOUGH = 20
"""Fewer run times give no quantile."""
SQS_LEASE_FACTOR = 6
"""Visibility is to be at least six times the timeout:
https://docs.aws.amazon.com/lambda/latest/dg/services-sqs-configure.html
"""
SQS_DEAD_LETTERS_S = 14 * 24 * 3600
"""The longest that a dead-letter queue keeps a message. Its age goes on counting from before:
https://docs.aws.amazon.com/AWSSimpleQueueService/latest/SQSDeveloperGuide/sqs-dead-letter-queues.html
"""
_FULL = 0.8


def run_times(spec: SubscriptionSpec, run_s: list[float]) -> Iterator[Finding]:
    """Compare the run times of calls, in order, with the timeout and the lease."""
    policy = spec.policy
    if len(run_s) < ENOUGH:
        return
    p99_s, most_s = run_s[int(0.99 * (len(run_s) - 1))], run_s[-1]
    if p99_s > _FULL * policy.timeout_s:
        yield Finding(
            "warning",
            spec.name,
            "timeout_s",
            f"p99 of the model is {p99_s:.3g} s, timeout_s is {policy.timeout_s:g} s",
            f"timeout_s={_round(3 * p99_s)} leaves room; what is killed is run again",
        )
    elif policy.timeout_s > 100 * max(most_s, 0.01) and policy.timeout_s > 10:
        yield Finding(
            "info",
            spec.name,
            "timeout_s",
            f"the longest call took {most_s:.3g} s, timeout_s is {policy.timeout_s:g} s",
            f"timeout_s={_round(10 * max(most_s, 0.1))} would notice a call that hangs, and a dead"
            " worker, sooner",
        )
    if policy.lease < p99_s:
        yield Finding(
            "warning",
            spec.name,
            "lease_s",
            f"the lease ({policy.lease:g} s) is shorter than p99 of the model ({p99_s:.3g} s)",
            f"lease_s={_round(2 * policy.timeout_s)}: only heartbeats hold the event now",
        )


def agreed(spec: SubscriptionSpec, retention: Retention) -> Iterator[Finding]:
    """Find settings that contradict one another."""
    policy, name = spec.policy, spec.name
    needed_s = policy.timeout_s + policy.batch_window_s
    if policy.lease < needed_s:
        yield Finding(
            "warning",
            name,
            "lease_s",
            f"lease_s ({policy.lease:g}) is below batch_window_s + timeout_s ({needed_s:g})",
            f"lease_s={_round(2 * needed_s)}, or a call that takes its time depends on heartbeats",
        )
    if (
        policy.lease < SQS_LEASE_FACTOR * policy.timeout_s + policy.batch_window_s
        and policy.lease_s is not None
    ):
        advised = _round(SQS_LEASE_FACTOR * policy.timeout_s + policy.batch_window_s)
        yield Finding(
            "info",
            name,
            "lease_s on SQS",
            f"lease_s is {policy.lease:g}; on SQS six times the timeout and the window is advised",
            f"lease_s={advised} there; without lease_s the broker chooses",
        )
    budget_s = retry_budget_s(policy.max_attempts) + policy.max_attempts * policy.timeout_s
    for what, limit_s in (
        ("max_age_s", policy.max_age_s),
        ("the retention", retention.max_age_s),
        ("SQS' 14 days", SQS_DEAD_LETTERS_S),
    ):
        if limit_s is not None and budget_s > limit_s:
            yield Finding(
                "warning",
                name,
                "retry budget",
                f"{policy.max_attempts} attempts may take {budget_s:.0f} s, {what}:"
                f" {limit_s:.0f} s",
                "lower max_attempts, or keep events longer: the last retries would never happen",
            )
    if (
        retention.max_age_s is not None
        and policy.max_age_s is not None
        and retention.max_age_s < policy.max_age_s
    ):
        yield Finding(
            "warning",
            name,
            "retention",
            f"events are kept for {retention.max_age_s:g} s, max_age_s is {policy.max_age_s:g}",
            "keep events at least as long as they may wait",
        )
    if spec.filter is not None:
        for warning in spec.filter.warnings:
            yield Finding("info", name, "filter", warning, "SNS would refuse this filter")


def _round(seconds: float) -> str:
    return f"{seconds:.2g}" if seconds < 10 else f"{seconds:.0f}"
