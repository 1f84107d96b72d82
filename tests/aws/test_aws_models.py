"""Lambda functions and SageMaker endpoints as models: what they are asked, and what their answers
and refusals mean for an event.

What runs: ``lambda_server`` (handlers and containers in Python, over HTTP, in the shapes of the
services) and moto's server, whose S3 keeps the answers of asynchronous endpoints. No answer is
stubbed in the client.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import requests
from emulators import ACCOUNT, REGION, Emulator
from lambda_server import AwsModels, Container, Handler
from shared import settle, wait_until

import mltrigger as mt
from mltrigger.aws.clients import ModelClients, model_clients
from mltrigger.aws.models.place import inference_id, place_of
from mltrigger.aws.models.sagemaker_async import INLINE_BYTES, Queued
from mltrigger.errors import InvalidModel, ModelFailure, NotFound, Reject
from mltrigger.event.event import Event
from mltrigger.testing import SimulatedClock
from mltrigger.versions.address import Address
from mltrigger.versions.running.capture import captured
from mltrigger.versions.scheme import Endpoint, Setting, scheme_of

ARN = f"arn:aws:lambda:{REGION}:{ACCOUNT}:function"
TRACE = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"


CREDENTIALS = {
    "AWS_ACCESS_KEY_ID": "testing",
    "AWS_SECRET_ACCESS_KEY": "testing",
    "AWS_CONFIG_FILE": "/dev/null",
}


@pytest.fixture(autouse=True)
def credentials(monkeypatch: pytest.MonkeyPatch) -> None:
    """No test depends on the machine's."""
    for name, value in CREDENTIALS.items():
        monkeypatch.setenv(name, value)
    for name in ("AWS_PROFILE", "AWS_REGION", "AWS_DEFAULT_REGION", "AWS_ENDPOINT_URL"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture(scope="module")
def server() -> Iterator[AwsModels]:
    with AwsModels() as server:
        yield server


def opened(text: str, url: str | None, timeout_s: float = 10.0, **options: Any) -> Endpoint:
    """Return the endpoint at an address; making its client takes longer than most of these tests."""
    address = Address.of(text, {**options, **({"endpoint_url": url} if url else {})})
    return scheme_of(address).open(address, Setting(timeout_s, 2))


@pytest.fixture(scope="module")
def probes(server: AwsModels) -> tuple[Endpoint, Endpoint]:
    """A function and an endpoint that do what a test wants."""
    both = (
        opened(f"{ARN}:probe:7", server.url),
        opened(f"sagemaker://probe/blue?region={REGION}", server.url),
    )
    with pytest.MonkeyPatch.context() as patch:
        for name, value in CREDENTIALS.items():
            patch.setenv(name, value)
        server.functions["probe"] = repr
        for endpoint in both:
            endpoint.warm_up()
    return both


Call = Callable[..., Any]


@pytest.fixture
def function(server: AwsModels, probes: tuple[Endpoint, Endpoint]) -> Call:
    """Call a handler with an event."""

    def call(handler: Handler, event: Event | None = None) -> Any:
        server.requests.clear()
        server.functions["probe"] = handler
        return probes[0].call([event or Event({"page": 1})])[0]

    return call


@pytest.fixture
def endpoint(server: AwsModels, probes: tuple[Endpoint, Endpoint]) -> Call:
    """Call a container with an event."""

    def call(container: Container, event: Event | None = None) -> Any:
        server.requests.clear()
        server.endpoints["probe"] = container
        return probes[1].call([event or Event({"page": 1})])[0]

    return call


def failure_of(call: Callable[[], Any]) -> ModelFailure:
    with pytest.raises(ModelFailure) as caught:
        call()
    return caught.value


def verdict(failed: ModelFailure) -> tuple[str, str]:
    """Return the reason, and what becomes of the event."""
    return failed.reason, "dead" if failed.permanent else "later" if failed.throttled else "retried"


class Raised(Exception):
    """An error as another runtime than Python's describes it."""

    def __init__(self, kind: str, message: str = "no", **more: Any) -> None:
        super().__init__(message)
        self.said = {"errorType": kind, **more}


def raising(error: Exception) -> Handler:
    def handler(_: Any) -> Any:
        raise error

    return handler


def answering(status: int, body: str | bytes, kind: str = "application/json") -> Container:
    return lambda *_: (status, kind, body.encode() if isinstance(body, str) else body)


# -- addresses -------------------------------------------------------------------------------------


def described(text: str, **options: Any) -> Any:
    address = Address.of(text, options)
    return scheme_of(address).describe(address)


def test_a_numbered_version_of_a_function_is_a_version_of_the_model() -> None:
    found = described(f"{ARN}:read-page:12")

    assert (found.name, found.version) == ("read-page", "12.0.0")


@pytest.mark.parametrize("qualifier", ["", ":live", ":$LATEST"])
def test_what_means_another_version_tomorrow_is_a_build(qualifier: str) -> None:
    found = described(f"{ARN}:read-page{qualifier}")

    assert (found.name, found.version) == ("read-page", None)


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("sagemaker://Churn-1", "Churn-1"),
        (f"sagemaker://churn/blue?region={REGION}", "churn.blue"),
        (f"arn:aws-us-gov:sagemaker:us-gov-west-1:{ACCOUNT}:endpoint/churn", "churn"),
    ],
)
def test_an_endpoint_has_the_name_of_what_is_called(text: str, name: str) -> None:
    assert (described(text).name, described(text).version) == (name, None)


@pytest.mark.parametrize(
    ("text", "advice"),
    [
        (f"arn:aws:sns:{REGION}:{ACCOUNT}:documents", r"where events come from: mt\.subscribe"),
        (f"arn:aws:ecs:{REGION}:{ACCOUNT}:task/x", "lambda functions and sagemaker endpoints"),
        (f"arn:aws:lambda:{REGION}:12:function:f", "arn:aws:lambda:REGION:ACCOUNT:function:NAME"),
        (f"{ARN}:f:v1:x", "names no Lambda function"),
        (f"arn:aws:lambda:nowhere:{ACCOUNT}:function:f", "region 'nowhere' is none"),
        (f"arn:aws:sagemaker:{REGION}:{ACCOUNT}:model/x", "sagemaker://ENDPOINT"),
        ("sagemaker://user:pw@host/x", "names no SageMaker endpoint"),
        ("sagemaker://a/b/c", "names no SageMaker endpoint"),
        ("sagemaker://-a", "names no SageMaker endpoint"),
    ],
)
def test_another_name_is_refused_with_the_right_form(text: str, advice: str) -> None:
    with pytest.raises(InvalidModel, match=advice):
        described(text)


@pytest.mark.parametrize(
    ("text", "options", "message"),
    [
        (f"{ARN}:f", {"envelope": "xml"}, "envelope must be 'data' or 'cloudevent', got 'xml'"),
        (f"{ARN}:f", {"role_arn": "admin"}, "role_arn 'admin' must be arn:aws:iam"),
        (f"{ARN}:f", {"endpoint_url": "http://user:pw@host"}, "without a user or password"),
        (f"{ARN}:f", {"batch": "yes"}, "option batch must be bool"),
        (
            "sagemaker://e?region=eu-west-1",
            {"region": "us-east-1"},
            "two regions, eu-west-1 and us-east-1",
        ),
        ("sagemaker://e", {"mode": "batch"}, "mode must be 'realtime' or 'async'"),
        (
            "sagemaker://e",
            {"accept": "text\r\nX-Evil: 1"},
            "accept must be 1 to 1,024 printable ASCII characters",
        ),
        (
            "sagemaker://e",
            {"custom_attributes": "token=hunter4711"},
            "option custom_attributes holds a password, a key or a token",
        ),
        ("sagemaker://e", {"bucket": "s3://b-1/in"}, "bucket and output are for mode='async'"),
        ("sagemaker://e", {"mode": "async", "bucket": "https://b"}, "bucket must be s3://BUCKET"),
        ("sagemaker://e/blue", {"mode": "async"}, "takes no variant"),
        (
            "sagemaker://e",
            {"mode": "async", "max_answer_mb": 0},
            "max_answer_mb must be more than 0",
        ),
    ],
)
def test_an_option_that_cannot_be_right_is_named(
    text: str, options: dict[str, Any], message: str
) -> None:
    with pytest.raises(InvalidModel, match=message):
        described(text, **options)


def test_a_misspelt_option_lists_the_near_ones() -> None:
    with pytest.raises(NotFound, match="did you mean 'envelope'"):
        described(f"{ARN}:f", envelop="data")
    with pytest.raises(NotFound, match="did you mean 'region'"):
        described("sagemaker://e?regoin=eu-west-1")


# -- Lambda: what a function is given, and gives ---------------------------------------------------


def test_a_function_gets_the_data_and_returns_the_output(function: Call, server: AwsModels) -> None:
    given: list[Any] = []

    output = function(
        lambda event: given.append(event) or {"words": ["ä", 1.5, None]},
        Event({"page": 1, "text": "\u2028"}),
    )

    assert (given, output) == ([{"page": 1, "text": "\u2028"}], {"words": ["ä", 1.5, None]})
    assert server.requests[0].path.endswith(f"{ARN}:probe:7/invocations")


def test_what_json_cannot_say_arrives_tagged(function: Call) -> None:
    output = function(lambda event: event, Event({"image": b"\x00\xff", "score": float("nan")}))

    assert output["image"] == b"\x00\xff"
    assert output["score"] != output["score"]


def test_a_function_gets_the_whole_event_on_request(server: AwsModels) -> None:
    server.functions["whole"] = lambda event: event
    event = Event(
        {"page": 1}, id="e-1", type="page.scanned", subject="p/1", extensions={"traceparent": TRACE}
    )

    (output,) = opened(f"{ARN}:whole", server.url, envelope="cloudevent").call([event])

    said = {
        name: output[name]
        for name in ("specversion", "id", "type", "subject", "traceparent", "data")
    }
    assert said == {
        "specversion": "1.0",
        "id": "e-1",
        "type": "page.scanned",
        "subject": "p/1",
        "traceparent": TRACE,
        "data": {"page": 1},
    }


def test_a_batch_is_one_invocation(server: AwsModels) -> None:
    server.functions["batch"] = lambda events: [2 * n for n in events]
    batch = opened(f"{ARN}:batch", server.url, batch=True)
    server.requests.clear()

    outputs = batch.call([Event(1), Event(2), Event(3)])

    assert (batch.batches, list(outputs), len(server.requests)) == (True, [2, 4, 6], 1)


def test_what_a_function_logs_is_kept(function: Call) -> None:
    with captured() as printed:
        function(lambda event: print("page", event["page"]))

    text = printed.take() or ""
    assert text.startswith("START RequestId: ")
    assert "Version: 7\npage 1\nEND" in text


def test_the_log_stays_there_on_request(server: AwsModels) -> None:
    server.functions["quiet"] = lambda _: print("x")

    with captured() as printed:
        opened(f"{ARN}:quiet", server.url, log=False).call([Event(1)])

    assert printed.take() is None


# -- Lambda: what goes wrong -----------------------------------------------------------------------


def test_a_function_that_raises_is_a_model_that_raises(function: Call, server: AwsModels) -> None:
    def handler(event: Any) -> Any:
        raise ValueError(f"no text on page {event['page']}")

    failed = failure_of(lambda: function(handler))

    assert (verdict(failed), failed.kind, str(failed)) == (
        ("model_error", "retried"),
        "ValueError",
        "no text on page 1",
    )
    assert "in handler\n    raise ValueError" in (failed.detail or "")
    # its subscription decides when it is called again, not the client
    assert len(server.requests) == 1


def test_a_stack_of_node_is_kept(function: Call) -> None:
    failed = failure_of(
        lambda: function(
            raising(
                Raised(
                    "TypeError", "x is undefined", stackTrace=None, trace=["TypeError: x", "  at f"]
                )
            )
        )
    )

    assert (failed.kind, failed.detail) == ("TypeError", "TypeError: x\n  at f")


def test_a_function_can_reject_an_event(function: Call) -> None:
    with pytest.raises(Reject, match="no document"):
        function(raising(Raised("com.acme.Reject", errorMessage="no document")))


@pytest.mark.parametrize(
    ("message", "delay_s"),
    [("later", None), ("the index is rebuilt, delay_s=30", 30.0), ("delay_s=9e9", 9.0)],
)
def test_a_function_can_ask_for_another_attempt(
    function: Call, message: str, delay_s: float | None
) -> None:
    class Retry(Exception):
        """What a function without mltrigger raises."""

    with pytest.raises(mt.Retry) as caught:
        function(raising(Retry(message)))

    assert (caught.value.delay_s, str(caught.value)) == (delay_s, message)


@pytest.mark.parametrize(
    ("kind", "message", "expected"),
    [
        (
            "Sandbox.Timedout",
            "RequestId: 1 Error: Task timed out after 3.00 seconds",
            ("timeout", "retried"),
        ),
        ("", "2026-11-23T09:30:00Z 1 Task timed out after 3.00 seconds", ("timeout", "retried")),
        (
            "Runtime.ExitError",
            "Runtime exited with error: signal: killed",
            ("worker_died", "retried"),
        ),
        ("Runtime.OutOfMemory", "out of memory", ("worker_died", "retried")),
        ("Runtime.ImportModuleError", "No module named 'app'", ("model_unavailable", "later")),
        ("Runtime.MarshalError", "Unable to marshal response", ("result_not_serialisable", "dead")),
        ("Function.ResponseSizeTooLarge", "exceeded 6291556 bytes", ("result_too_large", "dead")),
        ("Runtime.Unknown", "?", ("model_error", "retried")),
    ],
)
def test_what_the_runtime_says_is_understood(
    function: Call, kind: str, message: str, expected: tuple[str, str]
) -> None:
    assert verdict(failure_of(lambda: function(raising(Raised(kind, message))))) == expected


def test_an_error_that_describes_itself_otherwise_is_an_error(function: Call) -> None:
    failed = failure_of(
        lambda: function(
            raising(Raised("", "", errorType=["?"], errorMessage={"a": 1}, stackTrace="line"))
        )
    )

    assert (verdict(failed), failed.kind, str(failed), failed.detail) == (
        ("model_error", "retried"),
        "['?']",
        "{'a': 1}",
        "line",
    )


def test_too_many_at_once_come_later(function: Call, server: AwsModels) -> None:
    server.reserve("probe", 0)
    try:
        failed = failure_of(lambda: function(lambda event: event))
    finally:
        server._capacity.clear()

    assert (verdict(failed), failed.delay_s, failed.whole, len(server.requests)) == (
        ("throttled", "later"),
        2.0,
        True,
        1,
    )


@pytest.mark.parametrize(
    ("code", "status", "expected"),
    [
        ("EC2ThrottledException", 502, ("throttled", "later")),
        ("ServiceQuotaExceededException", 402, ("throttled", "later")),
        ("AccessDeniedException", 403, ("model_unavailable", "later")),
        ("ResourceNotFoundException", 404, ("model_unavailable", "later")),
        ("ExpiredTokenException", 403, ("model_unavailable", "later")),
        ("ResourceConflictException", 409, ("model_unavailable", "later")),
        ("KMSAccessDeniedException", 502, ("model_unavailable", "later")),
        ("InvalidParameterValueException", 400, ("model_unavailable", "later")),
        ("InvalidRequestContentException", 400, ("model_rejected", "dead")),
        ("RecursiveInvocationException", 400, ("model_rejected", "dead")),
        ("RequestTooLargeException", 413, ("event_too_large", "dead")),
        ("ServiceException", 500, ("model_http_error", "retried")),
        ("NobodyForesawThis", 400, ("model_http_error", "retried")),
    ],
)
def test_only_what_is_the_events_fault_ends_it(
    function: Call, server: AwsModels, code: str, status: int, expected: tuple[str, str]
) -> None:
    server.refuse(code, status)

    failed = failure_of(lambda: function(lambda event: event))

    assert (verdict(failed), failed.kind, len(server.requests)) == (expected, code, 1)
    assert "lambda:InvokeFunction" in str(failed)


def test_what_is_too_large_is_not_sent(function: Call, server: AwsModels) -> None:
    failed = failure_of(lambda: function(lambda event: event, Event("x" * (6 * 1024 * 1024))))

    assert (verdict(failed), len(server.requests)) == (("event_too_large", "dead"), 0)
    assert "takes 6,291,456 bytes; the event makes 6,291,458" in str(failed)


def test_a_function_that_does_not_answer_in_time_is_given_up(server: AwsModels) -> None:
    gate = threading.Event()
    server.functions["slow"] = lambda _: gate.wait(20)
    slow = opened(f"{ARN}:slow", server.url, timeout_s=0.2)

    failed = failure_of(lambda: slow.call([Event(1)]))
    gate.set()

    assert (verdict(failed), len(server.of(":slow"))) == (("timeout", "retried"), 1)


def test_a_service_that_is_not_there_is_nobodys_failure() -> None:
    failed = failure_of(lambda: opened(f"{ARN}:f", "http://127.0.0.1:9").call([Event(1)]))

    assert (failed.reason, failed.throttled, failed.whole) == ("model_unavailable", True, True)
    assert "the service did not answer" in str(failed)


def test_an_answer_that_is_no_json_is_another_attempt(
    function: Call, server: AwsModels, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        server, "invoke", lambda *_: (200, {"Content-Type": "application/json"}, b"<html>")
    )

    failed = failure_of(lambda: function(lambda event: event))

    assert (verdict(failed), failed.detail) == (("model_http_error", "retried"), "<html>")


def test_warming_up_asks_whether_the_function_may_be_called(server: AwsModels) -> None:
    runs: list[Any] = []
    server.functions["ready"] = runs.append

    opened(f"{ARN}:ready", server.url).warm_up()
    missing = failure_of(opened(f"{ARN}:missing:1", server.url).warm_up)
    nobody = failure_of(opened(f"{ARN}:ready", "http://127.0.0.1:9").warm_up)

    assert runs == []
    assert (missing.reason, nobody.reason) == ("model_unavailable", "model_unavailable")
    assert "Function not found" in str(missing)


def test_without_credentials_no_event_is_blamed(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", "/dev/null")

    for endpoint in (
        opened(f"{ARN}:f", None),
        opened(f"sagemaker://e?region={REGION}", None),
        opened("sagemaker://e", None),
    ):
        assert verdict(failure_of(lambda e=endpoint: e.call([Event(1)]))) == (
            "model_unavailable",
            "later",
        )  # type: ignore[misc]
    assert "there are no valid credentials" in str(failure_of(opened(f"{ARN}:f", None).warm_up))
    assert "set AWS_DEFAULT_REGION" in str(failure_of(opened("sagemaker://e", None).warm_up))


def test_a_function_is_called_as_boto3_says_it(emulator: Emulator) -> None:
    """Of moto: which functions there are, its own reading of the request.

    What it answers it was told.
    """
    config, results = (
        f"{emulator.url}/moto-api/config",
        f"{emulator.url}/moto-api/static/lambda-simple/response",
    )
    requests.post(config, json={"lambda": {"use_docker": False}}, timeout=10).raise_for_status()
    requests.post(
        results, json={"results": ['{"text": "hello"}'], "region": REGION}, timeout=10
    ).raise_for_status()
    try:
        function = opened(f"{ARN}:ocr:live", emulator.url)
        first, second = (
            function.call([Event({"page": 1})])[0],
            function.call([Event({"page": 2})])[0],
        )
    finally:
        requests.post(config, json={"lambda": {"use_docker": True}}, timeout=10)

    assert (first, second) == ({"text": "hello"}, {"page": 2})


# -- SageMaker: what an endpoint is given, and gives -----------------------------------------------


def test_an_endpoint_gets_json_and_returns_json(endpoint: Call, server: AwsModels) -> None:
    output = endpoint(
        lambda body, kind: (
            200,
            "application/json",
            json.dumps({"got": json.loads(body), "kind": kind}).encode(),
        )
    )

    assert output == {"got": {"page": 1}, "kind": "application/json"}
    assert server.requests[0].headers["x-amzn-sagemaker-target-variant"] == "blue"


def test_bytes_are_sent_as_what_they_are(endpoint: Call) -> None:
    echo: Container = lambda body, kind: (200, kind, body)  # noqa: E731

    assert endpoint(echo, Event(b"\x89PNG", datacontenttype="image/png")) == b"\x89PNG"
    assert endpoint(echo, Event("1,2", datacontenttype="text/csv")) == "1,2"


@pytest.mark.parametrize(
    ("kind", "output"),
    [
        ("text/csv; charset=utf-8", "[1]"),
        ("application/octet-stream", [1]),
        ("application/jsonlines", b"[1]"),
    ],
)
def test_an_answer_is_read_by_its_type(endpoint: Call, kind: str, output: Any) -> None:
    assert endpoint(answering(200, "[1]", kind)) == output


def test_an_empty_answer_is_none(endpoint: Call) -> None:
    assert endpoint(answering(200, "")) is None


def test_json_that_is_none_is_another_attempt(endpoint: Call) -> None:
    assert verdict(failure_of(lambda: endpoint(answering(200, "<html>")))) == (
        "model_http_error",
        "retried",
    )


def test_what_the_user_says_of_a_request_is_sent(server: AwsModels) -> None:
    server.endpoints["many"] = lambda body, kind: (200, "text/plain", kind.encode())
    options = {
        "accept": "text/plain",
        "content_type": "text/csv",
        "target_model": "v2.tar.gz",
        "inference_component": "c",
        "custom_attributes": "k=v",
    }

    (output,) = opened(
        f"arn:aws:sagemaker:{REGION}:{ACCOUNT}:endpoint/many", server.url, **options
    ).call([Event("1,2", id="e-1")])

    headers, own = server.of("many")[0].headers, "x-amzn-sagemaker-"
    sent = [
        headers["accept"],
        *(
            headers[own + name]
            for name in ("target-model", "inference-component", "custom-attributes", "inference-id")
        ),
    ]
    assert (output, sent) == ("text/csv", ["text/plain", "v2.tar.gz", "c", "k=v", "e-1"])


def test_a_batch_for_an_endpoint_is_one_list(server: AwsModels) -> None:
    server.endpoints["rows"] = lambda body, _: (
        200,
        "application/json",
        json.dumps([sum(row) for row in json.loads(body)]).encode(),
    )
    rows = opened(f"sagemaker://rows?region={REGION}", server.url, batch=True)

    assert list(rows.call([Event([1, 2]), Event([3])])) == [3, 3]
    assert verdict(
        failure_of(lambda: rows.call([Event([1]), Event(b"x", datacontenttype="image/png")]))
    ) == ("invalid_input", "dead")


@pytest.mark.parametrize("event_id", ["x" * 65, "ü", " x", "a\u2028b"])
def test_an_id_that_sagemaker_refuses_travels_as_its_hash(event_id: str) -> None:
    assert inference_id("e-1 ") == "e-1 "
    assert len(inference_id(event_id)) == 64
    assert inference_id(event_id).isalnum()


# -- SageMaker: what goes wrong --------------------------------------------------------------------


@pytest.mark.parametrize(
    ("status", "expected"),
    [
        (400, ("model_rejected", "dead")),
        (415, ("model_rejected", "dead")),
        (408, ("model_http_error", "retried")),
        (429, ("throttled", "later")),
        (500, ("model_http_error", "retried")),
        (503, ("model_http_error", "retried")),
    ],
)
def test_the_status_of_the_container_decides(
    endpoint: Call, server: AwsModels, status: int, expected: tuple[str, str]
) -> None:
    """BI-120."""
    failed = failure_of(lambda: endpoint(answering(status, "bad page", "text/plain")))

    assert (verdict(failed), failed.kind, len(server.requests)) == (expected, f"HTTP {status}", 1)
    assert str(failed) == f"the container answered {status}: bad page"
    assert "arn:aws:logs:" in (failed.detail or "")


def test_the_sixty_seconds_of_the_server_are_a_timeout(
    endpoint: Call, server: AwsModels, monkeypatch: pytest.MonkeyPatch
) -> None:
    """BI-120."""
    from lambda_server import error

    said = {
        "OriginalMessage": (
            "Your invocation timed out while waiting for a response from container primary."
        ),
        "OriginalStatusCode": 0,
    }
    monkeypatch.setattr(
        server,
        "invoke_endpoint",
        lambda *_: error(424, "ModelError", "Received server error (0)", more=said),
    )

    assert verdict(failure_of(lambda: endpoint(answering(200, "1")))) == ("timeout", "retried")


@pytest.mark.parametrize(
    ("code", "status", "message", "expected"),
    [
        ("ThrottlingException", 400, "Rate exceeded", ("throttled", "later")),
        ("ModelNotReadyException", 429, "still loading", ("throttled", "later")),
        (
            "ValidationError",
            400,
            f"Endpoint e of account {ACCOUNT} not found.",
            ("model_unavailable", "later"),
        ),
        (
            "ValidationError",
            400,
            "Variant blue not found for Endpoint e",
            ("model_unavailable", "later"),
        ),
        (
            "ValidationError",
            400,
            "Value at 'body' failed to satisfy constraint",
            ("model_rejected", "dead"),
        ),
        ("ValidationError", 400, "no", ("model_rejected", "dead")),
        ("AccessDeniedException", 403, "not authorized", ("model_unavailable", "later")),
        ("RequestEntityTooLarge", 413, "too large", ("event_too_large", "dead")),
        ("InternalFailure", 500, "oops", ("model_http_error", "retried")),
        ("ServiceUnavailable", 503, "oops", ("model_http_error", "retried")),
        ("InternalDependencyException", 530, "oops", ("model_http_error", "retried")),
    ],
)
def test_what_sagemaker_refuses_is_understood(
    endpoint: Call,
    server: AwsModels,
    code: str,
    status: int,
    message: str,
    expected: tuple[str, str],
) -> None:
    """BI-120."""
    server.refuse(code, status, message)

    failed = failure_of(lambda: endpoint(answering(200, "1")))

    assert (verdict(failed), len(server.requests)) == (expected, 1)


def test_an_endpoint_of_another_account_is_another_model(emulator: Emulator) -> None:
    opened(f"arn:aws:sagemaker:{REGION}:{ACCOUNT}:endpoint/churn", emulator.url).warm_up()

    failed = failure_of(
        opened(f"arn:aws:sagemaker:{REGION}:210987654321:endpoint/churn", emulator.url).warm_up
    )

    assert verdict(failed) == ("model_unavailable", "later")
    assert f"in account 210987654321, the credentials are of {ACCOUNT}" in str(failed)


def test_an_endpoint_is_called_as_boto3_says_it(
    emulator: Emulator, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of moto: its own reading of the request. What it answers it was told."""
    told = {
        "Body": '{"score": 0.5}',
        "ContentType": "application/json",
        "InvokedProductionVariant": "blue",
        "CustomAttributes": "",
    }
    url = f"{emulator.url}/moto-api/static/sagemaker/endpoint-results"
    requests.post(url, json={"results": [told], "region": REGION}, timeout=10).raise_for_status()
    monkeypatch.setenv("AWS_DEFAULT_REGION", REGION)  # for an address that names none

    assert list(opened("sagemaker://churn/blue", emulator.url).call([Event([1, 2])])) == [
        {"score": 0.5}
    ]


# -- SageMaker: asynchronous -----------------------------------------------------------------------


class Time:
    """Seconds that pass when somebody sleeps; ``then`` is done at each pause."""

    def __init__(self) -> None:
        self.now_s = 0.0
        self.pauses: list[float] = []
        self.then: list[Callable[[], None]] = []

    def now(self) -> float:
        return self.now_s

    def sleep(self, seconds: float) -> None:
        self.pauses.append(seconds)
        self.now_s += seconds
        if self.then:
            self.then.pop(0)()


class Store:
    """Moto's S3, as the services see it."""

    def __init__(self, s3: Any, bucket: str) -> None:
        self.s3, self.bucket = s3, bucket

    def write(self, location: str, body: bytes) -> None:
        bucket, _, key = location.removeprefix("s3://").partition("/")
        self.s3.put_object(Bucket=bucket, Key=key, Body=body)

    def read(self, location: str) -> bytes:
        bucket, _, key = location.removeprefix("s3://").partition("/")
        body: bytes = self.s3.get_object(Bucket=bucket, Key=key)["Body"].read()
        return body

    def keys(self, prefix: str) -> list[str]:
        return [
            found["Key"]
            for found in self.s3.list_objects_v2(Bucket=self.bucket, Prefix=prefix).get(
                "Contents", ()
            )
        ]


@pytest.fixture
def store(emulator: Emulator) -> Store:
    bucket, s3 = f"{emulator.fresh_prefix()}-async", emulator.client("s3")
    s3.create_bucket(Bucket=bucket, CreateBucketConfiguration={"LocationConstraint": REGION})
    return Store(s3, bucket)


@pytest.fixture(scope="module")
def clients(server: AwsModels, aws_server: Emulator) -> ModelClients:
    """Clients of endpoints here, whose answers are in moto's S3."""
    with pytest.MonkeyPatch.context() as patch:
        for name, value in {
            **CREDENTIALS,
            "AWS_ENDPOINT_URL_S3": aws_server.url,
            "AWS_ENDPOINT_URL_SAGEMAKER_RUNTIME": server.url,
        }.items():
            patch.setenv(name, value)
        clients = model_clients(REGION)
        assert clients.s3 and clients.sagemaker
    return clients


@pytest.fixture
def queued(
    server: AwsModels, store: Store, clients: ModelClients
) -> Iterator[Callable[..., Queued]]:
    """Open an asynchronous endpoint with a container behind it."""
    server.store, server.fetch, server.output, server.autonomous = (
        store.write,
        store.read,
        f"s3://{store.bucket}/out",
        True,
    )
    server.requests.clear()

    def make(
        container: Container, time: Time | None = None, timeout_s: float = 600.0, **options: Any
    ) -> Queued:
        server.endpoints["slow"] = container
        place = place_of(
            Address.of(f"sagemaker://slow?region={REGION}", {"mode": "async", **options})
        )
        time = time or Time()
        endpoint = Queued(place, Setting(timeout_s, 1), time.now, time.sleep)
        endpoint._made = clients  # to make them takes longer than the test
        return endpoint

    yield make
    server.queue.clear()


def test_the_answer_is_fetched_when_it_is_there(
    queued: Callable[..., Queued], server: AwsModels
) -> None:
    server.autonomous, time = False, Time()
    time.then = [lambda: None, lambda: None, server.work]

    (output,) = queued(lambda body, kind: (200, kind, body), time).call(
        [Event({"page": 1}, id="e-1")]
    )

    headers = server.requests[0].headers
    assert output == {"page": 1}
    assert time.pauses == [0.25, 0.375, 0.5625]  # more and more seldom
    assert headers["x-amzn-sagemaker-inference-id"].startswith("e-1.")
    assert (
        headers["x-amzn-sagemaker-requestttlseconds"],
        headers["x-amzn-sagemaker-invocationtimeoutseconds"],
    ) == ("600", "600")


def test_a_failure_there_is_a_failure_here(queued: Callable[..., Queued]) -> None:
    rejected = failure_of(lambda: queued(answering(400, "no page")).call([Event(1)]))
    broken = failure_of(lambda: queued(answering(500, "oops")).call([Event(1)]))

    assert (verdict(rejected), verdict(broken)) == (
        ("model_rejected", "dead"),
        ("model_http_error", "retried"),
    )
    assert "no page" in str(rejected)


def test_another_attempt_hears_nothing_of_the_first(
    queued: Callable[..., Queued], server: AwsModels
) -> None:
    answers = [(500, "text/plain", b"oops"), (200, "application/json", b'"second"')]
    endpoint, event = queued(lambda *_: answers.pop(0)), Event(1, id="e-1")

    failure_of(lambda: endpoint.call([event]))

    assert list(endpoint.call([event])) == ["second"]
    ids = [request.headers["x-amzn-sagemaker-inference-id"] for request in server.requests]
    assert len(set(ids)) == 2


def test_nobody_waits_longer_than_the_timeout(
    queued: Callable[..., Queued], server: AwsModels
) -> None:
    server.autonomous, time = False, Time()

    failed = failure_of(lambda: queued(answering(200, "1"), time, timeout_s=20.0).call([Event(1)]))

    assert (verdict(failed), time.now_s) == (("timeout", "retried"), 20.0)
    # the least that SageMaker takes
    assert server.requests[0].headers["x-amzn-sagemaker-requestttlseconds"] == "60"
    assert len(time.pauses) < 12


def test_a_listener_that_stops_waits_no_more(
    queued: Callable[..., Queued], server: AwsModels
) -> None:
    server.autonomous, time = False, Time()
    endpoint = queued(answering(200, "1"), time)
    time.then = [endpoint.close]

    assert failure_of(lambda: endpoint.call([Event(1)])).reason == "stopped"


def test_a_large_input_is_stored_until_it_is_answered(
    queued: Callable[..., Queued], server: AwsModels, store: Store
) -> None:
    stored: list[list[str]] = []

    def container(body: bytes, kind: str) -> tuple[int, str, bytes]:
        stored.append(store.keys("in/"))
        return 200, kind, str(len(body)).encode()

    (output,) = queued(container, bucket=f"s3://{store.bucket}/in/").call(
        [Event("x" * INLINE_BYTES)]
    )

    assert (output, len(stored[0]), store.keys("in/")) == (INLINE_BYTES + 2, 1, [])
    assert server.requests[0].body == b""


def test_an_input_that_may_still_be_read_is_left(
    queued: Callable[..., Queued], server: AwsModels, store: Store
) -> None:
    server.autonomous = False

    failure_of(
        lambda: queued(answering(200, "1"), timeout_s=1.0, bucket=f"s3://{store.bucket}/left").call(
            [Event("x" * INLINE_BYTES)]
        )
    )

    assert len(store.keys("left/")) == 1


def test_a_large_input_without_a_bucket_says_so(
    queued: Callable[..., Queued], server: AwsModels
) -> None:
    failed = failure_of(lambda: queued(answering(200, "1")).call([Event("x" * INLINE_BYTES)]))

    assert (verdict(failed), len(server.requests)) == (("event_too_large", "dead"), 0)
    assert (
        "takes 128,000 bytes; the event makes 128,002: name a bucket: bucket='s3://bucket/prefix'"
        in str(failed)
    )


def test_a_large_answer_stays_where_it_is(queued: Callable[..., Queued]) -> None:
    answer = answering(200, json.dumps("x" * 2000))

    (output,) = queued(answer, output="location").call([Event(1)])
    failed = failure_of(lambda: queued(answer, max_answer_mb=0.001).call([Event(1)]))

    assert output["bytes"] == 2002
    assert output["output_location"].endswith(".out")
    assert verdict(failed) == ("result_too_large", "dead")


def test_a_bucket_that_may_not_be_read_is_named(
    queued: Callable[..., Queued], request: pytest.FixtureRequest
) -> None:
    endpoint = queued(answering(200, "1"), timeout_s=1.0)
    events, deny = endpoint._clients().s3.meta.events, lambda **_: _Denied()
    events.register("before-send", deny)
    request.addfinalizer(lambda: events.unregister("before-send", deny))

    assert "allow s3:GetObject and s3:ListBucket" in str(
        failure_of(lambda: endpoint.call([Event(1)]))
    )


class _Denied:
    """What S3 answers about objects whose names it may not tell: moto asks nobody for permission."""

    status_code = 403
    headers: dict[str, str] = {}  # noqa: RUF012
    content = b"<Error><Code>AccessDenied</Code><Message>Access Denied</Message></Error>"
    text = content.decode()


def test_asynchronous_results_of_moto_resolve(emulator: Emulator) -> None:
    """Of moto: S3, and where it says that the answers are. What they are it was told."""
    told = [{"data": '{"text": "hello"}'}, {"is_failure": True, "data": "the model failed"}]
    url = f"{emulator.url}/moto-api/static/sagemaker/async-endpoint-results"
    requests.post(url, json={"results": told, "region": "us-east-1"}, timeout=10).raise_for_status()
    address = "sagemaker://ocr?region=us-east-1"

    (output,) = opened(address, emulator.url, mode="async").call([Event({"page": 1})])
    failed = failure_of(
        lambda: opened(address.replace("ocr", "bad"), emulator.url, mode="async").call(
            [Event({"page": 2})]
        )
    )

    assert output == {"text": "hello"}
    assert (verdict(failed), str(failed)) == (("model_error", "retried"), "the model failed")


# -- on a bus --------------------------------------------------------------------------------------


def test_a_function_is_subscribed_like_any_model(server: AwsModels, clock: SimulatedClock) -> None:
    attempts: list[int] = []

    def handler(event: Any) -> Any:
        attempts.append(event["page"])
        print("page", event["page"])
        if event["page"] == 2:
            raise Raised("Reject", errorMessage="not a page")
        if event["page"] == 3 and attempts.count(3) == 1:
            raise ValueError("once")
        return {"text": "x" * event["page"]}

    server.functions["ocr"] = handler
    model = mt.model(f"{ARN}:ocr:3", endpoint_url=server.url)
    with mt.connect("memory://", clock=clock) as bus:
        sub = bus.subscribe("documents", model, max_attempts=2)
        wait_until(lambda: server.of(":ocr:3"))  # it has asked whether it may
        server.refuse("TooManyRequestsException", 429, times=3, **{"Retry-After": "7"})
        receipts = [bus.publish("documents", {"page": 1})]
        settle(bus, clock, sub)
        receipts += bus.publish_batch("documents", [{"page": 2}, {"page": 3}])
        settle(bus, clock, sub)
        rows = sub.invocations()

    said = {
        n: rows[rows["event_id"] == receipt.event_id].astype(object).fillna("")
        for n, receipt in enumerate(receipts, 1)
    }
    assert list(said[1]["reason"]) == ["throttled", "throttled", "throttled", ""]
    assert [list(said[n]["error_type"]) for n in (2, 3)] == [["Reject"], ["ValueError", ""]]
    assert [list(said[n]["outcome"])[-1] for n in (1, 2, 3)] == ["succeeded", "dead", "succeeded"]
    assert "page 1\n" in list(said[1]["stdout"])[-1]
    assert set(rows["version"]) == {"3.0.0"}
    assert sorted(attempts) == [1, 2, 3, 3]
