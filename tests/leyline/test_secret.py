"""Files for their owner's eyes alone: also where several write them, and where root does."""

from __future__ import annotations

import errno
import os
import stat
import subprocess
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Barrier

import pytest
from tests.leyline.conftest import COMMAND

from leyline.channel import own_token
from leyline.secret import make_secret, new_token, write_secret, write_whole
from leyline.stack import for_its_user_alone, make_own_folder

SOMEBODY, SOMEBODY_ELSE = 65534, 65533
only_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root may give files away")


def at_once(write: Callable[[], None]) -> None:
    """Do it sixteen times at the same time."""
    together = Barrier(16)

    def writing() -> None:
        together.wait()
        write()

    with ThreadPoolExecutor(16) as pool:
        for done in [pool.submit(writing) for _ in range(16)]:
            done.result()


def test_a_file_that_several_write_at_once_is_whole(tmp_path: Path) -> None:
    file = tmp_path / "list"
    at_once(lambda: write_whole(file, b"all of it\n" * 1000))
    assert file.read_bytes() == b"all of it\n" * 1000
    assert list(tmp_path.iterdir()) == [file], "no draft is left"


def test_of_several_who_make_a_token_at_once_all_have_the_first_one_s(tmp_path: Path) -> None:
    file = tmp_path / "token"
    found: list[bytes] = []

    def make() -> None:
        make_secret(file, new_token())
        found.append(file.read_bytes())

    at_once(make)
    assert set(found) == {file.read_bytes()}
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert list(tmp_path.iterdir()) == [file]


def test_a_full_disk_leaves_what_was_there_and_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "token"
    write_secret(file, b"first")

    def full(_file: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space left"):
        write_secret(file, b"second")
    assert file.read_bytes() == b"first"
    assert list(tmp_path.iterdir()) == [file]


@only_root
def test_what_root_writes_belongs_to_the_owner_of_the_file_before_or_of_the_folder(
    tmp_path: Path,
) -> None:
    os.chown(tmp_path, SOMEBODY, SOMEBODY)
    file = tmp_path / "token"
    write_secret(file, b"first")
    assert (file.stat().st_uid, file.stat().st_gid) == (SOMEBODY, SOMEBODY)
    os.chown(file, SOMEBODY_ELSE, SOMEBODY)
    write_secret(file, b"second")
    assert (file.stat().st_uid, file.stat().st_gid) == (SOMEBODY_ELSE, SOMEBODY)
    assert stat.S_IMODE(file.stat().st_mode) == 0o600


def another_s(folder: Path) -> Path:
    """A folder that is not this user's."""
    if os.geteuid() != 0:
        return Path("/")
    folder.mkdir()
    os.chown(folder, SOMEBODY, SOMEBODY)
    return folder


def test_a_stack_keeps_its_state_where_nobody_else_looks(tmp_path: Path) -> None:
    folder = tmp_path / "new" / "stack"
    make_own_folder(folder)
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    make_own_folder(folder)


def test_a_stack_is_not_kept_where_others_may_write(tmp_path: Path) -> None:
    with pytest.raises(PermissionError, match="is another user's"):
        make_own_folder(another_s(tmp_path / "another"))
    open_to_all = tmp_path / "open"
    open_to_all.mkdir()
    for mode in (0o770, 0o707):
        open_to_all.chmod(mode)
        with pytest.raises(PermissionError, match=f"chmod go-w {open_to_all}"):
            make_own_folder(open_to_all)
    open_to_all.chmod(0o755)
    make_own_folder(open_to_all)


def test_leyline_up_says_that_its_folder_is_another_s(tmp_path: Path) -> None:
    folder = another_s(tmp_path / "another")
    done = subprocess.run(
        [*COMMAND, "up", "--dir", str(folder)], capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 1
    assert f"leyline: {folder} is another user's" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_token_that_others_can_read_or_have_made_is_not_used(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    for_its_user_alone(tmp_path)
    token = own_token()
    token.chmod(0o640)
    with pytest.raises(PermissionError, match=f"chmod go-rw {token}"):
        for_its_user_alone(tmp_path)
    token.chmod(0o600)
    for_its_user_alone(tmp_path)
    if os.geteuid() == 0:
        os.chown(token, SOMEBODY, SOMEBODY)
        with pytest.raises(PermissionError, match="is another user's"):
            for_its_user_alone(tmp_path)
