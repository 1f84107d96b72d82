"""The store: one SQLite database for broker, registry and log."""
