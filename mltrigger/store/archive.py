"""Events of the archive: from rows to values."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any, NamedTuple

from mltrigger.event.event import Event
from mltrigger.event.making import restored
from mltrigger.store.damage import ERRORS, damaged, texts
from mltrigger.store.keys import id_text, time_of, trace_of

TYPE = "(SELECT text FROM name WHERE id = e.type_id)"
SOURCE = "(SELECT text FROM name WHERE id = e.source_id)"
ARCHIVED = (
    f"e.seq, {TYPE}, {SOURCE}, e.id, e.published_us, e.lag_us, e.time, e.subject,"
    " e.datacontenttype, e.dataschema, e.traceparent, e.extensions, e.data"
)


class Archived(NamedTuple):
    """An event of the archive, its data not decoded: as bytes, with their media type."""

    event: Event
    raw: bytes
    media_type: str | None


def archived(row: Sequence[Any]) -> Archived:
    """Return the event of a row with the columns ``ARCHIVED``."""
    seq, type_, source, key, at_us, lag_us, time, subject, media_type, schema, trace, *rest = row
    extensions, data = rest
    try:
        texts(type_, source, subject, media_type, schema)
        others = {"traceparent": trace or trace_of(key)}
        if extensions:
            others |= json.loads(extensions)
        event_time, event_id = time_of(at_us, lag_us, time), id_text(key)
        return Archived(
            restored(
                None, type_, source, event_id, event_time, subject, media_type, schema, others
            ),
            _bytes(data),
            media_type,
        )
    except ERRORS as error:
        raise damaged("event", seq, error) from error


def _bytes(data: Any) -> bytes:
    if not isinstance(data, bytes):  # bytes(5) would be five of them
        raise TypeError(f"bytes expected, got {data!r:.60}")
    return data
