"""Which code is it? A digest that is the same when a cell runs again, also in another process, and another when the code changes."""

from __future__ import annotations

import functools
import hashlib
import inspect
import io
import site
import sys
import sysconfig
import textwrap
import tokenize
import types
from collections.abc import Iterable, Mapping
from typing import Any

_NOISE = {tokenize.COMMENT, tokenize.NL, tokenize.ENDMARKER, tokenize.ENCODING}
_START, _END = getattr(tokenize, "FSTRING_START", -1), getattr(tokenize, "FSTRING_END", -1)
_LIBRARIES = tuple({sysconfig.get_path(name) for name in ("stdlib", "purelib", "platlib")} | set(site.getsitepackages()))
# In the state of fitted scikit-learn objects although they say nothing about what was learnt: a release, an address, timings, and
# search trees that count their own calls (the data that they are built from stands beside them).
_SKIPPED_STATE = frozenset({"_sklearn_version", "_stop_words_id", "cv_results_", "refit_time_", "_tree"})


def digest_of(target: Any) -> str:
    """Return 12 hexadecimal digits for the code of *target* and, for a fitted object, its state.

    Comments, layout and decorators do not count. What a function finds in its globals does not count either: a version is a promise
    of its author. Of a library's classes only the name counts, so that an upgrade does not make another model of the same weights.
    """
    try:
        return _digest(target, {}).hex()[:12]
    except RecursionError:  # a state nested too deep to look at
        return _digest(type(target), {}).hex()[:12]


def _digest(value: Any, seen: dict[int, int]) -> bytes:
    """Return the digest of any value, from its structure: no addresses, no hash order, nothing of the process."""
    if id(value) in seen:
        return _hashed("again", str(seen[id(value)]))
    if value is None or isinstance(value, (bool, int, float, complex, str, bytes)):
        return _hashed(type(value).__qualname__, repr(value))
    seen = {**seen, id(value): len(seen)}
    if not isinstance(value, types.FunctionType) and not isinstance(value, type) and hasattr(value, "__wrapped__"):
        value = inspect.unwrap(value)  # functools.cache and its like
    if isinstance(value, (types.FunctionType, types.MethodType, types.BuiltinFunctionType, type, functools.partial, types.CodeType)):
        return _code(value, seen)
    if isinstance(value, types.ModuleType):
        return _hashed("module", value.__name__)
    if (np := sys.modules.get("numpy")) is not None and isinstance(value, (np.ndarray, np.generic)) and value.dtype.kind != "O":
        array = np.ascontiguousarray(value)
        return _hashed("array", array.dtype.str, str(array.shape), array.tobytes())
    return _container(value, seen)


def _container(value: Any, seen: dict[int, int]) -> bytes:
    if isinstance(value, Mapping):
        pairs = sorted((_digest(k, seen), _digest(v, seen)) for k, v in value.items() if k not in _SKIPPED_STATE)
        return _hashed(_name(type(value)), *(part for pair in pairs for part in pair))
    if isinstance(value, (list, tuple)):
        return _hashed(_name(type(value)), *(_digest(v, seen) for v in value))
    if isinstance(value, (set, frozenset)):
        return _hashed("set", *sorted(_digest(v, seen) for v in value))
    return _object(value, seen)


def _object(value: Any, seen: dict[int, int]) -> bytes:
    """Return the digest of an object: its class, and the state that copying it would carry over."""
    kind = _digest(type(value), seen)
    if getattr(value, "dtype", None) is not None and hasattr(value, "tolist"):  # an array of objects
        return _hashed("objects", kind, _digest(value.tolist(), seen))
    try:
        reduced = value.__reduce_ex__(4)
    except Exception:  # locks, sessions, sockets: what cannot be copied has no comparable state
        return kind
    if isinstance(reduced, str):
        return _hashed("global", reduced)
    _, arguments, *rest = reduced
    plain = [list(part) if isinstance(part, Iterable) and not isinstance(part, (str, bytes, Mapping)) else part for part in rest[:3]]
    return _hashed("object", kind, _digest([a for a in arguments if a is not type(value)], seen), *(_digest(p, seen) for p in plain))


def _code(value: Any, seen: dict[int, int]) -> bytes:
    if isinstance(value, functools.partial):
        return _hashed("partial", *(_digest(part, seen) for part in (value.func, value.args, value.keywords)))
    if isinstance(value, types.MethodType):
        return _hashed("method", _digest(value.__func__, seen), _digest(value.__self__, seen))
    if isinstance(value, types.FunctionType):
        return _function(value, seen)
    if isinstance(value, types.CodeType):
        return _hashed("code", value.co_code, str(value.co_names), *(_digest(c, seen) for c in value.co_consts))
    if isinstance(value, type) and not _of_a_library(value):
        own = {name: _digest(_unwrapped(v), seen) for name, v in vars(value).items() if not name.startswith("__") or callable(v)}
        bases = [_digest(base, seen) for base in value.__bases__]
        return _hashed("class", _name(value), *bases, *(part for name in sorted(own) for part in (name, own[name])))
    return _hashed("name", _name(value))


def _function(function: types.FunctionType, seen: dict[int, int]) -> bytes:
    # What a decorator closed over is code as well; other contents of a closure change with use.
    closed_over = [cell.cell_contents for cell in function.__closure__ or () if _is_code(cell)]
    inner = [_digest(code, seen) for code in closed_over]
    try:
        return _hashed("source", "\x00".join(_tokens(textwrap.dedent(inspect.getsource(function)))), *inner)
    except (OSError, TypeError, SyntaxError, tokenize.TokenError):  # typed at a prompt, or made by exec
        defaults = (function.__defaults__, function.__kwdefaults__, inspect.getfullargspec(function)[:5:4])
        return _hashed("function", _digest(function.__code__, seen), _digest(defaults, seen), *inner)


def _is_code(cell: types.CellType) -> bool:
    try:
        return isinstance(cell.cell_contents, (types.FunctionType, types.MethodType, functools.partial))
    except ValueError:  # an empty cell
        return False


def _tokens(text: str) -> list[str]:
    """Return the tokens of a function's source from its ``def`` on, layout reduced to what has a meaning.

    An f-string is one token, as it was before Python 3.12: a digest must not change with the release.
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
            meaning = {tokenize.INDENT: "<indent>", tokenize.DEDENT: "<dedent>", tokenize.NEWLINE: "<end>"}
            found.append(meaning.get(token.type, token.string))
    start = next((i for i, t in enumerate(found) if t in ("def", "async") and (i == 0 or found[i - 1] == "<end>")), 0)
    return found[start:]


def _between(lines: list[str], begin: tuple[int, int], end: tuple[int, int]) -> str:
    (row, column), (last, stop) = begin, end
    if row == last:
        return lines[row - 1][column:stop]
    return lines[row - 1][column:] + "".join(lines[row : last - 1]) + lines[last - 1][:stop]


def _of_a_library(value: type) -> bool:
    """Whether *value* comes from an installed package or from Python itself."""
    module = sys.modules.get(value.__module__)
    if getattr(module, value.__qualname__.partition(".")[0], None) is None:
        return False  # made by a cell, whatever it says of its module
    file = getattr(module, "__file__", None)
    return file.startswith(_LIBRARIES) if file is not None else value.__module__ != "__main__"


def _unwrapped(member: Any) -> Any:
    if isinstance(member, (staticmethod, classmethod)):
        return member.__func__
    return [member.fget, member.fset, member.fdel] if isinstance(member, property) else member


def _name(value: Any) -> str:
    return f"{getattr(value, '__module__', '')}.{getattr(value, '__qualname__', '')}"


def _hashed(*parts: str | bytes) -> bytes:
    whole = hashlib.sha256()
    for part in parts:
        raw = part.encode("utf-8", "surrogatepass") if isinstance(part, str) else part
        whole.update(len(raw).to_bytes(8, "big"))
        whole.update(raw)
    return whole.digest()
