"""``mltrigger aws template | policies | apply``: their options, and the text that each prints.

Only ``apply`` asks AWS.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

from mltrigger.errors import InvalidName, MltriggerError

if TYPE_CHECKING:
    from mltrigger.aws.admin import policies

_TEMPLATE_HELP = """\
Print a CloudFormation template of a bus: its topics, queues and dead-letter queues, and the roles that use them.

  mltrigger aws template --prefix acme --topic documents=reader,archiver > acme.json
  aws cloudformation deploy --stack-name acme --template-file acme.json --capabilities CAPABILITY_IAM

Then mt.connect("aws://region/acme") finds the topics and queues and has nothing to change. The outputs of the stack name the URL of each
queue (QueueURL), of its dead letters (DeadLetterQueueURL) and the role to read them with (QueueConsumerARN). Another account may use that
role when the stack is deployed with its number and an external id that both have agreed on:

  ... --parameter-overrides TrustedAccount=210987654321 ExternalId=acme-2026

Deleting the stack keeps the dead letters, unless --delete-dead-letters is given here. A template above 51,200 bytes, which is about seven
subscriptions, is deployed through a bucket of yours (--s3-bucket of the AWS command line). Whoever deploys it needs the rights of
CloudFormation itself, what `mltrigger aws policies --role administrator` prints, and iam:CreateRole, GetRole, TagRole and PutRolePolicy.
"""

_APPLY_HELP = """\
Make the CloudFormation stack of a bus, or update it, wait until that is done, and print its outputs. Calling it again changes nothing.

  mltrigger aws apply --stack acme --prefix acme --topic documents=reader,archiver --region eu-west-1

The template is the one that `mltrigger aws template` prints for the same options; --parameter sets a parameter of it, such as
LeaseSeconds=600. When making the stack fails, nothing of it is left; when an update fails, it is what it was. A stack of another bus is
refused, and so is an update that would delete queues or topics, unless --replace is given. Credentials are those that boto3 finds.
"""

_POLICIES_HELP = """\
Print the policy document of one role, which allows what this role needs and nothing else.

  publisher       publish on the topics of a bus         --region --account --prefix
  listener        deliver its subscriptions              --region --account --prefix
  administrator   subscribe, unsubscribe, redrive        --region --account --prefix
  queue-listener  listen to somebody else's queue        --queue
  trust           who may assume a role                  --trusted --external-id
  assume-role     that a role may be assumed             --role-arn

From one account to another, the owner of the queue makes a role with the policies `queue-listener` and `trust`, and the other side gives
`assume-role` to whoever listens:

  mltrigger aws policies --role queue-listener --queue arn:aws:sqs:eu-west-1:123456789012:orders
  mltrigger aws policies --role trust --trusted 210987654321 --external-id acme-2026
  mltrigger aws policies --role assume-role --role-arn arn:aws:iam::123456789012:role/orders-reader
"""


def add_commands(commands: Any, run: Callable[[argparse.Namespace], int]) -> None:
    """Add ``aws`` to the *commands* of the command line; *run* prints what ``given.text(given)``
    returns.
    """
    aws = commands.add_parser(
        "aws", help="policy documents and a CloudFormation template for a bus on AWS, and its stack"
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
        (
            "apply",
            "make or update the CloudFormation stack of a bus",
            _APPLY_HELP,
            _add_apply,
            apply_text,
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
    """Return the template that the options describe, as JSON."""
    from mltrigger.aws.admin.template import to_json

    return to_json(_template(given))


def apply_text(given: argparse.Namespace) -> str:
    """Make or update the stack that the options describe; return what was done, and its outputs,
    one a line.
    """
    region = given.region or os.environ.get("AWS_REGION") or os.environ.get("AWS_DEFAULT_REGION")
    if not region:
        raise MltriggerError("in which region? --region eu-west-1, or AWS_REGION")
    parameters = {}
    for text in given.parameter or ():
        name, sign, value = text.partition("=")
        if not sign:
            raise InvalidName(
                f"--parameter {text!r} must be a name and a value, such as LeaseSeconds=600"
            )
        parameters[name] = value
    document = _template(given)
    from mltrigger.aws.admin.stack import apply
    from mltrigger.aws.clients import Clients, open_session

    clients = Clients(open_session(region, profile=given.profile), region)
    made = apply(
        clients,
        given.stack,
        document,
        parameters=parameters,
        bucket=given.bucket,
        replace=given.replace,
        timeout_s=given.timeout_s,
        say=given.say,
    )
    return "\n".join(
        [
            f"stack {made.name} {made.action}",
            *(f"{name} = {value}" for name, value in sorted(made.outputs.items())),
        ]
    )


def _template(given: argparse.Namespace) -> dict[str, Any]:
    from mltrigger.aws.admin.template import template

    topics: dict[str, list[str]] = {}
    for text in given.topic or ["documents=reader"]:
        topic, _, names = text.rpartition("=")  # the last one: keys of objects may have others
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
    return template(
        given.prefix,
        topics,
        **chosen,
        trusted_account=given.trusted_account,
        external_id=given.external_id,
        payload_bucket=given.payload_bucket,
        create_buckets=given.create_buckets,
        keep_dead_letters=not given.delete_dead_letters,
    )


def policies_text(given: argparse.Namespace) -> str:
    """Return the policy document of the role that the options name, as JSON."""
    from mltrigger.aws.admin.template import to_json

    role = ROLES[given.role]
    options = [*_OPTIONS, *_REPEATED, *_SWITCHES]
    values = {name: value for name in options if (value := getattr(given, name))}
    flags = {name: f"--{name.replace('_', '-')}" for name in options}
    if missing := [flags[name] for name in role.needs if name not in values]:
        raise MltriggerError(f"the policy of the role {given.role} needs {', '.join(missing)}")
    if foreign := [flags[name] for name in values if name not in (*role.needs, *role.takes)]:
        raise MltriggerError(
            f"the policy of the role {given.role} takes no {', '.join(foreign)}; it would say"
            " nothing about it"
        )
    return to_json(role.make(values))


class _Role(NamedTuple):
    """One role: the options that its document needs and takes, and how it is made of them."""

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
"""The roles that there is a policy document for."""

_OPTIONS = {
    "region": "of the bus, such as eu-west-1",
    "account": "of the bus, 12 digits",
    "prefix": "of the bus, as in aws://region/prefix",
    "payload_bucket": "where bodies beyond the limit are kept",
    "key": "ARN of the KMS key of the topics, queues or buckets, when they have one of their own",
    "external_id": "what the trusted side has to name",
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
    "emits": "the models' answers are published on the bus",
    "lists_buckets": (
        "it may list the buckets, and so tell an object that has gone from one it may not read"
    ),
}


def _add_policies(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--role", required=True, choices=list(ROLES), help="whose policy")
    for name, about in _OPTIONS.items():
        parser.add_argument(f"--{name.replace('_', '-')}", help=about)
    for name, about in _REPEATED.items():
        parser.add_argument(
            f"--{name.replace('_', '-')}", action="append", metavar="NAME", help=about
        )
    for name, about in _SWITCHES.items():
        parser.add_argument(f"--{name.replace('_', '-')}", action="store_true", help=about)


def _add_template(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--prefix",
        default="mltrigger",
        help="of the bus, as in aws://region/prefix (default: mltrigger)",
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
        help="default of LeaseSeconds: how long a received event is hidden from other listeners",
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
        help="default of ExternalId: what the trusted account has to name",
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


def _add_apply(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--stack", required=True, help="name of the stack")
    parser.add_argument("--region", help="where (default: $AWS_REGION, else $AWS_DEFAULT_REGION)")
    parser.add_argument("--profile", help="whose credentials, else boto3's own chain")
    parser.add_argument(
        "--parameter",
        action="append",
        metavar="NAME=VALUE",
        help="a parameter of the template (may be repeated)",
    )
    parser.add_argument(
        "--bucket", help="where a template above 51,200 bytes is put for CloudFormation to read it"
    )
    parser.add_argument(
        "--replace",
        action="store_true",
        help="let an update delete queues and topics that the options name no more",
    )
    parser.add_argument(
        "--timeout-s", type=float, default=900.0, help="how long to wait (default: 900)"
    )
    _add_template(parser)
