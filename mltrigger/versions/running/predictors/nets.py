"""Feeds for torch modules, Keras models, XGBoost's Booster and pipelines of Hugging Face."""

from __future__ import annotations

import inspect
import sys
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from typing import Any

from mltrigger.errors import ModelFailure
from mltrigger.text import short
from mltrigger.versions.columns import Takes
from mltrigger.versions.running.predictors.feeds import Feed, text_of, unfit
from mltrigger.versions.running.predictors.tables import Frames, Shape


class Arrays(Feed):
    """Stacks the numbers of events, which are lists or records, into arrays.

    If the fields of a record have the names of the inputs, each field is an array. Otherwise the
    fields are one row of numbers in the order of the columns, or the only field is the array.

    Parameters
    ----------
    method, name
        See :class:`~mltrigger.versions.running.predictors.feeds.Feed`.
    inputs : sequence of str
        The names of the model's inputs.
    needed : int
        The number of required inputs. They come first.
    columns : sequence of str, optional
        The fields of a record that form the only input.
    """

    _integers = True
    """Whether the model treats integers differently from floats."""
    _lists = False
    """Whether a list as answer has several arrays, as a tuple has."""

    def __init__(
        self,
        method: Callable[..., Any],
        name: str,
        inputs: Sequence[str] = (),
        needed: int = 0,
        columns: Sequence[str] | None = None,
    ) -> None:
        super().__init__(method, name)
        self._call: Callable[..., Any] = method
        self._inputs, self._needed, self._columns = list(inputs), list(inputs)[:needed], columns

    def part(self, data: Any) -> tuple[Hashable, Any]:
        """Return the arrays of an event. The key has their names, shapes and dtypes."""
        names, values = self._read(data) if isinstance(data, Mapping) else (None, [data])
        arrays = [self._array(value) for value in values]
        return (names, *((array.shape, array.dtype.str) for array in arrays)), arrays

    def call(self, key: Any, parts: Sequence[Any]) -> Any:
        """Call the model with one array, or one for each name. Split answers along axis 0."""
        import numpy as np

        stacked = [np.stack(arrays) for arrays in zip(*parts, strict=True)]
        answer = self._asked(
            stacked[0] if key[0] is None else dict(zip(key[0], stacked, strict=True))
        )
        return parted(answer, len(parts), self._lists)

    def _asked(self, given: Any) -> Any:
        return self._method(given)

    def _read(self, record: Mapping[str, Any]) -> tuple[tuple[str, ...] | None, list[Any]]:
        """Return the values in *record* and the names of their inputs.

        The names are ``None`` if there is only one input.
        """
        if (
            self._inputs
            and record.keys() <= set(self._inputs)
            and record.keys() >= set(self._needed)
            and record
        ):
            names = tuple(name for name in self._inputs if name in record)
            return names, [record[name] for name in names]
        if self._columns is not None:
            if missing := [name for name in self._columns if name not in record]:
                raise unfit(
                    f"{self._name} needs {short(', '.join(map(repr, missing)), 200)}; the event has"
                    f" {short(', '.join(map(repr, record)), 200) or 'no fields'}"
                )
            values = [record[name] for name in self._columns]
            return None, values if len(values) == 1 and isinstance(values[0], list) else [values]
        if len(record) == 1 and isinstance(only := next(iter(record.values())), list):
            return None, [only]
        inputs = f"its inputs are {short(', '.join(self._inputs), 100)}; " if self._inputs else ""
        raise unfit(
            f"the order of the columns of {self._name} is not known, and an event's fields have"
            f" none: {inputs}say the order, mt.model(…,"
            f" columns=[{short(', '.join(map(repr, record)), 200)}]), or publish lists of numbers"
        )

    def _array(self, value: Any) -> Any:
        """Return *value* as an array of floats, of 64-bit integers or of truth values."""
        import numpy as np

        try:
            array = np.asarray(value)
            if array.dtype.kind in "fib" and self._integers:
                return array
            if array.dtype.kind in "fiubO":  # a null is a NaN
                return array.astype(float)
        except (TypeError, ValueError, OverflowError):
            pass
        raise unfit(f"{self._name} takes numbers in lists of one length, not {short(value)}")


class Torch(Arrays):
    """Calls a torch module with tensors on its device, in evaluation mode and without gradients.

    Floats get the dtype of its weights, or float32 without weights. Integers become int64 if the
    module has an embedding or no weights. Otherwise they count as floats: a client may write 3 for
    3.0.
    """

    def __init__(
        self, module: Any, method: Callable[..., Any], name: str, columns: Sequence[str] | None
    ) -> None:
        self._torch, self._module = sys.modules["torch"], module
        inputs, needed = _parameters(getattr(module, "forward", method))
        super().__init__(method, name, inputs, needed, columns)
        weight = next((p for p in module.parameters() if p.is_floating_point()), None)
        self._dtype = weight.dtype if weight is not None else self._torch.float32
        looks_up = any(
            "Embedding" in type(part).__name__ or getattr(part, "original_name", "") == "Embedding"
            for part in module.modules()
        )
        self._integers = weight is None or looks_up

    def finer(self, key: Any, parts: Sequence[Any]) -> Sequence[Hashable] | None:
        """Call events that are one number alone, unless they go into an embedding.

        Several numbers would be taken for the features of one event.
        """
        return (
            range(len(parts)) if key[0] is None and not key[1][0] and not self._integers else None
        )

    def _asked(self, given: Any) -> Any:
        place = next(
            (p.device for p in [*self._module.parameters(), *self._module.buffers()]), None
        )
        with self._torch.no_grad():
            if self._module.training:
                self._module.eval()
            if isinstance(given, dict):
                return self._call(
                    **{name: self._tensor(array, place) for name, array in given.items()}
                )
            return self._call(self._tensor(given, place))

    def _tensor(self, array: Any, place: Any) -> Any:
        tensor = self._torch.from_numpy(array)
        if array.dtype.kind == "f":
            tensor = tensor.to(self._dtype)
        elif array.dtype.kind == "i":
            tensor = tensor.to(self._torch.int64)
        return tensor if place is None else tensor.to(place)


class Module(Feed):
    """Calls another method than ``forward`` of a torch module, with a list of the data.

    The module is in evaluation mode, without gradients.
    """

    def __init__(self, module: Any, method: Callable[..., Any], feed: Feed) -> None:
        super().__init__(method, feed._name)
        self._module, self._feed = module, feed
        self.part, self.finer = feed.part, feed.finer  # type: ignore[method-assign]
        self.gather, self.wide = feed.gather, feed.wide  # type: ignore[method-assign]

    def call(self, key: Hashable, parts: Sequence[Any]) -> Any:
        """See :meth:`Feed.call`."""
        with sys.modules["torch"].no_grad():
            if self._module.training:
                self._module.eval()
            return self._feed.call(key, parts)


class Keras(Arrays):
    """Calls ``predict`` of a Keras model with arrays of float32 and int64, quietly."""

    _lists = True

    def __init__(
        self,
        model: Any,
        method: Callable[..., Any],
        name: str,
        columns: Sequence[str] | None,
        quiet: bool,
    ) -> None:
        try:
            inputs = [str(tensor.name) for tensor in model.inputs]
        except Exception:  # a subclass of Model that was never called has none
            inputs = []
        super().__init__(method, name, inputs, len(inputs), columns)
        self._quiet = quiet

    def _asked(self, given: Any) -> Any:
        alone = isinstance(given, dict) and len(self._inputs) == 1
        cast = (
            {n: _narrow(a) for n, a in given.items()} if isinstance(given, dict) else _narrow(given)
        )
        return self._call(
            next(iter(cast.values())) if alone else cast, **({"verbose": 0} if self._quiet else {})
        )


def _narrow(array: Any) -> Any:
    return array.astype("float32" if array.dtype.kind == "f" else "int64")


class Boosted(Frames):
    """Calls XGBoost's Booster, which takes a ``DMatrix``."""

    def __init__(self, method: Callable[[Any], Any], name: str, takes: Takes | None) -> None:
        matrix = sys.modules["xgboost"].DMatrix

        def asked(given: Any) -> Any:
            return method(matrix(given))

        super().__init__(asked, name, takes, floats=True)

    def call(self, key: Any, parts: Sequence[Any]) -> Any:
        """See :meth:`Feed.call`. Without names of features the Booster gets an array."""
        import numpy as np

        if isinstance(key, Shape):
            frame = self._frame(key, parts)
            return self._method(
                frame.to_numpy() if self._takes is not None and self._takes.numbered else frame
            )
        return self._method(np.array(parts, float))


class Pipelined(Feed):
    """Calls a pipeline of Hugging Face with a batch of texts, or of records if it takes them."""

    def __init__(self, pipeline: Any, name: str, columns: Sequence[str] | None) -> None:
        super().__init__(pipeline, name)
        self._pipeline = pipeline
        self._column = columns[0] if columns is not None and len(columns) == 1 else None
        self._records = "question-answering" in str(getattr(pipeline, "task", ""))
        # It would fetch or open a text that names an image or a sound.
        self._opens = any(
            getattr(pipeline, part, None) is not None
            for part in ("image_processor", "feature_extractor", "processor")
        )

    def part(self, data: Any) -> tuple[Hashable, Any]:
        """Return the text of an event, or its record."""
        if self._opens:
            raise unfit(
                f"{self._name} takes images or sounds, and would fetch what a text names: hand over"
                " a function that reads event.open() and calls the pipeline"
            )
        if isinstance(data, Mapping) and not (
            self._records or ({"text", "text_pair"} == data.keys() and self._column is None)
        ):
            data = text_of(data, self._column, self._name)
        return type(data).__name__, data

    def call(self, key: Hashable, parts: Sequence[Any]) -> Any:
        """Call the pipeline with all texts at once, if its tokenizer can pad the shorter ones."""
        model, tokenizer = (
            getattr(self._pipeline, "model", None),
            getattr(self._pipeline, "tokenizer", None),
        )
        if getattr(model, "training", False):
            model.eval()  # type: ignore[union-attr]
        fills = (
            getattr(tokenizer, "pad_token_id", None) is not None
            and getattr(self._pipeline, "_batch_size", None) is None
        )
        return self._pipeline(list(parts), **({"batch_size": len(parts)} if fills else {}))


def _parameters(function: Any) -> tuple[list[str], int]:
    """Return the names of the parameters of ``forward``, and the number without a default."""
    try:
        parameters = [
            p
            for p in inspect.signature(function).parameters.values()
            if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)
        ]
    except (TypeError, ValueError):
        return [], 0
    named = sorted(parameters, key=lambda p: p.default is not p.empty)
    return [p.name for p in named], sum(p.default is p.empty for p in named)


def parted(answer: Any, count: int, lists: bool) -> Any:
    """Return an answer of arrays as one output per event.

    Each array is split along its first axis. Names and positions are kept.

    Parameters
    ----------
    answer
        The answer of the model.
    count : int
        The number of events.
    lists : bool
        Whether a list has several arrays, as a tuple has. Otherwise a list has one output per
        event, unless each of its arrays has *count* rows.

    Raises
    ------
    ModelFailure
        If a list can be read both ways. Then the events are called alone, where it cannot.
    """
    if hasattr(answer, "tolist"):
        return answer.tolist()
    if isinstance(answer, tuple) and (names := getattr(type(answer), "_fields", None)):
        answer = dict(zip(names, answer, strict=True))
    if isinstance(answer, Mapping):
        parts = {
            name: parted(value, count, lists)
            for name, value in answer.items()
            if _holds_arrays(value)
        }
        return [dict(zip(parts, row, strict=True)) for row in _rows(parts.values(), count)]
    if (
        isinstance(answer, list)
        and not lists
        and answer
        and all(_counts(value, count) for value in answer)
    ):
        if len(answer) == count > 1:
            raise ModelFailure(
                f"a list of {count} arrays, each of {count}, for {count} events",
                reason="bad_batch_result",
                permanent=True,
            )
        lists = True
    if isinstance(answer, (tuple, list) if lists else tuple) and answer:
        return [
            list(row) for row in _rows([parted(value, count, lists) for value in answer], count)
        ]
    return answer


def _counts(value: Any, count: int) -> bool:
    """Whether *value* is an array with *count* rows."""
    return hasattr(value, "tolist") and tuple(getattr(value, "shape", ()))[:1] == (count,)


def _holds_arrays(value: Any) -> bool:
    """Whether *value* is an array or may hold arrays. The state for a next call holds none."""
    return hasattr(value, "tolist") or isinstance(value, (Mapping, tuple, list))


def _rows(columns: Iterable[Any], count: int) -> Any:
    listed = list(columns)
    if any(not isinstance(column, list) or len(column) != count for column in listed):
        raise ModelFailure(
            f"a model that is called with {count} events answers arrays whose first axis counts"
            " them",
            reason="bad_batch_result",
            permanent=True,
            whole=True,
        )
    return zip(*listed, strict=True)
