"""The command ``dashboard``: the cockpit as a page, for this machine's browser."""

from __future__ import annotations

import argparse
import logging
import sys
import threading
import webbrowser
from typing import Any

from mltrigger.cli.subscribed import add_url
from mltrigger.text import one_line


def add_commands(commands: Any) -> None:
    """Add ``dashboard``."""
    added = commands.add_parser(
        "dashboard", help="the cockpit in a browser: look at the bus and steer it, until Ctrl-C"
    )
    add_url(added)
    added.add_argument("--port", type=int, default=0, help="default: a free one")
    added.add_argument("--read-only", action="store_true", help="refuse all actions")
    added.add_argument("--no-browser", action="store_true", help="print the address only")
    added.set_defaults(run=dashboard)


def dashboard(given: argparse.Namespace) -> int:
    """Serve the cockpit on this machine until Ctrl-C. Its token ends with it."""
    from mltrigger.api.server import serve
    from mltrigger.notebook.cockpit.hosted import cockpit
    from mltrigger.urls import connect, existing

    logging.basicConfig(level=logging.WARNING, format="%(asctime)s %(levelname)s %(message)s")
    sys.path.insert(0, "")  # find models beside the notebook: a dry run calls them
    with (
        connect(existing(given.url)) as bus,
        serve(bus, port=given.port, cockpit=cockpit()) as server,
    ):
        address = server.cockpit_url(given.read_only)
        print(
            one_line(
                f"the cockpit of {bus!r} opens once at {address} (10 minutes); Ctrl-C ends it"
            ),
            flush=True,
        )
        if not given.no_browser:
            webbrowser.open(address)
        waiting = threading.Event()
        while server.is_serving:
            waiting.wait(1.0)
    return 0
