"""Following a registry: a real one over a socket, which may be away, break, or send rubbish."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path

import grpc.aio
import pytest
from tests.tamiyo.networks import Network, Version
from tests.tamiyo.registry_server import RegistryServer
from tests.tamiyo.running import until

from chassis.errors import ErrorCode, LeylineError
from tamiyo.cache import ArtifactCache
from tamiyo.policy import Policy
from tamiyo.registry import Registry
from tamiyo.versions import LearnedVersions


@pytest.fixture
async def registry() -> AsyncIterator[RegistryServer]:
    async with RegistryServer() as server:
        yield server


@asynccontextmanager
async def following(
    registry: RegistryServer, state: Path, limit: int = 4
) -> AsyncIterator[LearnedVersions]:
    """Follow a registry while the block lasts."""
    async with grpc.aio.insecure_channel(
        registry.address, [("grpc.max_reconnect_backoff_ms", 100)]
    ) as channel:
        cache = await asyncio.to_thread(ArtifactCache, state, limit)
        versions = LearnedVersions(Registry(channel), cache, limit=limit, server="test")
        await versions.restore()
        task = asyncio.create_task(versions.follow())
        try:
            yield versions
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)


def version(seed: int) -> Version:
    return Network(seed=seed).version()


async def default_becomes(versions: LearnedVersions, wanted: Version) -> Policy:
    """Wait until a version is the default."""
    await until(lambda: versions.default is not None and versions.default.version == wanted.name)
    return await versions.resolve(None)


async def resolved(versions: LearnedVersions, name: str) -> str | ErrorCode:
    """Return the version that a pin leads to, or why there is none."""
    try:
        return (await versions.resolve(name)).version
    except LeylineError as error:
        return error.code


async def refusal(versions: LearnedVersions, name: str) -> LeylineError:
    with pytest.raises(LeylineError) as caught:
        await versions.resolve(name)
    return caught.value


async def test_the_active_version_is_served_reported_and_swapped(
    registry: RegistryServer, tmp_path: Path
) -> None:
    first, second = version(1), version(2)
    await registry.activate(first)
    async with following(registry, tmp_path) as versions:
        policy = await default_becomes(versions, first)
        assert await versions.resolve(None) is policy
        assert (await registry.next_report(first)).accepted
        await registry.activate(second)
        await default_becomes(versions, second)
        assert (await registry.next_report(second)).accepted
        # Whoever began with the first one still gets it: the very same object.
        assert await versions.resolve(first.name) is policy
        await registry.activate(first)
        assert await default_becomes(versions, first) is policy
    assert len(registry.reports) == 2
    assert registry.downloads == {first.name: [0], second.name: [0]}


async def test_there_is_nothing_to_decide_with_before_the_first_version(
    registry: RegistryServer, tmp_path: Path
) -> None:
    async with following(registry, tmp_path) as versions:
        with pytest.raises(LeylineError) as caught:
            await versions.resolve(None)
        assert caught.value.code is ErrorCode.POLICY_NOT_READY
        assert not versions.ready.is_set()
        await registry.activate(version(1))
        await versions.ready.wait()


async def test_a_long_history_leads_to_one_download(
    registry: RegistryServer, tmp_path: Path
) -> None:
    history = [version(seed) for seed in range(8)]
    for past in history:
        await registry.activate(past)
    async with following(registry, tmp_path) as versions:
        await default_becomes(versions, history[-1])
    assert list(registry.downloads) == [history[-1].name]


async def test_a_connection_that_breaks_goes_on_from_where_it_broke(
    registry: RegistryServer, tmp_path: Path
) -> None:
    wanted = version(1)
    registry.break_after = 3
    await registry.activate(wanted)
    async with following(registry, tmp_path) as versions:
        await default_becomes(versions, wanted)
    pieces = -(-len(wanted.data) // registry.chunk_size)
    step = 3 * registry.chunk_size
    assert registry.downloads[wanted.name] == [step * i for i in range(-(-pieces // 3))]


async def test_a_truncated_artifact_is_refused_and_the_old_version_serves_on(
    registry: RegistryServer, tmp_path: Path
) -> None:
    good, bad = version(1), version(2)
    await registry.activate(good)
    async with following(registry, tmp_path) as versions:
        await default_becomes(versions, good)
        registry.truncate_to = 5000
        await registry.activate(bad)
        report = await registry.next_report(bad)
        assert not report.accepted
        assert report.reason == "ARTIFACT_CORRUPT"
        assert "5000" in report.message
        assert (await versions.resolve(None)).version == good.name
        refused = await refusal(versions, bad.name)
        assert refused.code is ErrorCode.POLICY_VERSION_NOT_FOUND
        assert refused.facts["problem"] == "ARTIFACT_CORRUPT"
        # Once it is whole and activated again, it is taken.
        registry.truncate_to = None
        await registry.activate(bad)
        await default_becomes(versions, bad)


async def test_an_artifact_with_wrong_bytes_is_refused_and_not_asked_for_again_and_again(
    registry: RegistryServer, tmp_path: Path
) -> None:
    bad = version(1)
    registry.corrupt = True
    await registry.activate(bad)
    async with following(registry, tmp_path) as versions:
        report = await registry.next_report(bad)
        assert (report.accepted, report.reason) == (False, "ARTIFACT_DIGEST_MISMATCH")
        for _ in range(5):
            await refusal(versions, bad.name)
    assert len(registry.downloads[bad.name]) == 1
    assert not versions.ready.is_set()


async def test_a_version_whose_golden_outputs_are_others_is_refused(
    registry: RegistryServer, tmp_path: Path
) -> None:
    bad = version(1)
    bad.manifest.golden_outputs[0].value += 0.5
    await registry.activate(bad)
    async with following(registry, tmp_path):
        assert (await registry.next_report(bad)).reason == "GOLDEN_MISMATCH"


async def test_a_pin_to_a_version_that_is_not_held_fetches_it_once_for_all(
    registry: RegistryServer, tmp_path: Path
) -> None:
    active, other = version(1), version(2)
    await registry.activate(active)
    await registry.register(other)
    async with following(registry, tmp_path) as versions:
        await default_becomes(versions, active)
        policies = await asyncio.gather(*(versions.resolve(other.name) for _ in range(20)))
        assert {policy.version for policy in policies} == {other.name}
        assert len({id(policy) for policy in policies}) == 1
        assert registry.downloads[other.name] == [0]
        assert (await versions.resolve(None)).version == active.name
        assert (await registry.next_report(other)).accepted


async def test_a_pin_to_a_version_that_nobody_has_is_refused(
    registry: RegistryServer, tmp_path: Path
) -> None:
    async with following(registry, tmp_path) as versions:
        refused = await refusal(versions, "mlp-000000000000")
    assert refused.code is ErrorCode.POLICY_VERSION_NOT_FOUND
    assert refused.facts["policy_version"] == "mlp-000000000000"


async def test_a_pin_to_a_version_whose_artifact_was_deleted_is_refused_until_it_is_there_again(
    registry: RegistryServer, tmp_path: Path
) -> None:
    active, other = version(1), version(2)
    await registry.activate(active)
    await registry.register(other)
    registry.deleted.add(other.name)
    async with following(registry, tmp_path) as versions:
        await default_becomes(versions, active)
        refused = await refusal(versions, other.name)
        assert refused.code is ErrorCode.POLICY_VERSION_NOT_FOUND
        assert refused.facts["problem"] == "the registry has deleted its artifact"
        assert registry.downloads[other.name] == [0]
        assert (await versions.resolve(None)).version == active.name
        assert not [report for report in registry.reports if not report.accepted]
        registry.deleted.clear()
        assert (await versions.resolve(other.name)).version == other.name


async def test_a_pin_that_cannot_be_looked_up_now_may_be_tried_again_later(
    registry: RegistryServer, tmp_path: Path
) -> None:
    other = version(2)
    async with following(registry, tmp_path) as versions:
        await registry.stop()
        assert (await refusal(versions, other.name)).code is ErrorCode.POLICY_NOT_READY
        await registry.register(other)
        await registry.start()
        answer: str | ErrorCode = ErrorCode.POLICY_NOT_READY
        while answer is ErrorCode.POLICY_NOT_READY:
            answer = await resolved(versions, other.name)
        assert answer == other.name


async def test_whoever_loses_patience_does_not_take_the_version_away_from_the_others(
    registry: RegistryServer, tmp_path: Path
) -> None:
    wanted = version(1)
    await registry.register(wanted)
    async with following(registry, tmp_path) as versions:
        impatient = asyncio.create_task(versions.resolve(wanted.name))
        patient = asyncio.create_task(versions.resolve(wanted.name))
        await asyncio.sleep(0)
        impatient.cancel()
        assert (await patient).version == wanted.name
        with pytest.raises(asyncio.CancelledError):
            await impatient


async def test_only_so_many_versions_are_held_and_the_active_one_always(
    registry: RegistryServer, tmp_path: Path
) -> None:
    active, *others = (version(seed) for seed in range(6))
    await registry.activate(active)
    for other in others:
        await registry.register(other)
    async with following(registry, tmp_path, limit=2) as versions:
        held = await default_becomes(versions, active)
        for other in others:
            await versions.resolve(other.name)
        assert await versions.resolve(active.name) is held
        assert registry.downloads[active.name] == [0]
        assert len(list((tmp_path / "artifacts").glob("*.onnx"))) == 2
        # An episode on one that was let go gets it again.
        assert (await versions.resolve(others[0].name)).version == others[0].name
        assert registry.downloads[others[0].name] == [0, 0]


async def test_a_restarted_server_decides_while_the_registry_is_away(
    registry: RegistryServer, tmp_path: Path
) -> None:
    first, second = version(1), version(2)
    await registry.activate(first)
    async with following(registry, tmp_path) as versions:
        await default_becomes(versions, first)
        await registry.activate(second)
        await default_becomes(versions, second)
        await until_remembered(tmp_path, second)
    await registry.stop()
    async with following(registry, tmp_path) as versions:
        assert (await versions.resolve(None)).version == second.name
        # Also an episode that began before the swap can go on.
        assert (await versions.resolve(first.name)).version == first.name
        third = version(3)
        await registry.activate(third)
        await registry.start()
        await default_becomes(versions, third)


async def until_remembered(state: Path, wanted: Version) -> None:
    await until(lambda: ArtifactCache(state, 4).active() == wanted.name)


async def test_a_truncated_file_in_the_cache_is_found_out_and_fetched_again(
    registry: RegistryServer, tmp_path: Path
) -> None:
    wanted = version(1)
    await registry.activate(wanted)
    async with following(registry, tmp_path) as versions:
        await default_becomes(versions, wanted)
        await until_remembered(tmp_path, wanted)
    cached = tmp_path / "artifacts" / f"{wanted.name}.onnx"
    cached.write_bytes(cached.read_bytes()[:100])
    async with following(registry, tmp_path) as versions:
        await default_becomes(versions, wanted)
    assert registry.downloads[wanted.name] == [0, 0]
    assert cached.read_bytes() == wanted.data


def watched_again(registry: RegistryServer, watches: int) -> bool:
    """Whether there is one more watch than so many."""
    return len(registry.watches) > watches


async def test_a_watch_that_breaks_goes_on_after_the_last_event(
    registry: RegistryServer, tmp_path: Path
) -> None:
    first, second = version(1), version(2)
    await registry.activate(first)
    async with following(registry, tmp_path) as versions:
        await default_becomes(versions, first)
        # The version is there without the watch, whose two events may still be on their way.
        while registry.watches[-1:] != [2]:
            watches = len(registry.watches)
            await asyncio.sleep(0.05)
            await registry.stop()
            await registry.start()
            await until(partial(watched_again, registry, watches))
        await registry.activate(second)
        await default_becomes(versions, second)
    assert registry.watches[0] == 0
    assert registry.watches[-1] == 2


async def test_a_report_that_could_not_be_delivered_is_delivered_later(
    registry: RegistryServer, tmp_path: Path
) -> None:
    wanted = version(1)
    await registry.activate(wanted)
    registry.deaf = True
    async with following(registry, tmp_path) as versions:
        await default_becomes(versions, wanted)
        registry.deaf = False
        await registry.stop()
        await registry.start()
        assert (await registry.next_report(wanted)).accepted


async def test_a_full_disk_under_the_cache_stops_nothing(
    registry: RegistryServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_room(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("tamiyo.cache.os.fsync", no_room)
    wanted = version(1)
    await registry.activate(wanted)
    async with following(registry, tmp_path) as versions:
        await default_becomes(versions, wanted)
        assert (await registry.next_report(wanted)).accepted
    assert list((tmp_path / "artifacts").iterdir()) == []
