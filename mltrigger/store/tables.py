"""The tables of the store: one script that makes them.

The table ``event`` is the log. It is only appended to. A subscription needs no row for an event.
Its ``cursor`` says how far it is. The events behind that wait. Rows in ``ready`` are exceptions:
retries, delays, releases, events sent again. A subscription with a filter or with a queue outside
goes by rows altogether. One with a key does so, too: its rows wait in ``keyed``. A lease holds a
range of the log, or one exception.

Attempts that are recorded together share a ``lot``. An ``outcome`` is narrow. Errors and the like
are in ``detail``. The view ``invocation`` has all of it.

Times are microseconds since 1970 in 64-bit integers: exact, small and easy to compare.
"""

from __future__ import annotations

from mltrigger.store.outcomes import FINAL, OUTCOMES
from mltrigger.store.tables_of_keys import KEYS
from mltrigger.store.tables_of_versions import VERSIONS

VERSION = 12
"""The version of the schema below. A file with a later version is refused."""

CODES = {outcome: code for code, outcome in enumerate(OUTCOMES)}
"""The number of each outcome in the table ``outcome``."""
_NAMED = " ".join(f"WHEN {code} THEN '{outcome}'" for outcome, code in CODES.items())
FINAL_CODES = tuple(CODES[outcome] for outcome in FINAL)

ATTEMPT = f"""SELECT o.lot_id + o.place AS id, o.seq, o.subscription_id, o.attempt,
  l.model_version_id, l.role, CASE o.outcome {_NAMED} END AS outcome,
  coalesce(d.reason, l.reason) AS reason, d.visible_us, l.received_us,
  l.started_us + coalesce(o.began_us, 0) AS started_us,
  CASE WHEN o.took_us IS NULL THEN l.finished_us
    ELSE l.started_us + coalesce(o.began_us, 0) + o.took_us END AS finished_us,
  l.settled_us, l.batch_size, l.worker_id,
  coalesce(o.output, d.output, CASE o.outcome WHEN {CODES["succeeded"]} THEN 'null' END) AS output,
  d.error_type, d.error, d.traceback, d.stdout, l.binding, d.measures"""
"""The columns of an attempt, from ``lot l``, ``outcome o`` and ``detail d``."""

CREATE = f"""
CREATE TABLE schema_version (version INTEGER NOT NULL);

CREATE TABLE topic (
  id INTEGER NOT NULL PRIMARY KEY,
  name TEXT NOT NULL UNIQUE,
  created_us INTEGER NOT NULL
);

CREATE TABLE name (
  -- The sources and types of events, each written once.
  id INTEGER NOT NULL PRIMARY KEY,
  text TEXT NOT NULL UNIQUE
);

CREATE TABLE event (
  seq INTEGER NOT NULL PRIMARY KEY,
  topic_id INTEGER NOT NULL REFERENCES topic (id),
  id BLOB NOT NULL, -- 16 bytes for a UUID in its canonical form, else the text
  source_id INTEGER NOT NULL REFERENCES name (id),
  type_id INTEGER NOT NULL REFERENCES name (id),
  published_us INTEGER NOT NULL,
  lag_us INTEGER NOT NULL, -- published_us minus the time of the event
  by_rows_us INTEGER, -- when it is due, if no cursor may deliver it: it is delayed or cancelled
  time TEXT, -- the time of the event in its own words, NULL for UTC
  subject TEXT,
  datacontenttype TEXT,
  dataschema TEXT,
  traceparent TEXT, -- NULL for that of its id, which is a UUID then
  extensions TEXT, -- the other extension attributes as a JSON object, usually NULL
  data BLOB NOT NULL,
  -- The id comes first. Ids are ordered by time, so this index grows at one end.
  -- A trace also looks up events by id alone.
  CONSTRAINT event_identity UNIQUE (id, source_id, topic_id)
);

CREATE INDEX event_topic ON event (topic_id);

CREATE INDEX event_by_rows ON event (topic_id) WHERE by_rows_us IS NOT NULL;

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
  role TEXT NOT NULL DEFAULT 'live', -- 'direct' if its events are calls whose callers wait
  parent_id INTEGER, -- of a lane, the subscription that it belongs to
  lane TEXT -- of a lane, its settings as JSON
);

CREATE INDEX subscription_parent ON subscription (parent_id) WHERE parent_id IS NOT NULL;

{VERSIONS}

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

CREATE TABLE cursor (
  -- The events of its topic from next_seq on wait for a subscription. NULL: it goes by rows.
  -- A cursor never moves back. Numbers of leases never return.
  subscription_id INTEGER NOT NULL PRIMARY KEY,
  next_seq INTEGER,
  next_lease INTEGER NOT NULL DEFAULT 1,
  last_seq INTEGER -- the last event of a lane that ends
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

{KEYS}

CREATE TABLE lease (
  -- The rows of one number are the events that one claim still holds: ranges of the log, and single
  -- exceptions.
  subscription_id INTEGER NOT NULL,
  number INTEGER NOT NULL,
  low INTEGER NOT NULL,
  high INTEGER NOT NULL,
  n INTEGER NOT NULL, -- how many events of its topic are in it
  attempt INTEGER NOT NULL,
  failures INTEGER NOT NULL,
  abandoned INTEGER NOT NULL,
  visible_us INTEGER, -- NULL in a range: each since it was published
  received_us INTEGER NOT NULL,
  until_us INTEGER NOT NULL,
  worker_id INTEGER NOT NULL,
  -- 1 if a message of an outside queue belongs to it: the next lease needs that message again
  outside INTEGER NOT NULL DEFAULT 0,
  binding INTEGER NOT NULL DEFAULT 0, -- the newest one when it was claimed
  by_key TEXT, -- the key of its event, if its subscription has one
  PRIMARY KEY (subscription_id, number, low)
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

CREATE TABLE lot (
  -- Attempts that were recorded together share these. They are numbered when they are settled. The
  -- first attempt of a lot has its id as row, the next one the number after it. So a lot takes n
  -- numbers. None is given again: readers of the log go on after the row that they saw last.
  id INTEGER NOT NULL PRIMARY KEY,
  n INTEGER NOT NULL,
  subscription_id INTEGER NOT NULL,
  low INTEGER NOT NULL, -- all its events are from low to high
  high INTEGER NOT NULL,
  model_version_id INTEGER,
  role TEXT NOT NULL,
  received_us INTEGER NOT NULL,
  started_us INTEGER,
  finished_us INTEGER,
  settled_us INTEGER NOT NULL,
  batch_size INTEGER,
  worker_id INTEGER NOT NULL,
  reason TEXT, -- of all its attempts
  binding INTEGER NOT NULL DEFAULT 0 -- the number of the one that its attempts follow
);

CREATE TABLE outcome (
  subscription_id INTEGER NOT NULL,
  seq INTEGER NOT NULL,
  attempt INTEGER NOT NULL,
  lot_id INTEGER NOT NULL,
  place INTEGER NOT NULL, -- in its lot, from 0
  outcome INTEGER NOT NULL, -- its place in the list of outcomes
  began_us INTEGER, -- after the start of its lot, NULL: with it
  took_us INTEGER, -- NULL: as long as its lot
  output TEXT, -- NULL after a success: null, if detail has no longer one
  PRIMARY KEY (subscription_id, seq, attempt)
) WITHOUT ROWID;

CREATE INDEX outcome_exception ON outcome (lot_id, place, outcome) WHERE outcome <> 0;

CREATE TABLE detail (
  -- The columns that few attempts need.
  subscription_id INTEGER NOT NULL,
  seq INTEGER NOT NULL,
  attempt INTEGER NOT NULL,
  visible_us INTEGER, -- NULL: since it was published, or due
  reason TEXT,
  error_type TEXT,
  error TEXT,
  traceback TEXT,
  stdout TEXT,
  output TEXT, -- a long one
  measures TEXT, -- as JSON
  CONSTRAINT detail_identity UNIQUE (subscription_id, seq, attempt)
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
UNION ALL SELECT subscription_id, visible_us, seq, attempt, failures, abandoned FROM awaited
UNION ALL SELECT subscription_id, visible_us, seq, attempt, failures, abandoned FROM keyed
UNION ALL SELECT s.id, e.published_us, e.seq, 0, 0, 0
FROM cursor c
JOIN subscription s ON s.id = c.subscription_id
JOIN event e ON e.topic_id = s.topic_id AND e.seq >= c.next_seq
WHERE e.by_rows_us IS NULL AND e.seq <= coalesce(c.last_seq, e.seq);

CREATE VIEW leased AS
SELECT l.subscription_id, e.seq, l.number, l.attempt, l.failures, l.abandoned,
  coalesce(l.visible_us, e.published_us) AS visible_us, l.received_us, l.until_us, l.worker_id,
  l.outside
FROM lease l
JOIN subscription s ON s.id = l.subscription_id
JOIN event e ON e.seq BETWEEN l.low AND l.high
WHERE l.visible_us IS NOT NULL OR (e.topic_id = s.topic_id AND e.by_rows_us IS NULL);

CREATE VIEW invocation AS
{ATTEMPT}
FROM lot l
JOIN outcome o ON o.subscription_id = l.subscription_id AND o.seq BETWEEN l.low AND l.high
  AND o.lot_id = l.id
LEFT JOIN detail d
  ON d.subscription_id = o.subscription_id AND d.seq = o.seq AND d.attempt = o.attempt;

CREATE VIEW final AS
SELECT o.seq, o.subscription_id, o.attempt, CASE o.outcome {_NAMED} END AS outcome,
  coalesce(d.reason, l.reason) AS reason
FROM outcome o
LEFT JOIN lot l ON l.id = o.lot_id
LEFT JOIN detail d
  ON d.subscription_id = o.subscription_id AND d.seq = o.seq AND d.attempt = o.attempt
WHERE o.outcome IN {FINAL_CODES};

INSERT INTO schema_version (version) VALUES ({VERSION})
"""
"""The whole schema. Blank lines separate the statements."""
