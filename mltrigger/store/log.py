"""The log: the history of events and attempts, written through units and read as values."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

from mltrigger.clock import Clock
from mltrigger.event.data import decode_data
from mltrigger.store import finding
from mltrigger.store.archive import ARCHIVED, SOURCE, TYPE, Archived, archived
from mltrigger.store.attempt_log import AttemptLog
from mltrigger.store.attempts import given, where_of
from mltrigger.store.damage import ERRORS, damaged
from mltrigger.store.effects import Effects
from mltrigger.store.figures import FigureReader
from mltrigger.store.finding import Found
from mltrigger.store.following import Following
from mltrigger.store.glance import Glance
from mltrigger.store.keys import time_of
from mltrigger.store.labels import Labels
from mltrigger.store.letters import FIRST_SEQ, Letters
from mltrigger.store.matched import Counted
from mltrigger.store.matching import Matching
from mltrigger.store.transaction import Row, Store
from mltrigger.store.unit import Unit


class Logged(NamedTuple):
    """An event of the archive, as a frame shows it. Its data are bytes of ``media_type``."""

    id: str
    source: str
    type: str
    topic: str
    subject: str | None
    time: str
    published_us: int
    trace_id: str
    media_type: str | None
    data: bytes
    extensions: str | None


class Head(NamedTuple):
    """The subject, media type and size of an event, and the first bytes of its data."""

    seq: int
    subject: str | None
    media_type: str | None
    size: int
    head: bytes | None


class Resent(NamedTuple):
    """How often an event was sent again, and when last. ``data`` replace its own, if not None."""

    times: int
    resent_us: int
    data: bytes | None
    media_type: str | None


class DeadKey(NamedTuple):
    """The event of a dead letter."""

    seq: int
    event_id: str
    source: str


class DeadLetter(NamedTuple):
    """A dead event that was not discarded: why it is dead, its data and its attempts.

    ``redriven`` counts how often it was sent again before.
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


_EVENTS = f"""
SELECT e.seq, event_id(e.id), {SOURCE}, {TYPE}, t.name, e.subject, e.time, e.lag_us, e.published_us,
  trace_id(e.traceparent, e.id), e.datacontenttype, e.data, e.extensions
FROM event e JOIN topic t ON t.id = e.topic_id
"""
_ANNOUNCED = """
SELECT e.seq, e.subject, e.data, e.datacontenttype
FROM event e JOIN topic t ON t.id = e.topic_id
WHERE e.seq > :after AND t.name = :topic
  AND e.source_id = (SELECT id FROM name WHERE text = :source)
ORDER BY e.seq LIMIT :limit
"""
_SUBJECTS = """
SELECT e.seq, event_id(e.id), e.subject
FROM event e JOIN topic t ON t.id = e.topic_id
WHERE e.seq > :after AND t.name = :topic
  AND e.source_id = (SELECT id FROM name WHERE text = :source)
  AND e.type_id = (SELECT id FROM name WHERE text = :type)
ORDER BY e.seq LIMIT :limit
"""
_RESENT = """
SELECT times, resent_us, data, datacontenttype FROM resent WHERE subscription_id = :s AND seq = :seq
"""
_NAMED = f"SELECT event_id(e.id), {SOURCE}, e.datacontenttype FROM event e"
_DEAD_REASONS = """
SELECT reason, count(*) FROM dead_letter WHERE subscription_id = :s AND discarded_us IS NULL
GROUP BY reason ORDER BY count(*) DESC, reason
"""
_DEAD_KEYS = f"""
SELECT d.seq, event_id(e.id), {SOURCE} FROM dead_letter d JOIN event e ON e.seq = d.seq
WHERE d.subscription_id = :s AND d.discarded_us IS NULL ORDER BY d.dead_us, d.seq
"""
_LETTER_DATA = """CASE WHEN a.data IS NULL THEN e.datacontenttype ELSE a.datacontenttype END,
  coalesce(a.data, e.data)"""
_DEAD_LETTERS = f"""
SELECT d.seq, event_id(e.id), {SOURCE}, {TYPE}, e.subject, d.reason, d.attempt,
  coalesce(a.times, 0), m.name, m.version, d.error_type, d.error, d.traceback, d.dead_us,
  {_LETTER_DATA}
FROM dead_letter d
JOIN event e ON e.seq = d.seq
LEFT JOIN resent a ON a.subscription_id = d.subscription_id AND a.seq = d.seq
LEFT JOIN outcome o
  ON o.subscription_id = d.subscription_id AND o.seq = d.seq AND o.attempt = d.attempt
LEFT JOIN lot l ON l.id = o.lot_id
LEFT JOIN model_version m ON m.id = l.model_version_id
WHERE d.subscription_id = :s AND d.discarded_us IS NULL
"""


class Log(AttemptLog):
    """The history of events and attempts."""

    def __init__(self, store: Store, clock: Clock, worker_id: Callable[[], int]) -> None:
        self._store, self._clock, self._worker_id = store, clock, worker_id
        self.following = Following(store)
        self.effects, self.labels = Effects(store, clock), Labels(store, clock)
        self.figures, self.glance = FigureReader(store, clock), Glance(store)

    @property
    def home(self) -> str:
        """See :attr:`Store.home`."""
        return self._store.home

    @property
    def hides_data(self) -> bool:
        """See :attr:`Store.hides_data`."""
        return self._store.hides_data

    @property
    def only_reads(self) -> bool:
        """See :attr:`Store.only_reads`."""
        return self._store.only_reads

    def now_us(self) -> int:
        """Return the time of the log's own clock."""
        return self._clock.now_us()

    def make_durable(self) -> None:
        """Return when all that can be read now is durable. See :class:`Store`."""
        self._store.make_durable()

    @contextlib.contextmanager
    def unit(self, durable: bool = True) -> Iterator[Unit]:
        """Begin a unit of work. It is durable when the block ends, or undone when it raises."""
        with self._store.transaction(durable) as transaction:
            yield Unit(transaction, self._clock, self._worker_id)

    # -- events ------------------------------------------------------------------------------------

    def events(
        self, topic: str | None = None, since_us: int | None = None, limit: int | None = None
    ) -> list[Logged]:
        """Return events of the archive, oldest first. With *limit* only the newest ones."""
        parameters = {"topic": topic, "since_us": since_us, "limit": limit}
        conditions = {"topic": "t.name = :topic", "since_us": "e.published_us >= :since_us"}
        sql = f"{_EVENTS} {where_of(given(parameters, conditions))}"
        if limit is None:
            return list(map(_logged, self._store.read(f"{sql} ORDER BY e.seq", parameters)))
        rows = self._store.read(f"{sql} ORDER BY e.seq DESC LIMIT :limit", parameters)
        return list(map(_logged, reversed(rows)))

    def announced(
        self, topic: str, source: str, after_seq: int, limit: int = 10_000
    ) -> list[tuple[int, str | None, Any]]:
        """Return place, subject and data of the next events of *source* on *topic*.

        They come after *after_seq*, oldest first.
        """
        rows = self._store.read(
            _ANNOUNCED, {"after": after_seq, "topic": topic, "source": source, "limit": limit}
        )
        return [
            (seq, subject, decode_data(data, media_type)) for seq, subject, data, media_type in rows
        ]

    def subjects(
        self, topic: str, source: str, type_: str, after_seq: int, limit: int = 10_000
    ) -> list[tuple[int, str, str | None]]:
        """Return place, id and subject of the next events of *source* and *type_* on *topic*."""
        found = {"topic": topic, "source": source, "type": type_, "after": after_seq}
        return self._store.read(_SUBJECTS, {**found, "limit": limit})

    def find(self, event_id: str) -> list[Found]:
        """Return every event with that id, oldest first."""
        with self._store.snapshot() as reader:
            return finding.find(reader, event_id, self.hides_data)

    def sources(self, seqs: Sequence[int]) -> dict[int, str]:
        """Return the sources of these events, by number. Pruned events have none."""
        with self._store.snapshot() as reader:
            return finding.sources(reader, seqs)

    def near(self, event_id: str) -> list[str]:
        """Return a few existing ids that resemble *event_id*."""
        with self._store.snapshot() as reader:
            return finding.near(reader, event_id)

    def heads(self, seqs: Sequence[int], size: int) -> list[Head]:
        """Return the heads of these events, with the first *size* bytes of their data.

        Who may not read data gets none.
        """
        among = ", ".join(str(int(seq)) for seq in seqs)
        data = "0, NULL" if self.hides_data else "length(data), substr(data, 1, :size)"
        rows = self._store.read(
            f"SELECT seq, subject, datacontenttype, {data} FROM event WHERE seq IN ({among})",
            {} if self.hides_data else {"size": size},
        )
        return list(map(Head._make, rows))

    def named(self, seq: int) -> tuple[str, str, str | None] | None:
        """Return the id, the source and the media type of one event, None if it is gone."""
        rows = self._store.read(f"{_NAMED} WHERE e.seq = :s", {"s": seq})
        return next(((id_, source, media_type) for id_, source, media_type in rows), None)

    def resent(self, subscription_id: int, seq: int) -> Resent | None:
        """Return how an event was sent to a subscription again, None if it never was."""
        sql = _RESENT.replace("data, datacontenttype", "NULL, NULL") if self.hides_data else _RESENT
        rows = self._store.read(sql, {"s": subscription_id, "seq": seq})
        return next(map(Resent._make, rows), None)

    def archived(self, seq: int) -> Archived:
        """Return one event of the archive."""
        (row,) = self._store.read(f"SELECT {ARCHIVED} FROM event e WHERE e.seq = :s", {"s": seq})
        return archived(row)

    def subject(self, seq: int) -> str | None:
        """Return the subject of one event."""
        rows = self._store.read("SELECT subject FROM event WHERE seq = :seq", {"seq": seq})
        return next((subject for (subject,) in rows), None)

    # -- dead letters ------------------------------------------------------------------------------

    def dead_seqs(
        self, subscription_id: int, wanted: Matching, up_to: int, size: int = 1_000
    ) -> Iterator[list[int]]:
        """Yield the events of open dead letters that match, in their order, up to *size* at once.

        *up_to* is the newest record to look at. Nothing is held between two lists.
        """
        after: int | None = FIRST_SEQ
        while after is not None:
            with self._store.snapshot() as reader:
                found = Letters(reader, subscription_id, wanted, up_to).step(after, size)
            after = found.after
            if found.seqs:
                yield found.seqs

    def count_dead(
        self,
        subscription_id: int,
        wanted: Matching,
        up_to: int,
        budget_s: float | None = None,
    ) -> Counted:
        """Return the number of open dead letters that match. It ends with the time."""
        end_s = None if budget_s is None else self._timer() + budget_s
        with self._store.snapshot() as reader:
            letters = Letters(reader, subscription_id, wanted, up_to)
            return letters.count(lambda: end_s is not None and self._timer() > end_s)

    def dead_reasons(self, subscription_id: int) -> dict[str, int]:
        """Return the number of open dead letters by reason, the most frequent first."""
        rows = self._store.read(_DEAD_REASONS, {"s": subscription_id})
        return {reason: int(n) for reason, n in rows}

    def dead_keys(self, subscription_id: int) -> list[DeadKey]:
        """Return the events of open dead letters, oldest first, without their data."""
        return list(map(DeadKey._make, self._store.read(_DEAD_KEYS, {"s": subscription_id})))

    def dead_letters(
        self,
        subscription_id: int,
        seq: int | None = None,
        limit: int | None = None,
        with_data: bool = True,
    ) -> list[DeadLetter]:
        """Return the open dead letters, oldest first, or only that of event *seq*.

        With *limit* only the newest ones. The data of the others is not read. Without *with_data*
        no data is read, and none is there.
        """
        of = {"s": subscription_id, "seq": seq, "limit": limit}
        one = "" if seq is None else "AND d.seq = :seq"
        most = "" if limit is None else "LIMIT :limit"
        letters = _DEAD_LETTERS if with_data else _DEAD_LETTERS.replace(_LETTER_DATA, "NULL, NULL")
        sql = f"{letters} {one} ORDER BY d.dead_us DESC, d.seq DESC {most}"
        return list(map(DeadLetter._make, reversed(self._store.read(sql, of))))


def _logged(row: Row) -> Logged:
    """Return an event of a row of _EVENTS."""
    seq, id_, source, type_, topic, subject, time, lag_us, published_us, *rest = row
    try:
        said = time_of(published_us, lag_us, time).isoformat()
    except ERRORS as error:
        raise damaged("event", seq, error) from error
    return Logged(id_, source, type_, topic, subject, said, published_us, *rest)
