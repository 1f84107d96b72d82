"""The files of a program: their content, and whether it has changed."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from mltrigger.errors import InvalidModel
from mltrigger.versions.schemes.failures import unavailable

if TYPE_CHECKING:
    from mltrigger.versions.schemes.command.line import CommandLine

MAX_FILE_BYTES = 64 * 1024 * 1024
"""Of a larger file only the size counts, since it is read whenever a worker starts."""


class FilesOfVersion:
    """The files of a version, as they were when its endpoint was opened."""

    def __init__(self, line: CommandLine) -> None:
        self._line = line
        # The stamp before the content: a file that is written meanwhile is read again.
        self._known = {path: (_stamp(path), _digest_or_none(path)) for path in line.paths()}

    def check(self) -> None:
        """Raise ModelFailure when their content has changed. A new date alone is no change."""
        changed = []
        for path, (stamp, digest) in self._known.items():
            if (now := _stamp(path)) == stamp:
                continue
            if now is not None and _digest_or_none(path) == digest:
                self._known[path] = (now, digest)
            else:
                changed.append(path.name)
        if changed and not self._line.program_is_gone():  # the start tells this better
            raise unavailable(
                f"the program {self._line.program!r}: {', '.join(changed)[:200]} has changed since"
                " the version was registered; register it under a new version, or name with"
                " files=[…] the files that belong to it",
                "Changed",
            )


def is_file(path: Path) -> bool:
    """Whether *path* is a file. A text that cannot be a path is none."""
    try:
        return path.is_file()
    except (OSError, ValueError):
        return False


def names_in(folder: Path) -> Sequence[str]:
    """Return the names in *folder*, none if it cannot be read."""
    try:
        return [path.name for path in folder.iterdir()]
    except OSError:
        return ()


def digest(path: Path) -> str:
    """Return the SHA-256 of the file, or the size of a very large one."""
    try:
        size = path.stat().st_size
        if size > MAX_FILE_BYTES:
            return f"{size} bytes"
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise InvalidModel(f"{path.name!r} cannot be read: {error.strerror}") from error


def _digest_or_none(path: Path) -> str | None:
    try:
        return digest(path)
    except InvalidModel:
        return None


def _stamp(path: Path) -> tuple[int, int] | None:
    """Return the time of the last write, in nanoseconds, and the size. ``None`` without a file."""
    try:
        status = path.stat()
    except OSError:
        return None
    return status.st_mtime_ns, status.st_size
