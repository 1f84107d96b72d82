"""Looking: the present state of a bus as JSON values. An idle bus costs one number a look."""

from __future__ import annotations

import dataclasses
import math
import time
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from mltrigger.errors import Closed
from mltrigger.notebook.cockpit.figures import NOTHING, Window, figures
from mltrigger.notebook.cockpit.picture import Painter, Picture, depth_shown, summed
from mltrigger.store.outcomes import FINAL, OUTCOMES, ROLES
from mltrigger.text import visible
from mltrigger.versions.selector import Selector

if TYPE_CHECKING:
    from mltrigger.broker import SubscriptionSpec
    from mltrigger.bus import EventBus

AGAIN_S = 2.0
"""The longest time between two whole looks, for states that no commit changes."""
_MOVING_S = 0.5
_FEW_REASONS = 200


@dataclasses.dataclass(frozen=True)
class Found:
    """One look at the chosen subscription, or at all.

    Attributes
    ----------
    shown : mapping
        The parts of the state that come from the store, as JSON values.
    state : str or None
        The state of the chosen subscription, None if none is chosen.
    topic : str or None
        Its topic.
    newest : int
        The number of the newest event, 0 if there is none.
    """

    shown: Mapping[str, Any]
    state: str | None
    topic: str | None
    newest: int


class Looker:
    """Looks at a bus. Reads only changes since the last look.

    Parameters
    ----------
    bus : EventBus
        The bus.
    spec : SubscriptionSpec or None
        The subscription to look at first. None: all.
    monotonic : callable
        Returns seconds.
    """

    def __init__(
        self,
        bus: EventBus,
        spec: SubscriptionSpec | None = None,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._bus, self._monotonic = bus, monotonic
        self._painter = Painter(bus, monotonic)
        # One that is unsubscribed meanwhile is still shown.
        self._known = {} if spec is None else {spec.name: spec}
        self._chosen = self._looked = None if spec is None else spec.name
        self._window: Window | None = None
        self._figures: Mapping[str, Any] = NOTHING
        self._version: object = None
        self._found: Found | None = None
        self._moving = True
        self._row, self._flying, self._generation = -1, -1, 0
        self._reasons: Sequence[str] = ()
        self._reasons_of: tuple[Any, int, float] = None, -1, -math.inf
        self._at_s = 0.0

    @property
    def chosen(self) -> str | None:
        """The subscription that is chosen."""
        return self._chosen

    @property
    def spec(self) -> SubscriptionSpec | None:
        """The same as it was known last, also after its end."""
        return None if self._chosen is None else self._known.get(self._chosen)

    def choose(self, name: str | None) -> None:
        """Look at another subscription from the next look on."""
        self._chosen = name

    def forget(self) -> None:
        """Read everything at the next look."""
        self._found = None

    def look(self) -> Found:
        """Return the present state. Nothing is read again while nothing has happened.

        Raises
        ------
        Closed
            When the bus was closed.
        """
        bus, now_s, chosen = self._bus, self._monotonic(), self._chosen
        if bus.closed:
            raise Closed("this bus is closed: mt.connect(…) opens another one")
        version = bus.watch.version()
        age_s = now_s - self._at_s
        if (
            self._found is not None
            and chosen == self._looked
            and version == self._version
            and age_s < (_MOVING_S if self._moving else AGAIN_S)
        ):
            return self._found
        self._found = self._read(chosen)
        self._version, self._looked, self._at_s = version, chosen, now_s
        if bus.closed:  # the counts may be those of a closed bus
            raise Closed("this bus is closed: mt.connect(…) opens another one")
        return self._found

    def _read(self, chosen: str | None) -> Found:
        # The figures first: an outcome in between is counted, and its row comes with the next look.
        ends = self._bus.log.glance.ends()
        picture = self._painter.paint()
        self._moving = picture.is_open
        self._known |= {each.name: each for each in picture.structure.specs}
        spec = None if chosen is None else self._known.get(chosen)
        number = None if spec is None else spec.id
        self._look_at_attempts(number, ends.row, picture)
        depths = picture.depths
        if spec is None:
            depth = summed(list(depths.values()))
        else:
            depth = depths.get(spec.id) or self._bus.broker.depth(spec)
        self._note(ends.row, sum(each.in_flight for each in depths.values()))
        counts = _counts(picture, number)
        shown = {
            "chosen": chosen,
            "picture": picture.drawn(),
            "counts": {o: n for o, n in counts.items() if o in FINAL},
            "attempts": {o: n for o, n in counts.items() if o not in FINAL and n},
            "depth": depth_shown(depth),
            **self._figures,
            "log": {"rows": sum(counts.values()), "generation": self._generation},
            "names": self._names(picture, number),
        }
        if spec is None:
            return Found(shown, None, None, ends.last)
        return Found(shown, picture.states.get(spec.id, "unsubscribed"), spec.topic, ends.last)

    def _look_at_attempts(self, number: int | None, row: int, picture: Picture) -> None:
        window = self._window
        if window is None or window.subscription_id != number:
            window = self._window = Window(self._bus.log.glance.attempts, number)
            self._figures = NOTHING
        if window.look(row):
            names = picture.structure.names
            labels = {
                n: visible(version if number is not None else f"{name}:{version}")
                for n, (name, version) in names.items()
            }
            self._figures = figures(window.columns(), labels)

    def _note(self, row: int, flying: int) -> None:
        """Count a generation if anything was recorded, begun or given back."""
        if (row, flying) != (self._row, self._flying):
            self._row, self._flying, self._generation = row, flying, self._generation + 1

    def _names(self, picture: Picture, number: int | None) -> dict[str, Any]:
        names = picture.structure.names
        spec = next((s for s in picture.structure.specs if s.id == number), None)
        model = None if spec is None else Selector.parse(spec.selector).name
        versions = [v for name, v in names.values() if model in (None, name)]
        return {
            "versions": [visible(v) for v in dict.fromkeys(versions)],
            "topics": [visible(name) for name in picture.topics],
            "reasons": list(self._known_reasons(picture))[:_FEW_REASONS],
            "more_reasons": max(0, len(self._reasons) - _FEW_REASONS),
            "roles": list(ROLES),
            "outcomes": list(OUTCOMES),
            "bindings": list(picture.structure.bindings.get(number or 0, ())),
        }

    def _known_reasons(self, picture: Picture) -> Sequence[str]:
        """Return the reasons of dead letters.

        They are read when their number is another one. As many may have other reasons: they are
        read some time after anything was recorded.
        """
        dead = {s: depth.dead for s, depth in picture.depths.items() if depth.dead}
        before, generation, at_s = self._reasons_of
        now_s = self._monotonic()
        is_old = generation != self._generation and now_s - at_s >= AGAIN_S
        if dead != before or is_old:
            found = {r for s in dead for r in self._bus.log.dead_reasons(s)}
            self._reasons = [visible(r) for r in sorted(found)]
            self._reasons_of = dead, self._generation, now_s
        return self._reasons


def _counts(picture: Picture, number: int | None) -> dict[str, int]:
    """Return attempts by outcome of one subscription, or of all together."""
    if number is not None:
        return dict(picture.tallies.get(number, {}))
    found: dict[str, int] = {}
    for spec in picture.structure.specs:
        for outcome, n in picture.tallies.get(spec.id, {}).items():
            found[outcome] = found.get(outcome, 0) + n
    return {outcome: found[outcome] for outcome in OUTCOMES if outcome in found}
