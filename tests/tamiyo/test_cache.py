"""Artifacts on disk."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from leyline.v1.registry_pb2 import PolicyManifest
from tamiyo.cache import ArtifactCache


def manifest(version: str) -> PolicyManifest:
    return PolicyManifest(policy_version=version)


def files(directory: Path) -> int:
    return sum(1 for path in (directory / "artifacts").rglob("*") if path.is_file())


@pytest.mark.parametrize(
    "version", ["mlp-0123456789ab", "../../etc/passwd", "a/b", "..", "név 1", "x" * 128]
)
def test_a_version_of_any_name_is_found_again_and_stays_inside(
    tmp_path: Path, version: str
) -> None:
    ArtifactCache(tmp_path / "state", 4).write(manifest(version), b"bytes", keep=())
    assert ArtifactCache(tmp_path / "state", 4).read(version) == (manifest(version), b"bytes")
    assert files(tmp_path / "state") == 2
    assert [path.name for path in tmp_path.iterdir()] == ["state"]


def test_what_is_not_there_or_only_half_there_is_not_found(tmp_path: Path) -> None:
    cache = ArtifactCache(tmp_path, 4)
    assert cache.read("v") is None
    cache.write(manifest("v"), b"bytes", keep=())
    (tmp_path / "artifacts" / "v.onnx").unlink()
    assert cache.read("v") is None


def test_a_manifest_that_cannot_be_read_or_is_another_s_is_not_found(tmp_path: Path) -> None:
    cache = ArtifactCache(tmp_path, 4)
    cache.write(manifest("v"), b"bytes", keep=())
    stored = tmp_path / "artifacts" / "v.manifest.binpb"
    stored.write_bytes(b"\xff\xff\xff")
    assert cache.read("v") is None
    stored.write_bytes(manifest("w").SerializeToString())
    assert cache.read("v") is None


def test_discarding_twice_is_discarding(tmp_path: Path) -> None:
    cache = ArtifactCache(tmp_path, 4)
    cache.write(manifest("v"), b"bytes", keep=())
    cache.discard("v")
    cache.discard("v")
    assert files(tmp_path) == 0


def test_the_version_unused_for_longest_goes_first_and_one_in_use_never(tmp_path: Path) -> None:
    cache = ArtifactCache(tmp_path, 3)
    for age, version in enumerate(["oldest", "older", "old"]):
        cache.write(manifest(version), b"", keep=())
        os.utime(tmp_path / "artifacts" / f"{version}.manifest.binpb", (age, age))
    cache.read("older")
    cache.write(manifest("new"), b"", keep=["oldest"])
    kept = {version for version in ("oldest", "older", "old", "new") if cache.read(version)}
    assert kept == {"oldest", "older", "new"}
    assert files(tmp_path) == 6


def test_a_write_that_a_crash_cut_short_leaves_nothing_behind(tmp_path: Path) -> None:
    ArtifactCache(tmp_path, 4)
    unfinished = tmp_path / "artifacts" / ".unfinished-abc"
    unfinished.write_bytes(b"half")
    ArtifactCache(tmp_path, 4)
    assert unfinished.exists(), "another server may be writing it"
    os.utime(unfinished, (0, 0))
    ArtifactCache(tmp_path, 4)
    assert not unfinished.exists()


def test_the_active_version_is_remembered(tmp_path: Path) -> None:
    cache = ArtifactCache(tmp_path, 4)
    assert cache.active() is None
    cache.remember_active("mlp-1")
    cache.remember_active("mlp-2")
    assert ArtifactCache(tmp_path, 4).active() == "mlp-2"
