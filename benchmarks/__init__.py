"""Benchmarks: every figure beside the limit or the peer measured in the same run.

``python -m benchmarks --help``.
"""
