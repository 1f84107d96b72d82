"""Looking for the fields of a policy in an event.

A path is flat, as in the engine of AWS: ``a.b`` is what stands under ``{"a": {"b": …}}`` and under ``{"a.b": …}``. Arrays are seen
through: a field holds when it holds in one element. Fields inside the objects of one array must hold in the same element (section
"JSON Array Matching" of https://github.com/aws/event-ruler).
"""

from __future__ import annotations

import dataclasses
import enum
import json
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from typing import Any

from mltrigger.codec import MAX_DEPTH
from mltrigger.filters.conditions import Test, absent
from mltrigger.render import short


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


class State(enum.IntEnum):
    """How fields fare in a part of an event."""

    FAILED = 0
    ABSENT = 1
    """None of them is there, and none of them has to be."""
    MATCHED = 2


@dataclasses.dataclass(frozen=True, slots=True, eq=False)
class Field:
    """One path of a policy with its conditions, of which one must hold."""

    path: str
    name: str
    condition: str
    tests: tuple[Test, ...]
    combinations: int

    @property
    def unset(self) -> State:
        """How the field fares where nothing stands."""
        return State.ABSENT if absent in self.tests else State.FAILED


@dataclasses.dataclass(frozen=True, slots=True, eq=False)
class Or:
    """An ``$or``: one of its branches must hold, which is when all parts of the branch do."""

    name: str
    condition: str
    branches: tuple[tuple[Field | Or, ...], ...]


def holds(fields: Iterable[Field], event: Mapping[str, Any]) -> bool:
    """Return whether all *fields* hold in *event* at once; takes time in proportion to the event and to the fields."""
    return _solve([(field.path, field) for field in fields], event, 0) is not State.FAILED


def _solve(wanted: Sequence[tuple[str | None, Field]], value: Any, depth: int) -> State:
    """Return how the fields fare in *value*; each comes with the rest of its path, ``None`` for a field that is reached here."""
    if depth > MAX_DEPTH:
        return State.FAILED
    if isinstance(value, (list, tuple)) and value:
        return _one([_solve(wanted, element, depth + 1) for element in value])
    if isinstance(value, (list, tuple)):
        return _all([field.unset for _, field in wanted])
    if isinstance(value, Mapping):
        return _solve_object(wanted, value, depth)
    return _all([_test(field, value) if rest is None else field.unset for rest, field in wanted])


def _solve_object(wanted: Sequence[tuple[str | None, Field]], value: Mapping[str, Any], depth: int) -> State:
    states, together = [], dict[str, list[tuple[str | None, Field]]]()
    for rest, field in wanted:
        ways = [(key, rest) for key, rest in _splits(rest) if key in value]
        if not ways:
            states.append(field.unset)
        elif len(ways) == 1 and ways[0][1] is not None:  # deeper, where an array may bind it to its neighbours
            together.setdefault(ways[0][0], []).append((ways[0][1], field))
        else:
            states.append(_one([_solve([(rest, field)], value[key], depth + 1) for key, rest in ways]))
    states += [_solve(fields, value[key], depth + 1) for key, fields in together.items()]
    return _all(states)


def _splits(path: str | None) -> Iterator[tuple[str, str | None]]:
    """Yield each key that *path* may begin with, and the rest: ``a.b`` is the key ``a.b``, or ``b`` under ``a``."""
    if path is None:
        return
    yield path, None
    dot = path.find(".")
    while dot >= 0:
        yield path[:dot], path[dot + 1 :]
        dot = path.find(".", dot + 1)


def _test(field: Field, value: Any) -> State:
    return State.MATCHED if any(test(value) for test in field.tests) else State.FAILED


def _all(states: Collection[State]) -> State:
    return State.FAILED if State.FAILED in states else max(states)


def _one(states: Collection[State]) -> State:
    """One element that matches is enough; what must be absent has to be so in all of them."""
    return State.MATCHED if State.MATCHED in states else min(states)


def explain(parts: Iterable[Field | Or], event: Mapping[str, Any], kept: Collection[Field]) -> tuple[bool, list[Clause]]:
    """Return whether every part holds by itself, and the clauses that say so; *kept* are the fields known to hold together."""
    verdicts, clauses = [], list[Clause]()
    for part in parts:
        if isinstance(part, Field):
            ok = part in kept or holds([part], event)
            clauses.append(Clause(part.name, part.condition, _found(part.path, event), ok))
        else:
            branches = [explain(branch, event, kept) for branch in part.branches]
            holding = [str(number) for number, (holds_, _) in enumerate(branches) if holds_]
            ok = bool(holding)
            clauses.append(Clause(part.name, part.condition, f"branch {', '.join(holding)} holds" if ok else "no branch holds", ok))
            clauses += [clause for _, inner in branches for clause in inner]
        verdicts.append(ok)
    return all(verdicts), clauses


def _found(path: str, event: Mapping[str, Any]) -> str:
    values = list(_standing(path, event, 0))
    if not values:
        return "nothing"
    value = values[0] if len(values) == 1 else values
    return short(json.dumps(value, ensure_ascii=False) if isinstance(value, str) else value)


def _standing(rest: str | None, value: Any, depth: int) -> Iterator[Any]:
    if rest is None:
        yield value
    elif depth > MAX_DEPTH:
        return
    elif isinstance(value, (list, tuple)):
        for element in value:
            yield from _standing(rest, element, depth + 1)
    elif isinstance(value, Mapping):
        for key, deeper in _splits(rest):
            if key in value:
                yield from _standing(deeper, value[key], depth + 1)
