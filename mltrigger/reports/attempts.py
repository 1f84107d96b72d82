"""The frame of very many attempts, made column by column."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from mltrigger.reports import frames
from mltrigger.store.bulk import MISSING, SEPARATOR, Bulk
from mltrigger.store.columns import NONE, Coded, Columns, Packed
from mltrigger.store.outcomes import FINAL, OUTCOMES
from mltrigger.text import harmless
from mltrigger.versions.running.measures import figures_of

if TYPE_CHECKING:
    import pandas as pd

    from mltrigger.store.latencies import Latencies
    from mltrigger.store.transaction import Row


def frame(bulk: Bulk, running: Sequence[Row], schema: Mapping[str, Any]) -> pd.DataFrame:
    """Return attempts as :func:`mltrigger.reports.frames.frame` does, *running* ones last."""
    import pandas as pd

    table = _Making(bulk).table(schema)
    if not running:
        return table
    return pd.concat([table, frames.frame(running, schema)], ignore_index=True)


def ended(bulk: Bulk, limit: int | None) -> tuple[pd.DataFrame, list[str | None], list[str | None]]:
    """Return the ends of events with the columns of ``frames.ENDED``, outputs, and figures.

    With *limit* only the newest ones.
    """
    making = _Making(bulk, FINAL, limit)
    table = making.table(frames.ENDED, {"error": making.errors()})
    return table, making.texts("output"), making.texts("measures")


def times(latencies: Latencies) -> pd.DataFrame:
    """Return versions and times as a frame of attempts has them. ``n`` attempts have the same."""
    import pandas as pd

    measured = {f"{stage}_ms": getattr(latencies, stage) / 1000.0 for stage in frames.STAGES}
    versions = [latencies.names.get(number) for number in latencies.version.tolist()]
    return pd.DataFrame({"version": versions, "n": latencies.n, **measured})


class _Making:
    """Makes columns of a frame."""

    def __init__(
        self, bulk: Bulk, outcomes: Sequence[str] = OUTCOMES, limit: int | None = None
    ) -> None:
        import numpy as np
        import pandas as pd

        self._columns = Columns(bulk)
        self._n, order = self._columns.n, self._columns.order
        if outcomes is not OUTCOMES:
            codes = [OUTCOMES.index(outcome) for outcome in outcomes]
            order = order[np.isin(self._columns.column("outcome").codes[order], codes)]
        if limit is not None:
            order = order[-limit:]
        whole = len(order) == self._n and (np.diff(order) == 1).all()
        self._order: Any = slice(None) if whole else order
        self._strings = pd.StringDtype(na_value=np.nan)
        self._is_arrow = self._strings.storage == "pyarrow"

    def table(
        self, schema: Mapping[str, Any], others: Mapping[str, Any] = MappingProxyType({})
    ) -> pd.DataFrame:
        """Return a frame with the columns of *schema*. Some may come from *others*."""
        import pandas as pd

        columns = {
            name: self._typed(
                name, others[name] if name in others else self._columns.column(name), dtype
            )
            for name, dtype in schema.items()
        }
        return pd.DataFrame(columns, columns=list(schema), copy=False)  # they are nobody else's

    def errors(self) -> dict[int, str]:
        """Return each error with its type before it."""
        errors, types = self._columns.column("error"), self._columns.column("error_type")
        typed = {place: f"{type_}: {errors.get(place)}" for place, type_ in types.items() if type_}
        return {**errors, **typed}

    def texts(self, name: str) -> list[str | None]:
        """Return all texts of a column."""
        found: list[str | None] = self._objects(self._columns.column(name), _same).tolist()
        return found

    def _typed(self, name: str, column: Any, dtype: Any) -> Any:
        import numpy as np
        import pandas as pd

        if dtype == "str":
            return self._text(column, _same if name in frames.CHECKED else harmless)
        if dtype == frames.FIGURES:
            return self._objects(column, figures_of)
        if isinstance(dtype, frames.OneOf):
            places = np.array([dtype.categories.index(value) for value in column.values])
            codes = places[column.codes[self._order]]
            return pd.Categorical.from_codes(codes, dtype=frames.dtype_of(dtype))
        numbers = column[self._order]
        if dtype == frames.TIME:
            return pd.Series(numbers.view("M8[us]")).dt.tz_localize("UTC")
        if dtype == "Int64":
            return pd.arrays.IntegerArray(numbers, numbers == NONE)
        return numbers

    def _text(self, column: Any, safe: Callable[[str], str]) -> Any:
        import numpy as np

        if isinstance(column, Coded):
            values = [value if value is None else safe(value) for value in column.values]
            return self._strings_of(values).take(column.codes[self._order])
        if isinstance(column, Mapping) and not column:
            return self._strings_of([None]).take(np.zeros(self._n, np.int64)[self._order])
        if isinstance(column, Packed) and self._is_arrow and not column.others:
            return self._strings_of(_chunked(column.parts, safe))[self._order]
        return self._strings_of(self._objects(column, safe))

    def _objects(self, column: Packed | Mapping[int, str], safe: Callable[[str], Any]) -> Any:
        """Return the texts of a column as an array of objects."""
        import numpy as np

        texts = np.full(self._n, None, object)
        if isinstance(column, Packed):
            texts[:] = [text for part in column.parts for text in _listed(part, safe)]
            column = column.others
        for place, text in column.items():
            texts[place] = safe(text)
        return texts[self._order]

    def _strings_of(self, texts: Any) -> Any:
        import pandas as pd

        return pd.array(texts, dtype=self._strings)


def _same(text: str) -> str:
    return text


def _is_safe(text: str, safe: Callable[[str], str]) -> bool:
    return safe is _same or text.replace(SEPARATOR, "").replace(MISSING, "").isprintable()


def _listed(part: Any, safe: Callable[[str], str]) -> Sequence[str | None]:
    """Return the texts of one part of a column."""
    if isinstance(part, str):
        texts: list[str | None] = [*part.split(SEPARATOR)]
        if MISSING in part:
            texts = [None if text == MISSING else text for text in texts]
        if _is_safe(part, safe):
            return texts
    elif isinstance(part, list):
        texts = part
    else:
        text, width = part.tobytes().decode(), part.shape[1]
        return [text[at : at + width] for at in range(0, len(text), width)]
    return [None if text is None else safe(text) for text in texts]


def _arrow(texts: Sequence[str | None]) -> Any:
    import pyarrow as pa

    return pa.array(texts, pa.large_string())


def _chunked(parts: Sequence[Any], safe: Callable[[str], str]) -> Any:
    """Return the parts of a column as Arrow has them, without an object for each text."""
    import numpy as np
    import pyarrow as pa

    chunks = []
    for part in parts:
        if isinstance(part, list) or (
            isinstance(part, str) and (MISSING in part or not _is_safe(part, safe))
        ):
            chunks.append(_arrow(_listed(part, safe)))
            continue
        if isinstance(part, str):
            signs = np.frombuffer(part.encode(), np.uint8)
            ends = np.flatnonzero(signs == ord(SEPARATOR))
            n, data = len(ends) + 1, signs[signs != ord(SEPARATOR)]
            offsets = np.concatenate([[0], ends - np.arange(n - 1), [len(data)]])
        else:
            n, width = part.shape
            data, offsets = part, np.arange(n + 1) * width
        chunks.append(
            pa.LargeStringArray.from_buffers(n, pa.py_buffer(offsets), pa.py_buffer(data))
        )
    return pa.chunked_array(chunks, pa.large_string())
