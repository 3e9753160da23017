"""The list of the tokens that a service takes: what `leyline certs` wrote, and others."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from leyline.channel import CredentialsError
from leyline.secret import write_whole

_LINE: Final = re.compile(r"(\S+)\s+(?P<scopes>[a-z,]+)\s+sha256:(?P<digest>[0-9a-f]{64})")
_SCOPES: Final = frozenset(("trainer", "policy", "operator"))
"""Both as the services read them."""


class TokenList:
    """A service's list. A line that `leyline certs` wrote says so in a comment; all others are kept
    as they are.
    """

    def __init__(self, path: Path) -> None:
        """Read a list; one that is not there is empty.

        Raises:
            CredentialsError: the service would not take it.
            OSError: it cannot be read.
        """
        self._path = path
        try:
            self._lines = path.read_text().splitlines() if path.exists() else []
        except UnicodeDecodeError as error:
            raise CredentialsError(f"{path} cannot be read: {error}") from None
        for number, line in enumerate(self._lines, 1):
            fact = _fact(line)
            found = _LINE.fullmatch(fact)
            if fact and not (found and _SCOPES.issuperset(found["scopes"].split(","))):
                raise CredentialsError(f"{path}, line {number}: no service takes it")

    def takes(self, digest: str) -> bool:
        """Whether a token is in the list, by its SHA-256 in hexadecimal digits."""
        return any(_holds(line, digest) for line in self._lines)

    def renew(self, member: str, scopes: Sequence[str], old: str | None, new: str) -> None:
        """Take a member's new token, and the old one if the list takes it; what `leyline certs`
        listed before these goes.

        Args:
            member: whose.
            scopes: of the new one.
            old: SHA-256 of the token that the member has read; None: it has none.
            new: SHA-256 of the other.
        """
        kept = []
        for line in self._lines:
            if _holds(line, old):
                kept.append(line if _is_ours(line, member) else f"{line} {_mark(member)}")
            elif not _is_ours(line, member):
                kept.append(line)
        self._lines = [*kept, f"{member} {','.join(scopes)} sha256:{new} {_mark(member)}"]

    def revoke(self, name: str, shown: str | None) -> bool:
        """Take no token by a name any more. Returns whether there was one.

        Args:
            name: whose.
            shown: SHA-256 of the token of a member by that name, which goes by whatever name.
        """
        kept = [
            line
            for line in self._lines
            if not (_is_by(line, name) or _is_ours(line, name) or _holds(line, shown))
        ]
        found = len(kept) < len(self._lines)
        self._lines = kept
        return found

    def write(self) -> None:
        """Replace the file."""
        write_whole(self._path, "".join(f"{line}\n" for line in self._lines).encode())


def _fact(line: str) -> str:
    return line.partition("#")[0].strip()


def _holds(line: str, digest: str | None) -> bool:
    return digest is not None and _fact(line).endswith(f":{digest}")


def _is_by(line: str, name: str) -> bool:
    return _fact(line).split(maxsplit=1)[:1] == [name]


def _mark(member: str) -> str:
    return f"# leyline certs: {member}"


def _is_ours(line: str, member: str) -> bool:
    return line.rstrip().endswith(_mark(member))
