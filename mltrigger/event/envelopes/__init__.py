"""Turn received messages into Events.

Envelopes are the wrapper of SNS, S3 notifications, EventBridge, CloudEvents and plain JSON.
These are pure functions: nothing is fetched, confirmed or verified. A message is recognised
strictly, by its structure. A body that only resembles an envelope is data.
"""

from mltrigger.event.envelopes.arrival import (
    UNREADABLE,
    UNREADABLE_TYPE,
    UNREADABLE_WHY,
    Arrival,
    Ignored,
    Item,
    Unreadable,
    message_attributes,
)
from mltrigger.event.envelopes.reading import (
    EVENTBRIDGE_KEYS,
    IGNORED_TYPES,
    MESSAGE_TYPE,
    plain,
    understand,
)
from mltrigger.event.envelopes.sns import unwrapped

__all__ = [
    "EVENTBRIDGE_KEYS",
    "IGNORED_TYPES",
    "MESSAGE_TYPE",
    "UNREADABLE",
    "UNREADABLE_TYPE",
    "UNREADABLE_WHY",
    "Arrival",
    "Ignored",
    "Item",
    "Unreadable",
    "message_attributes",
    "plain",
    "understand",
    "unwrapped",
]
