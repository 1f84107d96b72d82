"""Time as a source: one event a tick, whatever the number of listeners."""
