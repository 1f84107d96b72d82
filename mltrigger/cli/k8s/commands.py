"""The command ``k8s``: its options, and the documents that it prints."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING, Any

from mltrigger.cli.parsing import filled
from mltrigger.errors import MltriggerError

if TYPE_CHECKING:
    from mltrigger.cli.k8s.scaling import Scaling
    from mltrigger.cli.k8s.workers import Workers

SCALERS = ("none", "postgres", "sqs", "metrics-api")
_HELP = """\
Print manifests of workers for Kubernetes, for kubectl apply -f -. No cluster is called.

  mltrigger k8s --image registry/ocr:1.0 --url postgresql://team@db:5432/ml --secret ocr \\
      --subscription ocr --scale postgres --max 20 | kubectl apply -f -

Nothing secret is printed. The Secret is yours, with these keys as far as they are needed:

  password   of PostgreSQL, if --url or --log names one
  url        of the bus, if --url is left out
  token      of the HTTP API, for --scale metrics-api (mltrigger token create)

--scale prints a ScaledObject of KEDA as well, which must be in the cluster:

  postgres      one SELECT of the backlog
  sqs           the queues of --topic, for --url aws://region/prefix
  metrics-api   the depth of each --subscription, from --api, the URL of mltrigger serve
"""


def add_commands(commands: Any) -> None:
    """Add ``k8s``."""
    added = commands.add_parser(
        "k8s", help="manifests of workers for Kubernetes", description=_HELP
    )
    added.add_argument("--image", type=filled, required=True, help="the image of the workers")
    added.add_argument("--name", default="mltrigger-worker", help="default: %(default)s")
    added.add_argument("--namespace", help="default: that of kubectl")
    added.add_argument("--url", type=filled, help="the bus, without a password")
    added.add_argument("--log", type=filled, help="the log of an aws:// bus, without a password")
    added.add_argument("--secret", metavar="NAME", help="the Secret with passwords and tokens")
    added.add_argument(
        "--subscription",
        action="append",
        default=[],
        metavar="NAME",
        help="take only this one (may be repeated)",
    )
    added.add_argument(
        "--executor", type=filled, metavar="MODULE:NAME", help="as of mltrigger worker"
    )
    added.add_argument(
        "--env",
        action="append",
        default=[],
        metavar="NAME=VALUE",
        help="a variable of the worker (may be repeated)",
    )
    added.add_argument(
        "--secret-env",
        action="append",
        default=[],
        metavar="NAME=KEY",
        help="a variable from a key of the Secret (may be repeated)",
    )
    added.add_argument("--service-account", metavar="NAME", help="the identity of the workers")
    added.add_argument("--cpu", default="500m", help="of each worker (default: %(default)s)")
    added.add_argument("--memory", default="512Mi", help="of each worker (default: %(default)s)")
    added.add_argument(
        "--drain-s", type=int, default=25, help="longest wait for running calls at the end"
    )
    added.add_argument("--health-port", type=int, default=8080, help="default: %(default)s")
    added.add_argument("--replicas", type=int, help="the number of workers (default: 1)")
    _add_scaling(added)
    added.set_defaults(run=k8s)


def _add_scaling(added: Any) -> None:
    added.add_argument(
        "--scale", choices=SCALERS, default="none", help="scale by backlog (default: none)"
    )
    added.add_argument("--min", type=int, default=0, help="least workers (default: 0)")
    added.add_argument("--max", type=int, default=10, help="most workers (default: 10)")
    added.add_argument(
        "--backlog", type=int, default=100, help="open events of one worker (default: 100)"
    )
    added.add_argument(
        "--topic",
        action="append",
        default=[],
        metavar="TOPIC=NAME,NAME",
        help="for sqs: a topic and its subscriptions (may be repeated)",
    )
    added.add_argument("--api", type=filled, help="for metrics-api: the URL of mltrigger serve")


def k8s(given: argparse.Namespace) -> int:
    """Print the documents."""
    from mltrigger.cli.k8s.deployment import deployment
    from mltrigger.cli.k8s.scaling import scaled
    from mltrigger.cli.k8s.yaml import dumped

    workers, scaling = _workers(given), _scaling(given)
    documents = [deployment(workers), *([] if scaling is None else scaled(workers, scaling))]
    print("---\n".join(map(dumped, documents)), end="")
    return 0


def _workers(given: argparse.Namespace) -> Workers:
    from mltrigger.cli.k8s.workers import Workers

    is_scaled = given.scale != "none"
    if is_scaled and given.replicas is not None:
        raise MltriggerError(
            "--scale decides the number of workers: --min and --max, no --replicas"
        )
    replicas = 1 if given.replicas is None else given.replicas
    for what, number, least in (
        ("--replicas", replicas, 0),
        ("--drain-s", given.drain_s, 0),
        ("--health-port", given.health_port, 1),
    ):
        if not least <= number < 65536:
            raise MltriggerError(f"{what} {number} must be {least} to 65535")
    return Workers(
        name=given.name,
        image=given.image,
        namespace=given.namespace,
        url=given.url,
        log=given.log,
        secret=given.secret,
        subscriptions=tuple(given.subscription),
        executor=given.executor,
        environment=tuple(given.env),
        secret_environment=tuple(given.secret_env),
        service_account=given.service_account,
        replicas=None if is_scaled else replicas,
        drain_s=given.drain_s,
        port=given.health_port,
        cpu=given.cpu,
        memory=given.memory,
    )


def _scaling(given: argparse.Namespace) -> Scaling | None:
    from mltrigger.cli.k8s.scaling import Scaling

    if given.scale == "none":
        if given.topic or given.api:
            raise MltriggerError("--topic and --api are for --scale sqs and metrics-api")
        return None
    return Scaling(given.scale, given.min, given.max, given.backlog, tuple(given.topic), given.api)
