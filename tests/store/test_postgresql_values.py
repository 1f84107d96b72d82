"""Texts of any kind in a bus on PostgreSQL, and databases of other encodings and orders."""

from __future__ import annotations

import contextlib
import json
import re
import subprocess
import traceback
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest
from databases import Postgres
from faults_of_postgres import asked
from shared import is_settled, wait_until

import mltrigger as mt

NUL = "\u2400"
"""What stands for the character NUL, which no text of PostgreSQL can hold."""
HOSTILE = [
    "'",
    '"',
    "\\",
    "\\'",
    "'; DROP TABLE event; --",
    "$1",
    "$$",
    "%",
    "%s",
    "%(subject)s",
    ":seq",
    "::text",
    "x:name y",
    "{0}",
    "E'\\n'",
    "a\nb\tc",
    "\u2028",
    "\ufeff",
    "\u00e9\U0001d4b3",
    "\x01\x7f",
    "group_concat(",
    "json_each(:x)",
    "CROSS JOIN",
    "x" * 14,
    "x" * 15,
    "x" * 16,
    "0123456789abcdef",
    "01A22BE9-1DD0-76F8-878E-4562928875B2",
    "01a22be9-1dd0-76f8-878e-4562928875b3",
    "01a22be91dd076f8878e4562928875b4",
    "{01a22be9-1dd0-76f8-878e-4562928875b5}",
]
CASES = json.loads((Path(__file__).parents[1] / "data" / "bad_inputs.json").read_text("utf-8"))[
    "cases"
]


def lived(url: str) -> list[tuple[Any, ...]]:
    """Publish events with hostile texts everywhere, and return all that is told about them."""

    def answer(event: mt.Event) -> Any:
        print(event.subject, "out\0put")
        if event.data["n"] % 3 == 0:
            raise mt.Reject(str(event.data["text"]))
        return {event.subject: event.data["text"]}

    with mt.connect(url) as bus:
        model = mt.model(answer, name="echo", version="1.0.0")
        sub = bus.subscribe("texts", model)
        events = [
            mt.Event({"n": n, "text": text}, id=text, subject=text, source=f"/{n}", type=f"t.{n}")
            for n, text in enumerate(HOSTILE)
            if n not in without
        ]
        receipts = bus.publish_batch("texts", events)
        again = bus.publish_batch("texts", events)
        assert [r.duplicate for r in receipts] == [False] * len(events)
        assert [r.duplicate for r in again] == [True] * len(events)
        wait_until(lambda: is_settled(sub))
        kept = bus.events("texts")[["event_id", "subject", "source", "type", "data"]]
        told = sub.invocations()[["event_id", "outcome", "reason", "output", "error", "stdout"]]
        dead = sub.dead_letters()[["event_id", "reason", "error"]]
        assert bus.audit()["balanced"].all()
        found = [
            tuple(str(value) for value in row)
            for frame in (kept, told.sort_values("event_id"), dead.sort_values("event_id"))
            for row in frame.itertuples(index=False)
        ]
        explained = [len(bus.explain(event.id, sub)) for event in events]
        return [*found, tuple(explained)]


without: set[int] = set()


def test_hostile_texts_come_back_as_from_sqlite(team: str, tmp_path: Path) -> None:
    for n, text in enumerate(HOSTILE):
        try:
            mt.Event(1, id=text, subject=text)
        except (ValueError, TypeError):
            without.add(n)
    expected = lived(f"sqlite:///{tmp_path}/bus.db")

    found = lived(team)

    assert len(HOSTILE) - len(without) > 25
    assert [tuple(_without_nul(value) for value in row) for row in expected] == found


def _without_nul(value: Any) -> Any:
    return value.replace("\\u0000", NUL) if isinstance(value, str) else value


def test_text_that_no_database_can_hold_is_told_in_another_form(team: str) -> None:
    def broken(_: Any) -> None:
        print("out\0put \ud800")
        raise ValueError("nul \0 and half a pair \udfff")

    with mt.connect(team) as bus:
        model = mt.model(broken, name="broken", version="1.0.0")
        sub = bus.subscribe("texts", model, max_attempts=1)
        bus.publish("texts", {"nul": "\0", "half": "x"})
        wait_until(lambda: is_settled(sub))

        ((told, said, outcome),) = sub.invocations()[["error", "stdout", "outcome"]].to_numpy()
        assert outcome == "dead"
        assert told.startswith(f"nul {NUL} and half a pair ")
        assert said.startswith(f"out{NUL}put ")
        assert json.loads(bus.events("texts")["data"][0]) == {"nul": "\0", "half": "x"}


def test_names_of_the_catalogue_of_bad_inputs_are_refused_or_kept_and_never_run(
    team: str,
) -> None:
    texts = [case["input"] for case in CASES if isinstance(case.get("input"), str)]
    kept = []
    with mt.connect(team) as bus:
        bus.topic("texts")
        for text in [*texts, *HOSTILE]:
            for name in (text, text[:60]):
                with contextlib.suppress(mt.MltriggerError, ValueError, TypeError):
                    bus.topic(name)
                    kept.append(name)
                with contextlib.suppress(mt.MltriggerError, ValueError, TypeError):
                    bus.publish("texts", mt.Event({"x": text}, id=name, subject=name))
                with contextlib.suppress(mt.MltriggerError, ValueError, TypeError):
                    bus.publish(name, 1)

        assert set(kept) <= set(bus.topics()["topic"])
        assert len(bus.events("texts")) > 30
        assert bus.audit()["balanced"].all()


@pytest.mark.parametrize("schema", ['x"; DROP SCHEMA public; --', "X", "a b", "", "pg_x'", "é"])
def test_name_of_a_schema_is_never_sql(postgres: Postgres, schema: str) -> None:
    import urllib.parse

    query = urllib.parse.urlencode({"schema": schema})

    with pytest.raises(mt.StoreError, match="is no name of a schema"):
        mt.connect(f"{postgres.dsn('postgres')}?{query}")


@pytest.mark.parametrize(
    "url",
    [
        "postgresql://team:se/cret@127.0.0.1:1/ml",
        "postgresql://team:se?cret@127.0.0.1:1/ml",
        "postgresql://team:se@cret@127.0.0.1:1/ml",
        "postgresql://team:se cret@127.0.0.1:1/ml",
        "postgresql://team:se%cret@127.0.0.1:1/ml",
        "postgresql://127.0.0.1:1/ml?password=se%cret",
        "postgresql://127.0.0.1:1/ml?password=x=secret",
    ],
)
def test_no_part_of_a_password_is_shown_that_needs_percent_signs(url: str) -> None:
    with pytest.raises(mt.StoreError) as caught:
        mt.connect(url)

    shown = "".join(traceback.format_exception(caught.value))
    assert "cret" not in re.sub(r"mt\.connect\(.*|url = .*", "", shown)
    assert ".pgpass" in str(caught.value)


def test_word_of_a_url_that_libpq_does_not_know_is_named() -> None:
    with pytest.raises(mt.StoreError, match='"sslmod"'):
        mt.connect("postgresql://team:secret@127.0.0.1:1/ml?sslmod=require")


# -- databases -----------------------------------------------------------------------------------


@contextlib.contextmanager
def database(server: Postgres, options: str) -> Iterator[str]:
    name = f"d{uuid.uuid4().hex[:12]}"
    with psycopg.connect(server.dsn("postgres"), autocommit=True) as session:
        session.execute(f"CREATE DATABASE {name} TEMPLATE template0 {options}")
        yield server.dsn(name)
        session.execute(f"DROP DATABASE {name} WITH (FORCE)")


@pytest.mark.parametrize("encoding", ["LATIN1", "SQL_ASCII"])
def test_database_of_another_encoding_is_refused_with_advice(
    postgres: Postgres, encoding: str
) -> None:
    options = f"ENCODING '{encoding}' LC_COLLATE 'C' LC_CTYPE 'C'"
    with database(postgres, options) as url:
        with pytest.raises(mt.StoreError, match=rf"{encoding}.*CREATE DATABASE .* 'UTF8'"):
            mt.connect(url)

        with psycopg.connect(url) as session:
            assert session.execute(
                "SELECT count(*) FROM pg_namespace WHERE nspname = 'mltrigger_bus'"
            ).fetchone() == (0,)


def test_texts_of_all_tables_have_the_order_of_their_bytes(team: str) -> None:
    mt.connect(team).close()

    assert (
        asked(
            team,
            "SELECT c.relname, a.attname FROM pg_attribute a JOIN pg_class c ON c.oid = a.attrelid"
            " JOIN pg_collation o ON o.oid = a.attcollation"
            " WHERE c.relnamespace = current_schema()::regnamespace AND c.relkind IN ('r', 'p')"
            " AND o.collname <> 'C'",
        )
        == []
    )


@pytest.mark.slow
@pytest.mark.needs("localedef")
def test_names_have_the_same_order_whatever_the_order_of_the_database_is(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    names = ["b", "B", "a-b", "ab", "a_b", "A", "z1", "Z"]

    def listed(url: str) -> list[list[str]]:
        with mt.connect(url) as bus:
            for name in names:
                model = mt.model(lambda n: n, name=f"m-{name}", version="1.0.0")
                bus.subscribe(name, model, listen=False)
                bus.publish(name, 1)
            return [
                bus.topics()["topic"].tolist(),
                bus.subscriptions()["subscription"].tolist(),
                bus.models()["model"].tolist(),
                bus.audit()["subscription"].tolist(),
            ]

    server = Postgres("-c", "fsync=off")
    try:
        server.end()
        locales = server.home / "locales"
        locales.mkdir()
        made = ["localedef", "-i", "en_US", "-f", "UTF-8", str(locales / "en_US.UTF-8")]
        subprocess.run(made, check=True)
        monkeypatch.setenv("LOCPATH", str(locales))
        server.start()
        options = "ENCODING 'UTF8' LC_COLLATE 'en_US.UTF-8' LC_CTYPE 'en_US.UTF-8'"
        with database(server, options) as url:
            with psycopg.connect(url) as session:
                assert session.execute("SELECT 'a' < 'B'").fetchone() == (True,)
            assert listed(url) == listed("memory://")
    finally:
        server.stop()
