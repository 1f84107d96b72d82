"""Brokers as addresses of models: the model of an outlet, whose call sends the events."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Sequence
from typing import Any

from mltrigger.errors import InvalidModel, InvalidName, MltriggerError, ModelFailure
from mltrigger.event.event import Event
from mltrigger.sources.brokers.client import Line, check_library, said
from mltrigger.sources.brokers.messages import Outgoing, outgoing
from mltrigger.sources.brokers.place import BrokerPlace, place_of
from mltrigger.text import one_line, redacted, short
from mltrigger.versions.address import Address
from mltrigger.versions.scheme import Description, Endpoint, Scheme, Setting
from mltrigger.versions.schemes.failures import attempt, in_one_call, unavailable, unfit
from mltrigger.versions.schemes.http.reach import Reach
from mltrigger.versions.schemes.options import model_name


class BrokerScheme(Scheme):
    """``kafka://broker/topic`` and others: each event is sent as a CloudEvent in binary mode.

    It keeps its id and source. The output is ``None``. A broker that is away, or has no such queue
    or stream yet, is waited for: no attempt is spent. A message that it refuses is dead at once.
    """

    def describe(self, address: Address) -> Description:
        """See :meth:`Scheme.describe`."""
        address.checked()
        try:
            place = place_of(address.text, sending=True)
            check_library(place.kind)
        except InvalidName as error:
            raise InvalidModel(str(error)) from None
        return Description(
            model_name(f"{place.kind}-{place.slug()}", place.kind), about=f"sends to {place.shown}"
        )

    def open(self, address: Address, setting: Setting) -> Endpoint:
        """See :meth:`Scheme.open`."""
        return _Sender(place_of(address.text, sending=True), setting.timeout_s)


class _Sender(Endpoint):
    batches = True

    def __init__(self, place: BrokerPlace, timeout_s: float) -> None:
        self._place, self._timeout_s = place, timeout_s
        self._line: Line | None = None
        self._reach = Reach()
        self._guard = threading.Lock()

    def warm_up(self) -> None:
        """Raise when the password is missing. The broker may be away."""
        self._place.secret()

    def call(self, events: Sequence[Event]) -> Sequence[Any]:
        """Send *events* in their order."""
        return in_one_call([attempt(_ready, event) for event in events], self._sent)

    def _sent(self, parts: list[Outgoing]) -> list[Any]:
        with self._guard:
            try:
                line = self._opened()
                answers = line.run(_all(line, parts), 0.9 * self._timeout_s)
            except MltriggerError as error:
                raise self._away(str(error)) from None
            outputs = [self._output(line, answer) for answer in answers]
            away = [each for each in outputs if isinstance(each, ModelFailure) and each.throttled]
            if away:
                self._drop()
            else:
                self._reach.answered()
            return outputs

    def _output(self, line: Line, answer: BaseException | None) -> Any:
        if answer is None:
            return None
        if not isinstance(answer, Exception):
            raise answer
        why = short(one_line(redacted(self._place.without_secret(said(answer)))), 300)
        if line.client.refuses(answer):
            return ModelFailure(
                f"{self._place.shown} refuses the message: {why}",
                reason="refused",
                permanent=True,
                kind=type(answer).__name__,
            )
        if line.client.is_outage(answer):
            return self._away(why)
        return ModelFailure(f"{self._place.shown}: {why}", kind=type(answer).__name__)

    def _away(self, why: str) -> ModelFailure:
        self._drop()
        delay_s = self._reach.away(silent=False)
        return unavailable(f"{self._place.shown}: {why}", "BrokerAway", delay_s)

    def _opened(self) -> Line:
        if self._line is None:
            self._line = Line(self._place)
            self._line.open(sending=True)
        return self._line

    def _drop(self) -> None:
        line, self._line = self._line, None
        if line is not None:
            line.close()

    def close(self) -> None:
        """Disconnect."""
        with self._guard:
            self._drop()


def _ready(event: Event) -> Outgoing:
    try:
        return outgoing(event)
    except MltriggerError as error:
        raise unfit(f"the event cannot be sent: {error}") from None


async def _all(line: Line, parts: Sequence[Outgoing]) -> list[BaseException | None]:
    return await asyncio.gather(*map(line.client.send, parts), return_exceptions=True)
