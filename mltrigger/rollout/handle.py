"""The verbs of a subscription that change its version."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any, Literal

from mltrigger.broker import SubscriptionSpec
from mltrigger.errors import brief_errors
from mltrigger.reports.choosing import Where
from mltrigger.rollout import compared
from mltrigger.rollout import lanes as opening
from mltrigger.rollout.agree import Agree, Measure
from mltrigger.rollout.canary import Canary
from mltrigger.rollout.comparison import Comparison
from mltrigger.rollout.correction import Correction
from mltrigger.rollout.guard import Guard
from mltrigger.rollout.history import Bound, History
from mltrigger.rollout.lane import Lane, Lanes, lanes_of
from mltrigger.rollout.lanes import Effects
from mltrigger.rollout.service import STEPS, Backlog, Rollout


@brief_errors
class Versioned:
    """A subscription whose versions change. See :class:`~mltrigger.handle.Subscription`."""

    def _versions(self) -> tuple[Rollout, SubscriptionSpec]:
        """Return the service, and the subscription as it is now."""
        raise NotImplementedError

    def promote(
        self,
        version: Any = None,
        *,
        verdict: Any = None,
        backlog: Backlog = "new",
        force: str | None = None,
        why: str | None = None,
        move_alias: bool = False,
    ) -> Bound:
        """Let *version* answer from an event on. Idempotent.

        Retries stay with the version of their first attempt. A subscription that follows an alias,
        such as ``ocr@champion``, moves the alias. One of MLflow is moved on request only.

        Parameters
        ----------
        version
            ``"1.1.0"``, a selector, a registered version or a model. Default: the canary.
        verdict : Comparison or Verdict, optional
            The reason. Anything but SHIP raises, unless forced.
        backlog : {"new", "old"}
            The version of events that wait and have not begun.
        force : str, optional
            Why to promote against the verdict.
        why : str, optional
            A note for the history.
        move_alias : bool
            Whether to move the alias of ``models:/ocr@champion`` in MLflow, too. Without it the
            subscription leaves the alias, and follows *version*.

        Returns
        -------
        Bound
            The new binding: its first event, by whom, why.

        Raises
        ------
        NotShipped
            With the arithmetic, when the verdict is not SHIP.
        InvalidPolicy
            When the verdict is about other versions.
        """
        rollout, spec = self._versions()
        return rollout.promote(
            spec,
            version,
            verdict=verdict,
            backlog=backlog,
            force=force,
            why=why,
            move_alias=move_alias,
        )

    def canary(
        self,
        version: Any,
        *,
        steps: Sequence[float] = STEPS,
        guard: Guard | None = None,
        min_events: int = 200,
        min_s: float = 60.0,
        then: Literal["wait", "promote"] = "wait",
        why: str | None = None,
    ) -> Canary:
        """Let *version* answer a growing share of the events, and roll it back if it is worse.

        A hash of the event's key chooses: its ordered group, ``partitionkey``, subject, or id.
        Events with one key go to one version. Any listener of the subscription judges, with no
        notebook open.

        Parameters
        ----------
        version
            As for :meth:`promote`.
        steps : sequence of float
            The shares, one after the other.
        guard : Guard, optional
            The rules. Default: 1.5 times the errors and 1.3 times the 95th percentile.
        min_events, min_s : int, float
            A step ends after so many answers of the canary and so many seconds, if the guard is
            quiet.
        then : {"wait", "promote"}
            After the last step wait for :meth:`promote`, or promote.
        why : str, optional
            A note for the history.

        Returns
        -------
        Canary
            A handle with ``stop()``, ``progress()`` and ``state``.
        """
        rollout, spec = self._versions()
        bound = rollout.canary(
            spec,
            version,
            steps=steps,
            guard=guard,
            min_events=min_events,
            min_s=min_s,
            then=then,
            why=why,
        )
        return Canary(rollout, spec, bound.canary or "")

    def rollback(self, to: Any = None, *, why: str | None = None) -> Bound:
        """End the canary, or go back to the version before. It takes the backlog back.

        Parameters
        ----------
        to : optional
            A version, a binding of :meth:`history`, or its number. Default: the canary ends, or the
            newest other version that was not rolled back.
        why : str, optional
            A note for the history.
        """
        rollout, spec = self._versions()
        return rollout.rollback(spec, to, why=why)

    # -- beside the live version -------------------------------------------------------------------

    def shadow(
        self,
        version: Any,
        share: float = 1.0,
        *,
        effects: Effects = "recorded",
        concurrency: int = 1,
        max_rate_per_s: float | None = None,
        why: str | None = None,
    ) -> Lane:
        """Send a copy of a share of the live events to *version*, from the next event on.

        No caller gets its answers. Its failures, its speed and its hanging calls do not touch the
        live calls, which go first. It runs where the subscription is delivered. A model that may
        end its process needs ``isolation="process"``.

        The same call again finds its lane. Another share for that version replaces it.

        Parameters
        ----------
        version
            As for :meth:`promote`.
        share : float
            A hash of the event's key chooses, as for :meth:`canary`.
        effects : {"recorded", "live"}
            Whether ``mt.once`` answers from the recording of the live call, or calls.
        concurrency : int
            The most calls at the same time in one process.
        max_rate_per_s : float, optional
            The most events that one process begins a second.
        why : str, optional
            A note for :meth:`lanes`.

        Returns
        -------
        Lane
            A handle with ``stop()``, ``progress()``, ``results()``, ``invocations()``.
        """
        rollout, spec = self._versions()
        row = opening.shadow(
            rollout,
            spec,
            version,
            share=share,
            effects=effects,
            concurrency=concurrency,
            max_rate_per_s=max_rate_per_s,
            why=why,
        )
        return Lane(rollout, spec, row)

    def replay(
        self,
        version: Any,
        *,
        since: datetime | timedelta | str | None = None,
        until: datetime | timedelta | str | None = None,
        limit: int | None = None,
        events: Any = None,
        source: str | None = None,
        where: Where | None = None,
        max_rate_per_s: float | None = None,
        effects: Effects = "recorded",
        concurrency: int = 1,
        wait: bool = False,
        why: str | None = None,
    ) -> Lane:
        """Send recorded events to *version*. Nothing is emitted or settled.

        It runs where the subscription is delivered, and goes on there after a crash. Its attempts
        are kept, with the role ``replay``. To call a version on a few dead letters without a trace,
        use :meth:`dry_run`.

        The same call again while it is under way finds its lane.

        Parameters
        ----------
        version
            As for :meth:`promote`.
        since, until : datetime, timedelta or str, optional
            Only events published in that time: a time with its zone, or an age such as ``"2d"``.
        limit : int, optional
            Only the newest so many events that pass the filter.
        events : optional
            Only these: an event as ``bus.cancel`` takes it, several, or a frame with ``event_id``.
            It goes without *since*, *until* and *limit*.
        source : str, optional
            The source of *events* whose id several sources have.
        where : mapping, optional
            Only events with attempts that match these filters of :meth:`invocations`, by name, such
            as ``{"outcome": "dead"}``. It goes without the parameters above. ``up_to`` leaves
            attempts out that came after a record, by its number.
        max_rate_per_s, effects, concurrency, why
            As for :meth:`shadow`.
        wait : bool
            Whether to wait until it is done.

        Raises
        ------
        NotFound
            When no such event is recorded any more.
        """
        rollout, spec = self._versions()
        row = opening.replay(
            rollout,
            spec,
            version,
            since=since,
            until=until,
            limit=limit,
            events=events,
            source=source,
            where=where,
            max_rate_per_s=max_rate_per_s,
            effects=effects,
            concurrency=concurrency,
            why=why,
        )
        lane = Lane(rollout, spec, row)
        return lane.wait() if wait else lane

    def compare(
        self,
        old: Any,
        new: Any,
        *,
        agree: Agree | float | None = None,
        by: str | Callable[[Mapping[str, Any]], Any] | None = None,
        noise: int = 0,
        since: datetime | timedelta | str | None = None,
        measures: Mapping[str, str | Measure] | None = None,
        agree_at_least: float | None = 0.99,
        confidence: float = 0.95,
        within: float = 0.01,
        slow_at_most: float | None = 0.10,
        repeated: bool | None = None,
        seed: int = 0,
    ) -> Comparison:
        """Compare two versions by the events that both have answered: live, or in a lane.

        Of several answers of a version to an event one counts: a live one, else one of a shadow,
        else of the newest replay. Truths of ``bus.label`` are compared, too.

        Parameters
        ----------
        old, new
            As *version* in :meth:`promote`.
        agree : callable or float, optional
            When two outputs agree: a rule of :mod:`mltrigger.rollout.agree`, a tolerance, or a
            function of both. Default: equality.
        by : str or callable, optional
            A column of :meth:`invocations`, or a function of a row, that divides events into
            slices.
        noise : int
            Run the old version again on so many of the events, in a replay that is waited for. Its
            disagreement with itself is subtracted.
        since : datetime, timedelta or str, optional
            Only attempts received since then.
        measures : mapping, optional
            ``"higher"``, ``"lower"`` or a measure for each figure of ``mt.report``.
        agree_at_least : float, optional
            The agreement that must be shown. ``None`` asks for none.
        confidence : float
            The confidence of intervals, and of all tests of harm together.
        within : float
            How much larger the share of errors, or of wrong answers, may be.
        slow_at_most : float, optional
            The share of calls that may be slower than the old version's p95. ``None`` asks for no
            speed, such as where a replay ran while the machine was busier.
        repeated : bool, optional
            Whether the comparison is looked at more than once. Default: yes if one of them was a
            shadow or a canary here. One that has ended may have been ended for its figures.
        seed : int
            The seed of resampling.

        Returns
        -------
        Comparison
            Its repr is the verdict with the arithmetic. ``promote(…, verdict=…)`` takes it.

        Raises
        ------
        NothingToCompare
            When no event was answered by both: shadow or replay the new version first.
        """
        rollout, spec = self._versions()
        return compared.compare(
            rollout,
            spec,
            old,
            new,
            agree=agree,
            by=by,
            noise=noise,
            since=since,
            measures=measures,
            agree_at_least=agree_at_least,
            confidence=confidence,
            within=within,
            slow_at_most=slow_at_most,
            repeated=repeated,
            seed=seed,
        )

    def lanes(self) -> Lanes:
        """Return the lanes: the live one, a canary under way, shadows, replays, corrections.

        Those that have ended are among them. ``.frame()`` has them as rows.
        """
        rollout, spec = self._versions()
        return lanes_of(rollout, spec)

    def history(self) -> History:
        """Return every binding: from which event on, by whom, why, on which verdict.

        Each says how many events it answered. ``.frame()`` has them as rows.
        """
        rollout, spec = self._versions()
        return rollout.history(spec)

    def correct(self, binding: Any) -> Correction:
        """Return the answers of a past binding, to be given again by the present version.

        Nothing runs by this alone. The handle's ``.dry_run()`` shows the answers that would differ.
        ``.start()`` answers the events again, and publishes a correction where an answer differs.

        Parameters
        ----------
        binding : Bound or int
            A binding of :meth:`history`, or its number. Of a binding with a canary, the part that
            the present version answered is left out.

        Raises
        ------
        InvalidCorrection
            When the binding answers still, or belongs to another subscription.
        """
        rollout, spec = self._versions()
        return Correction(rollout.corrector, spec, rollout.corrector.bound(spec, binding))
