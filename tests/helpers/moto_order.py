"""Moto keeps the order of a group as AWS does, and requests that meet do not disturb each other.

While moto looks for messages to give out, it forgets one by one that they were in flight. If two of
a group came back, it gives out the later one first. Its server has a thread for each request and no
lock. A second one may subscribe while it walks through all subscriptions, and then it answers 500.
"""

from __future__ import annotations

import inspect
import threading
import time
from collections.abc import Callable
from typing import Any

import pytest
from moto.sns.models import SNSBackend
from moto.sqs.models import Message, SQSBackend

_HELD_UP_S = 0.02
_EMPTY_S = 0.2
_MAY_WAIT = {"receive_message", "publish", "publish_batch"}
"""Wait for messages, or for a program behind an address: other requests go on beside them."""


def keep_order(patch: pytest.MonkeyPatch) -> None:
    """Let moto do one thing at a time, and forget all messages that came back before it looks."""
    lock = threading.RLock()
    receive = SQSBackend.receive_message

    def receives(
        self: SQSBackend,
        queue_name: str,
        count: int,
        wait_seconds_timeout: int,
        visibility_timeout: int,
        message_attribute_names: list[str] | None = None,
    ) -> list[Message]:
        queue = self.get_queue(queue_name)
        end_s = time.monotonic() + wait_seconds_timeout
        while True:
            with lock:
                queue.pending_messages.difference_update(queue.messages)
                found = receive(
                    self, queue_name, count, 0, visibility_timeout, message_attribute_names
                )
            if found or time.monotonic() >= end_s:
                return found
            if queue.messages:  # those of a group with one in flight
                time.sleep(_HELD_UP_S)
            else:
                queue.wait_for_messages(_EMPTY_S)  # type: ignore[arg-type]  # it takes parts too

    def undisturbed(change: Callable[..., Any]) -> Callable[..., Any]:
        def changed(*given: Any, **named: Any) -> Any:
            with lock:
                return change(*given, **named)

        return changed

    patch.setattr(SQSBackend, "receive_message", receives)
    # A publish reads the subscriptions of its topic between the messages that it sends.
    inner = [(SNSBackend, "_get_topic_subscriptions")]
    for backend, name in [*inner, *_requests(SNSBackend), *_requests(SQSBackend)]:
        patch.setattr(backend, name, undisturbed(getattr(backend, name)))


def _requests(backend: type) -> list[tuple[type, str]]:
    """Return the requests of *backend* that never wait, as pairs of it and a name."""
    return [
        (backend, name)
        for name, made in vars(backend).items()
        if inspect.isfunction(made) and not name.startswith("_") and name not in _MAY_WAIT
    ]
