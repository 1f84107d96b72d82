"""Run: fired samples and their outcomes for every subscriber."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from mltrigger.broker import Receipt
from mltrigger.errors import warn
from mltrigger.event import codec
from mltrigger.event.event import Event
from mltrigger.reports import frames, views
from mltrigger.reports.bar import Bar
from mltrigger.reports.failures import Attempt, Failures, attempts
from mltrigger.reports.outlook import Hold, Outlook
from mltrigger.reports.waiting import LOOK_S, OUTLOOK_S, notes_of
from mltrigger.store.outcomes import FINAL
from mltrigger.text import card
from mltrigger.versions.running.current import about_to_wait

if TYPE_CHECKING:
    import pandas as pd

    from mltrigger.store.log import Log
    from mltrigger.store.registry import Registry
    from mltrigger.store.wake import Wakeup


class Run:
    """The samples of one ``fire``, aligned with their results.

    Parameters
    ----------
    topic : str
        The topic of the samples.
    receipts : sequence of Receipt
        One a sample, in their order.
    """

    def __init__(
        self,
        topic: str,
        receipts: Sequence[Receipt],
        log: Log,
        wakeup: Wakeup,
        registry: Registry,
        outlook: Outlook,
    ) -> None:
        self.topic = topic
        self.receipts = tuple(receipts)
        self._log, self._wakeup, self._outlook = log, wakeup, outlook
        self._final: dict[tuple[int, str], Attempt] = {}
        self._failures = Failures(registry)
        self._read_to = 0
        self._expected = [
            (i, r.seq, name) for i, r in enumerate(receipts) for name in r.subscriptions
        ]
        # fewer if a sample was fired twice
        self._wanted = {(seq, name) for _, seq, name in self._expected}
        self._told: set[tuple[str, str]] = set()

    def __len__(self) -> int:
        """Return the number of samples."""
        return len(self.receipts)

    def __repr__(self) -> str:
        self._look()
        counts = [f"{n} {outcome}" for outcome, n in self._counts().items() if n]
        samples = f"{len(self)} sample{'s' if len(self) != 1 else ''}"
        return f"Run({self.topic!r}: {samples}, {', '.join(counts) or 'no subscription'})"

    def _repr_html_(self) -> str:
        self._look()
        facts: list[tuple[str, Any]] = [
            ("samples", len(self)),
            *[(o, n) for o, n in self._counts().items() if n],
        ]
        errors = Counter(
            f"{attempt.subscription}: {attempt.problem}"
            for attempt in [*self._final.values(), *self._failures.all()]
            if attempt.error_type or attempt.error
        )
        facts += [
            ("error" if n == 1 else f"error, {n} times", text) for text, n in errors.most_common(3)
        ]
        return card(f"Run on {self.topic}", facts)

    @property
    def open(self) -> int:
        """The number of outcomes that are still expected."""
        return len(self._wanted) - len(self._final)

    def wait(self, timeout_s: float = 60.0, progress: bool = True) -> Run:
        """Wait until every subscriber has ended every sample, at most *timeout_s* seconds.

        Return the run itself. The bar shows failures, attempts and reasons for waiting. A warning
        at the end names missing outcomes.
        """
        return self.wait_for_what_can_come(timeout_s, progress, give_up=False)

    def wait_for_what_can_come(self, timeout_s: float, progress: bool, give_up: bool = True) -> Run:
        """Wait as :meth:`wait` does. With *give_up* stop when no outcome can come by itself.

        None can come without a listener that may start, in a pause, or for a model that cannot be
        loaded.
        """
        began = time.monotonic()
        about_to_wait()
        with Bar(self.topic, progress and bool(self._wanted)) as bar:
            stuck = self._wait(began + timeout_s, bar, give_up)
        if self.open:
            after = (
                f"after {time.monotonic() - began:.1f} s, and none can come by itself"
                if stuck
                else f"after {timeout_s:g} s"
            )
            message = (
                f"{self.open} of {len(self._wanted)} outcomes are still open {after}:"
                f" {self._who_is_open()}"
            )
            warn(f"{message}; run.wait() goes on waiting, run.results() has what is there")
        self._log.make_durable()
        return self

    def look(self) -> tuple[int, bool]:
        """Return how many outcomes are open now, and whether none can come by itself."""
        self._look()
        return self.open, self.open > 0 and self._stuck(self._outlook.of(set(self._open_names())))

    def _wait(self, end: float, bar: Bar, give_up: bool) -> bool:
        """Wait until *end*. Return whether it gave up before."""
        holds, next_s = dict[str, Hold](), 0.0
        while True:
            seen = self._wakeup.generation("done")
            self._look()
            if self.open and time.monotonic() >= next_s:
                holds, next_s = self._holds(bar), time.monotonic() + OUTLOOK_S
            for message in self._failures.bugs():
                bar.warn(message)
            bar.show(
                len(self._final),
                len(self._wanted),
                (notes_of(holds) or self._failures.note()) if self.open else "",
            )
            left = end - time.monotonic()
            if not self.open or left <= 0 or (give_up and self._stuck(holds)):
                return left > 0 and self.open > 0
            pause_s = (
                min(left, self._wakeup.poll_s, OUTLOOK_S)
                if holds
                else min(left, self._wakeup.poll_s)
            )
            if self._wakeup.wait("done", seen, pause_s):
                # outcomes arrive in groups: read them together
                time.sleep(min(LOOK_S, left) if self.open > 1 else 0)

    def results(self) -> pd.DataFrame:
        """Return one row per sample and subscriber, the samples in their order.

        Columns: ``sample`` (position), ``subscription``, ``model``, ``version``, ``outcome``,
        ``reason``, ``error``, then the output, then ``event_id`` and ``source``. The keys of an
        object are columns, other outputs stand in ``output``. A key with the name of another column
        is written ``output_<key>``. Figures of ``mt.report`` stand in columns such as
        ``measures.confidence``. Times are in :meth:`invocations`.

        As in every frame, control and bidirectional characters in texts are written ``\\u001b``.
        Showing them moves no cursor. The exact answer is
        ``json.loads(run.invocations()["output"][0])``.

        A missing outcome is ``open``. Its row gives the reason: ``held`` (the model cannot be
        called), ``no_listener``, ``paused``, or the failure of its last attempt.
        """
        self._look()
        holds = self._outlook.of(set(self._open_names())) if self.open else {}
        sources = self._sources()
        answers = [
            self._answer(sample, seq, name, holds.get(name))._replace(
                key=(self.receipts[sample].event_id, sources.get(seq))
            )
            for sample, seq, name in self._expected
        ]
        return views.expanded(answers, frames.RESULTS)

    def invocations(self) -> pd.DataFrame:
        """Return every attempt on these samples, with the columns of ``sub.invocations()``."""
        seqs = [r.seq for r in self.receipts] or [0]
        table = views.invocations(self._log, seqs=(min(seqs), max(seqs)))
        return table[table["event_id"].isin({r.event_id for r in self.receipts})].reset_index(
            drop=True
        )

    def _look(self) -> None:
        """Read new outcomes and failed attempts."""
        if not self._expected or not self.open:
            return
        seqs = (min(s for s, _ in self._wanted), max(s for s, _ in self._wanted))
        for attempt in attempts(self._log, self._read_to, seqs):
            self._read_to = max(self._read_to, attempt.row)
            key = attempt.seq, attempt.subscription
            if key in self._wanted and self._failures.see(attempt):
                self._final[key] = attempt

    def _holds(self, bar: Bar) -> dict[str, Hold]:
        """Return the reasons of open outcomes, and warn of new ones."""
        holds = self._outlook.of(set(self._open_names()))
        stuck = self._stuck(holds)
        for name, hold in holds.items():
            # A held model is told when its patience is over: at the end, unless others are still
            # waited for.
            if (name, hold.reason) not in self._told and (
                hold.reason != "held" or (hold.final and not stuck)
            ):
                self._told.add((name, hold.reason))
                bar.warn(hold.warning(name))
        return holds

    def _stuck(self, holds: Mapping[str, Hold]) -> bool:
        """Return whether outcomes are open and none can come by itself."""
        return (
            bool(holds)
            and self.open > 0
            and all(name in holds and holds[name].final for name in self._open_names())
        )

    def _answer(self, sample: int, seq: int, name: str, hold: Hold | None) -> views.Answer:
        """Return the row of one sample and subscriber. An open one says why it waits."""
        if (final := self._final.get((seq, name))) is not None:
            facts = (sample, name, final.model, final.version, final.outcome, final.reason)
            told = (final.error_type, final.error, final.output, final.measures)
            return views.Answer(facts, *told)
        failed = self._failures.of(seq, name)
        if hold is not None or failed is None:
            reason, why = (hold.reason, hold.why) if hold is not None else (None, None)
            return views.Answer((sample, name, None, None, "open", reason), None, why, None)
        facts = (sample, name, failed.model, failed.version, "open", failed.reason)
        return views.Answer(facts, failed.error_type, failed.error, None)

    def _sources(self) -> dict[int, str]:
        """Return the sources of the samples. Once all have ended, nothing is read."""
        known = {seq: final.source for (seq, _), final in self._final.items()}
        unknown = sorted({seq for seq, _ in self._wanted} - known.keys())
        return known | (self._log.sources(unknown) if unknown else {})

    def _counts(self) -> dict[str, int]:
        counts: dict[str, int] = {
            outcome: sum(attempt.outcome == outcome for attempt in self._final.values())
            for outcome in FINAL
        }
        return {**counts, "open": self.open}

    def _open_names(self) -> list[str]:
        return sorted(name for seq, name in self._wanted if (seq, name) not in self._final)

    def _who_is_open(self) -> str:
        names, holds = Counter(self._open_names()), self._outlook.of(self._open_names())
        return ", ".join(
            f"{n} of {name!r}{f' ({holds[name].why})' if name in holds else ''}"
            for name, n in names.items()
        )


def samples_of(samples: Any) -> list[Any]:
    """Return the samples that were handed to ``fire``, as a list.

    Each row of a frame is a sample. A Series is one, because a row of a frame may be one.
    """
    if type(samples) is list:
        return samples
    if (rows := codec.rows_of(samples)) is not None:
        return rows
    if (
        isinstance(samples, (Event, str, bytes, bytearray, memoryview))
        or codec.has_names(samples)
        or not isinstance(samples, Iterable)
    ):
        return [samples]
    # a scalar of NumPy has a method to iterate, which raises
    if getattr(samples, "ndim", None) == 0:
        return [samples]
    if any(kind.__name__ == "Series" for kind in type(samples).__mro__):
        if isinstance(name := getattr(samples, "name", None), str):
            warn(
                f"the Series {name!r} is one event, a list; fire(series.tolist()) makes an event of"
                " each value"
            )
        return [samples]
    return list(samples)


def warn_if_nobody_gets(registry: Registry, run: Run) -> None:
    """Warn if no subscription gets an event of *run*."""
    known = [s for s in registry.subscriptions() if s.topic == run.topic]
    if not known:
        warn(f"topic {run.topic!r} has no subscription: the events are kept, and nobody runs")
    elif not any(receipt.subscriptions for receipt in run.receipts):
        warn(
            f"no event passed the filter of {', '.join(repr(s.name) for s in known)}; sub.skipped()"
            " says why"
        )
