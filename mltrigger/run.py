"""Run: samples that were fired, and what every subscriber made of them."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Any

from mltrigger import codec
from mltrigger.brokers.base import Receipt
from mltrigger.errors import warn
from mltrigger.events import Event
from mltrigger.render import card
from mltrigger.store.log import FINAL

if TYPE_CHECKING:
    import pandas as pd

    from mltrigger.brokers.wake import Wakeup
    from mltrigger.sources import Watcher
    from mltrigger.store.log import Log
    from mltrigger.store.registry import Registry
    from mltrigger.store.transaction import Row

_LOOK_S = 0.05
"""How often at most the log is read while waiting; the wake-up comes as soon as something was recorded."""
_COLUMNS = ("row", "seq", "subscription", "model", "version", "outcome", "reason", "error_type", "error", "output")


class Run:
    """The samples of one ``fire``, aligned with their results.

    Parameters
    ----------
    topic : str
        Where they were published.
    receipts : sequence of Receipt
        One a sample, in their order.
    log, wakeup
        The parts.
    state : callable
        Returns what the listener of a subscription is doing here, for whoever waits in vain.
    """

    def __init__(
        self, topic: str, receipts: Sequence[Receipt], log: Log, wakeup: Wakeup, state: Callable[[str], str] = lambda _: "stopped"
    ) -> None:
        self.topic = topic
        self.receipts = tuple(receipts)
        self._log, self._wakeup, self._state = log, wakeup, state
        self._final: dict[tuple[int, str], tuple[Any, ...]] = {}
        self._read_to = 0
        self._expected = [(i, r.seq, name) for i, r in enumerate(receipts) for name in r.subscriptions]
        self._wanted = {(seq, name) for _, seq, name in self._expected}  # fewer, when a sample was fired twice

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
        return card(f"Run on {self.topic}", [("samples", len(self)), *[(o, n) for o, n in self._counts().items() if n]])

    @property
    def open(self) -> int:
        """How many of the expected outcomes are not there yet."""
        return len(self._wanted) - len(self._final)

    def wait(self, timeout_s: float = 60.0, progress: bool = True) -> Run:
        """Wait until every subscriber has ended every sample, at most *timeout_s*; then say what is missing. Returns the run itself."""
        end = time.monotonic() + timeout_s
        with _Bar(len(self._wanted), self.topic, progress and bool(self._wanted)) as bar:
            while True:
                seen = self._wakeup.generation("done")
                self._look()
                bar.show(len(self._final), len(self._wanted))
                left = end - time.monotonic()
                if not self.open or left <= 0:
                    break
                if self._wakeup.wait("done", seen, min(left, self._wakeup.poll_s)):
                    time.sleep(min(_LOOK_S, left) if self.open > 1 else 0)  # many outcomes arrive together: read them together
        if self.open:
            message = f"{self.open} of {len(self._wanted)} outcomes are still open after {timeout_s:g} s: {self._who_is_open()}"
            warn(f"{message}; run.wait() goes on waiting, run.results() has what is there")
        return self

    def results(self) -> pd.DataFrame:
        """Return one row per sample and subscriber, the samples in their order.

        Columns: ``sample`` (position), ``subscription``, ``model``, ``version``, ``outcome`` (``open`` when there is none yet), ``reason``,
        ``error``; then the output: its keys as columns where it is an object, else ``output``. A key that is the name of one of the
        columns before is written ``output_<key>``. Times are in :meth:`invocations`.
        """
        self._look()
        rows: list[Row] = []
        for i, seq, name in self._expected:
            found = self._final.get((seq, name))
            rows.append((i, name, *found[3:]) if found is not None else (i, name, None, None, "open", None, None, None, None))
        from mltrigger import frames, views

        return views.expanded(rows, frames.RESULTS)

    def invocations(self) -> pd.DataFrame:
        """Return every attempt on these samples, with the columns of ``sub.invocations()``."""
        seqs = [r.seq for r in self.receipts] or [0]
        from mltrigger import views

        table = views.invocations(self._log, seqs=(min(seqs), max(seqs)))
        return table[table["event_id"].isin({r.event_id for r in self.receipts})].reset_index(drop=True)

    def _look(self) -> None:
        """Read outcomes that are new."""
        if not self._expected or not self.open:
            return
        seqs = (min(s for s, _ in self._wanted), max(s for s, _ in self._wanted))
        for row in self._log.invocations(_COLUMNS, seqs=seqs, after_row=self._read_to, outcomes=FINAL, running=False):
            self._read_to = max(self._read_to, row[0])
            if (row[1], row[2]) in self._wanted:
                self._final[row[1], row[2]] = row

    def _counts(self) -> dict[str, int]:
        counts: dict[str, int] = {outcome: sum(row[5] == outcome for row in self._final.values()) for outcome in FINAL}
        return {**counts, "open": self.open}

    def _who_is_open(self) -> str:
        names = sorted(name for seq, name in self._wanted if (seq, name) not in self._final)
        return ", ".join(f"{names.count(name)} of {name!r}{self._why(name)}" for name in dict.fromkeys(names))

    def _why(self, name: str) -> str:
        state = self._state(name)
        return f" ({state})" if state.startswith("waiting") else ""


def wait_until_idle(log: Log, wakeup: Wakeup, watcher: Watcher, timeout_s: float, progress: bool) -> bool:
    """Wait until watched folders hold nothing new and no delivery is open; return whether that was reached in time."""
    end = time.monotonic() + timeout_s
    first: int | None = None
    with _Bar(0, "waiting", progress) as bar:
        while True:
            seen = wakeup.generation("done")
            settled = watcher.settled()
            ended, open_ = log.progress()
            first = ended if first is None else first
            bar.show(ended - first, ended - first + open_)
            left = end - time.monotonic()
            if (settled and not open_) or left <= 0:
                return settled and not open_
            wakeup.wait("done", seen, min(left, 0.2))
            time.sleep(min(_LOOK_S, left))


def samples_of(samples: Any) -> list[Any]:
    """Return what was handed to ``fire`` as a list: of the rows of a frame, of one sample, of each of several."""
    if (rows := codec.rows_of(samples)) is not None:
        return rows
    if isinstance(samples, (Event, str, bytes)) or codec.has_names(samples) or not isinstance(samples, Iterable):
        return [samples]
    return list(samples)


def warn_if_nobody_runs(registry: Registry, run: Run) -> None:
    """Warn now, rather than when the time is over, when a subscription of the run's topic has nobody who delivers."""
    names = {name for receipt in run.receipts for name in receipt.subscriptions}
    live, paused = registry.live_listeners(), registry.paused()
    known = [s for s in registry.subscriptions() if s.topic == run.topic]
    if not known:
        warn(f"topic {run.topic!r} has no subscription: the events are kept, and nobody runs")
    elif not names:
        warn(f"no event passed the filter of {', '.join(repr(s.name) for s in known)}; sub.skipped() says why")
    if silent := [s.name for s in known if s.name in names and s.id not in live]:
        warn(f"no live listener for {', '.join(map(repr, silent))}: its events wait until one starts")
    if held := [s.name for s in known if s.name in names and s.id in paused]:
        warn(f"{', '.join(map(repr, held))} is paused: its events wait until sub.resume()")


class _Bar:
    """A tqdm progress bar, or nothing; with a *total* of 0 the total is told as it becomes known."""

    def __init__(self, total: int, label: str, shown: bool) -> None:
        self._bar: Any = None
        if shown:
            from tqdm.auto import tqdm

            self._bar = tqdm(total=total, desc=label, unit="outcome", leave=False)

    def __enter__(self) -> _Bar:
        return self

    def __exit__(self, *_: object) -> None:
        if self._bar is not None:
            self._bar.close()

    def show(self, done: int, total: int) -> None:
        if self._bar is not None and (done != self._bar.n or total != self._bar.total):
            self._bar.total = total
            self._bar.update(done - self._bar.n)
            self._bar.refresh()
