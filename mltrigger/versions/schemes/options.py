"""Checks of options that several schemes have, and model names made from other names."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from typing import Any

from mltrigger.errors import InvalidModel
from mltrigger.text import short


def check_names(shown: str, options: Mapping[str, Any], *names: str) -> None:
    """Raise InvalidModel when an option in *names* is given and is no list of texts.

    An empty list is refused too. *shown* is the address, as errors show it.
    """
    for name in names:
        given = options.get(name, ["any"])
        if not given or not all(isinstance(each, str) and each for each in given):
            raise InvalidModel(
                f"model {shown!r}: option {name} must be a list of names, got {short(given)}"
            )


def check_different(shown: str, options: Mapping[str, Any], name: str) -> None:
    """Raise InvalidModel when option *name* has the same text twice."""
    given = options.get(name, ())
    if len(set(given)) < len(given):
        raise InvalidModel(f"model {shown!r}: option {name} names a field twice: {short(given)}")


def check_choice(shown: str, options: Mapping[str, Any], name: str, known: Collection[str]) -> None:
    """Raise InvalidModel when option *name* is given and is none of *known*."""
    if name in options and options[name] not in known:
        raise InvalidModel(
            f"model {shown!r}: option {name} must be one of {', '.join(known)}; got"
            f" {options[name]!r}"
        )


def model_name(text: str, default: str = "") -> str:
    """Return *text* as a valid model name, or *default* when no valid character is left.

    See :func:`mltrigger.names.check_model_name`.
    """
    return re.sub(r"[^A-Za-z0-9_.-]+", "-", text)[:80].strip("-._") or default
