"""The identity of a file: whether two looks saw the same, and the id of its event."""

from __future__ import annotations

import hashlib
import os
from typing import Any, BinaryIO, NamedTuple

WHOLE_BYTES = 64 << 20
"""The largest file that is compared by its whole content, in bytes. A larger one is compared by
samples and its time of modification.
"""
_SAMPLES, _SAMPLE_BYTES = 64, 64 << 10
_CHUNK = 1 << 20


class Stamp(NamedTuple):
    """The status of a file in the file system, without its content."""

    size: int
    modified_ns: int
    changed_ns: int
    inode: int

    @classmethod
    def of(cls, found: os.stat_result) -> Stamp:
        """Return the parts of *found* that change when a file is written."""
        return cls(found.st_size, found.st_mtime_ns, found.st_ctime_ns, found.st_ino)


class Announced(NamedTuple):
    """The description of a file in its event.

    Events of older releases have size and time of modification only.
    """

    size: int
    modified_ns: int
    changed_ns: int | None
    inode: int | None
    etag: str | None

    @classmethod
    def of(cls, data: Any) -> Announced | None:
        """Return the description in the *data* of an event. ``None`` if it has none."""
        if not isinstance(data, dict):
            return None
        size, modified_ns, changed_ns, inode, etag = (data.get(name) for name in cls._fields)
        if not (isinstance(size, int) and isinstance(modified_ns, int)):
            return None
        return cls(
            size,
            modified_ns,
            changed_ns if isinstance(changed_ns, int) else None,
            inode if isinstance(inode, int) else None,
            etag if isinstance(etag, str) else None,
        )

    def is_surely(self, stamp: Stamp) -> bool:
        """Whether a file with *stamp* is the announced one, as far as *stamp* tells."""
        if self.changed_ns is None:
            return self[:2] == stamp[:2]
        return self[:4] == stamp

    def has_content_of(self, stamp: Stamp, etag: str | None) -> bool:
        """Whether a file with *stamp* and *etag* still has the announced content.

        A new mode, owner, link or time changes none.
        """
        if self.size != stamp.size:
            return False
        # nobody has looked inside: in the same inode, only a new time says that it was written to
        if self.etag is None or etag is None:
            return self.modified_ns == stamp.modified_ns and self.inode in (None, stamp.inode)
        return self.etag == etag


def etag_of(file: BinaryIO, stamp: Stamp) -> str:
    """Read *file* and return a digest of its content.

    For a large file: a digest of samples and of the time of modification.
    """
    digest = hashlib.blake2b(digest_size=16)
    if stamp.size <= WHOLE_BYTES:
        while chunk := file.read(_CHUNK):
            digest.update(chunk)
        return digest.hexdigest()
    digest.update(f"{stamp.size}\n{stamp.modified_ns}\n".encode())
    for number in range(_SAMPLES):
        file.seek((stamp.size - _SAMPLE_BYTES) * number // (_SAMPLES - 1))
        digest.update(file.read(_SAMPLE_BYTES))
    return digest.hexdigest()


def event_id(name: str, stamp: Stamp, etag: str | None) -> str:
    """Return the id of the event of a file. Every process gets the same."""
    # Without the inode: some network file systems number files anew for every machine.
    identity = f"{name}\n{stamp.size}\n{stamp.modified_ns}\n{stamp.changed_ns}\n{etag or ''}"
    return hashlib.blake2b(identity.encode(), digest_size=16).hexdigest()
