"""Making and removing the outbox and the triggers of a table of PostgreSQL."""

from __future__ import annotations

import contextlib
from collections.abc import Callable

from mltrigger.errors import StoreError
from mltrigger.sources.table.place import TablePlace
from mltrigger.sources.table.postgresql_server import LOCK_S, Server
from mltrigger.sources.table.postgresql_sql import FEEDS, PostgresSql, Shape
from mltrigger.sources.table.quoting import ident

_ELSEWHERE = """
SELECT n.nspname, c.relname, t.tgname FROM pg_trigger t
JOIN pg_proc p ON p.oid = t.tgfoid JOIN pg_namespace f ON f.oid = p.pronamespace
JOIN pg_class c ON c.oid = t.tgrelid JOIN pg_namespace n ON n.oid = c.relnamespace
WHERE f.nspname = 'mltrigger' AND p.proname = %s AND t.tgrelid <> %s AND t.tgparentid = 0
  AND NOT EXISTS (SELECT FROM pg_inherits WHERE inhrelid = t.tgrelid)
"""


class Setup:
    """Makes and removes the things of one table.

    Parameters
    ----------
    place, sql, server
        The table, its SQL, and the connection.
    """

    def __init__(self, place: TablePlace, sql: PostgresSql, server: Server) -> None:
        self._place, self._sql, self._server = place, sql, server

    def make(self, look: Callable[[], Shape], again: bool) -> None:
        """Make everything in the present transaction, *again* if the feed is known.

        *look* returns the table as it is. It is asked again once the table is locked.
        """
        shape = look()
        self._check_owner(shape)
        self._server.execute(f"SET LOCAL lock_timeout = '{LOCK_S}s'")
        self._server.execute("SELECT pg_advisory_xact_lock(hashtext('mltrigger.feeds'))")
        if not self._server.query("SELECT to_regnamespace('mltrigger') IS NOT NULL")[0][0]:
            self._server.execute("CREATE SCHEMA mltrigger")
        # from here no other transaction writes: rows are either counted or events
        self._server.execute(f"LOCK TABLE {shape.name} IN SHARE ROW EXCLUSIVE MODE")
        shape = look()
        self._server.execute(FEEDS)
        self._server.execute(self._sql.outbox_sql())
        self._server.execute(self._sql.full_sql())
        if not again:
            self._server.execute(self._sql.claim(shape))
        for other, name, trigger in self._server.query(
            _ELSEWHERE, (self._place.outbox, shape.relation)
        ):
            self._server.execute(f"DROP TRIGGER {ident(trigger)} ON {ident(other)}.{ident(name)}")
        self._server.execute(self._sql.function(shape))
        if self._is_foreign(shape):
            self._server.execute(
                f"ALTER FUNCTION {self._sql.outbox}() OWNER TO {ident(shape.owner)}"
            )
            self._server.execute(f"GRANT USAGE ON SCHEMA mltrigger TO {ident(shape.owner)}")
            self._server.execute(
                f"GRANT SELECT, INSERT ON {self._sql.outbox} TO {ident(shape.owner)}"
            )
            self._server.execute(
                f"GRANT SELECT, UPDATE ON SEQUENCE {self._sql.full} TO {ident(shape.owner)}"
            )
        there = {
            name
            for (name,) in self._server.query(
                "SELECT tgname FROM pg_trigger WHERE tgrelid = %s", (shape.relation,)
            )
        }
        for on in self._place.on:
            if self._sql.trigger(on) in there:
                self._server.execute(f"DROP TRIGGER {ident(self._sql.trigger(on))} ON {shape.name}")
            self._server.execute(self._sql.trigger_sql(on, shape))
        if again and not there.issuperset(map(self._sql.trigger, self._place.on)):
            self._server.execute(
                f"UPDATE mltrigger.feeds SET remade = now(), relation = {shape.relation}, rows ="
                f" (SELECT count(*) FROM {shape.name}) - taken - (SELECT count(*) FROM"
                f" {self._sql.outbox} WHERE change = 'insert')"
                f" WHERE outbox = {self._sql.feed}"
            )

    def remove(self) -> None:
        """Remove everything that :meth:`make` made."""
        with self._server.transaction():
            if not self._server.query("SELECT to_regclass('mltrigger.feeds') IS NOT NULL")[0][0]:
                return
            self._server.execute(f"SET LOCAL lock_timeout = '{LOCK_S}s'")
            for statement in self._sql.removal():
                self._server.execute(statement)
            if not self._server.query("SELECT 1 FROM mltrigger.feeds LIMIT 1"):
                self._server.execute("DROP TABLE mltrigger.feeds")
                with contextlib.suppress(Exception), self._server.open().transaction():
                    self._server.execute("DROP SCHEMA mltrigger")  # if nobody else uses it

    def _is_foreign(self, shape: Shape) -> bool:
        """Whether the table belongs to another role than ours."""
        return bool(self._server.query("SELECT current_user <> %s", (shape.owner,))[0][0])

    def _check_owner(self, shape: Shape) -> None:
        """Raise StoreError unless the function of the trigger can belong to the table's owner.

        It runs with the rights of its owner, and casts of the table's types run inside.
        """
        ((is_super,),) = self._server.query(
            "SELECT rolsuper FROM pg_roles WHERE rolname = current_user"
        )
        if self._is_foreign(shape) and not is_super:
            raise StoreError(
                f"{self._place.shown} belongs to the role {shape.owner!r}: let that role run the"
                " SQL of `mltrigger table sql`, which also prints the least privileges of this one"
            )
