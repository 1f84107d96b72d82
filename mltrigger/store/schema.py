"""The schema of the store: one script that makes it, and a check of a file.

Times are microseconds since 1970 in 64-bit integers: exact, small and easy to compare. The queue is
two narrow tables whose primary key is their only index. Waiting deliveries are in ``ready``, in the
order in which they fall due. Leased ones are in ``lease``. The payload is written once, in
``event``. Deliveries that an outside queue carries wait in ``awaited``.
"""

from __future__ import annotations

import sqlite3

from mltrigger.errors import StoreError
from mltrigger.store.outcomes import FINAL

VERSION = 8
"""The version of the schema below. A file with another version is refused."""

CREATE = f"""
CREATE TABLE schema_version (version INTEGER NOT NULL);

CREATE TABLE topic (
  id INTEGER NOT NULL PRIMARY KEY,
  name TEXT NOT NULL UNIQUE,
  created_us INTEGER NOT NULL
);

CREATE TABLE event (
  seq INTEGER NOT NULL PRIMARY KEY,
  topic_id INTEGER NOT NULL REFERENCES topic (id),
  id TEXT NOT NULL,
  source TEXT NOT NULL,
  type TEXT NOT NULL,
  time TEXT NOT NULL,
  subject TEXT,
  datacontenttype TEXT,
  dataschema TEXT,
  traceparent TEXT NOT NULL,
  extensions TEXT, -- the other extension attributes as a JSON object, usually NULL
  data BLOB NOT NULL,
  published_us INTEGER NOT NULL,
  -- The id comes first. Ids are ordered by time, so this index grows at one end.
  -- A trace also looks up events by id alone.
  CONSTRAINT event_identity UNIQUE (id, source, topic_id)
);

CREATE TABLE model_version (
  id INTEGER NOT NULL PRIMARY KEY,
  name TEXT NOT NULL,
  version TEXT NOT NULL,
  kind TEXT NOT NULL,
  digest TEXT NOT NULL,
  import_path TEXT,
  description TEXT,
  created_us INTEGER NOT NULL,
  address TEXT, -- of a model that runs elsewhere
  options TEXT, -- of that address, as JSON, without secrets
  input_schema TEXT, -- a JSON Schema
  output_schema TEXT, -- a JSON Schema
  CONSTRAINT model_version_identity UNIQUE (name, version)
);

CREATE TABLE model_alias (
  name TEXT NOT NULL,
  alias TEXT NOT NULL,
  version TEXT NOT NULL,
  follows TEXT, -- the address and options of a foreign alias as JSON, NULL for our own alias
  PRIMARY KEY (name, alias)
);

CREATE TABLE subscription (
  id INTEGER NOT NULL PRIMARY KEY,
  name TEXT NOT NULL UNIQUE,
  topic_id INTEGER NOT NULL REFERENCES topic (id),
  selector TEXT NOT NULL,
  emit_topic_id INTEGER REFERENCES topic (id),
  policy TEXT NOT NULL,
  created_us INTEGER NOT NULL,
  bound INTEGER NOT NULL,
  paused INTEGER NOT NULL DEFAULT 0,
  filter TEXT, -- the filter policy as canonical JSON, NULL lets everything pass
  filter_scope TEXT,
  outside INTEGER NOT NULL DEFAULT 0, -- 1 if it has a queue outside this database
  role TEXT NOT NULL DEFAULT 'live' -- 'direct' if its events are calls whose callers wait
);

CREATE TABLE revision (
  -- The events that a subscription has a right to. A revision holds for the events after from_seq,
  -- up to made_seq of the next revision. No other table keeps what a filter held back.
  id INTEGER NOT NULL PRIMARY KEY,
  subscription_id INTEGER NOT NULL REFERENCES subscription (id),
  topic_id INTEGER NOT NULL REFERENCES topic (id),
  made_seq INTEGER NOT NULL, -- the newest event when the revision was made
  from_seq INTEGER NOT NULL, -- the same, or 0 if the binding asked for the archive as well
  bound INTEGER NOT NULL,
  filter TEXT,
  filter_scope TEXT,
  made_us INTEGER NOT NULL
);

CREATE TABLE source (
  url TEXT NOT NULL PRIMARY KEY,
  topic_id INTEGER NOT NULL REFERENCES topic (id)
);

CREATE TABLE ready (
  subscription_id INTEGER NOT NULL,
  visible_us INTEGER NOT NULL,
  seq INTEGER NOT NULL,
  attempt INTEGER NOT NULL,
  failures INTEGER NOT NULL,
  abandoned INTEGER NOT NULL,
  PRIMARY KEY (subscription_id, visible_us, seq)
) WITHOUT ROWID;

CREATE TABLE lease (
  subscription_id INTEGER NOT NULL,
  seq INTEGER NOT NULL,
  attempt INTEGER NOT NULL,
  failures INTEGER NOT NULL,
  abandoned INTEGER NOT NULL,
  visible_us INTEGER NOT NULL,
  received_us INTEGER NOT NULL,
  until_us INTEGER NOT NULL,
  worker_id INTEGER NOT NULL,
  -- 1 if a message of an outside queue belongs to it: the next lease needs that message again
  outside INTEGER NOT NULL DEFAULT 0,
  PRIMARY KEY (subscription_id, seq)
) WITHOUT ROWID;

CREATE TABLE awaited (
  -- Like ready, for deliveries of an outside queue. They are leased only when their message comes.
  subscription_id INTEGER NOT NULL,
  seq INTEGER NOT NULL,
  visible_us INTEGER NOT NULL,
  attempt INTEGER NOT NULL,
  failures INTEGER NOT NULL,
  abandoned INTEGER NOT NULL,
  PRIMARY KEY (subscription_id, seq)
) WITHOUT ROWID;

CREATE TABLE unsent (
  -- Events that were published here and that the outside service has not confirmed yet.
  seq INTEGER NOT NULL PRIMARY KEY,
  since_us INTEGER NOT NULL
);

CREATE TABLE dead_letter (
  subscription_id INTEGER NOT NULL,
  seq INTEGER NOT NULL,
  attempt INTEGER NOT NULL,
  reason TEXT NOT NULL,
  error_type TEXT,
  error TEXT,
  traceback TEXT,
  dead_us INTEGER NOT NULL,
  discarded_us INTEGER,
  discard_reason TEXT,
  PRIMARY KEY (subscription_id, seq)
) WITHOUT ROWID;

CREATE TABLE resent (
  -- Events that were sent to a subscription again. Data replace those of the archive, if not NULL.
  subscription_id INTEGER NOT NULL,
  seq INTEGER NOT NULL,
  times INTEGER NOT NULL,
  resent_us INTEGER NOT NULL,
  data BLOB,
  datacontenttype TEXT,
  PRIMARY KEY (subscription_id, seq)
) WITHOUT ROWID;

CREATE TABLE repeat (
  -- Events that were published again with the same id. The repeats were not delivered.
  seq INTEGER NOT NULL PRIMARY KEY,
  times INTEGER NOT NULL,
  differing INTEGER NOT NULL, -- repeats with other data than the first time
  repeated_us INTEGER NOT NULL
);

CREATE TABLE invocation (
  -- Never given again: readers of the log go on after the number that they saw last.
  id INTEGER NOT NULL PRIMARY KEY AUTOINCREMENT,
  seq INTEGER NOT NULL,
  subscription_id INTEGER NOT NULL,
  attempt INTEGER NOT NULL,
  model_version_id INTEGER,
  role TEXT NOT NULL,
  outcome TEXT NOT NULL,
  reason TEXT,
  visible_us INTEGER NOT NULL,
  received_us INTEGER NOT NULL,
  started_us INTEGER,
  finished_us INTEGER,
  settled_us INTEGER NOT NULL,
  batch_size INTEGER,
  worker_id INTEGER NOT NULL,
  output TEXT,
  error_type TEXT,
  error TEXT,
  traceback TEXT,
  stdout TEXT,
  -- One row an attempt. The newest events are written last, so this index grows at one end.
  CONSTRAINT invocation_identity UNIQUE (seq, subscription_id, attempt)
);

CREATE TABLE tally (
  subscription_id INTEGER NOT NULL,
  worker_id INTEGER NOT NULL, -- in the key, so that workers never wait for each other's counters
  outcome TEXT NOT NULL,
  n INTEGER NOT NULL,
  PRIMARY KEY (subscription_id, worker_id, outcome)
) WITHOUT ROWID;

CREATE TABLE descent (
  -- How many events one event has led to, by its id. Only kept for more than a few.
  root TEXT NOT NULL PRIMARY KEY,
  n INTEGER NOT NULL,
  counted_us INTEGER NOT NULL
) WITHOUT ROWID;

CREATE TABLE worker (
  id INTEGER NOT NULL PRIMARY KEY,
  started_us INTEGER NOT NULL,
  seen_us INTEGER NOT NULL,
  place TEXT -- where it holds a lock as long as it lives, NULL without one
);

CREATE TABLE listener (
  subscription_id INTEGER NOT NULL,
  worker_id INTEGER NOT NULL,
  PRIMARY KEY (subscription_id, worker_id)
) WITHOUT ROWID;

CREATE TABLE setting (name TEXT NOT NULL PRIMARY KEY, value TEXT NOT NULL);

CREATE VIEW waiting AS
SELECT subscription_id, visible_us, seq, attempt, failures, abandoned FROM ready
UNION ALL SELECT subscription_id, visible_us, seq, attempt, failures, abandoned FROM awaited;

CREATE VIEW final AS
SELECT seq, subscription_id, attempt, outcome, reason FROM invocation WHERE outcome IN {FINAL!r};

INSERT INTO schema_version (version) VALUES ({VERSION})
"""
"""The whole schema. Blank lines separate the statements."""


def create(connection: sqlite3.Connection) -> None:
    """Make the schema in an empty database, inside the caller's transaction.

    Raises
    ------
    StoreError
        When the database is not empty and does not hold this version of the schema.
    """
    if check(connection) is None:
        for statement in CREATE.split(";\n\n"):
            connection.execute(statement.strip())


def check(connection: sqlite3.Connection) -> int | None:
    """Return the schema version, or ``None`` for an empty database.

    Raises
    ------
    StoreError
        When the database belongs to another program, is damaged, or has another schema version.
    """
    found = _found_version(connection)
    if found is not None and found > VERSION:
        raise StoreError(
            f"the store has schema version {found}, this release knows up to {VERSION}: upgrade"
            " mltrigger; nothing was changed"
        )
    if found is not None and found < VERSION:
        raise StoreError(
            f"the store has schema version {found}, this release reads version {VERSION} only:"
            " keep the file for the mltrigger that wrote it, and name a new file here; nothing was"
            " changed"
        )
    return found


def _found_version(connection: sqlite3.Connection) -> int | None:
    rows = connection.execute(
        "SELECT name FROM sqlite_master WHERE type = 'table' AND substr(name, 1, 7) <> 'sqlite_'"
    )
    names = {name for (name,) in rows}
    if not names:
        return None
    if "schema_version" not in names:
        raise StoreError(
            "the database holds other tables and no mltrigger schema: name another file; nothing"
            " was changed"
        )
    found = [version for (version,) in connection.execute("SELECT version FROM schema_version")]
    if len(found) != 1 or not isinstance(found[0], int) or found[0] < 1:
        raise StoreError(
            "the store is damaged: its table schema_version must hold one row, a whole number from"
            f" 1 on, and holds {found!r:.100}; open a backup instead, or put that right; nothing"
            " was changed"
        )
    return found[0]
