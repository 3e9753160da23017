"""What an authority signs: certificates by X.509 (RFC 5280), with keys on the curve P-256."""

from __future__ import annotations

import datetime
import ipaddress
from collections.abc import Iterable
from pathlib import Path
from typing import Final

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

_CLOCK_SKEW: Final = datetime.timedelta(minutes=5)


def new_key() -> ec.EllipticCurvePrivateKey:
    """A private key."""
    return ec.generate_private_key(ec.SECP256R1())


def pem_of_key(key: ec.EllipticCurvePrivateKey) -> bytes:
    """A private key as the content of a file."""
    return key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )


def pem_of(certificate: x509.Certificate) -> bytes:
    """A certificate as the content of a file."""
    return certificate.public_bytes(serialization.Encoding.PEM)


def authority(key: ec.EllipticCurvePrivateKey, name: str, days: int) -> x509.Certificate:
    """The certificate of an authority, which signs those of members and of no other authority."""
    end = datetime.datetime.now(datetime.UTC) + datetime.timedelta(days=days)
    return (
        _builder(_name(name), _name(name), key.public_key(), end)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(_key_usage(signs_certificates=True), critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .sign(key, hashes.SHA256())
    )


def member(
    signer: tuple[x509.Certificate, ec.EllipticCurvePrivateKey],
    key: ec.EllipticCurvePublicKey,
    names: Iterable[str],
    days: int,
    *,
    serves: bool,
) -> x509.Certificate:
    """A certificate for whoever has a key. It does not outlive its authority.

    Args:
        signer: certificate and key of the authority.
        key: the member's.
        names: names and IP addresses that it is for, its own first.
        days: how long it lasts.
        serves: whether it is also for servers.
    """
    issuer, issuer_key = signer
    names = list(dict.fromkeys(names))
    end = datetime.datetime.now(datetime.UTC) + datetime.timedelta(days=days)
    uses = [ExtendedKeyUsageOID.CLIENT_AUTH]
    uses += [ExtendedKeyUsageOID.SERVER_AUTH] if serves else []
    return (
        _builder(_name(names[0]), issuer.subject, key, min(end, issuer.not_valid_after_utc))
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(_key_usage(signs_certificates=False), critical=True)
        .add_extension(x509.ExtendedKeyUsage(uses), critical=False)
        .add_extension(x509.SubjectAlternativeName(map(_alternative, names)), critical=False)
        .add_extension(
            x509.AuthorityKeyIdentifier.from_issuer_public_key(issuer_key.public_key()),
            critical=False,
        )
        .sign(issuer_key, hashes.SHA256())
    )


def names_of(certificate: x509.Certificate) -> tuple[str, ...]:
    """Whom a certificate is for."""
    try:
        extension = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName)
    except x509.ExtensionNotFound:
        return ()
    return tuple(str(name.value) for name in extension.value)


def names_in(file: Path) -> tuple[str, ...]:
    """The same of a file; nobody, where it holds no certificate."""
    try:
        return names_of(x509.load_pem_x509_certificate(file.read_bytes()))
    except (FileNotFoundError, ValueError):
        return ()


def normal(host: str) -> str:
    """A name or an address as a certificate has it."""
    return str(_alternative(host).value)


def _name(common: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common)])


def _alternative(name: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(name))
    except ValueError:
        return x509.DNSName(name)


def _builder(
    subject: x509.Name, issuer: x509.Name, key: ec.EllipticCurvePublicKey, end: datetime.datetime
) -> x509.CertificateBuilder:
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(datetime.datetime.now(datetime.UTC) - _CLOCK_SKEW)
        .not_valid_after(end)
    )


def _key_usage(*, signs_certificates: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not signs_certificates,
        key_cert_sign=signs_certificates,
        crl_sign=signs_certificates,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        encipher_only=False,
        decipher_only=False,
    )
