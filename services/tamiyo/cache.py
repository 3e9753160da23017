"""Artifacts on disk, so that a restarted server can decide while the registry is away.

For each version there are two files in ``artifacts/``: its manifest and its bytes. Each is written
aside and renamed, the manifest last: a version is there when its manifest is. What is read is not
trusted: ``Artifact`` verifies it like anything else. ``active`` holds the name of the version that
was last the default one.
"""

from __future__ import annotations

import hashlib
import os
import re
import tempfile
import time
from collections.abc import Collection
from contextlib import suppress
from pathlib import Path

from google.protobuf.message import DecodeError

from leyline.v1.registry_pb2 import PolicyManifest

_MANIFEST = ".manifest.binpb"
_GRAPH = ".onnx"
_UNFINISHED = ".unfinished-"
_ABANDONED_AFTER_S = 3600.0


class ArtifactCache:
    """A directory of versions, bounded. Blocking: to be used from a worker thread."""

    def __init__(self, state_dir: Path, limit: int) -> None:
        """Keep at most ``limit`` versions under ``state_dir``, which is made where it is missing.

        Raises:
            OSError: the directory cannot be made.
        """
        self._directory = state_dir / "artifacts"
        self._active = state_dir / "active"
        self._limit = limit
        self._directory.mkdir(parents=True, exist_ok=True)
        for unfinished in self._directory.glob(f"{_UNFINISHED}*"):
            # A young one may be what another server with the same directory is writing.
            with suppress(FileNotFoundError):
                if time.time() - unfinished.stat().st_mtime > _ABANDONED_AFTER_S:
                    unfinished.unlink()

    def read(self, version: str) -> tuple[PolicyManifest, bytes] | None:
        """Return a version's manifest and bytes, or None where they are not (whole) there."""
        graph, manifest_file = self._files(version)
        try:
            manifest = PolicyManifest.FromString(manifest_file.read_bytes())
            data = graph.read_bytes()
            os.utime(manifest_file)
        except (FileNotFoundError, DecodeError):
            return None
        return (manifest, data) if manifest.policy_version == version else None

    def write(self, manifest: PolicyManifest, data: bytes, keep: Collection[str]) -> None:
        """Keep a version, and let go of the one unused for longest where there are too many.

        Args:
            manifest: the version's manifest.
            data: its bytes.
            keep: versions that stay in any case.

        Raises:
            OSError: it could not be written, because the disk is full, say.
        """
        graph, manifest_file = self._files(manifest.policy_version)
        self._replace(graph, data)
        self._replace(manifest_file, manifest.SerializeToString(deterministic=True))
        self._prune({_stem(version) for version in [*keep, manifest.policy_version]})

    def discard(self, version: str) -> None:
        """Forget a version, whole or not."""
        graph, manifest_file = self._files(version)
        manifest_file.unlink(missing_ok=True)
        graph.unlink(missing_ok=True)

    def active(self) -> str | None:
        """Return the version that was last the default one, or None."""
        try:
            return self._active.read_text(encoding="utf-8") or None
        except (FileNotFoundError, UnicodeDecodeError):
            return None

    def remember_active(self, version: str) -> None:
        """Remember the default version for the next start.

        Raises:
            OSError: it could not be written.
        """
        self._replace(self._active, version.encode())

    def _files(self, version: str) -> tuple[Path, Path]:
        stem = _stem(version)
        return self._directory / (stem + _GRAPH), self._directory / (stem + _MANIFEST)

    def _replace(self, file: Path, data: bytes) -> None:
        descriptor, name = tempfile.mkstemp(prefix=_UNFINISHED, dir=self._directory)
        try:
            with os.fdopen(descriptor, "wb") as unfinished:
                unfinished.write(data)
                unfinished.flush()
                os.fsync(unfinished.fileno())
            os.replace(name, file)
        except BaseException:
            Path(name).unlink(missing_ok=True)
            raise

    def _prune(self, keep: Collection[str]) -> None:
        manifests = sorted(
            self._directory.glob(f"*{_MANIFEST}"), key=lambda file: file.stat().st_mtime_ns
        )
        excess = len(manifests) - self._limit
        for manifest_file in manifests:
            stem = manifest_file.name.removesuffix(_MANIFEST)
            if excess > 0 and stem not in keep:
                manifest_file.unlink(missing_ok=True)
                (self._directory / (stem + _GRAPH)).unlink(missing_ok=True)
                excess -= 1


def _stem(version: str) -> str:
    """Name a version's files: by its name where that is a safe one, else by the name's hash."""
    if re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}", version):
        return version
    return "sha256-" + hashlib.sha256(version.encode()).hexdigest()
