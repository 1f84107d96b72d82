"""Upgrades of the schema in PostgreSQL: by its owner, in one transaction, with no writer beside it.

A writer reads the version of the schema in each transaction. So a worker of an earlier release is
refused from the upgrade on, also one that runs.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import psycopg

from mltrigger.errors import StoreError
from mltrigger.store import tables
from mltrigger.store.postgresql import schema
from mltrigger.store.postgresql.place import parts_of
from mltrigger.store.postgresql.sessions import Sessions
from mltrigger.store.postgresql.trouble import said

STEPS: Mapping[int, Sequence[str]] = {
    11: ("CREATE INDEX outcome_exception ON outcome (lot_id, place, outcome) WHERE outcome <> 0",)
}
"""The statements that make the version after each one."""
PATIENCE_S = 10.0
"""How long a step waits for somebody who reads a table."""
_OWNER = """
SELECT pg_get_userbyid(nspowner), pg_has_role(nspowner, 'MEMBER'), current_user
FROM pg_namespace WHERE nspname = %s
"""


class Upgraded(NamedTuple):
    """The version of a schema before and after, and its owner."""

    before: int
    after: int
    owner: str


def upgrade(
    url: str,
    steps: Mapping[int, Sequence[str]] = STEPS,
    version: int = tables.VERSION,
    patience_s: float = PATIENCE_S,
) -> Upgraded:
    """Bring the schema at *url* forward to *version*. Nothing is changed if it has that one.

    Raises
    ------
    StoreError
        When the role is not the owner, a reader stands in the way, or there is no such schema.
    """
    conninfo, name = parts_of(url)
    try:
        session = Sessions(conninfo, name).open()
        with session:
            return _upgraded(session, name, steps, version, patience_s)
    except psycopg.errors.LockNotAvailable as error:
        raise StoreError(
            f"the schema {name!r} was not upgraded: somebody has read a table of it for more than"
            f" {patience_s:g} s; end that transaction (see pg_stat_activity), and try again."
            " Nothing was changed"
        ) from error
    except psycopg.Error as error:
        raise StoreError(
            f"the schema {name!r} was not upgraded: {said(error)}; nothing was changed"
        ) from error


def _upgraded(
    session: psycopg.Connection[Any],
    name: str,
    steps: Mapping[int, Sequence[str]],
    version: int,
    patience_s: float,
) -> Upgraded:
    owner = _owner(session, name)
    with session.transaction():
        session.execute(f'SET LOCAL search_path TO "{name}"')
        session.execute(schema.LOCK, [name])
        session.execute(f"SELECT pg_advisory_xact_lock(({schema.WRITERS_KEY}))", [name])
        before = schema.found(session, name)
        if before is None or before < 0 or before > version:
            raise _missing(name) if before is None else schema.refused(before)
        # what a step makes belongs to the owner, whichever member of it calls
        session.execute(f"SET LOCAL ROLE {_quoted(owner)}")
        session.execute(f"SET LOCAL lock_timeout TO {int(patience_s * 1000)}")
        for number in range(before, version):
            if number not in steps:
                raise StoreError(
                    f"there is no way from schema version {number} to {number + 1} in this release:"
                    " upgrade with an earlier one first; nothing was changed"
                )
            for statement in steps[number]:
                session.execute(statement)
        if before < version:
            session.execute("UPDATE schema_version SET version = %s", [version])
    return Upgraded(before, version, owner)


def _owner(session: psycopg.Connection[Any], name: str) -> str:
    """Return the owner of the schema. Raise StoreError if that is somebody else."""
    row = session.execute(_OWNER, [name]).fetchone()
    if row is None:
        raise _missing(name)
    owner, is_member, user = row
    if not is_member:
        raise StoreError(
            f"the schema {name!r} belongs to the role {owner!r}, and this is {user!r}: only its"
            " owner upgrades it. Connect as that role; nothing was changed"
        )
    return str(owner)


def _missing(name: str) -> StoreError:
    return StoreError(
        f"that database has no schema {name!r}: mt.connect(…) makes it, or name another one with"
        " ?schema="
    )


def _quoted(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'
