"""The write-ahead log as a file: its handle, its length, and how much of it is in use.

SQLite writes over the log from its beginning once all of it is in the database. So the size of the
file says little. A header tells the present generation by two numbers, the salts. Each frame
repeats them (https://www.sqlite.org/fileformat2.html#the_write_ahead_log).
"""

from __future__ import annotations

from mltrigger.errors import StoreError
from mltrigger.store.sqlite.disk import Disk

PRESIZED = 4 * 1024 * 1024
"""The log has at least this length, once it grows. A commit that makes a file longer costs more."""
HEADER = 32
_FRAME_HEADER = 24
_SALTS = slice(16, 24)
_SALTS_OF_FRAME = slice(8, 16)
_USUAL_PAGE = 4096


class Wal:
    """The log beside the database at *location*. Open only while a connection keeps it there."""

    def __init__(self, disk: Disk, location: str) -> None:
        self._disk, self._location = disk, location
        self._handle: int | None = None
        self._page = _USUAL_PAGE

    def open(self) -> None:
        """Open the file. A transaction has begun, so it exists."""
        if self._handle is None:
            self._handle = self._disk.open_log(self._location)

    def close(self) -> None:
        """Close the file. Idempotent."""
        handle, self._handle = self._handle, None
        if handle is not None:
            self._disk.close_log(handle)

    def sync(self) -> None:
        """Return when all that was written to the log has reached the disk."""
        self._disk.sync(self._opened())

    def size(self) -> int:
        """Return the length of the file in bytes."""
        return self._disk.size(self._opened())

    def presize(self) -> None:
        """Write zeros behind its end, up to the usual length.

        The write lock is held, or the zeros might fall on a commit of another process.
        """
        self._disk.zeros(self._opened(), PRESIZED)

    def salts(self) -> bytes:
        """Return the salts of the present generation. Empty without a header."""
        header = self._disk.read(self._opened(), HEADER, 0)
        if len(header) < HEADER:
            return b""
        self._page = int.from_bytes(header[8:12], "big") or _USUAL_PAGE
        return header[_SALTS]

    def reaches(self, frame: int, salts: bytes) -> bool:
        """Whether the generation with these *salts* has a frame of that number, from 1 on."""
        at = HEADER + (frame - 1) * (self._page + _FRAME_HEADER)
        found = self._disk.read(self._opened(), _FRAME_HEADER, at)
        return len(found) == _FRAME_HEADER and found[_SALTS_OF_FRAME] == salts

    def frames_in(self, size: int) -> int:
        """Return how many frames a log of *size* bytes holds."""
        return max(1, (size - HEADER) // (self._page + _FRAME_HEADER))

    def _opened(self) -> int:
        if self._handle is None:
            raise StoreError("the write-ahead log is closed")
        return self._handle
