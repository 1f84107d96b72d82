"""The caller of a model in this process."""

from __future__ import annotations

from mltrigger.versions.address import Address
from mltrigger.versions.describe import Model
from mltrigger.versions.running.invoke import Caller
from mltrigger.versions.running.surroundings import Surrounded
from mltrigger.versions.running.thread import Invoker
from mltrigger.versions.scheme import Setting


def called(model: Model, setting: Setting) -> Caller:
    """Return the caller of *model* in this process: in a thread, on an event loop, or its address.

    Raises
    ------
    BaseException
        Any error of the model while it is loaded, or of its endpoint while it is opened.
    """
    if isinstance(model.target, Address):
        from mltrigger.versions.running.remote import RemoteInvoker

        return RemoteInvoker(model, setting)
    return Surrounded(model, lambda: _in_process(model, setting))


def _in_process(model: Model, setting: Setting) -> Caller:
    if model.kind == "async":
        from mltrigger.versions.running.asynchronous import AsyncInvoker

        return AsyncInvoker(model, setting.timeout_s)
    return Invoker(model)
