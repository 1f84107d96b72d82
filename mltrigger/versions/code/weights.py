"""The files of a version of a Python model (``files=``). Other content is another version."""

from __future__ import annotations

import contextlib
import hashlib
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mltrigger.errors import InvalidModel

_SHOWN = 5
Stamp = tuple[tuple[str, int, int, int, int], ...]


def checked(files: Any, model: str) -> tuple[str, ...]:
    """Return the names in *files*, each once. Raise InvalidModel if it is no list of names."""
    named = isinstance(files, (list, tuple)) and all(
        isinstance(file, (str, os.PathLike)) for file in files
    )
    names = [os.fspath(file) for file in files] if named else []
    if not named or not all(isinstance(name, str) and name and "\0" not in name for name in names):
        raise InvalidModel(
            f"model {model!r}: files={files!r}: write a list of names of files or folders,"
            " files=['weights.bin']"
        )
    return tuple(dict.fromkeys(names))


def sums_of(files: tuple[str, ...], model: str) -> dict[str, str]:
    """Return name -> SHA-256 of each file. A folder has one over all names and sums in it.

    Relative names start at the working directory. Files are read piece by piece.

    Raises
    ------
    InvalidModel
        When a file is missing or cannot be read.
    """
    return {name: _sum_of(name, model) for name in files}


class Weights:
    """The files of one version. Safe in threads.

    Parameters
    ----------
    sums : mapping
        Name -> SHA-256 at registration.
    """

    def __init__(self, sums: Mapping[str, str]) -> None:
        self.sums = dict(sums)
        self._stamps: dict[str, Stamp] = {}

    def check(self, model: str) -> None:
        """Check the files that were written since the last check.

        Raises
        ------
        InvalidModel
            When the content of a file is not that of the version.
        """
        changed = [name for name in self.sums if not self._is_same(name, model)]
        if changed:
            names = ", ".join(repr(shown(name)) for name in changed[:_SHOWN])
            raise InvalidModel(
                f"model {model!r}: {names} changed since the version was registered; bring back"
                " what it had, or register a new version"
            )

    def _is_same(self, name: str, model: str) -> bool:
        stamp = _stamp_of(name)  # before the content: a write meanwhile is looked at again
        if self._stamps.get(name) == stamp:
            return True
        if _sum_of(name, model) != self.sums[name]:
            return False
        self._stamps[name] = stamp
        return True


def shown(name: str) -> str:
    """Return *name* for an error, without the folders of this machine."""
    path = Path(name)
    return (path.name or name if path.is_absolute() else name)[:200]


def _sum_of(name: str, model: str) -> str:
    path = Path(name)
    try:
        if not path.is_dir():
            return _digest(path)
        parts = [
            f"{inner.relative_to(path).as_posix()}\0{_digest(inner)}\0" for inner in _inside(path)
        ]
    except FileNotFoundError as error:
        raise InvalidModel(
            f"model {model!r}: files: there is no {shown(name)!r} here (looked for from the working"
            " directory)"
        ) from error
    except OSError as error:
        raise InvalidModel(
            f"model {model!r}: files: {shown(name)!r} cannot be read: {error.strerror}"
        ) from error
    return hashlib.sha256("".join(parts).encode("utf-8", "surrogateescape")).hexdigest()


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _stamp_of(name: str) -> Stamp:
    """Return the marks of a write: size, number and times of each file."""
    path, found = Path(name), []
    for inner in _inside(path) if path.is_dir() else [path]:
        with contextlib.suppress(OSError):  # a missing file has none
            status = inner.stat()
            found.append(
                (str(inner), status.st_size, status.st_ino, status.st_mtime_ns, status.st_ctime_ns)
            )
    return tuple(found)


def _inside(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.is_file())
