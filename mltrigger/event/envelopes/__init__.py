"""Envelopes: what really arrives from a queue (SNS wrapper, S3 notification, EventBridge,
CloudEvents, plain JSON) -> Events.

Pure functions: nothing is fetched, confirmed or verified here. A message is recognised by its
structure, strictly; what only resembles an envelope is somebody's data.
"""

from mltrigger.event.envelopes.arrival import Arrival, Ignored, Item, Unreadable, message_attributes
from mltrigger.event.envelopes.reading import EVENTBRIDGE_KEYS, MESSAGE_TYPE, understand
from mltrigger.event.envelopes.sns import unwrapped

__all__ = [
    "EVENTBRIDGE_KEYS",
    "MESSAGE_TYPE",
    "Arrival",
    "Ignored",
    "Item",
    "Unreadable",
    "message_attributes",
    "understand",
    "unwrapped",
]
