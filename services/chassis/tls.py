"""TLS credentials out of PEM files, checked before anything listens or dials.

gRPC takes any bytes and fails at the first handshake, with a line in its own log; so what can be
known of the files is said here, by name.
"""

from __future__ import annotations

import ssl
from pathlib import Path

import grpc

from chassis.process import ConfigurationError


def server_credentials(
    certificate: Path, key: Path, client_ca: Path | None
) -> grpc.ServerCredentials:
    """Read a server's certificate and key; with ``client_ca``, clients must show theirs.

    Raises:
        ConfigurationError: a file cannot be read, is not PEM, or the key is another's.
    """
    chain = _key_pair(certificate, key)
    return grpc.ssl_server_credentials(
        [chain],
        root_certificates=_authorities(client_ca) if client_ca else None,
        require_client_auth=client_ca is not None,
    )


def server_context(certificate: Path, key: Path, client_ca: Path | None) -> ssl.SSLContext:
    """Read the same for a server that speaks TLS by the standard library.

    Raises:
        ConfigurationError: a file cannot be read, is not PEM, or the key is another's.
    """
    _key_pair(certificate, key)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    if client_ca is not None:
        _authorities(client_ca)
        context.load_verify_locations(client_ca)
        context.verify_mode = ssl.CERT_REQUIRED
    return context


def channel_credentials(
    ca: Path, certificate: Path | None, key: Path | None
) -> grpc.ChannelCredentials:
    """Read the authorities that a client trusts, and the certificate that it shows, if any.

    Raises:
        ConfigurationError: a file cannot be read, is not PEM, or the key is another's.
    """
    own_key, own_chain = _key_pair(certificate, key) if certificate and key else (None, None)
    return grpc.ssl_channel_credentials(_authorities(ca), own_key, own_chain)


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
