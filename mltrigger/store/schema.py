"""The SQL schema, and its migrations from the first day.

One schema for SQLite and PostgreSQL. Times are microseconds since 1970 in 64-bit integers: exact,
small, and the same on both. The queue is two narrow tables whose primary key is their only index:
what waits is in ``ready`` in the order it falls due, what is leased in ``lease``. The payload is
written once, in ``event``. Where a queue outside this database carries the events, what waits there
is in ``awaited``; the view ``waiting`` has both.
"""

from __future__ import annotations

from collections.abc import Callable

import sqlalchemy as sa
from sqlalchemy import (
    BigInteger,
    Column,
    ForeignKey,
    Integer,
    LargeBinary,
    MetaData,
    Table,
    Text,
    UniqueConstraint,
)

from mltrigger.errors import StoreError

metadata = MetaData()

# In SQLite only INTEGER PRIMARY KEY is the row itself; BIGINT would cost a second index.
_Key = BigInteger().with_variant(Integer, "sqlite")

schema_version = Table("schema_version", metadata, Column("version", Integer, nullable=False))

topic = Table(
    "topic",
    metadata,
    Column("id", _Key, primary_key=True),
    Column("name", Text, nullable=False, unique=True),
    Column("created_us", BigInteger, nullable=False),
)

event = Table(
    "event",
    metadata,
    Column("seq", _Key, primary_key=True, autoincrement=False),
    Column("topic_id", BigInteger, ForeignKey("topic.id"), nullable=False),
    Column("id", Text, nullable=False),
    Column("source", Text, nullable=False),
    Column("type", Text, nullable=False),
    Column("time", Text, nullable=False),
    Column("subject", Text),
    Column("datacontenttype", Text),
    Column("dataschema", Text),
    Column("traceparent", Text, nullable=False),
    # The other extension attributes as a JSON object; NULL for none, which is the rule.
    Column("extensions", Text),
    Column("data", LargeBinary, nullable=False),
    Column("published_us", BigInteger, nullable=False),
    # The id first: ids are ordered by time, so the index grows at one end; and a trace looks events
    # up by id alone.
    UniqueConstraint("id", "source", "topic_id", name="event_identity"),
)

model_version = Table(
    "model_version",
    metadata,
    Column("id", _Key, primary_key=True),
    Column("name", Text, nullable=False),
    Column("version", Text, nullable=False),
    Column("kind", Text, nullable=False),
    Column("digest", Text, nullable=False),
    Column("import_path", Text),
    Column("description", Text),
    Column("created_us", BigInteger, nullable=False),
    # Where it runs, when it is no Python here; and the options of that, as JSON. Never a secret.
    Column("address", Text),
    Column("options", Text),
    # JSON Schemas.
    Column("input_schema", Text),
    Column("output_schema", Text),
    UniqueConstraint("name", "version", name="model_version_identity"),
)

model_alias = Table(
    "model_alias",
    metadata,
    Column("name", Text, primary_key=True),
    Column("alias", Text, primary_key=True),
    Column("version", Text, nullable=False),
    # The address, with its options, of an alias elsewhere that this one follows, as JSON; NULL when
    # it was set here.
    Column("follows", Text),
)

subscription = Table(
    "subscription",
    metadata,
    Column("id", _Key, primary_key=True),
    Column("name", Text, nullable=False, unique=True),
    Column("topic_id", BigInteger, ForeignKey("topic.id"), nullable=False),
    Column("selector", Text, nullable=False),
    Column("emit_topic_id", BigInteger, ForeignKey("topic.id")),
    Column("policy", Text, nullable=False),
    Column("created_us", BigInteger, nullable=False),
    Column("bound", Integer, nullable=False),
    Column("paused", Integer, nullable=False, server_default="0"),
    # The filter policy as canonical JSON, and its scope; NULL lets everything pass.
    Column("filter", Text),
    Column("filter_scope", Text),
    # Whether it has a queue outside this database.
    Column("outside", Integer, nullable=False, server_default="0"),
)

# Which events a subscription had a right to: each revision holds for the events after from_seq, up
# to the made_seq of the next one. What a filter keeps out is not written anywhere else.
revision = Table(
    "revision",
    metadata,
    Column("id", _Key, primary_key=True),
    Column("subscription_id", BigInteger, ForeignKey("subscription.id"), nullable=False),
    Column("topic_id", BigInteger, ForeignKey("topic.id"), nullable=False),
    # The newest event when it was made; and 0 instead where a new binding asked for the archive as
    # well.
    Column("made_seq", BigInteger, nullable=False),
    Column("from_seq", BigInteger, nullable=False),
    Column("bound", Integer, nullable=False),
    Column("filter", Text),
    Column("filter_scope", Text),
    Column("made_us", BigInteger, nullable=False),
)

source = Table(
    "source",
    metadata,
    Column("url", Text, primary_key=True),
    Column("topic_id", BigInteger, ForeignKey("topic.id"), nullable=False),
)

ready = Table(
    "ready",
    metadata,
    Column("subscription_id", BigInteger, primary_key=True),
    Column("visible_us", BigInteger, primary_key=True),
    Column("seq", BigInteger, primary_key=True),
    Column("attempt", Integer, nullable=False),
    Column("failures", Integer, nullable=False),
    Column("abandoned", Integer, nullable=False),
    sqlite_with_rowid=False,
)

lease = Table(
    "lease",
    metadata,
    Column("subscription_id", BigInteger, primary_key=True),
    Column("seq", BigInteger, primary_key=True),
    Column("attempt", Integer, nullable=False),
    Column("failures", Integer, nullable=False),
    Column("abandoned", Integer, nullable=False),
    Column("visible_us", BigInteger, nullable=False),
    Column("received_us", BigInteger, nullable=False),
    Column("until_us", BigInteger, nullable=False),
    Column("worker_id", BigInteger, nullable=False),
    # Whether a message of a queue outside stands behind it: without that message nobody may lease
    # it again.
    Column("outside", Integer, nullable=False, server_default="0"),
    sqlite_with_rowid=False,
)

# As ready, for deliveries that a queue outside this database carries: nobody leases them before
# their message has come.
awaited = Table(
    "awaited",
    metadata,
    Column("subscription_id", BigInteger, primary_key=True),
    Column("seq", BigInteger, primary_key=True),
    Column("visible_us", BigInteger, nullable=False),
    Column("attempt", Integer, nullable=False),
    Column("failures", Integer, nullable=False),
    Column("abandoned", Integer, nullable=False),
    sqlite_with_rowid=False,
)

# Events that are published here and of which the service outside has not said yet that it has them.
unsent = Table(
    "unsent",
    metadata,
    Column("seq", _Key, primary_key=True, autoincrement=False),
    Column("since_us", BigInteger, nullable=False),
)

dead_letter = Table(
    "dead_letter",
    metadata,
    Column("subscription_id", BigInteger, primary_key=True),
    Column("seq", BigInteger, primary_key=True),
    Column("attempt", Integer, nullable=False),
    Column("reason", Text, nullable=False),
    Column("error_type", Text),
    Column("error", Text),
    Column("traceback", Text),
    Column("dead_us", BigInteger, nullable=False),
    Column("discarded_us", BigInteger),
    Column("discard_reason", Text),
    sqlite_with_rowid=False,
)

# Events that were sent to a subscription again, and the data that one of them was given in place of
# the archive's.
resent = Table(
    "resent",
    metadata,
    Column("subscription_id", BigInteger, primary_key=True),
    Column("seq", BigInteger, primary_key=True),
    Column("times", Integer, nullable=False),
    Column("resent_us", BigInteger, nullable=False),
    Column("data", LargeBinary),
    Column("datacontenttype", Text),
    sqlite_with_rowid=False,
)

# Events that were published again under the same id: nothing was delivered, but it is said.
repeat = Table(
    "repeat",
    metadata,
    Column("seq", _Key, primary_key=True, autoincrement=False),
    Column("times", Integer, nullable=False),
    # How often the data were not those of the first time.
    Column("differing", Integer, nullable=False),
    Column("repeated_us", BigInteger, nullable=False),
)

invocation = Table(
    "invocation",
    metadata,
    Column("id", _Key, primary_key=True),
    Column("seq", BigInteger, nullable=False),
    Column("subscription_id", BigInteger, nullable=False),
    Column("attempt", Integer, nullable=False),
    Column("model_version_id", BigInteger),
    Column("role", Text, nullable=False),
    Column("outcome", Text, nullable=False),
    Column("reason", Text),
    Column("visible_us", BigInteger, nullable=False),
    Column("received_us", BigInteger, nullable=False),
    Column("started_us", BigInteger),
    Column("finished_us", BigInteger),
    Column("settled_us", BigInteger, nullable=False),
    Column("batch_size", Integer),
    Column("worker_id", BigInteger, nullable=False),
    Column("output", Text),
    Column("error_type", Text),
    Column("error", Text),
    Column("traceback", Text),
    Column("stdout", Text),
    # One row an attempt; the newest events are written last, so this index grows at one end too.
    UniqueConstraint("seq", "subscription_id", "attempt", name="invocation_identity"),
)

tally = Table(
    "tally",
    metadata,
    Column("subscription_id", BigInteger, primary_key=True),
    # Part of the key so that the workers of a team never wait for one another's counters.
    Column("worker_id", BigInteger, primary_key=True),
    Column("outcome", Text, primary_key=True),
    Column("n", BigInteger, nullable=False),
    sqlite_with_rowid=False,
)

# How many events one event has led to, by its id; only where it is more than a few.
descent = Table(
    "descent",
    metadata,
    Column("root", Text, primary_key=True),
    Column("n", BigInteger, nullable=False),
    Column("counted_us", BigInteger, nullable=False),
    sqlite_with_rowid=False,
)

worker = Table(
    "worker",
    metadata,
    Column("id", _Key, primary_key=True),
    Column("started_us", BigInteger, nullable=False),
    Column("seen_us", BigInteger, nullable=False),
)

listener = Table(
    "listener",
    metadata,
    Column("subscription_id", BigInteger, primary_key=True),
    Column("worker_id", BigInteger, primary_key=True),
    sqlite_with_rowid=False,
)


setting = Table(
    "setting",
    metadata,
    Column("name", Text, primary_key=True),
    Column("value", Text, nullable=False),
)


# Not made from the tables above: those will change again, and a step must not. Versions 1 and 2
# existed on SQLite only.
_FILTERS_REDRIVE_RETENTION = """
CREATE TABLE revision (id INTEGER NOT NULL PRIMARY KEY, subscription_id BIGINT NOT NULL REFERENCES subscription (id),
  from_seq BIGINT NOT NULL, bound INTEGER NOT NULL, filter TEXT, filter_scope TEXT, made_us BIGINT NOT NULL);
CREATE TABLE resent (subscription_id BIGINT NOT NULL, seq BIGINT NOT NULL, times INTEGER NOT NULL, resent_us BIGINT NOT NULL, data BLOB,
  datacontenttype TEXT, PRIMARY KEY (subscription_id, seq)) WITHOUT ROWID;
CREATE TABLE repeat (seq INTEGER NOT NULL PRIMARY KEY, times INTEGER NOT NULL, differing INTEGER NOT NULL, repeated_us BIGINT NOT NULL);
CREATE TABLE setting (name TEXT NOT NULL PRIMARY KEY, value TEXT NOT NULL);
ALTER TABLE subscription ADD COLUMN paused INTEGER NOT NULL DEFAULT 0;
ALTER TABLE subscription ADD COLUMN filter TEXT;
ALTER TABLE subscription ADD COLUMN filter_scope TEXT;
ALTER TABLE dead_letter ADD COLUMN discarded_us BIGINT;
ALTER TABLE dead_letter ADD COLUMN discard_reason TEXT;
INSERT INTO revision (subscription_id, from_seq, bound, made_us)
SELECT id, coalesce((SELECT max(seq) FROM (
  SELECT seq FROM event WHERE topic_id = s.topic_id AND seq > s.since_seq
  EXCEPT SELECT seq FROM invocation WHERE subscription_id = s.id AND outcome IN ('succeeded', 'dead', 'skipped')
  EXCEPT SELECT seq FROM ready WHERE subscription_id = s.id EXCEPT SELECT seq FROM lease WHERE subscription_id = s.id
)), since_seq), bound, created_us FROM subscription s;
ALTER TABLE subscription DROP COLUMN since_seq
"""


def _filters_redrive_and_retention(connection: sa.Connection) -> None:
    """Version 2: filters with their revisions, pausing, redrive, discarding, repeats, settings.

    Version 1 forgot what was open when a subscription was ended: one that was begun again has its
    right from after those events on.
    """
    for statement in _FILTERS_REDRIVE_RETENTION.split(";"):
        connection.exec_driver_sql(statement)


_PLACES_OF_REVISIONS = """
CREATE TABLE placed (id INTEGER NOT NULL PRIMARY KEY, subscription_id BIGINT NOT NULL REFERENCES subscription (id),
  topic_id BIGINT NOT NULL REFERENCES topic (id), made_seq BIGINT NOT NULL, from_seq BIGINT NOT NULL, bound INTEGER NOT NULL, filter TEXT,
  filter_scope TEXT, made_us BIGINT NOT NULL);
INSERT INTO placed SELECT r.id, r.subscription_id, s.topic_id,
  CASE WHEN r.from_seq > 0 THEN r.from_seq ELSE (SELECT coalesce(max(seq), 0) FROM event WHERE published_us <= r.made_us) END,
  r.from_seq, r.bound, r.filter, r.filter_scope, r.made_us FROM revision r JOIN subscription s ON s.id = r.subscription_id;
DROP TABLE revision;
ALTER TABLE placed RENAME TO revision
"""


def _places_of_revisions(connection: sa.Connection) -> None:
    """Version 3: a revision says on which topic, and where in the archive it was made, also when it
    began with the oldest event.
    """
    for statement in _PLACES_OF_REVISIONS.split(";"):
        connection.exec_driver_sql(statement)


_WAITING = """
CREATE VIEW waiting AS SELECT subscription_id, visible_us, seq, attempt, failures, abandoned FROM ready
UNION ALL SELECT subscription_id, visible_us, seq, attempt, failures, abandoned FROM awaited
"""
_QUEUES_OUTSIDE = """
ALTER TABLE lease ADD COLUMN outside INTEGER NOT NULL DEFAULT 0;
ALTER TABLE subscription ADD COLUMN outside INTEGER NOT NULL DEFAULT 0;
CREATE TABLE awaited (subscription_id BIGINT NOT NULL, seq BIGINT NOT NULL, visible_us BIGINT NOT NULL, attempt INTEGER NOT NULL,
  failures INTEGER NOT NULL, abandoned INTEGER NOT NULL, PRIMARY KEY (subscription_id, seq)) WITHOUT ROWID;
CREATE TABLE unsent (seq INTEGER NOT NULL PRIMARY KEY, since_us BIGINT NOT NULL)
"""


def _queues_outside(connection: sa.Connection) -> None:
    """Version 4: deliveries that a queue outside carries, and events that are on their way to it."""
    for statement in _QUEUES_OUTSIDE.split(";"):
        connection.exec_driver_sql(statement)
    connection.exec_driver_sql(_WAITING)


_ADDRESSES = """
ALTER TABLE model_version ADD COLUMN address TEXT;
ALTER TABLE model_version ADD COLUMN options TEXT;
ALTER TABLE model_version ADD COLUMN input_schema TEXT;
ALTER TABLE model_version ADD COLUMN output_schema TEXT;
ALTER TABLE model_alias ADD COLUMN follows TEXT
"""


def _addresses_and_schemas(connection: sa.Connection) -> None:
    """Version 5: models that run elsewhere, what goes in and out of them, and aliases that follow
    others.
    """
    for statement in _ADDRESSES.split(";"):
        connection.exec_driver_sql(statement)


def _descent(connection: sa.Connection) -> None:
    """Version 6: what one event has led to."""
    connection.exec_driver_sql(
        "CREATE TABLE descent (root TEXT NOT NULL, n BIGINT NOT NULL, counted_us BIGINT NOT NULL,"
        " PRIMARY KEY (root)) WITHOUT ROWID"
    )


MIGRATIONS: tuple[Callable[[sa.Connection], None], ...] = (
    _filters_redrive_and_retention,
    _places_of_revisions,
    _queues_outside,
    _addresses_and_schemas,
    _descent,
)
"""Step *n* takes a database of version *n + 1* to *n + 2*, in one transaction. Steps are only ever
added; a new database is created as ``metadata`` says and starts at the newest version.
"""


def migrate(
    connection: sa.Connection, migrations: tuple[Callable[[sa.Connection], None], ...] = MIGRATIONS
) -> None:
    """Bring the database behind *connection* to the newest version, inside the caller's
    transaction.

    Raises
    ------
    StoreError
        When the database was written by a newer release, or is not one of ours.
    """
    newest = 1 + len(migrations)
    found = check(connection, newest)
    if found is None:
        metadata.create_all(connection)
        connection.exec_driver_sql(_WAITING)
        connection.execute(schema_version.insert().values(version=newest))
        return
    for step in migrations[found - 1 :]:
        step(connection)
    if found < newest:
        connection.execute(schema_version.update().values(version=newest))


def check(connection: sa.Connection, newest: int = 1 + len(MIGRATIONS)) -> int | None:
    """Return the schema version, ``None`` for an empty database; raise StoreError when it is not
    one of ours, or newer than *newest*.
    """
    found = _found_version(connection)
    if found is not None and found > newest:
        raise StoreError(
            f"the store has schema version {found}, this release knows up to {newest}: upgrade"
            " mltrigger; nothing was changed"
        )
    return found


def _found_version(connection: sa.Connection) -> int | None:
    """Return the schema version, ``None`` for an empty database."""
    names = sa.inspect(connection).get_table_names()
    if not names:
        return None
    if "schema_version" not in names:
        raise StoreError(
            "the database holds other tables and no mltrigger schema: name another file; nothing"
            " was changed"
        )
    found = [
        version for (version,) in connection.exec_driver_sql("SELECT version FROM schema_version")
    ]
    if len(found) != 1 or not isinstance(found[0], int) or found[0] < 1:
        raise StoreError(
            "the store is damaged: its table schema_version must hold one row, a whole number from"
            f" 1 on, and holds {found!r:.100}; open a backup instead, or put that right; nothing"
            " was changed"
        )
    return found[0]
