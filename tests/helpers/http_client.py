"""A client of the HTTP API, as a program in another language has one."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any, NamedTuple

import requests


class Sent(NamedTuple):
    """One server-sent event."""

    id: str | None
    event: str | None
    data: Any


class Caller(requests.Session):
    """Calls one server. Paths begin with ``/``.

    Parameters
    ----------
    url : str
        The server.
    token : str, optional
        Sent with each request.
    """

    def __init__(self, url: str, token: str | None = None) -> None:
        super().__init__()
        self.url = url
        self.trust_env = False
        if token is not None:
            self.headers["Authorization"] = f"Bearer {token}"

    def request(self, method: str | bytes, url: str | bytes, *given: Any, **more: Any) -> Any:  # type: ignore[override]
        more.setdefault("timeout", 20)
        return super().request(method, f"{self.url}{url!s}", *given, **more)

    def follow(self, path: str, **more: Any) -> Iterator[Sent]:
        """Yield the events of a stream, without its heartbeats."""
        headers = {"Accept": "text/event-stream", **more.pop("headers", {})}
        with self.get(path, stream=True, headers=headers, **more) as answer:
            assert answer.status_code == 200, answer.text
            assert answer.headers["content-type"].startswith("text/event-stream")
            yield from sent(answer.iter_lines(chunk_size=1, decode_unicode=True))


def sent(lines: Iterator[str]) -> Iterator[Sent]:
    """Yield server-sent events from their lines (https://html.spec.whatwg.org/#parsing-an-event-stream)."""
    fields: dict[str, str] = {}
    for line in lines:
        if line:
            name, _, value = line.partition(":")
            fields[name] = value.removeprefix(" ")
        else:
            if "data" in fields:
                yield Sent(fields.get("id"), fields.get("event"), json.loads(fields["data"]))
            fields = {}
