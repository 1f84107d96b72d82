"""The store in PostgreSQL: the same tables and statements, for a team and many machines."""

SCHEMA = "mltrigger_bus"
"""Not ``mltrigger``: tables that are sources have their outboxes there."""
