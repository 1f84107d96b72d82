"""The log: what happened. One row an attempt, written in the same transaction as its settlement."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

from mltrigger.clock import Clock
from mltrigger.event.event import decode_data
from mltrigger.store.archive import ARCHIVED, Archived, archived
from mltrigger.store.outcomes import NO_EVENTS, OUTCOMES
from mltrigger.store.transaction import Row, Store
from mltrigger.store.unit import Unit


class DeadKey(NamedTuple):
    """Which event a dead letter is about."""

    seq: int
    event_id: str
    source: str


class DeadLetter(NamedTuple):
    """A dead event that waits for somebody: why, with which data, after how many attempts, and sent
    again how often before.
    """

    seq: int
    event_id: str
    source: str
    type: str
    subject: str | None
    reason: str
    attempts: int
    redriven: int
    model: str | None
    version: str | None
    error_type: str | None
    error: str | None
    traceback: str | None
    dead_us: int
    media_type: str | None
    data: bytes


_FROM = """
FROM invocation i JOIN event e ON e.seq = i.seq JOIN topic t ON t.id = e.topic_id JOIN subscription s ON s.id = i.subscription_id
LEFT JOIN model_version m ON m.id = i.model_version_id
"""

_COLUMNS = {
    "event_id": "e.id",
    "source": "e.source",
    "type": "e.type",
    "topic": "t.name",
    "subscription": "s.name",
    "model": "m.name",
    "version": "m.version",
    "role": "i.role",
    "attempt": "i.attempt",
    "outcome": "i.outcome",
    "reason": "i.reason",
    "published_at": "e.published_us",
    "received_at": "i.received_us",
    "started_at": "i.started_us",
    "finished_at": "i.finished_us",
    "settled_at": "i.settled_us",
    "queue_ms": "(i.started_us - i.visible_us) / 1000.0",
    "model_ms": "(i.finished_us - i.started_us) / 1000.0",
    "total_ms": "(i.finished_us - e.published_us) / 1000.0",
    "batch_size": "i.batch_size",
    "worker": "i.worker_id",
    "trace_id": "substr(e.traceparent, 4, 32)",
    "output": "i.output",
    "error_type": "i.error_type",
    "error": "i.error",
    "stdout": "i.stdout",
    # not in the frame, for the rooms above
    "subject": "e.subject",
    "seq": "i.seq",
    "row": "i.id",
}

# An attempt under way is its lease; it has the columns of an invocation as far as they exist yet.
_LEASES = """
(SELECT -1 AS id, seq, subscription_id, attempt, NULL AS model_version_id, 'live' AS role, 'running' AS outcome, NULL AS reason,
  visible_us, received_us, NULL AS started_us, NULL AS finished_us, NULL AS settled_us, NULL AS batch_size, worker_id,
  NULL AS output, NULL AS error_type, NULL AS error, NULL AS stdout FROM lease)
"""


_INVOKED = f"(i.outcome <> 'skipped' OR i.reason IS NULL OR i.reason NOT IN {NO_EVENTS!r})"


class Log:
    """What happened: written through units, read as rows."""

    def __init__(self, store: Store, clock: Clock, worker_id: Callable[[], int]) -> None:
        self._store = store
        self._clock = clock
        self._worker_id = worker_id

    @property
    def home(self) -> str:
        """What tells this store from others, also in another process of this machine."""
        return self._store.location or f"memory:{id(self._store)}"

    def now_us(self) -> int:
        """Return the time that the log's times are told in."""
        return self._clock.now_us()

    @contextlib.contextmanager
    def unit(self) -> Iterator[Unit]:
        """Begin a unit of work; it is durable when the block ends, or undone when it raises."""
        with self._store.transaction() as transaction:
            yield Unit(transaction, self._clock, self._worker_id)

    def invocations(
        self,
        columns: Sequence[str],
        *,
        subscription_id: int | None = None,
        seqs: tuple[int, int] | None = None,
        since_us: int | None = None,
        after_row: int = 0,
        limit: int | None = None,
        outcomes: Sequence[str] | None = None,
        running: bool = True,
    ) -> list[Row]:
        """Return rows of *columns*, oldest first; with *limit* the newest ones.

        Attempts under way come last.
        """
        conditions = {
            "i.subscription_id = :subscription_id": subscription_id,
            "i.seq BETWEEN :low AND :high": seqs,
            "i.received_us >= :since_us": since_us,
        }
        where = [text for text, value in conditions.items() if value is not None]
        if outcomes is not None:
            where.append(f"i.outcome IN ({', '.join(repr(o) for o in OUTCOMES if o in outcomes)})")
        low, high = seqs or (0, 0)
        parameters = {
            "subscription_id": subscription_id,
            "low": low,
            "high": high,
            "since_us": since_us,
            "row": after_row,
            "limit": limit or 0,
        }
        select = "SELECT " + ", ".join(_COLUMNS[c] for c in columns)
        rows: list[Row] = []
        if running:
            condition = f" WHERE {' AND '.join(where)}" if where else ""
            rows = self._store.read(
                f"{select} {_FROM.replace('invocation i', _LEASES + ' i')}{condition} ORDER BY"
                " i.received_us",
                parameters,
            )
        condition = f" WHERE {' AND '.join([*where, 'i.id > :row', _INVOKED])}"
        order = " ORDER BY i.id DESC LIMIT :limit" if limit is not None else " ORDER BY i.id"
        ended = self._store.read(f"{select} {_FROM}{condition}{order}", parameters)
        if limit is None:
            return ended + rows
        return (ended[::-1] + rows)[-limit:] if limit else []

    def tallies(self) -> dict[int, dict[str, int]]:
        """Return subscription id -> outcome -> how many attempts were recorded with it; its cost
        does not grow with the log.
        """
        counts: dict[int, dict[str, int]] = {}
        for subscription_id, outcome, n in self._store.read(
            "SELECT subscription_id, outcome, sum(n) FROM tally GROUP BY subscription_id, outcome"
        ):
            counts.setdefault(subscription_id, {})[outcome] = int(n)
        return {s: {o: c[o] for o in OUTCOMES if o in c} for s, c in counts.items()}

    def events(
        self, topic: str | None = None, since_us: int | None = None, limit: int | None = None
    ) -> list[Row]:
        """Return (id, source, type, topic, subject, time, published_us, trace_id, media type, data,
        extensions), oldest first.
        """
        where = [
            text
            for text, value in {
                "t.name = :topic": topic,
                "e.published_us >= :since_us": since_us,
            }.items()
            if value is not None
        ]
        rows = self._store.read(
            "SELECT e.id, e.source, e.type, t.name, e.subject, e.time, e.published_us,"
            " substr(e.traceparent, 4, 32), e.datacontenttype, e.data, e.extensions FROM event e"
            " JOIN topic t ON t.id = e.topic_id"
            + (f" WHERE {' AND '.join(where)}" if where else "")
            + (" ORDER BY e.seq DESC LIMIT :limit" if limit is not None else " ORDER BY e.seq"),
            {"topic": topic, "since_us": since_us, "limit": limit},
        )
        return rows[::-1] if limit is not None else rows

    def announced(self, topic: str, source: str, after_seq: int, limit: int = 10_000) -> list[Row]:
        """Return (seq, subject, data) of the next events of *source* on *topic* after *after_seq*,
        oldest first.
        """
        rows = self._store.read(
            "SELECT e.seq, e.subject, e.data, e.datacontenttype FROM event e JOIN topic t ON t.id ="
            " e.topic_id WHERE e.seq > :after AND t.name = :topic AND e.source = :source ORDER BY"
            " e.seq LIMIT :limit",
            {"after": after_seq, "topic": topic, "source": source, "limit": limit},
        )
        return [
            (seq, subject, decode_data(data, media_type)) for seq, subject, data, media_type in rows
        ]

    def find(self, event_id: str) -> list[Row]:
        """Return (seq, id, source, type, topic, published_us, extensions) of every event with that
        id.
        """
        return self._store.read(
            "SELECT e.seq, e.id, e.source, e.type, t.name, e.published_us, e.extensions FROM event"
            " e JOIN topic t ON t.id = e.topic_id WHERE e.id = :id ORDER BY e.seq",
            {"id": event_id},
        )

    def progress(self) -> tuple[int, int]:
        """Return how many attempts were recorded in all, and how many deliveries are open."""
        rows = self._store.read(
            "SELECT (SELECT coalesce(sum(n), 0) FROM tally), (SELECT count(*) FROM waiting) +"
            " (SELECT count(*) FROM lease)"
        )
        return int(rows[0][0]), int(rows[0][1])

    def ended(self, subscription_id: int, seqs: Sequence[int]) -> set[int]:
        """Return which of the events have an outcome of that subscription."""
        among = ", ".join(str(int(seq)) for seq in seqs)
        rows = self._store.read(
            f"SELECT seq FROM final WHERE subscription_id = :s AND seq IN ({among})",
            {"s": subscription_id},
        )
        return {seq for (seq,) in rows}

    def heads(self, seqs: Sequence[int], size: int) -> list[Row]:
        """Return (seq, subject, media type, bytes of data, first *size* bytes) of these events."""
        named = {f"s{i}": seq for i, seq in enumerate(seqs)}
        return self._store.read(
            "SELECT seq, subject, datacontenttype, length(data), substr(data, 1, :size) FROM event "
            f"WHERE seq IN ({', '.join(f':{name}' for name in named)})",
            {**named, "size": size},
        )

    def archived(self, seq: int) -> Archived:
        """Return one event of the archive."""
        return archived(
            self._store.read(f"SELECT {ARCHIVED} FROM event e WHERE e.seq = :seq", {"seq": seq})[0]
        )

    def subject(self, seq: int) -> str | None:
        """Return the subject of one event."""
        rows = self._store.read("SELECT subject FROM event WHERE seq = :seq", {"seq": seq})
        return rows[0][0] if rows else None

    def dead_reasons(self, subscription_id: int) -> dict[str, int]:
        """Return reason -> how many dead letters wait for somebody, the most frequent first."""
        return {
            reason: int(n)
            for reason, n in self._store.read(
                "SELECT reason, count(*) FROM dead_letter WHERE subscription_id = :s AND"
                " discarded_us IS NULL GROUP BY reason ORDER BY count(*) DESC, reason",
                {"s": subscription_id},
            )
        }

    def dead_keys(self, subscription_id: int) -> list[DeadKey]:
        """Return which events wait for somebody, oldest first, without their data."""
        rows = self._store.read(
            "SELECT d.seq, e.id, e.source FROM dead_letter d JOIN event e ON e.seq = d.seq "
            "WHERE d.subscription_id = :s AND d.discarded_us IS NULL ORDER BY d.dead_us, d.seq",
            {"s": subscription_id},
        )
        return [DeadKey(*row) for row in rows]

    def dead_letters(self, subscription_id: int, seq: int | None = None) -> list[DeadLetter]:
        """Return what waits for somebody, or one of them, oldest first."""
        rows = self._store.read(
            "SELECT d.seq, e.id, e.source, e.type, e.subject, d.reason, d.attempt,"
            " coalesce(a.times, 0), m.name, m.version, d.error_type, d.error, d.traceback,"
            " d.dead_us, CASE WHEN a.data IS NULL THEN e.datacontenttype ELSE a.datacontenttype"
            " END, coalesce(a.data, e.data) FROM dead_letter d JOIN event e ON e.seq = d.seq LEFT"
            " JOIN resent a ON a.subscription_id = d.subscription_id AND a.seq = d.seq LEFT JOIN"
            " invocation i ON i.seq = d.seq AND i.subscription_id = d.subscription_id AND i.attempt"
            " = d.attempt LEFT JOIN model_version m ON m.id = i.model_version_id WHERE"
            " d.subscription_id = :s AND d.discarded_us IS NULL"
            + (" AND d.seq = :seq" if seq is not None else "")
            + " ORDER BY d.dead_us, d.seq",
            {"s": subscription_id, "seq": seq},
        )
        return [DeadLetter(*row) for row in rows]
