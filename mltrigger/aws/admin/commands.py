"""``mltrigger aws template | policies``: their options, and the text that each prints.

Nothing here calls AWS.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

from mltrigger.errors import InvalidName, MltriggerError

if TYPE_CHECKING:
    from mltrigger.aws.admin import policies

_TEMPLATE_HELP = """\
Print a CloudFormation template of a bus: its topics, queues, dead-letter queues and roles.

  mltrigger aws template --prefix acme --topic documents=reader,archiver > acme.json
  aws cloudformation deploy --stack-name acme --template-file acme.json \\
      --capabilities CAPABILITY_IAM

mt.connect("aws://region/acme") then finds the topics and queues and has nothing to change. The
outputs of the stack give the URL of each queue (QueueURL), the URL of its dead letters
(DeadLetterQueueURL) and the role that reads them (QueueConsumerARN). Another account may use that
role if you deploy with its number and an external id that both sides have agreed on:

  ... --parameter-overrides TrustedAccount=210987654321 ExternalId=acme-2026

Deleting the stack keeps the dead letters, unless --delete-dead-letters is given here. A template
above 51,200 bytes (about seven subscriptions) needs a bucket of yours (--s3-bucket of the AWS
command line). Deploying needs the rights of CloudFormation itself, those that `mltrigger aws
policies --role administrator` prints, and iam:CreateRole, GetRole, TagRole and PutRolePolicy.
"""

_POLICIES_HELP = """\
Print the policy document of one role. It allows what this role needs and nothing else.

  publisher       publish on the topics of a bus         --region --account --prefix
  listener        deliver its subscriptions              --region --account --prefix
  administrator   subscribe, unsubscribe, redrive        --region --account --prefix
  queue-listener  listen to somebody else's queue        --queue
  trust           who may assume a role                  --trusted --external-id
  assume-role     that a role may be assumed             --role-arn

For access from another account, the owner of the queue makes a role with the policies
`queue-listener` and `trust`. The other side gives `assume-role` to its listener:

  mltrigger aws policies --role queue-listener \\
      --queue arn:aws:sqs:eu-west-1:123456789012:orders
  mltrigger aws policies --role trust --trusted 210987654321 --external-id acme-2026
  mltrigger aws policies --role assume-role \\
      --role-arn arn:aws:iam::123456789012:role/orders-reader
"""


def add_commands(commands: Any, run: Callable[[argparse.Namespace], int]) -> None:
    """Add ``aws`` to the *commands* of the command line.

    *run* gets the parsed options and prints ``given.text(given)``.
    """
    aws = commands.add_parser(
        "aws", help="policy documents and a CloudFormation template for a bus on AWS"
    )
    kinds = aws.add_subparsers(required=True, metavar="command")
    for name, about, described, add, text in (
        (
            "template",
            "a CloudFormation template of a bus",
            _TEMPLATE_HELP,
            _add_template,
            template_text,
        ),
        (
            "policies",
            "the least-privilege policy document of a role",
            _POLICIES_HELP,
            _add_policies,
            policies_text,
        ),
    ):
        parser = kinds.add_parser(
            name,
            help=about,
            description=described,
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        add(parser)
        parser.set_defaults(run=run, text=text)


def template_text(given: argparse.Namespace) -> str:
    """Return the template for the options, as JSON."""
    from mltrigger.aws.admin.template import template, to_json

    topics: dict[str, list[str]] = {}
    for text in given.topic or ["documents=reader"]:
        topic, _, names = text.rpartition("=")  # the last one: object keys may have others
        if not topic or not all(names.split(",")):
            raise InvalidName(
                f"--topic {text!r} must be a topic and its subscriptions, such as"
                " documents=reader,archiver"
            )
        topics.setdefault(topic, []).extend(names.split(","))
    chosen = {
        name: value
        for name in ("lease_s", "max_receive_count")
        if (value := getattr(given, name)) is not None
    }
    document = template(
        given.prefix,
        topics,
        **chosen,
        trusted_account=given.trusted_account,
        external_id=given.external_id,
        payload_bucket=given.payload_bucket,
        create_buckets=given.create_buckets,
        keep_dead_letters=not given.delete_dead_letters,
    )
    return to_json(document)


def policies_text(given: argparse.Namespace) -> str:
    """Return the policy document of the chosen role, as JSON."""
    from mltrigger.aws.admin.template import to_json

    role = ROLES[given.role]
    options = [*_OPTIONS, *_REPEATED, *_SWITCHES]
    values = {name: value for name in options if (value := getattr(given, name))}
    flags = {name: _flag(name) for name in options}
    if missing := [flags[name] for name in role.needs if name not in values]:
        raise MltriggerError(f"the policy of the role {given.role} needs {', '.join(missing)}")
    if foreign := [flags[name] for name in values if name not in (*role.needs, *role.takes)]:
        raise MltriggerError(
            f"the policy of the role {given.role} takes no {', '.join(foreign)}; it would say"
            " nothing about it"
        )
    return to_json(role.make(values))


class _Role(NamedTuple):
    """One role: required options, optional ones, and the function that makes its document."""

    needs: tuple[str, ...]
    takes: tuple[str, ...]
    make: Callable[[Mapping[str, Any]], policies.Policy]


def _of_bus(make: str, *takes: str) -> _Role:
    def document(values: Mapping[str, Any]) -> policies.Policy:
        from mltrigger.aws.admin import policies

        scope = policies.Scope.of(values["region"], values["account"], values["prefix"])
        function: Callable[..., policies.Policy] = getattr(policies, make)
        return function(
            scope, **{_PARAMETERS.get(name, name): values[name] for name in takes if name in values}
        )

    return _Role(("region", "account", "prefix"), takes, document)


def _queue_listener(values: Mapping[str, Any]) -> policies.Policy:
    from mltrigger.aws.admin import policies

    return policies.queue_listener(*values["queue"], key_arn=values.get("key"))


def _trust(values: Mapping[str, Any]) -> policies.Policy:
    from mltrigger.aws.admin import policies

    return policies.trust_policy(values["trusted"], values["external_id"])


def _assume_role(values: Mapping[str, Any]) -> policies.Policy:
    from mltrigger.aws.admin import policies

    return policies.assume_role_policy(values["role_arn"])


_PARAMETERS = {"key": "key_arn", "source_bucket": "source_buckets", "source_topic": "source_topics"}
ROLES = {
    "publisher": _of_bus("publisher", "payload_bucket", "key"),
    "listener": _of_bus(
        "listener", "emits", "source_bucket", "payload_bucket", "lists_buckets", "key"
    ),
    "queue-listener": _Role(("queue",), ("key",), _queue_listener),
    "administrator": _of_bus("administrator", "source_bucket", "source_topic", "payload_bucket"),
    "trust": _Role(("trusted", "external_id"), (), _trust),
    "assume-role": _Role(("role_arn",), (), _assume_role),
}
"""The roles that have a policy document."""

_OPTIONS = {
    "region": "region of the bus, such as eu-west-1",
    "account": "account of the bus, 12 digits",
    "prefix": "prefix of the bus, as in aws://region/prefix",
    "payload_bucket": "bucket for bodies beyond the limit",
    "key": "ARN of the KMS key of the topics, queues or buckets, if they have one of their own",
    "external_id": "external id that the trusted side has to name",
    "trusted": "who may assume the role: an account or the ARN of a role",
    "role_arn": "the role that may be assumed",
}
_REPEATED = {
    "queue": "ARN of a queue that somebody else owns (may be repeated)",
    "source_bucket": (
        "bucket, bucket/prefix or s3://bucket/prefix/*.png that events are about (may be repeated)"
    ),
    "source_topic": "ARN of a topic that somebody else owns (may be repeated)",
}
_SWITCHES = {
    "emits": "the outputs of the models are published on the bus",
    "lists_buckets": "allow listing the buckets, which tells a deleted object from a forbidden one",
}


def _flag(name: str) -> str:
    return f"--{name.replace('_', '-')}"


def _add_policies(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--role", required=True, choices=list(ROLES), help="whose policy")
    for name, about in _OPTIONS.items():
        parser.add_argument(_flag(name), help=about)
    for name, about in _REPEATED.items():
        parser.add_argument(_flag(name), action="append", metavar="NAME", help=about)
    for name, about in _SWITCHES.items():
        parser.add_argument(_flag(name), action="store_true", help=about)


def _add_template(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--prefix",
        default="mltrigger",
        help="prefix of the bus, as in aws://region/prefix (default: mltrigger)",
    )
    parser.add_argument(
        "--topic",
        action="append",
        metavar="TOPIC=NAME,NAME",
        help=(
            "a topic, or s3://bucket/prefix/*.png, and its subscriptions (may be repeated; default:"
            " documents=reader)"
        ),
    )
    parser.add_argument(
        "--lease-s",
        type=int,
        help="default of LeaseSeconds: seconds that a received event is hidden from others",
    )
    parser.add_argument(
        "--max-receive-count",
        type=int,
        help="default of MaxReceiveCount: receives before SQS itself gives up",
    )
    parser.add_argument(
        "--trusted-account",
        default="",
        help="default of TrustedAccount: who else may read the queues",
    )
    parser.add_argument(
        "--external-id",
        default="",
        help="default of ExternalId: the id that the trusted account has to name",
    )
    parser.add_argument("--payload-bucket", help="existing bucket for bodies beyond the limit")
    parser.add_argument(
        "--create-buckets",
        action="store_true",
        help="make the buckets of s3:// topics too, with their notification",
    )
    parser.add_argument(
        "--delete-dead-letters",
        action="store_true",
        help="delete the dead letters together with the stack",
    )
