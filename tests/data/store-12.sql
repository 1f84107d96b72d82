BEGIN TRANSACTION;
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
CREATE TABLE binding (
  -- The versions that answer a subscription. First attempts of events from from_seq on follow the
  -- newest row that holds for them. A share of them may go to another version, a canary.
  subscription_id INTEGER NOT NULL,
  number INTEGER NOT NULL, -- from 0
  kind TEXT NOT NULL, -- bind, promote, canary, step, rollback
  from_seq INTEGER NOT NULL,
  selector TEXT NOT NULL,
  model_version_id INTEGER, -- the version that the selector meant then, NULL if it meant none
  canary TEXT, -- the selector of the canary
  canary_version_id INTEGER,
  share REAL NOT NULL DEFAULT 0, -- of the canary
  made_us INTEGER NOT NULL,
  made_by TEXT NOT NULL,
  why TEXT,
  verdict TEXT, -- as JSON
  plan TEXT, -- of the canary, as JSON
  PRIMARY KEY (subscription_id, number)
) WITHOUT ROWID;
INSERT INTO "binding" VALUES(1,0,'bind',0,'read:1.0.0',NULL,NULL,NULL,0.0,1790000000000000,'',NULL,NULL,NULL);
INSERT INTO "binding" VALUES(2,0,'bind',0,'strict:1.0.0',NULL,NULL,NULL,0.0,1790000000000000,'',NULL,NULL,NULL);
INSERT INTO "binding" VALUES(3,0,'bind',0,'count:1.0.0',NULL,NULL,NULL,0.0,1790000000000000,'',NULL,NULL,NULL);
INSERT INTO "binding" VALUES(4,0,'bind',0,'count:1.0.0',NULL,NULL,NULL,0.0,1790000000000000,'',NULL,NULL,NULL);
CREATE TABLE cursor (
  -- The events of its topic from next_seq on wait for a subscription. NULL: it goes by rows.
  -- A cursor never moves back. Numbers of leases never return.
  subscription_id INTEGER NOT NULL PRIMARY KEY,
  next_seq INTEGER,
  next_lease INTEGER NOT NULL DEFAULT 1,
  last_seq INTEGER -- the last event of a lane that ends
);
INSERT INTO "cursor" VALUES(1,6,3,NULL);
INSERT INTO "cursor" VALUES(2,6,3,NULL);
INSERT INTO "cursor" VALUES(3,NULL,1,NULL);
INSERT INTO "cursor" VALUES(4,1,1,NULL);
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
INSERT INTO "dead_letter" VALUES(2,2,1,'rejected','Reject','it is bad','Traceback (most recent call last):
  File "model.py", line 7, in refuses
    if data=="bad": raise mt.Reject("it is bad")
                    ^^^^^^^^^^^^^^^^^^^^^^^^^^^^
mltrigger.errors.Reject: it is bad
',1790000000000000,NULL,NULL);
CREATE TABLE descent (
  -- How many events one event has led to, by its id. Only kept for more than a few.
  root TEXT NOT NULL PRIMARY KEY,
  n INTEGER NOT NULL,
  counted_us INTEGER NOT NULL
) WITHOUT ROWID;
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
INSERT INTO "detail" VALUES(2,4,1,NULL,NULL,NULL,NULL,NULL,NULL,'"xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx"',NULL);
INSERT INTO "detail" VALUES(2,2,1,NULL,'rejected','Reject','it is bad','Traceback (most recent call last):
  File "model.py", line 7, in refuses
    if data=="bad": raise mt.Reject("it is bad")
                    ^^^^^^^^^^^^^^^^^^^^^^^^^^^^
mltrigger.errors.Reject: it is bad
',NULL,NULL,NULL);
INSERT INTO "detail" VALUES(2,3,1,NULL,'model_error','ValueError','not yet','Traceback (most recent call last):
  File "model.py", line 8, in refuses
    if data=="once": raise ValueError("not yet")
                     ^^^^^^^^^^^^^^^^^^^^^^^^^^^
ValueError: not yet
',NULL,NULL,NULL);
CREATE TABLE effect (
  -- The effects that models have on other systems. The intent comes before the call, the answer
  -- after it. An effect without an answer is unknown.
  subscription_id INTEGER NOT NULL,
  seq INTEGER NOT NULL,
  name TEXT NOT NULL,
  key TEXT NOT NULL,
  attempt INTEGER NOT NULL, -- the one that called last
  calls INTEGER NOT NULL,
  intended_us INTEGER NOT NULL,
  answered_us INTEGER,
  answer TEXT, -- as JSON
  error TEXT, -- of a call that raised
  PRIMARY KEY (subscription_id, seq, name, key)
) WITHOUT ROWID;
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
INSERT INTO "event" VALUES(1,1,'e0',2,1,1790000000000000,-5981343503282,NULL,NULL,NULL,NULL,NULL,'00-eb403007b2266237e83f76ac91e07c21-519df969b29d1ba1-01',NULL,X'22666972737422');
INSERT INTO "event" VALUES(2,1,'e1',2,3,1790000000000000,-5981343701824,NULL,NULL,NULL,NULL,NULL,'00-10a9fa70b37ffcbe5ff7e2a64e6ae911-a349039a5d82b3b1-01',NULL,X'2262616422');
INSERT INTO "event" VALUES(3,1,'e2',2,1,1790000000000000,-5981343716532,NULL,NULL,NULL,NULL,NULL,'00-1b6f0aa07c01bdad98cf1fcb9e0bcbe1-4065d6c985ae1211-01',NULL,X'226F6E636522');
INSERT INTO "event" VALUES(4,1,'e3',2,3,1790000000000000,-5981343724028,NULL,NULL,NULL,NULL,NULL,'00-b3496aa448d2413f8bdcbce5b919f1f1-8ac9e9ce0b4d0761-01',NULL,X'2278787878787878787878787878787878787878787878787878787878787878787878787878787878787878787878787878787878787878787878787878787878787878787878787878787878787878787878787878787878787878787878787878787878787878787878787878787878787878787878787878787878787878787878787878787878787878787878787878787878787878787878787878787878787878787878787878787878787878787878787878787878787878787878787878787878787878787878787878787878787878787878787878787878787878787878787878787878787878787878787878787878787878787878787878787878787878787878787878787878787878787878787878787878787878787878787878787878787878787878787878787878787878787878787878787878787878787878787878787878787878787878787878787878787878787878787878787878787878787878787878787878787878787878787878787878787878787878787878787878787878787878787878787878787878787878787878787878787878787878787878787878787878787878787878787878787878787878787878787878787878787878787878787878787878787878787878787878787878787878787878787878787878787878787878787878787878787878787878787878787878787878787878787878787878787878787878787878787878787878787878787878787878787878787878787878787878787878787878787878787878787878787878787878787878787878787878787878787878787878787878787878787878787878787878787878787878787878787878787878787878787878787878787878787878787878787878787878787878787878787878787878787878787878787878787878787878787878787878787878787878787878787878787878787878787878787878787878787878787878787878787878787878787878787878787878787878787878787878787878787878787878787878787878787878787878787878787878787878787878787878787878787878787878787878787878787878787878787878787878787878787878787878787878787878787878787878787878787878787878787878787878787878787878787878787878787878787878787878787878787878787878787878787878787878787878787878787878787878787878787822');
INSERT INTO "event" VALUES(5,1,X'0190F3A27C1E7A3B8D2F5B6C7D8E9F00',5,4,1790000000000000,-5981343736690,NULL,NULL,'five',NULL,NULL,NULL,NULL,X'22776974682061205555494422');
INSERT INTO "event" VALUES(6,1,'late',5,4,1790000000000000,-5981343740547,1790003600000000,NULL,NULL,NULL,NULL,'00-2bc76966f5516e2a55bcca1e6a4943a1-b72ff2b6e489a5e1-01','{"notbefore": "2026-09-21T15:13:20+00:00"}',X'226C61746522');
CREATE TABLE keyed (
  -- Like ready, for deliveries that are due and wait for the turn of their key.
  subscription_id INTEGER NOT NULL,
  key TEXT NOT NULL, -- empty: without one
  rank REAL NOT NULL, -- the priority with the other sign: the lowest one goes first
  visible_us INTEGER NOT NULL,
  seq INTEGER NOT NULL,
  attempt INTEGER NOT NULL,
  failures INTEGER NOT NULL,
  abandoned INTEGER NOT NULL,
  aged_us INTEGER, -- as visible_us, NULL without priorities: then the key of this table is enough
  PRIMARY KEY (subscription_id, key, rank, visible_us, seq)
) WITHOUT ROWID;
CREATE TABLE label (
  -- The truths about events. The latest one of an event counts. The event may be unknown yet.
  id INTEGER NOT NULL PRIMARY KEY,
  event_id TEXT NOT NULL,
  source TEXT, -- NULL: of any source
  truth TEXT NOT NULL, -- as JSON
  true_us INTEGER NOT NULL, -- a later one replaces an earlier one
  made_us INTEGER NOT NULL,
  made_by TEXT NOT NULL
);
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
CREATE TABLE listener (
  subscription_id INTEGER NOT NULL,
  worker_id INTEGER NOT NULL,
  PRIMARY KEY (subscription_id, worker_id)
) WITHOUT ROWID;
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
INSERT INTO "lot" VALUES(1,1,1,1,1,1,'live',1790000000000000,1790000000000000,1790000000000000,1790000000000000,1,1,NULL,0);
INSERT INTO "lot" VALUES(2,1,2,1,1,2,'live',1790000000000000,1790000000000000,1790000000000000,1790000000000000,1,1,NULL,0);
INSERT INTO "lot" VALUES(3,4,1,2,5,1,'live',1790000000000000,1790000000000000,1790000000000000,1790000000000000,1,1,NULL,0);
INSERT INTO "lot" VALUES(7,2,2,4,5,2,'live',1790000000000000,1790000000000000,1790000000000000,1790000000000000,1,1,NULL,0);
INSERT INTO "lot" VALUES(9,2,2,2,3,2,'live',1790000000000000,1790000000000000,1790000000000000,1790000000000000,1,1,NULL,0);
CREATE TABLE model_alias (
  name TEXT NOT NULL,
  alias TEXT NOT NULL,
  version TEXT NOT NULL,
  follows TEXT, -- the address and options of a foreign alias as JSON, NULL for our own alias
  PRIMARY KEY (name, alias)
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
INSERT INTO "model_version" VALUES(1,'read','1.0.0','callable','ac6d5f161d6d','builtins:len','Return the number of items in a container.',1790000000000000,NULL,'{"parts": {"code": "ac6d5f161d6d"}}',NULL,NULL);
INSERT INTO "model_version" VALUES(2,'strict','1.0.0','callable','4098543b607f',NULL,NULL,1790000000000000,NULL,'{"parts": {"code": "4098543b607f"}}',NULL,NULL);
INSERT INTO "model_version" VALUES(3,'count','1.0.0','callable','ac6d5f161d6d','builtins:len','Return the number of items in a container.',1790000000000000,NULL,'{"parts": {"code": "ac6d5f161d6d"}}',NULL,NULL);
CREATE TABLE name (
  -- The sources and types of events, each written once.
  id INTEGER NOT NULL PRIMARY KEY,
  text TEXT NOT NULL UNIQUE
);
INSERT INTO "name" VALUES(1,'other');
INSERT INTO "name" VALUES(2,'/here');
INSERT INTO "name" VALUES(3,'page');
INSERT INTO "name" VALUES(4,'mltrigger.event');
INSERT INTO "name" VALUES(5,'mltrigger');
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
INSERT INTO "outcome" VALUES(1,1,1,1,0,0,0,0,'5');
INSERT INTO "outcome" VALUES(1,2,1,3,0,0,0,0,'3');
INSERT INTO "outcome" VALUES(1,3,1,3,1,0,0,0,'4');
INSERT INTO "outcome" VALUES(1,4,1,3,2,0,0,0,'900');
INSERT INTO "outcome" VALUES(1,5,1,3,3,0,0,0,'11');
INSERT INTO "outcome" VALUES(2,1,1,2,0,0,0,0,'"first"');
INSERT INTO "outcome" VALUES(2,2,1,9,0,2,NULL,NULL,NULL);
INSERT INTO "outcome" VALUES(2,3,1,9,1,1,NULL,NULL,NULL);
INSERT INTO "outcome" VALUES(2,4,1,7,0,0,0,0,NULL);
INSERT INTO "outcome" VALUES(2,5,1,7,1,0,0,0,'"with a UUID"');
CREATE TABLE pace (
  -- The state of the limits of a subscription. Claims lock its row.
  subscription_id INTEGER NOT NULL PRIMARY KEY,
  turn INTEGER NOT NULL DEFAULT 0, -- the last one that was given
  paid_us INTEGER NOT NULL DEFAULT 0 -- the total rate is used up to here
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
INSERT INTO "ready" VALUES(1,1790003600000000,6,0,0,0);
INSERT INTO "ready" VALUES(2,1790000000205995,3,1,1,0);
INSERT INTO "ready" VALUES(2,1790003600000000,6,0,0,0);
INSERT INTO "ready" VALUES(3,1790000000000000,2,0,0,0);
INSERT INTO "ready" VALUES(3,1790000000000000,4,0,0,0);
INSERT INTO "ready" VALUES(4,1790003600000000,6,0,0,0);
CREATE TABLE repeat (
  -- Events that were published again with the same id. The repeats were not delivered.
  seq INTEGER NOT NULL PRIMARY KEY,
  times INTEGER NOT NULL,
  differing INTEGER NOT NULL, -- repeats with other data than the first time
  repeated_us INTEGER NOT NULL
);
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
INSERT INTO "revision" VALUES(1,1,1,0,0,1,NULL,NULL,1790000000000000);
INSERT INTO "revision" VALUES(2,2,1,0,0,1,NULL,NULL,1790000000000000);
INSERT INTO "revision" VALUES(3,3,1,0,0,1,'{"type":["page"]}','MessageAttributes',1790000000000000);
INSERT INTO "revision" VALUES(4,4,1,0,0,1,NULL,NULL,1790000000000000);
CREATE TABLE schema_version (version INTEGER NOT NULL);
INSERT INTO "schema_version" VALUES(12);
CREATE TABLE setting (name TEXT NOT NULL PRIMARY KEY, value TEXT NOT NULL);
INSERT INTO "setting" VALUES('generation','7');
CREATE TABLE source (
  url TEXT NOT NULL PRIMARY KEY,
  topic_id INTEGER NOT NULL REFERENCES topic (id)
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
INSERT INTO "subscription" VALUES(1,'done',1,'read:1.0.0',NULL,'{"timeout_s": 60.0, "lease_s": null, "max_attempts": 5, "batch_size": null, "batch_window_s": 0.0, "adaptive": false, "batch_budget_s": 0.25, "max_concurrency": null, "max_rate_per_s": null, "max_age_s": null, "isolation": "thread", "memory_limit_mb": null, "ack": "completed", "input": "json", "unwrap": 1, "max_object_mb": 1024, "max_descendants": 10000, "settle_s": 0.3}',1790000000000000,1,0,NULL,NULL,0,'live',NULL,NULL);
INSERT INTO "subscription" VALUES(2,'strict',1,'strict:1.0.0',NULL,'{"timeout_s": 60.0, "lease_s": null, "max_attempts": 5, "batch_size": null, "batch_window_s": 0.0, "adaptive": false, "batch_budget_s": 0.25, "max_concurrency": null, "max_rate_per_s": null, "max_age_s": null, "isolation": "thread", "memory_limit_mb": null, "ack": "completed", "input": "json", "unwrap": 1, "max_object_mb": 1024, "max_descendants": 10000, "settle_s": 0.3}',1790000000000000,1,0,NULL,NULL,0,'live',NULL,NULL);
INSERT INTO "subscription" VALUES(3,'filtered',1,'count:1.0.0',NULL,'{"timeout_s": 60.0, "lease_s": null, "max_attempts": 5, "batch_size": null, "batch_window_s": 0.0, "adaptive": false, "batch_budget_s": 0.25, "max_concurrency": null, "max_rate_per_s": null, "max_age_s": null, "isolation": "thread", "memory_limit_mb": null, "ack": "completed", "input": "json", "unwrap": 1, "max_object_mb": 1024, "max_descendants": 10000, "settle_s": 0.3}',1790000000000000,1,0,'{"type":["page"]}','MessageAttributes',0,'live',NULL,NULL);
INSERT INTO "subscription" VALUES(4,'behind',1,'count:1.0.0',NULL,'{"timeout_s": 60.0, "lease_s": null, "max_attempts": 5, "batch_size": null, "batch_window_s": 0.0, "adaptive": false, "batch_budget_s": 0.25, "max_concurrency": null, "max_rate_per_s": null, "max_age_s": null, "isolation": "thread", "memory_limit_mb": null, "ack": "completed", "input": "json", "unwrap": 1, "max_object_mb": 1024, "max_descendants": 10000, "settle_s": 0.3}',1790000000000000,1,0,NULL,NULL,0,'live',NULL,NULL);
CREATE TABLE tally (
  subscription_id INTEGER NOT NULL,
  worker_id INTEGER NOT NULL, -- in the key, so that workers never wait for each other's counters
  outcome TEXT NOT NULL,
  n INTEGER NOT NULL,
  PRIMARY KEY (subscription_id, worker_id, outcome)
) WITHOUT ROWID;
INSERT INTO "tally" VALUES(1,1,'succeeded',5);
INSERT INTO "tally" VALUES(2,1,'dead',1);
INSERT INTO "tally" VALUES(2,1,'failed',1);
INSERT INTO "tally" VALUES(2,1,'succeeded',3);
CREATE TABLE topic (
  id INTEGER NOT NULL PRIMARY KEY,
  name TEXT NOT NULL UNIQUE,
  created_us INTEGER NOT NULL
);
INSERT INTO "topic" VALUES(1,'pages',1790000000000000);
CREATE TABLE turn (
  -- The keys of a subscription in their order. The one with the lowest turn goes first.
  subscription_id INTEGER NOT NULL,
  key TEXT NOT NULL,
  turn INTEGER NOT NULL,
  bonus INTEGER NOT NULL, -- how many more events its first turn has
  served INTEGER NOT NULL DEFAULT 0, -- events since the last one that went first by its age
  PRIMARY KEY (subscription_id, key)
) WITHOUT ROWID;
CREATE TABLE unsent (
  -- Events that were published here and that the outside service has not confirmed yet.
  seq INTEGER NOT NULL PRIMARY KEY,
  since_us INTEGER NOT NULL
);
CREATE TABLE worker (
  id INTEGER NOT NULL PRIMARY KEY,
  started_us INTEGER NOT NULL,
  seen_us INTEGER NOT NULL,
  place TEXT -- where it holds a lock as long as it lives, NULL without one
);
INSERT INTO "worker" VALUES(1,1790000000000000,1790000000000000,'a machine');
CREATE INDEX event_topic ON event (topic_id);
CREATE INDEX event_by_rows ON event (topic_id) WHERE by_rows_us IS NOT NULL;
CREATE INDEX subscription_parent ON subscription (parent_id) WHERE parent_id IS NOT NULL;
CREATE INDEX label_event ON label (event_id);
CREATE INDEX keyed_aged ON keyed (subscription_id, key, aged_us) WHERE aged_us IS NOT NULL;
CREATE INDEX turn_first ON turn (subscription_id, turn, key);
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
SELECT o.lot_id + o.place AS id, o.seq, o.subscription_id, o.attempt,
  l.model_version_id, l.role, CASE o.outcome WHEN 0 THEN 'succeeded' WHEN 1 THEN 'failed' WHEN 2 THEN 'dead' WHEN 3 THEN 'skipped' WHEN 4 THEN 'abandoned' WHEN 5 THEN 'interrupted' WHEN 6 THEN 'stale' WHEN 7 THEN 'running' END AS outcome,
  coalesce(d.reason, l.reason) AS reason, d.visible_us, l.received_us,
  l.started_us + coalesce(o.began_us, 0) AS started_us,
  CASE WHEN o.took_us IS NULL THEN l.finished_us
    ELSE l.started_us + coalesce(o.began_us, 0) + o.took_us END AS finished_us,
  l.settled_us, l.batch_size, l.worker_id,
  coalesce(o.output, d.output, CASE o.outcome WHEN 0 THEN 'null' END) AS output,
  d.error_type, d.error, d.traceback, d.stdout, l.binding, d.measures
FROM lot l
JOIN outcome o ON o.subscription_id = l.subscription_id AND o.seq BETWEEN l.low AND l.high
  AND o.lot_id = l.id
LEFT JOIN detail d
  ON d.subscription_id = o.subscription_id AND d.seq = o.seq AND d.attempt = o.attempt;
CREATE VIEW final AS
SELECT o.seq, o.subscription_id, o.attempt, CASE o.outcome WHEN 0 THEN 'succeeded' WHEN 1 THEN 'failed' WHEN 2 THEN 'dead' WHEN 3 THEN 'skipped' WHEN 4 THEN 'abandoned' WHEN 5 THEN 'interrupted' WHEN 6 THEN 'stale' WHEN 7 THEN 'running' END AS outcome,
  coalesce(d.reason, l.reason) AS reason
FROM outcome o
LEFT JOIN lot l ON l.id = o.lot_id
LEFT JOIN detail d
  ON d.subscription_id = o.subscription_id AND d.seq = o.seq AND d.attempt = o.attempt
WHERE o.outcome IN (0, 2, 3);
CREATE INDEX outcome_exception ON outcome (lot_id, place, outcome) WHERE outcome <> 0;
COMMIT;
