"""The values around the code of a version: captured values, defaults, and globals that it reads.

Some are left out, since they are no code or change with use: modules and their functions,
connections and clients, values that the code itself changes, texts with the name of a secret, and
globals of an importable module that its text does not tell.
"""

from __future__ import annotations

import contextlib
import dataclasses
import dis
import functools
import inspect
import sys
import types
from collections.abc import Hashable, Iterator
from typing import Any, NamedTuple

from mltrigger.versions.address import is_secret
from mltrigger.versions.code import source
from mltrigger.versions.code.digest import (
    Digests,
    TooLarge,
    closed_over,
    has_value,
    hashed,
    is_code,
    is_of_a_library,
    name_of,
)

_READ = frozenset({"LOAD_GLOBAL", "LOAD_NAME", "LOAD_FROM_DICT_OR_GLOBALS"})
_BOUND = frozenset({"STORE_GLOBAL", "DELETE_GLOBAL", "STORE_DEREF", "DELETE_DEREF"})
_OF_A_KERNEL = frozenset({"In", "Out", "_"})
_DIGITS = 8


@dataclasses.dataclass(frozen=True, slots=True)
class Fingerprint:
    """The fingerprint of a version: digests of everything, of the code, and of values around it.

    ``around`` has them by name.
    """

    digest: str
    code: str
    around: dict[str, str]


def fingerprint_of(target: Any) -> Fingerprint:
    """Return the fingerprint of *target*: code, state of a fitted object, values around the code.

    Comments, layout and decorators do not count. Of a library's class only the name counts. So an
    upgrade keeps the version of the same weights.
    """
    digests = Digests()
    try:
        code = digests.of(target)
    except RecursionError:  # a state nested too deep to look at
        digests = Digests()
        code = digests.of(type(target))
    # a model that is installed as a package
    if isinstance(target, types.FunctionType) and target not in digests.functions:
        digests.functions.append(target)
    around = _Around(digests).parts()
    whole = hashed(code, *(text for part in around.items() for text in part)) if around else code
    return Fingerprint(whole.hex()[:12], code.hex()[:12], around)


def digest_of(target: Any) -> str:
    """Return the 12 hexadecimal digits of :func:`fingerprint_of`."""
    return fingerprint_of(target).digest


class _Read(NamedTuple):
    """A value around a function: its variable, the code that may change it, its name.

    Also whether its data count.
    """

    variable: Hashable
    kind: str
    name: str
    value: Any
    data_counts: bool = True


class _Around:
    """Collects the values around the functions of *digests*, and further code of the user."""

    def __init__(self, digests: Digests) -> None:
        self._waiting = list(digests.functions)
        self._looked_at = {id(met) for met in [*digests.functions, *digests.classes]}
        self._found: list[tuple[Hashable, str, bytes]] = []
        self._changed: set[Hashable] = set()

    def parts(self) -> dict[str, str]:
        """Return label -> digest, sorted."""
        while self._waiting:
            function = self._waiting.pop(0)
            node = source.node_of(function)
            self._changed |= _changed(function, node)
            for read in _reads(function, node):
                # A dead proxy or a hostile __len__: such a value has no
                # digest.
                with contextlib.suppress(Exception):
                    self._look_at(read, function)
        parts: dict[str, set[bytes]] = {}
        for variable, label, digest in self._found:
            if variable not in self._changed:
                parts.setdefault(label, set()).add(digest)
        return {label: hashed(*sorted(parts[label])).hex()[:_DIGITS] for label in sorted(parts)}

    def _look_at(self, read: _Read, function: types.FunctionType) -> None:
        kind, value = read.kind, _called(read.value, function)
        if isinstance(value, (types.FunctionType, type)):
            if not _is_beside(value, function) or id(value) in self._looked_at:
                return
            kind = "class" if isinstance(value, type) else "function"
        elif not (read.data_counts and _counts(read.name, value)):
            return
        self._found.append((read.variable, f"{kind} {read.name}", self._digest(value)))

    def _digest(self, value: Any) -> bytes:
        digests = Digests(captured=True)
        try:
            digest = digests.of(value)
        except TooLarge:
            digest = hashed("large", name_of(type(value)), str(len(value)))
        except RecursionError:
            digest = hashed("deep", name_of(type(value)))
        self._waiting += [met for met in digests.functions if id(met) not in self._looked_at]
        self._looked_at |= {id(met) for met in [*digests.functions, *digests.classes]}
        return digest


def _reads(function: types.FunctionType, node: source.Function | None) -> Iterator[_Read]:
    constants = source.constants_of(function)
    around = function.__globals__
    for name in _names(function.__code__)[0]:
        if name in around and not name.startswith("__") and name not in _OF_A_KERNEL:
            yield _Read(
                (id(around), name),
                "global",
                name,
                around[name],
                constants is None or name in constants,
            )
    for name, value in closed_over(function):
        if not is_code(value) and not name.startswith("__"):  # its digest has the code
            yield _Read(_cell(function, name), "captured", name, value)
    expressions = source.defaults_of(node) if node is not None else {}
    # without a source, the digest of the code has the defaults
    for name, value in _defaults(function) if node is not None else ():
        expression = expressions.get(name)
        if expression is None or not source.is_literal(expression):
            counts = (
                constants is None or expression is None or source.is_literal(expression, constants)
            )
            yield _Read((id(function), name), "default", name, value, counts)


def _defaults(function: types.FunctionType) -> Iterator[tuple[str, Any]]:
    given = function.__defaults__ or ()
    code = function.__code__
    yield from zip(
        code.co_varnames[code.co_argcount - len(given) : code.co_argcount], given, strict=True
    )
    yield from (function.__kwdefaults__ or {}).items()


def _changed(function: types.FunctionType, node: source.Function | None) -> set[Hashable]:
    """Return the variables around *function* that it changes."""
    _, bound = _names(function.__code__)
    names = {*bound, *(source.changed_by(node) if node is not None else ())}
    free = set(function.__code__.co_freevars)
    found: set[Hashable] = {
        _cell(function, name) if name in free else (id(function.__globals__), name)
        for name in names
    }
    if source.constants_of(function) is not None:  # a module may fill them in when it is set up
        found |= {(id(function.__globals__), name) for name in _bound_beside(function)}
    return found | {(id(function), name) for name in names}


def _bound_beside(function: types.FunctionType) -> Iterator[str]:
    for other in list(function.__globals__.values()):
        if isinstance(other, types.FunctionType) and other.__globals__ is function.__globals__:
            yield from _names(other.__code__)[1]


def _cell(function: types.FunctionType, name: str) -> Hashable:
    return id((function.__closure__ or ())[function.__code__.co_freevars.index(name)])


@functools.lru_cache(maxsize=4096)
def _names(code: types.CodeType) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Return the globals that *code* reads, and the variables around it that it binds."""
    found = [
        (step.opname, step.argval)
        for part in source.codes(code)
        for step in dis.get_instructions(part)
    ]
    read, bound = ({name for kind, name in found if kind in kinds} for kinds in (_READ, _BOUND))
    return tuple(sorted(read)), tuple(sorted(bound))


def _called(value: Any, function: types.FunctionType) -> Any:
    """Return the function or class behind a model, a cache or a library's decorator.

    Return any other value as it is.
    """
    models = sys.modules.get("mltrigger.versions.model")
    if models is not None and isinstance(value, models.Model):
        value = value.target
    if isinstance(value, type) or (
        isinstance(value, types.FunctionType) and _is_beside(value, function)
    ):
        return value
    return inspect.unwrap(value) if callable(value) and hasattr(value, "__wrapped__") else value


def _is_beside(value: Any, function: types.FunctionType) -> bool:
    """Whether the class or function *value* belongs to the notebook or the module of *function*."""
    if isinstance(value, types.FunctionType):
        return value.__globals__ is function.__globals__
    return value.__module__ == function.__module__ and not is_of_a_library(value)


def _counts(name: str, value: Any) -> bool:
    """Whether *value* is data, or an object whose state counts."""
    if isinstance(value, (types.ModuleType, types.BuiltinFunctionType)) or (
        isinstance(value, str) and is_secret(name)
    ):
        return False
    return is_code(value) or has_value(value)
