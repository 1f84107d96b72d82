"""The charts of a bus, and the frames that all charts are drawn from.

matplotlib is loaded when a chart is drawn, and only then.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from mltrigger.errors import NotFound, brief_errors
from mltrigger.reports import attempts, views
from mltrigger.reports.frames import STAGES
from mltrigger.reports.moments import Moment, moment_us

if TYPE_CHECKING:
    import types
    from datetime import datetime, timedelta

    import pandas as pd
    from matplotlib.axes import Axes

    from mltrigger.broker import SubscriptionSpec
    from mltrigger.store.log import Log
    from mltrigger.store.registry import Registry

_TIMES = tuple(f"{stage}_ms" for stage in STAGES)


class Chosen(NamedTuple):
    """The attempts that a chart is about."""

    log: Log
    registry: Registry
    spec: SubscriptionSpec | None = None
    since: Moment = None
    version: str | Sequence[str] | None = None
    role: str | Sequence[str] | None = None

    @property
    def about(self) -> str:
        """The name of a subscription, or words for all of them."""
        return "all subscriptions" if self.spec is None else self.spec.name

    @property
    def versions(self) -> list[str]:
        """The versions that are asked for, as they were given."""
        if self.version is None:
            return []
        given = [self.version] if isinstance(self.version, str) else self.version
        return [str(name) for name in given]

    @property
    def names_models(self) -> bool:
        """Whether a version is given with its model, as in ``ocr:1.0.0``."""
        return any(":" in name for name in self.versions)


def drawing() -> types.ModuleType:
    """Return the functions that draw."""
    from mltrigger.notebook import plotting

    return plotting


def latency(chosen: Chosen, stage: str | Sequence[str] | None, ax: Axes | None) -> Axes:
    """Draw the ECDF of times by series and stage."""
    stages = [stage] if isinstance(stage, str) else stage
    for name in stages or ():
        if name not in STAGES:
            raise NotFound.of("stage", str(name), STAGES)
    drawn: Axes = drawing().latency(_times(chosen), chosen.about, stages, ax)
    return drawn


def timeline(
    chosen: Chosen, stage: str, changes: Sequence[tuple[int, str]], ax: Axes | None
) -> Axes:
    """Draw times over time. *changes* are times of bindings, and their words."""
    if stage not in STAGES:
        raise NotFound.of("stage", str(stage), STAGES)
    table = _series(chosen, ("finished_at", "outcome", f"{stage}_ms"))
    drawn: Axes = drawing().timeline(table, chosen.about, stage, changes, ax)
    return drawn


def throughput(chosen: Chosen, ax: Axes | None) -> Axes:
    """Draw the number of attempts over time."""
    drawn: Axes = drawing().throughput(_series(chosen, ("settled_at",)), chosen.about, ax)
    return drawn


def outcomes(chosen: Chosen, ax: Axes | None) -> Axes:
    """Draw the number of attempts by series and outcome."""
    drawn: Axes = drawing().outcomes(_series(chosen, ("outcome",)), chosen.about, ax)
    return drawn


def trace(table: pd.DataFrame, event: Any, ax: Axes | None) -> Axes:
    """Draw a frame of ``bus.trace``."""
    subjects = table["subject"].dropna()
    named = subjects.iloc[0] if len(subjects) else getattr(event, "event_id", event)
    about = named if isinstance(named, str) else "one event"
    drawn: Axes = drawing().trace(table, about, ax)
    return drawn


def _times(chosen: Chosen) -> pd.DataFrame:
    """Return the columns ``series``, ``n`` and ``*_ms``, from lots where these are large."""
    if chosen.spec is not None and chosen.role is None and not chosen.names_models:
        since_us = moment_us(chosen.since, chosen.log.now_us())
        found = chosen.log.latencies(chosen.spec.id, since_us)
        if found is not None:
            return _of_versions(chosen, attempts.times(found).rename(columns={"version": "series"}))
    return _series(chosen, _TIMES).assign(n=1)


def _series(chosen: Chosen, columns: Sequence[str]) -> pd.DataFrame:
    """Return *columns* of the attempts, and ``series``, the subscription and the version."""
    of_one = chosen.spec is not None
    named = ["version"] if of_one else ["subscription", "version"]
    named += ["model"] if chosen.names_models else []
    table = views.invocations(
        chosen.log,
        chosen.spec.id if chosen.spec is not None else None,
        since=chosen.since,
        columns=[*named, *columns],
        role=chosen.role,
    )
    table = _of_versions(chosen, table.rename(columns={"version": "series"}))
    if of_one:
        return table
    pairs = table["subscription"].str.cat(table["series"], sep=" ")
    return table.assign(series=pairs.fillna(table["subscription"]))


def _of_versions(chosen: Chosen, table: pd.DataFrame) -> pd.DataFrame:
    """Return the rows of the versions that are asked for."""
    if chosen.version is None:
        return table
    known = {version.version for version in chosen.registry.versions()}
    exact = {str(version) for version in chosen.registry.versions()}
    for name in chosen.versions:
        if name not in known | exact:
            raise NotFound.of("version", name, sorted(exact if ":" in name else known))
    found = table["series"].isin(chosen.versions)
    if chosen.names_models:
        named = table["model"].astype(object).str.cat(table["series"].astype(object), sep=":")
        found |= named.isin(chosen.versions)
    return table[found]


@brief_errors
class BusPlots:
    """The charts of a bus. :class:`~mltrigger.EventBus` adds the other verbs."""

    log: Log
    registry: Registry

    def spec(self, name: str) -> SubscriptionSpec:
        """Return the subscription *name*."""
        raise NotImplementedError

    def trace(self, event: Any, *, source: str | None = None) -> pd.DataFrame:
        """Return all that one event caused."""
        raise NotImplementedError

    def _check(self) -> None:
        raise NotImplementedError

    def plot_latency(
        self,
        subscription: str | None = None,
        *,
        stage: str | Sequence[str] | None = None,
        version: str | Sequence[str] | None = None,
        since: datetime | timedelta | str | None = None,
        role: str | Sequence[str] | None = None,
        ax: Axes | None = None,
    ) -> Axes:
        """Draw how long calls take: the share of them that took at most so long.

        There is a line for each subscription and version. See ``Subscription.plot_latency``.
        """
        return latency(self._chosen(subscription, since, version, role), stage, ax)

    def plot_timeline(
        self,
        subscription: str | None = None,
        *,
        stage: str = "total",
        version: str | Sequence[str] | None = None,
        since: datetime | timedelta | str | None = None,
        role: str | Sequence[str] | None = None,
        ax: Axes | None = None,
    ) -> Axes:
        """Draw how long calls took over time. See ``Subscription.plot_timeline``."""
        return timeline(self._chosen(subscription, since, version, role), stage, (), ax)

    def plot_throughput(
        self,
        subscription: str | None = None,
        *,
        version: str | Sequence[str] | None = None,
        since: datetime | timedelta | str | None = None,
        role: str | Sequence[str] | None = None,
        ax: Axes | None = None,
    ) -> Axes:
        """Draw how many attempts ended over time. See ``Subscription.plot_throughput``."""
        return throughput(self._chosen(subscription, since, version, role), ax)

    def plot_outcomes(
        self,
        subscription: str | None = None,
        *,
        version: str | Sequence[str] | None = None,
        since: datetime | timedelta | str | None = None,
        role: str | Sequence[str] | None = None,
        ax: Axes | None = None,
    ) -> Axes:
        """Draw how attempts ended. See ``Subscription.plot_outcomes``."""
        return outcomes(self._chosen(subscription, since, version, role), ax)

    def plot_trace(self, event: Any, *, source: str | None = None, ax: Axes | None = None) -> Axes:
        """Draw all that one event caused: each attempt, when it waited and when it ran.

        *event* and *source* are as for :meth:`trace`. It needs the extra ``plot``.
        """
        return trace(self.trace(event, source=source), event, ax)

    def _chosen(
        self,
        subscription: str | None,
        since: Moment,
        version: str | Sequence[str] | None,
        role: str | Sequence[str] | None,
    ) -> Chosen:
        self._check()
        spec = None if subscription is None else self.spec(subscription)
        return Chosen(self.log, self.registry, spec, since, version, role)
