"""Looking for the fields of a policy in an event.

A path is flat, as in the engine of AWS: ``a.b`` is what stands under ``{"a": {"b": …}}`` and under ``{"a.b": …}``. Arrays are seen
through: a field holds when it holds in one element. Fields inside the objects of one array must hold in the same element (section
"JSON Array Matching" of https://github.com/aws/event-ruler); only a field that an event spells in both ways at once is free of that.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from typing import Any

from mltrigger.codec import MAX_DEPTH
from mltrigger.filters.conditions import Test, absent, shown


@dataclasses.dataclass(frozen=True, slots=True)
class Clause:
    """One line of an explanation: what was asked, what was found, and whether that is enough.

    Attributes
    ----------
    path : str
        ``$.customer.age`` in a body, the name of an attribute, or the branch of an ``$or``, such as ``$or[1].age``.
    condition : str
        The list of conditions as JSON text.
    found : str
        What stands there in the event, shortened; ``nothing`` when nothing does.
    ok : bool
        The event matches when this is true of every clause outside the branches of an ``$or``.
    """

    path: str
    condition: str
    found: str
    ok: bool


# How fields fare in a part of an event, from worst to best. Plain numbers: this is on the way of every event to every subscription.
FAILED, ABSENT, MATCHED = 0, 1, 2
"""``ABSENT``: none of the fields is there, and none has to be."""


@dataclasses.dataclass(frozen=True, slots=True, eq=False)
class Field:
    """One path of a policy with its conditions, of which one must hold."""

    path: str
    name: str
    condition: str
    tests: tuple[Test, ...]
    combinations: int
    unset: int = dataclasses.field(init=False)
    """How the field fares where nothing stands."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "unset", ABSENT if absent in self.tests else FAILED)


@dataclasses.dataclass(frozen=True, slots=True, eq=False)
class Or:
    """An ``$or``: one of its branches must hold, which is when all parts of the branch do."""

    name: str
    condition: str
    branches: tuple[tuple[Field | Or, ...], ...]


def holds(fields: Iterable[Field], event: Mapping[str, Any]) -> bool:
    """Return whether all *fields* hold in *event* at once; takes time in proportion to the event and to the fields."""
    return _within([(field.path, field) for field in fields], event, 0) != FAILED


def _within(wanted: Sequence[tuple[str, Field]], value: Any, depth: int) -> int:
    """Return how the fields fare together inside *value*; each comes with the rest of its path."""
    if depth > MAX_DEPTH:
        return FAILED
    if isinstance(value, Mapping):
        return _within_object(wanted, value, depth)
    if isinstance(value, (list, tuple)) and value:
        return _best([_within(wanted, element, depth + 1) for element in value])
    return min(field.unset for _, field in wanted)


def _within_object(wanted: Sequence[tuple[str, Field]], value: Mapping[str, Any], depth: int) -> int:
    states: list[int] = []
    together: dict[str, list[tuple[str, Field]]] = {}
    for rest, field in wanted:
        here = [_at(field, value[rest], depth + 1)] if rest in value else []
        deeper = [(key, tail) for key, tail in _splits(rest) if key in value] if "." in rest else []
        if len(deeper) == 1 and not here:  # an array down there may bind the field to its neighbours
            together.setdefault(deeper[0][0], []).append((deeper[0][1], field))
            continue
        here += [_within([(tail, field)], value[key], depth + 1) for key, tail in deeper]
        states.append(_best(here) if here else field.unset)
        if states[-1] == FAILED:
            return FAILED
    states += [_within(fields, value[key], depth + 1) for key, fields in together.items()]
    return FAILED if FAILED in states else max(states)


def _at(field: Field, value: Any, depth: int) -> int:
    """Return how the field fares with what stands at its path."""
    if depth > MAX_DEPTH:
        return FAILED
    if isinstance(value, (list, tuple)) and value:
        return _best([_at(field, element, depth + 1) for element in value])
    if isinstance(value, (list, tuple, Mapping)):  # empty, or no leaf: for the engine of AWS nothing stands here
        return field.unset
    for test in field.tests:
        if test(value):
            return MATCHED
    return FAILED


def _best(states: Collection[int]) -> int:
    """One element that matches is enough; what must be absent has to be so in all of them."""
    return MATCHED if MATCHED in states else min(states)


def _splits(path: str) -> Iterator[tuple[str, str]]:
    """Yield each key that *path* may go on with, and the rest: ``a.b.c`` is ``b.c`` under ``a``, or ``c`` under ``a.b``."""
    dot = path.find(".")
    while dot >= 0:
        yield path[:dot], path[dot + 1 :]
        dot = path.find(".", dot + 1)


def explain(parts: Iterable[Field | Or], event: Mapping[str, Any], kept: Collection[Field]) -> tuple[bool, list[Clause]]:
    """Return whether every part holds by itself, and the clauses that say so; *kept* are the fields known to hold together."""
    verdicts: list[bool] = []
    clauses: list[Clause] = []
    for part in parts:
        if isinstance(part, Field):
            ok = part in kept or holds([part], event)
            clauses.append(Clause(part.name, part.condition, _found(part.path, event), ok))
        else:
            branches = [explain(branch, event, kept) for branch in part.branches]
            holding = [str(number) for number, (whole, _) in enumerate(branches) if whole]
            ok = bool(holding)
            clauses.append(Clause(part.name, part.condition, f"branch {', '.join(holding)} holds" if ok else "no branch holds", ok))
            clauses += [clause for _, inner in branches for clause in inner]
        verdicts.append(ok)
    return all(verdicts), clauses


def _found(path: str, event: Mapping[str, Any]) -> str:
    values = list(_standing(path, event, 0))
    if not values:
        return "nothing"
    return shown(values[0] if len(values) == 1 else values)


def _standing(rest: str, value: Any, depth: int) -> Iterator[Any]:
    if isinstance(value, (list, tuple)) and depth <= MAX_DEPTH:
        for element in value:
            yield from _standing(rest, element, depth + 1)
    elif isinstance(value, Mapping) and depth <= MAX_DEPTH:
        if rest in value:
            yield value[rest]
        for key, tail in _splits(rest):
            if key in value:
                yield from _standing(tail, value[key], depth + 1)
