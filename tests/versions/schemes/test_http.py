"""Models behind HTTP: what is sent, what every answer means, and what servers may do without harm.

All over real sockets.
"""

from __future__ import annotations

import base64
import contextlib
import email.utils
import functools
import gzip
import http
import json
import re
import socket
import threading
import time
import urllib.parse
import zlib
from collections.abc import Callable, Generator, Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from model_servers import (
    ModelServer,
    Proxy,
    RawServer,
    Reply,
    drip,
    read_request,
    reset,
    self_signed,
    unused_port,
    whole_answer,
)
from shared import in_memory, outcomes, settle, wait_until

import mltrigger as mt
from mltrigger.errors import InvalidModel, ModelFailure, NotFound
from mltrigger.event.event import Event
from mltrigger.testing import SimulatedClock
from mltrigger.versions.address import Address
from mltrigger.versions.scheme import HOLD_S, Description, Endpoint, Setting, scheme_of
from mltrigger.versions.schemes.http.answers import retry_after_s
from mltrigger.versions.schemes.http.client import Http
from mltrigger.versions.schemes.http.saying import EXCERPT

CASES = {
    case["id"]: case
    for case in json.loads(
        (Path(__file__).parents[2] / "data" / "bad_inputs.json").read_text("utf-8")
    )["cases"]
}
SOON_S = 0.4
"""The timeout of calls that are expected to run into it."""
OK = b"HTTP/1.1 200 OK\r\n"
UNPROCESSABLE = http.HTTPStatus(422).phrase  # Python 3.13 has the phrase of RFC 9110


@pytest.fixture(autouse=True)
def no_proxy_of_the_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in (
        "http_proxy",
        "https_proxy",
        "all_proxy",
        "no_proxy",
        "requests_ca_bundle",
        "curl_ca_bundle",
    ):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)


@contextlib.contextmanager
def opened(
    text: str, timeout_s: float = 10.0, concurrency: int = 4, **options: Any
) -> Iterator[Endpoint]:
    address = Address.of(text, options)
    scheme = scheme_of(address)
    scheme.describe(address)
    endpoint = scheme.open(address, Setting(timeout_s, concurrency))
    try:
        yield endpoint
    finally:
        endpoint.close()


def described(text: str, **options: Any) -> Description:
    address = Address.of(text, options)
    return scheme_of(address).describe(address)


def ask(text: str, event: Event | None = None, timeout_s: float = 10.0, **options: Any) -> Any:
    with opened(text, timeout_s, **options) as endpoint:
        return endpoint.call([event or Event({"x": 1})])[0]


def failed(
    text: str, event: Event | None = None, timeout_s: float = 10.0, **options: Any
) -> ModelFailure:
    with pytest.raises(ModelFailure) as caught:
        ask(text, event, timeout_s, **options)
    return caught.value


def verdict(failure: ModelFailure) -> tuple[str, bool, bool, bool]:
    return failure.reason, failure.permanent, failure.throttled, failure.whole


BROKEN = ("model_http_error", False, False, True)
BROKE_ON_IT = ("model_http_error", False, False, False)  # perhaps on one event of a batch only
REJECTED = ("model_rejected", True, False, False)
UNAVAILABLE = ("model_unavailable", False, True, True)
THROTTLED = ("throttled", False, True, True)
DIED = ("worker_died", False, False, True)
LATE = ("timeout", False, False, True)
INVALID = ("invalid_input", True, False, False)

# -- what an address says --------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "name", "version"),
    [
        ("http://ocr.team.svc:8080/predict", "ocr", None),
        ("https://models.example.com/ocr/v1/predict", "ocr", None),
        ("http://host/models/page%20reader/invocations?full=1", "page-reader", None),
        ("http://10.0.0.7/", "10.0.0.7", None),
        ("http://[::1]:8080", "1", None),
        ("http://host/api/sum/versions/12/score", "sum", "12.0.0"),
        ("HTTP://Host/x/versions/1.4", "x", "1.4.0"),
        ("kserve+http://host/v1/models/churn:predict", "churn", None),
        ("kserve+https://host/v1/models/churn", "churn", None),
        ("kserve+http://host/gateway/v1/models/churn/versions/3:predict", "churn", "3.0.0"),
        ("mlflow+http://scoring:5000/invocations", "scoring", None),
        ("mlflow+http://scoring:5000", "scoring", None),
    ],
)
def test_the_address_gives_the_model_its_name_and_where_it_says_one_its_version(
    text: str, name: str, version: str | None
) -> None:
    description = described(text)

    assert (description.name, description.version) == (name, version)


@pytest.mark.parametrize(
    ("text", "hint"),
    [
        ("http://user:pw@host/x", "env:"),
        ("http://token@host/x", "env:"),
        ("http://host/x?api_key=4711", "api_key"),
        ("http://host/x?full=1&X-Amz-Signature=4711", "X-Amz-Signature"),
        ("http://host/x?accessToken=4711", "accessToken"),
        ("http://host/x?sig=4711", "sig"),
        ("https://app.azurewebsites.net/api/score?code=4711", "code"),
        ("https://host/x?Code=4711", "Code"),
        ("http://host/x?a=sk-4711aaaaaaaaaaaaaaaaaaaa", "secret"),
        ("http://host/sk-4711aaaaaaaaaaaaaaaaaaaa/x", "stored"),
        ("http://host/x#top", "#"),
        ("http:///x", "host"),
        ("http://host:99999/x", "URL"),
        ("http://[::1/x", "URL"),
        ("http://host/a b", "percent-encode"),
        ("http://host/x\r\nHost: other", "percent-encode"),
        ("http://host\\@other/x", "backslash"),
        ("http://höst/x", "ASCII"),
        ("kserve+http://host/predict", "/v1/models/NAME:predict"),
        ("kserve+http://host/v1/models/a/b", "/v1/models/NAME:predict"),
    ],
)
def test_an_address_with_a_secret_or_without_sense_is_refused_with_advice(
    text: str, hint: str
) -> None:
    with pytest.raises(InvalidModel, match=re.escape(hint)) as caught:
        described(text)

    assert "4711" not in str(caught.value)
    assert "pw" not in str(caught.value)


@pytest.mark.parametrize(
    "text",
    [
        "http://host/monkey?monkey=1&keyboard=2&tokenizer=3",
        "http://host/x?page=2&design=a",
        "http://host/x?country_code=de&zipcode=1",
        "http://secret:8080/x",
        "kserve+http://token:8080/v1/models/password:predict",
        "https://host/api-key/score",
    ],
)
def test_a_parameter_that_only_resembles_a_secret_is_fine(text: str) -> None:
    assert described(text)


@pytest.mark.parametrize(
    ("text", "options", "where"),
    [
        ("mlflow+http://host", {"params": {"password": "hunter4711"}}, "params.password"),
        (
            "mlflow+http://host",
            {"params": {"deep": [{"apiKey": "hunter4711"}]}},
            "params.deep[0].apiKey",
        ),
        ("mlflow+http://host", {"params": {"password": 4711}}, "params.password"),
        ("mlflow+http://host", {"params": {"note": "password=hunter4711"}}, "params.note"),
        (
            "mlflow+http://host",
            {"params": {"list": ["x", "sk-4711aaaaaaaaaaaaaaaaaaaa"]}},
            "params.list[1]",
        ),
        ("mlflow+http://host", {"params": {"token=abc4711": 1}}, "params.token=***"),
        ("http://host", {"answer": "password=hunter4711"}, "answer"),
        ("oip+http://host/v2/models/x", {"outputs": ["secret=hunter4711"]}, "outputs[0]"),
        (
            "openai+http://host",
            {"model": "m", "params": {"api_key": "hunter4711"}},
            "params.api_key",
        ),
        (
            "openai+http://host",
            {"model": "m", "params": {"extra": {"auth": "hunter4711"}}},
            "params.extra.auth",
        ),
        (
            "openai+http://host",
            {"model": "m", "system": "use password=hunter4711 for {text}"},
            "system",
        ),
    ],
)
def test_a_secret_in_an_option_is_refused_and_not_repeated(
    text: str, options: dict[str, Any], where: str
) -> None:
    with pytest.raises(
        InvalidModel, match=re.escape(f"at {where}, and it would be stored")
    ) as caught:
        described(text, **options)

    assert "4711" not in str(caught.value)


@pytest.mark.parametrize(
    ("text", "options"),
    [
        (
            "openai+http://host",
            {
                "model": "m",
                "params": {
                    "max_tokens": 9,
                    "stop_token_ids": [1, 2],
                    "eos_token_id": 2,
                    "seed": 4711,
                },
            },
        ),
        (
            "openai+http://host",
            {"model": "m", "params": {"prompt_cache_key": "ocr", "token": None}},
        ),
        (
            "openai+http://host",
            {
                "model": "m",
                "prompt": "Is this token: {token} a password: {text}?",
                "api_key_env": "MODEL_KEY",
            },
        ),
        (
            "openai+http://host",
            {
                "model": "m",
                "params": {"response_format": {"schema": {"password": {"type": "string"}}}},
            },
        ),
        (
            "oip+http://host/v2/models/x",
            {"columns": ["password", "token"], "headers": {"X-Api-Key": "env:MODEL_KEY"}},
        ),
        (
            "http://host",
            {"headers": {"Authorization": "Bearer env:MODEL_TOKEN"}, "error_field": "token"},
        ),
    ],
)
def test_an_option_that_only_resembles_a_secret_is_fine(text: str, options: dict[str, Any]) -> None:
    assert described(text, **options)


def test_a_secret_is_refused_in_a_header_of_any_name() -> None:
    with pytest.raises(InvalidModel, match="env:MODEL_SECRET") as caught:
        described("http://host/x", headers={"X-Forwarded": "password=hunter4711"})

    assert "4711" not in str(caught.value)


@pytest.mark.parametrize(
    "name",
    [
        "Authorization",
        "Cookie",
        "X-Api-Key",
        "x-access-token",
        "Proxy-Authorization",
        "APIKEY",
        "X-Secret",
    ],
)
def test_a_secret_in_a_header_is_refused_and_the_advice_names_a_variable(name: str) -> None:
    with pytest.raises(InvalidModel, match="env:MODEL_SECRET") as caught:
        described("http://host/x", headers={name: "Bearer 4711"})

    assert "4711" not in str(caught.value)


@pytest.mark.parametrize(
    "headers",
    [
        {"Host": "other"},
        {"content-length": "3"},
        {"Transfer-Encoding": "chunked"},
        {"Connection": "close"},
        {"a b": "x"},
        {"": "x"},
        {"X-A": "x\r\nX-B: y"},
        {"X-A": "ü"},
        {"X-A": 3},
    ],
)
def test_a_header_that_would_change_where_a_request_goes_or_ends_is_refused(
    headers: dict[str, Any],
) -> None:
    with pytest.raises(InvalidModel):
        described("http://host/x", headers=headers)


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("max_answer_mb", 0),
        ("max_answer_mb", 1 << 20),
        ("max_answer_mb", "1"),
        ("connect_timeout_s", 0),
        ("connect_timeout_s", -1),
        ("envelope", "soap"),
        ("answer", "a..b"),
        ("batch", "yes"),
        ("headers", ["a"]),
    ],
)
def test_an_option_that_makes_no_sense_is_refused_by_its_name(option: str, value: Any) -> None:
    with pytest.raises(InvalidModel, match=option):
        described("http://host/x", **{option: value})


@pytest.mark.parametrize("option", ["verify", "envelop", "timeout"])
def test_an_unknown_option_is_refused_also_one_that_would_switch_off_the_verification_of_certificates(
    option: str,
) -> None:
    with pytest.raises(NotFound, match=option):
        described("https://host/x", **{option: False})


def test_neither_describing_nor_opening_nor_warming_up_asks_the_server() -> None:
    with RawServer(lambda *_: None) as server, opened(server.url + "/x") as endpoint:
        endpoint.warm_up()

        assert server.connections == 0


# -- what is sent ----------------------------------------------------------------------------------


def test_the_data_of_an_event_are_posted_as_json_and_the_answer_is_the_output() -> None:
    with ModelServer(lambda request: {"label": "invoice", "got": request.json()}) as server:
        output = ask(f"{server.url}/a/predict?full=1", Event({"text": "naïve", "n": 3}))

    assert output == {"label": "invoice", "got": {"text": "naïve", "n": 3}}
    (request,) = server.requests
    assert (request.method, request.path) == ("POST", "/a/predict?full=1")
    assert (request.header("content-type"), request.header("host")) == (
        "application/json",
        f"127.0.0.1:{server.port}",
    )


def test_an_event_travels_as_a_cloudevent_in_binary_mode_with_its_trace() -> None:
    trace = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
    event = Event(
        {"x": 1},
        id="7",
        source="/scans",
        type="page",
        subject='50 % "ü" 🚀',
        time=datetime(2026, 11, 23, 9, 30, tzinfo=UTC),
        dataschema="https://example.com/s",
        extensions={"traceparent": trace, "sampled": True, "priority": 3},
    )

    with ModelServer(Reply(value=1)) as server:
        ask(server.url, event)

    sent = {
        name.lower(): value
        for name, value in server.requests[0].headers
        if name.lower().startswith(("ce-", "trace"))
    }
    assert sent == {
        "ce-specversion": "1.0",
        "ce-id": "7",
        "ce-source": "/scans",
        "ce-type": "page",
        "ce-time": "2026-11-23T09:30:00Z",
        "ce-subject": "50%20%25%20%22%C3%BC%22%20%F0%9F%9A%80",
        "ce-dataschema": "https://example.com/s",
        "ce-sampled": "true",
        "ce-priority": "3",
        "ce-traceparent": trace,
        "traceparent": trace,
    }


def test_the_sdk_of_cloudevents_reads_the_same_event_in_both_modes() -> None:
    from cloudevents.core.bindings.http import HTTPMessage, from_http_event

    event = Event({"x": [1, "ü"]}, subject="a/b ü", extensions={"priority": "high"})
    read = []
    with ModelServer(Reply(value=1)) as server:
        for envelope in ("binary", "structured"):
            ask(server.url, event, envelope=envelope)
            request = server.requests[-1]
            read.append(
                from_http_event(
                    HTTPMessage(
                        {name.lower(): value for name, value in request.headers}, request.body
                    )
                )
            )

    for found in read:
        assert (found.get_id(), found.get_subject(), found.get_data()) == (
            event.id,
            event.subject,
            event.data,
        )
        assert found.get_extension("priority") == "high"
        assert found.get_time() == event.time


def test_without_an_envelope_only_the_data_and_the_trace_are_sent() -> None:
    trace = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
    with ModelServer(Reply(value=1)) as server:
        ask(
            server.url,
            Event({"x": 1}, subject="s", extensions={"traceparent": trace}),
            envelope="none",
        )

    names = {name.lower() for name, _ in server.requests[0].headers}
    assert not [name for name in names if name.startswith("ce-")]
    assert server.requests[0].header("traceparent") == trace


@pytest.mark.parametrize(
    ("data", "given", "sent", "kind"),
    [
        (b"\x89PNG", "image/png", b"\x89PNG", "image/png"),
        (b"\x00\x01", None, b"\x00\x01", "application/octet-stream"),
        ("naïve", "text/plain; charset=utf-8", "naïve".encode(), "text/plain; charset=utf-8"),
        ("naïve", None, '"naïve"'.encode(), "application/json"),
        (b'{"a": 1}', "application/json", b'{"a": 1}', "application/json"),
        ({"a": 1}, "application/geo+json", b'{"a":1}', "application/geo+json"),
        (None, None, b"null", "application/json"),
        (
            {"p": float("nan"), "d": Decimal("1.10")},
            None,
            b'{"p":{"$numberDouble":"NaN"},"d":{"$numberDecimal":"1.10"}}',
            "application/json",
        ),
    ],
)
def test_data_are_sent_as_what_they_are(
    data: Any, given: str | None, sent: bytes, kind: str
) -> None:
    with ModelServer(Reply(value=1)) as server:
        ask(server.url, Event(data, datacontenttype=given))

    assert (server.requests[0].body, server.requests[0].header("content-type")) == (sent, kind)


def test_data_without_a_json_form_fail_before_anything_is_sent() -> None:
    with ModelServer(Reply(value=1)) as server:
        failure = failed(server.url, Event({"model": object()}))

    assert verdict(failure) == INVALID
    assert "$.model" in str(failure)
    assert server.requests == []


def test_attributes_that_are_longer_than_servers_take_as_headers_ask_for_another_envelope() -> None:
    event = Event({"x": 1}, subject="ü" * 5000)
    with ModelServer(Reply(value=1)) as server:
        failure = failed(server.url, event)
        output = ask(server.url, event, envelope="structured")

    assert verdict(failure) == INVALID
    assert "envelope='structured'" in str(failure)
    assert output == 1
    assert server.requests[0].json()["subject"] == event.subject


def test_a_hostile_event_changes_neither_host_nor_path_and_adds_no_header() -> None:
    nasty = "x\r\nHost: 169.254.169.254\r\nX-Injected: 1\r\n\r\nGET /admin HTTP/1.1"
    event = Event(
        {"url": "http://169.254.169.254/", "path": "../../admin"},
        subject=nasty,
        extensions={"a1": nasty, "host": "evil"},
    )
    with ModelServer(Reply(value=1)) as server:
        ask(f"{server.url}/predict", event)
        ask(f"{server.url}/predict", event, envelope="structured")

    assert len(server.requests) == 2
    for request in server.requests:
        assert (request.method, request.path, request.header("host")) == (
            "POST",
            "/predict",
            f"127.0.0.1:{server.port}",
        )
        assert not [name for name, _ in request.headers if name.lower().startswith("x-")]
    assert server.requests[0].header("ce-host") == "evil"


def test_headers_of_the_user_win_over_ours_whatever_their_case() -> None:
    with ModelServer(Reply(value=1)) as server:
        ask(
            server.url,
            headers={
                "accept": "application/vnd.x+json",
                "X-Tenant": "blue",
                "USER-AGENT": "mine",
                "content-type": "text/x",
            },
        )

    request = server.requests[0]
    found = [request.header(name) for name in ("Accept", "x-tenant", "user-agent", "Content-Type")]
    assert found == ["application/vnd.x+json", "blue", "mine", "text/x"]


# -- secrets ---------------------------------------------------------------------------------------


def test_a_header_is_read_from_the_environment_at_each_request(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    given = {"Authorization": "Bearer env:MLT_TOKEN", "X-Api-Key": "env:MLT_KEY"}
    with ModelServer(Reply(value=1)) as server, opened(server.url, headers=given) as endpoint:
        for token in ("first-4711", "second-4711\n"):  # a mounted secret ends with a line break
            monkeypatch.setenv("MLT_TOKEN", token)
            monkeypatch.setenv("MLT_KEY", f"k-{token}")
            endpoint.call([Event(1)])

    assert [r.header("authorization") for r in server.requests] == [
        "Bearer first-4711",
        "Bearer second-4711",
    ]
    assert [r.header("x-api-key") for r in server.requests] == ["k-first-4711", "k-second-4711"]


@pytest.mark.parametrize("content", [None, "", "4711\r\nX-Injected: 1", "4711ü"])
def test_a_variable_that_is_missing_or_unusable_is_named_and_costs_no_attempt(
    content: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("MLT_TOKEN", raising=False)
    if content is not None:
        monkeypatch.setenv("MLT_TOKEN", content)
    with (
        ModelServer(Reply(value=1)) as server,
        opened(server.url, headers={"Authorization": "env:MLT_TOKEN"}) as endpoint,
    ):
        for action in (endpoint.warm_up, lambda: endpoint.call([Event(1)])):
            with pytest.raises(ModelFailure, match="MLT_TOKEN") as caught:
                action()
            assert verdict(caught.value) == ("model_unavailable", False, True, True)
            assert "4711" not in str(caught.value)

    assert server.requests == []


@pytest.mark.parametrize("status", [200, 400, 500])
def test_a_server_that_sends_our_secret_back_does_not_bring_it_into_the_error(
    status: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLT_TOKEN", "verysecret4711")

    def tell(request: Any) -> Reply:
        return Reply(
            status,
            {
                "error": f"you sent {request.header('authorization')}",
                "message": dict(request.headers),
            },
        )

    with ModelServer(tell) as server:
        failure = failed(
            f"{server.url}/x?page=77777", headers={"Authorization": "Bearer env:MLT_TOKEN"}
        )

    assert "4711" not in f"{failure} {failure.detail}"
    assert "77777" not in f"{failure} {failure.detail}"
    assert f"POST {server.url}/x answered {status}" in str(failure)


def test_netrc_is_not_read_and_no_cookie_is_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / ".netrc").write_text(
        "machine 127.0.0.1 login user password 4711\ndefault login user password 4711\n"
    )
    (tmp_path / ".netrc").chmod(0o600)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("NETRC", str(tmp_path / ".netrc"))
    with (
        ModelServer(Reply(value=1, headers={"Set-Cookie": "id=1; Path=/"})) as server,
        opened(server.url) as endpoint,
    ):
        for _ in range(2):
            endpoint.call([Event(1)])

    assert [(r.header("authorization"), r.header("cookie")) for r in server.requests] == [
        (None, None)
    ] * 2


# -- what an answer means --------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("status", "headers", "expected"),
    [
        *[
            (status, {}, REJECTED)
            for status in (400, 402, 403, 404, 409, 410, 413, 415, 422, 431, 451, 499)
        ],
        *[(status, {}, UNAVAILABLE) for status in (401, 405, 407)],
        *[(status, {}, BROKEN) for status in (408, 425, 501, 502, 503, 504, 529, 599, 600, 999)],
        (429, {}, THROTTLED),
        (429, {"Retry-After": "7"}, THROTTLED),
        (503, {"Retry-After": "7"}, THROTTLED),
        (503, {"Retry-After": "soon"}, BROKEN),
        (500, {}, BROKE_ON_IT),
        (500, {"Retry-After": "7"}, BROKE_ON_IT),
        *[
            (status, {"Location": "/other"}, ("redirect_refused", True, False, True))
            for status in (300, 301, 302, 303, 304, 307, 308)
        ],
    ],
)
def test_every_status_has_one_meaning(
    status: int, headers: dict[str, str], expected: tuple[str, bool, bool, bool]
) -> None:
    with ModelServer(
        Reply(status, {"error": "told why"}, body=b"" if status == 304 else None, headers=headers)
    ) as server:
        failure = failed(server.url)

    assert verdict(failure) == expected
    assert failure.kind == f"HTTP {status}"
    delay_s = (
        HOLD_S
        if expected == UNAVAILABLE
        else 7
        if headers.get("Retry-After") == "7" and failure.throttled
        else None
    )
    assert failure.delay_s == delay_s
    if status not in (304,):
        assert "told why" in str(failure)
    assert len(server.requests) == 1


@pytest.mark.parametrize(
    ("prefix", "path", "options"),
    [
        ("kserve+", "/v1/models/m", {}),
        ("mlflow+", "/invocations", {}),
        ("openai+", "/v1", {"model": "m"}),
        ("oip+", "/v2/models/m", {"inputs": [{"name": "x", "datatype": "FP64", "shape": [-1]}]}),
    ],
)
@pytest.mark.parametrize("status", [401, 403, 404, 405, 407])
def test_where_a_protocol_says_the_path_no_event_is_at_fault_for_it(
    prefix: str, path: str, options: dict[str, Any], status: int
) -> None:
    with ModelServer(Reply(status, {"error": "told why"})) as server:
        failure = failed(f"{prefix}{server.url}{path}", **options)

    assert verdict(failure) == UNAVAILABLE
    assert (failure.kind, failure.delay_s) == (f"HTTP {status}", HOLD_S)
    assert "told why" in str(failure)


NOW = datetime(2026, 11, 23, 12, 0, tzinfo=UTC)


def http_date(seconds: float) -> str:
    return email.utils.format_datetime(NOW + timedelta(seconds=seconds), usegmt=True)


@pytest.mark.parametrize(
    ("text", "delay_s"),
    [
        ("0", 1.0),
        ("1", 1.0),
        ("120", 120.0),
        (" 120 ", 120.0),
        ("3600", 3600.0),
        ("86400", 3600.0),
        ("9" * 20, 3600.0),
        (http_date(90), 90.0),
        (http_date(-90), 1.0),
        (http_date(1e6), 3600.0),
        ("Monday, 23-Nov-26 12:02:00 GMT", 120.0),
        ("Mon Nov 23 12:02:00 2026", 120.0),
        ("", None),
        ("-5", None),
        ("1.5", None),
        ("1e3", None),
        ("soon", None),
        ("٣", None),
        ("5, 6", None),
        ("9" * 400, None),
        ("Mon, 99 Nov 2026 12:00:00 GMT", None),
        ("Mon, 23 Nov 99999 12:00:00 GMT", None),
        ("\x00", None),
    ],
)
def test_retry_after_is_understood_in_both_forms_within_an_hour_and_garbage_is_none(
    text: str, delay_s: float | None
) -> None:
    assert retry_after_s({"retry-after": text, "date": http_date(0)}) == delay_s


def test_a_date_without_a_date_to_compare_with_is_compared_with_our_clock() -> None:
    until = datetime.now(UTC) + timedelta(seconds=600)

    delay_s = retry_after_s(
        {"retry-after": email.utils.format_datetime(until, usegmt=True), "date": "garbage"}
    )

    assert delay_s is not None
    assert 590 < delay_s <= 600


@pytest.mark.parametrize(
    "reply", [Reply(204, body=b""), Reply(200, body=b""), Reply(202, body=b" \n")]
)
def test_an_answer_without_a_body_is_none(reply: Reply) -> None:
    with ModelServer(reply) as server, opened(server.url) as endpoint:
        assert [endpoint.call([Event(1)]) for _ in range(2)] == [[None], [None]]
        assert server.connections == 1


@pytest.mark.parametrize(
    "body",
    [
        b"<html><h1>Sign in</h1></html>",
        b"OK",
        b'{"a": 1',
        b'{"a": 1} x',
        b"\xff\xfe",
        b"[" * 100_000,
        b"9" * 5000,
        b"NaN x",
    ],
)
def test_a_200_that_is_no_json_is_an_error_with_its_beginning(body: bytes) -> None:
    with ModelServer(Reply(body=body, headers={"Content-Type": "text/html"})) as server:
        failure = failed(server.url)

    assert verdict(failure) == ("model_http_error", False, False, False)
    assert "text/html" in str(failure)
    assert failure.detail is not None
    assert failure.detail.startswith(body[:2].decode("utf-8", "replace"))
    assert len(failure.detail) < EXCERPT + 50


def test_what_an_error_keeps_of_an_answer_is_bounded_and_its_markup_stays_data() -> None:
    body = b"<script>alert(1)</script>\x1b[31m\xe2\x80\xae" + b"x" * 100_000
    with ModelServer(Reply(500, body=body)) as server:
        failure = failed(server.url)

    assert failure.detail is not None
    assert failure.detail.startswith("<script>alert(1)</script>\x1b[31m\u202e")
    assert len(failure.detail) < EXCERPT + 50


def test_nan_and_infinity_of_servers_that_write_them_are_what_they_mean() -> None:
    with ModelServer(Reply(body=b'{"p": [NaN, -Infinity, 0.5]}')) as server:
        output = ask(server.url)

    assert repr(output) == "{'p': [nan, -inf, 0.5]}"


@pytest.mark.parametrize(
    ("value", "options", "is_error"),
    [
        ({"error": "out of memory"}, {}, True),
        ({"error": {"code": 3, "message": "no"}}, {}, True),
        ({"error": "no", "message": "x", "statusCode": 3, "request_id": "7"}, {}, True),
        ({"error": "no", "status": "failed", "code": 7}, {}, True),
        ({"error": "", "label": "a"}, {}, False),
        ({"error": None}, {}, False),
        ({"error": 0.12}, {}, False),
        ({"error": "0.12", "label": "a"}, {}, False),
        ({"detail": "no"}, {}, False),
        ([{"error": "no"}], {}, False),
        ({"error": "no"}, {"error_field": ""}, False),
        ({"fault": "no", "label": "a"}, {"error_field": "fault"}, True),
        ({"fault": False, "label": "a"}, {"error_field": "fault"}, False),
        ({"error": "no", "label": "a"}, {"error_field": "error"}, True),
    ],
)
def test_a_200_with_an_error_body_is_an_error_when_there_is_nothing_but_the_error(
    value: Any, options: dict[str, Any], is_error: bool
) -> None:
    with ModelServer(Reply(value=value)) as server:
        if is_error:
            failure = failed(server.url, **options)
            assert verdict(failure) == ("model_http_error", False, False, False)
            assert "no" in str(failure) or "memory" in str(failure)
        else:
            assert ask(server.url, **options) == value


def test_a_part_of_the_answer_can_be_the_output() -> None:
    with ModelServer(Reply(value={"predictions": [{"label": "a", "0": 7}]})) as server:
        assert ask(server.url, answer="predictions.0.label") == "a"
        assert ask(server.url, answer="predictions.0.0") == 7
        for path, hint in (
            ("predictions.1", "predictions.1"),
            ("prediction", "'predictions'"),
            ("predictions.0.label.x", "label.x"),
        ):
            failure = failed(server.url, answer=path)
            assert verdict(failure) == ("bad_model_response", False, False, False)
            assert hint in str(failure)


# -- what a server says is wrong -------------------------------------------------------------------


FASTAPI = [
    {
        "type": "int_parsing",
        "loc": ["body", "rows", 0, "age"],
        "msg": "Input should be a valid integer",
        "input": "x",
    },
    {"type": "missing", "loc": ["body", "rows", 1, "name"], "msg": "Field required"},
]
MLFLOW = (
    "Failed to predict data. "
    + "x" * 3000
    + " Incompatible input types for column age. Can not safely convert float64 to int64."
)


@pytest.mark.parametrize(
    ("body", "said"),
    [
        ({"error": "out of cheese"}, ["out of cheese"]),
        ({"detail": "model 'ocr' has no runner"}, ["model 'ocr' has no runner"]),
        (
            {"detail": FASTAPI},
            ["body.rows.0.age: Input should be a valid integer; body.rows.1.name: Field required"],
        ),
        ({"detail": {"reason": "too many rows", "most": 10}}, ["too many rows"]),
        ({"detail": {"rows": 11, "most": 10}}, ['{"rows": 11, "most": 10}']),
        (
            {"error_code": "BAD_REQUEST", "message": MLFLOW},
            ["BAD_REQUEST: Failed to predict data.", "column age. Can not safely convert"],
        ),
        (
            {"error": {"message": "too long", "type": "invalid_request_error", "code": None}},
            ["invalid_request_error: too long"],
        ),
        (
            {"errors": ["age is negative", {"field": "name"}]},
            ['age is negative; {"field": "name"}'],
        ),
        ({"errors": {"age": ["is negative"]}}, ['{"age": ["is negative"]}']),
        (
            {"status": 500, "error": "Internal Server Error", "message": "no such table"},
            ["Internal Server Error; no such table"],
        ),
        (
            {"title": "Bad row", "detail": "age is negative", "status": 422},
            ["age is negative; Bad row"],
        ),
        ({"code": 3, "status": "INVALID_ARGUMENT"}, ['{"code": 3, "status": "INVALID_ARGUMENT"}']),
        (["age", "name"], [f"{UNPROCESSABLE}: age; name"]),
        ("nothing but text in JSON", ["nothing but text in JSON"]),
        (b"plain text:\n  line 7\tfailed", ["plain text: line 7 failed"]),
        (
            (
                b"<!DOCTYPE html><html><head><title>400 Bad Request</title><style>p"
                b" {}</style></head><body><h1>Bad Request</h1><p>age &lt;"
                b" 0</p><script>track()</script></body></html>"
            ),
            ["400 Bad Request Bad Request age < 0"],
        ),
        ('\ufeff{"error": "out of cheese"}'.encode(), [f"{UNPROCESSABLE}: out of cheese"]),
    ],
)
def test_the_reason_of_the_server_is_in_the_row_whole(body: Any, said: list[str]) -> None:
    with (
        ModelServer(
            Reply(422, body=body) if isinstance(body, bytes) else Reply(422, body)
        ) as server,
        mt.connect("memory://") as bus,
    ):
        sub = bus.subscribe("rows", f"{server.url}/score", max_attempts=1)
        bus.publish("rows", {"age": "x"})
        bus.wait(timeout_s=20, progress=False)
        (dead,) = sub.dead_letters().to_dict("records")

    assert dead["reason"] == "model_rejected"
    for part in said:
        assert part in dead["error"]
    assert len(dead["error"]) < EXCERPT + 300


def test_of_a_very_long_reason_both_ends_are_kept() -> None:
    with ModelServer(Reply(422, {"error": "begin " + "x" * 50_000 + " end"})) as server:
        failure = failed(server.url)

    assert f"422 {UNPROCESSABLE}: begin xxx" in str(failure)
    assert str(failure).endswith("xxx end")
    assert "more characters" in str(failure)
    assert (failure.detail or "").endswith(' end"}')


def test_one_byte_order_mark_before_an_answer_is_read() -> None:
    with ModelServer(
        [Reply(body=b"\xef\xbb\xbf" + body) for body in (b'{"y": 1}', b'{"y": NaN}', b"[1, 2]")]
    ) as server:
        assert ask(server.url) == {"y": 1}
        assert str(ask(server.url)) == "{'y': nan}"
        with opened(server.url, batch=True) as endpoint:
            assert endpoint.call([Event(1), Event(2)]) == [1, 2]


# -- batches ---------------------------------------------------------------------------------------


def test_a_batch_is_one_call_with_a_list_and_one_output_each() -> None:
    with (
        ModelServer(lambda request: [x["n"] * 2 for x in request.json()]) as server,
        opened(server.url, batch=True) as endpoint,
    ):
        assert endpoint.batches
        assert list(endpoint.call([Event({"n": n}) for n in range(5)])) == [0, 2, 4, 6, 8]

    (request,) = server.requests
    assert request.header("content-type") == "application/json"
    assert request.header("ce-id") is None


def test_a_batch_in_structured_mode_is_a_batch_of_cloudevents() -> None:
    events = [Event({"n": n}, subject=f"s{n}") for n in range(2)]
    with (
        ModelServer(lambda request: [x["subject"] for x in request.json()]) as server,
        opened(server.url, batch=True, envelope="structured") as endpoint,
    ):
        assert list(endpoint.call(events)) == ["s0", "s1"]

    assert server.requests[0].header("content-type") == "application/cloudevents-batch+json"


def test_in_a_batch_what_cannot_be_sent_and_what_the_server_calls_an_error_fail_alone() -> None:
    def answer(request: Any) -> Any:
        return {"out": [{"error": "odd"} if x % 2 else {"y": x} for x in request.json()]}

    with ModelServer(answer) as server, opened(server.url, batch=True, answer="out") as endpoint:
        outputs = endpoint.call(
            [Event(0), Event(b"\x00"), Event(1), Event({"f": object()}), Event(2)]
        )

    assert [outputs[0], outputs[4]] == [{"y": 0}, {"y": 2}]
    assert [verdict(outputs[i])[0] for i in (1, 2, 3)] == [
        "invalid_input",
        "model_http_error",
        "invalid_input",
    ]


@pytest.mark.parametrize("value", [[1], [1, 2, 3], {"a": 1}, 7, None])
def test_a_batch_with_another_number_of_answers_fails_for_good(value: Any) -> None:
    with (
        ModelServer(Reply(value=value)) as server,
        opened(server.url, batch=True) as endpoint,
        pytest.raises(ModelFailure, match="in the place of 2 outputs") as caught,
    ):
        endpoint.call([Event(1), Event(2)])

    assert verdict(caught.value) == ("bad_batch_result", True, False, True)


# -- a body as the server wants it -----------------------------------------------------------------


def sums(request: Any) -> Any:
    """Answer with the sum of each row, wherever the rows are."""
    body = request.json()
    rows = (
        body.get("instances")
        or body.get("rows")
        or body.get("input_data", {}).get("data")
        or body.get("dataframe_split", {}).get("data")
    )
    return {"predictions": [sum(row.values() if isinstance(row, dict) else row) for row in rows]}


ROWS = [{"a": 1, "b": 2}, {"a": 3, "b": 4}, {"a": 5, "b": 6}]


@pytest.mark.parametrize(
    ("options", "sent"),
    [
        ({"body": {"instances": "{batch}"}}, {"instances": ROWS}),
        (
            {"body": {"rows": "{batch}", "options": {"round": True, "note": "{{braces}}"}}},
            {"rows": ROWS, "options": {"round": True, "note": "{braces}"}},
        ),
        (
            {"body": {"instances": "{batch}"}, "item": {"x": "{a}", "y": "{b}"}},
            {"instances": [{"x": r["a"], "y": r["b"]} for r in ROWS]},
        ),
        (
            {
                "body": {"input_data": {"columns": ["a", "b"], "data": "{batch}"}},
                "item": ["{a}", "{b}"],
            },
            {"input_data": {"columns": ["a", "b"], "data": [[1, 2], [3, 4], [5, 6]]}},
        ),
        (
            {
                "body": {"dataframe_split": {"columns": ["a", "b"], "data": "{batch}"}},
                "item": ["{a}", "{b}"],
            },
            {"dataframe_split": {"columns": ["a", "b"], "data": [[1, 2], [3, 4], [5, 6]]}},
        ),
    ],
)
def test_a_body_with_a_batch_is_one_call_and_its_answers_are_split(
    options: dict[str, Any], sent: Any
) -> None:
    with ModelServer(sums) as server, mt.connect("memory://") as bus:
        sub = bus.subscribe(
            "rows",
            mt.model(server.url, answer="predictions", name="sums", version="1.0.0", **options),
            listen=False,
        )
        receipts = bus.publish_batch("rows", ROWS)
        sub.start()
        bus.wait(timeout_s=20, progress=False)
        output = sub.invocations().set_index("event_id")["output"]

    assert [json.loads(output[receipt.event_id]) for receipt in receipts] == [3, 7, 11]
    assert [request.json() for request in server.requests] == [sent]


def test_a_body_of_columns_has_the_list_of_each_field() -> None:
    with (
        ModelServer(lambda r: r.json()["inputs"]["age"]) as server,
        opened(server.url, body={"inputs": {"age": "{batch.who.age}"}}) as endpoint,
    ):
        one, missing, two = endpoint.call(
            [Event({"who": {"age": 1}}), Event({"who": {}}), Event({"who": {"age": 2}})]
        )

    assert (one, two) == (1, 2)
    assert verdict(missing) == INVALID
    assert "'age'" in str(missing)


def test_a_body_of_one_event_has_its_values_and_is_a_call_each() -> None:
    body = {
        "inputs": "{text}",
        "parameters": {"top_k": "{k}", "hint": "in {lang}, {k} of them"},
        "raw": "{scan}",
        "all": ["{data}", 7, None],
    }
    data = {"text": "a page", "k": 3, "lang": "de", "scan": b"\x00\xff"}
    with ModelServer(lambda r: r.json()) as server, opened(server.url, body=body) as endpoint:
        assert not endpoint.batches
        (answer,) = endpoint.call([Event(data)])

    assert answer == {
        "inputs": "a page",
        "parameters": {"top_k": 3, "hint": "in de, 3 of them"},
        "raw": "AP8=",
        "all": [{"text": "a page", "k": 3, "lang": "de", "scan": "AP8="}, 7, None],
    }
    assert server.requests[0].header("ce-id")


def test_a_body_with_a_batch_can_be_for_one_event_at_a_time() -> None:
    with (
        ModelServer(sums) as server,
        opened(server.url, body={"rows": "{batch}"}, batch=False, answer="predictions") as endpoint,
    ):
        assert [*endpoint.call([Event(ROWS[0])]), *endpoint.call([Event(ROWS[1])])] == [3, 7]

    assert [len(request.json()["rows"]) for request in server.requests] == [1, 1]


def test_nothing_of_an_event_is_read_as_a_template() -> None:
    with (
        ModelServer(lambda r: r.json()["rows"]) as server,
        opened(server.url, body={"rows": "{batch}"}) as endpoint,
    ):
        assert endpoint.call([Event({"a": "{batch} {a} {{"}), Event('"}]')]) == [
            {"a": "{batch} {a} {{"},
            '"}]',
        ]


def test_a_batch_without_a_list_of_answers_says_where_to_look() -> None:
    with (
        ModelServer(Reply(value={"scores": [1, 2]})) as server,
        opened(server.url, body={"rows": "{batch}"}) as endpoint,
        pytest.raises(ModelFailure, match="answer='scores' says which part has them") as caught,
    ):
        endpoint.call([Event(1), Event(2)])

    assert caught.value.reason == "bad_batch_result"


@pytest.mark.parametrize(
    ("options", "hint"),
    [
        ({"body": {"rows": "{batch!r}"}}, "option body .* at rows"),
        ({"body": {"rows": "all: {batch}"}}, "stands alone"),
        ({"body": {"rows": "{batch}", "id": "{id}"}}, r"\{id\} differs .* \{batch.id\}"),
        ({"body": {"{name}": 1}}, "name of a member"),
        ({"body": {"rows": "{batch}"}, "item": {"x": "{batch}"}}, "option item"),
        ({"body": {"rows": "{data}"}, "item": "{a}"}, "option item"),
        ({"body": {"rows": "{data}"}, "batch": True}, "'instances': '{batch}'"),
        ({"body": {"rows": "{batch}"}, "envelope": "structured"}, "structured"),
        ({"item": "{a}"}, "option body, which is missing"),
        ({"body": "{batch}"}, "must be dict or list"),
        ({"body": {"api_key": "4711abc"}}, "body.api_key"),
    ],
)
def test_a_body_that_cannot_be_filled_is_refused_when_the_model_is_described(
    options: dict[str, Any], hint: str
) -> None:
    with pytest.raises(InvalidModel, match=hint):
        described("http://host/score", **options)


def test_a_field_that_is_called_like_a_secret_is_none() -> None:
    assert described("http://host/score", body={"token": "{token}"}).name == "host"


def test_several_events_for_a_server_that_takes_one_are_several_calls() -> None:
    with (
        ModelServer(lambda r: Reply(422) if r.json() == 1 else r.json()) as server,
        opened(server.url) as endpoint,
    ):
        outputs = endpoint.call([Event(0), Event(1), Event(2)])

    assert (outputs[0], outputs[2], verdict(outputs[1])) == (0, 2, REJECTED)


# -- KServe and MLflow -----------------------------------------------------------------------------


@pytest.mark.parametrize("path", ["/v1/models/churn", "/v1/models/churn:predict"])
def test_kserve_gets_a_batch_as_instances_and_answers_with_predictions(path: str) -> None:
    with (
        ModelServer(lambda r: {"predictions": [sum(x) for x in r.json()["instances"]]}) as server,
        opened(f"kserve+{server.url}{path}") as endpoint,
    ):
        assert list(endpoint.call([Event([1, 2]), Event([3, 4])])) == [3, 7]

    assert [(r.method, r.path) for r in server.requests] == [("POST", "/v1/models/churn:predict")]


def test_kserve_gets_bytes_as_b64_and_what_json_cannot_say_fails_alone() -> None:
    with (
        ModelServer(lambda r: {"predictions": r.json()["instances"]}) as server,
        opened(f"kserve+{server.url}/v1/models/m") as endpoint,
    ):
        outputs = endpoint.call(
            [
                Event({"image": b"\x00\x01"}),
                Event({"x": [float("nan")]}),
                Event({"d": Decimal("1.5")}),
            ]
        )

    assert outputs[0] == {"image": {"b64": base64.b64encode(b"\x00\x01").decode()}}
    assert verdict(outputs[1]) == INVALID
    assert "$.x[0]" in str(outputs[1])
    assert outputs[2] == {"d": 1.5}


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ({"error": "model is not ready"}, ("model_http_error", False, False, False)),
        ({"outputs": [1, 2]}, ("bad_model_response", False, False, False)),
        ([1, 2], ("bad_model_response", False, False, False)),
        ({"predictions": [1]}, ("bad_batch_result", True, False, True)),
        ({"predictions": "x"}, ("bad_batch_result", True, False, True)),
    ],
)
def test_kserve_answers_without_a_prediction_for_each_are_errors(
    value: Any, expected: tuple[Any, ...]
) -> None:
    with (
        ModelServer(Reply(value=value)) as server,
        opened(f"kserve+{server.url}/v1/models/m") as endpoint,
        pytest.raises(ModelFailure) as caught,
    ):
        endpoint.call([Event(1), Event(2)])

    assert verdict(caught.value) == expected


def mlflow(request: Any) -> Any:
    body = request.json()
    if "dataframe_split" not in body:
        return {"predictions": [f"array:{row}" for row in body["inputs"]]}
    columns = body["dataframe_split"]["columns"]
    if "x" not in columns:
        return Reply(400, {"error_code": "BAD_REQUEST", "message": "the column x is missing"})
    return {
        "predictions": [
            dict(zip(columns, row, strict=True))["x"] for row in body["dataframe_split"]["data"]
        ]
    }


@pytest.mark.parametrize("path", ["", "/", "/invocations"])
def test_mlflow_gets_records_as_one_table(path: str) -> None:
    with (
        ModelServer(mlflow) as server,
        opened(f"mlflow+{server.url}{path}", params={"k": 3}, columns=["x", "y"]) as endpoint,
    ):
        outputs = endpoint.call([Event({"x": 1, "y": "a"}), Event({"y": "b", "x": 2, "z": 3})])

    assert list(outputs) == [1, 2]
    (request,) = server.requests
    assert request.path == "/invocations"
    assert request.json() == {
        "dataframe_split": {"columns": ["x", "y"], "data": [[1, "a"], [2, "b"]]},
        "params": {"k": 3},
    }


def test_mlflow_gets_missing_numbers_as_null_bytes_as_base64_and_no_infinity() -> None:
    with ModelServer(mlflow) as server, opened(f"mlflow+{server.url}") as endpoint:
        outputs = endpoint.call(
            [Event({"x": float("nan"), "b": b"\x01"}), Event({"x": float("inf"), "b": b""})]
        )

    assert outputs[0] is None
    assert verdict(outputs[1]) == INVALID
    assert server.requests[0].json()["dataframe_split"]["data"] == [[None, "AQ=="]]


def test_in_a_batch_for_mlflow_no_event_gets_a_column_that_it_has_not() -> None:
    with ModelServer(mlflow) as server, opened(f"mlflow+{server.url}") as endpoint:
        outputs = endpoint.call(
            [
                Event({"x": 1, "y": 2}),
                Event({"y": 3}),
                Event([5, 6]),
                Event({"x": 4, "y": 5}),
                Event("text"),
            ]
        )

    assert [outputs[i] for i in (0, 2, 3, 4)] == [1, "array:[5, 6]", 4, "array:text"]
    assert verdict(outputs[1]) == REJECTED
    assert "column x is missing" in str(outputs[1])
    assert len(server.requests) == 4


def test_in_a_batch_for_mlflow_an_event_is_sent_as_it_would_be_alone() -> None:
    data = [
        {"x": 2**53 + 1, "y": 1},
        {"x": 0.5, "y": 1},
        {"y": 1, "x": 3},
        {"x": None, "y": 1},
        {"x": 4, "y": 5},
        [1, 2],
        [1.5, 2],
    ]
    with ModelServer(mlflow) as server, opened(f"mlflow+{server.url}") as endpoint:
        outputs = endpoint.call([Event(each) for each in data])

    assert list(outputs) == [2**53 + 1, 0.5, 3, None, 4, "array:[1, 2]", "array:[1.5, 2]"]
    assert [request.json() for request in server.requests] == [
        {"dataframe_split": {"columns": ["x", "y"], "data": [[2**53 + 1, 1], [4, 5]]}},
        {"dataframe_split": {"columns": ["x", "y"], "data": [[0.5, 1]]}},
        {"dataframe_split": {"columns": ["y", "x"], "data": [[1, 3]]}},
        {"dataframe_split": {"columns": ["x", "y"], "data": [[None, 1]]}},
        {"inputs": [[1, 2]]},
        {"inputs": [[1.5, 2]]},
    ]


def test_columns_for_mlflow_are_named_where_an_event_has_them_not() -> None:
    with (
        ModelServer(mlflow) as server,
        opened(f"mlflow+{server.url}", columns=["y", "x"]) as endpoint,
    ):
        outputs = endpoint.call([Event({"x": 1}), Event({"x": 2, "y": 3})])

    assert outputs[1] == 2
    assert verdict(outputs[0]) == INVALID
    assert "has no 'y'" in str(outputs[0])
    assert server.requests[0].json()["dataframe_split"] == {"columns": ["y", "x"], "data": [[3, 2]]}


@pytest.mark.parametrize("columns", [[], ["a", "a"], ["a", 1], [""]])
def test_columns_for_mlflow_are_different_names(columns: list[Any]) -> None:
    with pytest.raises(
        mt.InvalidModel, match=r"option columns (must be a list of names|names a field twice)"
    ):
        mt.model("mlflow+http://host", columns=columns)


@pytest.mark.parametrize("given", [{}, {"batch": True}, {"batch": False}])
@pytest.mark.parametrize("text", ["kserve+http://host/v1/models/m", "mlflow+http://host"])
def test_servers_that_take_batches_get_them_unless_the_user_says_otherwise(
    text: str, given: dict[str, bool]
) -> None:
    with opened(text, **given) as endpoint:
        assert endpoint.batches == given.get("batch", True)


def test_mlflow_may_answer_one_event_with_anything() -> None:
    with ModelServer(Reply(value={"predictions": {"label": "a"}})) as server:
        assert ask(f"mlflow+{server.url}", Event({"x": 1})) == {"label": "a"}


# -- what servers do to a connection ---------------------------------------------------------------


def test_connections_are_kept_and_shared_by_as_many_calls_as_there_are_slots() -> None:
    with ModelServer(lambda r: r.json()) as server, opened(server.url, concurrency=4) as endpoint:
        for n in range(20):
            endpoint.call([Event(n)])
        assert server.connections == 1

        with ThreadPoolExecutor(4) as threads:
            outputs = list(
                threads.map(lambda n: endpoint.call([Event({"n": n})])[0]["n"], range(100))
            )

    assert outputs == list(range(100))
    assert server.connections <= 4


def test_a_refused_request_keeps_its_connection() -> None:
    with (
        ModelServer(
            [Reply(422, {"error": "no"}), Reply(500, {}), Reply(429, {}), Reply(value=1)]
        ) as server,
        opened(server.url) as endpoint,
    ):
        for _ in range(3):
            with pytest.raises(ModelFailure):
                endpoint.call([Event(1)])
        assert endpoint.call([Event(1)]) == [1]

    assert server.connections == 1


def test_a_closed_endpoint_has_no_connection_left_and_closes_again() -> None:
    gone = threading.Event()

    def serve(connection: socket.socket, _: int) -> None:
        read_request(connection)
        connection.sendall(whole_answer(b"1"))
        assert connection.recv(1) == b""
        gone.set()

    with RawServer(serve) as server, opened(server.url) as endpoint:
        endpoint.call([Event(1)])
        endpoint.close()
        assert gone.wait(10)
        endpoint.close()


@pytest.mark.parametrize("ending", ["close", "reset"])
def test_a_kept_connection_that_the_server_drops_before_it_answers_is_replaced_at_once(
    ending: str,
) -> None:
    def serve(connection: socket.socket, number: int) -> None:
        read_request(connection)
        connection.sendall(whole_answer(b"%d" % number))
        if number == 1:
            read_request(connection)
            if ending == "reset":
                reset(connection)
            return
        read_request(connection)

    with RawServer(serve) as server, opened(server.url) as endpoint:
        assert [endpoint.call([Event(n)])[0] for n in range(2)] == [1, 2]
        assert server.connections == 2


def test_a_connection_that_was_closed_while_it_was_idle_is_not_used() -> None:
    closed = threading.Event()

    def serve(connection: socket.socket, number: int) -> None:
        read_request(connection)
        connection.sendall(whole_answer(b"%d" % number))
        connection.close()
        closed.set()

    with RawServer(serve) as server, opened(server.url) as endpoint:
        for n in (1, 2, 3):
            closed.clear()
            assert endpoint.call([Event(n)]) == [n]
            assert closed.wait(10)


@pytest.mark.parametrize("first", [b"", b"HTTP/1.1 200 OK\r\n"])
def test_nothing_is_repeated_on_a_new_connection_or_after_a_byte_of_the_answer(
    first: bytes,
) -> None:
    def serve(connection: socket.socket, number: int) -> None:
        if first:
            read_request(connection)
            connection.sendall(whole_answer(b"1"))
        read_request(connection)
        connection.sendall(first)
        if not first:
            reset(connection)

    with RawServer(serve) as server, opened(server.url) as endpoint:
        if first:
            endpoint.call([Event(1)])
        with pytest.raises(ModelFailure) as caught:
            endpoint.call([Event(1)])

        assert verdict(caught.value) == (BROKEN if first else UNAVAILABLE)
        assert server.connections == 1


@pytest.mark.parametrize(
    "beginning",
    [
        b"",
        OK + b"X: ",
        OK + b"Content-Length: 1000\r\n\r\n",
        OK + b"Transfer-Encoding: chunked\r\n\r\n",
    ],
    ids=["status line", "headers", "body", "chunks"],
)
def test_a_server_that_sends_a_byte_now_and_then_is_given_up_at_the_deadline(
    beginning: bytes,
) -> None:
    stop = threading.Event()

    def serve(connection: socket.socket, _: int) -> None:
        read_request(connection)
        connection.sendall(beginning)
        drip(connection, b"1" * 1000, 0.02, stop)

    with RawServer(serve) as server:
        started = time.monotonic()
        failure = failed(server.url, timeout_s=SOON_S)
        spent_s = time.monotonic() - started
        stop.set()

    assert verdict(failure) == LATE
    assert f"timeout_s={SOON_S:g}" in str(failure)
    assert SOON_S <= spent_s < SOON_S + 5


@pytest.mark.parametrize("scheme", ["http", "https"])
def test_a_server_that_never_says_anything_is_given_up_at_the_deadline(scheme: str) -> None:
    with RawServer(
        lambda connection, _: connection.recv(1) and threading.Event().wait(SOON_S * 2)
    ) as server:
        failure = failed(server.url.replace("http", scheme), timeout_s=SOON_S)

    # without a handshake nothing is sent, and nothing has run
    assert verdict(failure) == (LATE if scheme == "http" else UNAVAILABLE)


def test_a_server_that_never_reads_is_given_up_at_the_deadline() -> None:
    done = threading.Event()
    with RawServer(lambda *_: done.wait(20)) as server:
        started = time.monotonic()
        failure = failed(server.url, Event(b"x" * 50_000_000), timeout_s=SOON_S)
        done.set()

    assert verdict(failure) == LATE
    assert time.monotonic() - started < SOON_S + 5


def test_a_server_that_sends_only_interim_answers_is_given_up_at_the_deadline() -> None:
    stop = threading.Event()

    def serve(connection: socket.socket, _: int) -> None:
        read_request(connection)
        while not stop.wait(0.01):
            connection.sendall(b"HTTP/1.1 100 Continue\r\n\r\n")

    with RawServer(serve) as server:
        failure = failed(server.url, timeout_s=SOON_S)
        stop.set()

    assert verdict(failure) == LATE


def test_a_rejection_is_known_by_its_status_however_its_body_ends() -> None:
    stop = threading.Event()

    def serve(connection: socket.socket, _: int) -> None:
        read_request(connection)
        connection.sendall(b"HTTP/1.1 422 Unprocessable\r\nContent-Length: 1000\r\n\r\n")
        drip(connection, b"bad field x " * 50, 0.01, stop)

    with RawServer(serve) as server:
        failure = failed(server.url, timeout_s=SOON_S)
        stop.set()

    assert verdict(failure) == REJECTED
    assert failure.detail is None or failure.detail.startswith("bad")


def test_connecting_waits_no_longer_than_its_own_timeout() -> None:
    with socket.socket() as full:
        full.bind(("127.0.0.1", 0))
        full.listen(0)
        # they fill the queue of a server that accepts nobody
        waiting = [socket.socket() for _ in range(8)]
        try:
            for other in waiting:
                other.setblocking(False)
                with contextlib.suppress(BlockingIOError):
                    other.connect(full.getsockname())
            started = time.monotonic()
            failure = failed(
                f"http://127.0.0.1:{full.getsockname()[1]}", timeout_s=30, connect_timeout_s=SOON_S
            )
        finally:
            for other in waiting:
                other.close()

    assert verdict(failure) == UNAVAILABLE
    assert "no connection within" in str(failure)
    assert time.monotonic() - started < 10


@pytest.mark.parametrize(
    "answer",
    [
        b"garbage\r\n\r\n",
        b"\x00" * 100,
        b"HTTP/1.1 abc OK\r\n\r\n",
        b"HTTP/9.9 200 OK\r\n\r\n",
        OK + b"Content-Length: 100\r\n\r\n{}",
        OK + b"Transfer-Encoding: chunked\r\n\r\nzz\r\n{}\r\n",
        OK + b"Transfer-Encoding: chunked\r\n\r\n5\r\n{}",
        OK + b"Content-Encoding: gzip\r\nContent-Length: 4\r\n\r\nABCD",
        OK + b"".join(b"X-%d: 1\r\n" % n for n in range(200)) + b"\r\n{}",
        OK + b"X: " + b"y" * 100_000 + b"\r\n\r\n{}",
        b"HTTP/1.1 101 Switching Protocols\r\n\r\n",
    ],
    ids=[
        "garbage",
        "zeros",
        "status",
        "version",
        "short",
        "size",
        "chunk",
        "gzip",
        "many",
        "long",
        "101",
    ],
)
def test_a_broken_answer_is_a_failure_of_the_server(answer: bytes) -> None:
    def serve(connection: socket.socket, _: int) -> None:
        read_request(connection)
        connection.sendall(answer)

    with RawServer(serve) as server:
        failure = failed(server.url)

    assert verdict(failure) in (BROKEN, ("model_http_error", False, False, False))
    assert "/?" not in str(failure)


@functools.cache
def bomb() -> bytes:
    """64 MiB of blanks in 64 KiB."""
    return gzip.compress(b" " * (64 * 1024 * 1024), 6)


BODIES: dict[str, tuple[Callable[[], bytes], dict[str, str]]] = {
    "plain": (lambda: b" " * (1024 * 1024 + 1), {}),
    "declared": (bytes, {"Content-Length": str(10**12)}),
    "gzip": (bomb, {"Content-Encoding": "gzip"}),
    "deflate": (lambda: zlib.compress(b" " * (8 * 1024 * 1024)), {"Content-Encoding": "deflate"}),
    "gzip in gzip": (lambda: gzip.compress(bomb()), {"Content-Encoding": "gzip, gzip"}),
}


@pytest.mark.parametrize("kind", BODIES)
def test_an_answer_is_read_up_to_its_limit_after_decompression(kind: str) -> None:
    body, headers = BODIES[kind]
    with ModelServer(Reply(body=body(), headers=headers)) as server:
        failure = failed(server.url, max_answer_mb=1)

    assert verdict(failure) == BROKEN
    assert "max_answer_mb=1" in str(failure)


def test_a_chunked_answer_without_an_end_is_read_up_to_its_limit() -> None:
    def serve(connection: socket.socket, _: int) -> None:
        read_request(connection)
        connection.sendall(OK + b"Transfer-Encoding: chunked\r\n\r\n")
        while True:
            connection.sendall(b"10000\r\n" + b" " * 65536 + b"\r\n")

    with RawServer(serve) as server:
        failure = failed(server.url, max_answer_mb=1)

    assert "max_answer_mb=1" in str(failure)


def test_a_rejection_may_be_a_bomb_as_well() -> None:
    with ModelServer(Reply(400, body=bomb(), headers={"Content-Encoding": "gzip"})) as server:
        failure = failed(server.url)

    assert verdict(failure) == REJECTED


def test_a_compressed_answer_within_the_limit_is_an_answer() -> None:
    with (
        ModelServer(
            Reply(body=gzip.compress(b'{"a": 1}'), headers={"Content-Encoding": "gzip"})
        ) as server,
        opened(server.url) as endpoint,
    ):
        assert [endpoint.call([Event(1)]) for _ in range(2)] == [[{"a": 1}]] * 2
        assert server.connections == 1


def test_a_redirect_is_refused_and_its_target_never_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    case = CASES["BI-118"]
    with Proxy() as proxy, ModelServer(Reply(value=1)) as other:
        for target in (
            "http://169.254.169.254/latest/meta-data/",
            f"{other.url}/secret",
            "//169.254.169.254/",
            "file:///etc/passwd",
        ):
            with ModelServer(Reply(302, {}, headers={"Location": target})) as server:
                monkeypatch.setenv("HTTP_PROXY", proxy.url)
                proxy.to = server.port
                failure = failed("http://model.example/x")
                assert verdict(failure) == (case["reason_code"], True, False, True)
                assert len(server.requests) == 1
                assert proxy.asked[-1] == "POST http://model.example/x HTTP/1.1"

        assert other.requests == []
        assert len(proxy.asked) == 4


# -- the catalogue ---------------------------------------------------------------------------------


@pytest.mark.parametrize("status", [400, 404, 413, 422])
def test_bi_114_client_errors_are_dead_letters_at_once(status: int) -> None:
    case = CASES["BI-114"]
    with ModelServer(Reply(status)) as server:
        failure = failed(server.url)

    assert (failure.reason, failure.permanent, len(server.requests)) == (
        case["reason_code"],
        True,
        case["model_attempts"],
    )


def a_500(_: Path) -> Generator[str]:
    for status in (500, 502, 504):
        with ModelServer(Reply(status)) as server:
            yield server.url


def a_reset(_: Path) -> Generator[str]:
    with RawServer(lambda connection, _: (read_request(connection), reset(connection))) as server:
        yield server.url


def a_refusal(_: Path) -> Generator[str]:
    with unused_port() as port:
        yield f"http://127.0.0.1:{port}"


def bad_tls(folder: Path) -> Generator[str]:
    with ModelServer(Reply(value=1), self_signed(folder)) as server:
        yield server.url
    with ModelServer(Reply(value=1)) as server:
        yield server.url.replace("http", "https")  # speaks no TLS at all


def no_name(_: Path) -> Generator[str]:
    yield "http://no-such-host.invalid/x"


def html(_: Path) -> Generator[str]:
    with ModelServer(
        Reply(body=b"<html>Sign in</html>", headers={"Content-Type": "text/html"})
    ) as server:
        yield server.url


@pytest.mark.parametrize("where", [a_500, html])
def test_bi_115_server_errors_are_tried_again(
    where: Callable[[Path], Generator[str]], tmp_path: Path
) -> None:
    for url in where(tmp_path):
        failure = failed(f"{url}?page=77777")

        assert (failure.reason, failure.permanent, failure.throttled) == (
            CASES["BI-115"]["reason_code"],
            False,
            False,
        )
        assert url.partition("?")[0] in str(failure)
        assert "77777" not in str(failure)


@pytest.mark.parametrize("where", [a_reset, a_refusal, bad_tls, no_name])
def test_a_server_that_cannot_be_reached_is_waited_for(
    where: Callable[[Path], Generator[str]], tmp_path: Path
) -> None:
    for url in where(tmp_path):
        failure = failed(f"{url}?page=77777")

        assert verdict(failure) == UNAVAILABLE
        assert 1 <= (failure.delay_s or 0) <= HOLD_S
        assert url.partition("?")[0] in str(failure)
        assert "77777" not in str(failure)


@pytest.mark.parametrize(
    ("where", "kind", "hint"),
    [
        (a_refusal, "ConnectionError", "refused"),
        (bad_tls, "TlsError", "certificate"),
        (no_name, "NameError", "resolved"),
    ],
)
def test_an_error_of_the_connection_says_which(
    where: Callable[[Path], Generator[str]], kind: str, hint: str, tmp_path: Path
) -> None:
    with contextlib.closing(where(tmp_path)) as urls:
        failure = failed(next(urls))

    assert failure.kind == kind
    assert hint in str(failure)


# -- TLS and proxies -------------------------------------------------------------------------------


def test_a_certificate_of_ones_own_is_trusted_when_the_environment_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    files = self_signed(tmp_path)
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(files[0]))
    with ModelServer(lambda r: r.json(), files) as server, opened(server.url) as endpoint:
        assert [endpoint.call([Event(n)])[0] for n in range(5)] == [0, 1, 2, 3, 4]
        assert server.connections == 1


def test_a_kept_tls_connection_that_the_server_drops_is_replaced_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    files = self_signed(tmp_path)
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(files[0]))
    with ModelServer(lambda r: r.json(), files) as server, Proxy(to=server.port) as proxy:
        monkeypatch.setenv("HTTPS_PROXY", proxy.url)
        with opened("https://model.example/") as endpoint:
            assert endpoint.call([Event(1)]) == [1]
            proxy.drop()
            assert endpoint.call([Event(2)]) == [2]

        assert server.connections == 2


def test_proxies_of_the_environment_are_used_for_http_and_https(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    files = self_signed(tmp_path)
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(files[0]))
    with (
        Proxy() as proxy,
        ModelServer(lambda r: r.json()) as plain,
        ModelServer(lambda r: r.json(), files) as safe,
    ):
        monkeypatch.setenv("HTTP_PROXY", proxy.url.replace("//", "//user:pw4711@"))
        monkeypatch.setenv("HTTPS_PROXY", proxy.url)
        proxy.to = plain.port
        assert ask("http://model.example/x?y=1", Event(1)) == 1
        proxy.to = safe.port
        assert ask("https://model.example/x", Event(2)) == 2
        monkeypatch.setenv("NO_PROXY", "model.example")
        assert failed("http://model.example/x", Event(3)).kind == "NameError"

    assert [line.rpartition(" ")[0] for line in proxy.asked] == [
        "POST http://model.example/x?y=1",
        "CONNECT model.example:443",
    ]
    assert b"proxy-authorization: basic" in proxy.heads[0].lower()


@pytest.mark.parametrize(
    "host", ["127.0.0.1", "localhost", "127.1.2.3", "models.localhost", "127.1", "0.0.0.0"]
)
@pytest.mark.parametrize("variable", ["HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"])
def test_no_proxy_stands_before_this_machine(
    host: str, variable: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with Proxy() as proxy, ModelServer(lambda r: r.json()) as server:
        monkeypatch.setenv(variable, proxy.url)
        # nobody need be there
        with contextlib.suppress(
            *([ModelFailure] if host in ("models.localhost", "127.1.2.3") else ())
        ):
            assert ask(f"http://{host}:{server.port}/x", Event(1)) == 1

    assert proxy.asked == []


def test_no_proxy_stands_before_the_loopback_of_ipv6(monkeypatch: pytest.MonkeyPatch) -> None:
    with Proxy() as proxy, unused_port() as port:
        monkeypatch.setenv("HTTP_PROXY", proxy.url)
        failed(f"http://[::1]:{port}/x")

    assert proxy.asked == []


@pytest.mark.parametrize("scheme", ["http", "https"])
def test_a_proxy_that_is_not_there_is_waited_for_and_its_credentials_are_not_shown(
    scheme: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with unused_port() as port:
        monkeypatch.setenv(f"{scheme.upper()}_PROXY", f"http://user:pw4711@127.0.0.1:{port}")
        failure = failed(f"{scheme}://model.example/x")

    assert verdict(failure) == UNAVAILABLE
    assert failure.kind == "ProxyError"
    assert "4711" not in str(failure)


TUNNEL = [
    ("https", status)
    for status in (
        "403 Forbidden",
        "407 Proxy Authentication Required",
        "502 Bad Gateway",
        "503 Unavailable",
    )
]
FORWARD = [
    ("http", status)
    for status in (
        "407 Proxy Authentication Required",
        "502 Bad Gateway",
        "503 Unavailable",
        "504 Timeout",
    )
]


@pytest.mark.parametrize(("scheme", "status"), [*TUNNEL, *FORWARD])
def test_a_refusal_of_the_proxy_is_nobodys_failure(
    scheme: str, status: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with Proxy(answer=f"HTTP/1.1 {status}\r\nContent-Length: 0\r\n\r\n".encode()) as proxy:
        monkeypatch.setenv(f"{scheme.upper()}_PROXY", proxy.url)
        failure = failed(f"{scheme}://model.example/x")

    assert verdict(failure) == UNAVAILABLE
    assert status[:3] in str(failure)


def test_a_502_of_a_server_that_answers_is_its_own_also_behind_a_proxy(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    replies = [Reply(value=1), Reply(502)]
    with ModelServer(replies) as server, Proxy(to=server.port) as proxy:
        monkeypatch.setenv("HTTP_PROXY", proxy.url)
        with opened("http://model.example/x") as endpoint:
            assert endpoint.call([Event(1)]) == [1]
            with pytest.raises(ModelFailure) as caught:
                endpoint.call([Event(2)])

    assert verdict(caught.value) == BROKEN


# -- the transport, for other schemes --------------------------------------------------------------


def test_paths_and_whole_urls_of_the_same_server_are_asked_and_nothing_else() -> None:
    with ModelServer(lambda r: [r.method, r.path]) as server:
        client = Http(f"{server.url}/own?a=1", Setting(5.0, 1), {})
        assert client.get().json() == ["GET", "/own?a=1"]
        assert client.get("/v2/models/ocr").json() == ["GET", "/v2/models/ocr"]
        assert client.post(f"{server.url}/v2", {"a": 1}).json() == ["POST", "/v2"]
        assert client.post("", b"raw").headers["CONTENT-type"] == "application/json"
        for other in (
            "http://169.254.169.254/",
            "//169.254.169.254/",
            f"{server.url}.evil/",
            "relative",
            "/a b",
            "/a\r\nHost: x",
        ):
            with pytest.raises(ValueError, match="is no path of"):
                client.get(other)
        client.close()

    assert len(server.requests) == 4


def test_the_phrase_of_a_status_is_shown() -> None:
    with ModelServer(Reply(http.HTTPStatus.IM_A_TEAPOT)) as server:
        assert "418 I'm a Teapot" in str(failed(server.url))


# -- through the bus -------------------------------------------------------------------------------


@in_memory
def test_throttling_spends_no_attempt_and_waits_for_as_long_as_the_server_says(
    bus: mt.EventBus, clock: SimulatedClock
) -> None:
    busy = [
        Reply(429, headers={"Retry-After": "40"}),
        Reply(503, headers={"Retry-After": "40"}),
        Reply(429),
    ]
    started_us = clock.now_us()
    with ModelServer([*busy, Reply(value={"y": 2})]) as server:
        sub = bus.subscribe("numbers", f"{server.url}/double", max_attempts=1)
        bus.publish("numbers", {"x": 1})
        settle(bus, clock, sub)

        assert outcomes(sub) == ["failed", "failed", "failed", "succeeded"]
        assert len(server.requests) == 4

    assert set(sub.invocations()["reason"].dropna()) == {"throttled"}
    assert (clock.now_us() - started_us) / 1e6 >= 80


@in_memory
@pytest.mark.parametrize("status", [400, 404, 413, 422])
def test_bi_114_a_rejected_event_is_dead_at_once_and_its_neighbours_are_not(
    status: int, bus: mt.EventBus, clock: SimulatedClock
) -> None:
    def answer(request: Any) -> Any:
        numbers = [row["x"] for row in request.json()]
        return Reply(status, {"detail": "3 is odd"}) if 3 in numbers else numbers

    with ModelServer(answer) as server:
        model = mt.model(f"{server.url}/even", name="even", version="1.0.0", batch=True)
        sub = bus.subscribe("numbers", model, listen=False)
        bus.publish_batch("numbers", [{"x": x} for x in (0, 2, 3, 4, 6)])
        sub = bus.subscribe("numbers", model)
        settle(bus, clock, sub)

    assert sorted(outcomes(sub)) == ["dead", *["succeeded"] * 4]
    (dead,) = sub.dead_letters().to_dict("records")
    assert (dead["reason"], dead["attempts"], dead["error_type"]) == (
        "model_rejected",
        1,
        f"HTTP {status}",
    )
    assert "3 is odd" in dead["error"]


@in_memory
def test_bi_115_a_server_that_fails_has_all_attempts(
    bus: mt.EventBus, clock: SimulatedClock
) -> None:
    with ModelServer(Reply(500, body=b"<html>oops</html>")) as server:
        sub = bus.subscribe("numbers", f"{server.url}/double", max_attempts=3)
        bus.publish("numbers", {"x": 1})
        settle(bus, clock, sub)

        assert len(server.requests) == 3

    assert outcomes(sub) == ["failed", "failed", "dead"]
    assert set(sub.invocations()["reason"]) == {CASES["BI-115"]["reason_code"]}
    assert "<html>oops</html>" in sub.dead_letters()["traceback"][0]


@in_memory
def test_a_server_that_restarts_is_waited_for_and_the_state_says_so(
    bus: mt.EventBus, clock: SimulatedClock
) -> None:
    with unused_port() as port:
        sub = bus.subscribe(
            "numbers",
            mt.model(f"http://127.0.0.1:{port}/double", name="double", version="1.0.0"),
            max_attempts=1,
        )
        bus.publish_batch("numbers", [{"x": x} for x in range(20)])
        wait_until(lambda: "refused" in sub.state)
        for _ in range(60):
            clock.advance(s=1)
            bus.broker.wake(bus.registry.subscription(sub.name))
            time.sleep(0.005)

        assert "waiting for the model" in sub.state
        assert any("refused" in finding for finding in sub.doctor()["finding"])
        assert set(sub.invocations()["reason"]) == {"model_unavailable"}

    with ModelServer(lambda r: r.json()["x"] * 2, port=port):
        settle(bus, clock, sub)

    counts = bus.audit().iloc[0]
    assert (counts["succeeded"], counts["dead"]) == (20, 0)


def test_waiting_for_a_bus_outlasts_a_server_that_restarts() -> None:
    with unused_port() as port, mt.connect("memory://") as bus:
        sub = bus.subscribe(
            "numbers",
            mt.model(f"http://127.0.0.1:{port}/double", name="double", version="1.0.0"),
            max_attempts=1,
        )
        bus.publish("numbers", {"x": 1})
        began = time.monotonic()
        assert not bus.wait(timeout_s=4.5, progress=False)
        assert time.monotonic() - began >= 4.5  # it does not give up before
        assert sub.depth().open == 1


@in_memory
def test_a_forwarded_port_with_nobody_behind_it_is_waited_for(
    bus: mt.EventBus, clock: SimulatedClock
) -> None:
    """As docker's proxy and ssh -L do it: they accept, and end the connection when nobody listens
    on the other side.
    """
    up = threading.Event()

    def serve(connection: socket.socket, _: int) -> None:
        read_request(connection)
        if up.is_set():
            connection.sendall(whole_answer(b"2"))
        reset(connection)

    with RawServer(serve) as server:
        sub = bus.subscribe("numbers", f"{server.url}/double", max_attempts=1, max_concurrency=1)
        bus.publish_batch("numbers", [1, 2])
        for _ in range(40):
            clock.advance(s=1)
            bus.broker.wake(bus.registry.subscription(sub.name))
            time.sleep(0.01)
        assert "waiting for the model" in sub.state
        up.set()
        settle(bus, clock, sub)

    assert outcomes(sub)[-2:] == ["succeeded"] * 2
    assert set(outcomes(sub)) == {"failed", "succeeded"}


@in_memory
@pytest.mark.parametrize("others", [0, 4])
def test_an_event_that_ends_its_server_each_time_is_dead_and_no_other_is(
    others: int, bus: mt.EventBus, clock: SimulatedClock
) -> None:
    def serve(connection: socket.socket, _: int) -> None:
        while asked := read_request(connection):
            if asked.endswith(b"666"):
                reset(connection)
                return
            connection.sendall(whole_answer(b"" if asked.startswith(b"HEAD") else b"1"))

    with RawServer(serve) as server:
        sub = bus.subscribe(
            "numbers", f"{server.url}/double", max_attempts=1, max_concurrency=1, listen=False
        )
        bus.publish_batch("numbers", [666, *range(others)])
        sub.start()
        settle(bus, clock, sub)

    counts = bus.audit().iloc[0]
    assert (counts["succeeded"], counts["dead"]) == (others, 1)
    (dead,) = sub.dead_letters().to_dict("records")
    assert (dead["reason"], dead["data"]) == ("worker_died", "666")
    assert "may have ended the server" in dead["error"]


def test_of_several_requests_that_break_off_together_only_the_cause_counts() -> None:
    down = threading.Event()

    def serve(connection: socket.socket, _: int) -> None:
        if down.is_set():
            reset(connection)
            return
        while asked := read_request(connection):
            if asked.endswith(b"666"):
                down.set()
                server.drop()  # as a server that dies, with all that it has open
                threading.Timer(0.3, down.clear).start()
                return
            time.sleep(0.0 if asked.startswith(b"HEAD") else 0.02)
            connection.sendall(whole_answer(b"" if asked.startswith(b"HEAD") else b"1"))

    with RawServer(serve) as server, mt.connect("memory://") as bus:
        sub = bus.subscribe(
            "numbers", f"{server.url}/double", max_attempts=1, max_concurrency=8, listen=False
        )
        bus.publish_batch("numbers", [*range(20), 666, *range(40)])
        sub.start()
        bus.wait(timeout_s=60, progress=False)
        counts, rows = bus.audit().iloc[0], sub.invocations()
        (dead,) = sub.dead_letters().to_dict("records")

    assert (counts["succeeded"], counts["dead"]) == (60, 1)
    assert (dead["reason"], dead["data"]) == ("worker_died", "666")
    assert rows[rows["reason"] == "worker_died"]["event_id"].nunique() == 1


@in_memory
def test_a_hostile_event_through_the_bus_changes_neither_host_nor_path_nor_headers(
    bus: mt.EventBus, clock: SimulatedClock
) -> None:
    nasty = "x\r\nHost: 169.254.169.254\r\nX-Injected: 1"
    event = Event(
        {"url": "http://169.254.169.254/", "model": "other"},
        subject=nasty,
        extensions={"path": "/admin", "a1": nasty},
    )
    with ModelServer(Reply(value=1)) as server:
        sub = bus.subscribe("numbers", f"{server.url}/double")
        bus.publish("numbers", event)
        settle(bus, clock, sub)

    assert outcomes(sub) == ["succeeded"]
    (request,) = server.requests
    assert (request.method, request.path, request.header("host")) == (
        "POST",
        "/double",
        f"127.0.0.1:{server.port}",
    )
    assert request.header("x-injected") is None
    assert urllib.parse.unquote(request.header("ce-subject") or "") == nasty
    assert request.header("traceparent")


@in_memory
def test_without_its_variable_a_model_is_waited_for_and_the_state_names_it(
    bus: mt.EventBus, clock: SimulatedClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("MLT_TOKEN", raising=False)
    with ModelServer(Reply(value=1)) as server:
        sub = bus.subscribe(
            "numbers",
            mt.model(
                server.url, name="m", version="1.0.0", headers={"Authorization": "env:MLT_TOKEN"}
            ),
        )
        bus.publish("numbers", 1)
        wait_until(lambda: "MLT_TOKEN" in sub.state)
        assert sub.depth().visible == 1
        monkeypatch.setenv("MLT_TOKEN", "4711")
        settle(bus, clock, sub)

    assert outcomes(sub) == ["succeeded"]
    assert server.requests[0].header("authorization") == "4711"
