"""Objects of a bucket as files: the announced version, read on demand.

An event can only open objects of its own source.
"""

from __future__ import annotations

import functools
import io
import sys
from typing import Any, BinaryIO

from mltrigger.aws.faults import MISSING, code_of, explained
from mltrigger.aws.naming import S3Source
from mltrigger.errors import InvalidEvent, ObjectMissing
from mltrigger.event.event import Event
from mltrigger.event.making import with_opener
from mltrigger.text import short

_BUFFER = 1 << 20
_GONE = MISSING | {"NoSuchVersion", "MethodNotAllowed"}


class BucketSource:
    """The objects that events of one S3 source announce.

    Parameters
    ----------
    clients : Clients
        S3.
    source : S3Source
        Bucket and pattern. Other events open nothing.
    max_bytes : int
        The largest object that is opened, in bytes.
    """

    def __init__(self, clients: Any, source: S3Source, max_bytes: int) -> None:
        self._clients, self._source, self._max_bytes = clients, source, max_bytes

    def prepare(self, event: Event) -> Event:
        """Return *event* with :meth:`~mltrigger.event.event.Event.open` bound to its object."""
        return with_opener(event, functools.partial(self.open, event))

    def open(self, event: Event) -> BinaryIO:
        """Open the object of *event*, seekable and read on demand.

        It is the version that the event names, else the current one.

        Raises
        ------
        ObjectMissing
            It does not exist (any more).
        InvalidEvent
            ``nothing_to_open`` if the event announces no object of this source,
            ``object_too_large`` if it is beyond the limit.
        AwsError
            S3 refuses or does not answer.
        """
        data = event.data if isinstance(event.data, dict) else {}
        key, version = data.get("key"), data.get("version_id")
        if (
            not isinstance(key, str)
            or data.get("bucket") != self._source.bucket
            or not self._source.matches(key)
        ):
            raise InvalidEvent(
                f"event {short(event.subject)} announces no object of {self._source.url}",
                "nothing_to_open",
            )
        which = {
            "Bucket": self._source.bucket,
            "Key": key,
            **({"VersionId": version} if isinstance(version, str) and version else {}),
        }
        try:
            found = self._clients.s3.head_object(**which)
        except Exception as error:
            raise self._problem(error, key) from error
        size = int(found["ContentLength"])
        if size > self._max_bytes:
            limit = f"max_object_mb is {self._max_bytes >> 20:,} ({self._max_bytes:,} bytes)"
            raise InvalidEvent(
                f"object {short(key)} has {size:,} bytes; {limit}: raise it for this subscription",
                "object_too_large",
            )
        if (
            "VersionId" not in which
            and (etag := data.get("etag"))
            and etag != found["ETag"].strip('"')
        ):
            # Into the printed output of the attempt, which the record of the invocation keeps.
            print(  # noqa: T201
                f"etag_mismatch: object {short(key)} was replaced after the event; this is the"
                " new one",
                file=sys.stdout,
            )
        read = functools.partial(self._read, {**which, "IfMatch": found["ETag"]}, key)
        return io.BufferedReader(_Object(read, size), _BUFFER)

    def _read(self, which: dict[str, str], key: str, first: int) -> Any:
        """Return a stream of the object from byte *first* on."""
        try:
            return self._clients.s3.get_object(**which, Range=f"bytes={first}-")["Body"]
        except Exception as error:
            raise self._problem(error, key) from error

    def _problem(self, error: Exception, key: str) -> Exception:
        if code_of(error) in _GONE:
            return ObjectMissing(
                2, f"no such object: {short(key)} in bucket {self._source.bucket!r}"
            )
        if code_of(error) in ("PreconditionFailed", "412"):
            return ObjectMissing(
                2,
                f"object {short(key)} was replaced while it was read; the next attempt reads the"
                " new one",
            )
        return explained(error, "s3:GetObject", self._source.bucket)


class _Object(io.RawIOBase):
    """An object as a raw stream. Reading in order is one request. A jump starts another one."""

    def __init__(self, read: Any, size: int) -> None:
        super().__init__()
        self._open_at, self._size = read, size
        self._place = 0
        self._stream: Any = None

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._place

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        place = offset + {io.SEEK_SET: 0, io.SEEK_CUR: self._place, io.SEEK_END: self._size}[whence]
        if place < 0:
            raise ValueError(f"negative place {place}")
        if place != self._place:
            self._place = place
            self._drop()
        return self._place

    def readinto(self, buffer: Any) -> int:
        if self._place >= self._size:
            return 0
        if self._stream is None:
            self._stream = self._open_at(self._place)
        data = self._stream.read(len(buffer))
        buffer[: len(data)] = data
        self._place += len(data)
        return len(data)

    def close(self) -> None:
        self._drop()
        super().close()

    def _drop(self) -> None:
        if self._stream is not None:
            self._stream.close()
            self._stream = None
