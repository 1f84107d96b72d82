"""The page that shows the documents. It needs no network, and its script only signs in."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mltrigger.text import esc

HEADERS = {
    "content-security-policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self';"
        " base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    ),
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "cache-control": "no-store",
}
_HERE = Path(__file__).parent
FILES = {
    name: ((_HERE / name).read_text(encoding="utf-8"), media_type)
    for name, media_type in (("page.css", "text/css"), ("page.js", "text/javascript"))
}
"""Name -> text and media type."""

_SIGN_IN = """
<form><label>Token <input name="token" type="password" autocomplete="off" required></label>
<button>Show the API</button><p role="status"></p></form>
"""


def signed_out() -> str:
    """Return the page for a browser without a session."""
    return _page(
        "<p>A token opens the documents. <code>mltrigger token create NAME --scope …</code>"
        f" makes one.</p>{_SIGN_IN}"
    )


def documents(openapi: Mapping[str, Any], asyncapi: Mapping[str, Any]) -> str:
    """Return the page with both documents."""
    return _page(
        '<p>Download <a href="/v1/openapi.json">openapi.json</a> and'
        ' <a href="/v1/asyncapi.json">asyncapi.json</a>. Each request needs the header'
        " <code>Authorization: Bearer TOKEN</code>.</p>"
        f"<h2>Requests</h2>{_operations(openapi)}"
        f"<h2>Topics and streams</h2>{_channels(asyncapi)}"
        f"<h2>Schemas</h2>{_schemas(openapi)}"
    )


def _page(body: str) -> str:
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8"><title>mltrigger API</title>'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        '<link rel="stylesheet" href="/v1/docs/page.css">'
        '<script src="/v1/docs/page.js" defer></script></head>'
        f"<body><main><h1>mltrigger API</h1>{body}</main></body></html>"
    )


def _operations(document: Mapping[str, Any]) -> str:
    return "".join(
        f'<details><summary><b class="method">{esc(method.upper())}</b>'
        f" <code>{esc(path)}</code> {esc(operation.get('summary', ''))}</summary>"
        f"{_json(operation)}</details>"
        for path, item in document["paths"].items()
        for method, operation in item.items()
    )


def _channels(document: Mapping[str, Any]) -> str:
    return (
        "".join(
            f"<details><summary><code>{esc(channel['address'])}</code>"
            f" {esc(channel.get('description', ''))}</summary>{_json(channel)}</details>"
            for channel in document["channels"].values()
        )
        or "<p>None yet.</p>"
    )


def _schemas(document: Mapping[str, Any]) -> str:
    return "".join(
        f'<details id="{esc(name)}"><summary><code>{esc(name)}</code></summary>'
        f"{_json(schema)}</details>"
        for name, schema in document["components"]["schemas"].items()
    )


def _json(value: Any) -> str:
    return f"<pre>{esc(json.dumps(value, indent=2, ensure_ascii=False))}</pre>"
