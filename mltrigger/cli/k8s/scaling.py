"""Scaling by backlog: the ScaledObject of KEDA, and its TriggerAuthentication."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

from mltrigger.cli.k8s.deployment import Manifest, metadata
from mltrigger.cli.k8s.workers import PASSWORD, SCHEMA, TOKEN, URL, Workers, parts_of_database
from mltrigger.errors import InvalidName, MltriggerError

_API = "keda.sh/v1alpha1"


@dataclasses.dataclass(frozen=True)
class Scaling:
    """Settings of a scaler.

    Parameters
    ----------
    kind : {"postgres", "sqs", "metrics-api"}
        Where the backlog is read.
    least, most : int
        Bounds of the number of workers.
    backlog : int
        The events that one worker may have before there is another one.
    topics : sequence of str
        For SQS: ``TOPIC=NAME,NAME``, the subscriptions of topics.
    api : str, optional
        For the API: the URL of ``mltrigger serve``.
    """

    kind: str
    least: int = 0
    most: int = 10
    backlog: int = 100
    topics: tuple[str, ...] = ()
    api: str | None = None

    def __post_init__(self) -> None:
        if not 0 <= self.least <= self.most or self.most < 1:
            raise MltriggerError(
                f"--min {self.least} --max {self.most}: at least 0, and not more than --max"
            )
        if self.backlog < 1:
            raise MltriggerError(f"--backlog {self.backlog} must be at least 1")


def scaled(workers: Workers, scaling: Scaling) -> list[Manifest]:
    """Return the manifests of *scaling*.

    Raises
    ------
    MltriggerError
        If the workers have no backlog there, or a setting is missing.
    """
    triggers, access = KINDS[scaling.kind](workers, scaling)
    about = {} if access is None else {"authenticationRef": {"name": workers.name}}
    target = {
        "apiVersion": _API,
        "kind": "ScaledObject",
        "metadata": metadata(workers),
        "spec": {
            "scaleTargetRef": {"name": workers.name},
            "pollingInterval": 15,
            "cooldownPeriod": 300,
            "minReplicaCount": scaling.least,
            "maxReplicaCount": scaling.most,
            "triggers": [{**each, **about} for each in triggers],
        },
    }
    if access is None:
        return [target]
    return [
        {
            "apiVersion": _API,
            "kind": "TriggerAuthentication",
            "metadata": metadata(workers),
            "spec": access,
        },
        target,
    ]


Scaler = tuple[list[Manifest], Manifest | None]


def _postgres(workers: Workers, scaling: Scaling) -> Scaler:
    from mltrigger.store.postgresql.backlog import backlog_sql

    if workers.kind == "aws":
        raise MltriggerError("events of an aws:// bus wait in SQS: --scale sqs")
    access: Manifest | None = None
    place: dict[str, str] = {}
    if workers.url is not None:
        place = parts_of_database(workers.url)
        if workers.secret is not None:
            access = _from_secret(workers, "password", PASSWORD)
    else:
        access = _from_secret(workers, "connection", URL)
    schema = place.pop("schema", SCHEMA)
    query = backlog_sql(schema, workers.subscriptions, most=scaling.most * scaling.backlog + 1)
    trigger = {
        "type": "postgresql",
        "metadata": {
            **place,
            "query": query,
            "targetQueryValue": str(scaling.backlog),
            "activationTargetQueryValue": "0",
        },
    }
    return [trigger], access


def _sqs(workers: Workers, scaling: Scaling) -> Scaler:
    from mltrigger.aws.naming import check_prefix, queue_name

    if workers.url is None or workers.kind != "aws":
        raise MltriggerError("--scale sqs is for --url aws://region/prefix")
    if not scaling.topics:
        raise MltriggerError("--scale sqs needs the queues: --topic TOPIC=SUBSCRIPTION,…")
    region, _, prefix = workers.url.removeprefix("aws://").partition("/")
    check_prefix(prefix)
    triggers: list[Manifest] = []
    for each in scaling.topics:
        topic, equals, names = each.rpartition("=")
        if not equals or not topic or not all(names.split(",")):
            raise InvalidName(f"--topic {each[:60]!r}: write TOPIC=SUBSCRIPTION,SUBSCRIPTION")
        triggers += [
            {
                "type": "aws-sqs-queue",
                "metadata": {
                    "queueURL": queue_name(prefix, topic, name),
                    "queueLength": str(scaling.backlog),
                    "activationQueueLength": "0",
                    "awsRegion": region,
                },
            }
            for name in names.split(",")
        ]
    owner = {} if workers.service_account is None else {"identityOwner": "workload"}
    return triggers, {"podIdentity": {"provider": "aws", **owner}}


def _metrics_api(workers: Workers, scaling: Scaling) -> Scaler:
    from mltrigger.text import redacted

    if scaling.api is None or not scaling.api.startswith(("http://", "https://")):
        raise MltriggerError("--scale metrics-api needs --api, the URL of `mltrigger serve`")
    if redacted(scaling.api) != scaling.api:
        raise MltriggerError("--api has a password: the token belongs into the Secret, key 'token'")
    if workers.secret is None:
        raise MltriggerError(
            "--scale metrics-api needs a token with the scope read: --secret NAME, key 'token'"
        )
    if not workers.subscriptions:
        raise MltriggerError("--scale metrics-api needs --subscription NAME, once or more")
    triggers = [
        {
            "type": "metrics-api",
            "metadata": {
                "url": f"{scaling.api.rstrip('/')}/v1/subscriptions/{name}/depth",
                "valueLocation": "backlog",
                "targetValue": str(scaling.backlog),
                "activationTargetValue": "0",
                "authMode": "bearer",
            },
        }
        for name in workers.subscriptions
    ]
    return triggers, _from_secret(workers, "token", TOKEN)


KINDS: dict[str, Callable[[Workers, Scaling], Scaler]] = {
    "postgres": _postgres,
    "sqs": _sqs,
    "metrics-api": _metrics_api,
}
"""The makers of triggers by the place of the backlog."""


def _from_secret(workers: Workers, parameter: str, key: str) -> dict[str, Any]:
    return {
        "secretTargetRef": [{"parameter": parameter, "name": workers.secret, "key": key}],
    }
