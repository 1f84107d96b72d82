"""Wrong arguments of the verbs that change versions: each error says which one, and names a way."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from typing import Any, NamedTuple

import pytest

import mltrigger as mt


class Setting(NamedTuple):
    bus: mt.EventBus
    sub: mt.Subscription
    other: mt.Subscription
    corrections: Any


def ocr(version: str) -> mt.Model:
    def read(document: int) -> str:
        if version == "1.1.0":
            mt.report(confidence=float("nan") if document % 3 == 0 else 0.5)
        elif document % 2:
            mt.report(confidence=0.9, words=12)
        return "a page"

    return mt.model(read, name="ocr", version=version)


@pytest.fixture(scope="module")
def there() -> Iterator[Setting]:
    """Version 1.0.0 answered 12 events, 1.1.0 answers now. 1.2.0 is registered and never ran."""
    with mt.connect("memory://") as bus:
        sub = bus.subscribe("documents", ocr("1.0.0"))
        other = bus.subscribe("others", ocr("1.0.0"), name="other", listen=False)
        bus.fire("documents", range(12), progress=False)
        sub.promote(ocr("1.1.0"))
        sub.replay("1.1.0", wait=True)
        bus.register(ocr("1.2.0"))
        yield Setting(bus, sub, other, sub.correct(0))


Call = Callable[[Setting], Any]
WRONG: dict[str, tuple[Call, type[Exception], str]] = {
    "promote, unknown version": (
        lambda t: t.sub.promote("1.3.0"),
        mt.NotFound,
        "no model version 'ocr:1.3.0'; did you mean 'ocr:1.2.0'",
    ),
    "promote, unknown model": (
        lambda t: t.sub.promote("ocrr:1.1.0"),
        mt.NotFound,
        "no model 'ocrr'; did you mean 'ocr'?",
    ),
    "promote, no canary": (lambda t: t.sub.promote(), mt.NotFound, "name the version"),
    "promote, no version": (lambda t: t.sub.promote(5), mt.InvalidModel, "int cannot serve"),
    "promote, backlog": (
        lambda t: t.sub.promote("1.2.0", backlog="newe"),  # type: ignore[arg-type]
        mt.NotFound,
        "did you mean 'new'?",
    ),
    "promote, a word as verdict": (
        lambda t: t.sub.promote("1.2.0", verdict="SHIP"),
        mt.InvalidPolicy,
        "write the comparison of sub.compare()",
    ),
    "promote, verdict about others": (
        lambda t: t.sub.promote("1.2.0", verdict=t.sub.compare("1.0.0", "1.1.0")),
        mt.InvalidPolicy,
        "the verdict is about ocr:1.0.0 -> ocr:1.1.0, and this would change ocr:1.1.0 to ocr:1.2.0",
    ),
    "promote, forced without a reason": (
        lambda t: t.sub.promote("1.2.0", force=True),  # type: ignore[arg-type]
        mt.InvalidPolicy,
        "force='reason'",
    ),
    "rollback, unknown binding": (
        lambda t: t.sub.rollback(99),
        mt.NotFound,
        "no binding 99 of 'ocr': the history has 0 to 1",
    ),
    "rollback, binding of another": (
        lambda t: t.sub.rollback(t.other.history()[0]),
        mt.NotFound,
        "one of 'other', not of 'ocr'",
    ),
    "rollback, version that has not answered": (
        lambda t: t.sub.rollback("1.2.0"),
        mt.NotFound,
        "promote() binds one that has not answered yet",
    ),
    "correct, present binding": (
        lambda t: t.sub.correct(t.sub.history()[-1]),
        mt.InvalidCorrection,
        "answers still, by ocr:1.1.0: promote() a better version or rollback() first",
    ),
    "correct, unknown binding": (
        lambda t: t.sub.correct(99),
        mt.NotFound,
        "no binding 99 of 'ocr': the history has 0 to 1",
    ),
    "correct, version": (
        lambda t: t.sub.correct("1.0.0"),
        mt.InvalidCorrection,
        "write one of sub.history()",
    ),
    "correct, binding of another": (
        lambda t: t.sub.correct(t.other.history()[0]),
        mt.InvalidCorrection,
        "one of 'other', not of 'ocr'",
    ),
    "correct, limit": (
        lambda t: t.corrections.start(limit="5"),
        mt.InvalidPolicy,
        "limit = '5': write a whole number",
    ),
    "correct, dry_run of less than nothing": (
        lambda t: t.corrections.dry_run(limit=-1),
        mt.InvalidPolicy,
        "limit = -1: write a whole number",
    ),
    "compare, no pair": (
        lambda t: t.sub.compare("1.0.0", "1.2.0"),
        mt.NothingToCompare,
        "12 by ocr:1.0.0, 0 by ocr:1.2.0; sub.replay(…) runs a version",
    ),
    "compare, no pair in that time": (
        lambda t: t.sub.compare("1.0.0", "1.1.0", since=datetime(2099, 1, 1, tzinfo=UTC)),
        mt.NothingToCompare,
        "0 by ocr:1.0.0, 0 by ocr:1.1.0, since 2099-01-01",
    ),
    "compare, unknown version": (
        lambda t: t.sub.compare("1.0.0", "1.1.1"),
        mt.NotFound,
        "did you mean 'ocr:1.1.0'",
    ),
    "compare, unknown column": (
        lambda t: t.sub.compare("1.0.0", "1.1.0", by="typ"),
        mt.NotFound,
        "no column 'typ'; did you mean 'type'?",
    ),
    "compare, no column": (
        lambda t: t.sub.compare("1.0.0", "1.1.0", by=5),  # type: ignore[arg-type]
        mt.NotFound,
        "no column '5'",
    ),
    "compare, unknown measure": (
        lambda t: t.sub.compare("1.0.0", "1.1.0", measures={"confidense": "higher"}),
        mt.NotFound,
        "did you mean 'confidence'?",
    ),
    "compare, direction of a measure": (
        lambda t: t.sub.compare("1.0.0", "1.1.0", measures={"confidence": "up"}),
        mt.InvalidComparison,
        '"higher" or "lower"',
    ),
    "compare, list of measures": (
        lambda t: t.sub.compare("1.0.0", "1.1.0", measures=["confidence"]),  # type: ignore[arg-type]
        mt.InvalidComparison,
        "write {'confidence': 'higher'}",
    ),
    "compare, rule": (
        lambda t: t.sub.compare("1.0.0", "1.1.0", agree="same"),  # type: ignore[arg-type]
        mt.InvalidComparison,
        "agree must be None (equality)",
    ),
    "compare, full agreement": (
        lambda t: t.sub.compare("1.0.0", "1.1.0", agree_at_least=1),
        mt.InvalidComparison,
        "1 cannot be shown by any number of events",
    ),
    "compare, percent": (
        lambda t: t.sub.compare("1.0.0", "1.1.0", confidence=95),
        mt.InvalidComparison,
        "confidence must be a share between 0 and 1, got 95",
    ),
    "compare, noise": (
        lambda t: t.sub.compare("1.0.0", "1.1.0", noise=-1),
        mt.InvalidComparison,
        "write a number of events",
    ),
    "guard, factor": (
        lambda t: mt.Guard(errors=0.5),
        mt.InvalidPolicy,
        "errors = 0.5: write a number from 1 on",
    ),
    "guard, list of measures": (
        lambda t: mt.Guard(measures=["confidence"]),  # type: ignore[arg-type]
        mt.InvalidPolicy,
        "write {'confidence': 'higher'}",
    ),
    "guard, measure that no attempt reports": (
        lambda t: t.sub.canary("1.2.0", guard=mt.Guard(measures={"confidense": "higher"})),
        mt.NotFound,
        "did you mean 'confidence'?; call mt.report(confidense=…) in the model first",
    ),
    "canary, guard": (
        lambda t: t.sub.canary("1.2.0", guard={"errors": 2}),  # type: ignore[arg-type]
        mt.InvalidPolicy,
        "write mt.Guard(",
    ),
    "canary, the present version": (
        lambda t: t.sub.canary("1.1.0"),
        mt.BindingConflict,
        "a canary needs another version",
    ),
    "canary, no steps": (
        lambda t: t.sub.canary("1.2.0", steps=[]),
        mt.InvalidPolicy,
        "steps = []: write shares from 0 to 1",
    ),
    "canary, steps in percent": (
        lambda t: t.sub.canary("1.2.0", steps=[1, 5]),
        mt.InvalidPolicy,
        "steps = [1, 5]: write shares from 0 to 1",
    ),
    "canary, events of a step": (
        lambda t: t.sub.canary("1.2.0", min_events="5"),  # type: ignore[arg-type]
        mt.InvalidPolicy,
        "min_events = '5': write a number of at least 1",
    ),
    "canary, then": (
        lambda t: t.sub.canary("1.2.0", then="promot"),  # type: ignore[arg-type]
        mt.NotFound,
        "did you mean 'promote'?",
    ),
    "shadow, share": (
        lambda t: t.sub.shadow("1.2.0", share=20),
        mt.InvalidPolicy,
        "share = 20: write a share above 0 and up to 1",
    ),
    "shadow, effects": (
        lambda t: t.sub.shadow("1.2.0", effects="life"),  # type: ignore[arg-type]
        mt.NotFound,
        "did you mean 'live'?",
    ),
    "shadow, rate": (
        lambda t: t.sub.shadow("1.2.0", max_rate_per_s=-1),
        mt.InvalidPolicy,
        "max_rate_per_s must be",
    ),
    "shadow, unknown version": (
        lambda t: t.sub.shadow("1.1.1"),
        mt.NotFound,
        "did you mean 'ocr:1.1.0'",
    ),
    "replay, limit": (
        lambda t: t.sub.replay("1.2.0", limit=0),
        mt.InvalidPolicy,
        "limit = 0: write a whole number",
    ),
    "replay, since": (
        lambda t: t.sub.replay("1.2.0", since="2 days ago"),
        mt.InvalidEvent,
        "or an age (timedelta(days=2), '2d'",
    ),
    "replay, nothing is left of that time": (
        lambda t: t.sub.replay("1.2.0", until="2d"),
        mt.NotFound,
        "no event of 'documents' is recorded in that time",
    ),
    "label, no event": (
        lambda t: t.bus.label(None, 1),
        mt.InvalidEvent,
        "give an event id, an Event, a Receipt, or a row",
    ),
    "label, no JSON": (lambda t: t.bus.label("a", object()), mt.NotEncodable, "no JSON form"),
    "accuracy, column": (
        lambda t: t.sub.accuracy(by="versions"),
        mt.NotFound,
        "did you mean 'version'?",
    ),
    "accuracy, percent": (
        lambda t: t.sub.accuracy(confidence=95),
        mt.InvalidComparison,
        "confidence = 95: write a share such as 0.95",
    ),
    "subscribe, corrections": (
        lambda t: t.bus.subscribe("x", ocr("1.0.0"), name="x", corrections="taek"),
        mt.InvalidPolicy,
        "corrections must be 'skip' or 'take'",
    ),
}


@pytest.mark.parametrize("case", WRONG)
def test_wrong_argument_is_refused_with_advice_and_changes_nothing(
    case: str, there: Setting
) -> None:
    call, error, words = WRONG[case]
    before = repr(there.sub.history()), len(there.sub.lanes()), repr(there.bus.labels())

    with pytest.raises(error, match=re.escape(words)):
        call(there)

    assert (repr(there.sub.history()), len(there.sub.lanes()), repr(there.bus.labels())) == before


def test_measures_that_one_side_or_both_lack_are_counted(there: Setting) -> None:
    found = there.sub.compare("1.0.0", "1.1.0", measures={"confidence": "higher", "words": "lower"})

    counts = {name: n for name, n in found.counts.items() if name[:5] in ("confi", "words")}
    assert counts == {
        "confidence_missing_old": 4,
        "confidence_missing_new": 2,
        "confidence_missing_both": 2,
        "confidence_errors": 0,
        "words_missing_old": 0,
        "words_missing_new": 6,
        "words_missing_both": 6,
        "words_errors": 0,
    }
    assert "only 0 pairs with it on both sides" in repr(found)


def test_label_of_an_unknown_event_is_kept_and_shown(there: Setting) -> None:
    there.bus.label("not-published", "a page")

    last = there.bus.labels().iloc[-1]
    assert (last["event_id"], bool(last["known"])) == ("not-published", False)


def test_function_that_fails_on_all_outputs_says_why(there: Setting) -> None:
    found = there.sub.compare("1.0.0", "1.1.0", agree=lambda old, new: old["text"] == new["text"])

    assert found.counts["not_comparable"] == 12
    for shown in (repr(found), found._repr_html_()):
        assert "string indices must be integers" in shown
