"""Models at addresses: the endpoint of their scheme, opened once."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from mltrigger.errors import InvalidModel
from mltrigger.event.event import Event
from mltrigger.versions.address import Address
from mltrigger.versions.describe import Model
from mltrigger.versions.running.thread import Invoker
from mltrigger.versions.scheme import Setting, scheme_of


class RemoteInvoker(Invoker):
    """Calls the model at an address. Never raises, once it is made.

    Parameters
    ----------
    model : Model
        Its target is an :class:`~mltrigger.versions.address.Address`.
    setting : Setting
        The timeout and concurrency of the subscription.

    Raises
    ------
    Exception
        If the endpoint cannot be opened or warmed up: its server does not answer, or its file is
        missing.
    """

    grace_s = 2.0
    runs_here = False
    tells_others = True
    _ours = True

    def __init__(self, model: Model, setting: Setting) -> None:
        if not isinstance(model.target, Address):
            raise InvalidModel(f"model {model.name!r} has no address")
        self._endpoint = scheme_of(model.target).open(model.target, setting)
        try:
            self._endpoint.warm_up()
            super().__init__(model)
        except BaseException:
            self._endpoint.close()
            raise
        self.batches = self._endpoint.batches
        self.concurrency = self._endpoint.concurrency

    def close(self) -> None:
        """Close the endpoint. Idempotent."""
        self._endpoint.close()

    def _parts(self, model: Model) -> tuple[Callable[[Any], Any], Callable[[Event], Any]]:
        endpoint = self._endpoint
        return (endpoint.call if endpoint.batches else self._alone), lambda event: event

    def _alone(self, event: Event) -> Any:
        (output,) = self._endpoint.call([event])
        if isinstance(output, BaseException):
            raise output
        return output
