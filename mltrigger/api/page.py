"""The pages: that of the documents, and that of the cockpit. They need no network."""

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
HEADERS_OF_COCKPIT = {
    **HEADERS,
    # an image in a payload is shown; its bytes were checked
    "content-security-policy": f"{HEADERS['content-security-policy']}; img-src data:",
}
_HERE = Path(__file__).parent
FILES = {
    name: ((_HERE / name).read_text(encoding="utf-8"), media_type)
    for name, media_type in (
        ("page.css", "text/css"),
        ("page.js", "text/javascript"),
        ("cockpit.css", "text/css"),
        ("cockpit.js", "text/javascript"),
    )
}
"""Name -> text and media type."""

_DOCS, _COCKPIT = "/v1/docs", "/v1/cockpit/files"


def signed_out() -> str:
    """Return the page for a browser without a session."""
    return _page(
        "<p>A token opens the documents. <code>mltrigger token create NAME --scope …</code>"
        f" makes one.</p>{_sign_in('Show the API')}"
    )


def cockpit_signed_out(why: str = "") -> str:
    """Return the page of the cockpit for a browser without a session.

    Parameters
    ----------
    why : str
        Why the session that is there is not enough.
    """
    return _document(
        "mltrigger cockpit",
        f"<h1>mltrigger</h1><p>{esc(why)}</p><p>The address that <code>mltrigger dashboard</code>"
        " prints opens once. Start it again for another one, or give a token with the scope"
        f" administer, or read:* to look only.</p>{_sign_in('Open the cockpit')}",
        style=f"{_COCKPIT}/cockpit.css",
        script=f'<script src="{_COCKPIT}/page.js" defer></script>',
    )


def cockpit() -> str:
    """Return the page of the cockpit. Its script asks for all the rest."""
    return _document(
        "mltrigger cockpit",
        '<h1>mltrigger</h1><p id="said" role="status"></p><div id="cockpit"></div>',
        style=f"{_COCKPIT}/view.css",
        script=f'<link rel="stylesheet" href="{_COCKPIT}/cockpit.css">'
        f'<script src="{_COCKPIT}/cockpit.js" type="module"></script>',
    )


def _sign_in(button: str) -> str:
    return (
        '<form><label>Token <input name="token" type="password" autocomplete="off" required>'
        f'</label><button>{button}</button><p role="status"></p></form>'
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
    return _document(
        "mltrigger API",
        f"<h1>mltrigger API</h1>{body}",
        style=f"{_DOCS}/page.css",
        script=f'<script src="{_DOCS}/page.js" defer></script>',
    )


def _document(title: str, body: str, style: str, script: str) -> str:
    return (
        f'<!doctype html><html lang="en"><head><meta charset="utf-8"><title>{title}</title>'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f'<link rel="stylesheet" href="{style}">{script}</head>'
        f"<body><main>{body}</main></body></html>"
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
