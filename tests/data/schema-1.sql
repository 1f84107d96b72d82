-- A store as version 1 of the schema kept it, with a few rows of each kind; tests/test_crashes.py brings it to the newest version.

CREATE TABLE schema_version (version INTEGER NOT NULL);
CREATE TABLE topic (id INTEGER NOT NULL, name TEXT NOT NULL, created_us BIGINT NOT NULL, PRIMARY KEY (id), UNIQUE (name));
CREATE TABLE model_version (id INTEGER NOT NULL, name TEXT NOT NULL, version TEXT NOT NULL, kind TEXT NOT NULL, digest TEXT NOT
  NULL, import_path TEXT, description TEXT, created_us BIGINT NOT NULL, PRIMARY KEY (id), CONSTRAINT model_version_identity UNIQUE
  (name, version));
CREATE TABLE model_alias (name TEXT NOT NULL, alias TEXT NOT NULL, version TEXT NOT NULL, PRIMARY KEY (name, alias));
CREATE TABLE ready (subscription_id BIGINT NOT NULL, visible_us BIGINT NOT NULL, seq BIGINT NOT NULL, attempt INTEGER NOT NULL,
  failures INTEGER NOT NULL, abandoned INTEGER NOT NULL, PRIMARY KEY (subscription_id, visible_us, seq)) WITHOUT ROWID;
CREATE TABLE lease (subscription_id BIGINT NOT NULL, seq BIGINT NOT NULL, attempt INTEGER NOT NULL, failures INTEGER NOT NULL,
  abandoned INTEGER NOT NULL, visible_us BIGINT NOT NULL, received_us BIGINT NOT NULL, until_us BIGINT NOT NULL, worker_id BIGINT
  NOT NULL, PRIMARY KEY (subscription_id, seq)) WITHOUT ROWID;
CREATE TABLE dead_letter (subscription_id BIGINT NOT NULL, seq BIGINT NOT NULL, attempt INTEGER NOT NULL, reason TEXT NOT NULL,
  error_type TEXT, error TEXT, traceback TEXT, dead_us BIGINT NOT NULL, PRIMARY KEY (subscription_id, seq)) WITHOUT ROWID;
CREATE TABLE invocation (id INTEGER NOT NULL, seq BIGINT NOT NULL, subscription_id BIGINT NOT NULL, attempt INTEGER NOT NULL,
  model_version_id BIGINT, role TEXT NOT NULL, outcome TEXT NOT NULL, reason TEXT, visible_us BIGINT NOT NULL, received_us BIGINT
  NOT NULL, started_us BIGINT, finished_us BIGINT, settled_us BIGINT NOT NULL, batch_size INTEGER, worker_id BIGINT NOT NULL,
  output TEXT, error_type TEXT, error TEXT, traceback TEXT, stdout TEXT, PRIMARY KEY (id), CONSTRAINT invocation_identity UNIQUE
  (seq, subscription_id, attempt));
CREATE TABLE tally (subscription_id BIGINT NOT NULL, worker_id BIGINT NOT NULL, outcome TEXT NOT NULL, n BIGINT NOT NULL, PRIMARY
  KEY (subscription_id, worker_id, outcome)) WITHOUT ROWID;
CREATE TABLE worker (id INTEGER NOT NULL, started_us BIGINT NOT NULL, seen_us BIGINT NOT NULL, PRIMARY KEY (id));
CREATE TABLE listener (subscription_id BIGINT NOT NULL, worker_id BIGINT NOT NULL, PRIMARY KEY (subscription_id, worker_id))
  WITHOUT ROWID;
CREATE TABLE event (seq INTEGER NOT NULL, topic_id BIGINT NOT NULL, id TEXT NOT NULL, source TEXT NOT NULL, type TEXT NOT NULL,
  time TEXT NOT NULL, subject TEXT, datacontenttype TEXT, dataschema TEXT, traceparent TEXT NOT NULL, extensions TEXT, data BLOB
  NOT NULL, published_us BIGINT NOT NULL, PRIMARY KEY (seq), CONSTRAINT event_identity UNIQUE (id, source, topic_id), FOREIGN
  KEY(topic_id) REFERENCES topic (id));
CREATE TABLE subscription (id INTEGER NOT NULL, name TEXT NOT NULL, topic_id BIGINT NOT NULL, selector TEXT NOT NULL,
  emit_topic_id BIGINT, policy TEXT NOT NULL, since_seq BIGINT NOT NULL, created_us BIGINT NOT NULL, bound INTEGER NOT NULL,
  PRIMARY KEY (id), UNIQUE (name), FOREIGN KEY(topic_id) REFERENCES topic (id), FOREIGN KEY(emit_topic_id) REFERENCES topic (id));
CREATE TABLE source (url TEXT NOT NULL, topic_id BIGINT NOT NULL, PRIMARY KEY (url), FOREIGN KEY(topic_id) REFERENCES topic (id));

INSERT INTO schema_version VALUES (1);
INSERT INTO topic VALUES (1, 'pages', 1789999000000000), (2, 'texts', 1789999000000000);
INSERT INTO model_version VALUES (1, 'read', '1.0.0', 'function', 'abc', NULL, 'Read a page.', 1789999000000000);
INSERT INTO model_alias VALUES ('read', 'champion', '1.0.0');
INSERT INTO worker VALUES (1, 1789999000000000, 1789999000000000);
INSERT INTO listener VALUES (1, 1);
INSERT INTO source VALUES ('file:///scans/*.png', 1);
-- bound from the first event on; gone; bound again after it was gone, when its events of before were forgotten
INSERT INTO subscription VALUES
  (1, 'reader', 1, 'read:1.0.0', 2, '{"timeout_s": 60.0, "lease_s": 10.0, "max_attempts": 5, "batch_size": null, "batch_window_s": 0.0, "max_concurrency": 1}', 0, 1789999000000000, 1),
  (2, 'gone', 1, 'read:1.0.0', NULL, '{"timeout_s": 60.0, "lease_s": 10.0, "max_attempts": 5, "batch_size": null, "batch_window_s": 0.0, "max_concurrency": 1}', 0, 1789999000000000, 0),
  (3, 'again', 1, 'read:1.0.0', NULL, '{"timeout_s": 60.0, "lease_s": 10.0, "max_attempts": 5, "batch_size": null, "batch_window_s": 0.0, "max_concurrency": 1}', 1, 1789999000000000, 1);
INSERT INTO event VALUES
  (1, 1, 'p1', '/old', 'page', '2026-09-21T00:00:01+00:00', NULL, NULL, NULL, '00-00000000000000000000000000000001-0000000000000001-01', NULL, CAST('{"n": 1, "do": "ok"}' AS BLOB), 1789999001000000),
  (2, 1, 'p2', '/old', 'page', '2026-09-21T00:00:02+00:00', NULL, NULL, NULL, '00-00000000000000000000000000000002-0000000000000002-01', NULL, CAST('{"n": 2, "do": "ok"}' AS BLOB), 1789999002000000),
  (3, 1, 'p3', '/old', 'page', '2026-09-21T00:00:03+00:00', NULL, NULL, NULL, '00-00000000000000000000000000000003-0000000000000003-01', NULL, CAST('{"n": 3, "do": "reject"}' AS BLOB), 1789999003000000),
  (4, 1, 'p4', '/old', 'page', '2026-09-21T00:00:04+00:00', NULL, NULL, NULL, '00-00000000000000000000000000000004-0000000000000004-01', NULL, CAST('{"n": 4, "do": "fail"}' AS BLOB), 1789999004000000),
  (5, 1, 'p5', '/old', 'page', '2026-09-21T00:00:05+00:00', NULL, NULL, NULL, '00-00000000000000000000000000000005-0000000000000005-01', NULL, CAST('{"n": 5, "do": "ok"}' AS BLOB), 1789999005000000),
  (6, 1, 'p6', '/old', 'page', '2026-09-21T00:00:06+00:00', NULL, NULL, NULL, '00-00000000000000000000000000000006-0000000000000006-01', NULL, CAST('{"n": 6, "do": "ok"}' AS BLOB), 1789999006000000),
  (7, 2, 't1', '/mltrigger/reader', 'mltrigger.output', '2026-09-21T00:00:07+00:00', NULL, NULL, NULL, '00-00000000000000000000000000000001-0000000000000007-01', '{"causationid": "p1", "hops": 1}', CAST('2' AS BLOB), 1789999007000000);
INSERT INTO invocation (seq, subscription_id, attempt, model_version_id, role, outcome, reason, visible_us, received_us, started_us, finished_us,
  settled_us, batch_size, worker_id, output, error_type, error) VALUES
  (1, 1, 1, 1, 'live', 'failed', 'model_error', 1789999001000000, 1789999001000001, 1789999001000002, 1789999001000003, 1789999001000004, 1, 1, NULL, 'ValueError', 'ValueError'),
  (1, 1, 2, 1, 'live', 'succeeded', NULL, 1789999001000000, 1789999001000001, 1789999001000002, 1789999001000003, 1789999001000004, 1, 1, '2', NULL, NULL),
  (2, 1, 1, 1, 'live', 'succeeded', NULL, 1789999002000000, 1789999002000001, 1789999002000002, 1789999002000003, 1789999002000004, 1, 1, '4', NULL, NULL),
  (3, 1, 1, 1, 'live', 'dead', 'rejected', 1789999003000000, 1789999003000001, 1789999003000002, 1789999003000003, 1789999003000004, 1, 1, NULL, 'Reject', 'Reject'),
  (4, 1, 1, 1, 'live', 'failed', 'model_error', 1789999004000000, 1789999004000001, 1789999004000002, 1789999004000003, 1789999004000004, 1, 1, NULL, 'ValueError', 'ValueError'),
  (5, 1, 1, 1, 'live', 'abandoned', 'lease_expired', 1789999005000000, 1789999005000001, 1789999005000002, 1789999005000003, 1789999005000004, 1, 1, NULL, NULL, NULL),
  (1, 2, 1, 1, 'live', 'succeeded', NULL, 1789999001000000, 1789999001000001, 1789999001000002, 1789999001000003, 1789999001000004, 1, 1, '2', NULL, NULL),
  (2, 3, 1, 1, 'live', 'succeeded', NULL, 1789999002000000, 1789999002000001, 1789999002000002, 1789999002000003, 1789999002000004, 1, 1, '4', NULL, NULL);
INSERT INTO tally VALUES (1, 1, 'succeeded', 2), (1, 1, 'failed', 2), (1, 1, 'dead', 1), (1, 1, 'abandoned', 1), (2, 1, 'succeeded', 1),
  (3, 1, 'succeeded', 1);
INSERT INTO dead_letter VALUES (1, 3, 1, 'rejected', 'Reject', 'unreadable', NULL, 1789999004000000);
-- (subscription, visible, seq, attempt, failures, abandoned)
INSERT INTO ready VALUES (1, 1789999005000000, 4, 1, 1, 0), (1, 1789999009000000, 6, 0, 0, 0), (3, 1789999009000000, 6, 0, 0, 0);
INSERT INTO lease VALUES (1, 5, 2, 0, 1, 1789999005000000, 1789999009000000, 1789999019000000, 1);
