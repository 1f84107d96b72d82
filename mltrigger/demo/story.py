"""``mltrigger demo``: new documents in a folder go through an OCR model.

The next team adds a second model without asking.
"""

from __future__ import annotations

import json
import shutil
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import mltrigger as mt
from mltrigger.demo.models import (
    document_type_classifier,
    page_files,
    read_page,
    read_page_enhanced,
)

if TYPE_CHECKING:
    import pandas as pd

    from mltrigger.bus import EventBus


@mt.model("ocr", version="1.0.0")
def ocr_1_0(document: mt.Event) -> dict[str, object]:
    """Read a scanned page as it is."""
    with document.open() as page:
        return dict(read_page(page))


@mt.model("ocr", version="1.1.0")
def ocr_1_1(document: mt.Event) -> dict[str, object]:
    """Read a scanned page after restoring its contrast."""
    with document.open() as page:
        return dict(read_page_enhanced(page))


def tell(full_trace: bool = False) -> int:
    """Tell the story in a temporary folder, printing as it goes. Return the exit status."""
    with tempfile.TemporaryDirectory(prefix="mltrigger-demo-") as name:
        inbox = Path(name) / "inbox"
        inbox.mkdir()
        with mt.connect(f"sqlite:///{name}/demo.db") as bus:
            return _tell(bus, inbox, full_trace)


def _tell(bus: EventBus, inbox: Path, full_trace: bool) -> int:
    pages = page_files()
    print("1. subscribe an OCR model to a folder, and a classifier to what it reads")
    ocr = bus.subscribe(f"file://{inbox}/*.png", ocr_1_0, emit="texts", timeout_s=120)
    classifier = mt.model(document_type_classifier(), name="document-type", version="1.0.0")
    kinds = bus.subscribe("texts", classifier)
    print(f"   {ocr}\n   {kinds}")

    print(f"\n2. {len(pages)} scanned pages arrive in the folder")
    for page in pages:
        shutil.copy(page, inbox / page.name)
    bus.wait(timeout_s=300, progress=sys.stderr.isatty())

    print("\n3. the next team adds OCR 1.1.0 to the same folder; nobody touches 1.0.0")
    following = bus.subscribe(f"file://{inbox}/*.png", ocr_1_1, name="ocr-next", timeout_s=120)
    print(f"   {following}")
    bus.wait(timeout_s=300, progress=sys.stderr.isatty())

    print("\n4. what was read: one document, two versions, and what the classifier made of it")
    results = _results(bus)
    print(_table(results))

    print("\n5. latency by stage and version, milliseconds")
    for sub in (ocr, following, kinds):
        print(f"   {sub}")
        print(_table(sub.latency().round(1)))

    print(
        "\n6. the way of one document through both models"
        if not full_trace
        else "\n6. the way of every document"
    )
    events = bus.events(ocr.topic)
    for event_id in events["event_id"] if full_trace else events["event_id"][:1]:
        columns = [
            "hop",
            "topic",
            "subject",
            "subscription",
            "version",
            "outcome",
            "queue_ms",
            "model_ms",
            "total_ms",
        ]
        print(_table(bus.trace(event_id)[columns].round(1)))
    dead = sum(len(sub.dead_letters()) for sub in (ocr, following, kinds))
    if dead or len(results) != len(pages):
        print(
            f"\n{dead} dead letters, {len(results)} of {len(pages)} documents read: something is"
            " wrong, see the tables above"
        )
        return 1
    print("\nNext: `mltrigger tutorial` opens the same in a notebook.")
    return 0


def _results(bus: EventBus) -> pd.DataFrame:
    """Return one row per document that all three models answered: both texts and the type."""
    import pandas as pd

    events, rows = bus.events(), []
    for event_id, subject in events.loc[events["hops"] == 0, ["event_id", "subject"]].itertuples(
        index=False
    ):
        trace = bus.trace(event_id).dropna(subset=["output"])
        outputs = {
            name: json.loads(output)
            for name, output in zip(trace["subscription"], trace["output"], strict=True)
        }
        if len(outputs) == 3:
            before, after = (outputs[name]["text"].splitlines() for name in ("ocr", "ocr-next"))
            rows.append(
                {
                    "document": subject,
                    "type": outputs["document-type"],
                    "first line": after[0],
                    "lines 1.0.0": len(before),
                    "lines 1.1.0": len(after),
                    "only 1.1.0 read": (
                        "; ".join(line for line in after if line not in before) or "-"
                    ),
                }
            )
    return pd.DataFrame(rows)


def _table(frame: pd.DataFrame) -> str:
    """Return *frame* as indented text."""
    text = frame.to_string(index=False, max_colwidth=44)
    return "\n".join(f"   {line}" for line in text.splitlines())
