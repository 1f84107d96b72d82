"""The parts of policy documents: the scope of a bus, statements, and checks of their texts."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterable, Mapping
from typing import Any

from mltrigger.aws.naming import Arn, S3Source, check_prefix
from mltrigger.errors import InvalidName
from mltrigger.event.envelopes.partitions import domain_of, partition_of

Policy = dict[str, Any]
"""A policy document, as `json.dumps` takes it."""

_REGION = re.compile(r"[a-z]{2,}(-[a-z]+)+-[0-9]+")
_ACCOUNT = re.compile(r"[0-9]{12}")
_CLASS = re.compile(r"\[!?\]?[^\]]*\]|\$")
_KEY = re.compile(r"arn:aws[a-z-]*:kms:[a-z0-9-]+:[0-9]{12}:key/[A-Za-z0-9-]+")
_ROLE_ARN = r"arn:aws[a-z-]*:iam::[0-9]{12}:role/[\w+=,.@/-]{1,576}"
ROLE = re.compile(_ROLE_ARN, re.ASCII)
TRUSTED = rf"[0-9]{{12}}|arn:aws[a-z-]*:iam::[0-9]{{12}}:root|{_ROLE_ARN}"
"""Pattern of principals that a role may trust: an account, by number or root, or one role."""
EXTERNAL_ID = r"[\w+=,.@:/-]{2,1224}"
"""Pattern of an external id of AWS STS.

https://docs.aws.amazon.com/STS/latest/APIReference/API_AssumeRole.html
"""


@dataclasses.dataclass(frozen=True, slots=True)
class Scope:
    """The place of a bus, which limits its policies. :meth:`of` makes one.

    Parameters
    ----------
    region, account, prefix : str
        As in ``aws://region/prefix``, and the account with twelve digits.
    partition : str
        The partition of its ARNs, which follows from the region.
    """

    region: str
    account: str
    prefix: str
    partition: str = "aws"

    @classmethod
    def of(cls, region: str, account: str, prefix: str) -> Scope:
        """Return the scope. Raise InvalidName for a wrong region, account or prefix."""
        check_text("region", region, _REGION, "such as eu-west-1")
        check_text("account", account, _ACCOUNT, "12 digits")
        return cls(region, account, check_prefix(prefix), partition_of(region))

    @property
    def topics(self) -> str:
        """The ARN pattern of the bus's topics, and of the subscriptions to them."""
        return f"arn:{self.partition}:sns:{self.region}:{self.account}:{self.prefix}-*"

    @property
    def queues(self) -> str:
        """The ARN pattern of the bus's queues, dead letters included."""
        return f"arn:{self.partition}:sqs:{self.region}:{self.account}:{self.prefix}-*"

    def bucket(self, name: str) -> str:
        """Return the ARN of the bucket in *name*, in one of the forms of :meth:`objects`."""
        return f"arn:{self.partition}:s3:::{_objects(name).bucket}"

    def objects(self, name: str) -> str:
        """Return the ARN pattern of the objects of *name*.

        It is ``bucket``, ``bucket/prefix`` or ``s3://bucket/prefix/*.png``.
        """
        source = _objects(name)
        # IAM knows only `*` and `?`, and `$` begins a variable. A `?` stands for the rest.
        return f"arn:{self.partition}:s3:::{source.bucket}/{_CLASS.sub('?', source.pattern)}"


def document(statements: Iterable[Mapping[str, Any]]) -> Policy:
    """Return the policy document of *statements*."""
    return {"Version": "2012-10-17", "Statement": [dict(statement) for statement in statements]}


def allow(
    sid: str, actions: Iterable[str], resources: Iterable[str], condition: Policy | None = None
) -> Policy:
    """Return a statement that allows *actions* on *resources*."""
    statement: Policy = {
        "Sid": sid,
        "Effect": "Allow",
        "Action": list(actions),
        "Resource": list(dict.fromkeys(resources)),
    }
    return statement if condition is None else {**statement, "Condition": condition}


def use_key(scope: Scope, key_arn: str, actions: Iterable[str], services: Iterable[str]) -> Policy:
    """Allow the use of a KMS key by *services* of the region only, for the principal.

    It is never allowed directly.
    """
    check_text(
        "key ARN",
        key_arn,
        _KEY,
        "such as arn:aws:kms:eu-west-1:123456789012:key/1234abcd-12ab-34cd-56ef-1234567890ab",
    )
    names = [f"{service}.{scope.region}.{domain_of(scope.partition)}" for service in services]
    return allow("UseKey", actions, [key_arn], {"StringEquals": {"kms:ViaService": names}})


def _objects(name: str) -> S3Source:
    return S3Source.parse(
        name if name.startswith("s3://") else f"s3://{name}*" if "/" in name else f"s3://{name}"
    )


def arn_in(service: str, text: str) -> Arn:
    """Return the ARN *text*, or raise InvalidName if it is not one in *service*."""
    arn = Arn.parse(text)
    if arn.service != service:
        raise InvalidName(
            f"{text[:200]!r} is the ARN of something in {arn.service}; this needs one in {service}"
        )
    return arn


def check_text(kind: str, value: object, rule: re.Pattern[str], example: str) -> None:
    """Raise InvalidName unless *value* matches *rule*."""
    if not isinstance(value, str) or not rule.fullmatch(value):
        raise InvalidName(f"{kind} {str(value)[:200]!r} is not valid: {example}")
