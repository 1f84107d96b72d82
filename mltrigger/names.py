"""Names: the rules for topics, subscriptions and models, and the adapters that have a name.

The rules are those of SNS and SQS. A good name is good on every broker.
"""

from __future__ import annotations

import functools
import importlib
import importlib.metadata
import re
from collections.abc import Mapping
from typing import Any

from mltrigger.errors import InvalidName, MltriggerError, NotFound

# https://docs.aws.amazon.com/sns/latest/api/API_CreateTopic.html (256). Queue names are shorter:
# https://docs.aws.amazon.com/AWSSimpleQueueService/latest/APIReference/API_CreateQueue.html (80)
_NAME = re.compile(r"[A-Za-z0-9_-]{1,80}")
FIFO = ".fifo"
"""The ending of a topic that keeps the order of events with the same ``partitionkey``."""
_MODEL = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,79}")


def check_name(kind: str, name: object) -> str:
    """Return *name*. Raise InvalidName unless it is 1 to 80 letters, digits, ``-`` and ``_``."""
    if not isinstance(name, str) or not _NAME.fullmatch(name):
        raise InvalidName(
            f"{kind} name {str(name)[:100]!r} must be 1 to 80 letters, digits, '-' or '_' (the rule"
            " of SNS and SQS)"
        )
    return name


def check_topic(name: object, ordered: bool) -> str:
    """Return *name* as :func:`check_name` does.

    A name with the ending ``.fifo`` is refused unless topics may be *ordered*.
    """
    if isinstance(name, str) and name.endswith(FIFO):
        if not ordered:
            raise InvalidName(
                f"topic {name[:100]!r} would keep an order; only SNS has such topics: connect to"
                " aws://region/prefix"
            )
        return check_name("topic", name.removesuffix(FIFO)) + FIFO
    return check_name("topic", name)


def is_topic(name: str) -> bool:
    """Whether anybody may publish on *name*. The topics of direct calls are selectors."""
    return ":" not in name and "@" not in name


def check_model_name(name: object) -> str:
    """Return *name* as :func:`check_name` does. Dots are allowed after the first character.

    ``:`` and ``@`` belong to selectors.
    """
    if not isinstance(name, str) or not _MODEL.fullmatch(name):
        raise InvalidName(
            f"model name {str(name)[:100]!r} must be 1 to 80 letters, digits, '.', '-' or '_',"
            " starting with a letter or digit"
        )
    return name


class Adapters:
    """The adapters of one kind by name: our own, and those that packages add by an entry point.

    Only :meth:`load` imports one.

    Parameters
    ----------
    kind : str
        The kind in error messages, such as ``source``.
    group : str
        The group of the entry points.
    own : mapping
        Name -> ``module:attribute``. The module is relative to this package.
    error : type
        The error for an adapter that cannot be loaded.
    """

    def __init__(
        self, kind: str, group: str, own: Mapping[str, str], error: type[MltriggerError]
    ) -> None:
        self._kind, self._group, self._own, self._error = kind, group, own, error

    def __contains__(self, name: object) -> bool:
        return name in self._own or name in entry_points(self._group)

    def load(self, name: str) -> Any:
        """Return the adapter *name*. A wrong name lists the near ones."""
        if name in self._own:
            module, _, attribute = self._own[name].partition(":")
            return getattr(importlib.import_module(f"mltrigger.{module}"), attribute)
        others = entry_points(self._group)
        if name not in others:
            advice = f"packages add others by the entry point {self._group}"
            raise NotFound.of(self._kind, name, [*self._own, *others], advice)
        try:
            return others[name].load()
        except Exception as error:  # another package may raise anything when it is imported
            raise self._error(
                f"{self._kind} {name!r}: {others[name].value} cannot be loaded: {error}"
            ) from error


@functools.cache
def entry_points(group: str) -> dict[str, importlib.metadata.EntryPoint]:
    """Return the installed entry points of *group* by name in lower case."""
    return {point.name.lower(): point for point in importlib.metadata.entry_points(group=group)}
