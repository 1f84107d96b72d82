"""The input of predictors. Only events that are alike share a call.

A :class:`Feed` makes a part of the input from the data of each event, and a key. Parts with equal
keys share a call. So each event gets the same answer as alone: its values and dtypes do not depend
on its neighbours.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from typing import Any

from mltrigger.errors import ModelFailure
from mltrigger.text import short

INT64 = (-(2**63), 2**63 - 1)
Groups = dict[Hashable, tuple[list[int], list[Any]]]
"""Key -> the numbers of the events with this key, and their parts."""
_PROBABLE = ("predict_proba", "predict_log_proba")


def unfit(problem: str) -> ModelFailure:
    """Return the failure of an event whose data do not fit the model."""
    return ModelFailure(problem, reason="invalid_input", permanent=True, kind="InvalidInput")


class Feed:
    """Calls the method of a predictor. This feed hands over a list of the data.

    Parameters
    ----------
    method : callable
        Takes the input of a batch.
    name : str
        The name of the model, for errors.
    """

    wide = False
    """Whether a thousand events in one call pay: the model computes by column."""

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

    def gather(self, raws: Sequence[bytes | None], groups: Groups) -> Sequence[int]:
        """Put parts that are read straight from JSON into *groups*. Return the other events.

        Parameters
        ----------
        raws : sequence of bytes
            The JSON of each event, ``None`` for other data.
        groups : Groups
            The numbers and parts of the events, filled here.

        Returns
        -------
        sequence of int
            The numbers of the events that :meth:`part` must read.
        """
        return range(len(raws))

    def finer(self, key: Hashable, parts: Sequence[Any]) -> Sequence[Hashable] | None:
        """Return a finer key for each of *parts* with this *key*, ``None`` for a single call."""
        return None

    def call(self, key: Hashable, parts: Sequence[Any]) -> Any:
        """Return one output for each of *parts*, which share *key*."""
        return self._method(list(parts))


def kinds_in(data: Any) -> frozenset[Any]:
    """Return the types of the values in lists of lists.

    Data with the same types become the same array, alone and together.
    """
    kinds: set[Any] = set()
    level = [data]
    while level:
        types = set(map(type, level))
        kinds |= types - {list}
        if int in types and not all(
            INT64[0] <= value <= INT64[1] for value in level if type(value) is int
        ):
            kinds.add("large")
        level = (
            [inner for value in level if type(value) is list for inner in value]
            if list in types
            else []
        )
    return frozenset(kinds - {int, "large"} if float in kinds else kinds)


def alike(feed: Feed | None, groups: Groups) -> Iterator[tuple[Hashable, list[int], list[Any]]]:
    """Yield the key, numbers and parts of each call. *groups* have parts with equal keys."""
    for key, (numbers, parts) in groups.items():
        finer = None if feed is None else feed.finer(key, parts)
        if finer is None:
            yield key, numbers, parts
            continue
        for kind in dict.fromkeys(finer):
            places = [place for place, one in enumerate(finer) if one == kind]
            yield key, [numbers[place] for place in places], [parts[place] for place in places]


class Records(Feed):
    """Hands over the records themselves, as ``DictVectorizer`` takes them."""

    def part(self, data: Any) -> tuple[Hashable, Any]:
        """Return the data. All records have the same key."""
        return ("records", data) if isinstance(data, Mapping) else super().part(data)


class Texts(Feed):
    """Hands over texts: an event that is a text, or the one text field of a record."""

    def __init__(self, method: Callable[[Any], Any], name: str, column: str | None) -> None:
        super().__init__(method, name)
        self._column = column

    def part(self, data: Any) -> tuple[Hashable, Any]:
        """Return the text of an event. A record must have exactly one."""
        if not isinstance(data, Mapping):
            return super().part(data)
        return super().part(text_of(data, self._column, self._name))


def text_of(record: Mapping[str, Any], column: str | None, name: str) -> str:
    """Return the text in the *column* of *record*, or in its only text field.

    Raises
    ------
    ModelFailure
        If there is no such text, or more than one.
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
    """Refuses all events: the model would open the files that an event names."""

    def part(self, data: Any) -> tuple[Hashable, Any]:
        """Refuse the event."""
        raise unfit(
            f"{self._name} opens the files that it is told, and no event may say which; hand over a"
            " function that reads them"
        )


class Probabilities(Feed):
    """Names the answers of another feed: an object per event, class -> probability.

    A model with several targets gives a list of such objects.
    """

    def __init__(self, feed: Feed, classes: list[Any], several: bool) -> None:
        super().__init__(feed._method, feed._name)
        self._feed, self._several = feed, several
        self._classes = [_as_keys(each) for each in classes] if several else _as_keys(classes)
        self.part, self.finer = feed.part, feed.finer  # type: ignore[method-assign]
        self.gather, self.wide = feed.gather, feed.wide  # type: ignore[method-assign]

    def call(self, key: Hashable, parts: Sequence[Any]) -> Any:
        """Return one object per event. An answer of another shape stays as it is.

        A model with several targets answers with a list of arrays, one for each target.
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


def _as_keys(classes: list[Any]) -> list[Any]:
    """Return whole numbers as the texts that they are in JSON. Those are written faster."""
    return list(map(str, classes)) if set(map(type, classes)) == {int} else classes


def _with_names(answer: Any, classes: list[Any]) -> Any:
    rows = answer.tolist() if hasattr(answer, "tolist") else answer
    if not isinstance(rows, list) or not all(
        isinstance(row, list) and len(row) == len(classes) for row in rows
    ):
        return answer
    return [dict(zip(classes, row, strict=True)) for row in rows]


def named(feed: Feed, target: Any, method: str) -> Feed:
    """Return *feed* with its probabilities named by ``classes_`` of *target*, if it has them."""
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
    except Exception:  # not fitted, no classifier, or a property that raises
        return feed
    names = [name for each in classes for name in each] if several else classes
    return (
        Probabilities(feed, classes, several)
        if names and all(isinstance(n, (str, int, float, bool)) for n in names)
        else feed
    )
