"""Events of the archive: from rows to values."""

from __future__ import annotations

import json
from collections.abc import Sequence
from datetime import datetime
from typing import Any, NamedTuple

from mltrigger.event.event import Event, restored
from mltrigger.store.damage import ERRORS, damaged, texts

ARCHIVED = (
    "e.seq, e.type, e.source, e.id, e.time, e.subject, e.datacontenttype, e.dataschema,"
    " e.traceparent, e.extensions, e.data"
)


class Archived(NamedTuple):
    """An event of the archive, its data not decoded: as bytes, with their media type."""

    event: Event
    raw: bytes
    media_type: str | None


def archived(row: Sequence[Any]) -> Archived:
    """Return the event of a row with the columns ``ARCHIVED``."""
    seq, type_, source, id_, time, subject, media_type, schema, traceparent, extensions, data = row
    try:
        texts(type_, source, id_, subject, media_type, schema, traceparent)
        others = {"traceparent": traceparent, **(json.loads(extensions) if extensions else {})}
        return Archived(
            restored(
                None,
                type_,
                source,
                id_,
                datetime.fromisoformat(time),
                subject,
                media_type,
                schema,
                others,
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
