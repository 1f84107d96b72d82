"""The commands ``mltrigger postgres``: for the owner of a schema in PostgreSQL."""

from __future__ import annotations

import argparse
from typing import Any

from mltrigger.cli.parsing import filled
from mltrigger.errors import StoreError, how_to_install
from mltrigger.text import one_line, redacted


def add_commands(commands: Any) -> None:
    """Add ``postgres upgrade``."""
    added = commands.add_parser("postgres", help="the schema of a bus on PostgreSQL")
    actions = added.add_subparsers(title="actions", required=True, metavar="ACTION")
    said = "bring the schema forward to this release, as its owner"
    upgrade = actions.add_parser("upgrade", help=said, description=said)
    upgrade.add_argument("url", type=filled, help="such as postgresql://owner@db/ml")
    upgrade.set_defaults(run=_upgrade)


def _upgrade(given: argparse.Namespace) -> int:
    from importlib.util import find_spec

    if not given.url.startswith("postgresql://"):
        raise StoreError(
            "only a schema of PostgreSQL is upgraded so: write postgresql://user@host/db"
        )
    if find_spec("psycopg") is None:
        raise StoreError(f"PostgreSQL needs psycopg: {how_to_install('postgres')}")
    from mltrigger.store.postgresql.upgrade import upgrade

    before, after, owner = upgrade(given.url)
    if before == after:
        said = f"schema version {after} is that of this release: nothing to do"
    else:
        said = f"upgraded from schema version {before} to {after}, as {owner}"
    print(one_line(redacted(said)))
    return 0
