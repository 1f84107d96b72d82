"""Brokers: who keeps events until a listener has settled them. ``base`` is the seam; each other file is one side of it."""
