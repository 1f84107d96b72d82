"""Sources of events: adapters, one folder each. :mod:`mltrigger.broker.source` has the protocol."""
