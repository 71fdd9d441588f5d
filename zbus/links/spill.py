"""The spill file: where events wait on disk while the other side is down, in the order in which they came.

    offset 0    `zbspill1`
    offset 8    8 bytes: up to where the other side has taken what is here
    offset 16   packets: 4 bytes length, then JSON `[subject, headers, events]`, a NUL, and the body

What is written survives the end of the link, also by SIGKILL, because the kernel has it. It is not synced to
the disk, so it does not survive the end of the machine. Once all of it is taken, the file shrinks again.
"""

from __future__ import annotations

import fcntl
import os

import orjson

from ..errors import Unavailable
from .packet import Packet

__all__ = ["Spill"]

_MAGIC = b"zbspill1"
_HEAD = 16
_LENGTH = 4
_MOST = 64 * 1024 * 1024  # no packet is larger


class Spill:
    """A spill file, for one link at a time.

    Attributes:
        events: how many events wait in it that were not read yet.
    """

    def __init__(self, path: str, limit: int) -> None:
        """Open the file, or create it, with room for `limit` bytes. What an earlier link left comes first.

        Raises:
            Unavailable: it cannot be opened, another link uses it, or it is another kind of file.
        """
        self._limit = limit
        try:
            self._fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise Unavailable(f"cannot open the spill file {path}: {error.strerror}", path=path) from error
        try:
            fcntl.flock(self._fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            self._check(path)
            self.events, self._read, self._end = 0, _HEAD, _HEAD
            self.rewind()
        except BaseException as error:
            os.close(self._fd)
            if isinstance(error, BlockingIOError):
                raise Unavailable(f"another link uses the spill file {path}", path=path) from error
            if isinstance(error, OSError):
                raise Unavailable(f"cannot use the spill file {path}: {error.strerror}", path=path) from error
            raise

    def _check(self, path: str) -> None:
        """Make a new file a spill file; leave a file of another kind as it is."""
        magic = os.pread(self._fd, len(_MAGIC), 0)
        if not _MAGIC.startswith(magic):
            raise Unavailable(
                f"{path} is no spill file, and nothing was written to it: name another", path=path
            )
        if len(magic) < len(_MAGIC):
            os.pwrite(self._fd, _MAGIC + _HEAD.to_bytes(8, "little"), 0)

    def _count(self) -> int:
        """Find the end of the last complete packet; return how many events there are up to it."""
        events = 0
        while (packet := self._packet_at(self._end)) is not None:
            events += packet.events
            self._end = packet.position
        os.ftruncate(self._fd, self._end)
        return events

    @property
    def unread(self) -> bool:
        """Whether there are packets that were not read yet."""
        return self._read < self._end

    def append(self, packet: Packet) -> bool:
        """Write a packet at the end; return whether there was room for it."""
        meta = orjson.dumps([packet.subject, packet.headers, packet.events])
        text = b"".join(
            ((len(meta) + 1 + len(packet.body)).to_bytes(_LENGTH, "little"), meta, b"\0", packet.body)
        )
        if self._end + len(text) > self._limit:
            return False
        try:
            written = os.pwrite(self._fd, text, self._end)
        except OSError:  # the disk is full
            written = 0
        if written != len(text):
            os.ftruncate(self._fd, self._end)
            return False
        self._end += len(text)
        self.events += packet.events
        return True

    def read(self) -> Packet | None:
        """Return the next packet; `None` if all were read."""
        packet = self._packet_at(self._read)
        if packet is not None:
            self._read = packet.position
            self.events -= packet.events
        return packet

    def taken(self, position: int | None) -> None:
        """Note that the other side has all packets up to this position; `None` for all that were read."""
        position = self._read if position is None else position
        if position == self._end:
            self._read = self._end = position = _HEAD
            os.ftruncate(self._fd, _HEAD)
        os.pwrite(self._fd, position.to_bytes(8, "little"), len(_MAGIC))

    def rewind(self) -> None:
        """Read again what the other side has not taken."""
        position = os.pread(self._fd, 8, len(_MAGIC))
        self._read = self._end = max(_HEAD, int.from_bytes(position, "little"))
        self.events = self._count()

    def close(self) -> None:
        """Close the file."""
        os.close(self._fd)

    def _packet_at(self, offset: int) -> Packet | None:
        head = os.pread(self._fd, _LENGTH, offset)
        size = int.from_bytes(head, "little")
        if len(head) < _LENGTH or size > _MOST:
            return None
        text = os.pread(self._fd, size, offset + _LENGTH)
        meta, separator, body = text.partition(b"\0")
        if len(text) < size or not separator:
            return None
        try:
            subject, headers, events = orjson.loads(meta)
        except ValueError:
            return None
        return Packet(subject, headers, body, events, offset, offset + _LENGTH + size)
