"""Opening lots: deliveries become lots of their versions, one behind the other in each slot."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from mltrigger.broker import Delivery
from mltrigger.delivery.bindings import Part
from mltrigger.delivery.lot import Lot, shared_out, suspects_last
from mltrigger.delivery.suspects import Suspects
from mltrigger.versions.running.invoke import Caller

Parts = Sequence[tuple[Part, Sequence[Delivery]]]


def opened(
    parts: Parts,
    slots: int,
    size: Callable[[Caller], int],
    suspects: Suspects,
    now_us: int,
) -> tuple[list[Lot], list[Delivery]]:
    """Return a lot for each of at most so many *slots*, and the deliveries that are left over.

    Lots of further versions follow in the same slots, see :attr:`Lot.then`. Of an ordered group
    only the events of one version begin.
    """
    heads: list[Lot] = []
    left: list[Delivery] = []
    if len(parts) > 1:
        parts, left = _one_version_a_group(parts)
    for part, own in parts:
        by, invoker = part
        if not invoker.batches:  # each is asked for on its own
            own = list(own)
        shared = shared_out(own, slots, size(invoker), invoker.batches, suspects)
        lots = [Lot(each, by, invoker, now_us) for each in suspects_last(shared[:slots])]
        left += [d for rest in shared[slots:] for d in rest]
        room = slots - len(heads)
        heads += lots[:room]
        for place, lot in enumerate(lots[room:]):
            heads[place].chain[-1].then = lot
    return heads, left


def _one_version_a_group(parts: Parts) -> tuple[Parts, list[Delivery]]:
    """Hold back the events of a group that another version than that of its first one answers."""
    first: dict[str, tuple[int, int]] = {}
    for place, (_, own) in enumerate(parts):
        for d in own:
            if d.group is not None:
                first[d.group] = min(first.get(d.group, (d.seq, place)), (d.seq, place))
    if not first:
        return parts, []
    kept, left = [], []
    for place, (part, own) in enumerate(parts):
        mine = [d for d in own if d.group is None or first[d.group][1] == place]
        left += [d for d in own if d.group is not None and first[d.group][1] != place]
        if mine:
            kept.append((part, mine))
    return kept, left
