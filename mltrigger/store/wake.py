"""Wake-ups: waiters for events or outcomes hear of them at once, in all processes of a machine."""

from __future__ import annotations

import contextlib
import hashlib
import os
import secrets
import socket
import stat
import tempfile
import threading
from collections.abc import Iterable
from pathlib import Path

_DATAGRAM = 2048
"""What one datagram holds at most. macOS takes no more."""
_EVERYBODY = "*"


class _Slot:
    """The wake-ups of one key, or of one group of keys."""

    def __init__(self) -> None:
        self.condition = threading.Condition()
        self.count = 0
        self.groups: list[_Slot] = []
        self.waiters = 0
        self.waiting: set[_Slot] = set()
        """Of a group: its keys that somebody waits for now. A wake-up costs nothing for others."""

    def generation(self) -> int:
        return self.count + sum(group.count for group in self.groups)

    def wait(self, seen: int, timeout_s: float) -> bool:
        with self.condition:
            self._counted(1)
            try:
                return self.condition.wait_for(lambda: self.generation() != seen, timeout_s)
            finally:
                self._counted(-1)

    def join(self, group: _Slot) -> None:
        with self.condition:
            if group not in self.groups:
                self.groups.append(group)
                self._counted(0)

    def notify(self) -> None:
        # Count first: a key that begins to wait meanwhile sees the count or is in the list.
        with self.condition:
            self.count += 1
            self.condition.notify_all()
        for slot in list(self.waiting):
            with slot.condition:
                slot.condition.notify_all()

    def _counted(self, change: int) -> None:
        self.waiters += change
        for group in self.groups:
            if self.waiters:
                group.waiting.add(self)
            else:
                group.waiting.discard(self)


class Wakeup:
    """Wake-ups within one process.

    A key names an event to wait for, such as ``ready:3`` or ``done``.
    """

    poll_s = 1.0
    """The longest wait until the next look. Wake-ups may be lost, looks are promised."""

    def __init__(self) -> None:
        self._guard = threading.Lock()
        self._keys: dict[str, _Slot] = {}

    def generation(self, key: str) -> int:
        """Return a number that rises with every wake-up of *key*.

        Take it before looking, and pass it to :meth:`wait` afterwards.
        """
        return self._slot(key).generation()

    def join(self, key: str, group: str) -> None:
        """Let each wake-up of *group* wake the waiters of *key* too. Safe to repeat.

        A sender names one group instead of a thousand keys. Each process joins the keys that it
        waits for itself.
        """
        self._slot(key).join(self._slot(group))

    def wait(self, key: str, seen: int, timeout_s: float) -> bool:
        """Wait at most *timeout_s* for a wake-up of *key* since *seen*. Return whether it came."""
        return self._slot(key).wait(seen, timeout_s)

    def notify(self, keys: Iterable[str]) -> None:
        """Wake all waiters of *keys*, in any process. Never blocks or raises."""
        for key in keys:
            self.notify_here(key)

    def notify_here(self, key: str) -> None:
        """Wake the waiters of *key*, a key or a group, in this process."""
        self._slot(key).notify()

    def close(self) -> None:
        """Wake everybody, for good."""
        self._wake_all()

    def _wake_all(self) -> None:
        for slot in list(self._keys.values()):
            slot.notify()

    def _slot(self, key: str) -> _Slot:
        slot = self._keys.get(key)
        if slot is None:
            with self._guard:
                slot = self._keys.setdefault(key, _Slot())
        return slot


class SocketWakeup(Wakeup):
    """Wake-ups across the processes of one machine: datagrams to sockets in a private folder.

    Parameters
    ----------
    location : str
        The path of the store. Processes with the same path wake each other.
    """

    def __init__(self, location: str) -> None:
        super().__init__()
        self._folder = _folder(location)
        self._socket: socket.socket | None = None
        self._path: Path | None = None
        self._listed: tuple[int, list[str]] = (-1, [])
        self._pid = os.getpid()
        self._sender = _datagram_socket()
        if self._folder is None or self._sender is None:
            self.poll_s = 0.05  # without such sockets: look more often

    def wait(self, key: str, seen: int, timeout_s: float) -> bool:
        """Wait as :meth:`Wakeup.wait`. The first wait opens the socket of this process."""
        self._listen()
        return super().wait(key, seen, timeout_s)

    def generation(self, key: str) -> int:
        """Return as :meth:`Wakeup.generation`."""
        self._listen()
        return super().generation(key)

    def notify(self, keys: Iterable[str]) -> None:
        """Wake the waiters of *keys* in this and the other processes."""
        keys = list(keys)
        super().notify(keys)
        if self._folder is None or self._sender is None or not keys:
            return
        message = " ".join(keys).encode()
        if len(message) > _DATAGRAM:
            # Several datagrams may be lost in part. One that wakes too many costs them a look.
            message = _EVERYBODY.encode()
        with contextlib.suppress(OSError):
            for path in self._others(self._folder):
                self._send(message, path)

    def close(self) -> None:
        """Wake everybody and remove the socket of this process."""
        super().close()
        if os.getpid() != self._pid:
            return  # a copy made by fork: the socket is the parent's
        if self._path is not None:
            self._path.unlink(missing_ok=True)
        for end in (self._socket, self._sender):
            if end is not None:
                with contextlib.suppress(OSError):
                    end.shutdown(socket.SHUT_RDWR)
                end.close()

    def _others(self, folder: Path) -> list[str]:
        """Return the sockets of the other processes. Read again when the folder has changed."""
        changed_ns = os.stat(folder).st_mtime_ns  # noqa: PTH116 - at every commit
        if changed_ns != self._listed[0]:
            own = self._path.name if self._path is not None else None
            self._listed = (
                changed_ns,
                [str(folder / name) for name in os.listdir(folder) if name != own],  # noqa: PTH208
            )
        return self._listed[1]

    def _send(self, message: bytes, path: str) -> None:
        try:
            assert self._sender is not None  # noqa: S101 - for the type checker
            self._sender.sendto(message, socket.MSG_DONTWAIT, path)
        except ConnectionRefusedError:
            Path(path).unlink(missing_ok=True)  # left by a dead process
        except OSError:
            return  # its buffer is full, so it has enough to wake up for

    def _listen(self) -> None:
        if self._socket is not None or self._folder is None or self._sender is None:
            return
        with self._guard:
            if self._socket is not None:
                return
            try:
                own = _datagram_socket()
            except OSError:
                return  # no file handle is free: the next wait tries again
            path = self._folder / f"{os.getpid()}-{secrets.token_hex(4)}"
            try:
                assert own is not None  # noqa: S101
                own.bind(str(path))
                path.chmod(0o600)
            except OSError:
                if own is not None:
                    own.close()
                self._folder, self.poll_s = None, 0.05
                return
            hears = threading.Thread(
                target=self._hear, args=(own,), name="mltrigger-wakeup", daemon=True
            )
            try:
                hears.start()
            except RuntimeError:  # no thread can be started: as above
                own.close()
                path.unlink(missing_ok=True)
                return
            self._socket, self._path = own, path

    def _hear(self, own: socket.socket) -> None:
        while True:
            try:
                message = own.recv(_DATAGRAM)
            except OSError:
                return
            if not message:
                return  # shut down
            for key in message.decode(errors="replace").split():
                if key == _EVERYBODY:
                    self._wake_all()
                elif key in self._keys:  # else nobody waits for it here
                    self.notify_here(key)


def _datagram_socket() -> socket.socket | None:
    family = getattr(socket, "AF_UNIX", None)
    return None if family is None else socket.socket(family, socket.SOCK_DGRAM)


def _folder(location: str) -> Path | None:
    """Return the private folder of the sockets of the store at *location*.

    ``None`` when it cannot be made or trusted.
    """
    if not hasattr(os, "getuid"):
        return None
    base = Path(tempfile.gettempdir()) / f"mltrigger-{os.getuid()}"
    folder = base / hashlib.blake2b(location.encode(), digest_size=8).hexdigest()
    try:
        for path in (base, folder):
            path.mkdir(mode=0o700, exist_ok=True)
            status = path.lstat()
            if (
                not stat.S_ISDIR(status.st_mode)
                or status.st_uid != os.getuid()
                or status.st_mode & 0o077
            ):
                return None  # another process made it first
    except OSError:
        return None
    return folder
