"""The message attributes of AWS as plain values."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any

from mltrigger.errors import InvalidEvent
from mltrigger.event import codec

_NUMBER = re.compile(r"[+-]?(\d+(\.\d*)?|\.\d+)([eE][+-]?\d+)?", re.ASCII)


def from_message_attributes(given: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """Return the attributes of a message as :meth:`FilterPolicy.matches_attributes` takes them.

    Both spellings are read: ``Type`` and ``Value`` (in notifications), ``DataType`` and
    ``StringValue`` (in API calls). A ``Number`` becomes a number, and the JSON text of a
    ``String.Array`` a list. ``Binary`` is left out, because SNS ignores it for filtering
    (https://docs.aws.amazon.com/sns/latest/dg/subscription-filter-policy-constraints.html). A
    single value in place of an array counts as an array of one. A value that does not fit its type
    stays text.
    """
    plain = {}
    for name, attribute in given.items():
        kind = str(attribute.get("Type") or attribute.get("DataType") or "String")
        if not kind.startswith("Binary"):
            plain[name] = _plain(
                kind, attribute["Value"] if "Value" in attribute else attribute.get("StringValue")
            )
    return plain


def _plain(kind: str, value: Any) -> Any:
    if not isinstance(value, str):
        return value
    if kind.endswith(".Array"):
        return _array(value)
    return _number(value) if kind.startswith("Number") else value


def _array(text: str) -> Any:
    try:
        codec.loads(text)
    except InvalidEvent:
        return text
    value = json.loads(text)  # once more: what looks like a tag of ours is theirs
    return text if isinstance(value, dict) else value


def _number(text: str) -> int | float | str:
    if not _NUMBER.fullmatch(text):
        return text
    try:
        return int(text)
    except ValueError:  # a fraction, an exponent, or more digits than int() reads
        return float(text)
