"""Pairs of attempts: the same event, answered by two versions.

Rows without a partner are counted.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from mltrigger.errors import InvalidComparison, NotFound, NothingToCompare
from mltrigger.rollout.agreement import Unreadable, values

if TYPE_CHECKING:
    import numpy as np
    import pandas as pd

NEEDED = ("event_id", "source", "model", "version", "attempt", "outcome", "model_ms", "output")
"""The columns of an invocation frame that a comparison reads."""
_FAILED = ("failed", "dead")
_RANKS = {"succeeded": 2, "dead": 2, "skipped": 1}
"""A final attempt counts before others. A repeat that was skipped does not hide the answer."""
NONE = "(none)"
"""The slice of events without a value."""

OK, FAILED, UNFINISHED = 0, 1, 2
Key = tuple[str, str]


@dataclasses.dataclass(frozen=True, slots=True)
class Side:
    """The last attempt for each event, of one version. A list has an entry an event."""

    name: str
    table: pd.DataFrame
    keys: list[Key]
    states: np.ndarray[Any, Any]
    outputs: list[str | None]
    ms: np.ndarray[Any, Any]
    version: str

    @classmethod
    def of(cls, attempts: pd.DataFrame, name: str) -> Side:
        """Read a frame of attempts. A final attempt counts, else the last one."""
        import numpy as np

        for column in NEEDED:
            if column not in attempts.columns:
                raise NotFound.of(
                    "column", column, attempts.columns, f"the {name} frame is one of invocations()"
                )
        outcomes = attempts["outcome"].astype(object)
        tries = attempts["attempt"].astype("float64").to_numpy()
        rank = outcomes.map(_RANKS).fillna(0).to_numpy(np.int64)
        order = np.lexsort((tries, rank))
        sources, ids = attempts["source"].tolist(), attempts["event_id"].tolist()
        last = dict.fromkeys(zip(sources, ids, strict=True), 0)  # in order of appearance
        last |= {(sources[i], ids[i]): i for i in order.tolist()}
        places = np.fromiter(last.values(), np.int64, len(last))
        table = attempts.iloc[places].reset_index(drop=True)
        ended = outcomes.iloc[places]
        states = np.where(
            ended == "succeeded", OK, np.where(ended.isin(_FAILED), FAILED, UNFINISHED)
        )
        return cls(
            name,
            table,
            list(last),
            states,
            texts(table["output"]),
            table["model_ms"].astype("float64").to_numpy(),
            _version(table, name),
        )


def _version(table: pd.DataFrame, name: str) -> str:
    found = table[["model", "version"]].dropna().drop_duplicates()
    names = sorted(f"{model}:{version}" for model, version in found.itertuples(index=False))
    if len(names) > 1:
        raise InvalidComparison(
            f"the {name} frame has {len(names)} versions: {', '.join(names[:5])}; give the attempts"
            " of one"
        )
    return names[0] if names else ""


def texts(column: pd.Series[Any]) -> list[str | None]:
    """Return a column of texts as a list. Missing ones are None."""
    found = column.astype(object)
    listed: list[str | None] = found.where(column.notna(), None).tolist()
    return listed


@dataclasses.dataclass(frozen=True, slots=True)
class Pairs:
    """Two sides, and where each event is: ``old_at`` and ``new_at``, by pairs.

    ``only_old`` and ``only_new`` are the places of events without a partner.
    """

    old: Side
    new: Side
    old_at: np.ndarray[Any, Any]
    new_at: np.ndarray[Any, Any]
    only_old: np.ndarray[Any, Any]
    only_new: np.ndarray[Any, Any]

    def __len__(self) -> int:
        return len(self.old_at)

    def both(self, old: int, new: int) -> np.ndarray[Any, Any]:
        """Return which pairs have these two states."""
        found: np.ndarray[Any, Any] = (self.old.states[self.old_at] == old) & (
            self.new.states[self.new_at] == new
        )
        return found


def paired(old: Side, new: Side) -> Pairs:
    """Pair two sides by source and event id, in the order of *old*."""
    import numpy as np

    where = {key: i for i, key in enumerate(new.keys)}
    found = np.array([where.get(key, -1) for key in old.keys], np.int64)
    at = np.flatnonzero(found >= 0)
    left_over = np.setdiff1d(np.arange(len(new.keys)), found[at])
    return Pairs(old, new, at, found[at], np.flatnonzero(found < 0), left_over)


def required(pairs: Pairs) -> Pairs:
    """Return *pairs*, which must not be empty."""
    if not len(pairs):
        old, new = pairs.old, pairs.new
        raise NothingToCompare(
            f"no event was answered by both versions: {len(old.keys):,} by"
            f" {old.version or 'the old one'}, {len(new.keys):,} by {new.version or 'the new one'};"
            " run the new version on recorded events first (replay), or beside the old one (shadow)"
        )
    return pairs


def slices(pairs: Pairs, by: str | Callable[[Mapping[str, Any]], Any] | None) -> list[str] | None:
    """Return the slice of each pair, then of the events of the old and the new side alone.

    *by* is a column, or a function of a row of attempts. A function that fails on a row puts it
    into a slice of that error.
    """
    import pandas as pd

    if by is None:
        return None
    parts = [
        pairs.old.table.iloc[pairs.old_at],
        pairs.old.table.iloc[pairs.only_old],
        pairs.new.table.iloc[pairs.only_new],
    ]
    if callable(by):
        return [_slice(by, row) for part in parts for row in part.to_dict("records")]
    if not isinstance(by, str) or by not in parts[0].columns:
        raise NotFound.of(
            "column", str(by), parts[0].columns, "by= takes a function of a row as well"
        )
    found: list[Any] = []
    for part in parts:
        codes, names = pd.factorize(part[by].astype(object))
        named = [*map(str, names), NONE]
        found += [named[code] for code in codes.tolist()]
    return found


def _slice(by: Callable[[Mapping[str, Any]], Any], row: Any) -> str:
    try:
        found = by(row)
    except Exception as error:
        return f"({type(error).__name__})"
    return NONE if found is None or found != found else str(found)


def measured(side: Side) -> list[Mapping[str, Any]]:
    """Return the reported measures of each event: a dictionary, or JSON text of one."""
    if "measures" not in side.table.columns:
        return [{}] * len(side.keys)
    found: list[Mapping[str, Any]] = []
    for value in side.table["measures"].tolist():
        if isinstance(value, str):
            try:
                value = json.loads(value)
            except ValueError:
                value = {}
        found.append(value if isinstance(value, Mapping) else {})
    return found


def number(value: Any) -> float:
    """Return a measure as a float, NaN if it is no number."""
    try:
        return float(value)
    except (TypeError, ValueError, OverflowError):
        return float("nan")


@dataclasses.dataclass(frozen=True, slots=True)
class Truths:
    """The labels of pairs: ``at`` are the pairs, ``truths`` their values.

    ``unknown`` labels belong to no pair. ``ambiguous`` ones name an event id of two sources.
    """

    at: Sequence[int]
    truths: Sequence[Any]
    unknown: int
    ambiguous: int


def truths(pairs: Pairs, labels: pd.DataFrame | None) -> Truths | None:
    """Return the labels of *pairs*. Of several labels for an event the last row counts.

    *labels* has the columns ``event_id``, ``label`` and perhaps ``source``. A text is JSON, as
    outputs are. A text that is no JSON stands for itself.
    """
    if labels is None:
        return None
    for column in ("event_id", "label"):
        if column not in labels.columns:
            raise NotFound.of("column", column, labels.columns, "labels have event_id and label")
    places: dict[Key, int] = {}
    of_id: dict[str, list[int]] = {}
    for i, at in enumerate(pairs.old_at.tolist()):
        places[pairs.old.keys[at]] = i
        of_id.setdefault(pairs.old.keys[at][1], []).append(i)
    sources = texts(labels["source"]) if "source" in labels else [None] * len(labels)
    found: dict[int, Any] = {}
    unknown, ambiguous = set(), set()
    for source, event_id, label in zip(
        sources, labels["event_id"].tolist(), _labels(labels["label"]), strict=True
    ):
        at_ = of_id.get(event_id, []) if source is None else [places.get((source, event_id), -1)]
        if at_ in ([], [-1]):
            unknown.add((source, event_id))
        elif len(at_) > 1:
            ambiguous.add(event_id)
        else:
            found[at_[0]] = label
    return Truths(list(found), list(found.values()), len(unknown), len(ambiguous))


def _labels(column: pd.Series[Any]) -> list[Any]:
    given = column.tolist()
    read = iter(values([value for value in given if isinstance(value, str)]))
    found = []
    for value in given:
        one = next(read) if isinstance(value, str) else value
        found.append(value if isinstance(one, Unreadable) else one)
    return found
