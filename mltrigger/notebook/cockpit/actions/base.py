"""The parts of an action: its place, its preparation and its answer."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from mltrigger.broker import SubscriptionSpec
from mltrigger.errors import InvalidEvent, silently
from mltrigger.notebook.cockpit.code import Call, Name, Script, Step, call
from mltrigger.notebook.cockpit.given import Given
from mltrigger.notebook.cockpit.texts import bounded
from mltrigger.versions.selector import Selector

if TYPE_CHECKING:
    from mltrigger.bus import EventBus

SUB, MT = Name("sub"), Name("mt")


class Package:
    """The package as a line of code sees it: ``mt``, whose bus is that of the cockpit."""

    def __init__(self, bus: EventBus) -> None:
        self._bus = bus

    def default_bus(self) -> EventBus:
        """Return the bus."""
        return self._bus

    def __getattr__(self, name: str) -> Any:
        import mltrigger

        return getattr(self._bus if hasattr(type(self._bus), name) else mltrigger, name)


@dataclasses.dataclass(frozen=True)
class Desk:
    """Where actions are done: a bus, the subscription that is chosen, and a sample to fire.

    ``is_default``: the functions of the package use this bus.
    """

    bus: EventBus
    chosen: str | None
    is_default: bool
    sample: Any = None

    @property
    def root(self) -> Name:
        """The variable whose methods are those of the bus."""
        return MT if self.is_default else Name("bus")

    @property
    def bus_value(self) -> Name | Call:
        """The bus as an argument."""
        return call(MT, "default_bus") if self.is_default else Name("bus")

    def spec(self, given: Given) -> SubscriptionSpec:
        """Return the subscription of an action: the one that is named, else the chosen one."""
        name = given.text_or_none("subscription") or self.chosen
        if name is None:
            raise InvalidEvent("choose a subscription first")
        return self.bus.spec(name)

    def on(self, spec: SubscriptionSpec, *steps: Step) -> Script:
        """Return *steps* after the line that finds the subscription."""
        return Script((Step(call(self.root, "subscription", spec.name), "sub"), *steps))

    def run(self, script: Script) -> Any:
        """Do *script* through the public calls."""
        with silently():
            return script.run({"mt": Package(self.bus), "bus": self.bus})

    def version(self, spec: SubscriptionSpec, given: Given, name: str = "version") -> str:
        """Return a registered version of the subscription's model. Nothing is imported by this."""
        model = Selector.parse(spec.selector).name
        return given.one_of(
            name,
            f"version of {model!r}",
            [each.version for each in self.bus.registry.versions(model)],
        )


@dataclasses.dataclass(frozen=True)
class Prepared:
    """An action that is ready: its code, its sentences before and after, and its number.

    Attributes
    ----------
    number : int or None
        The events that it is about. ``number_is`` says whether that is exact, or the least.
    bound : mapping
        Arguments that keep it to the events that were counted. The view sends them back.
    told : callable
        Makes the sentence after it from the result.
    trial : callable or None
        Makes the answer of a dry run beside the recorded one from the result.
    recorded : Script or None
        The lines for a recording, if they are others: a bound is no part of a recipe.
    """

    script: Script
    says: str
    number: int | None = None
    number_is: str = "exact"
    confirm: bool = False
    bound: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    told: Callable[[Any], str] = repr
    trial: Callable[[Any], dict[str, Any]] | None = None
    recorded: Script | None = None


Prepare = Callable[[Desk, Given], Prepared]
"""Checks the arguments of an action, and makes it ready. Nothing is changed by it."""


@dataclasses.dataclass(frozen=True)
class Action:
    """One action of the cockpit.

    Attributes
    ----------
    name : str
        Its name in the messages.
    title : str
        What it does, in a few words.
    prepare : callable
        See :data:`Prepare`.
    is_quick : bool
        Whether it takes no time: it is done at once, also while others are under way.
    needs_subscription : bool
        Whether a subscription must be chosen.
    sends : bool
        Whether events are delivered because of it.
    """

    name: str
    title: str
    prepare: Prepare
    is_quick: bool = False
    needs_subscription: bool = True
    sends: bool = False


def one(step: Call, to: str = "") -> Step:
    """Return a line of code."""
    return Step(step, to)


def answered(
    prepared: Prepared, done: bool, said: str = "", trial: dict[str, Any] | None = None
) -> dict[str, Any]:
    """Return the answer to the view."""
    return {
        "trial": trial,
        "code": prepared.script.code(),
        "says": bounded(said or prepared.says),
        "number": prepared.number,
        "number_is": prepared.number_is,
        "bound": dict(prepared.bound),
        "needs_confirmation": prepared.confirm,
        "done": done,
    }
