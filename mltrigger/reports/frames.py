"""DataFrames: fixed columns and dtypes, also when there are no rows."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import pandas as pd

from mltrigger.clock import rounded_ms
from mltrigger.errors import StoreError
from mltrigger.store.damage import REPAIR
from mltrigger.store.outcomes import OUTCOMES, ROLES
from mltrigger.text import count, harmless, letters, near, short

TIME = "datetime64[us, UTC]"
_OUTCOME = pd.CategoricalDtype([*OUTCOMES, "open"])

INVOCATIONS: dict[str, Any] = {
    "event_id": "str",
    "source": "str",
    "type": "str",
    "topic": "str",
    "subscription": "str",
    "model": "str",
    "version": "str",
    "role": pd.CategoricalDtype(list(ROLES)),
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
    "newest_at": TIME,
}
LATENCY: dict[str, Any] = {
    "stage": pd.CategoricalDtype(["queue", "model", "total"], ordered=True),
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
    "missing": "Int64",
    "double": "Int64",
    "surplus": "Int64",
    "balanced": "bool",
    "events": "str",
}
PLAN: dict[str, Any] = {
    "subscription": "str",
    "action": pd.CategoricalDtype(["create", "change", "keep"]),
    "kind": "str",
    "name": "str",
    "setting": "str",
    "now": "str",
    "wanted": "str",
}
EXPLAIN: dict[str, Any] = {"step": "str", "ok": "boolean", "detail": "str"}
DOCTOR: dict[str, Any] = {
    "severity": pd.CategoricalDtype(["error", "warning", "info", "ok"], ordered=True),
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
RESULTS: dict[str, Any] = {
    "sample": "Int64",
    "subscription": "str",
    "model": "str",
    "version": "str",
    "outcome": _OUTCOME,
    "reason": "str",
    "error": "str",
}
ENDED: dict[str, Any] = {
    "subject": "str",
    "model": "str",
    "version": "str",
    "outcome": _OUTCOME,
    "reason": "str",
    "error": "str",
}

_NAMES = ("event_id", "name", "subscription", "topic")
"""What a row is called by, when it cannot be read."""
_CHECKED = frozenset(
    {
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
    }
)
"""Columns whose text was checked when it came in. The text of all others is made harmless; bytes
are in ``raw`` as they came.
"""


class Sentences(pd.DataFrame):
    """A frame whose text is shown whole: what is cut off after 50 characters, as pandas does it,
    explains nothing.
    """

    @property
    def _constructor(self) -> type[pd.DataFrame]:
        return pd.DataFrame

    def __repr__(self) -> str:
        with pd.option_context(
            "display.max_colwidth", None, "display.max_columns", None, "display.width", 1000
        ):
            return super().__repr__()

    def _repr_html_(self) -> str | None:
        with pd.option_context("display.max_colwidth", None):
            html: str | None = super()._repr_html_()  # type: ignore[misc]  # the stubs do not know it
            return html


_ERROR = 300


class DeadLetters(pd.DataFrame):
    """Dead letters: a frame to compute with, and a card to read, also of a part of the rows.

    Parts without its columns are tables.
    """

    _READ = (
        "event_id",
        "subject",
        "reason",
        "attempts",
        "model",
        "version",
        "error_type",
        "error",
        "traceback",
        "dead_at",
        "data",
    )
    _SHOWN = 20

    @property
    def _constructor(self) -> type[pd.DataFrame]:
        return DeadLetters

    def __repr__(self) -> str:
        few = [
            name
            for name in ("event_id", "reason", "attempts", "error_type", "error")
            if name in self.columns
        ]
        table = pd.DataFrame(self)
        if not set(self._READ) <= set(self.columns):
            return repr(table)
        with pd.option_context("display.max_columns", None, "display.width", 200):
            return (
                f"{table[few]!r}\n({len(self.columns)} columns:"
                f" {', '.join(map(str, self.columns))})"
            )

    def _repr_html_(self) -> str | None:
        if not set(self._READ) <= set(self.columns) or not self.columns.is_unique:
            html: str | None = pd.DataFrame(self)._repr_html_()  # type: ignore[operator]  # the stubs do not know it
            return html
        rest = (
            f"{len(self) - self._SHOWN:,} more: .iloc[{self._SHOWN}:]"
            if len(self) > self._SHOWN
            else ""
        )
        entries = [
            _letter(row)
            for row in pd.DataFrame(self)[list(self._READ)].head(self._SHOWN).to_dict("records")
        ]
        return letters(count(len(self), "dead letter"), entries, rest)


def _letter(row: Mapping[Any, Any]) -> tuple[str, str, str, list[tuple[str, str]]]:
    """Return a dead letter as :func:`mltrigger.text.letters` shows it."""
    known = {name: value for name, value in row.items() if not pd.isna(value)}
    about = known.get("subject") or known["event_id"]
    at = f"{known['dead_at']:%Y-%m-%d %H:%M:%S} UTC" if "dead_at" in known else ""
    model = ":".join(str(known[name]) for name in ("model", "version") if name in known)
    facts = " · ".join(
        part
        for part in (known.get("reason", ""), count(known.get("attempts", 0), "attempt"), model, at)
        if part
    )
    error = ": ".join(str(known[name]) for name in ("error_type", "error") if name in known)
    line = short(error, _ERROR)
    more = [("whole error", error)] if line != error else []
    more += [("traceback", near(known["traceback"]))] if "traceback" in known else []
    more += [("data", str(known["data"]))] if "data" in known else []
    return (
        str(about),
        facts,
        line,
        more if about == known["event_id"] else [*more, ("event id", str(known["event_id"]))],
    )


def dead_letters(rows: Iterable[Sequence[Any]]) -> pd.DataFrame:
    """Return dead letters as :func:`frame` does, shown as a card."""
    return DeadLetters(frame(rows, DEAD_LETTERS))


def sentences(rows: Iterable[Sequence[Any]], schema: Mapping[str, Any]) -> pd.DataFrame:
    """Return *rows* as :func:`frame` does, shown whole."""
    return Sentences(frame(rows, schema))


def frame(rows: Iterable[Sequence[Any]], schema: Mapping[str, Any]) -> pd.DataFrame:
    """Return *rows* as a DataFrame with exactly the columns and dtypes of *schema*; times come as
    microseconds since 1970.

    What came from outside as text is written so that showing it can move no cursor and turn no line
    around: ``\\u001b``. JSON stays the same JSON.
    """
    columns, records = list(schema), [tuple(row) for row in rows]
    table = pd.DataFrame.from_records(records, columns=columns)
    for name in (name for name, dtype in schema.items() if dtype == "str" and name not in _CHECKED):
        if not "".join(text for text in table[name] if isinstance(text, str)).isprintable():
            table[name] = [
                harmless(text) if isinstance(text, str) else text for text in table[name]
            ]
    try:
        return pd.DataFrame(
            {name: _typed(table[name], dtype) for name, dtype in schema.items()}, columns=columns
        )
    except (ValueError, TypeError, OverflowError) as error:
        raise _unreadable(records, schema) or error from error


def _unreadable(rows: Sequence[Sequence[Any]], schema: Mapping[str, Any]) -> StoreError | None:
    """Return the error about the first of *rows* that is not what *schema* says: SQLite keeps
    anything in any column.
    """
    for number, row in enumerate(rows):
        for value, (name, dtype) in zip(row, schema.items(), strict=True):
            try:
                _typed(pd.Series([value]), dtype)
            except (ValueError, TypeError, OverflowError):
                known = next(
                    (
                        f"{n} {v!r:.80}, "
                        for n, v in zip(schema, row, strict=True)
                        if n in _NAMES and n != name
                    ),
                    "",
                )
                where = (
                    f"row {number} of what was asked for ({known}its column {name!r} is"
                    f" {value!r:.60})"
                )
                return StoreError(f"the store is damaged: {where} cannot be read; {REPAIR}")
    return None


def _typed(values: Any, dtype: Any) -> Any:
    if dtype == TIME:
        return pd.to_datetime(values.astype("Int64"), unit="us", utc=True).astype(TIME)
    return (pd.to_numeric(values) if dtype == "float64" else values).astype(dtype)


def values(given: list[Any]) -> Any:
    """Return one column of outputs; whole numbers stay whole where some rows have none, and no rows
    are a column of objects.
    """
    there = [v for v in given if v is not None]
    if (
        there
        and len(there) < len(given)
        and all(type(v) is int and -(2**63) <= v < 2**63 for v in there)
    ):
        return pd.array(given, dtype="Int64")
    return given if there else pd.Series(given, dtype=object)


def latency(times: pd.DataFrame) -> pd.DataFrame:
    """Return count and quantiles per stage and version of an invocation frame's ``version`` and
    ``*_ms`` columns.
    """
    stages, quantiles = ("queue", "model", "total"), (0.5, 0.95, 0.99)
    done = times.dropna(subset=["model_ms"])
    groups = done.groupby("version", sort=True)[[f"{stage}_ms" for stage in stages]]
    counts, most, found = groups.size(), groups.max(), groups.quantile(pd.Series(quantiles))
    rows = [
        (
            stage,
            v,
            counts[v],
            *(rounded_ms(found.loc[(v, q), f"{stage}_ms"]) for q in quantiles),
            rounded_ms(most.loc[v, f"{stage}_ms"]),
        )
        for stage in stages
        for v in counts.index
    ]
    return frame(rows, LATENCY)
