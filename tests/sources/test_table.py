"""Tables as sources: every committed change is one event, on SQLite and on PostgreSQL."""

from __future__ import annotations

import base64
import itertools
import json
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from databases import Postgres, Table
from emulators import Account
from shared import wait_until

import mltrigger as mt
from mltrigger.sources.table.postgresql import PostgresTable
from mltrigger.sources.table.sqlite import SqliteTable
from mltrigger.sources.table.sqlite_file import SqliteFile

ON_A_SERVER = pytest.mark.xdist_group("postgresql")
BOTH = ["sqlite", pytest.param("postgresql", marks=ON_A_SERVER)]


@pytest.fixture(scope="session")
def server() -> Iterator[Postgres]:
    """A PostgreSQL server, started when the first test needs it."""
    server = Postgres("-c", "fsync=off")
    yield server
    server.stop()


_databases = itertools.count()


@pytest.fixture(params=BOTH)
def table(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Table]:
    """A table in a database of its own."""
    if request.param == "sqlite":
        made = Table(f"sqlite:///{tmp_path}/app.db")
    else:
        made = on_server(request.getfixturevalue("server"))
    yield made
    made.close()


def on_server(server: Postgres) -> Table:
    import psycopg

    name = f"app{next(_databases)}"
    with psycopg.connect(server.dsn("postgres"), autocommit=True) as connection:
        connection.execute(f"CREATE DATABASE {name}".encode())
    return Table(server.dsn(name))


@pytest.fixture
def bus(file: Path) -> Iterator[mt.EventBus]:
    with mt.connect(f"sqlite:///{file}") as bus:
        yield bus


only_sqlite = pytest.mark.parametrize("table", ["sqlite"], indirect=True)
only_postgresql = pytest.mark.parametrize(
    "table", [pytest.param("postgresql", marks=ON_A_SERVER)], indirect=True
)


def path_of(row: dict[str, Any]) -> Any:
    return row["path"]


def answers(bus: mt.EventBus, sub: mt.Subscription) -> list[Any]:
    """Return the outputs, once nothing is left to do."""
    assert bus.wait(60, progress=False)
    return list(sub.results()["output"])


def events(bus: mt.EventBus) -> list[tuple[str, str | None]]:
    """Return the last part of the type, and the subject, of every event, oldest first."""
    assert bus.wait(60, progress=False)
    found = bus.events()
    return list(zip(found["type"].str.rpartition(".")[2], found["subject"], strict=True))


# -- one event for each committed row --------------------------------------------------------------


def test_each_committed_insert_is_one_event(bus: mt.EventBus, table: Table) -> None:
    table.insert("before")
    sub = bus.subscribe(table.source(), path_of, name="ocr")
    table.insert("a", "b")
    other = table.connection()
    table.of(other, "BEGIN")
    table.of(other, "INSERT INTO documents (path) VALUES ('never')")
    table.of(other, "ROLLBACK")
    table.insert("c")

    assert answers(bus, sub) == ["a", "b", "c"]
    assert sub.topic == "documents"
    assert set(bus.events()["source"]) == {"mltrigger/tables/documents"}
    assert set(bus.events()["type"]) == {"mltrigger.row.inserted"}
    other.close()


def test_values_come_as_json_has_them(bus: mt.EventBus, table: Table) -> None:
    bus.subscribe(table.source(), lambda row: row, name="ocr")
    table.run(
        "INSERT INTO documents (path, scan, score) VALUES (?, ?, ?)",
        "Ü \u202e'\"\\ %s {}",
        b"\x00\xff\x89PNG",
        0.1,
    )
    table.run("INSERT INTO documents (path) VALUES (NULL)")

    assert bus.wait(60, progress=False)
    rows = [json.loads(text) for text in bus.events()["data"]]
    assert rows[0]["path"] == "Ü \u202e'\"\\ %s {}"
    assert base64.b64decode(rows[0]["scan"]) == b"\x00\xff\x89PNG"
    assert rows[0]["score"] == 0.1
    assert rows[1] == {"id": rows[0]["id"] + 1, "path": None, "scan": None, "score": None}


def test_infinity_fails_no_insert(bus: mt.EventBus, table: Table) -> None:
    sub = bus.subscribe(table.source(), lambda row: row["score"], name="ocr")
    table.run("INSERT INTO documents (score) VALUES (?)", float("inf"))
    table.run("INSERT INTO documents (score) VALUES (?)", float("-inf"))

    assert answers(bus, sub) == ["Infinity", "-Infinity"]


def test_changes_and_columns_are_chosen(bus: mt.EventBus, table: Table) -> None:
    bus.subscribe(
        table.source(),
        path_of,
        name="ocr",
        on=["insert", "update", "delete"],
        fields=["path"],
    )
    table.insert("a", "b")
    table.run("UPDATE documents SET score = 1")  # changes nothing that is chosen
    table.run("UPDATE documents SET path = 'c' WHERE path = 'b'")
    table.run("DELETE FROM documents WHERE path = 'a'")

    assert events(bus) == [
        ("inserted", "1"),
        ("inserted", "2"),
        ("updated", "2"),
        ("deleted", "1"),
    ]
    assert list(bus.events()["data"]) == [
        '{"path":"a"}',
        '{"path":"b"}',
        '{"path":"c"}',
        '{"path":"a"}',
    ]


def test_upsert_that_updates_is_no_insert(bus: mt.EventBus, table: Table) -> None:
    bus.subscribe(table.source(), path_of, name="ocr")
    upsert = (
        "INSERT INTO documents (id, path) VALUES (7, ?)"
        " ON CONFLICT (id) DO UPDATE SET path = excluded.path"
    )
    table.run(upsert, "a")
    table.run(upsert, "b")
    table.run("INSERT INTO documents (id, path) VALUES (7, 'c') ON CONFLICT DO NOTHING")

    assert events(bus) == [("inserted", "7")]


@only_sqlite
def test_insert_or_replace_is_an_insert(bus: mt.EventBus, table: Table) -> None:
    sub = bus.subscribe(table.source(), path_of, name="ocr")
    table.run("INSERT INTO documents (id, path) VALUES (7, 'a')")
    table.run("INSERT OR REPLACE INTO documents (id, path) VALUES (7, 'b')")
    table.run("INSERT OR IGNORE INTO documents (id, path) VALUES (7, 'c')")

    assert answers(bus, sub) == ["a", "b"]


def test_row_under_a_number_that_was_used_before_is_an_event(
    bus: mt.EventBus, table: Table
) -> None:
    sub = bus.subscribe(table.source(), path_of, name="ocr")
    for path in "abc":
        table.run("INSERT INTO documents (id, path) VALUES (1, ?)", path)
        assert bus.wait(60, progress=False)
        table.run("DELETE FROM documents")

    assert answers(bus, sub) == ["a", "b", "c"]


@only_postgresql
def test_transaction_that_commits_late_is_not_missed(bus: mt.EventBus, table: Table) -> None:
    sub = bus.subscribe(table.source(), path_of, name="ocr")
    late = table.connection()
    table.of(late, "BEGIN")
    table.of(late, "INSERT INTO documents (path) VALUES ('late')")
    table.insert("early")
    assert answers(bus, sub) == ["early"]

    table.of(late, "COMMIT")

    assert answers(bus, sub) == ["early", "late"]
    late.close()


def test_rows_of_any_width(bus: mt.EventBus, table: Table) -> None:
    columns = ", ".join(f"c{n} text" for n in range(300))
    table.run(f"CREATE TABLE wide (id integer PRIMARY KEY, {columns})")
    fields = [f"c{n}" for n in range(120)]
    whole = bus.subscribe(table.source("wide"), len, name="whole")
    part = bus.subscribe(table.source("wide"), len, name="part", fields=fields)
    table.run("INSERT INTO wide (id, c1) VALUES (1, 'x')")

    assert answers(bus, whole) == [301]
    assert answers(bus, part) == [120]


def test_column_that_is_too_large_is_left_out_and_named(bus: mt.EventBus, table: Table) -> None:
    sub = bus.subscribe(table.source(), lambda row: [row["path"], row["scan"]], name="ocr")
    table.run("INSERT INTO documents (path, scan) VALUES (?, ?)", "large", bytes(13_000_000))
    table.insert("small")

    assert answers(bus, sub) == [["large", None], ["small", None]]
    (large,) = bus.events().query("subject == '1'").itertuples()
    assert '"scan":null' in large.data


@pytest.mark.parametrize("key", ["", "two\nlines", "\x1b[31m", "k" * 3000])
def test_key_that_is_no_subject_is_hashed(bus: mt.EventBus, table: Table, key: str) -> None:
    table.run("CREATE TABLE named (name text PRIMARY KEY, n integer)")
    table.run("INSERT INTO named VALUES (?, 1)", key)
    sub = bus.subscribe(table.source("named"), lambda row: row["n"], name="ocr", start="earliest")
    table.run("INSERT INTO named VALUES ('other', 2)")
    table.run("DELETE FROM named WHERE n = 1")
    table.run("INSERT INTO named VALUES (?, 3)", key)

    assert set(answers(bus, sub)) in ({1, 2, 3}, {2, 3})
    assert answers(bus, sub).count(3) == 1
    (found,) = set(bus.events()["subject"]) - {"other"}
    assert found.startswith("sha256:")


@only_postgresql
@pytest.mark.parametrize(
    ("kind", "value", "expected"),
    [
        ("json", '"\\u0000"', "\\u0000"),
        ("json", "[1e1000000]", ["1e1000000"]),
        ("json", '"\\ud800"', None),
        ("numeric", "9" * 5001, "9" * 5001),
        ("numeric", "NaN", "NaN"),
        ("timestamptz", "2026-03-29 12:00+02", "2026-03-29T10:00:00+00:00"),
        ("integer[]", "{1,2}", [1, 2]),
        ("interval", "1 day", "P1D"),
    ],
)
def test_odd_value_fails_no_insert_and_blocks_no_other(
    bus: mt.EventBus, table: Table, kind: str, value: str, expected: object
) -> None:
    table.run(f"CREATE TABLE odd (id integer PRIMARY KEY, body {kind})")
    table.run(f"INSERT INTO odd VALUES (0, ?::{kind})", value)
    sub = bus.subscribe(table.source("odd"), lambda row: row["body"], name="ocr", start="earliest")
    table.run("SET bytea_output = escape; SET extra_float_digits = -2; SET timezone = 'Asia/Tokyo'")
    table.run(f"INSERT INTO odd VALUES (1, ?::{kind})", value)
    table.run("INSERT INTO odd VALUES (2, NULL)")

    assert bus.wait(60, progress=False)
    found = dict(zip(sub.results()["subject"], map(str, sub.results()["output"]), strict=True))
    assert found.keys() == {"0", "1", "2"}
    assert found["0"] == found["1"] == str(expected)


@only_postgresql
def test_bytes_are_written_one_way(bus: mt.EventBus, table: Table) -> None:
    sub = bus.subscribe(table.source(), lambda row: row["scan"], name="ocr")
    table.run("SET bytea_output = escape")
    table.run("INSERT INTO documents (scan) VALUES (?)", b"hello")

    assert answers(bus, sub) == [base64.b64encode(b"hello").decode()]


@only_postgresql
@pytest.mark.parametrize("level", ["REPEATABLE READ", "SERIALIZABLE"])
def test_transaction_that_began_before_the_trigger_loses_no_row(
    bus: mt.EventBus, table: Table, level: str
) -> None:
    old = table.connection()
    table.of(old, f"BEGIN ISOLATION LEVEL {level}")
    table.of(old, "SELECT 1")
    sub = bus.subscribe(table.source(), path_of, name="ocr")
    table.of(old, "INSERT INTO documents (path) VALUES ('old snapshot')")
    table.of(old, "COMMIT")
    old.close()

    assert answers(bus, sub) == ["old snapshot"]


@only_postgresql
def test_function_has_the_rights_of_the_owner_of_the_table_only(
    bus: mt.EventBus, table: Table
) -> None:
    table.run("DO $$ BEGIN CREATE ROLE low LOGIN; EXCEPTION WHEN duplicate_object THEN END $$")
    table.run("CREATE SCHEMA low AUTHORIZATION low")
    table.run("SET ROLE low")
    table.run("CREATE TYPE low.e AS ENUM ('a')")
    table.run(
        "CREATE FUNCTION low.f(low.e) RETURNS json LANGUAGE plpgsql AS $$ BEGIN RETURN"
        " to_json((SELECT rolsuper FROM pg_roles WHERE rolname = current_user)); END $$"
    )
    table.run("CREATE CAST (low.e AS json) WITH FUNCTION low.f(low.e)")
    table.run("CREATE TABLE low.t (id integer PRIMARY KEY, e low.e)")
    table.run("RESET ROLE")
    url = f"table+{table.database}#low.t"
    sub = bus.subscribe(url, lambda row: row["e"], name="ocr")
    table.run("SET ROLE low")
    table.run("INSERT INTO low.t VALUES (1, 'a')")
    table.run("RESET ROLE")

    assert answers(bus, sub) == [False]
    sub.unsubscribe(delete=True)
    assert not table.made()


@only_postgresql
def test_key_with_other_columns_in_its_index(bus: mt.EventBus, table: Table) -> None:
    table.run("CREATE TABLE t (id integer, body json, PRIMARY KEY (id) INCLUDE (body))")
    table.run("INSERT INTO t VALUES (1, '{}')")
    bus.subscribe(table.source("t"), path_of, name="ocr", start="earliest", max_attempts=1)
    table.run("INSERT INTO t VALUES (2, '{}')")

    assert sorted(events(bus)) == [("existing", "1"), ("inserted", "2")]


@only_postgresql
def test_exact_keys_are_told_apart(bus: mt.EventBus, table: Table) -> None:
    table.run("CREATE TABLE exact (id numeric PRIMARY KEY)")
    table.run("INSERT INTO exact VALUES (0.12345678901234567890), (0.12345678901234567891)")
    sub = bus.subscribe(table.source("exact"), len, name="ocr", start="earliest")

    assert answers(bus, sub) == [1, 1]
    assert len(set(bus.events()["subject"])) == 2


@only_postgresql
def test_value_that_is_nested_too_deep_blocks_no_other(bus: mt.EventBus, table: Table) -> None:
    table.run("CREATE TABLE deep (id integer PRIMARY KEY, body json)")
    sub = bus.subscribe(table.source("deep"), lambda row: row["body"], name="ocr")
    table.run("INSERT INTO deep VALUES (1, ?::json)", "[" * 5000 + "]" * 5000)
    table.run("INSERT INTO deep VALUES (2, '[1]')")

    assert answers(bus, sub) == [None, [1]]


def test_names_are_quoted(bus: mt.EventBus, table: Table) -> None:
    table.run(
        'CREATE TABLE "a ""b"" %s\'c" (id integer PRIMARY KEY, "ü %d\'\\x" text, "select" text)'
    )
    sub = bus.subscribe(
        table.source("a%20%22b%22%20%25s'c"),
        lambda row: sorted(row.items()),
        name="ocr",
        fields=["ü %d'\\x", "select"],
        on=["insert", "update"],
        start="earliest",
    )
    table.run('INSERT INTO "a ""b"" %s\'c" VALUES (1, \'x\', \'y\')')

    assert answers(bus, sub) == [[["select", "y"], ["ü %d'\\x", "x"]]]


# -- the rows that are there -----------------------------------------------------------------------


def test_old_rows_come_once_each_beside_new_ones(bus: mt.EventBus, table: Table) -> None:
    for n in range(1500):
        table.run("INSERT INTO documents (id, path) VALUES (?, ?)", 2 * n, str(2 * n))
    stop = threading.Event()
    written: list[int] = []

    def write() -> None:
        connection = table.connection()
        for n in range(1, 3000, 2):  # between the old ones
            if stop.is_set():
                break
            table.of(connection, "INSERT INTO documents (id, path) VALUES (?, ?)", n, str(n))
            written.append(n)
        connection.close()

    writer = threading.Thread(target=write)
    writer.start()
    sub = bus.subscribe(table.source(), path_of, name="ocr", start="earliest")
    wait_until(lambda: len(written) > 300)
    stop.set()
    writer.join()

    assert sorted(map(int, answers(bus, sub))) == sorted([*range(0, 3000, 2), *written])
    kinds = {kind for kind, _ in events(bus)}
    assert kinds <= {"existing", "inserted"} and "existing" in kinds


def test_reading_old_rows_goes_on_where_it_ended(
    file: Path, table: Table, monkeypatch: pytest.MonkeyPatch
) -> None:
    for n in range(60):
        table.insert(str(n))
    kind = SqliteTable if table.kind == "sqlite" else PostgresTable
    for module in ("sqlite", "postgresql"):
        monkeypatch.setattr(f"mltrigger.sources.table.{module}.BATCH_ROWS", 10)
    read, chunks = kind.chunk, list[Any]()

    def breaks(self: Any, after: Any) -> Any:
        chunks.append(after)
        if len(chunks) in (3, 5):
            raise OSError("the network is away")
        return read(self, after)

    monkeypatch.setattr(kind, "chunk", breaks)
    with mt.connect(f"sqlite:///{file}") as bus:
        bus.subscribe(table.source(), path_of, name="ocr", start="earliest")
        wait_until(lambda: len(chunks) >= 5)
    with mt.connect(f"sqlite:///{file}") as bus:
        sub = bus.subscribe(table.source(), path_of, name="ocr", start="earliest")

        assert sorted(map(int, answers(bus, sub))) == list(range(60))
    assert chunks.count(None) == 1


def test_keys_of_several_columns(bus: mt.EventBus, table: Table) -> None:
    table.run("CREATE TABLE pages (book text, page integer, body text, PRIMARY KEY (book, page))")
    for book in ("b", "a,1", "ü"):
        for page in range(3):
            table.run("INSERT INTO pages VALUES (?, ?, ?)", book, page, f"{book}{page}")
    sub = bus.subscribe(
        table.source("pages"), lambda row: row["body"], name="ocr", start="earliest"
    )
    table.run("INSERT INTO pages VALUES ('z', 0, 'new')")

    assert sorted(answers(bus, sub)) == sorted(
        [f"{book}{page}" for book in ("b", "a,1", "ü") for page in range(3)] + ["new"]
    )
    assert ("inserted", "z,0") in events(bus)


def test_keys_of_several_columns_are_told_apart(bus: mt.EventBus, table: Table) -> None:
    table.run("CREATE TABLE pairs (a text, b text, PRIMARY KEY (a, b))")
    for pair in (("a,b", "c"), ("a", "b,c"), ("a%2Cb", "c")):
        table.run("INSERT INTO pairs VALUES (?, ?)", *pair)
    sub = bus.subscribe(table.source("pairs"), len, name="ocr", start="earliest")

    assert answers(bus, sub) == [2, 2, 2]


def test_old_rows_are_taken_once_by_each_new_outbox(bus: mt.EventBus, table: Table) -> None:
    table.insert("old")
    sub = bus.subscribe(table.source(), path_of, name="ocr", start="earliest")
    table.insert("new")
    assert sorted(answers(bus, sub)) == ["new", "old"]
    sub.unsubscribe(delete=True)
    table.run("UPDATE documents SET path = 'changed' WHERE path = 'new'")
    bus.subscribe(table.source(), path_of, name="again", start="earliest")

    assert events(bus)[2:] == [("existing", "2")]  # the first has not changed


@only_sqlite
def test_key_that_is_no_utf_8_is_read_on(bus: mt.EventBus, table: Table) -> None:
    table.run("CREATE TABLE named (name text PRIMARY KEY)")
    for raw in ("x'ff'", "x'fe61'", "x'61'"):
        table.run(f"INSERT INTO named VALUES (CAST({raw} AS text))")
    sub = bus.subscribe(table.source("named"), len, name="ocr", start="earliest")

    assert answers(bus, sub) == [1, 1, 1]


@only_sqlite
def test_rows_without_a_key_are_refused_for_old_rows(bus: mt.EventBus, table: Table) -> None:
    table.run("CREATE TABLE named (name text PRIMARY KEY)")
    table.run("INSERT INTO named VALUES (NULL)")
    with pytest.raises(mt.InvalidName, match=r"1 row of .* NULL in the primary key"):
        bus.subscribe(table.source("named"), len, name="ocr", start="earliest")


@only_sqlite
def test_transactions_that_begin_with_a_read_are_let_be(bus: mt.EventBus, table: Table) -> None:
    table.run("PRAGMA journal_mode = WAL")
    sub = bus.subscribe(table.source(), path_of, name="ocr")
    own = table.connection()
    for n in range(100):
        table.of(own, "BEGIN")
        table.of(own, "SELECT count(*) FROM documents")
        threading.Event().wait(0.005)
        table.of(own, "INSERT INTO documents (path) VALUES (?)", str(n))
        table.of(own, "COMMIT")
    own.close()

    assert answers(bus, sub) == [str(n) for n in range(100)]


def test_table_without_key_has_no_old_rows(bus: mt.EventBus, table: Table) -> None:
    table.run("CREATE TABLE log (line text)")
    table.run("INSERT INTO log VALUES ('old')")

    with pytest.raises(mt.InvalidName, match=r"no primary key.*leave out start='earliest'"):
        bus.subscribe(table.source("log"), len, name="ocr", start="earliest")
    assert table.made() == {"log"} if table.kind == "sqlite" else not table.made()

    sub = bus.subscribe(table.source("log"), lambda row: row["line"], name="ocr")
    table.run("INSERT INTO log VALUES ('new')")
    assert answers(bus, sub) == ["new"]


# -- the table changes -----------------------------------------------------------------------------


def test_renamed_table_goes_on(bus: mt.EventBus, table: Table) -> None:
    sub = bus.subscribe(table.source(), path_of, name="ocr")
    table.run("ALTER TABLE documents RENAME TO papers")
    table.run("INSERT INTO papers (path) VALUES ('a')")

    assert answers(bus, sub) == ["a"]
    assert "papers' now" in " ".join(sub.doctor()["finding"])


def test_added_and_renamed_columns_are_followed(bus: mt.EventBus, table: Table) -> None:
    sub = bus.subscribe(table.source(), lambda row: sorted(row), name="ocr")
    table.insert("a")
    assert answers(bus, sub) == [["id", "path", "scan", "score"]]
    table.run("ALTER TABLE documents ADD COLUMN pages integer")
    table.run("ALTER TABLE documents RENAME COLUMN score TO mark")

    def follows() -> bool:
        table.run("INSERT INTO documents (pages) VALUES (1)")
        return answers(bus, sub)[-1] == ["id", "mark", "pages", "path", "scan"]

    wait_until(follows)


@only_sqlite
def test_column_that_is_renamed_while_the_trigger_is_made_fails_no_insert(
    bus: mt.EventBus, table: Table, monkeypatch: pytest.MonkeyPatch
) -> None:
    sub = bus.subscribe(table.source(), lambda row: sorted(row), name="ocr", listen=False)
    begins, calls = SqliteFile.writing, itertools.count()

    def races(self: SqliteFile, waits: bool = True) -> Any:
        if next(calls) == 0:
            table.run("ALTER TABLE documents RENAME COLUMN score TO mark")
        return begins(self, waits)

    def names_follow() -> bool:
        ((sql,),) = table.run("SELECT sql FROM sqlite_master WHERE type = 'trigger'")
        return '"mark", "pages"' in sql

    monkeypatch.setattr(SqliteFile, "writing", races)
    table.run("ALTER TABLE documents ADD COLUMN pages integer")
    sub.start()
    wait_until(names_follow)
    table.insert("a")

    assert answers(bus, sub) == [["id", "mark", "pages", "path", "scan"]]


@only_postgresql
def test_dropped_column_fails_no_insert(bus: mt.EventBus, table: Table) -> None:
    sub = bus.subscribe(
        table.source(), lambda row: row["path"], name="ocr", fields=["path", "scan"]
    )
    table.run("ALTER TABLE documents DROP COLUMN scan")
    table.run("ALTER TABLE documents ALTER COLUMN path TYPE varchar(3)")
    table.insert("a")

    assert answers(bus, sub) == ["a"]


@only_postgresql
def test_truncate_is_no_delete_and_loses_no_event(bus: mt.EventBus, table: Table) -> None:
    bus.subscribe(table.source(), path_of, name="ocr", on=["insert", "delete"])
    table.run("BEGIN")
    table.insert("a")
    table.run("TRUNCATE documents")
    table.insert("b")
    table.run("COMMIT")

    assert events(bus) == [("inserted", "1"), ("inserted", "2")]


@only_postgresql
def test_partitions_are_watched(bus: mt.EventBus, table: Table) -> None:
    table.run("CREATE TABLE parts (id integer, path text) PARTITION BY RANGE (id)")
    table.run("CREATE TABLE parts_1 PARTITION OF parts FOR VALUES FROM (0) TO (10)")
    sub = bus.subscribe(table.source("parts"), path_of, name="ocr")
    table.run("CREATE TABLE parts_2 PARTITION OF parts FOR VALUES FROM (10) TO (20)")
    table.run("INSERT INTO parts VALUES (1, 'a')")
    table.run("INSERT INTO parts_2 VALUES (11, 'b')")

    assert answers(bus, sub) == ["a", "b"]


@only_sqlite
def test_table_that_is_made_anew_is_watched_again_and_said(bus: mt.EventBus, table: Table) -> None:
    sub = bus.subscribe(table.source(), path_of, name="ocr")
    table.insert("a")
    assert answers(bus, sub) == ["a"]
    table.run("DROP TABLE documents")
    table.run("CREATE TABLE documents (id INTEGER PRIMARY KEY, path text)")

    def again() -> bool:
        table.insert("b")
        return answers(bus, sub)[-1] == "b"

    wait_until(again)
    assert "was missing" in " ".join(sub.doctor()["finding"])


@only_sqlite
def test_database_that_is_put_back_from_a_copy_loses_no_row(
    bus: mt.EventBus, table: Table, tmp_path: Path
) -> None:
    sub = bus.subscribe(table.source(), path_of, name="ocr")
    table.insert("a")
    assert answers(bus, sub) == ["a"]
    shutil.copy(tmp_path / "app.db", tmp_path / "copy.db")
    table.insert("b")
    assert answers(bus, sub) == ["a", "b"]
    (tmp_path / "copy.db").replace(tmp_path / "app.db")
    again = table.connection()

    table.of(again, "INSERT INTO documents (path) VALUES ('c')")  # the number that b had
    again.close()

    wait_until(lambda: answers(bus, sub) == ["a", "b", "c"])


# -- nobody reads, somebody else reads, nothing can be read ----------------------------------------


def test_outbox_that_nobody_reads_fails_no_insert(
    bus: mt.EventBus, table: Table, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in ("sqlite_sql", "postgresql_sql"):
        monkeypatch.setattr(f"mltrigger.sources.table.{module}.LIMIT", 20)
    monkeypatch.setattr("mltrigger.sources.table.postgresql_sql.CHECK_EVERY", 1)
    sub = bus.subscribe(table.source(), path_of, name="ocr", listen=False)
    for n in range(30):
        table.insert(str(n))

    found = " ".join(sub.doctor()["finding"])
    assert "it is full" in found
    assert "at least" in found and "came without an event" in found
    sub.start()
    kept = answers(bus, sub)
    assert kept == [str(n) for n in range(len(kept))] and 20 <= len(kept) < 30

    def opens_again(path: str) -> bool:
        table.insert(path)
        return path in answers(bus, sub)

    wait_until(lambda: opens_again("after"))
    sub.stop()
    for n in range(40):
        table.insert(f"second {n}")
    sub.start()
    wait_until(lambda: opens_again("after the second time"))


@only_postgresql
def test_rollback_of_a_transaction_that_filled_the_outbox(
    bus: mt.EventBus, table: Table, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mltrigger.sources.table.postgresql_sql.LIMIT", 20)
    monkeypatch.setattr("mltrigger.sources.table.postgresql_sql.CHECK_EVERY", 1)
    sub = bus.subscribe(table.source(), path_of, name="ocr")

    def opens_again(path: str) -> bool:
        table.insert(path)
        return path in answers(bus, sub)

    for time_ in ("first", "second"):
        table.run("BEGIN")
        table.insert(*map(str, range(40)))
        table.run("ROLLBACK")
        wait_until(lambda time_=time_: opens_again(f"after the {time_} time"))


def test_doctor_warns_of_rows_that_wait(bus: mt.EventBus, table: Table) -> None:
    sub = bus.subscribe(table.source(), path_of, name="ocr", listen=False)
    table.insert("a")
    if table.kind == "sqlite":
        (outbox,) = (
            n for n in table.made() if n.startswith("mltrigger_documents") and n[-3:] != "ert"
        )
        table.run(f'UPDATE "{outbox}" SET at = at - 1')
    else:
        ((outbox,),) = table.run("SELECT outbox FROM mltrigger.feeds")
        table.run(f"UPDATE mltrigger.{outbox} SET at = at - interval '1 day'")

    (row,) = sub.doctor().query("check == 'outbox'").to_dict("records")
    assert (row["severity"], row["finding"]) == (
        "warning",
        f"1 change of {_shown(table)} wait in the outbox, the oldest for 24 hours; nobody takes them."
        " It is full at 1,000,000",
    )


def _shown(table: Table) -> str:
    if table.kind == "sqlite":
        return "app.db#documents"
    return f"{table.database.rpartition('/')[2]}#public.documents"


def test_changes_go_to_one_bus(bus: mt.EventBus, table: Table) -> None:
    sub = bus.subscribe(table.source(), path_of, name="ocr")
    with mt.connect("memory://") as other:
        with pytest.raises(mt.StoreError, match=r"go to another bus.*\?feed=second"):
            other.subscribe(table.source(), path_of, name="ocr")
        both = other.subscribe(table.source(options="?feed=second"), path_of, name="ocr")
        table.insert("a")

        assert answers(other, both) == answers(bus, sub) == ["a"]


def test_two_spellings_of_one_database_are_noticed(
    bus: mt.EventBus, table: Table, tmp_path: Path
) -> None:
    bus.subscribe(table.source(), path_of, name="ocr")
    if table.kind == "sqlite":
        (tmp_path / "link.db").symlink_to(tmp_path / "app.db")
        again = bus.subscribe(
            f"table+sqlite:///{tmp_path}/link.db#documents", path_of, name="again"
        )
        assert again.topic == "documents"  # the same source
    else:
        other = table.source(options="?connect_timeout=3")
        with pytest.raises(mt.StoreError, match="another topic of this one"):
            bus.subscribe(other, path_of, name="again")


def test_source_that_is_removed_elsewhere_stays_removed(file: Path, table: Table) -> None:
    url = f"sqlite:///{file}"
    with mt.connect(url) as one, mt.connect(url) as other:
        sub = one.subscribe(table.source(), path_of, name="ocr")
        other.listen(other.spec("ocr"))
        table.insert("a")
        assert answers(one, sub) == ["a"]
        sub.unsubscribe(delete=True)
        table.insert("b")
        wait_until(lambda: not len(other._engine))
        assert not table.made()


def test_known_table_that_is_away_stops_no_program(
    file: Path, table: Table, tmp_path: Path
) -> None:
    with mt.connect(f"sqlite:///{file}") as bus:
        bus.subscribe(table.source(), path_of, name="ocr")
    away = {"sqlite": tmp_path / "app.db"}.get(table.kind)
    if away is None:
        table.run("ALTER TABLE documents RENAME TO kept")
        table.run("DROP SCHEMA mltrigger CASCADE")
    else:
        away.rename(tmp_path / "kept.db")
    with mt.connect(f"sqlite:///{file}") as bus:
        with pytest.warns(UserWarning, match="it is waited for"):
            bus.subscribe(table.source(), path_of, name="ocr")
        if away is None:
            table.run("ALTER TABLE kept RENAME TO documents")
        else:
            (tmp_path / "kept.db").rename(away)

        def back() -> bool:
            table.insert("a")
            return len(bus.events()) > 0

        wait_until(back)


def test_pause_holds_after_a_restart(file: Path, table: Table) -> None:
    with mt.connect(f"sqlite:///{file}") as bus:
        bus.subscribe(table.source(), path_of, name="ocr").pause()
    table.insert("a")
    with mt.connect(f"sqlite:///{file}") as bus:
        sub = bus.subscribe(table.source(), path_of, name="ocr")
        threading.Event().wait(0.5)
        assert not len(bus.events())
        sub.resume()
        wait_until(lambda: len(bus.events()) == 1)


def test_relay_that_dies_between_record_and_delete_repeats_nothing(
    bus: mt.EventBus, table: Table, monkeypatch: pytest.MonkeyPatch
) -> None:
    kind = SqliteTable if table.kind == "sqlite" else PostgresTable
    delete, failures = kind.delete, list[int]()

    def fails(self: Any, changes: Any) -> None:
        if len(failures) < 3:
            failures.append(len(changes))
            raise OSError("the connection was lost")
        delete(self, changes)

    monkeypatch.setattr(kind, "delete", fails)
    sub = bus.subscribe(table.source(), path_of, name="ocr")
    table.insert("a", "b")

    wait_until(lambda: len(failures) == 3 and len(sub.results()) == 2)
    wait_until(lambda: bus.topics()["behind"].fillna(-1).tolist() == [0])
    assert answers(bus, sub) == ["a", "b"]


def test_pause_stops_taking(bus: mt.EventBus, table: Table) -> None:
    sub = bus.subscribe(table.source(), path_of, name="ocr")
    table.insert("a")
    assert answers(bus, sub) == ["a"]
    sub.pause()
    wait_until(lambda: bus.topics()["state"].tolist() != ["connected"])
    table.insert("b")
    time.sleep(0.3)
    assert len(bus.events()) == 1

    sub.resume()

    wait_until(lambda: len(bus.events()) == 2)
    assert answers(bus, sub) == ["a", "b"]


def test_state_of_the_source_is_in_the_frame(bus: mt.EventBus, table: Table) -> None:
    bus.subscribe(table.source(), path_of, name="ocr")
    wait_until(lambda: bus.topics()["state"].tolist() == ["connected"])
    (row,) = bus.topics().to_dict("records")

    assert (row["topic"], row["watches"], row["behind"]) == ("documents", _shown(table), 0)
    assert row["since"] is not None


@only_sqlite
def test_file_that_goes_is_waited_for(bus: mt.EventBus, table: Table, tmp_path: Path) -> None:
    sub = bus.subscribe(table.source(), path_of, name="ocr")
    (tmp_path / "app.db").rename(tmp_path / "away.db")
    wait_until(lambda: sub.state.startswith("waiting for table app.db#documents"))
    assert "it waits since" in " ".join(sub.doctor()["finding"])
    (row,) = bus.topics().to_dict("records")
    assert row["state"] == "waiting"
    with pytest.warns(UserWarning, match="it is waited for"):
        assert bus.wait(60, progress=False)

    (tmp_path / "away.db").rename(tmp_path / "app.db")
    table.insert("a")

    wait_until(lambda: len(sub.results()) == 1)


def test_source_that_is_away_silences_no_other(
    bus: mt.EventBus, table: Table, tmp_path: Path
) -> None:
    other = Table(f"sqlite:///{tmp_path}/other.db")
    away = bus.subscribe(other.source(), path_of, name="away")
    here = bus.subscribe(table.source(), path_of, name="here")
    other.close()
    (tmp_path / "other.db").rename(tmp_path / "gone.db")
    wait_until(lambda: away.state.startswith("waiting"))
    table.insert("a", "b")

    wait_until(lambda: list(here.results()["output"]) == ["a", "b"])


@ON_A_SERVER
def test_server_that_restarts_is_waited_for(bus: mt.EventBus) -> None:
    server = Postgres("-c", "fsync=off")
    try:
        table = on_server(server)
        sub = bus.subscribe(table.source(), path_of, name="ocr")
        table.insert("a")
        assert answers(bus, sub) == ["a"]
        server.end()
        wait_until(lambda: sub.state.startswith("waiting for table"))
        assert "127.0.0.1" not in bus.topics().to_string()

        server.start()
        again = table.connection()
        table.of(again, "INSERT INTO documents (path) VALUES ('b')")
        again.close()

        wait_until(lambda: list(sub.results()["output"]) == ["a", "b"])
    finally:
        server.stop()


@only_postgresql
def test_doctor_counts_rows_that_fired_nothing(bus: mt.EventBus, table: Table) -> None:
    sub = bus.subscribe(table.source(), path_of, name="ocr")
    table.insert("a")
    assert answers(bus, sub) == ["a"]
    assert "error" not in set(sub.doctor()["severity"])
    table.run("SET session_replication_role = replica")
    table.insert("b", "c")
    table.run("SET session_replication_role = origin")

    (row,) = sub.doctor().query("check == 'table'").to_dict("records")

    assert row["severity"] == "error"
    assert "at least 2 rows" in row["finding"] and "session_replication_role" in row["finding"]


# -- made and removed ------------------------------------------------------------------------------


def test_plan_shows_the_sql_and_makes_nothing(bus: mt.EventBus, table: Table) -> None:
    plan = bus.plan(table.source(), on=["insert", "delete"])

    assert set(plan["action"]) == {"create"}
    assert sum("TRIGGER" in sql for sql in plan["wanted"]) == 2
    assert not table.made()
    assert not len(bus.topics())


def test_sql_that_the_owner_ran_is_enough(bus: mt.EventBus, table: Table) -> None:
    for sql in bus.plan(table.source())["wanted"]:
        table.run(sql)
    made = table.made()

    assert set(bus.plan(table.source())["action"]) == {"keep"}
    sub = bus.subscribe(table.source(), path_of, name="ocr")
    table.insert("a")

    assert answers(bus, sub) == ["a"]
    assert table.made() == made


@only_postgresql
def test_least_privileges_are_enough(bus: mt.EventBus, table: Table) -> None:
    reader = table.source().replace("//app@", "//reader@")
    table.run("DO $$ BEGIN CREATE ROLE reader LOGIN; EXCEPTION WHEN duplicate_object THEN END $$")
    table.run("GRANT SELECT ON documents TO reader")
    with pytest.raises(mt.StoreError, match="mltrigger table sql"):
        bus.subscribe(reader, path_of, name="ocr")
    command = [sys.executable, "-m", "mltrigger", "table", "sql", reader]
    printed = subprocess.run(
        [*command[:-1], reader.replace("reader@", "app@"), "--role", "reader"],
        check=True,
        capture_output=True,
        text=True,
    ).stdout
    table.run(printed)

    sub = bus.subscribe(reader, path_of, name="ocr", start="earliest")
    table.insert("a")

    assert answers(bus, sub) == ["a"]


def test_unsubscribe_with_delete_removes_exactly_what_was_made(
    bus: mt.EventBus, table: Table
) -> None:
    before = table.made()
    first = bus.subscribe(table.source(), path_of, name="ocr")
    second = bus.subscribe(table.source(), path_of, name="copy")
    other = bus.subscribe(table.source(), path_of, name="other", on="update")
    first.unsubscribe(delete=True)
    table.insert("a")
    assert answers(bus, second) == ["a"]

    second.unsubscribe(delete=True)
    assert table.made()
    other.unsubscribe(delete=True)

    assert table.made() == before
    table.insert("b")


def test_subscribed_again_after_everything_was_removed(bus: mt.EventBus, table: Table) -> None:
    for n in range(3):
        sub = bus.subscribe(table.source(), path_of, name="ocr")
        table.insert(str(n))
        assert bus.wait(60, progress=False)
        sub.unsubscribe(delete=True)

    assert len(bus.events()) == 3


def test_unsubscribe_without_delete_says_that_the_trigger_stays(
    bus: mt.EventBus, table: Table
) -> None:
    sub = bus.subscribe(table.source(), path_of, name="ocr")

    with pytest.warns(UserWarning, match=r"trigger of table .* stays.*delete=True"):
        sub.unsubscribe()

    table.insert("a")
    sub = bus.subscribe(table.source(), path_of, name="ocr")
    assert answers(bus, sub) == ["a"]


# -- wrong words -----------------------------------------------------------------------------------


def test_wrong_table_and_column_name_the_near_ones(bus: mt.EventBus, table: Table) -> None:
    with pytest.raises(
        mt.InvalidName, match=r"no table in .*'(public\.)?documets'; did you mean '"
    ):
        bus.subscribe(table.source("documets"), path_of, name="ocr")
    with pytest.raises(mt.InvalidName, match=r"no column of .*'paths'; did you mean 'path'"):
        bus.subscribe(table.source(), path_of, name="ocr", fields=["paths"])
    with pytest.raises(mt.InvalidName, match=r"no change in on= 'inserts'; did you mean 'insert'"):
        bus.subscribe(table.source(), path_of, name="ocr", on="inserts")
    table.run("CREATE VIEW seen AS SELECT * FROM documents")
    with pytest.raises(mt.InvalidName, match="is a view"):
        bus.subscribe(table.source("seen"), path_of, name="ocr")
    assert not len(bus.topics())


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("table+sqlite:///app.db", "names no table"),
        ("table+sqlite:///nothing.db#documents", "no file nothing.db"),
        ("table+sqlite://app.db#documents", "must be table.sqlite:///"),
        ("table+sqlite:///app.db?onn=insert#documents", "did you mean 'on'"),
        ("table+postgresql://app:secret@host/app#documents", r"has a password.*env:NAME.*pgpass"),
        ("table+postgresql://host/app?password=secret#documents", "nothing secret is kept"),
        ("table+postgresql://host:port/app#documents", "port that is no number"),
        ("table+postgresql://app:hunt/secret@host/app#t", "nothing secret is kept"),
        ("table+postgresql://app:hunt#secret@host/app#t", "nothing secret is kept"),
        ("table+postgresql://app:hunt?secret@host/app#t", "nothing secret is kept"),
        ("table+postgresql://app:1/secret@127.0.0.1/app#t", "nothing secret is kept"),
        ("table+postgresql://app:env:A/secret@host/app#t", "nothing secret is kept"),
        ("table+sqlite:///app.db?feed=A%20b#documents", "lower-case"),
    ],
)
def test_wrong_url_says_how_it_is_written(bus: mt.EventBus, url: str, message: str) -> None:
    with pytest.raises(mt.InvalidName, match=message) as caught:
        bus.subscribe(url, path_of, name="ocr")

    assert "secret@" not in str(caught.value) and "=secret" not in str(caught.value)
    assert "hunt" not in str(caught.value)


def test_options_of_tables_are_refused_elsewhere(bus: mt.EventBus, tmp_path: Path) -> None:
    for source in ("documents", tmp_path):
        with pytest.raises(mt.InvalidName, match="fields= is for a table"):
            bus.subscribe(source, path_of, name="ocr", fields=["path"])


@ON_A_SERVER
def test_password_of_a_variable_is_never_kept(
    bus: mt.EventBus, server: Postgres, file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    table = on_server(server)
    monkeypatch.setenv("APP_PASSWORD", "s3cr3t-value")
    source = table.source().replace("app@", "app:env:APP_PASSWORD@")
    sub = bus.subscribe(source, path_of, name="ocr")
    table.insert("a")

    assert answers(bus, sub) == ["a"]
    for path in file.parent.glob("bus.db*"):
        assert b"s3cr3t-value" not in path.read_bytes()
    monkeypatch.delenv("APP_PASSWORD")
    with pytest.raises(mt.StoreError, match="'APP_PASSWORD' with the password is not set"):
        bus.subscribe(source, path_of, name="again", on="update")
    table.close()


# -- storms ----------------------------------------------------------------------------------------

RELAY = """
import sys
import mltrigger as mt
bus = mt.connect(sys.argv[1])
bus.listen(bus.spec("ocr"))
print("ready", flush=True)
sys.stdin.read()
"""


@pytest.mark.slow(every=2)
@pytest.mark.parametrize("kills", [4, 20])
def test_killed_relays_and_concurrent_transactions_lose_and_repeat_nothing(
    file: Path, table: Table, kills: int
) -> None:
    url, writers, rows = f"sqlite:///{file}", 50 if table.kind == "postgresql" else 8, 10 * kills
    with mt.connect(url) as bus:
        bus.subscribe(table.source(), path_of, name="ocr", listen=False)
    committed: list[str] = []

    def write(writer: int) -> None:
        connection = table.connection()
        for n in range(rows):
            path = f"{writer}-{n}"
            table.of(connection, "BEGIN IMMEDIATE" if table.kind == "sqlite" else "BEGIN")
            table.of(connection, "INSERT INTO documents (path) VALUES (?)", path)
            if n % 3:
                table.of(connection, "COMMIT")
                committed.append(path)
            else:
                table.of(connection, "ROLLBACK")
        connection.close()

    threads = [threading.Thread(target=write, args=(n,)) for n in range(writers)]
    for thread in threads:
        thread.start()
    for n in range(kills):
        with subprocess.Popen(
            [sys.executable, "-c", RELAY, url], stdin=subprocess.PIPE, stdout=subprocess.PIPE
        ) as relay:
            assert relay.stdout is not None and relay.stdout.readline() == b"ready\n"
            time.sleep(0.05 * (n % 5))
            relay.kill()
    for thread in threads:
        thread.join()
    with mt.connect(url) as bus:
        sub = bus.subscribe(table.source(), path_of, name="ocr")
        assert sorted(answers(bus, sub)) == sorted(committed)
        assert len(bus.events()) == len(committed)
        assert bus.audit()["balanced"].all()


@pytest.mark.parametrize("table", ["sqlite"], indirect=True)
def test_table_feeds_a_bus_on_aws(table: Table, aws: Account, tmp_path: Path) -> None:
    with aws.bus(f"sqlite:///{tmp_path}/log.db") as bus:
        sub = bus.subscribe(table.source(), path_of, name="ocr")
        table.insert("a", "b")
        wait_until(lambda: len(sub.results()) == 2)

        assert sorted(sub.results()["output"]) == ["a", "b"]
        bus.unsubscribe("ocr", delete=True)
        assert not table.made()
