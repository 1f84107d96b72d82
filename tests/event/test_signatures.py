"""Signatures of webhooks: what fits, what does not and why, and what the published library says."""

from __future__ import annotations

import base64
import json
from datetime import UTC, datetime

import pytest
import standardwebhooks
from hypothesis import given
from hypothesis import strategies as st

from mltrigger.errors import InvalidSignature
from mltrigger.event import signatures
from mltrigger.event.signatures import TOLERANCE_S, Signed, headers_of, key_of, sign, verify
from mltrigger.text import redacted

NOW_S = 1_700_000_000
SECRET = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"
OTHER = "whsec_" + base64.b64encode(b"another secret of 32 bytes, long").decode()

secrets = st.binary(min_size=16, max_size=64).map(
    lambda key: "whsec_" + base64.b64encode(key).decode()
)
ids = st.text(st.characters(codec="ascii", categories=("L", "N", "P", "S")), min_size=1)
bodies = st.binary(max_size=200)


def reason(
    headers: dict[str, str],
    body: bytes = b"{}",
    secrets: tuple[str, ...] = (SECRET,),
    now_s: float = NOW_S,
) -> str:
    """Return why the request is refused."""
    with pytest.raises(InvalidSignature) as caught:
        verify(secrets, headers, body, now_s)
    for secret in secrets:
        assert secret.removeprefix("whsec_") not in str(caught.value)
    return caught.value.reason


def test_the_example_of_the_specification_has_its_signature() -> None:
    """https://github.com/standard-webhooks/standard-webhooks: the test of its libraries."""
    signature = sign(SECRET, "msg_p5jXN8AQM9LWM0D4loKWxJek", 1614265330, b'{"test": 2432232314}')

    assert signature == "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE="


@given(st.lists(secrets, min_size=1, max_size=3), ids, bodies, st.data())
def test_whatever_one_of_the_secrets_signed_fits(
    given_secrets: list[str], id_: str, body: bytes, data: st.DataObject
) -> None:
    signer = data.draw(st.sampled_from(given_secrets))
    headers = headers_of([OTHER, signer], id_, NOW_S, body)
    upper = {name.title(): value for name, value in headers.items()}

    assert verify(given_secrets, headers, body, NOW_S) == Signed(id_, NOW_S)
    assert verify(given_secrets, upper, body, NOW_S) == Signed(id_, NOW_S)


@given(ids, st.text(max_size=100))
def test_the_published_library_takes_our_signature_and_we_take_its(id_: str, text: str) -> None:
    body, theirs = json.dumps(text).encode(), standardwebhooks.Webhook(SECRET)
    now = datetime.now(UTC)
    headers = headers_of([OTHER, SECRET], id_, int(now.timestamp()), body)

    assert theirs.verify(body, headers) == text
    signed = {**headers, "webhook-signature": theirs.sign(id_, now, body.decode())}
    assert verify([SECRET], signed, body, now.timestamp()) == Signed(id_, int(now.timestamp()))
    assert signed["webhook-signature"] in headers["webhook-signature"].split()


@given(ids, bodies, st.sampled_from(["id", "timestamp", "body", "signature"]), st.data())
def test_one_other_character_anywhere_does_not_fit(
    id_: str, body: bytes, where: str, data: st.DataObject
) -> None:
    headers = headers_of([SECRET], id_, NOW_S, body)
    if where == "body":
        body += b" "
    elif where == "timestamp":
        headers["webhook-timestamp"] = str(NOW_S + 1)
    elif where == "id":
        headers["webhook-id"] += "x"
    else:
        raw = bytearray(base64.b64decode(headers["webhook-signature"].removeprefix("v1,")))
        raw[data.draw(st.integers(0, len(raw) - 1))] ^= 1
        headers["webhook-signature"] = "v1," + base64.b64encode(raw).decode()

    assert reason(headers, body) == "wrong_signature"


@pytest.mark.parametrize(
    ("late_s", "expected"),
    [
        (TOLERANCE_S, ""),
        (TOLERANCE_S + 1, "too_old"),
        (-TOLERANCE_S, ""),
        (-TOLERANCE_S - 1, "too_new"),
    ],
)
def test_five_minutes_are_allowed_in_both_directions(late_s: float, expected: str) -> None:
    headers = headers_of([SECRET], "1", NOW_S, b"{}")

    if expected:
        assert reason(headers, now_s=NOW_S + late_s) == expected
    else:
        assert verify([SECRET], headers, b"{}", NOW_S + late_s).timestamp_s == NOW_S


def test_an_old_secret_fits_while_it_is_replaced_and_no_longer() -> None:
    during = headers_of([SECRET, OTHER], "1", NOW_S, b"{}")
    after = headers_of([OTHER], "1", NOW_S, b"{}")

    assert verify([SECRET], during, b"{}", NOW_S) == verify([OTHER], during, b"{}", NOW_S)
    assert verify([SECRET, OTHER], after, b"{}", NOW_S).id == "1"
    assert reason(after) == "wrong_signature"


@pytest.mark.parametrize("name", ["webhook-id", "webhook-timestamp", "webhook-signature"])
@pytest.mark.parametrize("value", [None, ""])
def test_a_missing_header_is_named(name: str, value: str | None) -> None:
    headers = headers_of([SECRET], "1", NOW_S, b"{}")
    headers.pop(name)
    if value is not None:
        headers[name] = value

    assert reason(headers) == "missing_header"
    with pytest.raises(InvalidSignature, match=f"no header {name}:"):
        verify([SECRET], headers, b"{}", NOW_S)


@pytest.mark.parametrize("text", ["1.7e9", "-1", "١٧٠٠٠٠٠٠٠٠", " 1700000000", "9" * 13, "nan"])
def test_a_time_that_is_no_whole_number_of_seconds_is_refused(text: str) -> None:
    assert reason({**headers_of([SECRET], "1", NOW_S, b"{}"), "webhook-timestamp": text}) == (
        "malformed_header"
    )


def test_a_header_that_came_twice_is_refused() -> None:
    headers = headers_of([SECRET], "1", NOW_S, b"{}")

    assert reason({**headers, "Webhook-Id": "2"}) == "malformed_header"


@pytest.mark.parametrize("text", ["v1", "v1,", "v1a,{}", "{}", "v1,é", "v1,{} ".upper(), ", ,"])
def test_other_versions_and_broken_signatures_never_fit(text: str) -> None:
    signature = sign(SECRET, "1", NOW_S, b"{}").removeprefix("v1,")
    headers = {
        **headers_of([SECRET], "1", NOW_S, b"{}"),
        signatures.SIGNATURE: text.format(signature),
    }

    assert reason(headers) == "wrong_signature"


def test_a_long_list_of_signatures_is_not_read_to_its_end() -> None:
    headers = headers_of([SECRET], "1", NOW_S, b"{}")
    headers["webhook-signature"] = "v1,AAAA " * 1000 + headers["webhook-signature"]

    assert reason(headers) == "wrong_signature"


@pytest.mark.parametrize("content", ["", "short", "AAAAAAAA", "ä" * 30, "two words" * 9])
@pytest.mark.parametrize("prefix", ["", "whsec_"])
def test_a_secret_that_cannot_be_one_is_refused_and_never_shown(prefix: str, content: str) -> None:
    with pytest.raises(InvalidSignature) as caught:
        key_of(prefix + content)

    assert caught.value.reason == "invalid_secret"
    assert not content or content not in str(caught.value)


def test_a_secret_is_the_same_with_and_without_its_prefix_and_padding() -> None:
    key = b"sixteen bytes or more"
    text = base64.b64encode(key).decode()

    assert key_of(text) == key_of(f"whsec_{text}") == key_of(f" {text.rstrip('=')}\n") == key


def test_a_secret_is_hidden_wherever_text_is_redacted() -> None:
    assert redacted(f"could not sign with {SECRET}: no") == "could not sign with whsec_***: no"
