"""``mltrigger worker --otel`` sends OTLP over HTTP, which a receiver here reads as a collector does."""

from __future__ import annotations

import gzip
import http.server
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import (
    ExportMetricsServiceRequest,
)
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

import mltrigger as mt
from mltrigger import cli

_KINDS = {"/v1/traces": ExportTraceServiceRequest, "/v1/metrics": ExportMetricsServiceRequest}


class Receiver(http.server.ThreadingHTTPServer):
    """Keeps the requests that it was sent."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.got: list[Any] = []


class _Handler(http.server.BaseHTTPRequestHandler):
    server: Receiver

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["content-length"]))
        if self.headers.get("content-encoding") == "gzip":
            body = gzip.decompress(body)
        self.server.got.append(_KINDS[self.path].FromString(body))
        self.send_response(200)
        self.send_header("content-type", "application/x-protobuf")
        self.send_header("content-length", "0")
        self.end_headers()

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    with Receiver() as found:
        threading.Thread(target=found.serve_forever, daemon=True).start()
        yield found
        found.shutdown()


def test_a_worker_sends_its_spans_and_metrics_before_it_ends(
    file: Path, tmp_path: Path, receiver: Receiver
) -> None:
    (tmp_path / "doubling.py").write_text("def double(x):\n    return 2 * x\n")
    store = f"sqlite:///{file}"
    environment = {
        **{k: v for k, v in os.environ.items() if not k.startswith("OTEL_")},
        "PYTHONPATH": os.pathsep.join([str(Path(mt.__file__).parents[1]), str(tmp_path)]),
        "OTEL_EXPORTER_OTLP_ENDPOINT": f"http://127.0.0.1:{receiver.server_address[1]}",
        "OTEL_SERVICE_NAME": "pages",
    }
    sys.path.insert(0, str(tmp_path))
    try:
        with mt.connect(store) as bus:
            bus.subscribe("numbers", "doubling:double", listen=False)
            bus.publish("numbers", 21)
    finally:
        sys.path.remove(str(tmp_path))
    command = [
        sys.executable,
        "-m",
        "mltrigger",
        "worker",
        "--otel",
        "--until-idle",
        "--url",
        store,
    ]
    done = subprocess.run(
        command, env=environment, cwd=tmp_path, capture_output=True, text=True, timeout=120
    )

    assert done.returncode == 0, done.stderr
    spans = [
        (resource.resource, span)
        for each in receiver.got
        if isinstance(each, ExportTraceServiceRequest)
        for resource in each.resource_spans
        for scope in resource.scope_spans
        if scope.scope.name == "mltrigger"
        for span in scope.spans
    ]
    assert [s.name for _, s in spans if s.name.startswith("process")] == ["process numbers"]
    named = {a.key: a.value.string_value for resource, _ in spans for a in resource.attributes}
    assert named["service.name"] == "pages"
    metrics = {
        metric.name
        for each in receiver.got
        if isinstance(each, ExportMetricsServiceRequest)
        for resource in each.resource_metrics
        for scope in resource.scope_metrics
        for metric in scope.metrics
    }
    assert {"mltrigger.delivery.wait", "messaging.process.duration"} <= metrics


def test_a_missing_library_is_named_with_the_way_to_install_it(
    file: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    mt.connect(f"sqlite:///{file}").close()
    monkeypatch.setitem(sys.modules, "opentelemetry", None)

    assert cli.main(["worker", "--otel", "--until-idle", "--url", f"sqlite:///{file}"]) == 1
    assert "pip install -e '.[otel]'" in capsys.readouterr().err


def test_an_unknown_exporter_is_refused_with_the_known_ones(
    file: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    mt.connect(f"sqlite:///{file}").close()
    monkeypatch.setenv("OTEL_TRACES_EXPORTER", "otpl")

    assert cli.main(["worker", "--otel", "--until-idle", "--url", f"sqlite:///{file}"]) == 1
    assert "no exporter 'otpl'; did you mean 'otlp'?" in capsys.readouterr().err
