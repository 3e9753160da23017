"""Foreign packages of our names, and missing extras, are said in one line."""

from __future__ import annotations

import importlib.metadata
import os
import subprocess
import sys
from pathlib import Path

import pytest

from leyline.installation import MissingExtra, check_extra, check_packages


def leyline_command(*arguments: str, first_on_path: Path) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHONPATH": str(first_on_path)}
    return subprocess.run(
        [sys.executable, "-m", "leyline.cli", *arguments],
        capture_output=True,
        text=True,
        env=environment,
        check=False,
    )


def test_what_is_installed_here_is_ours() -> None:
    check_packages()


@pytest.mark.parametrize("name", ["chassis", "kasmina", "tamiyo", "simic"])
def test_a_foreign_package_of_one_of_our_names_is_named_and_not_imported(
    tmp_path: Path, name: str
) -> None:
    foreign = tmp_path / name
    foreign.mkdir()
    (foreign / "__init__.py").write_text("raise SystemExit('imported')\n")
    done = leyline_command("--version", first_on_path=tmp_path)
    assert done.returncode == 1
    assert f'the Python package "{name}" at {foreign}' in done.stderr
    assert "leyline-growth" in done.stderr
    assert "imported" not in done.stderr
    assert "Traceback" not in done.stderr


def test_a_foreign_distribution_is_named(tmp_path: Path) -> None:
    (tmp_path / "tamiyo.py").write_text("")
    metadata = tmp_path / "moonfolk-1.0.dist-info"
    metadata.mkdir()
    (metadata / "METADATA").write_text("Metadata-Version: 2.1\nName: moonfolk\nVersion: 1.0\n")
    (metadata / "RECORD").write_text("tamiyo.py,,\nmoonfolk-1.0.dist-info/METADATA,,\n")
    done = leyline_command("--version", first_on_path=tmp_path)
    assert done.returncode == 1
    assert "uninstall moonfolk" in done.stderr


def test_a_missing_extra_is_named_with_the_command_that_installs_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    installed = importlib.metadata.version

    def without_torch(distribution: str) -> str:
        if distribution == "torch":
            raise importlib.metadata.PackageNotFoundError(distribution)
        return installed(distribution)

    monkeypatch.setattr(importlib.metadata, "version", without_torch)
    check_extra("tamiyo")
    for extra in ("kasmina", "stack"):
        with pytest.raises(MissingExtra) as caught:
            check_extra(extra)
        assert set(caught.value.missing) == {"torch"}
        assert f"pip install 'leyline-growth[{extra}]'" in str(caught.value)
