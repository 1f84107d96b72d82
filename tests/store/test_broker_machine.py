"""The broker, log and registry against a model of a few dictionaries: whatever is done in whatever
order, they agree after each step.
"""

from __future__ import annotations

import dataclasses
import tempfile
import uuid
import warnings
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from slow import examples

import mltrigger as mt
from mltrigger.broker import Delivery, Sending, Settlement, SubscriptionSpec
from mltrigger.event.delay import delayed
from mltrigger.filters import FilterPolicy
from mltrigger.policy import MAX_ABANDONED, SUSPECT, DeliveryPolicy, charged, cleared
from mltrigger.reports.audit import audit
from mltrigger.store import ranges
from mltrigger.store.broker import SqlBroker
from mltrigger.store.log import Log
from mltrigger.store.receiving import SWEEP_US
from mltrigger.store.registry import Registry
from mltrigger.store.retention import Retention, prune
from mltrigger.store.sqlite.store import SqliteStore
from mltrigger.store.unit import Invocation
from mltrigger.store.wake import Wakeup
from mltrigger.testing import SimulatedClock
from mltrigger.versions.running.invoke import Result

LEASE_S = 30.0
DAY_S = 86_400.0
SKEW_S = 3.0
"""How far the second worker's clock is ahead of the first one's."""
FINAL = ("succeeded", "dead", "skipped")

FILTERS: dict[str, FilterPolicy | None] = {
    "all": None,
    "odd": FilterPolicy.parse({"type": ["odd"]}, "MessageAttributes"),
    "big": FilterPolicy.parse({"n": [{"numeric": [">", 1]}]}, "MessageBody"),
}
# What becomes of an attempt: how it is settled, what it is counted as, and what is recorded; no
# outcome for one that was not begun.
VERDICTS: dict[str, tuple[dict[str, Any], str | None]] = {
    "ack": ({"verdict": "ack"}, "succeeded"),
    "skip": ({"verdict": "ack"}, "skipped"),
    "retry": ({"verdict": "retry", "delay_s": 5.0}, "failed"),
    "died": ({"verdict": "retry", "delay_s": 0.0, "counts": "death"}, "failed"),
    "throttled": ({"verdict": "retry", "delay_s": 2.0, "counts": "nothing"}, "failed"),
    "interrupt": ({"verdict": "release"}, "interrupted"),
    "release": ({"verdict": "release"}, None),
    "dead": ({"verdict": "dead_letter", "reason": "rejected"}, "dead"),
}


@dataclasses.dataclass
class Worker:
    """A process: its own clock, its own view of the store, and the deliveries that it was ever
    given.
    """

    clock: SimulatedClock
    store: SqliteStore
    held: list[Delivery] = dataclasses.field(default_factory=list)
    received: dict[int, int] = dataclasses.field(default_factory=dict)
    """Subscription -> when it last received for it."""

    def __post_init__(self) -> None:
        self.registry = Registry(self.store, self.clock)
        self.id = self.registry.join()
        self.log = Log(self.store, self.clock, lambda: self.id)
        self.broker = SqlBroker(self.store, self.clock, Wakeup(), lambda: self.id)

    @property
    def now_us(self) -> int:
        return self.clock.now_us()


@dataclasses.dataclass
class Archived:
    """A published event."""

    topic: str
    id: str
    n: int
    published_us: int
    delay_s: float | None = None
    due_us: int | None = None
    """When it is due, if it is delayed or cancelled: then it is behind no cursor."""

    @property
    def data(self) -> dict[str, int]:
        return {"n": self.n}

    def passes(self, filter_name: str) -> bool:
        return {"all": True, "odd": self.n % 2 == 1, "big": self.n > 1}[filter_name]


@dataclasses.dataclass
class Place:
    """Where one event is for one subscription that it was delivered to, and what is counted of it."""

    state: Literal["ready", "leased", "succeeded", "dead", "skipped"]
    visible_us: int
    attempt: int = 0
    failures: int = 0
    abandoned: int = 0
    until_us: int = 0
    reason: str = ""
    discarded: bool = False
    behind: bool = False
    """Whether it waits behind the cursor, without a row."""
    highest: int = 0
    """The highest attempt that was ever handed out."""

    @property
    def is_open(self) -> bool:
        return self.state in ("ready", "leased")


@dataclasses.dataclass
class Bound:
    """A subscription as the model knows it."""

    spec: SubscriptionSpec
    filter_name: str
    bound: bool = True
    paused: bool = False
    places: dict[int, Place] = dataclasses.field(default_factory=dict)
    offered: set[int] = dataclasses.field(default_factory=set)
    due: set[int] = dataclasses.field(default_factory=set)
    """What was published while it was bound; what of it passed the filter then, or a later one that
    began with the archive.
    """
    resent: dict[int, tuple[int, int | None, int]] = dataclasses.field(default_factory=dict)
    """Event -> how often it was sent again, with which other data, and when."""


def event(id_: str, n: int, delay_s: float | None, now_us: int) -> mt.Event:
    plain = mt.Event({"n": n}, id=id_, source="/machine", type="odd" if n % 2 else "even")
    return delayed(plain, delay_s, None, now_us)


def some_of(held: list[Delivery]) -> st.SearchStrategy[list[Delivery]]:
    """Of all that a worker was ever given, or of the newest ones, most of which it still holds."""
    return st.one_of(
        st.lists(st.sampled_from(among), min_size=1, max_size=6, unique_by=id)
        for among in (held, held[-6:])
    )


class BrokerMachine(RuleBasedStateMachine):
    """Two workers with clocks three seconds apart, two subscriptions of two topics."""

    on_disk = False
    step = 1
    """The numbers of events are multiples of it."""

    def __init__(self) -> None:
        super().__init__()
        self.folder = tempfile.TemporaryDirectory(prefix="machine") if self.on_disk else None
        shared = None if self.folder else SqliteStore()
        clocks = SimulatedClock(), SimulatedClock()
        clocks[1].advance(s=SKEW_S)
        self.workers = [Worker(clock, shared or self.store()) for clock in clocks]
        self.archive: dict[int, Archived] = {}
        self.subs: dict[str, Bound] = {}
        self.rows: dict[tuple[int, int, int], str] = {}
        """(seq, subscription, attempt) -> outcome, as the log shall have it."""
        self.pruned: Counter[tuple[int, str]] = Counter()
        self.ids = 0

    def store(self) -> SqliteStore:
        assert self.folder is not None
        return SqliteStore(Path(self.folder.name) / "bus.db")

    def teardown(self) -> None:
        for worker in self.workers:
            worker.store.close()
        if self.folder is not None:
            self.folder.cleanup()

    # -- time --------------------------------------------------------------------------------------

    @rule(s=st.sampled_from([0.3, 1.0, 6.0, LEASE_S - SKEW_S, LEASE_S + SKEW_S, 2 * DAY_S]))
    def time_passes(self, s: float) -> None:
        for worker in self.workers:
            worker.clock.advance(s)

    @rule(w=st.integers(0, 1))
    def crash(self, w: int) -> None:
        """A worker is gone, and with it all that it held; another one takes its place."""
        old = self.workers[w]
        if self.folder is not None:
            old.store.close()
        self.workers[w] = Worker(old.clock, self.store() if self.folder is not None else old.store)
        self.bring_forward(old.clock.now_us())

    def bring_forward(self, now_us: int) -> None:
        """Who joins makes due what was published in its future."""
        for sub in self.subs.values():
            for seq, place in sub.places.items():
                if (
                    place.state == "ready"
                    and not place.behind
                    and place.visible_us == self.archive[seq].published_us
                ):
                    place.visible_us = min(place.visible_us, now_us)

    # -- publish -----------------------------------------------------------------------------------

    @initialize(filters=st.tuples(st.just("all"), st.sampled_from(list(FILTERS))))
    def two_subscriptions(self, filters: tuple[str, str]) -> None:
        self.workers[0].registry.topic("pages")
        self.workers[0].registry.topic("words")
        for name, filter_name in zip("ab", filters, strict=True):
            self.bind(0, name, "pages", filter_name, False)

    @rule(
        w=st.integers(0, 1),
        topic=st.sampled_from(["pages", "pages", "pages", "words"]),
        batch=st.lists(
            st.tuples(
                st.none() | st.integers(0, 20),
                st.integers(0, 3),
                st.sampled_from([None, None, 0.0, 4.0]),
            ),
            min_size=1,
            max_size=8,
        ),
    )
    def publish(
        self, w: int, topic: str, batch: list[tuple[int | None, int, float | None]]
    ) -> None:
        """New ids, and repeated ones with the same data or others; some of them for later."""
        worker, names = self.workers[w], []
        batch = [(number, n * self.step, delay_s) for number, n, delay_s in batch]
        for number, *_ in batch:
            self.ids += number is None or number >= self.ids
            is_new = number is None or number >= self.ids - 1
            names.append(self.name(self.ids - 1 if is_new or number is None else number))
        before = dict(self.archive)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            receipts = worker.broker.publish(
                topic,
                [
                    event(id_, n, delay_s, worker.now_us)
                    for id_, (_, n, delay_s) in zip(names, batch, strict=True)
                ],
            )

        for id_, (_, n, delay_s), receipt in zip(names, batch, receipts, strict=True):
            known = [seq for seq, e in self.archive.items() if (e.topic, e.id) == (topic, id_)]
            assert (receipt.event_id, receipt.duplicate) == (id_, bool(known))
            if known:
                seq = known[0]
                assert receipt.seq == seq
                to = [
                    name
                    for name, sub in self.subs.items()
                    if sub.bound and sub.spec.topic == topic and seq in sub.places
                ]
            else:
                seq = receipt.seq
                assert seq > max(self.archive, default=0)
                due_us = worker.now_us + int(delay_s * 1e6) if delay_s else None
                self.archive[seq] = Archived(topic, id_, n, worker.now_us, delay_s, due_us)
                to = [
                    name
                    for name, sub in self.subs.items()
                    if sub.bound and sub.spec.topic == topic and self.offer(sub, seq, worker)
                ]
            assert sorted(receipt.subscriptions) == sorted(to)
        assert len(self.archive) >= len(before)

    def name(self, number: int) -> str:
        """The id of an event."""
        return f"e{number}"

    def offer(self, sub: Bound, seq: int, worker: Worker) -> bool:
        """The event is due to *sub*, and passes its filter or not."""
        passed = self.passes(sub, seq)
        if passed:
            due_us = self.archive[seq].due_us
            behind = sub.filter_name == "all" and due_us is None
            sub.places[seq] = Place("ready", max(worker.now_us, due_us or 0), behind=behind)
        return passed

    def passes(self, sub: Bound, seq: int) -> bool:
        passed = self.archive[seq].passes(sub.filter_name)
        sub.offered.add(seq)
        if passed:
            sub.due.add(seq)
        return passed

    # -- bind --------------------------------------------------------------------------------------

    @rule(
        w=st.integers(0, 1),
        name=st.sampled_from("ab"),
        topic=st.sampled_from(["pages", "pages", "words"]),
        filter_name=st.sampled_from(list(FILTERS)),
        from_start=st.booleans(),
    )
    def bind(self, w: int, name: str, topic: str, filter_name: str, from_start: bool) -> None:
        """Bind, bind again from the start or not, and with another filter; a bound one keeps its
        topic.
        """
        worker, sub = self.workers[w], self.subs.get(name)
        fresh = sub is None
        newly = sub is None or not sub.bound
        if sub is not None and sub.bound:
            topic = sub.spec.topic
        policy = DeliveryPolicy(lease_s=LEASE_S)
        worker.broker.bind(
            SubscriptionSpec(name, topic, "ocr:latest", policy, filter=FILTERS[filter_name]),
            from_start,
        )

        spec = worker.registry.subscription(name)
        assert spec is not None
        assert (spec.topic, spec.filter) == (topic, FILTERS[filter_name])
        if sub is None:
            sub = self.subs[name] = Bound(spec, filter_name)
        sub.spec, sub.filter_name, sub.bound = spec, filter_name, True
        sub.paused = sub.paused and not newly
        if filter_name != "all":  # it goes by rows from now on
            for place in sub.places.values():
                place.behind = False
        if newly and from_start:
            self.begin_from_start(sub, worker, fresh)

    def begin_from_start(self, sub: Bound, worker: Worker, fresh: bool) -> None:
        """A cursor begins at the first event. One that was there before stays, and rows are made."""
        for seq in self.of_topic(sub):
            place = sub.places.get(seq)
            if place is None:
                if self.offer(sub, seq, worker):
                    sub.places[seq].behind &= fresh
                    if sub.places[seq].behind:
                        sub.places[seq].visible_us = self.archive[seq].published_us
            elif self.passes(sub, seq) and (place.state, place.reason) == (
                "skipped",
                "unsubscribed",
            ):
                attempt = max(a for q, s, a in self.rows if (q, s) == (seq, sub.spec.id))
                self.reopen(sub, seq)
                visible_us = max(worker.now_us, self.archive[seq].due_us or 0)
                sub.places[seq] = Place("ready", visible_us, attempt, highest=place.highest)

    def reopen(self, sub: Bound, seq: int) -> None:
        """Take a final outcome back."""
        for key, outcome in self.rows.items():
            if key[:2] == (seq, sub.spec.id) and outcome in ("dead", "skipped"):
                self.rows[key] = {"dead": "failed", "skipped": "interrupted"}[outcome]

    @rule(w=st.integers(0, 1), name=st.sampled_from("ab"))
    def unbind(self, w: int, name: str) -> None:
        """What was open ends as skipped."""
        self.workers[w].broker.unbind(name)

        sub = self.subs[name]
        for seq, place in sub.places.items():
            if place.is_open and sub.bound:
                attempt = place.attempt + (place.state == "ready")
                self.rows[seq, sub.spec.id, attempt] = "skipped"
                sub.places[seq] = dataclasses.replace(
                    place, state="skipped", reason="unsubscribed", attempt=attempt
                )
        sub.bound = False

    @rule(w=st.integers(0, 1), name=st.sampled_from("ab"), paused=st.booleans())
    def pause(self, w: int, name: str, paused: bool) -> None:
        self.workers[w].broker.pause(name, paused)

        self.subs[name].paused = paused

    # -- receive -----------------------------------------------------------------------------------

    @rule(w=st.integers(0, 1), name=st.sampled_from("ab"), most=st.sampled_from([1, 2, 4, 8, 8]))
    def claim(self, w: int, name: str, most: int) -> None:
        """Exactly what is due is leased, the longest waiting first: rows, and what is behind the
        cursor; what a dead worker held comes back within the time of a sweep.
        """
        worker, sub = self.workers[w], self.subs[name]
        deliveries = worker.broker.receive(sub.spec, most)

        self.sweep(worker, sub)
        assert [d.seq for d in deliveries] == ([] if sub.paused else self.due(worker, sub, most))
        for delivery in deliveries:
            place, archived = sub.places[delivery.seq], self.archive[delivery.seq]
            times, n, sent_us = sub.resent.get(delivery.seq, (0, None, 0))
            assert delivery.since_us == (
                sent_us or archived.published_us + int((archived.delay_s or 0) * 1e6)
            )
            assert delivery.attempt == place.attempt + 1 > place.highest
            assert (delivery.failures, delivery.abandoned) == (place.failures, place.abandoned)
            assert (delivery.event.id, delivery.event.data) == (
                archived.id,
                {"n": archived.n if n is None else n},
            )
            assert delivery.event.extensions.get("redrive", 0) == times
            place.state, place.attempt, place.highest = "leased", delivery.attempt, delivery.attempt
            place.until_us, place.behind = worker.now_us + int(LEASE_S * 1e6), False
        worker.held += deliveries

    def due(self, worker: Worker, sub: Bound, most: int) -> list[int]:
        """What a claim leases. What was abandoned before is leased alone."""
        rows = sorted(
            (p.visible_us, seq)
            for seq, p in sub.places.items()
            if p.state == "ready" and not p.behind and p.visible_us <= worker.now_us
        )
        behind = sorted(q for q, p in sub.places.items() if p.state == "ready" and p.behind)
        first_us = self.archive[behind[0]].published_us if behind else None
        is_suspect = [bool(sub.places[seq].abandoned) for _, seq in rows]
        if rows and first_us is not None and rows[0][0] > first_us:
            innocent = [*is_suspect, True].index(True)
            return (behind[:most] + [seq for _, seq in rows[:innocent]])[:most]
        together = [seq for us, seq in rows if first_us is None or us <= first_us][:most]
        suspect = next((i for i in range(len(together)) if is_suspect[i]), None)
        if suspect == 0:
            return together[:1]
        together = together if suspect is None else together[:suspect]
        return together + behind[: most - len(together)]

    @rule(w=st.integers(0, 1), name=st.sampled_from("ab"))
    def delayed_events_fall_due_among_others(self, w: int, name: str) -> None:
        """Then one claim leases a range, and single events between those of the range."""
        delays = [None, 4.0, 4.0, 4.0, None]
        self.publish(w, "pages", [(None, n, delay_s) for n, delay_s in enumerate(delays)])
        self.time_passes(6.0)
        self.claim(w, name, 8)

    def sweep(self, worker: Worker, sub: Bound) -> None:
        """Find out which leases this worker ended: only those that had run out, and all of them if
        it has not looked for a second.
        """
        now_us, spec = worker.now_us, sub.spec
        leases = {
            tuple(row)
            for row in worker.store.read(
                "SELECT seq, attempt FROM leased WHERE subscription_id = :s", {"s": spec.id}
            )
        }
        must = now_us - worker.received.get(spec.id, -SWEEP_US) >= SWEEP_US
        worker.received[spec.id] = now_us
        for seq, place in sub.places.items():
            if (
                place.state == "leased"
                and place.until_us <= now_us
                and (must or (seq, place.attempt) not in leases)
            ):
                died = place.abandoned >= MAX_ABANDONED
                place.abandoned = place.abandoned or SUSPECT
                self.rows[seq, spec.id, place.attempt] = "dead" if died else "abandoned"
                place.state = "dead" if died else "ready"  # in its old place

    @rule(w=st.integers(0, 1), lease_s=st.sampled_from([1.0, LEASE_S, 5 * LEASE_S]), data=st.data())
    @precondition(lambda self: any(worker.held for worker in self.workers))
    def extend(self, w: int, lease_s: float, data: st.DataObject) -> None:
        worker = self.workers[w] if self.workers[w].held else self.workers[1 - w]
        chosen = data.draw(some_of(worker.held))
        lost = worker.broker.extend(chosen, lease_s)

        assert lost == [d for d in chosen if not self.holds(d)]
        for delivery in chosen:
            if delivery not in lost:
                self.place(delivery).until_us = worker.now_us + int(lease_s * 1e6)

    @rule(w=st.integers(0, 1), data=st.data())
    @precondition(lambda self: any(worker.held for worker in self.workers))
    def run_alone(self, w: int, data: st.DataObject) -> None:
        """From now on it is the event's fault if its attempt never ends."""
        worker = self.workers[w] if self.workers[w].held else self.workers[1 - w]
        delivery = data.draw(
            st.sampled_from([d for d in worker.held if not d.alone] or worker.held)
        )
        if delivery.alone:
            return
        held = worker.broker.alone(delivery)

        assert held == self.holds(delivery)
        if held:
            self.place(delivery).abandoned = charged(self.place(delivery).abandoned)

    @rule(w=st.integers(0, 1), data=st.data())
    @precondition(lambda self: any(d.alone for worker in self.workers for d in worker.held))
    def run_alone_no_longer(self, w: int, data: st.DataObject) -> None:
        """Another call begins beside it: it is nobody's fault any more."""
        pairs = [(worker, d) for worker in self.workers for d in worker.held if d.alone]
        worker, delivery = data.draw(st.sampled_from(pairs))
        held = worker.broker.alone(delivery, False)

        assert held == self.holds(delivery)
        if held:
            place = self.place(delivery)
            place.abandoned = cleared(place.abandoned, delivery.abandoned)

    # -- settle ------------------------------------------------------------------------------------

    @rule(w=st.integers(0, 1), data=st.data())
    @precondition(lambda self: any(worker.held for worker in self.workers))
    def ack(self, w: int, data: st.DataObject) -> None:
        """All succeed, or nothing changes since one was lost or settled before."""
        worker = self.workers[w] if self.workers[w].held else self.workers[1 - w]
        chosen = data.draw(some_of(worker.held))
        with worker.log.unit() as unit:
            done = worker.broker.ack(chosen, unit)
            if done:
                unit.record(
                    [Invocation(d, "succeeded", None, Result(), None, None, 1) for d in chosen]
                )

        assert done == all(self.holds(d) for d in chosen)
        for d in chosen if done else ():
            self.rows[d.seq, d.subscription_id, d.attempt] = "succeeded"
            self.place(d).state = "succeeded"

    @rule(
        w=st.integers(0, 1),
        late=st.booleans(),
        names=st.lists(st.sampled_from(list(VERDICTS)), min_size=6, max_size=6),
        data=st.data(),
    )
    @precondition(lambda self: any(worker.held for worker in self.workers))
    def settle(self, w: int, late: bool, names: list[str], data: st.DataObject) -> None:
        """Record and settle what is held, and what was lost or settled before: of that only a row
        stays behind, unless its answer counts although it is *late*.
        """
        worker = self.workers[w] if self.workers[w].held else self.workers[1 - w]
        chosen = data.draw(some_of(worker.held))
        settlements = [
            Settlement(d, **VERDICTS[name][0]) for d, name in zip(chosen, names, strict=False)
        ]
        with worker.log.unit() as unit:
            lost = worker.broker.settle(settlements, unit)
            after = [s for s in settlements if late and s.delivery in lost]
            counted = worker.broker.settle_late(after, unit)
            outcomes = [
                ("stale" if d in lost and d not in counted else VERDICTS[n][1], d)
                for d, n in zip(chosen, names, strict=False)
            ]
            unit.record(
                [
                    Invocation(d, o, None, Result(), None, None, 1, "told")
                    for o, d in outcomes
                    if o is not None
                ],  # type: ignore[arg-type]
                counted,
            )

        assert lost == [d for d in chosen if not self.holds(d)]
        for settlement, (outcome, _) in zip(settlements, outcomes, strict=True):
            if settlement.delivery not in lost:
                self.settled(settlement, outcome, worker)
        verdicts = {id(s): VERDICTS[n][1] for s, n in zip(settlements, names, strict=False)}
        assert counted == [s.delivery for s in after if self.settled_late(s, verdicts[id(s)])]
        for outcome, delivery in outcomes:
            key = (delivery.seq, delivery.subscription_id, delivery.attempt)
            if (
                outcome is not None
                and delivery.seq in self.archive
                and self.rows.get(key, "abandoned") == "abandoned"
            ):
                self.rows[key] = outcome

    def settled(self, settlement: Settlement, outcome: str | None, worker: Worker) -> None:
        place = self.place(settlement.delivery)
        if outcome in FINAL:
            place.state, place.reason, place.discarded = outcome, "told", False  # type: ignore[assignment]
            return
        place.state = "ready"
        if settlement.delivery.alone:
            place.abandoned = cleared(place.abandoned, settlement.delivery.abandoned)
        if settlement.verdict == "retry":
            place.visible_us = worker.now_us + int(settlement.delay_s * 1e6)
            place.failures += settlement.counts == "failure"
            if settlement.counts == "death":
                place.abandoned = charged(place.abandoned)

    def settled_late(self, settlement: Settlement, outcome: str | None) -> bool:
        """The first answer counts, whoever holds the event now; a later one ends nothing."""
        delivery, verdict = settlement.delivery, settlement.verdict
        sub = next(s for s in self.subs.values() if s.spec.id == delivery.subscription_id)
        place = sub.places.get(delivery.seq)
        key = (delivery.seq, delivery.subscription_id, delivery.attempt)
        sent = sub.resent.get(delivery.seq)
        if (
            place is None
            or not place.is_open
            or self.rows.get(key, "abandoned") != "abandoned"
            or (sent is not None and sent[2] != delivery.since_us)
        ):
            return False
        if verdict in ("ack", "dead_letter"):
            place.state = outcome  # type: ignore[assignment]
            place.reason, place.discarded, place.behind = "told", False, False
            return True
        if delivery.alone:
            place.abandoned = cleared(place.abandoned, delivery.abandoned)
        elif place.abandoned == SUSPECT:
            place.abandoned = min(0, delivery.abandoned)
        if verdict == "retry":
            place.failures += settlement.counts == "failure"
            if settlement.counts == "death":
                place.abandoned = charged(place.abandoned)
        return verdict != "release"

    def place(self, delivery: Delivery) -> Place:
        return next(
            sub.places[delivery.seq]
            for sub in self.subs.values()
            if sub.spec.id == delivery.subscription_id
        )

    def holds(self, delivery: Delivery) -> bool:
        """Whether its lease is still that delivery's."""
        place = next(
            sub.places.get(delivery.seq)
            for sub in self.subs.values()
            if sub.spec.id == delivery.subscription_id
        )
        return place is not None and (place.state, place.attempt) == ("leased", delivery.attempt)

    # -- cancelled events, dead letters and retention ----------------------------------------------

    @rule(w=st.integers(0, 1), data=st.data())
    @precondition(lambda self: self.archive)
    def cancel(self, w: int, data: st.DataObject) -> None:
        """It ends where it has not begun; who has begun is named and goes on."""
        seq = data.draw(st.sampled_from(sorted(self.archive)))
        begun = self.workers[w].broker.cancel(seq)

        archived = self.archive[seq]
        if archived.due_us is None:
            archived.due_us = archived.published_us
        for sub in self.subs.values():
            place = sub.places.get(seq)
            has_begun = any(
                key[:2] == (seq, sub.spec.id) and outcome != "skipped"
                for key, outcome in self.rows.items()
            )
            if place is not None and place.state == "ready" and not has_begun:
                place.state, place.reason, place.behind = "skipped", "cancelled", False
                place.attempt += 1
                self.rows[seq, sub.spec.id, place.attempt] = "skipped"
        assert begun == sorted(
            name
            for name, sub in self.subs.items()
            if (seq in sub.places and sub.places[seq].state == "leased")
            or any(
                key[:2] == (seq, sub.spec.id) and outcome != "skipped"
                for key, outcome in self.rows.items()
            )
        )

    @rule(
        w=st.integers(0, 1),
        name=st.sampled_from("ab"),
        n=st.none() | st.integers(0, 3),
        rate=st.none() | st.just(0.5),
        data=st.data(),
    )
    def send(
        self, w: int, name: str, n: int | None, rate: float | None, data: st.DataObject
    ) -> None:
        """Redrive: what is neither open nor succeeded begins anew, with other data or the
        archive's.
        """
        worker, sub = self.workers[w], self.subs[name]
        seqs = (
            data.draw(st.lists(st.sampled_from(self.of_topic(sub)), max_size=3))
            if self.of_topic(sub)
            else []
        )
        corrected = Sending(rate) if n is None else Sending(rate, b'{"n": %d}' % n)
        sent = worker.broker.send(sub.spec, seqs, sending=corrected)

        expected = [seq for seq in dict.fromkeys(seqs) if sub.bound and self.may_be_sent(sub, seq)]
        assert sent == expected
        for i, seq in enumerate(sent):
            attempt = max((a for q, s, a in self.rows if (q, s) == (seq, sub.spec.id)), default=0)
            highest = sub.places[seq].highest if seq in sub.places else 0
            self.reopen(sub, seq)
            sub.places[seq] = Place(
                "ready",
                worker.now_us + (int(i / rate * 1e6) if rate else 0),
                attempt,
                highest=highest,
            )
            times, before, _ = sub.resent.get(seq, (0, None, 0))
            sub.resent[seq] = (times + 1, before if n is None else n, worker.now_us)

    def of_topic(self, sub: Bound) -> list[int]:
        return [seq for seq, archived in self.archive.items() if archived.topic == sub.spec.topic]

    def may_be_sent(self, sub: Bound, seq: int) -> bool:
        return seq not in sub.places or (
            sub.places[seq].state in ("dead", "skipped") and not sub.places[seq].discarded
        )

    @rule(w=st.integers(0, 1), name=st.sampled_from("ab"), data=st.data())
    def discard(self, w: int, name: str, data: st.DataObject) -> None:
        sub = self.subs[name]
        seqs = (
            data.draw(st.lists(st.sampled_from(sorted(sub.places)), max_size=3, unique=True))
            if sub.places
            else []
        )
        discarded = self.workers[w].broker.discard(sub.spec, seqs, "of no use")

        assert discarded == [
            seq for seq in seqs if sub.places[seq].state == "dead" and not sub.places[seq].discarded
        ]
        for seq in discarded:
            sub.places[seq].discarded = True

    @rule(
        w=st.integers(0, 1),
        age_s=st.none() | st.sampled_from([10.0, DAY_S]),
        most=st.none() | st.integers(1, 10),
    )
    def prune(self, w: int, age_s: float | None, most: int | None) -> None:
        """The oldest go, as far as the retention says so; never the newest, never what is open or a
        dead letter.
        """
        worker = self.workers[w]
        pruned = prune(worker.store, worker.clock, Retention(age_s, most))

        seqs = sorted(self.archive)
        kept_by_count = set(seqs if most is None else seqs[-most:])
        gone, held = [], 0
        for seq in seqs[:-1]:
            if seq in kept_by_count and not (
                age_s is not None
                and self.archive[seq].published_us < worker.now_us - int(age_s * 1e6)
            ):
                break
            needed = any(
                p.is_open or (p.state == "dead" and not p.discarded)
                for s in self.subs.values()
                if (p := s.places.get(seq))
            )
            held += needed
            if not needed:
                gone.append(seq)
        rows = [key for key in self.rows if key[0] in gone]
        assert pruned == (len(gone), len(rows), held)
        for key in rows:
            self.pruned[key[1], self.rows.pop(key)] += 1
        for seq in gone:
            del self.archive[seq]
            for sub in self.subs.values():
                sub.places.pop(seq, None)
                sub.offered.discard(seq)
                sub.due.discard(seq)
                sub.resent.pop(seq, None)

    # -- what holds after every step ---------------------------------------------------------------

    @invariant()
    def agrees(self) -> None:
        """One invariant, so that what hypothesis prints of a failure is the steps and little else."""
        self.depth_is_that_of_the_model()
        self.every_place_and_every_attempt_is_that_of_the_model()
        self.there_is_at_most_one_final_outcome()
        self.audit_balances()
        self.tallies_count_every_attempt_once()

    def depth_is_that_of_the_model(self) -> None:
        for worker in self.workers:
            for sub in self.subs.values():
                depth, places = worker.broker.depth(sub.spec), sub.places.values()
                ready = [
                    p.behind or p.visible_us <= worker.now_us for p in places if p.state == "ready"
                ]
                visible, delayed = ready.count(True), ready.count(False)
                leased, dead = (
                    sum(p.state == "leased" for p in places),
                    sum(p.state == "dead" and not p.discarded for p in places),
                )
                assert (depth.visible, depth.delayed, depth.in_flight, depth.dead) == (
                    visible,
                    delayed,
                    leased,
                    dead,
                )

    def every_place_and_every_attempt_is_that_of_the_model(self) -> None:
        read = self.workers[0].store.read
        assert {
            row[:3]: row[3]
            for row in read("SELECT seq, subscription_id, attempt, outcome FROM invocation")
        } == self.rows
        columns = "subscription_id, seq, visible_us, attempt, failures, abandoned"
        waiting = read(f"SELECT {columns} FROM waiting")
        lease = read(
            "SELECT subscription_id, seq, until_us, attempt, failures, abandoned FROM leased"
        )
        assert sorted(read(f"SELECT {columns} FROM ready")) == sorted(
            (s, q, p.visible_us, p.attempt, p.failures, p.abandoned)
            for s, q, p in self.all_places("ready")
            if not p.behind
        )
        assert sorted(waiting) == sorted(
            (s, q, p.visible_us, p.attempt, p.failures, p.abandoned)
            for s, q, p in self.all_places("ready")
        )
        assert sorted(lease) == sorted(
            (s, q, p.until_us, p.attempt, p.failures, p.abandoned)
            for s, q, p in self.all_places("leased")
        )
        assert sum(n for (n,) in read("SELECT n FROM lease")) == len(lease)
        assert [seq for (seq,) in read("SELECT seq FROM event ORDER BY seq")] == sorted(
            self.archive
        )

    def all_places(self, state: str) -> Iterator[tuple[int, int, Place]]:
        for sub in self.subs.values():
            yield from (
                (sub.spec.id, seq, place)
                for seq, place in sub.places.items()
                if place.state == state
            )

    def there_is_at_most_one_final_outcome(self) -> None:
        final = Counter(key[:2] for key, outcome in self.rows.items() if outcome in FINAL)
        assert set(final.values()) <= {1}
        assert set(final) == {(seq, s) for state in FINAL for s, seq, _ in self.all_places(state)}

    def audit_balances(self) -> None:
        balances = audit(self.workers[0].store)
        assert len(balances) == len(self.subs)
        for b in balances:
            sub = self.subs[b.subscription]
            states = Counter(place.state for place in sub.places.values())
            assert (b.balanced, b.missing, b.double, b.surplus, b.events) == (
                True,
                0,
                0,
                0,
                None,
            ), b
            assert (b.succeeded, b.dead, b.skipped) == (
                states["succeeded"],
                states["dead"],
                states["skipped"],
            )
            assert b.open == states["ready"] + states["leased"]
            assert (b.published, b.filtered) == (len(sub.offered), len(sub.offered - sub.due)), b
            assert b.sent == len(sub.places.keys() - sub.due), b

    def tallies_count_every_attempt_once(self) -> None:
        expected = Counter({(s, outcome): n for (s, outcome), n in self.pruned.items()})
        expected.update((key[1], outcome) for key, outcome in self.rows.items())
        found = {
            (s, o): n
            for s, counts in self.workers[0].log.tallies().items()
            for o, n in counts.items()
            if n
        }
        assert found == dict(expected)


class FileMachine(BrokerMachine):
    """The same with a file, which a worker that crashed leaves behind."""

    on_disk = True


class AlikeMachine(BrokerMachine):
    """The same with events of one type, whose ids are UUIDs. They are claimed by column."""

    step = 2

    def __init__(self) -> None:
        super().__init__()
        self.least, ranges.LEAST = ranges.LEAST, 1

    def teardown(self) -> None:
        ranges.LEAST = self.least
        super().teardown()

    def name(self, number: int) -> str:
        return str(uuid.UUID(int=number))

    @rule(w=st.integers(0, 1), name=st.sampled_from("ab"), most=st.sampled_from([2, 8]))
    def events_are_claimed_as_soon_as_published(self, w: int, name: str, most: int) -> None:
        self.publish(w, self.subs[name].spec.topic, [(None, n, None) for n in range(4)])
        self.claim(w, name, most)


TestMemory = BrokerMachine.TestCase
TestMemory.settings = settings(max_examples=examples(24), stateful_step_count=50)
TestFile = FileMachine.TestCase
TestFile.settings = settings(max_examples=examples(3), stateful_step_count=50)
TestAlike = AlikeMachine.TestCase
TestAlike.settings = settings(max_examples=examples(24), stateful_step_count=50)
