"""A certificate authority for one stack, and what it hands to each member: files in a folder each.

A member gets a certificate with its key, the authority's own certificate, and, where it calls
others, a token; a service also gets the list of the tokens that it takes, by their digests. The
authority's key stays in the folder above, which no service needs to see.

A new token is in every list before it is in the file of its member, and a list gains no other: what
was killed in between leaves nobody locked out, and a line that somebody deleted does not come back.
"""

from __future__ import annotations

import datetime
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec

from leyline import signing
from leyline.channel import CA, CERTIFICATE, KEY, TOKEN, TOKENS, CredentialsError
from leyline.secret import digest, new_token, write_secret, write_whole
from leyline.tokens import TokenList

AUTHORITY_KEY: Final = "ca-key.pem"
AUTHORITY: Final = "authority"
"""Whose certificate `issued` lists first."""

AUTHORITY_DAYS: Final = 3650
MEMBER_DAYS: Final = 398
"""No longer than browsers and other strict clients accept."""
RENEWAL_DAYS: Final = 30
"""How long before its end a certificate is replaced by `Authority.supply`."""
ALARM_DAYS: Final = 21
"""How long before its end somebody should hear that it was not."""


@dataclass(frozen=True)
class Member:
    """Somebody in a stack.

    Attributes:
        scopes: of its token; empty where it calls nobody.
        serves: whether others call it.
    """

    scopes: tuple[str, ...] = ()
    serves: bool = False


MEMBERS: Final[Mapping[str, Member]] = {
    "kasmina": Member(("trainer",), serves=True),
    "tamiyo": Member(("policy",), serves=True),
    "simic": Member(serves=True),
    "operator": Member(("operator",)),
    # Reads metrics, for which nobody needs a token.
    "prometheus": Member(),
}


@dataclass(frozen=True)
class _Papers:
    """What a member gets next, as the content of its files; no token where it calls nobody."""

    key: bytes
    certificate: bytes
    token: bytes | None


class Authority:
    """An authority whose certificate and key are in a folder."""

    def __init__(self, folder: Path) -> None:
        """Take the authority of a folder up.

        Raises:
            CredentialsError: there is none.
            OSError: it cannot be read.
        """
        self._folder = folder
        try:
            self._pem = (folder / CA).read_bytes()
            self._certificate = x509.load_pem_x509_certificate(self._pem)
            key = serialization.load_pem_private_key((folder / AUTHORITY_KEY).read_bytes(), None)
        except FileNotFoundError as error:
            raise CredentialsError(
                f"{error.filename} is not there: leyline certs init {folder} makes an authority"
            ) from None
        except ValueError as error:
            raise CredentialsError(f"{folder} holds no authority: {error}") from None
        if not isinstance(key, ec.EllipticCurvePrivateKey):
            raise CredentialsError(f"the key in {folder / AUTHORITY_KEY} is of another kind")
        if key.public_key() != self._certificate.public_key():
            raise CredentialsError(f"the key in {folder / AUTHORITY_KEY} is another authority's")
        self._key = key

    @classmethod
    def made(cls, folder: Path) -> Authority:
        """Take the authority of a folder up; make it where there is none yet.

        Raises:
            CredentialsError: there is half of one, or another kind.
            OSError: it cannot be read or written.
        """
        if (folder / CA).exists():
            return cls(folder)
        key = signing.new_key()
        certificate = signing.authority(key, "leyline authority", AUTHORITY_DAYS)
        folder.mkdir(parents=True, exist_ok=True)
        # The certificate last: where it is, all of it is.
        write_secret(folder / AUTHORITY_KEY, signing.pem_of_key(key))
        write_whole(folder / CA, signing.pem_of(certificate))
        return cls(folder)

    def supply(self, hosts: Sequence[str] = ()) -> None:
        """Give certificates and tokens to the members that have none, or none that lasts.

        Args:
            hosts: as for `issue`; a certificate that lacks one of them does not last.

        Raises:
            CredentialsError: as for `issue`.
            OSError: a file cannot be read or written.
        """
        self._check_end()
        lasts = datetime.datetime.now(datetime.UTC) + datetime.timedelta(days=RENEWAL_DAYS)
        # One that ends with its authority cannot be replaced by a better one.
        lasts = min(lasts, self._certificate.not_valid_after_utc)
        lists = self._lists()
        wanting = [name for name in MEMBERS if not self._lasts(name, hosts, lasts, lists)]
        if wanting:
            self.issue(hosts, wanting)

    def _lasts(
        self, name: str, hosts: Sequence[str], until: datetime.datetime, lists: Sequence[TokenList]
    ) -> bool:
        """Whether a member has all its files, and they go together and with those of others."""
        folder, member = self._folder / name, MEMBERS[name]
        try:
            key = serialization.load_pem_private_key((folder / KEY).read_bytes(), None)
            certificate = x509.load_pem_x509_certificate((folder / CERTIFICATE).read_bytes())
            certificate.verify_directly_issued_by(self._certificate)
            ca = (folder / CA).read_bytes()
        except (FileNotFoundError, TypeError, ValueError, InvalidSignature):
            return False
        wanted = {*map(signing.normal, hosts)} if member.serves else set()
        if member.scopes:
            token = self._token(name)
            if token is None or not all(tokens.takes(token) for tokens in lists):
                return False
        return (
            ca == self._pem
            and key.public_key() == certificate.public_key()
            and certificate.not_valid_after_utc >= until
            and wanted <= {*signing.names_of(certificate)}
        )

    def issue(
        self,
        hosts: Sequence[str] = (),
        members: Collection[str] = MEMBERS,
        *,
        forget_hosts: bool = False,
    ) -> None:
        """Give members new certificates and tokens; what they had holds until it expires.

        The tokens of before stay in the lists of the services until the next time, so that whoever
        has not read the new one yet is let in.

        Args:
            hosts: names and IP addresses of the services beside their own names, this machine, and
                what their certificates were for until now.
            members: who.
            forget_hosts: leave out what their certificates were for until now.

        Raises:
            CredentialsError: the authority has ended, or a service would not take its list.
            OSError: a file cannot be read or written.
        """
        self._check_end()
        for name in members:
            (self._folder / name).mkdir(exist_ok=True)
        lists = self._lists()
        papers = {name: self._papers(name, hosts, forget_hosts) for name in members}
        for name, each in papers.items():
            if each.token is not None:
                for tokens in lists:
                    scopes = MEMBERS[name].scopes
                    tokens.renew(name, scopes, self._token(name), digest(each.token))
        for tokens in lists:
            tokens.write()
        for name, each in papers.items():
            self._hand(name, each)

    def revoke(self, name: str) -> None:
        """Take back every token by a name at once; a member gets another, and a certificate.

        Raises:
            CredentialsError: nobody has a token by that name; or as for `issue`.
            OSError: a file cannot be read or written.
        """
        is_member = name in MEMBERS and bool(MEMBERS[name].scopes)
        shown = self._token(name) if is_member else None
        lists = self._lists()
        found = [tokens.revoke(name, shown) for tokens in lists]
        if not any(found) and not is_member:
            raise CredentialsError(f"no service in {self._folder} takes a token of {name!r}")
        for tokens in lists:
            tokens.write()
        if is_member:
            self.issue(members=[name])

    def _check_end(self) -> None:
        end = self._certificate.not_valid_after_utc
        if end <= datetime.datetime.now(datetime.UTC):
            raise CredentialsError(
                f"the authority in {self._folder} ended on {end:%Y-%m-%d}: remove"
                f" {self._folder / CA}, and leyline certs init {self._folder} makes another"
            )

    def _lists(self) -> list[TokenList]:
        """Those of the services that are there."""
        folders = [self._folder / name for name, member in MEMBERS.items() if member.serves]
        return [TokenList(folder / TOKENS) for folder in folders if folder.exists()]

    def _token(self, name: str) -> str | None:
        """SHA-256 of the token that a member shows."""
        path = self._folder / name / TOKEN
        return digest(path.read_bytes()) if path.exists() else None

    def _papers(self, name: str, hosts: Sequence[str], forget_hosts: bool) -> _Papers:
        member = MEMBERS[name]
        key = signing.new_key()
        names = [name]
        if member.serves:
            had = () if forget_hosts else signing.names_in(self._folder / name / CERTIFICATE)
            names += ["localhost", "127.0.0.1", "::1", *had, *map(signing.normal, hosts)]
        certificate = signing.member(
            (self._certificate, self._key),
            key.public_key(),
            names,
            MEMBER_DAYS,
            serves=member.serves,
        )
        return _Papers(
            signing.pem_of_key(key),
            signing.pem_of(certificate),
            new_token() if member.scopes else None,
        )

    def _hand(self, name: str, papers: _Papers) -> None:
        folder = self._folder / name
        # The key first: a service that reads in between finds a pair that does not fit, keeps the
        # old one, and reads again.
        write_secret(folder / KEY, papers.key)
        write_whole(folder / CERTIFICATE, papers.certificate)
        write_whole(folder / CA, self._pem)
        if papers.token is not None:
            write_secret(folder / TOKEN, papers.token)


@dataclass(frozen=True)
class Issued:
    """A certificate as it is.

    Attributes:
        names: whom it is for.
        expires: when.
    """

    member: str
    names: tuple[str, ...]
    expires: datetime.datetime

    @property
    def left(self) -> datetime.timedelta:
        """How long it lasts from now on."""
        return self.expires - datetime.datetime.now(datetime.UTC)


def issued(folder: Path) -> list[Issued]:
    """The certificates in an authority's folder, its own first.

    Raises:
        CredentialsError: there is none.
    """
    Authority(folder)
    found = [_issued(AUTHORITY, folder / CA)]
    for name in MEMBERS:
        path = folder / name / CERTIFICATE
        if path.exists():
            found.append(_issued(name, path))
    return found


def _issued(member: str, path: Path) -> Issued:
    certificate = x509.load_pem_x509_certificate(path.read_bytes())
    return Issued(member, signing.names_of(certificate), certificate.not_valid_after_utc)
