"""The floor: Redis commands over a bare socket, with as little Python as can be."""

from __future__ import annotations

import socket
from urllib.parse import urlsplit

BUFFER = 1 << 16


class RawRedis:
    """A connection that sends encoded commands and reads whole replies without looking into them."""

    def __init__(self, url: str) -> None:
        parts = urlsplit(url)
        self.socket = socket.create_connection((parts.hostname or "127.0.0.1", parts.port or 6379))
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def send(self, command: bytes) -> bytes:
        """Send one command; its reply, which must fit one read (short ones from the same machine do)."""
        self.socket.sendall(command)
        return self.socket.recv(BUFFER)

    def close(self) -> None:
        """Close the connection."""
        self.socket.close()


def encoded(*words: str | bytes | int) -> bytes:
    """A command in Redis' protocol."""
    parts = [word if isinstance(word, bytes) else str(word).encode() for word in words]
    return b"*%d\r\n" % len(parts) + b"".join(b"$%d\r\n%s\r\n" % (len(part), part) for part in parts)
