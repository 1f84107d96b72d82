"""snapshot: the present state of one subscription, as plain JSON values for a dashboard."""

from __future__ import annotations

import dataclasses
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from mltrigger.clock import rounded_ms
from mltrigger.errors import Closed
from mltrigger.notebook.charts import histogram, quantile
from mltrigger.reports.views import data_text
from mltrigger.store.outcomes import FINAL
from mltrigger.text import short, visible

if TYPE_CHECKING:
    from mltrigger.broker import SubscriptionSpec
    from mltrigger.handle import Bus, Subscription

WINDOW = 500
"""Latency is that of this many newest attempts. So looking costs the same for any length of the
log.
"""
NEWEST = 10
_HINT, _TEXT, _ERROR = 60, 90, 160
_PEEK = 400
_WHOLE = 20_000
_RUNNING, _LEASED = 3, 64
_STAGES = ("queue", "model", "total")
_ROW = (
    "seq",
    "attempt",
    "version",
    "outcome",
    "reason",
    "model_ms",
    "total_ms",
    "output",
    "error_type",
    "error",
)
_ESCAPE = re.compile(r"\\u([0-9a-fA-F]{4})")


def snapshot(
    subscription: Subscription, previous: Mapping[str, Any] | None = None
) -> dict[str, Any]:
    """Return the present state of *subscription* as JSON values, with short, harmless texts.

    The parts are ``title``, ``topic``, ``selector``, ``state`` (in words), ``counts`` of events by
    outcome, ``attempts`` without a final outcome, ``depth``, ``latency`` (one row per stage and
    version, in milliseconds), ``histogram`` of the newest version, and ``newest`` attempts, newest
    first. ``repeatable`` says whether the topic has an event whose data can be published again.

    Parameters
    ----------
    subscription : Subscription
        The subscription to look at.
    previous : mapping, optional
        The snapshot before. Its rows are reused while nothing has ended and nothing runs.

    Raises
    ------
    Closed
        When the bus was closed.
    """
    bus = subscription.__mltrigger_bus__()  # a view may use the parts behind the handle
    spec = bus.registry.subscription(subscription.name)
    bound = spec or subscription._spec
    # Count first, read rows next: an outcome in between is counted in the next snapshot, which
    # then reads the rows again.
    tally, depth = bus.tally(bound), bus.broker.depth(bound)
    shown: dict[str, Any] = {
        "title": short(bound.name),
        "topic": short(bound.topic),
        "selector": short(bound.selector),
        "state": _state(bus, spec),
        "counts": {outcome: n for outcome, n in tally.items() if outcome in FINAL},
        "attempts": {outcome: n for outcome, n in tally.items() if outcome not in FINAL and n},
        "depth": {
            "waiting": depth.visible + depth.delayed,
            "delayed": depth.delayed,
            "in_flight": depth.in_flight,
            "dead": depth.dead,
        },
    }
    if previous is not None and _same_rows(previous, shown):
        shown |= {name: previous[name] for name in ("latency", "histogram", "newest")}
    else:
        shown |= _times(bus, bound) | {"newest": newest(bus, bound, in_flight=depth.in_flight)}
    shown["repeatable"] = bool(
        shown["newest"]
        or depth.visible
        or (previous["repeatable"] if previous else _has_event(bus, bound.topic))
    )
    if bus.closed:  # the counts may be those of a closed bus
        raise Closed("this bus is closed: mt.connect(…) opens another one")
    return shown


def newest(
    bus: Bus, spec: SubscriptionSpec, limit: int = NEWEST, in_flight: int = 0
) -> list[dict[str, Any]]:
    """Return the newest attempts of one subscription as short rows, newest first.

    A few of *in_flight* attempts come first. A fast model leases many more than it runs.
    """
    some = in_flight if in_flight <= _LEASED else 0
    found = bus.log.invocations(_ROW, subscription_id=spec.id, limit=limit + some, running=some > 0)
    under_way = [row for row in found if row[3] == "running"][:_RUNNING]
    rows = (under_way[::-1] + [row for row in found[::-1] if row[3] != "running"])[:limit]
    hints = _hints(bus, {row[0] for row in rows})
    return [_shown(hints.get(row[0], ""), *row) for row in rows]


def _shown(
    event: str,
    seq: int,
    attempt: int,
    version: str | None,
    outcome: str,
    reason: str | None,
    model_ms: float | None,
    total_ms: float | None,
    output: str | None,
    error_type: str | None,
    error: str | None,
) -> dict[str, Any]:
    """Return one attempt as a row of short texts."""
    failed = ": ".join(part for part in (error_type, error or reason) if part)
    return {
        "seq": seq,
        "attempt": attempt,
        "event": event,
        "version": short(version or ""),
        "outcome": outcome,
        "model_ms": _rounded(model_ms),
        "total_ms": _rounded(total_ms),
        "output": "" if output is None else _json_hint(output[:_PEEK], _TEXT),
        "error": short(failed, _ERROR),
    }


def whole(bus: Bus, spec: SubscriptionSpec, seq: int, attempt: int) -> dict[str, str]:
    """Return the complete texts of one attempt that a row shortens, by name.

    Each has a limit and says so when it is cut.
    """
    columns = ("attempt", "output", "error_type", "error", "reason", "stdout")
    rows = [
        row
        for row in bus.log.invocations(columns, subscription_id=spec.id, seqs=(seq, seq))
        if row[0] == attempt
    ]
    event = bus.log.archived(seq)
    texts = {"data": data_text(event.raw, event.media_type)}
    for _, output, error_type, error, reason, stdout in rows[-1:]:
        failed = ": ".join(part for part in (error_type, error or reason) if part)
        texts |= {"output": output or "", "error": failed, "printed": stdout or ""}
    return {name: _bounded(visible(text)) for name, text in texts.items() if text}


def _bounded(text: str) -> str:
    return (
        text
        if len(text) <= _WHOLE
        else f"{text[:_WHOLE]}… ({len(text) - _WHOLE:,} more characters)"
    )


def _state(bus: Bus, spec: SubscriptionSpec | None) -> str:
    if spec is None:
        return "unsubscribed"
    here = bus.listener_state(spec.name)
    return (
        "listening elsewhere"
        if here == "stopped" and bus.registry.live_listeners().get(spec.id)
        else here
    )


def _has_event(bus: Bus, topic: str) -> bool:
    """Return whether the topic has an event. Asked once: a busy bus makes it a long search."""
    return bool(bus.log.events(topic, limit=1))


def _same_rows(previous: Mapping[str, Any], now: Mapping[str, Any]) -> bool:
    """Return whether the rows are unchanged: nothing was recorded meanwhile, and nothing runs."""
    idle = not previous["depth"]["in_flight"] and not now["depth"]["in_flight"]
    ended = all(previous[part] == now[part] for part in ("counts", "attempts"))
    return idle and ended and previous["title"] == now["title"]


def _times(bus: Bus, spec: SubscriptionSpec) -> dict[str, Any]:
    columns = ("version", *(f"{stage}_ms" for stage in _STAGES))
    rows = bus.log.invocations(columns, subscription_id=spec.id, limit=WINDOW, running=False)
    ran = [row for row in rows if row[2] is not None]  # the model was called
    latency = [
        {
            "stage": stage,
            "version": version,
            **_quantiles(row[i] for row in ran if row[0] == version),
        }
        for i, stage in enumerate(_STAGES, 1)
        for version in sorted({row[0] for row in ran})
    ]
    # One version only: quantiles of several together match none in the table, and hide the slow
    # one.
    version = ran[-1][0] if ran else ""
    found = histogram((row[2] for row in ran if row[0] == version), "model time histogram", version)
    return {"latency": latency, "histogram": _listed(dataclasses.asdict(found))}


def _quantiles(values: Iterable[float]) -> dict[str, Any]:
    """Return the rounded quantiles of ``sub.latency()``: its frame is too slow for a live view."""
    ordered = sorted(values)
    marks = {f"p{q}_ms": quantile(ordered, q / 100) for q in (50, 95, 99)}
    return {"count": len(ordered), **marks, "max_ms": _rounded(ordered[-1])}


def _hints(bus: Bus, seqs: Iterable[int]) -> dict[int, str]:
    """Return seq -> the subject of an event, or the beginning of its data."""
    wanted = list(seqs)
    heads = bus.log.heads(wanted, _PEEK) if wanted else []
    return {h.seq: _hint(h.subject, h.media_type, h.size, h.head) for h in heads}


def _hint(subject: str | None, media_type: str | None, size: int, head: bytes) -> str:
    if subject:
        return short(subject, _HINT)
    if media_type is not None and "json" not in media_type:
        return short(f"{media_type}, {size:,} bytes", _HINT)
    return _json_hint(bytes(head).decode(errors="ignore"), _HINT)


def _json_hint(head: str, limit: int) -> str:
    """Return JSON text for people, also if cut off: no quotes, letters instead of escapes."""
    try:
        value = json.loads(head)
    except ValueError:
        pairs = _ESCAPE.sub(lambda found: chr(int(found[1], 16)), head)
        return short(pairs.encode("utf-16", "surrogatepass").decode("utf-16", "replace"), limit)
    return short(value if isinstance(value, str) else json.dumps(value, ensure_ascii=False), limit)


def _rounded(value: float | None) -> float | None:
    return None if value is None else rounded_ms(value)


def _listed(value: Any) -> Any:
    """Return *value* with lists for tuples, as JSON gives it back."""
    if isinstance(value, Mapping):
        return {key: _listed(part) for key, part in value.items()}
    return (
        [_listed(part) for part in value]
        if isinstance(value, Sequence) and not isinstance(value, str)
        else value
    )
