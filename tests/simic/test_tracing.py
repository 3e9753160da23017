"""What a collector is told of transitions that are recorded."""

from __future__ import annotations

from pathlib import Path

from tests.collecting import collecting
from tests.simic.episodes import Script
from tests.simic.running import running

from chassis.address import Address
from leyline.v1.experience_pb2 import (
    ReadEpisodesRequest,
    RecordTransitionsRequest,
    RecordTransitionsResponse,
)

TRACE, PARENT, OTHER = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331", "00f067aa0ba902b7"


async def test_a_traced_step_has_a_span_when_it_is_stored_and_is_the_same_without_its_trace(
    tmp_path: Path,
) -> None:
    script = Script()
    items = script.items()
    for item in items[:3]:
        item.traceparent = f"00-{TRACE}-{PARENT}-01"
    items[1].fence = 2
    items[2].transition.snapshot.slots[0].alpha = 7
    again = script.items()[:1]
    again[0].traceparent = f"00-{TRACE}-{OTHER}-01"
    async with collecting() as collector:
        endpoint = Address.parse(collector.address)
        async with running(tmp_path, trace_endpoint=endpoint, trace_ratio=0) as client:
            await client.experience.BeginEpisode(script.begin())
            first = await client.experience.RecordTransitions(RecordTransitionsRequest(items=items))
            assert [rejected.sequence for rejected in first.rejected] == [2, 3]
            request = RecordTransitionsRequest(items=again)
            known = await client.experience.RecordTransitions(request)
            assert known == RecordTransitionsResponse(acknowledged_sequence=1)
            stored = [
                record.transition
                async for record in client.experience.ReadEpisodes(ReadEpisodesRequest())
                if record.HasField("transition")
            ]
            assert stored[0] == script.transitions()[0]
            await collector.have(3)
    by_step = {(each.parent, each.facts["leyline.step"]): each for each in collector.spans}
    assert set(by_step) == {(PARENT, 0), (PARENT, 1), (OTHER, 0)}
    for (_, step), each in by_step.items():
        assert (each.service, each.name, each.kind) == ("simic", "store", "CONSUMER")
        assert each.trace == TRACE
        assert each.failed == (step == 1)
        assert each.began_ns < each.ended_ns
