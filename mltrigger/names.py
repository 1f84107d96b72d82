"""What a topic, a subscription or a model may be called: the rule of SNS and SQS, so that a name is
good on every broker.
"""

from __future__ import annotations

import re

from mltrigger.errors import InvalidName

# https://docs.aws.amazon.com/sns/latest/api/API_CreateTopic.html (256); SQS queue names are shorter:
# https://docs.aws.amazon.com/AWSSimpleQueueService/latest/APIReference/API_CreateQueue.html (80)
_NAME = re.compile(r"[A-Za-z0-9_-]{1,80}")
FIFO = ".fifo"
"""What the name of a topic ends with that keeps the order of events with the same ``partitionkey``."""
_MODEL = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,79}")


def check_name(kind: str, name: object) -> str:
    """Return *name*, or raise InvalidName: 1 to 80 letters, digits, hyphens and underscores."""
    if not isinstance(name, str) or not _NAME.fullmatch(name):
        raise InvalidName(
            f"{kind} name {str(name)[:100]!r} must be 1 to 80 letters, digits, '-' or '_' (the rule"
            " of SNS and SQS)"
        )
    return name


def check_topic(name: object, ordered: bool) -> str:
    """Return *name*, or raise InvalidName: as :func:`check_name`; where topics may be *ordered*,
    one that ends in ``.fifo`` is.
    """
    if isinstance(name, str) and name.endswith(FIFO):
        if not ordered:
            raise InvalidName(
                f"topic {name[:100]!r} would keep an order; only SNS has such topics: connect to"
                " aws://region/prefix"
            )
        return check_name("topic", name.removesuffix(FIFO)) + FIFO
    return check_name("topic", name)


def check_model_name(name: object) -> str:
    """Return *name*, or raise InvalidName: as :func:`check_name`, and dots; ``:`` and ``@`` belong
    to selectors.
    """
    if not isinstance(name, str) or not _MODEL.fullmatch(name):
        raise InvalidName(
            f"model name {str(name)[:100]!r} must be 1 to 80 letters, digits, '.', '-' or '_',"
            " starting with a letter or digit"
        )
    return name
