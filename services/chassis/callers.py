"""How much one caller may ask of a server, so that one of them cannot keep all others out."""

from __future__ import annotations

import ipaddress
import time
import urllib.parse
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from functools import lru_cache
from typing import Final

from chassis.errors import ErrorCode, LeylineError

BURST_S: Final = 2.0
"""A caller that was silent may ask for so much time's calls at once, and always for one."""
STRANGERS_WATCHES: Final = 32
"""Watches of health that callers without a token may have open, all of them together."""
_STRANGERS: Final = "everybody without a token"
_FORGETTING: Final = 1024
_IPV6_NETWORK: Final = 64


class CallerLimits:
    """Counts calls: how many are open, and of each caller how many, and how fast they come.

    The rate is held by the generic cell rate algorithm (ITU-T I.371): of each caller only the time
    is kept at which the calls so far would have been due.
    """

    def __init__(
        self,
        calls_per_s: float,
        open_calls: int,
        all_open_calls: int,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Limit nobody yet.

        Args:
            calls_per_s: of one caller, on average; 0: any number.
            open_calls: of one caller at once.
            all_open_calls: of all callers at once. grpc.aio's own limit cannot say when to try
                again, and rises with every call that it refuses (by its code of 1.74).
            clock: seconds from whenever.
        """
        self._interval = 1 / calls_per_s if calls_per_s else 0.0
        self._burst = max(BURST_S, self._interval)
        self._calls_per_s = calls_per_s
        self._open_calls = open_calls
        self._all_open_calls = all_open_calls
        self._clock = clock
        self._due: dict[str, float] = {}
        self._forget_beyond = _FORGETTING
        self._open: dict[str, int] = {}
        self._all_open = 0

    @contextmanager
    def call(self, caller: str) -> Iterator[None]:
        """A call, which is open while the block is.

        Raises:
            LeylineError: TOO_MANY_CALLS, CALLER_TOO_FAST, or TOO_MANY_CALLS_OF_CALLER.
        """
        if self._all_open >= self._all_open_calls:
            raise LeylineError(ErrorCode.TOO_MANY_CALLS, limit=self._all_open_calls)
        self._count(caller)
        with self._one_more(caller, self._open_calls):
            self._all_open += 1
            try:
                yield
            finally:
                self._all_open -= 1

    def strangers_watch(self) -> AbstractContextManager[None]:
        """A watch of health by somebody without a token: it takes no place from those who have one.

        Raises:
            LeylineError: TOO_MANY_CALLS_OF_CALLER.
        """
        return self._one_more(_STRANGERS, STRANGERS_WATCHES)

    @contextmanager
    def _one_more(self, caller: str, limit: int) -> Iterator[None]:
        if self._open.get(caller, 0) >= limit:
            raise LeylineError(ErrorCode.TOO_MANY_CALLS_OF_CALLER, caller=caller, limit=limit)
        self._open[caller] = self._open.get(caller, 0) + 1
        try:
            yield
        finally:
            self._open[caller] -= 1
            if not self._open[caller]:
                del self._open[caller]

    def _count(self, caller: str) -> None:
        if not self._interval:
            return
        now = self._clock()
        ahead = max(self._due.get(caller, now) - now, 0.0) + self._interval
        if ahead > self._burst:
            raise LeylineError(
                ErrorCode.CALLER_TOO_FAST, caller=caller, limit=f"{self._calls_per_s:g}"
            )
        self._due[caller] = now + ahead
        if len(self._due) > self._forget_beyond:
            # Whoever is due nothing is as one who never called. Of the others there may be many:
            # to look at all of them is left until there are twice as many.
            self._due = {name: due for name, due in self._due.items() if due > now}
            self._forget_beyond = max(_FORGETTING, 2 * len(self._due))


def host_of(peer: str) -> str:
    """Where a call comes from: the address, without the port, of a gRPC peer."""
    if not peer.startswith(("ipv4:", "ipv6:")):
        return peer
    host = peer[len("ipv4:") :].rpartition(":")[0]
    return urllib.parse.unquote(host).strip("[]")


@lru_cache(maxsize=4096)
def network_of(host: str) -> str:
    """Who calls where nobody says who he is: as much of the address as one cannot easily choose.

    That is an IPv4 address; of an IPv6 address the first 64 bits, since the others are its owner's
    to choose (RFC 4291, section 2.5.4); and all of loopback together.
    """
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        # A Unix socket.
        return host
    if isinstance(address, ipaddress.IPv6Address):
        address = address.ipv4_mapped or address
    if address.is_loopback:
        return "this machine"
    if isinstance(address, ipaddress.IPv6Address):
        return str(ipaddress.IPv6Network((int(address), _IPV6_NETWORK), strict=False))
    return str(address)
