"""What of a filter policy SNS can apply: the same, or something weaker; what is left to the
listener is never lost.

SNS sees messages, a filter sees events. In our wire format the attribute ``type`` of an event is
the message attribute ``ce-type``, an extension ``ce-<name>`` or, when there are too many of them, a
part of ``ce-more``. A policy that is pushed therefore lets pass, beside what matches, each message
with ``ce-more`` (when the filter asks for something that may be in there) and each that is not in
our format: other publishers' attributes are read by the listener, who knows all formats. Only
messages without any attribute are kept out, as by every policy on attributes: "``exists: false``
only matches if at least one attribute is present".
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
"""Attributes of events that travel as message attributes of their own whenever they are there."""
MORE = "ce-more"
FORMAT = "ce-specversion"
# Of these the wire may say something else than the event: another spelling of the time, a media
# type that was derived.
_UNLIKE = frozenset(
    {"time", "datacontenttype", "specversion", "data", "more", "datacontentencoding"}
)
_EXTENSION = re.compile(r"[a-z0-9]{1,40}", re.ASCII)
_AND = tuple[tuple[str, Any], ...]


class Pushed(NamedTuple):
    """What SNS shall apply: the policy as JSON text, ``None`` for none; ``whole`` when nothing of
    the filter is left for our own events.
    """

    policy: str | None
    scope: Scope = "MessageAttributes"
    whole: bool = False


def push(given: FilterPolicy | None, *, own: bool, offloads: bool) -> Pushed:
    """Return what SNS can apply of the filter *given*.

    Parameters
    ----------
    own : bool
        Whether messages of the topic are in our wire format. Of those of others (S3 notifications,
        somebody else's topic) nobody knows which part of them becomes what in the event, so that
        nothing is pushed.
    offloads : bool
        Whether bodies may lie in S3, with a pointer in the message: then SNS does not see what a
        filter on the body asks for.

    Not pushed are ``equals-ignore-case``, ``wildcard``, ``cidr`` and ``anything-but`` with another
    operator than ``prefix``, of which AWS' documentation does not say exactly what they match; in
    bodies, where arrays may stand, ``anything-but`` and ``exists: false`` below the top, on which
    it contradicts itself or is silent; strings with quotes or backslashes, which SNS compares in an
    escaped form; and what the wire format spells differently.
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
    except InvalidFilter:  # more combinations than SNS takes, through what was added
        return Pushed(None, scope)
    return Pushed(text, scope, whole)


# -- the body --------------------------------------------------------------------------------------


def _body(policy: Mapping[str, Any], top: bool = True) -> tuple[dict[str, Any], bool]:
    """Return what of *policy* can be pushed, and whether that is all of it; *top* says that no
    array can stand above.
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
    # Whether a name that stands in several branches counts once among the five is not documented:
    # none is used that might be a sixth.
    if over := set(names[MAX_KEYS - len(beside) :]):
        whole = False
        kinds = [
            {name: value for name, value in kept.items() if name not in over} for kept in kinds
        ]
    if not all(kinds):  # a branch that says nothing lets everything pass
        return {}, False
    return {"$or": [*kinds, *beside]}, whole


def _ways(policy: Mapping[str, Any]) -> Iterator[_AND]:
    """Yield the lists of conditions of which one must hold as a whole: each choice of branches of
    every ``$or``.
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
    """Return the conditions by their names on the wire, without those that cannot be pushed; and
    whether these are all of them.
    """
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
        return body  # on the wire an attribute is text or a number; a bool is in `ce-more`
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
