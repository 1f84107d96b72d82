"""Administration of a bus on AWS: plan, make, check and delete its resources.

It moves no events.
"""
