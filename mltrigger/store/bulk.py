"""Attempts by columns, for frames of very many of them.

Each value that SQLite hands over becomes an object. A long text with many values is much cheaper.
So numbers come as texts with commas, outputs as texts with separators, and lots are read once.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from mltrigger.store.attempts import settled_since
from mltrigger.store.keys import id_text, trace_id
from mltrigger.store.outcomes import NO_EVENTS, OUTCOMES, ROLES
from mltrigger.store.schema import CODES
from mltrigger.store.transaction import Reader, Row

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Numbers = NDArray[np.int64]

SEPARATOR, MISSING = "\x1f", "\x1e"
"""The sign between two texts, and the sign in place of a missing one."""
NONE = -(2**63)
"""Stands for a missing number. Numpy takes it for a missing time."""
_STEP = 20_000
"""The events, or the lots, of one statement."""
_KINDS = len(OUTCOMES)

_LOT = {
    "id": "id",
    "n": "n",
    "s": "subscription_id",
    "low": "low",
    "high": "high",
    "model": "coalesce(model_version_id, -1)",
    "received_at": "received_us",
    "started": "coalesce(started_us, -1)",
    "finished": "coalesce(finished_us, -1)",
    "settled_at": "settled_us",
    "batch_size": "coalesce(batch_size, -1)",
    "worker": "worker_id",
    "role": f"CASE role {' '.join(f'WHEN {r!r} THEN {n}' for n, r in enumerate(ROLES))} END",
}
_LOTS = f"""
SELECT count(*), max(id), {", ".join(f"group_concat({sql})" for sql in _LOT.values())}
FROM (
  SELECT * FROM lot WHERE id > :after AND received_us >= :since AND high >= :low AND low <= :high
    AND (:s IS NULL OR subscription_id = :s)
  ORDER BY id LIMIT {_STEP}
) AS step
"""
_REASONS = "SELECT id, reason FROM lot WHERE id >= :first AND reason IS NOT NULL"
_WINDOW = "o.subscription_id = :s AND o.seq BETWEEN :low AND :high AND o.lot_id >= :first"
_NEXT = f"SELECT o.seq FROM outcome o WHERE {_WINDOW} ORDER BY o.seq LIMIT 1"
_EVENTS = "CROSS JOIN event e ON e.seq = o.seq"
_KEYS = f"SELECT e.id, e.traceparent FROM outcome o {_EVENTS} WHERE {_WINDOW}"
_IN_DETAIL = ("reason", "error_type", "error", "stdout", "output")
_DETAILS = f"""
SELECT o.lot_id + o.place, d.visible_us, {{columns}}
FROM detail d CROSS JOIN outcome o
  ON o.subscription_id = d.subscription_id AND o.seq = d.seq AND o.attempt = d.attempt
WHERE d.subscription_id = :s AND d.seq BETWEEN :low AND :high AND {_WINDOW}
"""
_OUTPUT = f"""
coalesce(o.output, CASE o.outcome WHEN {CODES["succeeded"]} THEN 'null' ELSE '{MISSING}' END)
"""


class Coded(NamedTuple):
    """A column of few different values: their places in a list. The place -1 is for none."""

    codes: Numbers
    values: Sequence[str | None]


class Packed(NamedTuple):
    """A column of texts, in parts, and the texts that stand in place of some of them.

    A part is an array of characters, one row each, or a text with separators, or a list.
    """

    parts: Sequence[Any]
    others: Mapping[int, str]


class Bulk(NamedTuple):
    """*n* attempts by columns, and the places of those that were asked for, oldest first.

    A column is an array of numbers, or Coded, or Packed, or a mapping of places to texts.
    """

    n: int
    columns: Mapping[str, Any]
    order: Numbers


class _Part(NamedTuple):
    """The attempts of some events: columns of numbers, of texts, and their rows in ``detail``."""

    numbers: dict[str, Numbers]
    texts: dict[str, Any]
    details: list[Row]


def read(
    reader: Reader,
    wanted: Sequence[str],
    subscription_id: int | None = None,
    seqs: tuple[int, int] | None = None,
    since_us: int | None = None,
) -> Bulk:
    """Return the columns *wanted* of all attempts that were recorded.

    Raises
    ------
    ValueError
        When a value cannot be read in this way: it is damaged, or only unusual.
    """
    import numpy as np

    low, high = seqs or (-1, -NONE - 1)
    first = settled_since(reader, since_us) if since_us is not None else 0
    of = {"s": subscription_id, "low": low, "high": high, "since": since_us or NONE}
    lots = _lots(reader, of, first - 1)
    reading = _Reading(reader, set(wanted))
    windows = _windows(lots, low, high)
    parts = [part for window in windows for part in reading.parts(window)]
    numbers = {
        name: np.concatenate([np.empty(0, np.int64), *(p.numbers[name] for p in parts)])
        for name in reading.numbers
    }
    rows = numbers["row"]
    lot = np.searchsorted(lots["id"], rows, "right") - 1
    # The lot of an attempt may not be among them. Then its row is beyond the end of an earlier one.
    asked = (lot >= 0) & (rows < (lots["id"] + lots["n"])[lot])
    details = _Details(rows, parts)
    reasons = details.texts("reason") | _reasons(reader, lots["id"][lot], details)
    for place in np.flatnonzero(numbers["kind"] % _KINDS == CODES["skipped"]).tolist():
        asked[place] &= reasons.get(place) not in NO_EVENTS
    order = np.flatnonzero(asked)
    if not (np.diff(rows[order]) > 0).all():
        order = order[np.argsort(rows[order], kind="stable")]
    of_lot = {name: values[lot] for name, values in lots.items()}
    columns = reading.named(numbers, of_lot) | _times(numbers, of_lot, details)
    columns |= {name: Packed([p.texts[name] for p in parts], {}) for name in reading.texts}
    columns |= {name: details.texts(name) for name in ("error_type", "error", "stdout")}
    columns["reason"] = reasons
    if "output" in columns:
        columns["output"] = columns["output"]._replace(others=details.texts("output"))
    return Bulk(len(rows), columns, order)


def _lots(reader: Reader, of: Mapping[str, Any], after: int) -> dict[str, Numbers]:
    import numpy as np

    parts = []
    while True:
        ((n, last, *texts),) = reader.query(_LOTS, {**of, "after": after})
        if not n:
            break
        parts.append([_numbers(text, n) for text in texts])
        after = last
    columns = zip(*parts, strict=True) if parts else ((),) * len(_LOT)
    return {
        name: np.concatenate([np.empty(0, np.int64), *column])
        for name, column in zip(_LOT, columns, strict=True)
    }


def _windows(lots: Mapping[str, Numbers], low: int, high: int) -> Iterator[dict[str, int]]:
    """Yield the events of the lots of each subscription."""
    import numpy as np

    for s in np.unique(lots["s"]).tolist():
        mine = lots["s"] == s
        yield {
            "s": s,
            "low": max(low, int(lots["low"][mine].min())),
            "high": min(high, int(lots["high"][mine].max())),
            "first": int(lots["id"][mine].min()),
        }


def _reasons(reader: Reader, of_lot: Numbers, details: _Details) -> dict[int, str]:
    """Return the reasons that attempts have from their lots."""
    import numpy as np

    first = int(of_lot.min()) if len(of_lot) else 0
    by_lot = dict(map(tuple, reader.query(_REASONS, {"first": first})))
    if not by_lot:
        return {}
    own = details.texts("reason")
    places = np.flatnonzero(np.isin(of_lot, list(by_lot)))
    found = zip(places.tolist(), of_lot[places].tolist(), strict=True)
    return {place: by_lot[lot] for place, lot in found if place not in own}


class _Details:
    """The details of attempts, by the place of the attempt."""

    def __init__(self, rows: Numbers, parts: Sequence[_Part]) -> None:
        import numpy as np

        self._found = [row for part in parts for row in part.details]
        by_row = np.argsort(rows, kind="stable")
        wanted = [row[0] for row in self._found]
        at = np.searchsorted(rows[by_row], wanted) if wanted else _no_numbers()
        self._places = by_row[at].tolist()

    def texts(self, name: str) -> dict[int, str]:
        """Return place -> text for the attempts that have one."""
        column = _IN_DETAIL.index(name) + 2
        return {
            place: row[column]
            for place, row in zip(self._places, self._found, strict=True)
            if row[column] is not None
        }

    def visible_us(self) -> dict[int, int]:
        """Return place -> time for the attempts that have waited since another time."""
        return {
            place: row[1]
            for place, row in zip(self._places, self._found, strict=True)
            if row[1] is not None
        }


class _Reading:
    """The statements that read outcomes, for the columns *wanted*."""

    def __init__(self, reader: Reader, wanted: set[str]) -> None:
        self._reader, self._wanted = reader, wanted
        ((names, topics),) = reader.query(
            "SELECT (SELECT max(id) FROM name), (SELECT max(id) FROM topic)", {}
        )
        self._names = (names or 0) + 1
        if ((topics or 0) + 1) * self._names**2 > -NONE:
            raise ValueError("there are too many names")
        self.numbers = self._number_columns()
        self.texts = [name for name in ("event_id", "trace_id", "output") if name in wanted]
        self._sql = self._statement()

    def _number_columns(self) -> dict[str, str]:
        wanted = self._wanted
        found = {"row": "o.lot_id + o.place", "kind": f"o.attempt * {_KINDS} + o.outcome"}
        if wanted & {"started_at", "finished_at", "queue_ms", "model_ms", "total_ms"}:
            found |= {"began": "coalesce(o.began_us, 0)", "took": "coalesce(o.took_us, -1)"}
        if wanted & {"published_at", "total_ms", "queue_ms"}:
            found["published_at"] = "e.published_us"
        if "queue_ms" in wanted:
            found["due"] = "coalesce(e.by_rows_us, e.published_us)"
        if wanted & {"source", "type", "topic"}:
            found["names"] = (
                f"(e.topic_id * {self._names} + e.source_id) * {self._names} + e.type_id"
            )
        return found

    def _statement(self) -> str:
        chosen = [f"group_concat({sql})" for sql in self.numbers.values()]
        chosen.append(
            f"group_concat({_OUTPUT}, '{SEPARATOR}')" if "output" in self._wanted else "NULL"
        )
        keys = "NULL, NULL, NULL"
        if self._wanted & {"event_id", "trace_id"}:
            keys = (
                "sum(typeof(e.id) = 'blob' AND length(e.id) = 16), count(e.traceparent),"
                " CAST(group_concat(e.id, '') AS BLOB)"
            )
        events = "published_at" in self.numbers or "names" in self.numbers or keys[0] != "N"
        return (
            f"SELECT count(*), {', '.join([*chosen, keys])} FROM outcome o"
            f" {_EVENTS if events else ''} WHERE {_WINDOW}"
        )

    def parts(self, of: Mapping[str, int]) -> Iterator[_Part]:
        """Yield the attempts of some events of one subscription, step by step."""
        low = of["low"]
        while found := self._reader.query(_NEXT, {**of, "low": low}):
            ((low,),) = found
            step = {**of, "low": low, "high": min(of["high"], low + _STEP - 1)}
            yield self._part(step)
            low = step["high"] + 1

    def _part(self, of: Mapping[str, int]) -> _Part:
        ((n, *found, output, short, traces, ids),) = self._reader.query(self._sql, of)
        numbers = {name: _numbers(text, n) for name, text in zip(self.numbers, found, strict=True)}
        texts: dict[str, Any] = self._keys(of, short == n, traces, ids) if ids is not None else {}
        if output is not None:
            if output.count(SEPARATOR) != n - 1:
                raise ValueError("an output has a character that separates outputs")
            texts["output"] = output
        details: list[Row] = []
        if (
            self._wanted & {*_IN_DETAIL, "queue_ms"}
            or (numbers["kind"] % _KINDS == CODES["skipped"]).any()
        ):
            chosen = [f"d.{c}" if c in {"reason", *self._wanted} else "NULL" for c in _IN_DETAIL]
            details = self._reader.query(_DETAILS.format(columns=", ".join(chosen)), of)
        return _Part(numbers, texts, details)

    def _keys(self, of: Mapping[str, int], short: bool, traces: int, ids: bytes) -> dict[str, Any]:
        """Return ids and trace ids. A UUID has both."""
        if short and not traces:
            digits = _digits(ids)
            return {"event_id": _dashed(digits), "trace_id": digits}
        keys = self._reader.query(_KEYS, of)
        return {
            "event_id": _dashed(_digits(ids)) if short else [id_text(key) for key, _ in keys],
            "trace_id": [trace_id(trace, key) for key, trace in keys],
        }

    def named(
        self, numbers: Mapping[str, Numbers], of_lot: Mapping[str, Numbers]
    ) -> dict[str, Any]:
        """Return the columns whose values have numbers of their own."""
        import numpy as np

        attempts, codes = np.divmod(numbers["kind"], _KINDS)
        workers = np.unique(of_lot["worker"])
        found: dict[str, Any] = {
            "attempt": attempts,
            "outcome": Coded(codes, OUTCOMES),
            "role": Coded(of_lot["role"], ROLES),
            "worker": Coded(
                np.searchsorted(workers, of_lot["worker"]), [f"worker-{w}" for w in workers]
            ),
            "batch_size": _or_none(of_lot["batch_size"]),
            "subscription": Coded(of_lot["s"], self._values("SELECT id, name FROM subscription")),
            "model": Coded(of_lot["model"], self._values("SELECT id, name FROM model_version")),
            "version": Coded(
                of_lot["model"], self._values("SELECT id, version FROM model_version")
            ),
        }
        if "names" in numbers:
            rest, types = np.divmod(numbers["names"], self._names)
            topics, sources = np.divmod(rest, self._names)
            names = self._values("SELECT id, text FROM name")
            topic_names = self._values("SELECT id, name FROM topic")
            found |= {"type": Coded(types, names), "source": Coded(sources, names)}
            found["topic"] = Coded(topics, topic_names)
        return {name: column for name, column in found.items() if name in self._wanted}

    def _values(self, sql: str) -> list[str | None]:
        """Return a list with each text at the place of its number. The last one is for none."""
        texts = dict(map(tuple, self._reader.query(sql, {})))
        return [texts.get(number) for number in range(max(texts, default=0) + 2)]


def _times(
    numbers: Mapping[str, Numbers], of_lot: Mapping[str, Numbers], details: _Details
) -> dict[str, Any]:
    import numpy as np

    found: dict[str, Any] = {name: of_lot[name] for name in ("received_at", "settled_at")}
    published = numbers.get("published_at")
    if published is not None:
        found["published_at"] = published
    if "began" not in numbers:
        return found
    began, took = of_lot["started"] + numbers["began"], numbers["took"]
    found["started_at"] = started = np.where(of_lot["started"] < 0, NONE, began)
    ended = np.where(took < 0, of_lot["finished"], np.where(started == NONE, -1, began + took))
    found["finished_at"] = finished = _or_none(ended)
    found["model_ms"] = _ms(finished, started)
    if published is not None:
        found["total_ms"] = _ms(finished, published)
    if "due" in numbers:
        visible = numbers["due"].copy()
        for place, us in details.visible_us().items():
            visible[place] = us
        found["queue_ms"] = _ms(started, visible)
    return found


def _ms(end: Numbers, begin: Numbers) -> NDArray[np.float64]:
    import numpy as np

    found = (end - begin) / 1000.0
    found[(end == NONE) | (begin == NONE)] = np.nan
    return found


def _or_none(numbers: Numbers) -> Numbers:
    import numpy as np

    return np.where(numbers < 0, NONE, numbers)


def _no_numbers() -> Numbers:
    import numpy as np

    return np.empty(0, np.int64)


def _numbers(text: str, n: int) -> Numbers:
    """Return *n* numbers of a text with commas."""
    import numpy as np

    found = np.fromstring(text, np.int64, sep=",")
    if len(found) != n:
        raise ValueError("a number is missing")
    return found


def _digits(ids: bytes) -> NDArray[np.uint8]:
    """Return the digits of UUIDs, one row each."""
    import numpy as np

    pairs = np.array([f"{byte:02x}" for byte in range(256)], "S2")
    return pairs[np.frombuffer(ids, np.uint8)].view(np.uint8).reshape(-1, 32)


def _dashed(digits: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Return UUIDs in their canonical form, one row each."""
    import numpy as np

    text = np.full((len(digits), 36), ord("-"), np.uint8)
    for begin, end, dashes in ((0, 8, 0), (8, 12, 1), (12, 16, 2), (16, 20, 3), (20, 32, 4)):
        text[:, begin + dashes : end + dashes] = digits[:, begin:end]
    return text
