"""Webhooks out: what a receiver gets, what its answers mean, and where a webhook never goes.

The receivers are real servers on loopback. They verify with the published library.
"""

from __future__ import annotations

import base64
import contextlib
import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import standardwebhooks
from model_servers import (
    ModelServer,
    Proxy,
    RawServer,
    Reply,
    Request,
    drip,
    read_request,
    reset,
    self_signed,
    unused_port,
    whole_answer,
)
from shared import settle, wait_until

import mltrigger as mt
from mltrigger.errors import InvalidModel, ModelFailure, NotFound
from mltrigger.event.event import Event
from mltrigger.testing import SimulatedClock
from mltrigger.versions.address import Address
from mltrigger.versions.scheme import HOLD_S, Endpoint, Setting
from mltrigger.versions.schemes.webhook.public import is_public
from mltrigger.versions.schemes.webhook.scheme import Webhook

ROOT = Path(mt.__file__).parent.parent
SECRET = "whsec_" + base64.b64encode(b"a secret of more than 24 bytes").decode()
NEXT = "whsec_" + base64.b64encode(b"the secret that comes after it").decode()
PUBLIC, PRIVATE = "93.184.215.14", "10.0.0.5"


@pytest.fixture(autouse=True)
def secrets(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOOK", SECRET)
    monkeypatch.setenv("HOOK_NEXT", NEXT)
    for name in ("http_proxy", "https_proxy", "all_proxy", "no_proxy", "requests_ca_bundle"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)


class Receiver(ModelServer):
    """A server that verifies each request with the published library, then answers."""

    def __init__(self, answer: Any = None, secret: str = SECRET, **options: Any) -> None:
        super().__init__(self._verified, **options)
        self._then, self._webhook = answer, standardwebhooks.Webhook(secret)
        self.got: list[Any] = []
        self.ids: list[str] = []

    def _verified(self, request: Request) -> Any:
        if request.method != "POST":
            return Reply(405)
        body = self._webhook.verify(request.body, dict(request.headers))
        reply = self._then(request) if callable(self._then) else self._then
        if reply is None or reply.status < 300:
            with self.lock:
                self.ids.append(str(request.header("webhook-id")))
                self.got.append(body)
        return reply or Reply(204, body=b"")

    @property
    def address(self) -> str:
        return f"webhook+{self.url}/hook"

    def options(self, **more: Any) -> dict[str, Any]:
        return {"secret": "env:HOOK", "allow": [f"127.0.0.1:{self.port}"], **more}

    def model(self, **more: Any) -> mt.Model:
        return mt.model(self.address, name="partner", **self.options(**more))


def resolver(*addresses: str) -> Callable[..., list[Any]]:
    """Return a resolver that answers *addresses*, and remembers the names."""

    def resolve(host: str, port: int, *_: Any) -> list[Any]:
        resolve.asked.append(host)  # type: ignore[attr-defined]
        return [
            (
                socket.AF_INET6 if ":" in address else socket.AF_INET,
                socket.SOCK_STREAM,
                6,
                "",
                (address, port, 0, 0) if ":" in address else (address, port),
            )
            for address in addresses
        ]

    resolve.asked = []  # type: ignore[attr-defined]
    return resolve


@contextlib.contextmanager
def opened(
    text: str, scheme: Webhook | None = None, timeout_s: float = 10.0, **options: Any
) -> Iterator[Endpoint]:
    address, scheme = Address.of(text, options), scheme or Webhook()
    scheme.describe(address)
    endpoint = scheme.open(address, Setting(timeout_s, 4))
    try:
        yield endpoint
    finally:
        endpoint.close()


def ask(text: str, event: Event | None = None, **options: Any) -> Any:
    with opened(text, **options) as endpoint:
        endpoint.warm_up()
        return endpoint.call([event or Event({"x": 1}, id="1")])[0]


def failed(text: str, event: Event | None = None, **options: Any) -> ModelFailure:
    with pytest.raises(ModelFailure) as caught:
        ask(text, event, **options)
    return caught.value


def refused(text: str, **options: Any) -> str:
    """Return why the address is refused when it is handed over."""
    with pytest.raises((InvalidModel, NotFound)) as caught:
        mt.model(text, name="m", **options).describe()
    return str(caught.value)


# -- what is sent ----------------------------------------------------------------------------------


def test_an_event_is_posted_whole_and_signed() -> None:
    event = Event({"words": 3}, id="17", source="scanner", type="page", subject="ü")
    with Receiver() as receiver:
        output = ask(receiver.address, event, **receiver.options())

        (request,) = receiver.requests
    assert (request.method, request.path) == ("POST", "/hook")
    assert request.header("content-type") == "application/cloudevents+json; charset=utf-8"
    assert request.header("webhook-id") == "17"
    assert Event.from_json(request.body) == event
    assert output == {"status": 204, "answer": None}


def test_the_signature_has_the_time_of_the_attempt() -> None:
    with ModelServer(Reply()) as server:
        options = {"secret": "env:HOOK", "allow": [f"127.0.0.1:{server.port}"]}
        for now_s in (1_700_000_000.9, 1_700_000_060.0):
            ask(
                f"webhook+{server.url}/h",
                scheme=Webhook(now_s=lambda now_s=now_s: now_s),
                **options,
            )

        assert [r.header("webhook-timestamp") for r in server.requests] == [
            "1700000000",
            "1700000060",
        ]
        assert len({r.header("webhook-signature") for r in server.requests}) == 2


@pytest.mark.parametrize("secret", [SECRET, NEXT])
def test_while_a_secret_is_replaced_both_fit(secret: str) -> None:
    with Receiver(secret=secret) as receiver:
        options = receiver.options(secrets=["env:HOOK_NEXT", "env:HOOK"])
        options.pop("secret")
        ask(receiver.address, **options)

        assert receiver.ids == ["1"]


@pytest.mark.parametrize(
    ("envelope", "data", "body", "kind", "more"),
    [
        ("none", {"x": 1}, b'{"x":1}', "application/json", {}),
        ("binary", {"x": 1}, b'{"x":1}', "application/json", {"ce-id": "1", "ce-type": "t"}),
        ("binary", b"\xff\x00", b"\xff\x00", "application/octet-stream", {"ce-specversion": "1.0"}),
    ],
)
def test_other_envelopes_send_the_data(
    envelope: str, data: Any, body: bytes, kind: str, more: dict[str, str]
) -> None:
    with ModelServer(Reply()) as server:
        options = {"secret": "none", "allow": [f"127.0.0.1:{server.port}"], "envelope": envelope}
        ask(f"webhook+{server.url}/h", Event(data, id="1", type="t"), **options)

        (request,) = server.requests
    assert (request.body, request.header("content-type")) == (body, kind)
    assert {name: request.header(name) for name in more} == more
    assert (request.header("ce-id") is not None) == (envelope == "binary")
    assert request.header("webhook-signature") is None
    assert request.header("webhook-id") == "1"


@pytest.mark.parametrize("event_id", ["ü", "a b", 'x"y', "100%", "日本 17"])
def test_no_id_adds_a_header_or_a_line(event_id: str) -> None:
    with Receiver() as receiver:
        ask(receiver.address, Event(1, id=event_id), **receiver.options())

        (sent,) = receiver.ids
        assert sent.isascii() and sent.isprintable() and " " not in sent


def test_other_headers_are_sent_and_their_secrets_hidden(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TOKEN", "a-long-secret-token")
    headers = {"Authorization": "Bearer env:TOKEN", "X-Tenant": "blue"}
    with Receiver(lambda r: Reply(200, {"you said": r.header("authorization")})) as receiver:
        output = ask(receiver.address, **receiver.options(headers=headers))

        assert receiver.requests[0].header("authorization") == "Bearer a-long-secret-token"
        assert receiver.requests[0].header("x-tenant") == "blue"
    assert output["status"] == 200
    assert "you said" in output["answer"] and "a-long-secret-token" not in output["answer"]


# -- what an answer means --------------------------------------------------------------------------


@pytest.mark.parametrize("status", [200, 201, 202, 204, 299])
def test_any_2xx_is_a_delivery(status: int) -> None:
    with ModelServer(Reply(status, body=b"" if status == 204 else b"not json <b>")) as server:
        output = ask(
            f"webhook+{server.url}/h", secret="env:HOOK", allow=[f"127.0.0.1:{server.port}"]
        )

    assert output == {"status": status, "answer": None if status == 204 else "not json <b>"}


@pytest.mark.parametrize(
    ("status", "headers", "reason", "permanent", "throttled"),
    [
        *[(s, {}, "model_rejected", True, False) for s in (400, 401, 403, 404, 405, 407, 422)],
        (410, {}, "gone", True, False),
        *[(s, {}, "model_http_error", False, False) for s in (408, 425, 500, 502, 503, 504)],
        (429, {"Retry-After": "7"}, "throttled", False, True),
        (503, {"Retry-After": "7"}, "throttled", False, True),
        *[
            (s, {"Location": "http://169.254.169.254/"}, "redirect_refused", True, False)
            for s in (301, 302, 303, 307, 308)
        ],
    ],
)
def test_every_other_status_has_one_meaning(
    status: int, headers: dict[str, str], reason: str, permanent: bool, throttled: bool
) -> None:
    with Receiver(Reply(status, {"error": "told why"}, headers=headers)) as receiver:
        failure = failed(receiver.address, **receiver.options())

        assert len(receiver.requests) == 1
    assert (failure.reason, failure.permanent, failure.throttled) == (reason, permanent, throttled)
    assert failure.kind == f"HTTP {status}"
    assert "told why" in str(failure)
    assert failure.delay_s == (7 if throttled else None)
    if status == 410:
        assert "the receiver wants no more" in str(failure)


def test_a_redirect_is_never_followed() -> None:
    with ModelServer(Reply()) as other:
        answer = Reply(307, headers={"Location": f"{other.url}/elsewhere"})
        with Receiver(answer) as receiver:
            failure = failed(receiver.address, **receiver.options())

        assert failure.reason == "redirect_refused"
        assert "redirects are not followed" in str(failure)
        assert (other.requests, other.connections) == ([], 0)


def test_a_long_or_broken_answer_is_a_delivery_all_the_same() -> None:
    """Its status has come: sending again would deliver twice."""

    def answers(connection: socket.socket, number: int) -> None:
        read_request(connection)
        if number == 1:
            connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 999999999\r\n\r\n")
            connection.sendall(b"x" * 1_000_000)
        else:
            connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhalf")
        reset(connection)

    with RawServer(answers) as server:
        options = {"secret": "env:HOOK", "allow": [f"127.0.0.1:{server.port}"]}
        long, broken = (ask(f"webhook+{server.url}/h", **options) for _ in range(2))

        assert server.connections == 2
    assert long == {"status": 200, "answer": "x" * 1_000}
    assert broken["status"] == 200


def test_a_receiver_that_drips_runs_into_the_timeout() -> None:
    stop = threading.Event()

    def drips(connection: socket.socket, _: int) -> None:
        read_request(connection)
        drip(connection, whole_answer(b"x" * 100), 0.05, stop)

    with RawServer(drips) as server:
        failure = failed(
            f"webhook+{server.url}/h",
            timeout_s=0.3,
            secret="env:HOOK",
            allow=[f"127.0.0.1:{server.port}"],
        )
        stop.set()
    assert (failure.reason, failure.permanent) == ("timeout", False)


def test_a_receiver_that_breaks_off_is_no_model_that_died() -> None:
    def breaks(connection: socket.socket, number: int) -> None:
        read_request(connection)
        if number == 1:
            connection.sendall(whole_answer(more="Connection: close\r\n"))
        reset(connection)

    with RawServer(breaks) as server:
        options = {"secret": "env:HOOK", "allow": [f"127.0.0.1:{server.port}"]}
        with opened(f"webhook+{server.url}/h", **options) as endpoint:
            endpoint.call([Event(1)])
            with pytest.raises(ModelFailure) as caught:
                endpoint.call([Event(1)])
    assert (caught.value.reason, caught.value.permanent) == ("model_http_error", False)
    assert "it may have got the event" in str(caught.value)


def test_an_unreachable_receiver_is_waited_for() -> None:
    with unused_port() as port:
        failure = failed(
            f"webhook+http://127.0.0.1:{port}/h", secret="env:HOOK", allow=[f"127.0.0.1:{port}"]
        )
    assert (failure.reason, failure.throttled, failure.permanent) == (
        "model_unavailable",
        True,
        False,
    )


# -- secrets ---------------------------------------------------------------------------------------


def test_a_signature_is_asked_for() -> None:
    assert "secret='env:HOOK_SECRET'" in refused("webhook+https://partner.example/h")
    assert "secret='env:HOOK_SECRET'" in refused(
        "webhook+https://partner.example/h", secret="env:HOOK", secrets=["env:HOOK"]
    )


@pytest.mark.parametrize(
    "given",
    [
        {"secret": SECRET},
        {"secret": SECRET.removeprefix("whsec_")},
        {"secrets": [SECRET]},
        {"secret": [SECRET]},
        {"secrets": ["env:HOOK", NEXT]},
        {"secrets": [SECRET.removeprefix("whsec_"), 5]},
        {"secrets": ["none"]},
        {"secrets": []},
        {"secret": f"env:HOOK {SECRET}"},
        {"secret": "env:HOOK", "headers": {"Authorization": f"Bearer {SECRET}"}},
        {"secret": "env:HOOK", "headers": {"Webhook-Signature": "v1,x"}},
    ],
)
def test_a_secret_is_never_stored_and_never_shown(given: dict[str, Any]) -> None:
    said = refused("webhook+https://partner.example/h", **given)

    assert SECRET.removeprefix("whsec_") not in said and NEXT.removeprefix("whsec_") not in said


@pytest.mark.parametrize("value", [None, "", "too short", "whsec_AAAA"])
def test_a_missing_secret_is_waited_for(value: str | None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("HOOK") if value is None else monkeypatch.setenv("HOOK", value)
    with Receiver() as receiver:
        failure = failed(receiver.address, **receiver.options())

        assert receiver.requests == []
    assert (failure.reason, failure.throttled, failure.delay_s) == (
        "model_unavailable",
        True,
        HOLD_S,
    )
    assert "HOOK" in str(failure)
    assert not value or value not in str(failure)


# -- where a webhook never goes --------------------------------------------------------------------


@pytest.mark.parametrize(
    "host",
    [
        "localhost",
        "LOCALHOST.",
        "a.localhost",
        "127.0.0.1",
        "127.1",
        "0.0.0.0",
        "2130706433",
        "0x7f000001",
        "0177.0.0.1",
        "0x7f.1",
        "017700000001",
        "10.0.0.1",
        "172.16.0.1",
        "192.168.1.1",
        "169.254.169.254",
        "2852039166",
        "100.64.0.1",
        "192.0.0.192",
        "192.0.2.1",
        "198.18.0.1",
        "168.63.129.16",
        "224.0.0.1",
        "255.255.255.255",
        "[::1]",
        "[::]",
        "[::ffff:127.0.0.1]",
        "[::ffff:a9fe:a9fe]",
        "[::7f00:1]",
        "[fe80::1]",
        "[fc00::1]",
        "[fd00:ec2::254]",
        "[ff02::1]",
        "[64:ff9b::7f00:1]",
        "[64:ff9b::a9fe:a9fe]",
        "[64:ff9b:1::1]",
        "[2002:7f00:1::]",
        "[2002:a9fe:a9fe::1]",
        "[2001:0:53aa:64c::1]",
        "[2001:db8::1]",
    ],
)
def test_an_address_that_is_not_public_is_refused_when_it_is_handed_over(host: str) -> None:
    said = refused(f"webhook+https://{host}/h", secret="env:HOOK")

    assert "is no public address" in said or "the host is a number" in said


@pytest.mark.parametrize(
    "text",
    ["8.8.8.8", "93.184.215.14", "2606:2800:21f:cb07::1", "2a00:1450::1", "64:ff9b::808:808"],
)
def test_an_address_of_the_internet_is_public(text: str) -> None:
    assert is_public(text)


@pytest.mark.parametrize("text", ["fe80::1%eth0", "2606:2800::1%1", "partner.example", "", "8.8.8"])
def test_a_zone_or_no_address_is_not_public(text: str) -> None:
    assert not is_public(text)


@pytest.mark.parametrize(
    "addresses",
    [
        (PRIVATE,),
        ("127.0.0.1",),
        (PUBLIC, "127.0.0.1"),
        ("127.0.0.1", PUBLIC),
        ("2606:2800::1", "::1"),
        ("::ffff:127.0.0.1",),
        ("169.254.169.254",),
    ],
)
def test_a_name_with_an_address_that_is_not_public_is_never_connected_to(
    addresses: tuple[str, ...],
) -> None:
    with ModelServer(Reply()) as server:
        resolve = resolver(*addresses)
        failure = failed(
            f"webhook+https://partner.example:{server.port}/h",
            scheme=Webhook(resolve=resolve),
            secret="env:HOOK",
        )

        assert (server.connections, resolve.asked) == (0, ["partner.example"])  # type: ignore[attr-defined]
    assert (failure.reason, failure.kind) == ("model_unavailable", "AddressRefused")
    assert (failure.throttled, failure.permanent) == (True, False)
    assert f"allow=['partner.example:{server.port}']" in str(failure)


def test_the_connection_goes_to_the_address_that_was_checked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A name server that answers otherwise the second time is not asked. TLS checks the name."""
    certificate = self_signed(tmp_path)
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(certificate[0]))
    asked: list[str] = []

    def rebinds(host: str, port: int, *_: Any) -> list[Any]:
        asked.append(host)
        address = "127.0.0.1" if len(asked) == 1 else "127.0.0.66"
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (address, port))]

    with Receiver(certificate=certificate) as receiver:
        scheme = Webhook(resolve=rebinds)
        options = {"secret": "env:HOOK", "allow": [f"model.example:{receiver.port}"]}
        url = f"webhook+https://model.example:{receiver.port}/h"
        with opened(url, scheme=scheme, **options) as endpoint:
            endpoint.call([Event(1, id="1")])
            endpoint.call([Event(2, id="2")])

        assert (receiver.ids, receiver.connections) == (["1", "2"], 1)
        assert receiver.requests[0].header("host") == f"model.example:{receiver.port}"
    assert asked == ["model.example"]


def test_a_certificate_for_another_name_or_of_nobody_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    certificate = self_signed(tmp_path)
    with Receiver(certificate=certificate) as receiver:

        def fails(host: str) -> ModelFailure:
            return failed(
                f"webhook+https://{host}:{receiver.port}/h",
                scheme=Webhook(resolve=resolver("127.0.0.1")),
                secret="env:HOOK",
                allow=[f"{host}:{receiver.port}"],
            )

        assert fails("model.example").kind == "TlsError"
        monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(certificate[0]))
        assert fails("other.example").kind == "TlsError"
        assert receiver.requests == []


def test_the_next_address_is_tried_when_one_does_not_answer() -> None:
    with Receiver() as receiver:
        output = ask(
            f"webhook+http://partner.example:{receiver.port}/h",
            scheme=Webhook(resolve=resolver("127.0.0.66", "127.0.0.1")),
            secret="env:HOOK",
            allow=[f"partner.example:{receiver.port}"],
        )

    assert output["status"] == 204


def test_a_proxy_of_the_environment_is_not_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    with Proxy() as proxy, Receiver() as receiver:
        proxy.to = receiver.port
        for name in ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"):
            monkeypatch.setenv(name, proxy.url)
        ask(
            f"webhook+http://partner.example:{receiver.port}/h",
            scheme=Webhook(resolve=resolver("127.0.0.1")),
            secret="env:HOOK",
            allow=[f"partner.example:{receiver.port}"],
        )

        assert (receiver.ids, proxy.asked) == (["1"], [])


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("webhook+http://partner.example/h", "a webhook goes over https"),
        ("webhook+https://user:word@partner.example/h", "must not hold a user or a password"),
        ("webhook+https://partner.example/h\r\nX-Other: 1", "a URL has no blanks"),
        ("webhook+https://partner.example/h\n", "a URL has no blanks"),
        ("webhook+https://partner.example\\@127.0.0.1/h", "a URL has no blanks"),
        ("webhook+https://partner.example/h#x", "leave it out"),
        ("webhook+https://partner.example/h?token=abc", "looks like a secret"),
        ("webhook+https:///h", "is no URL with a host"),
        ("webhook+https://[fe80::1%25eth0]/h", "is no public address"),
    ],
)
def test_an_address_that_could_mean_another_is_refused(text: str, says: str) -> None:
    assert says in refused(text, secret="env:HOOK")


@pytest.mark.parametrize(
    ("allow", "is_allowed"),
    [
        (["127.0.0.1:8080"], True),
        (["other", "127.0.0.1:8080"], True),
        (["127.0.0.1"], False),
        (["127.0.0.1:8081"], False),
        (["127.0.0.2:8080"], False),
        (["0.0.1:8080"], False),
    ],
)
def test_another_host_is_allowed_by_its_name_and_port_only(
    allow: list[str], is_allowed: bool
) -> None:
    text = "webhook+http://127.0.0.1:8080/h"
    if is_allowed:
        described = mt.model(text, name="m", secret="env:HOOK", allow=allow).describe()
        assert described.kind == "webhook+http"
    else:
        assert "allow=['127.0.0.1:8080']" in refused(text, secret="env:HOOK", allow=allow)


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"allow": ["*"]}, "hooks.internal:8080"),
        ({"allow": ["10.0.0.0/8"]}, "hooks.internal:8080"),
        ({"allow": ["https://a"]}, "hooks.internal:8080"),
        ({"allow": []}, "allow must be a list of names"),
        ({"envelope": "xml"}, "structured, binary, none"),
        ({"max_answer_mb": 1}, "no option of webhook+https: models 'max_answer_mb'"),
        ({"secretss": "x"}, "did you mean 'secrets'"),
    ],
)
def test_an_option_that_makes_no_sense_is_refused(options: dict[str, Any], says: str) -> None:
    given = {"secret": "env:HOOK", **options}

    assert says in refused("webhook+https://partner.example/h", **given)


def test_the_name_tells_two_partners_apart(bus: mt.EventBus) -> None:
    names = [
        bus.register(mt.model(f"webhook+https://{host}/hook", secret="env:HOOK")).name
        for host in ("one.example", "two.example")
    ]

    assert names == ["one.example-hook", "two.example-hook"]
    assert SECRET not in bus.models().to_csv()


# -- the whole: outcomes to a partner --------------------------------------------------------------


def ocr(document: str) -> dict[str, int]:
    if document == "blank":
        raise mt.Reject("a blank page")
    return {"words": len(document)}


def outcomes_of(receiver: Receiver) -> list[tuple[str, str]]:
    return sorted((got["data"]["event_id"], got["data"]["outcome"]) for got in receiver.got)


def test_each_outcome_is_delivered_to_a_partner(url: str) -> None:
    with Receiver() as receiver, mt.connect(url) as bus:
        bus.subscribe("documents", mt.model(ocr, name="ocr"))
        sub = bus.subscribe("outcomes://ocr", receiver.model())
        bus.publish_batch("documents", [mt.Event("abc", id="1"), mt.Event("blank", id="2")])
        assert bus.wait(30, progress=False)

        assert outcomes_of(receiver) == [("1", "succeeded"), ("2", "dead")]
        assert sorted(receiver.ids) == sorted(got["id"] for got in receiver.got)
        assert receiver.got[0]["source"] == "mltrigger/outcomes/ocr"
        assert list(sub.results()["status"]) == [204, 204]


def test_a_receiver_that_is_down_for_a_while_gets_everything(clock: SimulatedClock) -> None:
    with mt.connect("memory://", clock=clock) as bus, contextlib.ExitStack() as later:
        bus.subscribe("documents", mt.model(ocr, name="ocr"))
        with unused_port() as port:
            place = f"127.0.0.1:{port}"
            model = mt.model(f"webhook+http://{place}/hook", secret="env:HOOK", allow=[place])
            sub = bus.subscribe("outcomes://ocr", model)
            bus.publish_batch("documents", [mt.Event("abc", id=str(n)) for n in range(20)])
            wait_until(lambda: sub.state.startswith("waiting for the model"))
            assert place in sub.state

        receiver = later.enter_context(Receiver(port=port))
        wait_until(lambda: len(bus.events("outcomes-ocr")) == 20)
        settle(bus, clock, sub)
        assert outcomes_of(receiver) == sorted((str(n), "succeeded") for n in range(20))
        assert set(sub.invocations()["outcome"]) <= {"failed", "succeeded"}
        assert bus.audit()["balanced"].all()


def test_dead_letters_of_a_receiver_are_sent_again(clock: SimulatedClock) -> None:
    status = 500
    with (
        Receiver(lambda _: Reply(status)) as receiver,
        mt.connect("memory://", clock=clock) as bus,
    ):
        bus.subscribe("documents", mt.model(ocr, name="ocr"))
        sub = bus.subscribe("outcomes://ocr", receiver.model(), max_attempts=3)
        bus.publish_batch("documents", [mt.Event("abc", id="1"), mt.Event("abc", id="2")])
        wait_until(lambda: len(bus.events("outcomes-ocr")) == 2)
        settle(bus, clock, sub)
        assert list(sub.dead_letters()["reason"]) == ["model_http_error"] * 2
        assert len(receiver.requests) == 6
        assert len({r.header("webhook-id") for r in receiver.requests}) == 2

        status = 410
        sub.redrive()
        settle(bus, clock, sub)
        assert list(sub.dead_letters()["reason"]) == ["gone"] * 2

        status = 200
        sub.redrive()
        settle(bus, clock, sub)
        assert outcomes_of(receiver) == [("1", "succeeded"), ("2", "succeeded")]
        assert not len(sub.dead_letters())


def test_a_worker_that_is_killed_while_it_posts_posts_again_with_the_same_id(
    file: Path, gate: Any
) -> None:
    """At least once: the receiver knows the repeat by its webhook-id."""
    url = f"sqlite:///{file}"
    first = threading.Event()

    def holds(request: Request) -> Reply:
        if not first.is_set():
            first.set()
            gate.wait()
        return Reply(200)

    with Receiver(holds) as receiver, mt.connect(url) as bus:
        bus.subscribe("documents", mt.model(ocr, name="ocr"))
        sub = bus.subscribe("outcomes://ocr", receiver.model(), listen=False, timeout_s=2)
        worker = subprocess.Popen(
            [sys.executable, "-m", "mltrigger", "worker", "--url", url],
            stdout=subprocess.DEVNULL,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
        )
        try:
            bus.publish("documents", mt.Event("abc", id="1"))
            assert first.wait(60)
        finally:
            worker.send_signal(signal.SIGKILL)
            worker.wait()
        bus.subscribe("outcomes://ocr", receiver.model(), timeout_s=2)
        wait_until(lambda: sub.results()["outcome"].tolist() == ["succeeded"])
        gate.open()

        ids = [request.header("webhook-id") for request in receiver.requests]
        assert len(ids) >= 2 and len(set(ids)) == 1
        (outcome,) = bus.events("outcomes-ocr")["event_id"]
        assert set(ids) == {outcome}
