"""What a grown network's file says of itself, read without torch.

A safetensors file begins with the length of its header (8 bytes, little endian) and the header as
JSON: https://huggingface.co/docs/safetensors. Kasmina puts the network's manifest into its
metadata.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

KIND = "grown network"
_LENGTH_BYTES = 8
_LONGEST_HEADER = 100_000_000  # what safetensors itself admits


class NoNetwork(Exception):
    """A file is no grown network. Its text says why."""

    def __init__(self, path: Path, why: str) -> None:
        super().__init__(
            f"{path} is not the safetensors file of a grown network: {why}; "
            f"`leyline run export RUN EPISODE` writes one"
        )
        self.path = path


def read_manifest(path: Path) -> dict[str, Any]:
    """Return the manifest: host, images, classes, slots and what grew there, where it comes from.

    Raises:
        OSError: the file cannot be read.
        NoNetwork: it is another kind of file.
    """
    with path.open("rb") as file:
        length = int.from_bytes(file.read(_LENGTH_BYTES), "little")
        if not 2 <= length <= min(_LONGEST_HEADER, path.stat().st_size - _LENGTH_BYTES):
            raise NoNetwork(path, "it has no header")
        try:
            header = json.loads(file.read(length))
            metadata = header.get("__metadata__", {})
            kind, manifest = metadata.get("kind"), json.loads(metadata.get("facts", "null"))
        except (ValueError, AttributeError) as error:
            raise NoNetwork(path, f"its header is not to be read ({error})") from None
    if kind != KIND or not isinstance(manifest, dict):
        raise NoNetwork(path, f"it is {f'a {kind}' if kind else 'of another program'}")
    return manifest
