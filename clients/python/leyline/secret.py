"""Files that are written whole, and those that are for their owner's eyes alone."""

from __future__ import annotations

import contextlib
import hashlib
import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


def new_token() -> bytes:
    """A bearer token of 256 random bits, as the content of a file."""
    return f"{secrets.token_urlsafe(32)}\n".encode()


def digest(token: bytes) -> str:
    """SHA-256 of the token that is a file's content, in hexadecimal digits: what a server knows of
    it.
    """
    return hashlib.sha256(token.strip()).hexdigest()


def write_secret(path: Path, content: bytes) -> None:
    """Write a file whole, for its owner's eyes alone."""
    _write(path, content, 0o600)


def make_secret(path: Path, content: bytes) -> None:
    """Write the same where there is no such file; the first of several who do it at once counts."""
    with _draft(path, content, 0o600) as draft, contextlib.suppress(FileExistsError):
        os.link(draft, path)


def write_whole(path: Path, content: bytes) -> None:
    """Write a file so that nobody reads half of it."""
    _write(path, content, 0o644)


def _write(path: Path, content: bytes, mode: int) -> None:
    with _draft(path, content, mode) as draft:
        draft.replace(path)


@contextmanager
def _draft(path: Path, content: bytes, mode: int) -> Iterator[Path]:
    """The content in a file beside the one that it is for, by a name that nobody else takes."""
    draft = path.with_name(f".{path.name}.{secrets.token_hex(8)}.draft")
    try:
        with open(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode), "wb") as file:
            if os.geteuid() == 0:
                # Whoever reads the file is not root.
                os.fchown(file.fileno(), *_owner(path))
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        yield draft
    finally:
        draft.unlink(missing_ok=True)


def _owner(path: Path) -> tuple[int, int]:
    """User and group of a file or, where there is none, of its folder."""
    try:
        found = path.lstat()
    except FileNotFoundError:
        found = path.parent.stat()
    return found.st_uid, found.st_gid
