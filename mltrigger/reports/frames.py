"""DataFrames with fixed columns and dtypes, also without rows.

This is the door to pandas. Only the functions that make a frame import it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from mltrigger.errors import StoreError
from mltrigger.store.damage import REPAIR
from mltrigger.store.outcomes import OUTCOMES, ROLES
from mltrigger.text import harmless
from mltrigger.versions.running.measures import figures_of

if TYPE_CHECKING:
    import pandas as pd


class OneOf(NamedTuple):
    """The dtype of a column of categories."""

    categories: tuple[str, ...]
    ordered: bool = False


TIME, FIGURES = "datetime64[us, UTC]", "figures"
STAGES = ("queue", "model", "total")
_OUTCOME = OneOf((*OUTCOMES, "open"))

INVOCATIONS: dict[str, Any] = {
    "event_id": "str",
    "source": "str",
    "type": "str",
    "topic": "str",
    "subscription": "str",
    "model": "str",
    "version": "str",
    "role": OneOf(ROLES),
    "attempt": "Int64",
    "outcome": _OUTCOME,
    "reason": "str",
    "published_at": TIME,
    "received_at": TIME,
    "started_at": TIME,
    "finished_at": TIME,
    "settled_at": TIME,
    "queue_ms": "float64",
    "model_ms": "float64",
    "total_ms": "float64",
    "batch_size": "Int64",
    "worker": "str",
    "trace_id": "str",
    "output": "str",
    "error_type": "str",
    "error": "str",
    "stdout": "str",
    "measures": FIGURES,
}
EVENTS: dict[str, Any] = {
    "event_id": "str",
    "source": "str",
    "type": "str",
    "topic": "str",
    "subject": "str",
    "time": "str",
    "published_at": TIME,
    "trace_id": "str",
    "causation_id": "str",
    "hops": "Int64",
    "datacontenttype": "str",
    "data": "str",
}
MODELS: dict[str, Any] = {
    "model": "str",
    "version": "str",
    "aliases": "str",
    "kind": "str",
    "digest": "str",
    "portable": "bool",
    "takes": "str",
    "gives": "str",
    "address": "str",
    "description": "str",
    "registered_at": TIME,
}
SUBSCRIPTIONS: dict[str, Any] = {
    "subscription": "str",
    "topic": "str",
    "watches": "str",
    "selector": "str",
    "version": "str",
    "role": "str",
    "emit": "str",
    "filter": "str",
    "listeners": "Int64",
    "portable": "boolean",
    "paused": "bool",
    "visible": "Int64",
    "delayed": "Int64",
    "in_flight": "Int64",
    "succeeded": "Int64",
    "failed": "Int64",
    "dead": "Int64",
}
TOPICS: dict[str, Any] = {
    "topic": "str",
    "events": "Int64",
    "subscriptions": "Int64",
    "watches": "str",
    "state": "str",
    "since": TIME,
    "behind": "Int64",
    "detail": "str",
    "newest_at": TIME,
}
LATENCY: dict[str, Any] = {
    "stage": OneOf(STAGES, ordered=True),
    "version": "str",
    "count": "Int64",
    "p50_ms": "float64",
    "p95_ms": "float64",
    "p99_ms": "float64",
    "max_ms": "float64",
}
DEAD_LETTERS: dict[str, Any] = {
    "event_id": "str",
    "source": "str",
    "type": "str",
    "subject": "str",
    "reason": "str",
    "attempts": "Int64",
    "redriven": "Int64",
    "model": "str",
    "version": "str",
    "error_type": "str",
    "error": "str",
    "traceback": "str",
    "dead_at": TIME,
    "data": "str",
    "raw": "object",
}
DRY_RUN: dict[str, Any] = {
    "event_id": "str",
    "source": "str",
    "subject": "str",
    "model": "str",
    "version": "str",
    "outcome": _OUTCOME,
    "reason": "str",
    "model_ms": "float64",
    "stdout": "str",
    "error": "str",
}
SKIPPED: dict[str, Any] = {
    "event_id": "str",
    "source": "str",
    "type": "str",
    "subject": "str",
    "reason": "str",
    "detail": "str",
    "published_at": TIME,
}
AUDIT: dict[str, Any] = {
    "topic": "str",
    "subscription": "str",
    "published": "Int64",
    "filtered": "Int64",
    "sent": "Int64",
    "succeeded": "Int64",
    "dead": "Int64",
    "skipped": "Int64",
    "open": "Int64",
    "corrected": "Int64",
    "missing": "Int64",
    "double": "Int64",
    "surplus": "Int64",
    "balanced": "bool",
    "events": "str",
}
PLAN: dict[str, Any] = {
    "subscription": "str",
    "action": OneOf(("create", "change", "keep")),
    "kind": "str",
    "name": "str",
    "setting": "str",
    "now": "str",
    "wanted": "str",
}
EXPLAIN: dict[str, Any] = {"step": "str", "ok": "boolean", "detail": "str"}
DOCTOR: dict[str, Any] = {
    "severity": OneOf(("error", "warning", "info", "ok"), ordered=True),
    "about": "str",
    "check": "str",
    "finding": "str",
    "advice": "str",
}
TRACE: dict[str, Any] = {
    "hop": "Int64",
    "topic": "str",
    "subject": "str",
    "subscription": "str",
    "model": "str",
    "version": "str",
    "attempt": "Int64",
    "outcome": _OUTCOME,
    "queue_ms": "float64",
    "model_ms": "float64",
    "total_ms": "float64",
    "output": "str",
    "published_at": TIME,
    "event_id": "str",
    "causation_id": "str",
}
KEY: dict[str, Any] = {"event_id": "str", "source": "str"}
"""The last columns of results, on the right of the output. They name the event of a row."""
RESULTS: dict[str, Any] = {
    "sample": "Int64",
    "subscription": "str",
    "model": "str",
    "version": "str",
    "outcome": _OUTCOME,
    "reason": "str",
    "error": "str",
    **KEY,
}
ENDED: dict[str, Any] = {
    "subject": "str",
    "model": "str",
    "version": "str",
    "outcome": _OUTCOME,
    "reason": "str",
    "error": "str",
    **KEY,
}

_NAMES = ("event_id", "name", "subscription", "topic")
"""Columns that name a damaged row."""
CHECKED = frozenset(
    [
        "event_id",
        "source",
        "type",
        "topic",
        "subscription",
        "model",
        "version",
        "kind",
        "digest",
        "worker",
        "trace_id",
        "time",
    ]
)
"""Columns whose text was checked at its arrival. All other text is made harmless here."""
_UNTYPED = (ValueError, TypeError, OverflowError)


def dead_letters(rows: Iterable[Sequence[Any]]) -> pd.DataFrame:
    """Return dead letters as a frame that a notebook shows as a card."""
    from mltrigger.reports.shown import DeadLetters

    return DeadLetters(frame(rows, DEAD_LETTERS))


def sentences(rows: Iterable[Sequence[Any]], schema: Mapping[str, Any]) -> pd.DataFrame:
    """Return *rows* as :func:`frame` does. Their text is shown whole."""
    from mltrigger.reports.shown import Sentences

    return Sentences(frame(rows, schema))


def carded(table: pd.DataFrame, kind: str) -> pd.DataFrame:
    """Return *table*, which a notebook shows as a card."""
    from mltrigger.reports.shown import shown

    return shown(table, kind)


def frame(rows: Iterable[Sequence[Any]], schema: Mapping[str, Any]) -> pd.DataFrame:
    """Return *rows* as a DataFrame with exactly the columns and dtypes of *schema*.

    Times come in as microseconds since 1970. Control and bidirectional characters from outside are
    escaped (``\\u001b``): showing the text moves no cursor and turns no line around. JSON stays the
    same JSON.
    """
    import pandas as pd

    columns, records = list(schema), [tuple(row) for row in rows]
    table = pd.DataFrame.from_records(records, columns=columns)
    for name in (name for name, dtype in schema.items() if dtype == "str" and name not in CHECKED):
        if not "".join(text for text in table[name] if isinstance(text, str)).isprintable():
            table[name] = [
                harmless(text) if isinstance(text, str) else text for text in table[name]
            ]
    try:
        return pd.DataFrame(
            {name: _typed(table[name], dtype) for name, dtype in schema.items()}, columns=columns
        )
    except _UNTYPED as error:
        raise _unreadable(records, schema) or error from error


def _unreadable(rows: Sequence[Sequence[Any]], schema: Mapping[str, Any]) -> StoreError | None:
    """Return an error about the first value that does not fit *schema*.

    SQLite keeps any value in any column.
    """
    import pandas as pd

    for number, row in enumerate(rows):
        for value, (name, dtype) in zip(row, schema.items(), strict=True):
            try:
                _typed(pd.Series([value]), dtype)
            except _UNTYPED:
                named = [
                    f"{n} {v!r:.80}, "
                    for n, v in zip(schema, row, strict=True)
                    if n in _NAMES and n != name
                ]
                where = (
                    f"row {number} of what was asked for ({''.join(named[:1])}its column"
                    f" {name!r} is {value!r:.60})"
                )
                return StoreError(f"the store is damaged: {where} cannot be read; {REPAIR}")
    return None


def dtype_of(dtype: Any) -> Any:
    """Return the dtype of pandas for a dtype in a schema."""
    import pandas as pd

    if isinstance(dtype, OneOf):
        return pd.CategoricalDtype(list(dtype.categories), dtype.ordered)
    return "object" if dtype == FIGURES else dtype


def _typed(values: Any, dtype: Any) -> Any:
    import pandas as pd

    if dtype == TIME:
        return pd.to_datetime(values.astype("Int64"), unit="us", utc=True).astype(TIME)
    if dtype == FIGURES:
        kept = values.astype(object)
        read = kept.map(lambda v: figures_of(v) if isinstance(v, str) else v)
        return read.where(values.notna(), None)
    return (pd.to_numeric(values) if dtype == "float64" else values).astype(dtype_of(dtype))


def values(given: list[Any]) -> Any:
    """Return one column of outputs.

    Whole numbers stay whole where some rows have none. A column without values has objects.
    """
    import pandas as pd

    there = [v for v in given if v is not None]
    if not there:
        return pd.Series(given, dtype=object)
    if len(there) < len(given) and all(type(v) is int and -(2**63) <= v < 2**63 for v in there):
        return pd.array(given, dtype="Int64")
    return given


def beside(table: pd.DataFrame, columns: Mapping[str, Any], last: int = 0) -> pd.DataFrame:
    """Return *table* with more *columns* on its right. Its *last* columns stay the last."""
    import pandas as pd

    own = len(table.columns) - last
    parts = [table.iloc[:, :own], pd.DataFrame(columns, index=table.index), table.iloc[:, own:]]
    return pd.concat(parts if last else parts[:2], axis="columns")
