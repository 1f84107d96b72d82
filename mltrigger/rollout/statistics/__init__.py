"""The arithmetic of comparing two versions: exact, resampled and always-valid.

``exact`` and ``resampling`` hold for one look at the data. ``always`` and ``concurrent`` hold for
any number of looks: stop when you like. Counts come in, numbers go out. Nothing here knows an
event.
"""
