"""The handle of a correction: the answers of a past binding, given again."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any

from mltrigger.broker import SubscriptionSpec
from mltrigger.errors import brief_errors
from mltrigger.event.event import Event, derived_id
from mltrigger.rollout.columns import CORRECTIONS
from mltrigger.rollout.correcting import Corrector, check_limit
from mltrigger.rollout.history import Bound
from mltrigger.store import corrections
from mltrigger.store.corrections import Counts, Given
from mltrigger.store.lanes import LaneRow
from mltrigger.store.outcomes import OUTCOMES
from mltrigger.text import card, card_of, count

if TYPE_CHECKING:
    import pandas as pd


@dataclasses.dataclass(frozen=True, slots=True)
class CorrectionProgress:
    """How far a correction is.

    Attributes
    ----------
    state : str
        As :attr:`Correction.state`.
    answers : int
        How many events the binding answered.
    done, open : int
        How many of them were answered again, and how many wait for it.
    corrected, same : int
        How many new answers differ, and how many do not.
    dead, skipped : int
        How many events have no new answer. Their old answers stay.
    left : int
        How many events are in no lane so far: ``start()`` takes them.
    """

    state: str
    answers: int
    done: int
    open: int
    corrected: int
    same: int
    dead: int
    skipped: int
    left: int

    def _repr_html_(self) -> str:
        return card_of("Correction", self)


@brief_errors
class Correction:
    """The answers of a past binding, to be given again. Made by ``sub.correct``.

    Nothing runs before :meth:`start`. :meth:`dry_run` shows the answers that would differ.
    """

    def __init__(self, corrector: Corrector, spec: SubscriptionSpec, bound: Bound) -> None:
        self._corrector, self._spec, self.binding = corrector, spec, bound

    @property
    def version(self) -> str:
        """The version that answers again: that of the open lane, or the present one."""
        lane = self._open_lane()
        return lane.selector if lane is not None else str(self._corrector.present(self._spec))

    @property
    def state(self) -> str:
        """``not started``, ``filling``, ``correcting``, ``stopped`` or ``done``.

        ``waiting …`` has its reason behind it.
        """
        lanes = self._lanes()
        if not lanes:
            return "not started"
        if not lanes[-1].bound:
            return lanes[-1].ended
        if not lanes[-1].settings["filled"]:
            return "filling"
        at = self._corrector.handle(self._spec, lanes[-1]).state
        return "correcting" if at == "running" else at

    # -- look --------------------------------------------------------------------------------------

    def dry_run(self, limit: int = 100) -> pd.DataFrame:
        """Call the present version with the first *limit* events. Record and emit nothing.

        Returns
        -------
        pandas.DataFrame
            One row an event, as :meth:`frame` has them. ``differs`` says what would be corrected.
        """
        from mltrigger.reports import frames

        check_limit(limit)
        version = self._corrector.present(self._spec)
        seqs = self._corrector.plan(self._spec, self.binding, version).seqs[:limit]
        trials, old = self._corrector.try_out(self._spec, version, seqs)
        rows = []
        for seq, trial in zip(seqs, trials, strict=True):
            result, before = trial.result, old[seq]
            differs = before.differs(result.output) if result.ok else None
            error = f"{result.error_type}: {result.error}" if result.error_type else None
            rows.append(
                (
                    *(trial.event_id, trial.source, trial.subject),
                    *("succeeded" if result.ok else "failed", differs),
                    *(before.version, version.version, before.output, result.output),
                    *(error, None),
                )
            )
        return frames.frame(rows, CORRECTIONS)

    def frame(self) -> pd.DataFrame:
        """Return one row for each event that was answered again, by number.

        Columns: the event, ``outcome`` of the new answer, ``differs``, both versions, ``old`` and
        ``new`` answer as JSON, ``error``, and ``correction``: the id of the emitted event.
        """
        from mltrigger.reports import frames

        return frames.frame(self._corrector.rows(self._spec, self._lanes(), self._row), CORRECTIONS)

    def progress(self) -> CorrectionProgress:
        """Count the events by what became of them."""
        lanes, state = self._lanes(), self.state
        total = Counts()
        for lane in lanes:
            total = Counts(*map(sum, zip(total, self._corrector.counts(lane), strict=True)))
        plan = self._corrector.plan(self._spec, self.binding, self._corrector.present(self._spec))
        left = len(plan.seqs) if state in ("not started", "done") else 0
        return CorrectionProgress(
            state,
            plan.answers,
            total.done,
            total.open,
            total.corrected,
            total.same,
            total.dead,
            total.skipped,
            left,
        )

    # -- do ----------------------------------------------------------------------------------------

    def start(
        self,
        *,
        max_rate_per_s: float | None = None,
        limit: int | None = None,
        why: str | None = None,
    ) -> Correction:
        """Answer the events again, in the background. Go on where a stop or a crash ended it.

        An answer that differs is published on the emit topic as a new event: the same subject, the
        extension ``corrects``. All processes that listen to the subscription take part. Safe to
        repeat: no correction is published twice. ``mt.once`` gives recorded answers. It makes only
        calls that were never made for the event.

        Parameters
        ----------
        max_rate_per_s : float, optional
            The most events that one listener begins a second. Default: that of the subscription.
        limit : int, optional
            Only the first so many events. The next :meth:`start` takes others.
        why : str, optional
            A note.
        """
        self._corrector.start(
            self._spec,
            self.binding,
            max_rate_per_s=max_rate_per_s,
            limit=limit,
            why=why,
        )
        return self

    def stop(self) -> None:
        """Begin no more events, in all processes. :meth:`start` goes on."""
        if (lane := self._open_lane()) is not None:
            self._corrector.handle(self._spec, lane).stop()

    def wait(self, timeout_s: float = 600.0) -> Correction:
        """Wait until it is done, at most *timeout_s* seconds. A warning counts the rest."""
        if (lane := self._open_lane()) is not None:
            self._corrector.handle(self._spec, lane).wait(timeout_s)
        return self

    # -- how it looks ------------------------------------------------------------------------------

    def __repr__(self) -> str:
        at = self.progress()
        facts = [
            f"binding {self.binding.number} of {self._spec.name!r}:"
            f" {count(at.answers, 'answer')} of {self.binding.version}, again by {self.version}",
            at.state,
        ]
        if at.state != "not started":
            facts.append(
                f"{at.done} of {at.done + at.open} done, {at.corrected} corrected, {at.same} the"
                f" same, {at.dead} failed"
            )
        if at.left:
            facts.append(f"{at.left} to do: dry_run() shows them, start() corrects them")
        elif at.state == "not started":
            facts.append(f"nothing to do: {self.version} gave these answers")
        return f"Correction({'; '.join(facts)})"

    def _repr_html_(self) -> str:
        at = self.progress()
        facts: list[tuple[str, Any]] = [
            ("old", self.binding.version),
            ("new", self.version),
            *[(f.name, getattr(at, f.name)) for f in dataclasses.fields(at)],
        ]
        return card(f"Correction of binding {self.binding.number} of {self._spec.name}", facts)

    # -- parts -------------------------------------------------------------------------------------

    def _lanes(self) -> list[LaneRow]:
        return self._corrector.lanes(self._spec, self.binding)

    def _open_lane(self) -> LaneRow | None:
        return next((lane for lane in self._lanes() if lane.bound), None)

    def _row(
        self, lane: LaneRow, named: tuple[str, str, str | None], old: Given | None, new: Given
    ) -> tuple[Any, ...]:
        """Return the row of an answer that was given again."""
        event_id, source, subject = named
        corrected = new.reason == corrections.CORRECTED
        outcome = OUTCOMES[new.outcome]
        emitted = None
        if corrected and self._spec.emit is not None:
            cause = Event(id=event_id, source=source)
            emitted = derived_id(cause, self._spec.name, str(self.binding.number), lane.selector)
        error = f"{new.error_type}: {new.error}" if new.error_type else None
        return (
            *(event_id, source, subject, outcome),
            corrected if outcome == "succeeded" else None,
            *(old and old.version, new.version, old and old.output, new.output),
            *(error, emitted),
        )
