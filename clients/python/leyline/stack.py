"""The three services as one machine runs them: who listens where, and who is told of whom."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass, fields
from pathlib import Path

from leyline.channel import has_own_token, own_token
from leyline.secret import digest, make_secret, new_token, write_whole
from leyline.supervision import Service, free_address

NAMES = ("simic", "tamiyo", "kasmina")
"""The services, those first that others call."""


@dataclass(frozen=True)
class Addresses:
    """Where the services listen, and where clients find them. The values are the defaults."""

    kasmina: str = "127.0.0.1:50051"
    tamiyo: str = "127.0.0.1:50052"
    simic: str = "127.0.0.1:50053"

    @classmethod
    def free(cls) -> Addresses:
        """Return addresses on loopback that nobody listens on now."""
        chosen: set[str] = set()
        while len(chosen) < len(fields(cls)):
            chosen.add(free_address())
        return cls(*chosen)


def make_own_folder(directory: Path) -> None:
    """Make a folder that nobody else can look into, if it is not there.

    Raises:
        PermissionError: it is there, and another user's, or others may write to it.
    """
    directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    _check_own(directory, "w")


def for_its_user_alone(directory: Path) -> dict[str, str]:
    """Variables by which the services take calls of this user alone, who shows a token.

    Loopback is no wall between the users of one machine. The token is in a file that only its user
    can read, and clients of this library find it there.

    Args:
        directory: of the stack, this user's; gets the list of tokens that its services take.

    Raises:
        CredentialsError: the user's folder for tokens cannot be looked into.
        OSError: the token cannot be made, or others may read or write it.
    """
    token, tokens = own_token(), directory / "tokens"
    if not has_own_token():
        token.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        make_secret(token, new_token())
    _check_own(token, "rw")
    write_whole(tokens, f"you operator sha256:{digest(token.read_bytes())}\n".encode())
    return {
        f"LEYLINE_{name.upper()}_{field}": str(path)
        for name in NAMES
        for field, path in (("TOKENS", tokens), ("PEER_TOKEN", token))
    }


def services(addresses: Addresses, directory: Path, policy: str | None) -> Iterator[Service]:
    """Return what a supervisor runs.

    Args:
        addresses: where each listens.
        directory: each keeps its state in a folder of its name below it.
        policy: name of Tamiyo's policy; None leaves it to Tamiyo's own settings.
    """
    neighbours = {
        "simic": (),
        "tamiyo": (
            *("--registry", addresses.simic),
            *(("--policy", policy) if policy is not None else ()),
        ),
        "kasmina": (
            *("--policy", f"default={addresses.tamiyo}"),
            *("--experience", addresses.simic),
        ),
    }
    for name in NAMES:
        state = ("--state-dir", str(directory / name))
        yield Service(name, getattr(addresses, name), (*state, *neighbours[name]))


def _check_own(path: Path, private: str) -> None:
    """Refuse what another user could have made.

    Args:
        private: what others may not do: "w" or "rw", as chmod has it.
    """
    found = path.stat()
    if found.st_uid != os.geteuid():
        raise PermissionError(f"{path} is another user's, who could change it: use one of your own")
    if found.st_mode & (0o066 if "r" in private else 0o022):
        raise PermissionError(f"{path} is open to other users: chmod go-{private} {path}")
