"""The cockpit: a bus or one of its subscriptions, live, to look at and to steer.

``widget.py`` is the thin part that a front end talks to. The others are plain services. Each has
its parts passed in, and its own tests need no browser.
"""
