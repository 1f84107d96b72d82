"""The static form: HTML without scripts, the same when a notebook runs again."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from mltrigger.broker import SubscriptionSpec
from mltrigger.notebook.charts import Histogram, drawn, histogram, ms
from mltrigger.notebook.cockpit.detail import payload
from mltrigger.notebook.cockpit.texts import (
    ERROR,
    PEEK,
    TEXT,
    bounded,
    event_hint,
    failed,
    json_hint,
    rounded,
    sentence,
)
from mltrigger.reports.views import data_text
from mltrigger.text import card, folded, short, table_html

if TYPE_CHECKING:
    from mltrigger.bus import EventBus

NEWEST = 10
_HISTOGRAM_OF = 500
_COLUMNS = (
    *("seq", "attempt", "version", "outcome", "reason", "model_ms", "total_ms", "output"),
    *("error_type", "error"),
)


def page(
    bus: EventBus, spec: SubscriptionSpec | None, state: Mapping[str, Any], times: bool
) -> str:
    """Return the card of one subscription, or of the whole bus.

    Parameters
    ----------
    bus : EventBus
        The bus. It may be closed: then the rows are left out.
    spec : SubscriptionSpec or None
        The chosen subscription.
    state : mapping
        The state of the widget.
    times : bool
        Whether to add parts that differ in every run.
    """
    facts, tables = _facts(spec, state, times), ""
    if spec is None:
        title = f"Dashboard {state['bus']['title']}"
        body = _subscriptions_html(state, times)
    else:
        title = f"Dashboard {spec.name}"
        rows = _newest(bus, spec)
        body = _newest_html(rows, times) + _whole_html(bus, spec, rows)
        tables = (_histogram_html(bus, spec) + _latency_html(state)) if times else ""
    static = (
        f'<div style="opacity:.7">static, as of {datetime.now(UTC):%Y-%m-%d %H:%M} UTC; run the'
        " cell for the live view</div>"
    )
    return card(title, facts, tables + body + static)


def _facts(
    spec: SubscriptionSpec | None, state: Mapping[str, Any], times: bool
) -> list[tuple[str, Any]]:
    facts: list[tuple[str, Any]] = [*state["counts"].items()]
    if spec is not None:
        facts = [("topic", spec.topic), ("model", spec.selector), *facts]
    facts += [
        (f"{outcome} attempt{'' if n == 1 else 's'}", n) for outcome, n in state["attempts"].items()
    ]
    if not state["counts"] and not state["attempts"]:
        facts.append(("attempts", "none yet"))
    if state["outage"]:
        facts.append(("not up to date", state["outage"]))
    if times:
        facts += [
            ("state", _state(spec, state)),
            ("waiting", state["depth"]["waiting"] + state["depth"]["delayed"]),
            ("in flight", state["depth"]["in_flight"]),
        ]
    return facts


def _state(spec: SubscriptionSpec | None, state: Mapping[str, Any]) -> str:
    if spec is None or state["bus"]["state"] != "open":
        return f"bus {state['bus']['state']}"
    found = [s["state"] for s in state["picture"]["subscriptions"] if s["name"] == spec.name]
    return found[0] if found else "unsubscribed"


def _subscriptions_html(state: Mapping[str, Any], times: bool) -> str:
    """Return the subscriptions as a table. Numbers that differ in every run are left out."""
    heads = ["topic", "subscription", "versions", "emits", "done", "dead"]
    rows = [
        (
            one["topic"],
            one["name"],
            ", ".join(f"{v['version']} ({v['role']})" for v in one["versions"]),
            ", ".join(one["emits"]),
            one["done"],
            one["dead"],
            *([one["state"], one["waiting"] + one["delayed"], one["in_flight"]] if times else []),
        )
        for one in state["picture"]["subscriptions"]
    ]
    if times:
        heads += ["state", "waiting", "in flight"]
    return table_html(heads, rows, "subscriptions") if rows else ""


def _newest(bus: EventBus, spec: SubscriptionSpec) -> list[dict[str, Any]]:
    """Return the attempts of the newest events in the order of publishing, the newest first."""
    rows: list[tuple[Any, ...]] = []
    heads: Iterable[Any] = ()
    with contextlib.suppress(Exception):  # the bus was closed, or cannot be read
        rows = bus.log.invocations(
            _COLUMNS, subscription_id=spec.id, limit=5 * NEWEST, running=False
        )
        rows = sorted(rows, key=lambda row: (row[0], row[1]), reverse=True)[:NEWEST]
        heads = bus.log.heads(sorted({row[0] for row in rows}), PEEK) if rows else ()
    hints = {h.seq: event_hint(h.subject, h.media_type, h.size, h.head) for h in heads}
    return [_row(hints, dict(zip(_COLUMNS, row, strict=True))) for row in rows]


def _row(hints: Mapping[int, str], row: dict[str, Any]) -> dict[str, Any]:
    output = row["output"]
    return {
        "seq": row["seq"],
        "attempt": row["attempt"],
        "event": hints.get(row["seq"], ""),
        "version": short(row["version"] or ""),
        "outcome": row["outcome"],
        "model_ms": rounded(row["model_ms"]),
        "total_ms": rounded(row["total_ms"]),
        "output": "" if output is None else json_hint(output[:PEEK], TEXT),
        "error": short(failed(row["error_type"], row["error"], row["reason"]), ERROR),
        "whole": {
            "output": output or "",
            "error": failed(row["error_type"], row["error"], row["reason"]),
        },
    }


def _newest_html(rows: list[dict[str, Any]], times: bool) -> str:
    columns = ["event", "version", "outcome", "output", "error"] if rows else []
    timed = ["model_ms", "total_ms"] if times and rows else []
    cells = [
        [*(row[c] for c in columns), *("–" if row[t] is None else ms(row[t]) for t in timed)]
        for row in rows
    ]
    heads = [*columns, *(t.removesuffix("_ms") for t in timed)]
    return table_html(heads, cells, "newest events") if rows else ""


def _whole_html(bus: EventBus, spec: SubscriptionSpec, rows: list[dict[str, Any]]) -> str:
    """Return the complete texts of shortened *rows*, folded.

    Others are left out, so that a notebook that runs again shows the same.
    """
    folds = ""
    for row in rows:
        for name, part in {"event": "data", "output": "output", "error": "error"}.items():
            if row[name].endswith("…"):
                text = _data(bus, spec, row["seq"]) if name == "event" else row["whole"][name]
                folds += folded(f"{row['event']}, attempt {row['attempt']}: {part}", bounded(text))
    return folds


def _data(bus: EventBus, spec: SubscriptionSpec, seq: int) -> str:
    try:
        _, _, raw, media_type = payload(bus, spec, seq)
        return data_text(raw, media_type)
    except Exception as error:  # deleted meanwhile, or an outage
        return sentence(error, "cannot read the log")


def _histogram_html(bus: EventBus, spec: SubscriptionSpec) -> str:
    """Return the run times of the version that answered last as a histogram."""
    rows: list[tuple[Any, ...]] = []
    with contextlib.suppress(Exception):
        rows = bus.log.invocations(
            ("version", "model_ms"), subscription_id=spec.id, limit=_HISTOGRAM_OF, running=False
        )
    ran = [row for row in rows if row[1] is not None]
    version = ran[-1][0] if ran else ""
    found: Histogram = histogram(
        (value for name, value in ran if name == version), "model time histogram", version
    )
    return drawn(found)


def _latency_html(state: Mapping[str, Any]) -> str:
    columns = ("p50_ms", "p95_ms", "p99_ms", "max_ms")
    cells = [
        (row["stage"], row["version"], row["count"], *(ms(row[name]) for name in columns))
        for row in state["latency"]["table"]
    ]
    return table_html(["stage", "version", "count", "p50", "p95", "p99", "max"], cells, "latency")
