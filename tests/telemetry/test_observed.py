"""The place of an observer in the core: free without one, and safe with a bad one."""

from __future__ import annotations

import logging
from typing import Any

import pytest
from emulators import Account
from telemetry_seen import seeing

import mltrigger as mt
from mltrigger.delivery.observed import Observed


class Broken:
    """An observer whose every method raises."""

    def __getattr__(self, name: str) -> Any:
        def fails(*_: object) -> None:
            raise RuntimeError(f"no {name} today")

        return fails


class BreaksAtEnds:
    """An observer whose steps begin well and cannot end."""

    def sending(self, _: str, samples: Any) -> Any:
        return samples, self._fails

    def received(self, *_: object) -> None: ...

    def calling(self, *_: object) -> Any:
        return self._fails

    def settling(self, *_: object) -> Any:
        return self._fails

    def emitted(self, _: str, __: object, event: mt.Event) -> mt.Event:
        return event

    def _fails(self, *_: object) -> None:
        raise RuntimeError("no end today")


@pytest.mark.parametrize("observer", [Broken(), BreaksAtEnds()])
def test_an_observer_that_raises_loses_no_event_and_is_logged_once(
    bus: mt.EventBus, caplog: pytest.LogCaptureFixture, observer: Any
) -> None:
    bus.observed.by = observer
    one = bus.subscribe("documents", mt.model("one", version="1.0.0")(abs), emit="numbers")
    many = mt.model("many", version="1.0.0", batch=True)(lambda batch: [abs(n) for n in batch])
    bus.subscribe("numbers", many)
    with caplog.at_level(logging.WARNING, "mltrigger"):
        bus.fire("documents", [-1, -2], progress=False)
        bus.fire("documents", -3, progress=False)

    assert list(one.results()["outcome"]) == ["succeeded"] * 3
    assert sum("an observer failed; delivery goes on" in text for text in caplog.messages) == 1


def test_without_an_observer_a_step_is_the_call_itself() -> None:
    observed = Observed()

    assert observed.send(lambda *given: given, "topic", [1], "more") == ("topic", [1], "more")
    assert observed.calls(None, None, None) is None  # type: ignore[arg-type]


def test_an_error_of_a_publish_reaches_its_caller(bus: mt.EventBus) -> None:
    seen = seeing(bus)
    with pytest.raises(mt.NotFound):
        bus.publish("nowhere", 1)

    span = seen.one("send")
    assert (span.attributes or {})["error.type"] == "NotFound"


def test_the_trace_goes_through_aws(aws: Account) -> None:
    with aws.bus() as bus:
        seen = seeing(bus)
        bus.subscribe("documents", mt.model("ocr", version="1.0.0")(abs))
        bus.fire("documents", -1, progress=False)

        sent, called = seen.one("send"), seen.one("process")
        context = sent.get_span_context()
        assert called.parent is not None and context is not None
        assert (called.parent.trace_id, called.parent.span_id) == (
            context.trace_id,
            context.span_id,
        )
        assert (seen.one("settle").name, len(seen.one("receive").links)) == ("ack documents", 1)


def test_a_shadow_has_spans_of_its_own_role(bus: mt.EventBus) -> None:
    sub = bus.subscribe("documents", mt.model("ocr", version="1.0.0")(abs))
    bus.register(mt.model("ocr", version="2.0.0")(round))
    seen = seeing(bus)
    lane = sub.shadow("2.0.0")
    bus.fire("documents", -1, progress=False)
    lane.wait()

    roles = {(s.attributes or {})["mltrigger.role"] for s in seen.spans("process")}
    assert roles == {"live", "shadow"}
