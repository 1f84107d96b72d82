"""Models at addresses. Each scheme is loaded when an address names it."""
