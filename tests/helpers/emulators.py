"""AWS on loopback: moto's server, in a thread of the test process, over real HTTP.

Its time can be moved, and its answers be spoilt.
"""

from __future__ import annotations

import contextlib
import datetime as dt
import functools
import itertools
import json
import logging
import os
import re
import urllib.parse
import uuid
from collections.abc import Callable, Iterator
from typing import Any

import boto3
import moto.core.utils
import moto.sqs.models
import moto_order
import pytest
from botocore.awsrequest import AWSRequest, AWSResponse
from botocore.httpsession import URLLib3Session
from moto.core.models import botocore_stubber
from moto.server import ThreadedMotoServer

import mltrigger as mt
from mltrigger.aws.clients import Clients

REGION = "eu-west-1"
ACCOUNT = "123456789012"
CREDENTIALS = {"aws_access_key_id": "testing", "aws_secret_access_key": "testing"}
ANOTHER = "MLTRIGGER_TEST_AWS"
"""The environment variable with the URL of another emulator to run the tests of the bus against."""


def unhook(client: Any) -> None:
    """Take out of *client* what moto puts into every client as soon as it is imported."""
    client.meta.events.unregister("before-send", botocore_stubber)


_PREFIXES = itertools.count(1)
"""Numbers of buses; all emulators of a process keep their queues in one place."""


class Emulator:
    """A running server: its address, sessions for it, and its time.

    ``ahead_s`` says how many seconds its clock is ahead of the machine's; set it to a function to
    let a simulated clock decide. Another emulator than moto, in a process of its own, has the
    machine's time: ``movable`` is false.
    """

    def __init__(self, url: str, movable: bool = True) -> None:
        self.url, self.movable = url, movable
        self.ahead_s: Callable[[], float] = lambda: 0.0
        self._run = "" if movable else f"{uuid.uuid4().hex[:6]}x"  # it may remember earlier runs
        self._clients: dict[str, Any] = {}

    def fresh_prefix(self) -> str:
        """Return the name of a bus that nobody else uses: tests share the server, and nothing on
        it.
        """
        return f"bus{self._run}{next(_PREFIXES)}"

    def session(self) -> boto3.Session:
        """Return a session with credentials of its own, so that no test depends on the machine's."""
        return boto3.Session(region_name=REGION, **CREDENTIALS)

    @functools.cached_property
    def clients(self) -> Clients:
        """Our clients, shared: making them costs more than most tests.

        Nobody is hooked into them, so that lean calls are lean.
        """
        clients = Clients(self.session(), REGION, self.url)
        unhook(clients.sqs)
        return clients

    def client(self, service: str) -> Any:
        """Return a bare boto3 client, to look at the emulator from outside."""
        if service not in self._clients:
            self._clients[service] = self.session().client(service, endpoint_url=self.url)
        return self._clients[service]

    def announces(self) -> bool:
        """Whether a bucket keeps the notifications that it is told of."""
        if self.movable:
            return True
        bucket, s3 = f"{self.fresh_prefix()}-announces", self.client("s3")
        s3.create_bucket(Bucket=bucket, CreateBucketConfiguration={"LocationConstraint": REGION})
        try:
            s3.put_bucket_notification_configuration(
                Bucket=bucket, NotificationConfiguration={"EventBridgeConfiguration": {}}
            )
            return "EventBridgeConfiguration" in s3.get_bucket_notification_configuration(
                Bucket=bucket
            )
        except s3.exceptions.ClientError:
            return False

    def reset(self) -> None:
        """Forget everything."""
        import requests

        requests.post(f"{self.url}/moto-api/reset", timeout=10).raise_for_status()
        self.ahead_s = lambda: 0.0

    def now_s(self) -> float:
        """Return the time that the emulator lives in."""
        return dt.datetime.now(dt.UTC).timestamp() + self.ahead_s()


class Faults:
    """What a service answers instead, or beside, of doing what it is asked; and what it was asked.

    Register it with a session before clients are made. An answer is used once, by the next call of
    the operation.
    """

    def __init__(self) -> None:
        self.calls: list[tuple[str, dict[str, Any]]] = []
        self._answers: dict[str, list[Callable[[AWSRequest], AWSResponse | None]]] = {}

    def of(self, operation: str) -> list[dict[str, Any]]:
        """Return what *operation* was asked, oldest first; nothing of services that do not speak
        JSON.
        """
        return [given for name, given in list(self.calls) if name == operation]

    def refuse(self, operation: str, code: str, times: int = 1, status: int = 400) -> None:
        """Answer the next calls of *operation* with an error, and do nothing."""
        self._add(operation, [lambda request: _error(request, code, status)] * times)

    def fail_after(self, operation: str, times: int = 1) -> None:
        """Do what the next calls of *operation* ask for, and answer that it failed."""

        def answer(request: AWSRequest) -> AWSResponse:
            assert _done(request).status_code == 200
            return _error(request, "InternalError", 500)

        self._add(operation, [answer] * times)

    def refuse_entries(
        self,
        operation: str,
        code: str,
        which: Callable[[int], bool] = lambda _: True,
        times: int = 1,
    ) -> None:
        """Do what the next batch calls of *operation* ask for, and answer that it failed for some
        entries.
        """

        def answer(request: AWSRequest) -> AWSResponse:
            said = json.loads(_done(request).content)
            found = [each["Id"] for each in json.loads(request.body)["Entries"]]
            failed = {id_ for i, id_ in enumerate(found) if which(i)}
            good = [each for each in said.get("Successful", ()) if each["Id"] not in failed]
            bad = [
                {"Id": id_, "Code": code, "SenderFault": False, "Message": "no"}
                for id_ in sorted(failed)
            ]
            return _response(
                request,
                200,
                "application/x-amz-json-1.0",
                json.dumps({"Successful": good, "Failed": bad}),
            )

        self._add(operation, [answer] * times)

    def refuse_one_of_a_publish(self) -> None:
        """Send all but the first entry of the next PublishBatch on, and answer that the first was
        not taken.
        """

        def answer(request: AWSRequest) -> AWSResponse:
            given = urllib.parse.parse_qsl(_text(request.body), keep_blank_values=True)
            first = "PublishBatchRequestEntries.member.1."
            id_ = next(value for name, value in given if name == f"{first}Id")
            rest = [(_one_less(name), value) for name, value in given if not name.startswith(first)]
            said = _done(request, urllib.parse.urlencode(rest)).text
            failed = f"<member><Id>{id_}</Id><Code>InternalError</Code><SenderFault>false</SenderFault></member>"
            said = re.sub(r"<Failed\s*/>|<Failed>\s*</Failed>", "", said)
            return _response(
                request,
                200,
                "text/xml",
                said.replace(
                    "</PublishBatchResult>", f"<Failed>{failed}</Failed></PublishBatchResult>"
                ),
            )

        self._add("PublishBatch", [answer])

    def clear(self) -> None:
        """Forget what was asked, and answer nothing."""
        self.calls.clear()
        self._answers.clear()

    def __call__(self, request: AWSRequest, event_name: str, **_: Any) -> AWSResponse | None:
        """Answer *request* instead of the service; ``None`` lets it do so."""
        operation = event_name.rpartition(".")[2]
        given: dict[str, Any] = {}
        with contextlib.suppress(ValueError, TypeError):
            given = json.loads(request.body)
        self.calls.append((operation, given))
        answers = self._answers.get(operation)
        return answers.pop(0)(request) if answers else None

    def _add(
        self, operation: str, answers: list[Callable[[AWSRequest], AWSResponse | None]]
    ) -> None:
        self._answers.setdefault(operation, []).extend(answers)


def _done(request: AWSRequest, body: str | None = None) -> AWSResponse:
    """Return what the service answers, to another *body* if given; emulators do not check the
    signature.
    """
    if body is not None:
        request.body = body.encode()
        request.headers["Content-Length"] = str(len(request.body))
    return URLLib3Session().send(request)


def _text(body: Any) -> str:
    return body.decode() if isinstance(body, bytes) else str(body)


def _one_less(name: str) -> str:
    """Return the name of an entry's member when the first entry is gone."""
    return re.sub(
        r"(?<=PublishBatchRequestEntries\.member\.)\d+", lambda found: str(int(found[0]) - 1), name
    )


def _error(request: AWSRequest, code: str, status: int) -> AWSResponse:
    if "x-amz-json" in str(request.headers.get("Content-Type")):
        return _response(
            request,
            status,
            "application/x-amz-json-1.0",
            json.dumps({"__type": f"com.amazonaws.sqs#{code}", "message": "no"}),
        )
    text = f"<ErrorResponse><Error><Code>{code}</Code><Message>no</Message></Error></ErrorResponse>"
    return _response(request, status, "text/xml", text)


def _response(request: AWSRequest, status: int, kind: str, body: str) -> AWSResponse:
    return AWSResponse(request.url, status, {"Content-Type": kind}, _Raw(body.encode()))


class _Raw:
    """What botocore reads an answer from."""

    def __init__(self, body: bytes) -> None:
        self._body = body

    def stream(self, **_: Any) -> Iterator[bytes]:
        yield self._body

    def read(self, *_: Any) -> bytes:
        return self._body


class Account:
    """What one test has of AWS: the name of a bus of its own, bare clients, and buses that are
    closed at its end.

    ``faults`` spoils what the buses that are opened with ``hooked=True`` are answered; all others
    get what the emulator says.
    """

    def __init__(
        self, emulator: Emulator, session: boto3.Session, hooked: boto3.Session, faults: Faults
    ) -> None:
        self.emulator, self.faults = emulator, faults
        self.prefix = emulator.fresh_prefix()
        self.url = f"aws://{REGION}/{self.prefix}"
        self._session, self._hooked, self._buses = session, hooked, contextlib.ExitStack()
        self._names = itertools.count(1)
        self.sqs, self.sns, self.s3 = (emulator.client(service) for service in ("sqs", "sns", "s3"))

    def bus(self, log: str = "memory://", *, hooked: bool = False, **options: Any) -> mt.EventBus:
        """Open a bus."""
        session = self._hooked if hooked else self._session
        bus = mt.connect(
            self.url,
            **{"log": log, "endpoint_url": self.emulator.url, "session": session, **options},
        )
        self._buses.callback(bus.close, drain_s=5.0, polls_s=0.0)
        return bus

    def bucket(self, versioned: bool = False) -> str:
        """Make a bucket and return its name."""
        name = f"{self.prefix}-{next(self._names)}"
        self.s3.create_bucket(Bucket=name, CreateBucketConfiguration={"LocationConstraint": REGION})
        if versioned:
            self.s3.put_bucket_versioning(
                Bucket=name, VersioningConfiguration={"Status": "Enabled"}
            )
        return name

    def queue(self, **attributes: str) -> str:
        """Make a queue that is somebody else's, and return its URL."""
        return str(
            self.sqs.create_queue(
                QueueName=f"theirs-{self.prefix}-{next(self._names)}", Attributes=attributes
            )["QueueUrl"]
        )

    def topic(self) -> str:
        """Make a topic that is somebody else's, and return its ARN."""
        return str(
            self.sns.create_topic(Name=f"theirs-{self.prefix}-{next(self._names)}")["TopicArn"]
        )

    def arn(self, queue_url: str) -> str:
        """Return the ARN of a queue."""
        return str(
            self.sqs.get_queue_attributes(QueueUrl=queue_url, AttributeNames=["QueueArn"])[
                "Attributes"
            ]["QueueArn"]
        )

    def queues(self) -> list[str]:
        """Return the URLs of the queues of the bus."""
        return list(self.sqs.list_queues(QueueNamePrefix=f"{self.prefix}-").get("QueueUrls", ()))

    def topics(self) -> list[str]:
        """Return the ARNs of the topics of the bus."""
        pages = self.sns.get_paginator("list_topics").paginate()
        return [
            t["TopicArn"]
            for page in pages
            for t in page["Topics"]
            if f":{self.prefix}-" in t["TopicArn"]
        ]

    def feeds(self) -> list[dict[str, str]]:
        """Return the SNS subscriptions of the queues of the bus."""
        pages = self.sns.get_paginator("list_subscriptions").paginate()
        return [
            s
            for page in pages
            for s in page["Subscriptions"]
            if f":{self.prefix}-" in s["Endpoint"]
        ]

    def waiting(self, queue_url: str) -> int:
        """Return how many messages a queue holds, hidden ones too."""
        names = ["ApproximateNumberOfMessages", "ApproximateNumberOfMessagesNotVisible"]
        found = self.sqs.get_queue_attributes(QueueUrl=queue_url, AttributeNames=names)[
            "Attributes"
        ]
        return sum(int(found[name]) for name in names)

    def close(self) -> None:
        """Close the buses."""
        self._buses.close()


@contextlib.contextmanager
def another_server(url: str) -> Iterator[Emulator]:
    """Use an emulator that runs somewhere; it is left as it is."""
    yield Emulator(url, movable=False)


@contextlib.contextmanager
def moto_server() -> Iterator[Emulator]:
    """Run moto's server on a free port of loopback until the block ends."""
    logging.getLogger("werkzeug").setLevel(logging.ERROR)  # or it writes a line for each request
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    emulator = Emulator(f"http://{host}:{port}")
    patch = pytest.MonkeyPatch()
    for name, factor in (("unix_time", 1.0), ("unix_time_millis", 1000.0)):
        patch.setattr(moto.sqs.models, name, lambda factor=factor: emulator.now_s() * factor)
    moto_order.keep_order(patch)
    try:
        yield emulator
    finally:
        patch.undo()
        server.stop()


def aws_emulator() -> contextlib.AbstractContextManager[Emulator]:
    """Return the emulator to test against: the one that the environment names, else moto's server."""
    url = os.environ.get(ANOTHER)
    return another_server(url) if url else moto_server()
