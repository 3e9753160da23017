"""What the kernel says of a process."""

from __future__ import annotations

from pathlib import Path


def memory_mib(pid: int) -> float:
    """Memory of a process that is its own: not shared with a file (proc_pid_status(5))."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("RssAnon:"):
            return int(line.split()[1]) / 1024
    raise AssertionError("no RssAnon in /proc: the process has ended")
