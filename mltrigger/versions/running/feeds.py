"""What a predictor is called with: events that are alike go into one call, so that each gets
exactly what it would get alone.

A :class:`Feed` makes a part of the input of each event's data, with a key; only parts with equal
keys share a call. The values and dtypes that a model sees are those of the event, whatever came
beside it.
"""

from __future__ import annotations

import functools
import operator
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from mltrigger.errors import ModelFailure
from mltrigger.text import short
from mltrigger.versions.columns import Takes

_MOST_PLANS = 1000
_INT64 = (-(2**63), 2**63 - 1)
Groups = dict[Hashable, tuple[list[int], list[Any]]]
"""Key -> the numbers of the events that have it, and their parts."""
_PROBABLE = ("predict_proba", "predict_log_proba")


def unfit(problem: str) -> ModelFailure:
    """Return the failure of an event whose data the model cannot be called with."""
    return ModelFailure(problem, reason="invalid_input", permanent=True, kind="InvalidInput")


class Feed:
    """How the method of a predictor is called. This one hands over a list of the data.

    Parameters
    ----------
    method : callable
        What is called with the input of a batch.
    name : str
        What the model is called in an error.
    """

    def __init__(self, method: Callable[[Any], Any], name: str) -> None:
        self._method, self._name = method, name

    def part(self, data: Any) -> tuple[Hashable, Any]:
        """Return the key and the part of an event with *data*.

        Raises
        ------
        ModelFailure
            Permanent, with the reason ``invalid_input``.
        """
        return kinds_in(data), data

    def finer(self, key: Hashable, parts: Sequence[Any]) -> Sequence[Hashable] | None:
        """Return a key for each of *parts*, which share *key*, when they need several calls after
        all.
        """
        return None

    def call(self, key: Hashable, parts: Sequence[Any]) -> Any:
        """Return the outputs for *parts* that share *key*, one for each."""
        return self._method(list(parts))


def kinds_in(data: Any) -> frozenset[Any]:
    """Return the types of the values in lists of lists: of one kind, they become the same array
    alone and in company.
    """
    kinds: set[Any] = set()
    level = [data]
    while level:
        types = set(map(type, level))
        kinds |= types - {list}
        if int in types and not all(
            _INT64[0] <= value <= _INT64[1] for value in level if type(value) is int
        ):
            kinds.add("large")
        level = (
            [inner for value in level if type(value) is list for inner in value]
            if list in types
            else []
        )
    return frozenset(kinds - {int, "large"} if float in kinds else kinds)


def alike(feed: Feed | None, groups: Groups) -> Iterator[tuple[Hashable, list[int], list[Any]]]:
    """Yield the key, numbers and parts of each call that *groups* of parts with equal keys become."""
    for key, (numbers, parts) in groups.items():
        finer = None if feed is None else feed.finer(key, parts)
        if finer is None:
            yield key, numbers, parts
            continue
        for kind in dict.fromkeys(finer):
            places = [place for place, one in enumerate(finer) if one == kind]
            yield key, [numbers[place] for place in places], [parts[place] for place in places]


class Records(Feed):
    """Hands over the records themselves, as a ``DictVectorizer`` takes them."""

    def part(self, data: Any) -> tuple[Hashable, Any]:
        """Return the data, all of one key when they are records."""
        return ("records", data) if isinstance(data, Mapping) else super().part(data)


class Texts(Feed):
    """Hands over texts: those of events that are texts, and the one text field of events that are
    records.
    """

    def __init__(self, method: Callable[[Any], Any], name: str, column: str | None) -> None:
        super().__init__(method, name)
        self._column = column

    def part(self, data: Any) -> tuple[Hashable, Any]:
        """Return the text of an event. A record needs exactly one text."""
        if not isinstance(data, Mapping):
            return super().part(data)
        return super().part(text_of(data, self._column, self._name))


def text_of(record: Mapping[str, Any], column: str | None, name: str) -> str:
    """Return the text that *record* has in its *column*; without one, in its only text field.

    Raises
    ------
    ModelFailure
        When there is none, or more than one that may be meant.
    """
    if column is not None:
        if not isinstance(text := record.get(column), str):
            raise unfit(
                f"{name} takes the text of {column!r}:"
                f" {'it is ' + short(text) if column in record else 'the event has none'}"
            )
        return text
    texts = [key for key, value in record.items() if isinstance(value, str)]
    unclear = [key for key, value in record.items() if value is None]
    if len(texts) == 1 and not unclear:
        return str(record[texts[0]])
    found = (
        f"fields {short(', '.join(map(repr, [*texts, *unclear])), 200)} that may be it"
        if texts
        else "no text in its fields"
    )
    raise unfit(
        f"{name} takes texts, and the event is a record with {found}. Name the field, mt.model(…,"
        " columns=['text']), or publish the text alone"
    )


class Files(Feed):
    """Refuses everything: the model would open what the event names."""

    def part(self, data: Any) -> tuple[Hashable, Any]:
        """Refuse the event."""
        raise unfit(
            f"{self._name} opens the files that it is told, and no event may say which; hand over a"
            " function that reads them"
        )


class _Plan(NamedTuple):
    """How records with certain keys are read; the shapes that this gave, by the types of the
    values.
    """

    names: tuple[str, ...]
    read: Callable[[Any], Any]
    shapes: dict[tuple[type, ...], _Shape]


class _Shape:
    """The columns and types that rows of one frame share; a key by itself, so that looking it up
    takes no time.
    """

    def __init__(self, names: tuple[str, ...], kinds: tuple[type, ...]) -> None:
        self.names, self.kinds = names, kinds
        self.are_floats = set(kinds) == {float}
        self._index: Any = None

    def index(self, numbered: bool) -> Any:
        """Return the columns of a frame: a new one each time, since a model may rename it; a copy
        is made faster.
        """
        import pandas as pd

        if self._index is None:
            self._index = pd.Index(list(range(len(self.names)) if numbered else self.names))
        return self._index.copy()


class Frames(Feed):
    """Hands over records as a DataFrame, one row an event, and anything else as a list of the data.

    Parameters
    ----------
    takes : Takes, optional
        The columns; without them records are refused, since their order is a matter of chance.
    floats : bool
        Whether the model computes in floating-point numbers whatever it gets. Then integers, truth
        values and nulls are such numbers here.
    """

    way_out = "fit the model on a DataFrame, whose names it keeps"
    """What else can be done when the order of columns is not known."""
    single = False
    """Whether a record of one field is taken without columns: it has no order."""

    def __init__(
        self, method: Callable[[Any], Any], name: str, takes: Takes | None, floats: bool = False
    ) -> None:
        super().__init__(method, name)
        self._takes, self._floats = takes, floats
        self._plans: dict[tuple[str, ...], _Plan] = {}
        self._shapes: dict[Hashable, _Shape] = {}

    def part(self, data: Any) -> tuple[Hashable, Any]:
        """Return a record's values in the order of the columns; the key has the names and the
        types.
        """
        if not isinstance(data, Mapping):
            return super().part(data)
        keys = tuple(data)
        plan = self._plans.get(keys) or self._plan(keys)
        values = plan.read(data)
        kinds = tuple(map(type, values))
        return plan.shapes.get(kinds) or self._shape(plan, kinds), values

    def finer(self, key: Any, parts: Sequence[Any]) -> Sequence[Hashable] | None:
        """Part the rows whose integers do not fit into 64 bits from the others: alone, their
        columns have other dtypes.
        """
        places = (
            [place for place, kind in enumerate(key.kinds) if kind is int]
            if isinstance(key, _Shape)
            else []
        )
        columns = [[row[place] for row in parts] for place in places]
        if all(_INT64[0] <= min(column) and max(column) <= _INT64[1] for column in columns):
            return None
        return [tuple([_size(row[place]) for place in places]) for row in parts]

    def call(self, key: Any, parts: Sequence[Any]) -> Any:
        """Call the model with a frame, or a list."""
        return self._method(self._frame(key, parts) if isinstance(key, _Shape) else list(parts))

    def _frame(self, shape: _Shape, parts: Sequence[Any]) -> Any:
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
        """Return how records with these *keys* are read."""
        names = self._columns(keys)
        if len(names) > 1 and set(names) <= set(keys):
            read: Callable[[Any], Any] = operator.itemgetter(*names)
        else:
            read = functools.partial(
                _read, names, self._takes.given if self._takes is not None else {}
            )
        if len(self._plans) >= _MOST_PLANS:
            self._plans.clear()
            self._shapes.clear()
        plan = self._plans[keys] = _Plan(names, read, {})
        return plan

    def _shape(self, plan: _Plan, kinds: tuple[type, ...]) -> _Shape:
        """Return the one shape of all records with the columns of *plan* and values of these
        *kinds*, whatever the order of their keys.
        """
        alike = tuple(
            [float if self._floats and kind in (int, bool, type(None)) else kind for kind in kinds]
        )
        shape = self._shapes.setdefault((plan.names, alike), _Shape(plan.names, alike))
        plan.shapes[kinds] = shape
        return shape

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
    """Return the column of *values* of one *kind*; what numpy is not told here, pandas finds out as
    it would for one value.
    """
    import numpy as np

    if kind in (float, bool):
        return np.array(values, kind)
    if kind is int and _INT64[0] <= min(values) and max(values) <= _INT64[1]:
        return np.array(values, np.int64)
    return list(values)


def _block(parts: Sequence[Any]) -> Any:
    """Return rows of floats as one array, which lies in memory as one that is made column by column
    does.
    """
    import numpy as np

    return np.asfortranarray(np.array(parts, float))


def _size(value: int) -> int:
    """Return 0 for a signed integer of 64 bits, 1 for an unsigned one, 2 for what fits into
    neither.
    """
    return 0 if _INT64[0] <= value <= _INT64[1] else 1 if 0 <= value < 2**64 else 2


def _read(
    names: Sequence[str], given: Mapping[str, Any], record: Mapping[str, Any]
) -> tuple[Any, ...]:
    return tuple([record[name] if name in record else given[name] for name in names])


class Probabilities(Feed):
    """Names what another feed answers: of each event an object, class -> probability; of several
    targets, a list of them.
    """

    def __init__(self, feed: Feed, classes: list[Any], several: bool) -> None:
        super().__init__(feed._method, feed._name)
        self._feed, self._classes, self._several = feed, classes, several
        self.part, self.finer = feed.part, feed.finer  # type: ignore[method-assign]

    def call(self, key: Hashable, parts: Sequence[Any]) -> Any:
        """Return an object an event; an answer of another shape stays as it is.

        A model of several targets answers with a list that has an array for each of them.
        """
        answer = self._feed.call(key, parts)
        if not self._several or not isinstance(answer, (list, tuple)):
            return _with_names(answer, self._classes)
        if len(answer) != len(self._classes) or any(len(each) != len(parts) for each in answer):
            raise ModelFailure(
                f"{self._name} has {len(self._classes)} targets and answers with {len(answer)}"
                " arrays",
                reason="bad_batch_result",
                permanent=True,
                whole=True,
            )
        return [list(row) for row in zip(*map(_with_names, answer, self._classes), strict=True)]


def _with_names(answer: Any, classes: list[Any]) -> Any:
    rows = answer.tolist() if hasattr(answer, "tolist") else answer
    if not isinstance(rows, list) or not all(
        isinstance(row, list) and len(row) == len(classes) for row in rows
    ):
        return answer
    return [dict(zip(classes, row, strict=True)) for row in rows]


def named(feed: Feed, target: Any, method: str) -> Feed:
    """Return *feed*, its probabilities named by the ``classes_`` of *target*, where it has some."""
    if method not in _PROBABLE:
        return feed
    try:
        found = target.classes_
        several = isinstance(found, list) and all(hasattr(each, "tolist") for each in found)
        classes = (
            [each.tolist() for each in found]
            if several
            else found.tolist()
            if hasattr(found, "tolist")
            else list(found)
        )
    except Exception:  # not fitted, not a classifier, or a property that raises
        return feed
    names = [name for each in classes for name in each] if several else classes
    return (
        Probabilities(feed, classes, several)
        if names and all(isinstance(n, (str, int, float, bool)) for n in names)
        else feed
    )
