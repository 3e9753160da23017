"""Settings of a server, read once from flags and the environment.

A service derives its own class with its own prefix; a setting ``listen`` of prefix
``LEYLINE_TAMIYO_`` is the variable ``LEYLINE_TAMIYO_LISTEN`` and the flag ``--listen``.
"""

from __future__ import annotations

import difflib
import os
from pathlib import Path
from typing import Annotated, Any, Self, TypeVar

from pydantic import Field, PlainSerializer, PlainValidator, ValidationError, model_validator
from pydantic_core import ErrorDetails
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict, SettingsError

from chassis.address import Address
from chassis.channel import ChannelSettings
from chassis.logging import LogFormat, LogLevel
from chassis.process import ConfigurationError
from chassis.transport import DEFAULT_MESSAGE_BYTES, LEAST_KEEPALIVE_S, Transport
from leyline.channel import CA, CERTIFICATE, KEY, TOKEN, TOKENS, Credentials


def _address(value: object) -> Address:
    return value if isinstance(value, Address) else Address.parse(str(value))


def _address_over_tcp(value: object) -> Address | None:
    if value is None:
        return None
    address = _address(value)
    if address.path is not None:
        raise ValueError("must be HOST:PORT")
    return address


def _text(address: Address | None) -> str | None:
    return None if address is None else str(address)


# NoDecode: a variable is the address itself, not JSON.
ListenAddress = Annotated[
    Address, PlainValidator(_address), PlainSerializer(str, return_type=str), NoDecode
]
TcpAddress = Annotated[
    Address | None,
    PlainValidator(_address_over_tcp),
    PlainSerializer(_text, return_type=str | None),
    NoDecode,
]


def settings_config(prefix: str) -> SettingsConfigDict:
    """Give the ``model_config`` of a settings class; ``prefix`` ends in an underscore.

    An empty variable is an unset one, because compose files pass variables on that nobody set.
    """
    return SettingsConfigDict(
        env_prefix=prefix, env_ignore_empty=True, extra="forbid", frozen=True, validate_default=True
    )


class ServerSettings(BaseSettings):
    """What every server can be told.

    Attributes:
        listen: HOST:PORT, [IPV6]:PORT or unix:/absolute/path; port 0 lets the kernel choose.
        metrics_listen: HOST:PORT or [IPV6]:PORT, where ``GET /metrics`` answers Prometheus, over
            HTTPS where gRPC speaks TLS; unset: nowhere.
        trace_endpoint: HOST:PORT or [IPV6]:PORT of a collector that takes traces by OTLP over gRPC,
            over TLS where there is ``peer_ca``; unset: nothing is traced. Needs the extra
            ``tracing``.
        trace_ratio: share of the steps and calls that are traced, from 0 to 1.
        insecure: allow plain text, or calls of whoever comes, on an address that other machines
            reach, and plain text to a collector on another machine.
        credentials: folder that ``leyline certs`` made for this server: each of the six below that
            is unset is the file of it.
        tls_certificate: PEM chain that this server shows; with ``tls_key`` it speaks TLS only.
        tls_key: PEM private key of the certificate.
        tls_client_ca: PEM certificates; given, clients must show one that these have signed.
        tokens: file of the tokens that callers may show, as ``chassis.access`` reads it; unset:
            whoever reaches the server may call everything.
        peer_token: file with the token that this server shows to those that it calls.
        peer_ca: PEM certificates that sign the servers which this one calls; given, it calls them
            over TLS and shows them its own certificate.
        max_message_bytes: largest message in either direction.
        drain_grace_s: seconds that open calls have to end after SIGTERM.
        max_connection_age_s: seconds after which clients have to connect anew.
        max_connection_age_grace_s: seconds that calls on an old connection may go on.
        max_concurrent_rpcs: calls open at once; more are refused, but for health checks. Where the
            server takes tokens, 32 watches of health by callers without one come on top.
        max_concurrent_rpcs_per_caller: the same for one caller, by its token or else its address;
            unset: as many as the server takes.
        calls_per_s_per_caller: calls that one caller may begin in a second, on average over two;
            messages on a stream are not counted; 0: any number.
        default_deadline_s: seconds for a unary call whose client gave no deadline.
        keepalive_s: seconds of silence after which a connection is probed.
        keepalive_timeout_s: seconds to wait for the answer.
        log_level: the least severe that is logged.
        log_format: ``auto`` is ``console`` on a terminal, ``json`` elsewhere.
        port_file: file to write the address into once it is bound, for whoever asked for port 0.
    """

    model_config = settings_config("LEYLINE_")

    listen: ListenAddress
    metrics_listen: TcpAddress = None
    trace_endpoint: TcpAddress = None
    trace_ratio: float = Field(default=0.01, ge=0, le=1)
    insecure: bool = False
    credentials: Path | None = None
    tls_certificate: Path | None = None
    tls_key: Path | None = None
    tls_client_ca: Path | None = None
    tokens: Path | None = None
    peer_token: Path | None = None
    peer_ca: Path | None = None
    max_message_bytes: int = Field(default=DEFAULT_MESSAGE_BYTES, ge=64 * 1024, le=64 * 1024 * 1024)
    drain_grace_s: float = Field(default=10.0, ge=0, le=3600)
    max_connection_age_s: float = Field(default=1800.0, ge=1, le=86400)
    max_connection_age_grace_s: float = Field(default=3600.0, ge=0, le=86400)
    max_concurrent_rpcs: int = Field(default=1024, ge=1, le=100_000)
    max_concurrent_rpcs_per_caller: int | None = Field(default=None, ge=1, le=100_000)
    calls_per_s_per_caller: float = Field(default=0.0, ge=0, le=1_000_000)
    default_deadline_s: float = Field(default=60.0, gt=0, le=3600)
    keepalive_s: float = Field(default=30.0, ge=LEAST_KEEPALIVE_S, le=3600)
    keepalive_timeout_s: float = Field(default=10.0, ge=1, le=600)
    log_level: LogLevel = "info"
    log_format: LogFormat = "auto"
    port_file: Path | None = None

    @classmethod
    def variable(cls, field: str) -> str:
        """Name the environment variable of a field."""
        return f"{cls.model_config.get('env_prefix', '')}{field}".upper()

    @property
    def speaks_tls(self) -> bool:
        """Whether this server has a certificate to show."""
        return self.tls_certificate is not None

    @property
    def transport(self) -> Transport:
        """What this server's connections share with their clients."""
        return Transport(
            max_message_bytes=self.max_message_bytes,
            keepalive_s=self.keepalive_s,
            keepalive_timeout_s=self.keepalive_timeout_s,
        )

    @property
    def peer_credentials(self) -> Credentials:
        """Whom this server trusts when it calls, and what it shows then."""
        return Credentials(
            ca=self.peer_ca,
            certificate=self.tls_certificate if self.peer_ca else None,
            key=self.tls_key if self.peer_ca else None,
            token=self.peer_token,
        )

    def channel(self, target: str) -> ChannelSettings:
        """Give the settings of a channel from this server to another one at ``target``."""
        return ChannelSettings(
            target=target, credentials=self.peer_credentials, transport=self.transport
        )

    @model_validator(mode="before")
    @classmethod
    def _files_of_the_folder(cls, given: dict[str, Any]) -> dict[str, Any]:
        if not given.get("credentials"):
            return given
        folder = Path(given["credentials"])
        token = folder / TOKEN
        found = {
            "tls_certificate": folder / CERTIFICATE,
            "tls_key": folder / KEY,
            "tls_client_ca": folder / CA,
            "peer_ca": folder / CA,
            "tokens": folder / TOKENS,
            # Who calls nobody has none.
            **({"peer_token": token} if token.exists() else {}),
        }
        return {**found, **given}

    @model_validator(mode="after")
    def _certificate_and_key_together(self) -> Self:
        given = {"tls_certificate": self.tls_certificate, "tls_key": self.tls_key}
        missing = [name for name, path in given.items() if path is None]
        if len(missing) == 1:
            raise ValueError(f"{self.variable(missing[0])} is missing: TLS needs both or neither")
        if self.tls_client_ca is not None and missing:
            raise ValueError(
                f"{self.variable('tls_client_ca')} asks clients for certificates, "
                f"which needs {self.variable('tls_certificate')} and {self.variable('tls_key')}"
            )
        return self

    @model_validator(mode="after")
    def _metrics_have_an_address_of_their_own(self) -> Self:
        if self.metrics_listen == self.listen and self.listen.port:
            raise ValueError(
                f"{self.variable('metrics_listen')}={self.listen} is where gRPC listens; metrics"
                " need another port"
            )
        return self

    @model_validator(mode="after")
    def _plain_text_stays_on_this_machine(self) -> Self:
        if self.speaks_tls or self.insecure:
            return self
        for field in ("listen", "metrics_listen"):
            address: Address | None = getattr(self, field)
            if address is not None and not address.is_loopback:
                raise ValueError(
                    f"{self.variable(field)}={address} would take plain text from other machines; "
                    f"set {self.variable('tls_certificate')} and {self.variable('tls_key')}, "
                    "or allow it with --insecure"
                )
        return self

    @model_validator(mode="after")
    def _other_machines_are_asked_who_they_are(self) -> Self:
        asked = self.tokens is not None or self.tls_client_ca is not None
        if not (asked or self.insecure or self.listen.is_loopback):
            raise ValueError(
                f"{self.variable('listen')}={self.listen} would take calls of whoever reaches it;"
                f" set {self.variable('tokens')} or {self.variable('tls_client_ca')}, or allow it"
                " with --insecure"
            )
        return self

    @model_validator(mode="after")
    def _traces_stay_on_this_machine(self) -> Self:
        endpoint = self.trace_endpoint
        if endpoint is None or endpoint.is_loopback or self.peer_ca is not None or self.insecure:
            return self
        raise ValueError(
            f"{self.variable('trace_endpoint')}={endpoint} would be told in plain text; set "
            f"{self.variable('peer_ca')}, or allow it with --insecure"
        )


Loaded = TypeVar("Loaded", bound=ServerSettings)


def load(settings_class: type[Loaded], **flags: Any) -> Loaded:
    """Read settings: a flag wins over the environment, the environment over the default.

    Args:
        settings_class: which.
        flags: by field name; None is a flag that was not given.

    Raises:
        ConfigurationError: with a line for each problem, naming the variable or flag.
    """
    given = {name: value for name, value in flags.items() if value is not None}
    _refuse_misspelt(settings_class)
    try:
        return settings_class(**given)
    except ValidationError as error:
        lines = [_line(settings_class, given, problem) for problem in error.errors()]
        raise ConfigurationError("\n".join(lines)) from None
    except SettingsError as error:
        raise ConfigurationError(str(error)) from None


def _refuse_misspelt(settings_class: type[ServerSettings]) -> None:
    """Refuse a variable that is nearly a setting.

    Others are let be: Kubernetes puts LEYLINE_TAMIYO_SERVICE_HOST and more of the kind into every
    container that stands beside a service called leyline-tamiyo.
    """
    prefix = settings_class.variable("")
    known = [settings_class.variable(field) for field in settings_class.model_fields]
    for name in sorted(os.environ):
        if not name.startswith(prefix) or name in known:
            continue
        suffixes = {variable.removeprefix(prefix): variable for variable in known}
        near = difflib.get_close_matches(name.removeprefix(prefix), suffixes, n=1, cutoff=0.8)
        if near:
            raise ConfigurationError(f"{name} is no setting; did you mean {suffixes[near[0]]}?")


def _line(
    settings_class: type[ServerSettings], given: dict[str, Any], problem: ErrorDetails
) -> str:
    message = problem["msg"].removeprefix("Value error, ")
    if not problem["loc"]:
        return message
    field = str(problem["loc"][0])
    name = f"--{field.replace('_', '-')}" if field in given else settings_class.variable(field)
    if problem["type"] == "missing":
        return f"{name} is missing"
    message = message[:1].lower() + message[1:]
    return f"{name}={problem['input']}: {message}"
