"""The last release as it was, beside the code under test."""

from __future__ import annotations

import os
import subprocess
import sys
import tarfile
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


@dataclass(frozen=True)
class Release:
    """A release's packages in a folder of their own.

    Attributes:
        name: its tag, or HEAD where there was no release yet.
        environment: variables with which Python finds them before it finds ours.
    """

    name: str
    environment: dict[str, str]

    @classmethod
    def unpacked(cls, folder: Path) -> Release:
        """Take the last release out of the history, with stubs of its own contract.

        It runs on this commit's dependencies: whoever upgrades installs one set of them. Until
        there is a release, this commit is taken for it, so that what tests releases is tested.
        """
        tag = _git("describe", "--tags", "--abbrev=0", "--match", "v[0-9]*", "HEAD^").decode()
        name = tag.strip() or "HEAD"
        with tarfile.open(fileobj=BytesIO(_git("archive", name, check=True))) as archive:
            archive.extractall(folder, filter="data")
        subprocess.run(
            [sys.executable, "proto/stubs.py", "--stubs", "clients/python"], cwd=folder, check=True
        )
        packages = (folder / "clients/python", folder / "services")
        return cls(name, {"PYTHONPATH": os.pathsep.join(map(str, packages))})


def _git(*arguments: str, check: bool = False) -> bytes:
    done = subprocess.run(["git", *arguments], cwd=ROOT, capture_output=True, check=check)
    return done.stdout
