"""The doctor: from what was measured and what was agreed, what to change and why."""

from __future__ import annotations

import contextlib
import os
import sqlite3
import stat
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

from mltrigger.broker import SEVERITIES, Broker, Depth, Finding, Severity, SubscriptionSpec
from mltrigger.clock import Clock
from mltrigger.delivery.circles import ADVICE, circles
from mltrigger.errors import NotFound
from mltrigger.policy import retry_budget_s
from mltrigger.sources import FolderSource, is_source
from mltrigger.sources.folder.census import findings as folder_findings
from mltrigger.store.connections import RETURN
from mltrigger.store.files import network_filesystem
from mltrigger.store.log import Log
from mltrigger.store.place import is_stopped, writer_of
from mltrigger.store.registry import Registry
from mltrigger.store.retention import Retention
from mltrigger.store.timekeeper import ahead
from mltrigger.store.transaction import Store
from mltrigger.text import count
from mltrigger.versions.selector import Selector, resolve
from mltrigger.versions.version import ModelVersion

LOOKED_AT = 1_000
"""Newest invocations whose run times are taken for what is usual."""
ENOUGH = 20
"""Run times below which no quantile is taken."""
SQS_LEASE_FACTOR = 6
"""https://docs.aws.amazon.com/lambda/latest/dg/services-sqs-configure.html: visibility at least six
times the timeout.
"""
SQS_DEAD_LETTERS_S = 14 * 24 * 3600
"""The longest that a dead-letter queue keeps a message; an event's age goes on counting when it
moves there.
https://docs.aws.amazon.com/AWSSimpleQueueService/latest/SQSDeveloperGuide/sqs-dead-letter-queues.html
"""
WAL_FIXED = (3, 51, 3)
"""The first SQLite without the WAL-reset bug (https://sqlite.org/wal.html)."""
_MANY_BYTES = 1 << 30
_FULL = 0.8


class Doctor:
    """Looks at a bus; changes nothing.

    Parameters
    ----------
    store, registry, log, broker, clock
        The parts of the bus.
    here : callable
        Returns what the listener of a subscription is doing in this process.
    no_hints : callable
        Returns why the system does not tell this process of changes in the folder of a topic; empty
        when it does.
    """

    def __init__(
        self,
        store: Store,
        registry: Registry,
        log: Log,
        broker: Broker,
        clock: Clock,
        here: Callable[[str], str] = lambda _: "stopped",
        no_hints: Callable[[str], str] = lambda _: "",
    ) -> None:
        self._store, self._registry, self._log, self._broker, self._clock, self._here = (
            store,
            registry,
            log,
            broker,
            clock,
            here,
        )
        self._no_hints = no_hints

    def bus(self) -> list[Finding]:
        """Return what there is to say about the store and all subscriptions, the worst first."""
        if lost := self._lost("bus"):
            return lost
        found = [
            *_writer(self._store.location),
            *_sqlite(),
            *_files(self._store.location),
            *self._clocks(),
            *self._archive(),
            *self._circles(),
            *_descriptors(),
            *self._broker.findings(),
        ]
        alive = self._registry.live_listeners()  # once: it has a row for each subscription
        for spec in self._registry.subscriptions():
            found += self._subscription(spec, alive)
        return _sorted(found, "bus")

    def subscription(self, spec: SubscriptionSpec) -> list[Finding]:
        """Return what there is to say about one subscription, the worst first."""
        if lost := self._lost(spec.name):
            return lost
        return _sorted(self._subscription(spec, self._registry.live_listeners()), spec.name)

    def _subscription(self, spec: SubscriptionSpec, alive: Mapping[int, int]) -> list[Finding]:
        depth = self._broker.depth(spec)
        return [
            *self._model(spec, depth, alive.get(spec.id, 0)),
            *self._folder(spec),
            *self._waiting(spec, depth),
            *_times(spec, self._run_times_s(spec)),
            *_agreed(spec, self._retention()),
            *self._troubles(spec, depth),
            *self._broker.findings(spec, depth),
        ]

    def _circles(self) -> Iterator[Finding]:
        for name, circle in circles(self._registry.subscriptions()):
            yield Finding("warning", name, "emit", circle, ADVICE)

    # -- who delivers ------------------------------------------------------------------------------

    def _model(self, spec: SubscriptionSpec, depth: Depth, listeners: int) -> Iterator[Finding]:
        try:
            version = resolve(self._registry, Selector.parse(spec.selector))
        except NotFound as error:
            yield Finding(
                "error",
                spec.name,
                "model",
                f"{spec.selector} means no version now: {error}",
                "register it, or rebind the subscription",
            )
            return
        yield from self._called(spec, depth)
        if listeners:
            return
        waits = f"{count(depth.open, 'event')} waiting" if depth.open else "nothing waits yet"
        severity: Severity = "error" if depth.open else "warning"
        yield Finding(
            severity, spec.name, "listener", f"no live listener; {waits}", _where(spec, version)
        )

    def _called(self, spec: SubscriptionSpec, depth: Depth) -> Iterator[Finding]:
        """Say why the model cannot be called, in this process or where it was to run."""
        state, _, why = self._here(spec.name).partition(": ")
        if state == "waiting for the store":
            yield Finding(
                "error",
                spec.name,
                "store",
                f"nothing can be received: {why}",
                "repair it: it is tried again by itself",
            )
        if state == "waiting for the model":
            yield Finding(
                "error",
                spec.name,
                "model",
                f"it cannot be called here: {why}; {count(depth.open, 'event')} waiting",
                "repair it: it is tried again by itself; or sub.pause(), or unsubscribe it",
            )
        if state == "waiting for calls that hang":
            yield Finding(
                "error",
                spec.name,
                "hanging calls",
                f"{why}; {count(depth.visible, 'event')} waiting",
                "isolation='process' ends a call that takes too long; it goes on by itself when"
                " calls end here",
            )
        newest = self._log.invocations(
            ("reason", "error"), subscription_id=spec.id, limit=1, running=False
        )
        if newest and newest[0][0] == "no_process":
            yield Finding(
                "error",
                spec.name,
                "executor",
                f"what runs the model takes no calls: {newest[0][1]}",
                "executor=lambda: ProcessPoolExecutor(2), a callable, is asked for a new one when"
                " one breaks",
            )

    def _folder(self, spec: SubscriptionSpec) -> Iterator[Finding]:
        url = self._registry.sources().get(spec.topic)
        if url is not None and is_source(url):
            yield from folder_findings(spec.name, FolderSource(url), self._no_hints(spec.topic))

    def _waiting(self, spec: SubscriptionSpec, depth: Depth) -> Iterator[Finding]:
        if spec.id in self._registry.paused():
            yield Finding(
                "warning",
                spec.name,
                "paused",
                f"paused; {count(depth.open, 'event')} waiting",
                "sub.resume() delivers them",
            )
        age_s = spec.policy.max_age_s
        if age_s is not None and depth.oldest_s is not None and depth.oldest_s > age_s / 2:
            yield Finding(
                "warning",
                spec.name,
                "max_age_s",
                f"the oldest open event is {depth.oldest_s:.0f} s old, it expires at {age_s:g} s",
                "add workers, raise max_concurrency, or raise max_age_s",
            )

    # -- what happened -----------------------------------------------------------------------------

    def _run_times_s(self, spec: SubscriptionSpec) -> list[float]:
        rows = self._log.invocations(
            ["model_ms"], subscription_id=spec.id, limit=LOOKED_AT, running=False
        )
        return sorted(ms / 1000 for (ms,) in rows if ms is not None)

    def _troubles(self, spec: SubscriptionSpec, depth: Depth) -> Iterator[Finding]:
        counts = self._log.tallies().get(spec.id, {})
        if depth.dead:
            shown = ", ".join(
                f"{n} {reason}" for reason, n in list(self._log.dead_reasons(spec.id).items())[:3]
            )
            yield Finding(
                "warning",
                spec.name,
                "dead letters",
                f"{count(depth.dead, 'dead letter')}: {shown}",
                "sub.dead_letters() shows them; sub.dry_run(), then sub.redrive() or sub.discard()",
            )
        if lost := counts.get("abandoned", 0):
            yield Finding(
                "warning",
                spec.name,
                "abandoned",
                f"{count(lost, 'attempt')} began and never ended: a worker died or lost its lease",
                "look at the memory of the workers; isolation='process' keeps a model's crash from"
                " the worker",
            )
        if late := counts.get("stale", 0):
            yield Finding(
                "info",
                spec.name,
                "stale",
                f"{count(late, 'attempt')} ended after the lease was lost; another one counted",
                "processes were stopped or starved for longer than the lease: raise lease_s",
            )

    # -- the store ---------------------------------------------------------------------------------

    def _lost(self, about: str) -> list[Finding]:
        lost = self._store.lost()  # nothing else could be read then
        return [] if lost is None else [Finding("error", about, "file", lost, RETURN)]

    def _retention(self) -> Retention:
        return self._registry.retention()

    def _clocks(self) -> Iterator[Finding]:
        ahead_s = self._clock.now_us() / 1e6 - time.time()
        if abs(ahead_s) > 60 and self._store.location is not None:
            yield Finding(
                "warning",
                "bus",
                "clock",
                f"the bus's clock is {ahead_s:+.0f} s off the wall clock of this process, which was"
                " set back, or is not that of the others",
                "leases and delays are right; the times shown are not until the machine boots"
                " again",
            )
        if (early := ahead(self._store, self._clock.now_us())) is not None:
            yield Finding(
                "warning",
                "bus",
                "clock",
                f"{count(early[0], 'event')} came from a process whose clock is ahead, due in"
                f" {early[1]:.0f} s",
                "set the clock of that process; a listener that starts now delivers them at once",
            )

    def _archive(self) -> Iterator[Finding]:
        location = self._store.location
        size = (
            sum(status.st_size for end in ("", "-wal") if (status := _status(location + end)))
            if location
            else 0
        )
        if size > _MANY_BYTES and self._retention() == Retention():
            yield Finding(
                "info",
                "bus",
                "retention",
                f"the store has {size / 1e9:.1f} GB and keeps everything",
                "bus.retain(max_age_s=14 * 86400) lets old events go; what is open or dead stays",
            )


def _where(spec: SubscriptionSpec, version: ModelVersion) -> str:
    if not version.portable:
        return (
            f"{version} lives in a notebook only: run its cell again there, or move it into a"
            " module that `mltrigger worker` can import"
        )
    return (
        f"sub.start() delivers here, `mltrigger worker --subscription {spec.name}` in a process of"
        " its own"
    )


def _times(spec: SubscriptionSpec, run_s: list[float]) -> Iterator[Finding]:
    """Compare what calls took with what was agreed."""
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


def _agreed(spec: SubscriptionSpec, retention: Retention) -> Iterator[Finding]:
    """Look for settings that contradict one another."""
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


def _sqlite() -> Iterator[Finding]:
    version = sqlite3.sqlite_version_info
    if version < WAL_FIXED:
        yield Finding(
            "ok",
            "bus",
            "SQLite",
            f"one process at a time checkpoints, since SQLite {sqlite3.sqlite_version} has the"
            " WAL-reset bug",
            "",
        )


def _files(location: str | None) -> Iterator[Finding]:
    if location is None:
        return
    path = Path(location)
    for file in (path, Path(location + "-wal"), Path(location + "-shm")):
        if (status := _status(str(file))) and (mode := stat.S_IMODE(status.st_mode)) & 0o077:
            yield Finding(
                "warning",
                "bus",
                "file mode",
                f"{file.name} has mode {mode:04o}: others on this machine can read events",
                f"chmod 600 {file.name}",
            )
    of_folder = _status(str(path.parent))
    folder = stat.S_IMODE(of_folder.st_mode) if of_folder else 0
    if folder & 0o002 and not folder & stat.S_ISVTX:
        yield Finding(
            "warning",
            "bus",
            "file mode",
            f"the folder of the store has mode {folder:04o}: others can replace it",
            "chmod o-w on it",
        )
    if (kind := network_filesystem(path)) is not None:
        yield Finding(
            "error",
            "bus",
            "file system",
            f"the store lies on {kind}",
            "SQLite's WAL needs a local disk: move the file",
        )
    with contextlib.suppress(OSError):  # removed a moment ago
        yield from _disk(os.statvfs(path))


def _disk(usage: os.statvfs_result) -> Iterator[Finding]:
    if usage.f_bavail * usage.f_frsize < _MANY_BYTES:
        yield Finding(
            "warning",
            "bus",
            "disk",
            f"{usage.f_bavail * usage.f_frsize / 1e6:,.0f} MB are free",
            "make room: a full disk stops publishing",
        )


def _status(path: str) -> os.stat_result | None:
    """Return the status of a file; ``None`` when it is not there (any more)."""
    try:
        return os.stat(path)  # noqa: PTH116 - the path with an ending of SQLite's own
    except OSError:
        return None


def _writer(location: str | None) -> Iterator[Finding]:
    """Look for a process that was stopped inside a transaction: everybody waits for it."""
    pid = writer_of(location) if location is not None else None
    if pid is not None and is_stopped(pid):
        yield Finding(
            "error",
            "bus",
            "write lock",
            f"process {pid} is stopped and holds the store's write lock: nobody can write",
            f"let it go on (kill -CONT {pid}), or end it",
        )


def _descriptors() -> Iterator[Finding]:
    """Look for a model that leaks files in this process."""
    try:
        import resource

        used, limit = (
            len(os.listdir("/proc/self/fd")),  # noqa: PTH208
            resource.getrlimit(resource.RLIMIT_NOFILE)[0],
        )
    except (ImportError, OSError):
        return
    if used > _FULL * limit:
        yield Finding(
            "warning",
            "bus",
            "file descriptors",
            f"{used} of {limit} file descriptors of this process are open",
            "a model may leak them: isolation='process' starts it anew from time to time",
        )


def _sorted(found: list[Finding], about: str) -> list[Finding]:
    if all(f.severity == "ok" for f in found):
        found = [Finding("ok", about, "all", "nothing to change", ""), *found]
    return sorted(found, key=lambda f: SEVERITIES.index(f.severity))


def _round(seconds: float) -> str:
    return f"{seconds:.2g}" if seconds < 10 else f"{seconds:.0f}"
