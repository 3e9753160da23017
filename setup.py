"""Generates the contract's stubs as a part of every build; pyproject.toml says everything else."""

from __future__ import annotations

import sys
from pathlib import Path

from setuptools import Command, setup
from setuptools.command.build import build

ROOT = Path(__file__).resolve().parent
sys.path.insert(0, str(ROOT / "proto"))

import stubs  # noqa: E402 - setuptools does not put a project's own folders on the path


class GenerateStubs(Command):
    """Writes the stubs into the wheel, or beside the source for an editable install."""

    editable_mode = False
    build_lib: str | None = None

    def initialize_options(self) -> None:
        self.build_lib = None

    def finalize_options(self) -> None:
        self.set_undefined_options("build", ("build_lib", "build_lib"))

    def run(self) -> None:
        assert self.build_lib is not None
        into = ROOT / "clients/python" if self.editable_mode else Path(self.build_lib)
        stubs.write_stubs(stubs.contract(), into)

    def get_source_files(self) -> list[str]:
        return [f"proto/{name}" for name in stubs.sources()]

    def get_outputs(self) -> list[str]:
        return []

    def get_output_mapping(self) -> dict[str, str]:
        return {}


build.sub_commands.append(("generate_stubs", None))
setup(cmdclass={"generate_stubs": GenerateStubs})
