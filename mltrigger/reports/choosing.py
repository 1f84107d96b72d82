"""The filters that frames of attempts take: checked, and made one value for the log."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, TypedDict

from mltrigger.errors import InvalidEvent, InvalidPolicy, NotFound
from mltrigger.reports.moments import Moment, moment_us
from mltrigger.store.matching import Matching
from mltrigger.store.outcomes import ANSWERING, OUTCOMES, ROLES
from mltrigger.text import short

if TYPE_CHECKING:
    from mltrigger.broker import SubscriptionSpec
    from mltrigger.store.log import Log

Names = str | Sequence[str] | None
"""One name, or several, or ``None`` for all."""


class Ended(TypedDict, total=False):
    """The filters of dead letters as keyword arguments, for type checkers."""

    version: Names
    reason: Names
    key: Names
    since: Moment
    until: Moment
    text: str | None


class Choosing(Ended, total=False):
    """The filters of attempts as keyword arguments, for type checkers."""

    outcome: Names
    role: Names


class EndedWhere(Ended, total=False):
    """Which dead letters a call means, for type checkers.

    ``up_to`` is the number of a record. Only those that the log had by then. Default: by now.
    """

    up_to: int


class Where(EndedWhere, total=False):
    """Which attempts a call means, for type checkers. ``up_to`` is as in :class:`EndedWhere`."""

    outcome: Names
    role: Names


def choosing(
    *,
    version: Names = None,
    outcome: Names = None,
    reason: Names = None,
    role: Names = None,
    key: Names = None,
    since: Moment = None,
    until: Moment = None,
    text: str | None = None,
) -> None:
    """Have the parameters of :class:`Choosing`, for signatures."""


def ending(
    *,
    version: Names = None,
    reason: Names = None,
    key: Names = None,
    since: Moment = None,
    until: Moment = None,
    text: str | None = None,
) -> None:
    """Have the parameters of :class:`Ended`, for signatures."""


def matching_of(
    log: Log,
    spec: SubscriptionSpec | None = None,
    *,
    version: Names = None,
    outcome: Names = None,
    reason: Names = None,
    role: Names = None,
    key: Names = None,
    since: Moment = None,
    until: Moment = None,
    text: str | None = None,
) -> Matching:
    """Return the attempts that a user asks for.

    Raises
    ------
    NotFound
        For a version, outcome, reason or role that does not exist. The error lists the near ones.
    InvalidPolicy
        For a key of a subscription without keys.
    InvalidEvent
        For a time or a text that cannot be looked for.
    """
    now_us = log.now_us()
    if key is not None and spec is not None and spec.policy.key is None:
        raise InvalidPolicy(
            f"the events of {spec.name!r} have no key: subscribe with key='…', the path of the key"
            " in the data, or leave key= out"
        )
    return Matching(
        None if spec is None else spec.id,
        tuple(roles_of(role)),
        _versions(log, version),
        _known("outcome", outcome, OUTCOMES),
        _reasons(log, reason),
        _names("key", key),
        moment_us(since, now_us),
        moment_us(until, now_us, "until"),
        _text(text),
    )


def chosen_of(
    log: Log,
    spec: SubscriptionSpec,
    roles: Sequence[str] | None,
    chosen: Mapping[str, Any],
) -> Matching | None:
    """Return the value of filters for a subscription, ``None`` if nothing is chosen.

    Without a role those of *roles* are meant.
    """
    if all(value is None for value in chosen.values()):
        return None
    wanted = matching_of(log, spec, **chosen)
    if roles is None or chosen.get("role") is not None:
        return wanted
    return dataclasses.replace(wanted, roles=roles)


def where_of(
    log: Log, spec: SubscriptionSpec, where: Mapping[str, Any], known: Iterable[str]
) -> tuple[Matching, int]:
    """Return the value of filters in a mapping, and the newest record that is meant.

    Raises
    ------
    NotFound
        For a name that is none of *known*.
    InvalidEvent
        For a record that is no number.
    """
    if not isinstance(where, Mapping):
        raise InvalidEvent(f"where must be filters by name, got {short(where)}")
    names = sorted(known)
    for name in where:
        if name not in names:
            raise NotFound.of("filter", short(name), names)
    up_to = where.get("up_to")
    if up_to is None:
        up_to = log.newest_row()
    elif type(up_to) is not int or up_to < 0:
        raise InvalidEvent(f"up_to must be the number of a record, got {short(up_to)}")
    chosen = {name: value for name, value in where.items() if name != "up_to"}
    return matching_of(log, spec, **chosen), up_to


def roles_of(role: Names) -> Sequence[str]:
    """Return the roles that a user asks for. ``"all"`` names every one."""
    wanted = _known("role", role, (*ROLES, "all"))
    if wanted is None:
        return ANSWERING
    return ROLES if "all" in wanted or not wanted else wanted


def _names(kind: str, given: Any) -> tuple[str, ...] | None:
    """Return one name or several as a tuple."""
    if given is None:
        return None
    names = (given,) if isinstance(given, str) else given
    try:
        found = tuple(dict.fromkeys(names))
    except TypeError:
        found = (None,)
    for name in found:
        if not isinstance(name, str):
            raise InvalidEvent(f"{kind} must be a text or several texts; got {short(given)}")
        _check_text(kind, name)
    return found


def _known(kind: str, given: Any, known: Sequence[str]) -> tuple[str, ...] | None:
    found = _names(kind, given)
    for name in found or ():
        if name not in known:
            raise NotFound.of(kind, name, known)
    return found


def _versions(log: Log, given: Any) -> tuple[str, ...] | None:
    found = _names("version", given)
    return found and _known("version", found, log.version_names())


def _reasons(log: Log, given: Any) -> tuple[str, ...] | None:
    found = _names("reason", given)
    wrong, known = log.unseen_reasons(found) if found else ([], [])
    for name in wrong:
        raise NotFound.of("reason", name, known)
    return found


def _text(given: Any) -> str | None:
    if given is None:
        return None
    if not isinstance(given, str) or not given:
        raise InvalidEvent(f"text must be a text that is not empty; got {short(given)!r}")
    _check_text("text", given)
    return given


def _check_text(kind: str, text: str) -> None:
    try:
        text.encode()
    except UnicodeEncodeError:
        raise InvalidEvent(
            f"no {kind} holds a lone surrogate: {short(text)!r} cannot be looked for"
        ) from None
