"""Subscription: the handle that a notebook holds. It reads by itself and acts through its bus."""

from __future__ import annotations

import contextlib
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any, Protocol, overload

from mltrigger.broker import Depth, SubscriptionSpec
from mltrigger.delivery.listener import DRAIN_S
from mltrigger.errors import Closed, DiskFailed, NotFound, StoreError, brief_errors
from mltrigger.filters import FilterPolicy
from mltrigger.policy import DeliveryPolicy, keywords_of
from mltrigger.reports.choosing import choosing, chosen_of
from mltrigger.rollout import plots, truth
from mltrigger.run import letters
from mltrigger.store.outcomes import FINAL
from mltrigger.store.patience import at_once
from mltrigger.text import card

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from typing import Unpack

    import pandas as pd

    from mltrigger.broker import Receipt
    from mltrigger.delivery.on_call import OnCall
    from mltrigger.notebook.cockpit.widget import Dashboard
    from mltrigger.reports.choosing import Choosing
    from mltrigger.rollout.service import Rollout
    from mltrigger.run import Run
    from mltrigger.store.registry import Registry
    from mltrigger.store.wake import Wakeup
    from mltrigger.versions.describe import Model


class Bus(letters.Bus, truth.Bus, plots.Bus, Protocol):
    """The part of a bus that a subscription and its widget use."""

    rollout: Rollout
    registry: Registry
    wakeup: Wakeup

    @property
    def closed(self) -> bool:
        """Whether the bus was closed."""

    def tally(self, spec: SubscriptionSpec) -> dict[str, int]:
        """Return outcome -> number of attempts."""

    def model_of(self, spec: SubscriptionSpec) -> Model:
        """Return the model that *spec* means now."""

    def invocations(
        self,
        subscription: str | None = None,
        *,
        limit: int | None = None,
        columns: Sequence[str] | None = None,
        **chosen: Unpack[Choosing],
    ) -> pd.DataFrame:
        """Return the attempts."""

    def skipped(self, subscription: str, limit: int | None = None) -> pd.DataFrame:
        """Return the events without a call of the model."""

    def explain(self, event: Any, subscription: Any, *, source: str | None = None) -> pd.DataFrame:
        """Return the reasons for one event."""

    def depth_by_key(self, subscription: str) -> pd.DataFrame:
        """Return the open events by key."""

    def doctor(self, subscription: str | None = None) -> pd.DataFrame:
        """Return findings and advice."""

    def fire(
        self,
        topic: str,
        samples: Any,
        *,
        timeout_s: float = 60.0,
        progress: bool = True,
        delay_s: float | None = None,
        at: datetime | None = None,
    ) -> Run:
        """Publish samples and wait."""

    def publish_batch(self, topic: str, samples: Iterable[Any]) -> list[Receipt]:
        """Publish samples."""

    def listen(self, spec: SubscriptionSpec) -> None:
        """Deliver in this process."""

    def borrowed_listener(self, spec: SubscriptionSpec) -> OnCall:
        """Return a listener that does not receive."""

    def listener_state(self, name: str) -> str:
        """Return the state of the listener in this process."""

    def stop_listening(self, name: str, drain_s: float = DRAIN_S) -> None:
        """Deliver no more in this process."""

    def unsubscribe(self, name: str, delete: bool = False) -> None:
        """End the subscription."""


@brief_errors
class Subscription(letters.Letters, truth.Truth, plots.Plots):
    """A topic, a model selector and a delivery policy under one name, with its log as frames."""

    _bus: Bus

    def __init__(self, bus: Bus, spec: SubscriptionSpec, note: str = "") -> None:
        self._bus = bus
        self._spec = spec
        self._note = note

    # -- what it is --------------------------------------------------------------------------------

    @property
    def name(self) -> str:
        """The name, unique on its bus."""
        return self._spec.name

    @property
    def topic(self) -> str:
        """The topic whose events are delivered."""
        return self._spec.topic

    @property
    def selector(self) -> str:
        """The selector of the model that answers now, such as ``ocr:1.0``."""
        with contextlib.suppress(Closed, DiskFailed):
            if (found := self._bus.registry.subscription(self.name)) is not None:
                self._spec = found
        return self._spec.selector

    @property
    def policy(self) -> DeliveryPolicy:
        """The settings of delivery."""
        return self._spec.policy

    @property
    def filter(self) -> FilterPolicy | None:
        """The filter policy. ``None`` delivers all events."""
        return self._spec.filter

    @property
    def state(self) -> str:
        """``listening``, ``paused`` or ``stopped``. ``waiting for …`` has its reason behind it.

        After a failed disk the state is ``stopped by the store: …``.
        """
        return self._bus.listener_state(self.name)

    def __repr__(self) -> str:
        try:
            with at_once():
                return self._described()
        except StoreError as error:
            return f"Subscription({self.topic!r} -> {self._spec.selector}, {error.plain})"

    def _described(self) -> str:
        counts = self._counts()
        shown = [f"{n} {what}" for what, n in counts or ()]
        arrow = f"{self.topic!r} -> {self.selector}{f' ({self._note})' if self._note else ''}"
        emit = f"{self._canary(', ')}{f' -> {self._spec.emit!r}' if self._spec.emit else ''}"
        if counts == []:
            shown = ["no events yet"]
        return f"Subscription({', '.join([arrow + emit, self.state, *shown])})"

    def _repr_html_(self) -> str:
        facts: list[tuple[str, Any]] = [("topic", self.topic)]
        try:
            with at_once():
                facts += self._facts()
        except StoreError as error:
            facts += [("model", self._spec.selector), ("state", error.plain)]
        return card(f"Subscription {self.name}", facts)

    def _facts(self) -> list[tuple[str, Any]]:
        return [
            ("model", f"{self.selector}{f' ({self._note})' if self._note else ''}"),
            *([("canary", canary)] if (canary := self._canary()) else []),
            ("emits to", self._spec.emit or "–"),
            *([("filter", self._spec.filter.to_json())] if self._spec.filter else []),
            ("state", self.state),
            *(self._counts() or ()),
        ]

    def _canary(self, before: str = "") -> str:
        """Return the canary and its share, an empty text without one."""
        with contextlib.suppress(Closed, DiskFailed):
            rows = self._bus.rollout.ledger.rows(self._spec.id)
            if rows and rows[-1].canary is not None:
                return f"{before}{rows[-1].share:.3g} of it -> {rows[-1].canary}"
        return ""

    def _counts(self) -> list[tuple[str, int]] | None:
        """Return events by final outcome, then other attempts, with their numbers.

        ``None`` when nothing can be read any more: the state says why.
        """
        try:
            tally = {outcome: n for outcome, n in self._bus.tally(self._spec).items() if n}
        except DiskFailed:
            return None
        events = [(outcome, n) for outcome, n in tally.items() if outcome in FINAL]
        return events + [
            (f"{outcome} attempt{'' if n == 1 else 's'}", n)
            for outcome, n in tally.items()
            if outcome not in FINAL
        ]

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Call the model directly, without an event. A decorated function stays a function."""
        return self._bus.model_of(self._spec)(*args, **kwargs)

    # -- what happened -----------------------------------------------------------------------------

    @keywords_of(choosing)
    def invocations(
        self,
        limit: int | None = None,
        *,
        columns: Sequence[str] | None = None,
        **chosen: Unpack[Choosing],
    ) -> pd.DataFrame:
        """Return every attempt as one row, oldest first. Only those that match all filters.

        Parameters
        ----------
        limit : int, optional
            Only the newest so many.
        columns : sequence of str, optional
            Only these columns. The others are not read.
        since, until : datetime, timedelta or str, optional
            Only attempts received since then, or before then: a time with its zone, or an age that
            counts back from now, such as ``timedelta(days=2)``, ``"2d"``, ``"90m"``, ``"1h30m"``.
        version, outcome, reason : str or sequence of str, optional
            Only these values of the columns with those names.
        role : str or sequence of str, optional
            Only these roles: ``live``, ``canary``, ``shadow``, ``replay``, ``correction``,
            ``direct``, or ``"all"``. Default: all but shadow and replay.
        key : str or sequence of str, optional
            Only events with these keys: the values at the subscription's ``key``.
        text : str, optional
            Only attempts with this part in their output, error, subject or event id. Capitals make
            no difference.
        """
        return self._bus.invocations(self.name, limit=limit, columns=columns, **chosen)

    @keywords_of(choosing)
    def results(self, limit: int | None = None, **chosen: Unpack[Choosing]) -> pd.DataFrame:
        """Return one row per ended event, oldest first. *limit* keeps only the newest.

        Columns: ``subject``, ``model``, ``version``, ``outcome``, ``reason``, ``error``, then the
        output as in ``run.results()``, then ``event_id`` and ``source``. An answer that replaced
        another one has the reason ``corrected``. Filters are those of :meth:`invocations`.
        """
        from mltrigger.reports import views

        log, replaced = self._bus.log, self._bus.rollout.corrector.replacements(self._spec)
        wanted = chosen_of(log, self._spec, views.FIRST, chosen)
        return views.results(log, self._spec.id, limit, replaced=replaced, wanted=wanted)

    def latency(self, *, since: datetime | timedelta | str | None = None) -> pd.DataFrame:
        """Return count, p50, p95, p99, max in ms, per stage (queue, model, total) and version."""
        from mltrigger.reports import views

        return views.latency(self._bus.log, self._spec.id, since)

    @overload
    def depth(self, by: None = None) -> Depth: ...

    @overload
    def depth(self, by: str) -> pd.DataFrame: ...

    def depth(self, by: str | None = None) -> Depth | pd.DataFrame:
        """Return the numbers of visible, delayed, leased and dead events now.

        ``by="key"`` returns a frame: ``key``, ``waiting``, ``in_flight``, ``delayed``,
        ``oldest_s``, ``why`` and ``until``. It has a row for each key with open events, the longest
        backlog first. ``key`` is missing for all events without one. ``why`` is the reason why the
        first of them waits. ``until`` is the time that ends it, if there is one.
        """
        if by is None:
            return self._bus.broker.depth(self._spec)
        if by != "key":
            raise NotFound.of("depth by", by, ["key"])
        return self._bus.depth_by_key(self.name)

    def skipped(self, limit: int | None = None) -> pd.DataFrame:
        """Return the events that never reached the model, and why, oldest first.

        *limit* keeps the newest. ``reason`` is ``filtered`` (``detail`` names the clause),
        ``duplicate`` (the id was published before), ``expired`` or ``unsubscribed``. Filtered
        events are searched in the archive now. They cost nothing before.
        """
        return self._bus.skipped(self.name, limit)

    def explain(self, event: Any, *, source: str | None = None) -> pd.DataFrame:
        """Return why an event did or did not fire here. See ``bus.explain``."""
        return self._bus.explain(event, self.name, source=source)

    def doctor(self) -> pd.DataFrame:
        """Return advice for this subscription, with reasons. See ``bus.doctor``."""
        return self._bus.doctor(self.name)

    def dashboard(self, sample: Any = None, *, read_only: bool = False) -> Dashboard:
        """Return the live view of ``bus.dashboard()`` with this subscription chosen.

        Its button fires *sample*. Without one it repeats the newest event of the topic.
        *read_only*: all actions are refused.
        """
        from mltrigger.notebook.cockpit.widget import Dashboard

        bus: Any = self._bus
        return Dashboard(bus, self._spec, sample, read_only=read_only)

    # -- what to do with it ------------------------------------------------------------------------

    def fire(self, samples: Any, **options: Any) -> Run:
        """Publish *samples* on the topic and wait, as ``bus.fire(sub.topic, samples)`` does."""
        return self._bus.fire(self.topic, samples, **options)

    def stop(self, drain_s: float = DRAIN_S) -> None:
        """Stop delivery in this process. Events wait. Calls may end within *drain_s* seconds."""
        self._bus.stop_listening(self.name, drain_s)

    def start(self) -> Subscription:
        """Start delivery in this process. Idempotent."""
        self._bus.listen(self._bus.spec(self.name))  # the current one: it may be bound anew
        return self

    def pause(self) -> None:
        """Stop delivery in all processes until :meth:`resume`. Events wait. Calls may end."""
        self._bus.broker.pause(self.name)

    def resume(self) -> None:
        """Go on after :meth:`pause`. Idempotent."""
        self._bus.broker.pause(self.name, False)

    def unsubscribe(self, delete: bool = False) -> None:
        """End the subscription. Its open events end as ``skipped``, its log stays.

        With *delete* remove also the resources outside, such as a queue.
        """
        self._bus.unsubscribe(self.name, delete)

    def _versions(self) -> tuple[Rollout, SubscriptionSpec]:
        return self._bus.rollout, self._bus.spec(self.name)

    def __mltrigger_bus__(self) -> Bus:
        """Return the bus behind the handle, for adapters and faces."""
        return self._bus
