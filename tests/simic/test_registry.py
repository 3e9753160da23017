from __future__ import annotations

import asyncio
import hashlib
from collections.abc import AsyncIterator, Callable
from dataclasses import replace
from pathlib import Path

import grpc.aio
import onnx
import pytest
from tests.simic.episodes import Script
from tests.simic.running import Client, SimicProcess, running
from tests.simic.versions import version

from chassis.errors import ErrorCode, LeylineError
from chassis.status import from_rpc_error
from leyline.v1.registry_pb2 import (
    ActivatePolicyRequest,
    ArtifactChunk,
    DownloadPolicyRequest,
    GetPolicyRequest,
    ListPoliciesRequest,
    PolicyManifest,
    PolicyReport,
    RegisterPolicyRequest,
    RegisterPolicyResponse,
    ReportPolicyRequest,
    WatchPoliciesRequest,
    WatchPoliciesResponse,
)
from simic.experience.store import ExperienceStore
from simic.learning.lesson import LearnedVersion
from simic.policies.registry import PolicyRegistry


def manifest_with(learned: LearnedVersion, **fields: object) -> PolicyManifest:
    manifest = PolicyManifest()
    manifest.CopyFrom(learned.manifest)
    manifest.MergeFrom(PolicyManifest(**fields))  # type: ignore[arg-type]
    return manifest


def test_registering_twice_returns_the_version_that_there_is(registry: PolicyRegistry) -> None:
    learned = version(1)
    first = registry.register(learned.manifest, learned.artifact)
    again = registry.register(learned.manifest, learned.artifact)
    assert (first.already_registered, again.already_registered) == (False, True)
    assert again.manifest == first.manifest
    assert first.manifest.ordinal == 1
    assert len(registry.events(0)) == 1


def test_the_name_of_a_version_is_what_it_computes(registry: PolicyRegistry) -> None:
    learned = version(1)
    model = onnx.load_from_string(learned.artifact)
    model.producer_name, model.doc_string, model.graph.name = "somebody", "1 May 2031", "g"
    model.metadata_props.add(key="author", value="somebody")
    renamed = PolicyManifest()
    renamed.CopyFrom(learned.manifest)
    artifact = model.SerializeToString()
    registry.register(learned.manifest, learned.artifact)
    renamed.artifact_sha256 = hashlib.sha256(artifact).hexdigest()
    assert registry.register(renamed, artifact).already_registered


def digest_of_another(learned: LearnedVersion) -> LearnedVersion:
    return replace(learned, manifest=manifest_with(learned, artifact_sha256="0" * 64))


def bytes_cut_short(learned: LearnedVersion) -> LearnedVersion:
    return replace(learned, artifact=learned.artifact[:-100])


def noise(learned: LearnedVersion) -> LearnedVersion:
    artifact = b"\x00\xff" * 50
    sha256 = hashlib.sha256(artifact).hexdigest()
    return replace(
        learned, artifact=artifact, manifest=manifest_with(learned, artifact_sha256=sha256)
    )


def another_name(learned: LearnedVersion) -> LearnedVersion:
    return replace(learned, manifest=manifest_with(learned, policy_version="mlp-000000000000"))


def more_slots(learned: LearnedVersion) -> LearnedVersion:
    manifest = manifest_with(learned)
    manifest.slots.exactly = 4
    return replace(learned, manifest=manifest)


def another_fingerprint(learned: LearnedVersion) -> LearnedVersion:
    manifest = manifest_with(learned)
    manifest.observation_spec.global_features[0].scale = 7
    return replace(learned, manifest=manifest)


@pytest.mark.parametrize(
    ("spoil", "code"),
    [
        (digest_of_another, ErrorCode.ARTIFACT_DIGEST_MISMATCH),
        (bytes_cut_short, ErrorCode.ARTIFACT_DIGEST_MISMATCH),
        (noise, ErrorCode.ARTIFACT_CORRUPT),
        (another_name, ErrorCode.INVALID_ARGUMENT),
        (more_slots, ErrorCode.INVALID_ARGUMENT),
        (another_fingerprint, ErrorCode.FINGERPRINT_MISMATCH),
    ],
)
def test_what_is_not_as_its_manifest_says_is_refused(
    registry: PolicyRegistry,
    spoil: Callable[[LearnedVersion], LearnedVersion],
    code: ErrorCode,
) -> None:
    spoilt = spoil(version(1))
    with pytest.raises(LeylineError) as caught:
        registry.register(spoilt.manifest, spoilt.artifact)
    assert caught.value.code is code
    assert registry.events(0) == []


def test_a_version_of_another_network_has_any_name_that_is_not_taken(
    registry: PolicyRegistry,
) -> None:
    mine, theirs, other = version(1), version(2), version(3)
    registry.register(mine.manifest, mine.artifact)
    names = {"network": "theirs", "policy_version": "theirs-1"}
    registry.register(manifest_with(theirs, **names), theirs.artifact)
    assert registry.register(manifest_with(theirs, **names), theirs.artifact).already_registered
    taken = {"network": "theirs", "policy_version": mine.manifest.policy_version}
    for fields in (names, taken):
        with pytest.raises(LeylineError) as caught:
            registry.register(manifest_with(other, **fields), other.artifact)
        assert caught.value.code is ErrorCode.INVALID_ARGUMENT


def test_activation_promotes_and_rolls_back(registry: PolicyRegistry) -> None:
    names = []
    for seed in (1, 2):
        learned = version(seed)
        names.append(registry.register(learned.manifest, learned.artifact).manifest.policy_version)
    first, second = names
    assert registry.activate(first, "").previous_version == ""
    assert registry.activate(second, "better").previous_version == first
    assert registry.activate(first, "no better after all").previous_version == second
    assert registry.activate(first, "again").previous_version == first
    assert registry.get("").manifest.policy_version == first
    activations = [
        event.activated.policy_version
        for event in registry.events(0)
        if event.HasField("activated")
    ]
    assert activations == [first, second, first]


def test_unknown_versions_are_not_found(registry: PolicyRegistry) -> None:
    calls: list[Callable[[], object]] = [
        lambda: registry.get(""),
        lambda: registry.get("mlp-000000000000"),
        lambda: registry.activate("mlp-000000000000", ""),
        lambda: registry.read_artifact("mlp-000000000000", 0),
        lambda: registry.report(PolicyReport(policy_version="mlp-000000000000")),
    ]
    for call in calls:
        with pytest.raises(LeylineError) as caught:
            call()
        assert caught.value.code is ErrorCode.POLICY_VERSION_NOT_FOUND


def test_an_offset_behind_the_end_of_an_artifact_is_refused(registry: PolicyRegistry) -> None:
    learned = version(1)
    registry.register(learned.manifest, learned.artifact)
    name, size = learned.manifest.policy_version, len(learned.artifact)
    assert registry.read_artifact(name, size).data == b""
    for offset in (size + 1, 2**31, 2**63 - 1):
        with pytest.raises(LeylineError) as caught:
            registry.read_artifact(name, offset)
        assert caught.value.code is ErrorCode.INVALID_ARGUMENT


def test_pages_of_versions_join_newest_first(registry: PolicyRegistry) -> None:
    names = []
    for seed in range(5):
        learned = version(seed)
        names.append(registry.register(learned.manifest, learned.artifact).manifest.policy_version)
    found, token = [], ""
    while True:
        page = registry.page(2, token)
        found += [manifest.policy_version for manifest in page.policies]
        token = page.next_page_token
        if not token:
            break
    assert found == names[::-1]
    with pytest.raises(LeylineError):
        registry.page(2, "x")


def test_an_episode_keeps_the_version_that_was_active_when_it_first_began(
    registry: PolicyRegistry, experience: ExperienceStore
) -> None:
    first, second = version(1), version(2)
    early = Script(index=0).begin()
    assert not experience.begin(early).HasField("policy_version")
    for learned in (first, second):
        registry.register(learned.manifest, learned.artifact)
    registry.activate(first.manifest.policy_version, "")
    begin = Script(index=1).begin()
    assert experience.begin(begin).policy_version == first.manifest.policy_version
    registry.activate(second.manifest.policy_version, "")
    assert experience.begin(begin).policy_version == first.manifest.policy_version
    assert experience.cursor("run", 1).policy_version == first.manifest.policy_version
    assert not experience.begin(early).HasField("policy_version")
    heuristic = Script(index=2).begin()
    heuristic.follows_registry = False
    assert not experience.begin(heuristic).HasField("policy_version")


def test_an_episode_is_not_pinned_to_a_version_that_a_policy_server_refused(
    registry: PolicyRegistry, experience: ExperienceStore
) -> None:
    good, bad = version(1), version(2)
    for learned in (good, bad):
        registry.register(learned.manifest, learned.artifact)
        registry.activate(learned.manifest.policy_version, "")
    name = bad.manifest.policy_version
    registry.report(PolicyReport(policy_version=name, reason="GOLDEN_MISMATCH"))
    begun = experience.begin(Script(index=0).begin())
    assert begun.policy_version == good.manifest.policy_version
    registry.report(PolicyReport(policy_version=name, accepted=True))
    assert experience.begin(Script(index=1).begin()).policy_version == name


async def upload(
    client: Client, learned: LearnedVersion, *, size: int = 10_000, keep: int | None = None
) -> RegisterPolicyResponse:
    artifact = learned.artifact[:keep]

    async def requests() -> AsyncIterator[RegisterPolicyRequest]:
        yield RegisterPolicyRequest(manifest=learned.manifest)
        for offset in range(0, len(artifact), size):
            chunk = ArtifactChunk(offset=offset, data=artifact[offset : offset + size])
            yield RegisterPolicyRequest(chunk=chunk)

    response: RegisterPolicyResponse = await client.registry.RegisterPolicy(requests())
    return response


@pytest.mark.usefixtures("served")
async def test_an_artifact_comes_back_byte_for_byte_from_any_offset(tmp_path: Path) -> None:
    learned = version(1)
    name = learned.manifest.policy_version
    async with running(tmp_path) as client:
        registered = await upload(client, learned)
        assert registered.manifest.policy_version == name
        assert (await upload(client, learned)).already_registered
        for offset in (0, 1, 70_000, len(learned.artifact)):
            request = DownloadPolicyRequest(policy_version=name, offset=offset)
            data = b""
            async for response in client.registry.DownloadPolicy(request):
                assert response.chunk.offset == offset + len(data)
                data += response.chunk.data
            assert data == learned.artifact[offset:]


async def test_a_truncated_upload_registers_nothing(tmp_path: Path) -> None:
    learned = version(1)
    async with running(tmp_path) as client:
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await upload(client, learned, keep=30_000)
        error = from_rpc_error(caught.value)
        assert error.error_code is ErrorCode.ARTIFACT_CORRUPT
        assert f"30000 of {len(learned.artifact)} bytes" in error.message
        page = await client.registry.ListPolicies(ListPoliciesRequest())
        assert len(page.policies) == 0


async def test_an_upload_without_a_manifest_is_refused(tmp_path: Path) -> None:
    async def requests() -> AsyncIterator[RegisterPolicyRequest]:
        yield RegisterPolicyRequest(chunk=ArtifactChunk(offset=0, data=b"x"))

    async with running(tmp_path) as client:
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await client.registry.RegisterPolicy(requests())
    assert from_rpc_error(caught.value).error_code is ErrorCode.INVALID_ARGUMENT


async def watch(client: Client, after: int, events: int) -> list[WatchPoliciesResponse]:
    seen: list[WatchPoliciesResponse] = []
    call = client.registry.WatchPolicies(WatchPoliciesRequest(after_sequence=after))
    async for event in call:
        seen.append(event)
        if len(seen) == events:
            break
    call.cancel()
    return seen


@pytest.mark.usefixtures("served")
async def test_a_watcher_that_comes_back_misses_nothing(tmp_path: Path) -> None:
    learned = version(1)
    name = learned.manifest.policy_version
    async with running(tmp_path) as client:
        registered = await upload(client, learned)
        [first] = await watch(client, 0, 1)
        assert first.registered.manifest == registered.manifest
        await client.registry.ActivatePolicy(
            ActivatePolicyRequest(policy_version=name, reason="the only one")
        )
    async with running(tmp_path) as client:
        report = PolicyReport(policy_version=name, accepted=True, server="tamiyo-1")
        await client.registry.ReportPolicy(ReportPolicyRequest(report=report))
        rest = await watch(client, first.sequence, 2)
        assert first.sequence < rest[0].sequence < rest[1].sequence
        assert rest[0].activated.reason == "the only one"
        assert rest[1].reported == report
        shown = await client.registry.GetPolicy(GetPolicyRequest())
        assert shown.active
        assert list(shown.reports) == [report]


async def test_a_watcher_hears_what_comes_later_until_the_server_says_that_it_stops(
    tmp_path: Path,
) -> None:
    learned = version(1)
    simic = SimicProcess(tmp_path)
    async with grpc.aio.insecure_channel(await simic.start()) as channel:
        client = Client(channel)
        call = client.registry.WatchPolicies(WatchPoliciesRequest())
        reading = asyncio.ensure_future(call.read())
        await upload(client, learned)
        event = await reading
        assert isinstance(event, WatchPoliciesResponse)
        assert event.registered.manifest.policy_version == learned.manifest.policy_version
        assert await simic.stop() == 0
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await call.read()
        assert from_rpc_error(caught.value).error_code is ErrorCode.SHUTTING_DOWN
