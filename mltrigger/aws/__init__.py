"""AWS beside :func:`mltrigger.connect`: Lambda handler, policy documents, CloudFormation template.

``lambda_handler(subscription)`` runs a subscription inside AWS Lambda.
:mod:`~mltrigger.aws.admin.policies` and :mod:`~mltrigger.aws.admin.template` return documents for
the administrator of the account. Each is loaded at its first use.
"""

from __future__ import annotations

import importlib

TYPE_CHECKING = False  # as in the package itself: importing typing takes time
if TYPE_CHECKING:
    from typing import Any

__all__ = ["lambda_handler", "policies", "template"]


def __getattr__(name: str) -> Any:
    """Load public names at their first use."""
    if name not in __all__:
        raise AttributeError(f"module 'mltrigger.aws' has no attribute {name!r}")
    value: Any
    if name == "lambda_handler":
        value = importlib.import_module("mltrigger.aws.transport.function").lambda_handler
    else:
        value = importlib.import_module(f"mltrigger.aws.admin.{name}")
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
