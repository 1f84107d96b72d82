"""The lives of a server: from one crash to the next one.

A commit is visible before it is on the disk. A crash undoes the newest commits, and the processes
live on. Some have read rows that are gone. Some run models with leases that are gone. So no number
is given twice: after a crash all of them go on from a later one.

A table without a log of its changes is emptied by a crash, and on a copy that takes over. So it
tells the first writer that there was one.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import uuid

    from mltrigger.store.postgresql.sessions import Session

_GAP = 1 << 20
"""More numbers than are drawn in the second that a server keeps commits from its disk."""
NONE: uuid.UUID | None = None
"""The life that a new process knows."""
CREATE = """
CREATE UNLOGGED TABLE life (value uuid NOT NULL);

INSERT INTO life VALUES (gen_random_uuid());

CREATE FUNCTION renew_life() RETURNS void
  LANGUAGE plpgsql SECURITY DEFINER SET search_path = {schema}, pg_temp AS $$
BEGIN
  IF EXISTS (SELECT 1 FROM life) THEN
    RETURN;
  END IF;
  PERFORM setval('event_seq', last_value + {gap}) FROM event_seq;
  PERFORM setval('lot_seq', last_value + {gap}) FROM lot_seq;
  UPDATE cursor SET next_lease = next_lease + {gap};
  INSERT INTO setting AS s (name, value) VALUES ('generation', {gap})
  ON CONFLICT (name) DO UPDATE SET value = (s.value::bigint + {gap})::text;
  INSERT INTO life VALUES (gen_random_uuid());
END $$
"""
NOW = "(SELECT value FROM life LIMIT 1)"
"""The life of the server, ``NULL`` from a crash to the next writer."""
_RENEW = "SET LOCAL synchronous_commit TO on; SELECT renew_life(); COMMIT"


def create(schema: str) -> str:
    """Return the script that makes the table and its function."""
    return CREATE.format(schema=f'"{schema}"', gap=_GAP)


def renew(writer: Session) -> None:
    """Let all numbers go on from a later one, and commit that to the disk.

    The transaction of *writer* holds the lock of all writers.
    """
    writer.execute(_RENEW)


def now(session: Session, schema: str) -> uuid.UUID | None:
    """Return the life of the server, ``None`` from a crash to the next writer."""
    ((life,),) = session.execute(f'SELECT (SELECT value FROM "{schema}".life LIMIT 1)').fetchall()
    found: uuid.UUID | None = life
    return found
