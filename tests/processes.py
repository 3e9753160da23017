"""What the kernel says of processes."""

from __future__ import annotations

from pathlib import Path


def memory_mib(pid: int) -> float:
    """Memory of a process that is its own: not shared with a file (proc_pid_status(5))."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("RssAnon:"):
            return int(line.split()[1]) / 1024
    raise AssertionError("no RssAnon in /proc: the process has ended")


def processes_told(*words: str) -> list[int]:
    """Processes whose command lines have all of these words, a folder's name say."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                command = (entry / "cmdline").read_bytes()
            except OSError:
                continue
            if all(word.encode() in command for word in words):
                found.append(int(entry.name))
    return found
