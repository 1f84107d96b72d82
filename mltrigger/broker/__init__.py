"""The seam: the promises of brokers and sources, and the values that cross it.

Adapters, ours and those of other packages, import from here. Delivery knows nothing else of them.
"""

from mltrigger.broker.endings import Ending, EndingReader, Endings, Mark, Wakes
from mltrigger.broker.seam import Broker, Outside, Prepare, Unit
from mltrigger.broker.source import (
    HOW_FOLDERS_ARE_WRITTEN,
    SOURCES,
    Feed,
    Feeder,
    Notes,
    Source,
    Status,
    followed,
    scheme_of,
    shown,
    source_at,
)
from mltrigger.broker.values import (
    AT_ONCE,
    MAX_EVENT_BYTES,
    SEVERITIES,
    Count,
    Delivery,
    Depth,
    Finding,
    Outdated,
    Receipt,
    Sending,
    Settlement,
    Severity,
    SubscriptionSpec,
    Verdict,
)

__all__ = [
    "AT_ONCE",
    "HOW_FOLDERS_ARE_WRITTEN",
    "MAX_EVENT_BYTES",
    "SEVERITIES",
    "SOURCES",
    "Broker",
    "Count",
    "Delivery",
    "Depth",
    "Ending",
    "EndingReader",
    "Endings",
    "Feed",
    "Feeder",
    "Finding",
    "Mark",
    "Notes",
    "Outdated",
    "Outside",
    "Prepare",
    "Receipt",
    "Sending",
    "Settlement",
    "Severity",
    "Source",
    "Status",
    "SubscriptionSpec",
    "Unit",
    "Verdict",
    "Wakes",
    "followed",
    "scheme_of",
    "shown",
    "source_at",
]
