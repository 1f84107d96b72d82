"""Labels as they come from users: checked, and shown as a frame."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime
from typing import TYPE_CHECKING, Any

from mltrigger.errors import AmbiguousEvent, InvalidEvent
from mltrigger.event import codec
from mltrigger.reports import frames
from mltrigger.reports.naming import EventKey, named
from mltrigger.store.labels import Label, Labels
from mltrigger.text import short

if TYPE_CHECKING:
    import pandas as pd

LABELS: dict[str, Any] = {
    "event_id": "str",
    "source": "str",
    "truth": "str",
    "at": frames.TIME,
    "made_at": frames.TIME,
    "by": "str",
    "known": "bool",
    "latest": "bool",
}
_MAX_BY = 200
_NEEDED, _TAKEN = ("event_id", "truth"), ("source", "at", "by")


def frame(labels: Labels) -> pd.DataFrame:
    """Return all labels, each as one row."""
    rows = [(*row[:6], bool(row[6]), bool(row[7])) for row in labels.rows()]
    return frames.frame(rows, LABELS)


def label(key: EventKey, truth: Any, at: datetime | None, made_by: str | None) -> Label:
    """Return a checked label.

    Raises
    ------
    InvalidEvent
        When the id is empty, or *at* or *made_by* cannot be kept.
    NotEncodable
        When *truth* has no JSON form.
    """
    if not key.event_id:
        raise InvalidEvent("the id of the event is empty")
    return Label(key.event_id, key.source, codec.dumps(truth), _moment(at), _maker(made_by) or "")


def each(table: Any, made_by: str | None) -> Iterator[Label]:
    """Yield the checked labels of a frame, or of mappings. The error names the row."""
    rows = codec.rows_of(table)
    if rows is None:
        rows = [table] if isinstance(table, Mapping) else list(table)
    for number, row in enumerate(rows):
        if not isinstance(row, Mapping) or not row.keys() >= set(_NEEDED):
            raise InvalidEvent(
                f"row {number} is {short(row)}: a row of labels has event_id and truth, and may"
                f" have {', '.join(_TAKEN)}"
            )
        others = [None if _is_missing(row.get(name)) else row[name] for name in _TAKEN]
        source, at, by = others
        if _is_missing(row["truth"]):
            raise InvalidEvent(f"row {number} has no truth: leave out rows without one")
        try:
            yield label(named(row, source), row["truth"], at, by or made_by)
        except InvalidEvent as error:
            raise InvalidEvent(f"row {number}: {error}") from None


def completed(found: Sequence[Label], sources: Mapping[str, Sequence[str]]) -> list[Label]:
    """Return labels with the source of their event, if it is known.

    Raises
    ------
    AmbiguousEvent
        When events of several sources have the id, and the label does not say which.
    """
    done = []
    for one in found:
        known = sources.get(one.event_id, ())
        if one.source is None and len(known) > 1:
            listed = ", ".join(repr(short(source)) for source in known[:8])
            raise AmbiguousEvent(
                f"event {short(one.event_id)!r} is there from {len(known)} sources: {listed}; say"
                f" which, source={known[0]!r:.100}",
                known,
            )
        if one.source is None and known:
            one = one._replace(source=known[0])
        done.append(one)
    return done


def _moment(at: datetime | None) -> int | None:
    if at is None:
        return None
    if not isinstance(at, datetime):
        raise InvalidEvent(f"at must be a datetime, got {short(at)}")
    if at.utcoffset() is None:
        raise InvalidEvent(
            f"at={at.isoformat()} is naive; give its zone, for example datetime.now(UTC)"
        )
    return int(at.timestamp() * 1e6)


def _maker(made_by: str | None) -> str | None:
    if made_by is not None and (not isinstance(made_by, str) or len(made_by) > _MAX_BY):
        raise InvalidEvent(
            f"by must be a name of at most {_MAX_BY} characters, got {short(made_by)}"
        )
    return made_by


def _is_missing(value: Any) -> bool:
    """Whether a cell of a frame is empty."""
    return (
        value is None
        or type(value).__name__ in ("NaTType", "NAType")
        or (isinstance(value, float) and value != value)
    )
