"""Whatever bytes come in, the server goes on, and blames nobody but who sent them."""

from __future__ import annotations

import contextlib
import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from typing import TypeAlias

import grpc
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tests.messages import messages
from tests.processes import memory_mib
from tests.tamiyo.networks import Network
from tests.tamiyo.queries import query

from leyline.v1.decision_pb2 import DecisionQuery
from leyline.v1.policy_pb2 import DecideRequest, StreamDecisionsRequest, StreamDecisionsResponse
from tamiyo.cache import ArtifactCache

# Generic only in the stubs.
Unary: TypeAlias = "grpc.UnaryUnaryMultiCallable[bytes, bytes]"
Stream: TypeAlias = "grpc.StreamStreamMultiCallable[bytes, bytes]"
INPUTS = int(os.environ.get("LEYLINE_FUZZ_INPUTS", "1500"))
"""Of each kind and policy; `make fuzz-tamiyo` sends 100,000 in all."""
SERVICE = "/leyline.v1.PolicyService"
PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
"""What an HTTP/2 connection begins with (RFC 9113, section 3.4)."""
MOST_GROWTH_MIB = 16.0
OURS_TO_BLAME = {grpc.StatusCode.INTERNAL, grpc.StatusCode.UNKNOWN, grpc.StatusCode.DATA_LOSS}

queries = st.builds(query, st.integers(0, 3), episode=st.integers(0, 3), slots=st.integers(1, 5))


def overlaid(asked: DecisionQuery, other: DecisionQuery) -> DecisionQuery:
    """Set in a valid query what another one says."""
    asked.MergeFrom(other)
    return asked


def damaged(asked: DecisionQuery, place: int, cut: int, junk: bytes) -> bytes:
    """Put junk in the place of a piece of a message."""
    whole = DecideRequest(query=asked).SerializeToString()
    place %= len(whole) + 1
    return whole[:place] + junk + whole[place + cut :]


# Both requests have the query alone, in the same field: what is sent to one can be sent to both.
requests = st.one_of(
    messages(DecideRequest).map(DecideRequest.SerializeToString),
    st.builds(overlaid, queries, messages(DecisionQuery)).map(
        lambda asked: DecideRequest(query=asked).SerializeToString()
    ),
    st.builds(damaged, queries, st.integers(0, 5000), st.integers(0, 50), st.binary(max_size=50)),
    st.binary(max_size=200),
)


def outcome(call: Callable[[], list[bytes]]) -> tuple[list[bytes], grpc.StatusCode]:
    """Give what a call answered, and its status."""
    try:
        return call(), grpc.StatusCode.OK
    except grpc.RpcError as error:
        return [], error.code()


class Server:
    """A Tamiyo in a process of its own."""

    def __init__(self, process: subprocess.Popen[bytes], address: str) -> None:
        self.process = process
        self.address = address

    def bombard(self, strategy: st.SearchStrategy[bytes], send: Callable[[bytes], None]) -> None:
        """Send inputs; the server must be the same afterwards, and no larger than soon after."""
        sent, early = 0, 0.0

        @settings(
            max_examples=INPUTS,
            database=None,
            deadline=None,
            suppress_health_check=list(HealthCheck),
        )
        @given(strategy)
        def each(data: bytes) -> None:
            nonlocal sent, early
            send(data)
            sent += 1
            if sent == INPUTS // 3:
                early = memory_mib(self.process.pid)

        each()
        assert self.process.poll() is None
        with grpc.insecure_channel(self.address) as channel:
            decide: Unary = channel.unary_unary(f"{SERVICE}/Decide")
            decide(DecideRequest(query=query()).SerializeToString(), timeout=10)
        growth = memory_mib(self.process.pid) - early
        print(f"\n{sent} inputs; {early:.1f} MiB after a third of them, {growth:+.1f} MiB since")
        assert growth < MOST_GROWTH_MIB


@pytest.fixture(scope="module", params=["heuristic", "learned"])
def server(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Server]:
    """Serve a policy; nobody is at the registry."""
    folder = tmp_path_factory.mktemp("tamiyo")
    if request.param == "learned":
        version = Network(seed=1).version()
        cache = ArtifactCache(folder / "state", 1)
        cache.write(version.manifest, version.data, set())
        cache.remember_active(version.name)
    port_file = folder / "address"
    flags = ["--listen", "127.0.0.1:0", "--port-file", str(port_file)]
    flags += ["--registry", f"unix:{folder}/nobody", "--state-dir", str(folder / "state")]
    command = [sys.executable, "-m", "tamiyo.service", "--policy", request.param, *flags]
    with subprocess.Popen(command, stderr=subprocess.DEVNULL) as process:
        try:
            while not port_file.exists():
                assert process.poll() is None
                time.sleep(0.02)
            yield Server(process, port_file.read_text().strip())
        finally:
            process.kill()


@pytest.mark.timeout(3600)
def test_any_request_gets_an_answer_or_is_told_what_is_wrong_with_it(server: Server) -> None:
    with grpc.insecure_channel(server.address) as channel:
        decide: Unary = channel.unary_unary(f"{SERVICE}/Decide")

        def send(data: bytes) -> None:
            _, code = outcome(lambda: [decide(data, timeout=30)])
            assert code not in OURS_TO_BLAME

        server.bombard(requests, send)


@pytest.mark.timeout(3600)
def test_any_request_on_a_stream_gets_an_answer_or_is_told_what_is_wrong_with_it(
    server: Server,
) -> None:
    after = StreamDecisionsRequest(query=query()).SerializeToString()
    with grpc.insecure_channel(server.address) as channel:
        stream: Stream = channel.stream_stream(f"{SERVICE}/StreamDecisions")

        def send(data: bytes) -> None:
            answers, code = outcome(lambda: list(stream(iter([data, after]), timeout=30)))
            if code is grpc.StatusCode.INVALID_ARGUMENT:
                return
            assert code is grpc.StatusCode.OK
            first, second = map(StreamDecisionsResponse.FromString, answers)
            assert second.HasField("decision"), second
            if not first.HasField("decision"):
                assert first.error.code not in {code.value[0] for code in OURS_TO_BLAME}, first

        server.bombard(requests, send)


@pytest.mark.timeout(3600)
def test_any_bytes_on_the_port_end_their_own_connection_at_most(server: Server) -> None:
    host, _, port = server.address.rpartition(":")

    def send(data: bytes) -> None:
        connection = socket.create_connection((host, int(port)), timeout=30)
        with connection, contextlib.suppress(ConnectionError):
            connection.sendall(data)
            connection.shutdown(socket.SHUT_WR)

    junk = st.binary(max_size=500)
    server.bombard(junk | junk.map(lambda data: PREFACE + data), send)
