"""A page of invocations for the table: filtered in the store, and never more than a page."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from mltrigger.errors import InvalidEvent, NotFound
from mltrigger.notebook.cockpit.code import call
from mltrigger.notebook.cockpit.detail import HIDDEN
from mltrigger.notebook.cockpit.given import Given, filters
from mltrigger.notebook.cockpit.texts import (
    ERROR,
    PEEK,
    TEXT,
    event_hint,
    failed,
    iso,
    json_hint,
    rounded,
)
from mltrigger.reports.choosing import matching_of
from mltrigger.store.matching import Matching
from mltrigger.text import short, visible

if TYPE_CHECKING:
    from mltrigger.bus import EventBus
    from mltrigger.notebook.cockpit.actions.base import Desk

MOST_ROWS = 500
"""The most rows of a page."""
MOST_COUNTED = 100_000
_PAGE_S, _COUNT_S = 0.15, 0.1
"""The longest time for looking, and for counting."""
_COLUMNS = (
    *("row", "seq", "attempt", "subscription", "event_id", "version", "role", "outcome", "reason"),
    *("started_at", "queue_ms", "model_ms", "total_ms", "output", "error_type", "error"),
)
_FILTERS = (
    *("subscription", "version", "role", "outcome", "reason", "key", "since", "until", "text"),
)


def page(desk: Desk, given: Given) -> dict[str, Any]:
    """Return one page of attempts that match a filter, the newest first, and its code.

    A filter without a subscription means all of them. A rare match takes long to find: then the
    page ends early, and says up to which time it has looked.

    Parameters
    ----------
    desk : Desk
        The bus.
    given : Given
        ``filter``, ``limit``, and for pages but the first ``before`` or ``after``: the ``next`` of
        the page before, or the ``row`` of an attempt. ``after`` goes to newer ones, from 0 on.
    """
    bus, asked = desk.bus, given.inner("filter")
    wanted = matching(bus, asked)
    before = given.whole("before", -(2**63)) if "before" in given else None
    limit = given.whole("limit", 1) if "limit" in given else 100
    limit = min(limit, MOST_ROWS)
    if "after" in given:
        found = bus.log.newer(_COLUMNS, wanted, given.whole("after"), limit, _PAGE_S)
    else:
        found = bus.log.matching(_COLUMNS, wanted, before, limit, _PAGE_S)
    answer: dict[str, Any] = {"rows": _shown(bus, found.rows), "next": found.next}
    if found.looked_us is not None:
        answer["looked"] = iso(found.looked_us)
    if before is None and "after" not in given:
        counted = bus.log.count(wanted, MOST_COUNTED, _COUNT_S)
        answer |= {"count": counted.n, "count_is": "exact" if counted.is_exact else "at least"}
    else:
        answer |= {"count": None, "count_is": "at least"}
    name = asked.text_or_none("subscription")
    chosen = filters(asked, _FILTERS[1:])
    code = call(desk.root, "invocations", *([name] if name else []), limit=limit, **chosen)
    return {**answer, "code": code.code()}


def matching(bus: EventBus, given: Given) -> Matching:
    """Return the attempts that a filter means.

    Raises
    ------
    NotFound
        For a wrong name, with the near ones.
    """
    for wrong in given.names():
        if wrong not in _FILTERS:
            raise NotFound.of("filter", short(wrong), _FILTERS)
    name = given.text_or_none("subscription")
    spec = None if name is None else bus.spec(name)
    if "key" in given and bus.log.hides_data:
        raise InvalidEvent(f"no key can be looked for. {HIDDEN}")
    return matching_of(bus.log, spec, **filters(given, _FILTERS[1:]))


def _shown(bus: EventBus, rows: list[tuple[Any, ...]]) -> list[dict[str, Any]]:
    """Return rows of short, harmless texts."""
    found = [dict(zip(_COLUMNS, row, strict=True)) for row in rows]
    seqs = sorted({row["seq"] for row in found})
    heads = bus.log.heads(seqs, PEEK) if seqs else []
    hints = {h.seq: event_hint(h.subject, h.media_type, h.size, h.head) for h in heads}
    ids = {spec.name: spec.id for spec in bus.registry.subscriptions(None) if spec.policy.key}
    keyed = [(ids[r["subscription"]], r["seq"]) for r in found if r["subscription"] in ids]
    keys = bus.log.keys_of(keyed) if keyed and not bus.log.hides_data else {}
    return [
        {
            "row": None if row["outcome"] == "running" else row["row"],
            "seq": row["seq"],
            "attempt": row["attempt"],
            "subscription": visible(row["subscription"]),
            "event": hints.get(row["seq"], ""),
            "event_id": visible(row["event_id"]),
            "version": visible(row["version"] or ""),
            "role": row["role"],
            "outcome": row["outcome"],
            "reason": short(row["reason"] or ""),
            "key": short(keys.get((ids.get(row["subscription"], 0), row["seq"]), "")),
            "started": iso(row["started_at"]),
            **{name: rounded(row[name]) for name in ("queue_ms", "model_ms", "total_ms")},
            "output": "" if row["output"] is None else json_hint(row["output"][:PEEK], TEXT),
            "error": short(failed(row["error_type"], row["error"], row["reason"]), ERROR)
            if row["outcome"] not in ("succeeded", "running")
            else "",
        }
        for row in found
    ]
