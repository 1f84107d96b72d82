"""Receiving from a SQL store: claims, and the seats of receivers that wait for something to claim.

A publisher of the same process claims for a seat in its own transaction. So its event begins with
the commit that makes it visible, and costs no second one.
"""

from __future__ import annotations

import math
import os
import threading
import time
from collections.abc import Callable, Collection, Sequence
from typing import NamedTuple

from mltrigger.broker import Delivery, Outdated, SubscriptionSpec
from mltrigger.clock import Clock
from mltrigger.errors import StoreError
from mltrigger.store import leases, leasing, pace, ranges, turns
from mltrigger.store.leasing import Standing
from mltrigger.store.queue import Term, deliveries
from mltrigger.store.transaction import Row, Store, Transaction
from mltrigger.store.wake import Wakeup

SWEEP_US = 1_000_000
"""The shortest time between two looks for expired leases."""
_WATCHED_S = 3.0
"""A watch that was silent for longer does not count."""
_MOST_SEATS = 4
"""How many seats one publish serves. The others are woken."""


class _Claimed(NamedTuple):
    """The deliveries of one claim. ``error``: an event could not be read, and none is leased."""

    term: Term | None
    found: Sequence[Delivery]
    error: StoreError | None = None


_NOTHING = _Claimed(None, [])


class _Seat:
    """A receiver that waits, and the deliveries that a publisher has claimed for it."""

    __slots__ = ("claimed", "generation", "is_given", "most", "spec")

    def __init__(self, spec: SubscriptionSpec, most: int, generation: str | None) -> None:
        self.spec, self.most, self.generation = spec, most, generation
        self.claimed = _NOTHING
        self.is_given = False

    def give(self) -> None:
        """Note that the claim is visible."""
        self.is_given = True


class Receiving:
    """The claims of one process.

    Parameters
    ----------
    store, clock, wakeup, worker_id
        As for :class:`~mltrigger.store.broker.SqlBroker`.
    """

    def __init__(
        self, store: Store, clock: Clock, wakeup: Wakeup, worker_id: Callable[[], int]
    ) -> None:
        self._store, self._clock, self._wakeup, self._worker_id = store, clock, wakeup, worker_id
        self._fresh()
        self.watched_s = -math.inf
        """The monotonic time of the last look for all receivers of this process."""

    def _fresh(self) -> None:
        """Begin without receivers: for the first time, or in a forked child.

        The seats and the held locks are those of the parent.
        """
        self._pid = os.getpid()
        self._swept: dict[int, int] = {}
        self._idle: dict[int, int] = {}
        """Subscriptions whose last claim got all, and the number of wake-ups before it."""
        self._seats: dict[int, _Seat] = {}
        self._taken: set[_Seat] = set()
        self._unclear: dict[int, _Seat] = {}
        """Seats whose claim may have failed or not. The store knows."""
        self._guard = threading.Lock()
        self.keyed: set[int] = set()
        """Subscriptions with keys of which this process had deliveries."""

    def receive(
        self,
        subscription: SubscriptionSpec,
        max_events: int,
        wait_s: float = 0.0,
        generation: str | None = None,
    ) -> Sequence[Delivery]:
        """Lease up to *max_events*. A publisher, a due delay or an expired lease ends the wait."""
        if os.getpid() != self._pid:
            self._fresh()
        key = f"ready:{subscription.id}"
        self._wakeup.join(key, f"topic:{subscription.topic}")
        seen = self._wakeup.generation(key)
        if (before := self._unclear.pop(subscription.id, None)) is not None:
            before.is_given = False  # ask the store: that may be long ago
            if found := self._left(before):
                return found
        # If the last claim got all there was, and nothing came since, to ask for the next due time
        # is cheaper than an empty claim.
        is_idle = self._idle.get(subscription.id) == seen
        due_s = self._due_s(subscription) if is_idle else 0.0
        found = self._claim(subscription, max_events, generation) if due_s <= 0 else []
        if not found and wait_s > 0:
            watched = time.monotonic() - self.watched_s < _WATCHED_S
            longest_s = wait_s if watched else min(wait_s, self._wakeup.poll_s)
            due_s = due_s if due_s > 0 else self._due_s(subscription)
            seat = self._seat(_Seat(subscription, max_events, generation))
            woken = self._wakeup.wait(key, seen, max(0.0, min(longest_s, due_s)))
            found = self._left(seat)
            if not found and (woken or due_s <= longest_s):
                # else nothing came, and the next call looks again
                seen = self._wakeup.generation(key)
                found = self._claim(subscription, max_events, generation)
        self._note(subscription, max_events, found, seen)
        return found

    def follow(
        self,
        transaction: Transaction,
        subscription: SubscriptionSpec,
        max_events: int,
        generation: str | None,
    ) -> Sequence[Delivery]:
        """Lease up to *max_events* within a transaction that settles others."""
        swept_us = self._swept.get(subscription.id, -SWEEP_US)
        if self._clock.now_us() - swept_us >= SWEEP_US:
            return []  # the next receive looks for expired leases first
        seen = self._wakeup.generation(f"ready:{subscription.id}")
        found = self._lease(transaction, subscription, max_events, generation).found
        self._note(subscription, max_events, found, seen)
        return found

    def sweep(self, subscription: SubscriptionSpec, now_us: int) -> None:
        """Put events with an expired lease back. One that killed its worker too often is dead."""
        if not leasing.has_expired(self._store, subscription.id, now_us):
            return
        asked_s = time.monotonic()
        with self._store.transaction() as transaction:
            if not _waited(asked_s) and leasing.sweep(
                transaction, subscription.id, now_us, subscription.role
            ):
                transaction.after_commit(lambda: self._wakeup.notify(["done"]))

    # -- seats -------------------------------------------------------------------------------------

    def hand_over(self, transaction: Transaction, topic: str, woken: Collection[str]) -> None:
        """Claim for receivers of *topic* that wait in this process, once others see it."""
        if os.getpid() != self._pid:
            self._fresh()
        with self._guard:
            seats = [
                seat
                for seat in self._seats.values()
                if seat.spec.topic == topic
                and not seat.spec.parent_id  # a lane comes after the subscriptions
                and (seat.spec.filter is None or f"ready:{seat.spec.id}" in woken)
            ][:_MOST_SEATS]
            for seat in seats:
                del self._seats[seat.spec.id]
            self._taken.update(seats)
        for seat in seats:
            try:
                seat.claimed = self._lease(transaction, seat.spec, seat.most, seat.generation)
            except Outdated:
                continue  # its receiver is woken, and finds out itself
            transaction.after_visible(seat.give)

    def look_for_seats(self) -> None:
        """Wake receivers whose publisher was interrupted before it could do so."""
        for seat in list(self._taken):
            self._wakeup.notify_here(f"ready:{seat.spec.id}")

    def _seat(self, seat: _Seat) -> _Seat:
        with self._guard:
            # One of two receivers of a subscription has a seat. The other one is only woken.
            seat.is_given = self._seats.setdefault(seat.spec.id, seat) is not seat
        return seat

    def _left(self, seat: _Seat) -> Sequence[Delivery]:
        """Give up *seat*. Return the deliveries that were claimed for it."""
        with self._guard:
            self._taken.discard(seat)
            if self._seats.get(seat.spec.id) is seat:
                del self._seats[seat.spec.id]
                return []
        if not seat.is_given:
            # A publisher has taken it. Behind its transaction the store says what became of it.
            self._unclear[seat.spec.id] = seat
            with self._store.transaction(durable=False) as transaction:
                is_held = _holds(transaction, seat.claimed)
            self._unclear.pop(seat.spec.id, None)
            if not is_held:
                return []
        return seat.claimed.found

    # -- claims ------------------------------------------------------------------------------------

    def _note(
        self, subscription: SubscriptionSpec, max_events: int, found: Sequence[Delivery], seen: int
    ) -> None:
        """Note whether there may be more to claim at once, and the wake-ups before the claim."""
        if len(found) < max_events:
            self._idle[subscription.id] = seen
        else:
            self._idle.pop(subscription.id, None)

    def _claim(
        self, subscription: SubscriptionSpec, max_events: int, generation: str | None
    ) -> Sequence[Delivery]:
        asked_s, now_us = time.monotonic(), self._clock.now_us()
        try:
            if now_us - self._swept.get(subscription.id, -SWEEP_US) >= SWEEP_US:
                self._swept[subscription.id] = now_us
                self.sweep(subscription, now_us)
            # Not durable: a power cut that loses a claim only repeats the event. The next outcome
            # makes it durable anyway.
            with self._store.transaction(durable=False) as transaction:
                claimed = self._lease(transaction, subscription, max_events, generation)
        finally:
            # leases expired that nobody could extend: their holders come first
            if _waited(asked_s):
                self._swept[subscription.id] = self._clock.now_us()
        if claimed.error is not None:
            raise claimed.error
        return claimed.found

    def _lease(
        self,
        transaction: Transaction,
        subscription: SubscriptionSpec,
        max_events: int,
        generation: str | None,
    ) -> _Claimed:
        at = leasing.standing(transaction, subscription.id)
        if generation is not None and (at is None or (at.generation or "") != generation):
            raise Outdated
        if at is None:
            return _NOTHING
        # Read the time after the wait for the store, else the lease might begin in the past.
        now_us = self._clock.now_us()
        until_us = now_us + int(subscription.policy.lease * 1e6)
        binding = at.binding or 0
        term = Term(
            *(subscription.id, at.next_lease, now_us, until_us, self._worker_id()), binding=binding
        )
        if subscription.is_limited:
            return self._lease_limited(transaction, subscription, at, term, max_events)
        if not at.has_work(now_us):
            return _NOTHING
        if (alike := ranges.claim(transaction, at, term, max_events)) is not None:
            return _Claimed(term, alike)
        return _claimed(transaction, term, leasing.claim(transaction, at, term, max_events))

    def _lease_limited(
        self,
        transaction: Transaction,
        subscription: SubscriptionSpec,
        at: Standing,
        term: Term,
        max_events: int,
    ) -> _Claimed:
        """Lease as much as the limits over all processes allow."""
        s = subscription.id
        before = pace.locked(transaction, s, subscription.policy.max_rate_per_s_total)
        if (most := before.room(max_events, term.received_us)) <= 0:
            return _NOTHING
        after, alike = before, None
        if subscription.is_placed and not at.outside:
            self.keyed.add(s)
            found, after = turns.claim(transaction, subscription, at, term, most, before)
        elif (alike := ranges.claim(transaction, at, term, most)) is None:
            found = leasing.claim(transaction, at, term, most)
        n = len(found if alike is None else alike)
        pace.keep(transaction, s, before, after.spent(n, term.received_us))
        return _claimed(transaction, term, found) if alike is None else _Claimed(term, alike)

    def _due_limited_us(
        self, subscription: SubscriptionSpec, visible_us: int | None, beyond: bool
    ) -> int | None:
        """Return when the next event may begin. ``None``: not before a call ends."""
        now_us, policy = self._clock.now_us(), subscription.policy
        with self._store.snapshot() as reader:
            at = pace.read(reader, subscription.id, policy.max_rate_per_s_total)
            if subscription.is_placed and not beyond:
                beyond = turns.has_room(reader, subscription)
        next_us = at.next_us(now_us)
        due_us = now_us if beyond else visible_us
        return None if due_us is None else max(due_us, next_us)

    def _due_s(self, subscription: SubscriptionSpec) -> float:
        """Return the seconds until the next delayed event or look at leases. 0 or less: now."""
        due = leasing.due(self._store, subscription.id)
        until_us, visible_us = due.until_us, None if due.paused else due.visible_us
        if subscription.is_limited and not due.paused:
            visible_us = self._due_limited_us(subscription, visible_us, bool(due.beyond))
        elif due.beyond and not due.paused:
            return 0.0
        if until_us is not None:  # not before the next sweep, which finds it
            until_us = max(until_us, self._swept.get(subscription.id, 0) + SWEEP_US)
        due_us = min((at for at in (visible_us, until_us) if at is not None), default=None)
        return float("inf") if due_us is None else (due_us - self._clock.now_us()) / 1e6


def _claimed(transaction: Transaction, term: Term, found: list[Row]) -> _Claimed:
    try:
        return _Claimed(term, deliveries(transaction, found, term))
    except StoreError as error:  # nobody has worked on any of them
        leasing.put_back(transaction, term, found)
        return _Claimed(None, [], error)


def _holds(transaction: Transaction, claimed: _Claimed) -> bool:
    """Whether the leases of *claimed* are in the store: its transaction was not undone."""
    term, found = claimed.term, claimed.found
    if term is None or not found:
        return False
    held = leases.held(transaction, term.subscription_id, term.number, [found[0].seq])
    return any(
        (row.worker_id, row.received_us) == (term.worker_id, term.received_us)
        for row in held.values()
    )


def _waited(since_s: float) -> bool:
    """Whether the store was silent since *since_s* (monotonic) for so long that leases expired."""
    return time.monotonic() - since_s > SWEEP_US / 1e6
