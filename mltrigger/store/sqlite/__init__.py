"""SQLite as a store: connections, commits and the file below them. Nothing here knows a table."""
