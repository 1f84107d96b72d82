"""Models in workers: processes of our own that can be killed, or an executor.

The caller's side:

- ``invoker``: calls a model in workers, and decides which event is blamed for a death
- ``processes``, ``process``: all processes of one model, and the pipe to one of them
- ``executor``, ``sending``, ``pools``, ``ray``: any ``concurrent.futures.Executor``
- ``parcel``, ``portable``: the form in which models, events and results travel

The worker's side:

- ``worker``: loads a model once, and calls it as often as asked
- ``child``: the end of the pipe, in a process of our own
"""
