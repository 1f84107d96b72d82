"""Models and answers of other people's libraries: what goes in and comes out is what the library itself would say."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from typing import Any

import pytest

import mltrigger as mt
from mltrigger import Event
from mltrigger.models.invoke import Invoker, Result


@pytest.fixture
def bus() -> Iterator[mt.EventBus]:
    with mt.connect("memory://") as bus:
        yield bus


def results(model: Any, *data: Any, **described: Any) -> list[Result]:
    """Return what becomes of events with *data* that come together."""
    return Invoker(mt.model(model, name="m", version="1.0.0", **described)).many([Event(d) for d in data])


def answered(model: Any, *data: Any, **described: Any) -> list[Any]:
    """Return each event's answer, or the reason why it has none."""
    return [json.loads(r.output) if r.output is not None else r.reason for r in results(model, *data, **described)]


def single(answer: Callable[[], Any]) -> Any:
    """Return what is kept of the answer of a model."""
    return answered(lambda _: [answer()], 1, batch=True)[0]


# -- frames of other libraries -----------------------------------------------------------------------------------------------------


@pytest.mark.needs("polars")
def test_a_polars_frame_is_fired_row_by_row(bus: mt.EventBus) -> None:
    import polars

    got: list[Any] = []
    bus.subscribe("cities", mt.model(got.append, name="keep", version="1.0.0"))
    frame = polars.DataFrame({"city": ["Lima", "Oslo"], "m": [161, 23]})
    bus.fire("cities", frame, progress=False)
    bus.publish("cities", frame)
    bus.wait(progress=False)

    assert got == [{"city": "Lima", "m": 161}, {"city": "Oslo", "m": 23}, [{"city": "Lima", "m": 161}, {"city": "Oslo", "m": 23}]]


@pytest.mark.needs("polars")
def test_a_polars_frame_is_one_answer_a_row() -> None:
    import polars

    assert answered(lambda rows: polars.DataFrame({"n": rows}), 3, 1, batch=True) == [{"n": 3}, {"n": 1}]
    assert answered(lambda rows: polars.Series(rows), 3, 1, batch=True) == [3, 1]
    assert single(lambda: {"city": polars.Series(["Lima"])}) == {"city": ["Lima"]}


@pytest.mark.needs("pyarrow")
def test_an_arrow_table_is_rows_and_an_arrow_array_is_values() -> None:
    import pyarrow as pa

    table = pa.table({"city": ["Lima", "Oslo"], "m": [161, None]})
    rows = [{"city": "Lima", "m": 161}, {"city": "Oslo", "m": None}]

    assert answered(lambda _: table, 1, 2, batch=True) == rows
    assert answered(lambda _: table["m"], 1, 2, batch=True) == [161, None]
    assert single(lambda: table) == rows
    assert single(lambda: {"best": table["m"][0]}) == {"best": 161}


@pytest.mark.needs("torch")
def test_a_tensor_is_kept_as_numbers() -> None:
    import torch

    assert single(lambda: torch.tensor([[0.5, 1.0]], requires_grad=True)) == [[0.5, 1.0]]
    assert single(lambda: {"ids": torch.arange(2), "half": torch.tensor(0.5, dtype=torch.bfloat16)}) == {"ids": [0, 1], "half": 0.5}
    assert single(lambda: torch.eye(2).to_sparse()) == [[1.0, 0.0], [0.0, 1.0]]


@pytest.mark.needs("PIL")
def test_an_image_as_an_answer_is_dead_and_the_row_says_so(bus: mt.EventBus) -> None:
    from PIL import Image

    sub = bus.subscribe("pages", mt.model(lambda _: Image.new("L", (2, 2)), name="draw", version="1.0.0"))
    bus.fire("pages", [1], progress=False)

    row = sub.invocations().iloc[-1]
    assert (row["outcome"], row["reason"], row["attempt"]) == ("dead", "result_not_serialisable", 1)
    assert "the model ran, and its answer cannot be kept: $: a value of type 'Image' has no JSON form" in row["error"]
