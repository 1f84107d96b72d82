"""What it costs to check one small record against a schema."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable
from typing import Any, TypedDict

from benchmarks.models.rows import COLUMNS, rows
from mltrigger.versions.schema.schema import inferred, schema_of


@dataclasses.dataclass
class Record:
    """Three fields, as of a page."""

    number: int
    text: str
    price: float = 0.0


class RecordDict(TypedDict):
    """The same, as a dict."""

    number: int
    text: str
    price: float


def _plain(record: dict[str, Any]) -> float:
    return 0.0


def checks() -> dict[str, Callable[[], Any]]:
    """Return what is measured: a record of three fields, and a row of ten numbers."""
    import pydantic

    class Page(pydantic.BaseModel):
        number: int
        text: str
        price: float = 0.0

    record, row = {"number": 3, "text": "invoice", "price": 12.5}, rows(1)[0]
    wide = {
        "type": "object",
        "properties": {name: {"type": "number"} for name in COLUMNS},
        "required": COLUMNS,
    }
    hinted, _ = inferred(_plain, batch=False)
    schemas = {
        "type hint dict[str, Any]": (hinted, record),
        "pydantic model, 3 fields": (schema_of(Page), record),
        "TypedDict, 3 fields": (schema_of(RecordDict), record),
        "dataclass, 3 fields": (schema_of(Record), record),
        "JSON Schema, 3 fields": (schema_of(Page.model_json_schema()), record),
        "JSON Schema, 10 fields": (schema_of(wide), row),
    }
    return {
        name: lambda schema=schema, value=value: schema.accept(value)
        for name, (schema, value) in schemas.items()
        if schema
    }


def measure(checked: dict[str, Callable[[], Any]], times: int) -> dict[str, float]:
    """Return microseconds a check."""
    found = {}
    for name, check in checked.items():
        started = time.perf_counter()
        for _ in range(times):
            check()
        found[name] = (time.perf_counter() - started) / times * 1e6
    return found
