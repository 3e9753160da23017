"""The locks beside this file, resolved from pyproject.toml by uv.

Each lock carries the digest of what it was resolved from. ``--check`` compares digests alone: it
needs no network, and a registry that has since gained a wheel for an old version does not make it
fail.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import subprocess
import sys
import tomllib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
PYPROJECT = HERE.parent / "pyproject.toml"
DIGEST = "# resolved from sha256:"
EVERY_PYTHON = ("--universal", "--python-version=3.11")
OF_THE_LOCK = (*EVERY_PYTHON, f"--constraints={HERE / 'lock.txt'}")
BESIDE_TAMIYO = (
    *EVERY_PYTHON,
    f"--constraints={HERE / 'tamiyo.txt'}",
    f"--constraints={HERE / 'build.txt'}",
)


@dataclass(frozen=True)
class Lock:
    """One file of pinned and hashed requirements.

    Attributes:
        name: the file's name without its suffix.
        purpose: the file's first line.
        options: how uv resolves it.
        extras: the project's extras that it covers; the base dependencies always come with them.
        project: whether it covers the project's dependencies at all.
        build: whether it covers what builds the project.
        only: requirements beside those.
    """

    name: str
    purpose: str
    options: tuple[str, ...] = OF_THE_LOCK
    extras: tuple[str, ...] = ()
    project: bool = True
    build: bool = False
    only: tuple[str, ...] = ()

    @property
    def path(self) -> Path:
        return HERE / f"{self.name}.txt"

    def digest(self, project: dict[str, Any]) -> str:
        """The digest of everything that this lock is resolved from."""
        metadata = project["project"]
        inputs = [
            metadata["requires-python"],
            metadata["dependencies"],
            metadata["optional-dependencies"],
            project["build-system"]["requires"],
            [str(option).replace(str(HERE), "") for option in self.options],
            [self.extras, self.project, self.build, self.only],
        ]
        return hashlib.sha256(json.dumps(inputs).encode()).hexdigest()

    def resolve(self, project: dict[str, Any], upgrade: bool) -> None:
        """Runs uv; pins that still satisfy pyproject.toml stay, unless they are to be upgraded."""
        lines = [*self.only, *(project["build-system"]["requires"] if self.build else ())]
        subprocess.run(
            [
                *(sys.executable, "-m", "uv", "pip", "compile", "--quiet", "--generate-hashes"),
                *("--no-header", "--no-config", "--output-file", str(self.path)),
                *(("--upgrade",) if upgrade and "--upgrade" not in self.options else ()),
                *self.options,
                *(f"--extra={extra}" for extra in self.extras),
                *((str(PYPROJECT),) if self.project else ()),
                *(("-",) if lines else ()),
            ],
            input="\n".join(lines),
            text=True,
            check=True,
        )
        header = f"# {self.purpose}\n# Made by `make lock`.\n{DIGEST}{self.digest(project)}\n"
        self.path.write_text(header + self.path.read_text())

    def holds(self, project: dict[str, Any]) -> bool:
        """Whether the file was resolved from what pyproject.toml says now."""
        if not self.path.exists():
            return False
        wanted = DIGEST + self.digest(project)
        return any(line == wanted for line in self.path.read_text().splitlines()[:3])


LOCKS = (
    Lock(
        "lock",
        "Everything that development, CI and the services use, on every admitted Python.",
        options=EVERY_PYTHON,
        extras=("dev",),
        build=True,
    ),
    Lock(
        "oldest",
        "The oldest dependencies that pyproject.toml admits, with what tests them, on Python 3.11.",
        # Wheels only: what compiles here would not compile for every user. Upgraded every time: an
        # earlier pin that is above a lower bound would stay, and hide it.
        options=(
            "--resolution=lowest-direct",
            "--python-version=3.11",
            "--only-binary=:all:",
            "--upgrade",
        ),
        extras=("test",),
        build=True,
    ),
    Lock(
        "client",
        "The command line, with its pictures and certificates; a subset of lock.txt.",
        extras=("plot", "certs"),
    ),
    Lock("kasmina", "The Kasmina service; a subset of lock.txt.", extras=("kasmina",)),
    Lock("tamiyo", "The Tamiyo service; a subset of lock.txt.", extras=("tamiyo",)),
    Lock("simic", "The Simic service; a subset of lock.txt.", extras=("simic",)),
    Lock(
        "torch",
        "PyTorch with what it needs, an image layer of its own; a subset of lock.txt.",
        project=False,
        only=("torch",),
    ),
    Lock(
        "installer",
        "What installs the other locks here; a subset of lock.txt.",
        project=False,
        only=("uv",),
    ),
    Lock("build", "What builds the package; a subset of lock.txt.", project=False, build=True),
    # Other servers of models, which `make bench` compares Tamiyo with. Each gets an environment of
    # its own, with the versions that Tamiyo has wherever both need the same package; what only our
    # tests need may be there in another one.
    Lock(
        "mlserver",
        "MLServer beside Tamiyo.",
        options=BESIDE_TAMIYO,
        extras=("tamiyo",),
        build=True,
        only=("mlserver==1.7.1",),
    ),
    Lock(
        "ray",
        "Ray Serve beside Tamiyo.",
        options=BESIDE_TAMIYO,
        extras=("tamiyo",),
        build=True,
        only=("ray[serve-grpc]==2.60.0",),
    ),
)


def main(arguments: Sequence[str] | None = None) -> int:
    """Resolves or checks every lock; returns the exit status."""
    parser = argparse.ArgumentParser(description="Lock the requirements of pyproject.toml.")
    action = parser.add_mutually_exclusive_group()
    action.add_argument(
        "--check", action="store_true", help="say which locks are out of date; change none"
    )
    action.add_argument(
        "--upgrade", action="store_true", help="take the newest versions that are admitted"
    )
    options = parser.parse_args(arguments)
    project = tomllib.loads(PYPROJECT.read_text())
    if options.check:
        stale = [lock.path.name for lock in LOCKS if not lock.holds(project)]
        for name in stale:
            print(
                f"requirements/{name} is older than pyproject.toml: run `make lock`",
                file=sys.stderr,
            )
        return 1 if stale else 0
    for lock in LOCKS:
        lock.resolve(project, upgrade=options.upgrade)
    return 0


if __name__ == "__main__":
    sys.exit(main())
