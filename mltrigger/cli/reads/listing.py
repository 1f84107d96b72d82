"""The command ``ls``. It lists topics, models and subscriptions."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from mltrigger.cli.output import add_output, show, write
from mltrigger.cli.reads.names import names_in_file
from mltrigger.cli.subscribed import add_url, on_bus
from mltrigger.text import one_line

if TYPE_CHECKING:
    import pandas as pd

    from mltrigger.bus import EventBus

_COLUMNS = {
    "subscriptions": (
        *("subscription", "topic", "selector", "version", "emit", "listeners", "paused"),
        *("visible", "delayed", "in_flight", "succeeded", "failed", "dead"),
    ),
    "topics": ("topic", "events", "subscriptions", "watches", "state", "newest_at"),
    "models": ("model", "version", "aliases", "kind", "address", "description", "registered_at"),
}


def add_commands(commands: Any) -> None:
    """Add ``ls``."""
    added = commands.add_parser("ls", help="list subscriptions, topics or models")
    added.add_argument(
        "what",
        nargs="?",
        choices=list(_COLUMNS),
        default="subscriptions",
        help="default: subscriptions",
    )
    added.add_argument("--names", action="store_true", help="print names only, one a line")
    add_output(added)
    add_url(added)
    added.set_defaults(run=_list)


def _list(given: argparse.Namespace) -> int:
    if given.names and (names := names_in_file(given.url, given.what)) is not None:
        return _list_names(names, given.form)
    with on_bus(given) as bus:
        if given.names:
            return _list_names(_names(bus, given.what), given.form)
        table: pd.DataFrame = getattr(bus, given.what)()
    show(table, given.form, _COLUMNS[given.what])
    return 0


def _list_names(names: Sequence[str], form: str) -> int:
    if form == "table":
        write(map(one_line, names), form)
    else:
        import pandas as pd

        show(pd.DataFrame({"name": pd.Series(names, dtype=object)}), form)
    return 0


def _names(bus: EventBus, what: str) -> list[str]:
    if what == "topics":
        return sorted(bus.registry.topics())
    if what == "models":
        return sorted({version.name for version in bus.registry.versions()})
    return sorted(spec.name for spec in bus.registry.subscriptions())
