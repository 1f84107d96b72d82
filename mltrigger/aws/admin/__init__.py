"""What a bus needs on AWS: planned, made, checked and taken away.

It administers; it moves no event.
"""
