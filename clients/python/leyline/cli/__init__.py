"""The `leyline` command."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from leyline.installation import InstallationError, check_packages


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; returns its exit code: 0 done, 1 failed, 2 asked for wrongly."""
    try:
        check_packages()
    except InstallationError as error:
        print(f"leyline: {error}", file=sys.stderr)
        return 1
    # Only now, because it imports our packages.
    from leyline.cli.application import run

    return run(sys.argv[1:] if arguments is None else list(arguments))
