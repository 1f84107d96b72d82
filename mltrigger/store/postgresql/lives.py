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
  PERFORM setval('event_seq', last_value + {gap}) FROM event_seq;
  PERFORM setval('lot_seq', last_value + {gap}) FROM lot_seq;
  UPDATE cursor SET next_lease = next_lease + {gap};
  UPDATE setting SET value = (value::bigint + {gap})::text WHERE name = 'generation';
  INSERT INTO life VALUES (gen_random_uuid());
END $$
"""
_RENEW = "SET LOCAL synchronous_commit TO on; SELECT renew_life(); COMMIT"


def create(schema: str) -> str:
    """Return the script that makes the table and its function."""
    return CREATE.format(schema=f'"{schema}"', gap=_GAP)


def renew(writer: Session) -> None:
    """Let all numbers go on from a later one, and commit that to the disk.

    The transaction of *writer* holds the lock of all writers.
    """
    writer.execute(_RENEW)
