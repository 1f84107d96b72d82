"""Which code is it? A digest that is the same when a cell runs again, and another when the code changes."""

from __future__ import annotations

import ast
import contextlib
import functools
import hashlib
import inspect
import io
import pickle
import sys
import textwrap
import tokenize
import types
from typing import Any


def digest_of(target: Any) -> str:
    """Return 12 hexadecimal digits for the code of *target* and, for a fitted object, its state.

    Comments, white space and decorators do not count. What a function finds in its globals does not count either:
    a version is a promise of its author.
    """
    return hashlib.sha256(_fingerprint(target)).hexdigest()[:12]


def _fingerprint(target: Any) -> bytes:
    if isinstance(target, functools.partial):
        return b"partial" + _fingerprint(target.func) + _state((target.args, target.keywords))
    if isinstance(target, types.MethodType):
        return _fingerprint(target.__func__) + _fingerprint(target.__self__)
    if isinstance(target, (types.FunctionType, type)):
        return _source(target)
    if isinstance(target, types.BuiltinFunctionType):
        return f"{target.__module__}.{target.__qualname__}".encode()
    return _source(type(target)) + _state(target)


def _source(code: Any) -> bytes:
    try:
        return _without_comments(textwrap.dedent(inspect.getsource(code))).encode()
    except (OSError, TypeError, SyntaxError, tokenize.TokenError):  # typed at a prompt, made by exec, or in C
        if isinstance(code, types.FunctionType):
            return _bytecode(code.__code__)
        return f"{code.__module__}.{code.__qualname__}".encode()


def _without_comments(text: str) -> str:
    """Return *text* from its ``def`` on, with comments cut out and every run of white space as one blank.

    The text itself, not its tokens: those differ from one Python release to the next, and a digest must not.
    """
    lines = text.splitlines(keepends=True)
    for token in tokenize.generate_tokens(io.StringIO(text).readline):
        if token.type == tokenize.COMMENT:
            row, column = token.start
            lines[row - 1] = lines[row - 1][:column] + "\n"
    start = 1
    with contextlib.suppress(SyntaxError, IndexError):  # a lambda in the middle of an expression is not a statement
        start = ast.parse(text).body[0].lineno  # decorators stand above it
    return " ".join("".join(lines[start - 1 :]).split())


def _bytecode(code: types.CodeType) -> bytes:
    constants = [_bytecode(c) if isinstance(c, types.CodeType) else repr(c).encode() for c in code.co_consts]
    return b"|".join([code.co_code, repr(code.co_names).encode(), *constants])


def _state(value: Any) -> bytes:
    """Return the state of a fitted object; joblib's hash is used where it is loaded, as scikit-learn does, for its stable arrays."""
    try:
        if (joblib := sys.modules.get("joblib")) is not None:
            return str(joblib.hash(value, hash_name="sha1")).encode()
        return pickle.dumps(value, protocol=5)  # only written, never read back
    except Exception:  # locks, sessions: what cannot be pickled has no comparable state
        return type(value).__qualname__.encode()
