"""Where a model runs, and how it is called there."""
