"""`killed COMMAND FOLDER COPIES`: runs `leyline certs` on copies of a folder, and kills each run at
another write.
"""

from __future__ import annotations

import itertools
import os
import shutil
import signal
import sys
from pathlib import Path
from typing import Any

from leyline.cli.application import run


def _kill_at(write: int) -> None:
    """Have this process killed when that write is complete in a draft, and nowhere else."""
    writes = itertools.count()
    sync = os.fsync

    def killing(file: Any) -> None:
        sync(file)
        if next(writes) == write:
            os.kill(os.getpid(), signal.SIGKILL)

    os.fsync = killing  # type: ignore[assignment]


def main(command: str, folder: Path, copies: Path) -> None:
    for write in itertools.count():
        copy = copies / str(write)
        if folder.exists():
            shutil.copytree(folder, copy)
        child = os.fork()
        if not child:
            _kill_at(write)
            os._exit(run(["certs", command, str(copy)]))
        _, status = os.waitpid(child, 0)
        if not os.WIFSIGNALED(status):
            shutil.rmtree(copy)
            sys.exit(os.waitstatus_to_exitcode(status))


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]), Path(sys.argv[3]))
