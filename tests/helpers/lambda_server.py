"""AWS' two ways to call a model, over real HTTP on loopback: Lambda's Invoke, and SageMaker's
InvokeEndpoint and InvokeEndpointAsync.

Moto answers both with what it was told to answer. Here Python runs: a handler for a function, whose
exceptions become what the runtime of Lambda makes of them, and a container for an endpoint, whose
statuses become what SageMaker makes of them. What a service refuses by itself (throttling,
permissions) is told with :meth:`AwsModels.refuse`. The shapes are those of botocore's service
models.
"""

from __future__ import annotations

import base64
import dataclasses
import http.server
import json
import threading
import traceback
import urllib.parse
import uuid
from collections.abc import Callable
from typing import Any

from mltrigger.versions.running.capture import captured

Handler = Callable[[Any], Any]
"""What a function does with its event."""
Container = Callable[[bytes, str], tuple[int, str, bytes]]
"""What an endpoint does with a body of a content type: status, content type and body of the answer."""


@dataclasses.dataclass
class Request:
    """What was asked, as it arrived."""

    path: str
    query: dict[str, str]
    headers: dict[str, str]
    body: bytes


class AwsModels:
    """A server with Lambda functions and SageMaker endpoints.

    Parameters
    ----------
    functions : dict
        Name -> handler. ``name:qualifier`` is looked up first.
    endpoints : dict
        Name -> container.
    store : callable, optional
        Writes an object: how asynchronous endpoints answer. ``store("s3://bucket/key", body)``.
    fetch : callable, optional
        Reads one: their input.
    output : str
        Where they answer, ``s3://bucket/prefix``.
    """

    def __init__(
        self,
        functions: dict[str, Handler] | None = None,
        endpoints: dict[str, Container] | None = None,
        *,
        store: Callable[[str, bytes], None] | None = None,
        fetch: Callable[[str], bytes] | None = None,
        output: str = "s3://answers/of",
    ) -> None:
        self.functions, self.endpoints = functions or {}, endpoints or {}
        self.store, self.fetch, self.output = store, fetch, output
        self.requests: list[Request] = []
        self.queue: list[Callable[[], None]] = []
        self.autonomous = True
        self._refusals: list[tuple[int, str, str, dict[str, str]]] = []
        self._capacity: dict[str, threading.Semaphore] = {}
        server = _Server(("127.0.0.1", 0), type("Bound", (_Handler,), {"models": self}))
        self._server = server
        self.url = f"http://127.0.0.1:{server.server_address[1]}"

    def __enter__(self) -> AwsModels:
        threading.Thread(
            target=self._server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True
        ).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()

    def refuse(
        self, code: str, status: int, message: str = "no", times: int = 1, **headers: str
    ) -> None:
        """Answer the next requests with an error of the service, and do nothing."""
        self._refusals += [(status, code, message, headers)] * times

    def reserve(self, function: str, concurrency: int) -> None:
        """Let *function* run so many times at once; what comes then is throttled."""
        self._capacity[function] = threading.Semaphore(concurrency)

    def work(self) -> None:
        """Answer everything that is queued at asynchronous endpoints."""
        while self.queue:
            self.queue.pop(0)()

    def of(self, path: str) -> list[Request]:
        """Return the requests whose path holds *path*."""
        return [request for request in self.requests if path in request.path]

    # -- Lambda ------------------------------------------------------------------------------------

    def invoke(
        self, name: str, qualifier: str | None, request: Request
    ) -> tuple[int, dict[str, str], bytes]:
        if name.startswith("arn:"):
            parts = name.split(":")
            name, qualifier = parts[6], parts[7] if len(parts) > 7 else qualifier
        handler = self.functions.get(f"{name}:{qualifier}") or self.functions.get(name)
        if handler is None:
            where = f"arn:aws:lambda:eu-west-1:123456789012:function:{name}"
            return error(404, "ResourceNotFoundException", f"Function not found: {where}")
        if request.headers.get("x-amz-invocation-type") == "DryRun":
            return 204, {}, b""
        if len(request.body) > 6 * 1024 * 1024:
            return error(
                413, "RequestTooLargeException", f"{len(request.body)} byte payload is too large"
            )
        capacity = self._capacity.get(name)
        if capacity is not None and not capacity.acquire(blocking=False):
            return error(429, "TooManyRequestsException", "Rate Exceeded.", {"Retry-After": "2"})
        try:
            return _ran(handler, request, qualifier or "$LATEST")
        finally:
            if capacity is not None:
                capacity.release()

    # -- SageMaker ---------------------------------------------------------------------------------

    def invoke_endpoint(self, name: str, request: Request) -> tuple[int, dict[str, str], bytes]:
        if (container := self.endpoints.get(name)) is None:
            return error(
                400, "ValidationError", f"Endpoint {name} of account 123456789012 not found."
            )
        status, kind, body = container(request.body, request.headers.get("content-type", ""))
        if status == 200:
            return (
                200,
                {"Content-Type": kind, "x-Amzn-Invoked-Production-Variant": "AllTraffic"},
                body,
            )
        side, text = ("client" if status < 500 else "server"), body.decode("utf-8", "replace")
        message = (
            f'Received {side} error ({status}) from primary with message "{text}". See https://…'
            " for more information."
        )
        more = {
            "OriginalStatusCode": status,
            "OriginalMessage": text,
            "LogStreamArn": f"arn:aws:logs:eu-west-1:1:{name}",
        }
        return error(424, "ModelError", message, more=more)

    def invoke_endpoint_async(
        self, name: str, request: Request
    ) -> tuple[int, dict[str, str], bytes]:
        if (container := self.endpoints.get(name)) is None:
            return error(
                400, "ValidationError", f"Endpoint {name} of account 123456789012 not found."
            )
        request_id = request.headers.get("x-amzn-sagemaker-inference-id") or str(uuid.uuid4())
        where = {
            kind: f"{self.output}/{request_id}{ending}"
            for kind, ending in (("Output", ".out"), ("Failure", "-error.out"))
        }
        source = request.headers.get("x-amzn-sagemaker-inputlocation")

        def answer() -> None:
            assert self.store is not None and self.fetch is not None
            body = self.fetch(source) if source else request.body
            status, _, said = container(
                body, request.headers.get("x-amzn-sagemaker-content-type", "")
            )
            if status == 200:
                self.store(where["Output"], said)
            else:
                text = (
                    f'Received server error ({status}) from primary with message "{said.decode()}".'
                )
                self.store(where["Failure"], text.encode())

        self.queue.append(answer)
        if self.autonomous:
            self.work()
        headers = {f"X-Amzn-SageMaker-{kind}Location": place for kind, place in where.items()}
        return (
            202,
            {**headers, "Content-Type": "application/json"},
            json.dumps({"InferenceId": request_id}).encode(),
        )


def error(
    status: int,
    code: str,
    message: str,
    headers: dict[str, str] | None = None,
    more: dict[str, Any] | None = None,
) -> tuple[int, dict[str, str], bytes]:
    """Return an error as services that speak REST and JSON send it."""
    body = json.dumps(
        {"Type": "User", "message": message, "Message": message, **(more or {})}
    ).encode()
    return (
        status,
        {"x-amzn-ErrorType": code, "Content-Type": "application/json", **(headers or {})},
        body,
    )


def _ran(handler: Handler, request: Request, version: str) -> tuple[int, dict[str, str], bytes]:
    """Run *handler* as Lambda's runtime for Python does."""
    request_id = str(uuid.uuid4())
    headers = {"X-Amz-Executed-Version": version, "Content-Type": "application/json"}
    with captured() as printed:  # of this thread alone
        try:
            body = json.dumps(handler(json.loads(request.body or b"null")))
        except Exception as problem:
            headers["X-Amz-Function-Error"] = "Unhandled"
            trace = traceback.format_list(traceback.extract_tb(problem.__traceback__)[1:])
            said = {
                "errorMessage": str(problem),
                "errorType": type(problem).__name__,
                "requestId": request_id,
                "stackTrace": trace,
            }
            body = json.dumps({**said, **getattr(problem, "said", {})})
    if request.headers.get("x-amz-log-type") == "Tail":
        log = (
            f"START RequestId: {request_id} Version: {version}\n{printed.take() or ''}END"
            f" RequestId: {request_id}\n"
        )
        headers["X-Amz-Log-Result"] = base64.b64encode(log.encode()[-4096:]).decode()
    return 200, headers, body.encode()


class _Server(http.server.ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, *_: Any) -> None:
        """Say nothing: clients that give up are what some tests are about."""


class _Handler(http.server.BaseHTTPRequestHandler):
    models: AwsModels
    protocol_version = "HTTP/1.1"

    def do_POST(self) -> None:
        path, _, query = self.path.partition("?")
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        headers = {name.lower(): value for name, value in self.headers.items()}
        request = Request(
            urllib.parse.unquote(path), dict(urllib.parse.parse_qsl(query)), headers, body
        )
        self.models.requests.append(request)
        status, more, answer = self._answer(request)
        self.send_response(status)
        for name, value in more.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(answer)))
        self.end_headers()
        self.wfile.write(answer)

    def _answer(self, request: Request) -> tuple[int, dict[str, str], bytes]:
        models, parts = self.models, request.path.strip("/").split("/")
        if models._refusals:
            status, code, message, headers = models._refusals.pop(0)
            return error(status, code, message, headers)
        if parts[1:2] == ["functions"]:
            return models.invoke(parts[2], request.query.get("Qualifier"), request)
        if parts[2:] == ["async-invocations"]:
            return models.invoke_endpoint_async(parts[1], request)
        return models.invoke_endpoint(parts[1], request)

    def log_message(self, *_: Any) -> None:
        pass
