"""The store in PostgreSQL: the same tables and statements, for a team and many machines."""
