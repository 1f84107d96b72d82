"""Fixtures of all tests: simulated time, buses that close themselves, an emulator of AWS."""

from __future__ import annotations

import gc
import shutil
import sys
import uuid
from collections.abc import Iterator
from pathlib import Path

import boto3
import pytest
from databases import Postgres
from emulators import Account, Emulator, Faults, aws_emulator
from shared import Gate
from stores import SQL, url_of

import mltrigger as mt
from mltrigger.store.sqlite.store import SqliteStore
from mltrigger.testing import SimulatedClock

pytest_plugins = ["light", "needs", "slow"]


@pytest.fixture
def gate() -> Iterator[Gate]:
    gate = Gate()
    yield gate
    gate.open()


@pytest.fixture
def clock() -> SimulatedClock:
    return SimulatedClock()


@pytest.fixture(scope="session")
def aws_server() -> Iterator[Emulator]:
    """An emulator of AWS, started when the first test needs it."""
    with aws_emulator() as emulator:
        yield emulator


@pytest.fixture
def emulator(aws_server: Emulator) -> Iterator[Emulator]:
    """The emulator, its time set right again after the test."""
    yield aws_server
    aws_server.ahead_s = lambda: 0.0


@pytest.fixture(scope="session")
def aws_sessions(aws_server: Emulator) -> tuple[boto3.Session, boto3.Session, Faults]:
    """Sessions for all tests of the bus, one as it is and one whose answers can be spoilt.

    To read the descriptions of the services takes longer than most of these tests.
    """
    faults, hooked = Faults(), aws_server.session()
    hooked.events.register("before-send", faults)
    return aws_server.session(), hooked, faults


@pytest.fixture
def aws(
    emulator: Emulator, aws_sessions: tuple[boto3.Session, boto3.Session, Faults]
) -> Iterator[Account]:
    """What the test has of AWS."""
    aws_sessions[2].clear()
    account = Account(emulator, *aws_sessions)
    yield account
    account.close()


@pytest.fixture
def aws_clock(emulator: Emulator, clock: SimulatedClock) -> SimulatedClock:
    """A clock that the emulator follows."""
    if not emulator.movable:
        pytest.skip("the time of this emulator cannot be moved")
    start_us = clock.now_us()
    emulator.ahead_s = lambda: (clock.now_us() - start_us) / 1e6
    return clock


@pytest.fixture(autouse=True)
def _forget_modules(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Forget the modules that a test wrote and imported: the next one may write others of these
    names.
    """
    before = set(sys.modules)
    yield
    folder = str(tmp_path_factory.getbasetemp())
    for name in sys.modules.keys() - before:
        if str(vars(sys.modules[name]).get("__file__") or "").startswith(folder):
            del sys.modules[name]


@pytest.fixture(scope="session")
def blank(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store without content; a copy of it is ready in an eighth of the time that a new one takes."""
    path = tmp_path_factory.mktemp("blank") / "blank.db"
    SqliteStore(path).close()
    return path


@pytest.fixture
def file(blank: Path, tmp_path: Path) -> Path:
    """The file of a store of its own for one test."""
    return Path(shutil.copy(blank, tmp_path / "bus.db"))


@pytest.fixture(scope="session")
def postgres() -> Iterator[Postgres]:
    """A server of PostgreSQL for all tests of this process."""
    server = Postgres(*("-c", "fsync=off", "-c", "full_page_writes=off", "-c", "autovacuum=off"))
    yield server
    server.stop()


SCHEMA = "test_schema"


@pytest.fixture(scope="session")
def blank_database(postgres: Postgres) -> str:
    """A database with a schema without content. A copy is made in a third of its time."""
    with postgres.session() as session:
        session.execute("CREATE DATABASE blank")
    mt.connect(f"{postgres.dsn('blank')}?schema={SCHEMA}").close()
    return "blank"


@pytest.fixture
def team(postgres: Postgres, blank_database: str) -> Iterator[str]:
    """The URL of a schema of its own for one test, in PostgreSQL."""
    name = f"test_{uuid.uuid4().hex}"
    with postgres.session() as session:
        session.execute(f"CREATE DATABASE {name} TEMPLATE {blank_database} STRATEGY file_copy")
    yield f"{postgres.dsn(name)}?schema={SCHEMA}"
    with postgres.session() as session:
        session.execute(f"DROP DATABASE {name} WITH (FORCE)")


READERS = ("delivery", "reports", "rollout", "telemetry", "sources", "notebook", "test_matching.py")
"""Tests whose statements are shared. All of their cases run on a file of SQLite, some on others."""
SHARES = {"memory": 2, "postgresql": 5, "aws": 3}
"""Of how many cases of a file of readers one runs on that broker."""


@pytest.fixture
def unmade(postgres: Postgres) -> Iterator[str]:
    """The URL of a schema that is not there yet."""
    schema = f"test_{uuid.uuid4().hex}"
    yield f"{postgres.dsn('postgres')}?schema={schema}"
    postgres.forget(schema)


@pytest.fixture(params=SQL)
def url(request: pytest.FixtureRequest) -> str:
    """The URL of each SQL broker in turn."""
    return url_of(request)


@pytest.fixture
def bus(url: str, clock: SimulatedClock, gate: Gate) -> Iterator[mt.EventBus]:
    """A bus on which time stands still until the test advances *clock*."""
    with mt.connect(url, clock=clock) as bus:
        yield bus
        gate.open()


@pytest.hookimpl(wrapper=True)
def pytest_collection() -> Iterator[None]:
    """Keep the garbage collector from all that lasts to the end: modules, and thousands of tests.

    To look through them takes a third of a second, each time.
    """
    gc.disable()
    result = yield
    gc.freeze()
    gc.enable()
    return result


@pytest.hookimpl(wrapper=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> Iterator[None]:
    """Keep tests together that share a service, so that parallel runs start it only once. So are
    the cells of a notebook.
    """
    for item in items:
        if not isinstance(item, pytest.Function):  # a cell of a notebook
            item.add_marker(pytest.mark.xdist_group(item.path.name))
            continue
        if {item.path.parent.name, item.path.name} & set(READERS) and hasattr(item, "callspec"):
            broker = next(filter(SHARES.get, item.callspec.id.split("-")), None)
            if broker is not None:
                item.add_marker(pytest.mark.slow(every=SHARES[broker], of="file"))
        if "aws_server" in item.fixturenames:
            item.add_marker(pytest.mark.xdist_group("aws"))
        elif any(
            found[-1].scope == "module" for found in item._fixtureinfo.name2fixturedefs.values()
        ):
            item.add_marker(pytest.mark.xdist_group(item.path.name))
    yield
