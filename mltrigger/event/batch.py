"""Events of which only the JSON is known."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import overload

from mltrigger.event.data import json_of
from mltrigger.event.event import Event


class Batch(Sequence[Event]):
    """Events with JSON data. Each event is made at its first use, once.

    Parameters
    ----------
    texts : sequence of bytes
        The JSON of the data of each event, as it was delivered.
    make : callable
        Makes the event of a place.
    """

    __slots__ = ("_made", "_make", "texts")

    def __init__(self, texts: Sequence[bytes], make: Callable[[int], Event]) -> None:
        self.texts, self._make = texts, make
        self._made: dict[int, Event] = {}

    def __len__(self) -> int:
        return len(self.texts)

    @overload
    def __getitem__(self, place: int) -> Event: ...
    @overload
    def __getitem__(self, place: slice) -> Sequence[Event]: ...

    def __getitem__(self, place: int | slice) -> Event | Sequence[Event]:
        places = range(len(self))[place]
        if isinstance(places, range):
            return [self[each] for each in places]
        return self._made.get(places) or self._made.setdefault(places, self._make(places))

    def __iter__(self) -> Iterator[Event]:
        return (self[place] for place in range(len(self)))


def texts_of(events: Sequence[Event]) -> Sequence[bytes | None]:
    """Return the JSON that each of *events* was delivered as, ``None`` for other data."""
    return events.texts if isinstance(events, Batch) else list(map(json_of, events))
