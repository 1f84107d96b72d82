"""A process that delivers both versions of a model and a table, until it is killed."""

from __future__ import annotations

import sqlite3
import sys
from typing import Any

import mltrigger as mt

BAD_EVERY = 3


def answer(n: int) -> dict[str, Any]:
    return {"page": n, "text": f"page {n}"}


@mt.model("ocr", version="1.0.0")
def good(n: int) -> dict[str, Any]:
    return answer(n)


@mt.model("ocr", version="1.1.0")
def bad(n: int) -> dict[str, Any]:
    return answer(n) if n % BAD_EVERY else {**answer(n), "text": "?"}


def table_at(path: str) -> mt.Model:
    """A model that keeps the newest answer of each subject."""

    def keep(page: mt.Event) -> None:
        with sqlite3.connect(path, timeout=60) as table:
            table.execute(
                "CREATE TABLE IF NOT EXISTS page (subject TEXT PRIMARY KEY, text TEXT, at REAL)"
            )
            table.execute(
                "INSERT INTO page VALUES (?, ?, ?) ON CONFLICT (subject) DO UPDATE"
                " SET text = excluded.text, at = excluded.at WHERE excluded.at > page.at",
                (page.subject, page.data["text"], page.time.timestamp()),
            )

    return mt.model(keep, name="table", version="1.0.0")


def main(url: str, path: str) -> None:
    with mt.connect(url) as bus:
        for model in (good, bad, table_at(path)):
            bus.register(model)
        for name in ("ocr", "table"):
            bus.listen(bus.spec(name))
        print("ready", flush=True)
        sys.stdin.read()


if __name__ == "__main__":
    main(*sys.argv[1:])
