"""The attempts of the log: recorded ones and those under way, as rows and by columns."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterable, Iterator, Sequence

from mltrigger.clock import Clock
from mltrigger.store import bulk, event_keys, latencies, matched, matching
from mltrigger.store.attempts import (
    AFTER,
    BY_EVENTS,
    BY_LOTS,
    COLUMNS,
    FROM,
    INVOKED,
    NEWEST,
    given,
    running_of,
    settled_since,
    where_of,
    whose,
)
from mltrigger.store.bulk import Bulk
from mltrigger.store.latencies import Latencies
from mltrigger.store.leasing import BEHIND
from mltrigger.store.marks import Marks
from mltrigger.store.matched import BUDGET_S, Counted, Page, Pages
from mltrigger.store.matching import Matching
from mltrigger.store.outcomes import ANSWERING, OUTCOMES
from mltrigger.store.transaction import Row, Store

_CONDITIONS = {
    "low": "i.seq BETWEEN :low AND :high",
    "since_us": "i.received_us >= :since_us",
}
_TALLIES = "SELECT subscription_id, outcome, sum(n) FROM tally GROUP BY subscription_id, outcome"
_LANES = "WHERE subscription_id IN (SELECT id FROM subscription WHERE parent_id IS NOT NULL)"
_PROGRESS = f"""
SELECT (SELECT coalesce(sum(n), 0) FROM tally) - (SELECT coalesce(sum(n), 0) FROM tally {_LANES}),
  (SELECT count(*) FROM ready) - (SELECT count(*) FROM ready {_LANES})
    + (SELECT count(*) FROM awaited) + (SELECT count(*) FROM keyed)
    + (SELECT coalesce(sum(n), 0) FROM lease)
    - (SELECT coalesce(sum(n), 0) FROM lease {_LANES})
    + (SELECT coalesce(sum({BEHIND}), 0) FROM cursor c JOIN subscription s
      ON s.id = c.subscription_id WHERE c.next_seq IS NOT NULL AND s.parent_id IS NULL)
"""


class AttemptLog:
    """Reads the attempts of a log."""

    _store: Store
    _clock: Clock
    _timer: Callable[[], float] = time.monotonic

    def invocations(
        self,
        columns: Sequence[str],
        *,
        subscription_id: int | None = None,
        roles: Sequence[str] = ANSWERING,
        seqs: tuple[int, int] | None = None,
        since_us: int | None = None,
        after_row: int = 0,
        limit: int | None = None,
        outcomes: Sequence[str] | None = None,
        running: bool = True,
    ) -> list[Row]:
        """Return one row of *columns* an attempt, oldest first. Running attempts come last.

        With *limit* only the newest ones. Roles of lanes are asked for by name.
        """
        low, high = seqs or (None, None)
        parameters = {"low": low, "high": high, "since_us": since_us}
        where = given(parameters, _CONDITIONS)
        parameters |= {"s": subscription_id, "row": after_row, "limit": limit}
        if outcomes is not None:
            where.append(f"i.outcome IN ({', '.join(repr(o) for o in OUTCOMES if o in outcomes)})")
        select = "SELECT " + ", ".join(COLUMNS[c] for c in columns)
        with self._store.snapshot() as reader:
            where += whose(reader, subscription_id, roles, "i.")
            under_way = running_of(reader, select, where, parameters) if running else []
            if seqs and not after_row:
                attempts, order = BY_EVENTS, "i.id"
                if subscription_id is None:
                    where.append("i.subscription_id IN (SELECT id FROM subscription)")
            else:
                attempts, order = BY_LOTS, "i.lot_id, i.place"
                where.append(AFTER)
            if since_us is not None and not seqs:
                # an attempt is received before it is settled
                where.append(f"i.lot_id >= {settled_since(reader, since_us)}")
            sql = f"{select} {FROM.format(attempts=attempts)} {where_of([*where, INVOKED])}"
            if limit is None:
                return reader.query(f"{sql} ORDER BY {order}", parameters) + under_way
            order = order.replace(",", " DESC,")
            newest = reader.query(f"{sql} ORDER BY {order} DESC LIMIT :limit", parameters)
        return (newest[::-1] + under_way)[-limit:] if limit else []

    def bulk(
        self,
        columns: Sequence[str],
        subscription_id: int | None,
        since_us: int | None = None,
        seqs: tuple[int, int] | None = None,
        running: bool = True,
        roles: Sequence[str] = ANSWERING,
    ) -> tuple[Bulk, list[Row]]:
        """Return recorded attempts by columns, and running ones by rows: at one moment.

        Raises
        ------
        ValueError
            When only :meth:`invocations` can read them.
        """
        bulk.check(self._store.by_columns)
        low, high = seqs or (None, None)
        of = {"since_us": since_us, "low": low, "high": high}
        select = "SELECT " + ", ".join(COLUMNS[c] for c in columns)
        with self._store.snapshot() as reader:
            where = [*given(of, _CONDITIONS), *whose(reader, subscription_id, roles, "i.")]
            of["s"] = subscription_id
            under_way = running_of(reader, select, where, of) if running else []
            return bulk.read(reader, columns, subscription_id, seqs, since_us, roles), under_way

    def latencies(self, subscription_id: int | None, since_us: int | None) -> Latencies | None:
        """Return the latencies of ended calls by lot, ``None`` if lots are too small."""
        with self._store.snapshot() as reader:
            return latencies.read(reader, subscription_id, since_us)

    def tallies(self) -> dict[int, dict[str, int]]:
        """Return the number of attempts by subscription id and outcome.

        The cost does not grow with the log.
        """
        counts: dict[int, dict[str, int]] = {}
        for subscription_id, outcome, n in self._store.read(_TALLIES):
            counts.setdefault(subscription_id, {})[outcome] = int(n)
        return {s: {o: c[o] for o in OUTCOMES if o in c} for s, c in counts.items()}

    def progress(self) -> tuple[int, int]:
        """Return how many attempts were recorded in all, and how many deliveries are open."""
        ((recorded, open_),) = self._store.read(_PROGRESS)
        return int(recorded), int(open_)

    def ended(self, subscription_id: int, seqs: Sequence[int]) -> set[int]:
        """Return the events among *seqs* that have ended for that subscription."""
        among = ", ".join(str(int(seq)) for seq in seqs)
        rows = self._store.read(
            f"SELECT seq FROM final WHERE subscription_id = :s AND seq IN ({among})",
            {"s": subscription_id},
        )
        return {seq for (seq,) in rows}

    # -- those that match --------------------------------------------------------------------------

    def matching(
        self,
        columns: Sequence[str],
        wanted: Matching,
        before: int | None = None,
        limit: int = 200,
        budget_s: float | None = BUDGET_S,
    ) -> Page:
        """Return one page of attempts that match, the newest first. Running ones come before them.

        Parameters
        ----------
        columns : sequence of str
            Names of :data:`~mltrigger.store.attempts.COLUMNS`.
        wanted : Matching
            The attempts that are asked for.
        before : int, optional
            ``next`` of the page before. Default: the first page.
        limit : int
            The most rows of the page.
        budget_s : float, optional
            The time for looking. The page has fewer rows when it is over. Default: 0.25 s.
            ``None`` is no limit.
        """
        with self._pages(wanted) as pages:
            return pages.page(columns, before, limit, budget_s)

    def newer(
        self,
        columns: Sequence[str],
        wanted: Matching,
        after: int,
        limit: int = 200,
        budget_s: float | None = BUDGET_S,
    ) -> Page:
        """Return the recorded attempts that match and come next after the record *after*.

        It is the way back of :meth:`matching`: the oldest *limit* of them, the newest first. 0
        begins with the oldest one of the log. ``next`` is *after* for the page that is newer still.
        """
        with self._pages(wanted) as pages:
            return pages.newer(columns, after, limit, budget_s)

    def newest_row(self) -> int:
        """Return the number of the newest recorded attempt, 0 without one."""
        ((row,),) = self._store.read(NEWEST)
        return int(row)

    def matched_after(
        self, columns: Sequence[str], wanted: Matching, row: int
    ) -> tuple[list[Row], int]:
        """Return the attempts that match and were recorded after *row*, oldest first.

        And the number to go on from: nothing is left before it.
        """
        with self._pages(wanted) as pages:
            return pages.after(columns, row)

    def matched(self, columns: Sequence[str], wanted: Matching, limit: int | None) -> list[Row]:
        """Return one row of *columns* an attempt that matches, as :meth:`invocations` does."""
        with self._pages(wanted) as pages:
            return pages.rows(columns, limit)

    def count(
        self, wanted: Matching, at_most: int = 10_000, budget_s: float | None = BUDGET_S
    ) -> Counted:
        """Return the number of attempts that match, running ones among them.

        It is exact where the tallies know it. Else counting ends above *at_most*, or with the time.
        """
        with self._pages(wanted) as pages:
            return pages.count(at_most, budget_s)

    def seqs(
        self, wanted: Matching, size: int = 1_000, up_to: int | None = None
    ) -> Iterator[list[int]]:
        """Yield the numbers of the events that match, the newest first, in lists up to *size*.

        No event comes twice. Attempts that are recorded meanwhile, or after the record *up_to*, are
        not looked at.
        """
        before: int | None = matched.FIRST if up_to is None else up_to + 1
        seen = Marks()
        while before is not None:
            page = self.matching(("seq",), wanted, before, size, budget_s=None)
            if fresh := [seq for (seq,) in page.rows if seen.add(seq)]:
                yield fresh
            before = page.next

    def count_events(
        self, wanted: Matching, up_to: int, budget_s: float | None = BUDGET_S
    ) -> Counted:
        """Return the number of events with attempts that match. Counting ends with the time.

        Attempts that were recorded after the record *up_to* are not looked at.
        """
        with self._pages(wanted) as pages:
            return pages.count_events(up_to, budget_s)

    def keys_of(self, attempts: Iterable[tuple[int, int]]) -> dict[tuple[int, int], str]:
        """Return the keys of events by subscription id and event, where subscriptions have keys."""
        with self._store.snapshot() as reader:
            return event_keys.read(reader, attempts)

    def version_names(self) -> list[str]:
        """Return the registered versions of all models."""
        with self._store.snapshot() as reader:
            return matching.versions(reader)

    def unseen_reasons(self, reasons: Sequence[str]) -> tuple[list[str], list[str]]:
        """Return those of *reasons* that no attempt has, and the known ones."""
        with self._store.snapshot() as reader:
            return matching.unseen(reader, reasons)

    @contextlib.contextmanager
    def _pages(self, wanted: Matching) -> Iterator[Pages]:
        with self._store.snapshot() as reader:
            yield Pages(reader, wanted, self._timer)
