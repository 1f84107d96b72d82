"""Desired and actual AWS resources, compared."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Literal, NamedTuple, Protocol

from mltrigger.aws.faults import MISSING, AwsError, code_of, explained
from mltrigger.filters.conditions import canonical

Action = Literal["create", "change", "keep", "delete"]
Settings = Mapping[str, str]
"""The settings of one resource by name, each as the text that AWS takes."""

_TAG = "tag "
"""Prefix of the name of a setting that is a tag."""
TAKEN = frozenset(
    {"QueueAlreadyExists", "QueueNameExists", "AWS.SimpleQueueService.QueueNameExists"}
)
"""Codes when somebody else has created it meanwhile, with other attributes."""
_ATTEMPTS = 3
_PERMISSIONS = {
    "GetBucketNotificationConfiguration": "GetBucketNotification",
    "PutBucketNotificationConfiguration": "PutBucketNotification",
}
"""Operations whose permission has another name."""


class Change(NamedTuple):
    """One line of a plan.

    ``keep``: the resource is as wanted. ``create``: it does not exist. It gets one line without
    ``setting``, and one for each setting. ``change``: a setting differs. ``delete``:
    :meth:`Resources.delete` removed it.
    """

    action: Action
    kind: str
    name: str
    setting: str | None = None
    now: str | None = None
    wanted: str | None = None


class Part(Protocol):
    """One resource of a subscription."""

    @property
    def kind(self) -> str:
        """Its kind: ``topic``, ``queue``, ``dead-letter queue``, and so on."""

    @property
    def name(self) -> str:
        """Its name."""

    def look(self) -> Settings | None:
        """Return its settings, ``None`` if it does not exist. Change nothing.

        Raise NameTaken if it belongs to somebody else.
        """

    def wanted(self, now: Settings) -> Settings:
        """Return the wanted settings, given those *now*. Additions of others stay."""

    def create(self, wanted: Settings) -> None:
        """Create it."""

    def change(self, now: Settings, different: Settings) -> None:
        """Set the *different* settings."""


def changes(part: Part, now: Settings | None) -> list[Change]:
    """Return the changes that *part* needs."""
    wanted = part.wanted(now or {})
    if now is None:
        made = [
            Change("create", part.kind, part.name, setting, None, value)
            for setting, value in sorted(wanted.items())
        ]
        return [Change("create", part.kind, part.name), *made]
    different = [
        Change("change", part.kind, part.name, setting, now.get(setting), value)
        for setting, value in sorted(differences(now, wanted).items())
    ]
    return different or [Change("keep", part.kind, part.name)]


def apply(part: Part, now: Settings | None) -> None:
    """Create or change *part*. If somebody else does so at the same time, look again."""
    for attempt in range(1, _ATTEMPTS + 1):
        try:
            if now is None:
                return part.create(part.wanted({}))
            if different := differences(now, part.wanted(now)):
                part.change(now, different)
        except AwsError as error:
            if attempt == _ATTEMPTS or error.code not in TAKEN | MISSING:
                raise
            now = part.look()
        else:
            return None
    return None


def differences(now: Settings, wanted: Settings) -> dict[str, str]:
    """Return those *wanted* settings that differ *now*."""
    return {
        name: value
        for name, value in wanted.items()
        if _normal(name, now.get(name)) != _normal(name, value)
    }


def call(client: Any, operation: str, about: str, **given: Any) -> Any:
    """Return the answer of *operation* of a boto3 *client*.

    Raise :class:`~mltrigger.aws.faults.AwsError`, which names the action and *about*.
    """
    try:
        return getattr(client, operation)(**given)
    except Exception as error:
        action = "".join(part.capitalize() for part in operation.split("_"))
        service = client.meta.service_model.service_name
        raise explained(error, f"{service}:{_PERMISSIONS.get(action, action)}", about) from error


def missing(ask: Callable[[], Any]) -> Any:
    """Return the result of *ask*, ``None`` if AWS says that the thing does not exist."""
    try:
        return ask()
    except AwsError as error:
        if code_of(error) in MISSING:
            return None
        raise


def tag_settings(tags: Mapping[str, str]) -> dict[str, str]:
    """Return *tags* as settings."""
    return {_TAG + name: value for name, value in tags.items()}


def parted(settings: Settings) -> tuple[dict[str, str], dict[str, str]]:
    """Return the attributes and the tags among *settings*."""
    tags = {
        name.removeprefix(_TAG): value for name, value in settings.items() if name.startswith(_TAG)
    }
    attributes = {name: value for name, value in settings.items() if not name.startswith(_TAG)}
    return attributes, tags


# -- JSON settings ---------------------------------------------------------------------------------


def merged(policy: str | None, ours: Mapping[str, Any]) -> str:
    """Return the resource policy *policy* with the statements of *ours*.

    Ours replace those of the same ``Sid``. All others stay.
    """
    document = as_object(policy)
    statements = list(_statements(document))
    for statement in ours["Statement"]:
        at = next(
            (n for n, old in enumerate(statements) if old.get("Sid") == statement["Sid"]),
            len(statements),
        )
        if at == len(statements) or _statement(statements[at]) != _statement(statement):
            statements[at : at + 1] = [statement]
    if document and statements == list(_statements(document)):
        return str(policy)
    return json.dumps({"Version": ours["Version"], **document, "Statement": statements})


def as_object(text: str | None) -> dict[str, Any]:
    """Return the JSON object *text*, an empty one for anything else."""
    try:
        value = json.loads(text or "{}")
    except ValueError:
        return {}
    return value if isinstance(value, dict) else {}


def _statements(document: Mapping[str, Any]) -> Iterable[dict[str, Any]]:
    given = document.get("Statement", [])
    return (
        [given] if isinstance(given, dict) else [each for each in given if isinstance(each, dict)]
    )


def _statement(given: Mapping[str, Any]) -> Any:
    """Return a statement in a normal form, to compare it.

    AWS writes lists of one as their element, and the other way round.
    """
    principal = given.get("Principal")
    return _plain({**given, "Principal": {"AWS": "*"} if principal == "*" else principal})


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _plain(each) for key, each in value.items()}
    if isinstance(value, (list, tuple)):
        return (
            _plain(value[0])
            if len(value) == 1
            else sorted((_plain(each) for each in value), key=str)
        )
    return str(value).lower() if isinstance(value, bool) else str(value)


def _normal(name: str, text: str | None) -> Any:
    """Return a setting in a normal form to compare it: JSON by meaning, ``True`` in any case."""
    if text is None:
        return None
    if name == "FilterPolicy":  # here a list of one is no element, and the order counts
        return canonical(as_object(text))
    if text.startswith("{"):
        return _plain(as_object(text))
    return text.lower() if text.lower() in ("true", "false") else text
