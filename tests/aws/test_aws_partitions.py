"""Every partition of AWS is AWS: its hosts, its queue URLs, its ARNs, its policy documents."""

from __future__ import annotations

import re
from typing import Any

import boto3
import pytest
from botocore.loaders import create_loader

from mltrigger.aws import clients, naming
from mltrigger.aws.admin import policies
from mltrigger.event.envelopes import Arrival, understand
from mltrigger.event.envelopes.partitions import PARTITIONS, domain_of, is_aws_host, partition_of
from mltrigger.event.event import Event

KNOWN: dict[str, Any] = {p["id"]: p for p in create_loader().load_data("partitions")["partitions"]}
REGIONS = {
    region: name
    for name, p in KNOWN.items()
    for region in p["regions"]
    if not region.endswith("-global")
}
ONE_EACH = {name: next(r for r, n in REGIONS.items() if n == name) for name in KNOWN}


def test_the_partitions_are_those_of_botocore() -> None:
    ours = {p.name: (p.domain, p.dual_stack_domain) for p in PARTITIONS}

    assert ours == {
        name: (p["outputs"]["dnsSuffix"], p["outputs"]["dualStackDnsSuffix"])
        for name, p in KNOWN.items()
    }


@pytest.mark.parametrize(("region", "partition"), REGIONS.items())
def test_each_region_is_in_its_partition(region: str, partition: str) -> None:
    assert partition_of(region) == partition
    assert re.match(KNOWN[partition]["regionRegex"], region)


@pytest.mark.parametrize(("partition", "region"), ONE_EACH.items())
@pytest.mark.parametrize("dual_stack", [False, True])
def test_the_hosts_of_a_partition_are_aws_and_no_emulator(
    partition: str, region: str, dual_stack: bool
) -> None:
    session = boto3.Session("k", "s", region_name=region)
    made = clients.Clients(session, region)
    suffix = KNOWN[partition]["outputs"]["dualStackDnsSuffix" if dual_stack else "dnsSuffix"]
    direct = clients.Clients(session, region, f"https://sqs.{region}.{suffix}")

    assert not made.endpoint
    assert not direct.endpoint
    assert made.sqs.meta.endpoint_url == f"https://sqs.{region}.{domain_of(partition)}"


@pytest.mark.parametrize(
    "url",
    [
        "http://127.0.0.1:4566",
        "https://sqs.eu-west-1.amazonaws.com.example.org",
        "https://notamazonaws.com",
        "https://example.eu",
        "https://eu",
    ],
)
def test_other_hosts_are_an_emulator(url: str) -> None:
    assert clients.Clients(
        boto3.Session("k", "s", region_name="eu-west-1"), "eu-west-1", url
    ).endpoint


def test_a_partition_that_only_a_newer_botocore_knows_is_aws(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(clients, "_domains", lambda: ["amazonaws.example"])

    assert not clients.Clients(
        boto3.Session("k", "s", region_name="xx-north-1"),
        "xx-north-1",
        "https://sqs.xx-north-1.amazonaws.example",
    ).endpoint


@pytest.mark.parametrize(("partition", "region"), ONE_EACH.items())
def test_the_url_of_a_queue_names_its_arn_and_back(partition: str, region: str) -> None:
    arn = naming.Arn(partition, "sqs", region, "123456789012", "orders")

    url = naming.queue_url(arn)

    assert (
        url
        == f"https://sqs.{region}.{KNOWN[partition]['outputs']['dnsSuffix']}/123456789012/orders"
    )
    assert naming.aws_kind(url) == "sqs"
    assert naming.queue_arn(url, "eu-west-1") == arn
    dual = f"https://sqs.{region}.{KNOWN[partition]['outputs']['dualStackDnsSuffix']}/123456789012/orders"
    assert naming.aws_kind(dual) == "sqs"
    assert naming.queue_arn(dual, "eu-west-1") == arn


@pytest.mark.parametrize(("partition", "region"), ONE_EACH.items())
def test_policy_documents_name_the_partition_and_its_domain(partition: str, region: str) -> None:
    scope = policies.Scope.of(region, "123456789012", "mltrigger")
    key = f"arn:{partition}:kms:{region}:123456789012:key/1234abcd-12ab-34cd-56ef-1234567890ab"

    document = policies.publisher(scope, payload_bucket="bodies", key_arn=key)

    statements = document["Statement"]
    assert all(
        resource.startswith(f"arn:{partition}:")
        for statement in statements
        for resource in statement["Resource"]
    )
    services = statements[-1]["Condition"]["StringEquals"]["kms:ViaService"]
    assert services == [
        f"{service}.{region}.{KNOWN[partition]['outputs']['dnsSuffix']}"
        for service in ("sns", "s3")
    ]


@pytest.mark.parametrize(("partition", "region"), ONE_EACH.items())
def test_the_events_of_a_bucket_come_from_its_partition(partition: str, region: str) -> None:
    body = (
        f'{{"Records": [{{"eventVersion": "2.1", "eventSource": "aws:s3", "awsRegion": "{region}",'
        ' "eventTime": "2026-11-23T09:30:00Z", "eventName": "ObjectCreated:Put", "s3": {"bucket":'
        ' {"name": "scans"}, "object": {"key": "a.png"}}}]}'
    )

    (event,) = understand(Arrival(body, {}, "m-1", "q"))

    assert isinstance(event, Event)
    assert event.source == f"arn:{partition}:s3:::scans"


def test_a_host_is_below_a_domain_only_at_a_dot() -> None:
    assert is_aws_host("SQS.eusc-de-east-1.amazonaws.eu.")
    assert not is_aws_host("sqs.eu-west-1.myamazonaws.eu")
