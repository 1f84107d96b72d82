"""From ``aws://region/prefix`` to the parts of a bus. The door from the core to AWS."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

from mltrigger.aws.admin.resources import Resources
from mltrigger.aws.clients import Clients, open_session
from mltrigger.aws.transport.broker import AwsBroker
from mltrigger.broker import Broker, Outside
from mltrigger.clock import Clock
from mltrigger.errors import NotFound, StoreError
from mltrigger.store.opening import STORES, Parts, default_log, store_at
from mltrigger.store.registry import Registry


def opened(
    url: str,
    *,
    log: str | None = None,
    profile: str | None = None,
    session: Any = None,
    role_arn: str | None = None,
    external_id: str | None = None,
    endpoint_url: str | None = None,
    bucket: str | None = None,
) -> Parts:
    """Open a bus on SNS and SQS. ``mt.connect`` describes the options."""
    path, _, query = url.partition("://")[2].partition("?")
    if query:
        raise NotFound.of("option in the URL", query.partition("=")[0], ["durability"])
    region, _, prefix = path.partition("/")
    if not re.fullmatch(r"[a-z]{2,}(-[a-z]+)+-\d", region) or not prefix:
        raise StoreError(
            "an AWS URL is aws://region/prefix, for example aws://eu-west-1/acme: topics and queues"
            " are called acme-…"
        )
    made = open_session(
        region,
        session=session,
        profile=profile,
        role_arn=role_arn,
        external_id=external_id,
        endpoint_url=endpoint_url,
    )
    clients = Clients(made, region, endpoint_url)
    resources = Resources(clients, prefix, offloads=bucket is not None)
    try:
        store, wakeup = store_at(log or default_log())
    except StoreError as error:
        if "no broker" not in str(error):
            raise
        raise StoreError(f"log= must be the URL of a store: {', '.join(STORES[:2])}") from None

    def broker_of(
        registry: Registry, clock: Clock, worker_id: Callable[[], int]
    ) -> tuple[Broker, Outside]:
        broker = AwsBroker(clients, resources, store, registry, clock, wakeup, worker_id, bucket)
        return broker, broker

    return Parts(store, wakeup, f"aws://{region}/{prefix}", broker_of)
