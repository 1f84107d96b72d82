"""Webhooks: events to the address of somebody else, signed."""
