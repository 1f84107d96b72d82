"""The doctor: advice from measured times and the settings."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from datetime import UTC, datetime

from mltrigger.broker import (
    SEVERITIES,
    Broker,
    Depth,
    Finding,
    Outside,
    Severity,
    Status,
    SubscriptionSpec,
    followed,
    source_at,
)
from mltrigger.clock import Clock
from mltrigger.delivery.circles import ADVICE, circles
from mltrigger.errors import NotFound
from mltrigger.reports import effects, key_checks
from mltrigger.reports.policy_checks import agreed, run_times
from mltrigger.reports.store_checks import (
    archive,
    clocks,
    descriptors,
    files,
    holders,
    lanes,
    moved,
    sqlite,
    writer,
)
from mltrigger.store.log import Log
from mltrigger.store.outcomes import ROLES
from mltrigger.store.registry import Registry
from mltrigger.store.transaction import Store
from mltrigger.text import count
from mltrigger.versions.selector import Selector, resolve
from mltrigger.versions.version import ModelVersion

LOOKED_AT = 1_000
"""The newest invocations, whose run times count as usual."""


class Doctor:
    """Examines a bus. Changes nothing.

    Parameters
    ----------
    here : callable
        Returns the state of the listener of a subscription in this process.
    note : callable
        Returns the remark of this process's feeder on a topic; empty if there is none.
    outside : Outside, optional
        The part of the broker for a service outside.
    status : callable
        Returns the state of a topic's source.
    """

    def __init__(
        self,
        store: Store,
        registry: Registry,
        log: Log,
        broker: Broker,
        clock: Clock,
        here: Callable[[str], str] = lambda _: "stopped",
        note: Callable[[str], str] = lambda _: "",
        outside: Outside | None = None,
        status: Callable[[str], Status | None] = lambda _: None,
    ) -> None:
        self._store, self._registry, self._log, self._broker, self._clock, self._here = (
            store,
            registry,
            log,
            broker,
            clock,
            here,
        )
        self._note, self._outside, self._status = note, outside, status

    def bus(self) -> list[Finding]:
        """Return the findings about the store and all subscriptions, the worst first."""
        if lost := self._lost("bus"):
            return lost
        found = [
            *self._store_itself(),
            *moved(self._store),
            *clocks(self._store, self._clock.now_us()),
            *archive(self._store.location, self._registry.retention()),
            *holders(self._store, self._registry.retention(), self._clock.now_us()),
            *lanes(self._store, self._clock.now_us()),
            *self._circles(),
            *descriptors(),
            *(self._outside.findings() if self._outside is not None else ()),
        ]
        alive = self._registry.live_listeners()  # once: it has a row for each subscription
        for spec in self._registry.subscriptions():
            found += self._subscription(spec, alive)
        return _sorted(found, "bus")

    def subscription(self, spec: SubscriptionSpec) -> list[Finding]:
        """Return the findings about one subscription, the worst first."""
        if lost := self._lost(spec.name):
            return lost
        found = self._subscription(spec, self._registry.live_listeners())
        own = {f"{spec.name}~{role}" for role in ROLES}
        found += [
            each
            for each in lanes(self._store, self._clock.now_us())
            if each.about.rpartition("-")[0] in own
        ]
        return _sorted(found, spec.name)

    def _subscription(self, spec: SubscriptionSpec, alive: Mapping[int, int]) -> list[Finding]:
        depth = self._broker.depth(spec)
        return [
            *self._model(spec, depth, alive.get(spec.id, 0)),
            *self._source(spec),
            *self._waiting(spec, depth),
            *key_checks.keys(self._store, spec, self._clock.now_us()),
            *run_times(spec, self._run_times_s(spec)),
            *agreed(spec, self._registry.retention()),
            *self._troubles(spec, depth),
            *effects.unknown(self._log.effects, spec),
            *(self._outside.findings(spec, depth) if self._outside is not None else ()),
        ]

    def _circles(self) -> Iterator[Finding]:
        sources = followed(self._registry.sources())
        for name, circle in circles(self._registry.subscriptions(), sources):
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
        """Say why the model cannot be called, here or in its executor."""
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

    def _source(self, spec: SubscriptionSpec) -> Iterator[Finding]:
        url = self._registry.sources().get(spec.topic)
        if url is None or (source := source_at(url)) is None:
            return
        yield from source.findings(spec.name, self._note(spec.topic))
        status = self._status(spec.topic)
        if status is None or status.since_us is None:
            return
        since = datetime.fromtimestamp(status.since_us / 1e6, UTC).strftime("%Y-%m-%d %H:%M:%S UTC")
        if status.state == "waiting":
            yield Finding(
                "error",
                spec.name,
                "source",
                f"it waits since {since}: {status.detail}",
                "repair it: it is tried again by itself",
            )
        elif status.state == "connected" and status.behind:
            yield Finding(
                "info",
                spec.name,
                "source",
                f"connected since {since}, {count(status.behind, 'thing')} there are no events yet",
                "none if the number falls; else look at the log of the listener",
            )

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

    def _store_itself(self) -> Iterable[Finding]:
        location = self._store.location
        if location is None and self._store.is_shared:
            return self._store.findings()
        return *writer(location), *sqlite(), *files(location)

    def _lost(self, about: str) -> list[Finding]:
        lost = self._store.lost()  # nothing else could be read then
        is_server = self._store.location is None and self._store.is_shared
        check = "server" if is_server else "file"
        return [] if lost is None else [Finding("error", about, check, *lost)]


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


def _sorted(found: list[Finding], about: str) -> list[Finding]:
    if all(f.severity == "ok" for f in found):
        found = [Finding("ok", about, "all", "nothing to change", ""), *found]
    return sorted(found, key=lambda f: SEVERITIES.index(f.severity))
