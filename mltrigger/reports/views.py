"""From rows of the store to the frames of :mod:`mltrigger.reports.frames`."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from typing import TYPE_CHECKING, Any

from mltrigger.broker import Broker
from mltrigger.errors import InvalidEvent, NotFound
from mltrigger.event import codec
from mltrigger.event.event import DEFAULT_SOURCE, Event, decode_data, derived_id, hops_of, is_json
from mltrigger.reports import frames
from mltrigger.reports.dead_letters import Trial
from mltrigger.sources.folder.places import shown
from mltrigger.store.damage import ERRORS, damaged
from mltrigger.store.log import Found, Log
from mltrigger.store.outcomes import FINAL
from mltrigger.store.registry import Registry
from mltrigger.store.transaction import Row
from mltrigger.text import harmless_value, short
from mltrigger.versions.schema.outline import outline
from mltrigger.versions.selector import Selector, resolve
from mltrigger.versions.version import ModelVersion

if TYPE_CHECKING:
    import pandas as pd


def invocations(
    log: Log,
    subscription_id: int | None = None,
    limit: int | None = None,
    since: datetime | None = None,
    columns: Sequence[str] | None = None,
    seqs: tuple[int, int] | None = None,
) -> pd.DataFrame:
    """Return every attempt as one row; only *columns* are read."""
    known = list(frames.INVOCATIONS)
    for name in columns or ():
        if name not in known:
            raise NotFound.of("column", name, known)
    wanted = list(columns) if columns is not None else known
    rows = log.invocations(
        wanted, subscription_id=subscription_id, since_us=_us(since), limit=limit, seqs=seqs
    )
    return _named_workers(frames.frame(rows, {name: frames.INVOCATIONS[name] for name in wanted}))


_ENDED = ("model", "version", "outcome", "reason", "error_type", "error", "output")


def results(log: Log, subscription_id: int, limit: int | None) -> pd.DataFrame:
    """Return one row per event of a subscription that has ended, the output expanded."""
    rows = log.invocations(
        ("subject", *_ENDED),
        subscription_id=subscription_id,
        limit=limit,
        outcomes=FINAL,
        running=False,
    )
    return expanded(rows, frames.ENDED)


def expanded(rows: Iterable[Row], schema: Mapping[str, Any]) -> pd.DataFrame:
    """Return rows of *schema* that have ``error_type`` before their error and the JSON output at
    their end, the output as columns.

    The keys of outputs that are objects become columns (``output_<key>`` where a column of *schema*
    has that name); all others stand in ``output``. Control and bidirectional characters are written
    as in every frame, also inside nested outputs.
    """
    import pandas as pd

    rows = list(rows)
    table = frames.frame([(*r[:-3], f"{r[-3]}: {r[-2]}" if r[-3] else r[-2]) for r in rows], schema)
    outputs = [_as_columns(r[-1], schema) for r in rows]
    keys = list(dict.fromkeys(key for output in outputs for key in output)) or ["output"]
    columns = {key: frames.values([output.get(key) for output in outputs]) for key in keys}
    return pd.concat([table, pd.DataFrame(columns, index=table.index)], axis="columns")


def _as_columns(output: str | None, schema: Mapping[str, Any]) -> dict[str, Any]:
    value = codec.loads(output) if output is not None else {}
    if output is not None and ("\\" in output or not output.isprintable()):
        value = harmless_value(value)
    if not isinstance(value, dict):
        return {"output": value}
    return {f"output_{key}" if key in schema else key: v for key, v in value.items()}


def events(log: Log, topic: str | None, limit: int | None, since: datetime | None) -> pd.DataFrame:
    """Return the archive of published events."""
    rows = []
    for (
        id_,
        source,
        type_,
        on,
        subject,
        time,
        published_us,
        trace_id,
        media_type,
        data,
        extensions,
    ) in log.events(topic, _us(since), limit):
        try:
            others = _extensions(extensions)
            told = (_cause(others), hops_of(others), media_type, data_text(data, media_type))
        except ERRORS as error:
            raise damaged("event", f"{id_!r:.80}", error) from error
        rows.append((id_, source, type_, on, subject, time, published_us, trace_id, *told))
    return frames.frame(rows, frames.EVENTS)


def dead_letters(log: Log, subscription_id: int) -> pd.DataFrame:
    """Return the dead events of one subscription that wait for somebody; ``raw`` are the bytes that
    ``data`` shows as text.
    """
    rows = [
        (*d[1:-2], data_text(d.data, d.media_type), bytes(d.data))
        for d in log.dead_letters(subscription_id)
    ]
    return frames.dead_letters(rows)


def dry_run(trials: Sequence[Trial]) -> pd.DataFrame:
    """Return what a model made of events in a dry run, the output expanded; ``failed`` says that
    the attempt would have.
    """
    rows = [
        (
            t.event_id,
            t.subject,
            t.version.name,
            t.version.version,
            "succeeded" if t.result.ok else "failed",
            t.result.reason,
            t.model_ms,
            t.stdout,
            t.result.error_type,
            t.result.error,
            t.result.output,
        )
        for t in trials
    ]
    return expanded(rows, frames.DRY_RUN)


def models(registry: Registry) -> pd.DataFrame:
    """Return every registered model version."""
    aliases: dict[tuple[str, str], list[str]] = {}
    for (name, alias), version in registry.aliases().items():
        aliases.setdefault((name, version), []).append(alias)
    rows = [
        (
            v.name,
            v.version,
            ", ".join(sorted(aliases.get((v.name, v.version), []))),
            v.kind,
            v.digest,
            v.portable,
            _schema(v.input_schema),
            _schema(v.output_schema),
            v.address,
            v.description,
            v.created_us,
        )
        for v in registry.versions()
    ]
    return frames.frame(rows, frames.MODELS)


def _schema(text: str | None) -> str | None:
    return None if text is None else outline(json.loads(text))


def subscriptions(registry: Registry, log: Log, broker: Broker) -> pd.DataFrame:
    """Return every subscription and how much it has done."""
    tallies, live, paused, rows = log.tallies(), registry.live_listeners(), registry.paused(), []
    watched = shown(registry.sources())
    for spec in registry.subscriptions():
        depth, counts, version = (
            broker.depth(spec),
            tallies.get(spec.id, {}),
            _resolved(registry, spec.selector),
        )
        rows.append(
            (
                spec.name,
                spec.topic,
                watched.get(spec.topic),
                spec.selector,
                version and version.version,
                spec.emit,
                spec.filter and spec.filter.to_json(),
                live.get(spec.id, 0),
                version and version.portable,
                spec.id in paused,
                depth.visible,
                depth.delayed,
                depth.in_flight,
                counts.get("succeeded", 0),
                counts.get("failed", 0),
                depth.dead,
            )
        )
    return frames.frame(rows, frames.SUBSCRIPTIONS)


def topics(registry: Registry) -> pd.DataFrame:
    """Return every topic; of the URL that it watches, no more is shown than tells it from the
    others.
    """
    watched = shown(registry.sources())
    return frames.frame(
        [(name, n, s, watched.get(name), newest) for name, n, s, newest in registry.topic_counts()],
        frames.TOPICS,
    )


def trace(log: Log, event_id: str) -> pd.DataFrame:
    """Return what one event caused, from its first cause down, one row an attempt."""
    found = log.find(event_id)
    if not found:
        raise NotFound(f"no event {event_id!r}; bus.events() lists what was published")
    rows: list[Row] = []
    shown: set[int] = set()
    # who only names its cause was not made by it, and stands for itself
    for event in [*_roots(log, found), *found]:
        waiting = [(event, 0)]
        while waiting:
            event, hop = waiting.pop()
            if event.seq not in shown:
                shown.add(event.seq)
                waiting += [(child, hop + 1) for child in reversed(_shown(log, event, hop, rows))]
    return frames.frame(rows, frames.TRACE)


def data_text(raw: bytes, media_type: str | None) -> str:
    """Return an event's data for a frame: JSON as it is, other bytes shortened."""
    if is_json(media_type):
        return raw.decode()
    if (media_type or "").startswith("text/"):
        return short(raw.decode("utf-8", "backslashreplace"))
    return short(decode_data(raw, media_type))


_ATTEMPT = [
    "subscription",
    "model",
    "version",
    "attempt",
    "outcome",
    "queue_ms",
    "model_ms",
    "total_ms",
    "output",
]


def _roots(log: Log, found: list[Found]) -> list[Found]:
    """Return the first causes of the events *found*: the way up ends where the archive does, and
    where events name each other.
    """
    seen = {event.seq for event in found}
    asked: set[str] = set()
    while True:
        causes = {cause for e in found if (cause := _cause(_extensions(e.extensions)))} - asked
        asked |= causes
        above = {e.seq: e for cause in sorted(causes) for e in log.find(cause) if e.seq not in seen}
        if not above:
            return found
        seen |= above.keys()
        found = list(above.values())


def _shown(log: Log, event: Found, hop: int, rows: list[Row]) -> list[Found]:
    """Add the attempts of an event to *rows*; return the events that they emitted."""
    attempts = log.invocations(_ATTEMPT, seqs=(event.seq, event.seq))
    subject = log.subject(event.seq)
    for attempt in attempts or [(None,) * len(_ATTEMPT)]:
        name, model, version, number, outcome, queue_ms, model_ms, total_ms, output = attempt
        rows.append(
            (
                hop,
                event.topic,
                subject,
                name,
                model,
                version,
                number,
                outcome,
                queue_ms,
                model_ms,
                total_ms,
                output,
                event.published_us,
                event.id,
                _cause(_extensions(event.extensions)),
            )
        )
    # A child's id is a function of its cause and the subscription that emitted it, so it is found
    # without an index of causes.
    cause = Event(id=event.id, source=event.source)
    names = dict.fromkeys(a[0] for a in attempts)
    return [
        child
        for name in names
        for child in log.find(derived_id(cause, name))
        if child.source == f"{DEFAULT_SOURCE}/{name}"
    ]


def _extensions(text: str | None) -> dict[str, Any]:
    others: dict[str, Any] = json.loads(text) if text else {}
    return others


def _cause(extensions: Mapping[str, Any]) -> str | None:
    cause = extensions.get("causationid")
    return cause if isinstance(cause, str) else None


def _resolved(registry: Registry, selector: str) -> ModelVersion | None:
    try:
        return resolve(registry, Selector.parse(selector))
    except NotFound:
        return None


def _named_workers(table: pd.DataFrame) -> pd.DataFrame:
    if "worker" in table:
        table["worker"] = ("worker-" + table["worker"]).astype("str")
    return table


def _us(at: datetime | None) -> int | None:
    if at is None:
        return None
    if not isinstance(at, datetime):
        raise InvalidEvent(f"since must be a datetime, got {short(at)}")
    if at.utcoffset() is None:
        raise InvalidEvent(
            f"since={at.isoformat()} is naive; give its zone, for example datetime.now(UTC)"
        )
    return int(at.timestamp() * 1e6)
