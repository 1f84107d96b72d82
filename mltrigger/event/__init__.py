"""The event: a CloudEvent 1.0, its JSON, its ids, and the envelopes that it arrives in."""
