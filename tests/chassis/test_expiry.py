"""Somebody hears of a certificate before it ends."""

from __future__ import annotations

import datetime
import math
import ssl
from datetime import UTC
from pathlib import Path
from typing import Any

import pytest
import structlog
import trustme
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding
from hypothesis import example, given
from hypothesis import strategies as st
from tests.scraping import scraped

from chassis import tls
from chassis.expiry import first_end

KEY = ec.generate_private_key(ec.SECP256R1())
BEGIN = datetime.datetime(1951, 1, 1)


def pem(end: datetime.datetime, name: str = "somebody") -> bytes:
    """A certificate that ends then; without time zone, as UTC."""
    subject = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, name)])
    certificate = x509.CertificateBuilder(subject, subject, KEY.public_key(), 7, BEGIN, end)
    return certificate.sign(KEY, hashes.SHA256()).public_bytes(Encoding.PEM)


ENDS = st.datetimes(datetime.datetime(1952, 1, 1), datetime.datetime(9999, 12, 31))


@given(end=ENDS, name=st.text("abc", min_size=1, max_size=64))
@example(end=datetime.datetime(2049, 12, 31, 23, 59, 59), name="in two digits")
@example(end=datetime.datetime(2050, 1, 1), name="in four")
def test_the_end_of_a_certificate_is_read_out_of_it(end: datetime.datetime, name: str) -> None:
    end = end.replace(microsecond=0)
    assert first_end(pem(end, name)) == end.replace(tzinfo=UTC).timestamp()


def test_of_several_certificates_the_first_end_counts_and_without_one_there_is_none() -> None:
    years = (2041, 2031, 2061)
    chain = b"a comment\n" + b"".join(pem(datetime.datetime(year, 1, 1)) for year in years)
    assert first_end(chain) == datetime.datetime(2031, 1, 1, tzinfo=UTC).timestamp()
    assert first_end(b"a comment\n") == math.inf


class Files:
    """What a server shows and whom it trusts, for so many days."""

    def __init__(self, folder: Path) -> None:
        self.ca, self.chain, self.key = folder / "ca", folder / "chain", folder / "key"
        self._authority = trustme.CA()
        self._authority.cert_pem.write_to_path(str(self.ca))

    def issue(self, days: float) -> datetime.datetime:
        end = datetime.datetime.now(UTC).replace(microsecond=0) + datetime.timedelta(days=days)
        leaf = self._authority.issue_cert("127.0.0.1", not_after=end)
        self.key.write_bytes(leaf.private_key_pem.bytes())
        self.chain.write_bytes(leaf.cert_chain_pems[0].bytes())
        return end


async def test_the_ends_of_what_a_server_reads_are_shown_also_after_a_renewal(
    start: Any, tmp_path: Path
) -> None:
    files = Files(tmp_path)
    end = files.issue(100)
    server, _ = await start(
        metrics_listen="127.0.0.1:0",
        tls_certificate=files.chain,
        tls_key=files.key,
        peer_ca=files.ca,
    )
    trusting = ssl.create_default_context(cafile=str(files.ca))
    shown = await scraped(server.metrics_address, trusting)
    name = "leyline_certificate_end_timestamp_seconds"
    assert shown.value(name, file="tls_certificate") == end.timestamp()
    assert shown.value(name, file="peer_ca") == first_end(files.ca.read_bytes())
    assert shown.value(name, file="tls_client_ca") is None
    key = files.key.read_bytes()
    end = files.issue(200)
    renewed = files.key.read_bytes()
    files.key.write_bytes(key)
    shown = await scraped(server.metrics_address, trusting)
    assert shown.value(name, file="tls_certificate") != end.timestamp(), "it is not used yet"
    files.key.write_bytes(renewed)
    shown = await scraped(server.metrics_address, trusting)
    assert shown.value(name, file="tls_certificate") == end.timestamp()


@pytest.mark.parametrize(("days", "said"), [(20, True), (-1, True), (22, False)])
def test_a_certificate_that_ends_within_three_weeks_is_warned_of_as_it_is_read(
    tmp_path: Path, days: float, said: bool
) -> None:
    files = Files(tmp_path)
    end = files.issue(days)
    with structlog.testing.capture_logs() as lines:
        tls.server_credentials(files.chain, files.key, files.ca)
    warned = [each for each in lines if each["log_level"] == "warning"]
    assert [(each["file"], each["ends"]) for each in warned] == (
        [(str(files.chain), end.isoformat())] if said else []
    )
