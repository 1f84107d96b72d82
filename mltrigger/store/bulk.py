"""Very many attempts, as SQLite hands them over cheaply: in long texts.

Each value that SQLite hands over becomes an object. A text with thousands of values is one object.
So numbers come with commas between them, outputs with separators, and lots are read once.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from mltrigger.store.attempts import settled_since, whose
from mltrigger.store.keys import id_text, trace_id
from mltrigger.store.outcomes import ANSWERING, OUTCOMES, ROLES
from mltrigger.store.tables import CODES
from mltrigger.store.transaction import Reader, Row

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Numbers = NDArray[np.int64]
    Signs = NDArray[np.uint8]

SEPARATOR, MISSING = "\x1f", "\x1e"
"""The sign between two texts, and the sign in place of a missing one."""
KINDS = len(OUTCOMES)
"""A kind is ``attempt * KINDS + outcome``."""
IN_DETAIL = ("reason", "error_type", "error", "stdout", "output", "measures")
_UUID = 16
_STEP = 20_000
"""The events, or the lots, of one statement."""
ALL = 2**63 - 1
"""Beyond all numbers."""

_LOT = {
    "id": "id",
    "n": "n",
    "subscription": "subscription_id",
    "low": "low",
    "high": "high",
    "model": "coalesce(model_version_id, -1)",
    "received": "received_us",
    "started": "coalesce(started_us, -1)",
    "finished": "coalesce(finished_us, -1)",
    "settled": "settled_us",
    "size": "coalesce(batch_size, -1)",
    "worker": "worker_id",
    "role": f"CASE role {' '.join(f'WHEN {r!r} THEN {n}' for n, r in enumerate(ROLES))} END",
}
_LOTS = f"""
SELECT count(*), max(id), {", ".join(f"group_concat({sql})" for sql in _LOT.values())}
FROM (
  SELECT * FROM lot WHERE id > :after AND received_us >= :since AND high >= :low AND low <= :high
    AND {{whose}}
  ORDER BY id LIMIT {_STEP}
) AS step
"""
_REASONS = "SELECT id, reason FROM lot WHERE id >= :first AND reason IS NOT NULL"
_LARGEST = "SELECT (SELECT max(id) FROM name), (SELECT max(id) FROM topic)"
_WINDOW = "o.subscription_id = :s AND o.seq BETWEEN :low AND :high AND o.lot_id >= :first"
_NEXT = f"SELECT o.seq FROM outcome o WHERE {_WINDOW} ORDER BY o.seq LIMIT 1"
_WITH_EVENTS = "CROSS JOIN event e ON e.seq = o.seq"
_OUTCOMES = f"SELECT count(*), {{columns}} FROM outcome o {_WITH_EVENTS} WHERE {_WINDOW}"
_KEYS = f"SELECT e.id, e.traceparent FROM outcome o {_WITH_EVENTS} WHERE {_WINDOW}"
_TIMES = {"began": "coalesce(o.began_us, 0)", "took": "coalesce(o.took_us, -1)"}
_DUE = {"due": "coalesce(e.by_rows_us, e.published_us)"}
_DETAILS = f"""
SELECT o.lot_id + o.place, d.visible_us, {{columns}}
FROM detail d CROSS JOIN outcome o
  ON o.subscription_id = d.subscription_id AND o.seq = d.seq AND o.attempt = d.attempt
WHERE d.subscription_id = :s AND d.seq BETWEEN :low AND :high AND {_WINDOW}
"""
_SUBJECTS = f"group_concat(coalesce(e.subject, '{MISSING}'), '{SEPARATOR}')"
_OUTPUT = f"""
coalesce(o.output, CASE o.outcome WHEN {CODES["succeeded"]} THEN 'null' ELSE '{MISSING}' END)
"""


class Part(NamedTuple):
    """The attempts of some events of one subscription.

    A column of texts is a text with separators, or a list, or an array of signs, one row a text.
    A row of ``details`` begins with that of its attempt.
    """

    numbers: Mapping[str, Numbers]
    texts: Mapping[str, Any]
    details: Sequence[Row]


class Bulk(NamedTuple):
    """Attempts in parts, their lots, the reasons of lots, and the names behind numbers."""

    parts: Sequence[Part]
    lots: Mapping[str, Numbers]
    reasons: Mapping[int, str]
    names: Mapping[str, Mapping[int, str]]
    largest: int


def check(by_columns: bool) -> None:
    """Raise ValueError if the store hands over rows only."""
    if not by_columns:
        raise ValueError("this store hands over rows")


def read(
    reader: Reader,
    wanted: Sequence[str],
    subscription_id: int | None = None,
    seqs: tuple[int, int] | None = None,
    since_us: int | None = None,
    roles: Sequence[str] = ANSWERING,
) -> Bulk:
    """Return all attempts that were recorded, with the parts of the columns *wanted*.

    There may be more, of other lots: those of lots that are here were asked for.

    Raises
    ------
    ValueError
        When a value cannot be read in this way: it is damaged, or only unusual.
    """
    low, high = seqs or (-ALL, ALL)
    lots = lots_of(reader, subscription_id, (low, high), since_us, roles)
    ((names, topics),) = reader.query(_LARGEST, {})
    largest = (names or 0) + 1
    if ((topics or 0) + 1) * largest**2 > ALL:
        raise ValueError("there are too many names")
    reading = _Reading(reader, set(wanted), largest)
    parts = [part for window in _windows(lots, low, high) for part in reading.parts(window)]
    first = int(lots["id"].min()) if len(lots["id"]) else 0
    reasons = dict(map(tuple, reader.query(_REASONS, {"first": first})))
    return Bulk(parts, lots, reasons, _names(reader), largest)


def _names(reader: Reader) -> dict[str, dict[int, str]]:
    tables = {
        "name": "SELECT id, text FROM name",
        "topic": "SELECT id, name FROM topic",
        "subscription": "SELECT s.id, coalesce(p.name, s.name) FROM subscription s"
        " LEFT JOIN subscription p ON p.id = s.parent_id",
        "model": "SELECT id, name FROM model_version",
        "version": "SELECT id, version FROM model_version",
    }
    return {table: dict(map(tuple, reader.query(sql, {}))) for table, sql in tables.items()}


def lots_of(
    reader: Reader,
    subscription_id: int | None = None,
    seqs: tuple[int, int] = (-ALL, ALL),
    since_us: int | None = None,
    roles: Sequence[str] = ANSWERING,
) -> dict[str, Numbers]:
    """Return the columns of all lots that have events among *seqs* and were received since then."""
    parts: list[dict[str, Numbers]] = []
    sql = _LOTS.format(whose=" AND ".join(whose(reader, subscription_id, roles)))
    of = {"low": seqs[0], "high": seqs[1], "since": -ALL, "s": subscription_id}
    after = -1
    if since_us is not None:
        of["since"], after = since_us, settled_since(reader, since_us) - 1
    while True:
        ((n, last, *texts),) = reader.query(sql, {**of, "after": after})
        if not n:
            return joined(_LOT, parts)
        parts.append({name: _numbers(text, n) for name, text in zip(_LOT, texts, strict=True)})
        after = last


def _windows(lots: Mapping[str, Numbers], low: int, high: int) -> Iterator[dict[str, int]]:
    """Yield the span of the lots of each subscription."""
    import numpy as np

    for s in np.unique(lots["subscription"]).tolist():
        mine = lots["subscription"] == s
        yield {
            "s": s,
            "low": max(low, int(lots["low"][mine].min())),
            "high": min(high, int(lots["high"][mine].max())),
            "first": int(lots["id"][mine].min()),
        }


class _Reading:
    """The statements that read attempts for the columns *wanted*."""

    def __init__(self, reader: Reader, wanted: set[str], largest: int) -> None:
        self._reader, self._wanted = reader, wanted
        self._times = wanted & {"started_at", "finished_at", "queue_ms", "model_ms", "total_ms"}
        self._numbers = {"row": "o.lot_id + o.place", "kind": f"o.attempt * {KINDS} + o.outcome"}
        if wanted & {"published_at", "total_ms", "queue_ms"}:
            self._numbers["published"] = "e.published_us"
        if wanted & {"source", "type", "topic"}:
            self._numbers["names"] = (
                f"(e.topic_id * {largest} + e.source_id) * {largest} + e.type_id"
            )
        self._sql = self._statement()

    def _statement(self) -> str:
        wanted = self._wanted
        ids = wanted & {"event_id", "trace_id"}
        columns = [
            *(f"group_concat({sql})" for sql in self._numbers.values()),
            "count(o.began_us) + count(o.took_us)" if self._times else "0",
            "count(e.by_rows_us)" if "queue_ms" in wanted else "0",
            f"group_concat({_OUTPUT}, '{SEPARATOR}')" if "output" in wanted else "NULL",
            "CAST(group_concat(e.id, '') AS BLOB)" if ids else "NULL",
            "sum(e.id < x'')" if ids else "0",  # a text comes before all bytes
            "count(e.traceparent)" if "trace_id" in wanted else "0",
            "count(e.subject)" if "subject" in wanted else "0",
        ]
        sql = _OUTCOMES.format(columns=", ".join(columns))
        # an event costs as much as all of its attempt
        return sql if "e." in "".join(columns) else sql.replace(_WITH_EVENTS, "")

    def parts(self, of: Mapping[str, int]) -> Iterator[Part]:
        """Yield the attempts of one subscription, step by step."""
        low = of["low"]
        while found := self._reader.query(_NEXT, {**of, "low": low}):
            ((low,),) = found
            step = {**of, "low": low, "high": min(of["high"], low + _STEP - 1)}
            yield self._part(step)
            low = step["high"] + 1

    def _part(self, of: Mapping[str, int]) -> Part:
        import numpy as np

        ((n, *found, own, due, output, ids, long, traces, subjects),) = self._reader.query(
            self._sql, of
        )
        numbers = {name: _numbers(text, n) for name, text in zip(self._numbers, found, strict=True)}
        if self._times:
            begun_and_over = {"began": np.zeros(n, np.int64), "took": np.full(n, -1)}
            numbers |= self._some(_TIMES, of) if own else begun_and_over
        if "queue_ms" in self._wanted:
            numbers |= self._some(_DUE, of) if due else {"due": numbers["published"]}
        texts: dict[str, Any] = {}
        if ids is not None:
            texts |= self._keys(of, ids, not long and len(ids) == _UUID * n, traces)
        if output is not None:
            texts["output"] = _separated(output, n)
        if "subject" in self._wanted:
            texts["subject"] = self._subjects(of, n - subjects) if subjects else [None] * n
        return Part(numbers, texts, self._details(of, numbers["kind"] % KINDS))

    def _some(self, columns: Mapping[str, str], of: Mapping[str, int]) -> dict[str, Numbers]:
        """Return columns of numbers that few attempts have."""
        chosen = ", ".join(f"group_concat({sql})" for sql in columns.values())
        ((n, *found),) = self._reader.query(_OUTCOMES.format(columns=chosen), of)
        return {name: _numbers(text, n) for name, text in zip(columns, found, strict=True)}

    def _subjects(self, of: Mapping[str, int], missing: int) -> str:
        ((n, text),) = self._reader.query(_OUTCOMES.format(columns=_SUBJECTS), of)
        if text.count(MISSING) != missing:
            raise ValueError("a subject has the sign of a missing one")
        return _separated(text, n)

    def _keys(
        self, of: Mapping[str, int], ids: bytes, short: bool, traces: int
    ) -> dict[str, Signs | list[str]]:
        """Return ids and trace ids. A UUID has both."""
        if short and not traces:
            digits = _digits(ids)
            return {"event_id": _dashed(digits), "trace_id": digits}
        keys = self._reader.query(_KEYS, of)
        return {
            "event_id": _dashed(_digits(ids)) if short else [id_text(key) for key, _ in keys],
            "trace_id": [trace_id(trace, key) for key, trace in keys],
        }

    def _details(self, of: Mapping[str, int], outcomes: Numbers) -> list[Row]:
        # the reason of a skipped event may say that it was no event
        wanted = self._wanted | {"reason"}
        if self._wanted & {*IN_DETAIL, "queue_ms"} or (outcomes == CODES["skipped"]).any():
            columns = [f"d.{name}" if name in wanted else "NULL" for name in IN_DETAIL]
            return self._reader.query(_DETAILS.format(columns=", ".join(columns)), of)
        return []


def joined(names: Iterable[str], parts: Sequence[Mapping[str, Numbers]]) -> dict[str, Numbers]:
    """Return the columns *names* of all *parts*."""
    import numpy as np

    nothing = np.empty(0, np.int64)
    return {name: np.concatenate([nothing, *(part[name] for part in parts)]) for name in names}


def _separated(text: str, n: int) -> str:
    """Return *text*, which has *n* texts."""
    if text.count(SEPARATOR) != n - 1:
        raise ValueError("a text has the sign that separates texts")
    return text


def _numbers(text: str, n: int) -> Numbers:
    """Return *n* numbers of a text with commas."""
    import numpy as np

    found = np.fromstring(text, np.int64, sep=",")
    if len(found) != n:
        raise ValueError("a number is missing")
    return found


def _digits(ids: bytes) -> Signs:
    """Return the digits of UUIDs, one row each."""
    import numpy as np

    pairs = np.array([f"{byte:02x}" for byte in range(256)], "S2").view(np.uint16)
    return pairs[np.frombuffer(ids, np.uint8)].view(np.uint8).reshape(-1, 32)


def _dashed(digits: Signs) -> Signs:
    """Return UUIDs in their canonical form, one row each."""
    import numpy as np

    text = np.full((len(digits), 36), ord("-"), np.uint8)
    for begin, end, dashes in ((0, 8, 0), (8, 12, 1), (12, 16, 2), (16, 20, 3), (20, 32, 4)):
        text[:, begin + dashes : end + dashes] = digits[:, begin:end]
    return text
