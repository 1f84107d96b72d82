"""One story over all verbs: a version is shadowed, replayed, compared, promoted and corrected."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from emulators import Account
from stores import ALL, url_of

import mltrigger as mt

MARKUP = "<script>alert(1)</script>"
_paid: list[int] = []


def charge(number: int) -> dict[str, int]:
    _paid.append(number)
    return {"paid": number}


def ocr(version: str) -> mt.Model:
    """Version 1.0.0 reads zeros as letters on every fifth page."""

    def read(page: dict[str, Any]) -> dict[str, str]:
        mt.report(confidence=0.9)
        mt.once("charge", charge, page["number"])
        wrong = version == "1.0.0" and page["number"] % 5 == 0
        return {"text": page["text"].replace("0", "O") if wrong else page["text"]}

    return mt.model(read, name="ocr", version=version)


def pages(first: int, n: int) -> list[mt.Event]:
    return [
        mt.Event(
            {"number": i, "text": f"page 0{i} {MARKUP}"},
            subject=f"{i}{MARKUP}",
            type="scan" if i % 3 else "photo",
            source="/scanner",
        )
        for i in range(first, first + n)
    ]


def same_text(one: dict[str, str], other: dict[str, str]) -> bool:
    return one["text"] == other["text"]


@pytest.fixture(params=ALL)
def bus(request: pytest.FixtureRequest) -> Iterator[mt.EventBus]:
    if request.param == "aws":
        account: Account = request.getfixturevalue("aws")
        yield account.bus()
        return
    with mt.connect(url_of(request)) as bus:
        yield bus


def test_new_version_is_judged_promoted_and_corrects_the_past(
    bus: mt.EventBus, tmp_path: Path
) -> None:
    _paid.clear()
    shown: list[Any] = []
    sub = bus.subscribe("documents", ocr("1.0.0"), emit="texts")
    bus.register(ocr("1.1.0"))
    empty = [sub.history(), sub.lanes(), sub.accuracy(), sub.effects(), bus.labels()]
    shadow = sub.shadow("ocr:1.1.0", share=0.2, why=MARKUP)
    documents = pages(1, 40)
    first = bus.fire("documents", documents, progress=False)
    assert list(first.results()["outcome"].astype(str).unique()) == ["succeeded"]

    replay = sub.replay("ocr:1.1.0", since="2d", limit=5_000).wait()
    compared = sub.compare(
        "ocr:1.0.0", "ocr:1.1.0", agree=same_text, by="type", noise=20, slow_at_most=None
    )
    assert (replay.progress().done, replay.progress().failed) == (40, 0)
    assert sorted(_paid) == list(range(1, 41))  # replays call no other system
    assert len(compared.flips()) == 8
    assert len(compared.frame()) == 40
    assert compared.counts["noise"] == 20
    assert compared.verdict.word == "NOT YET"
    page = compared.to_html(tmp_path / "report.html").read_text("utf-8")
    assert str(tmp_path) not in page

    canary = sub.canary("ocr:1.1.0", steps=[0.01, 0.5], guard=mt.Guard(errors=1.5, p95=1.3))
    shown += [canary, canary.progress().to_html(), sub.lanes(), sub.rollback(why=MARKUP)]
    with pytest.raises(mt.NotShipped, match="agree on 32 of 40 pairs"):
        sub.promote("ocr:1.1.0", verdict=compared)
    bound = sub.promote("ocr:1.1.0", verdict=compared, force=MARKUP)
    assert (bound.verdict, bound.version) == ("NOT YET", "ocr:1.1.0")
    assert sub.rollback(to=None).version == "ocr:1.0.0"
    sub.promote("ocr:1.1.0", force="read the flips")

    again = sub.correct(sub.history()[0])
    assert list(again.dry_run()["differs"]).count(True) == 8
    again.start().wait()
    assert again.progress().corrected == 8
    assert sub.correct(0).start().wait().progress().corrected == 8  # no second time
    assert sorted(_paid) == list(range(1, 41))
    audit = bus.audit().set_index("subscription").loc["ocr"]
    assert (audit["corrected"], bool(audit["balanced"])) == (8, True)
    assert list(sub.results()["reason"]).count("corrected") == 8

    early = pages(99, 1)[0]
    for event in [*documents, early]:
        bus.label(event, {"text": event.data["text"]}, by=MARKUP)
    bus.fire("documents", [early], progress=False)
    accuracy = sub.accuracy(by="version").set_index("version")
    assert accuracy["right"].tolist() == [32, 41]
    assert accuracy["labelled"].tolist() == [40, 41]

    shown += [*empty[:2], sub, sub.history(), sub.lanes(), shadow, shadow.progress(), again]
    shown += [again.progress(), compared, compared.verdict, bound, replay]
    cards = [card if isinstance(card, str) else card._repr_html_() for card in shown]
    assert not [card for card in [*cards, page] if "<script" in card or "nan" in card]
    for frame in (compared.flips(), sub.effects(), bus.labels(), again.frame(), again.dry_run()):
        assert "<script" not in frame.to_html()
    for before, after in zip(
        [part.frame() if hasattr(part, "frame") else part for part in empty],
        [sub.history().frame(), sub.lanes().frame(), sub.accuracy(), sub.effects(), bus.labels()],
        strict=True,
    ):
        assert before.dtypes.astype(str).to_dict() == after.dtypes.astype(str).to_dict()
