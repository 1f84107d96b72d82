"""The command ``postgres``: for the administrator of a bus in PostgreSQL."""

from __future__ import annotations

import argparse
from typing import Any

from mltrigger.cli.parsing import filled
from mltrigger.errors import StoreError, how_to_install
from mltrigger.text import one_line, redacted

_ROLES = """\
Print the SQL of least-privilege roles. Nothing is called.

  publisher       publishes on the topics that are there
  worker          delivers subscriptions: mltrigger worker
  analyst         reads all but the data of events
  administrator   owns the tables: subscribes, registers, redrives, upgrades

The tables must be there, so connect once before. Run it as a superuser. It may run twice, and has
to after an upgrade that adds tables. The roles cannot log in, so grant them to users:

  mltrigger postgres roles | psql -v ON_ERROR_STOP=1 ml
  psql ml -c 'GRANT mltrigger_worker TO ocr'
"""


def add_commands(commands: Any) -> None:
    """Add ``postgres roles`` and ``postgres upgrade``."""
    added = commands.add_parser("postgres", help="roles and schema of a bus in PostgreSQL")
    kinds = added.add_subparsers(required=True, metavar="command")
    roles = kinds.add_parser("roles", help="the SQL of least-privilege roles", description=_ROLES)
    roles.add_argument("--schema", default="mltrigger_bus", help="default: %(default)s")
    roles.add_argument(
        "--prefix", default="mltrigger", help="of the names of the roles (default: %(default)s)"
    )
    roles.set_defaults(run=print_roles)
    said = "bring the schema forward to this release, as its owner"
    upgrade = kinds.add_parser("upgrade", help=said, description=said)
    upgrade.add_argument("url", type=filled, help="such as postgresql://owner@db/ml")
    upgrade.set_defaults(run=_upgrade)


def print_roles(given: argparse.Namespace) -> int:
    """Print the script."""
    from mltrigger.store import tables
    from mltrigger.store.postgresql.roles import columns_of, roles_sql

    print(roles_sql(columns_of(tables.CREATE), given.schema, given.prefix))
    return 0


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
