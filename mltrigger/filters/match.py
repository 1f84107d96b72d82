"""Looking for the fields of a policy in an event.

A path is flat, as in the engine of AWS. ``a.b`` finds a value under ``{"a": {"b": …}}`` and under
``{"a.b": …}``. Arrays are searched: a field holds when it holds in one element. Fields inside
the objects of one array must hold in the same element (section "JSON Array Matching" of
https://github.com/aws/event-ruler). Only a field that an event spells in both ways at once is
free of that. ``exists: false`` is about the whole event. It holds if the field is nowhere in it.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from typing import Any

from mltrigger.event.codec import MAX_DEPTH
from mltrigger.filters.conditions import Test, Value, absent, shown


@dataclasses.dataclass(frozen=True, slots=True)
class Clause:
    """One line of an explanation: the condition, the value found, and whether it holds.

    Attributes
    ----------
    path : str
        ``$.customer.age`` in a body, the name of an attribute, or the branch of an ``$or``, such as
        ``$or[1].age``.
    condition : str
        The list of conditions as JSON text.
    found : str
        The value in the event, shortened, or ``nothing``.
    ok : bool
        The event matches when this is true of every clause outside the branches of an ``$or``.
    """

    path: str
    condition: str
    found: str
    ok: bool


@dataclasses.dataclass(frozen=True, slots=True, eq=False)
class Field:
    """One path of a policy with its conditions, of which one must hold."""

    path: str
    name: str
    condition: str
    tests: tuple[Test, ...]
    combinations: int
    values: tuple[Value, ...] | None
    """The values of which one must stand there, if no other operator is among the conditions."""
    optional: bool = dataclasses.field(init=False)
    """Whether an event without the field passes: one of its conditions is ``exists: false``."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "optional", absent in self.tests)


@dataclasses.dataclass(frozen=True, slots=True, eq=False)
class Or:
    """An ``$or``: one of its branches must hold, which is when all parts of the branch do."""

    name: str
    condition: str
    branches: tuple[tuple[Field | Or, ...], ...]


def holds(fields: Iterable[Field], event: Mapping[str, Any]) -> bool:
    """Return whether all *fields* hold in *event* at once.

    The time is in proportion to the event and to the fields.
    """
    wanted = [
        (field.path, field) for field in fields if not field.optional or _stands(field.path, event)
    ]
    return not wanted or _within(wanted, event, 0)


def _within(wanted: Sequence[tuple[str, Field]], value: Any, depth: int) -> bool:
    """Return whether the fields hold together inside *value*.

    Each field comes with the rest of its path.
    """
    if depth > MAX_DEPTH:
        return False
    if isinstance(value, Mapping):
        return _within_object(wanted, value, depth)
    return isinstance(value, (list, tuple)) and any(
        _within(wanted, element, depth + 1) for element in value
    )


def _within_object(
    wanted: Sequence[tuple[str, Field]], value: Mapping[str, Any], depth: int
) -> bool:
    together: dict[str, list[tuple[str, Field]]] = {}
    for rest, field in wanted:
        here = rest in value
        deeper = [(key, tail) for key, tail in splits(rest) if key in value] if "." in rest else []
        # an array down there may bind the field to its neighbours
        if len(deeper) == 1 and not here:
            together.setdefault(deeper[0][0], []).append((deeper[0][1], field))
        elif not (here and _at(field, value[rest], depth + 1)) and not any(
            _within([(tail, field)], value[key], depth + 1) for key, tail in deeper
        ):
            return False
    return all(_within(fields, value[key], depth + 1) for key, fields in together.items())


def _at(field: Field, value: Any, depth: int) -> bool:
    """Return whether the field holds in the value at its path."""
    return any(test(leaf) for leaf in leaves(value, depth) for test in field.tests)


def _stands(path: str, event: Mapping[str, Any]) -> bool:
    """Return whether the event has the field anywhere.

    Empty arrays and objects count as nothing, as in the engine of AWS.
    """
    return any(True for _ in leaves_at(path, event))


def leaves_at(path: str, value: Any) -> Iterator[Any]:
    """Yield the leaves at *path*, wherever it stands in *value*."""
    for found in _standing(path, value, 0):
        yield from leaves(found)


def leaves(value: Any, depth: int = 0) -> Iterator[Any]:
    """Yield *value*, or the elements of the array *value*. An object is no leaf."""
    if isinstance(value, (list, tuple)):
        for element in value if depth <= MAX_DEPTH else ():
            yield from leaves(element, depth + 1)
    elif not isinstance(value, Mapping) and depth <= MAX_DEPTH:
        yield value


def splits(path: str) -> Iterator[tuple[str, str]]:
    """Yield each key that *path* may start with, and the rest.

    ``a.b.c`` is ``b.c`` under ``a``, or ``c`` under ``a.b``.
    """
    dot = path.find(".")
    while dot >= 0:
        yield path[:dot], path[dot + 1 :]
        dot = path.find(".", dot + 1)


def explain(
    parts: Iterable[Field | Or], event: Mapping[str, Any], kept: Collection[Field]
) -> tuple[bool, list[Clause]]:
    """Return whether every part holds by itself, and the clauses for it.

    *kept* are the fields known to hold together.
    """
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
            clauses.append(
                Clause(
                    part.name,
                    part.condition,
                    f"branch {', '.join(holding)} holds" if ok else "no branch holds",
                    ok,
                )
            )
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
        for key, tail in splits(rest):
            if key in value:
                yield from _standing(tail, value[key], depth + 1)
