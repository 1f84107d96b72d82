"""The verbs of a subscription that change its version."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

from mltrigger.broker import SubscriptionSpec
from mltrigger.errors import brief_errors
from mltrigger.rollout.canary import Canary
from mltrigger.rollout.correction import Correction
from mltrigger.rollout.guard import Guard
from mltrigger.rollout.history import Bound, History
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
    ) -> Bound:
        """Let *version* answer from an event on. Idempotent.

        Retries stay with the version of their first attempt. A subscription that follows an alias,
        such as ``ocr@champion``, moves the alias. That of MLflow is moved there.

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
            spec, version, verdict=verdict, backlog=backlog, force=force, why=why
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

    def history(self) -> History:
        """Return every binding: from which event on, by whom, why, on which verdict.

        Each says how many events it answered. ``.frame()`` has them as rows.
        """
        rollout, spec = self._versions()
        return rollout.history(spec)

    def correct(self, binding: Any) -> Correction:
        """Return the answers of a past binding, to be given again by the present version.

        Nothing runs by this alone. ``.dry_run()`` of the handle shows what would differ.
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
