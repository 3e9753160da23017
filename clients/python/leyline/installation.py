"""Whether what is installed is what should be.

Our packages have plain names (`leyline`, `chassis`, `kasmina`, `tamiyo`, `simic`), and a package
index is full of other people's packages of such names. Where one of them stands in the way, an
import would fail far from the cause, or worse, not fail. Here it is found without importing
anything, and said.
"""

from __future__ import annotations

import base64
import hashlib
import importlib.metadata
import importlib.util
import re
from collections.abc import Iterator
from pathlib import Path

DISTRIBUTION = "leyline-growth"
PACKAGES = ("leyline", "chassis", "kasmina", "tamiyo", "simic")

_OWN_FOLDER = Path(__file__).resolve().parent


class InstallationError(Exception):
    """Something that should be installed is not, or something else is. The text says what to do."""


class ForeignPackage(InstallationError):
    """A package of somebody else's has the name of one of ours."""

    def __init__(self, name: str, origin: Path) -> None:
        self.name = name
        self.origin = origin
        others = [
            other
            for other in importlib.metadata.packages_distributions().get(name, [])
            if other != DISTRIBUTION
        ]
        owner = f", which the distribution {others[0]} installed," if others else ""
        remedy = f"uninstall {others[0]}" if others else "move it away"
        super().__init__(
            f'the Python package "{name}" at {origin}{owner} is not the one of {DISTRIBUTION}: '
            f"{remedy}, then reinstall {DISTRIBUTION}, best in an environment of its own"
        )


class MissingExtra(InstallationError):
    """What an optional part of the distribution needs is not installed."""

    def __init__(self, extra: str, missing: list[str]) -> None:
        self.extra = extra
        self.missing = missing
        super().__init__(
            f"{extra} needs {', '.join(missing)}, which {'is' if len(missing) == 1 else 'are'} "
            f"not installed: pip install '{DISTRIBUTION}[{extra}]'"
        )


def check_packages() -> None:
    """Check that the packages with our names are ours.

    Raises:
        ForeignPackage: one is not.
        InstallationError: one is not there at all.
    """
    for name in PACKAGES:
        spec = importlib.util.find_spec(name)
        if spec is None:
            raise InstallationError(
                f'the Python package "{name}" is missing: reinstall {DISTRIBUTION}'
            )
        origin = Path(spec.origin or next(iter(spec.submodule_search_locations or [""])))
        if not _is_ours(name, origin.resolve()):
            raise ForeignPackage(name, origin)


def _is_ours(name: str, origin: Path) -> bool:
    """Whether the module at an origin is our package of that name."""
    in_checkout = _OWN_FOLDER.parents[2] / "services" / name / "__init__.py"
    beside = _OWN_FOLDER.parent / name / "__init__.py"
    if origin == in_checkout:
        return True
    # Two distributions may have put their files into one folder: ours knows what it put there.
    return origin == beside and _recorded_hash(name) in (None, _hash(origin))


def _hash(file: Path) -> str:
    digest = hashlib.sha256(file.read_bytes()).digest()
    return base64.urlsafe_b64encode(digest).rstrip(b"=").decode()


def _recorded_hash(package: str) -> str | None:
    """Return the hash that our distribution recorded for a package's `__init__.py`, if it did."""
    try:
        files = importlib.metadata.files(DISTRIBUTION)
    except importlib.metadata.PackageNotFoundError:
        return None
    for file in files or []:
        if file.parts == (package, "__init__.py") and file.hash is not None:
            return file.hash.value
    return None


def check_extra(extra: str) -> None:
    """Check that what an extra of our distribution asks for is installed.

    Raises:
        MissingExtra: something is not.
    """
    missing = [name for name in _requirements(extra) if not _is_installed(name)]
    if missing:
        raise MissingExtra(extra, missing)


def _requirements(extra: str) -> Iterator[str]:
    try:
        lines = importlib.metadata.requires(DISTRIBUTION) or []
    except importlib.metadata.PackageNotFoundError:
        return  # a source tree on the import path: whoever put it there looks after the rest
    for line in lines:
        requirement, _, marker = line.partition(";")
        if not re.search(rf"extra == ['\"]{re.escape(extra)}['\"]", marker):
            continue
        matched = re.match(r"\s*([\w.-]+)\s*(?:\[([^]]*)\])?", requirement)
        assert matched, requirement
        if matched[1] == DISTRIBUTION:
            for inner in (matched[2] or "").split(","):
                yield from _requirements(inner.strip())
        else:
            yield matched[1]


def _is_installed(distribution: str) -> bool:
    try:
        importlib.metadata.version(distribution)
    except importlib.metadata.PackageNotFoundError:
        return False
    return True
