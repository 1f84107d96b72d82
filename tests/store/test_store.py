"""SQLite as a store: safe files, one schema, group commit, and errors that say what to do."""

from __future__ import annotations

import contextlib
import os
import sqlite3
import stat
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from pandas.testing import assert_frame_equal
from shared import commit, in_threads, wait_until

import mltrigger as mt
from mltrigger.store import schema
from mltrigger.store.sqlite.disk import SqliteDisk
from mltrigger.store.sqlite.store import SqliteStore
from mltrigger.store.transaction import Transaction

MANY = 20_000
MANY_TOPICS = """
INSERT INTO topic (name, created_us)
WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < :n) SELECT :prefix || i, 0 FROM n
"""


def add_topic(transaction: Transaction, name: str) -> None:
    transaction.execute("INSERT INTO topic (name, created_us) VALUES (:name, 0)", {"name": name})


def topics(store: SqliteStore) -> list[str]:
    return [name for (name,) in store.read("SELECT name FROM topic ORDER BY id")]


def topics_seen_from_outside(file: Path) -> set[str]:
    """Read with a connection of our own: what is there is committed."""
    with sqlite3.connect(file) as connection:
        names = {name for (name,) in connection.execute("SELECT name FROM topic")}
    connection.close()
    return names


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


# -- files -----------------------------------------------------------------------------------------


def test_new_store_and_everything_beside_it_is_private_whatever_the_umask(tmp_path: Path) -> None:
    before = os.umask(0)
    try:
        store = SqliteStore(tmp_path / "bus.db")
        with store.transaction() as transaction:
            transaction.execute(MANY_TOPICS, {"n": MANY, "prefix": "t"})
        wait_until((tmp_path / "bus.db-checkpoint").exists)
        modes = {path.name: mode(path) for path in tmp_path.iterdir()}
        store.close()
    finally:
        os.umask(before)

    assert set(modes) >= {"bus.db", "bus.db-wal", "bus.db-shm", "bus.db-checkpoint"}
    assert set(modes.values()) == {0o600}


def test_symbolic_link_is_refused_and_its_target_untouched(tmp_path: Path) -> None:
    target = tmp_path / "elsewhere.db"
    target.write_bytes(b"")
    (tmp_path / "bus.db").symlink_to(target)

    with pytest.raises(mt.StoreError, match="symbolic link is refused"):
        SqliteStore(tmp_path / "bus.db")

    assert target.read_bytes() == b""


def test_link_to_nowhere_creates_nothing(tmp_path: Path) -> None:
    (tmp_path / "bus.db").symlink_to(tmp_path / "created.db")

    with pytest.raises(mt.StoreError):
        SqliteStore(tmp_path / "bus.db")

    assert not (tmp_path / "created.db").exists()


def test_folder_that_does_not_exist_is_said_without_an_absolute_path(tmp_path: Path) -> None:
    with pytest.raises(mt.StoreError, match=r"'bus\.db' does not exist: create it") as refused:
        SqliteStore(tmp_path / "missing" / "bus.db")

    assert str(tmp_path) not in str(refused.value)


def test_folder_in_place_of_a_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "bus.db").mkdir()

    with pytest.raises(mt.StoreError, match=r"bus\.db"):
        SqliteStore(tmp_path / "bus.db")


def text_file(path: Path) -> None:
    path.write_text("id,label\n1,invoice\n" * 100)


def short_text_file(path: Path) -> None:
    path.write_text("no")


def truncated_in_the_header(path: Path) -> None:
    SqliteStore(path).close()
    path.write_bytes(path.read_bytes()[:50])


def truncated_in_a_page(path: Path) -> None:
    SqliteStore(path).close()
    path.write_bytes(path.read_bytes()[:6000])


def truncated_between_pages(path: Path) -> None:
    SqliteStore(path).close()
    path.write_bytes(path.read_bytes()[: 3 * 4096])


def garbled(path: Path) -> None:
    SqliteStore(path).close()
    raw = path.read_bytes()
    path.write_bytes(raw[:16] + b"\xff" * (len(raw) - 16))


def other_tables(path: Path) -> None:
    with sqlite3.connect(path) as connection:
        connection.execute("CREATE TABLE customer (name TEXT)")
    connection.close()


def newer_schema(path: Path) -> None:
    SqliteStore(path).close()
    with sqlite3.connect(path) as connection:
        connection.execute("UPDATE schema_version SET version = 99")
    connection.close()


@pytest.mark.parametrize(
    "made_by",
    [
        text_file,
        short_text_file,
        truncated_in_the_header,
        truncated_in_a_page,
        truncated_between_pages,
        garbled,
        other_tables,
        newer_schema,
    ],
)
def test_file_that_is_no_store_is_refused_by_name_and_not_changed(
    tmp_path: Path, made_by: Callable[[Path], None]
) -> None:
    file = tmp_path / "mine.db"
    made_by(file)
    before = file.read_bytes()

    with pytest.raises(mt.StoreError) as refused:
        mt.connect(f"sqlite:///{file}")

    assert file.read_bytes() == before
    assert str(tmp_path) not in str(refused.value)


def test_schema_of_a_newer_release_asks_for_an_upgrade(tmp_path: Path) -> None:
    newer_schema(tmp_path / "bus.db")

    with pytest.raises(mt.StoreError, match=r"schema version 99.*upgrade mltrigger"):
        SqliteStore(tmp_path / "bus.db")


@pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="asks Linux")
def test_refused_file_is_released(tmp_path: Path) -> None:
    newer_schema(tmp_path / "bus.db")

    for _ in range(3):
        with pytest.raises(mt.StoreError):
            SqliteStore(tmp_path / "bus.db")

    assert not [path for path in open_files() if path.is_relative_to(tmp_path)]


def open_files() -> list[Path]:
    """Return the files that this process holds open, as Linux tells it."""
    found = []
    for entry in Path("/proc/self/fd").iterdir():
        with contextlib.suppress(OSError):  # the listing itself is gone again
            found.append(entry.readlink())
    return found


def test_empty_file_becomes_a_store(tmp_path: Path) -> None:
    (tmp_path / "bus.db").touch()

    store = SqliteStore(tmp_path / "bus.db")

    assert topics(store) == []
    store.close()


# -- the schema ------------------------------------------------------------------------------------


@pytest.mark.parametrize("version", [1, 3, schema.OLDEST - 1])
def test_store_of_an_earlier_version_is_refused_with_what_to_do_and_not_changed(
    version: int, file: Path
) -> None:
    SqliteStore(file).close()
    with sqlite3.connect(file) as connection:
        connection.execute("UPDATE schema_version SET version = ?", (version,))
    connection.close()
    before = file.read_bytes()

    with pytest.raises(
        mt.StoreError,
        match=rf"'bus\.db': the store has schema version {version}, this release reads versions"
        rf" {schema.OLDEST} to {schema.VERSION}: a build .* name a new file here; nothing was changed",
    ):
        mt.connect(f"sqlite:///{file}")

    assert file.read_bytes() == before


def test_opening_a_store_again_leaves_its_schema_and_version(file: Path) -> None:
    made = "SELECT name, sql FROM sqlite_master ORDER BY name"
    for _ in range(2):
        store = SqliteStore(file)
        found = store.read(made)
        assert store.read("SELECT version FROM schema_version") == [(schema.VERSION,)]
        store.close()

    again = SqliteStore(file)
    assert again.read(made) == found
    assert again.read("PRAGMA foreign_key_check") == []
    again.close()


def test_store_that_cannot_be_made_whole_is_not_made(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "new.db"
    with monkeypatch.context() as patch:
        patch.setattr(schema, "CREATE", schema.CREATE + ";\n\nCREATE TABLE half (")
        with pytest.raises(mt.StoreError):
            SqliteStore(file)

    with contextlib.closing(sqlite3.connect(file)) as connection:
        assert connection.execute("SELECT name FROM sqlite_master").fetchall() == []
    store = SqliteStore(file)
    assert topics(store) == []
    store.close()


# -- transactions ----------------------------------------------------------------------------------


@pytest.fixture
def store(file: Path) -> Iterator[SqliteStore]:
    store = SqliteStore(file)
    yield store
    store.close()


def test_transaction_is_there_for_others_when_its_block_ends(
    store: SqliteStore, file: Path
) -> None:
    with store.transaction() as transaction:
        add_topic(transaction, "a")
        assert topics_seen_from_outside(file) == set()

    assert topics_seen_from_outside(file) == {"a"}


def test_transaction_that_raises_leaves_nothing(store: SqliteStore, file: Path) -> None:
    with pytest.raises(ZeroDivisionError), store.transaction() as transaction:
        add_topic(transaction, "a")
        raise ZeroDivisionError

    assert topics_seen_from_outside(file) == set()
    with store.transaction() as transaction:
        add_topic(transaction, "b")
    assert topics_seen_from_outside(file) == {"b"}


def test_statement_that_fails_is_a_store_error_and_undoes_its_transaction(
    store: SqliteStore,
) -> None:
    with (
        pytest.raises(mt.StoreError, match=r"store bus\.db: UNIQUE"),
        store.transaction() as transaction,
    ):
        add_topic(transaction, "a")
        add_topic(transaction, "a")

    assert topics(store) == []


def test_reader_does_not_wait_for_a_writer(store: SqliteStore) -> None:
    with store.transaction() as transaction:
        add_topic(transaction, "a")

        assert topics(store) == []


def test_each_of_many_concurrent_transactions_is_committed_when_its_block_ends(
    store: SqliteStore, file: Path
) -> None:
    start, missing = threading.Barrier(8), []

    def write(writer: int) -> None:
        start.wait()
        for i in range(12):
            with store.transaction(durable=i % 3 > 0) as transaction:
                add_topic(transaction, f"{writer}-{i}")
            if f"{writer}-{i}" not in topics_seen_from_outside(file):
                missing.append(f"{writer}-{i}")

    in_threads(write, 8)

    assert missing == []
    assert topics_seen_from_outside(file) == {f"{w}-{i}" for w in range(8) for i in range(12)}


def test_transaction_that_raises_among_concurrent_ones_is_undone_alone(
    store: SqliteStore, file: Path
) -> None:
    start, raised = threading.Barrier(8), []

    def write(writer: int) -> None:
        start.wait()
        for i in range(25):
            try:
                with store.transaction() as transaction:
                    add_topic(transaction, f"{writer}-{i}")
                    if (writer + i) % 3 == 0:
                        raise ZeroDivisionError
            except ZeroDivisionError:
                raised.append(f"{writer}-{i}")

    in_threads(write, 8)

    everything = {f"{w}-{i}" for w in range(8) for i in range(25)}
    assert len(raised) == len(set(raised)) > 60
    assert topics_seen_from_outside(file) == everything - set(raised)


def test_what_follows_a_commit_happens_after_it_in_every_concurrent_transaction(
    store: SqliteStore, file: Path
) -> None:
    start, early = threading.Barrier(6), []

    def write(writer: int) -> None:
        start.wait()
        for i in range(15):
            name = f"{writer}-{i}"
            with store.transaction() as transaction:
                add_topic(transaction, name)
                transaction.after_commit(
                    lambda name=name: (
                        None if name in topics_seen_from_outside(file) else early.append(name)
                    )
                )

    in_threads(write, 6)

    assert early == []


@pytest.mark.parametrize("in_memory", [False, True])
def test_version_differs_after_each_commit_and_only_then(file: Path, in_memory: bool) -> None:
    store = SqliteStore(None if in_memory else file)
    seen = [store.version(), store.version()]
    assert seen[0] == seen[1]

    for name in ("a", "b"):
        with store.transaction() as transaction:
            add_topic(transaction, name)
        seen.append(store.version())
    with contextlib.suppress(KeyError), store.transaction() as transaction:
        raise KeyError

    assert len(set(map(str, seen))) == 3
    assert store.version() == seen[-1]
    store.close()


def test_version_differs_after_a_commit_of_another_store_and_after_a_fork(
    store: SqliteStore, file: Path
) -> None:
    before, other = store.version(), SqliteStore(file)
    with other.transaction() as transaction:
        add_topic(transaction, "elsewhere")
    after = store.version()

    if (child := os.fork()) == 0:
        os._exit(0)
    os.waitpid(child, 0)
    with other.transaction() as transaction:
        add_topic(transaction, "again")

    assert len({str(seen) for seen in (before, after, store.version())}) == 3
    other.close()


def test_writers_of_two_stores_on_one_file_take_turns(store: SqliteStore, file: Path) -> None:
    other = SqliteStore(file)

    def write(writer: int) -> None:
        for i in range(40):
            with (store, other)[writer % 2].transaction() as transaction:
                add_topic(transaction, f"{writer}-{i}")

    in_threads(write, 4)
    other.close()

    assert len(topics(store)) == 160


def test_writer_waits_for_the_lock_of_another_process(store: SqliteStore, file: Path) -> None:
    stranger = sqlite3.connect(file, isolation_level=None, check_same_thread=False)
    stranger.execute("BEGIN IMMEDIATE")
    written = threading.Event()

    def write() -> None:
        with store.transaction() as transaction:
            add_topic(transaction, "a")
        written.set()

    threading.Thread(target=write, daemon=True).start()
    assert not written.wait(0.05)
    stranger.execute("COMMIT")
    stranger.close()

    assert wait_until(written.is_set)


# -- closed and forked -----------------------------------------------------------------------------


def test_closed_store_says_so(store: SqliteStore) -> None:
    store.close()
    store.close()

    with pytest.raises(mt.Closed, match=r"closed: mt\.connect"):
        store.read("SELECT 1")
    with pytest.raises(mt.Closed), store.transaction():
        pass


def test_closed_bus_says_so_in_every_word(file: Path) -> None:
    bus = mt.connect(f"sqlite:///{file}")
    bus.topic("documents")
    bus.close()
    bus.close()

    assert repr(bus) == "EventBus('bus.db', closed)"
    for call in (
        lambda: bus.publish("documents", 1),
        lambda: bus.fire("documents", 1),
        lambda: bus.subscribe("documents", str),
        lambda: bus.invocations(),
        lambda: bus.topics(),
        lambda: bus.models(),
        lambda: bus.subscriptions(),
        lambda: bus.events(),
        lambda: bus.topic("pages"),
        lambda: bus.latency(),
    ):
        with pytest.raises(mt.Closed):
            call()


def in_a_forked_child(action: Callable[[], object]) -> str:
    """Return the repr of what *action* returned or raised in a child of this process."""
    read, write = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            text = repr(action())
        except BaseException as error:
            text = f"{type(error).__name__}: {error}"
        os.write(write, text.encode())
        os._exit(0)
    os.close(write)
    with os.fdopen(read) as pipe:
        said = pipe.read()
    os.waitpid(child, 0)
    return said


def test_forked_child_is_told_to_connect_itself(file: Path) -> None:
    with mt.connect(f"sqlite:///{file}") as bus:
        bus.topic("documents")

        for call in (
            lambda: bus.publish("documents", 1),
            lambda: bus.registry.topics(),
            lambda: bus.topic("pages"),
        ):
            assert in_a_forked_child(call).startswith(
                "StoreError: this bus was opened before a fork"
            )

        bus.publish("documents", 1)
        assert len(bus.events()) == 1


def test_forked_child_that_closes_the_bus_as_it_ends_leaves_the_parents_alone(file: Path) -> None:
    with mt.connect(f"sqlite:///{file}") as bus:
        bus.subscribe("documents", mt.model(str.upper, name="shout"))
        bus.fire("documents", "a", progress=False)

        assert in_a_forked_child(bus.close) == "None"

        assert list(bus.fire("documents", "b", progress=False).results()["output"]) == ["B"]
        assert list(bus.subscriptions()["listeners"]) == [1]


def test_forked_child_can_open_the_file_itself(file: Path) -> None:
    with mt.connect(f"sqlite:///{file}") as bus:
        bus.topic("documents")

        def publish() -> int:
            with mt.connect(f"sqlite:///{file}") as own:
                return own.publish("documents", 1).seq

        assert in_a_forked_child(publish) == "1"
        assert len(bus.events()) == 1


# -- durability ------------------------------------------------------------------------------------


class CountingDisk(SqliteDisk):
    """The real disk. Counts the syncs, and may be slow or fail in one."""

    def __init__(self) -> None:
        self.syncs: list[int] = []
        self.before: Callable[[], object] = lambda: None

    def sync(self, log: int) -> None:
        self.before()
        super().sync(log)
        self.syncs.append(log)


def test_commits_reach_the_disk_before_their_block_ends_except_those_that_need_not(
    file: Path,
) -> None:
    disk = CountingDisk()
    store = SqliteStore(file, disk=disk)

    def syncs_of(durable: bool) -> int:
        before = len(disk.syncs)
        with store.transaction(durable=durable) as transaction:
            add_topic(transaction, f"t{before}{durable}")
        return len(disk.syncs) - before

    assert [syncs_of(True), syncs_of(False), syncs_of(True)] == [1, 0, 1]
    store.close()


def test_url_can_trade_durability_for_speed(file: Path) -> None:
    disk = CountingDisk()
    store = SqliteStore(file, durability="normal", disk=disk)

    with store.transaction() as transaction:
        add_topic(transaction, "a")
    commit(store, lambda transaction: add_topic(transaction, "b"))

    assert (topics(store), disk.syncs) == (["a", "b"], [])
    store.close()
    assert disk.syncs == []
    with mt.connect(f"sqlite:///{file}?durability=normal") as bus:
        bus.topic("c")


def test_other_durability_and_other_options_are_refused(file: Path) -> None:
    with pytest.raises(mt.StoreError, match="durability must be 'full' or 'normal', got 'fast'"):
        mt.connect(f"sqlite:///{file}?durability=fast")
    with pytest.raises(mt.NotFound, match="did you mean 'durability'"):
        mt.connect(f"sqlite:///{file}?durabilty=normal")


@pytest.mark.parametrize(
    "url", ["memory://elsewhere", "sqlite://", "sqlite:///", "mysql://host/db", "bus.db"]
)
def test_url_of_no_broker_is_refused_with_the_known_forms(url: str) -> None:
    with pytest.raises(mt.StoreError, match=r"known forms: memory://, sqlite:///"):
        mt.connect(url)


def test_store_whose_process_died_while_it_moved_the_write_ahead_log_has_everything(
    store: SqliteStore, file: Path, tmp_path: Path
) -> None:
    with store.transaction() as transaction:
        transaction.execute(MANY_TOPICS, {"n": 5_000, "prefix": "t"})
    before, log = file.read_bytes(), Path(f"{file}-wal").read_bytes()
    store.close()  # moves the log
    after = file.read_bytes()
    crashed = tmp_path / "crashed.db"
    # the first page was written, the others were not
    crashed.write_bytes(after[:4096] + before[4096:])
    Path(f"{crashed}-wal").write_bytes(log)

    again = SqliteStore(crashed)

    assert len(topics(again)) == 5_000
    assert again.read("PRAGMA integrity_check") == [("ok",)]
    again.close()


# -- reopened --------------------------------------------------------------------------------------


def test_reopened_file_has_everything(file: Path) -> None:
    def shout(text: str) -> str:
        return text.upper()

    with mt.connect(f"sqlite:///{file}") as bus:
        sub = bus.subscribe(
            "letters", mt.model(shout, version="1.0.0"), emit="shouts", max_attempts=3
        )
        bus.alias("shout", "champion", "1.0.0")
        bus.fire("letters", ["a", "b"], progress=False)
        sub.stop()
        bus.publish("letters", "waiting")
        before = {
            name: getattr(bus, name)()
            for name in ("events", "invocations", "models", "subscriptions", "topics")
        }

    with mt.connect(f"sqlite:///{file}") as bus:
        after = {name: getattr(bus, name)() for name in before}
        spec = bus.registry.subscription("shout")

        for name in before:
            assert_frame_equal(after[name], before[name])
        assert (len(after["events"]), len(after["invocations"])) == (5, 2)
        assert spec is not None
        assert (spec.selector, spec.emit, spec.policy.max_attempts) == ("shout:1.0.0", "shouts", 3)
        assert bus.subscription("shout").depth().visible == 1


def test_memory_bus_forgets_everything_and_shares_nothing() -> None:
    with mt.connect("memory://") as one, mt.connect("memory://") as two:
        one.topic("documents")

        assert two.topics().empty
