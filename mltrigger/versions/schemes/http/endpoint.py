"""The part that the endpoints of all HTTP schemes share, and CloudEvents as headers."""

from __future__ import annotations

import urllib.parse

from mltrigger.errors import InvalidEvent, NotEncodable
from mltrigger.event.data import encode_data
from mltrigger.event.event import Event
from mltrigger.versions.scheme import Endpoint
from mltrigger.versions.schemes.failures import unfit
from mltrigger.versions.schemes.http.client import Http

CONCURRENCY = 8
"""Calls at the same time, unless the subscription says otherwise."""
MAX_HEADER_BYTES = 16 * 1024
_UNLIMITED = 1 << 60
# CloudEvents 1.0.2, HTTP protocol binding, 3.1.3.2: printable ASCII stays as it is, but for the
# blank, " and %. All other characters are percent-encoded.
_SAFE = "".join(chr(code) for code in range(0x21, 0x7F) if chr(code) not in '"%')


class HttpEndpoint(Endpoint):
    """An endpoint with one :class:`Http`."""

    concurrency = CONCURRENCY

    def __init__(self, http: Http) -> None:
        self.http = http

    def warm_up(self) -> None:
        """Raise when an environment variable for a header is missing."""
        self.http.check()

    def close(self) -> None:
        """Close the connections."""
        self.http.close()


def cloudevent_headers(event: Event) -> dict[str, str]:
    """Return *event* as headers in CloudEvents' binary mode, and its ``traceparent``.

    The content type is not among them. Values are percent-encoded, so no event adds a header or a
    line. See the HTTP protocol binding of CloudEvents 1.0.2, section 3.1.3.2.

    Raises
    ------
    ModelFailure
        When the headers are longer than servers accept (16 KiB). Such an event needs another
        envelope.
    """
    named: dict[str, object] = {
        "specversion": "1.0",
        "id": event.id,
        "source": event.source,
        "type": event.type,
        "subject": event.subject,
        "time": event.time.isoformat().replace("+00:00", "Z"),
        "dataschema": event.dataschema,
        **event.extensions,
    }
    headers = {
        f"ce-{name}": as_header(_canonical(value))
        for name, value in named.items()
        if value is not None
    }
    if event.traceparent:
        headers["traceparent"] = event.traceparent
    if (size := sum(map(len, headers.values()))) > MAX_HEADER_BYTES:
        raise unfit(
            f"the event's attributes have {size:,} bytes as headers; the limit is"
            f" {MAX_HEADER_BYTES:,}: use the option envelope='structured' or 'none'"
        )
    return headers


def as_header(text: str) -> str:
    """Return *text* as the value of a header: printable ASCII, other characters percent-encoded."""
    return urllib.parse.quote(text, safe=_SAFE)


def raw_data(event: Event) -> tuple[bytes, str]:
    """Return the data of *event* as bytes, and their media type.

    Raises
    ------
    ModelFailure
        For the event alone, when they have no form.
    """
    try:
        raw, kind = encode_data(event, _UNLIMITED)
    except (InvalidEvent, NotEncodable) as error:
        raise unfit(f"the data cannot be sent: {error}") from error
    kind = kind or "application/json"
    return raw, kind if kind.isascii() and kind.isprintable() else "application/octet-stream"


def structured(event: Event) -> bytes:
    """Return *event* in CloudEvents' structured mode.

    Raises
    ------
    ModelFailure
        For the event alone, when it has no JSON form.
    """
    try:
        return event.to_json().encode()
    except (InvalidEvent, NotEncodable, ValueError) as error:
        raise unfit(f"the event has no JSON form: {error}") from error


def _canonical(value: object) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)
