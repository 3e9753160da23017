"""What a collector is told of decisions on a stream."""

from __future__ import annotations

from pathlib import Path

from tests.collecting import collecting
from tests.tamiyo.queries import query
from tests.tamiyo.running import running

from chassis.address import Address
from leyline.v1.policy_pb2 import StreamDecisionsRequest
from leyline.v1.policy_pb2_grpc import PolicyServiceStub

TRACE, PARENT = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"


async def test_a_query_of_a_traced_step_has_a_span_in_that_trace_and_another_has_none(
    tmp_path: Path,
) -> None:
    traced, unsampled = (f"00-{TRACE}-{PARENT}-{flags}" for flags in ("01", "00"))
    refused = query(3, slots=3)
    refused.policy_version = "another"
    requests = [
        StreamDecisionsRequest(query=query(1)),
        StreamDecisionsRequest(query=query(2, episode=5), traceparent=traced),
        StreamDecisionsRequest(query=query(2), traceparent=unsampled),
        StreamDecisionsRequest(query=refused, traceparent=traced),
    ]
    async with collecting() as collector:
        endpoint = Address.parse(collector.address)
        async with running(
            tmp_path, policy="random", trace_endpoint=endpoint, trace_ratio=1
        ) as channel:
            call = PolicyServiceStub(channel).StreamDecisions(iter(requests))
            answered = [response.WhichOneof("outcome") async for response in call]
            assert answered == ["decision", "decision", "decision", "error"]
            await collector.have(2)
        decided, failed = sorted(collector.spans, key=lambda span: span.began_ns)
    for each in (decided, failed):
        assert (each.service, each.name, each.kind) == ("tamiyo", "decide", "SERVER")
        assert (each.trace, each.parent) == (TRACE, PARENT)
    assert decided.facts == {
        "leyline.run_id": "run",
        "leyline.episode": 5,
        "leyline.step": 2,
        "leyline.policy_version": "random-1",
    }
    assert (decided.failed, failed.failed) == (False, True)
