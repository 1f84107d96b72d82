"""Requests to generative models: a span below the call, with the attributes of the conventions."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import orjson
from opentelemetry import trace
from opentelemetry.trace import Span, SpanKind, Status, StatusCode, Tracer

from mltrigger.telemetry import conventions as c
from mltrigger.versions.address import Address

if TYPE_CHECKING:
    from mltrigger.telemetry.instruments import Instruments
    from mltrigger.versions.describe import Model
    from mltrigger.versions.running.invoke import Result

_SCHEME = "openai+"
_OPERATIONS = {"chat": "chat", "completions": "text_completion", "embeddings": "embeddings"}


class Asking:
    """One request to a model of a server that speaks OpenAI's protocol."""

    def __init__(self, span: Span, to: Instruments, attributes: Mapping[str, str]) -> None:
        self.span, self._to, self._attributes = span, to, attributes
        self._began_s = time.perf_counter()

    @classmethod
    def of(cls, tracer: Tracer, to: Instruments, model: Model, above: Span) -> Asking | None:
        """Begin a request below the span *above*. ``None`` for any other model."""
        address = model.target
        if not isinstance(address, Address) or not address.text.startswith(_SCHEME):
            return None
        asked = str(address.options.get("model", ""))
        operation = _OPERATIONS.get(address.options.get("task", "chat"), "chat")
        attributes = {
            c.GEN_OPERATION: operation,
            c.GEN_PROVIDER: "openai",
            c.GEN_REQUEST_MODEL: asked,
        }
        context = trace.set_span_in_context(above)
        span = tracer.start_span(f"{operation} {asked}", context, SpanKind.CLIENT, attributes)
        return cls(span, to, attributes)

    def end(self, results: Sequence[Result], reason: str | None) -> None:
        """End it with the model and the tokens that the server told."""
        shared = dict(self._attributes)
        outputs = [orjson.loads(r.output) for r in results if r.ok and r.output]
        told = [output for output in outputs if isinstance(output, dict)]
        if told and isinstance(told[0].get("model"), str):
            shared[c.GEN_RESPONSE_MODEL] = told[0]["model"]
            self.span.set_attribute(c.GEN_RESPONSE_MODEL, told[0]["model"])
        finished = [o["finish_reason"] for o in told if isinstance(o.get("finish_reason"), str)]
        if finished:
            self.span.set_attribute(c.GEN_FINISH, finished)
        for kind, attribute, n in (
            ("input", c.GEN_INPUT, _input(told)),
            ("output", c.GEN_OUTPUT, _sum(told, "completion_tokens")),
        ):
            if n is not None:
                self.span.set_attribute(attribute, n)
                self._to.tokens.record(n, {**shared, c.GEN_KIND: kind})
        if reason is not None:
            shared[c.ERROR] = reason
            self.span.set_attribute(c.ERROR, reason)
            self.span.set_status(Status(StatusCode.ERROR, reason))
        self._to.asked.record(time.perf_counter() - self._began_s, shared)
        self.span.end()


def _input(told: Sequence[Mapping[str, Any]]) -> int | None:
    """Return the tokens that went in. A batch of embeddings has one number for all."""
    if told and isinstance(told[0].get("batch_prompt_tokens"), int):
        return int(told[0]["batch_prompt_tokens"])
    return _sum(told, "prompt_tokens")


def _sum(told: Sequence[Mapping[str, Any]], name: str) -> int | None:
    found = [output[name] for output in told if isinstance(output.get(name), int)]
    return sum(found) if found else None
