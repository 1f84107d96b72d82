"""Records as rows of a DataFrame."""

from __future__ import annotations

import functools
import operator
from collections.abc import Callable, Hashable, Mapping, Sequence
from typing import Any, NamedTuple

from mltrigger.text import short
from mltrigger.versions.columns import Takes
from mltrigger.versions.running.predictors.feeds import INT64, Feed, Groups, unfit
from mltrigger.versions.running.predictors.rows import block, reader_of

_MOST_PLANS, _MOST_SHAPES = 1000, 10_000
"""The most that are remembered. Events with nulls here and there have any number of shapes."""


class _Plan(NamedTuple):
    """The way to read records with certain keys, and the shapes by the types of their values."""

    names: tuple[str, ...]
    read: Callable[[Any], Any]
    shapes: dict[tuple[type, ...], Shape]


class Shape:
    """The columns and types that all rows of one frame share.

    It serves as a key and is compared by identity, which is fast.
    """

    def __init__(self, names: tuple[str, ...], kinds: tuple[type, ...]) -> None:
        self.names, self.kinds = names, kinds
        self.are_floats = set(kinds) == {float}
        self._index: Any = None

    def index(self, numbered: bool) -> Any:
        """Return a new index for a frame, since a model may rename it. A copy is fast."""
        import pandas as pd

        if self._index is None:
            self._index = pd.Index(list(range(len(self.names)) if numbered else self.names))
        return self._index.copy()


class Frames(Feed):
    """Hands over records as a DataFrame with one row per event, other data as a list.

    Parameters
    ----------
    method, name
        See :class:`~mltrigger.versions.running.predictors.feeds.Feed`.
    takes : Takes, optional
        The columns. Without them records are refused, since their order is a matter of chance.
    floats : bool
        Whether the model computes in floating-point numbers only. Then integers, truth values and
        nulls become such numbers here.
    """

    way_out = "fit the model on a DataFrame, whose names it keeps"
    """Another advice for models with an unknown order of columns."""
    single = False
    """Whether a record of one field is taken without columns, since it needs no order."""
    wide = True

    def __init__(
        self, method: Callable[[Any], Any], name: str, takes: Takes | None, floats: bool = False
    ) -> None:
        super().__init__(method, name)
        self._takes, self._floats, self._reader = takes, floats, reader_of(takes)
        self._plans: dict[tuple[str, ...], _Plan] = {}
        self._shapes: dict[Hashable, Shape] = {}
        self._known = 0

    def part(self, data: Any) -> tuple[Hashable, Any]:
        """Return the values of a record in the order of the columns. The key is its shape."""
        if not isinstance(data, Mapping):
            return super().part(data)
        keys = tuple(data)
        plan = self._plans.get(keys) or self._plan(keys)
        values = plan.read(data)
        kinds = tuple(map(type, values))
        return plan.shapes.get(kinds) or self._shape(plan, kinds), values

    def gather(self, raws: Sequence[bytes | None], groups: Groups) -> Sequence[int]:
        """See :meth:`Feed.gather`. The parts are rows, or one array if all values are floats."""
        if self._reader is None:
            return range(len(raws))
        numbers, records = self._reader.read(raws)
        if not records:
            return range(len(raws))
        names = self._takes.names if self._takes is not None else ()
        plan = self._plans.get(names) or self._plan(names)
        is_whole = len(records) == len(raws)
        if is_whole and (values := self._reader.block(records)) is not None:
            groups[self._shape(plan, (float,) * len(names))] = (list(numbers), values)
            return ()
        for number, row in zip(numbers, self._reader.rows(records), strict=True):
            kinds = tuple(map(type, row))
            shape = plan.shapes.get(kinds) or self._shape(plan, kinds)
            found = groups.get(shape) or groups.setdefault(shape, ([], []))
            found[0].append(number)
            found[1].append(row)
        return sorted(set(range(len(raws))).difference(numbers))

    def finer(self, key: Any, parts: Sequence[Any]) -> Sequence[Hashable] | None:
        """Separate rows whose integers do not fit into 64 bits.

        Alone, their columns would have other dtypes.
        """
        places = (
            [place for place, kind in enumerate(key.kinds) if kind is int]
            if isinstance(key, Shape)
            else []
        )
        columns = [[row[place] for row in parts] for place in places]
        if all(INT64[0] <= min(column) and max(column) <= INT64[1] for column in columns):
            return None
        return [tuple([_size(row[place]) for place in places]) for row in parts]

    def call(self, key: Any, parts: Sequence[Any]) -> Any:
        """Call the model with a frame or a list."""
        return self._method(self._frame(key, parts) if isinstance(key, Shape) else list(parts))

    def _frame(self, shape: Shape, parts: Sequence[Any]) -> Any:
        import pandas as pd

        numbered = self._takes is not None and self._takes.numbered
        if shape.are_floats:
            return pd.DataFrame(_block(parts), columns=shape.index(numbered), copy=False)
        columns = {
            number if numbered else name: _column(kind, values)
            for number, (name, kind, values) in enumerate(
                zip(shape.names, shape.kinds, zip(*parts, strict=True), strict=True)
            )
        }
        return pd.DataFrame(columns) if columns else pd.DataFrame(index=range(len(parts)))

    def _plan(self, keys: tuple[str, ...]) -> _Plan:
        """Make the plan for records with these *keys*."""
        names = self._columns(keys)
        if len(names) > 1 and set(names) <= set(keys):
            read: Callable[[Any], Any] = operator.itemgetter(*names)
        else:
            read = functools.partial(
                _read, names, self._takes.given if self._takes is not None else {}
            )
        if len(self._plans) >= _MOST_PLANS:
            self._forget()
        plan = self._plans[keys] = _Plan(names, read, {})
        return plan

    def _shape(self, plan: _Plan, kinds: tuple[type, ...]) -> Shape:
        """Return the shape of all records with the columns of *plan* and these *kinds* of values.

        Records with another order of keys have the same shape.
        """
        if self._known >= _MOST_SHAPES:
            self._forget()
        self._known += 1
        alike = tuple(
            [float if self._floats and kind in (int, bool, type(None)) else kind for kind in kinds]
        )
        shape = self._shapes.setdefault((plan.names, alike), Shape(plan.names, alike))
        plan.shapes[kinds] = shape
        return shape

    def _forget(self) -> None:
        self._plans.clear()
        self._shapes.clear()
        self._known = 0

    def _columns(self, keys: tuple[str, ...]) -> tuple[str, ...]:
        takes, shown = self._takes, short(", ".join(map(repr, keys)), 200)
        if takes is None and self.single and len(keys) == 1:
            return keys
        if takes is None:
            raise unfit(
                f"the order of the columns of {self._name} is not known, and the fields of an event"
                f" have none. Say it, mt.model(…, columns=[{shown}]), or {self.way_out}"
            )
        here = set(keys)
        if missing := [
            name
            for name in takes.names
            if name in takes.needed and name not in here and name not in takes.given
        ]:
            named = ", ".join(map(repr, missing[:10])) + (
                f" and {len(missing) - 10} more" if len(missing) > 10 else ""
            )
            raise unfit(
                f"{self._name} needs {'the column' if len(missing) == 1 else 'the columns'}"
                f" {named}; the event has {shown or 'no fields'}"
            )
        names = tuple(name for name in takes.names if name in here or name in takes.given)
        if not takes.further or len(names) == len(takes.names):
            return names
        if not names:
            raise unfit(
                f"no field of the event is a column of {self._name}: {shown}. Say the columns that"
                " its first step takes, mt.model(…, columns=[…])"
            )
        return (*names, *sorted(here - set(names)))


def _column(kind: type, values: Sequence[Any]) -> Any:
    """Return the column of *values* of one *kind*. For other kinds pandas finds the dtype."""
    import numpy as np

    if kind in (float, bool):
        return np.array(values, kind)
    if kind is int and INT64[0] <= min(values) and max(values) <= INT64[1]:
        return np.array(values, np.int64)
    return list(values)


def _block(parts: Sequence[Any]) -> Any:
    """Return rows of floats as one array in the memory order of columns."""
    import numpy as np

    if isinstance(parts, np.ndarray):
        return parts
    values = block(parts)  # None for the integers and nulls of a model that computes in floats
    return np.asfortranarray(np.array(parts, float)) if values is None else values


def _size(value: int) -> int:
    """Return 0 for a signed integer of 64 bits, 1 for an unsigned one, 2 for a larger one."""
    return 0 if INT64[0] <= value <= INT64[1] else 1 if 0 <= value < 2**64 else 2


def _read(
    names: Sequence[str], given: Mapping[str, Any], record: Mapping[str, Any]
) -> tuple[Any, ...]:
    return tuple([record[name] if name in record else given[name] for name in names])
