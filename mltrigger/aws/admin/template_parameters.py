"""The parameters of a CloudFormation template, and the rule between two of them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from mltrigger.aws.admin import policies, topology
from mltrigger.aws.admin.template_names import MAX_PREFIX, Feed, shortest_room

Template = dict[str, Any]


def given(parameter: str) -> Template:
    """Return the condition that *parameter* is not empty."""
    return {"Fn::Not": [{"Fn::Equals": [{"Ref": parameter}, ""]}]}


RULES = {
    "ExternalIdForTrustedAccount": {
        "RuleCondition": given("TrustedAccount"),
        "Assertions": [
            {
                "Assert": given("ExternalId"),
                "AssertDescription": (
                    "TrustedAccount needs an ExternalId that both accounts have agreed on"
                ),
            }
        ],
    }
}
_NAME = "[A-Za-z0-9_-]+"


def name_parameters(prefix: str, feeds: Sequence[Feed], single: bool) -> Template:
    """Return the parameters for names: the prefix, and those of a single topic."""
    about = "Prefix of the bus, as in aws://region/prefix. Every name begins with it."
    of_prefix = _text(about, prefix, _NAME)
    room = shortest_room([feed.room for feed in feeds])
    if room is None:  # a name is shortened for this very prefix
        return {"Prefix": {**of_prefix, "AllowedValues": [prefix]}}
    if not single:
        return {"Prefix": {**of_prefix, "MinLength": 1, "MaxLength": room}}
    # Together they may be too long for a queue. SQS then refuses the name, and no resource gets
    # another name than the library expects.
    sizes = {"MinLength": 1, "MaxLength": 70}
    topic, (queue,) = feeds[0].topic, feeds[0].subscriptions
    return {
        "Prefix": {**of_prefix, "MinLength": 1, "MaxLength": MAX_PREFIX},
        "TopicName": {**_text("Name of the topic.", topic, _NAME), **sizes},
        "SubscriptionName": {
            **_text("Name of its subscription.", queue.subscription, _NAME),
            **sizes,
        },
    }


def setting_parameters(
    lease_s: int, max_receive_count: int, trusted_account: str, external_id: str
) -> Template:
    """Return the parameters for settings, with these defaults."""
    return {
        "LeaseSeconds": _number(
            "Seconds for which a received event is hidden from other listeners.",
            lease_s,
            topology.MIN_LEASE_S,
            topology.MAX_LEASE_S,
        ),
        "MaxReceiveCount": _number(
            "Receives before SQS itself moves a message to the dead letters. Keep it well above"
            " the attempts of the subscription.",
            max_receive_count,
            1,
            topology.MAX_RECEIVES,
        ),
        "TrustedAccount": _text(
            "Account (12 digits) or role ARN that may read the queues of this stack. Empty for"
            " none.",
            trusted_account,
            f"|{policies.TRUSTED}",
        ),
        "ExternalId": _text(
            "The id that the trusted account has to name. Needed if there is one.",
            external_id,
            f"|{policies.EXTERNAL_ID}",
        ),
    }


def _text(description: str, default: str, pattern: str) -> Template:
    return {
        "Type": "String",
        "Description": description,
        "Default": default,
        "AllowedPattern": f"^({pattern})$",
    }


def _number(description: str, default: int, low: int, high: int) -> Template:
    return {
        "Type": "Number",
        "Description": description,
        "Default": default,
        "MinValue": low,
        "MaxValue": high,
    }
