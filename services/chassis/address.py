"""Where a service listens: a host and port, or a Unix socket."""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass
from pathlib import Path

from leyline.channel import is_loopback

# sockaddr_un.sun_path on Linux, less its closing NUL.
_LONGEST_UNIX_PATH = 107


@dataclass(frozen=True)
class Address:
    """A listening address: ``host`` and ``port`` over TCP, or ``path`` of a Unix socket.

    Attributes:
        host: host name or IP address without brackets; empty for a Unix socket.
        port: 0 to 65535; 0 lets the kernel choose. 0 for a Unix socket.
        path: absolute path of the socket, or None over TCP.
    """

    host: str
    port: int
    path: Path | None = None

    @classmethod
    def parse(cls, text: str) -> Address:
        """Read ``host:port``, ``[ipv6]:port`` or ``unix:/absolute/path``.

        Raises:
            ValueError: the text is none of the three; the message says which part is wrong.
        """
        if text.startswith("unix:"):
            return cls._parse_unix(text)
        host, separator, port_text = text.rpartition(":")
        if not separator or not host:
            raise ValueError("must be HOST:PORT or unix:/absolute/path")
        if not port_text.isascii() or not port_text.isdigit() or int(port_text) > 65535:
            raise ValueError("the port must be a number from 0 to 65535")
        bracketed = host.startswith("[") and host.endswith("]")
        host = host[1:-1] if bracketed else host
        if ":" in host and not bracketed:
            raise ValueError("an IPv6 address stands in brackets: [::1]:50051")
        if bracketed:
            ipaddress.IPv6Address(host)
        return cls(host=host, port=int(port_text))

    @classmethod
    def _parse_unix(cls, text: str) -> Address:
        # RFC 3986 would have unix:///path; gRPC takes both spellings, so both are read.
        path_text = text.removeprefix("unix:")
        path = Path(path_text.removeprefix("//") if path_text.startswith("//") else path_text)
        if not path.is_absolute():
            raise ValueError("a Unix socket needs an absolute path: unix:/run/leyline.sock")
        if len(str(path).encode()) > _LONGEST_UNIX_PATH:
            raise ValueError(f"a Unix socket's path has at most {_LONGEST_UNIX_PATH} bytes")
        return cls(host="", port=0, path=path)

    @property
    def is_loopback(self) -> bool:
        """Whether only this machine can reach it: 127.0.0.0/8, ::1, localhost, a Unix socket."""
        return self.path is not None or is_loopback(self.host)

    def with_port(self, port: int) -> Address:
        """Give the same address with the port that the kernel chose."""
        return self if self.path is not None else Address(self.host, port)

    def __str__(self) -> str:
        """Write it as a gRPC target and as ``parse`` reads it."""
        if self.path is not None:
            return f"unix:{self.path}"
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"
