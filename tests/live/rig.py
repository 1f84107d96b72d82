"""What the checks on real AWS share: an account, names that begin with one random prefix, bare
clients, and how all of it goes again.
"""

from __future__ import annotations

import contextlib
import dataclasses
import itertools
import os
import re
import secrets
import time
from collections.abc import Callable, Iterator
from typing import Any, TypeVar

import boto3
from botocore.config import Config
from botocore.exceptions import ClientError

import mltrigger as mt
from mltrigger.aws.clients import Clients, make_client
from mltrigger.aws.faults import AwsError, code_of

T = TypeVar("T")

FAMILY = "mlt-live-"
PREFIX = re.compile(rf"{FAMILY}[0-9a-f]{{8}}")
"""What everything of one run is called by. Nothing else is ever removed."""
SERVICES = ("sqs", "sns", "s3", "iam", "events", "cloudformation")
PATIENCE_S = 60.0


def region() -> str | None:
    return os.environ.get("AWS_REGION") or os.environ.get("AWS_DEFAULT_REGION")


def fresh_prefix() -> str:
    return FAMILY + secrets.token_hex(4)


class Gap(AssertionError):
    """What the service did otherwise than AWS' documentation says.

    On an emulator it is told as a gap; on AWS it is a failure.
    """


@contextlib.contextmanager
def only_aws(why: str) -> Iterator[None]:
    """Check inside what is the service's part, and nothing of ours: an emulator need not do it, and
    *why* says what it does instead.
    """
    try:
        yield
    except (AssertionError, KeyError, ClientError, AwsError) as error:
        raise Gap(f"{why} ({str(error).partition(chr(10))[0]})") from error


@dataclasses.dataclass
class Live:
    """One account and region, as one run of the checks has it."""

    clients: Clients
    prefix: str

    def __post_init__(self) -> None:
        self._numbers = itertools.count(1)
        self._bare: dict[str, Any] = {}
        self.buckets: list[str] = []
        self.observed: list[str] = []

    @property
    def emulator(self) -> bool:
        return self.clients.endpoint

    def bare(self, service: str, **options: Any) -> Any:
        """Return a client that checks nothing and repeats nothing: what AWS says is what the check
        sees.
        """
        key = f"{service} {options}"
        if key not in self._bare:
            config = Config(
                parameter_validation=False,
                retries={"total_max_attempts": 2, "mode": "standard"},
                read_timeout=40,
            )
            self._bare[key] = boto3.Session().client(
                service, region_name=self.clients.region, config=config, **options
            )
        return self._bare[key]

    def sees(self, line: str) -> None:
        """Note what AWS does where its documentation does not say; shown at the end."""
        self.observed.append(line)

    # -- things ------------------------------------------------------------------------------------

    def name(self, what: str = "") -> str:
        return f"{self.prefix}-{what}{next(self._numbers)}"

    def bus_prefix(self) -> str:
        """Return a prefix of a bus of its own, within that of the run."""
        return f"{self.prefix}-b{next(self._numbers)}"

    @contextlib.contextmanager
    def bus(self, prefix: str | None = None, **options: Any) -> Iterator[mt.EventBus]:
        with mt.connect(
            f"aws://{self.clients.region}/{prefix or self.bus_prefix()}",
            **{"log": "memory://", **options},
        ) as bus:
            yield bus

    def queue(self, fifo: bool = False, **attributes: str) -> str:
        """Make a queue with a bare client, and return its URL."""
        if fifo:
            attributes["FifoQueue"] = "true"
        name = self.name("q") + (".fifo" if fifo else "")
        return str(self.clients.sqs.create_queue(QueueName=name, Attributes=attributes)["QueueUrl"])

    def arn(self, queue: str) -> str:
        return str(
            self.clients.sqs.get_queue_attributes(QueueUrl=queue, AttributeNames=["QueueArn"])[
                "Attributes"
            ]["QueueArn"]
        )

    def topic(self) -> str:
        return str(self.clients.sns.create_topic(Name=self.name("t"))["TopicArn"])

    def bucket(self, versioned: bool = False) -> str:
        name = self.name("s3-")
        where = (
            {}
            if self.clients.region == "us-east-1"
            else {"CreateBucketConfiguration": {"LocationConstraint": self.clients.region}}
        )
        self.buckets.append(name)
        self.clients.s3.create_bucket(Bucket=name, **where)
        if versioned:
            self.clients.s3.put_bucket_versioning(
                Bucket=name, VersioningConfiguration={"Status": "Enabled"}
            )
        return name

    def received(
        self, queue: str, count: int = 1, wait_s: float = PATIENCE_S, **given: Any
    ) -> list[dict[str, Any]]:
        """Receive *count* messages, or what came within *wait_s*."""
        found: list[dict[str, Any]] = []
        deadline = time.monotonic() + wait_s
        while len(found) < count and time.monotonic() < deadline:
            asked = {
                "QueueUrl": queue,
                "MaxNumberOfMessages": 10,
                "WaitTimeSeconds": min(10, max(0, round(deadline - time.monotonic()))),
            }
            asked |= {
                "MessageAttributeNames": ["All"],
                "MessageSystemAttributeNames": ["All"],
                **given,
            }
            found += self.clients.sqs.receive_message(**asked).get("Messages", [])
        return found


def within(look: Callable[[], T], timeout_s: float = PATIENCE_S, every_s: float = 0.5) -> T:
    """Return what *look* returns as soon as it is true, or its last answer."""
    deadline = time.monotonic() + timeout_s
    while not (found := look()) and time.monotonic() < deadline:
        time.sleep(every_s)
    return found


def refusal(ask: Callable[[], Any]) -> str | None:
    """Return the code with which AWS refuses, ``None`` when it does not; an entry that fails in a
    batch call counts.
    """
    try:
        answer = ask()
    except Exception as error:
        if not hasattr(error, "response"):
            raise
        return code_of(error) or "refused"
    failed = answer.get("Failed") if isinstance(answer, dict) else None
    return str(failed[0]["Code"]) if failed else None


def ours(check: Callable[[], Any]) -> str | None:
    """Return the message with which mltrigger refuses, ``None`` when it does not."""
    try:
        check()
    except mt.MltriggerError as error:
        return str(error)
    return None


# -- going again -----------------------------------------------------------------------------------


class Janitor:
    """Removes everything of one run, known by the prefix of its name; says what it removed and what
    it could not.
    """

    def __init__(self, prefix: str, region: str) -> None:
        if not PREFIX.fullmatch(prefix):
            raise SystemExit(
                f"PREFIX must be one that a run has printed, {FAMILY} and 8 hexadecimal digits; got"
                f" {prefix!r}"
            )
        self.prefix = prefix
        session = boto3.Session()
        self._of = {service: make_client(session, service, region, None) for service in SERVICES}
        self.removed: dict[str, int] = {}
        self.problems: list[str] = []

    def clean(self, buckets: tuple[str, ...] = ()) -> None:
        """Remove it all; what fails does not keep the rest from going."""
        for kind, find, remove in (
            ("CloudFormation stack", self._stacks, self._stack),
            ("EventBridge rule", self._rules, self._rule),
            ("bucket", lambda: sorted({*self._buckets(), *buckets}), self._bucket),
            ("SNS topic", self._topics, self._topic),
            ("SQS queue", self._queues, lambda url: self._of["sqs"].delete_queue(QueueUrl=url)),
            ("IAM role", self._roles, self._role),
        ):
            try:
                found = list(find())
            except Exception as error:
                if kind in ("bucket", "SNS topic", "SQS queue"):
                    self.problems.append(f"{kind}s could not be listed: {code_of(error)}")
                # who may not list roles, rules or stacks, or whose emulator has none, has made none
                continue
            for each in found:
                try:
                    remove(each)
                    self.removed[kind] = self.removed.get(kind, 0) + 1
                except Exception as error:
                    if code_of(error) not in (
                        "NoSuchBucket",
                        "AWS.SimpleQueueService.NonExistentQueue",
                        "QueueDoesNotExist",
                    ):
                        self.problems.append(f"{kind} {each}: {code_of(error)}")

    def _mine(self, name: str) -> bool:
        return name.startswith(f"{self.prefix}-")

    def _pages(self, service: str, operation: str, key: str, **given: Any) -> list[Any]:
        client = self._of[service]
        if not client.can_paginate(operation):
            return list(getattr(client, operation)(**given).get(key, ()))
        return [
            each
            for page in client.get_paginator(operation).paginate(**given)
            for each in page.get(key, ())
        ]

    def _queues(self) -> list[str]:
        return self._pages("sqs", "list_queues", "QueueUrls", QueueNamePrefix=f"{self.prefix}-")

    def _topics(self) -> list[str]:
        found = self._pages("sns", "list_topics", "Topics")
        return [t["TopicArn"] for t in found if self._mine(t["TopicArn"].rpartition(":")[2])]

    def _topic(self, arn: str) -> None:
        for each in self._pages(
            "sns", "list_subscriptions_by_topic", "Subscriptions", TopicArn=arn
        ):
            if each["SubscriptionArn"].startswith("arn:"):
                self._of["sns"].unsubscribe(SubscriptionArn=each["SubscriptionArn"])
        self._of["sns"].delete_topic(TopicArn=arn)

    def _buckets(self) -> list[str]:
        return [
            b["Name"] for b in self._of["s3"].list_buckets()["Buckets"] if self._mine(b["Name"])
        ]

    def _bucket(self, name: str) -> None:
        s3 = self._of["s3"]
        for page in s3.get_paginator("list_object_versions").paginate(Bucket=name):
            for each in (*page.get("Versions", ()), *page.get("DeleteMarkers", ())):
                s3.delete_object(Bucket=name, Key=each["Key"], VersionId=each["VersionId"])
        # an emulator without versions shows none
        for page in s3.get_paginator("list_objects_v2").paginate(Bucket=name):
            for each in page.get("Contents", ()):
                s3.delete_object(Bucket=name, Key=each["Key"])
        s3.delete_bucket(Bucket=name)

    def _roles(self) -> list[str]:
        return [
            r["RoleName"]
            for r in self._pages("iam", "list_roles", "Roles")
            if self._mine(r["RoleName"])
        ]

    def _role(self, name: str) -> None:
        iam = self._of["iam"]
        for policy in iam.list_role_policies(RoleName=name)["PolicyNames"]:
            iam.delete_role_policy(RoleName=name, PolicyName=policy)
        iam.delete_role(RoleName=name)

    def _rules(self) -> list[str]:
        return [
            r["Name"] for r in self._of["events"].list_rules(NamePrefix=f"{self.prefix}-")["Rules"]
        ]

    def _rule(self, name: str) -> None:
        targets = [t["Id"] for t in self._of["events"].list_targets_by_rule(Rule=name)["Targets"]]
        if targets:
            self._of["events"].remove_targets(Rule=name, Ids=targets)
        self._of["events"].delete_rule(Name=name)

    def _stacks(self) -> list[str]:
        found = self._pages("cloudformation", "list_stacks", "StackSummaries")
        return [
            s["StackName"]
            for s in found
            if self._mine(s["StackName"]) and s["StackStatus"] != "DELETE_COMPLETE"
        ]

    def _stack(self, name: str) -> None:
        self._of["cloudformation"].delete_stack(StackName=name)
        self._of["cloudformation"].get_waiter("stack_delete_complete").wait(
            StackName=name, WaiterConfig={"Delay": 5, "MaxAttempts": 60}
        )
