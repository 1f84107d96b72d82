"""What a bus on AWS needs beside :func:`mltrigger.connect`: a Lambda handler, policy documents, a
CloudFormation template.

``lambda_handler(subscription)`` runs a subscription inside AWS Lambda;
:mod:`~mltrigger.aws.admin.policies` and :mod:`~mltrigger.aws.admin.template` return documents for
whoever administers the account, and ``apply(clients, stack, template)`` of
:mod:`~mltrigger.aws.admin.stack` makes the stack of a template. Everything is loaded when it is
first used.
"""

from __future__ import annotations

import importlib

TYPE_CHECKING = False  # as in the package itself: importing typing takes time
if TYPE_CHECKING:
    from typing import Any

_HOME = {"apply": "admin.stack", "lambda_handler": "transport.function"}
_ROOMS = ("policies", "template")

__all__ = ["apply", "lambda_handler", "policies", "template"]


def __getattr__(name: str) -> Any:
    """Load public names when they are first used."""
    if name in _HOME:
        value = getattr(importlib.import_module(f"mltrigger.aws.{_HOME[name]}"), name)
    elif name in _ROOMS:
        value = importlib.import_module(f"mltrigger.aws.admin.{name}")
    else:
        raise AttributeError(f"module 'mltrigger.aws' has no attribute {name!r}")
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
