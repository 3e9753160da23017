"""Why an address cannot be listened on, asked of the kernel before gRPC tries.

gRPC itself says only that it failed, writes its own line to standard error, and would unlink the
Unix socket of a server that still runs.
"""

from __future__ import annotations

import errno
import socket
from pathlib import Path

from chassis.address import Address
from chassis.process import AddressInUse, StartupError


def bindable(address: Address) -> Address:
    """Give the address to hand to gRPC.

    gRPC binds whichever of a name's addresses it can get; half of localhost is no success.
    """
    return Address("127.0.0.1", address.port) if address.host == "localhost" else address


def refuse_unbindable(address: Address, remedy: str) -> None:
    """Bind the address for a moment.

    Args:
        address: where a server wants to listen.
        remedy: what the person who started it can do, for the message.

    Raises:
        AddressInUse: somebody listens there.
        StartupError: it cannot be bound for another reason, which the message has.
    """
    target = bindable(address)
    try:
        if target.path is not None:
            _try_socket(target.path)
        else:
            _try_port(target.host, target.port)
    except OSError as error:
        if error.errno == errno.EADDRINUSE:
            raise AddressInUse(
                f"{address} is in use by another process; stop it, or {remedy}"
            ) from None
        raise StartupError(f"cannot listen on {address}: {error.strerror}; {remedy}") from None


def _try_port(host: str, port: int) -> None:
    found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    for family, kind, protocol, _, name in found:
        with socket.socket(family, kind, protocol) as probe:
            # As gRPC does: connections of a server that has just ended are no obstacle.
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(name)


def _try_socket(path: Path) -> None:
    if path.is_socket():
        _refuse_living(path)
    elif path.exists():
        raise OSError(errno.EEXIST, "a file that is no socket has the name")
    else:
        with socket.socket(socket.AF_UNIX) as probe:
            probe.bind(str(path))
        path.unlink()


def _refuse_living(path: Path) -> None:
    """Tell a socket that somebody listens on from one that a dead process left."""
    with socket.socket(socket.AF_UNIX) as probe:
        try:
            probe.connect(str(path))
        except ConnectionRefusedError:
            return
    raise OSError(errno.EADDRINUSE, "somebody listens there")
