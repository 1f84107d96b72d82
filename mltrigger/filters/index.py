"""FilterIndex: the policies of a topic that an event passes, without a look at each.

A policy with a list of exact values, such as ``{"kind": ["invoice"]}``, passes only events that
have one of them. A dictionary from values to policies leaves few candidates. Only these are
evaluated, unless one value is all that they want.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, Protocol

from mltrigger.filters.conditions import Value, value_key
from mltrigger.filters.match import Field, leaves, leaves_at, splits
from mltrigger.filters.policy import FilterPolicy


class Seen(Protocol):
    """An event as filters see it. Each part is made when it is asked for."""

    @property
    def attributes(self) -> Mapping[str, Any]:
        """The context attributes by name."""

    @property
    def body(self) -> Any:
        """The data as plain JSON, ``None`` for other data."""


class FilterIndex:
    """Finds the policies that an event passes.

    The answer is that of each policy by itself. Equal policies are evaluated once.

    Parameters
    ----------
    policies : sequence of FilterPolicy or None
        One for each subscription. ``None`` passes all events.

    Examples
    --------
    >>> index = FilterIndex([None, FilterPolicy.parse({"kind": ["invoice"]})])
    """

    def __init__(self, policies: Sequence[FilterPolicy | None]) -> None:
        self._free = [place for place, policy in enumerate(policies) if policy is None]
        places: dict[FilterPolicy, list[int]] = {}
        for place, policy in enumerate(policies):
            if policy is not None:
                places.setdefault(policy, []).append(place)
        self._attributes = _Candidates(
            {p: at for p, at in places.items() if p.scope == "MessageAttributes"}
        )
        self._body = _Candidates({p: at for p, at in places.items() if p.scope == "MessageBody"})

    @property
    def reads_attributes(self) -> bool:
        """Whether a policy looks at more than the body."""
        return bool(self._attributes)

    def matching(self, seen: Seen) -> list[int]:
        """Return the places of the policies that *seen* passes, rising."""
        found = self._free.copy()
        if self._attributes:
            attributes = seen.attributes
            for policy, places, is_sure in self._attributes.of(attributes):
                if is_sure or policy.matches_attributes(attributes):
                    found += places
        if self._body:
            body = seen.body
            for policy, places, is_sure in self._body.of(body):
                if is_sure or policy.matches_body(body):
                    found += places
        found.sort()
        return found


_Entry = tuple[FilterPolicy, list[int], bool]
"""A policy, its places, and whether it passes each event that has a value of it."""
_Key = tuple[str, Value]


class _Candidates:
    """The policies of one scope, by the exact values that each needs."""

    def __init__(self, policies: Mapping[FilterPolicy, list[int]]) -> None:
        self._always: list[_Entry] = []
        self._by_path: dict[str, dict[Value, list[_Entry]]] = {}
        self._by_key: dict[str, list[tuple[str, dict[Value, list[_Entry]]]]] = {}
        """The key at the top of an event -> the rest of each path, and the values wanted there."""
        common = Counter(
            key for policy in policies for way in policy._ways for key in set(_keys_of(way))
        )
        for policy, places in policies.items():
            self._add((policy, places, _is_one_value(policy)), common)
        for path, wanted in self._by_path.items():
            for key, rest in [*splits(path), (path, "")]:
                self._by_key.setdefault(key, []).append((rest, wanted))

    def __bool__(self) -> bool:
        return bool(self._always or self._by_path)

    def of(self, event: Any) -> list[_Entry]:
        """Return all policies that *event* may pass, and few others."""
        if not isinstance(event, Mapping):
            return self._always
        found: dict[int, _Entry] = {}
        for key in self._by_key.keys() & event.keys():
            for rest, wanted in self._by_key[key]:
                for value in _values(rest, event[key]):
                    for entry in wanted.get(value, ()):
                        found[id(entry)] = entry
        return [*self._always, *found.values()] if found else self._always

    def _add(self, entry: _Entry, common: Counter[_Key]) -> None:
        """Put a policy under the rarest exact values of each of its ways."""
        chosen: set[_Key] = set()
        for way in entry[0]._ways:
            fields = [field for field in way if field.values is not None]
            if not fields:
                self._always.append(entry)
                return
            chosen.update(
                min(
                    ([*_keys_of([field])] for field in fields),
                    key=lambda keys: sum(common[key] for key in keys),
                )
            )
        for path, value in chosen:
            self._by_path.setdefault(path, {}).setdefault(value, []).append(entry)


def _is_one_value(policy: FilterPolicy) -> bool:
    """Whether each way wants one exact value, of a key at the top of the event, and no more."""
    return all(
        len(way) == 1 and way[0].values is not None and "." not in way[0].path
        for way in policy._ways
    )


def _keys_of(way: Sequence[Field]) -> Iterator[_Key]:
    for field in way:
        for value in field.values or ():
            yield field.path, value


def _values(path: str, value: Any) -> Iterable[Value]:
    """Return the values at *path* inside *value*, as keys."""
    if path and "." not in path and type(value) is dict:
        if path not in value:
            return ()
        path, value = "", value[path]
    if path:
        return map(value_key, leaves_at(path, value))
    # most are text
    return (value,) if type(value) is str else map(value_key, leaves(value))
