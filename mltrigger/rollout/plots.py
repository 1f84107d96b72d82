"""The charts of a subscription."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Protocol

from mltrigger.errors import InvalidComparison, brief_errors
from mltrigger.reports import plots
from mltrigger.rollout.comparison import Comparison
from mltrigger.rollout.handle import Versioned

if TYPE_CHECKING:
    from datetime import datetime, timedelta

    import pandas as pd
    from matplotlib.axes import Axes

    from mltrigger.reports.moments import Moment
    from mltrigger.store.log import Log
    from mltrigger.store.registry import Registry


class Bus(Protocol):
    """The part of a bus that these charts need."""

    log: Log
    registry: Registry

    def trace(self, event: Any, *, source: str | None = None) -> pd.DataFrame:
        """Return all that one event caused."""


@brief_errors
class Plots(Versioned):
    """Charts. :class:`~mltrigger.Subscription` adds the other verbs."""

    _bus: Bus

    def plot_latency(
        self,
        *,
        stage: str | Sequence[str] | None = None,
        version: str | Sequence[str] | None = None,
        since: datetime | timedelta | str | None = None,
        role: str | Sequence[str] | None = None,
        ax: Axes | None = None,
    ) -> Axes:
        """Draw how long calls take: the share of them that took at most so long.

        There is a line for each version and stage. It goes through the figures of :meth:`latency`,
        and its marks are p50, p95 and p99. The axis is logarithmic if times differ widely. The axes
        say so. It needs the extra ``plot``.

        Parameters
        ----------
        stage : {"queue", "model", "total"} or several, optional
            Waiting, the call of the model, or both. Default: all of them, only ``model`` for more
            than two versions.
        version : str or sequence of str, optional
            Only these versions.
        since, role
            As for :meth:`invocations`.
        ax : matplotlib.axes.Axes, optional
            Where to draw. Default: a new figure.

        Returns
        -------
        matplotlib.axes.Axes
        """
        return plots.latency(self._chosen(since, version, role), stage, ax)

    def plot_timeline(
        self,
        *,
        stage: str = "total",
        version: str | Sequence[str] | None = None,
        since: datetime | timedelta | str | None = None,
        role: str | Sequence[str] | None = None,
        ax: Axes | None = None,
    ) -> Axes:
        """Draw how long calls took over time, and when the version changed.

        There is the median of each version in bins of time, with a band up to the 95th percentile.
        Up to 200 calls are shown one by one. A cross is one that did not succeed.

        Parameters
        ----------
        stage : {"queue", "model", "total"}
            Waiting, the call of the model, or both.
        version, since, role, ax
            As for :meth:`plot_latency`.
        """
        chosen = self._chosen(since, version, role)
        return plots.timeline(chosen, stage, self._changes(), ax)

    def plot_throughput(
        self,
        *,
        version: str | Sequence[str] | None = None,
        since: datetime | timedelta | str | None = None,
        role: str | Sequence[str] | None = None,
        ax: Axes | None = None,
    ) -> Axes:
        """Draw how many attempts of each version ended over time.

        *version*, *since*, *role* and *ax* are as for :meth:`plot_latency`.
        """
        return plots.throughput(self._chosen(since, version, role), ax)

    def plot_outcomes(
        self,
        *,
        version: str | Sequence[str] | None = None,
        since: datetime | timedelta | str | None = None,
        role: str | Sequence[str] | None = None,
        ax: Axes | None = None,
    ) -> Axes:
        """Draw how the attempts of each version ended, with their numbers and shares.

        *version*, *since*, *role* and *ax* are as for :meth:`plot_latency`.
        """
        return plots.outcomes(self._chosen(since, version, role), ax)

    def plot_trace(self, event: Any, *, source: str | None = None, ax: Axes | None = None) -> Axes:
        """Draw all that one event caused, here and elsewhere. See ``bus.plot_trace``."""
        return plots.trace(self._bus.trace(event, source=source), event, ax)

    def plot_compare(
        self, old: Any, new: Any = None, *, ax: Axes | None = None, **options: Any
    ) -> Axes:
        """Draw how often two versions agree, for all events and for each slice.

        Parameters
        ----------
        old, new
            Two versions, as for :meth:`compare`. A comparison alone is drawn as it is.
        ax
            As for :meth:`plot_latency`.
        **options
            As for :meth:`compare`, such as ``by="type"``.
        """
        if isinstance(old, Comparison) and (new is not None or options):
            raise InvalidComparison(
                "a comparison is drawn as it is: give it alone, or two versions with options"
            )
        if new is None and not isinstance(old, Comparison):
            raise InvalidComparison(
                "a comparison needs two versions: sub.plot_compare(old, new), or one of sub.compare"
            )
        found = old if isinstance(old, Comparison) else self.compare(old, new, **options)
        drawn: Axes = found.plot(ax)
        return drawn

    def _chosen(
        self,
        since: Moment,
        version: str | Sequence[str] | None,
        role: str | Sequence[str] | None,
    ) -> plots.Chosen:
        _, spec = self._versions()
        return plots.Chosen(self._bus.log, self._bus.registry, spec, since, version, role)

    def _changes(self) -> list[tuple[int, str]]:
        """Return the times of later bindings, and their words."""
        rollout, spec = self._versions()
        rows = rollout.ledger.rows(spec.id)[1:]
        return [
            (row.made_us, f"{row.kind} {row.canary if row.canary else row.answers}") for row in rows
        ]
