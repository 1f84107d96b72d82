"""Tables of a database as a source: a trigger writes an outbox, a relay publishes its rows."""
