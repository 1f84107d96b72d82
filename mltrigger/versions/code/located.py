"""The code of a function in a module that is not imported yet, read from its file."""

from __future__ import annotations

import ast
import importlib.machinery
import inspect
import sys
from collections.abc import Sequence
from typing import Any

from mltrigger.versions.code import source
from mltrigger.versions.code.digest import hashed

_AT_RUN_TIME = frozenset({"globals", "vars", "setattr", "exec", "eval", "__getattr__", "*"})
"""Names that may give a module other names while it is imported."""
ABSENT = "absent"


def code_at(path: str) -> str | None:
    """Return the digest of the function at *path*, ``package.module:function``, without an import.

    Returns
    -------
    str, optional
        As the ``code`` of :class:`~mltrigger.versions.code.captured.Fingerprint`. ``"absent"`` if
        the module has no such name. ``None`` if only an import can tell: the module is imported
        already or has no source, or the target is no plain function.
    """
    module, _, name = path.partition(":")
    if module in sys.modules:
        return None
    try:
        text = _text(module)
        tree = ast.parse(text or "")
    except Exception:  # a broken finder, a file in another encoding: the import will say so
        return None
    if text is None:
        return None
    first = name.partition(".")[0]
    bound = [node for node in ast.walk(tree) if first in _names(node)]
    if not bound:
        at_run_time = any(_AT_RUN_TIME & _names(node) for node in ast.walk(tree))
        return None if at_run_time else ABSENT
    node = bound[0]
    if (
        len(bound) > 1
        or name != first
        or node not in tree.body
        or not isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef))
    ):
        return None
    if not all(_describes(decorator) for decorator in node.decorator_list):
        return None
    lines = text.splitlines(keepends=True)[node.lineno - 1 :]
    return hashed("source", "\x00".join(source.tokens("".join(inspect.getblock(lines))))).hex()[:12]


def _text(module: str) -> str | None:
    """Return the source of *module*. Its packages are found, not imported."""
    where: Sequence[str] | None = None
    found: importlib.machinery.ModuleSpec | None = None
    parts = module.split(".")
    for end in range(1, len(parts) + 1):
        name = ".".join(parts[:end])
        if (known := sys.modules.get(name)) is not None:
            where = getattr(known, "__path__", None)
        else:
            found = _spec(name, where)
            where = found.submodule_search_locations if found is not None else None
        if where is None and end < len(parts):
            return None
    loader: Any = found.loader if found is not None else None
    text: str | None = loader.get_source(module) if hasattr(loader, "get_source") else None
    return text


def _spec(name: str, where: Sequence[str] | None) -> importlib.machinery.ModuleSpec | None:
    for finder in sys.meta_path:
        if (found := finder.find_spec(name, where)) is not None:
            return found
    return None


def _names(node: ast.AST) -> set[str]:
    """Return the names that *node* binds or uses."""
    if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
        return {node.name}
    if isinstance(node, ast.Name):
        return {node.id} if isinstance(node.ctx, ast.Store) or node.id in _AT_RUN_TIME else set()
    if isinstance(node, ast.alias):
        return {(node.asname or node.name).partition(".")[0]}
    if isinstance(node, (ast.ExceptHandler, ast.MatchAs, ast.MatchStar)) and node.name:
        return {node.name}
    # global and nonlocal
    return {name for name in getattr(node, "names", ()) if isinstance(name, str)}


def _describes(decorator: ast.expr) -> bool:
    """Whether a decorator is ``mt.model``, which keeps the function as it is."""
    called = decorator.func if isinstance(decorator, ast.Call) else decorator
    return (
        called.attr if isinstance(called, ast.Attribute) else getattr(called, "id", "")
    ) == "model"
