"""TLS credentials out of PEM files, checked before anything listens or dials.

gRPC takes any bytes and fails at the first handshake, with a line in its own log; so what can be
known of the files is said here, by name.
"""

from __future__ import annotations

import ssl
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

import grpc

from chassis import expiry
from chassis.logging import get_logger
from chassis.process import ConfigurationError
from leyline.renewal import Renewed

Made = TypeVar("Made")

_log = get_logger(__name__)


def _renewed(
    certificate: Path, key: Path, client_ca: Path | None, make: Callable[[], Made]
) -> Renewed[Made]:
    def told(_made: Made | None, error: Exception | None) -> None:
        if error is None:
            _log.info("certificates read")
        else:
            _log.error("certificates not read", problem=str(error))

    return Renewed((certificate, key, client_ca), make, ConfigurationError, told)


def server_credentials(
    certificate: Path, key: Path, client_ca: Path | None
) -> grpc.ServerCredentials:
    """Read a server's certificate and key; with ``client_ca``, clients must show theirs.

    Files that are replaced later count from the next connection on.

    Raises:
        ConfigurationError: a file cannot be read, is not PEM, or the key is another's.
    """

    def configuration() -> Any:
        authorities = _authorities(client_ca) if client_ca else None
        pair = _key_pair(certificate, key)
        expiry.warn(certificate, pair[1])
        if client_ca is not None and authorities is not None:
            expiry.warn(client_ca, authorities)
        return grpc.ssl_server_certificate_configuration([pair], root_certificates=authorities)

    renewed = _renewed(certificate, key, client_ca, configuration)
    first = last = renewed.now()

    def changed() -> Any:
        nonlocal last
        before, last = last, renewed.now()
        # None says that nothing has.
        return None if last is before else last

    return grpc.dynamic_ssl_server_credentials(first, changed, client_ca is not None)


def server_contexts(
    certificate: Path, key: Path, client_ca: Path | None
) -> Callable[[], ssl.SSLContext]:
    """Read the same for a server that speaks TLS by the standard library; what gives the context
    of a connection.

    Raises:
        ConfigurationError: a file cannot be read, is not PEM, or the key is another's.
    """

    def made() -> ssl.SSLContext:
        _key_pair(certificate, key)
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(certificate, key)
        if client_ca is not None:
            _authorities(client_ca)
            context.load_verify_locations(client_ca)
            context.verify_mode = ssl.CERT_REQUIRED
        return context

    return _renewed(certificate, key, client_ca, made).now


def ends(
    certificate: Path | None, key: Path | None, client_ca: Path | None, peer_ca: Path | None
) -> Callable[[], Mapping[str, float]]:
    """Read a server's files; what gives the ends of their certificates, by the names of its
    settings, in seconds since 1970. Files that cannot be used change nothing, as they change
    nothing for the server.

    Raises:
        ConfigurationError: a file cannot be read, is not PEM, or the key is another's.
    """

    def found() -> Mapping[str, float]:
        shown = _key_pair(certificate, key)[1] if certificate and key else None
        contents = {
            "tls_certificate": shown,
            "tls_client_ca": _authorities(client_ca) if client_ca else None,
            "peer_ca": _authorities(peer_ca) if peer_ca else None,
        }
        return {name: expiry.first_end(pem) for name, pem in contents.items() if pem is not None}

    return Renewed((certificate, key, client_ca, peer_ca), found, ConfigurationError).now


def check(ca: Path, certificate: Path | None, key: Path | None) -> None:
    """Look at a client's files: whom it trusts, and what it shows, if anything.

    Raises:
        ConfigurationError: a file cannot be read, is not PEM, or the key is another's.
    """
    expiry.warn(ca, _authorities(ca))
    if certificate and key:
        _key_pair(certificate, key)


def _key_pair(certificate: Path, key: Path) -> tuple[bytes, bytes]:
    chain_bytes, key_bytes = _read(certificate), _read(key)
    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(certificate, key)
    except ssl.SSLError as error:
        raise ConfigurationError(
            f"{certificate} and {key} are no PEM certificate with its key: {error.reason or error}"
        ) from None
    return key_bytes, chain_bytes


def _authorities(ca: Path) -> bytes:
    content = _read(ca)
    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT).load_verify_locations(ca)
    except ssl.SSLError as error:
        raise ConfigurationError(
            f"{ca} holds no PEM certificates: {error.reason or error}"
        ) from None
    return content


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise ConfigurationError(f"{path} cannot be read: {error.strerror}") from None
