"""A watched folder as a source of events."""
