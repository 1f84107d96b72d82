"""Webhooks that come in: signatures of the reference library, and the handshake of CloudEvents."""

from __future__ import annotations

import base64
import json
import secrets
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from http_client import Caller
from standardwebhooks import Webhook

import mltrigger as mt

HOOK = "/v1/webhooks/documents"


def secret() -> str:
    return "whsec_" + base64.b64encode(secrets.token_bytes(24)).decode()


@pytest.fixture
def keys(monkeypatch: pytest.MonkeyPatch) -> tuple[str, str]:
    old, new = secret(), secret()
    monkeypatch.setenv("HOOK_OLD", old)
    monkeypatch.setenv("HOOK_NEW", new)
    return old, new


@pytest.fixture
def receiver(served_bus: mt.EventBus, keys: tuple[str, str]) -> Iterator[Caller]:
    hooks = {"documents": ["env:HOOK_OLD", "env:HOOK_NEW"]}
    with (
        mt.serve(served_bus, webhooks=hooks, webhook_origins=["eventgrid.azure.net"]) as server,
        Caller(server.url) as caller,
    ):
        yield caller


def signed(key: str, body: str, name: str = "msg_1", late_s: float = 0) -> dict[str, str]:
    at = datetime.now(UTC) - timedelta(seconds=late_s)
    return {
        "webhook-id": name,
        "webhook-timestamp": str(int(at.timestamp())),
        "webhook-signature": Webhook(key).sign(name, at, body),
        "Content-Type": "application/json",
    }


BODY = json.dumps({"type": "page.scanned", "timestamp": "2026-05-01T10:00:00Z", "data": {"n": 1}})


@pytest.mark.parametrize("which", [0, 1])
def test_webhook_signed_with_either_secret_is_an_event(
    which: int, receiver: Caller, keys: tuple[str, str], served_bus: mt.EventBus
) -> None:
    answer = receiver.post(HOOK, data=BODY, headers=signed(keys[which], BODY))

    assert answer.status_code == 202, answer.text
    (row,) = served_bus.events().to_dict("records")
    assert (row["event_id"], row["type"], row["source"]) == ("msg_1", "page.scanned", HOOK)
    again = receiver.post(HOOK, data=BODY, headers=signed(keys[which], BODY))
    assert again.json()["duplicate"] is True
    assert len(served_bus.events()) == 1


Change = Callable[[dict[str, str], str], tuple[dict[str, str], str]]
CHANGES: dict[str, Change] = {
    "other body": lambda h, b: (h, b.replace("1", "2")),
    "other id": lambda h, b: ({**h, "webhook-id": "msg_2"}, b),
    "no signature": lambda h, b: ({k: v for k, v in h.items() if k != "webhook-signature"}, b),
    "no id": lambda h, b: ({k: v for k, v in h.items() if k != "webhook-id"}, b),
    "empty": lambda h, b: ({**h, "webhook-signature": ""}, b),
    "v0": lambda h, b: ({**h, "webhook-signature": h["webhook-signature"].replace("v1", "v0")}, b),
    "other key": lambda h, b: (signed(secret(), b), b),
}


@pytest.mark.parametrize("change", CHANGES)
def test_forged_webhook_is_refused_and_nothing_is_stored(
    change: str, receiver: Caller, keys: tuple[str, str], served_bus: mt.EventBus
) -> None:
    headers, body = CHANGES[change](signed(keys[0], BODY), BODY)
    answer = receiver.post(HOOK, data=body, headers=headers)

    assert (answer.status_code, answer.json()["reason"]) == (403, "bad_signature")
    assert len(served_bus.events()) == 0


@pytest.mark.parametrize("late_s", [301, -310, 3600])
def test_old_and_early_webhooks_are_refused(
    late_s: int, receiver: Caller, keys: tuple[str, str], served_bus: mt.EventBus
) -> None:
    answer = receiver.post(HOOK, data=BODY, headers=signed(keys[0], BODY, late_s=late_s))

    assert (answer.status_code, answer.json()["reason"]) == (403, "replayed")
    assert len(served_bus.events()) == 0


def test_notification_of_sns_with_a_forged_certificate_is_refused_and_nothing_is_fetched(
    receiver: Caller, served_bus: mt.EventBus
) -> None:
    """BI-079."""
    for url in (
        "https://sns.us-east-1.amazonaws.com.evil/x.pem",
        "http://sns.us-east-1.amazonaws.com/x.pem",
        "https://sns.us-east-1.amazonaws.com@evil/x.pem",
    ):
        body = {
            "Type": "Notification",
            "MessageId": "m",
            "SigningCertURL": url,
            "Signature": "AA==",
        }
        answer = receiver.post(HOOK, json=body)
        assert (answer.status_code, answer.json()["reason"]) == (403, "bad_signature")
    assert len(served_bus.events()) == 0


def test_topic_without_a_secret_answers_as_a_wrong_signature_does(
    receiver: Caller, keys: tuple[str, str]
) -> None:
    answer = receiver.post("/v1/webhooks/others", data=BODY, headers=signed(keys[0], BODY))

    assert (answer.status_code, answer.json()["reason"]) == (403, "bad_signature")


def test_cloudevents_may_be_signed_too(
    receiver: Caller, keys: tuple[str, str], served_bus: mt.EventBus
) -> None:
    event = {"specversion": "1.0", "id": "e", "source": "s", "type": "t", "data": 1}
    body = json.dumps(event)
    headers = {**signed(keys[0], body), "Content-Type": "application/cloudevents+json"}
    receiver.post(HOOK, data=body, headers=headers).raise_for_status()

    assert served_bus.events()["event_id"].tolist() == ["e"]


@pytest.mark.parametrize("path", [HOOK, "/v1/topics/documents/events"])
def test_sender_asks_for_permission_first(path: str, receiver: Caller) -> None:
    asks = {"WebHook-Request-Origin": "eventgrid.azure.net", "WebHook-Request-Rate": "1000"}
    allowed = receiver.options(path, headers=asks)
    refused = receiver.options(path, headers={"WebHook-Request-Origin": "evil.example"})

    assert allowed.status_code == 200
    assert allowed.headers["webhook-allowed-origin"] == "eventgrid.azure.net"
    assert int(allowed.headers["webhook-allowed-rate"]) > 0
    assert "POST" in allowed.headers["allow"]
    assert "webhook-allowed-origin" not in refused.headers


@pytest.mark.parametrize(
    ("given", "error"),
    [
        ("whsec_c2VjcmV0c2VjcmV0c2VjcmV0", "env:"),
        ("env:NOBODY_SET_THIS", "NOBODY_SET_THIS"),
        (["env:SHORT"], "secret"),
    ],
)
def test_secrets_are_named_and_never_shown(
    given: Any, error: str, served_bus: mt.EventBus, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SHORT", "whsec_c2hvcnQ=")
    with pytest.raises(mt.MltriggerError, match=error) as caught:
        mt.serve(served_bus, webhooks={"documents": given})
    assert "c2VjcmV0" not in str(caught.value)
    assert "c2hvcnQ" not in str(caught.value)


def test_headers_beside_the_signature_change_nothing(
    receiver: Caller, keys: tuple[str, str], served_bus: mt.EventBus
) -> None:
    """Somebody who has seen a signed request cannot make another event of it."""
    original = signed(keys[0], BODY)
    receiver.post(HOOK, data=BODY, headers=original).raise_for_status()
    for forged in (
        {"ce-id": "forged", "ce-source": "/bank", "ce-type": "refund", "ce-specversion": "1.0"},
        {"Content-Type": "application/cloudevents+json"},
        {"Content-Type": "application/cloudevents-batch+json"},
        {"Idempotency-Key": "forged"},
        {"Content-Type": "text/plain"},
    ):
        answer = receiver.post(HOOK, data=BODY, headers={**original, **forged})
        assert answer.json()["duplicate"] is True, answer.text

    assert served_bus.events()["event_id"].tolist() == ["msg_1"]


def test_forgers_do_not_use_up_the_rate_of_the_sender(
    receiver: Caller, keys: tuple[str, str]
) -> None:
    found = [receiver.post(HOOK, data=BODY).status_code for _ in range(30)]
    assert found[-1] == 429

    assert receiver.post(HOOK, data=BODY, headers=signed(keys[0], BODY)).status_code == 202
