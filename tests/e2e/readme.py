"""The README's commands, as a reader would copy them."""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
DEMO = "make demo"


def commands() -> list[str]:
    """The lines of the README's shell blocks, in order."""
    blocks = re.findall(r"^```sh\n(.*?)^```$", (ROOT / "README.md").read_text(), re.M | re.S)
    return [line for block in blocks for line in block.splitlines() if line.strip()]


def compose_commands() -> list[str]:
    """Those that run containers."""
    return [line for line in commands() if line.startswith("docker compose")]


def local_commands() -> list[str]:
    """Those that run on this machine."""
    return [line for line in commands() if not line.startswith("docker compose")]
