"""What gRPC's two ends must agree on: message size and keepalive, as one pair.

A client that pings more often than its server allows is sent away (GOAWAY, too_many_pings), so
neither side's numbers stand without the other's. The server allows a ping every five seconds; ours
ping at most every ten, which is also the least that gRPC for Go can be set to.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

Options = list[tuple[str, int | str]]

DEFAULT_MESSAGE_BYTES: Final = 4 * 1024 * 1024
LEAST_KEEPALIVE_S: Final = 10.0
_LEAST_PING_INTERVAL_S: Final = 5.0


@dataclass(frozen=True)
class Transport:
    """The shared part.

    Attributes:
        max_message_bytes: the largest message that either side takes.
        keepalive_s: silence after which a side asks whether the other is there; at least 10.
        keepalive_timeout_s: how long it waits for the answer before it closes the connection.
    """

    max_message_bytes: int = DEFAULT_MESSAGE_BYTES
    keepalive_s: float = 30.0
    keepalive_timeout_s: float = 10.0

    def _shared_options(self) -> Options:
        return [
            ("grpc.max_receive_message_length", self.max_message_bytes),
            ("grpc.max_send_message_length", self.max_message_bytes),
            ("grpc.keepalive_time_ms", _ms(self.keepalive_s)),
            ("grpc.keepalive_timeout_ms", _ms(self.keepalive_timeout_s)),
            # A stream that waits for a whole training interval is silent, not dead.
            ("grpc.keepalive_permit_without_calls", 1),
            ("grpc.http2.max_pings_without_data", 0),
        ]

    def server_options(
        self, max_connection_age_s: float, age_grace_s: float, max_streams: int
    ) -> Options:
        """Give a server's options.

        Args:
            max_connection_age_s: age at which a connection takes no new calls, so that clients
                meet new replicas: a stream never moves by itself.
            age_grace_s: how long its open calls may go on after that.
            max_streams: calls that one connection may have open; further ones wait at the client.
        """
        return [
            *self._shared_options(),
            ("grpc.http2.min_ping_interval_without_data_ms", _ms(_LEAST_PING_INTERVAL_S)),
            ("grpc.max_connection_age_ms", _ms(max_connection_age_s)),
            ("grpc.max_connection_age_grace_ms", _ms(age_grace_s)),
            ("grpc.max_concurrent_streams", max_streams),
            # Two servers on one port would share its calls at random instead of failing.
            ("grpc.so_reuseport", 0),
        ]

    def channel_options(self) -> Options:
        """Give a client channel's options."""
        return [
            *self._shared_options(),
            # gRPC's own backoff goes to two minutes: a neighbour that is back must be met at once.
            ("grpc.initial_reconnect_backoff_ms", 100),
            ("grpc.min_reconnect_backoff_ms", 1000),
            ("grpc.max_reconnect_backoff_ms", 2000),
            ("grpc.service_config", '{"loadBalancingConfig": [{"round_robin": {}}]}'),
        ]


def _ms(seconds: float) -> int:
    return int(seconds * 1000)
