"""Outcomes as a source: one event for each final outcome of a subscription of the same bus."""
