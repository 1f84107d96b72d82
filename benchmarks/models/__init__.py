"""Models through mltrigger beside calling them directly, beside MLServer, and the cost of one HTTP
model call and of a schema.
"""
