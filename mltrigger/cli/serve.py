"""The commands of the HTTP server: ``serve``, ``token`` and ``api``."""

from __future__ import annotations

import argparse
import json
import logging
import sys
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from mltrigger.cli.parsing import filled
from mltrigger.errors import InvalidName
from mltrigger.text import one_line

if TYPE_CHECKING:
    from mltrigger.bus import EventBus

_URL = "the bus (default: $MLTRIGGER_URL, else sqlite:///mltrigger.db)"


def add_commands(commands: Any) -> None:
    """Add ``serve``, ``token`` and ``api``."""
    _add_serve(commands)
    _add_token(commands)
    _add_api(commands)


def _add_serve(commands: Any) -> None:
    added = commands.add_parser(
        "serve", help="every topic and model version as an HTTP API, until Ctrl-C or SIGTERM"
    )
    added.add_argument("--url", type=filled, help=_URL)
    added.add_argument("--host", default="127.0.0.1", help="default: this machine only")
    added.add_argument("--port", type=int, default=8000, help="default: 8000; 0 takes a free one")
    added.add_argument(
        "--allow-host",
        action="append",
        default=[],
        metavar="NAME",
        help="a name by which clients call it, such as api.example.org (may be repeated)",
    )
    added.add_argument(
        "--allow-origin",
        action="append",
        default=[],
        metavar="ORIGIN",
        help="a page that may call, such as https://app.example.org (may be repeated)",
    )
    added.add_argument(
        "--webhook",
        action="append",
        default=[],
        metavar="TOPIC=env:NAME",
        help="take signed webhooks; the variable has the secret (may be repeated)",
    )
    added.add_argument(
        "--webhook-origin",
        action="append",
        default=[],
        metavar="NAME",
        help="a sender that may ask for permission, such as eventgrid.azure.net",
    )
    added.add_argument("--body-mb", type=float, default=16.0, help="the largest body (default: 16)")
    added.add_argument(
        "--rate", type=float, default=2000.0, help="requests of one token a second (default: 2000)"
    )
    added.add_argument("--streams", type=int, default=100, help="open streams (default: 100)")
    added.set_defaults(run=serve)


def _add_token(commands: Any) -> None:
    added = commands.add_parser("token", help="tokens of the HTTP API")
    actions = added.add_subparsers(title="actions", required=True, metavar="ACTION")
    create = actions.add_parser("create", help="make a token and print it, once")
    create.add_argument("name")
    create.add_argument(
        "--scope",
        action="append",
        required=True,
        metavar="SCOPE",
        help="publish:TOPIC, read:SUBSCRIPTION, invoke:MODEL or administer (may be repeated)",
    )
    listed = actions.add_parser("list", help="list names and scopes; the tokens are not kept")
    revoke = actions.add_parser("revoke", help="refuse a token from now on")
    revoke.add_argument("name")
    for action, run in ((create, create_token), (listed, list_tokens), (revoke, revoke_token)):
        action.add_argument("--url", type=filled, help=_URL)
        action.set_defaults(run=run)


def _add_api(commands: Any) -> None:
    added = commands.add_parser("api", help="print a document of the HTTP API")
    added.add_argument("document", choices=["openapi", "asyncapi"])
    added.add_argument("--url", type=filled, help=_URL)
    added.add_argument(
        "--server", default="http://127.0.0.1:8000", help="where it will be (default: %(default)s)"
    )
    added.set_defaults(run=print_document)


def serve(given: argparse.Namespace) -> int:
    """Serve until SIGTERM. Return 0 when the requests under way have their answers."""
    from mltrigger.worker import stop_on_signals

    stopping = stop_on_signals()  # first, because opening the bus takes time
    from mltrigger.api.server import serve as begin
    from mltrigger.notebook.cockpit.hosted import cockpit

    logging.basicConfig(level=logging.WARNING, format="%(asctime)s %(levelname)s %(message)s")
    sys.path.insert(0, "")  # find models beside the notebook, as `python -m` does
    with (
        _opened(given.url) as bus,
        begin(
            bus,
            host=given.host,
            port=given.port,
            hosts=given.allow_host,
            origins=given.allow_origin,
            webhooks=_webhooks(given.webhook),
            webhook_origins=given.webhook_origin,
            body_mb=given.body_mb,
            rate_per_s=given.rate,
            streams=given.streams,
            cockpit=cockpit(),
        ) as server,
    ):
        print(f"serving {bus!r} at {server.url}/v1/docs; Ctrl-C or SIGTERM ends it", flush=True)
        if not _tokens(bus).list():
            print("no token yet: mltrigger token create NAME --scope administer", flush=True)
        while not stopping.is_set() and server.is_serving:
            stopping.wait(1.0)
    return 0


def create_token(given: argparse.Namespace) -> int:
    """Print a new token."""
    with _opened(given.url) as bus:
        print(_tokens(bus).create(given.name, given.scope))
    print("this is shown once; only its hash is kept", file=sys.stderr)
    return 0


def list_tokens(given: argparse.Namespace) -> int:
    """Print the names, scopes and times of all tokens."""
    with _opened(given.url) as bus:
        for name, scopes, made_s in _tokens(bus).list():
            made = datetime.fromtimestamp(made_s, UTC).isoformat(timespec="seconds")
            print(one_line(f"{name}  {', '.join(scopes)}  made {made}"))
    return 0


def revoke_token(given: argparse.Namespace) -> int:
    """Refuse a token from now on."""
    with _opened(given.url) as bus:
        _tokens(bus).revoke(given.name)
    print(one_line(f"revoked {given.name}"))
    return 0


def print_document(given: argparse.Namespace) -> int:
    """Print a document of the API, for a generator of clients."""
    from mltrigger.api.asyncapi import asyncapi
    from mltrigger.api.openapi import openapi

    with _opened(given.url) as bus:
        if given.document == "openapi":
            document = openapi(bus.registry, lambda *_: True, given.server)
        else:
            host = given.server.partition("://")[2] or given.server
            document = asyncapi(bus.registry, lambda *_: True, host)
    print(json.dumps(document, indent=2))
    return 0


def _opened(url: str | None) -> EventBus:
    from mltrigger.urls import connect, existing

    return connect(existing(url))


def _tokens(bus: EventBus) -> Any:
    from mltrigger.api.access import Tokens

    return Tokens(bus.registry)


def _webhooks(given: list[str]) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for each in given:
        topic, equals, secret = each.partition("=")
        if not topic or not equals:
            raise InvalidName(f"--webhook {each[:60]!r}: write TOPIC=env:NAME")
        found.setdefault(topic, []).append(secret)
    return found
