"""Files below a folder: listed without following links, opened without leaving the folder."""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Iterator
from pathlib import Path

_OPEN = os.O_RDONLY | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_CLOEXEC", 0)
_FOLDER = getattr(os, "O_DIRECTORY", 0)
_NO_WAIT = getattr(os, "O_NONBLOCK", 0)


def entries(folder: Path, below: str) -> Iterator[tuple[str, os.DirEntry[str]]]:
    """Yield the entries of *below*, a folder inside *folder*, with names relative to *folder*."""
    prefix = f"{below}/" if below else ""
    with os.scandir(folder / below) as found:
        for entry in found:
            yield prefix + entry.name, entry


def regular(folder: Path, name: str, found: os.stat_result | None = None) -> os.stat_result | None:
    """Return the status of the file *name*, or of its target if it is a link inside *folder*.

    ``None`` for anything else.

    Parameters
    ----------
    folder, name
        The watched folder, without links, and a name relative to it.
    found : os.stat_result, optional
        The status of the name itself, if it is known.
    """
    try:
        found = found or os.lstat(folder / name)
        if stat.S_ISLNK(found.st_mode):
            target = target_of(folder, name)
            found = os.lstat(folder / target) if target is not None else found
    except OSError:  # gone since the folder was read
        return None
    return found if stat.S_ISREG(found.st_mode) else None


def target_of(folder: Path, name: str) -> str | None:
    """Return the name inside *folder* that *name* leads to through all links.

    ``None`` if it leads outside.
    """
    real = os.path.realpath(folder / name)
    return os.path.relpath(real, folder) if real.startswith(os.path.join(folder, "")) else None  # noqa: PTH118 - a text with its slash


def opened(folder: Path, name: str) -> int:
    """Open the file *name* in *folder*, or its target there, for reading. Return the descriptor.

    Each part of the path is opened by itself and must not be a link. Someone may swap a part for a
    link meanwhile. That gives an error, never a file outside.
    """
    try:
        return _walked(folder, name)
    except OSError as error:
        if error.errno not in (errno.ELOOP, errno.ENOTDIR):
            raise
    target = target_of(folder, name)
    if target is None:
        raise OSError(errno.ELOOP, "leads outside")
    return _walked(folder, target)


def _walked(folder: Path, name: str) -> int:
    *parts, last = name.split("/")
    handle = os.open(folder, os.O_RDONLY | _FOLDER)
    try:
        for part in parts:
            inner = os.open(part, _OPEN | _FOLDER, dir_fd=handle)
            os.close(handle)
            handle = inner
        return os.open(last, _OPEN | _NO_WAIT, dir_fd=handle)
    finally:
        os.close(handle)


def is_sayable(name: str) -> bool:
    """Whether an event can carry *name* and bring it back: UTF-8, and no backslash."""
    if "\\" in name:
        return False
    try:
        name.encode()
    except UnicodeEncodeError:  # bytes that are not UTF-8
        return False
    return True
