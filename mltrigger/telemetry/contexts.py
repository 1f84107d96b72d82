"""Trace contexts of events: the CloudEvents extensions ``traceparent`` and ``tracestate``."""

from __future__ import annotations

import functools
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING

from opentelemetry.context import Context
from opentelemetry.trace import (
    Link,
    NonRecordingSpan,
    SpanContext,
    TraceFlags,
    TraceState,
    set_span_in_context,
)

if TYPE_CHECKING:
    from mltrigger.event.event import Event

PARENT, STATE = "traceparent", "tracestate"


def context_of(event: Event) -> SpanContext | None:
    """Return the trace context that *event* travels in. ``None`` without a valid one."""
    parent, state = event.traceparent, event.extensions.get(STATE)
    return _read(parent, state if isinstance(state, str) else "") if parent else None


@functools.lru_cache(1024)
def _read(parent: str, state: str) -> SpanContext | None:
    """Return the context of two headers. Several spans of one event ask for it."""
    parts = parent.split("-")
    if len(parts) < 4:
        return None
    try:
        trace_id, span_id, flags = (int(part, 16) for part in parts[1:4])
    except ValueError:
        return None
    states = TraceState.from_header([state]) if state else TraceState()
    found = SpanContext(trace_id, span_id, True, TraceFlags(flags), states)
    return found if found.is_valid else None


def headers_of(context: SpanContext) -> Mapping[str, str]:
    """Return *context* as W3C headers, which are extensions of an event as well."""
    if not context.is_valid:
        return {}
    flags = int(context.trace_flags) & 0xFF
    found = {PARENT: f"00-{context.trace_id:032x}-{context.span_id:016x}-{flags:02x}"}
    return {**found, STATE: context.trace_state.to_header()} if context.trace_state else found


def below(context: SpanContext | None) -> Context:
    """Return the context of a span whose parent is *context*. Without one it begins a trace."""
    if context is None:
        return Context()
    return set_span_in_context(NonRecordingSpan(context), Context())


def links(events: Iterable[Event]) -> list[Link]:
    """Return a link to the creation of each of *events*."""
    return [Link(found) for event in events if (found := context_of(event)) is not None]
