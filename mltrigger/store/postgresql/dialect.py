"""The SQL of the store in the words of PostgreSQL, and its values in the types of PostgreSQL.

The statements are shared with SQLite. A few of its words are written here in another way. Functions
that PostgreSQL does not have are made with the schema.
"""

from __future__ import annotations

import functools
import re
from decimal import Decimal
from typing import Any

from psycopg import adapt, postgres
from psycopg.adapt import Buffer, Dumper
from psycopg.types.numeric import Int8BinaryDumper, Int8Dumper, NumericBinaryLoader, NumericLoader
from psycopg.types.string import StrBinaryDumper, StrDumper

from mltrigger.store.keys import TextKey
from mltrigger.store.postgresql.versions import CONFLICTS

_NUL = "\u2400"
"""The sign in place of the character NUL, which no text of PostgreSQL can hold."""
_NAME = re.compile(r"(?<![:\w]):([a-z_]+)")
_WINDOW = "{o}subscription_id = :s AND {o}seq BETWEEN :low AND :high AND {o}lot_id >= :first"
_IN_ORDER = (
    f"FROM (SELECT * FROM outcome WHERE {_WINDOW.format(o='')}"
    " ORDER BY seq, attempt LIMIT 1000000000) AS o"
)
_FIXED = {
    "CAST(group_concat(e.id, '') AS BLOB)": "string_agg(e.id, ''::bytea)",
    "sum(e.id < x'')": "count(*) FILTER (WHERE octet_length(e.id) <> 16)",
    # In each statement about the same attempts they come in the same order. SQLite has but one.
    # A limit keeps the work in one process of the server: several would mix the order.
    f"FROM outcome o CROSS JOIN event e ON e.seq = o.seq WHERE {_WINDOW.format(o='o.')}": (
        f"{_IN_ORDER} CROSS JOIN event e ON e.seq = o.seq"
    ),
    f"FROM outcome o  WHERE {_WINDOW.format(o='o.')}": _IN_ORDER,
    "CAST(group_concat(id, '') AS BLOB)": "string_agg(id, ''::bytea)",
    "CAST(group_concat(CASE WHEN is_alike THEN data END, char(30)) AS BLOB)": (
        "string_agg(CASE WHEN is_alike THEN data END, '\\x1e'::bytea)"
    ),
    # our sum(boolean) calls a function for each row
    "sum(is_alike)": "count(*) FILTER (WHERE is_alike)",
    "typeof(e.data) = 'blob'": "TRUE",
    "typeof(e.id) = 'blob'": "octet_length(e.id) = 16",
    # not newest_event(): each statement plans a function that reads a table anew
    "SELECT coalesce(max(seq), 0) FROM event": "SELECT last_value FROM event_seq",
    "SELECT id + n FROM lot ORDER BY id DESC LIMIT 1": (
        "SELECT last_value FROM lot_seq WHERE is_called"
    ),
    "lower(hex(e.id))": "encode(e.id, 'hex')",
    "instr(": "strpos(",
    "NOT IN ()": "<> ALL ('{}')",
    "IN ()": "= ANY ('{}')",
    # The same events, in the order of that index alone. The planner cannot know how few events a
    # topic has that it learns from another row. It would read all events behind a quiet one.
    "e INDEXED BY event_topic\n  WHERE e.topic_id = s.topic_id AND e.seq >= c.next_seq": (
        "e WHERE (e.topic_id, e.seq) >= (s.topic_id, c.next_seq) AND e.topic_id <= s.topic_id"
        " AND e.seq >= c.next_seq"
    ),
    "coalesce(c.last_seq, e.seq) ORDER BY e.seq LIMIT 1": (
        "coalesce(c.last_seq, e.seq) ORDER BY e.topic_id, e.seq LIMIT 1"
    ),
    "INDEXED BY event_topic": "",
    "INDEXED BY outcome_exception": "",
    **CONFLICTS,
}
_CROSS = re.compile(r"CROSS JOIN (\w+) (\w+)\s+ON ")
_SIGNS = re.compile(r"[()]|\b(?:LEFT|CROSS|JOIN|WHERE|ORDER|GROUP|UNION|LIMIT)\b")
_JSON_OF_PARAMETER = re.compile(r"json_each\((:[a-z_]+)\)")


@functools.cache
def translated(sql: str) -> str:
    """Return *sql* for a client cursor of psycopg: names in its way, SQLite's words replaced."""
    return _NAME.sub(r"%(\1)s", _worded(sql).replace("%", "%%"))


@functools.cache
def by_position(sql: str) -> str:
    """Return *sql* as :func:`translated`, with its parameters in their order."""
    return _NAME.sub("%s", _worded(sql).replace("%", "%%"))


def _worded(sql: str) -> str:
    for before, after in _FIXED.items():
        sql = sql.replace(before, after)
    sql = _JSON_OF_PARAMETER.sub(r"json_numbered(\1)", sql)
    sql = _joined_texts(sql) if "group_concat(" in sql else sql
    while (found := _CROSS.search(sql)) is not None:
        sql = _one_after_the_other(sql, found)
    return sql


def _one_after_the_other(sql: str, found: re.Match[str]) -> str:
    """Return *sql* with a join in that order. ``CROSS JOIN … ON`` of SQLite says so.

    The planner cannot know how few rows a range of another row has. It would read all of both.
    """
    depth, end = 0, len(sql)
    for sign in _SIGNS.finditer(sql, found.end()):
        depth += (sign[0] == "(") - (sign[0] == ")")
        if depth < 0 or (depth == 0 and sign[0] not in "()"):
            end = sign.start()
            break
    table, name = found.groups()
    given = f"{table} {name} WHERE {sql[found.end() : end].strip()}"
    inner = f"SELECT {_asked(sql, table, name)} FROM {given} OFFSET 0"
    return f"{sql[: found.start()]}CROSS  JOIN LATERAL ({inner}) AS {name} {sql[end:]}"


def _asked(sql: str, table: str, name: str) -> str:
    """Return the columns of an event that *sql* names: some users may not read all."""
    if table != "event":
        return "*"
    return ", ".join(
        f"{name}.{column}" for column in sorted({*re.findall(rf"\b{name}\.(\w+)", sql)})
    )


def _joined_texts(sql: str) -> str:
    """Return *sql* with ``string_agg`` for ``group_concat``."""
    made, at = [], 0
    while (begin := sql.find("group_concat(", at)) >= 0:
        first = begin + len("group_concat(")
        end, commas = _end_of(sql, first)
        value = sql[first : commas[-1] if commas else end]
        separator = sql[commas[-1] + 1 : end].strip() if commas else "','"
        made += [sql[at:begin], f"string_agg(({value})::text, {separator})"]
        at = end + 1
    return "".join([*made, sql[at:]])


def _end_of(sql: str, begin: int) -> tuple[int, list[int]]:
    """Return the place of the bracket that ends a call, and of the commas between its values."""
    depth, commas, quoted = 1, list[int](), False
    for at in range(begin, len(sql)):
        sign = sql[at]
        if sign == "'":
            quoted = not quoted
        elif not quoted:
            depth += (sign == "(") - (sign == ")")
            if depth == 0:
                return at, commas
            if sign == "," and depth == 1:
                commas.append(at)
    raise ValueError(f"a bracket is open: {sql}")


# -- values ----------------------------------------------------------------------------------------


class _TextDumper(StrDumper):
    def dump(self, obj: str) -> Buffer | None:
        return super().dump(obj.replace("\0", _NUL) if "\0" in obj else obj)


class _KeyDumper(Dumper):
    """Ids that are no UUIDs. Their first byte says how many bytes come before the text."""

    oid = postgres.types["bytea"].oid

    def dump(self, obj: TextKey) -> Buffer:
        return b"\\x" + obj.as_bytes().hex().encode()

    def quote(self, obj: TextKey) -> Buffer:
        return b"'" + self.dump(obj) + b"'::bytea"


class _BoolDumper(Dumper):
    """Truth as a number: SQLite has no other."""

    oid = postgres.types["int8"].oid

    def dump(self, obj: bool) -> Buffer:
        return b"1" if obj else b"0"

    def quote(self, obj: bool) -> Buffer:
        return self.dump(obj)


class _BinaryTextDumper(StrBinaryDumper):
    def dump(self, obj: str) -> Buffer | None:
        return super().dump(obj.replace("\0", _NUL) if "\0" in obj else obj)


class _NumericLoader(NumericBinaryLoader):
    """Sums of whole numbers are whole numbers."""

    def load(self, data: Buffer) -> Any:
        return _number(super().load(data))


class _NumericTextLoader(NumericLoader):
    """The same, of an answer in text form."""

    def load(self, data: Buffer) -> Any:
        return _number(super().load(data))


def _number(found: Decimal) -> Any:
    whole = int(found) if found.is_finite() else None
    return whole if found == whole else float(found)


def adapted() -> adapt.AdaptersMap:
    """Return the ways in which values go to and come from the server."""
    adapters = adapt.AdaptersMap(postgres.adapters)
    adapters.register_dumper(str, _BinaryTextDumper)
    adapters.register_dumper(str, _TextDumper)
    adapters.register_dumper(TextKey, _KeyDumper)
    adapters.register_dumper(int, Int8Dumper)
    adapters.register_dumper(int, Int8BinaryDumper)  # one type for all: one plan
    adapters.register_dumper(bool, _BoolDumper)
    adapters.register_loader("numeric", _NumericLoader)
    adapters.register_loader("numeric", _NumericTextLoader)
    return adapters
