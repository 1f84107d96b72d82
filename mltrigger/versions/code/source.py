"""The text of a function: its tokens, its place in the file, and the names that it changes."""

from __future__ import annotations

import ast
import functools
import inspect
import io
import sys
import textwrap
import time
import tokenize
import types
from collections.abc import Iterator
from typing import Any

_TRIES, _PAUSE_S = 20, 0.001
_NOISE = {tokenize.COMMENT, tokenize.NL, tokenize.ENDMARKER, tokenize.ENCODING}
_START, _END = getattr(tokenize, "FSTRING_START", -1), getattr(tokenize, "FSTRING_END", -1)
_CHANGING = frozenset(
    {
        "add",
        "append",
        "appendleft",
        "clear",
        "discard",
        "extend",
        "extendleft",
        "insert",
        "partial_fit",
        "pop",
        "popitem",
        "popleft",
        "remove",
        "setdefault",
        "update",
    }
)
"""Methods that change their object, and whose result may be used."""

Function = ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda


def tokens_of(function: types.FunctionType) -> list[str]:
    """Return the tokens of the source of *function*. Of a lambda, only its own.

    Raises
    ------
    OSError, TypeError, SyntaxError, tokenize.TokenError
        When there is no source: it was typed at a prompt, or made by ``exec``.
    """
    if function.__name__ == "<lambda>":
        node = node_of(function)
        text = ast.get_source_segment(_text(function), node) if node is not None else None
        if text is None:
            raise OSError("the lambda is not in its file")
        return tokens(f"({text})")  # it may go over lines
    _check_has_source(function)
    return tokens(textwrap.dedent(inspect.getsource(function)))


def tokens(text: str) -> list[str]:
    """Return the tokens of a function's source from its ``def`` on, without layout.

    An f-string is one token, as before Python 3.12. A digest must not change with the release.
    """
    found: list[str] = []
    lines = text.splitlines(keepends=True)
    depth, begin = 0, (0, 0)
    for token in tokenize.generate_tokens(io.StringIO(text).readline):
        if token.type == _START:
            begin = token.start if depth == 0 else begin
            depth += 1
        elif token.type == _END:
            depth -= 1
            if depth == 0:
                found.append(_between(lines, begin, token.end))
        elif depth == 0 and token.type not in _NOISE:
            meaning = {
                tokenize.INDENT: "<indent>",
                tokenize.DEDENT: "<dedent>",
                tokenize.NEWLINE: "<end>",
            }
            found.append(meaning.get(token.type, token.string))
    start = next(
        (
            i
            for i, t in enumerate(found)
            if t in ("def", "async") and (i == 0 or found[i - 1] == "<end>")
        ),
        0,
    )
    return found[start:]


def _between(lines: list[str], begin: tuple[int, int], end: tuple[int, int]) -> str:
    (row, column), (last, stop) = begin, end
    if row == last:
        return lines[row - 1][column:stop]
    return lines[row - 1][column:] + "".join(lines[row : last - 1]) + lines[last - 1][:stop]


def node_of(function: types.FunctionType) -> Function | None:
    """Return the node of *function* in the tree of its file or cell, ``None`` if not found."""
    try:
        tree = _tree(_text(function))
    except (OSError, TypeError, SyntaxError, ValueError):
        return None
    code = function.__code__
    if code.co_name == "<lambda>":
        around = [
            node
            for node in ast.walk(tree)
            if isinstance(node, ast.Lambda) and _holds(node.body, code)
        ]
        # the innermost
        return max(around, key=lambda node: (node.lineno, node.col_offset), default=None)
    named = (
        n
        for n in ast.walk(tree)
        if isinstance(n, (ast.FunctionDef, ast.AsyncFunctionDef)) and n.name == code.co_name
    )
    return next(
        (
            n
            for n in named
            if min([n.lineno, *(d.lineno for d in n.decorator_list)]) == code.co_firstlineno
        ),
        None,
    )


def defaults_of(node: Function) -> dict[str, ast.expr]:
    """Return the expressions of the defaults, by argument."""
    given = node.args
    behind = [*given.posonlyargs, *given.args][-len(given.defaults) :] if given.defaults else []
    found = dict(zip([argument.arg for argument in behind], given.defaults, strict=True))
    return found | {
        a.arg: default
        for a, default in zip(given.kwonlyargs, given.kw_defaults, strict=True)
        if default is not None
    }


def is_literal(expression: ast.expr, names: frozenset[str] = frozenset()) -> bool:
    """Whether *expression* is a literal, or made of literals and such *names*."""
    parts = (
        ast.Constant,
        ast.List,
        ast.Tuple,
        ast.Set,
        ast.Dict,
        ast.UnaryOp,
        ast.BinOp,
        ast.operator,
        ast.unaryop,
        ast.expr_context,
    )
    return all(
        isinstance(part, parts) or (isinstance(part, ast.Name) and part.id in names)
        for part in ast.walk(expression)
    )


def constants_of(function: types.FunctionType) -> frozenset[str] | None:
    """Return the globals of an importable module whose text gives their values.

    ``None`` for a notebook or a script. Other globals depend on folders, environment or time.
    """
    module = sys.modules.get(function.__module__)
    if (
        function.__module__ == "__main__"
        or module is None
        or vars(module) is not function.__globals__
    ):
        return None
    try:
        return _constants(inspect.getsource(module))
    except (OSError, TypeError, SyntaxError):
        return frozenset()


@functools.lru_cache(maxsize=64)
def _constants(text: str) -> frozenset[str]:
    found: dict[str, bool] = {}
    for node in _tree(text).body:
        targets = (
            node.targets
            if isinstance(node, ast.Assign)
            else [node.target]
            if isinstance(node, (ast.AnnAssign, ast.AugAssign))
            else []
        )
        for name in [target.id for target in targets if isinstance(target, ast.Name)]:
            value = getattr(node, "value", None)
            known = frozenset(name for name, literal in found.items() if literal)
            found[name] = name not in found and value is not None and is_literal(value, known)
    return frozenset(name for name, literal in found.items() if literal)


def changed_by(node: Function) -> set[str]:
    """Return the names whose values the function changes.

    It stores into them, or calls a method for its effect alone.
    """
    found: set[str] = set()
    for part in ast.walk(node):
        if isinstance(part, (ast.Subscript, ast.Attribute)) and isinstance(
            part.ctx, (ast.Store, ast.Del)
        ):
            found |= _root(part)
        elif isinstance(part, ast.Expr):
            called = part.value.value if isinstance(part.value, ast.Await) else part.value
            if isinstance(called, ast.Call) and isinstance(called.func, ast.Attribute):
                found |= _root(called.func)
        elif (
            isinstance(part, ast.Call)
            and isinstance(part.func, ast.Attribute)
            and part.func.attr in _CHANGING
        ):
            found |= _root(part.func)
    return found


def _root(expression: ast.expr) -> set[str]:
    """Return the first name of a chain of attributes, items and method calls."""
    while True:
        if isinstance(expression, (ast.Attribute, ast.Subscript)):
            expression = expression.value
        elif isinstance(expression, ast.Call) and isinstance(expression.func, ast.Attribute):
            expression = expression.func
        else:
            return {expression.id} if isinstance(expression, ast.Name) else set()


def _holds(node: ast.expr, code: types.CodeType) -> bool:
    """Whether *node* holds all instructions of *code*. Those without width do not count."""
    begin, end = (node.lineno, node.col_offset), (node.end_lineno or 0, node.end_col_offset or 0)
    spans = [
        ((line, column), (last, stop))
        for line, last, column, stop in code.co_positions()
        if column is not None and column != stop
    ]
    return bool(spans) and all(begin <= first and last <= end for first, last in spans)


def _text(function: Any) -> str:
    _check_has_source(function)
    return "".join(inspect.findsource(function)[0])


def _check_has_source(function: types.FunctionType) -> None:
    """Raise OSError for a function made by ``exec``, as those of a dataclass are.

    From Python 3.13 on, inspect takes the program of ``python -c`` for the source of all of them.
    """
    if inspect.unwrap(function).__code__.co_filename == "<string>":  # inspect unwraps it, too
        raise OSError("made by exec: it has no source")


@functools.lru_cache(maxsize=64)
def _tree(text: str) -> ast.Module:
    for _ in range(_TRIES):
        try:
            return ast.parse(text)
        except SystemError:  # Python 3.11 counts the depths of two threads that parse as one
            time.sleep(_PAUSE_S)
    return ast.parse(text)


def codes(code: types.CodeType) -> Iterator[types.CodeType]:
    """Yield *code* and all code within it."""
    yield code
    for constant in code.co_consts:
        if isinstance(constant, types.CodeType):
            yield from codes(constant)
