"""Spans and metrics of OpenTelemetry, read from the SDK's exporters in memory."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest
from model_servers import ModelServer, Reply
from opentelemetry import trace
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.trace import SpanKind, StatusCode
from shared import Gate, wait_until
from telemetry_seen import Seen, seeing

import mltrigger as mt
from mltrigger.telemetry import conventions
from mltrigger.testing import SimulatedClock

SECRET = "a name of a patient"


def same(batch: list[Any]) -> list[Any]:
    return batch


def ids(span: ReadableSpan) -> tuple[int, int]:
    context = span.get_span_context()
    assert context is not None
    return context.trace_id, context.span_id


def linked(span: ReadableSpan) -> list[tuple[int, int]]:
    return [(link.context.trace_id, link.context.span_id) for link in span.links]


def above(span: ReadableSpan) -> tuple[int, int] | None:
    return (span.parent.trace_id, span.parent.span_id) if span.parent is not None else None


def of(span: ReadableSpan) -> dict[str, Any]:
    return dict(span.attributes or {})


def test_an_event_alone_has_one_trace_from_publish_to_settlement(
    bus: mt.EventBus, seen: Seen
) -> None:
    bus.subscribe("documents", mt.model("ocr", version="1.0.0")(len))
    run = bus.fire("documents", "text", progress=False)

    sent, called = seen.one("send"), seen.one("process")
    assert (sent.kind, called.kind) == (SpanKind.PRODUCER, SpanKind.CONSUMER)
    assert above(called) == ids(sent) and linked(called) == [ids(sent)]
    assert linked(seen.one("receive")) == linked(seen.one("settle")) == [ids(sent)]
    assert of(called) == {
        "messaging.system": "mltrigger",
        "messaging.operation.name": "process",
        "messaging.operation.type": "process",
        "messaging.destination.name": "documents",
        "messaging.destination.subscription.name": "ocr",
        "messaging.message.id": run.results()["event_id"][0],
        "mltrigger.model": "ocr",
        "mltrigger.model.version": "1.0.0",
        "mltrigger.role": "live",
        "mltrigger.attempt": 1,
    }
    (trace_id,) = bus.subscription("ocr").invocations()["trace_id"]
    assert f"{ids(sent)[0]:032x}" in trace_id


def test_each_event_of_a_small_batch_is_created_in_a_trace_of_its_own(
    bus: mt.EventBus, seen: Seen
) -> None:
    bus.subscribe("documents", mt.model("ocr", version="1.0.0", batch=True)(same), listen=False)
    bus.publish_batch("documents", [1, 2, 3])

    created, sent = seen.spans("create"), seen.one("send")
    assert len({ids(each)[0] for each in created}) == 3
    assert {each.kind for each in created} == {SpanKind.PRODUCER} and sent.kind == SpanKind.CLIENT
    assert linked(sent) == [ids(each) for each in created]
    assert of(sent)["messaging.batch.message_count"] == 3


def test_a_call_with_a_batch_links_to_every_creation(bus: mt.EventBus, seen: Seen) -> None:
    sub = bus.subscribe(
        "documents", mt.model("ocr", version="1.0.0", batch=True)(same), listen=False
    )
    bus.publish_batch("documents", [1, 2, 3])
    sub.start()
    assert bus.wait(progress=False)

    created = [ids(each) for each in seen.spans("create")]
    called = seen.one("process")
    assert linked(called) == linked(seen.one("receive")) == linked(seen.one("settle")) == created
    assert called.parent is None
    assert of(called)["messaging.batch.message_count"] == 3


def test_more_links_than_a_span_holds_are_cut_and_counted(bus: mt.EventBus, seen: Seen) -> None:
    model = mt.model("ocr", version="1.0.0", batch=True)(same)
    sub = bus.subscribe("documents", model, listen=False, batch_size=500)
    bus.publish_batch("documents", list(range(200)))
    sub.start()
    assert bus.wait(progress=False)

    called = seen.one("process")
    assert len(called.links) == 128
    assert (of(called)["messaging.batch.message_count"], of(called)["mltrigger.links.cut"]) == (
        200,
        72,
    )
    assert seen.spans("create") == []  # so many spans would flood an exporter
    (sent,) = seen.points("messaging.client.sent.messages")
    assert sent.value == 200


def test_a_publish_inside_a_span_of_the_caller_belongs_to_it(bus: mt.EventBus, seen: Seen) -> None:
    bus.topic("documents")
    with seen.tracers.get_tracer("app").start_as_current_span("request") as request:
        bus.publish("documents", 1)

    context = request.get_span_context()
    assert above(seen.one("send")) == (context.trace_id, context.span_id)


def test_an_event_that_travels_in_a_trace_stays_in_it(bus: mt.EventBus, seen: Seen) -> None:
    came = f"00-{'a' * 32}-{'b' * 16}-01"
    bus.subscribe("documents", mt.model("ocr", version="1.0.0")(len))
    event = mt.Event("text", extensions={"traceparent": came, "tracestate": "vendor=1"})
    bus.fire("documents", event, progress=False)

    called = seen.one("process")
    assert above(called) == (int("a" * 32, 16), int("b" * 16, 16))
    assert called.get_span_context().trace_state.get("vendor") == "1"
    assert seen.one("send").kind == SpanKind.CLIENT


@pytest.mark.parametrize("batch", [False, True])
def test_an_output_goes_on_with_the_trace_of_its_event(
    bus: mt.EventBus, seen: Seen, batch: bool
) -> None:
    model = mt.model("ocr", version="1.0.0", batch=batch)(lambda given: given)
    sub = bus.subscribe("pages", model, emit="texts", listen=False)
    bus.subscribe("texts", mt.model("count", version="1.0.0")(lambda text: text))
    bus.publish_batch("pages", [1, 2])
    sub.start()
    assert bus.wait(progress=False)

    pages = {ids(s)[0] for s in seen.spans("create") if s.name == "create pages"}
    texts = [s for s in seen.spans("create") if s.name == "create texts"]
    calls = [s for s in seen.spans("process") if s.name == "process texts"]
    assert {ids(s)[0] for s in texts} == pages
    assert {above(s) for s in calls} == {ids(s) for s in texts}
    called = {ids(s) for s in seen.spans("process") if s.name == "process pages"}
    made_by = [linked(s)[0] if batch else above(s) for s in texts]
    assert set(made_by) == called


def test_each_attempt_is_a_span_and_a_failure_is_an_error_without_its_text(
    bus: mt.EventBus, seen: Seen, clock: SimulatedClock
) -> None:
    def fails(_: object) -> None:
        raise ValueError(SECRET)

    model = mt.model("ocr", version="1.0.0")(fails)
    sub = bus.subscribe("documents", model, max_attempts=2, timeout_s=43_200.0)
    bus.publish("documents", {"text": SECRET})
    wait_until(lambda: sub.depth().delayed == 1)
    clock.advance(s=1.0)
    wait_until(lambda: sub.depth().dead == 1)
    sub.stop()

    sent = ids(seen.one("send"))
    called = seen.spans("process")
    assert [of(s)["mltrigger.attempt"] for s in called] == [1, 2]
    assert {tuple(linked(s)) for s in called} == {(sent,)}
    assert {s.status.status_code for s in called} == {StatusCode.ERROR}
    settled = seen.spans("settle")
    assert [s.name for s in settled] == ["retry documents", "dead_letter documents"]
    assert settled[0].status.status_code == StatusCode.UNSET
    assert (settled[1].status.status_code, of(settled[1])["error.type"]) == (
        StatusCode.ERROR,
        "model_error",
    )
    (dead,) = seen.points("mltrigger.dead_letters")
    assert (dead.value, dead.attributes["mltrigger.reason"]) == (1, "model_error")
    assert SECRET not in "".join(s.to_json() for s in seen.exporter.get_finished_spans())


def test_a_call_that_hangs_ends_its_span_when_it_is_given_up(gate: Gate) -> None:
    with mt.connect("memory://") as bus:
        seen = seeing(bus)
        model = mt.model("ocr", version="1.0.0")(lambda _: gate.wait())
        sub = bus.subscribe("documents", model, timeout_s=0.05, max_attempts=1)
        bus.publish("documents", 1)
        wait_until(lambda: sub.depth().dead == 1)

        assert of(seen.one("process"))["error.type"] == "timeout"
        gate.open()


def test_a_direct_call_goes_on_with_the_trace_of_its_caller(file: Path) -> None:
    with mt.connect(f"sqlite:///{file}") as bus, mt.serve(bus) as server:
        bus.register(mt.model("double", version="1.0.0")(abs))
        import requests

        seen = seeing(bus)
        answer = requests.post(
            f"{server.url}/v1/models/double/versions/1.0.0/invoke",
            json=-2,
            headers={
                "authorization": f"Bearer {server.token}",
                "traceparent": f"00-{'a' * 32}-{'b' * 16}-01",
            },
            timeout=30,
        )

        assert answer.status_code == 200, answer.text
        called = seen.one("process")
        assert ids(called)[0] == int("a" * 32, 16)
        assert of(called)["mltrigger.role"] == "direct"


# -- the way to other servers ----------------------------------------------------------------------


def test_a_model_over_http_gets_the_context_of_its_call() -> None:
    with ModelServer(Reply(value=1)) as server, mt.connect("memory://") as bus:
        seen = seeing(bus)
        bus.subscribe("documents", mt.model(f"{server.url}/answer", name="far", version="1.0.0"))
        bus.fire("documents", 1, progress=False)

    trace_id, span_id = ids(seen.one("process"))
    came = server.requests[-1].header("traceparent") or ""
    assert came.startswith(f"00-{trace_id:032x}-{span_id:016x}-")


def test_a_model_over_http_in_a_process_of_its_own_gets_the_context_too() -> None:
    with ModelServer(Reply(value=1)) as server, mt.connect("memory://") as bus:
        seen = seeing(bus)
        model = mt.model(f"{server.url}/answer", name="far", version="1.0.0")
        bus.subscribe("documents", model, isolation="process")
        bus.fire("documents", 1, progress=False)

    trace_id, span_id = ids(seen.one("process"))
    came = server.requests[-1].header("traceparent") or ""
    assert came.startswith(f"00-{trace_id:032x}-{span_id:016x}-")


def test_a_span_of_a_model_lies_below_its_call(bus: mt.EventBus, seen: Seen) -> None:
    tracer = seen.tracers.get_tracer("model")

    def thread(_: object) -> None:
        with tracer.start_as_current_span("inner"):
            pass

    async def loop(_: object) -> None:
        with tracer.start_as_current_span("inner"):
            pass

    for name, model in (("thread", thread), ("loop", loop)):
        bus.subscribe("documents", mt.model(name, version="1.0.0")(model))
    bus.fire("documents", 1, progress=False)

    inner = [s for s in seen.exporter.get_finished_spans() if s.name == "inner"]
    assert {above(s) for s in inner} == {ids(s) for s in seen.spans("process")}
    assert len(inner) == 2


def test_a_generative_model_has_a_span_with_its_models_and_tokens() -> None:
    usage = {"prompt_tokens": 7, "completion_tokens": 2, "total_tokens": 9}
    message = {"role": "assistant", "content": SECRET}
    reply = {
        "model": "qwen-2.5",
        "usage": usage,
        "choices": [{"index": 0, "finish_reason": "stop", "message": message}],
    }
    with ModelServer(Reply(value=reply)) as server, mt.connect("memory://") as bus:
        seen = seeing(bus)
        address = f"openai+{server.url}/v1"
        bus.subscribe("texts", mt.model(address, name="llm", version="1.0.0", model="qwen"))
        bus.fire("texts", SECRET, progress=False)
        points = seen.points("gen_ai.client.token.usage")

    (asked,) = [s for s in seen.exporter.get_finished_spans() if s.name == "chat qwen"]
    assert of(asked) == {
        "gen_ai.operation.name": "chat",
        "gen_ai.provider.name": "openai",
        "gen_ai.request.model": "qwen",
        "gen_ai.response.model": "qwen-2.5",
        "gen_ai.response.finish_reasons": ("stop",),
        "gen_ai.usage.input_tokens": 7,
        "gen_ai.usage.output_tokens": 2,
    }
    assert above(asked) == ids(seen.one("process")) and asked.kind == SpanKind.CLIENT
    trace_id, span_id = ids(asked)
    came = server.requests[-1].header("traceparent") or ""
    assert came.startswith(f"00-{trace_id:032x}-{span_id:016x}-")
    assert {(p.attributes["gen_ai.token.type"], p.sum) for p in points} == {
        ("input", 7),
        ("output", 2),
    }
    assert SECRET not in "".join(s.to_json() for s in seen.exporter.get_finished_spans())


# -- metrics ---------------------------------------------------------------------------------------


def test_the_wait_of_each_delivery_is_measured(
    bus: mt.EventBus, seen: Seen, clock: SimulatedClock
) -> None:
    sub = bus.subscribe("documents", mt.model("ocr", version="1.0.0")(abs), listen=False)
    bus.publish_batch("documents", [1, 2])
    clock.advance(s=3.0)
    sub.start()
    assert bus.wait(progress=False)

    (point,) = seen.points("mltrigger.delivery.wait")
    assert (point.count, point.sum) == (2, 6.0)


def test_gauges_tell_backlog_age_and_dead_letters_of_the_log(
    bus: mt.EventBus, seen: Seen, clock: SimulatedClock
) -> None:
    bus.subscribe("documents", mt.model("ocr", version="1.0.0")(abs), listen=False)
    bus.publish("documents", 1)
    clock.advance(s=30.0)

    found = {
        name: [p.value for p in seen.points(name)]
        for name in ("mltrigger.backlog", "mltrigger.oldest.age", "mltrigger.waiting")
    }
    assert found == {
        "mltrigger.backlog": [30.0],
        "mltrigger.oldest.age": [30.0],
        "mltrigger.waiting": [1],
    }


def test_no_metric_names_an_event(bus: mt.EventBus, seen: Seen) -> None:
    def picky(number: int) -> int:
        if number < 0:
            raise mt.Reject("negative")
        return number

    bus.subscribe("documents", mt.model("ocr", version="1.0.0")(picky), emit="numbers")
    run = bus.fire("documents", [1, -2, 3], progress=False)

    attributes = [dict(p.attributes) for points in seen.metrics().values() for p in points]
    named = json.dumps(attributes)
    assert attributes and not [i for i in run.results()["event_id"] if i in named]
    assert "messaging.message.id" not in named


def test_a_metric_has_as_many_series_after_many_events_as_after_few(
    bus: mt.EventBus, seen: Seen
) -> None:
    bus.subscribe("documents", mt.model("ocr", version="1.0.0")(abs))
    bus.fire("documents", [1, 2], progress=False)
    wait_until(lambda: len(seen.points("messaging.client.operation.duration")) == 2)
    few = {name: len(points) for name, points in seen.metrics().items()}
    bus.fire("documents", list(range(50)), progress=False)

    assert {name: len(points) for name, points in seen.metrics().items()} == few


# -- what it may not do ----------------------------------------------------------------------------


def test_a_tracer_that_raises_harms_no_delivery(bus: mt.EventBus) -> None:
    seen = seeing(bus)

    class Broken(trace.NoOpTracer):
        def start_span(self, *_: Any, **__: Any) -> Any:
            raise RuntimeError("no span today")

    bus.observed.by._tracer = Broken()  # type: ignore[union-attr]
    sub = bus.subscribe("documents", mt.model("ocr", version="1.0.0")(abs), emit="numbers")
    bus.fire("documents", [1, 2], progress=False)

    assert list(sub.invocations()["outcome"]) == ["succeeded"] * 2
    assert seen.exporter.get_finished_spans() == ()


def test_after_stop_nothing_is_traced_and_nothing_read(bus: mt.EventBus, seen: Seen) -> None:
    bus.subscribe("documents", mt.model("ocr", version="1.0.0")(abs))
    seen.instrumentation.stop()
    bus.fire("documents", 1, progress=False)

    assert seen.exporter.get_finished_spans() == ()
    assert seen.points("mltrigger.backlog") == []


def test_the_current_span_of_a_thread_is_as_before_a_call(bus: mt.EventBus, seen: Seen) -> None:
    current: list[bool] = []
    bus.subscribe("documents", mt.model("ocr", version="1.0.0")(abs), max_concurrency=1)
    bus.fire("documents", 1, progress=False)
    seen.instrumentation.stop()

    def looks(_: object) -> None:
        current.append(trace.get_current_span().is_recording())

    bus.subscribe("others", looks)
    bus.fire("others", [1, 2], progress=False)

    assert current == [False, False]


def test_the_package_loads_no_opentelemetry_unless_asked() -> None:
    import subprocess

    code = (
        "import sys, mltrigger as mt, mltrigger.telemetry\n"
        "bus = mt.connect('memory://'); bus.subscribe('t', abs); bus.fire('t', 1, progress=False)\n"
        "mltrigger.telemetry.prometheus_text(bus); bus.close()\n"
        "print([name for name in sys.modules if name.startswith('opentelemetry')])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


# -- names -----------------------------------------------------------------------------------------


def test_the_names_are_those_of_the_published_conventions() -> None:
    from opentelemetry.semconv._incubating.attributes import gen_ai_attributes, messaging_attributes
    from opentelemetry.semconv._incubating.metrics import gen_ai_metrics, messaging_metrics
    from opentelemetry.semconv.attributes import error_attributes

    modules = (gen_ai_attributes, messaging_attributes, gen_ai_metrics, messaging_metrics)
    published = {
        value
        for module in (*modules, error_attributes)
        for name, value in vars(module).items()
        if name.isupper() and isinstance(value, str)
    }
    ours = {
        value
        for name, value in vars(conventions).items()
        if name.isupper() and isinstance(value, str) and value.startswith(("messaging.", "gen_ai."))
    }
    types = {v.value for v in messaging_attributes.MessagingOperationTypeValues}

    assert ours <= published
    assert {"create", "send", "receive", "process", "settle"} <= types


@pytest.mark.parametrize(
    ("opted", "older"),
    [(None, None), ("messaging", None), ("http, messaging/dup", "publish")],
)
def test_the_opt_in_variable_adds_the_older_name(
    bus: mt.EventBus, monkeypatch: pytest.MonkeyPatch, opted: str | None, older: str | None
) -> None:
    if opted is None:
        monkeypatch.delenv(conventions.OPT_IN, raising=False)
    else:
        monkeypatch.setenv(conventions.OPT_IN, opted)
    seen = seeing(bus)
    bus.topic("documents")
    bus.publish("documents", 1)

    found = of(seen.one("send"))
    assert found.get("messaging.operation") == older
    assert found["messaging.operation.type"] == "send"
