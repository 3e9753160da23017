"""A channel whose certificates and token are files: replaced there, they are replaced here."""

from __future__ import annotations

import asyncio
import ipaddress
import os
import re
import ssl
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from types import TracebackType
from typing import Any, Self
from weakref import WeakKeyDictionary, WeakSet

import grpc
import grpc.aio

from leyline.renewal import Renewed

_BEARER = re.compile(r"[A-Za-z0-9._~+/-]+=*")
"""RFC 6750, section 2.1."""

CERTIFICATE, KEY, CA, TOKEN, TOKENS = "certificate.pem", "key.pem", "ca.pem", "token", "tokens"
"""The files of a member's folder: what it shows, whom it trusts, and which tokens it takes."""

Options = Sequence[tuple[str, int | str]]
Method = Callable[[grpc.aio.Channel], Any]
Metadata = Sequence[tuple[str, str | bytes]]


class CredentialsError(Exception):
    """A certificate or a token cannot be used. The text says which, and why."""


@dataclass(frozen=True)
class Credentials:
    """Whom a client trusts, and what it shows. All are files."""

    ca: Path | None = None
    """PEM certificates that sign the server's. None: plain text."""
    certificate: Path | None = None
    """PEM certificate to show; with `key`, where a server asks for one."""
    key: Path | None = None
    """Its PEM private key."""
    token: Path | None = None
    """Bearer token that calls carry (RFC 6750)."""

    @property
    def files(self) -> tuple[Path, ...]:
        """Those of TLS."""
        files = (self.ca, self.certificate, self.key)
        return tuple(file for file in files if file is not None)

    def of_tls(self) -> grpc.ChannelCredentials:
        """What the files hold now.

        Raises:
            CredentialsError: one of them cannot be read or is not PEM, or the key is another's.
        """
        ca, key, certificate = (
            None if file is None else _read(file) for file in (self.ca, self.key, self.certificate)
        )
        # gRPC takes any bytes, and fails at each handshake.
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        if self.ca is not None:
            try:
                context.load_verify_locations(self.ca)
            except OSError as error:
                raise CredentialsError(f"{self.ca} holds no PEM certificates: {error}") from None
        if self.certificate is not None or self.key is not None:
            if self.certificate is None or self.key is None:
                raise CredentialsError("a certificate is shown with its key: give both or neither")
            try:
                # The empty password: nobody is there to be asked for one.
                context.load_cert_chain(self.certificate, self.key, password="")
            except OSError as error:
                raise CredentialsError(
                    f"{self.certificate} and {self.key} are no PEM certificate with its key:"
                    f" {error}"
                ) from None
        return grpc.ssl_channel_credentials(ca, key, certificate)

    @classmethod
    def in_folder(cls, folder: Path) -> Credentials:
        """Those of a member of a stack: a folder that `leyline certs` made."""
        token = folder / TOKEN
        return cls(
            ca=folder / CA,
            certificate=folder / CERTIFICATE,
            key=folder / KEY,
            # Who calls nobody has none.
            token=token if token.exists() else None,
        )


NO_CREDENTIALS = Credentials()
"""Plain text, and nothing to show."""


def own_token() -> Path:
    """Where the token is by which the services of `leyline up` know their user.

    Raises:
        CredentialsError: this user has no home.
    """
    try:
        state = os.environ.get("XDG_STATE_HOME") or Path.home() / ".local" / "state"
    except RuntimeError as error:
        raise CredentialsError(f"{error} Set HOME or XDG_STATE_HOME") from None
    return Path(state) / "leyline" / "token"


def has_own_token() -> bool:
    """Whether it is there.

    Raises:
        CredentialsError: this user may not look, as where HOME is another's.
    """
    token = own_token()
    try:
        return token.exists()
    except OSError as error:
        raise CredentialsError(
            f"{token} cannot be looked for: {error.strerror}; HOME or XDG_STATE_HOME must be a"
            " folder of this user's"
        ) from None


def plain_text(target: str, *, with_token: bool) -> Options:
    """The options of a channel in plain text.

    Args:
        target: where it leads.
        with_token: whether its calls carry one.

    Raises:
        CredentialsError: the token would leave this machine.
    """
    if _is_here(target):
        # gRPC goes by http_proxy even to this machine, and the proxy would read the token.
        return (("grpc.enable_http_proxy", 0),)
    if with_token:
        raise CredentialsError(
            f"the token would go to {target} in plain text; name the certificates that sign the"
            " server's, or leave the token out"
        )
    return ()


class _Line:
    """A channel of gRPC's with what the files held at one time, and its calls."""

    def __init__(self, channel: grpc.aio.Channel) -> None:
        self.channel = channel
        self.calls: WeakSet[Any] = WeakSet()
        # Here and not with those who call: each of them keeps the channel from being collected.
        self._methods: WeakKeyDictionary[Method, Any] = WeakKeyDictionary()

    def begin(self, method: Method, request: tuple[Any, ...], settings: dict[str, Any]) -> Any:
        made = self._methods.get(method)
        if made is None:
            made = self._methods[method] = method(self.channel)
        call = made(*request, **settings)
        self.calls.add(call)
        return call

    @property
    def is_busy(self) -> bool:
        return any(not call.done() for call in self.calls)


class FileChannel(grpc.aio.Channel):
    """Calls go over a channel of gRPC's with what the files hold when they begin.

    Those that are open go on over the one that they have begun on. A file that cannot be used later
    changes nothing: whoever replaces several of them does it one after the other.
    """

    def __init__(
        self,
        target: str,
        credentials: Credentials,
        options: Options,
        told: Callable[[Exception | None], None] = lambda problem: None,
        interceptors: Sequence[grpc.aio.ClientInterceptor] = (),
    ) -> None:
        """Open a channel.

        Args:
            target: any of gRPC's.
            credentials: in files that may be replaced. Where they have no token, and the target is
                on this machine, the user's own is shown, if there is one.
            options: of the channel.
            told: hears None when files that were replaced are used or, once for each change, why
                they cannot be.
            interceptors: surround its calls.

        Raises:
            CredentialsError: a file cannot be used, or the token would leave this machine in plain
                text.
        """
        if credentials.token is None and _is_here(target) and has_own_token():
            credentials = replace(credentials, token=own_token())
        self._target = target
        self._credentials = credentials
        self._options = list(options)
        self._interceptors = interceptors

        def tell(_made: object, problem: Exception | None) -> None:
            told(problem)

        self._headers = Renewed((credentials.token,), self._bearer, CredentialsError, tell)
        self._lines = Renewed(credentials.files, self._made, CredentialsError, tell)
        self._line = self._lines.now()
        self._replaced: list[_Line] = []

    def unary_unary(self, method: str, *arguments: Any, **options: Any) -> Any:
        return self._calling("unary_unary", method, arguments, options)

    def unary_stream(self, method: str, *arguments: Any, **options: Any) -> Any:
        return self._calling("unary_stream", method, arguments, options)

    def stream_unary(self, method: str, *arguments: Any, **options: Any) -> Any:
        return self._calling("stream_unary", method, arguments, options)

    def stream_stream(self, method: str, *arguments: Any, **options: Any) -> Any:
        return self._calling("stream_stream", method, arguments, options)

    def _calling(
        self, kind: str, method: str, arguments: tuple[Any, ...], options: dict[str, Any]
    ) -> Any:
        """What makes calls of a method, each over the channel of that moment."""

        def made(channel: grpc.aio.Channel) -> Any:
            return getattr(channel, kind)(method, *arguments, **options)

        def call(*request: Any, metadata: Metadata | None = None, **settings: Any) -> Any:
            said = (*(metadata or ()), *self._headers.now())
            return self._now().begin(made, request, {**settings, "metadata": said or None})

        return call

    def _now(self) -> _Line:
        """The channel of what the files hold."""
        line = self._lines.now()
        if line is not self._line:
            replaced, self._line = self._line, line
            self._replaced.append(replaced)
            for call in replaced.calls:
                call.add_done_callback(self._let_go)
            self._let_go()
        return line

    def _let_go(self, _ended: object = None) -> None:
        """Forget channels that were replaced, each with the last of its calls: gRPC closes what
        nobody holds. Closed before, they would cancel the calls, and the tasks that wait for them.
        """
        self._replaced = [line for line in self._replaced if line.is_busy]

    def _bearer(self) -> Metadata:
        file = self._credentials.token
        if file is None:
            return ()
        token = _read(file).decode(errors="replace").strip()
        if not _BEARER.fullmatch(token):
            raise CredentialsError(f"{file} holds no bearer token on one line")
        return (("authorization", f"Bearer {token}"),)

    def _made(self) -> _Line:
        settings: Any = {"options": self._options, "interceptors": self._interceptors}
        if self._credentials.ca is None:
            with_token = self._credentials.token is not None
            plain = plain_text(self._target, with_token=with_token)
            settings["options"] = [*self._options, *plain]
            return _Line(grpc.aio.insecure_channel(self._target, **settings))
        credentials = self._credentials.of_tls()
        return _Line(grpc.aio.secure_channel(self._target, credentials, **settings))

    async def close(self, grace: float | None = None) -> None:
        """Close it, and what is left of those before."""
        lines = (*self._replaced, self._line)
        await asyncio.gather(*(line.channel.close(grace) for line in lines))

    def get_state(self, try_to_connect: bool = False) -> grpc.ChannelConnectivity:
        return self._line.channel.get_state(try_to_connect)

    async def wait_for_state_change(self, last_observed_state: grpc.ChannelConnectivity) -> None:
        await self._line.channel.wait_for_state_change(last_observed_state)

    async def channel_ready(self) -> None:
        await self._line.channel.channel_ready()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self.close()


def is_loopback(host: str) -> bool:
    """Whether only this machine can reach a host: 127.0.0.0/8, ::1, or localhost."""
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        # Any other name may resolve to anything, also tomorrow to something else than today.
        return False


def _is_here(target: str) -> bool:
    return target.startswith("unix:") or is_loopback(target.rpartition(":")[0].strip("[]"))


def _read(file: Path) -> bytes:
    try:
        return file.read_bytes()
    except OSError as error:
        raise CredentialsError(f"{file} cannot be read: {error.strerror}") from None
