"""Filter policies of Amazon SNS, matched here: the same operators on every broker.

``policy`` reads a policy and answers. ``match`` looks for its fields in an event. ``conditions``
are the operators. ``index`` finds the policies of a topic that an event passes. ``attributes`` are
the message attributes of AWS as plain values.
"""

from __future__ import annotations

from mltrigger.filters.attributes import from_message_attributes
from mltrigger.filters.index import FilterIndex
from mltrigger.filters.match import Clause
from mltrigger.filters.policy import (
    MAX_COMBINATIONS,
    MAX_KEYS,
    MAX_POLICY_BYTES,
    FilterPolicy,
    Scope,
)

__all__ = [
    "MAX_COMBINATIONS",
    "MAX_KEYS",
    "MAX_POLICY_BYTES",
    "Clause",
    "FilterIndex",
    "FilterPolicy",
    "Scope",
    "from_message_attributes",
]
