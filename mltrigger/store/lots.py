"""Lots and outcomes: attempts as they are recorded, narrow, beside the things that they share."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

from mltrigger.broker import Delivery
from mltrigger.store.outcomes import Outcome
from mltrigger.store.schema import CODES
from mltrigger.store.transaction import Row, Transaction

LONG_OUTPUT = 800
"""Characters of an output that is kept beside its outcome. A row of outcomes stays in one page."""
_FAR = 4_096
"""A lot is found by the numbers of its events. They lie no farther apart than this."""


class LotOf(NamedTuple):
    """The things that the attempts of a lot share.

    Without times of their own, all attempts began and ended with the lot.
    """

    subscription_id: int
    role: str
    settled_us: int
    worker_id: int
    model_version_id: int | None
    received_us: int
    batch_size: int | None
    started_us: int | None = None
    finished_us: int | None = None
    reason: str | None = None


class Attempt(NamedTuple):
    """One attempt of a lot.

    ``visible_us`` is ``None`` if its event waited since it was published. ``began_us`` counts from
    the start of the lot, ``took_us`` from its own.
    """

    seq: int
    attempt: int
    outcome: Outcome
    visible_us: int | None = None
    reason: str | None = None
    output: str | None = None
    error_type: str | None = None
    error: str | None = None
    traceback: str | None = None
    stdout: str | None = None
    began_us: int | None = None
    took_us: int | None = None


_NEXT = "SELECT id + n FROM lot ORDER BY id DESC LIMIT 1"
_INSERT_LOT = """
INSERT INTO lot (id, n, subscription_id, low, high, model_version_id, role, received_us, started_us,
  finished_us, settled_us, batch_size, worker_id, reason)
VALUES (:id, :n, :subscription_id, :low, :high, :model_version_id, :role, :received_us, :started_us,
  :finished_us, :settled_us, :batch_size, :worker_id, :reason)
"""
_INSERT_OUTCOME = """
INSERT INTO outcome
  (subscription_id, seq, attempt, lot_id, place, outcome, began_us, took_us, output)
VALUES (:s, :seq, :attempt, :lot_id, :place, :outcome, :began_us, :took_us, :output)
"""
_CORRECT = f"""{_INSERT_OUTCOME}
ON CONFLICT (subscription_id, seq, attempt) DO UPDATE SET
  lot_id = excluded.lot_id, place = excluded.place, outcome = excluded.outcome,
  began_us = excluded.began_us, took_us = excluded.took_us, output = excluded.output
WHERE outcome.outcome = {CODES["abandoned"]}
"""
_FORGET_DETAIL = f"""
DELETE FROM detail WHERE subscription_id = :s AND seq = :seq AND attempt = :attempt AND EXISTS (
  SELECT 1 FROM outcome o WHERE o.subscription_id = detail.subscription_id
    AND o.seq = detail.seq AND o.attempt = detail.attempt AND o.outcome = {CODES["abandoned"]})
"""
_INSERT_DETAIL = """
INSERT INTO detail (subscription_id, seq, attempt, visible_us, reason, error_type, error, traceback,
  stdout, output)
VALUES (:s, :seq, :attempt, :visible_us, :reason, :error_type, :error, :traceback, :stdout, :output)
ON CONFLICT (subscription_id, seq, attempt) DO NOTHING
"""
# An attempt that stays as it was keeps its own details, and gets none of the later answer.
_DETAIL_OF_LOT = """
INSERT INTO detail (subscription_id, seq, attempt, visible_us, reason, error_type, error, traceback,
  stdout, output)
SELECT :s, :seq, :attempt, :visible_us, :reason, :error_type, :error, :traceback, :stdout, :output
WHERE EXISTS (SELECT 1 FROM outcome WHERE subscription_id = :s AND seq = :seq
  AND attempt = :attempt AND lot_id = :lot_id)
ON CONFLICT (subscription_id, seq, attempt) DO NOTHING
"""
_CODE_OF_SUCCESS = CODES["succeeded"]


def next_row(transaction: Transaction) -> int:
    """Return the row of the next attempt."""
    rows = transaction.query(_NEXT, {})
    return int(rows[0][0]) if rows else 1


def record_lots(
    transaction: Transaction, lot: LotOf, attempts: Sequence[Attempt], corrects: bool = False
) -> None:
    """Write *attempts* with all that they share.

    With *corrects* an attempt that was recorded as abandoned is replaced. Another one stays.
    """
    row = next_row(transaction)
    for part in _near(attempts):
        seqs = [a.seq for a in part]
        insert_lot(transaction, row, len(part), (min(seqs), max(seqs)), lot)
        s = lot.subscription_id
        if corrects:
            keys = [(s, a.seq, a.attempt) for a in part]
            transaction.execute_many(_FORGET_DETAIL, keys)
        transaction.execute_many(
            _CORRECT if corrects else _INSERT_OUTCOME,
            [_outcome(s, row, place, a) for place, a in enumerate(part)],
        )
        details = [d for a in part if (d := _detail(s, a))]
        if corrects:
            transaction.execute_many(_DETAIL_OF_LOT, [(*d, *d[:3], row) for d in details])
        else:
            transaction.execute_many(_INSERT_DETAIL, details)
        row += len(part)


def record_successes(
    transaction: Transaction,
    lot: LotOf,
    answered: Sequence[tuple[Delivery, str | None]],
    stdout: str | None,
) -> None:
    """Write attempts that succeeded, with their outputs. The first one keeps *stdout*."""
    s, first, seqs = lot.subscription_id, answered[0][0], [d.seq for d, _ in answered]
    span = min(seqs), max(seqs)
    plain = all(
        d.visible_us == d.published_us and (output is None or len(output) <= LONG_OUTPUT)
        for d, output in answered
    )
    if not plain or stdout or span[1] - span[0] > _FAR * len(seqs):
        record_lots(transaction, lot, [_success(*each, stdout, first) for each in answered])
        return
    row = next_row(transaction)
    insert_lot(transaction, row, len(answered), span, lot)
    transaction.execute_many(
        _INSERT_OUTCOME,
        [
            (
                s,
                d.seq,
                d.attempt,
                row,
                i,
                _CODE_OF_SUCCESS,
                None,
                None,
                None if output == "null" else output,
            )
            for i, (d, output) in enumerate(answered)
        ],
    )


def _success(d: Delivery, output: str | None, stdout: str | None, first: Delivery) -> Attempt:
    visible_us = None if d.visible_us == d.published_us else d.visible_us
    text = stdout if d is first else None
    return Attempt(d.seq, d.attempt, "succeeded", visible_us, output=output, stdout=text)


def insert_lot(
    transaction: Transaction, row: int, n: int, span: tuple[int, int], lot: LotOf
) -> None:
    """Write a lot of *n* attempts, of events from one number to another, that begins at *row*."""
    s, role, settled_us, worker_id, version_id, received_us, size, started, finished, reason = lot
    transaction.execute_many(
        _INSERT_LOT,
        [
            (
                *(row, n, s, *span, version_id, role, received_us, started, finished),
                *(settled_us, size, worker_id, reason),
            )
        ],
    )


def _near(attempts: Sequence[Attempt]) -> Iterator[Sequence[Attempt]]:
    """Yield *attempts* in parts whose events are near one another."""
    begin = 0
    for i in range(1, len(attempts)):
        if abs(attempts[i].seq - attempts[i - 1].seq) > _FAR:
            yield attempts[begin:i]
            begin = i
    if attempts:
        yield attempts[begin:]


def _outcome(s: int, row: int, place: int, a: Attempt) -> Row:
    code, output = CODES[a.outcome], a.output
    if output is not None and (
        len(output) > LONG_OUTPUT or (output == "null" and code == _CODE_OF_SUCCESS)
    ):
        output = None
    return s, a.seq, a.attempt, row, place, code, a.began_us, a.took_us, output


def _detail(s: int, a: Attempt) -> Row | None:
    """Return the row with the rest of an attempt, ``None`` if it has nothing else."""
    output = a.output if a.output is not None and len(a.output) > LONG_OUTPUT else None
    rest = (a.visible_us, a.reason, a.error_type, a.error, a.traceback, a.stdout, output)
    return None if rest == _NOTHING else (s, a.seq, a.attempt, *rest)


_NOTHING = (None,) * 7
