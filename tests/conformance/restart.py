"""Ends a server by SIGTERM and starts it again: what a tester gives as --restart-cmd.

python -m tests.conformance.restart PID_FILE COMMAND...
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from pathlib import Path


def main(pid_file: Path, command: list[str]) -> None:
    if pid_file.exists():
        pid = int(pid_file.read_text())
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGTERM)
        while _runs(pid):
            time.sleep(0.02)
    started = subprocess.Popen(
        command,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    pid_file.write_text(str(started.pid))


def _runs(pid: int) -> bool:
    """Whether a process is there and not just waited for by its parent, as /proc says."""
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except FileNotFoundError:
        return False
    return state != "Z"


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2:])
