"""Frames between a worker and the writer process: a length, then ``marshal`` of plain values.

That is safe between processes of one user: the socket lies in the data folder, readable by its owner alone.
"""

from __future__ import annotations

import marshal
import socket
import struct
from typing import Any

_LENGTH = struct.Struct("!I")
_CHUNK = 1 << 18


class Stream:
    """Frames of one connection, both ways, without ever blocking."""

    def __init__(self, connection: socket.socket) -> None:
        connection.setblocking(False)
        self.socket = connection
        self._part = memoryview(bytearray(_CHUNK))  # kept: a new one of this size costs more than what is read into it
        self._inbox = bytearray()
        self.outbox = bytearray()

    def receive(self) -> list[Any] | None:
        """Frames that have arrived whole; None when the other side has gone."""
        try:
            n = self.socket.recv_into(self._part)
        except BlockingIOError:
            return []
        except OSError:
            return None
        if not n:
            return None
        self._inbox += self._part[:n]
        frames: list[Any] = []
        at = 0
        while len(self._inbox) - at >= _LENGTH.size:
            (size,) = _LENGTH.unpack_from(self._inbox, at)
            end = at + _LENGTH.size + size
            if len(self._inbox) < end:
                break
            frames.append(marshal.loads(memoryview(self._inbox)[at + _LENGTH.size : end]))
            at = end
        del self._inbox[:at]
        return frames

    def send(self, frame: Any) -> bool:
        """Send a frame, or keep what does not fit now; False when the other side has gone."""
        content = marshal.dumps(frame)
        content = _LENGTH.pack(len(content)) + content
        if self.outbox:
            self.outbox += content
            return self.flush()
        try:
            n = self.socket.send(content)
        except BlockingIOError:
            n = 0
        except OSError:
            return False
        self.outbox += content[n:]
        return True

    def flush(self) -> bool:
        """Send what was kept; False when the other side has gone."""
        while self.outbox:
            try:
                n = self.socket.send(self.outbox)
            except BlockingIOError:
                return True
            except OSError:
                return False
            del self.outbox[:n]
        return True
