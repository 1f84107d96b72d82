"""The part of a filter policy that SNS can apply. The listener applies the whole filter again.

A pushed policy is the same as the filter, or weaker: no matching event is lost.

SNS sees messages, a filter sees events. In our wire format the attribute ``type`` of an event is
the message attribute ``ce-type``. An extension is ``ce-<name>`` or, if there are too many, a part
of ``ce-more``. So a pushed policy also accepts each message with ``ce-more``, if the filter tests
something that may be in there. It accepts each message in another format too, because only the
listener can read those. Messages without any attribute are kept out, as by every policy on
attributes: "``exists: false`` only matches if at least one attribute is present".
"""

from __future__ import annotations

import itertools
import json
import re
from collections.abc import Iterator, Mapping
from decimal import Decimal
from typing import Any, NamedTuple

from mltrigger.errors import InvalidFilter
from mltrigger.filters.conditions import canonical
from mltrigger.filters.policy import (
    MAX_DECIMALS,
    MAX_KEYS,
    MAX_NUMBER,
    RESERVED,
    FilterPolicy,
    Scope,
)

ALWAYS = {"id": "ce-id", "source": "ce-source", "type": "ce-type", "subject": "ce-subject"}
"""Event attributes that always travel as message attributes of their own."""
MORE = "ce-more"
FORMAT = "ce-specversion"
# The wire may differ from the event in these: another spelling of the time, a derived media type.
_UNLIKE = frozenset(
    {"time", "datacontenttype", "specversion", "data", "more", "datacontentencoding"}
)
_EXTENSION = re.compile(r"[a-z0-9]{1,40}", re.ASCII)
_AND = tuple[tuple[str, Any], ...]


class Pushed(NamedTuple):
    """The policy for SNS as JSON text, ``None`` for none.

    ``whole`` is true if the policy covers the whole filter for our own events.
    """

    policy: str | None
    scope: Scope = "MessageAttributes"
    whole: bool = False


def push(given: FilterPolicy | None, *, own: bool, offloads: bool) -> Pushed:
    """Return the part of the filter *given* that SNS can apply.

    Parameters
    ----------
    own : bool
        Whether messages of the topic are in our wire format. For others (S3 notifications, somebody
        else's topic) nothing is pushed: their mapping to events is not known.
    offloads : bool
        Whether bodies may lie in S3, with a pointer in the message. SNS cannot filter such bodies.

    Some conditions are not pushed:

    - ``equals-ignore-case``, ``wildcard``, ``cidr``, and ``anything-but`` with another operator
      than ``prefix``: AWS does not document exactly what they match.
    - In bodies below the top, where arrays may stand: ``anything-but`` and ``exists: false``. AWS'
      documentation contradicts itself or is silent.
    - Strings with quotes or backslashes, which SNS compares in an escaped form.
    - Values that the wire format spells differently.
    """
    if given is None or given.to_json() == "{}":
        return Pushed(None, whole=True)
    if not own:
        return Pushed(None, given.scope)
    policy = json.loads(given.to_json(), parse_int=Decimal, parse_float=Decimal)
    if given.scope == "MessageBody":
        return Pushed(None, given.scope) if offloads else _checked(*_body(policy), "MessageBody")
    return _checked(*_attributes(policy), "MessageAttributes")


def _checked(policy: Mapping[str, Any], whole: bool, scope: Scope) -> Pushed:
    if not policy:
        return Pushed(None, scope)
    text = canonical(policy)
    try:
        FilterPolicy.parse(text, scope)
    except InvalidFilter:  # with our additions, more combinations than SNS takes
        return Pushed(None, scope)
    return Pushed(text, scope, whole)


# -- the body --------------------------------------------------------------------------------------


def _body(policy: Mapping[str, Any], top: bool = True) -> tuple[dict[str, Any], bool]:
    """Return the part of *policy* that can be pushed, and whether it is all of it.

    *top* says that no array can stand above.
    """
    kept: dict[str, Any] = {}
    whole = True
    for key, value in policy.items():
        if isinstance(value, Mapping):
            inner, all_of_it = _body(value, top=False)
            whole = whole and all_of_it
            if inner:
                kept[key] = inner
        elif key != "$or" and all(
            _pushable_in_body(condition, top and "." not in key) for condition in value
        ):
            kept[key] = value
        else:
            whole = False
    return kept, whole


def _pushable_in_body(condition: Any, top: bool) -> bool:
    if isinstance(condition, Mapping) and "anything-but" in condition:
        return False
    return _pushable(condition, body=True) and (top or condition != {"exists": False})


# -- the attributes --------------------------------------------------------------------------------


def _attributes(policy: Mapping[str, Any]) -> tuple[dict[str, Any], bool]:
    ways = [_wire(way) for way in _ways(policy)]
    whole = all(all_of_it for _, all_of_it in ways)
    kinds = [kept for kept, _ in ways]
    names = list(dict.fromkeys(name for kept in kinds for name in kept))
    beside: list[dict[str, Any]] = [{FORMAT: [{"exists": False}]}]
    if any(name not in ALWAYS.values() for name in names):
        beside.insert(0, {MORE: [{"exists": True}]})
        whole = False
    # AWS does not say whether a name in several branches counts once among the five. So none is
    # used that might be a sixth.
    if over := set(names[MAX_KEYS - len(beside) :]):
        whole = False
        kinds = [
            {name: value for name, value in kept.items() if name not in over} for kept in kinds
        ]
    if not all(kinds):  # an empty branch accepts everything
        return {}, False
    return {"$or": [*kinds, *beside]}, whole


def _ways(policy: Mapping[str, Any]) -> Iterator[_AND]:
    """Yield alternatives, each a list of conditions that must all hold.

    There is one for each choice of branches of every ``$or``.
    """
    always = [(name, value) for name, value in policy.items() if not _is_or(name, value)]
    choices = [
        [way for branch in value for way in _ways(branch)]
        for name, value in policy.items()
        if _is_or(name, value)
    ]
    for choice in itertools.product(*choices):
        yield (*always, *itertools.chain(*choice))


def _is_or(name: str, value: Any) -> bool:
    return (
        name == "$or"
        and len(value) > 1
        and all(isinstance(branch, Mapping) and RESERVED.isdisjoint(branch) for branch in value)
    )


def _wire(way: _AND) -> tuple[dict[str, Any], bool]:
    """Return the pushable conditions by their names on the wire, and whether these are all."""
    kept: dict[str, Any] = {}
    for name, conditions in way:
        wire = ALWAYS.get(name) or (
            f"ce-{name}" if name not in _UNLIKE and _EXTENSION.fullmatch(name) else None
        )
        if (
            wire is not None
            and wire not in kept
            and all(_pushable(condition, body=False) for condition in conditions)
        ):
            kept[wire] = conditions
    return kept, len(kept) == len(way)


# -- one condition ---------------------------------------------------------------------------------


def _pushable(condition: Any, body: bool) -> bool:
    if isinstance(condition, bool):
        return body  # as an attribute a bool is in `ce-more`
    if not isinstance(condition, Mapping):
        return _value(condition, body)
    ((operator, operand),) = condition.items()
    if operator == "exists":
        return True
    if operator == "numeric":
        return all(_value(part, body) for part in operand)
    if operator in ("prefix", "suffix"):
        return isinstance(operand, str) and _value(operand, body)
    if operator != "anything-but":
        return False
    if isinstance(operand, Mapping):
        ((inner, text),) = operand.items()
        return inner == "prefix" and isinstance(text, str) and _value(text, body)
    return all(_value(part, body) for part in (operand if isinstance(operand, list) else [operand]))


def _value(value: Any, body: bool) -> bool:
    if isinstance(value, str):
        # "you must double-escape certain special characters, specifically double quotes and
        # backslashes"
        return bool(value) and (body or not ('"' in value or "\\" in value))
    if isinstance(value, Decimal):
        exponent = value.normalize().as_tuple().exponent
        return abs(value) <= MAX_NUMBER and isinstance(exponent, int) and exponent >= -MAX_DECIMALS
    return False
