"""Checkpoints: one safetensors file with tensors, and JSON for the rest in its header. No pickle.

A file is written beside its place, forced to disk and renamed, so that after a crash there is the
old one or the new one and never half of one. It carries the SHA-256 of its content, so that damage
is found before it is used.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor


class CheckpointError(Exception):
    """A checkpoint that cannot be used."""


class CheckpointNotFound(CheckpointError):
    """There is no such file."""

    def __init__(self, path: Path) -> None:
        super().__init__(f"no checkpoint at {path}")
        self.path = path


class CheckpointCorrupt(CheckpointError):
    """The file does not hold what was written."""

    def __init__(self, path: Path, why: str) -> None:
        super().__init__(f"checkpoint {path} is damaged: {why}")
        self.path = path
        self.why = why


class CheckpointMismatch(CheckpointError):
    """The checkpoint is sound and belongs to something else."""

    def __init__(self, path: Path, why: str) -> None:
        super().__init__(f"checkpoint {path} does not fit: {why}")
        self.path = path
        self.why = why


@dataclass(frozen=True)
class Checkpoint:
    """What a file holds."""

    kind: str
    """What it is a checkpoint of."""
    tensors: dict[str, Tensor]
    """On the processor."""
    facts: dict[str, Any]
    """As JSON can hold it."""


def write_checkpoint(path: Path, checkpoint: Checkpoint) -> None:
    """Puts the checkpoint at `path`, in place of what may be there.

    Raises OSError where the disk does not take it.
    """
    tensors = {
        name: tensor.detach().cpu().contiguous() for name, tensor in checkpoint.tensors.items()
    }
    facts = json.dumps(checkpoint.facts, allow_nan=False, sort_keys=True)
    metadata = {
        "kind": checkpoint.kind,
        "facts": facts,
        "sha256": _digest(checkpoint.kind, tensors, facts),
    }
    write_atomically(path, save(tensors, metadata))


def read_checkpoint(path: Path, kind: str) -> Checkpoint:
    """What `write_checkpoint` put there.

    Raises `CheckpointNotFound`, `CheckpointCorrupt`, or `CheckpointMismatch` where it is of another
    kind.
    """
    if not path.exists():
        raise CheckpointNotFound(path)
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        found, facts, digest = metadata["kind"], metadata["facts"], metadata["sha256"]
        content = json.loads(facts)
    except (SafetensorError, OSError, KeyError, ValueError) as error:
        raise CheckpointCorrupt(path, f"not a checkpoint ({error})") from error
    if digest != _digest(found, tensors, facts):
        raise CheckpointCorrupt(path, "its content does not have the SHA-256 that it names")
    if found != kind:
        raise CheckpointMismatch(path, f"it is a checkpoint of a {found}, not of a {kind}")
    return Checkpoint(found, tensors, content)


def write_atomically(path: Path, data: bytes) -> None:
    """Puts `data` at `path` so that a crash leaves the old content or the new. Raises OSError."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        with partial.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        partial.replace(path)
    except OSError:
        with contextlib.suppress(OSError):
            partial.unlink(missing_ok=True)
        raise
    _sync_folder(path.parent)


def _sync_folder(folder: Path) -> None:
    """Forces the rename to disk: a file's name is its folder's content."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _digest(kind: str, tensors: dict[str, Tensor], facts: str) -> str:
    digest = hashlib.sha256(f"{kind}\n{facts}\n".encode())
    for name in sorted(tensors):
        tensor = tensors[name]
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        digest.update(tensor.contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()
