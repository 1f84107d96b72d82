"""HTTP: every topic and every model version of a bus is an API. The extra ``serve`` installs it."""
