"""Ranges of the log as columns: a claim of many plain events, without an object for each.

SQLite hands over one text for a column. To hand over each value takes three times as long, and
objects of all events make Python's collector look at all others.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any

from mltrigger.broker import Delivery
from mltrigger.broker.alike import Alike
from mltrigger.event.data import are_texts
from mltrigger.event.making import restored_later
from mltrigger.store import leases
from mltrigger.store.leasing import Standing, advance
from mltrigger.store.queue import Term, rest_of
from mltrigger.store.transaction import OFTEN, Transaction

LEAST, _MOST = 64, 32 * 1024
"""Fewer events are as fast with a row each. More come with the next claim."""
_LONG = 16 * 1024
"""Longer data are read row by row. All of them might be too long for one text of SQLite."""
_SEPARATOR = b"\x1e"
"""A control character: no JSON has it."""
_OWN = "time", "subject", "datacontenttype", "dataschema", "traceparent", "extensions"
_PLAIN = f"""
coalesce({", ".join(f"e.{name}" for name in _OWN)}) IS NULL AND typeof(e.data) = 'blob'
AND length(e.data) <= {_LONG} AND typeof(e.id) = 'blob'
"""
_BEHIND = """
FROM event e INDEXED BY event_topic
WHERE e.topic_id = :t AND e.seq >= :next AND e.seq <= :last AND e.by_rows_us IS NULL ORDER BY e.seq
"""
# Most events of a topic are like its first one. If that needs a row of its own, no other is read.
_COLUMNS = f"""{OFTEN}
WITH first AS (SELECT {_PLAIN} AS is_plain, e.source_id, e.type_id {_BEHIND} LIMIT 1)
SELECT (SELECT CASE WHEN is_plain THEN 1 ELSE 0 END FROM first),
  (SELECT source_id FROM first), (SELECT type_id FROM first),
  count(*), coalesce(sum(is_alike), 0), group_concat(seq), group_concat(published_us),
  group_concat(lag_us), CAST(group_concat(id, '') AS BLOB),
  CAST(group_concat(CASE WHEN is_alike THEN data END, char({ord(_SEPARATOR)})) AS BLOB)
FROM (
  SELECT e.seq, e.published_us, e.lag_us, e.id, e.data,
    {_PLAIN} AND e.source_id = (SELECT source_id FROM first)
      AND e.type_id = (SELECT type_id FROM first) AS is_alike {_BEHIND}
  LIMIT coalesce((SELECT CASE WHEN is_plain THEN :n ELSE 0 END FROM first), 0)
) AS found
"""


def claim(
    transaction: Transaction, at: Standing, term: Term, most: int
) -> Sequence[Delivery] | None:
    """Lease up to *most* deliveries behind the cursor for *term*, if all of them are alike.

    Returns ``None``, and leases nothing, if one needs a row of its own: an event with attributes of
    its own, a retry that is due, a damaged row.
    """
    is_due = at.due_us is not None and at.due_us <= term.received_us
    if most < LEAST or at.paused or at.next_seq is None or is_due:
        return None
    of = {"t": at.topic_id, "next": at.next_seq, "last": at.up_to, "n": min(most, _MOST)}
    ((is_plain, source, type_, n, alike, numbers, *columns, data),) = transaction.query(
        _COLUMNS, of
    )
    if is_plain is None:
        return []
    if not is_plain or alike != n:
        return None
    seqs, texts = _numbers(numbers, n), data.split(_SEPARATOR)
    is_whole = len(texts) == n and are_texts(texts) and len(columns[-1]) == 16 * n
    if not is_whole or not all(_are_numbers(column, n) for column in columns[:2]):
        return None
    words = transaction.store.vocabulary
    names = words.text(transaction, source), words.text(transaction, type_)
    advance(transaction, term.subscription_id, seqs[-1] + 1)
    leases.hold_range(transaction, term, seqs[0], seqs[-1], n)
    found = Alike(_Claimed(term, names, seqs, texts, columns), seqs, texts)
    return found if n >= LEAST else list(found)


class _Claimed:
    """The columns of one claim, and the deliveries that were made of them."""

    def __init__(
        self,
        term: Term,
        names: tuple[str, str],
        seqs: Sequence[int],
        texts: Sequence[bytes],
        columns: Sequence[Any],
    ) -> None:
        self.subscription_id, self.lease = term.subscription_id, term.number
        self.received_us = term.received_us
        self._source, self._type = names
        self._seqs, self._texts = seqs, texts
        self._columns = columns
        self._made: dict[int, Delivery] = {}

    def delivery(self, place: int) -> Delivery:
        """Return the delivery of the event at *place*."""
        # Another thread may make the same one at this moment. The first one counts.
        return self._made.get(place) or self._made.setdefault(place, self._make(place))

    @functools.cached_property
    def _times(self) -> Sequence[tuple[int, int]]:
        """When each event was published, and its lag."""
        published, lags, _ = self._columns
        pairs = zip(published.split(","), lags.split(","), strict=True)
        return [(int(at_us), int(lag_us)) for at_us, lag_us in pairs]

    def _make(self, place: int) -> Delivery:
        at_us, lag_us = self._times[place]
        key = self._columns[-1][16 * place : 16 * place + 16]
        rest = functools.partial(rest_of, self._source, key, at_us, lag_us)
        event = restored_later(self._texts[place], self._type, rest)
        of = self.subscription_id, 1, 0, 0, at_us, at_us, self.received_us, at_us, self.lease
        return Delivery(event, self._seqs[place], *of)


def _numbers(text: str, n: int) -> Sequence[int]:
    """Return *n* rising numbers of a text with commas: a range if none is missing."""
    first, last = int(text.partition(",")[0]), int(text.rpartition(",")[2])
    return range(first, last + 1) if last - first + 1 == n else list(map(int, text.split(",")))


def _are_numbers(text: str, n: int) -> bool:
    """Whether *text* has *n* whole numbers with commas, and not whatever a damaged row has."""
    return text.count(",") == n - 1 and text.replace(",", "").replace("-", "").isdigit()
