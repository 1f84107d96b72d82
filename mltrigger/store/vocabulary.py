"""The sources and types of events: each text is written once, and known by its number."""

from __future__ import annotations

import functools
from collections.abc import Iterable

from mltrigger.store.damage import damaged
from mltrigger.store.transaction import Transaction

_FIND = "SELECT id FROM name WHERE text = :text"
_ADD = "INSERT INTO name (text) VALUES (:text)"
_TEXT = "SELECT text FROM name WHERE id = :id"


class Vocabulary:
    """The texts that this process has met, and their numbers.

    Names are never changed or deleted. A transaction may be rolled back. So a number is kept only
    once it is committed.
    """

    def __init__(self) -> None:
        self._numbers: dict[str, int] = {}
        self._texts: dict[int, str] = {}

    def numbers(self, transaction: Transaction, texts: Iterable[str]) -> dict[str, int]:
        """Return the number of each of *texts*. New ones are added."""
        known = self._numbers
        found: dict[str, int] = {}
        for text in texts:
            if text not in found:
                number = known.get(text)
                found[text] = self._new(transaction, text) if number is None else number
        return found

    def text(self, transaction: Transaction, number: int) -> str:
        """Return the text of *number*.

        Raises
        ------
        StoreError
            When there is none: the store is damaged.
        """
        text = self._texts.get(number)
        if text is None:
            found = [text for (text,) in transaction.query(_TEXT, {"id": number})]
            if len(found) != 1 or not isinstance(found[0], str):
                raise damaged("name", number, TypeError(f"a text expected, got {found!r:.60}"))
            (text,) = found
            transaction.after_visible(functools.partial(self._keep, text, number))
        return text

    def _new(self, transaction: Transaction, text: str) -> int:
        rows = transaction.query(_FIND, {"text": text})
        if not rows:
            transaction.execute(_ADD, {"text": text})
            rows = transaction.query(_FIND, {"text": text})
        ((number,),) = rows
        transaction.after_visible(functools.partial(self._keep, text, number))
        return int(number)

    def _keep(self, text: str, number: int) -> None:
        self._numbers[text], self._texts[number] = number, text
