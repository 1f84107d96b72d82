"""Models: their kinds, versions and selectors, and how each is called."""
