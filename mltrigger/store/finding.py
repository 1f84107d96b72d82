"""Find events of the archive by their id, or by an id that is nearly right."""

from __future__ import annotations

import difflib
import re
from collections.abc import Sequence
from typing import NamedTuple

from mltrigger.store.archive import SOURCE, TYPE
from mltrigger.store.keys import TextKey, id_key, id_text, is_uuid
from mltrigger.store.transaction import Reader

_FIND = f"""
SELECT e.seq, event_id(e.id), {SOURCE}, {TYPE}, t.name, e.published_us, e.extensions
FROM event e JOIN topic t ON t.id = e.topic_id
WHERE e.id = :id ORDER BY e.seq
"""
_SOURCES = "SELECT e.seq, n.text FROM event e JOIN name n ON n.id = e.source_id WHERE e.seq IN"
_BELOW = "SELECT DISTINCT id FROM event WHERE id < :key ORDER BY id DESC LIMIT :most"
_ABOVE = "SELECT DISTINCT id FROM event WHERE id > :key ORDER BY id LIMIT :most"
_BEGINS_UUID = re.compile("[0-9a-f]{8}[0-9a-f-]{0,28}").fullmatch
_MOST, _AT_ONCE = 3, 5_000
_NEIGHBOURS = 8
_SIMILAR = 0.75


class Found(NamedTuple):
    """An event that was found by its id."""

    seq: int
    id: str
    source: str
    type: str
    topic: str
    published_us: int
    extensions: str | None


def find(reader: Reader, event_id: str, hides_data: bool = False) -> list[Found]:
    """Return every event with that id, oldest first. *hides_data*: without its extensions."""
    sql = _FIND.replace("e.extensions", "NULL") if hides_data else _FIND
    return list(map(Found._make, reader.query(sql, {"id": id_key(event_id)})))


def sources(reader: Reader, seqs: Sequence[int]) -> dict[int, str]:
    """Return the sources of these events, by number. Pruned events have none."""
    found: dict[int, str] = {}
    for first in range(0, len(seqs), _AT_ONCE):
        among = ", ".join(str(int(seq)) for seq in seqs[first : first + _AT_ONCE])
        found.update(reader.query(f"{_SOURCES} ({among})", {}))
    return found


def near(reader: Reader, event_id: str) -> list[str]:
    """Return a few existing ids that resemble *event_id*.

    Only its neighbours in the index are compared. The cost does not grow with the archive.
    """
    beginning = event_id.rstrip("….")
    found = [*_neighbours(reader, TextKey(beginning))]
    if _BEGINS_UUID(beginning):
        digits = beginning.replace("-", "")[:32]
        found += _neighbours(reader, bytes.fromhex(digits.ljust(32, "0")))
    begun = [each for each in found if beginning and each.startswith(beginning)]
    return (begun or difflib.get_close_matches(event_id, found, _MOST, _SIMILAR))[:_MOST]


def _neighbours(reader: Reader, key: bytes | TextKey) -> list[str]:
    """Return ids around *key* of its own kind, text or UUID."""
    near = {"key": key, "most": _NEIGHBOURS}
    rows = [*reader.query(_ABOVE, near), *reader.query(_BELOW, near)]
    return [id_text(each) for (each,) in rows if is_uuid(each) is is_uuid(key)]
