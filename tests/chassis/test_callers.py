"""One caller's limits: another is not held up by them, and a caller that waited is let in."""

from __future__ import annotations

import asyncio
from contextlib import ExitStack, suppress
from typing import Any

import grpc
import pytest
from hypothesis import given
from hypothesis import strategies as st

from chassis.callers import BURST_S, STRANGERS_WATCHES, CallerLimits, host_of, network_of
from chassis.errors import ErrorCode, LeylineError
from chassis.status import from_rpc_error
from leyline.v1 import registry_pb2, registry_pb2_grpc


class Clock:
    """Seconds, as a test says."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def admitted(limits: CallerLimits, caller: str) -> bool:
    with suppress(LeylineError), limits.call(caller):
        return True
    return False


@given(
    waits=st.lists(st.floats(0, 3), min_size=1, max_size=60),
    rate=st.sampled_from([0.1, 0.4, 0.5, 1.0, 10.0]),
)
def test_no_caller_is_let_begin_more_than_its_rate_and_one_burst(
    waits: list[float], rate: float
) -> None:
    clock = Clock()
    limits = CallerLimits(rate, 10, 10, clock)
    burst = max(BURST_S, 1 / rate)
    begun = []
    for wait in waits:
        clock.now += wait
        begun += [clock.now for _ in range(8) if admitted(limits, "one")]
    for first, start in enumerate(begun):
        for last in range(first, len(begun)):
            assert last - first + 1 <= rate * (begun[last] - start + burst) + 1e-6


def test_a_caller_that_asks_at_its_rate_is_never_refused_whatever_another_does() -> None:
    clock = Clock()
    limits = CallerLimits(10.0, 10, 10, clock)
    refused = 0
    for _ in range(100):
        clock.now += 0.1
        assert admitted(limits, "modest")
        refused += sum(not admitted(limits, "greedy") for _ in range(20))
    assert refused > 1000


def test_without_a_rate_every_call_is_let_in() -> None:
    limits = CallerLimits(0, 10, 10, Clock())
    assert all(admitted(limits, "one") for _ in range(10_000))


def test_callers_that_are_due_nothing_are_forgotten() -> None:
    clock = Clock()
    limits = CallerLimits(1.0, 10, 10, clock)
    for number in range(5000):
        clock.now += 1
        assert admitted(limits, str(number))
    assert len(limits._due) < 1100


@given(start=st.floats(0, 1e9), rate=st.floats(0.001, 0.5))
def test_a_caller_may_begin_one_call_whenever_it_is_due_however_low_the_rate(
    start: float, rate: float
) -> None:
    clock = Clock()
    clock.now = start
    limits = CallerLimits(rate, 10, 10, clock)
    assert admitted(limits, "slow")
    clock.now += 0.9 / rate
    assert not admitted(limits, "slow")
    clock.now += 0.2 / rate
    assert admitted(limits, "slow")


def test_callers_that_are_all_busy_are_looked_through_for_idle_ones_only_now_and_then() -> None:
    limits = CallerLimits(1.0, 10, 10, Clock())
    looked_through, seen = 0, limits._due
    for number in range(20_000):
        assert admitted(limits, str(number))
        looked_through += limits._due is not seen
        seen = limits._due
    assert len(limits._due) == 20_000
    assert looked_through < 6


def test_watches_of_strangers_are_counted_apart_from_calls() -> None:
    limits = CallerLimits(0, 1, 1, Clock())
    with ExitStack() as stack:
        for _ in range(STRANGERS_WATCHES):
            stack.enter_context(limits.strangers_watch())
        with pytest.raises(LeylineError, match="everybody without a token has 32 calls open"):
            stack.enter_context(limits.strangers_watch())
        assert admitted(limits, "one")
    with limits.strangers_watch(), limits.call("one"):
        assert not admitted(limits, "another")


@pytest.mark.parametrize(
    ("peer", "host", "network"),
    [
        ("ipv4:10.0.0.7:4321", "10.0.0.7", "10.0.0.7"),
        ("ipv4:127.0.0.1:4321", "127.0.0.1", "this machine"),
        ("ipv4:127.8.9.10:4321", "127.8.9.10", "this machine"),
        ("ipv6:%5B::1%5D:4321", "::1", "this machine"),
        ("ipv6:%5B2001:db8:0:5:a:b:c:d%5D:4321", "2001:db8:0:5:a:b:c:d", "2001:db8:0:5::/64"),
        ("ipv6:%5B2001:db8:0:5::2%5D:4321", "2001:db8:0:5::2", "2001:db8:0:5::/64"),
        ("ipv6:%5Bfe80::1%25eth0%5D:4321", "fe80::1%eth0", "fe80::/64"),
        ("ipv6:%5B::ffff:10.0.0.7%5D:4321", "::ffff:10.0.0.7", "10.0.0.7"),
        ("unix:", "unix:", "unix:"),
    ],
)
def test_a_caller_without_a_token_is_known_by_as_much_of_its_address_as_it_cannot_choose(
    peer: str, host: str, network: str
) -> None:
    assert host_of(peer) == host
    assert network_of(host) == network


async def test_calls_open_beyond_a_callers_limit_are_refused_until_one_ends(start: Any) -> None:
    release = asyncio.Event()

    async def get(_request: Any, _context: Any) -> Any:
        await release.wait()
        return registry_pb2.GetPolicyResponse()

    _, channel = await start({"GetPolicy": get}, max_concurrent_rpcs_per_caller=2)
    stub = registry_pb2_grpc.PolicyRegistryServiceStub(channel)
    request = registry_pb2.GetPolicyRequest(policy_version="0" * 64)
    pending = [asyncio.ensure_future(stub.GetPolicy(request)) for _ in range(3)]
    done, _ = await asyncio.wait(pending, return_when=asyncio.FIRST_COMPLETED)
    error = done.pop().exception()
    assert isinstance(error, grpc.aio.AioRpcError)
    remote = from_rpc_error(error)
    assert remote.error_code is ErrorCode.TOO_MANY_CALLS_OF_CALLER
    assert remote.retry_after_s == 0.5
    release.set()
    outcomes = await asyncio.gather(*pending, return_exceptions=True)
    assert sum(isinstance(outcome, registry_pb2.GetPolicyResponse) for outcome in outcomes) == 2
    await stub.GetPolicy(request)
