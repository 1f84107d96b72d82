"""Feeders: sources publish on the topics that this process listens to."""

from __future__ import annotations

import threading
from collections.abc import Container, Sequence
from typing import NamedTuple

from mltrigger.broker import Feed, Feeder, Source, Status, SubscriptionSpec
from mltrigger.policy import DeliveryPolicy


class _Fed(NamedTuple):
    feeder: Feeder
    source: Source
    policies: Sequence[DeliveryPolicy]
    paused: bool = False


class Feeders:
    """One feeder for each kind of source, made when the first source is listened to.

    Parameters
    ----------
    feed : Feed
        The way into the bus.
    """

    def __init__(self, feed: Feed) -> None:
        self._feed = feed
        self._kinds: dict[type[Source], Feeder] = {}
        self._fed: dict[str, _Fed] = {}
        self._guard = threading.Lock()

    def feed(
        self,
        topic: str,
        source: Source,
        specs: Sequence[SubscriptionSpec],
        paused: Container[int] = (),
    ) -> None:
        """Feed *topic* from *source*, for those *specs* that have the topic.

        Take nothing while all of them are *paused*.
        """
        ours = [spec for spec in specs if spec.topic == topic]
        with self._guard:
            if type(source) not in self._kinds:
                self._kinds[type(source)] = source.feeder(self._feed)
            fed = _Fed(self._kinds[type(source)], source, [spec.policy for spec in ours])
            if source.pauses and all(spec.id in paused for spec in ours):
                self._fed[topic] = fed._replace(paused=True)
            else:
                self._start(topic, fed)

    def follow(self, specs: Sequence[SubscriptionSpec], paused: Container[int] = ()) -> None:
        """Hand new policies on to the feeders: another process may have changed them.

        Take nothing from a source while all of its subscriptions are *paused*.
        """
        with self._guard:
            for topic, fed in list(self._fed.items()):
                ours = [spec for spec in specs if spec.topic == topic]
                if not ours:
                    continue
                now = fed._replace(
                    policies=[spec.policy for spec in ours],
                    paused=fed.source.pauses and all(spec.id in paused for spec in ours),
                )
                if now.paused and not fed.paused:
                    fed.feeder.forget(topic)
                    self._fed[topic] = now
                elif now != fed and not now.paused:
                    self._start(topic, now)

    def _start(self, topic: str, fed: _Fed) -> None:
        fed.feeder.feed(topic, fed.source, fed.policies)
        self._fed[topic] = fed._replace(paused=False)

    def forget(self, topic: str) -> None:
        """Feed *topic* no more. Idempotent."""
        with self._guard:
            if (fed := self._fed.pop(topic, None)) is not None:
                fed.feeder.forget(topic)

    def trouble(self, topic: str) -> str:
        """Return the thing that *topic* waits for, in words. Empty if there is none."""
        fed = self._fed.get(topic)
        return fed.feeder.trouble(topic) if fed is not None else ""

    def note(self, topic: str) -> str:
        """Return the feeder's remark on *topic* for the doctor. Empty if there is none."""
        fed = self._fed.get(topic)
        return fed.feeder.note(topic) if fed is not None else ""

    def status(self, topic: str) -> Status | None:
        """Return the state of the source of *topic*. ``None`` if it is not read here."""
        fed = self._fed.get(topic)
        if fed is None or fed.paused or not hasattr(fed.feeder, "status"):
            return None  # a feeder of another package may be older than its states
        return fed.feeder.status(topic)

    def settled(self) -> bool:
        """Look at every source now. Return whether everything there has been published."""
        unsettled = [feeder for feeder in list(self._kinds.values()) if not feeder.settled()]
        return not unsettled  # ask each: it looks and publishes

    def stop(self) -> None:
        """Feed nothing more."""
        for feeder in list(self._kinds.values()):
            feeder.stop()
