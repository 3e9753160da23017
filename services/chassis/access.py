"""Who may call what: bearer tokens (RFC 6750), each for some scopes, which the contract asks for.

A server knows of a token only its SHA-256, so that its file is no secret that opens other doors.
The file is read anew whenever it changes: a token is replaced by adding its successor, handing that
out, and taking the old one away.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path
from typing import Final, TypeAlias

from google.protobuf.descriptor_pool import Default

from chassis.errors import ErrorCode, LeylineError
from chassis.logging import bind_call, get_logger
from chassis.process import ConfigurationError
from leyline.renewal import Renewed
from leyline.v1.access_pb2 import Scope, scopes

HEADER: Final = "authorization"
_SCHEME: Final = "Bearer "
_OPEN_TO_ALL: Final = "/grpc.health.v1.Health/"
_FOR_ANY_TOKEN: Final = (
    "/grpc.reflection.v1alpha.ServerReflection/",
    "/grpc.reflection.v1.ServerReflection/",
)
_LINE = re.compile(r"(?P<name>\S+)\s+(?P<scopes>[a-z,]+)\s+sha256:(?P<digest>[0-9a-f]{64})")

_SCOPES: Final = {
    Scope.Name(scope).removeprefix("SCOPE_").lower(): scope for scope in Scope.values()[1:]
}

Connection: TypeAlias = Callable[[], Mapping[str, Iterable[bytes]]]
"""What TLS knows of the caller, by gRPC's names: ``ServicerContext.auth_context``."""

_log = get_logger(__name__)


@dataclass(frozen=True)
class Caller:
    """Whose token it is.

    Attributes:
        name: as the file of tokens has it, for the log.
        scopes: what it is for.
    """

    name: str
    scopes: frozenset[Scope.ValueType]


class Tokens:
    """The tokens that a server takes, from a file with one a line: name, scopes, digest.

    ``#`` begins a comment. Scopes are ``trainer``, ``policy`` and ``operator``, with commas between
    them; the digest is ``sha256:`` and 64 hexadecimal digits.
    """

    def __init__(self, path: Path, *, certified: bool = False) -> None:
        """Read the file.

        Args:
            path: of the file.
            certified: whether callers show certificates. A token is then taken only from him whose
                certificate has its name, so that whoever is shown a token cannot pass it on as his.

        Raises:
            ConfigurationError: it cannot be read, or a line is not one.
        """
        self._known = Renewed((path,), partial(_read, path), ConfigurationError, _tell)
        self._certified = certified

    def admit(
        self,
        method: str,
        metadata: Iterable[tuple[str, str | bytes]],
        connection: Connection = dict,
    ) -> Caller | None:
        """The caller of ``method``, given as gRPC writes it; every line of the call's log has him.

        None where everybody may call it, and the caller does not say who he is.

        Raises:
            LeylineError: UNAUTHENTICATED without a token that is known, and the caller's own;
                SCOPE_MISSING where the method is not for it.
        """
        if method.startswith(_OPEN_TO_ALL):
            with suppress(LeylineError):
                return self._caller(metadata, connection)
            return None
        caller = self._caller(metadata, connection)
        if not caller.scopes & _scopes_for(method):
            raise LeylineError(
                ErrorCode.SCOPE_MISSING,
                method=method,
                caller=caller.name,
                given=_names(caller.scopes),
            )
        return caller

    def _caller(
        self, metadata: Iterable[tuple[str, str | bytes]], connection: Connection
    ) -> Caller:
        token = _token(metadata)
        if token is None:
            raise LeylineError(ErrorCode.UNAUTHENTICATED, problem="the call carries no token")
        caller = self._known.now().get(hashlib.sha256(token.encode()).hexdigest())
        if caller is None:
            raise LeylineError(ErrorCode.UNAUTHENTICATED, problem="its token is not known here")
        bind_call(caller=caller.name)
        if self._certified and caller.name not in (names := _names_in(connection())):
            bind_call(certificate=", ".join(names))
            raise LeylineError(
                ErrorCode.UNAUTHENTICATED,
                problem=f"its token is for {caller.name!r}, its certificate for somebody else",
            )
        return caller


def _tell(known: Mapping[str, Caller] | None, error: Exception | None) -> None:
    if known is None:
        _log.error("tokens not read", problem=str(error))
    else:
        _log.info("tokens read", callers=len(known))


def _read(path: Path) -> Mapping[str, Caller]:
    """The callers by the digests of their tokens."""
    try:
        lines = path.read_text().splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigurationError(f"the tokens in {path} cannot be read: {error}") from None
    known = {}
    for number, line in enumerate(lines, 1):
        line = line.partition("#")[0].strip()
        if not line:
            continue
        found = _LINE.fullmatch(line)
        named = set(found["scopes"].split(",")) if found else set()
        if found is None or not named <= _SCOPES.keys():
            raise ConfigurationError(
                f"{path}, line {number}: must be a name, scopes out of {', '.join(_SCOPES)}, and"
                " sha256: with 64 hexadecimal digits"
            )
        known[found["digest"]] = Caller(found["name"], frozenset(_SCOPES[each] for each in named))
    return known


def _token(metadata: Iterable[tuple[str, str | bytes]]) -> str | None:
    for key, value in metadata:
        if key == HEADER and isinstance(value, str) and value[:7].lower() == _SCHEME.lower():
            return value[len(_SCHEME) :].strip()
    return None


def _names_in(connection: Mapping[str, Iterable[bytes]]) -> list[str]:
    """Whom a certificate names: by its common name, or where it has none, the alternative ones."""
    common = [name for name in connection.get("x509_common_name", ()) if name]
    names = common or connection.get("x509_subject_alternative_name", ())
    return [name.decode(errors="replace") for name in names]


@cache
def _scopes_for(method: str) -> frozenset[Scope.ValueType]:
    """What the contract asks for; what it does not know is for operators."""
    if method.startswith(_FOR_ANY_TOKEN):
        return frozenset(Scope.values())
    try:
        found = Default().FindMethodByName(method.removeprefix("/").replace("/", "."))
    except KeyError:
        return frozenset((Scope.SCOPE_OPERATOR,))
    return frozenset((*found.GetOptions().Extensions[scopes], Scope.SCOPE_OPERATOR))


def _names(of: Iterable[Scope.ValueType]) -> str:
    return ", ".join(sorted(Scope.Name(scope).removeprefix("SCOPE_").lower() for scope in of))
