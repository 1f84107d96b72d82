"""Leases as sets of events. The rows of one number are the events that one claim still holds.

A range of the log is one row. When a part of it ends, is given back or goes its own way, the row
becomes the ranges that are left. So a row never holds an event that is settled or elsewhere.
"""

from __future__ import annotations

import bisect
import itertools
from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import NamedTuple

from mltrigger.store.queue import Term
from mltrigger.store.transaction import OFTEN, Row, Transaction


class Lease(NamedTuple):
    """A row of ``lease``."""

    subscription_id: int
    number: int
    low: int
    high: int
    n: int
    attempt: int
    failures: int
    abandoned: int
    visible_us: int | None
    """``None`` for a range of the log, whose events wait since they were published."""
    received_us: int
    until_us: int
    worker_id: int
    outside: int
    binding: int = 0
    """The newest binding when it was claimed."""
    by_key: str | None = None
    """The key of its event, if its subscription has one."""

    @property
    def key(self) -> Row:
        """The primary key."""
        return self[:3]


class Member(NamedTuple):
    """One event of a lease."""

    lease: Lease
    seq: int
    visible_us: int


_COLUMNS = ", ".join(Lease._fields)
_INSERT = f"""
INSERT INTO lease ({_COLUMNS}) VALUES ({", ".join(f":{name}" for name in Lease._fields)})
"""
_NUMBER = f"SELECT {_COLUMNS} FROM lease WHERE subscription_id = :s AND number = :number"
_EXPIRED = f"SELECT {_COLUMNS} FROM lease WHERE subscription_id = :s AND until_us <= :now"
_AROUND = f"""
SELECT {_COLUMNS} FROM lease WHERE subscription_id = :s AND low <= :seq AND high >= :seq
"""
_DELETE_NUMBER = "DELETE FROM lease WHERE subscription_id = :s AND number = :number"
_EXTEND_NUMBER = f"""{OFTEN}
UPDATE lease SET until_us = :until_us WHERE subscription_id = :s AND number = :number
"""
_DELETE = "DELETE FROM lease WHERE subscription_id = :s AND number = :number AND low = :low"
_MEMBERS = """
SELECT e.seq, e.published_us FROM event e
WHERE e.topic_id = (SELECT topic_id FROM subscription WHERE id = :s)
  AND e.seq BETWEEN :low AND :high AND e.by_rows_us IS NULL ORDER BY e.seq
"""
_NEXT = """
UPDATE cursor SET next_lease = next_lease + 1 WHERE subscription_id = :s RETURNING next_lease - 1
"""


def next_number(transaction: Transaction, subscription_id: int) -> int:
    """Return the number of the next lease of a subscription. It never returns."""
    ((number,),) = transaction.query(_NEXT, {"s": subscription_id})
    return int(number)


def hold(
    transaction: Transaction,
    term: Term,
    found: Sequence[Row],
    in_range: int = 0,
    keys: Mapping[int, str] | None = None,
) -> None:
    """Lease *found*: its last *in_range* claims as a range, each other one on its own.

    *keys* has the key of each event, if there are any.

    A delayed event that is due may lie between those of the range. The range ends before it and
    goes on behind it, so that one row of a number covers each event.
    """
    times = (term.received_us, term.until_us, term.worker_id, int(term.outside), term.binding)
    s, number = term.subscription_id, term.number
    rows: list[Row] = []
    for seq, visible_us, attempt, failures, abandoned, *_ in found[: len(found) - in_range]:
        counts = (attempt + 1, failures, abandoned)
        by_key = keys[seq] if keys is not None else None
        rows.append((s, number, seq, seq, 1, *counts, visible_us, *times, by_key))
    apart = [row[0] for row in found[: len(found) - in_range]]
    parts = _runs([row[0] for row in found[len(found) - in_range :]], apart)
    rows += [(s, number, p[0], p[-1], len(p), 1, 0, 0, None, *times, None) for p in parts]
    transaction.put(_INSERT, rows)


def _runs(seqs: list[int], apart: Sequence[int]) -> list[list[int]]:
    """Return *seqs* in parts. None of *apart* is between two numbers of a part."""
    between = sorted(seq for seq in apart if seqs and seqs[0] < seq < seqs[-1])
    if not between:
        return [seqs] if seqs else []
    parts = itertools.groupby(seqs, lambda seq: bisect.bisect(between, seq))
    return [list(part) for _, part in parts]


def hold_range(transaction: Transaction, term: Term, low: int, high: int, n: int) -> None:
    """Lease the *n* plain events of a topic from *low* to *high* as one range."""
    times = (term.received_us, term.until_us, term.worker_id, int(term.outside), term.binding)
    row = (term.subscription_id, term.number, low, high, n, 1, 0, 0, None, *times, None)
    transaction.put(_INSERT, [row])


def hold_new(transaction: Transaction, term: Term, seqs: Sequence[int]) -> None:
    """Lease events that this transaction has published, each on its own."""
    s, number, at_us, until_us, worker_id, _, binding = term
    times = (at_us, at_us, until_us, worker_id, 0, binding, None)
    rows = [(s, number, seq, seq, 1, 1, 0, 0, *times) for seq in seqs]
    transaction.put(_INSERT, rows)


def let_go(
    transaction: Transaction, subscription_id: int, number: int, seqs: Collection[int]
) -> dict[int, Lease]:
    """Let events of one number go. Return those that it held, each with its row."""
    rows = _rows(transaction, subscription_id, number)
    if len(rows) == 1:  # the usual case: a lot ends as a whole
        (row,) = rows
        whole = dict.fromkeys(seqs, row)
        if row.n == len(whole) and row.low <= min(whole) and max(whole) <= row.high:
            transaction.put(_DELETE_NUMBER, [(subscription_id, number)])
            return whole
    elif (singles := _all_singles(rows, seqs)) is not None:
        transaction.put(_DELETE_NUMBER, [(subscription_id, number)])
        return singles
    found: dict[int, Lease] = {}
    for row in rows:
        mine = {seq for seq in seqs if row.low <= seq <= row.high}
        if mine:
            found |= dict.fromkeys(mine, row)
            _shrink(transaction, row, mine)
    return found


def let_all_go(
    transaction: Transaction, subscription_id: int, number: int, seqs: Sequence[int]
) -> bool:
    """Let events of one number go, all or none. Return whether it held them all."""
    rows = _rows(transaction, subscription_id, number)
    if len(rows) == 1 and _is_all_of(rows[0], seqs):
        transaction.put(_DELETE_NUMBER, [(subscription_id, number)])
        return True
    if _all_singles(rows, seqs) is not None:
        transaction.put(_DELETE_NUMBER, [(subscription_id, number)])
        return True
    if len(held(transaction, subscription_id, number, seqs)) < len(seqs):
        return False
    let_go(transaction, subscription_id, number, seqs)
    return True


def _all_singles(rows: list[Lease], seqs: Collection[int]) -> dict[int, Lease] | None:
    """Return *rows* by their event, if each has one and these are *seqs*. Else ``None``."""
    if len(rows) < 2 or not all(row.low == row.high for row in rows):
        return None
    singles = {row.low: row for row in rows}
    return singles if singles.keys() == set(seqs) else None


def _is_all_of(row: Lease, seqs: Sequence[int]) -> bool:
    """Whether *seqs*, without repeats, are all events of *row*."""
    if row.n != len(seqs):
        return False
    if isinstance(seqs, range):
        return row.low <= seqs[0] and seqs[-1] <= row.high
    return len(set(seqs)) == row.n and row.low <= min(seqs) and max(seqs) <= row.high


def _shrink(transaction: Transaction, lease: Lease, gone: set[int]) -> list[Lease]:
    """Leave the ranges of *lease* that do not hold *gone*. Return the others, which are no rows."""
    transaction.execute_many(_DELETE, [lease.key])
    if lease.n <= len(gone):
        return [lease]
    parts: tuple[list[Lease], list[Lease]] = [], []
    for is_gone, low, high, n in _split(transaction, lease, gone):
        parts[is_gone].append(lease._replace(low=low, high=high, n=n))
    transaction.execute_many(_INSERT, parts[False])
    return parts[True]


def _split(
    transaction: Transaction, lease: Lease, gone: set[int]
) -> Iterator[tuple[bool, int, int, int]]:
    """Yield the parts of *lease* that are *gone* or not: their first and last event, their size."""
    if lease.n <= lease.high - lease.low:  # events of others lie between its own
        found = (m.seq for m in members(transaction, lease))
        for is_gone, run in itertools.groupby(found, gone.__contains__):
            seqs = list(run)
            yield is_gone, seqs[0], seqs[-1], len(seqs)
        return
    low = lease.low
    for _, pairs in itertools.groupby(enumerate(sorted(gone)), lambda pair: pair[1] - pair[0]):
        seqs = [seq for _, seq in pairs]
        if low < seqs[0]:
            yield False, low, seqs[0] - 1, seqs[0] - low
        yield True, seqs[0], seqs[-1], len(seqs)
        low = seqs[-1] + 1
    if low <= lease.high:
        yield False, low, lease.high, lease.high - low + 1


def extend(
    transaction: Transaction,
    subscription_id: int,
    number: int,
    seqs: Collection[int],
    until_us: int,
) -> set[int]:
    """Let the leases of these events end at *until_us*. Return those that are held."""
    found: set[int] = set()
    rows = _rows(transaction, subscription_id, number)
    if (singles := _all_singles(rows, seqs)) is not None:
        of = {"s": subscription_id, "number": number, "until_us": until_us}
        transaction.execute(_EXTEND_NUMBER, of)
        return set(singles)
    for row in rows:
        mine = {seq for seq in seqs if row.low <= seq <= row.high}
        if mine:
            found |= mine
            parts = _shrink(transaction, row, mine)
            transaction.execute_many(_INSERT, [p._replace(until_us=until_us) for p in parts])
    return found


def members(transaction: Transaction, lease: Lease) -> list[Member]:
    """Return the events of *lease*, in their order."""
    if lease.visible_us is not None:
        return [Member(lease, lease.low, lease.visible_us)]
    of = {"s": lease.subscription_id, "low": lease.low, "high": lease.high}
    return [Member(lease, *row) for row in transaction.query(_MEMBERS, of)]


def held(
    transaction: Transaction, subscription_id: int, number: int, seqs: Collection[int]
) -> dict[int, Lease]:
    """Return those of *seqs* that lease *number* holds, each with its row."""
    rows = _rows(transaction, subscription_id, number)
    if (singles := _all_singles(rows, seqs)) is not None:
        return singles
    return {seq: row for row in rows for seq in seqs if row.low <= seq <= row.high}


def _rows(transaction: Transaction, subscription_id: int, number: int) -> list[Lease]:
    of = {"s": subscription_id, "number": number}
    return [Lease(*row) for row in transaction.query(_NUMBER, of)]


def holder(transaction: Transaction, subscription_id: int, seq: int) -> Lease | None:
    """Return the lease that holds one event, also that of another process."""
    for row in transaction.query(_AROUND, {"s": subscription_id, "seq": seq}):
        lease = Lease(*row)
        if lease.visible_us is not None or members(transaction, lease._replace(low=seq, high=seq)):
            return lease
    return None


def single_out(transaction: Transaction, lease: Lease, seq: int) -> None:
    """Give one event of *lease* a row of its own, with the same number."""
    if lease.visible_us is None:
        own = lease._replace(low=seq, high=seq, n=1)
        (member,) = members(transaction, own)
        _shrink(transaction, lease, {seq})
        own = own._replace(visible_us=member.visible_us)
        transaction.execute_many(_INSERT, [own])


def expired(transaction: Transaction, subscription_id: int, now_us: int) -> list[Lease]:
    """Take the leases that ran out away, and return them."""
    rows = transaction.query(_EXPIRED, {"s": subscription_id, "now": now_us})
    found = [Lease(*row) for row in rows]
    transaction.execute_many(_DELETE, [lease.key for lease in found])
    return found
