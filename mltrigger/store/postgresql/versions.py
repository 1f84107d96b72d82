"""The hottest rows as versions with numbers: each change adds one and deletes the one before.

A row that is updated leaves a dead version. An open snapshot keeps all of them, and each look reads
them. Here a look begins at the newest number, and reads no dead version.
The views have the names and columns of the tables that the shared statements know.
"""

from __future__ import annotations

CURSOR = """
CREATE TABLE cursor_of (subscription_id bigint NOT NULL PRIMARY KEY);

CREATE TABLE cursor_version (
  subscription_id bigint NOT NULL,
  number bigint NOT NULL,
  next_seq bigint,
  next_lease bigint NOT NULL,
  last_seq bigint,
  PRIMARY KEY (subscription_id, number)
);

CREATE VIEW cursor AS
SELECT k.subscription_id, v.next_seq, v.next_lease, v.last_seq, v.number
FROM cursor_of k CROSS JOIN LATERAL (
  SELECT * FROM cursor_version WHERE subscription_id = k.subscription_id
  ORDER BY number DESC LIMIT 1) v;

ALTER VIEW cursor ALTER next_lease SET DEFAULT 1;

CREATE FUNCTION add_cursor_version() RETURNS trigger
  LANGUAGE plpgsql SECURITY DEFINER SET search_path = {schema}, pg_temp AS $$
DECLARE
  last cursor_version;
BEGIN
  IF TG_OP = 'INSERT' THEN
    INSERT INTO cursor_of VALUES (NEW.subscription_id) ON CONFLICT DO NOTHING;
    SELECT v.* INTO last FROM cursor_version v WHERE v.subscription_id = NEW.subscription_id
    ORDER BY v.number DESC LIMIT 1;
    IF FOUND THEN
      NEW.next_lease := last.next_lease;
      NEW.last_seq := last.last_seq;
    END IF;
  ELSE
    last.number := OLD.number;
  END IF;
  DELETE FROM cursor_version v
  WHERE v.subscription_id = NEW.subscription_id AND v.number = last.number;
  NEW.number := coalesce(last.number + 1, 0);
  INSERT INTO cursor_version
  VALUES (NEW.subscription_id, NEW.number, NEW.next_seq, NEW.next_lease, NEW.last_seq);
  RETURN NEW;
END $$;

CREATE TRIGGER add_version INSTEAD OF INSERT OR UPDATE ON cursor
FOR EACH ROW EXECUTE FUNCTION add_cursor_version()
"""
TALLY = """
CREATE TABLE tally_of (
  subscription_id bigint NOT NULL,
  worker_id bigint NOT NULL,
  outcome text COLLATE "C" NOT NULL,
  PRIMARY KEY (subscription_id, worker_id, outcome)
);

CREATE TABLE tally_version (
  subscription_id bigint NOT NULL,
  worker_id bigint NOT NULL,
  outcome text COLLATE "C" NOT NULL,
  number bigint NOT NULL,
  n bigint NOT NULL,
  PRIMARY KEY (subscription_id, worker_id, outcome, number)
);

CREATE VIEW tally AS
SELECT k.subscription_id, k.worker_id, k.outcome, v.n
FROM tally_of k CROSS JOIN LATERAL (
  SELECT n FROM tally_version WHERE subscription_id = k.subscription_id
    AND worker_id = k.worker_id AND outcome = k.outcome
  ORDER BY number DESC LIMIT 1) v;

CREATE FUNCTION add_tally_version() RETURNS trigger
  LANGUAGE plpgsql SECURITY DEFINER SET search_path = {schema}, pg_temp
  SET enable_seqscan = off SET enable_bitmapscan = off AS $$
DECLARE
  last bigint;
  before bigint;
BEGIN
  SELECT v.number, v.n INTO last, before FROM tally_version v
  WHERE v.subscription_id = NEW.subscription_id AND v.worker_id = NEW.worker_id
    AND v.outcome = NEW.outcome
  ORDER BY v.number DESC LIMIT 1;
  IF NOT FOUND THEN
    INSERT INTO tally_of VALUES (NEW.subscription_id, NEW.worker_id, NEW.outcome);
  END IF;
  DELETE FROM tally_version v
  WHERE v.subscription_id = NEW.subscription_id AND v.worker_id = NEW.worker_id
    AND v.outcome = NEW.outcome AND v.number = last;
  INSERT INTO tally_version VALUES (NEW.subscription_id, NEW.worker_id, NEW.outcome,
    coalesce(last + 1, 0), coalesce(before, 0) + NEW.n);
  RETURN NEW;
END $$;

CREATE TRIGGER add_version INSTEAD OF INSERT ON tally
FOR EACH ROW EXECUTE FUNCTION add_tally_version()
"""
_SCRIPTS = {"cursor": CURSOR, "tally": TALLY}
"""The scripts that make a view in place of a table. An INSERT changes a row that is there."""
CONFLICTS = {
    "ON CONFLICT (subscription_id) DO UPDATE SET next_seq = excluded.next_seq": "",
    "ON CONFLICT (subscription_id, worker_id, outcome) DO UPDATE SET n = tally.n + excluded.n": "",
}
"""The words that say the same of a table. A view has no constraints."""
VIEWS = tuple(_SCRIPTS)
TABLES = tuple(f"{table}_version" for table in _SCRIPTS)
STORED = (*TABLES, *(f"{table}_of" for table in _SCRIPTS))
"""The tables behind the views."""


def create(table: str, schema: str) -> str | None:
    """Return the script that makes the versions of *table*, ``None`` for another table."""
    script = _SCRIPTS.get(table)
    return None if script is None else script.format(schema=f'"{schema}"').strip()
