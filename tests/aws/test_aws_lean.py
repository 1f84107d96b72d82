"""The lean calls of SQS: the same answers as boto3's, boto3 itself for whatever is unusual."""

from __future__ import annotations

import socketserver
import threading
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from typing import Any

import boto3
import pytest
from botocore.auth import SigV4Auth
from botocore.awsrequest import AWSRequest
from botocore.credentials import Credentials
from emulators import REGION, Emulator, unhook

from mltrigger.aws.clients import Clients
from mltrigger.aws.lean import LeanSqs, signed

AT = datetime(2026, 11, 23, 9, 30, 0, tzinfo=UTC)


@pytest.fixture
def queue(emulator: Emulator) -> str:
    url: str = emulator.client("sqs").create_queue(QueueName=emulator.fresh_prefix())["QueueUrl"]
    return url


@pytest.fixture
def usual(emulator: Emulator) -> list[str]:
    """The calls that were left to boto3."""
    return []


@pytest.fixture
def lean(emulator: Emulator, usual: list[str]) -> LeanSqs:
    """Lean calls to the emulator; what they leave to boto3 is noted."""
    return noted(emulator.clients.sqs, usual)


def noted(client: Any, usual: list[str]) -> LeanSqs:
    return LeanSqs(_Calls(client, usual), lambda: ("testing", "testing", None), "")


class _Calls:
    def __init__(self, client: Any, usual: list[str]) -> None:
        self._client, self._usual, self.meta = client, usual, client.meta

    def __getattr__(self, name: str) -> Callable[..., Any]:
        def call(**given: Any) -> Any:
            self._usual.append(name)
            return getattr(self._client, name)(**given)

        return call


def receive(sqs: Any, queue: str, **more: Any) -> list[dict[str, Any]]:
    answer = sqs.receive_message(
        QueueUrl=queue,
        MaxNumberOfMessages=10,
        MessageAttributeNames=["All"],
        MessageSystemAttributeNames=["SentTimestamp"],
        **more,
    )
    found: list[dict[str, Any]] = answer.get("Messages", [])
    return found


def test_messages_arrive_as_boto3_gives_them(
    emulator: Emulator, queue: str, lean: LeanSqs, usual: list[str]
) -> None:
    attributes = {
        "name": {"DataType": "String", "StringValue": "ü"},
        "bytes": {"DataType": "Binary.png", "BinaryValue": b"\x00\xff"},
        "n": {"DataType": "Number", "StringValue": "3"},
    }
    emulator.client("sqs").send_message(
        QueueUrl=queue, MessageBody='{"text": "ü 🙂"}', MessageAttributes=attributes
    )

    (mine,) = receive(lean, queue, VisibilityTimeout=0)
    (theirs,) = receive(emulator.client("sqs"), queue)

    for message in (mine, theirs):
        message.pop("ReceiptHandle")
    assert mine == theirs
    assert mine["MessageAttributes"]["bytes"]["BinaryValue"] == b"\x00\xff"
    assert usual == []


def test_nothing_waits_when_nothing_is_there(queue: str, lean: LeanSqs, usual: list[str]) -> None:
    assert receive(lean, queue) == []
    assert usual == []


def test_deletes_and_visibility_changes_are_answered_entry_by_entry(
    emulator: Emulator, queue: str, lean: LeanSqs, usual: list[str]
) -> None:
    for i in range(2):
        emulator.client("sqs").send_message(QueueUrl=queue, MessageBody=str(i))
    first, second = receive(lean, queue)

    hidden = lean.change_message_visibility_batch(
        QueueUrl=queue,
        Entries=[{"Id": "0", "ReceiptHandle": second["ReceiptHandle"], "VisibilityTimeout": 0}],
    )
    deleted = lean.delete_message_batch(
        QueueUrl=queue,
        Entries=[
            {"Id": "0", "ReceiptHandle": first["ReceiptHandle"]},
            {"Id": "1", "ReceiptHandle": "no such handle"},
        ],
    )

    assert [entry["Id"] for entry in hidden["Successful"]] == ["0"]
    assert [entry["Id"] for entry in deleted["Successful"]] == ["0"]
    assert [entry["Id"] for entry in deleted["Failed"]] == ["1"]
    assert [m["Body"] for m in receive(lean, queue)] == [second["Body"]]
    assert usual == []


def test_error_is_the_one_that_boto3_raises(queue: str, lean: LeanSqs, usual: list[str]) -> None:
    with pytest.raises(Exception) as raised:
        receive(lean, f"{queue}-is-not-there")

    assert raised.value.response["Error"]["Code"] in (
        "AWS.SimpleQueueService.NonExistentQueue",
        "QueueDoesNotExist",
    )  # type: ignore[attr-defined]
    assert usual == ["receive_message"]


def test_client_that_somebody_hooked_into_is_left_to_boto3(emulator: Emulator, queue: str) -> None:
    """A stub of a test or a tracer sees every call."""
    seen: list[str] = []
    client = emulator.session().client("sqs", region_name=REGION, endpoint_url=emulator.url)
    unhook(client)
    client.meta.events.register(
        "before-send.sqs.ReceiveMessage", lambda request, **_: seen.append(request.method)
    )
    usual: list[str] = []

    receive(noted(client, usual), queue)

    assert (seen, usual) == (["POST"], ["receive_message"])


@pytest.mark.parametrize("token", [None, "a-token"])
def test_signature_is_botocores(token: str | None, monkeypatch: pytest.MonkeyPatch) -> None:
    body, path, netloc = b'{"QueueUrl": "q"}', "/", "sqs.eu-west-1.amazonaws.com"

    mine = signed(
        ("AKIDEXAMPLE", "wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY", token),
        REGION,
        netloc,
        path,
        "AmazonSQS.ReceiveMessage",
        body,
        AT,
    )

    given = {
        name: value for name, value in mine.items() if name in ("content-type", "x-amz-target")
    }
    request = AWSRequest("POST", f"https://{netloc}{path}", headers=given, data=body)
    monkeypatch.setattr("botocore.auth.get_current_datetime", lambda: AT.replace(tzinfo=None))
    SigV4Auth(
        Credentials("AKIDEXAMPLE", "wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY", token), "sqs", REGION
    ).add_auth(request)
    assert mine["authorization"] == request.headers["Authorization"]
    assert mine["x-amz-date"] == request.headers["X-Amz-Date"]


# -- what a server may answer ----------------------------------------------------------------------


class Scripted(socketserver.ThreadingTCPServer):
    """Answers each request with the next of some bytes, and closes the connection when they say so."""

    allow_reuse_address = daemon_threads = True

    def __init__(self, answers: list[bytes]) -> None:
        self.answers, self.requests = answers, []  # type: tuple[list[bytes], list[bytes]]
        super().__init__(("127.0.0.1", 0), _Answering)
        threading.Thread(
            target=self.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True
        ).start()


class _Answering(socketserver.StreamRequestHandler):
    def handle(self) -> None:
        server: Any = self.server
        while line := self.rfile.readline():
            head = line
            while (line := self.rfile.readline()) not in (b"\r\n", b""):
                head += line
            length = int(
                next(
                    v
                    for k, _, v in (part.partition(b": ") for part in head.split(b"\r\n"))
                    if k.lower() == b"content-length"
                )
            )
            server.requests.append(head + self.rfile.read(length))
            answer = server.answers.pop(0) if server.answers else b""
            self.wfile.write(answer)
            if not answer or b"connection: close" in answer.lower():
                return


@pytest.fixture
def scripted() -> Iterator[Callable[..., tuple[LeanSqs, Scripted, list[str]]]]:
    servers = []

    def start(*answers: bytes, host: str = "127.0.0.1") -> tuple[LeanSqs, Scripted, list[str]]:
        server = Scripted(list(answers))
        servers.append(server)
        client = boto3.client(
            "sqs",
            REGION,
            endpoint_url=f"http://{host}:{server.server_address[1]}",
            aws_access_key_id="a",
            aws_secret_access_key="b",
        )
        unhook(client)
        usual: list[str] = []

        class Rescue:
            meta = client.meta

            def receive_message(self, **_: Any) -> dict[str, Any]:
                usual.append("receive_message")
                return {"Messages": ["from boto3"]}

        lean = LeanSqs(Rescue(), lambda: ("a", "b", None), "")
        return lean, server, usual

    yield start
    for server in servers:
        server.shutdown()
        server.server_close()


def ok(body: bytes, *headers: bytes) -> bytes:
    return (
        b"\r\n".join([b"HTTP/1.1 200 OK", *headers, b"Content-Length: %d" % len(body), b"", b""])
        + body
    )


@pytest.mark.parametrize(
    "answer",
    [
        b"",
        b"HTTP/1.1 200 OK\r\nConnection: close\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 900\r\nConnection: close\r\n\r\n{}",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nxyz\r\n{}\r\n0\r\n\r\n",
        b"HTTP/1.1 200 OK\r\n\r\n{}",
        b"HTTP/1.1 200 OK\r\nContent-Length: -5\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 999999999999\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nno colon\r\nContent-Length: 2\r\n\r\n{}",
        b"HTTP/1.1 503 Slow Down\r\nContent-Length: 2\r\n\r\n{}",
        b"HTTP/1.1 204 No Content\r\n\r\n",
        b"SSH-2.0-OpenSSH_9.6\r\n",
        ok(b"<html>"),
        ok(b"[]"),
        ok(b'{"Messages": [{"MessageAttributes": {"a": {"BinaryValue": "not base64"}}}]}'),
    ],
    ids=range(14),
)
def test_answer_that_is_unusual_is_left_to_boto3(
    answer: bytes, scripted: Callable[..., Any]
) -> None:
    lean, _, usual = scripted(answer)

    assert lean.receive_message(QueueUrl="q") == {"Messages": ["from boto3"]}
    assert usual == ["receive_message"]


def test_answer_in_chunks_is_read(scripted: Callable[..., Any]) -> None:
    lean, server, usual = scripted(
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1\r\n{\r\n1;x=y\r\n}\r\n0\r\n\r\n",
        ok(b"{}"),
    )

    assert [lean.receive_message(QueueUrl="q") for _ in range(2)] == [{}, {}]
    assert (len(server.requests), len(lean._idle), usual) == (2, 1, [])


def test_server_whose_answer_was_not_understood_is_left_to_boto3_for_good(
    scripted: Callable[..., Any],
) -> None:
    """What it handed out is hidden now: once is enough."""
    lean, server, usual = scripted(ok(b"<html>"), ok(b"{}"))

    assert [lean.receive_message(QueueUrl="q") for _ in range(3)] == [
        {"Messages": ["from boto3"]}
    ] * 3
    assert (len(server.requests), len(usual)) == (1, 3)


def test_connection_is_used_again(scripted: Callable[..., Any]) -> None:
    lean, server, usual = scripted(ok(b"{}"), ok(b"{}"))
    lean.receive_message(QueueUrl="q")
    (before,) = lean._idle

    lean.receive_message(QueueUrl="q")

    assert (list(lean._idle), len(server.requests), usual) == ([before], 2, [])


def test_connection_that_was_closed_meanwhile_is_replaced(scripted: Callable[..., Any]) -> None:
    lean, server, usual = scripted(ok(b"{}"), b"", ok(b"{}"))
    lean.receive_message(QueueUrl="q")

    assert lean.receive_message(QueueUrl="q") == {"Messages": ["from boto3"]}
    assert lean.receive_message(QueueUrl="q") == {}
    assert (len(server.requests), usual) == (3, ["receive_message"])


def test_server_of_http_1_0_closes_each_connection(scripted: Callable[..., Any]) -> None:
    lean, _, usual = scripted(b"HTTP/1.0 200 OK\r\nContent-Length: 2\r\n\r\n{}")

    assert lean.receive_message(QueueUrl="q") == {}
    assert (list(lean._idle), usual) == ([], [])


def test_connection_that_the_server_closes_is_not_kept(scripted: Callable[..., Any]) -> None:
    lean, server, usual = scripted(ok(b"{}", b"Connection: close"), ok(b'{"Messages": []}'))

    assert lean.receive_message(QueueUrl="q") == {}
    assert not lean._idle
    assert lean.receive_message(QueueUrl="q") == {"Messages": []}
    assert (len(server.requests), usual) == (2, [])


def test_header_that_would_break_the_request_is_never_sent(scripted: Callable[..., Any]) -> None:
    lean, server, _ = scripted(ok(b"{}"))

    lean.receive_message(QueueUrl="q\r\nx-injected: 1")

    head, _, body = server.requests[0].partition(b"{")
    assert b"x-injected" not in head
    assert b"\\r\\nx-injected" in body


def test_calls_from_several_threads_have_a_connection_each(scripted: Callable[..., Any]) -> None:
    lean, server, usual = scripted(*[ok(b"{}")] * 40)
    threads = [
        threading.Thread(target=lambda: [lean.receive_message(QueueUrl="q") for _ in range(10)])
        for _ in range(4)
    ]

    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=20)

    assert (len(server.requests), usual) == (40, [])
    assert 1 <= len(lean._idle) <= 4


@pytest.mark.parametrize(("variable", "value"), [("http_proxy", "http://127.0.0.1:9")])
def test_proxy_of_the_environment_is_left_to_boto3(
    variable: str, value: str, monkeypatch: pytest.MonkeyPatch, scripted: Callable[..., Any]
) -> None:
    monkeypatch.setenv(variable, value)
    monkeypatch.delenv("no_proxy", raising=False)
    monkeypatch.delenv("NO_PROXY", raising=False)
    lean, _, usual = scripted(ok(b"{}"), host="queues.example")
    here, server, not_used = scripted(ok(b"{}"))

    lean.receive_message(QueueUrl="q")
    here.receive_message(QueueUrl="q")

    assert usual == ["receive_message"]
    assert (len(server.requests), not_used) == (1, [])  # no proxy stands before this machine itself


def test_credentials_are_asked_for_at_each_call(emulator: Emulator, queue: str) -> None:
    """Those of an assumed role change while a listener runs."""
    clients = Clients(emulator.session(), REGION, emulator.url)
    asked = time.monotonic()

    assert clients._keys() == ("testing", "testing", None)
    assert receive(clients.lean_sqs, queue) == []
    assert time.monotonic() - asked < 30
