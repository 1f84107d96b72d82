"""From rows of the store to the frames of :mod:`mltrigger.reports.frames`."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, NamedTuple

from mltrigger.broker import Broker, Status, shown
from mltrigger.errors import NotFound, StoreError
from mltrigger.event.data import decode_data, is_json
from mltrigger.event.event import hops_of
from mltrigger.reports import attempts, corrected, frames, outputs, quantiles
from mltrigger.reports.choosing import roles_of
from mltrigger.reports.dead_letters import Trial
from mltrigger.reports.moments import Moment, moment_us
from mltrigger.store.damage import ERRORS, damaged
from mltrigger.store.log import Log
from mltrigger.store.matching import Matching
from mltrigger.store.outcomes import FINAL
from mltrigger.store.registry import Registry
from mltrigger.text import short
from mltrigger.versions.schema.outline import outline
from mltrigger.versions.selector import Selector, resolve
from mltrigger.versions.version import ModelVersion

if TYPE_CHECKING:
    import pandas as pd

    from mltrigger.store.corrections import Replacement


FIRST = ("live", "canary", "direct")
"""The roles of answers that are no corrections."""
_FEW = 10_000
"""So many attempts are read row by row."""
_COMPARED = ("version", "outcome", "reason", "received_at")
_FACTS = ("subject", "model", "version", "outcome", "reason")
_READ = (*_FACTS, "error_type", "error", "output", "measures", *frames.KEY)
UNREADABLE = (ValueError, TypeError, StoreError, DeprecationWarning)


class Answer(NamedTuple):
    """A row with an output: other columns, then the error, then output and figures as JSON.

    ``key`` has the columns on the right of them.
    """

    facts: tuple[Any, ...]
    error_type: str | None
    error: str | None
    output: str | None
    measures: str | None = None
    key: tuple[str | None, ...] = ()

    @property
    def row(self) -> tuple[Any, ...]:
        """The facts, the error, and the key."""
        error = f"{self.error_type}: {self.error}" if self.error_type else self.error
        return *self.facts, error, *self.key


def invocations(
    log: Log,
    subscription_id: int | None = None,
    limit: int | None = None,
    since: Moment = None,
    columns: Sequence[str] | None = None,
    seqs: tuple[int, int] | None = None,
    role: str | Sequence[str] | None = None,
) -> pd.DataFrame:
    """Return each attempt as one row. Only *columns* are read.

    Without a *role* all but shadows and replays.
    """
    roles, wanted = roles_of(role), _columns(columns)
    schema = {name: frames.INVOCATIONS[name] for name in wanted}
    since_us = moment_us(since, log.now_us())
    if limit is None or limit > _FEW:
        with contextlib.suppress(*UNREADABLE):
            found, running = log.bulk(wanted, subscription_id, since_us, seqs, roles=roles)
            table = attempts.frame(found, running, schema)
            kept = table if limit is None else table.tail(limit).reset_index(drop=True)
            return frames.carded(kept, "invocations")
    # row by row, a value that cannot be read is named
    rows = log.invocations(
        wanted,
        subscription_id=subscription_id,
        since_us=since_us,
        limit=limit,
        seqs=seqs,
        roles=roles,
    )
    return frames.carded(frames.frame(rows, schema), "invocations")


def matching(
    log: Log, wanted: Matching, limit: int | None = None, columns: Sequence[str] | None = None
) -> pd.DataFrame:
    """Return each attempt that matches as one row, as :func:`invocations` does."""
    chosen = _columns(columns)
    schema = {name: frames.INVOCATIONS[name] for name in chosen}
    if (limit is None or limit > _FEW) and wanted.text is None and wanted.keys is None:
        # of very many it is cheaper to read all by columns than to find each
        with contextlib.suppress(*UNREADABLE):
            if log.count(wanted, _FEW, budget_s=None).n >= _FEW:
                table = _by_columns(log, wanted, chosen)
                kept = table if limit is None else table.tail(limit)
                return frames.carded(kept.reset_index(drop=True), "invocations")
    return frames.carded(frames.frame(log.matched(chosen, wanted, limit), schema), "invocations")


def newest(log: Log, wanted: Matching, limit: int | None) -> tuple[pd.DataFrame, int]:
    """Return the newest attempts that match, and the row from which to go on."""
    last, schema = log.newest_row(), frames.INVOCATIONS
    rows = log.matched([*schema, "row"], wanted, limit)  # some may be newer than the last
    return frames.frame([row[:-1] for row in rows], schema), max([last, *(r[-1] for r in rows)])


def recorded_after(log: Log, wanted: Matching, row: int) -> tuple[pd.DataFrame, int]:
    """Return each attempt that matches and was recorded after *row*, and where to go on."""
    rows, last = log.matched_after(list(frames.INVOCATIONS), wanted, row)
    return frames.frame(rows, frames.INVOCATIONS), last


def _columns(columns: Sequence[str] | None) -> list[str]:
    known = list(frames.INVOCATIONS)
    for name in columns or ():
        if name not in known:
            raise NotFound.of("column", name, known)
    return list(columns) if columns is not None else known


def _by_columns(log: Log, wanted: Matching, columns: Sequence[str]) -> pd.DataFrame:
    """Return the attempts that match by version, outcome, reason and time."""
    import pandas as pd

    schema = {name: frames.INVOCATIONS[name] for name in dict.fromkeys([*columns, *_COMPARED])}
    of = (wanted.subscription_id, wanted.since_us)
    table = attempts.frame(*log.bulk(list(schema), *of, roles=wanted.roles), schema)
    given = {"version": wanted.versions, "outcome": wanted.outcomes, "reason": wanted.reasons}
    for name, values in given.items():
        if values is not None:
            table = table[table[name].isin(list(values))]
    if wanted.until_us is not None:
        table = table[table["received_at"] < pd.Timestamp(wanted.until_us, unit="us", tz="UTC")]
    return table[list(columns)]


def latency(log: Log, subscription_id: int | None = None, since: Moment = None) -> pd.DataFrame:
    """Return count and quantiles for each stage and version."""
    since_us = moment_us(since, log.now_us())
    found = log.latencies(subscription_id, since_us)
    if found is None:
        columns = ("version", *(f"{stage}_ms" for stage in frames.STAGES))
        times = invocations(log, subscription_id, since=since, columns=columns)
        return frames.carded(quantiles.latency(times), "latency")
    return frames.carded(quantiles.latency(attempts.times(found)), "latency")


def results(
    log: Log,
    subscription_id: int,
    limit: int | None,
    roles: Sequence[str] = FIRST,
    replaced: Mapping[tuple[str, str], Replacement] = MappingProxyType({}),
    wanted: Matching | None = None,
) -> pd.DataFrame:
    """Return one row for each ended event of a subscription, the output as columns.

    The answers of *replaced* take the place of those before. With *wanted* only those that match.
    """
    if wanted is None and (limit is None or limit > _FEW):
        with contextlib.suppress(*UNREADABLE):
            found, _ = log.bulk(_READ, subscription_id, running=False, roles=roles)
            ends = corrected.replace(*attempts.ended(found, limit), replaced)
            return _beside(*ends, frames.ENDED)
    if wanted is None:
        wanted = Matching(subscription_id, roles)
    # an answer that was replaced is looked for as it is shown
    after = wanted if replaced and corrected.changes(wanted) else None
    before = corrected.unchanged(wanted) if after else wanted
    rows = log.matched(_READ, before.final(FINAL), None if after else limit)
    answers = [
        Answer(tuple(facts), error_type, error, output, measures, (event_id, source))
        for *facts, error_type, error, output, measures, event_id, source in rows
    ]
    table = frames.frame((answer.row for answer in answers), frames.ENDED)
    texts, measures = [a.output for a in answers], [a.measures for a in answers]
    ends = corrected.replace(table, texts, measures, replaced)
    return _beside(*(corrected.matching(*ends, after, limit) if after else ends), frames.ENDED)


def expanded(answers: Sequence[Answer], schema: Mapping[str, Any]) -> pd.DataFrame:
    """Return *answers* with the columns of *schema*, then their outputs, then their figures.

    They come before the key of the event, if *schema* ends with it.
    """
    table = frames.frame((answer.row for answer in answers), schema)
    texts, measures = [a.output for a in answers], [a.measures for a in answers]
    return _beside(table, texts, measures, schema)


def _beside(
    table: pd.DataFrame,
    texts: Sequence[str | None],
    measures: Sequence[str | None],
    schema: Mapping[str, Any],
) -> pd.DataFrame:
    """Return *table* with the columns of outputs and figures. No name is there twice."""
    figures = outputs.figures(measures)
    columns = {**outputs.columns(texts, {**schema, **figures}), **figures}
    last = len(frames.KEY) if list(schema)[-len(frames.KEY) :] == list(frames.KEY) else 0
    return frames.carded(frames.beside(table, columns, last), "results")


def events(log: Log, topic: str | None, limit: int | None, since: Moment) -> pd.DataFrame:
    """Return the archive of published events."""
    rows = []
    for e in log.events(topic, moment_us(since, log.now_us()), limit):
        try:
            others = extensions_of(e.extensions)
            told = (
                cause_of(others),
                hops_of(others),
                e.media_type,
                data_text(e.data, e.media_type),
            )
        except ERRORS as error:
            raise damaged("event", f"{e.id!r:.80}", error) from error
        facts = (e.id, e.source, e.type, e.topic, e.subject, e.time, e.published_us, e.trace_id)
        rows.append((*facts, *told))
    return frames.carded(frames.frame(rows, frames.EVENTS), "events")


def dry_run(trials: Sequence[Trial]) -> pd.DataFrame:
    """Return the answers of a dry run. ``failed`` means that the attempt would have failed."""
    answers = []
    for t in trials:
        outcome = "succeeded" if t.result.ok else "failed"
        facts = (
            t.event_id,
            t.source,
            t.subject,
            t.version.name,
            t.version.version,
            outcome,
            t.result.reason,
            t.model_ms,
            t.stdout,
        )
        r = t.result
        answers.append(Answer(facts, r.error_type, r.error, r.output, r.measures))
    return expanded(answers, frames.DRY_RUN)


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
    return frames.carded(frames.frame(rows, frames.MODELS), "models")


def _schema(text: str | None) -> str | None:
    return None if text is None else outline(json.loads(text))


def subscriptions(registry: Registry, log: Log, broker: Broker) -> pd.DataFrame:
    """Return every subscription and how much it has done."""
    tallies, live, paused = log.tallies(), registry.live_listeners(), registry.paused()
    watched, rows = shown(registry.sources()), []
    for spec in registry.subscriptions(None):
        depth, counts = broker.depth(spec), tallies.get(spec.id, {})
        version = _resolved(registry, spec.selector)
        rows.append(
            (
                spec.name,
                spec.topic,
                watched.get(spec.topic),
                spec.selector,
                version and version.version,
                spec.role,
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
    return frames.carded(frames.frame(rows, frames.SUBSCRIPTIONS), "subscriptions")


def topics(registry: Registry, status: Callable[[str], Status | None]) -> pd.DataFrame:
    """Return every topic. The URL of a source is shortened as far as it stays unique."""
    watched = shown(registry.sources())
    nothing = Status("", None)
    states = {topic: status(topic) or nothing for topic in watched}
    rows = []
    for name, n, s, newest in registry.topic_counts():
        state = states.get(name, nothing)
        now = (state.state or None, state.since_us, state.behind, state.detail or None)
        rows.append((name, n, s, watched.get(name), *now, newest))
    return frames.carded(frames.frame(rows, frames.TOPICS), "topics")


def data_text(raw: bytes, media_type: str | None) -> str:
    """Return an event's data for a frame: JSON as it is, other data shortened."""
    if is_json(media_type):
        return raw.decode()
    if (media_type or "").startswith("text/"):
        return short(raw.decode("utf-8", "backslashreplace"))
    return short(decode_data(raw, media_type))


def extensions_of(text: str | None) -> dict[str, Any]:
    """Return the extensions of an archived event."""
    others: dict[str, Any] = json.loads(text) if text else {}
    return others


def cause_of(extensions: Mapping[str, Any]) -> str | None:
    """Return the id of the event that caused this one."""
    cause = extensions.get("causationid")
    return cause if isinstance(cause, str) else None


def _resolved(registry: Registry, selector: str) -> ModelVersion | None:
    try:
        return resolve(registry, Selector.parse(selector))
    except NotFound:
        return None
