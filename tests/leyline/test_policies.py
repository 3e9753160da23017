"""`leyline policy`: versions to list, show, activate, roll back and clear away."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from tests.leyline.conftest import COMMAND
from tests.simic.episodes import Script
from tests.simic.running import Client, running
from tests.simic.versions import version

from leyline.client import Registry
from leyline.v1.experience_pb2 import RecordTransitionsRequest
from leyline.v1.registry_pb2 import PolicyReport, ReportPolicyRequest
from simic.learning.lesson import LearnedVersion


class Desk:
    """Somebody with a Simic."""

    def __init__(self, address: str, client: Client) -> None:
        self.address = address
        self.client = client

    async def says(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """What `leyline policy` says."""
        return await asyncio.to_thread(
            subprocess.run,
            [*COMMAND, "policy", *arguments],
            env={**os.environ, "LEYLINE_SIMIC_ADDRESS": self.address},
            capture_output=True,
            text=True,
            check=False,
        )

    async def lines(self, *arguments: str) -> list[str]:
        """What it prints when all is well."""
        done = await self.says(*arguments)
        assert (done.returncode, done.stderr) == (0, "")
        return done.stdout.splitlines()

    async def answer(self, *arguments: str) -> Any:
        """The same as JSON."""
        return json.loads("\n".join(await self.lines(*arguments, "--json")))

    async def registered(self, *learned: LearnedVersion) -> list[str]:
        """Registers versions."""
        async with Registry(self.address) as registry:
            for each in learned:
                await registry.register(each.manifest, each.artifact)
        return [each.manifest.policy_version for each in learned]


@pytest.fixture
async def desk(tmp_path: Path) -> AsyncIterator[Desk]:
    async with running(tmp_path) as client:
        yield Desk((tmp_path / "address").read_text().strip(), client)


async def test_versions_are_listed_with_what_they_decide_for(desk: Desk) -> None:
    first, second = await desk.registered(version(1), version(2, slots=6))
    await desk.lines("activate", first)
    listed = await desk.lines("list")
    assert [line.split()[:5] for line in listed[1:]] == [
        [second, "-", "mlp", "6", "seed"],
        ["*", first, "-", "mlp", "3"],
    ]
    versions = await desk.answer("list")
    assert [(each["policy_version"], each["active"]) for each in versions] == [
        (second, False),
        (first, True),
    ]


async def test_a_version_is_shown_with_what_it_was_made_from(desk: Desk) -> None:
    oldest = version(1, parent="mlp-elsewhere")
    older = version(2, parent=oldest.manifest.policy_version)
    newest = version(3, parent=older.manifest.policy_version)
    names = await desk.registered(oldest, older, newest)
    report = PolicyReport(policy_version=names[2], reason="GOLDEN_MISMATCH", server="tamiyo 1")
    await desk.client.registry.ReportPolicy(ReportPolicyRequest(report=report))
    assert await desk.lines("show", names[2]) == [
        f"version     {names[2]}",
        f"network     mlp, {newest.manifest.artifact_size:,} bytes",
        "decides on  3 slots under the spec seed, fingerprint "
        f"{newest.manifest.observation_spec.fingerprint[:12]}",
        (await desk.lines("show", names[2]))[3],
        f"made from   {names[1]}",
        f"            {names[0]}",
        "            mlp-elsewhere, ...",
        "served      no: refused by tamiyo 1: GOLDEN_MISMATCH",
    ]
    assert (await desk.lines("show", names[2], "--parents", "0"))[
        4
    ] == f"made from   {names[1]}, ..."
    shown = await desk.answer("show", names[2])
    assert [manifest["policy_version"] for manifest in shown["lineage"]] == [names[1], names[0]]
    unknown = await desk.says("show", "mlp-nothing")
    assert unknown.returncode == 1
    assert "there is no policy version 'mlp-nothing'" in unknown.stderr


async def test_a_version_is_activated_and_rolled_back(desk: Desk) -> None:
    first, second = await desk.registered(version(1), version(2))
    assert await desk.lines("activate", first) == [f"active  {first}", "before  -"]
    assert await desk.lines("activate", second) == [f"active  {second}", f"before  {first}"]
    assert (await desk.lines("show"))[0] == f"version     {second}, the active one"
    assert await desk.lines("roll-back") == [f"active  {first}", f"before  {second}"]
    nothing = await desk.says("roll-back")
    assert (nothing.returncode, nothing.stderr) == (
        1,
        "leyline: no version was active before the active one (NOTHING_TO_ROLL_BACK)\n",
    )


async def test_a_version_of_no_use_to_a_running_episode_is_refused_with_what_to_do(
    desk: Desk, tmp_path: Path
) -> None:
    for_three, for_six = await desk.registered(version(1), version(2, slots=6))
    await desk.lines("activate", for_three)
    script = Script(run="played", version=for_three)
    await desk.client.experience.BeginEpisode(script.begin())
    refused = await desk.says("activate", for_six)
    assert refused.returncode == 1
    assert "run 'played' has 3 slots" in refused.stderr
    assert f"wait for their end, or `leyline policy activate {for_six} --force`" in refused.stderr
    assert "(VERSION_DOES_NOT_FIT)" in refused.stderr

    file = tmp_path / "mine.onnx"
    file.write_bytes(version(3, slots=6).artifact)
    imported = await desk.says("import", str(file), "--name", "mine", "--activate")
    assert imported.returncode == 1
    assert "is registered, but not active: 'mine-" in imported.stderr
    assert "--force`" in imported.stderr

    assert await desk.lines("activate", for_six, "--force") == [
        f"active  {for_six}",
        f"before  {for_three}",
    ]
    await desk.client.experience.RecordTransitions(RecordTransitionsRequest(items=script.items()))
    await desk.lines("activate", for_six)


async def test_what_nothing_needs_is_cleared_away(desk: Desk) -> None:
    learned = [version(seed) for seed in range(3)]
    names = await desk.registered(*learned)
    size = sum(each.manifest.artifact_size for each in learned[:2])
    assert (await desk.lines("collect-garbage", "--dry-run"))[-1] == (
        "0 artifacts, 0 bytes, would be deleted"
    )
    assert await desk.lines("collect-garbage", "--keep", "1", "--dry-run") == [
        *names[:2],
        f"2 artifacts, {size:,} bytes, would be deleted",
    ]
    answer = await desk.answer("collect-garbage", "--keep", "1")
    assert answer == {"policy_versions": names[:2], "freed_bytes": str(size)}
    gone = await desk.says("activate", names[0])
    assert gone.returncode == 1
    assert "its artifact was deleted as garbage; register it again" in gone.stderr
    assert (await desk.lines("show", names[0]))[0] == f"version     {names[0]}"
