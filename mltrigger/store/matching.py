"""Matching: which attempts are asked for, as one value, and its conditions in SQL."""

from __future__ import annotations

import dataclasses
import itertools
import json
import re
import string
from collections.abc import Iterable, Sequence
from typing import Any

from mltrigger.store.attempts import whose
from mltrigger.store.outcomes import ANSWERING, OUTCOMES
from mltrigger.store.tables import CODES
from mltrigger.store.transaction import Reader

REASONS = (
    "bad_answer",
    "bad_batch_result",
    "cancelled",
    "corrected",
    "correction",
    "effect_missing",
    "effect_unknown",
    "event_too_large",
    "expired",
    "group_order",
    "interrupted",
    "invalid_event",
    "invalid_input",
    "invalid_output",
    "model_error",
    "model_http_error",
    "model_rejected",
    "model_unavailable",
    "no_process",
    "object_missing",
    "recursion_limit",
    "rejected",
    "result_not_serialisable",
    "result_too_large",
    "stopped",
    "throttled",
    "timeout",
    "too_many_descendants",
    "unsubscribed",
    "waits_for_itself",
    "worker_died",
)
"""The usual reason codes. A store may have others, of sources and model servers."""
_LIKE_UUID = re.compile("[0-9a-f-]{1,36}").fullmatch
_NAMED = "SELECT id FROM model_version WHERE version IN ({})"
_SEEN = """
SELECT 1 WHERE EXISTS (SELECT 1 FROM detail WHERE reason = :reason)
  OR EXISTS (SELECT 1 FROM lot WHERE reason = :reason)
  OR EXISTS (SELECT 1 FROM dead_letter WHERE reason = :reason)
"""
_RECENT = """
SELECT DISTINCT reason FROM (SELECT reason FROM dead_letter ORDER BY dead_us DESC LIMIT 1000)
  AS newest
"""


@dataclasses.dataclass(frozen=True)
class Matching:
    """The attempts that a user asks for. ``None`` is no condition.

    Attributes
    ----------
    subscription_id : int or None
        With its lanes, if their roles are asked for.
    roles : tuple of str
        See :data:`~mltrigger.store.outcomes.ROLES`.
    versions, outcomes, reasons, keys : tuple of str or None
        One of them each. The key is that of the subscription's ``key``, empty without one.
    since_us, until_us : int or None
        Received from the one on, and before the other.
    text : str or None
        A part of the output, error, subject or event id. Capitals make no difference.
    """

    subscription_id: int | None = None
    roles: Sequence[str] = ANSWERING
    versions: Sequence[str] | None = None
    outcomes: Sequence[str] | None = None
    reasons: Sequence[str] | None = None
    keys: Sequence[str] | None = None
    since_us: int | None = None
    until_us: int | None = None
    text: str | None = None

    @property
    def is_plain(self) -> bool:
        """Whether tallies can answer how many there are: by subscription and outcome only."""
        rest = dataclasses.replace(self, subscription_id=None, outcomes=None)
        return rest == Matching(roles=self.roles) and {*self.roles} == {*ANSWERING}

    @property
    def has_running(self) -> bool:
        """Whether attempts under way may be among them."""
        return self.outcomes is None or "running" in self.outcomes

    def final(self, outcomes: Iterable[str]) -> Matching:
        """Return the same for the attempts with one of *outcomes* only."""
        given = tuple(o for o in outcomes if self.outcomes is None or o in self.outcomes)
        return dataclasses.replace(self, outcomes=given)


class Conditions:
    """The conditions of *matching* for the attempts ``i`` of events ``e``.

    Attributes
    ----------
    recorded, running : list of str
        SQL for recorded attempts, and for those under way.
    parameters : dict
        Their parameters.
    """

    def __init__(self, reader: Reader, matching: Matching) -> None:
        self.parameters: dict[str, Any] = {
            "s": matching.subscription_id,
            "since_us": matching.since_us,
            "until_us": matching.until_us,
        }
        both = whose(reader, matching.subscription_id, matching.roles, "i.")
        if matching.since_us is not None:
            both.append("i.received_us >= :since_us")
        if matching.until_us is not None:
            both.append("i.received_us < :until_us")
        if matching.versions is not None:
            among = self.given("version", matching.versions)
            found = [int(n) for (n,) in reader.query(_NAMED.format(among), self.parameters)]
            both.append(f"i.model_version_id IN ({', '.join(map(str, found)) or 'NULL'})")
        if matching.reasons is not None:
            both.append(f"i.reason IN ({self.given('reason', matching.reasons)})")
        if matching.text is not None:
            both.append(self._text(matching.text))
        self.recorded, self.running = [*both], both
        if matching.outcomes is not None:
            codes = ", ".join(str(CODES[o]) for o in OUTCOMES if o in matching.outcomes)
            self.recorded.append(f"i.code IN ({codes or 'NULL'})")

    def given(self, name: str, values: Sequence[str]) -> str:
        """Return parameters for *values*, as a list in SQL."""
        named = dict(zip(parameters(name), values, strict=False))
        self.parameters |= named
        return ", ".join(f":{n}" for n in named) or "NULL"

    def _text(self, text: str) -> str:
        """Return the condition that *text* may be in an attempt. :func:`is_in` is exact."""
        needle = folded(text)
        escaped = folded(in_json(text))
        error = "coalesce(i.error_type || ': ', '') || coalesce(i.error, '')"
        found = [
            *(self._part(f"lower({column})", needle) for column in (error, "e.subject")),
            *(self._part("lower(i.output)", each) for each in {needle, escaped}),
            f"CASE WHEN typeof(e.id) = 'blob' THEN {self._uuid(needle)}"
            f" ELSE {self._part('lower(event_id(e.id))', needle)} END",
        ]
        return f"({' OR '.join(found)})"

    def _part(self, column: str, needle: str) -> str:
        """Return the condition that all those parts of *needle* are there that SQL can compare."""
        parts = [part for part in _comparable(needle) if part]
        found = []
        for part in parts:
            name = next(
                n for n in parameters("text") if self.parameters.setdefault(n, part) == part
            )
            found.append(f"instr({column}, :{name}) > 0")
        return f"({' AND '.join(found)})" if found else f"{column} IS NOT NULL"

    def _uuid(self, needle: str) -> str:
        # the digits are cheap to compare, and the id is a call of Python in SQLite
        if not _LIKE_UUID(needle):
            return "1 = 0"
        digits = self._part("lower(hex(e.id))", needle.replace("-", ""))
        return f"({digits} AND {self._part('event_id(e.id)', needle)})"


def is_exact(text: str) -> bool:
    """Whether SQL compares all of *text*: no letter beyond ASCII has two cases."""
    return len(_comparable(folded(text))) == 1


def is_in(text: str, values: Iterable[Any]) -> bool:
    """Whether *text* is a part of one of *values*. Capitals make no difference."""
    needle = folded(text)
    return any(isinstance(value, str) and needle in folded(value) for value in values)


def in_json(text: str) -> str:
    """Return *text* as it stands inside a JSON string."""
    return json.dumps(text, ensure_ascii=False)[1:-1]


def folded(text: str) -> str:
    """Return *text* in small letters. No other letter becomes one of ASCII."""
    return text.lower() if text.isascii() else "".join(map(_small, text))


def _small(sign: str) -> str:
    small = sign.lower()
    return small if len(small) == 1 and (sign.isascii() or not small.isascii()) else sign


def _comparable(needle: str) -> list[str]:
    """Return *needle*, divided at the letters beyond ASCII that have two cases."""
    signs = (s if s.isascii() or s.lower() == s.upper() else "\ud800" for s in needle)
    return "".join(signs).split("\ud800")


def parameters(name: str) -> Iterable[str]:
    """Yield names of parameters for the values of *name*. They have letters only."""
    letters = (
        "".join(of) for n in (1, 2, 3) for of in itertools.product(string.ascii_lowercase, repeat=n)
    )
    return (f"{name}_{each}" for each in letters)


def versions(reader: Reader) -> list[str]:
    """Return the registered versions of all models."""
    return [v for (v,) in reader.query("SELECT DISTINCT version FROM model_version", {})]


def unseen(reader: Reader, reasons: Sequence[str]) -> tuple[list[str], list[str]]:
    """Return those of *reasons* that no attempt has and that are not usual, and all known ones."""
    wrong = [r for r in reasons if r not in REASONS and not reader.query(_SEEN, {"reason": r})]
    recent = [r for (r,) in reader.query(_RECENT, {})] if wrong else []
    return wrong, sorted({*REASONS, *recent})
