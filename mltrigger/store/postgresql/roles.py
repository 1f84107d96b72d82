"""Least-privilege roles of a bus in PostgreSQL, as SQL.

- publisher: publishes on the topics that are there.
- worker: delivers subscriptions, records and prunes.
- analyst: reads all but the data of events and the answers of other systems.
- administrator: owns the tables. It subscribes, registers, labels, redrives and upgrades.

The roles cannot log in. Grant them to users.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from mltrigger.store.postgresql import versions
from mltrigger.store.postgresql.quoting import identifier, literal

ROLES = ("publisher", "worker", "analyst", "administrator")

_WORDS = {"r": "SELECT", "a": "INSERT", "w": "UPDATE", "d": "DELETE", "u": "USAGE"}
"""The letters of PostgreSQL's own access lists."""
_KINDS = ("TABLES", "SEQUENCES", "ROUTINES")


class Rights(NamedTuple):
    """The rights of three roles on one table. The administrator owns it.

    ``hidden`` are columns that an analyst may not read.
    """

    publisher: str
    worker: str
    analyst: str = "r"
    hidden: tuple[str, ...] = ()


TABLES: Mapping[str, Rights] = {
    "schema_version": Rights("r", "r"),
    "topic": Rights("r", "r"),
    "name": Rights("ra", "ra"),
    # a repeat is compared with the first, so a publisher reads events
    "event": Rights("ra", "rawd", hidden=("data", "extensions")),
    "model_version": Rights("r", "r"),
    "model_alias": Rights("r", "r"),
    "subscription": Rights("r", "rw"),
    "binding": Rights("r", "rawd"),
    "label": Rights("", "rd"),
    "effect": Rights("", "rawd", hidden=("key", "answer")),
    "revision": Rights("r", "rd"),
    "source": Rights("r", "r"),
    "cursor": Rights("r", "rw"),
    "ready": Rights("ra", "rawd"),
    "keyed": Rights("ra", "rawd", hidden=("key",)),
    "turn": Rights("raw", "rawd", hidden=("key",)),
    "pace": Rights("rw", "raw"),
    "lease": Rights("r", "rawd"),
    "awaited": Rights("ra", "rawd"),
    "unsent": Rights("rawd", "rawd"),
    "dead_letter": Rights("r", "rawd"),
    "resent": Rights("r", "rawd", hidden=("data",)),
    "repeat": Rights("raw", "rawd"),
    "lot": Rights("", "rawd"),
    "outcome": Rights("", "rawd"),
    "detail": Rights("", "rawd"),
    "tally": Rights("", "rawd"),
    "descent": Rights("raw", "rawd"),
    "worker": Rights("r", "rawd"),
    "listener": Rights("r", "rawd"),
    "setting": Rights("r", "rawd"),
}
"""The tables of :mod:`mltrigger.store.tables`."""
VIEWS: Mapping[str, Rights] = {
    "waiting": Rights("r", "r"),
    "leased": Rights("r", "r"),
    "invocation": Rights("", "r"),
    "final": Rights("r", "r"),
}
OWN: Mapping[str, Rights] = {
    "mark": Rights("rad", "rad"),
    "life": Rights("r", "r"),
    # behind the views, which have the rights of their owner
    **{table: Rights("", "", "") for table in versions.STORED},
}
"""The tables of the store in PostgreSQL alone, as far as they are there: marks of commits."""
SEQUENCES: Mapping[str, Rights] = {
    "event_seq": Rights("ruw", "ruw"),
    "lot_seq": Rights("r", "ruw", ""),
}
"""Its sequences, as far as they are there."""
DEFINING = {"make_partition": ("publisher", "worker"), "renew_life": ("publisher", "worker")}
"""The roles that may call a function with the rights of its owner. For others: workers."""


def roles_sql(
    columns: Mapping[str, tuple[str, ...]], schema: str = "mltrigger_bus", prefix: str = "mltrigger"
) -> str:
    """Return a script that makes the roles and grants them their rights. It may run twice.

    A superuser runs it, or the owner of the tables with the right to make roles. The tables must be
    there. An upgrade that adds some needs another run.

    Parameters
    ----------
    columns : mapping
        The columns of each table, see :func:`mltrigger.store.postgresql.roles.columns_of`.
    schema : str
        The schema of the tables.
    prefix : str
        The roles are called ``<prefix>_publisher`` and so on.

    Raises
    ------
    InvalidName
        If a name is none of PostgreSQL.
    """
    at = identifier(schema)
    names = {role: identifier(f"{prefix}_{role}") for role in ROLES}
    # not from the administrator: an owner can lose its rights, too
    before = ", ".join(["PUBLIC", *(names[role] for role in ROLES[:-1])])
    lines = [
        f"-- Roles of the bus in the schema {at}. Run it as a superuser, after the first connect.",
        "BEGIN;",
        *(_made(f"{prefix}_{role}") for role in ROLES),
        f"REVOKE ALL ON SCHEMA {at} FROM {before};",
        *(f"REVOKE ALL ON ALL {kind} IN SCHEMA {at} FROM {before};" for kind in _KINDS),
        _owned(schema, f"{prefix}_administrator"),
        f"GRANT USAGE ON SCHEMA {at} TO {', '.join(names.values())};",
        _callable(schema, names),
    ]
    for role in ROLES[:-1]:
        lines += ["", f"-- {role}"]
        for table, rights in {**TABLES, **VIEWS}.items():
            lines += _granted(f"{at}.{table}", rights, role, names[role], columns.get(table, ()))
        for kind, others in (("TABLE", OWN), ("SEQUENCE", SEQUENCES)):
            for name, rights in others.items():
                for grant in _granted(f"{kind} {at}.{name}", rights, role, names[role], ()):
                    lines.append(_if_there(f"{at}.{name}", grant))
    return "\n".join([*lines, "", "COMMIT;"])


def columns_of(script: str) -> dict[str, tuple[str, ...]]:
    """Return the columns of each table that *script* creates. It has one column a line."""
    found: dict[str, tuple[str, ...]] = {}
    table = ""
    for line in script.splitlines():
        words = line.split()
        if line.startswith("CREATE TABLE ") and line.endswith("("):
            table, found[words[2]] = words[2], ()
        elif line.startswith(")"):
            table = ""
        elif table and words and words[0].islower():
            found[table] = (*found[table], words[0])
    return found


def _granted(
    table: str, rights: Rights, role: str, name: str, columns: tuple[str, ...]
) -> list[str]:
    letters: str = getattr(rights, role)
    if not letters:
        return []
    words = ", ".join(_WORDS[letter] for letter in letters)
    if role == "analyst" and rights.hidden:
        shown = ", ".join(each for each in columns if each not in rights.hidden)
        words = f"{words} ({shown})"
    return [f"GRANT {words} ON {table} TO {name};"]


def _made(role: str) -> str:
    return (
        f"DO $$ BEGIN IF NOT EXISTS (SELECT FROM pg_roles WHERE rolname = {literal(role)})"
        f" THEN CREATE ROLE {identifier(role)} NOLOGIN; END IF; END $$;"
    )


def _if_there(name: str, statement: str) -> str:
    return (
        f"DO $$ BEGIN IF to_regclass({literal(name)}) IS NOT NULL THEN {statement} END IF; END $$;"
    )


def _callable(schema: str, names: Mapping[str, str]) -> str:
    """Return the statement that lets roles call functions.

    A function with the rights of its owner is for few: one of them drops old partitions.
    """
    everyone = ", ".join(names.values())
    cases = " ".join(
        f"WHEN {literal(function)} THEN {literal(', '.join(names[role] for role in roles))}"
        for function, roles in DEFINING.items()
    )
    return f"""\
DO $$ DECLARE o record; BEGIN
  FOR o IN SELECT p.oid::regprocedure AS name, CASE WHEN NOT p.prosecdef THEN {literal(everyone)}
      ELSE CASE p.proname {cases} ELSE {literal(names["worker"])} END END AS roles
      FROM pg_proc p JOIN pg_namespace n ON n.oid = p.pronamespace
      WHERE n.nspname = {literal(schema)} LOOP
    EXECUTE format('GRANT EXECUTE ON ROUTINE %s TO %s', o.name, o.roles);
  END LOOP;
END $$;"""


def _owned(schema: str, role: str) -> str:
    """Return the statements that give the schema and all in it to *role*."""
    at, owner = literal(schema), literal(role)
    return f"""
ALTER SCHEMA {identifier(schema)} OWNER TO {identifier(role)};
DO $$ DECLARE o record; BEGIN
  FOR o IN SELECT c.oid::regclass AS name FROM pg_class c JOIN pg_namespace n
      ON n.oid = c.relnamespace WHERE n.nspname = {at} AND c.relkind IN ('r', 'p', 'v') LOOP
    EXECUTE format('ALTER TABLE %s OWNER TO %I', o.name, {owner});
  END LOOP;
  FOR o IN SELECT c.oid::regclass AS name FROM pg_class c JOIN pg_namespace n
      ON n.oid = c.relnamespace WHERE n.nspname = {at} AND c.relkind = 'S' AND NOT EXISTS (
        SELECT FROM pg_depend d WHERE d.objid = c.oid AND d.deptype IN ('a', 'i')) LOOP
    EXECUTE format('ALTER SEQUENCE %s OWNER TO %I', o.name, {owner});
  END LOOP;
  FOR o IN SELECT p.oid::regprocedure AS name FROM pg_proc p JOIN pg_namespace n
      ON n.oid = p.pronamespace WHERE n.nspname = {at} LOOP
    EXECUTE format('ALTER ROUTINE %s OWNER TO %I', o.name, {owner});
  END LOOP;
END $$;
"""
