"""One row, opened: the payload, all attempts, the way of its event, and why."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from mltrigger.broker import SubscriptionSpec
from mltrigger.errors import NotFound, StoreError
from mltrigger.event.data import is_json
from mltrigger.event.making import can_open
from mltrigger.notebook.cockpit.code import Script, Step, call
from mltrigger.notebook.cockpit.images import MOST_BYTES, data_url, too_large
from mltrigger.notebook.cockpit.texts import WHOLE, bounded, failed, iso, rounded
from mltrigger.reports.views import data_text
from mltrigger.store.outcomes import ANSWERING, ROLES
from mltrigger.text import near, short, visible

if TYPE_CHECKING:
    from mltrigger.bus import EventBus
    from mltrigger.notebook.cockpit.actions.base import Desk

MOST_STEPS, MOST_ATTEMPTS = 200, 200
"""The most rows of a trace or an explanation, and the most attempts."""
_COLUMNS = (
    *("seq", "attempt", "role", "version", "outcome", "reason", "received_at", "started_at"),
    "queue_ms",
    *("model_ms", "total_ms", "worker", "output", "error_type", "error", "stdout", "traceback"),
    "measures",
)
Rows = list[dict[str, Any]]
_LOCAL = "file:"
HIDDEN = "Your role in the database may not read the data of events: ask its owner."
_UNEXPLAINED: Rows = [{"step": "filter and key", "answer": HIDDEN}]


class Gone(NotFound):
    """The event of a row was deleted meanwhile."""


def detail(
    desk: Desk,
    spec: SubscriptionSpec,
    seq: int,
    attempt: int,
    lane: tuple[str | None, str | None] = (None, None),
) -> dict[str, Any]:
    """Return everything about one attempt and its event as JSON values, and its code.

    *lane* is the role and the version of the attempt. Lanes count attempts of their own. ``None``
    means any.

    Nothing of an event is run or fetched. Only an image is shown, and an object of a watched
    folder, if it is one.

    Raises
    ------
    Gone
        When retention has deleted the event.
    """
    bus = desk.bus
    event_id, source, raw, media_type = payload(bus, spec, seq)
    letters = bus.log.dead_letters(spec.id, seq, with_data=False)
    attempts = attempts_of(bus, spec, seq)
    own = meant(attempts, attempt, lane)
    trace = _readable(bus, lambda: _trace(bus, event_id, source), [])
    explained = _readable(bus, lambda: _explained(bus, spec, event_id, source), _UNEXPLAINED)
    traceback = own and own["traceback"]
    if letters and (own is None or own["outcome"] == "dead"):
        traceback = traceback or letters[0].traceback
    return {
        "payload": _text(raw, media_type),
        "hidden": HIDDEN if bus.log.hides_data else "",
        "edited": _edited(bus, spec, seq, own),
        "media_type": short(media_type or "application/json"),
        "editable": not bus.log.hides_data and _is_editable(raw, media_type),
        "image": data_url(raw) or _object(bus, spec, seq),
        "image_note": too_large(raw),
        "output": bounded((own and own["output"]) or ""),
        "error": bounded(failed(own["error_type"], own["error"], own["reason"]) if own else ""),
        "traceback": bounded(near(traceback)) if traceback else "",
        "printed": bounded((own and own["stdout"]) or ""),
        "attempts": [_attempt(row) for row in attempts[-MOST_ATTEMPTS:]],
        "trace": trace[:MOST_STEPS],
        "explain": explained[:MOST_STEPS],
        "in_all": {"attempts": len(attempts), "trace": len(trace), "explain": len(explained)},
        "dead": bool(letters),
        "actions": applying(bool(letters), attempts),
        "code": _code(desk, spec, event_id, source).code(),
    }


def source_needed(bus: EventBus, event_id: str, source: str) -> str | None:
    """Return the source of an event if its id alone is ambiguous."""
    return source if len({found.source for found in bus.log.find(event_id)}) > 1 else None


def _code(desk: Desk, spec: SubscriptionSpec, event_id: str, source: str) -> Script:
    named = source_needed(desk.bus, event_id, source)
    return Script(
        (
            Step(call(desk.root, "trace", event_id, source=named)),
            Step(call(desk.root, "explain", event_id, spec.name, source=named)),
        )
    )


def attempts_of(bus: EventBus, spec: SubscriptionSpec, seq: int) -> list[dict[str, Any]]:
    """Return all attempts of an event, those of lanes among them."""
    rows = bus.log.invocations(_COLUMNS, subscription_id=spec.id, seqs=(seq, seq), roles=ROLES)
    return [dict(zip(_COLUMNS, row, strict=True)) for row in rows]


def meant(
    attempts: Sequence[dict[str, Any]], attempt: int, lane: tuple[str | None, str | None]
) -> dict[str, Any] | None:
    """Return the attempt of a row of the table, None if it is gone."""
    return next((row for row in attempts if _is_meant(row, attempt, lane)), None)


def payload(bus: EventBus, spec: SubscriptionSpec, seq: int) -> tuple[str, str, bytes, str | None]:
    """Return the id and the source of an event, and its data with their media type.

    The data are those that the model would get now: a redrive may have replaced them. Who may not
    read data gets none.
    """
    log = bus.log
    named = log.named(seq)
    if named is None:
        raise Gone(
            f"event {seq} is not in the log any more: retention has deleted it, or it never was"
        )
    event_id, source, media_type = named
    if log.hides_data:
        return event_id, source, b"", media_type
    again = log.resent(spec.id, seq)
    if again is not None and again.data is not None:
        return event_id, source, bytes(again.data), again.media_type
    return event_id, source, bytes(log.archived(seq).raw), media_type


def applying(dead: bool, attempts: Sequence[dict[str, Any]]) -> list[str]:
    """Return the names of the actions that make sense for a row."""
    answered = any(row["outcome"] in ("succeeded", "dead") for row in attempts)
    return [
        *(["redrive"] if dead else []),
        "dry_run",
        "fire",
        *(["discard"] if dead else []),
        *(["export_case"] if answered else []),
    ]


def _readable(bus: EventBus, read: Callable[[], Rows], instead: Rows) -> Rows:
    """Return the rows of *read*, or others for a role that may not read data of events."""
    try:
        return read()
    except StoreError:
        if not bus.log.hides_data:
            raise
        return instead


def _edited(
    bus: EventBus, spec: SubscriptionSpec, seq: int, own: dict[str, Any] | None
) -> dict[str, Any] | None:
    """Return the published data of an event that was sent again with others.

    ``used`` says whether the attempt *own* got the others. None stands for not known: the event was
    sent again several times, and only the last others are kept.
    """
    again = bus.log.resent(spec.id, seq)
    if again is None or again.data is None:
        return None
    _, raw, media_type = bus.log.archived(seq)
    used: bool | None = False
    if own is not None and own["role"] in ANSWERING:
        is_first = own["attempt"] == 1 and own["role"] != "correction"
        is_unknown = again.times > 1 and not is_first
        used = own["received_at"] >= again.resent_us or (None if is_unknown else False)
    return {
        "at": iso(again.resent_us),
        "used": used,
        "original": _text(bytes(raw), media_type),
    }


def _is_text(media_type: str | None) -> bool:
    return is_json(media_type) or (media_type or "").startswith("text/")


def _is_meant(row: dict[str, Any], attempt: int, lane: tuple[str | None, str | None]) -> bool:
    role, version = lane
    return bool(
        row["attempt"] == attempt
        and role in (None, row["role"])
        and version in (None, visible(row["version"] or ""))
    )


def _is_editable(raw: bytes, media_type: str | None) -> bool:
    """Whether the shown text is the payload. A text that is shown otherwise would be changed."""
    if len(raw) > WHOLE or not _is_text(media_type):
        return False
    return is_json(media_type) or _text(raw, media_type).encode() == raw


def _text(raw: bytes, media_type: str | None) -> str:
    if _is_text(media_type):
        return bounded(raw.decode("utf-8", "backslashreplace"))
    return bounded(data_text(raw, media_type))


def _object(bus: EventBus, spec: SubscriptionSpec, seq: int) -> str | None:
    """Return the object of an event as an image, if it lies in a watched folder."""
    if not bus.registry.sources().get(spec.topic, "").startswith(_LOCAL):
        return None
    with contextlib.suppress(Exception):  # gone, changed, or no image
        event = bus.archived(spec, seq)
        if can_open(event):
            with event.open() as file:
                return data_url(file.read(MOST_BYTES + 1))
    return None


def _attempt(row: dict[str, Any]) -> dict[str, Any]:
    return {
        "attempt": row["attempt"],
        "version": visible(row["version"] or ""),
        "role": row["role"],
        "outcome": row["outcome"],
        "reason": short(row["reason"] or ""),
        "started": iso(row["started_at"]),
        **{name: rounded(row[name]) for name in ("queue_ms", "model_ms", "total_ms")},
        "worker": short(row["worker"] or ""),
    }


def _trace(bus: EventBus, event_id: str, source: str) -> list[dict[str, Any]]:
    """Return the way of an event through the pipeline. Times count from its first cause."""
    frame = bus.trace(event_id, source=source)
    if not len(frame):
        return []
    began = frame["published_at"].min()
    found = []
    for row in frame.astype(object).where(frame.notna(), None).to_dict("records"):
        published_ms = (row["published_at"] - began).total_seconds() * 1000
        queue, model, total = row["queue_ms"], row["model_ms"], row["total_ms"]
        waited = None if None in (queue, model, total) else total - model - queue
        found.append(
            {
                "topic": visible(row["topic"]),
                "event_id": visible(row["event_id"]),
                "subscription": visible(row["subscription"] or ""),
                "version": visible(row["version"] or ""),
                "outcome": row["outcome"] or "",
                "start_ms": rounded(published_ms + max(waited or 0.0, 0.0)),
                "queue_ms": rounded(queue),
                "model_ms": rounded(model),
                "depth": int(row["hop"]),
            }
        )
    return found


def _explained(
    bus: EventBus, spec: SubscriptionSpec, event_id: str, source: str
) -> list[dict[str, Any]]:
    frame = bus.explain(event_id, spec.name, source=source)
    return [
        {"step": visible(step), "answer": bounded(str(answer))}
        for step, answer in zip(frame["step"], frame["detail"], strict=True)
    ]
