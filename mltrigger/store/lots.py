"""Lots and outcomes: attempts as they are recorded, narrow, beside the things that they share."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import orjson

from mltrigger.broker import Delivery
from mltrigger.broker.alike import Alike, seqs_of
from mltrigger.store.outcomes import Outcome
from mltrigger.store.tables import CODES
from mltrigger.store.transaction import Row, Transaction

LONG_OUTPUT = 800
"""Characters of an output that is kept beside its outcome. A row of outcomes stays in one page."""
_SERIES = 16
"""Events of a series, on average, for which a statement of its own pays."""
_FAR = 4_096
"""A lot is found by the numbers of its events. They lie no farther apart than this."""


class By(NamedTuple):
    """The version that attempts are made by, the binding that they follow, and their role.

    ``version_id`` is ``None`` for an attempt that never ended, if its selector is no exact one.
    """

    version_id: int | None
    binding: int = 0
    role: str = "live"


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
    binding: int = 0


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
    measures: str | None = None


@dataclasses.dataclass(slots=True)
class Succeeded:
    """Answers that went well: of one call with a batch, or of calls one by one.

    ``times`` has start and end of each call. It is ``None`` for a batch. Only the first attempt
    has ``stdout``.
    """

    deliveries: Sequence[Delivery]
    outputs: Sequence[str | None]
    by: By
    started_us: int
    finished_us: int
    times: list[tuple[int, int]] | None = None
    stdout: str | None = None

    @property
    def subscription_id(self) -> int:
        """The number of their subscription."""
        answered = self.deliveries
        own = answered.claim if isinstance(answered, Alike) else answered[0]
        return own.subscription_id

    @property
    def batch_size(self) -> int:
        """The number of events of a call."""
        return len(self.deliveries) if self.times is None else 1

    def add(self, delivery: Delivery, output: str | None, times_us: tuple[int, int]) -> None:
        """Take in one more call."""
        self.deliveries.append(delivery)  # type: ignore[attr-defined]  # begun with lists
        self.outputs.append(output)  # type: ignore[attr-defined]
        if self.times is not None:
            self.times.append(times_us)
        self.finished_us = times_us[1]

    def by_receipt(self) -> list[tuple[int, Succeeded]]:
        """Return the parts that were received at the same time, with that time."""
        if isinstance(self.deliveries, Alike):
            return [(self.deliveries.claim.received_us, self)]
        if len({d.received_us for d in self.deliveries}) == 1:
            return [(self.deliveries[0].received_us, self)]
        parts: dict[int, Succeeded] = {}
        times = self.times or [(self.started_us, self.finished_us)] * len(self.deliveries)
        for d, output, own in zip(self.deliveries, self.outputs, times, strict=True):
            if d.received_us not in parts:
                part = Succeeded([], [], self.by, *own)
                part.times = None if self.times is None else []
                part.stdout = None if parts else self.stdout
                parts[d.received_us] = part
            parts[d.received_us].add(d, output, own)
        return list(parts.items())


NEXT_ROW = "SELECT id + n FROM lot ORDER BY id DESC LIMIT 1"
_INSERT_LOT = """
INSERT INTO lot (id, n, subscription_id, low, high, model_version_id, role, received_us, started_us,
  finished_us, settled_us, batch_size, worker_id, reason, binding)
VALUES (:id, :n, :subscription_id, :low, :high, :model_version_id, :role, :received_us, :started_us,
  :finished_us, :settled_us, :batch_size, :worker_id, :reason, :binding)
"""
_INSERT_OUTCOME = """
INSERT INTO outcome
  (subscription_id, seq, attempt, lot_id, place, outcome, began_us, took_us, output)
VALUES (:s, :seq, :attempt, :lot_id, :place, :outcome, :began_us, :took_us, :output)
"""
_INSERT_SILENT = """
INSERT INTO outcome (subscription_id, seq, attempt, lot_id, place, outcome, began_us, took_us)
VALUES (:s, :seq, :attempt, :lot_id, :place, :outcome, :began_us, :took_us)
"""
# One statement for all is five times as fast as one for each. Their events follow one another.
_INSERT_SERIES = """
INSERT INTO outcome
  (subscription_id, seq, attempt, lot_id, place, outcome, began_us, took_us, output)
SELECT :s, :low + j.key, :attempt, :lot_id, :place + j.key, :outcome, NULL, NULL, j.value
FROM json_each(:outputs) j
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
  stdout, output, measures)
VALUES (:s, :seq, :attempt, :visible_us, :reason, :error_type, :error, :traceback, :stdout, :output,
  :measures)
ON CONFLICT (subscription_id, seq, attempt) DO NOTHING
"""
# An attempt that stays as it was keeps its own details, and gets none of the later answer.
_DETAIL_OF_LOT = """
INSERT INTO detail (subscription_id, seq, attempt, visible_us, reason, error_type, error, traceback,
  stdout, output, measures)
SELECT :s, :seq, :attempt, :visible_us, :reason, :error_type, :error, :traceback, :stdout, :output,
  :measures
WHERE EXISTS (SELECT 1 FROM outcome WHERE subscription_id = :s AND seq = :seq
  AND attempt = :attempt AND lot_id = :lot_id)
ON CONFLICT (subscription_id, seq, attempt) DO NOTHING
"""
_CODE_OF_SUCCESS = CODES["succeeded"]


def next_row(transaction: Transaction) -> int:
    """Return the row of the next attempt."""
    rows = transaction.query(NEXT_ROW, {})
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
        transaction.put(
            _CORRECT if corrects else _INSERT_OUTCOME,
            [_outcome(s, row, place, a) for place, a in enumerate(part)],
        )
        details = [d for a in part if (d := _detail(s, a))]
        if corrects:
            transaction.execute_many(_DETAIL_OF_LOT, [(*d, *d[:3], row) for d in details])
        else:
            transaction.put(_INSERT_DETAIL, details)
        row += len(part)


def record_successes(transaction: Transaction, lot: LotOf, well: Succeeded) -> None:
    """Write attempts that went well, with all that they share."""
    answered, seqs = well.deliveries, seqs_of(well.deliveries)
    span, first_us = (min(seqs), max(seqs)), well.started_us
    is_range = isinstance(answered, Alike)
    if (
        well.stdout
        or span[1] - span[0] > _FAR * len(seqs)
        or (not is_range and any(d.visible_us != d.published_us for d in answered))
        or max(map(len, filter(None, well.outputs)), default=0) > LONG_OUTPUT
    ):
        record_lots(transaction, lot, list(_successes(well)))
        return
    s, row, code = lot.subscription_id, next_row(transaction), _CODE_OF_SUCCESS
    outputs = [None if output == "null" else output for output in well.outputs]
    insert_lot(transaction, row, len(seqs), span, lot)
    if well.times is None and (series := _series(answered, seqs)) is not None:
        for place, n in series:
            text = orjson.dumps(outputs[place : place + n]).decode()
            attempt = 1 if isinstance(answered, Alike) else answered[place].attempt
            all_of_it = (s, seqs[place], attempt, row, place, code, text)
            transaction.put(_INSERT_SERIES, [all_of_it])
        return
    if well.times is None:
        pairs = enumerate(zip(answered, outputs, strict=True))
        rows: list[Row] = [
            (s, d.seq, d.attempt, row, i, code, None, None, output) for i, (d, output) in pairs
        ]
    else:
        each = enumerate(zip(answered, outputs, well.times, strict=True))
        rows = [
            (s, d.seq, d.attempt, row, i, code, began - first_us, ended - began, output)
            for i, (d, output, (began, ended)) in each
        ]
        if outputs.count(None) == len(outputs):
            # to bind None costs as much as to insert two numbers
            transaction.put(_INSERT_SILENT, [timed[:-1] for timed in rows])
            return
    transaction.put(_INSERT_OUTCOME, rows)


def _series(answered: Sequence[Delivery], seqs: Sequence[int]) -> Sequence[tuple[int, int]] | None:
    """Return the place and length of each series of events that follow one another.

    Returns ``None`` if there are too many, or the attempts differ.
    """
    if isinstance(seqs, range):
        return [(0, len(seqs))]
    if not isinstance(answered, Alike) and len({d.attempt for d in answered}) > 1:
        return None
    breaks = [place for place in range(1, len(seqs)) if seqs[place] != seqs[place - 1] + 1]
    if len(breaks) * _SERIES > len(seqs):
        return None
    return [(begin, end - begin) for begin, end in itertools.pairwise([0, *breaks, len(seqs)])]


def _successes(well: Succeeded) -> Iterator[Attempt]:
    text = well.stdout
    whole = [(None, None)] * len(well.deliveries)
    times = [(b - well.started_us, e - b) for b, e in well.times or ()] or whole
    for d, output, (began_us, took_us) in zip(well.deliveries, well.outputs, times, strict=True):
        visible_us = None if d.visible_us == d.published_us else d.visible_us
        yield Attempt(
            d.seq,
            d.attempt,
            "succeeded",
            visible_us,
            output=output,
            stdout=text,
            began_us=began_us,
            took_us=took_us,
        )
        text = None


def insert_lot(
    transaction: Transaction, row: int, n: int, span: tuple[int, int], lot: LotOf
) -> None:
    """Write a lot of *n* attempts, of events from one number to another, that begins at *row*."""
    s, role, settled_us, worker_id, version_id, received_us, size, started, finished, *rest = lot
    transaction.put(
        _INSERT_LOT,
        [
            (
                *(row, n, s, *span, version_id, role, received_us, started, finished),
                *(settled_us, size, worker_id, *rest),
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
    rest = (
        *(a.visible_us, a.reason, a.error_type, a.error, a.traceback, a.stdout, output),
        a.measures,
    )
    return None if rest == _NOTHING else (s, a.seq, a.attempt, *rest)


_NOTHING = (None,) * 8
