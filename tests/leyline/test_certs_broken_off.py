"""`leyline certs` is killed at any write, or half of a folder is another's: nobody is locked out,
and `init` puts it right.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.leyline.papers import assert_goes_together, content, locked_out

from leyline.cli.application import run


@pytest.fixture
def stack(tmp_path: Path) -> Path:
    folder = tmp_path / "certs"
    assert run(["certs", "init", str(folder)]) == 0
    return folder


def killed(command: str, folder: Path, copies: Path) -> Iterator[Path]:
    """Copies of a folder, in each of which a command was killed at another write."""
    copies.mkdir()
    call = [sys.executable, "-m", "tests.leyline.killed", command, str(folder), str(copies)]
    done = subprocess.run(call, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    found = sorted(copies.iterdir(), key=lambda copy: int(copy.name))
    assert len(found) > 20
    yield from found


def test_a_renewal_that_is_killed_locks_nobody_out_and_init_completes_it(
    stack: Path, tmp_path: Path
) -> None:
    for copy in killed("renew", stack, tmp_path / "copies"):
        assert not locked_out(copy), copy
        assert run(["certs", "init", str(copy)]) == 0
        assert_goes_together(copy)


def test_what_was_killed_while_a_stack_was_made_is_completed_by_init(tmp_path: Path) -> None:
    for copy in killed("init", tmp_path / "nothing", tmp_path / "copies"):
        assert run(["certs", "init", str(copy)]) == 0
        assert_goes_together(copy)
        before = content(copy)
        assert run(["certs", "init", str(copy)]) == 0
        assert content(copy) == before


@pytest.mark.parametrize("file", ["key.pem", "certificate.pem", "ca.pem", "token", "tokens"])
@pytest.mark.parametrize("how", ["another stack's", "gone", "empty"])
def test_a_file_that_does_not_go_with_the_others_is_replaced(
    stack: Path, tmp_path: Path, file: str, how: str
) -> None:
    other = tmp_path / "other"
    assert run(["certs", "init", str(other)]) == 0
    path = stack / "tamiyo" / file
    match how:
        case "another stack's":
            path.write_bytes((other / "tamiyo" / file).read_bytes())
        case "gone":
            path.unlink()
        case "empty":
            path.write_bytes(b"")
    assert run(["certs", "init", str(stack)]) == 0
    assert_goes_together(stack)
