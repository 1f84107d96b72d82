"""The partitions of AWS: which region belongs to which, and under which domains its services are.

The same as botocore's data (``partitions.json``), which a test compares: neither names nor policy
documents need botocore.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple


class Partition(NamedTuple):
    """One partition of AWS.

    It has a name in ARNs, a prefix of its regions, and the domains of its services: over IPv4, and
    over both protocols.
    """

    name: str
    regions: tuple[str, ...]
    domain: str
    dual_stack_domain: str


PARTITIONS = (
    Partition("aws-cn", ("cn-",), "amazonaws.com.cn", "api.amazonwebservices.com.cn"),
    Partition("aws-eusc", ("eusc-",), "amazonaws.eu", "api.amazonwebservices.eu"),
    Partition("aws-iso", ("us-iso-",), "c2s.ic.gov", "api.aws.ic.gov"),
    Partition("aws-iso-b", ("us-isob-",), "sc2s.sgov.gov", "api.aws.scloud"),
    Partition("aws-iso-e", ("eu-isoe-",), "cloud.adc-e.uk", "api.cloud-aws.adc-e.uk"),
    Partition("aws-iso-f", ("us-isof-",), "csp.hci.ic.gov", "api.aws.hci.ic.gov"),
    Partition("aws-us-gov", ("us-gov-",), "amazonaws.com", "api.aws"),
    Partition("aws", ("",), "amazonaws.com", "api.aws"),
)
DOMAINS = tuple(
    dict.fromkeys(domain for p in PARTITIONS for domain in (p.domain, p.dual_stack_domain))
)
"""All domains under which AWS has services."""


def partition_of(region: str) -> str:
    """Return the name of the partition of *region*, such as ``aws`` or ``aws-cn``."""
    return next(p.name for p in PARTITIONS if region.startswith(p.regions))


def domain_of(partition: str) -> str:
    """Return the domain of the services of *partition*, such as ``amazonaws.com``."""
    return next((p.domain for p in PARTITIONS if p.name == partition), PARTITIONS[-1].domain)


def is_aws_host(host: str, domains: Iterable[str] = DOMAINS) -> bool:
    """Whether *host* is below one of the *domains* of AWS."""
    return f".{host.lower().rstrip('.')}".endswith(tuple(f".{domain}" for domain in domains))
