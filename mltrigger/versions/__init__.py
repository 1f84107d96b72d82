"""Models: what can be subscribed, how versions are told apart, and how each kind is called."""
