"""The tables of versions in production: bindings, labels and effects."""

VERSIONS = """
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

CREATE INDEX label_event ON label (event_id);

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
""".strip()
