"""The public names of the package and their signatures, as text: one line each.

``tests/data/api.txt`` keeps this text. A test compares the two. After a wanted change, renew it::

    python tests/public_api.py > tests/data/api.txt

Read the difference before you commit it: each line that goes or changes breaks somebody's program.
"""

from __future__ import annotations

import importlib
import inspect
import re
from collections.abc import Iterator
from typing import Any

import mltrigger

MODULES = (
    "mltrigger",
    "mltrigger.rollout.agree",
    "mltrigger.aws",
    "mltrigger.schemes",
    "mltrigger.testing",
)
MADE_BY_US = {"EventBus", "Model", "ModelVersion", "Run", "Subscription"}
"""Classes that users get from a call and never construct."""
PARTS_ONLY = {
    "archived",
    "borrowed_listener",
    "direct",
    "busy",
    "event_of",
    "listen",
    "listener_state",
    "model_of",
    "spec",
    "stop_listening",
    "tally",
    "try_out",
    "look",
    "run_of",
    "wait_for_what_can_come",
}
"""Methods without an underscore that only other parts of the package call."""


def lines() -> Iterator[str]:
    """Yield a line for each public name, and for each public member of a class."""
    for module in MODULES:
        home = importlib.import_module(module)
        names = getattr(home, "__all__", None) or [
            name
            for name, value in vars(home).items()
            if getattr(value, "__module__", "") == module and not name.startswith("_")
        ]
        for name in sorted(names):
            yield from _described(f"{module}.{name}", name, getattr(home, name))


def _described(path: str, name: str, value: Any) -> Iterator[str]:
    if not inspect.isclass(value):
        yield f"{path}{_signature(value) if callable(value) else ''}"
        return
    constructed = name not in MADE_BY_US and (_owns(value, "__init__") or _owns(value, "__new__"))
    yield f"{path}{_signature(value) if constructed else ''}"
    for member in sorted(set(dir(value)) - PARTS_ONLY):
        if not member.startswith("_") and (owner := _owns(value, member)):
            yield f"{path}.{member}{_of_member(vars(owner)[member])}"


def _owns(cls: type, member: str) -> type | None:
    """Return the class that gives *cls* its *member*, if it is ours and has no lines of its own."""
    owner = next(base for base in cls.__mro__ if member in vars(base))
    ours = owner.__module__.partition(".")[0] == "mltrigger"
    listed = owner is not cls and owner.__name__ in mltrigger.__all__ and member[0] != "_"
    return owner if ours and not listed else None


def _of_member(found: Any) -> str:
    if isinstance(found, (classmethod, staticmethod)):
        found = found.__func__
    return _signature(found) if inspect.isroutine(found) else ""


def _signature(value: Any) -> str:
    shown = inspect.signature(value)
    seen = [p for p in shown.parameters.values() if not p.name.startswith("_")]
    return re.sub(r"<[^=,]* at 0x[0-9a-f]+>", "…", str(shown.replace(parameters=seen)))


if __name__ == "__main__":
    assert mltrigger.__all__
    print("\n".join(lines()))
