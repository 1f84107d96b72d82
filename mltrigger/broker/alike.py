"""Deliveries that are alike: first attempts of plain events, leased as one range of the log."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Protocol, overload

from mltrigger.broker.values import Delivery


class OneClaim(Protocol):
    """The shared part of deliveries of one claim. It makes each of them."""

    subscription_id: int
    lease: int
    received_us: int

    def delivery(self, place: int) -> Delivery:
        """Return the delivery at *place* of the claim. Again: the same object."""


class Alike(Sequence[Delivery]):
    """First deliveries of plain events, in the order of the log.

    None is abandoned, delayed or in a group. Each delivery is made at its first use. A lot that
    ends well needs only the numbers and the JSON of its events.

    Parameters
    ----------
    claim : OneClaim
        Makes the deliveries.
    seqs : sequence of int
        The numbers of the events: a ``range`` if none is missing between them.
    texts : sequence of bytes
        The JSON of their data.
    first : int
        The place of the first one in the claim.
    """

    __slots__ = ("_first", "claim", "seqs", "texts")

    def __init__(
        self, claim: OneClaim, seqs: Sequence[int], texts: Sequence[bytes], first: int = 0
    ) -> None:
        self.claim, self.seqs, self.texts, self._first = claim, seqs, texts, first

    def __len__(self) -> int:
        return len(self.seqs)

    @overload
    def __getitem__(self, place: int) -> Delivery: ...
    @overload
    def __getitem__(self, place: slice) -> Alike: ...

    def __getitem__(self, place: int | slice) -> Delivery | Alike:
        places = range(len(self))[place]
        if isinstance(places, int):
            return self.claim.delivery(self._first + places)
        part = slice(places.start, places.stop)
        return Alike(self.claim, self.seqs[part], self.texts[part], self._first + places.start)

    def __iter__(self) -> Iterator[Delivery]:
        return map(self.claim.delivery, range(self._first, self._first + len(self)))


def seqs_of(deliveries: Sequence[Delivery]) -> Sequence[int]:
    """Return the numbers of the events of *deliveries*."""
    return deliveries.seqs if isinstance(deliveries, Alike) else [d.seq for d in deliveries]
