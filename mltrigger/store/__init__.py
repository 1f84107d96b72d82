"""The store: one SQL schema for broker, registry and log, through SQLAlchemy Core."""
