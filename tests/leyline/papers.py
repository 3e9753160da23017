"""What is in the folders that `leyline certs` makes, and whether it goes together."""

from __future__ import annotations

import ssl
from pathlib import Path

from chassis.access import Tokens
from chassis.errors import ErrorCode, LeylineError

SERVICES = ("kasmina", "tamiyo", "simic")
CALLERS = ("kasmina", "tamiyo", "operator")
MEMBERS = (*SERVICES, "operator", "prometheus")


def is_known(service: Path, token: Path) -> bool:
    """Whether a service takes a token, if not for everything."""
    shown = (("authorization", f"Bearer {token.read_text().strip()}"),)
    try:
        Tokens(service / "tokens").admit("/leyline.v1.PolicyService/Decide", shown)
    except LeylineError as error:
        return error.code is ErrorCode.SCOPE_MISSING
    return True


def locked_out(stack: Path) -> list[str]:
    """Who shows a token to whom, and is not known there."""
    return [
        f"{caller} at {service}"
        for service in SERVICES
        for caller in CALLERS
        if (stack / caller / "token").exists()
        and not is_known(stack / service, stack / caller / "token")
    ]


def assert_goes_together(stack: Path) -> None:
    for member in MEMBERS:
        folder = stack / member
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(folder / "certificate.pem", folder / "key.pem")
        assert (folder / "ca.pem").read_bytes() == (stack / "ca.pem").read_bytes()
    assert all((stack / caller / "token").exists() for caller in CALLERS)
    assert not locked_out(stack)


def content(folder: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
