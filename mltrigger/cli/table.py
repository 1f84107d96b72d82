"""The command ``mltrigger table``: the SQL of a table's triggers, for the owner of the database."""

from __future__ import annotations

import argparse
from typing import Any

from mltrigger.errors import InvalidName
from mltrigger.text import one_line


def add_commands(commands: Any) -> None:
    """Add ``table sql`` and ``table drop``."""
    added = commands.add_parser("table", help="the trigger of a table that is a source")
    actions = added.add_subparsers(title="actions", required=True, metavar="ACTION")
    sql = actions.add_parser("sql", help="print the SQL that makes or removes the trigger")
    _add_table(sql)
    sql.add_argument(
        "--role", metavar="ROLE", help="the role that will read; default: the URL's user"
    )
    sql.add_argument("--drop", action="store_true", help="print the SQL that removes everything")
    sql.set_defaults(run=_print)
    drop = actions.add_parser("drop", help="remove the trigger and its outbox, with waiting rows")
    _add_table(drop)
    drop.set_defaults(run=_drop)


def _add_table(command: Any) -> None:
    command.add_argument("table", metavar="URL", help="such as table+sqlite:///app.db#documents")
    command.add_argument("--on", metavar="CHANGES", help="insert,update,delete; default: insert")
    command.add_argument("--fields", metavar="COLUMNS", help="such as id,path; default: all")


def _print(given: argparse.Namespace) -> int:
    database = _database(given)
    try:
        parts = database.removal() if given.drop else database.statements()
        grants = [] if given.drop else database.grants(given.role)
        owner = database.owner()
    finally:
        database.close()
    if owner:
        print(f"-- run this as the role {one_line(owner)}, the owner of the table")
    for statement in parts:
        print(f"{statement};")
    if grants:
        print("-- the least privileges of the role that reads")
    for statement in grants:
        print(f"{statement};")
    return 0


def _drop(given: argparse.Namespace) -> int:
    database = _database(given)
    try:
        database.remove()
    finally:
        database.close()
    print(f"removed the trigger and the outbox of {database.place.shown}")
    return 0


def _database(given: argparse.Namespace) -> Any:
    from mltrigger.broker import source_at
    from mltrigger.sources.table.source import TableSource, database_of

    source = source_at(given.table)
    if not isinstance(source, TableSource):
        raise InvalidName(
            f"{given.table!r} is no table; write table+sqlite:///app.db#documents, or"
            " table+postgresql://app@host/app#public.documents"
        )
    options = {name: getattr(given, name) for name in ("on", "fields") if getattr(given, name)}
    return database_of(source.with_options(options).place)
