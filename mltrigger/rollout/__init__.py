"""Versions in production: comparisons, verdicts, and the statistics behind them."""
