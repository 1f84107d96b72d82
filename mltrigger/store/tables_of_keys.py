"""The tables of subscriptions with a key, a priority or a rate for all processes."""

KEYS = """
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

CREATE INDEX keyed_aged ON keyed (subscription_id, key, aged_us) WHERE aged_us IS NOT NULL;

CREATE TABLE turn (
  -- The keys of a subscription in their order. The one with the lowest turn goes first.
  subscription_id INTEGER NOT NULL,
  key TEXT NOT NULL,
  turn INTEGER NOT NULL,
  bonus INTEGER NOT NULL, -- how many more events its first turn has
  served INTEGER NOT NULL DEFAULT 0, -- events since the last one that went first by its age
  PRIMARY KEY (subscription_id, key)
) WITHOUT ROWID;

CREATE INDEX turn_first ON turn (subscription_id, turn, key);

CREATE TABLE pace (
  -- The state of the limits of a subscription. Claims lock its row.
  subscription_id INTEGER NOT NULL PRIMARY KEY,
  turn INTEGER NOT NULL DEFAULT 0, -- the last one that was given
  paid_us INTEGER NOT NULL DEFAULT 0 -- the total rate is used up to here
);
""".strip()
