"""What a user installs: a wheel, made from a source distribution, in an empty environment."""

from __future__ import annotations

import shutil
import subprocess
import sys
import tarfile
import venv
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
FILES = ("LICENSE", "MANIFEST.in", "Makefile", "README.md", "pyproject.toml", "setup.py")
FOLDERS = ("clients", "proto", "requirements", "services")

USE = """
import grpc
import protovalidate
from leyline.v1 import policy_pb2, policy_pb2_grpc, snapshot_pb2

assert policy_pb2_grpc.PolicyServiceStub(grpc.insecure_channel("127.0.0.1:1"))
violations = protovalidate.collect_violations(policy_pb2.DecideRequest())
print("refused:", sorted({violation.proto.rule_id for violation in violations}))
"""


def run(*command: str | Path, cwd: Path | None = None) -> str:
    """Runs a command to its end and returns what it printed.

    Raises:
        AssertionError: it exited with another status than 0; its output is the message.
    """
    done = subprocess.run(
        command, cwd=cwd, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False
    )
    assert done.returncode == 0, done.stdout
    return done.stdout


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the source distribution and the wheel made from that."""
    source, dist = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("dist")
    for name in (*FILES, *FOLDERS):
        if (ROOT / name).is_dir():
            shutil.copytree(ROOT / name, source / name)
        elif (ROOT / name).exists():
            shutil.copy(ROOT / name, source / name)
    (source / "clients/python/leyline/v1/forgotten_pb2.py").write_text("raise ImportError\n")
    run(sys.executable, "-m", "build", "--no-isolation", "--outdir", dist, source)
    return dist


@pytest.fixture(scope="module")
def wheel(built: Path) -> Path:
    return next(built.glob("*.whl"))


def test_a_source_distribution_holds_the_contract_and_no_generated_stub(built: Path) -> None:
    with tarfile.open(next(built.glob("*.tar.gz"))) as archive:
        names = [name.partition("/")[2] for name in archive.getnames()]
    assert "proto/leyline/v1/snapshot.proto" in names
    assert not [name for name in names if "_pb2" in name]


def test_a_wheel_holds_typed_stubs_of_every_proto_and_only_our_packages(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
    for proto in (ROOT / "proto/leyline/v1").glob("*.proto"):
        for suffix in ("_pb2.py", "_pb2.pyi", "_pb2_grpc.py", "_pb2_grpc.pyi"):
            assert f"leyline/v1/{proto.stem}{suffix}" in names
    assert "leyline/v1/forgotten_pb2.py" not in names
    ours = {"chassis", "kasmina", "leyline", "simic", "tamiyo"}
    assert {name.split("/")[0] for name in names if ".dist-info/" not in name} == ours
    assert {f"{package}/py.typed" for package in ours} <= names
    migrations = Path("simic/database/migrations")
    scripts = (ROOT / "services" / migrations / "versions").glob("*.py")
    versions = {str(migrations / "versions" / script.name) for script in scripts}
    assert {str(migrations / "env.py"), *versions} <= names
    assert len(versions) > 1


def test_an_empty_environment_can_use_the_installed_wheel(wheel: Path, tmp_path: Path) -> None:
    environment = tmp_path / "environment"
    venv.create(environment, with_pip=True)
    python = environment / "bin/python"
    pip = (python, "-m", "pip", "install", "--quiet", "--no-deps")
    run(*pip, "--require-hashes", "-r", ROOT / "requirements/client.txt")
    run(*pip, "--no-index", wheel)
    run(python, "-m", "pip", "check")
    assert "refused: ['" in run(python, "-I", "-c", USE, cwd=tmp_path)
    assert "Usage" in run(environment / "bin/leyline", "--help", cwd=tmp_path)
    cases = run(environment / "bin/leyline", "conformance", "--list", cwd=tmp_path)
    assert "snapshots.one-slot-dormant" in cases
    assert "streams.order" in cases
