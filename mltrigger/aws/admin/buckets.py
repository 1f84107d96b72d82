"""The notification of a bucket: our entry in a document that others write as well.

S3 has one notification configuration for each bucket, which is read and written as a whole, without
a condition. We add our entry, keep the entries of others as they were, and read the result again.
So a concurrent writer cannot remove our entry unnoticed. We can overwrite theirs only in the moment
between our last read and our write.
"""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from mltrigger.aws.admin import topology
from mltrigger.aws.admin.plan import Settings, call
from mltrigger.aws.faults import MISSING, AwsError
from mltrigger.aws.naming import Arn, S3Source, shortened
from mltrigger.errors import NameTaken, NotFound

_MAX_ID = 255
_SETTLE_S = 0.2
"""Seconds until we read again after a write: longer than another writer's read and write."""
_ATTEMPTS = 8
_DESTINATIONS = {
    "TopicConfigurations": "TopicArn",
    "QueueConfigurations": "QueueArn",
    "LambdaFunctionConfigurations": "LambdaFunctionArn",
}

Configuration = dict[str, Any]


class Notification:
    """Our entry in the notification configuration of a bucket: a part of a plan.

    *pause* waits for some seconds.
    """

    kind = "bucket notification"

    def __init__(
        self, clients: Any, source: S3Source, topic: Arn, pause: Callable[[float], None]
    ) -> None:
        self.name, self.source, self.topic = source.bucket, source, topic
        self._clients, self._pause = clients, pause

    @property
    def entry(self) -> dict[str, Any]:
        """The wanted entry."""
        rules = topology.key_rules(self.source)
        entry = {
            "Id": shortened(f"mltrigger-{self.topic.resource}", _MAX_ID),
            "TopicArn": str(self.topic),
            "Events": list(topology.ANNOUNCED),
        }
        return {**entry, **({"Filter": {"Key": {"FilterRules": rules}}} if rules else {})}

    def look(self) -> Settings | None:
        """Return our entry, ``None`` if there is none.

        Raise NameTaken if an entry of somebody else overlaps with ours.
        """
        configuration = self._read()
        self._check(configuration)
        ours = next(
            (each for each in configuration.get("TopicConfigurations", ()) if self._is_ours(each)),
            None,
        )
        return None if ours is None else _settings(ours)

    def wanted(self, now: Settings) -> Settings:
        """Return topic, events and filter. Events that somebody added to our entry stay."""
        wanted = _settings(self.entry)
        events = set(wanted["Events"].split(", ")) | {
            event for event in now.get("Events", "").split(", ") if event
        }
        return {**wanted, "Events": ", ".join(sorted(events))}

    def create(self, wanted: Settings) -> None:
        """Add our entry."""
        self._write(self._with_ours)

    def change(self, now: Settings, different: Settings) -> None:
        """Replace our entry."""
        self._write(self._with_ours)

    def delete(self) -> bool:
        """Remove our entry and nothing else. Return whether there was one."""
        try:
            before = self._read()
        except NotFound:  # it is gone with the bucket
            return False
        if not any(map(self._is_ours, before.get("TopicConfigurations", ()))):
            return False
        self._write(self._without_ours)
        return True

    def _with_ours(self, configuration: Configuration) -> Configuration:
        self._check(configuration)
        topics = list(configuration.get("TopicConfigurations", ()))
        at = next((n for n, each in enumerate(topics) if self._is_ours(each)), len(topics))
        events = sorted(
            {*topology.ANNOUNCED, *(topics[at].get("Events", ()) if at < len(topics) else ())}
        )
        entry = {**self.entry, "Events": events}
        if at == len(topics) or _settings(topics[at]) != _settings(entry):
            topics[at : at + 1] = [entry]
        return {**configuration, "TopicConfigurations": topics}

    def _without_ours(self, configuration: Configuration) -> Configuration:
        topics = [
            each for each in configuration.get("TopicConfigurations", ()) if not self._is_ours(each)
        ]
        return {**configuration, "TopicConfigurations": topics}

    def _write(self, edit: Callable[[Configuration], Configuration]) -> None:
        """Write the result of *edit*, in spite of concurrent writers."""
        for attempt in range(_ATTEMPTS):
            if attempt:
                self._pause(_SETTLE_S * random.uniform(0.5, 1.5) * attempt)
            before = self._read()
            after = edit(before)
            if _same(before, after):
                return
            if not _same(
                self._read(), before
            ):  # a concurrent writer: we would overwrite its change
                continue
            if not self._put(after, attempt):
                continue
            self._pause(_SETTLE_S)
            now = self._read()
            if _same(now, edit(now)):
                return
            if self._clients.endpoint and attempt and _same(now, before):
                raise AwsError(
                    f"the emulator forgets the notification of bucket {self.name!r}: it does not"
                    " have that part of S3",
                    "NotKept",
                )
        raise AwsError(
            f"the notification configuration of bucket {self.name!r} was changed by somebody else"
            f" at each of {_ATTEMPTS} tries; call again when they are done",
            "Conflict",
        )

    def _put(self, configuration: Configuration, attempt: int) -> bool:
        """Write the configuration. Return whether S3 took it.

        S3 must see the topic's policy first. That takes a moment after the policy was set.
        """
        try:
            call(
                self._clients.s3,
                "put_bucket_notification_configuration",
                self.name,
                Bucket=self.name,
                NotificationConfiguration=configuration,
                **self._owner,
            )
        except AwsError as error:
            if error.code == "InvalidArgument" and "overlap" in str(error).lower():
                raise NameTaken(
                    f"bucket {self.name!r} has another notification that overlaps with"
                    f" {self.source.url!r}: {error}"
                ) from error
            if (
                error.code != "InvalidArgument"
                or "validate" not in str(error).lower()
                or self._clients.endpoint
                or attempt == _ATTEMPTS - 1
            ):
                raise
            self._pause(1.0)
            return False
        return True

    def _read(self) -> Configuration:
        try:
            found = call(
                self._clients.s3,
                "get_bucket_notification_configuration",
                self.name,
                Bucket=self.name,
                **self._owner,
            )
        except AwsError as error:
            if error.code not in MISSING:
                raise
            raise NotFound(
                f"no bucket {self.name!r}: is the name right, and is it in this account?"
            ) from error
        return {name: value for name, value in found.items() if name != "ResponseMetadata"}

    @property
    def _owner(self) -> dict[str, str]:
        # Somebody else may recreate a deleted bucket under its name. Emulators have other accounts.
        return {} if self._clients.endpoint else {"ExpectedBucketOwner": self._clients.account}

    def _is_ours(self, entry: Mapping[str, Any]) -> bool:
        return entry.get("TopicArn") == str(self.topic)

    def _check(self, configuration: Configuration) -> None:
        ours = self.entry
        for kind, entry in _entries(configuration):
            if self._is_ours(entry) or not _overlap(entry, ours):
                continue
            target = entry[_DESTINATIONS[kind]]
            advice = (
                f"subscribe to that topic: mt.subscribe({target!r}, …)"
                if kind == "TopicConfigurations"
                else (
                    "narrow one of the two patterns, or let that entry point to a topic, to which"
                    " both subscribe"
                )
            )
            prefix, suffix = _ends(entry)
            raise NameTaken(
                f"bucket {self.name!r} announces objects {prefix + '*' + suffix!r} to {target!r}"
                f" already (entry {entry.get('Id')!r}); S3 announces no object twice, as"
                f" {self.source.url!r} would need: {advice}"
            )


def _entries(configuration: Configuration) -> Iterator[tuple[str, Mapping[str, Any]]]:
    for kind in _DESTINATIONS:
        for entry in configuration.get(kind, ()):
            yield kind, entry


def _ends(entry: Mapping[str, Any]) -> tuple[str, str]:
    """Return prefix and suffix of an entry. S3 capitalises the names of the rules."""
    rules = entry.get("Filter", {}).get("Key", {}).get("FilterRules", ())
    found = {str(rule["Name"]).lower(): str(rule.get("Value", "")) for rule in rules}
    return found.get("prefix", ""), found.get("suffix", "")


def _overlap(one: Mapping[str, Any], other: Mapping[str, Any]) -> bool:
    """Whether both entries can announce one object and event, which S3 refuses."""
    (prefix, suffix), (prefix2, suffix2) = _ends(one), _ends(other)
    return (
        (prefix.startswith(prefix2) or prefix2.startswith(prefix))
        and (suffix.endswith(suffix2) or suffix2.endswith(suffix))
        and any(
            _covers(event, event2) or _covers(event2, event)
            for event in one["Events"]
            for event2 in other["Events"]
        )
    )


def _covers(event: str, other: str) -> bool:
    return other.startswith(event[:-1]) if event.endswith("*") else event == other


def _settings(entry: Mapping[str, Any]) -> dict[str, str]:
    prefix, suffix = _ends(entry)
    return {
        "Topic": str(entry["TopicArn"]),
        "Events": ", ".join(sorted(entry["Events"])),
        "Prefix": prefix,
        "Suffix": suffix,
    }


def _same(one: Configuration, other: Configuration) -> bool:
    """Whether two configurations mean the same. Order and empty lists do not count."""
    return _canonical(one) == _canonical(other)


def _canonical(configuration: Configuration) -> dict[str, Any]:
    entries = [
        (kind, entry.get("Id"), entry[_DESTINATIONS[kind]], sorted(entry["Events"]), _ends(entry))
        for kind, entry in _entries(configuration)
    ]
    rest = {name: value for name, value in configuration.items() if name not in _DESTINATIONS}
    return {"entries": sorted(json.dumps(entry) for entry in entries), **rest}
