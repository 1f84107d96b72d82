"""The commands that repair: dead letters again, or away, and subscriptions that pause."""
