"""Models behind plain HTTP, and the client that all HTTP schemes share."""
