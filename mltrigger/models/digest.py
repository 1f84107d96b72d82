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

_NOISE = {
    tokenize.COMMENT,
    tokenize.NL,
    tokenize.NEWLINE,
    tokenize.INDENT,
    tokenize.DEDENT,
    tokenize.ENDMARKER,
    tokenize.ENCODING,
}


def digest_of(target: Any) -> str:
    """Return 12 hexadecimal digits for the code of *target* and, for a fitted object, its state.

    Comments, blank lines, line breaks and decorators do not count. What a function finds in its globals does not count either:
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
        text = textwrap.dedent(inspect.getsource(code))
        return " ".join(_tokens(text)).encode()
    except (OSError, TypeError, SyntaxError, tokenize.TokenError):  # typed at a prompt, made by exec, or in C
        if isinstance(code, types.FunctionType):
            return _bytecode(code.__code__)
        return f"{code.__module__}.{code.__qualname__}".encode()


def _tokens(text: str) -> list[str]:
    start = 1
    with contextlib.suppress(SyntaxError, IndexError):  # a lambda in the middle of an expression is not a statement
        start = ast.parse(text).body[0].lineno
    lines = text.splitlines(keepends=True)[start - 1 :]
    return [t.string for t in tokenize.generate_tokens(io.StringIO("".join(lines)).readline) if t.type not in _NOISE]


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
